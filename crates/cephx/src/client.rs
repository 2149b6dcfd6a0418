//! What one client instance knows.

use std::collections::BTreeMap;
use std::time::Duration;

use ceph_codec::{Decode, Encode, EntityType, GlobalId, Reader};
use zeroize::Zeroizing;

use crate::crypto::Usage;
use crate::ticket::{Ticket, TicketBlob, decode_tickets};
use crate::{AuthError, Authorizer, CryptoKey, EntityAuthName, MonHandshake, Random, SessionSecrets};

/// Proves the key, yields the AUTH ticket. Ceph: `CEPHX_GET_AUTH_SESSION_KEY`.
pub(crate) const GET_AUTH_SESSION_KEY: u16 = 0x0100;
/// Shows the AUTH ticket, yields tickets for services. Ceph: `CEPHX_GET_PRINCIPAL_SESSION_KEY`.
pub(crate) const GET_PRINCIPAL_SESSION_KEY: u16 = 0x0200;

/// Time to the next renewal after one that did not bring what was asked for: a monitor that has no ticket for
/// us must not be asked in a busy loop.
const RENEWAL_RETRY: Duration = Duration::from_secs(5);

/// All that one client instance knows: its key, its global id, its tickets. Outlives every connection.
///
/// Times are durations since any fixed moment, such as 1970 or the start of the process; they are compared
/// with each other only. A clock that goes on while the machine sleeps is best: tickets expire meanwhile.
pub struct Client {
    name: EntityAuthName,
    key: CryptoKey,
    /// The services whose tickets are wanted, as a mask; always with AUTH.
    wanted: u8,
    global_id: GlobalId,
    tickets: BTreeMap<EntityType, Ticket>,
    session: Option<Session>,
    /// No renewal before this.
    not_before: Duration,
}

/// The authenticated connection to a monitor.
struct Session {
    /// Its challenge, which the key is proved against again when the AUTH ticket is renewed.
    challenge: u64,
    pending: Option<Pending>,
}

/// A renewal under way.
struct Pending {
    op: u16,
    /// What the reply is encrypted with: tickets of services with the session key of the AUTH ticket, a new
    /// AUTH ticket itself with that of the one before.
    auth_key: CryptoKey,
}

/// What has to be done for the tickets now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Renewal {
    /// Nothing; ask again at [`Client::renew_at`].
    Nothing,
    /// Send this as the payload of a `MAuth` message with protocol 2 ([`METHOD`](crate::METHOD)) and give the
    /// `MAuthReply` to [`Client::renewed`].
    Request(Vec<u8>),
}

impl Client {
    /// A client that wants tickets for monitors, OSDs and managers, as `librados` does.
    #[must_use]
    pub fn new(name: EntityAuthName, key: CryptoKey) -> Self {
        Self::with_services(name, key, &[EntityType::MON, EntityType::OSD, EntityType::MGR])
    }

    /// A client that wants tickets for `services`.
    #[must_use]
    pub fn with_services(name: EntityAuthName, key: CryptoKey, services: &[EntityType]) -> Self {
        let wanted = services.iter().fold(EntityType::AUTH.0, |mask, service| mask | service.0);
        Self {
            name,
            key,
            wanted,
            global_id: GlobalId(0),
            tickets: BTreeMap::new(),
            session: None,
            not_before: Duration::ZERO,
        }
    }

    /// The user.
    #[must_use]
    pub fn name(&self) -> &EntityAuthName {
        &self.name
    }

    /// The number the cluster knows this instance by; 0 before the first monitor gave one.
    #[must_use]
    pub fn global_id(&self) -> GlobalId {
        self.global_id
    }

    /// Starts the exchange with a monitor. It asks the global id back if there is one.
    #[must_use]
    pub fn start_mon(&self) -> MonHandshake {
        MonHandshake::new(self)
    }

    /// Tells that the connection to the monitor is gone: nothing is renewed until the next one.
    pub fn mon_closed(&mut self) {
        self.session = None;
    }

    /// Forgets global id and tickets, so that the next handshake makes a new instance of the client.
    ///
    /// The way out of [`AuthError::ReclaimRejected`], and a last resort: for the cluster the old instance
    /// still exists, with its watches and locks.
    pub fn forget_identity(&mut self) {
        self.global_id = GlobalId(0);
        self.tickets.clear();
        self.session = None;
        self.not_before = Duration::ZERO;
    }

    /// Starts the exchange of a connection with a service.
    ///
    /// An expired ticket is shown all the same: only the service can say whether it still takes it.
    ///
    /// # Errors
    /// [`AuthError::NoTicket`] if there is none, or it was [invalidated](Self::invalidate) and no new one came.
    pub fn authorize(&self, service: EntityType, random: Random<'_>) -> Result<Authorizer, AuthError> {
        let ticket = self.tickets.get(&service).ok_or(AuthError::NoTicket { service })?;
        Ok(Authorizer::new(service, self.global_id, ticket, random))
    }

