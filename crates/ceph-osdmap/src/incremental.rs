//! The changes from one epoch to the next.

use std::collections::BTreeMap;
use std::sync::Arc;

use ceph_codec::{
    Decode, DecodeError, EntityAddr, EntityAddrVec, Epoch, OsdId, PgId, PoolId, Reader, Utime, Uuid,
};
use crush::CrushMap;
use thiserror::Error;

use crate::map::{ErasureCodeProfile, Osd, decode_osd_pairs, decode_osds, set_ids, set_names};
use crate::wrapper::{self, skip_map};
use crate::{MapFlags, OsdMap, OsdState, Pool, Release, SnapIntervals};

/// The changes from one epoch to the next, as far as clients need them.
///
/// The checksum of the full map that should result is not kept: it covers the cluster's own encoding, which
/// has fields that are skipped here.
///
/// Ceph: `OSDMap::Incremental` in `src/osd/OSDMap.h`.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Incremental {
    /// The cluster.
    pub fsid: Uuid,
    /// The epoch that this leads to.
    pub epoch: Epoch,
    /// When it was made.
    pub modified: Utime,
    /// Replaces everything if present.
    pub full_map: Option<Box<OsdMap>>,
    /// New hierarchy.
    pub crush: Option<Arc<CrushMap>>,
    /// New flags of the cluster.
    pub new_flags: Option<MapFlags>,
    /// New bound on the numbers of OSDs.
    pub new_max_osd: Option<u32>,
    /// New bound on the numbers of pools.
    pub new_pool_max: Option<i32>,
    /// New and changed pools; their names are in [`new_pool_names`](Self::new_pool_names).
    pub new_pools: BTreeMap<PoolId, Pool>,
    /// Names of new and renamed pools.
    pub new_pool_names: BTreeMap<PoolId, String>,
    /// Removed pools.
    pub old_pools: Vec<PoolId>,
    /// OSDs that came up, with their addresses for clients.
    pub new_up_client: BTreeMap<OsdId, EntityAddrVec>,
    /// Bits that flip in the state of OSDs; none means [`OsdState::UP`].
    pub new_state: BTreeMap<OsdId, OsdState>,
    /// New weights.
    pub new_weight: BTreeMap<OsdId, u32>,
    /// New primary affinities.
    pub new_primary_affinity: BTreeMap<OsdId, u32>,
    /// New temporary sets; an empty one removes.
    pub new_pg_temp: BTreeMap<PgId, Vec<OsdId>>,
    /// New temporary primaries; -1 removes.
    pub new_primary_temp: BTreeMap<PgId, OsdId>,
    /// New erasure code profiles.
    pub new_erasure_code_profiles: BTreeMap<String, ErasureCodeProfile>,
    /// Removed erasure code profiles.
    pub old_erasure_code_profiles: Vec<String>,
    /// New explicit sets.
    pub new_pg_upmap: BTreeMap<PgId, Vec<OsdId>>,
    /// Removed explicit sets.
    pub old_pg_upmap: Vec<PgId>,
    /// New exceptions.
    pub new_pg_upmap_items: BTreeMap<PgId, Vec<(OsdId, OsdId)>>,
    /// Removed exceptions.
    pub old_pg_upmap_items: Vec<PgId>,
    /// New explicit primaries.
    pub new_pg_upmap_primary: BTreeMap<PgId, OsdId>,
    /// Removed explicit primaries.
    pub old_pg_upmap_primary: Vec<PgId>,
    /// Snapshots removed in this epoch.
    pub new_removed_snaps: BTreeMap<PoolId, SnapIntervals>,
    /// Snapshots whose data is gone since this epoch.
    pub new_purged_snaps: BTreeMap<PoolId, SnapIntervals>,
    /// When OSDs last came up or went down; 0 if not in this epoch.
    pub new_last_up_change: Utime,
    /// When OSDs last went in or out; 0 if not in this epoch.
    pub new_last_in_change: Utime,
    /// Clients refused from now on.
    pub new_blocklist: BTreeMap<EntityAddr, Utime>,
    /// Clients served again.
    pub old_blocklist: Vec<EntityAddr>,
    /// Ranges refused from now on.
    pub new_range_blocklist: BTreeMap<EntityAddr, Utime>,
    /// Ranges served again.
    pub old_range_blocklist: Vec<EntityAddr>,
    /// Negative is no change.
    pub new_nearfull_ratio: f32,
    /// Negative is no change.
    pub new_backfillfull_ratio: f32,
    /// Negative is no change.
    pub new_full_ratio: f32,
    /// New oldest release of clients.
    pub new_require_min_compat_client: Option<Release>,
    /// New oldest release of OSDs.
    pub new_require_osd_release: Option<Release>,
}

