//! The only module with sockets: connects, authenticates, moves bytes.
//!
//! [`dial`] opens a TCP connection and brings it through the handshake; the [`Link`] that comes out is driven
//! by one task, which owns it. Others hand it messages through an [`Outbox`].

mod auth;
mod dial;
mod link;
mod outbox;

pub(crate) use auth::Proof;
pub(crate) use dial::{DialError, Dialer, dial};
pub(crate) use link::{Link, LinkError};
pub(crate) use outbox::Outbox;

/// Fills `buf` with unpredictable bytes.
///
/// # Panics
/// If the operating system has no randomness to give; nothing secure can be done then.
pub(crate) fn random(buf: &mut [u8]) {
    getrandom::fill(buf).expect("the operating system gives random bytes");
}
