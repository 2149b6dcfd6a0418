//! New OSDMaps: what they change for operations in flight.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use ceph_codec::{DecodeError, EntityAddrVec, Epoch, OsdId, PoolId, Tid, Uuid};
use ceph_osdmap::{ApplyError, Incremental, MapFlags, OsdMap, PoolFlags};
use thiserror::Error;

use crate::error::OpError;
use crate::messages::mon::OsdMaps;
use crate::op::Errno;

use super::target::Verdict;
use super::{Action, Completion, Objecter, PendingOp};

/// Why maps could not be used. The cure is to ask for a full map.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the fields are what the messages name")]
pub enum MapError {
    /// The bytes make no sense.
    #[error("OSDMap {epoch} cannot be decoded")]
    Decode { epoch: Epoch, source: DecodeError },
    /// It is not what follows the map here.
    #[error("incremental OSDMap {epoch} does not apply")]
    Apply { epoch: Epoch, source: ApplyError },
    /// The sender says it is another one.
    #[error("the OSDMap said to be that of epoch {epoch} is that of {found}")]
    OtherEpoch { epoch: Epoch, found: Epoch },
    /// The sender is not of this cluster, or lies.
    #[error("the maps belong to another cluster")]
    OtherCluster,
}

/// What is to be sent again once all maps of a message are applied.
#[derive(Debug)]
struct Resend<C> {
    ops: BTreeMap<Tid, PendingOp<C>>,
    lingers: BTreeSet<u64>,
}

/// Decodes a full map that is said to be that of `epoch`.
///
/// # Errors
/// [`MapError`] if it is not.
pub(crate) fn decode_full(fsid: Uuid, epoch: Epoch, bytes: &Bytes) -> Result<OsdMap, MapError> {
    let map = OsdMap::decode(bytes).map_err(|source| MapError::Decode { epoch, source })?;
    if map.fsid() != fsid {
        return Err(MapError::OtherCluster);
    }
    if map.epoch() != epoch {
        return Err(MapError::OtherEpoch { epoch, found: map.epoch() });
    }
    Ok(map)
}

/// The error for a client that is in the blocklist of `map`.
pub(super) fn blocklisted_by(map: &OsdMap) -> OpError {
    OpError::Blocklisted { since: map.modified().to_system_time(), epoch: map.epoch() }
}

impl<C> Objecter<C> {
    /// Applies the maps of a message. Every epoch is looked at, not only the last: an operation whose primary
    /// changed and changed back was dropped by the OSD in between.
    ///
    /// # Errors
    /// [`MapError`]; the maps up to the bad one are applied.
    pub(crate) fn handle_maps(&mut self, maps: &OsdMaps) -> Result<(), MapError> {
        if maps.fsid != self.map.fsid() {
            return Err(MapError::OtherCluster);
        }
        let newest = [&maps.full, &maps.incrementals].into_iter().filter_map(|m| m.keys().next_back()).max();
        let Some(&newest) = newest else { return Ok(()) };
        let mut full_before = self.full_pools();
        let mut resend = Resend { ops: BTreeMap::new(), lingers: BTreeSet::new() };
        let mut outcome = Ok(());
        let mut barred = None;
        while self.map.epoch() < newest {
            let next = self.map.epoch().next();
            let skipped = match self.step(maps, next) {
                Ok(Some(skipped)) => skipped,
                Ok(None) => break,
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            };
            self.placements.clear();
            if barred.is_none() && self.map.is_blocklisted(&self.my_addr) {
                barred = Some(blocklisted_by(&self.map));
            }
            let full_now = self.full_pools();
            full_before.extend(full_now);
            self.scan(skipped, &full_before, &mut resend);
            self.close_dead_sessions(&mut resend);
        }
        self.send_again(resend);
        self.admit_waiting();
        if let Some(error) = barred {
            self.end(error);
        }
        outcome
    }

    /// Moves one epoch on, or over a gap. `Ok(None)`: the epoch is not in this message.
    fn step(&mut self, maps: &OsdMaps, next: Epoch) -> Result<Option<bool>, MapError> {
        if let Some(bytes) = maps.incrementals.get(&next) {
            self.apply(next, bytes)?;
            return Ok(Some(false));
        }
        if let Some(bytes) = maps.full.get(&next) {
            self.replace(next, bytes)?;
            return Ok(Some(false));
        }
        // The epochs in between are gone for ever if the sender has none of them; then the next full map counts.
        let after_gap = maps.full.range(next..).next();
        match after_gap {
            Some((&epoch, bytes)) => {
                self.replace(epoch, bytes)?;
                Ok(Some(true))
            }
            None => Ok(None),
        }
    }

    fn apply(&mut self, epoch: Epoch, bytes: &Bytes) -> Result<(), MapError> {
        let incremental = Incremental::decode(bytes).map_err(|source| MapError::Decode { epoch, source })?;
        self.map.apply(incremental).map_err(|source| MapError::Apply { epoch, source })
    }

    fn replace(&mut self, epoch: Epoch, bytes: &Bytes) -> Result<(), MapError> {
        self.map = decode_full(self.map.fsid(), epoch, bytes)?;
        Ok(())
    }

