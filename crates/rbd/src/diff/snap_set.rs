//! What changed in one object between two snapshots, by what the OSD keeps of it.
//!
//! ```text
//!  snapshots     2    3    5   head
//!  contents    [ clone 3 ][ clone 5 ][ live ]    each knows which bytes it shares with the next one
//! ```
//! A change that was undone later still counts: only contents that are shared are known to be the same.
//!
//! What is past the end of an object that grew and was cut again reads as zeroes, and did so at the start. It counts as
//! data for the `rbd` of Ceph up to 17, and not since then.
//!
//! Ceph: `calc_snap_set_diff` in `src/librados/snap_set_diff.cc`, `ObjectListSnapsRequest` in
//! `src/librbd/io/ObjectRequest.cc`.

use std::ops::Range;

use ceph_codec::SnapId;
use rados::SnapSet;
use rangemap::{RangeMap, RangeSet};

use super::{Kind, Span};

/// How an object's contents at the end of a span differ from those at its start.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Difference {
    /// Bytes of the object that may differ.
    changed: RangeSet<u64>,
    /// Bytes of the object at the end; none if it does not exist then.
    end_size: Option<u64>,
}

/// What a diff counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counting {
    /// A change of any byte counts for the whole object.
    pub(super) whole_object: bool,
    /// What became zeroes counts.
    pub(super) zeroes: bool,
    /// What is past the end of an object that grew and was cut again counts as data.
    pub(super) past_cuts: bool,
}

/// The parts of `wanted` that changed during a span, in bytes of the object.
pub(super) fn changes(
    set: &SnapSet,
    span: Span,
    wanted: &RangeSet<u64>,
    object_size: u64,
    counting: Counting,
) -> RangeMap<u64, Kind> {
    let whole = || ranges(0..object_size);
    // Nothing is known about contents that no snapshot owns up to: as if all had changed.
    let unknown = || Difference { changed: whole(), end_size: Some(object_size) };

    let beginning = Span { from: SnapId(0), to: span.from };
    let start_size = if span.from.0 == 0 {
        0
    } else {
        difference(set, beginning, counting.past_cuts).unwrap_or_else(unknown).end_size.unwrap_or(0)
    };
    let mut difference = difference(set, span, counting.past_cuts).unwrap_or_else(unknown);
    if counting.whole_object && !difference.changed.is_empty() {
        difference.changed = whole();
    }
    let mut changed = intersection(wanted, &difference.changed);
    let mut zeroed = RangeSet::new();
    let end_size = difference.end_size.unwrap_or(0);
    if end_size < start_size {
        zeroed = intersection(wanted, &ranges(end_size..start_size));
        zeroed.iter().for_each(|range| changed.remove(range.clone()));
    }
    if difference.end_size.is_none() {
        zeroed.extend(std::mem::take(&mut changed));
    }
    let mut kinds = RangeMap::new();
    kinds.extend(changed.into_iter().map(|range| (range, Kind::Data)));
    if counting.zeroes {
        kinds.extend(zeroed.into_iter().map(|range| (range, Kind::Zero)));
    }
    kinds
}

/// None if that cannot be told.
fn difference(set: &SnapSet, Span { from, to }: Span, past_cuts: bool) -> Option<Difference> {
    let mut changed = RangeSet::new();
    let mut start_size = None;
    let mut clones = set.clones.iter().peekable();
    while let Some(clone) = clones.next() {
        // The snapshots that see these contents. The live object is seen by all after the last one it knows of.
        let seen = if clone.id == SnapId::HEAD {
            SnapId(set.seq.0.saturating_add(1))..=SnapId::HEAD
        } else {
            *clone.snaps.first()?..=*clone.snaps.last()?
        };
        if *seen.end() < from {
            continue;
        }
        let start_size = *start_size.get_or_insert_with(|| {
            if from < *seen.start() {
                // It did not exist at the start.
                insert(&mut changed, 0..clone.size);
                0
            } else {
                clone.size
            }
        });
        if to < *seen.start() {
            break;
        }
        if to <= *seen.end() {
            return Some(Difference { changed, end_size: Some(clone.size) });
        }
        let Some(next) = clones.peek() else { break };
        let mut end = clone.size.max(next.size);
        if next.size < clone.size && clone.size > start_size && !past_cuts {
            end = next.size.max(start_size);
            remove(&mut changed, end..clone.size);
        }
        let mut differs = ranges(0..end);
        for &(offset, len) in &clone.overlap {
            remove(&mut differs, offset..offset.saturating_add(len));
        }
        changed.extend(differs);
    }
    // It does not exist at the end.
    Some(Difference { changed: ranges(0..start_size.unwrap_or(0)), end_size: None })
}

