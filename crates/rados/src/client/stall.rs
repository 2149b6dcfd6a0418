//! Says what requests are waiting for. Waiting is the default, silence is not.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::objecter::{RequestStatus, WaitsFor};

/// A request that takes longer than this is worth a word. Ceph: `objecter_timeout` is 10 s.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// The first log line comes at once, then one in so many observations.
const EVERY: u32 = 6;
/// Requests that are described one by one; the oldest tell the story.
const DESCRIBED: usize = 3;

/// Remembers since when requests have been waiting.
#[derive(Debug, Default)]
pub(super) struct StallLog {
    /// Observations in a row with something waiting.
    seen: u32,
}

impl StallLog {
    /// `old` are the requests that have waited longer than [`PATIENCE`]; `monitor`: there is a session with one.
    pub(super) fn observe(&mut self, old: &[RequestStatus], monitor: bool, epoch: ceph_codec::Epoch) {
        if old.is_empty() {
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
        let osds: BTreeSet<_> = old.iter().filter_map(|request| request.osd).collect();
        tracing::warn!(
            requests = old.len(),
            osds = osds.iter().map(|osd| format!("osd.{osd}")).collect::<Vec<_>>().join(" "),
            monitor,
            %epoch,
            "requests are waiting for the cluster: {}",
            reason(old, monitor),
        );
        let mut oldest: Vec<_> = old.iter().collect();
        oldest.sort_by_key(|request| std::cmp::Reverse(request.age));
        for request in oldest.into_iter().take(DESCRIBED) {
            tracing::warn!("{request}");
        }
    }
}

/// What to tell an operator about all of them.
fn reason(old: &[RequestStatus], monitor: bool) -> &'static str {
    let any = |test: fn(&WaitsFor) -> bool| old.iter().any(|request| test(&request.waits_for));
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
    } else {
        "see the requests below"
    }
}
