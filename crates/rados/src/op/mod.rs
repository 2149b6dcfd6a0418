//! Object operations: what a client asks of one object, and what comes back.
//!
//! An [`Operation`] is a list of ops that an OSD applies to one object atomically: all or nothing for those
//! that write. Each op that reads gives one [`OpOutcome`].
//!
//! Ceph: `ceph_osd_op` in `src/include/rados.h`, `ObjectOperation` in `src/osdc/Objecter.h`.

mod attributes;
mod errno;
mod kind;
mod outcome;
mod snaps;
mod wire;

use bytes::Bytes;
use ceph_codec::SnapId;
use thiserror::Error;

pub use errno::Errno;
pub use kind::{Advice, Comparison, Op, OpKind, WatchAction, XattrValue};
pub use outcome::{ObjectStat, ObjectWatcher, OmapPage, OpOutcome, OpReply, SparseExtents};
pub use snaps::{CloneInfo, SnapContext, SnapSet};
pub(crate) use wire::{OP_LEN, encode_op};

use kind::{OP_FLAG_EXCLUSIVE, OP_FLAG_FAILOK};

/// Ops for one object, applied atomically and in order. Built by chaining:
///
/// ```
/// # use rados::Operation;
/// let op = Operation::new().create(true).write(0, "hello").set_xattr("language", "en");
/// # assert!(op.is_write());
/// ```
///
/// The first op that fails ends the operation: nothing is written, and
/// [`OpError::Op`](crate::OpError::Op) says which one it was. An op marked with [`fail_ok`](Self::fail_ok)
/// leaves its errno in its [`OpOutcome`] instead.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Operation {
    pub(crate) ops: Vec<Op>,
    pub(crate) full_try: bool,
}

/// Why an operation cannot be sent.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum InvalidOperation {
    /// A message counts ops with 16 bits.
    #[error("an operation of {0} ops is too long")]
    TooManyOps(usize),
    /// A message counts bytes with 32 bits; OSDs accept far less (`osd_max_write_size`).
    #[error("an operation with {0} bytes of data is too large")]
    TooLarge(u64),
    /// A message counts their bytes with 8 bits.
    #[error("the name of class or method {0:?} is too long")]
    LongName(&'static str),
    /// Snapshots must descend, and none be above `seq`.
    #[error("the snapshot context {0:?} is not valid")]
    SnapContext(SnapContext),
}

impl Operation {
    /// No ops yet.
    #[must_use]
    pub fn new() -> Self {
        Self { ops: Vec::with_capacity(2), full_try: false }
    }

    pub(crate) fn push(mut self, kind: OpKind) -> Self {
        let flags = if let OpKind::Create { exclusive: true } = kind { OP_FLAG_EXCLUSIVE } else { 0 };
        self.ops.push(Op { kind, flags });
        self
    }

    /// Reads up to `len` bytes, up to the end if `len` is 0; fewer where the object ends, and `ENOENT` where
    /// there is no object.
    #[must_use]
    pub fn read(self, offset: u64, len: u64) -> Self {
        self.push(OpKind::Read { offset, len })
    }

    /// Reads only what is allocated; decode the outcome with [`OpOutcome::sparse`].
    #[must_use]
    pub fn sparse_read(self, offset: u64, len: u64) -> Self {
        self.push(OpKind::SparseRead { offset, len })
    }

    /// Size and modification time; decode the outcome with [`OpOutcome::stat`].
    #[must_use]
    pub fn stat(self) -> Self {
        self.push(OpKind::Stat)
    }

    /// Fails the operation with `ENOENT` unless the object exists.
    #[must_use]
    pub fn assert_exists(self) -> Self {
        // As librados does.
        self.stat()
    }

    /// Fails the operation unless the object's version is `version`: with `ERANGE` if it is newer, with
    /// `EOVERFLOW` if it is older. See [`OpReply::version`].
    #[must_use]
    pub fn assert_version(self, version: u64) -> Self {
        self.push(OpKind::AssertVersion { version })
    }

    /// Fails the operation unless the bytes at `offset` equal `data`;
    /// [`OpError::mismatch`](crate::OpError::mismatch) then tells where they begin to differ. Beyond the end
    /// of the object there are zeros.
    #[must_use]
    pub fn compare_extent(self, offset: u64, data: impl Into<Bytes>) -> Self {
        self.push(OpKind::CompareExtent { offset, data: data.into() })
    }

    /// Who watches the object; decode the outcome with [`OpOutcome::watchers`].
    #[must_use]
    pub fn list_watchers(self) -> Self {
        self.push(OpKind::ListWatchers)
    }

    /// What the object keeps for snapshots; decode the outcome with [`OpOutcome::snap_set`]. To be read from
    /// [`SnapId::DIR`], `EINVAL` otherwise on some releases.
    #[must_use]
    pub fn list_snaps(self) -> Self {
        self.push(OpKind::ListSnaps)
    }

    /// Creates the object; if `exclusive`, fails with `EEXIST` where it exists.
    #[must_use]
    pub fn create(self, exclusive: bool) -> Self {
        self.push(OpKind::Create { exclusive })
    }

    /// Writes `data` at `offset`, growing the object as needed. Erasure-coded pools without overwrites take
    /// only appends in multiples of [`IoCtx::required_alignment`](crate::IoCtx::required_alignment), and
    /// `EOPNOTSUPP` is the answer to others.
    #[must_use]
    pub fn write(self, offset: u64, data: impl Into<Bytes>) -> Self {
        self.push(OpKind::Write { offset, data: data.into() })
    }

    /// Makes `data` the whole contents.
    #[must_use]
    pub fn write_full(self, data: impl Into<Bytes>) -> Self {
        self.push(OpKind::WriteFull { data: data.into() })
    }

