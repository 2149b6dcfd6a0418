//! A RADOS client in pure Rust: monitors, OSD maps, object operations, watch and notify.

mod error;
mod op;
mod watch;

pub use error::OpError;
pub use op::{
    Errno, ObjectStat, ObjectWatcher, Op, OpKind, OpOutcome, OpReply, Operation, SnapContext, SparseExtents,
    WatchAction,
};
pub use watch::{NotifyReply, Watch, WatchEvent};
