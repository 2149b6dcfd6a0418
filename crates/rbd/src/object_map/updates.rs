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