/// Why an incremental does not apply to a map. Ask a monitor for a full map then.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// It belongs to another cluster.
    #[error("the incremental map is of cluster {theirs}, ours is {ours}")]
    WrongCluster {
        /// The cluster of the map.
        ours: Uuid,
        /// The cluster of the incremental.
        theirs: Uuid,
    },
    /// It does not follow.
    #[error("incremental map {incremental} does not follow epoch {epoch}")]
    EpochGap {
        /// The epoch of the map.
        epoch: Epoch,
        /// The epoch that the incremental leads to.
        incremental: Epoch,
    },
    /// It changes an OSD that cannot exist.
    #[error("incremental map {incremental} changes osd.{osd}, there are only {max_osd}")]
    NoSuchOsd {
        /// The epoch that the incremental leads to.
        incremental: Epoch,
        /// The OSD.
        osd: OsdId,
        /// OSDs are numbered below this.
        max_osd: usize,
    },
}

/// More OSDs than any cluster has; bounds what an incremental of a few bytes can allocate.
const MAX_OSDS: i32 = 1 << 20;

impl OsdMap {
    /// Goes to the next epoch. On error the map is as before.
    ///
    /// The map of epoch 0 takes the first epoch of any cluster.
    ///
    /// # Errors
    /// [`ApplyError`] if `inc` is not what leads from this epoch of this cluster to the next.
    ///
    /// Ceph: `OSDMap::apply_incremental` in `src/osd/OSDMap.cc`.
    pub fn apply(&mut self, inc: Incremental) -> Result<(), ApplyError> {
        self.check(&inc)?;
        // Destructured so that a new field cannot be forgotten here.
        let Incremental {
            fsid,
            epoch,
            modified,
            full_map,
            crush,
            new_flags,
            new_max_osd,
            new_pool_max,
            mut new_pools,
            new_pool_names,
            old_pools,
            new_up_client,
            new_state,
            new_weight,
            new_primary_affinity,
            new_pg_temp,
            new_primary_temp,
            new_erasure_code_profiles,
            old_erasure_code_profiles,
            new_pg_upmap,
            old_pg_upmap,
            new_pg_upmap_items,
            old_pg_upmap_items,
            new_pg_upmap_primary,
            old_pg_upmap_primary,
            new_removed_snaps,
            new_purged_snaps,
            new_last_up_change,
            new_last_in_change,
            new_blocklist,
            old_blocklist,
            new_range_blocklist,
            old_range_blocklist,
            new_nearfull_ratio,
            new_backfillfull_ratio,
            new_full_ratio,
            new_require_min_compat_client,
            new_require_osd_release,
        } = inc;
        if let Some(full_map) = full_map {
            *self = *full_map;
            return Ok(());
        }

        self.fsid = fsid;
        self.epoch = epoch;
        self.modified = modified;
        if let Some(flags) = new_flags {
            self.set_flags(flags);
        }
        if let Some(max) = new_max_osd {
            self.osds.resize(max as usize, Osd::default());
            self.osd_weights.resize(max as usize, 0);
        }
        self.pool_max = new_pool_max.unwrap_or(self.pool_max);

        for (id, pool) in &mut new_pools {
            pool.last_change = epoch;
            if let Some(old) = self.pools.get(id) {
                pool.name.clone_from(&old.name);
            }
        }
        self.pools.append(&mut new_pools);
        set_names(&mut self.pools, new_pool_names);
        self.pools.retain(|id, _| !old_pools.contains(id));
        // These describe one epoch only.
        self.new_removed_snaps = new_removed_snaps;
        self.new_purged_snaps = new_purged_snaps;
        for (change, new) in
            [(&mut self.last_up_change, new_last_up_change), (&mut self.last_in_change, new_last_in_change)]
        {
            if new != Utime::default() {
                *change = new;
            }
        }

        // The order matters: an OSD may go down and come up in one epoch.
        for (osd, weight) in new_weight {
            self.set_weight(osd, weight);
        }
        for (osd, affinity) in new_primary_affinity {
            if let Some(osd) = self.slot(osd) {
                osd.primary_affinity = affinity;
            }
        }
        for (osd, flipped) in new_state {
            self.flip_state(osd, flipped);
        }
        for (osd, addrs) in new_up_client {
            if let Some(osd) = self.slot(osd) {
                osd.state = (osd.state | OsdState::EXISTS | OsdState::UP) & !OsdState::STOP;
                osd.addrs = addrs;
            }
        }

        remove(&mut self.erasure_code_profiles, old_erasure_code_profiles);
        self.erasure_code_profiles.extend(new_erasure_code_profiles);
        set_or_remove(&mut self.pg_temp, new_pg_temp, Vec::is_empty);
        set_or_remove(&mut self.primary_temp, new_primary_temp, |osd| osd.0 == -1);
        self.pg_upmap.extend(new_pg_upmap);
        remove(&mut self.pg_upmap, old_pg_upmap);
        self.pg_upmap_items.extend(new_pg_upmap_items);
        remove(&mut self.pg_upmap_items, old_pg_upmap_items);
        self.pg_upmap_primaries.extend(new_pg_upmap_primary);
        remove(&mut self.pg_upmap_primaries, old_pg_upmap_primary);

        for (addr, until) in new_blocklist {
            // Ceph inserts here, which keeps the old end of an entry.
            self.blocklist.exact.entry(addr).or_insert(until);
        }
        for addr in old_blocklist {
            self.blocklist.exact.remove(&addr);
        }
        for (addr, until) in new_range_blocklist {
            self.blocklist.ranges.entry(addr).or_insert(until);
        }
        remove(&mut self.blocklist.ranges, old_range_blocklist);

        for (ratio, new) in [
            (&mut self.full_ratios.nearfull, new_nearfull_ratio),
            (&mut self.full_ratios.backfillfull, new_backfillfull_ratio),
            (&mut self.full_ratios.full, new_full_ratio),
        ] {
            if new >= 0.0 {
                *ratio = new;
            }
        }
        if let Some(release) = new_require_min_compat_client.filter(|&r| r != Release::UNKNOWN) {
            self.require_min_compat_client = release;
        }
        if let Some(release) = new_require_osd_release {
            self.set_require_osd_release(release);
        }
        if let Some(crush) = crush {
            self.crush = crush;
            if self.require_osd_release >= Release::LUMINOUS {
                self.crush_version = self.crush_version.wrapping_add(1);
            }
        }
        Ok(())
    }