/// A set of one range, which may be empty.
pub(super) fn ranges(range: Range<u64>) -> RangeSet<u64> {
    std::iter::once(range).filter(|range| !range.is_empty()).collect()
}

/// Inserts a range that may be empty.
pub(super) fn insert(set: &mut RangeSet<u64>, range: Range<u64>) {
    if !range.is_empty() {
        set.insert(range);
    }
}

fn remove(set: &mut RangeSet<u64>, range: Range<u64>) {
    if !range.is_empty() {
        set.remove(range);
    }
}

pub(super) fn intersection(a: &RangeSet<u64>, b: &RangeSet<u64>) -> RangeSet<u64> {
    a.intersection(b).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rados::CloneInfo;

    const EXACT: Counting = Counting { whole_object: false, zeroes: true, past_cuts: false };

    fn clone(id: u64, snaps: &[u64], size: u64, overlap: &[(u64, u64)]) -> CloneInfo {
        CloneInfo {
            id: SnapId(id),
            snaps: snaps.iter().map(|snap| SnapId(*snap)).collect(),
            overlap: overlap.to_vec(),
            size,
        }
    }

    fn head(size: u64) -> CloneInfo {
        clone(SnapId::HEAD.0, &[], size, &[])
    }

    fn set(seq: u64, clones: &[CloneInfo]) -> SnapSet {
        SnapSet { seq: SnapId(seq), clones: clones.to_vec() }
    }

    fn found(set: &SnapSet, from: u64, to: u64, counting: Counting) -> Vec<(u64, u64, Kind)> {
        let wanted = ranges(0..100);
        changes(set, Span { from: SnapId(from), to: SnapId(to) }, &wanted, 100, counting)
            .into_iter()
            .map(|(range, kind)| (range.start, range.end, kind))
            .collect()
    }

    const HEAD: u64 = SnapId::HEAD.0;

    #[test]
    fn all_of_an_object_has_changed_since_the_beginning_of_time() {
        let set = set(0, &[head(60)]);
        assert_eq!(found(&set, 0, HEAD, EXACT), [(0, 60, Kind::Data)]);
        assert_eq!(found(&set, 0, 3, EXACT), [(0, 60, Kind::Data)], "it has not been written since");
    }

    #[test]
    fn what_a_clone_shares_with_the_next_has_not_changed() {
        let set = set(5, &[clone(5, &[3, 5], 60, &[(0, 20), (30, 30)]), head(60)]);
        assert_eq!(found(&set, 3, HEAD, EXACT), [(20, 30, Kind::Data)]);
        assert_eq!(found(&set, 3, 5, EXACT), []);
        assert_eq!(found(&set, 2, 5, EXACT), [(0, 60, Kind::Data)], "it did not exist then");
        let whole = Counting { whole_object: true, ..EXACT };
        assert_eq!(found(&set, 3, HEAD, whole), [(0, 100, Kind::Data)]);
    }

    #[test]
    fn what_was_cut_off_is_zeroes() {
        let set = set(5, &[clone(5, &[5], 60, &[(0, 20)]), head(20)]);
        assert_eq!(found(&set, 5, HEAD, EXACT), [(20, 60, Kind::Zero)]);
        assert_eq!(found(&set, 5, HEAD, Counting { zeroes: false, ..EXACT }), []);
    }

    #[test]
    fn what_an_object_was_longer_for_a_while_counts_only_before_reef() {
        let old = Counting { past_cuts: true, ..EXACT };
        let set = set(6, &[clone(5, &[5], 10, &[(0, 10)]), clone(6, &[6], 60, &[(0, 20)]), head(20)]);
        assert_eq!(found(&set, 5, HEAD, EXACT), [(10, 20, Kind::Data)]);
        assert_eq!(found(&set, 5, HEAD, old), [(10, 60, Kind::Data)]);
        assert_eq!(found(&set, 0, HEAD, EXACT), [(0, 20, Kind::Data)]);
        assert_eq!(found(&set, 0, HEAD, old), [(0, 60, Kind::Data)]);
        assert_eq!(found(&set, 6, HEAD, EXACT), [(20, 60, Kind::Zero)], "it was as long at the start");
    }

    #[test]
    fn a_removed_object_is_zeroes() {
        let set = set(5, &[clone(5, &[5], 60, &[])]);
        assert_eq!(found(&set, 5, HEAD, EXACT), [(0, 60, Kind::Zero)]);
        assert_eq!(found(&set, 0, HEAD, EXACT), []);
    }

    #[test]
    fn contents_without_snapshots_count_as_changed() {
        let set = set(5, &[clone(5, &[], 60, &[]), head(20)]);
        assert_eq!(found(&set, 4, HEAD, EXACT), [(0, 100, Kind::Data)]);
    }

    /// A short history of an object: contents at each snapshot, `None` where it did not exist.
    type History = Vec<Option<Vec<u8>>>;

    fn any_history() -> impl Strategy<Value = History> {
        prop::collection::vec(prop::option::of(prop::collection::vec(0u8..3, 0..8)), 1..6)
    }

    /// What an OSD keeps of it, which shares what happens to be the same.
    fn kept(history: &History) -> SnapSet {
        let mut clones = Vec::new();
        for (at, contents) in history.iter().enumerate() {
            let Some(contents) = contents else { continue };
            let snap = at as u64 + 1;
            let last = at + 1 == history.len();
            let next = history.get(at + 1).and_then(Option::as_ref);
            let overlap: Vec<(u64, u64)> = contents
                .iter()
                .zip(next.unwrap_or(&Vec::new()))
                .enumerate()
                .filter(|(_, (a, b))| a == b)
                .map(|(at, _)| (at as u64, 1))
                .collect();
            let size = contents.len() as u64;
            clones.push(if last { head(size) } else { clone(snap, &[snap], size, &overlap) });
        }
        set(history.len() as u64 - 1, &clones)
    }

    proptest! {
        /// Whatever differs is found, and what is not data now is found as zeroes.
        #[test]
        fn no_difference_is_missed(history in any_history(), from in 0usize..6, to in 0usize..6, past_cuts: bool) {
            let to = to.min(history.len() - 1);
            let from = from.min(to);
            let id = |at: usize| if at + 1 == history.len() { HEAD } else { at as u64 + 1 };
            let before = from.checked_sub(1).and_then(|at| history[at].as_ref());
            let span = (from as u64, id(to));
            if span.0 >= span.1 {
                return Ok(());
            }
            let kinds: RangeMap<u64, Kind> =
                found(&kept(&history), span.0, span.1, Counting { past_cuts, ..EXACT }).into_iter().map(|(a, b, kind)| (a..b, kind)).collect();
            let byte = |contents: Option<&Vec<u8>>, at: usize| contents.and_then(|c| c.get(at).copied()).unwrap_or(0);
            for at in 0..10 {
                let (old, new) = (byte(before, at), byte(history[to].as_ref(), at));
                let kind = kinds.get(&(at as u64));
                prop_assert!(old == new || kind.is_some(), "byte {at} of {history:?}");
                prop_assert!(history[to].is_some() || kind != Some(&Kind::Data), "byte {at} is not there");
            }
        }
    }
}
