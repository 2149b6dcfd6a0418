//! Maintenance that must not meet changes of contents holds them back for a while.
//!
//! ```text
//! change       lock held ----> [not paused] ----> operations on objects ----> over
//! maintenance  lock held ----> pause: no more begin, those under way end ----> work ----> go on
//! ```
//! Whoever waits here has the exclusive lock already, and keeps it: so has the maintenance, and the lock is not given
//! up between the two.
//!
//! Ceph: `ImageDispatcher::block_writes` in `src/librbd/io/ImageDispatcher.cc`.

use std::sync::Arc;

use tokio::sync::{MutexGuard, Notify};

use crate::lock::{Gate, Mutation};

#[derive(Debug)]
pub(crate) struct Pauses {
    gate: Arc<Gate>,
    /// Held by whoever pauses: two may want to.
    turn: tokio::sync::Mutex<()>,
    over: Notify,
}

/// Nothing changes contents as long as it lives.
#[derive(Debug)]
pub(crate) struct Paused<'a> {
    pauses: &'a Pauses,
    _turn: MutexGuard<'a, ()>,
}

impl Default for Pauses {
    fn default() -> Self {
        let gate = Arc::new(Gate::default());
        gate.open();
        Self { gate, turn: tokio::sync::Mutex::default(), over: Notify::new() }
    }
}

impl Pauses {
    /// Counts one more change, when there is no pause.
    pub(crate) async fn enter(&self) -> Mutation {
        if let Some(change) = self.gate.try_enter() {
            return change;
        }
        loop {
            let over = self.over.notified();
            tokio::pin!(over);
            // Registered before looking, so that no end is missed.
            over.as_mut().enable();
            if let Some(change) = self.gate.try_enter() {
                return change;
            }
            over.await;
        }
    }

    /// Lets no more changes begin, and waits for those under way.
    pub(crate) async fn pause(&self) -> Paused<'_> {
        let turn = self.turn.lock().await;
        self.gate.close();
        // From here on it ends when it is dropped.
        let paused = Paused { pauses: self, _turn: turn };
        self.gate.drained().await;
        paused
    }
}

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        self.pauses.gate.open();
        self.pauses.over.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn a_pause_begins_when_all_changes_are_over_and_lets_none_begin() {
        let pauses = Pauses::default();
        let change = pauses.enter().now_or_never().unwrap();
        let mut pause = Box::pin(pauses.pause());
        assert!(pause.as_mut().now_or_never().is_none());
        let mut later = Box::pin(pauses.enter());
        assert!(later.as_mut().now_or_never().is_none());
        drop(change);
        let paused = pause.as_mut().now_or_never().unwrap();
        assert!(later.as_mut().now_or_never().is_none());
        drop(paused);
        assert!(later.now_or_never().is_some());
    }

    #[test]
    fn a_pause_that_nobody_waits_for_any_more_is_over() {
        let pauses = Pauses::default();
        let change = pauses.enter().now_or_never().unwrap();
        assert!(pauses.pause().now_or_never().is_none(), "dropped while it waits");
        assert!(pauses.enter().now_or_never().is_some());
        drop(change);
    }

    #[test]
    fn pauses_come_one_after_the_other() {
        let pauses = Pauses::default();
        let first = pauses.pause().now_or_never().unwrap();
        let mut second = Box::pin(pauses.pause());
        assert!(second.as_mut().now_or_never().is_none());
        drop(first);
        let second = second.now_or_never().unwrap();
        assert!(pauses.enter().now_or_never().is_none());
        drop(second);
        assert!(pauses.enter().now_or_never().is_some());
    }
}
