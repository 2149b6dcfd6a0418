//! Moving bytes between sockets and the state machines, on tokio.
//!
//! [`serve`] is a whole server. A program that wants to decide which thread serves an export accepts connections
//! itself, calls [`negotiate`], and takes the stream to where it calls [`serve_transmission`].
//!
//! These futures do not spawn and run on any flavour of tokio runtime, with I/O and time enabled; only [`serve`]
//! spawns, a task per connection.

mod listen;
mod negotiate;
mod shutdown;
mod transmit;

pub use listen::{Listener, serve, serve_connection};
pub use negotiate::{HANDSHAKE_TIMEOUT, NegotiateError, Negotiated, negotiate};
pub use shutdown::Shutdown;
pub use transmit::{End, TransmissionError, serve_transmission};