    /// Everything that can be wrong, before anything is changed.
    fn check(&self, inc: &Incremental) -> Result<(), ApplyError> {
        let wrong_cluster = |theirs| Err(ApplyError::WrongCluster { ours: self.fsid, theirs });
        if self.epoch != Epoch(0) && inc.fsid != self.fsid {
            return wrong_cluster(inc.fsid);
        }
        let follows = |incremental| self.epoch.0.checked_add(1) == Some(incremental);
        if !follows(inc.epoch.0) {
            return Err(ApplyError::EpochGap { epoch: self.epoch, incremental: inc.epoch });
        }
        if let Some(full) = &inc.full_map {
            if full.fsid != inc.fsid {
                return wrong_cluster(full.fsid);
            }
            if !follows(full.epoch.0) {
                return Err(ApplyError::EpochGap { epoch: self.epoch, incremental: full.epoch });
            }
            return Ok(());
        }
        let max_osd = inc.new_max_osd.map_or(self.osds.len(), |max| max as usize);
        let changed = (inc.new_weight.keys())
            .chain(inc.new_primary_affinity.keys())
            .chain(inc.new_state.keys())
            .chain(inc.new_up_client.keys());
        for &osd in changed {
            if usize::try_from(osd.0).map_or(true, |osd| osd >= max_osd) {
                return Err(ApplyError::NoSuchOsd { incremental: inc.epoch, osd, max_osd });
            }
        }
        Ok(())
    }

    fn set_flags(&mut self, flags: MapFlags) {
        self.flags = flags;
        let implied = if flags.contains(MapFlags::REQUIRE_KRAKEN) {
            Release::KRAKEN
        } else if flags.contains(MapFlags::REQUIRE_JEWEL) {
            Release::JEWEL
        } else {
            Release::UNKNOWN
        };
        self.require_osd_release = self.require_osd_release.max(implied);
    }

