//! A simulated Ceph cluster on a simulated network: the client as it is in production, with all its tasks,
//! under simulated time and every kind of fault, all of it decided by a seed.
//!
//! ```text
//!  rados::Client --> ClientHost (rados::System) --> Network: delays, cuts, resets, swallows, corrupts bytes
//!                                                      |
//!                  checker <-- workload            ceph_msgr::ServerConnection
//!                     |                                |
//!                     +------- store <-- OSDs, monitors, maps, authentication     one queue of events
//! ```
//!
//! What runs is what runs in production, sockets excepted: [`net::ClientHost`] takes their place. On a
//! single-threaded runtime whose time is paused nothing is left to chance, so a seed is a simulation, and a
//! failing one can be replayed.
//!
//! | | |
//! |---|---|
//! | `cargo test -p rados-sim` | a few hundred seeds, and everything else |
//! | `SEEDS=5000 FIRST=200 cargo test --release -p rados-sim --test seeds` | as many more |
//! | `SEED=1234 RUST_LOG=rados=debug cargo test -p rados-sim --test seeds -- --nocapture` | replays one, and prints every event |
//! | `STEP=1 cargo test --release -p rados-sim --test every_byte` | faults behind every single byte of a conversation |
//!
//! # What is simulated
//!
//! * The network ([`net`]): delays, short writes, chunks down to single bytes, and behind any byte a reset, an end, silence
//!   or a bit that flips; refused connections, connections that nobody answers, partitions.
//! * The monitors: subscriptions with full and incremental maps, trimmed ones too, the newest epoch, blocklisting; cephx with
//!   tickets that live for seconds, or no authentication.
//! * The OSDs: processes that die, freeze and come back elsewhere; maps that lag; placement groups that peer, split and
//!   merge, and drop or take up again what was queued when an interval ends; duplicate detection; backoffs; `EAGAIN`;
//!   full and paused; watches and notifies. What is written reaches all living members of an acting set at once,
//!   or none: there is one store.
//! * Maps ([`map`]) as Ceph encodes them; placement is computed from what the client decodes, too.
//!
//! # What must hold
//!
//! Every acknowledged write is applied once, every other at most once; writes of a client to an object are applied in the
//! order in which they were submitted; a read sees what was acknowledged before it; requests go where the client's own map
//! says, and not when it says to wait; every request is answered soon after all is well; no task and no connection is
//! left behind.
pub mod checker;
pub mod cluster;
pub mod faults;
pub mod map;
pub mod net;
pub mod rng;
pub mod store;
pub mod workload;
pub mod world;

mod auth;
mod hostile;
mod mon;
mod osd;
mod wire;

pub use workload::{Plan, Report, run};
