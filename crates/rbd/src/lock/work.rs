//! How long a client that maintains the image may keep the exclusive lock though others want it.
//!
//! Most maintenance is short, and the others wait until it is done and told: else whoever asked for it would ask the
//! next owner for what has been done. What takes longer is interrupted. When the lock has come back it goes on, or
//! begins anew, and has twice the time: so it comes to its end, whatever the others do, and they get the lock in
//! bounded time. (librbd interrupts all maintenance at once, `cancel_async_requests` in
//! `src/librbd/exclusive_lock/PreReleaseRequest.cc`, and has it begun anew by whoever asked for it, again and again.)

use std::time::{Duration, Instant};

/// At first, and at most.
const PATIENCE: Duration = Duration::from_secs(2);
const MAX_PATIENCE: Duration = Duration::from_secs(16);

/// How long the others wait for maintenance.
#[derive(Debug)]
pub(super) struct Patience(Duration);

impl Default for Patience {
    fn default() -> Self {
        Self(PATIENCE)
    }
}

impl Patience {
    pub(super) fn time(&self) -> Duration {
        self.0
    }

    /// The maintenance was not done in that time.
    pub(super) fn grow(&mut self) {
        self.0 = (self.0 * 2).min(MAX_PATIENCE);
    }
}

/// The maintenance that this client is at.
#[derive(Debug, Default)]
pub(super) struct Work {
    under_way: usize,
    patience: Patience,
    /// When another client gets the lock that it waits for, at the latest.
    ends: Option<Instant>,
}

impl Work {
    pub(super) fn begin(&mut self) {
        self.under_way += 1;
    }

    /// One is over. Returns whether all are; if the lock is held then none of them was interrupted.
    pub(super) fn end(&mut self, is_held: bool) -> bool {
        self.under_way = self.under_way.saturating_sub(1);
        let all = self.under_way == 0;
        if all && is_held {
            self.patience = Patience::default();
        }
        all
    }

    /// Another client wants the lock. Returns until when it has to wait, if it has to.
    pub(super) fn defer(&mut self, now: Instant) -> Option<Instant> {
        let until =
            (self.under_way > 0).then(|| *self.ends.get_or_insert_with(|| now + self.patience.time()));
        until.filter(|until| now < *until)
    }

    /// The lock is being given up.
    pub(super) fn interrupt(&mut self) {
        let waited_for = self.ends.take().is_some();
        if waited_for && self.under_way > 0 {
            self.patience.grow();
        }
    }
}
