//! Object operations: what a client asks of one object, and what comes back.
//!
//! An [`Operation`] is a list of ops that an OSD applies to one object atomically: all or nothing for those
//! that write. Each op that reads gives one [`OpOutcome`].
//!
//! Ceph: `ceph_osd_op` in `src/include/rados.h`, `ObjectOperation` in `src/osdc/Objecter.h`.

mod outcome;
mod wire;

use std::sync::Arc;

use bytes::Bytes;
use ceph_codec::SnapId;

pub use outcome::{Errno, ObjectStat, ObjectWatcher, OpOutcome, OpReply, SparseExtents};
pub(crate) use wire::{OP_LEN, encode_op};

/// The snapshots that exist when a write is made, so that the OSD keeps the old contents for them.
///
/// Ceph: `SnapContext` in `src/common/snap_types.h`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapContext {
    /// The newest snapshot id ever given out.
    pub seq: SnapId,
    /// Ids of the existing snapshots, newest (largest) first.
    pub snaps: Arc<[SnapId]>,
}

impl Default for SnapContext {
    /// No snapshots.
    fn default() -> Self {
        Self { seq: SnapId(0), snaps: Arc::from([]) }
    }
}

impl SnapContext {
    /// Whether an OSD would accept it: strictly descending, none above `seq`.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.snaps.first().is_none_or(|newest| *newest <= self.seq)
            && self.snaps.windows(2).all(|pair| pair[0] > pair[1])
            && self.snaps.last().is_none_or(|oldest| oldest.0 > 0)
    }
}

/// What a watch op does. Ceph: `CEPH_OSD_WATCH_OP_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchAction {
    /// Ends the watch.
    Unwatch,
    /// Starts it.
    Watch,
    /// Takes it up again after the connection was lost.
    Reconnect {
        /// Counts the registrations of the watch.
        generation: u32,
    },
    /// Keeps it alive.
    Ping {
        /// Counts the registrations of the watch.
        generation: u32,
    },
}

/// What one op does. Offsets and lengths are bytes within the object; see the methods of [`Operation`] that
/// add each kind.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the parameters of the methods of the same names")]
#[non_exhaustive]
pub enum OpKind {
    /// [`Operation::read`].
    Read { offset: u64, len: u64 },
    /// [`Operation::sparse_read`].
    SparseRead { offset: u64, len: u64 },
    /// [`Operation::stat`].
    Stat,
    /// [`Operation::assert_version`].
    AssertVersion { version: u64 },
    /// [`Operation::list_watchers`].
    ListWatchers,
    /// [`Operation::create`].
    Create { exclusive: bool },
    /// [`Operation::write`].
    Write { offset: u64, data: Bytes },
    /// [`Operation::write_full`].
    WriteFull { data: Bytes },
    /// [`Operation::zero`].
    Zero { offset: u64, len: u64 },
    /// [`Operation::truncate`].
    Truncate { size: u64 },
    /// [`Operation::delete`].
    Delete,
    /// [`Operation::set_alloc_hint`].
    SetAllocHint { object_size: u64, write_size: u64, flags: u32 },
    /// [`Operation::call`] and [`Operation::call_mut`].
    Call { class: &'static str, method: &'static str, input: Bytes, mutates: bool },
    /// [`Operation::omap_get_vals`].
    OmapGetVals { after: String, prefix: String, max: u64 },
    /// [`Operation::omap_get_vals_by_keys`].
    OmapGetValsByKeys { keys: Vec<String> },
    /// [`Operation::get_xattr`].
    GetXattr { name: String },
    /// [`Operation::set_xattr`].
    SetXattr { name: String, value: Bytes },
    /// [`Operation::compare_extent`].
    CompareExtent { offset: u64, data: Bytes },
    /// Registers or ends a watch.
    Watch { cookie: u64, action: WatchAction },
    /// Sends a notify.
    Notify { cookie: u64, timeout_secs: u32, payload: Bytes },
    /// Acknowledges a notify.
    NotifyAck { notify_id: u64, cookie: u64, payload: Bytes },
}

