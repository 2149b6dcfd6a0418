//! Sets of snapshots as intervals.

use std::collections::BTreeMap;

use ceph_codec::{Decode, DecodeError, Reader, SnapId};

/// A set of snapshots, as intervals that do not touch. Ceph: `snap_interval_set_t` in `src/osd/osd_types.h`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SnapIntervals(BTreeMap<u64, u64>);

impl SnapIntervals {
    /// Whether `snap` is in the set.
    #[must_use]
    pub fn contains(&self, snap: SnapId) -> bool {
        let before = self.0.range(..=snap.0).next_back();
        before.is_some_and(|(&start, &len)| snap.0 - start < len)
    }

    /// The intervals as first snapshot and length, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (SnapId, u64)> + '_ {
        self.0.iter().map(|(&start, &len)| (SnapId(start), len))
    }

    /// Whether the set has no snapshot.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Decode for SnapIntervals {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        BTreeMap::decode(r).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_holds_its_start_and_not_its_end() {
        let set = SnapIntervals(BTreeMap::from([(3, 2), (10, 1)]));
        let members: Vec<u64> = (0..20).filter(|&s| set.contains(SnapId(s))).collect();
        assert_eq!(members, [3, 4, 10]);
    }
}
