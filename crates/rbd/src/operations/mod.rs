//! Maintenance of an image: what changes more than contents.
//!
//! ```text
//!  Image::resize(..) ---> maintain ---> no lock, or ours, or free ---> execute ---> resize::run
//!  Image::create_..          |                                            ^
//!                            | somebody else's                            |
//!                            v                                            |
//!                           ask ------- notify ----> its owner ---> serve-+
//!                            ^                          |
//!                            +---- progress, completion-+
//! ```
//! Each operation is a function `run` in a module of its own. It takes the right to change the image step by step,
//! so that a long one neither keeps others from the exclusive lock nor is lost when the lock moves: who gets the
//! lock back goes on where the image's metadata say that the work ended.
//!
//! Ceph: `src/librbd/Operations.cc`, `src/librbd/operation/`.

mod ask;
mod error;
pub(crate) mod features;
mod flatten;
mod maintain;
mod maintenance_error;
mod metadata;
pub(crate) mod object_map;
mod quiesce;
mod rename;
mod resize;
pub(crate) mod rollback;
mod serve;
mod snapshot_create;
pub(crate) mod snapshot_limit;
mod snapshot_protect;
pub(crate) mod snapshot_remove;
mod snapshot_rename;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_object_map;
#[cfg(test)]
mod tests_side_by_side;
mod wait;

use crate::OpFeatures;
use crate::header::Header;
pub(crate) use ask::{Asked, RESTART};
pub use error::OperationError;
pub use features::FeatureError;
pub(crate) use maintain::{Turn, maintain};
pub use maintenance_error::MaintenanceError;
pub(crate) use serve::{Served, serve};

/// Refuses maintenance of an image with operation features that are not known here.
///
/// Ceph: `operations_disabled` in `src/librbd/image/RefreshRequest.cc`.
pub(crate) fn check_op_features(image: &str, header: &Header) -> Result<(), OperationError> {
    let op_features = header.op_features.without(OpFeatures::KNOWN);
    if op_features.is_empty() {
        return Ok(());
    }
    Err(OperationError::OpFeatures { image: image.to_owned(), op_features })
}

/// Makes the error of a step that the cluster did not carry out.
pub(crate) fn failed(doing: &'static str) -> impl Fn(rados::OpError) -> OperationError + Copy {
    move |source| OperationError::Op { doing, source }
}

/// Hears how far a long operation has come.
///
/// Ceph: `ProgressContext` in `src/include/rbd/librbd.hpp`.
pub trait Progress: Send + Sync {
    /// `done` of `total` units of work are done; the unit is the operation's choice (objects, bytes).
    fn update(&self, done: u64, total: u64);
}

/// Nobody wants to know.
impl Progress for () {
    fn update(&self, _done: u64, _total: u64) {}
}

/// What became of work, for whoever wants to know.
impl Progress for tokio::sync::watch::Sender<(u64, u64)> {
    fn update(&self, done: u64, total: u64) {
        self.send_replace((done, total));
    }
}
