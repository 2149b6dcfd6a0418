//! Pools, and how they map objects to placement groups.

use std::collections::BTreeMap;

use ceph_codec::{Decode, DecodeError, Epoch, PgId, PoolId, Reader, SnapId, Utime};
use crush::hash::hash2;

use crate::hash::ObjectHash;
use crate::wrapper::{skip_map, skip_seq};
use crate::{PoolFlags, SnapIntervals};

/// What a pool keeps of each object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PoolKind {
    /// Copies.
    Replicated,
    /// Shards, each at its own position of the acting set.
    Erasure,
}

/// A pool. Ceph: `pg_pool_t` in `src/osd/osd_types.h`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pool {
    /// Its number.
    pub id: PoolId,
    /// Its name.
    pub name: String,
    /// Replicated or erasure coded.
    pub kind: PoolKind,
    /// Copies, or data and coding shards.
    pub size: u8,
    /// Copies or shards without which a PG serves nobody.
    pub min_size: u8,
    /// The CRUSH rule that places its PGs.
    pub crush_rule: u8,
    /// The function that hashes object names.
    pub object_hash: ObjectHash,
    /// Number of PGs; never 0.
    pub pg_num: u32,
    /// Number of PGs as far as placement is concerned; lags behind [`pg_num`](Self::pg_num). Never 0.
    pub pgp_num: u32,
    /// Number of PGs that a pending merge leads to.
    pub pg_num_pending: u32,
    /// The epoch in which the pool last changed.
    pub last_change: Epoch,
    /// Flags.
    pub flags: PoolFlags,
    /// Limit in bytes; 0 is none.
    pub quota_max_bytes: u64,
    /// Limit in objects; 0 is none.
    pub quota_max_objects: u64,
    /// Number of the newest snapshot.
    pub snap_seq: SnapId,
    /// The epoch in which it was taken.
    pub snap_epoch: Epoch,
    /// Snapshots of the whole pool.
    pub snaps: BTreeMap<SnapId, PoolSnap>,
    /// Removed snapshots; clusters older than Nautilus only.
    pub removed_snaps: SnapIntervals,
    /// The pool that this one caches.
    pub tier_of: Option<PoolId>,
    /// The pool to send reads to.
    pub read_tier: Option<PoolId>,
    /// The pool to send writes to.
    pub write_tier: Option<PoolId>,
    /// Bytes of a stripe of an erasure-coded pool; writes that are no multiple of it cost a read.
    pub stripe_width: u32,
    /// Name of the profile of an erasure-coded pool.
    pub erasure_code_profile: String,
    /// The last epoch in which clients had to send all requests to the pool again. Maps carry older variants for
    /// older clients; this is the one for us.
    pub last_force_op_resend: Epoch,
    /// Applications by name (`rbd`, ...) and their metadata.
    pub applications: BTreeMap<String, BTreeMap<String, String>>,
    /// What a stretched pool asks of its acting sets.
    pub peering_crush: Option<PeeringCrush>,
    /// Shards that cannot be primary (Ceph 20, [`PoolFlags::EC_OPTIMIZATIONS`]).
    pub nonprimary_shards: ShardSet,
}

/// A snapshot of a whole pool. Ceph: `pool_snap_info_t` in `src/osd/osd_types.h`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolSnap {
    /// Its number.
    pub id: SnapId,
    /// When it was taken.
    pub stamp: Utime,
    /// Its name.
    pub name: String,
}

/// What the members of an acting set have to be spread over (stretch mode). A change begins new intervals.
///
/// Ceph: `pg_pool_t::peering_crush_data_t` in `src/osd/osd_types.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeeringCrush {
    /// Buckets that have to have a member.
    pub bucket_count: u32,
    /// Buckets among which members are spread evenly.
    pub bucket_target: u32,
    /// Type of the buckets.
    pub bucket_barrier: u32,
    /// A bucket that has to be among them, or `CRUSH_ITEM_NONE`.
    pub mandatory_member: i32,
}