    /// Whether there is a ticket for `service` that has not expired.
    #[must_use]
    pub fn has_ticket(&self, service: EntityType, now: Duration) -> bool {
        self.tickets.get(&service).is_some_and(|ticket| now < ticket.expires)
    }

    /// Drops the ticket of a service that refused it, so that the next renewal gets a new one.
    ///
    /// The AUTH ticket stays: it is the proof of who this instance is.
    pub fn invalidate(&mut self, service: EntityType) {
        if service != EntityType::AUTH {
            self.tickets.remove(&service);
        }
    }

    /// Drops the tickets of all services: their keys were replaced. As [`invalidate`](Self::invalidate) does
    /// for one.
    pub fn invalidate_services(&mut self) {
        self.tickets.retain(|service, _| *service == EntityType::AUTH);
    }

    /// When to call [`renew`](Self::renew) next; `None` while there is no session with a monitor or a renewal
    /// is under way.
    #[must_use]
    pub fn renew_at(&self) -> Option<Duration> {
        if self.session.as_ref()?.pending.is_some() {
            return None;
        }
        let renew_after = |service| self.tickets.get(&service).map_or(Duration::ZERO, |t| t.renew_after);
        Some(self.required_services().map(renew_after).min()?.max(self.not_before))
    }

    /// Asks for new tickets where a quarter of the lifetime or less is left, or there is none.
    ///
    /// The AUTH ticket too is renewed over the established session, by proving the key once more against the
    /// challenge that the session began with. Ceph: `CephxClientHandler::build_request`.
    ///
    /// One request is under way at a time; if its reply never comes, the session is to be closed.
    pub fn renew(&mut self, now: Duration, random: Random<'_>) -> Renewal {
        if self.renew_at().is_none_or(|at| now < at) {
            return Renewal::Nothing;
        }
        let (Some(challenge), Some(auth)) =
            (self.session.as_ref().map(|session| session.challenge), self.tickets.get(&EntityType::AUTH))
        else {
            return Renewal::Nothing;
        };
        let need = self.needed(now);
        let (op, payload) = if need & EntityType::AUTH.0 != 0 {
            let payload = self.authenticate(challenge, Some(auth), now, crate::random_u64(random));
            (GET_AUTH_SESSION_KEY, payload)
        } else {
            let mut payload = Vec::with_capacity(256);
            GET_PRINCIPAL_SESSION_KEY.encode(&mut payload);
            let authorizer = Authorizer::new(EntityType::AUTH, self.global_id, auth, random);
            payload.extend_from_slice(authorizer.payload());
            1u8.encode(&mut payload);
            u32::from(need).encode(&mut payload);
            (GET_PRINCIPAL_SESSION_KEY, payload)
        };
        let pending = Pending { op, auth_key: auth.session_key.clone() };
        if let Some(session) = &mut self.session {
            session.pending = Some(pending);
        }
        self.not_before = now.saturating_add(RENEWAL_RETRY);
        Renewal::Request(payload)
    }

    /// Takes the new tickets from a `MAuthReply`: its `result`, 0 or a negative errno, and its result blob.
    ///
    /// # Errors
    /// [`AuthError`] if the monitor refuses, which then closes the connection, or the tickets can't be read.
    pub fn renewed(&mut self, result: i32, payload: &[u8], now: Duration) -> Result<(), AuthError> {
        let Pending { op, auth_key } = self
            .session
            .as_mut()
            .and_then(|session| session.pending.take())
            .ok_or(AuthError::OutOfTurn { what: "MAuthReply" })?;
        if result < 0 {
            return Err(self.refusal(result, Some(self.global_id)));
        }
        if op == GET_AUTH_SESSION_KEY {
            self.accept_auth_reply(payload, Some(&auth_key), now)?;
        } else {
            let mut r = Reader::new(payload);
            self.response_header(&mut r, op, Some(self.global_id))?;
            let tickets = decode_tickets(&mut r, &auth_key, None, now)?;
            self.install(tickets.into_iter().filter(|(service, _)| *service != EntityType::AUTH));
        }
        if self.required_services().all(|service| !self.is_due(service, now)) {
            self.not_before = Duration::ZERO;
        }
        Ok(())
    }

    /// The services whose tickets are missing or due, as a mask.
    fn needed(&self, now: Duration) -> u8 {
        self.wanted_services()
            .filter(|&service| self.is_due(service, now))
            .fold(0, |mask, service| mask | service.0)
    }

    fn is_due(&self, service: EntityType, now: Duration) -> bool {
        self.tickets.get(&service).is_none_or(|ticket| now >= ticket.renew_after)
    }

    fn wanted_services(&self) -> impl Iterator<Item = EntityType> + use<> {
        let wanted = self.wanted;
        (0..8).map(|bit| 1u8 << bit).filter(move |bit| wanted & bit != 0).map(EntityType)
    }

    /// The wanted services but the manager: there may be none, so its ticket is renewed along with the others
    /// and never on its own.
    fn required_services(&self) -> impl Iterator<Item = EntityType> + use<> {
        self.wanted_services().filter(|&service| service != EntityType::MGR)
    }

