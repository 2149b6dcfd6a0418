//! From a placement group to its OSDs.

use ceph_codec::{OsdId, PgId, ShardId, SpgId};
use crush::hash::hash2;

use crate::map::Osd;
use crate::{OsdMap, Pool, PoolFlags, PoolKind};

/// No OSD: the hole in the set of an erasure-coded PG.
pub const OSD_NONE: OsdId = OsdId(crush::ITEM_NONE);

/// Which OSDs a placement group is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The placement group, folded to one that exists.
    pub pg: PgId,
    /// Where it belongs. With holes ([`OSD_NONE`]) in erasure-coded pools only.
    pub up: Vec<OsdId>,
    /// The first among those, apart from primary affinity.
    pub up_primary: Option<OsdId>,
    /// Where it is served now; differs from `up` while data moves.
    pub acting: Vec<OsdId>,
    /// The OSD that serves clients; `None` if nobody does.
    pub acting_primary: Option<OsdId>,
    primary_shard: ShardId,
}

impl Placement {
    /// The shard that the acting primary holds; [`ShardId::NONE`] in replicated pools or without a primary.
    #[must_use]
    pub fn primary_shard(&self) -> ShardId {
        self.primary_shard
    }

    /// The placement group and the shard that requests to the acting primary name.
    #[must_use]
    pub fn spg(&self) -> SpgId {
        SpgId { pg: self.pg, shard: self.primary_shard }
    }
}

impl OsdMap {
    /// Finds the OSDs of a placement group. Its seed may be a raw hash.
    ///
    /// The sets are empty if there is no such pool.
    ///
    /// Ceph: `OSDMap::pg_to_up_acting_osds` in `src/osd/OSDMap.cc`, `Objecter::_calc_target` for the shard.
    #[must_use]
    pub fn placement(&self, pg: PgId) -> Placement {
        let Some(pool) = self.pool(pg.pool) else {
            return Placement {
                pg,
                up: Vec::new(),
                up_primary: None,
                acting: Vec::new(),
                acting_primary: None,
                primary_shard: ShardId::NONE,
            };
        };
        let pg = pool.raw_to_pg(pg.seed);
        let seed = pool.placement_seed(pg.seed);

        let mut up = self.raw(pool, pg, seed);
        self.apply_upmap(pg, &mut up);
        drop_unless(pool, &mut up, |osd| self.is_up(osd));
        let up_primary = self.apply_primary_affinity(pool, seed, &mut up);

        let temp = self.temp(pool, pg);
        let has_temp = temp.is_some();
        let (acting, default_primary) = match temp {
            Some((acting, primary)) if !acting.is_empty() => (acting, primary),
            _ => (up.clone(), up_primary),
        };
        let acting_primary =
            self.primary_temp.get(&pg).map_or(default_primary, |&osd| Some(osd).filter(|osd| osd.0 >= 0));
        let primary_shard = primary_shard(pool, &acting, acting_primary, has_temp);
        Placement { pg, up, up_primary, acting, acting_primary, primary_shard }
    }

    /// What CRUSH alone says, without OSDs that are not part of the cluster.
    ///
    /// Ceph: `OSDMap::pg_to_raw_osds` in `src/osd/OSDMap.cc`.
    #[must_use]
    pub fn raw_placement(&self, pg: PgId) -> Vec<OsdId> {
        let Some(pool) = self.pool(pg.pool) else { return Vec::new() };
        let pg = pool.raw_to_pg(pg.seed);
        self.raw(pool, pg, pool.placement_seed(pg.seed))
    }

    fn raw(&self, pool: &Pool, pg: PgId, seed: u32) -> Vec<OsdId> {
        let rule = pool.crush_rule.into();
        let osds = self.crush.map(rule, seed, pool.size.into(), &self.osd_weights, Some(pg.pool.0));
        let mut osds = osds.into_iter().map(OsdId).collect();
        drop_unless(pool, &mut osds, |osd| self.exists(osd));
        osds
    }

