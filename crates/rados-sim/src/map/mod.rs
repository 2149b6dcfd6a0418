//! The monitors' own copy of the OSDMap, with what the encoders need.
//!
//! Placement is never computed from this: daemons of the simulation decode what clients decode.

mod encode;

use std::collections::BTreeMap;

use ceph_codec::{EntityAddr, Epoch, OsdId, PgId, PoolId, SnapId, Utime, Uuid};

/// A map of a cluster, all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterMap {
    /// The cluster.
    pub fsid: Uuid,
    /// The version of this map.
    pub epoch: Epoch,
    /// When it was made.
    pub modified: Utime,
    /// Pools by number.
    pub pools: BTreeMap<PoolId, MapPool>,
    /// The largest number that a pool ever had.
    pub pool_max: i32,
    /// `CEPH_OSDMAP_*`.
    pub flags: u32,
    /// OSDs by number.
    pub osds: Vec<MapOsd>,
    /// Temporary acting sets.
    pub pg_temp: BTreeMap<PgId, Vec<OsdId>>,
    /// Temporary primaries.
    pub primary_temp: BTreeMap<PgId, OsdId>,
    /// Exceptions to CRUSH.
    pub pg_upmap_items: BTreeMap<PgId, Vec<(OsdId, OsdId)>>,
    /// How often the hierarchy changed.
    pub crush_version: u32,
    /// Weights of the OSDs in the only bucket, 16.16 fixed point.
    pub crush_weights: Vec<u32>,
    /// Clients refused, until when.
    pub blocklist: BTreeMap<EntityAddr, Utime>,
    /// Ranges of addresses refused, until when.
    pub range_blocklist: BTreeMap<EntityAddr, Utime>,
    /// Snapshots removed in this epoch.
    pub new_removed_snaps: BTreeMap<PoolId, Vec<(SnapId, u64)>>,
}

/// One OSD in the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapOsd {
    /// Whether it runs.
    pub up: bool,
    /// 16.16 fixed point; 0 is out.
    pub weight: u32,
    /// 16.16 fixed point.
    pub primary_affinity: u32,
    /// Where it serves clients.
    pub addr: EntityAddr,
}

/// A replicated pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapPool {
    /// Its name.
    pub name: String,
    /// Copies.
    pub size: u8,
    /// Copies without which a placement group serves nobody.
    pub min_size: u8,
    /// Number of placement groups.
    pub pg_num: u32,
    /// Number of placement groups as far as placement is concerned.
    pub pgp_num: u32,
    /// Number of placement groups that a pending merge leads to.
    pub pg_num_pending: u32,
    /// The epoch in which the pool last changed.
    pub last_change: Epoch,
    /// `pg_pool_t::FLAG_*`.
    pub flags: u64,
    /// Limit in bytes; 0 is none.
    pub quota_max_bytes: u64,
    /// The last epoch in which clients had to send everything again.
    pub last_force_op_resend: Epoch,
    /// The pool to send reads to, or -1.
    pub read_tier: PoolId,
    /// The pool to send writes to, or -1.
    pub write_tier: PoolId,
}

/// 1.0 in weights and affinities.
pub const ONE: u32 = 0x1_0000;

impl ClusterMap {
    /// Epoch 1 of a cluster of `osds` OSDs at `addr_of`, all up and in, and no pools.
    #[must_use]
    pub fn new(fsid: Uuid, osds: usize, addr_of: impl Fn(usize) -> EntityAddr) -> Self {
        let osd = |i| MapOsd { up: true, weight: ONE, primary_affinity: ONE, addr: addr_of(i) };
        Self {
            fsid,
            epoch: Epoch(1),
            modified: Utime { sec: 1, nsec: 0 },
            pools: BTreeMap::new(),
            pool_max: 0,
            flags: flag::SORTBITWISE | flag::RECOVERY_DELETES | flag::PGLOG_HARDLIMIT | flag::PURGED_SNAPDIRS,
            osds: (0..osds).map(osd).collect(),
            pg_temp: BTreeMap::new(),
            primary_temp: BTreeMap::new(),
            pg_upmap_items: BTreeMap::new(),
            crush_version: 1,
            crush_weights: vec![ONE; osds],
            blocklist: BTreeMap::new(),
            range_blocklist: BTreeMap::new(),
            new_removed_snaps: BTreeMap::new(),
        }
    }

    /// Adds a pool and returns its number.
    pub fn add_pool(&mut self, name: &str, size: u8, pg_num: u32) -> PoolId {
        self.pool_max += 1;
        let id = PoolId(self.pool_max.into());
        let pool = MapPool {
            name: name.to_owned(),
            size,
            min_size: 1,
            pg_num,
            pgp_num: pg_num,
            pg_num_pending: pg_num,
            last_change: self.epoch,
            flags: pool_flag::HASHPSPOOL | pool_flag::SELFMANAGED_SNAPS,
            quota_max_bytes: 0,
            last_force_op_resend: Epoch(0),
            read_tier: PoolId(-1),
            write_tier: PoolId(-1),
        };
        self.pools.insert(id, pool);
        id
    }

    /// Begins the next epoch.
    pub fn next_epoch(&mut self, now: Utime) {
        self.epoch = self.epoch.next();
        self.modified = now;
        self.new_removed_snaps.clear();
    }
}

/// Ceph: `CEPH_OSDMAP_*` in `src/include/rados.h`.
pub mod flag {
    #![expect(missing_docs, reason = "Ceph's names")]
    pub const FULL: u32 = 1 << 1;
    pub const PAUSE_RD: u32 = 1 << 2;
    pub const PAUSE_WR: u32 = 1 << 3;
    pub const SORTBITWISE: u32 = 1 << 15;
    pub const RECOVERY_DELETES: u32 = 1 << 19;
    pub const PURGED_SNAPDIRS: u32 = 1 << 20;
    pub const PGLOG_HARDLIMIT: u32 = 1 << 22;
}

/// Ceph: `pg_pool_t::FLAG_*` in `src/osd/osd_types.h`.
pub mod pool_flag {
    #![expect(missing_docs, reason = "Ceph's names")]
    pub const HASHPSPOOL: u64 = 1;
    pub const FULL: u64 = 1 << 1;
    pub const FULL_QUOTA: u64 = 1 << 10;
    pub const SELFMANAGED_SNAPS: u64 = 1 << 13;
    pub const EIO: u64 = 1 << 16;
}
