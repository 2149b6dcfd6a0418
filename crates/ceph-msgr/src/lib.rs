//! Messenger v2.1, the client's side of it, as a state machine without sockets.
//!
//! ```text
//!          read_buf() <- bytes   +------------+  fill_io_slices() -> bytes for the peer
//!  socket ---------------------> | Connection | ----------------------------------------> socket
//!                                +------------+  poll_event() -> Event for the owner
//!                                   ^ start_auth, continue_auth, finish_auth, send, keepalive
//! ```
//! A [`Connection`] is one TCP connection: banner, `HELLO`, authentication (of which it knows only blobs), the
//! proof that nobody changed the handshake, identification, then messages, in plain text with checksums or
//! encrypted ([`ConMode`]). Connections are lossy, as those of every librados: a fault ends one, nothing is
//! replayed, and whoever needs an answer sends again on a new one.
//!
//! Only revision 1 of the protocol ("msgr2.1", every Ceph since 15.2.2 and 14.2.11) is spoken, and compression
//! is never offered.
//!
//! # Payloads are not copied
//!
//! A large frame is received into one buffer of exactly its size, and [`Message::data`] is a part of that
//! buffer. In the other direction large payloads stay the `Bytes` that the caller gave and are written from
//! there. Only encryption copies: once, into the buffer in which it then happens.
//!
//! On an AMD EPYC (2 shared cores), sealing in place with `ring` 0.17 takes 1.3 µs for 4 KiB and 1.5 ms for 4 MiB
//! (2.8 GB/s); `aes-gcm` 0.10 takes 5.9 µs and 8.8 ms (0.5 GB/s), hence `ring`. Checksums take 0.7 µs and 0.47 ms.
//!
//! Ceph: `doc/dev/msgr2.rst`, `src/msg/async/ProtocolV2.cc`, `src/msg/async/frames_v2.h`.

mod connection;
mod crypto;
mod error;
pub mod features;
mod frame;
mod handshake;
mod message;
mod outbox;
#[cfg(any(test, feature = "server"))]
mod server;

pub use connection::{Connection, ConnectionConfig, Event};
pub use error::{FrameError, MsgrError};
pub use frame::Tag;
pub use handshake::{ClientIdent, ConMode, ServerIdent};
pub use message::{Message, Payload, priority};
#[cfg(any(test, feature = "server"))]
pub use server::{ServerConfig, ServerConnection, ServerEvent};