    fn slot(&mut self, osd: OsdId) -> Option<&mut Osd> {
        self.osds.get_mut(usize::try_from(osd.0).ok()?)
    }

    fn set_weight(&mut self, osd: OsdId, weight: u32) {
        let slot = usize::try_from(osd.0).ok().and_then(|osd| self.osd_weights.get_mut(osd));
        if let Some(slot) = slot {
            *slot = weight;
        }
        if let Some(osd) = self.slot(osd).filter(|_| weight != 0) {
            // This is how OSDs come into being.
            osd.state = (osd.state | OsdState::EXISTS) & !(OsdState::AUTOOUT | OsdState::NEW);
        }
    }

    fn flip_state(&mut self, osd: OsdId, flipped: OsdState) {
        let Some(osd) = self.slot(osd) else { return };
        let flipped = if flipped == OsdState::default() { OsdState::UP } else { flipped };
        if (osd.state & flipped).contains(OsdState::EXISTS) {
            // Destroyed: nothing of it may outlive it.
            *osd = Osd::default();
        } else {
            osd.state = OsdState(osd.state.0 ^ flipped.0);
        }
    }
}

fn remove<K: Ord, V>(map: &mut BTreeMap<K, V>, keys: Vec<K>) {
    for key in keys {
        map.remove(&key);
    }
}

fn set_or_remove<K: Ord, V>(map: &mut BTreeMap<K, V>, new: BTreeMap<K, V>, removes: impl Fn(&V) -> bool) {
    for (key, value) in new {
        if removes(&value) {
            map.remove(&key);
        } else {
            map.insert(key, value);
        }
    }
}

