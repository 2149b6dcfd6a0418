//! What a connection proves about us, and what the peer proves to us.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ceph_codec::{EntityType, GlobalId};
use cephx::{AuthError, Authorizer, MonHandshake, SessionSecrets};
use parking_lot::Mutex;

use super::System;

/// One side of an authentication under way.
#[derive(Debug)]
pub(crate) enum Proof<'a> {
    /// The key, to a monitor. Of several attempts at a time the first that is `accepted` wins: what comes with
    /// it serves to renew tickets on that connection only.
    Key { client: &'a Mutex<cephx::Client>, handshake: MonHandshake, accepted: &'a AtomicBool },
    /// A ticket, to an OSD.
    Ticket(Authorizer),
    /// Nothing: the cluster runs without authentication.
    Nothing { payload: Vec<u8> },
}

impl<'a> Proof<'a> {
    pub(crate) fn key(client: &'a Mutex<cephx::Client>, accepted: &'a AtomicBool) -> Self {
        let handshake = client.lock().start_mon();
        Self::Key { client, handshake, accepted }
    }

    /// # Errors
    /// [`AuthError::NoTicket`].
    pub(crate) fn ticket(
        client: &Mutex<cephx::Client>,
        service: EntityType,
        system: &dyn System,
    ) -> Result<Self, AuthError> {
        client.lock().authorize(service, &mut |buf| system.random(buf)).map(Self::Ticket)
    }

    pub(super) fn method(&self) -> u32 {
        match self {
            Self::Key { .. } | Self::Ticket(_) => cephx::METHOD,
            Self::Nothing { .. } => cephx::none::METHOD,
        }
    }

    pub(super) fn payload(&self) -> &[u8] {
        match self {
            Self::Key { handshake, .. } => handshake.payload(),
            Self::Ticket(authorizer) => authorizer.payload(),
            Self::Nothing { payload } => payload,
        }
    }

    pub(super) fn challenge(
        &mut self,
        payload: &[u8],
        now: Duration,
        system: &dyn System,
    ) -> Result<Vec<u8>, AuthError> {
        let random = &mut |buf: &mut [u8]| system.random(buf);
        match self {
            Self::Key { client, handshake, .. } => handshake.challenge(&client.lock(), payload, now, random),
            Self::Ticket(authorizer) => authorizer.challenge(payload, random),
            Self::Nothing { .. } => Err(AuthError::OutOfTurn { what: "a challenge without authentication" }),
        }
    }

    pub(super) fn done(
        self,
        id: GlobalId,
        payload: &[u8],
        now: Duration,
    ) -> Result<SessionSecrets, AuthError> {
        match self {
            Self::Key { client, handshake, accepted } => {
                let mut client = client.lock();
                if accepted.load(Ordering::Relaxed) {
                    return Err(AuthError::Superseded);
                }
                let secrets = handshake.done(&mut client, id, payload, now)?;
                accepted.store(true, Ordering::Relaxed);
                Ok(secrets)
            }
            Self::Ticket(authorizer) => authorizer.done(payload),
            Self::Nothing { .. } => {
                Ok(SessionSecrets { session_key: Vec::new().into(), connection_secret: Vec::new().into() })
            }
        }
    }

    pub(super) fn refused(&self, result: i32, allowed_methods: &[u32]) -> AuthError {
        match self {
            Self::Key { client, handshake, .. } => handshake.refused(&client.lock(), result, allowed_methods),
            Self::Ticket(authorizer) => authorizer.refused(result, allowed_methods),
            Self::Nothing { .. } => {
                AuthError::MethodNotAllowed { method: cephx::none::METHOD, allowed: allowed_methods.to_vec() }
            }
        }
    }
}