impl Decode for PeeringCrush {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            bucket_count: u32::decode(r)?,
            bucket_target: u32::decode(r)?,
            bucket_barrier: u32::decode(r)?,
            mandatory_member: i32::decode(r)?,
        })
    }
}

/// A set of shards below 128. Ceph: `shard_id_set` in `src/osd/osd_types.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ShardSet(pub u128);

impl ShardSet {
    /// Whether the shard at this position is in the set.
    #[must_use]
    pub fn contains(self, position: usize) -> bool {
        u32::try_from(position).is_ok_and(|position| self.0.checked_shr(position).unwrap_or(0) & 1 == 1)
    }
}

impl Pool {
    /// Hashes an object's name, or its locator key unless that is empty.
    ///
    /// The result is the raw hash; [`raw_to_pg`](Self::raw_to_pg) folds it to a PG.
    ///
    /// Ceph: `pg_pool_t::hash_key` in `src/osd/osd_types.cc`, `OSDMap::map_to_pg`.
    #[must_use]
    pub fn hash_object(&self, namespace: &str, key: &str, name: &str) -> u32 {
        const SEPARATOR: &str = "\x1f";
        let hashed = if key.is_empty() { name } else { key };
        if namespace.is_empty() {
            return self.object_hash.hash(hashed.as_bytes());
        }
        self.object_hash.hash([namespace, SEPARATOR, hashed].concat().as_bytes())
    }

    /// The PG that a raw hash belongs to.
    ///
    /// Ceph: `pg_pool_t::raw_pg_to_pg` in `src/osd/osd_types.cc`.
    #[must_use]
    pub fn raw_to_pg(&self, hash: u32) -> PgId {
        PgId { pool: self.id, seed: stable_mod(hash, self.pg_num) }
    }

    /// The input to CRUSH for a PG.
    ///
    /// Ceph: `pg_pool_t::raw_pg_to_pps` in `src/osd/osd_types.cc`.
    #[must_use]
    pub(crate) fn placement_seed(&self, pg_seed: u32) -> u32 {
        let seed = stable_mod(pg_seed, self.pgp_num);
        // Ceph narrows the pool's number to 32 bits here.
        let [a, b, c, d, ..] = self.id.0.to_le_bytes();
        let pool = u32::from_le_bytes([a, b, c, d]);
        if self.flags.contains(PoolFlags::HASHPSPOOL) { hash2(seed, pool) } else { seed.wrapping_add(pool) }
    }

    /// Whether holes in a set of OSDs close up.
    pub(crate) fn can_shift_osds(&self) -> bool {
        self.kind == PoolKind::Replicated
    }
}

/// Folds `x` to below `n` so that growing `n` moves as little as possible: like modulo, but between powers of
/// two some values have already split and others not.
///
/// Ceph: `ceph_stable_mod` in `src/include/rados.h`.
fn stable_mod(x: u32, n: u32) -> u32 {
    let mask = mask_of(n);
    if x & mask < n { x & mask } else { x & (mask >> 1) }
}

/// All ones, up to the highest bit of `n - 1`.
fn mask_of(n: u32) -> u32 {
    u32::MAX.checked_shr(n.wrapping_sub(1).leading_zeros()).unwrap_or(0)
}

/// Whether a PG split, was merged into another, or had another merged into it as the number of PGs changed.
/// `pg` is the PG in the old map. Requests to it have to be sent again.
///
/// Ceph: `pg_t::is_split`, `is_merge_source` and `is_merge_target` in `src/osd/osd_types.cc`, as
/// `Objecter::_calc_target` uses them.
#[must_use]
pub fn pg_was_split_or_merged(pg: PgId, old_pg_num: u32, new_pg_num: u32) -> bool {
    let merged_away = pg.seed < old_pg_num && pg.seed >= new_pg_num;
    merged_away
        || has_children(pg.seed, old_pg_num, new_pg_num)
        || has_children(pg.seed, new_pg_num, old_pg_num)
}

