//! What is in flight to one OSD, and what that OSD asked to hold back.

use std::collections::{BTreeMap, BTreeSet};

use ceph_codec::{EntityAddr, HObject, OsdId, SpgId, Tid};

use crate::messages::osd::OsdBackoff;

use super::PendingOp;
use super::target::Target;

/// One connection to one OSD. A new connection to the same OSD has a new incarnation, so that late messages
/// of the old one are recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SessionId {
    pub(crate) osd: OsdId,
    pub(crate) incarnation: u64,
}

#[derive(Debug)]
pub(crate) struct Session<C> {
    pub(crate) id: SessionId,
    pub(crate) addr: EntityAddr,
    /// Features of the connection; `None` while it is not open.
    pub(crate) features: Option<u64>,
    pub(crate) ops: BTreeMap<Tid, PendingOp<C>>,
    /// Cookies of the linger ops whose object is on this OSD.
    pub(crate) lingers: BTreeSet<u64>,
    pub(crate) backoffs: Backoffs,
    pub(super) window: Window,
}

impl<C> Session<C> {
    pub(crate) fn new(id: SessionId, addr: EntityAddr) -> Self {
        Self {
            id,
            addr,
            features: None,
            ops: BTreeMap::new(),
            lingers: BTreeSet::new(),
            backoffs: Backoffs::default(),
            window: Window::default(),
        }
    }

    /// Whether as much is with the OSD as its connections are good for.
    pub(super) fn is_window_full(&self) -> bool {
        let Some(size) = self.window.size else { return false };
        self.ops.values().filter(|op| op.with_osd).count() >= size
    }
}

/// How many operations may be with an OSD whose connections break.
///
/// An OSD drops the requests that it has read and not begun when their connection breaks
/// (`osd_discard_disconnected_ops`). Over connections that carry some dozen messages each, everything sent at
/// once would be read, dropped and sent again for ever. So after a break it is as many as the last connection
/// was seen to carry, and with every answer one more. It also grows with time: one that the OSD cannot answer
/// yet must not keep the others away.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// `None` is as many as flow control allows.
    size: Option<usize>,
    /// Answers that came over this connection.
    answered: usize,
}

/// A connection that carried so many answers is a good one.
const GOOD: usize = 512;

impl Window {
    pub(super) fn answered(&mut self) {
        self.answered = self.answered.saturating_add(1);
        self.size = self.size.map(|size| size + 1).filter(|size| *size < GOOD);
    }

    /// The connection has lasted for another while.
    pub(super) fn widen(&mut self) {
        self.size = self.size.map(|size| size * 2).filter(|size| *size < GOOD);
    }

    /// The connection broke.
    pub(super) fn broken(&mut self) {
        let answered = std::mem::take(&mut self.answered);
        self.size = (answered < GOOD).then(|| (answered / 2).max(1));
    }
}

/// Backoffs of one session. An OSD has one for each of its placement groups, and a few for objects.
const MAX_BACKOFFS: usize = 16384;

/// Ranges of objects for which requests have to wait. They end with the session.
///
/// Ceph: `doc/dev/osd_internals/backoff.rst`.
#[derive(Debug, Default)]
pub(crate) struct Backoffs {
    by_id: BTreeMap<u64, (SpgId, HObject, HObject)>,
}

impl Backoffs {
    /// False if there are too many.
    pub(crate) fn block(&mut self, backoff: &OsdBackoff) -> bool {
        self.by_id.insert(backoff.id, (backoff.spg, backoff.begin.clone(), backoff.end.clone()));
        self.by_id.len() <= MAX_BACKOFFS
    }

    /// Whether there was such a backoff.
    pub(crate) fn unblock(&mut self, id: u64) -> bool {
        self.by_id.remove(&id).is_some()
    }

    pub(crate) fn clear(&mut self) {
        self.by_id.clear();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    pub(crate) fn blocks(&self, spg: SpgId, place: &HObject) -> bool {
        self.by_id.values().any(|(blocked, begin, end)| *blocked == spg && is_within(place, begin, end))
    }
}

impl OsdBackoff {
    /// Whether it concerns an object.
    pub(super) fn is_about(&self, target: &Target) -> bool {
        self.spg == target.spg && is_within(&target.place(), &self.begin, &self.end)
    }
}

/// Whether `place` is in `[begin, end)`. A range of one object has `begin == end`.
fn is_within(place: &HObject, begin: &HObject, end: &HObject) -> bool {
    place == begin || (place > begin && place < end)
}
