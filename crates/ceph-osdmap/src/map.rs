//! The full map.

use std::collections::BTreeMap;
use std::sync::Arc;

use ceph_codec::{
    Decode, DecodeError, EntityAddr, EntityAddrVec, Epoch, OsdId, PgId, PoolId, Reader, Utime, Uuid,
};
use crush::CrushMap;

use crate::wrapper::{self, skip_map, skip_seq};
use crate::{Blocklist, MapFlags, OsdState, Pool, Release, SnapIntervals};

/// The state of a cluster in one epoch, as far as clients need it.
///
/// The default is the map of no cluster at epoch 0, which has nothing.
///
/// Ceph: `OSDMap` in `src/osd/OSDMap.h`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct OsdMap {
    pub(crate) fsid: Uuid,
    pub(crate) epoch: Epoch,
    pub(crate) created: Utime,
    pub(crate) modified: Utime,
    pub(crate) pools: BTreeMap<PoolId, Pool>,
    pub(crate) pool_max: i32,
    pub(crate) flags: MapFlags,
    /// By number; as long as [`osd_weights`](Self::osd_weights).
    pub(crate) osds: Vec<Osd>,
    /// Apart from the rest because CRUSH wants them in one piece.
    pub(crate) osd_weights: Vec<u32>,
    pub(crate) pg_temp: BTreeMap<PgId, Vec<OsdId>>,
    pub(crate) primary_temp: BTreeMap<PgId, OsdId>,
    pub(crate) crush: Arc<CrushMap>,
    pub(crate) crush_version: u32,
    pub(crate) erasure_code_profiles: BTreeMap<String, ErasureCodeProfile>,
    pub(crate) pg_upmap: BTreeMap<PgId, Vec<OsdId>>,
    pub(crate) pg_upmap_items: BTreeMap<PgId, Vec<(OsdId, OsdId)>>,
    pub(crate) pg_upmap_primaries: BTreeMap<PgId, OsdId>,
    pub(crate) new_removed_snaps: BTreeMap<PoolId, SnapIntervals>,
    pub(crate) new_purged_snaps: BTreeMap<PoolId, SnapIntervals>,
    pub(crate) last_up_change: Utime,
    pub(crate) last_in_change: Utime,
    pub(crate) blocklist: Blocklist,
    pub(crate) full_ratios: FullRatios,
    pub(crate) require_min_compat_client: Release,
    pub(crate) require_osd_release: Release,
}

/// Parameters of an erasure code by name.
pub type ErasureCodeProfile = BTreeMap<String, String>;

/// One OSD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Osd {
    pub(crate) state: OsdState,
    pub(crate) addrs: EntityAddrVec,
    /// 16.16 fixed point.
    pub(crate) primary_affinity: u32,
}

impl Osd {
    /// 1.0: as likely primary as any.
    pub(crate) const DEFAULT_AFFINITY: u32 = 0x1_0000;
}

impl Default for Osd {
    fn default() -> Self {
        Self {
            state: OsdState::default(),
            addrs: EntityAddrVec::default(),
            primary_affinity: Self::DEFAULT_AFFINITY,
        }
    }
}

/// How full OSDs may be, from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct FullRatios {
    /// From here on the cluster warns.
    pub nearfull: f32,
    /// From here on OSDs refuse backfill.
    pub backfillfull: f32,
    /// From here on OSDs refuse writes.
    pub full: f32,
}

