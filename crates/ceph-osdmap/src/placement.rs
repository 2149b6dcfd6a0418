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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PoolFlags, ShardSet};

    /// Ceph 20's map with a pool of optimized erasure coding, 2+1 on 10 OSDs.
    fn optimized() -> (OsdMap, PgId) {
        let bytes = include_bytes!("../testdata/tentacle/live/04-ec-optimizations.osdmap");
        let map = OsdMap::decode(bytes).unwrap();
        let pool = map.pools().find(|p| p.flags.contains(PoolFlags::EC_OPTIMIZATIONS)).unwrap();
        assert_eq!((pool.size, pool.nonprimary_shards), (3, ShardSet(0b010)));
        let pg = PgId { pool: pool.id, seed: 0 };
        (map, pg)
    }

    fn osds<const N: usize>(numbers: [i32; N]) -> Vec<OsdId> {
        numbers.map(OsdId).to_vec()
    }

    #[test]
    fn shards_that_cannot_be_primary_come_last_in_pg_temp_and_return_to_their_places() {
        let (mut map, pg) = optimized();
        // Shards 0, 2, 1; nobody holds shard 0.
        map.pg_temp.insert(pg, vec![OSD_NONE, OsdId(4), OsdId(1)]);
        let placement = map.placement(pg);
        assert_eq!(placement.acting, [OSD_NONE, OsdId(1), OsdId(4)]);
        assert_eq!(placement.acting_primary, Some(OsdId(4)), "osd.1 comes first but holds shard 1");
        assert_eq!(placement.primary_shard(), ShardId(2));
    }

    #[test]
    fn an_osd_with_two_shards_is_primary_for_the_one_that_can_be() {
        let (mut map, pg) = optimized();
        map.pg_temp.insert(pg, vec![OSD_NONE, OsdId(4), OsdId(4)]);
        assert_eq!(map.placement(pg).primary_shard(), ShardId(2));
    }

    #[test]
    fn osds_that_are_down_leave_pg_temp_and_an_empty_one_is_none() {
        let (mut map, _) = optimized();
        let pool = map.pools().find(|pool| pool.can_shift_osds()).unwrap();
        let pg = PgId { pool: pool.id, seed: 0 };
        let up = map.placement(pg).up;
        map.pg_temp.insert(pg, osds([77, 9, 8]));
        map.osds[8].state = crate::OsdState::EXISTS;
        let placement = map.placement(pg);
        assert_eq!((placement.acting, placement.acting_primary), (osds([9]), Some(OsdId(9))));
        map.pg_temp.insert(pg, osds([77]));
        let up_now: Vec<OsdId> = up.into_iter().filter(|osd| osd.0 != 8).collect();
        assert!(up_now.iter().all(|osd| map.placement(pg).acting.contains(osd)));
    }

    #[test]
    fn a_temporary_primary_leads_whatever_set_there_is() {
        let (mut map, _) = optimized();
        let pool = map.pools().find(|pool| pool.can_shift_osds()).unwrap();
        let pg = PgId { pool: pool.id, seed: 0 };
        let before = map.placement(pg);
        let last = *before.acting.last().unwrap();
        map.primary_temp.insert(pg, last);
        let after = map.placement(pg);
        assert_eq!(after.acting_primary, Some(last));
        assert_eq!((after.acting, after.up_primary), (before.acting, before.up_primary));
    }

    #[test]
    fn a_pg_of_no_pool_is_nowhere() {
        let (map, pg) = optimized();
        let nowhere = map.placement(PgId { pool: ceph_codec::PoolId(99), ..pg });
        assert_eq!(
            (nowhere.acting, nowhere.acting_primary, nowhere.primary_shard),
            (vec![], None, ShardId::NONE)
        );
    }
}
