//! What the whole cluster has in common: its maps, where placement groups are, and what is stored.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use ceph_codec::{EntityAddr, EntityType, Epoch, GlobalId, OsdId, PgId, PoolId, Uuid};
use ceph_msgr::{ServerConfig, features};
use ceph_osdmap::OsdMap;

use crate::auth::Auth;
use crate::map::{ClusterMap, flag, pool_flag};
use crate::mon::Mon;
use crate::osd::Osd;
use crate::store::Store;
use crate::world::{Millis, World};

/// The name of the pool that workloads write to.
pub const POOL: &str = "data";
/// The name of a pool that may be removed at any time.
pub const DOOMED_POOL: &str = "doomed";

/// What kind of cluster to simulate.
#[derive(Debug, Clone)]
pub struct Config {
    /// Number of OSDs.
    pub osds: usize,
    /// Number of monitors.
    pub mons: usize,
    /// Copies of everything.
    pub size: u8,
    /// Placement groups of the pool.
    pub pg_num: u32,
    /// Lifetime of tickets in seconds; `None` is a cluster without authentication.
    pub ticket_secs: Option<u32>,
    /// Whether connections are encrypted, which needs tickets.
    pub secure: bool,
    /// What the OSDs do wrong, to see that it is found.
    pub mutation: Option<Mutation>,
    /// Requests to OSDs that a client may have under way at a time, if fewer than by default.
    pub max_ops: Option<u64>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            osds: 5,
            mons: 3,
            size: 2,
            pg_num: 8,
            ticket_secs: None,
            secure: false,
            mutation: None,
            max_ops: None,
        }
    }
}

/// What a wrong cluster does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    /// Applies a write again that it has already applied.
    ForgetsRequests,
    /// Acknowledges a write now and then without applying it.
    LosesWrites,
    /// Applies the younger of two writes first now and then.
    ReordersWrites,
    /// Reads now and then what was there a while ago.
    ServesStaleReads,
    /// Never answers a request now and then.
    SwallowsRequests,
}

/// A process of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Daemon {
    /// A monitor by rank.
    Mon(usize),
    /// An OSD by number.
    Osd(usize),
}

impl fmt::Display for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mon(rank) => write!(f, "mon.{rank}"),
            Self::Osd(id) => write!(f, "osd.{id}"),
        }
    }
}

/// See the [module](self).
#[derive(Debug)]
pub struct Cluster {
    /// As it was made.
    pub config: Config,
    /// The newest map.
    pub map: ClusterMap,
    pub(crate) epochs: BTreeMap<Epoch, EpochInfo>,
    /// Maps before this one are gone.
    pub(crate) oldest: Epoch,
    pub(crate) mons: Vec<Mon>,
    pub(crate) monmap_epoch: Epoch,
    pub(crate) osds: Vec<Osd>,
    /// The interval in which each placement group last became active, and its primary: who is older can
    /// neither write nor read.
    pub(crate) active: BTreeMap<PgId, (Epoch, usize)>,
    /// What is stored.
    pub store: Store,
    pub(crate) auth: Auth,
    /// Whether faults are over.
    pub(crate) healthy: bool,
}

/// One map and what follows from it.
#[derive(Debug)]
pub(crate) struct EpochInfo {
    pub(crate) full: Bytes,
    pub(crate) incremental: Option<Bytes>,
    pub(crate) map: Arc<OsdMap>,
    pub(crate) pgs: BTreeMap<PgId, PgInfo>,
    /// Of each pool, the last epoch in which it became full.
    pub(crate) marked_full: BTreeMap<PoolId, Epoch>,
}

/// Where a placement group is, and since when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PgInfo {
    pub(crate) up: Vec<OsdId>,
    pub(crate) acting: Vec<OsdId>,
    pub(crate) primary: Option<OsdId>,
    up_primary: Option<OsdId>,
    size: u8,
    min_size: u8,
    /// Ceph: `same_interval_since`.
    pub(crate) interval: Epoch,
    /// Ceph: `same_primary_since`.
    pub(crate) primary_since: Epoch,
    /// Ceph: `last_epoch_split`.
    pub(crate) split: Epoch,
}

