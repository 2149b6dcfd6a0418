//! Where an operation goes: object to placement group to primary OSD, and whether that changed.

use std::sync::Arc;

use ceph_codec::{Epoch, HObject, ObjectLocator, OsdId, PgId, PoolId, ShardId, SnapId, SpgId};
use ceph_osdmap::{MapFlags, OsdMap, PeeringCrush, Placement, Pool, PoolFlags, pg_was_split_or_merged};

use crate::messages::osd::{Redirect, flag};

use super::placements::Placements;

/// An object, and where the newest map puts it.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// The object, and the place the caller named.
    base_object: Arc<str>,
    base_locator: Arc<ObjectLocator>,
    /// The same after redirects and tiers.
    pub(crate) object: Arc<str>,
    pub(crate) locator: Arc<ObjectLocator>,
    pub(crate) flags: u32,
    pub(crate) raw_hash: u32,
    pub(crate) spg: SpgId,
    /// The OSD to talk to; `None` while the placement group has no primary.
    pub(crate) osd: Option<OsdId>,
    primary_position: Option<usize>,
    acting_is_empty: bool,
    /// 0 until computed for the first time.
    pg_num: u32,
    last_force_resend: Epoch,
    pub(crate) paused: bool,
    /// A pool that was there and is gone was deleted; one never seen may be newer than the map.
    pub(crate) pool_ever_existed: bool,
    /// Of linger ops: what began the placement group's interval, once known.
    interval: Option<Interval>,
    follows_intervals: bool,
}

/// What begins a new interval of a placement group when it changes. An OSD that stays primary keeps the
/// requests of clients across intervals, but lets go of their watches.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Interval {
    up: Vec<OsdId>,
    up_primary: Option<OsdId>,
    acting: Vec<OsdId>,
    acting_primary: Option<OsdId>,
    size: u8,
    min_size: u8,
    peering_crush: Option<PeeringCrush>,
    /// Flags of the cluster that count.
    flags: MapFlags,
    ec_optimizations: bool,
    /// Also counts, for the groups that are to split or merge.
    pg_num_pending: u32,
}

impl Interval {
    fn of(map: &OsdMap, pool: &Pool, pg: PgId) -> Self {
        let Placement { up, up_primary, acting, acting_primary, .. } = map.placement(pg);
        let &Pool { size, min_size, peering_crush, pg_num_pending, .. } = pool;
        Self {
            up,
            up_primary,
            acting,
            acting_primary,
            size,
            min_size,
            peering_crush,
            flags: map.flags() & (MapFlags::SORTBITWISE | MapFlags::RECOVERY_DELETES),
            ec_optimizations: pool.flags.contains(PoolFlags::EC_OPTIMIZATIONS),
            pg_num_pending,
        }
    }

    /// Whether another interval has begun.
    ///
    /// Ceph: `PastIntervals::is_new_interval` in `src/osd/osd_types.cc`.
    fn ended_by(&self, next: &Self, pg: PgId) -> bool {
        let (before, after) = (self.pg_num_pending, next.pg_num_pending);
        pg_was_split_or_merged(pg, before, after)
            || pg_was_split_or_merged(pg, after, before)
            || *self != Self { pg_num_pending: before, ..next.clone() }
    }
}

/// What a new map means for an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is where it should be.
    Unchanged,
    /// It has to be sent, again or for the first time.
    Resend,
    /// There is no such pool in this map.
    NoPool,
    /// The operator made the pool answer every request with an error.
    PoolEio,
}

impl Target {
    pub(crate) fn new(object: Arc<str>, locator: Arc<ObjectLocator>, flags: u32) -> Self {
        Self {
            base_object: Arc::clone(&object),
            base_locator: Arc::clone(&locator),
            object,
            locator,
            flags,
            raw_hash: 0,
            spg: SpgId { pg: PgId { pool: PoolId(-1), seed: 0 }, shard: ShardId::NONE },
            osd: None,
            primary_position: None,
            acting_is_empty: true,
            pg_num: 0,
            last_force_resend: Epoch(0),
            paused: false,
            pool_ever_existed: false,
            interval: None,
            follows_intervals: false,
        }
    }

    /// The target of a linger op: it has to be registered again in every new interval.
    pub(crate) fn of_linger(object: Arc<str>, locator: Arc<ObjectLocator>, flags: u32) -> Self {
        Self { follows_intervals: true, ..Self::new(object, locator, flags) }
    }

    pub(crate) fn pool(&self) -> PoolId {
        self.base_locator.pool
    }

    pub(crate) fn is_write(&self) -> bool {
        self.flags & flag::WRITE != 0
    }

    /// Whether a full pool makes it wait.
    pub(crate) fn respects_full(&self) -> bool {
        self.is_write() && self.flags & (flag::FULL_TRY | flag::FULL_FORCE) == 0
    }

