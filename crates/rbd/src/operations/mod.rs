//! Maintenance of an image: what changes more than contents.
//!
//! Each operation is a function `run` in a module of its own. It takes the right to change the image step by step,
//! so that a long one neither keeps others from the exclusive lock nor is lost when the lock moves: who gets the
//! lock back goes on where the image's metadata say that the work ended.
//!
//! Ceph: `src/librbd/Operations.cc`, `src/librbd/operation/`.

mod error;

pub use error::OperationError;

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
