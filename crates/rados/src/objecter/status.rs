//! What operations wait for, for logs and for whoever asks.
//!
//! Ceph: `Objecter::dump_requests`, the admin socket's `objecter_requests`.

use std::fmt;
use std::time::Duration;

use ceph_codec::{EntityAddr, Epoch, OsdId, PoolId, SpgId};
use ceph_osdmap::{MapFlags, PoolFlags};

use crate::op::{OpKind, Operation, WatchAction};

use super::session::Session;
use super::{Objecter, PendingOp};

/// A request that has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestStatus {
    /// Its number, which rises in the order of submission within a client instance. Monitors' requests have
    /// numbers of their own.
    pub tid: u64,
    /// What it is: ops with their offsets and lengths in bytes, or what a monitor was asked.
    pub what: String,
    /// To which object, for requests to OSDs.
    pub object: Option<String>,
    /// Since when, until now.
    pub age: Duration,
    /// How many times it was sent.
    pub attempts: u32,
    /// Where the newest map puts the object, once that is known.
    pub pg: Option<SpgId>,
    /// The OSD that has to answer, if there is one.
    pub osd: Option<OsdId>,
    /// What has to happen next.
    pub waits_for: WaitsFor,
}

impl fmt::Display for RequestStatus {
    /// `tid 7: write 0~4096 on rbd_data.1 (pg 2.5, osd.1, sent 1 times) waits 12 s for the OSD's answer`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tid {}: {}", self.tid, self.what)?;
        if let Some(object) = &self.object {
            write!(f, " on {object}")?;
        }
        f.write_str(" (")?;
        if let Some(pg) = self.pg {
            write!(f, "pg {pg}, ")?;
        }
        if let Some(osd) = self.osd {
            write!(f, "osd.{osd}, ")?;
        }
        write!(f, "sent {} times) waits {} s {}", self.attempts, self.age.as_secs(), self.waits_for)
    }
}

/// What has to happen before a request goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum WaitsFor {
    /// Others have to end first: as much as [`Limits`](super::Limits) allow is under way.
    Room,
    /// The newest OSDMap: the one here does not have the pool.
    Pool(PoolId),
    /// An OSD that serves its placement group. None does.
    Primary,
    /// The cluster's or the pool's flag to go away, or room on the OSDs.
    Flag(&'static str),
    /// An OSDMap of at least this epoch.
    Epoch(Epoch),
    /// A connection to the OSD.
    Connection(EntityAddr),
    /// The OSD to lift its request to hold back.
    Backoff,
    /// The OSD's answer.
    Answer,
    /// The watchers that have not acknowledged a notify.
    Watchers,
    /// A session with a monitor.
    Monitor,
    /// The monitor's answer.
    MonitorAnswer,
}

impl fmt::Display for WaitsFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Room => f.write_str("for others to end, as much as allowed is under way"),
            Self::Pool(pool) => write!(f, "for an OSDMap that has pool {pool}"),
            Self::Primary => f.write_str("for an OSD to serve its placement group"),
            Self::Flag(flag) => write!(f, "for {flag} to end"),
            Self::Epoch(epoch) => write!(f, "for OSDMap {epoch}"),
            Self::Connection(addr) => write!(f, "for a connection to {addr}"),
            Self::Backoff => f.write_str("for the OSD to lift its backoff"),
            Self::Answer => f.write_str("for the OSD's answer"),
            Self::Watchers => f.write_str("for watchers to acknowledge"),
            Self::Monitor => f.write_str("for a session with a monitor"),
            Self::MonitorAnswer => f.write_str("for the monitor's answer"),
        }
    }
}

impl<C> Objecter<C> {
    /// What has been under way for at least `age`, in the order of submission. `now` is on the monotonic clock.
    pub(crate) fn requests(&self, now: Duration, age: Duration) -> Vec<RequestStatus> {
        let old = |op: &&PendingOp<C>| now.saturating_sub(op.since.monotonic) >= age;
        let homeless = self.homeless.values().filter(old).map(|op| {
            let pool = op.target.pool();
            let why = if self.map.pool(pool).is_none() { WaitsFor::Pool(pool) } else { WaitsFor::Primary };
            op.status(now, why)
        });
        let waiting = self.waiting.values().filter(old).map(|op| op.status(now, WaitsFor::Room));
        let assigned = self.sessions.values().flat_map(|session| {
            let ops = session.ops.values().filter(old);
            ops.map(|op| op.status(now, self.why_assigned(session, op)))
        });
        let notifies = self.lingers.iter().filter(|(_, linger)| linger.awaits_watchers()).filter_map(
            |(cookie, linger)| {
                let waited = now.saturating_sub(linger.since);
                (waited >= age).then(|| RequestStatus {
                    tid: *cookie,
                    what: "notify".to_owned(),
                    object: Some(linger.target.object.to_string()),
                    age: waited,
                    attempts: 1,
                    pg: Some(linger.target.spg),
                    osd: linger.osd,
                    waits_for: WaitsFor::Watchers,
                })
            },
        );
        let mut all: Vec<_> = homeless.chain(waiting).chain(assigned).chain(notifies).collect();
        all.sort_by_key(|request| request.tid);
        all
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
        WaitsFor::Answer
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
