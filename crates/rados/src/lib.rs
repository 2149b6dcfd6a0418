//! A RADOS client in pure Rust: monitors, OSD maps, object operations, watch and notify.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use rados::{Client, Options};
//!
//! let config = ceph_conf::load(&ceph_conf::Environment::from_process()?, &ceph_conf::Overrides::default())?;
//! let client = Client::connect(Options::from_config(&config).await?).await?;
//! let pool = client.pool("rbdpool").await?;
//! let greeting = pool.object("greeting");
//! greeting.write_full("hello").await?;
//! assert_eq!(greeting.read(0, 100).await?, "hello");
//! # Ok(())
//! # }
//! ```
//!
//! # Where to look
//!
//! | for | see | example |
//! |---|---|---|
//! | one thing at a time with an object: data, attributes, omap, class calls | [`Object`] | `put_get` |
//! | several ops on an object at once, all or nothing, with a result for each | [`Operation`], [`IoCtx::write`], [`IoCtx::read`] | `attributes` |
//! | snapshots, of the whole pool or self-managed | [`IoCtx::create_snapshot`], [`IoCtx::create_self_managed_snapshot`], [`SnapContext`] | `snapshots` |
//! | which objects a pool has | [`IoCtx::objects`], [`IoCtx::list_objects`] | `list` |
//! | telling other clients that something changed | [`IoCtx::watch`], [`IoCtx::notify`] | `watch_notify` |
//! | where an object is, what a pool is like | [`IoCtx::locate`], [`IoCtx::info`], [`Client::with_map`] | `list` |
//! | monitors | [`Client::mon_command`] | |
//! | what is under way, and what it waits for | [`Client::requests`] | |
//!
//! Names of objects, keys and attributes are UTF-8 here, though Ceph takes any bytes.
//!
//! # What waits, and what fails
//!
//! Operations wait for the cluster as long as it takes: while OSDs or monitors are down, frozen or unreachable,
//! a pool is full, the cluster is paused, or the user's key was taken away. They are sent again as often as
//! needed, and applied once. A client instance ends, with [`OpError::Blocklisted`] or
//! [`OpError::IdentityLost`] for everything in flight and to come, when the cluster bars it, or when it was
//! frozen or cut off for so long that the monitors accept its user but not the instance. It never goes on
//! under another identity: its locks and watches would be a stranger's.
//!
//! # How it is built
//!
//! The protocols are state machines without sockets: `monc` (monitors) and `objecter` (operations), on top of
//! the crates `ceph-msgr`, `cephx` and `ceph-osdmap`. Only `net` has sockets ([`System`]), and only `client` has tasks: one
//! for the monitors and one for each OSD. A request is encoded by the caller's task, written by the OSD's
//! task, and its answer is decoded there and handed back; on a single-threaded runtime it never leaves the
//! thread.

mod client;
mod error;
#[doc(hidden)]
pub mod hostile;
mod ioctx;
mod messages;
mod monc;
mod net;
mod object;
mod objecter;
mod op;
mod requests;
mod watch;

pub use ceph_codec::{EntityAddr, Epoch, GlobalId, OsdId, PgId, PoolId, SnapId, SpgId};
pub use ceph_osdmap::{OsdMap, Placement, Pool, PoolSnap, Release};
pub use client::{
    Client, CommandError, CommandReply, ConnectError, MonFailure, MonTarget, Options, OsdCounts,
};
pub use error::OpError;
pub use ioctx::{ALL_NAMESPACES, IoCtx, ListedObject, ObjectCursor, ObjectLocation, ObjectPage};
pub use net::{Connecting, HostSystem, Stream, System};
pub use object::Object;
pub use objecter::{Limits, MapError};
pub use op::{
    Advice, CloneInfo, Comparison, Errno, InvalidOperation, ObjectStat, ObjectWatcher, OmapPage, Op, OpKind,
    OpOutcome, OpReply, Operation, SnapContext, SnapSet, SparseExtents, WatchAction, XattrValue,
};
pub use requests::{RequestStatus, WaitsFor};
pub use watch::{NotifyReply, Watch, WatchEvent};

/// Decodes a recorded message (`u16` type, `u16` version, `u32` length of the front, front, data) as one of a
/// daemon would be. For fuzzing: whatever the bytes, it returns.
///
/// # Errors
/// [`ceph_codec::DecodeError`] if it is malformed.
#[doc(hidden)]
pub fn decode_recorded_message(bytes: &bytes::Bytes) -> Result<(), ceph_codec::DecodeError> {
    messages::recorded::decode(bytes)
}
