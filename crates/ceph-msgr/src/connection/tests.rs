#![allow(clippy::cast_possible_truncation, reason = "test")]

mod golden;
mod handshake;
mod peer;
mod session;
