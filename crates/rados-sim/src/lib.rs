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
mod mon;
mod osd;
mod wire;

pub use workload::{Plan, Report, run};
