//! Snapshots, as the header of an image keeps them.
//!
//! ```text
//! snapshot_add           name | id u64 | namespace
//! snapshot_remove        id u64
//! snapshot_rename        id u64 | new name
//! snapshot_trash_add     id u64
//! snapshot_set_limit     limit u64, or u64::MAX for none
//! set_protection_status  id u64 | status u8
//!
//! namespace  versioned(1) { type u32 | fields of the type }
//!     user    0
//!     group   1  pool i64 | id of the group | id of its snapshot
//!     trash   2  name that it had | type that it had u32
//!     mirror  3  state u8 | complete u8 | set of peer uuids | uuid of the primary | snapshot there u64
//!                | objects copied u64 | map of snapshot ids, there and here
//! ```
//! Ceph: `src/cls/rbd/cls_rbd.cc`; `SnapshotNamespace` in `src/cls/rbd/cls_rbd_types.cc`.

use std::collections::{BTreeMap, BTreeSet};

use ceph_codec::{Decode, DecodeError, Encode, PoolId, Reader, SnapId, versioned};
use rados::Operation;

/// Who made a snapshot, and what for. Ceph: `cls::rbd::SnapshotNamespace`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SnapshotNamespace {
    /// A user, with `rbd snap create`.
    User,
    /// A snapshot of a whole group.
    Group {
        /// The pool of the group.
        pool: PoolId,
        /// Id of the group.
        group_id: String,
        /// Id of the group's snapshot.
        snapshot_id: String,
    },
    /// A removed snapshot that still has clones.
    Trash {
        /// The name it had.
        original_name: String,
        /// The number of the kind that it was of; 0 for a user's.
        original_kind: u32,
    },
    /// Mirroring.
    Mirror(MirrorSnapshot),
    /// A kind that is not known here.
    Other(u32),
}

/// What mirroring keeps of a snapshot. Ceph: `cls::rbd::MirrorSnapshotNamespace`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MirrorSnapshot {
    /// Ceph: `MirrorSnapshotState`: primary, primary demoted, non-primary, non-primary demoted.
    pub state: u8,
    /// Whether it has been copied completely.
    pub complete: bool,
    /// The peers that are to get it.
    pub peer_uuids: BTreeSet<String>,
    /// The cluster that it is copied from.
    pub primary_mirror_uuid: String,
    /// Its number there, or for a primary one the snapshot since which nothing has been copied.
    pub primary_snap: SnapId,
    /// How many objects have been copied.
    pub last_copied_object: u64,
    /// Numbers of snapshots in the cluster that it is copied from, and here.
    pub snap_seqs: BTreeMap<u64, u64>,
}

impl SnapshotNamespace {
    /// The word that `rbd snap ls --all` prints.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Group { .. } => "group",
            Self::Trash { .. } => "trash",
            Self::Mirror(_) => "mirror",
            Self::Other(_) => "unknown",
        }
    }

    /// The word for what a snapshot in the trash was; none if it is not there.
    #[must_use]
    pub fn name_of_original(&self) -> Option<&'static str> {
        let Self::Trash { original_kind, .. } = self else { return None };
        Some(match original_kind {
            0 => "user",
            1 => "group",
            2 => "trash",
            3 => "mirror",
            _ => "unknown",
        })
    }

    /// Whether a name in this namespace means a snapshot in that one: a trashed snapshot has a name of its own, and
    /// may be asked for without knowing what it was.
    pub(crate) fn matches(&self, other: &Self) -> bool {
        matches!((self, other), (Self::Trash { .. }, Self::Trash { .. })) || self == other
    }
}

impl Decode for SnapshotNamespace {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.versioned("SnapshotNamespace", 1, |r, _| {
            Ok(match u32::decode(r)? {
                0 => Self::User,
                1 => Self::Group {
                    pool: PoolId::decode(r)?,
                    group_id: String::decode(r)?,
                    snapshot_id: String::decode(r)?,
                },
                2 => Self::Trash { original_name: String::decode(r)?, original_kind: u32::decode(r)? },
                3 => Self::Mirror(MirrorSnapshot::decode(r)?),
                other => Self::Other(other),
            })
        })
    }
}

impl Encode for SnapshotNamespace {
    fn encode(&self, out: &mut Vec<u8>) {
        versioned(out, 1, 1, |out| match self {
            Self::User => 0u32.encode(out),
            Self::Group { pool, group_id, snapshot_id } => {
                (1u32, pool).encode(out);
                (group_id, snapshot_id).encode(out);
            }
            Self::Trash { original_name, original_kind } => {
                2u32.encode(out);
                (original_name, *original_kind).encode(out);
            }
            Self::Mirror(mirror) => (3u32, mirror).encode(out),
            Self::Other(kind) => kind.encode(out),
        });
    }
}

