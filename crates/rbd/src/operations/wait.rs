//! Telling the operator what an operation waits for.

use std::time::{Duration, Instant};

use tracing::warn;

use crate::image::core::Core;
use crate::watcher::Maintenance;
use crate::{LockOwner, ObjectStore};

/// How long an operation may wait before the log says for whom, and between two such lines.
pub(super) const MENTION_AFTER: Duration = Duration::from_secs(5);

/// An operation that depends on the owner of the exclusive lock.
#[derive(Debug)]
pub(super) struct Wait {
    began: Instant,
    mention: Instant,
}

impl Wait {
    pub(super) fn new() -> Self {
        let began = Instant::now();
        Self { began, mention: began + MENTION_AFTER }
    }

    /// The owner has been heard of: it is at work.
    pub(super) fn progressed(&mut self) {
        self.mention = Instant::now() + MENTION_AFTER;
    }

    /// Logs whom the operation waits for, if it is time to.
    pub(super) fn mention<S: ObjectStore>(
        &mut self,
        core: &Core<S>,
        request: &Maintenance,
        owner: &LockOwner,
    ) {
        let now = Instant::now();
        if now < self.mention {
            return;
        }
        self.mention = now + MENTION_AFTER;
        let waited_secs = now.saturating_duration_since(self.began).as_secs();
        let (pool, image) = (core.store.pool_name(), core.display_name());
        let removal = owner.removal(&format!("{pool}/{image}"));
        warn!(
            image, op = %request.op(), %owner, waited_secs,
            "still waiting for the owner of the exclusive lock, whose part it is; if it is dead the lock is taken over \
             within 30 s, and if it hangs `{removal}` shuts it out"
        );
    }
}
