//! Which updates of the object map may be sent now, which have to wait, and which become one. No I/O.
//!
//! Two updates of one object must reach the OSD in order, so an update waits for those before it that touch
//! the same objects. All others go side by side, up to a limit; those that wait for the limit and fit together
//! go as one.

use std::collections::VecDeque;
use std::ops::Range;

use super::ObjectState;

/// Updates on their way at the same time. They all change one object, so more would only queue at its OSD.
const MAX_IN_FLIGHT: usize = 8;

/// The most objects in one update, so that an OSD is not busy for long. Ceph: `MAX_OBJECTS_PER_UPDATE` in
/// `src/librbd/object_map/UpdateRequest.cc`.
pub(super) const MAX_OBJECTS_PER_UPDATE: u64 = 256 << 10;

/// A change of the states of neighbouring objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Update {
    pub(super) objects: Range<u64>,
    pub(super) new: ObjectState,
    pub(super) expected: Option<ObjectState>,
}

impl Update {
    fn overlaps(&self, objects: &Range<u64>) -> bool {
        self.objects.start < objects.end && objects.start < self.objects.end
    }

    /// Takes `other` in, if both are as one.
    fn absorb(&mut self, other: &Self) -> bool {
        let touches = self.objects.start <= other.objects.end && other.objects.start <= self.objects.end;
        let union = self.objects.start.min(other.objects.start)..self.objects.end.max(other.objects.end);
        let fits = touches
            && (self.new, self.expected) == (other.new, other.expected)
            && union.end - union.start <= MAX_OBJECTS_PER_UPDATE;
        if fits {
            self.objects = union;
        }
        fits
    }
}

/// The updates of one object map, with what to tell to those who wait for them.
#[derive(Debug)]
pub(super) struct Updates<W> {
    in_flight: Vec<Range<u64>>,
    waiting: VecDeque<(Update, W)>,
}

impl<W> Default for Updates<W> {
    fn default() -> Self {
        Self { in_flight: Vec::new(), waiting: VecDeque::new() }
    }
}

impl<W> Updates<W> {
    pub(super) fn push(&mut self, update: Update, waiter: W) {
        self.waiting.push_back((update, waiter));
    }

    /// The next update to send, with all who wait for it. To be asked until it has none.
    pub(super) fn next(&mut self) -> Option<(Update, Vec<W>)> {
        if self.in_flight.len() >= MAX_IN_FLIGHT {
            return None;
        }
        let index = (0..self.waiting.len()).find(|&index| self.is_free(index))?;
        let (mut update, waiter) = self.waiting.remove(index)?;
        let mut waiters = vec![waiter];
        let mut index = 0;
        while index < self.waiting.len() {
            if self.is_free(index) && update.absorb(&self.waiting[index].0) {
                waiters.extend(self.waiting.remove(index).map(|(_, waiter)| waiter));
                index = 0; // it has grown, so what did not fit before may fit now
            } else {
                index += 1;
            }
        }
        self.in_flight.push(update.objects.clone());
        Some((update, waiters))
    }

    /// An update that [`next`](Self::next) gave out is done.
    pub(super) fn done(&mut self, objects: &Range<u64>) {
        if let Some(index) = self.in_flight.iter().position(|range| range == objects) {
            self.in_flight.swap_remove(index);
        }
    }

    /// Whether an update of any of the objects is not done yet.
    pub(super) fn concerns(&self, objects: &Range<u64>) -> bool {
        self.in_flight.iter().any(|range| range.start < objects.end && objects.start < range.end)
            || self.waiting.iter().any(|(update, _)| update.overlaps(objects))
    }

    /// Whether nothing before it touches its objects.
    fn is_free(&self, index: usize) -> bool {
        let objects = &self.waiting[index].0.objects;
        self.in_flight.iter().all(|range| range.start >= objects.end || objects.start >= range.end)
            && self.waiting.range(..index).all(|(earlier, _)| !earlier.overlaps(objects))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ObjectState::{Exists, Nonexistent, Pending};
    use proptest::prelude::*;

    fn set(objects: Range<u64>, new: ObjectState) -> Update {
        Update { objects, new, expected: None }
    }

    #[test]
    fn updates_of_one_object_go_one_after_the_other() {
        let mut updates = Updates::default();
        updates.push(set(3..4, Exists), 'a');
        assert_eq!(updates.next(), Some((set(3..4, Exists), vec!['a'])));
        updates.push(set(3..4, Pending), 'b');
        updates.push(set(3..4, Exists), 'c');
        updates.push(set(9..10, Exists), 'd');
        assert_eq!(updates.next(), Some((set(9..10, Exists), vec!['d'])));
        assert_eq!(updates.next(), None);
        updates.done(&(3..4));
        assert_eq!(updates.next(), Some((set(3..4, Pending), vec!['b'])), "and not merged with a later one");
        assert_eq!(updates.next(), None);
    }

    #[test]
    fn neighbours_that_wait_become_one() {
        let mut updates = Updates::default();
        for no in [2, 0, 5, 1, 4, 3] {
            updates.push(set(no..no + 1, Exists), no);
        }
        let (update, mut waiters) = updates.next().unwrap();
        waiters.sort_unstable();
        assert_eq!((update, waiters), (set(0..6, Exists), vec![0, 1, 2, 3, 4, 5]));
    }

    #[test]
    fn only_so_many_are_in_flight() {
        let mut updates = Updates::default();
        for no in 0..20 {
            updates.push(set(no * 2..no * 2 + 1, Exists), no);
        }
        let sent: Vec<_> = std::iter::from_fn(|| updates.next()).collect();
        assert_eq!(sent.len(), MAX_IN_FLIGHT);
        updates.done(&sent[3].0.objects);
        assert!(updates.next().is_some());
    }

    proptest! {
        /// Whatever is merged and in whichever order updates are done: every object sees those that touch it in
        /// the order in which they were asked for, and every waiter is told once.
        #[test]
        fn each_object_sees_its_updates_in_order(
            asked in prop::collection::vec((0u64..12, 1u64..4, 0u8..3), 1..40),
            picks in prop::collection::vec(any::<prop::sample::Index>(), 200),
        ) {
            let mut updates = Updates::default();
            for (id, &(start, len, new)) in asked.iter().enumerate() {
                updates.push(set(start..start + len, [Nonexistent, Exists, Pending][usize::from(new)]), id);
            }
            let mut in_flight = Vec::new();
            let mut told = Vec::new();
            for pick in picks {
                in_flight.extend(std::iter::from_fn(|| updates.next()));
                if in_flight.is_empty() {
                    break;
                }
                let (update, waiters): (Update, Vec<usize>) = in_flight.swap_remove(pick.index(in_flight.len()));
                for other in &in_flight {
                    prop_assert!(!update.overlaps(&other.0.objects), "two of one object in flight");
                }
                let mut waiters = waiters;
                waiters.sort_unstable();
                told.extend(waiters);
                updates.done(&update.objects);
            }
            for object in 0..16 {
                let touching = |id: &usize| (asked[*id].0..asked[*id].0 + asked[*id].1).contains(&object);
                let order: Vec<_> = told.iter().copied().filter(touching).collect();
                prop_assert!(order.is_sorted(), "object {object}: {order:?}");
            }
            told.sort_unstable();
            prop_assert_eq!(told, (0..asked.len()).collect::<Vec<_>>());
        }
    }
}
