//! What the tests of the whole program share: real Ceph clusters, the program as a server, a guest in QEMU.
//!
//! A test says what users do, in the commands they would type. A command that fails, or takes too long, fails the test
//! and shows the command, its status and all it printed.

#![allow(dead_code, unused_imports, reason = "no test file uses all of it")]
#![allow(clippy::cast_possible_truncation, reason = "test")]

mod backend;
mod cluster;
mod guest;
mod load;
pub(crate) mod nbd;
mod process;
pub(crate) mod random;
mod server;
mod tool;

pub(crate) use backend::{Backend, Kind};
pub(crate) use cluster::{Cluster, Image, Release};
pub(crate) use guest::Guest;
pub(crate) use load::Load;
pub(crate) use process::{Output, Running, run, run_within, start, start_command, wait_until};
pub(crate) use server::{Server, program, qemu_io};
pub(crate) use tool::Tool;

pub(crate) const KIB: u64 = 1 << 10;
pub(crate) const MIB: u64 = 1 << 20;

/// Parses what a tool printed for `--format json`.
pub(crate) fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("not JSON ({error}): {text}"))
}