/// The address of an OSD that was started `generation` times before.
#[must_use]
pub fn osd_addr(osd: usize, generation: u32) -> EntityAddr {
    let ip = IpAddr::V4(Ipv4Addr::new(10, 0, 1, u8::try_from(osd).expect("few OSDs")));
    let port = 6800 + u16::try_from(generation % 1000).expect("below 1000");
    EntityAddr { nonce: generation + 1, ..EntityAddr::msgr2(SocketAddr::new(ip, port)) }
}

/// The address of a monitor.
#[must_use]
pub fn mon_addr(rank: usize) -> EntityAddr {
    let ip = IpAddr::V4(Ipv4Addr::new(10, 0, 0, u8::try_from(rank + 1).expect("few monitors")));
    EntityAddr::msgr2(SocketAddr::new(ip, 3300))
}

impl Cluster {
    pub(crate) fn new(seed: u64, config: Config) -> Self {
        let mut map = ClusterMap::new(Uuid([0x5a; 16]), config.osds, |osd| osd_addr(osd, 0));
        map.add_pool(POOL, config.size, config.pg_num);
        map.add_pool(DOOMED_POOL, config.size, 2);
        let mons = (0..config.mons).map(|rank| Mon::new(mon_addr(rank))).collect();
        let osds = (0..config.osds).map(|osd| Osd::new(osd_addr(osd, 0))).collect();
        let auth = Auth::new(seed, &config);
        let mut cluster = Self {
            config,
            map,
            epochs: BTreeMap::new(),
            oldest: Epoch(1),
            mons,
            monmap_epoch: Epoch(1),
            osds,
            active: BTreeMap::new(),
            store: Store::default(),
            auth,
            healthy: false,
        };
        cluster.remember(None);
        cluster
    }

    /// Whether there is such a pool.
    #[must_use]
    pub fn has_pool(&self, pool: PoolId) -> bool {
        self.map.pools.contains_key(&pool)
    }

    /// Whether faults are over.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.healthy
    }

    /// The newest epoch.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.map.epoch
    }

    /// Encodes the newest map and finds out where everything is.
    fn remember(&mut self, before: Option<&ClusterMap>) {
        let full: Bytes = self.map.encode().into();
        let map = Arc::new(OsdMap::decode(&full).expect("what is encoded here can be decoded"));
        let incremental = before.map(|before| Bytes::from(self.map.encode_incremental(before)));
        let epoch = self.map.epoch;
        let last = before.and_then(|before| self.epochs.get(&before.epoch).map(|info| (before, info)));
        let mut pgs = BTreeMap::new();
        let mut marked_full = last.map(|(_, info)| info.marked_full.clone()).unwrap_or_default();
        for (id, pool) in &self.map.pools {
            let was_full = before
                .and_then(|before| before.pools.get(id))
                .is_some_and(|p| p.flags & pool_flag::FULL != 0);
            if pool.flags & pool_flag::FULL != 0 && !was_full {
                marked_full.insert(*id, epoch);
            }
            for seed in 0..pool.pg_num {
                let pg = PgId { pool: *id, seed };
                let at = map.placement(pg);
                let mut info = PgInfo {
                    up: at.up,
                    acting: at.acting,
                    primary: at.acting_primary,
                    up_primary: at.up_primary,
                    size: pool.size,
                    min_size: pool.min_size,
                    interval: epoch,
                    primary_since: epoch,
                    split: Epoch(0),
                };
                if let Some((before, last)) = last
                    && let Some(old_pool) = before.pools.get(id)
                {
                    let parent = last.map.pool(*id).map_or(pg, |pool| pool.raw_to_pg(seed));
                    let changed_num = pool.pg_num != old_pool.pg_num
                        && (parent != pg
                            || ceph_osdmap::pg_was_split_or_merged(pg, old_pool.pg_num, pool.pg_num));
                    if let Some(old) = last.pgs.get(&parent) {
                        info.split = if changed_num { epoch } else { old.split };
                        if old.primary == info.primary {
                            info.primary_since = old.primary_since;
                        }
                        let same =
                            (&old.up, &old.acting, old.primary, old.up_primary, old.size, old.min_size)
                                == (
                                    &info.up,
                                    &info.acting,
                                    info.primary,
                                    info.up_primary,
                                    info.size,
                                    info.min_size,
                                );
                        if same && !changed_num {
                            info.interval = old.interval;
                        }
                    }
                }
                pgs.insert(pg, info);
            }
        }
        self.epochs.insert(epoch, EpochInfo { full, incremental, map, pgs, marked_full });
    }

    pub(crate) fn info(&self, epoch: Epoch) -> Option<&EpochInfo> {
        self.epochs.get(&epoch)
    }

    pub(crate) fn pg(&self, epoch: Epoch, pg: PgId) -> Option<&PgInfo> {
        self.epochs.get(&epoch)?.pgs.get(&pg)
    }

    /// The pool's number.
    #[must_use]
    pub fn pool(&self) -> PoolId {
        *self.map.pools.keys().next().expect("the pool of the workload is never removed")
    }

    /// What makes clients of a full cluster wait.
    pub(crate) fn is_full(map: &OsdMap, pool: PoolId) -> bool {
        let cluster = map.flags().0 & flag::FULL != 0;
        cluster || map.pool(pool).is_some_and(|pool| pool.flags.0 & pool_flag::FULL != 0)
    }

    /// OSDs whose processes run.
    pub(crate) fn running_osds(&self) -> BTreeSet<usize> {
        self.osds.iter().enumerate().filter(|(_, osd)| osd.alive).map(|(i, _)| i).collect()
    }
}

