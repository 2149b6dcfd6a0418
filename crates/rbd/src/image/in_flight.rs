//! Which changes are under way, so that a flush can wait for those before it.
//!
//! Changes belong to the generation in which they began. A flush starts a new generation and waits until all
//! older ones are over; changes that begin meanwhile do not delay it.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

#[derive(Debug, Default)]
pub(crate) struct InFlight {
    generations: Mutex<Generations>,
    over: Notify,
}

#[derive(Debug, Default)]
struct Generations {
    /// Number of the generation at the front.
    oldest: u64,
    /// Changes under way, by generation; the last one is the current one.
    counts: VecDeque<usize>,
    closed: bool,
}

/// A change under way, until it is dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    in_flight: Arc<InFlight>,
    generation: u64,
}

impl InFlight {
    /// Counts one more change; none if there must not be any more.
    pub(crate) fn begin(self: &Arc<Self>) -> Option<Ticket> {
        let mut generations = self.generations.lock();
        if generations.closed {
            return None;
        }
        let generation = generations.current();
        if let Some(count) = generations.counts.back_mut() {
            *count += 1;
        }
        Some(Ticket { in_flight: self.clone(), generation })
    }

    /// Waits until all changes are over that began before.
    pub(crate) async fn barrier(&self) {
        let awaited = {
            let mut generations = self.generations.lock();
            let current = generations.current();
            if generations.counts.back() == Some(&0) {
                current
            } else {
                generations.counts.push_back(0);
                current + 1
            }
        };
        loop {
            let over = self.over.notified();
            tokio::pin!(over);
            // Registered before looking, so that no end is missed.
            over.as_mut().enable();
            if self.generations.lock().oldest >= awaited {
                return;
            }
            over.await;
        }
    }

    /// Lets no more changes begin.
    pub(crate) fn close(&self) {
        self.generations.lock().closed = true;
    }

    fn end(&self, generation: u64) {
        let mut generations = self.generations.lock();
        let place = usize::try_from(generation - generations.oldest).expect("few generations live at once");
        generations.counts[place] -= 1;
        let before = generations.oldest;
        generations.drop_finished();
        let advanced = generations.oldest != before;
        drop(generations);
        if advanced {
            self.over.notify_waiters();
        }
    }
}

impl Generations {
    /// The number of the current generation.
    fn current(&mut self) -> u64 {
        if self.counts.is_empty() {
            self.counts.push_back(0);
        }
        self.oldest + self.counts.len() as u64 - 1
    }

    fn drop_finished(&mut self) {
        while self.counts.len() > 1 && self.counts.front() == Some(&0) {
            self.counts.pop_front();
            self.oldest += 1;
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.in_flight.end(self.generation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn nothing_under_way_is_nothing_to_wait_for() {
        let in_flight = Arc::new(InFlight::default());
        assert!(in_flight.barrier().now_or_never().is_some());
        drop(in_flight.begin());
        assert!(in_flight.barrier().now_or_never().is_some());
    }

    #[test]
    fn a_barrier_waits_for_what_began_before_it_and_for_nothing_else() {
        let in_flight = Arc::new(InFlight::default());
        let (first, second) = (in_flight.begin().unwrap(), in_flight.begin().unwrap());
        let mut barrier = Box::pin(in_flight.barrier());
        assert!(barrier.as_mut().now_or_never().is_none());
        let later = in_flight.begin().unwrap();
        drop(second);
        assert!(barrier.as_mut().now_or_never().is_none());
        drop(first);
        assert!(barrier.now_or_never().is_some(), "the later change is still under way");
        drop(later);
    }

    #[test]
    fn an_older_barrier_is_over_before_a_younger_one() {
        let in_flight = Arc::new(InFlight::default());
        let first = in_flight.begin();
        let mut older = Box::pin(in_flight.barrier());
        assert!(older.as_mut().now_or_never().is_none());
        let second = in_flight.begin();
        let mut younger = Box::pin(in_flight.barrier());
        assert!(younger.as_mut().now_or_never().is_none());
        drop(second);
        assert!(younger.as_mut().now_or_never().is_none(), "the first one is under way");
        drop(first);
        assert!(older.now_or_never().is_some() && younger.now_or_never().is_some());
    }

    #[test]
    fn nothing_begins_after_the_end() {
        let in_flight = Arc::new(InFlight::default());
        in_flight.close();
        assert!(in_flight.begin().is_none());
    }
}
