//! What operations wait for, for logs and for whoever asks.
//!
//! Ceph: `Objecter::dump_requests`, the admin socket's `objecter_requests`.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use ceph_codec::OsdId;
use ceph_osdmap::{MapFlags, PoolFlags};

use crate::op::{OpKind, Operation, WatchAction};
use crate::requests::{RequestStatus, WaitsFor};

use super::linger::Linger;
use super::session::Session;
use super::{Objecter, PendingOp};

/// What has been waiting for long, in short.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Stall {
    /// How many requests.
    pub(crate) requests: usize,
    /// The OSDs that have to answer them.
    pub(crate) osds: BTreeSet<OsdId>,
    /// What they wait for.
    pub(crate) reasons: Vec<WaitsFor>,
    /// Some of the oldest.
    pub(crate) oldest: Vec<RequestStatus>,
}

impl Stall {
    /// Counts requests that are not the Objecter's.
    pub(crate) fn add(&mut self, others: impl Iterator<Item = RequestStatus>) {
        for request in others {
            self.requests += 1;
            self.reasons.push(request.waits_for.clone());
            self.oldest.push(request);
        }
    }
}

impl<C> Objecter<C> {
    /// What has not ended. `now` is on the monotonic clock.
    pub(crate) fn requests(&self, now: Duration) -> Vec<RequestStatus> {
        let ops = self.ops().map(|(op, why)| op.status(now, why));
        ops.chain(self.notifies().map(|(cookie, linger)| linger.status(cookie, now))).collect()
    }

    /// What has not ended for at least `age`, with some words about the `describe` oldest.
    pub(crate) fn stall(&self, now: Duration, age: Duration, describe: usize) -> Stall {
        let old = |since: Duration| now.saturating_sub(since) >= age;
        let mut stall = Stall::default();
        let mut oldest: Vec<_> = self.ops().filter(|(op, _)| old(op.since.monotonic)).collect();
        for (op, why) in &oldest {
            stall.osds.extend(op.target.osd);
            if !stall.reasons.contains(why) {
                stall.reasons.push(why.clone());
            }
        }
        oldest.sort_by_key(|(op, _)| op.tid);
        let notifies: Vec<_> = self.notifies().filter(|(_, linger)| old(linger.since)).collect();
        stall.requests = oldest.len() + notifies.len();
        let ops = oldest.into_iter().map(|(op, why)| op.status(now, why));
        let notifies = notifies.into_iter().map(|(cookie, linger)| linger.status(cookie, now));
        stall.oldest = ops.chain(notifies).take(describe).collect();
        stall
    }

    fn ops(&self) -> impl Iterator<Item = (&PendingOp<C>, WaitsFor)> {
        let homeless = self.homeless.values().map(|op| {
            let why = if op.lacks_pool { WaitsFor::Pool(op.target.pool()) } else { WaitsFor::Primary };
            (op, why)
        });
        let waiting = self.waiting.values().map(|op| (op, WaitsFor::Room));
        let assigned = self
            .sessions
            .values()
            .flat_map(|session| session.ops.values().map(|op| (op, self.why_assigned(session, op))));
        homeless.chain(waiting).chain(assigned)
    }

    /// Notifies that wait for the watchers.
    fn notifies(&self) -> impl Iterator<Item = (u64, &Linger<C>)> {
        self.lingers.iter().filter(|(_, linger)| linger.awaits_watchers()).map(|(cookie, l)| (*cookie, l))
    }

    fn why_assigned(&self, session: &Session<C>, op: &PendingOp<C>) -> WaitsFor {
        if op.target.paused {
            return self.why_paused(op);
        }
        if session.features.is_none() {
            return WaitsFor::Connection(session.addr);
        }
        if session.backoffs.blocks(op.target.spg, &op.target.place()) {
            return WaitsFor::Backoff;
        }
        if op.with_osd { WaitsFor::Answer } else { WaitsFor::OthersAnswers }
    }

    fn why_paused(&self, op: &PendingOp<C>) -> WaitsFor {
        if self.map.epoch() < self.epoch_barrier {
            return WaitsFor::Epoch(self.epoch_barrier);
        }
        let flags = self.map.flags();
        let pool_is = |flag| self.map.pool(op.target.pool()).is_some_and(|pool| pool.flags.contains(flag));
        WaitsFor::Flag(if op.target.is_write() && flags.contains(MapFlags::PAUSE_WR) {
            "the cluster's flag pausewr"
        } else if !op.target.is_write() && flags.contains(MapFlags::PAUSE_RD) {
            "the cluster's flag pauserd"
        } else if flags.contains(MapFlags::FULL) {
            "the cluster's being full"
        } else if pool_is(PoolFlags::FULL_QUOTA) {
            "the pool's being at its quota"
        } else {
            "the pool's being full"
        })
    }
}