/// Whether PG `seed` of `few` splits when there are `many`.
fn has_children(seed: u32, few: u32, many: u32) -> bool {
    if seed >= few || many <= few {
        return false;
    }
    // A child differs from its parent in the highest bit of `few` or in one above; the lowest such decides.
    let step = 1u64 << few.ilog2();
    let children = [step | u64::from(seed), (2 * step) | u64::from(seed)];
    children.iter().any(|&child| child >= u64::from(few) && child < u64::from(many))
}

impl Decode for Pool {
    /// Leaves [`id`](Self::id) and [`name`](Self::name), which the map keeps elsewhere, to the caller.
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        // Versions from 31 on changed fields that 30 added, in ways a reader of 30 cannot skip.
        r.versioned("pg_pool_t", 32, |r, version| {
            if version < OLDEST {
                return Err(DecodeError::TooOld { what: "pg_pool_t", version, oldest: OLDEST });
            }
            Self::decode_fields(r, version)
        })
    }
}

/// What Luminous writes.
const OLDEST: u8 = 25;

impl Pool {
    fn decode_fields(r: &mut Reader<'_>, version: u8) -> Result<Self, DecodeError> {
        let kind = match u8::decode(r)? {
            1 => PoolKind::Replicated,
            3 => PoolKind::Erasure,
            other => return Err(DecodeError::Invalid { what: "type of a pool", value: other.into() }),
        };
        let size = u8::decode(r)?;
        let crush_rule = u8::decode(r)?;
        let object_hash = ObjectHash(u8::decode(r)?);
        let pg_num = decode_pg_num(r, "pg_num")?;
        let pgp_num = decode_pg_num(r, "pgp_num")?;
        r.array::<8>("lpg_num, lpgp_num")?;
        let last_change = Epoch::decode(r)?;
        let snap_seq = SnapId::decode(r)?;
        let snap_epoch = Epoch::decode(r)?;
        let snaps = BTreeMap::decode(r)?;
        let removed_snaps = SnapIntervals::decode(r)?;
        u64::decode(r)?; // auid
        let mut flags = PoolFlags::decode(r)?;
        u32::decode(r)?; // crash_replay_interval
        if snap_seq.0 > 0 && !flags.intersects(PoolFlags::SELFMANAGED_SNAPS | PoolFlags::POOL_SNAPS) {
            let selfmanaged = !removed_snaps.is_empty();
            flags = flags | if selfmanaged { PoolFlags::SELFMANAGED_SNAPS } else { PoolFlags::POOL_SNAPS };
        }
        let min_size = u8::decode(r)?;
        let quota_max_bytes = u64::decode(r)?;
        let quota_max_objects = u64::decode(r)?;
        skip_seq::<u64>(r, "tiers")?;
        let tier_of = decode_tier(r)?;
        u8::decode(r)?; // cache_mode
        let read_tier = decode_tier(r)?;
        let write_tier = decode_tier(r)?;
        skip_map::<String, String>(r, "properties")?;
        r.versioned("HitSet::Params", 1, |_, _| Ok(()))?;
        r.array::<8>("hit_set_period, hit_set_count")?;
        let stripe_width = u32::decode(r)?;
        r.array::<32>("cache tier targets")?;
        let erasure_code_profile = String::decode(r)?;
        Epoch::decode(r)?; // last_force_op_resend_preluminous
        r.array::<22>("min_read_recency_for_promote to fast_read")?;
        r.array::<8>("hit_set_grade_decay_rate, hit_set_search_last_n")?;
        r.versioned("pool_opts_t", 2, |_, _| Ok(()))?;
        let mut last_force_op_resend = Epoch::decode(r)?; // that of before Nautilus
        let applications = if version >= 26 { BTreeMap::decode(r)? } else { BTreeMap::new() };
        if version >= 27 {
            Utime::decode(r)?; // create_time
        }

        let mut pg_num_pending = pg_num;
        if version >= 28 {
            r.array::<8>("pg_num_target, pgp_num_target")?;
            pg_num_pending = u32::decode(r)?;
            r.array::<8>("epochs of the last merge")?;
            last_force_op_resend = Epoch::decode(r)?;
            u8::decode(r)?; // pg_autoscale_mode
        }
        if version >= 29 {
            r.versioned("pg_merge_meta_t", 1, |_, _| Ok(()))?;
        }
        let spread = version == 30 || version >= 31 && bool::decode(r)?;
        let peering_crush = if spread { Some(PeeringCrush::decode(r)?) } else { None };
        let nonprimary_shards = if version >= 32 { ShardSet::decode(r)? } else { ShardSet::default() };
        Ok(Self {
            id: PoolId(-1),
            name: String::new(),
            kind,
            size,
            min_size,
            crush_rule,
            object_hash,
            pg_num,
            pgp_num,
            pg_num_pending,
            last_change,
            flags,
            quota_max_bytes,
            quota_max_objects,
            snap_seq,
            snap_epoch,
            snaps,
            removed_snaps,
            tier_of,
            read_tier,
            write_tier,
            stripe_width,
            erasure_code_profile,
            last_force_op_resend,
            applications,
            peering_crush,
            nonprimary_shards,
        })
    }
}

