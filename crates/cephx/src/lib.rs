//! Ceph's authentication: keyrings, tickets, authorizers and the ciphers they use.
//!
//! The client's side of *cephx*, a relative of Kerberos. Nothing here does I/O: payloads of messenger frames
//! go in and out, the time and randomness are arguments.
//!
//! ```text
//!  monitor                          client                                       OSD
//!     |     AUTH_REQUEST  name, id    |                                           |
//!     | <---- MonHandshake::payload --|                                           |
//!     |-- AUTH_REPLY_MORE  challenge ->|                                           |
//!     | <-- MonHandshake::challenge --|   proof that we have the key              |
//!     |-- AUTH_DONE  tickets -------->|   MonHandshake::done -> Client            |
//!     |                               |                                           |
//!     |                               |-- AUTH_REQUEST  ticket, nonce ----------->|  Authorizer::payload
//!     |                               |<- AUTH_REPLY_MORE  challenge -------------|
//!     |                               |-- AUTH_REQUEST_MORE  ticket, answer ----->|  Authorizer::challenge
//!     |                               |<- AUTH_DONE  nonce + 1 -------------------|  Authorizer::done
//!     |                               |                                           |
//!     | <-- MAuth  Client::renew -----|   tickets end; new ones come the same way |
//!     |-- MAuthReply  --------------->|   Client::renewed                         |
//! ```
//!
//! A [`Client`] is one client instance: its key, its global id and its tickets outlive every connection, so
//! that a reconnect to another monitor keeps the identity the cluster knows. A [`MonHandshake`] or an
//! [`Authorizer`] is one connection.
//!
//! Ceph: `doc/dev/cephx_protocol.rst`, `src/auth/cephx/`.

mod aes256k;
mod authorizer;
mod client;
mod crypto;
mod error;
mod handshake;
mod key;
mod keyring;
pub mod none;
#[cfg(test)]
mod recorded;
#[cfg(any(test, feature = "server"))]
pub mod server;
mod ticket;

use zeroize::Zeroizing;

pub use authorizer::Authorizer;
pub use ceph_codec::{EntityAuthName, NameError};
pub use client::{Client, Renewal};
pub use error::AuthError;
pub use handshake::MonHandshake;
pub use key::{CryptoKey, KeyError, KeyKind};
pub use keyring::{Keyring, KeyringError};

/// Number of the method in `AUTH_REQUEST`. Ceph: `CEPH_AUTH_CEPHX` in `src/include/ceph_fs.h`.
pub const METHOD: u32 = 2;

/// First byte of a payload for a monitor. Ceph: `AUTH_MODE_MON` in `src/auth/Auth.h`.
const MODE_MON: u8 = 10;

/// First byte of a payload for a service. Ceph: `AUTH_MODE_AUTHORIZER` in `src/auth/Auth.h`.
const MODE_AUTHORIZER: u8 = 1;

/// What both ends of a connection know when authentication is done.
#[derive(Clone)]
pub struct SessionSecrets {
    /// Key of the HMAC-SHA256 in `AUTH_SIGNATURE`.
    pub session_key: Zeroizing<Vec<u8>>,
    /// Keys and nonces of the connection in secure mode; empty in crc mode.
    ///
    /// Whether it is long enough for the mode that the peer chose is for the messenger to check: it must not
    /// go on in secure mode without.
    pub connection_secret: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for SessionSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionSecrets").finish_non_exhaustive()
    }
}

/// Fills a buffer with unpredictable bytes.
pub type Random<'a> = &'a mut dyn FnMut(&mut [u8]);

fn random_u64(random: Random<'_>) -> u64 {
    let mut bytes = [0; 8];
    random(&mut bytes);
    u64::from_le_bytes(bytes)
}