impl<C> Linger<C> {
    fn status(&self, cookie: u64, now: Duration) -> RequestStatus {
        RequestStatus {
            tid: cookie,
            what: "notify".to_owned(),
            object: Some(self.target.object.to_string()),
            age: now.saturating_sub(self.since),
            attempts: 1,
            pg: Some(self.target.spg),
            osd: self.osd,
            waits_for: WaitsFor::Watchers,
        }
    }
}

impl<C> PendingOp<C> {
    fn status(&self, now: Duration, waits_for: WaitsFor) -> RequestStatus {
        RequestStatus {
            tid: self.tid.0,
            what: self.operation.to_string(),
            object: Some(self.target.object.to_string()),
            age: now.saturating_sub(self.since.monotonic),
            attempts: self.attempts.unsigned_abs(),
            pg: self.target.pool_ever_existed.then_some(self.target.spg),
            osd: self.target.osd,
            waits_for,
        }
    }
}

impl fmt::Display for Operation {
    /// As Ceph prints requests: names of the ops, offsets and lengths in bytes; never data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, op) in self.ops.iter().enumerate() {
            if n > 0 {
                f.write_str(", ")?;
            }
            match &op.kind {
                OpKind::Read { offset, len }
                | OpKind::SparseRead { offset, len }
                | OpKind::Zero { offset, len } => write!(f, "{} {offset}~{len}", op.kind.name())?,
                OpKind::Write { offset, data } | OpKind::CompareExtent { offset, data } => {
                    write!(f, "{} {offset}~{}", op.kind.name(), data.len())?;
                }
                OpKind::WriteFull { data } => write!(f, "{} 0~{}", op.kind.name(), data.len())?,
                OpKind::Truncate { size } => write!(f, "{} {size}", op.kind.name())?,
                OpKind::Call { class, method, .. } => write!(f, "{} {class}.{method}", op.kind.name())?,
                kind => f.write_str(kind.name())?,
            }
        }
        Ok(())
    }
}

impl OpKind {
    /// Ceph's name for it. Ceph: `__CEPH_FORALL_OSD_OPS` in `src/include/rados.h`.
    fn name(&self) -> &'static str {
        match self {
            Self::Read { .. } => "read",
            Self::SparseRead { .. } => "sparse-read",
            Self::Stat => "stat",
            Self::AssertVersion { .. } => "assert-version",
            Self::ListWatchers => "list-watchers",
            Self::ListSnaps => "list-snaps",
            Self::ListObjects { .. } => "pgnls",
            Self::Create { .. } => "create",
            Self::Write { .. } => "write",
            Self::WriteFull { .. } => "writefull",
            Self::WriteSame { .. } => "write-same",
            Self::Append { .. } => "append",
            Self::Zero { .. } => "zero",
            Self::Truncate { .. } => "truncate",
            Self::Delete => "delete",
            Self::Rollback { .. } => "rollback",
            Self::SetAllocHint { .. } => "set-alloc-hint",
            Self::Call { .. } => "call",
            Self::OmapGetKeys { .. } => "omap-get-keys",
            Self::OmapGetVals { .. } => "omap-get-vals",
            Self::OmapGetValsByKeys { .. } => "omap-get-vals-by-keys",
            Self::OmapGetHeader => "omap-get-header",
            Self::OmapCompare { .. } => "omap-cmp",
            Self::OmapSetVals { .. } => "omap-set-vals",
            Self::OmapSetHeader { .. } => "omap-set-header",
            Self::OmapRemoveKeys { .. } => "omap-rm-keys",
            Self::OmapRemoveRange { .. } => "omap-rm-key-range",
            Self::OmapClear => "omap-clear",
            Self::GetXattr { .. } => "getxattr",
            Self::GetXattrs => "getxattrs",
            Self::CompareXattr { .. } => "cmpxattr",
            Self::SetXattr { .. } => "setxattr",
            Self::RemoveXattr { .. } => "rmxattr",
            Self::CompareExtent { .. } => "cmpext",
            Self::Watch { action: WatchAction::Unwatch, .. } => "unwatch",
            Self::Watch { action: WatchAction::Watch, .. } => "watch",
            Self::Watch { action: WatchAction::Reconnect { .. }, .. } => "watch reconnect",
            Self::Watch { action: WatchAction::Ping { .. }, .. } => "watch ping",
            Self::Notify { .. } => "notify",
            Self::NotifyAck { .. } => "notify-ack",
        }
    }
}