fn decode_pg_num(r: &mut Reader<'_>, what: &'static str) -> Result<u32, DecodeError> {
    match u32::decode(r)? {
        value @ 1..=0x7fff_ffff => Ok(value),
        value => Err(DecodeError::Invalid { what, value: value.into() }),
    }
}

fn decode_tier(r: &mut Reader<'_>) -> Result<Option<PoolId>, DecodeError> {
    PoolId::decode(r).map(|pool| Some(pool).filter(|pool| pool.0 >= 0))
}

impl Decode for PoolSnap {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.versioned("pool_snap_info_t", 2, |r, _| {
            Ok(Self { id: SnapId::decode(r)?, stamp: Utime::decode(r)?, name: String::decode(r)? })
        })
    }
}

impl Decode for ShardSet {
    /// Two words of 64 bits, each in groups of seven bits, the lowest first; all groups but the last have the
    /// top bit set.
    ///
    /// Ceph: `bitset_set` in `src/common/bitset_set.h`, `denc_varint` in `src/include/denc.h`.
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut set = 0;
        for word in 0..2 {
            for group in 0.. {
                let byte = u8::decode(r)?;
                let bits = u64::from(byte & 0x7f)
                    .checked_shl(7 * group)
                    .ok_or_else(|| DecodeError::Invalid { what: "nonprimary_shards", value: byte.into() })?;
                set |= u128::from(bits) << (64 * word);
                if byte & 0x80 == 0 {
                    break;
                }
            }
        }
        Ok(Self(set))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pg(seed: u32) -> PgId {
        PgId { pool: PoolId(1), seed }
    }

    #[test]
    fn stable_mod_folds_what_has_not_split_yet() {
        let folded: Vec<u32> = (0..16).map(|x| stable_mod(x, 12)).collect();
        assert_eq!(folded, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 4, 5, 6, 7]);
        assert_eq!(stable_mod(u32::MAX, 1), 0);
        assert_eq!(stable_mod(u32::MAX, 0x7fff_ffff), 0x3fff_ffff);
    }

    #[test]
    fn a_set_of_shards_is_two_groups_of_seven_bits() {
        assert_eq!(ShardSet::decode_from(&[0x0e, 0]), Ok(ShardSet(0b1110)));
        assert_eq!(ShardSet::decode_from(&[0x80, 0x01, 0x01]), Ok(ShardSet(1 << 7 | 1 << 64)));
        assert!(ShardSet::decode_from(&[0xff; 40]).is_err());
        assert!(ShardSet(0b1110).contains(1) && !ShardSet(0b1110).contains(0) && !ShardSet(1).contains(128));
    }

    proptest! {
        #[test]
        fn a_pg_splits_if_and_only_if_some_new_pg_folds_to_it(seed in 0u32..300, old in 1u32..300, new in 1u32..300) {
            let split = (old..new).any(|child| seed < old && stable_mod(child, old) == seed);
            let merge_target = seed < new && (new..old).any(|child| stable_mod(child, new) == seed);
            let merge_source = seed < old && seed >= new;
            prop_assert_eq!(
                pg_was_split_or_merged(pg(seed), old, new),
                split || merge_target || merge_source
            );
        }
    }
}
