//! Says what requests are waiting for. Waiting is the default, silence is not.

use std::time::Duration;

use ceph_codec::Epoch;

use crate::objecter::Stall;
use crate::requests::WaitsFor;

/// A request that takes longer than this is worth a word. Ceph: `objecter_timeout` is 10 s.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// The first log line comes at once, then one in so many observations.
const EVERY: u32 = 6;
/// Requests that are described one by one; the oldest tell the story.
pub(super) const DESCRIBED: usize = 3;

/// Remembers since when requests have been waiting.
#[derive(Debug, Default)]
pub(super) struct StallLog {
    /// Observations in a row with something waiting.
    seen: u32,
}

impl StallLog {
    /// `monitor`: there is a session with one.
    pub(super) fn observe(&mut self, stall: &Stall, monitor: bool, epoch: Epoch) {
        if stall.requests == 0 {
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
        tracing::warn!(
            requests = stall.requests,
            osds = stall.osds.iter().map(|osd| format!("osd.{osd}")).collect::<Vec<_>>().join(" "),
            monitor,
            %epoch,
            "requests are waiting for the cluster: {}",
            reason(&stall.reasons, monitor),
        );
        for request in stall.oldest.iter().take(DESCRIBED) {
            tracing::warn!("{request}");
        }
    }
}

/// What to tell an operator about all of them.
fn reason(reasons: &[WaitsFor], monitor: bool) -> &'static str {
    let any = |test: fn(&WaitsFor) -> bool| reasons.iter().any(test);
    if !monitor {
        "no monitor answers"
    } else if any(|why| matches!(why, WaitsFor::Flag(_))) {
        "a pool or the cluster is full, or its pause flag is set"
    } else if any(|why| matches!(why, WaitsFor::Primary)) {
        "placement groups have no primary OSD (see `ceph health detail`)"
    } else if any(|why| matches!(why, WaitsFor::Connection(_))) {
        "an OSD cannot be reached"
    } else if any(|why| matches!(why, WaitsFor::Backoff)) {
        "an OSD holds requests back while a placement group is not ready (see `ceph health detail`)"
    } else if any(|why| matches!(why, WaitsFor::Answer)) {
        "an OSD does not answer"
    } else if any(|why| matches!(why, WaitsFor::MonitorAnswer)) {
        "a monitor does not answer"
    } else {
        "see the requests below"
    }
}
