//! Flow control: how much may be under way to OSDs at a time.
//!
//! Only what was sent and not answered counts. Operations that wait for a full pool, a placement group without a
//! primary, a connection or the end of a backoff must not keep those away that could run.
//!
//! Ceph: `Objecter::take_op_budget` and `calc_op_budget`; there everything counts until it ends.

use super::{Objecter, PendingOp};

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

/// What is under way, and whether more may be.
#[derive(Debug, Default)]
pub(super) struct FlowControl {
    pub(super) limits: Limits,
    /// What was sent and not answered.
    pub(super) sent: Load,
    /// All operations that have not ended, wherever they wait.
    pub(super) unfinished: Load,
}

/// What some operations amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Load {
    pub(super) ops: u64,
    pub(super) bytes: u64,
}

impl Load {
    pub(super) fn add(&mut self, bytes: u64) {
        self.ops += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }

    fn remove(&mut self, bytes: u64) {
        self.ops = self.ops.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// Whether an operation of so many bytes fits in beside it.
    pub(super) fn has_room_for(&self, bytes: u64, limits: &Limits) -> bool {
        let nothing_else = self.ops == 0;
        nothing_else
            || (self.ops < limits.ops && self.bytes.checked_add(bytes).is_some_and(|sum| sum <= limits.bytes))
    }
}

impl FlowControl {
    /// An operation was submitted.
    pub(super) fn begin(&mut self, cost: Option<u64>) {
        self.unfinished.add(cost.unwrap_or(0));
    }

    /// Whether an operation may be sent now, which then counts. Only that which `is_next` may, so that none
    /// overtakes an older one.
    pub(super) fn admit<C>(&mut self, op: &mut PendingOp<C>, is_next: bool) -> bool {
        if !op.with_osd
            && let Some(cost) = op.cost
        {
            if !is_next || !self.sent.has_room_for(cost, &self.limits) {
                return false;
            }
            self.sent.add(cost);
        }
        op.with_osd = true;
        true
    }

    /// An operation is not with its OSD any more.
    pub(super) fn give_back<C>(&mut self, op: &mut PendingOp<C>) {
        if std::mem::take(&mut op.with_osd)
            && let Some(cost) = op.cost
        {
            self.sent.remove(cost);
        }
    }
}

impl<C> Objecter<C> {
    /// Changes the limits of flow control.
    pub(crate) fn set_limits(&mut self, limits: Limits) {
        self.flow.limits = limits;
        self.admit_waiting();
    }

    /// Whether an operation submitted now would not have to wait for others to end, wherever they wait.
    pub(crate) fn has_room(&self) -> bool {
        self.flow.unfinished.has_room_for(0, &self.flow.limits)
    }

    /// Whether something waits for an OSD to answer others, or for [`widen`](Self::widen).
    pub(crate) fn is_holding(&self) -> bool {
        !self.holding.is_empty()
    }

    /// Sends some of what waits for an OSD to answer others. To be called some times a second while there is
    /// any.
    pub(crate) fn widen(&mut self) {
        for osd in &self.holding {
            if let Some(session) = self.sessions.get_mut(osd) {
                session.window.widen();
            }
        }
        self.admit_waiting();
    }

    /// Sends those that waited for room, with an OSD or altogether, as far as there is some.
    pub(super) fn admit_waiting(&mut self) {
        for osd in std::mem::take(&mut self.holding) {
            self.fill_window(osd);
        }
        while let Some(entry) = self.waiting.first_entry() {
            let cost = entry.get().cost.unwrap_or(0);
            if !self.flow.sent.has_room_for(cost, &self.flow.limits) {
                return;
            }
            let op = entry.remove();
            self.target_and_send(op);
        }
    }

    /// An operation is not followed any more.
    pub(super) fn let_go(&mut self, op: &mut PendingOp<C>) {
        if op.completion.should_resend() {
            self.flow.unfinished.remove(op.cost.unwrap_or(0));
        }
        self.flow.give_back(op);
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
