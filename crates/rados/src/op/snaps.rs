//! Snapshots: what a write has to preserve, and what an object has preserved.

use std::sync::Arc;

use ceph_codec::{Decode, DecodeError, Reader, SnapId};

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
    /// The context of these snapshots, in any order.
    #[must_use]
    pub fn of(snaps: impl IntoIterator<Item = SnapId>) -> Self {
        let mut snaps: Vec<SnapId> = snaps.into_iter().collect();
        snaps.sort_unstable_by(|a, b| b.cmp(a));
        snaps.dedup();
        Self { seq: snaps.first().copied().unwrap_or_default(), snaps: snaps.into() }
    }

    /// Whether an OSD would accept it: strictly descending, none above `seq`, which is a snapshot's.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.seq < SnapId::HEAD
            && self.snaps.first().is_none_or(|newest| *newest <= self.seq)
            && self.snaps.windows(2).all(|pair| pair[0] > pair[1])
            && self.snaps.last().is_none_or(|oldest| oldest.0 > 0)
    }
}

/// The contents of an object that are kept for snapshots.
///
/// Ceph: `obj_list_snap_response_t` in `src/osd/osd_types.h`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapSet {
    /// The newest snapshot that the object knows of.
    pub seq: SnapId,
    /// Oldest first; the live object, if there is one, is the last.
    pub clones: Vec<CloneInfo>,
}

/// One version of an object's contents. Ceph: `clone_info` in `src/osd/osd_types.h`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloneInfo {
    /// Names it; [`SnapId::HEAD`] for the live object.
    pub id: SnapId,
    /// The snapshots that see these contents, oldest first.
    pub snaps: Vec<SnapId>,
    /// Offset and length, in bytes, of what is the same in the next clone.
    pub overlap: Vec<(u64, u64)>,
    /// Bytes.
    pub size: u64,
}

impl SnapSet {
    /// What a reader of `snap` sees; `None` if the object did not exist then.
    ///
    /// Ceph: `PrimaryLogPG::find_object_context`.
    #[must_use]
    pub fn seen_by(&self, snap: SnapId) -> Option<&CloneInfo> {
        let clone = self.clones.iter().find(|clone| clone.id >= snap)?;
        let sees = if clone.id == SnapId::HEAD { snap > self.seq } else { clone.snaps.contains(&snap) };
        sees.then_some(clone)
    }
}

impl Decode for SnapSet {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.versioned("obj_list_snap_response_t", 2, |r, version| {
            let clones = r.seq("clones", CloneInfo::decode)?;
            let seq = if version >= 2 { SnapId::decode(r)? } else { SnapId::HEAD };
            Ok(Self { seq, clones })
        })
    }
}

impl Decode for CloneInfo {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.versioned("clone_info", 1, |r, _| {
            Ok(Self {
                id: SnapId::decode(r)?,
                snaps: r.seq("snapshots of a clone", SnapId::decode)?,
                overlap: r.seq("overlap of a clone", <(u64, u64)>::decode)?,
                size: u64::decode(r)?,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(seq: u64, snaps: &[u64]) -> SnapContext {
        SnapContext { seq: SnapId(seq), snaps: snaps.iter().copied().map(SnapId).collect() }
    }

    #[test]
    fn a_snap_context_descends_from_its_newest_snapshot() {
        assert!(context(0, &[]).is_valid());
        assert!(context(9, &[7, 3]).is_valid(), "9 is removed");
        assert!(!context(6, &[7, 3]).is_valid(), "newer than the newest");
        assert!(!context(9, &[3, 7]).is_valid(), "ascending");
        assert!(!context(9, &[3, 3]).is_valid(), "twice");
        assert!(!context(9, &[3, 0]).is_valid(), "0 is no snapshot");
        assert!(!context(SnapId::HEAD.0, &[]).is_valid(), "no snapshot either");
        assert_eq!(SnapContext::of([3, 9, 3, 7].map(SnapId)), context(9, &[9, 7, 3]));
    }

    #[test]
    fn a_snapshot_sees_the_clone_that_was_made_for_it() {
        let clone = |id, snaps: &[u64]| CloneInfo {
            id: SnapId(id),
            snaps: snaps.iter().copied().map(SnapId).collect(),
            overlap: vec![],
            size: id,
        };
        let set = SnapSet { seq: SnapId(5), clones: vec![clone(3, &[2, 3]), clone(SnapId::HEAD.0, &[])] };
        let seen = |snap| set.seen_by(SnapId(snap)).map(|clone| clone.id);
        assert_eq!(seen(2), Some(SnapId(3)));
        assert_eq!(seen(1), None, "removed, or older than the object");
        assert_eq!(seen(5), None, "the live object was created later");
        assert_eq!(seen(6), Some(SnapId::HEAD), "nothing was written since");
    }
}
