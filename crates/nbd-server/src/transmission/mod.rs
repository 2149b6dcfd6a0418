//! The transmission phase, without sockets: requests come in, replies go out, in any order.
//!
//! ```text
//!  socket --> RequestReader --> Request --> Command::run(device) --> Answer --> ReplyQueue --> socket
//!             one buffer for small           any number at once               headers and payloads,
//!             requests, an exact one                                          gathered, not copied
//!             for a large payload
//! ```
//!
//! Source: "Transmission" and "Transmission phase" in `doc/proto.md` of the NBD project.

mod reply;
mod request;
mod run;

pub use reply::{Answer, ReplyQueue};
pub use request::{Command, Incoming, MAX_SKIPPED_PAYLOAD, Request, RequestError, RequestReader};

#[cfg(test)]
mod tests;