impl OpKind {
    fn cost(&self) -> Option<u64> {
        let len = match self {
            Self::Read { len, .. } | Self::SparseRead { len, .. } => return Some(*len),
            Self::Watch { .. } | Self::Notify { .. } | Self::NotifyAck { .. } => return None,
            Self::Write { data, .. } | Self::WriteFull { data } | Self::CompareExtent { data, .. } => {
                data.len()
            }
            Self::Call { input, .. } => input.len(),
            Self::SetXattr { name, value } => name.len() + value.len(),
            // Requests and answers of some hundred bytes.
            _ => 0,
        };
        Some(len as u64)
    }
}

/// One op of an [`Operation`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Op {
    /// What it does.
    pub kind: OpKind,
    pub(crate) flags: u32,
}

impl Op {
    /// Whether it may fail without failing the operation.
    #[must_use]
    pub fn may_fail(&self) -> bool {
        self.flags & OP_FLAG_FAILOK != 0
    }
}

const OP_FLAG_EXCLUSIVE: u32 = 0x1;
const OP_FLAG_FAILOK: u32 = 0x2;

/// Ops for one object, applied atomically and in order. Built by chaining:
///
/// ```
/// # use rados::Operation;
/// let op = Operation::new().create(true).write(0, "hello");
/// # assert!(op.is_write());
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Operation {
    pub(crate) ops: Vec<Op>,
    pub(crate) full_try: bool,
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

    /// Reads up to `len` bytes; fewer where the object ends, and `ENOENT` where there is no object.
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

    /// Fails the operation with `ERANGE` or `EOVERFLOW` unless the object's version is `version`.
    #[must_use]
    pub fn assert_version(self, version: u64) -> Self {
        self.push(OpKind::AssertVersion { version })
    }

    /// Who watches the object; decode the outcome with [`OpOutcome::watchers`].
    #[must_use]
    pub fn list_watchers(self) -> Self {
        self.push(OpKind::ListWatchers)
    }

    /// Creates the object; if `exclusive`, fails with `EEXIST` where it exists.
    #[must_use]
    pub fn create(self, exclusive: bool) -> Self {
        self.push(OpKind::Create { exclusive })
    }

    /// Writes `data` at `offset`, growing the object as needed.
    #[must_use]
    pub fn write(self, offset: u64, data: impl Into<Bytes>) -> Self {
        self.push(OpKind::Write { offset, data: data.into() })
    }

    /// Makes `data` the whole contents.
    #[must_use]
    pub fn write_full(self, data: impl Into<Bytes>) -> Self {
        self.push(OpKind::WriteFull { data: data.into() })
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

    /// Up to `max` omap pairs with keys after `after` that start with `prefix`; decode with
    /// [`OpOutcome::omap_page`].
    #[must_use]
    pub fn omap_get_vals(self, after: impl Into<String>, prefix: impl Into<String>, max: u64) -> Self {
        self.push(OpKind::OmapGetVals { after: after.into(), prefix: prefix.into(), max })
    }

    /// The omap pairs of those of `keys` that exist; decode with [`OpOutcome::omap`].
    #[must_use]
    pub fn omap_get_vals_by_keys(self, keys: Vec<String>) -> Self {
        self.push(OpKind::OmapGetValsByKeys { keys })
    }

    /// The value of an extended attribute.
    #[must_use]
    pub fn get_xattr(self, name: impl Into<String>) -> Self {
        self.push(OpKind::GetXattr { name: name.into() })
    }

    /// Sets an extended attribute.
    #[must_use]
    pub fn set_xattr(self, name: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.push(OpKind::SetXattr { name: name.into(), value: value.into() })
    }

    /// Fails the operation unless the bytes at `offset` equal `data`.
    #[must_use]
    pub fn compare_extent(self, offset: u64, data: impl Into<Bytes>) -> Self {
        self.push(OpKind::CompareExtent { offset, data: data.into() })
    }

    /// Lets the last op fail without failing the operation.
    #[must_use]
    pub fn fail_ok(mut self) -> Self {
        if let Some(op) = self.ops.last_mut() {
            op.flags |= OP_FLAG_FAILOK;
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
}