impl OsdMap {
    /// Decodes a full map.
    ///
    /// # Errors
    /// [`DecodeError`] if the bytes are not a map, or one from before Ceph 12, or if their checksum is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        wrapper::decode(bytes, "OSDMap", |r| {
            let mut map = r.versioned("client section of the OSDMap", 10, Self::decode_client_section)?;
            r.versioned("OSD section of the OSDMap", 12, |r, version| map.decode_osd_section(r, version))?;
            Ok(map)
        })
    }

    /// The version of this map.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The cluster.
    #[must_use]
    pub fn fsid(&self) -> Uuid {
        self.fsid
    }

    /// Flags of the whole cluster.
    #[must_use]
    pub fn flags(&self) -> MapFlags {
        self.flags
    }

    /// When the cluster was made.
    #[must_use]
    pub fn created(&self) -> Utime {
        self.created
    }

    /// When this epoch was made.
    #[must_use]
    pub fn modified(&self) -> Utime {
        self.modified
    }

    /// A pool by number.
    #[must_use]
    pub fn pool(&self, id: PoolId) -> Option<&Pool> {
        self.pools.get(&id)
    }

    /// The number of the pool of that name.
    #[must_use]
    pub fn pool_by_name(&self, name: &str) -> Option<PoolId> {
        self.pools.values().find(|pool| pool.name == name).map(|pool| pool.id)
    }

    /// All pools, by number.
    pub fn pools(&self) -> impl Iterator<Item = &Pool> {
        self.pools.values()
    }

    /// OSDs are numbered below this.
    #[must_use]
    pub fn max_osd(&self) -> usize {
        self.osds.len()
    }

    /// Whether the OSD is part of the cluster.
    #[must_use]
    pub fn exists(&self, osd: OsdId) -> bool {
        self.osd(osd).is_some()
    }

    /// Whether the OSD is part of the cluster and runs.
    #[must_use]
    pub fn is_up(&self, osd: OsdId) -> bool {
        self.osd(osd).is_some_and(|osd| osd.state.contains(OsdState::UP))
    }

    /// The addresses at which an OSD serves clients; `None` if it is not part of the cluster or never ran.
    ///
    /// Those of an OSD that is down are the last ones it had.
    #[must_use]
    pub fn osd_addrs(&self, osd: OsdId) -> Option<&EntityAddrVec> {
        self.osd(osd).map(|osd| &osd.addrs).filter(|addrs| !addrs.0.is_empty())
    }

    /// How much of its share of data an OSD takes, 16.16 fixed point: 0 is out, 0x10000 fully in.
    #[must_use]
    pub fn osd_weight(&self, osd: OsdId) -> Option<u32> {
        self.osd_weights.get(usize::try_from(osd.0).ok()?).copied()
    }

    /// Whether the cluster refuses to serve the client at `addr`.
    #[must_use]
    pub fn is_blocklisted(&self, addr: &EntityAddr) -> bool {
        self.blocklist.contains(addr, self.require_osd_release)
    }

    /// All clients that the cluster refuses to serve.
    #[must_use]
    pub fn blocklist(&self) -> &Blocklist {
        &self.blocklist
    }

    /// Snapshots removed in exactly this epoch, by pool: snap contexts must not name them any more.
    #[must_use]
    pub fn new_removed_snaps(&self) -> &BTreeMap<PoolId, SnapIntervals> {
        &self.new_removed_snaps
    }

    /// Snapshots whose data is gone since exactly this epoch, by pool.
    #[must_use]
    pub fn new_purged_snaps(&self) -> &BTreeMap<PoolId, SnapIntervals> {
        &self.new_purged_snaps
    }

    /// The profile of an erasure-coded pool by name.
    #[must_use]
    pub fn erasure_code_profile(&self, name: &str) -> Option<&ErasureCodeProfile> {
        self.erasure_code_profiles.get(name)
    }

    /// How full OSDs may be.
    #[must_use]
    pub fn full_ratios(&self) -> FullRatios {
        self.full_ratios
    }

    /// The oldest release that OSDs may have.
    #[must_use]
    pub fn require_osd_release(&self) -> Release {
        self.require_osd_release
    }

    /// The oldest release that clients may have.
    #[must_use]
    pub fn require_min_compat_client(&self) -> Release {
        self.require_min_compat_client
    }

    /// The hierarchy of OSDs.
    #[must_use]
    pub fn crush(&self) -> &CrushMap {
        &self.crush
    }

    /// The OSD if it is part of the cluster.
    pub(crate) fn osd(&self, osd: OsdId) -> Option<&Osd> {
        let osd = self.osds.get(usize::try_from(osd.0).ok()?)?;
        osd.state.contains(OsdState::EXISTS).then_some(osd)
    }

    fn decode_client_section(r: &mut Reader<'_>, version: u8) -> Result<Self, DecodeError> {
        const OLDEST: u8 = 6;
        if version < OLDEST {
            let what = "client section of the OSDMap";
            return Err(DecodeError::TooOld { what, version, oldest: OLDEST });
        }
        let fsid = Uuid::decode(r)?;
        let epoch = Epoch::decode(r)?;
        let created = Utime::decode(r)?;
        let modified = Utime::decode(r)?;
        let mut pools: BTreeMap<PoolId, Pool> = BTreeMap::decode(r)?;
        let pool_names = BTreeMap::decode(r)?;
        set_ids(&mut pools);
        set_names(&mut pools, pool_names);
        let pool_max = i32::decode(r)?;
        let flags = MapFlags::decode(r)?;

        let max_osd = u32::decode(r)?;
        let states = r.seq("osd_state", OsdState::decode)?;
        let osd_weights = r.seq("osd_weight", u32::decode)?;
        let addrs = r.seq("client_addrs", EntityAddrVec::decode)?;
        let pg_temp = r.map("pg_temp", decode_osds)?;
        let primary_temp = BTreeMap::decode(r)?;
        let mut affinities = r.seq("osd_primary_affinity", u32::decode)?;
        if affinities.is_empty() {
            affinities.resize(states.len(), Osd::DEFAULT_AFFINITY);
        }
        for len in [states.len(), osd_weights.len(), addrs.len(), affinities.len()] {
            if len != max_osd as usize {
                return Err(DecodeError::Invalid { what: "number of OSDs", value: len as u64 });
            }
        }
        let osds = states
            .into_iter()
            .zip(addrs)
            .zip(affinities)
            .map(|((state, addrs), primary_affinity)| Osd { state, addrs, primary_affinity })
            .collect();

        let crush = CrushMap::decode_from(r.bytes("crush map")?)?;
        let erasure_code_profiles = BTreeMap::decode(r)?;
        let pg_upmap = r.map("pg_upmap", decode_osds)?;
        let pg_upmap_items = r.map("pg_upmap_items", decode_osd_pairs)?;
        let crush_version = u32::decode(r)?;
        let (new_removed_snaps, new_purged_snaps) =
            if version >= 7 { Decode::decode(r)? } else { Default::default() };
        let (last_up_change, last_in_change) =
            if version >= 9 { Decode::decode(r)? } else { Default::default() };
        let pg_upmap_primaries = if version >= 10 { BTreeMap::decode(r)? } else { BTreeMap::new() };

        Ok(Self {
            fsid,
            epoch,
            created,
            modified,
            pools,
            pool_max,
            flags,
            osds,
            osd_weights,
            pg_temp,
            primary_temp,
            crush: Arc::new(crush),
            crush_version,
            erasure_code_profiles,
            pg_upmap,
            pg_upmap_items,
            pg_upmap_primaries,
            new_removed_snaps,
            new_purged_snaps,
            last_up_change,
            last_in_change,
            ..Self::default()
        })
    }

    /// The section was meant for OSDs, but the blocklist is in it.
    fn decode_osd_section(&mut self, r: &mut Reader<'_>, version: u8) -> Result<(), DecodeError> {
        const OLDEST: u8 = 5;
        if version < OLDEST {
            return Err(DecodeError::TooOld { what: "OSD section of the OSDMap", version, oldest: OLDEST });
        }
        skip_seq::<EntityAddrVec>(r, "hb_back_addrs")?;
        r.seq("osd_info", |r| r.array::<25>("osd_info_t").map(drop))?;
        self.blocklist.exact = r.seq("blocklist", Decode::decode)?.into_iter().collect();
        skip_seq::<EntityAddrVec>(r, "cluster_addrs")?;
        u32::decode(r)?; // cluster_snapshot_epoch
        r.bytes("cluster_snapshot")?;
        skip_seq::<Uuid>(r, "osd_uuid")?;
        r.seq("osd_xinfo", |r| r.versioned("osd_xinfo_t", 4, |_, _| Ok(())))?;
        skip_seq::<EntityAddrVec>(r, "hb_front_addrs")?;
        self.full_ratios.nearfull = wrapper::f32(r)?;
        self.full_ratios.full = wrapper::f32(r)?;
        self.full_ratios.backfillfull = wrapper::f32(r)?;
        self.require_min_compat_client = Release::decode(r)?;
        self.set_require_osd_release(Release::decode(r)?);
        if version >= 6 {
            skip_map::<PoolId, SnapIntervals>(r, "removed_snaps_queue")?;
        }
        if version >= 8 {
            skip_map::<i32, u32>(r, "crush_node_flags")?;
        }
        if version >= 9 {
            skip_map::<i32, u32>(r, "device_class_flags")?;
        }
        if version >= 10 {
            r.array::<17>("stretch mode")?;
        }
        if version >= 11 {
            self.blocklist.ranges = BTreeMap::decode(r)?;
        }
        Ok(())
    }

    /// Some flags follow from the release, whatever a monitor wrote.
    pub(crate) fn set_require_osd_release(&mut self, release: Release) {
        self.require_osd_release = release;
        if release >= Release::LUMINOUS {
            self.flags = self.flags & !MapFlags::LEGACY_REQUIRE | MapFlags::RECOVERY_DELETES;
        }
        if release >= Release::NAUTILUS {
            self.flags = self.flags | MapFlags::PGLOG_HARDLIMIT;
        }
    }
}

pub(crate) fn decode_osds(r: &mut Reader<'_>) -> Result<Vec<OsdId>, DecodeError> {
    r.seq("OSDs of a PG", OsdId::decode)
}

pub(crate) fn decode_osd_pairs(r: &mut Reader<'_>) -> Result<Vec<(OsdId, OsdId)>, DecodeError> {
    r.seq("upmap items of a PG", Decode::decode)
}

/// On the wire a pool does not know its number.
pub(crate) fn set_ids(pools: &mut BTreeMap<PoolId, Pool>) {
    for (&id, pool) in pools {
        pool.id = id;
    }
}

pub(crate) fn set_names(pools: &mut BTreeMap<PoolId, Pool>, names: BTreeMap<PoolId, String>) {
    for (id, name) in names {
        if let Some(pool) = pools.get_mut(&id) {
            pool.name = name;
        }
    }
}
