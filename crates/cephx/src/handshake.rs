//! Authentication by a monitor.

use std::time::Duration;

use ceph_codec::{Decode, GlobalId, Reader};

use crate::client::Client;
use crate::ticket::{Ticket, version};
use crate::{AuthError, MODE_MON, Random, SessionSecrets, none, random_u64};

/// The exchange of one connection with a monitor. Made by [`Client::start_mon`].
///
/// ```text
/// Challenge --challenge()--> Answered --done()--> the client has tickets
/// ```
/// Several may be under way at a time, with several monitors. Once one of them gave the client its first
/// identity the others fail with [`AuthError::Superseded`].
///
/// Ceph: `CephxClientHandler`, `MonConnection` in `src/mon/MonClient.cc`.
pub struct MonHandshake {
    payload: Vec<u8>,
    old: Option<Reclaim>,
    /// The monitor's challenge, once it came. It is per connection: an answer to another connection's
    /// challenge is refused.
    challenge: Option<u64>,
}

/// The identity that the client asks back.
struct Reclaim {
    global_id: GlobalId,
    ticket: Ticket,
}

impl MonHandshake {
    pub(crate) fn new(client: &Client) -> Self {
        let old = client.identity().map(|(global_id, ticket)| Reclaim { global_id, ticket: ticket.clone() });
        // An id without a ticket to prove it is refused, and so is a ticket without its id.
        let global_id = old.as_ref().map_or(GlobalId(0), |old| old.global_id);
        Self { payload: none::request(MODE_MON, client.name(), global_id), old, challenge: None }
    }

    /// Payload of `AUTH_REQUEST`.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// Answers the payload of `AUTH_REPLY_MORE`, the monitor's challenge, with that of `AUTH_REQUEST_MORE`:
    /// the proof that this client has the key, and which tickets it needs.
    ///
    /// # Errors
    /// [`AuthError`] if the payload is not a challenge, or is the second one.
    pub fn challenge(
        &mut self,
        client: &Client,
        payload: &[u8],
        now: Duration,
        random: Random<'_>,
    ) -> Result<Vec<u8>, AuthError> {
        let what = "challenge of the monitor";
        if self.challenge.is_some() {
            return Err(AuthError::OutOfTurn { what });
        }
        let mut r = Reader::new(payload);
        let challenge = version(&mut r, "version of the challenge")
            .and_then(|_| u64::decode(&mut r))
            .map_err(|source| AuthError::Malformed { what, source })?;
        self.challenge = Some(challenge);
        let old = self.old.as_ref().map(|old| &old.ticket);
        Ok(client.authenticate(challenge, old, now, random_u64(random)))
    }

    /// Takes the tickets from the payload of `AUTH_DONE` and gives them to the client, which from then on may
    /// renew them over this connection.
    ///
    /// # Errors
    /// [`AuthError`] if they can't be read, or the monitor is not who it should be; the client is unchanged.
    pub fn done(
        self,
        client: &mut Client,
        global_id: GlobalId,
        payload: &[u8],
        now: Duration,
    ) -> Result<SessionSecrets, AuthError> {
        let challenge = self.challenge.ok_or(AuthError::OutOfTurn { what: "the end of authentication" })?;
        let own = self.old.as_ref().map_or(GlobalId(0), |old| old.global_id);
        if global_id == GlobalId(0) || (own != GlobalId(0) && own != global_id) {
            return Err(AuthError::WrongGlobalId { given: global_id, own });
        }
        if client.global_id() != own {
            return Err(AuthError::Superseded);
        }
        let old_key = self.old.as_ref().map(|old| &old.ticket.session_key);
        let secrets = client.accept_auth_reply(payload, old_key, now)?;
        client.begin_session(global_id, challenge);
        Ok(secrets)
    }

    /// The error that `AUTH_BAD_METHOD` of the monitor stands for: its `result`, a negative errno, and the
    /// methods it allows.
    #[must_use]
    pub fn refused(&self, client: &Client, result: i32, allowed_methods: &[u32]) -> AuthError {
        if allowed_methods.contains(&crate::METHOD) {
            client.refusal(result, self.old.as_ref().map(|old| old.global_id))
        } else {
            AuthError::MethodNotAllowed { method: crate::METHOD, allowed: allowed_methods.to_vec() }
        }
    }
}

impl std::fmt::Debug for MonHandshake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MonHandshake")
            .field("reclaims", &self.old.as_ref().map(|old| old.global_id))
            .field("challenged", &self.challenge.is_some())
            .finish_non_exhaustive()
    }
}
