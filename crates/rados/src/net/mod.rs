//! The only module with sockets: connects, authenticates, moves bytes.
//!
//! [`dial`] opens a connection and brings it through the handshake; the [`Link`] that comes out is driven
//! by one task, which owns it. Others hand it messages through an [`Outbox`]. Where connections come from,
//! randomness and the date, is the [`System`].

mod auth;
mod dial;
mod link;
mod outbox;
mod system;

pub(crate) use auth::Proof;
pub(crate) use dial::{DialError, Dialer, dial};
pub(crate) use link::{Link, LinkError};
pub(crate) use outbox::Outbox;
pub use system::{Connecting, HostSystem, Stream, System};
