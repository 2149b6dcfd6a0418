//! What the lock owner can be asked to do to an image.
//!
//! ```text
//! flatten, rebuild object map, migrate   id
//! resize                                 size le64 | id | [4] may shrink u8
//! snapshot create                        name | [6] namespace | [7] id, flags le64
//! snapshot remove, protect, unprotect    name | [6] namespace | [7] id
//! snapshot rename                        snapshot id le64 | new name | [6] namespace | [7] id
//! rename                                 new name | [7] id
//! feature update                         features le64 | enable u8 | [7] id
//! sparsify                               id | size le64
//! metadata update                        key | u8 whether there is a value [, value] | [7] id
//! ```
//! with what came with a version of the message in brackets; in version 5 a snapshot's namespace came last.
//!
//! Ceph: the payloads in `src/librbd/WatchNotifyTypes.cc`.

use ceph_codec::{Decode, DecodeError, Encode, GlobalId, Reader, SnapId};

use super::notify::{AsyncRequestId, ClientId, NotifyOp};
use crate::{Features, SnapshotNamespace};

/// A change of an image that the owner of its exclusive lock can be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Maintenance {
    /// Copy all that still comes from the parent, and part from it.
    Flatten,
    /// Change its size.
    Resize {
        /// The new size in bytes.
        size: u64,
        /// Whether it may become smaller.
        allow_shrink: bool,
    },
    /// Take a snapshot.
    CreateSnapshot {
        /// What it is for.
        namespace: SnapshotNamespace,
        /// Its name.
        name: String,
        /// See [`SnapshotFlags`].
        flags: SnapshotFlags,
    },
    /// Remove a snapshot.
    RemoveSnapshot {
        /// What it is for.
        namespace: SnapshotNamespace,
        /// Its name.
        name: String,
    },
    /// Give a user's snapshot another name.
    RenameSnapshot {
        /// Its number.
        snap: SnapId,
        /// Its new name.
        name: String,
    },
    /// Protect a snapshot, so that it may be cloned.
    ProtectSnapshot {
        /// What it is for.
        namespace: SnapshotNamespace,
        /// Its name.
        name: String,
    },
    /// Unprotect a snapshot, so that it may be removed.
    UnprotectSnapshot {
        /// What it is for.
        namespace: SnapshotNamespace,
        /// Its name.
        name: String,
    },
    /// Find out which objects exist, and write the object map anew.
    RebuildObjectMap,
    /// Give the image another name.
    Rename {
        /// The new name.
        name: String,
    },
    /// Enable or disable features.
    UpdateFeatures {
        /// Which.
        features: Features,
        /// Whether to enable them.
        enable: bool,
    },
    /// Copy all that still comes from the image that it is migrated from.
    Migrate,
    /// Give up the space of zeroes.
    Sparsify {
        /// The smallest run of zeroes to give up, in bytes.
        size: u64,
    },
    /// Set or remove a metadata pair.
    UpdateMetadata {
        /// The key.
        key: String,
        /// The new value; none removes the pair.
        value: Option<Vec<u8>>,
    },
}

/// How to take a snapshot. Ceph: `SNAP_CREATE_FLAG_*` in `src/librbd/Types.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SnapshotFlags(pub u64);

impl SnapshotFlags {
    /// Makes no object map for it.
    pub const SKIP_OBJECT_MAP: Self = Self(1 << 0);
    /// Does not ask the other clients to stop writing.
    pub const SKIP_QUIESCE: Self = Self(1 << 1);
    /// Goes on if a client cannot stop writing.
    pub const IGNORE_QUIESCE_ERROR: Self = Self(1 << 2);