    /// The object really is elsewhere: go there, and do not look for it in cache tiers.
    pub(crate) fn redirect(&mut self, to: Redirect) {
        self.base_locator = Arc::new(to.locator);
        if !to.object.is_empty() {
            self.base_object = to.object.into();
        }
        self.flags |= flag::REDIRECTED | flag::IGNORE_CACHE | flag::IGNORE_OVERLAY;
        self.forget();
    }

    /// Makes the next [`recompute`](Self::recompute) say that it has to be sent.
    pub(crate) fn forget(&mut self) {
        self.pg_num = 0;
    }

    /// Computes the target anew from `map`.
    ///
    /// Ceph: `Objecter::_calc_target`. An OSD that stays primary answers what it has received, so a change of
    /// other members of the acting set is no reason to send again; a split or merge is, because the request
    /// names its placement group.
    pub(crate) fn recompute(
        &mut self,
        map: &OsdMap,
        placements: &mut Placements,
        epoch_barrier: Epoch,
    ) -> Verdict {
        let Some(mut pool) = map.pool(self.base_locator.pool) else {
            self.osd = None;
            return Verdict::NoPool;
        };
        if pool.flags.contains(PoolFlags::EIO) {
            return Verdict::PoolEio;
        }
        let mut force = false;
        if map.epoch() == pool.last_force_op_resend {
            // A target never forced before counts as older than any epoch.
            force = self.last_force_resend < pool.last_force_op_resend;
            self.last_force_resend = pool.last_force_op_resend;
        }
        let paused = map.epoch() < epoch_barrier || self.should_be_paused(map, pool);
        let unpaused = self.paused && !paused;
        self.paused = paused;

        self.object = Arc::clone(&self.base_object);
        self.locator = Arc::clone(&self.base_locator);
        if self.flags & flag::IGNORE_OVERLAY == 0 {
            let tier = if self.is_write() { pool.write_tier } else { pool.read_tier };
            if let Some(tier) = tier {
                let Some(tier_pool) = map.pool(tier) else {
                    self.osd = None;
                    return Verdict::NoPool;
                };
                pool = tier_pool;
                self.locator = Arc::new(ObjectLocator { pool: tier, ..(*self.base_locator).clone() });
            }
        }
        self.pool_ever_existed = true;

        let raw_hash = match self.locator.hash.map(u32::try_from) {
            Some(Ok(hash)) => hash,
            _ => pool.hash_object(&self.locator.namespace, &self.locator.key, &self.object),
        };
        let pg = pool.raw_to_pg(raw_hash);
        let placement = placements.get(map, pg);
        let position = placement.primary_position;
        let moved = self.raw_hash != raw_hash
            || self.spg.pg.pool != pg.pool
            || self.pg_num == 0
            || self.acting_is_empty != placement.acting_is_empty
            || self.osd != placement.primary
            || self.primary_position != position;
        let split = self.pg_num != 0 && pg_was_split_or_merged(self.spg.pg, self.pg_num, pool.pg_num);
        let interval = self.follows_intervals.then(|| Interval::of(map, pool, pg));
        let new_interval = match (&self.interval, &interval) {
            (Some(before), Some(now)) => before.ended_by(now, pg),
            (before, now) => before != now,
        };
        self.interval = interval;
        if !(moved || split || force || unpaused || new_interval) {
            return Verdict::Unchanged;
        }
        self.raw_hash = raw_hash;
        self.spg = SpgId { pg, shard: placement.shard };
        self.osd = placement.primary;
        self.primary_position = position;
        self.acting_is_empty = placement.acting_is_empty;
        self.pg_num = pool.pg_num;
        Verdict::Resend
    }

    fn should_be_paused(&self, map: &OsdMap, pool: &Pool) -> bool {
        let flags = map.flags();
        let full = flags.contains(MapFlags::FULL) || pool.flags.contains(PoolFlags::FULL);
        let pause_writes = flags.contains(MapFlags::PAUSE_WR) || (self.respects_full() && full);
        (self.flags & flag::READ != 0 && flags.contains(MapFlags::PAUSE_RD))
            || (self.is_write() && pause_writes)
    }

    /// Its place in the order in which OSDs sort objects.
    pub(crate) fn place(&self) -> HObject {
        // An equal key is the same as none, as in `hobject_t`'s constructor.
        let key = if self.locator.key == *self.object { "" } else { &self.locator.key };
        HObject {
            key: key.as_bytes().to_vec(),
            name: self.object.as_bytes().to_vec(),
            snap: SnapId::HEAD,
            hash: self.raw_hash,
            max: false,
            namespace: self.locator.namespace.as_bytes().to_vec(),
            pool: self.locator.pool,
        }
    }
}