    /// Who this instance is, and the ticket that proves it.
    pub(crate) fn identity(&self) -> Option<(GlobalId, &Ticket)> {
        self.tickets.get(&EntityType::AUTH).map(|ticket| (self.global_id, ticket))
    }

    /// The proof of the key against the `challenge` of a monitor. Ceph: `CephXAuthenticate`.
    ///
    /// AUTH is always among the tickets asked for: without any a monitor leaves out the connection secret.
    pub(crate) fn authenticate(
        &self,
        challenge: u64,
        old: Option<&Ticket>,
        now: Duration,
        client_challenge: u64,
    ) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        GET_AUTH_SESSION_KEY.encode(&mut out);
        // 3 promises that an id is only asked back together with its ticket.
        3u8.encode(&mut out);
        client_challenge.encode(&mut out);
        self.key.challenge_proof(challenge, client_challenge).encode(&mut out);
        let no_ticket = TicketBlob::default();
        old.map_or(&no_ticket, |ticket| &ticket.blob).encode(&mut out);
        u32::from(self.needed(now) | EntityType::AUTH.0).encode(&mut out);
        out
    }

    /// Installs the tickets of a reply to [`authenticate`](Self::authenticate).
    ///
    /// ```text
    /// header | tickets: AUTH | bytes { bytes connection secret, encrypted } | bytes { tickets of services }
    /// ```
    pub(crate) fn accept_auth_reply(
        &mut self,
        payload: &[u8],
        old_key: Option<&CryptoKey>,
        now: Duration,
    ) -> Result<SessionSecrets, AuthError> {
        let malformed = |source| AuthError::Malformed { what: "reply of the monitor", source };
        let mut r = Reader::new(payload);
        self.response_header(&mut r, GET_AUTH_SESSION_KEY, old_key.map(|_| self.global_id))?;
        let mut tickets = decode_tickets(&mut r, &self.key, old_key, now)?;
        tickets.retain(|(service, _)| *service == EntityType::AUTH);
        tickets.truncate(1);
        let session_key = tickets.first().ok_or(AuthError::NoAuthTicket)?.1.session_key.clone();

        let mut connection_secret = Zeroizing::default();
        if !r.is_empty() {
            let secret = r.bytes("connection secret").map_err(malformed)?;
            let extra = r.bytes("tickets of services").map_err(malformed)?;
            if !secret.is_empty() {
                let sealed = Reader::new(secret).bytes("connection secret").map_err(malformed)?;
                let opened = session_key.open(Usage::ConnectionSecret, sealed)?;
                let secret = opened.reader().bytes("connection secret").map_err(malformed)?;
                connection_secret = Zeroizing::new(secret.to_vec());
            }
            if !extra.is_empty() {
                let extra = decode_tickets(&mut Reader::new(extra), &session_key, None, now)?;
                tickets.extend(extra.into_iter().filter(|(service, _)| *service != EntityType::AUTH));
            }
        }
        self.install(tickets);
        Ok(SessionSecrets { session_key: Zeroizing::new(session_key.secret().to_vec()), connection_secret })
    }

    /// Ceph: `CephXResponseHeader`.
    fn response_header(
        &self,
        r: &mut Reader<'_>,
        expected: u16,
        reclaimed: Option<GlobalId>,
    ) -> Result<(), AuthError> {
        let (op, status) = (|| Ok((u16::decode(r)?, i32::decode(r)?)))()
            .map_err(|source| AuthError::Malformed { what: "header of the monitor's reply", source })?;
        if status != 0 {
            return Err(self.refusal(status, reclaimed));
        }
        if op != expected {
            return Err(AuthError::OutOfTurn { what: "the kind of the monitor's reply" });
        }
        Ok(())
    }

    pub(crate) fn refusal(&self, status: i32, reclaimed: Option<GlobalId>) -> AuthError {
        AuthError::from_monitor(status, &self.name, self.key.kind(), reclaimed)
    }

    /// Keeps the tickets that were wanted.
    fn install(&mut self, tickets: impl IntoIterator<Item = (EntityType, Ticket)>) {
        let wanted = self.wanted;
        let wanted = |service: EntityType| service.0.is_power_of_two() && wanted & service.0 != 0;
        self.tickets.extend(tickets.into_iter().filter(|(service, _)| wanted(*service)));
    }

    /// A handshake succeeded: its connection is the one that renewals go over.
    pub(crate) fn begin_session(&mut self, global_id: GlobalId, challenge: u64) {
        self.global_id = global_id;
        self.session = Some(Session { challenge, pending: None });
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("name", &self.name)
            .field("key", &self.key)
            .field("global_id", &self.global_id)
            .field("tickets", &self.tickets.keys())
            .field("session", &self.session.is_some())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
impl Client {
    pub(crate) fn session_key(&self, service: EntityType) -> CryptoKey {
        self.tickets[&service].session_key.clone()
    }
}

#[cfg(test)]
mod tests;
