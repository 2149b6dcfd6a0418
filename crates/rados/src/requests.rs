//! What a client instance has under way, and what each request waits for.

use std::fmt;
use std::time::Duration;

use ceph_codec::{EntityAddr, Epoch, OsdId, PoolId, SpgId};

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
    /// Others have to end first: as much as [`Limits`](crate::Limits) allow is under way.
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
    /// Answers to others: the connections to the OSD break too often for more at a time.
    OthersAnswers,
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
            Self::OthersAnswers => {
                f.write_str("for answers to others, as connections to the OSD break often")
            }
            Self::Answer => f.write_str("for the OSD's answer"),
            Self::Watchers => f.write_str("for watchers to acknowledge"),
            Self::Monitor => f.write_str("for a session with a monitor"),
            Self::MonitorAnswer => f.write_str("for the monitor's answer"),
        }
    }
}