impl World {
    /// Starts all daemons.
    pub(crate) fn boot(&mut self) {
        for osd in 0..self.cluster.osds.len() {
            self.osd_started(osd);
        }
        self.rotate_secrets();
    }

    /// Publishes a new map: monitors and OSDs learn of it, each in its own time.
    pub fn new_epoch(&mut self, change: impl FnOnce(&mut ClusterMap)) {
        let before = self.cluster.map.clone();
        let date = self.date();
        let map = &mut self.cluster.map;
        map.next_epoch(date);
        change(map);
        let epoch = map.epoch;
        if map.crush_weights != before.crush_weights {
            map.crush_version += 1;
        }
        for (id, pool) in &mut map.pools {
            if before.pools.get(id) != Some(pool) {
                pool.last_change = epoch;
            }
        }
        self.cluster.remember(Some(&before));
        self.note(format_args!("epoch {epoch}"));
        self.publish(epoch);
    }

    fn publish(&mut self, epoch: Epoch) {
        for mon in 0..self.cluster.mons.len() {
            let lag = self.rng.range(0..if self.cluster.healthy { 10 } else { 400 });
            self.tell_mon_of_map(mon, epoch, lag);
        }
        for osd in 0..self.cluster.osds.len() {
            let lag = self.rng.range(0..if self.cluster.healthy { 20 } else { 1500 });
            self.tell_osd_of_map(osd, epoch, lag);
        }
    }

    /// Forgets all maps but the newest ones.
    pub(crate) fn trim_maps(&mut self, keep: u32) {
        let newest = self.cluster.epoch();
        self.cluster.oldest = self.cluster.oldest.max(Epoch(newest.0.saturating_sub(keep).max(1)));
        let oldest = self.cluster.oldest;
        self.note(format_args!("maps before {oldest} trimmed"));
    }

    pub(crate) fn daemon_at(&self, addr: SocketAddr) -> Option<Daemon> {
        let mons = self.cluster.mons.iter().enumerate();
        let mon =
            mons.filter(|(_, mon)| mon.alive && mon.addr.addr == Some(addr)).map(|(i, _)| Daemon::Mon(i));
        let osds = self.cluster.osds.iter().enumerate();
        let osd =
            osds.filter(|(_, osd)| osd.alive && osd.addr.addr == Some(addr)).map(|(i, _)| Daemon::Osd(i));
        mon.chain(osd).next()
    }

    pub(crate) fn frozen_until(&self, daemon: Daemon) -> Millis {
        match daemon {
            Daemon::Mon(rank) => self.cluster.mons[rank].frozen_until,
            Daemon::Osd(id) => self.cluster.osds[id].frozen_until,
        }
    }

    pub(crate) fn server_config(&self, daemon: Daemon, client_addr: EntityAddr) -> ServerConfig {
        let (kind, id, addr) = match daemon {
            Daemon::Mon(rank) => (EntityType::MON, rank, self.cluster.mons[rank].addr),
            Daemon::Osd(id) => (EntityType::OSD, id, self.cluster.osds[id].addr),
        };
        ServerConfig {
            kind,
            id: GlobalId(id as u64),
            addrs: addr.into(),
            client_addr,
            features: features::SUPPORTED,
        }
    }
}