    fn full_pools(&self) -> BTreeSet<PoolId> {
        let cluster = self.map.flags().contains(MapFlags::FULL);
        let pools = self.map.pools().filter(|pool| cluster || pool.flags.contains(PoolFlags::FULL));
        pools.map(|pool| pool.id).collect()
    }

    /// Looks at every operation under the map just applied. `skipped`: epochs are missing before it, so
    /// anything may have happened.
    fn scan(&mut self, skipped: bool, full: &BTreeSet<PoolId>, resend: &mut Resend<C>) {
        for cookie in self.lingers.keys().copied().collect::<Vec<_>>() {
            let forced = skipped
                || self
                    .lingers
                    .get(&cookie)
                    .is_some_and(|l| full.contains(&l.target.pool()) && l.target.respects_full());
            match self.retarget_linger(cookie) {
                Verdict::Unchanged if !forced => {}
                Verdict::Unchanged | Verdict::Resend => {
                    resend.lingers.insert(cookie);
                }
                // Of a pool never seen the registration under way finds out whether it exists.
                Verdict::NoPool if !self.knew_pool(cookie) => {}
                Verdict::NoPool => self.end_linger(cookie, Errno::ENOENT),
                Verdict::PoolEio => self.end_linger(cookie, Errno::EIO),
            }
        }
        for op in resend.ops.values_mut() {
            self.prune_snapc(op);
        }
        let mut waiting = std::mem::take(&mut self.waiting);
        for op in waiting.values_mut() {
            // Where it goes is found out when there is room for it.
            self.prune_snapc(op);
        }
        self.waiting = waiting;
        let homeless = std::mem::take(&mut self.homeless);
        for op in homeless.into_values() {
            self.scan_op(op, None, skipped, full, resend);
        }
        for osd in self.sessions.keys().copied().collect::<Vec<_>>() {
            let ops = self.sessions.get_mut(&osd).map(|s| std::mem::take(&mut s.ops)).unwrap_or_default();
            for op in ops.into_values() {
                self.scan_op(op, Some(osd), skipped, full, resend);
            }
        }
    }

    fn scan_op(
        &mut self,
        mut op: PendingOp<C>,
        from: Option<OsdId>,
        skipped: bool,
        full: &BTreeSet<PoolId>,
        resend: &mut Resend<C>,
    ) {
        self.prune_snapc(&mut op);
        let forced = skipped || (full.contains(&op.target.pool()) && op.target.respects_full());
        let verdict = op.target.recompute(&self.map, &mut self.placements, self.epoch_barrier);
        let stays = verdict == Verdict::Unchanged && !forced && from == op.target.osd;
        if !stays || op.target.paused {
            self.flow.give_back(&mut op);
        }
        match verdict {
            Verdict::NoPool => self.park_without_pool(op),
            Verdict::PoolEio => self.finish(op, Err(OpError::Errno(Errno::EIO))),
            _ if stays => {
                match from.and_then(|osd| self.sessions.get_mut(&osd)) {
                    Some(session) => session.ops.insert(op.tid, op),
                    None => self.homeless.insert(op.tid, op),
                };
            }
            Verdict::Unchanged | Verdict::Resend => match op.completion {
                Completion::Caller(_) => {
                    resend.ops.insert(op.tid, op);
                }
                // The linger op makes a new request.
                Completion::Register { cookie } | Completion::Reconnect { cookie } => {
                    resend.lingers.insert(cookie);
                }
                Completion::Ping { .. } => {}
            },
        }
    }

    fn knew_pool(&self, cookie: u64) -> bool {
        self.lingers.get(&cookie).is_some_and(|linger| linger.target.pool_ever_existed)
    }

    /// A removed snapshot must not come back through a write that was under way.
    fn prune_snapc(&self, op: &mut PendingOp<C>) {
        let Some(removed) = self.map.new_removed_snaps().get(&op.target.pool()) else { return };
        if op.snapc.snaps.iter().any(|snap| removed.contains(*snap)) {
            op.snapc.snaps = op.snapc.snaps.iter().copied().filter(|snap| !removed.contains(*snap)).collect();
        }
    }

    fn close_dead_sessions(&mut self, resend: &mut Resend<C>) {
        let dead: Vec<_> = self
            .sessions
            .iter()
            .filter(|(osd, session)| {
                !self.map.is_up(**osd)
                    || self.map.osd_addrs(**osd).and_then(EntityAddrVec::msgr2) != Some(session.addr)
            })
            .map(|(osd, _)| *osd)
            .collect();
        for osd in dead {
            let Some(mut session) = self.sessions.remove(&osd) else { continue };
            session.ops.values_mut().for_each(|op| self.flow.give_back(op));
            self.actions.push_back(Action::Close { session: session.id });
            // The OSD may be back at another address as the same primary: no target changed, yet all is lost.
            resend.ops.extend(session.ops);
            resend.lingers.extend(session.lingers);
        }
    }

    fn send_again(&mut self, resend: Resend<C>) {
        for op in resend.ops.into_values().filter(|op| op.completion.should_resend()) {
            self.target_and_send(op);
        }
        for cookie in resend.lingers {
            self.retarget_linger(cookie);
            self.send_linger(cookie);
        }
    }
}