    /// Whether all of `other` is set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Decodes the fields of a request; none if it is not known here.
pub(super) fn decode(
    op: NotifyOp,
    version: u8,
    r: &mut Reader<'_>,
) -> Result<Option<(Option<AsyncRequestId>, Maintenance)>, DecodeError> {
    // What was there from the beginning names its request in every version.
    let named = |r: &mut Reader<'_>| AsyncRequestId::decode(r).map(Some);
    let named_since_7 =
        |r: &mut Reader<'_>| if version >= 7 { AsyncRequestId::decode(r).map(Some) } else { Ok(None) };
    let namespace_since_6 = |r: &mut Reader<'_>| {
        if version >= 6 { SnapshotNamespace::decode(r) } else { Ok(SnapshotNamespace::User) }
    };
    let (id, request) = match op {
        NotifyOp::FLATTEN => (named(r)?, Maintenance::Flatten),
        NotifyOp::REBUILD_OBJECT_MAP => (named(r)?, Maintenance::RebuildObjectMap),
        NotifyOp::MIGRATE => (named(r)?, Maintenance::Migrate),
        NotifyOp::SPARSIFY => (named(r)?, Maintenance::Sparsify { size: u64::decode(r)? }),
        NotifyOp::RESIZE => {
            let size = u64::decode(r)?;
            let id = named(r)?;
            let allow_shrink = version < 4 || bool::decode(r)?;
            (id, Maintenance::Resize { size, allow_shrink })
        }
        NotifyOp::SNAP_CREATE => {
            let name = String::decode(r)?;
            let mut namespace = namespace_since_6(r)?;
            let id = named_since_7(r)?;
            if version == 5 {
                namespace = SnapshotNamespace::decode(r)?;
            }
            let flags = SnapshotFlags(if version >= 7 { u64::decode(r)? } else { 0 });
            (id, Maintenance::CreateSnapshot { namespace, name, flags })
        }
        NotifyOp::SNAP_REMOVE | NotifyOp::SNAP_PROTECT | NotifyOp::SNAP_UNPROTECT => {
            let name = String::decode(r)?;
            let namespace = namespace_since_6(r)?;
            let request = match op {
                NotifyOp::SNAP_REMOVE => Maintenance::RemoveSnapshot { namespace, name },
                NotifyOp::SNAP_PROTECT => Maintenance::ProtectSnapshot { namespace, name },
                _ => Maintenance::UnprotectSnapshot { namespace, name },
            };
            (named_since_7(r)?, request)
        }
        NotifyOp::SNAP_RENAME => {
            let (snap, name) = <(SnapId, String)>::decode(r)?;
            namespace_since_6(r)?;
            (named_since_7(r)?, Maintenance::RenameSnapshot { snap, name })
        }
        NotifyOp::RENAME => {
            let name = String::decode(r)?;
            (named_since_7(r)?, Maintenance::Rename { name })
        }
        NotifyOp::UPDATE_FEATURES => {
            let (features, enable) = <(Features, bool)>::decode(r)?;
            (named_since_7(r)?, Maintenance::UpdateFeatures { features, enable })
        }
        NotifyOp::METADATA_UPDATE => {
            let (key, value) = <(String, Option<Vec<u8>>)>::decode(r)?;
            (named_since_7(r)?, Maintenance::UpdateMetadata { key, value })
        }
        _ => return Ok(None),
    };
    // Ceph: `AsyncRequestId::operator bool`.
    let id = id.filter(|id| id.client != ClientId { gid: GlobalId(0), handle: 0 });
    Ok(Some((id, request)))
}

impl Maintenance {
    /// Its number in a notify.
    #[must_use]
    pub fn op(&self) -> NotifyOp {
        match self {
            Self::Flatten => NotifyOp::FLATTEN,
            Self::Resize { .. } => NotifyOp::RESIZE,
            Self::CreateSnapshot { .. } => NotifyOp::SNAP_CREATE,
            Self::RemoveSnapshot { .. } => NotifyOp::SNAP_REMOVE,
            Self::RenameSnapshot { .. } => NotifyOp::SNAP_RENAME,
            Self::ProtectSnapshot { .. } => NotifyOp::SNAP_PROTECT,
            Self::UnprotectSnapshot { .. } => NotifyOp::SNAP_UNPROTECT,
            Self::RebuildObjectMap => NotifyOp::REBUILD_OBJECT_MAP,
            Self::Rename { .. } => NotifyOp::RENAME,
            Self::UpdateFeatures { .. } => NotifyOp::UPDATE_FEATURES,
            Self::Migrate => NotifyOp::MIGRATE,
            Self::Sparsify { .. } => NotifyOp::SPARSIFY,
            Self::UpdateMetadata { .. } => NotifyOp::METADATA_UPDATE,
        }
    }

    /// Encodes the fields.
    pub(super) fn encode(&self, id: AsyncRequestId, out: &mut Vec<u8>) {
        match self {
            Self::Flatten | Self::RebuildObjectMap | Self::Migrate => id.encode(out),
            Self::Sparsify { size } => (id, *size).encode(out),
            Self::Resize { size, allow_shrink } => {
                (*size, id).encode(out);
                allow_shrink.encode(out);
            }
            Self::CreateSnapshot { namespace, name, flags } => {
                (name, namespace).encode(out);
                (id, flags.0).encode(out);
            }
            Self::RemoveSnapshot { namespace, name }
            | Self::ProtectSnapshot { namespace, name }
            | Self::UnprotectSnapshot { namespace, name } => {
                (name, namespace).encode(out);
                id.encode(out);
            }
            Self::RenameSnapshot { snap, name } => {
                (snap, name).encode(out);
                (SnapshotNamespace::User, id).encode(out);
            }
            Self::Rename { name } => (name, id).encode(out),
            Self::UpdateFeatures { features, enable } => {
                (features.0, *enable).encode(out);
                id.encode(out);
            }
            Self::UpdateMetadata { key, value } => {
                (key, value).encode(out);
                id.encode(out);
            }
        }
    }
}
