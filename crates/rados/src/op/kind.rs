//! The ops themselves.

use std::collections::BTreeMap;

use bytes::Bytes;
use ceph_codec::{Epoch, HObject, SnapId};

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

/// How what is stored has to compare with what is given: `Greater` holds where the stored value is greater.
///
/// Ceph: `CEPH_OSD_CMPXATTR_OP_*`, which mean it the other way round for extended attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Comparison {
    Equal,
    NotEqual,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

/// What an extended attribute is compared with. Ceph: `CEPH_OSD_CMPXATTR_MODE_*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum XattrValue {
    /// Byte by byte; a missing attribute counts as empty.
    Bytes(Bytes),
    /// As numbers. The attribute holds its number as decimal text; a missing or empty one counts as 0.
    Number(u64),
}

impl<T: Into<Bytes>> From<T> for XattrValue {
    fn from(bytes: T) -> Self {
        Self::Bytes(bytes.into())
    }
}

/// How the store may treat the data of an op in its caches. Hints only.
///
/// Ceph: `CEPH_OSD_OP_FLAG_FADVISE_*` in `src/include/rados.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// Accesses are at random places.
    Random,
    /// Accesses go from low to high offsets.
    Sequential,
    /// Accessed again soon.
    WillNeed,
    /// Not accessed again soon, by anybody.
    DontNeed,
    /// Not accessed again by this client.
    NoCache,
}

impl Advice {
    pub(super) fn flag(self) -> u32 {
        match self {
            Self::Random => 0x4,
            Self::Sequential => 0x8,
            Self::WillNeed => 0x10,
            Self::DontNeed => 0x20,
            Self::NoCache => 0x40,
        }
    }
}

/// What one op does. Offsets and lengths are bytes within the object; see the methods of
/// [`Operation`](super::Operation) that add each kind.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the parameters of the methods of the same names")]
#[non_exhaustive]
pub enum OpKind {
    /// [`Operation::read`](super::Operation::read).
    Read { offset: u64, len: u64 },
    /// [`Operation::sparse_read`](super::Operation::sparse_read).
    SparseRead { offset: u64, len: u64 },
    /// [`Operation::stat`](super::Operation::stat).
    Stat,
    /// [`Operation::assert_version`](super::Operation::assert_version).
    AssertVersion { version: u64 },
    /// [`Operation::compare_extent`](super::Operation::compare_extent).
    CompareExtent { offset: u64, data: Bytes },
    /// [`Operation::list_watchers`](super::Operation::list_watchers).
    ListWatchers,
    /// [`Operation::list_snaps`](super::Operation::list_snaps).
    ListSnaps,
    /// Lists objects of a placement group.
    ListObjects { max: u64, epoch: Epoch, from: HObject },
    /// [`Operation::create`](super::Operation::create).
    Create { exclusive: bool },
    /// [`Operation::write`](super::Operation::write).
    Write { offset: u64, data: Bytes },
    /// [`Operation::write_full`](super::Operation::write_full).
    WriteFull { data: Bytes },
    /// [`Operation::write_same`](super::Operation::write_same).
    WriteSame { offset: u64, len: u64, pattern: Bytes },
    /// [`Operation::append`](super::Operation::append).
    Append { data: Bytes },
    /// [`Operation::zero`](super::Operation::zero).
    Zero { offset: u64, len: u64 },
    /// [`Operation::truncate`](super::Operation::truncate).
    Truncate { size: u64 },
    /// [`Operation::delete`](super::Operation::delete).
    Delete,
    /// [`Operation::rollback`](super::Operation::rollback).
    Rollback { snap: SnapId },
    /// [`Operation::set_alloc_hint`](super::Operation::set_alloc_hint).
    SetAllocHint { object_size: u64, write_size: u64, flags: u32 },
    /// [`Operation::call`](super::Operation::call) and [`Operation::call_mut`](super::Operation::call_mut).
    Call { class: &'static str, method: &'static str, input: Bytes, mutates: bool },
    /// [`Operation::omap_get_keys`](super::Operation::omap_get_keys).
    OmapGetKeys { after: String, max: u64 },
    /// [`Operation::omap_get_vals`](super::Operation::omap_get_vals).
    OmapGetVals { after: String, prefix: String, max: u64 },
    /// [`Operation::omap_get_vals_by_keys`](super::Operation::omap_get_vals_by_keys).
    OmapGetValsByKeys { keys: Vec<String> },
    /// [`Operation::omap_get_header`](super::Operation::omap_get_header).
    OmapGetHeader,
    /// [`Operation::omap_compare`](super::Operation::omap_compare).
    OmapCompare { key: String, comparison: Comparison, value: Bytes },
    /// [`Operation::omap_set_vals`](super::Operation::omap_set_vals).
    OmapSetVals { pairs: BTreeMap<String, Bytes> },
    /// [`Operation::omap_set_header`](super::Operation::omap_set_header).
    OmapSetHeader { header: Bytes },
    /// [`Operation::omap_remove_keys`](super::Operation::omap_remove_keys).
    OmapRemoveKeys { keys: Vec<String> },
    /// [`Operation::omap_remove_range`](super::Operation::omap_remove_range).
    OmapRemoveRange { begin: String, end: String },
    /// [`Operation::omap_clear`](super::Operation::omap_clear).
    OmapClear,
    /// [`Operation::get_xattr`](super::Operation::get_xattr).
    GetXattr { name: String },
    /// [`Operation::get_xattrs`](super::Operation::get_xattrs).
    GetXattrs,
    /// [`Operation::compare_xattr`](super::Operation::compare_xattr).
    CompareXattr { name: String, comparison: Comparison, value: XattrValue },
    /// [`Operation::set_xattr`](super::Operation::set_xattr).
    SetXattr { name: String, value: Bytes },
    /// [`Operation::remove_xattr`](super::Operation::remove_xattr).
    RemoveXattr { name: String },
    /// Registers or ends a watch.
    Watch { cookie: u64, action: WatchAction },
    /// Sends a notify.
    Notify { cookie: u64, timeout_secs: u32, payload: Bytes },
    /// Acknowledges a notify.
    NotifyAck { notify_id: u64, cookie: u64, payload: Bytes },
}

/// One op of an [`Operation`](super::Operation).
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

pub(super) const OP_FLAG_EXCLUSIVE: u32 = 0x1;
pub(super) const OP_FLAG_FAILOK: u32 = 0x2;
