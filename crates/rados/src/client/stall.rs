//! Says what operations are waiting for. Waiting is the default, silence is not.

use ceph_codec::Utime;

use crate::objecter::{Objecter, Stalled};

/// An operation that takes longer than this is worth a word.
const PATIENCE_SECS: u32 = 5;
/// The first log line comes at once, then one in so many observations.
const EVERY: u32 = 6;

/// Remembers since when operations have been waiting.
#[derive(Debug, Default)]
pub(super) struct StallLog {
    /// Observations in a row with something waiting.
    seen: u32,
}

impl StallLog {
    pub(super) fn observe<C>(&mut self, objecter: &Objecter<C>, now: Utime, monitor: bool) {
        let before = Utime { sec: now.sec.saturating_sub(PATIENCE_SECS), nsec: now.nsec };
        let stalled = objecter.stalled(before);
        if stalled == Stalled::default() {
            if self.seen > 0 {
                tracing::warn!("the cluster answers again");
            }
            self.seen = 0;
            return;
        }
        self.seen += 1;
        if self.seen % EVERY != 1 {
            return;
        }
        let Stalled { homeless, paused, connecting, unanswered } = stalled;
        tracing::warn!(
            homeless,
            paused,
            connecting,
            unanswered,
            osds = busy_osds(objecter),
            monitor,
            epoch = %objecter.map().epoch(),
            "operations are waiting for the cluster: {}",
            reason(stalled, monitor),
        );
    }
}

fn busy_osds<C>(objecter: &Objecter<C>) -> String {
    objecter.busy_osds().iter().map(|osd| format!("osd.{osd}")).collect::<Vec<_>>().join(" ")
}

fn reason(stalled: Stalled, monitor: bool) -> &'static str {
    if !monitor {
        "no monitor answers"
    } else if stalled.paused > 0 {
        "a pool or the cluster is full, or its pause flag is set"
    } else if stalled.homeless > 0 {
        "placement groups have no primary OSD (see `ceph health detail`)"
    } else if stalled.connecting > 0 {
        "an OSD cannot be reached"
    } else {
        "an OSD does not answer"
    }
}