    /// Writes `pattern` at `offset`, again and again, until `len` bytes are written: `EINVAL` unless that is a
    /// multiple of the pattern's length.
    #[must_use]
    pub fn write_same(self, offset: u64, len: u64, pattern: impl Into<Bytes>) -> Self {
        self.push(OpKind::WriteSame { offset, len, pattern: pattern.into() })
    }

    /// Writes `data` at the end of the object.
    #[must_use]
    pub fn append(self, data: impl Into<Bytes>) -> Self {
        self.push(OpKind::Append { data: data.into() })
    }

    /// Zeroes a range; never creates or grows the object.
    #[must_use]
    pub fn zero(self, offset: u64, len: u64) -> Self {
        self.push(OpKind::Zero { offset, len })
    }

    /// Cuts or grows the object to `size` bytes.
    #[must_use]
    pub fn truncate(self, size: u64) -> Self {
        self.push(OpKind::Truncate { size })
    }

    /// Removes the object; `ENOENT` where there is none.
    #[must_use]
    pub fn delete(self) -> Self {
        self.push(OpKind::Delete)
    }

    /// Gives the object the contents that it had at `snap`; removes it if it did not exist then.
    #[must_use]
    pub fn rollback(self, snap: SnapId) -> Self {
        self.push(OpKind::Rollback { snap })
    }

    /// Tells the store how large the object and its writes will be, in bytes. `flags`:
    /// `CEPH_OSD_ALLOC_HINT_FLAG_*`. A store that cannot use the hint ignores it.
    #[must_use]
    pub fn set_alloc_hint(self, object_size: u64, write_size: u64, flags: u32) -> Self {
        self.push(OpKind::SetAllocHint { object_size, write_size, flags }).fail_ok()
    }

    /// Calls a `method` of object class `class` that only reads; its output is the op's data.
    #[must_use]
    pub fn call(self, class: &'static str, method: &'static str, input: impl Into<Bytes>) -> Self {
        self.push(OpKind::Call { class, method, input: input.into(), mutates: false })
    }

    /// Calls a `method` of object class `class` that may write. Its output reaches the client only where the
    /// OSD returns output of writes.
    #[must_use]
    pub fn call_mut(self, class: &'static str, method: &'static str, input: impl Into<Bytes>) -> Self {
        self.push(OpKind::Call { class, method, input: input.into(), mutates: true })
    }

    /// Lets the last op fail without failing the operation; its outcome then holds the errno.
    #[must_use]
    pub fn fail_ok(self) -> Self {
        self.flag_last(OP_FLAG_FAILOK)
    }

    /// Tells the store how the data of the last op will be used. More than one advice adds up.
    #[must_use]
    pub fn advise(self, advice: Advice) -> Self {
        self.flag_last(advice.flag())
    }

    fn flag_last(mut self, flag: u32) -> Self {
        if let Some(op) = self.ops.last_mut() {
            op.flags |= flag;
        }
        self
    }

    /// Lets the operation run, or fail with `ENOSPC` or `EDQUOT`, where a full pool would make it wait.
    /// For operations that free space.
    #[must_use]
    pub fn full_try(mut self) -> Self {
        self.full_try = true;
        self
    }

    /// The ops, in order. For object stores other than RADOS.
    #[must_use]
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// Whether it has no ops.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Number of ops.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Bytes that it counts for in flow control: what it writes and what it may read. `None` for what keeps
    /// watches and notifies going, which must not wait behind data: others wait for it.
    pub(crate) fn cost(&self) -> Option<u64> {
        let mut bytes = 0u64;
        for op in &self.ops {
            bytes = bytes.saturating_add(op.kind.cost()?);
        }
        Some(bytes)
    }

    /// Whether it may write: it has an op that writes or a call of a method that may.
    #[must_use]
    pub fn is_write(&self) -> bool {
        self.ops.iter().any(|op| op.kind.writes())
    }

    /// Whether it is about a placement group instead of an object.
    pub(crate) fn is_pg_op(&self) -> bool {
        self.ops.iter().any(|op| matches!(op.kind, OpKind::ListObjects { .. }))
    }

    /// Whether it fits a message.
    pub(crate) fn check(&self) -> Result<(), InvalidOperation> {
        if u16::try_from(self.ops.len()).is_err() {
            return Err(InvalidOperation::TooManyOps(self.ops.len()));
        }
        for op in &self.ops {
            if let OpKind::Call { class, method, .. } = op.kind
                && let Some(long) = [class, method].into_iter().find(|name| name.len() > u8::MAX.into())
            {
                return Err(InvalidOperation::LongName(long));
            }
        }
        let bytes = self.ops.iter().map(|op| op.kind.payload_bound()).fold(0, u64::saturating_add);
        if bytes > MAX_PAYLOAD { Err(InvalidOperation::TooLarge(bytes)) } else { Ok(()) }
    }
}

/// Far more than any OSD accepts, and below what the messenger's 32 bits count.
const MAX_PAYLOAD: u64 = 1 << 30;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_that_does_not_fit_a_message_is_refused() {
        let many = |count| (0..count).fold(Operation::new(), |op, _| op.stat());
        assert_eq!(many(0xffff).check(), Ok(()));
        assert_eq!(many(0x1_0000).check(), Err(InvalidOperation::TooManyOps(0x1_0000)));
        let long: &'static str = String::leak("c".repeat(256));
        assert_eq!(Operation::new().call(long, "m", "").check(), Err(InvalidOperation::LongName(long)));
        let half = Bytes::from(vec![0; 1 << 29]);
        let twice = Operation::new().write(0, half.clone()).append(half);
        assert_eq!(twice.check(), Ok(()));
        assert_eq!(twice.append("x").check(), Err(InvalidOperation::TooLarge((1 << 30) + 1)));
    }
}
