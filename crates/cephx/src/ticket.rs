//! Tickets: what a monitor gives a client to show to a service.
//!
//! ```text
//!  u8 1 | u32 count | count times:
//!     u32 service | u8 1 | bytes {session key, validity}, encrypted for the client
//!                 | u8 encrypted? | bytes of the ticket blob
//! ticket blob: u8 1 | u64 secret id | bytes, encrypted for the service
//! ```
//! Ceph: `CephXTicketManager::verify_service_ticket_reply` in `src/auth/cephx/CephxProtocol.cc`.

use std::time::Duration;

use ceph_codec::{Decode, DecodeError, Encode, EntityType, Reader, Utime, encode_bytes};

use crate::crypto::{Opened, Usage};
use crate::{AuthError, CryptoKey};

/// Services are bits of a mask of 32.
const MAX_TICKETS: usize = 32;

/// A ticket that comes without a lifetime must not be renewed in a busy loop.
const MIN_RENEWAL: Duration = Duration::from_secs(1);

/// Opaque to the client. Ceph: `CephXTicketBlob`.
#[derive(Clone, PartialEq, Eq, Default)]
pub(crate) struct TicketBlob {
    pub(crate) secret_id: u64,
    pub(crate) blob: Vec<u8>,
}

impl Encode for TicketBlob {
    fn encode(&self, out: &mut Vec<u8>) {
        1u8.encode(out);
        self.secret_id.encode(out);
        encode_bytes(&self.blob, out);
    }
}

impl Decode for TicketBlob {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        version(r, "version of a ticket blob")?;
        Ok(Self { secret_id: u64::decode(r)?, blob: r.bytes("ticket blob")?.to_vec() })
    }
}

/// A ticket and the key that whoever decrypts it finds in it.
#[derive(Clone)]
pub(crate) struct Ticket {
    pub(crate) session_key: CryptoKey,
    pub(crate) blob: TicketBlob,
    pub(crate) renew_after: Duration,
    pub(crate) expires: Duration,
}

/// Reads the version byte of a struct without length; only 1 and later versions that extend it are known.
pub(crate) fn version(r: &mut Reader<'_>, what: &'static str) -> Result<u8, DecodeError> {
    match u8::decode(r)? {
        0 => Err(DecodeError::TooOld { what, version: 0, oldest: 1 }),
        version => Ok(version),
    }
}

/// Reads the tickets of a reply. `key` is the one the session keys are encrypted with, `old_auth_key` the one
/// a renewed AUTH ticket is; no other ticket may be encrypted.
pub(crate) fn decode_tickets(
    r: &mut Reader<'_>,
    key: &CryptoKey,
    old_auth_key: Option<&CryptoKey>,
    now: Duration,
) -> Result<Vec<(EntityType, Ticket)>, AuthError> {
    let malformed = |source| AuthError::Malformed { what: "ticket reply", source };
    version(r, "version of a ticket reply").map_err(malformed)?;
    // The smallest ticket: service, version, empty bytes, flag, empty bytes.
    let count = r.count("number of tickets", 4 + 1 + 4 + 1 + 4).map_err(malformed)?;
    if count > MAX_TICKETS {
        return Err(malformed(DecodeError::Invalid { what: "number of tickets", value: count as u64 }));
    }
    let mut tickets = Vec::with_capacity(count);
    for _ in 0..count {
        let (service, sealed_key, encrypted, blob) = (|| {
            let service = u32::decode(r)?;
            let service = u8::try_from(service)
                .map_err(|_| DecodeError::Invalid { what: "service of a ticket", value: service.into() })?;
            version(r, "version of a ticket")?;
            Ok((
                EntityType(service),
                r.bytes("session key of a ticket")?,
                bool::decode(r)?,
                r.bytes("ticket")?,
            ))
        })()
        .map_err(malformed)?;
        let (session_key, validity) =
            decode_session_key(&key.open(Usage::TicketSessionKey, sealed_key)?, service)?;
        let blob = if encrypted {
            let old_key = old_auth_key
                .filter(|_| service == EntityType::AUTH)
                .ok_or(AuthError::OutOfTurn { what: "an encrypted ticket" })?;
            let opened = old_key.open(Usage::TicketBlob, blob)?;
            let inner = opened.reader().bytes("ticket").map_err(malformed)?.to_vec();
            TicketBlob::decode_from(&inner)
        } else {
            TicketBlob::decode_from(blob)
        }
        .map_err(malformed)?;
        let expires = now.saturating_add(validity);
        let renew_after = now.saturating_add((validity - validity / 4).max(MIN_RENEWAL));
        tickets.push((service, Ticket { session_key, blob, renew_after, expires }));
    }
    Ok(tickets)
}

/// Ceph: `CephXServiceTicket`.
fn decode_session_key(opened: &Opened, service: EntityType) -> Result<(CryptoKey, Duration), AuthError> {
    let malformed = |source| AuthError::Malformed { what: Usage::TicketSessionKey.what(), source };
    let mut r = opened.reader();
    version(&mut r, "version of a session key").map_err(malformed)?;
    let key = CryptoKey::decode(&mut r).map_err(|source| AuthError::BadSessionKey { service, source })?;
    let validity = Utime::decode(&mut r).map_err(malformed)?.as_duration();
    Ok((key, validity))
}
