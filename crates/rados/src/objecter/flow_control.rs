//! Flow control: how much may be under way to OSDs at a time.
//!
//! What an operation holds it gives back when it ends, and also while it is parked: operations that wait for a
//! full pool or a placement group without a primary must not keep those away that could run.
//!
//! Ceph: `Objecter::take_op_budget` and `calc_op_budget`; there parked operations keep what they hold.

use super::{Completion, Objecter, PendingOp};

/// Limits of what one client instance has under way to OSDs. Operations beyond them wait inside the client, in
/// the order in which they were submitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Operations. Ceph: `objecter_inflight_ops`.
    pub ops: u64,
    /// Bytes that they write or may read. One operation larger than that runs when nothing else does.
    /// Ceph: `objecter_inflight_op_bytes`.
    pub bytes: u64,
}

impl Default for Limits {
    /// Ceph's defaults: 1024 operations, 100 MiB.
    fn default() -> Self {
        Self { ops: 1024, bytes: 100 << 20 }
    }
}

/// What some operations amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Load {
    pub(crate) ops: u64,
    pub(crate) bytes: u64,
}

impl Load {
    pub(crate) fn add(&mut self, bytes: u64) {
        self.ops += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }

    pub(crate) fn remove(&mut self, bytes: u64) {
        self.ops = self.ops.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// Whether an operation of so many bytes fits in beside it.
    pub(crate) fn has_room_for(&self, bytes: u64, limits: &Limits) -> bool {
        let nothing_else = self.ops == 0;
        nothing_else
            || (self.ops < limits.ops && self.bytes.checked_add(bytes).is_some_and(|sum| sum <= limits.bytes))
    }
}

impl<C> Objecter<C> {
    /// Changes the limits of flow control.
    pub(crate) fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
        self.admit_waiting();
    }

    /// Whether an operation submitted now would not have to wait for others to end, wherever they wait.
    pub(crate) fn has_room(&self) -> bool {
        self.unfinished.has_room_for(0, &self.limits)
    }

    /// Whether there is room for an operation, which then counts. Those submitted before it come first.
    pub(super) fn admit(&mut self, op: &mut PendingOp<C>) -> bool {
        let Some(cost) = op.cost.filter(|_| !op.admitted) else { return true };
        let is_next = self.waiting.first_key_value().is_none_or(|(first, _)| op.tid < *first);
        if !is_next || !self.admitted.has_room_for(cost, &self.limits) {
            return false;
        }
        self.admitted.add(cost);
        op.admitted = true;
        true
    }

    /// A parked operation does not count.
    pub(super) fn give_back(&mut self, op: &mut PendingOp<C>) {
        if std::mem::take(&mut op.admitted) {
            self.admitted.remove(op.cost.unwrap_or(0));
        }
    }

    /// Sends those that waited for room, as far as there is some.
    pub(super) fn admit_waiting(&mut self) {
        while let Some(entry) = self.waiting.first_entry() {
            let cost = entry.get().cost.unwrap_or(0);
            if !self.admitted.has_room_for(cost, &self.limits) {
                return;
            }
            let op = entry.remove();
            self.target_and_send(op);
        }
    }

    /// An operation is not followed any more.
    pub(super) fn let_go(&mut self, op: &PendingOp<C>) {
        if matches!(op.completion, Completion::Caller(_)) {
            self.unfinished.remove(op.cost.unwrap_or(0));
        }
        if op.admitted {
            self.admitted.remove(op.cost.unwrap_or(0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_larger_than_everything_runs_alone() {
        let limits = Limits { ops: 2, bytes: 10 };
        let mut load = Load::default();
        assert!(load.has_room_for(u64::MAX, &limits));
        load.add(u64::MAX);
        assert!(!load.has_room_for(0, &limits) && !load.has_room_for(1, &limits));
        load.remove(u64::MAX);
        load.add(10);
        assert!(load.has_room_for(0, &limits) && !load.has_room_for(1, &limits));
        load.add(0);
        assert!(!load.has_room_for(0, &limits), "two operations are all");
    }
}