    /// Replaces OSDs by the exceptions that an administrator or the balancer made.
    ///
    /// Ceph: `OSDMap::_apply_upmap` in `src/osd/OSDMap.cc`.
    fn apply_upmap(&self, pg: PgId, osds: &mut Vec<OsdId>) {
        let is_out = |osd: OsdId| self.osd_weight(osd) == Some(0);
        if let Some(to) = self.pg_upmap.get(&pg) {
            if to.iter().any(|&osd| is_out(osd)) {
                return;
            }
            osds.clone_from(to);
        }
        for &(from, to) in self.pg_upmap_items.get(&pg).into_iter().flatten() {
            if osds.contains(&to) || is_out(to) {
                continue;
            }
            if let Some(osd) = osds.iter_mut().find(|osd| **osd == from) {
                *osd = to;
            }
        }
        if let Some(&primary) = self.pg_upmap_primaries.get(&pg)
            && self.osd_weight(primary).is_some_and(|weight| weight != 0)
            && let Some(place) = osds.iter().skip(1).position(|&osd| osd == primary)
        {
            osds.swap(0, place + 1);
        }
    }

    /// Chooses the primary, in proportion to the OSDs' affinities, and moves it to the front of replicas.
    ///
    /// Ceph: `OSDMap::_apply_primary_affinity` in `src/osd/OSDMap.cc`.
    fn apply_primary_affinity(&self, pool: &Pool, seed: u32, osds: &mut [OsdId]) -> Option<OsdId> {
        let passed_over = |osd: OsdId| {
            let affinity = self.osd(osd).map_or(Osd::DEFAULT_AFFINITY, |osd| osd.primary_affinity);
            affinity < Osd::DEFAULT_AFFINITY && hash2(seed, osd.0.cast_unsigned()) >> 16 >= affinity
        };
        // If all are passed over it is the first one after all.
        let willing = osds.iter().position(|&osd| osd != OSD_NONE && !passed_over(osd));
        let place = willing.or_else(|| osds.iter().position(|&osd| osd != OSD_NONE))?;
        let primary = osds[place];
        if pool.can_shift_osds() {
            osds[..=place].rotate_right(1);
        }
        Some(primary)
    }

    /// The set that serves a PG for the time being, and its first OSD.
    ///
    /// Ceph: `OSDMap::_get_temp_osds` in `src/osd/OSDMap.cc`.
    fn temp(&self, pool: &Pool, pg: PgId) -> Option<(Vec<OsdId>, Option<OsdId>)> {
        let mut osds = self.pg_temp.get(&pg)?.clone();
        drop_unless(pool, &mut osds, |osd| self.is_up(osd));
        let primary = first(&osds);
        // Monitors put the shards that can be primary first; everybody else wants the order of shards.
        if pool.flags.contains(PoolFlags::EC_OPTIMIZATIONS) && osds.len() == usize::from(pool.size) {
            let primary_first = osds.clone();
            for (osd, shard) in primary_first.into_iter().zip(primaries_first(pool, osds.len())) {
                osds[shard] = osd;
            }
        }
        Some((osds, primary))
    }
}

/// Removes OSDs that are not wanted: later replicas move up, shards leave holes.
fn drop_unless(pool: &Pool, osds: &mut Vec<OsdId>, wanted: impl Fn(OsdId) -> bool) {
    if pool.can_shift_osds() {
        osds.retain(|&osd| wanted(osd));
    } else {
        for osd in osds {
            if !wanted(*osd) {
                *osd = OSD_NONE;
            }
        }
    }
}

fn first(osds: &[OsdId]) -> Option<OsdId> {
    osds.iter().copied().find(|&osd| osd != OSD_NONE)
}

/// All positions: those whose shard can be primary, then the others.
///
/// Ceph: `OSDMap::pgtemp_primaryfirst` in `src/osd/OSDMap.cc`.
fn primaries_first(pool: &Pool, len: usize) -> impl Iterator<Item = usize> {
    let others = pool.nonprimary_shards;
    let can_be_primary = (0..len).filter(move |&shard| !others.contains(shard));
    can_be_primary.chain((0..len).filter(move |&shard| others.contains(shard)))
}

/// The shard that the primary holds. An OSD may hold several, of which one that can be primary counts.
fn primary_shard(pool: &Pool, acting: &[OsdId], primary: Option<OsdId>, has_temp: bool) -> ShardId {
    if pool.kind == PoolKind::Replicated || primary.is_none() {
        return ShardId::NONE;
    }
    let holds_it = |shard: &usize| acting.get(*shard).copied() == primary;
    let shard = if has_temp && pool.flags.contains(PoolFlags::EC_OPTIMIZATIONS) {
        primaries_first(pool, acting.len()).find(holds_it)
    } else {
        (0..acting.len()).find(holds_it)
    };
    shard.and_then(|shard| i8::try_from(shard).ok()).map_or(ShardId::NONE, ShardId)
}