impl Decode for MirrorSnapshot {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            state: u8::decode(r)?,
            complete: bool::decode(r)?,
            peer_uuids: BTreeSet::decode(r)?,
            primary_mirror_uuid: String::decode(r)?,
            primary_snap: SnapId::decode(r)?,
            last_copied_object: u64::decode(r)?,
            snap_seqs: BTreeMap::decode(r)?,
        })
    }
}

impl Encode for MirrorSnapshot {
    fn encode(&self, out: &mut Vec<u8>) {
        (self.state, self.complete).encode(out);
        (&self.peer_uuids, &self.primary_mirror_uuid).encode(out);
        (self.primary_snap, self.last_copied_object).encode(out);
        self.snap_seqs.encode(out);
    }
}

/// Whether a snapshot may be cloned, and not be removed. Ceph: `RBD_PROTECTION_STATUS_*` in `src/include/rbd_types.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Protection {
    Unprotected = 0,
    /// It is being looked whether it has clones, and gets none meanwhile.
    Unprotecting = 1,
    Protected = 2,
}

/// Appends noting a new snapshot, of the size and with the parent that the image has now. `ESTALE` if a newer
/// number was used, `EEXIST` if there is one of that name, `EDQUOT` if there are too many.
pub(crate) fn snapshot_add(
    operation: Operation,
    snap: SnapId,
    name: &str,
    namespace: &SnapshotNamespace,
) -> Operation {
    operation.call_mut("rbd", "snapshot_add", ((name, snap), namespace).encode_to_vec())
}

/// Appends forgetting a snapshot. `ENOENT` if there is none, `EBUSY` if it is protected or has clones.
pub(crate) fn snapshot_remove(operation: Operation, snap: SnapId) -> Operation {
    operation.call_mut("rbd", "snapshot_remove", snap.encode_to_vec())
}

/// Appends giving a user's snapshot another name. `EEXIST` if another has it, `ENOENT` if there is no such snapshot,
/// `EINVAL` if it is no user's.
pub(crate) fn snapshot_rename(operation: Operation, snap: SnapId, name: &str) -> Operation {
    operation.call_mut("rbd", "snapshot_rename", (snap, name).encode_to_vec())
}

/// Appends moving a snapshot to the trash, under a random name. `EEXIST` if it is there, `EBUSY` if it is protected,
/// `EOPNOTSUPP` from OSDs before Ceph 13.
pub(crate) fn snapshot_trash_add(operation: Operation, snap: SnapId) -> Operation {
    operation.call_mut("rbd", "snapshot_trash_add", snap.encode_to_vec())
}

/// Appends limiting the number of snapshots; none for any number. `ERANGE` if there are more.
pub(crate) fn snapshot_set_limit(operation: Operation, limit: Option<u64>) -> Operation {
    operation.call_mut("rbd", "snapshot_set_limit", limit.unwrap_or(u64::MAX).encode_to_vec())
}

/// Appends protecting or unprotecting a snapshot.
pub(crate) fn set_protection_status(operation: Operation, snap: SnapId, protection: Protection) -> Operation {
    operation.call_mut("rbd", "set_protection_status", (snap, protection as u8).encode_to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hex_literal::hex;
    use proptest::prelude::*;

    #[test]
    fn namespaces_are_encoded_as_ceph_declares_them() {
        let group =
            SnapshotNamespace::Group { pool: PoolId(5), group_id: "g".into(), snapshot_id: "s".into() };
        assert_eq!(
            group.encode_to_vec(),
            hex!("0101 16000000 01000000 0500000000000000 01000000 67 01000000 73")
        );
        let trash = SnapshotNamespace::Trash { original_name: "s1".into(), original_kind: 0 };
        assert_eq!(trash.encode_to_vec(), hex!("0101 0e000000 02000000 02000000 7331 00000000"));
        assert_eq!(SnapshotNamespace::User.encode_to_vec(), hex!("0101 04000000 00000000"));
    }

    proptest! {
        #[test]
        fn namespaces_survive(
            kind in 0u32..6,
            name in "[a-z]{0,8}",
            uuids in prop::collection::btree_set("[a-f]{0,4}", 0..3),
            seqs in prop::collection::btree_map(any::<u64>(), any::<u64>(), 0..3),
            (state, complete, number) in any::<(u8, bool, u64)>(),
        ) {
            let namespace = match kind {
                0 => SnapshotNamespace::User,
                1 => SnapshotNamespace::Group {
                    pool: PoolId(1),
                    group_id: name.clone(),
                    snapshot_id: name,
                },
                2 => SnapshotNamespace::Trash { original_name: name, original_kind: 1 },
                3 => SnapshotNamespace::Mirror(MirrorSnapshot {
                    state,
                    complete,
                    peer_uuids: uuids,
                    primary_mirror_uuid: name,
                    primary_snap: SnapId(number),
                    last_copied_object: number,
                    snap_seqs: seqs,
                }),
                other => SnapshotNamespace::Other(other),
            };
            prop_assert_eq!(SnapshotNamespace::decode_from(&namespace.encode_to_vec()), Ok(namespace));
        }
    }
}