impl Incremental {
    /// Decodes an incremental map.
    ///
    /// # Errors
    /// [`DecodeError`] if the bytes are not an incremental map, or one from before Ceph 12, or if their checksum
    /// is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        wrapper::decode(bytes, "OSDMap::Incremental", |r| {
            let mut inc =
                r.versioned("client section of the incremental map", 9, Self::decode_client_section)?;
            r.versioned("OSD section of the incremental map", 12, |r, version| {
                inc.decode_osd_section(r, version)
            })?;
            Ok(inc)
        })
    }

    fn decode_client_section(r: &mut Reader<'_>, version: u8) -> Result<Self, DecodeError> {
        const OLDEST: u8 = 5;
        if version < OLDEST {
            let what = "client section of the incremental map";
            return Err(DecodeError::TooOld { what, version, oldest: OLDEST });
        }
        let fsid = Uuid::decode(r)?;
        let epoch = Epoch::decode(r)?;
        let modified = Utime::decode(r)?;
        let new_pool_max = i64::decode(r)?;
        let new_flags = i32::decode(r)?;
        let full_map = r.bytes("full map in the incremental")?;
        let full_map = if full_map.is_empty() { None } else { Some(Box::new(OsdMap::decode(full_map)?)) };
        let crush = r.bytes("crush map")?;
        let crush = if crush.is_empty() { None } else { Some(Arc::new(CrushMap::decode_from(crush)?)) };
        let new_max_osd = i32::decode(r)?;
        if new_max_osd > MAX_OSDS {
            let value = new_max_osd.unsigned_abs().into();
            return Err(DecodeError::Invalid { what: "new_max_osd", value });
        }
        let mut new_pools = BTreeMap::decode(r)?;
        set_ids(&mut new_pools);
        let new_pool_names = BTreeMap::decode(r)?;
        let old_pools = r.seq("old_pools", PoolId::decode)?;
        let new_up_client = BTreeMap::decode(r)?;
        let new_state = BTreeMap::decode(r)?;
        let new_weight = BTreeMap::decode(r)?;
        let new_pg_temp = r.map("new_pg_temp", decode_osds)?;
        let new_primary_temp = BTreeMap::decode(r)?;
        let new_primary_affinity = BTreeMap::decode(r)?;
        let new_erasure_code_profiles = BTreeMap::decode(r)?;
        let old_erasure_code_profiles = r.seq("old_erasure_code_profiles", String::decode)?;
        let new_pg_upmap = r.map("new_pg_upmap", decode_osds)?;
        let old_pg_upmap = decode_pgs(r)?;
        let new_pg_upmap_items = r.map("new_pg_upmap_items", decode_osd_pairs)?;
        let old_pg_upmap_items = decode_pgs(r)?;
        let (new_removed_snaps, new_purged_snaps) =
            if version >= 6 { Decode::decode(r)? } else { Default::default() };
        let (new_last_up_change, new_last_in_change) =
            if version >= 8 { Decode::decode(r)? } else { Default::default() };
        let (new_pg_upmap_primary, old_pg_upmap_primary) =
            if version >= 9 { (BTreeMap::decode(r)?, decode_pgs(r)?) } else { Default::default() };
        Ok(Self {
            fsid,
            epoch,
            modified,
            full_map,
            crush,
            new_flags: (new_flags >= 0).then_some(MapFlags(new_flags.cast_unsigned())),
            new_max_osd: u32::try_from(new_max_osd).ok(),
            new_pool_max: i32::try_from(new_pool_max).ok().filter(|&max| max != -1),
            new_pools,
            new_pool_names,
            old_pools,
            new_up_client,
            new_state,
            new_weight,
            new_primary_affinity,
            new_pg_temp,
            new_primary_temp,
            new_erasure_code_profiles,
            old_erasure_code_profiles,
            new_pg_upmap,
            old_pg_upmap,
            new_pg_upmap_items,
            old_pg_upmap_items,
            new_pg_upmap_primary,
            old_pg_upmap_primary,
            new_removed_snaps,
            new_purged_snaps,
            new_last_up_change,
            new_last_in_change,
            new_blocklist: BTreeMap::new(),
            old_blocklist: Vec::new(),
            new_range_blocklist: BTreeMap::new(),
            old_range_blocklist: Vec::new(),
            new_nearfull_ratio: -1.0,
            new_backfillfull_ratio: -1.0,
            new_full_ratio: -1.0,
            new_require_min_compat_client: None,
            new_require_osd_release: None,
        })
    }

    /// The section was meant for OSDs, but the blocklist is in it.
    fn decode_osd_section(&mut self, r: &mut Reader<'_>, version: u8) -> Result<(), DecodeError> {
        const OLDEST: u8 = 6;
        if version < OLDEST {
            let what = "OSD section of the incremental map";
            return Err(DecodeError::TooOld { what, version, oldest: OLDEST });
        }
        skip_map::<OsdId, EntityAddrVec>(r, "new_hb_back_up")?;
        skip_map::<OsdId, Epoch>(r, "new_up_thru")?;
        skip_map::<OsdId, (Epoch, Epoch)>(r, "new_last_clean_interval")?;
        skip_map::<OsdId, Epoch>(r, "new_lost")?;
        self.new_blocklist = BTreeMap::decode(r)?;
        self.old_blocklist = r.seq("old_blocklist", EntityAddr::decode)?;
        skip_map::<OsdId, EntityAddrVec>(r, "new_up_cluster")?;
        r.bytes("cluster_snapshot")?;
        skip_map::<OsdId, Uuid>(r, "new_uuid")?;
        r.seq("new_xinfo", |r| {
            OsdId::decode(r)?;
            r.versioned("osd_xinfo_t", 4, |_, _| Ok(()))
        })?;
        skip_map::<OsdId, EntityAddrVec>(r, "new_hb_front_up")?;
        u64::decode(r)?; // encode_features
        self.new_nearfull_ratio = wrapper::f32(r)?;
        self.new_full_ratio = wrapper::f32(r)?;
        self.new_backfillfull_ratio = wrapper::f32(r)?;
        self.new_require_min_compat_client = decode_new_release(r)?;
        self.new_require_osd_release = decode_new_release(r)?;
        if version >= 8 {
            skip_map::<i32, u32>(r, "new_crush_node_flags")?;
        }
        if version >= 9 {
            skip_map::<i32, u32>(r, "new_device_class_flags")?;
        }
        if version >= 10 {
            r.array::<18>("stretch mode")?;
        }
        if version >= 11 {
            self.new_range_blocklist = BTreeMap::decode(r)?;
            self.old_range_blocklist = r.seq("old_range_blocklist", EntityAddr::decode)?;
        }
        Ok(())
    }
}

fn decode_pgs(r: &mut Reader<'_>) -> Result<Vec<PgId>, DecodeError> {
    r.seq("PGs", PgId::decode)
}

/// A number that is negative in 8 bits is no change.
fn decode_new_release(r: &mut Reader<'_>) -> Result<Option<Release>, DecodeError> {
    Ok(Some(Release::decode(r)?).filter(|release| release.0 < 0x80))
}
