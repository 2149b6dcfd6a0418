//! Showing a ticket to a service.

use ceph_codec::{Decode, Encode, EntityType, GlobalId, Reader, encode_bytes};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::crypto::Usage;
use crate::ticket::{Ticket, version};
use crate::{AuthError, CryptoKey, MODE_AUTHORIZER, Random, SessionSecrets, random_u64};

/// The exchange of one connection with a service. Made by [`Client::authorize`](crate::Client::authorize).
///
/// A service always challenges: without, whoever recorded an exchange could repeat it.
///
/// Ceph: `CephXAuthorizer` in `src/auth/cephx/CephxProtocol.cc`.
pub struct Authorizer {
    service: EntityType,
    session_key: CryptoKey,
    /// The ticket, which both payloads start with.
    base: Vec<u8>,
    payload: Vec<u8>,
    nonce: u64,
    challenged: bool,
}

impl Authorizer {
    pub(crate) fn new(service: EntityType, global_id: GlobalId, ticket: &Ticket, random: Random<'_>) -> Self {
        let mut base = vec![MODE_AUTHORIZER];
        global_id.encode(&mut base);
        u32::from(service.0).encode(&mut base);
        ticket.blob.encode(&mut base);
        let nonce = random_u64(random);
        let session_key = ticket.session_key.clone();
        let payload = with_proof(&base, &session_key, nonce, None, random);
        Self { service, session_key, base, payload, nonce, challenged: false }
    }

    /// Payload of `AUTH_REQUEST`.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The service whose ticket this is.
    #[must_use]
    pub fn service(&self) -> EntityType {
        self.service
    }

    /// Answers the payload of `AUTH_REPLY_MORE` with that of `AUTH_REQUEST_MORE`.
    ///
    /// # Errors
    /// [`AuthError`] if the challenge is not the service's, or is the second one.
    pub fn challenge(&mut self, payload: &[u8], random: Random<'_>) -> Result<Vec<u8>, AuthError> {
        let usage = Usage::AuthorizeChallenge;
        if self.challenged {
            return Err(AuthError::OutOfTurn { what: usage.what() });
        }
        let opened = self.session_key.open(usage, payload)?;
        let mut r = opened.reader();
        let challenge = version(&mut r, "version of a challenge")
            .and_then(|_| u64::decode(&mut r))
            .map_err(|source| AuthError::Malformed { what: usage.what(), source })?;
        self.challenged = true;
        Ok(with_proof(&self.base, &self.session_key, self.nonce, Some(challenge), random))
    }

    /// Checks the payload of `AUTH_DONE`: the service proves that it could read the ticket.
    ///
    /// # Errors
    /// [`AuthError`] if it does not, or did not challenge before.
    pub fn done(self, payload: &[u8]) -> Result<SessionSecrets, AuthError> {
        let usage = Usage::AuthorizeReply;
        if !self.challenged {
            return Err(AuthError::OutOfTurn { what: usage.what() });
        }
        let malformed = |source| AuthError::Malformed { what: usage.what(), source };
        let sealed = Reader::new(payload).bytes("authorizer reply").map_err(malformed)?;
        let opened = self.session_key.open(usage, sealed)?;
        let mut r = opened.reader();
        let version = version(&mut r, "version of an authorizer reply").map_err(malformed)?;
        let nonce: [u8; 8] = r.array("nonce").map_err(malformed)?;
        if !bool::from(nonce.ct_eq(&self.nonce.wrapping_add(1).to_le_bytes())) {
            return Err(AuthError::NotMutual { service: self.service });
        }
        let secret = if version >= 2 { r.bytes("connection secret").map_err(malformed)? } else { &[] };
        Ok(SessionSecrets {
            session_key: Zeroizing::new(self.session_key.secret().to_vec()),
            connection_secret: Zeroizing::new(secret.to_vec()),
        })
    }

    /// The error that `AUTH_BAD_METHOD` of the service stands for: its `result`, a negative errno, and the
    /// methods it allows.
    #[must_use]
    pub fn refused(&self, result: i32, allowed_methods: &[u32]) -> AuthError {
        if allowed_methods.contains(&crate::METHOD) {
            AuthError::TicketRefused { service: self.service, status: result }
        } else {
            AuthError::MethodNotAllowed { method: crate::METHOD, allowed: allowed_methods.to_vec() }
        }
    }
}

impl std::fmt::Debug for Authorizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut f = f.debug_struct("Authorizer");
        f.field("service", &self.service).field("challenged", &self.challenged).finish_non_exhaustive()
    }
}

/// Appends the encrypted part. Ceph: `CephXAuthorize`.
fn with_proof(
    base: &[u8],
    key: &CryptoKey,
    nonce: u64,
    challenge: Option<u64>,
    random: Random<'_>,
) -> Vec<u8> {
    let sealed = key.seal(Usage::Authorize, random, |out| {
        2u8.encode(out);
        nonce.encode(out);
        challenge.is_some().encode(out);
        challenge.map_or(0, |challenge| challenge.wrapping_add(1)).encode(out);
    });
    let mut out = base.to_vec();
    encode_bytes(&sealed, &mut out);
    out
}
