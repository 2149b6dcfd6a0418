//! The fast path of every write: may it go, and how many are under way?

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// Set while mutations may begin; the other bits count those under way.
const OPEN: u64 = 1 << 63;

/// Counts mutations in flight, and holds new ones back while the lock is not there.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    word: AtomicU64,
    drained: Notify,
}

/// The right to change the image. The lock is not given up before it is dropped: when the last op of the
/// mutation is done.
#[derive(Debug)]
pub(crate) struct Mutation {
    gate: Arc<Gate>,
}

impl Gate {
    /// Counts one more mutation, if the gate is open.
    pub(crate) fn try_enter(self: &Arc<Self>) -> Option<Mutation> {
        self.word
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, |word| (word & OPEN != 0).then(|| word + 1))
            .ok()
            .map(|_| Mutation { gate: self.clone() })
    }

    pub(crate) fn open(&self) {
        self.word.fetch_or(OPEN, Ordering::Release);
    }

    pub(crate) fn close(&self) {
        self.word.fetch_and(!OPEN, Ordering::AcqRel);
    }

    /// Waits until a closed gate has nothing in flight.
    pub(crate) async fn drained(&self) {
        loop {
            let notified = self.drained.notified();
            if self.word.load(Ordering::Acquire) & !OPEN == 0 {
                return;
            }
            notified.await;
        }
    }
}

impl Drop for Mutation {
    fn drop(&mut self) {
        // Only whoever closed the gate waits, and it waits for exactly this value.
        if self.gate.word.fetch_sub(1, Ordering::Release) == 1 {
            self.gate.drained.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn a_closed_gate_lets_nothing_in_and_drains_when_all_are_out() {
        let gate = Arc::new(Gate::default());
        assert!(gate.try_enter().is_none(), "closed at first");
        gate.open();
        let (first, second) = (gate.try_enter().unwrap(), gate.try_enter().unwrap());
        gate.close();
        assert!(gate.try_enter().is_none());
        assert!(gate.drained().now_or_never().is_none());
        drop(first);
        assert!(gate.drained().now_or_never().is_none());
        drop(second);
        assert!(gate.drained().now_or_never().is_some());
    }
}
