//! What goes wrong, when, and how it is put right again.

use ceph_codec::{OsdId, PgId};

use crate::cluster::Daemon;
use crate::map::{ONE, flag, pool_flag};
use crate::net::{Weather, client_ip};
use crate::world::{Event, Millis, World};

/// What may go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// An OSD dies, and is started again later.
    KillOsd,
    /// An OSD stops for a while without dying.
    FreezeOsd,
    /// An OSD is marked down that runs.
    FalselyDown,
    /// The primary changes and changes back, in two epochs at once.
    ThereAndBack,
    /// An OSD goes down and comes back at once, in two epochs.
    Blink,
    /// Another acting set for a while.
    PgTemp,
    /// Data moves.
    Reweight,
    /// Twice as many placement groups.
    Split,
    /// Half as many placement groups.
    Merge,
    /// Clients have to send everything again.
    ForceResend,
    /// Reads or writes have to wait.
    Pause,
    /// The pool is full.
    Full,
    /// Maps that nothing happens in, more than fit a message.
    Churn,
    /// Old maps are forgotten.
    Trim,
    /// A monitor dies, and is started again later.
    KillMon,
    /// All monitors die.
    KillAllMons,
    /// A monitor is replaced by one at another address.
    MoveMon,
    /// The second pool is removed.
    DeletePool,
    /// A client and some daemons cannot reach each other.
    Partition,
    /// All connections break.
    ResetAll,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 20] = [
        Self::KillOsd,
        Self::FreezeOsd,
        Self::FalselyDown,
        Self::ThereAndBack,
        Self::Blink,
        Self::PgTemp,
        Self::Reweight,
        Self::Split,
        Self::Merge,
        Self::ForceResend,
        Self::Pause,
        Self::Full,
        Self::Churn,
        Self::Trim,
        Self::KillMon,
        Self::KillAllMons,
        Self::MoveMon,
        Self::DeletePool,
        Self::Partition,
        Self::ResetAll,
    ];
}

#[derive(Debug)]
pub(crate) enum FaultEvent {
    Next { faults: Vec<Fault>, pause: Millis, until: Millis },
    Unpause,
    NotFull,
    NoPgTemp { pg: PgId },
    FinishMerge,
    FinishSplit,
}

impl World {
    /// Lets faults happen about every `pause` milliseconds for `length` milliseconds, each one of `faults`.
    pub fn begin_faults(&mut self, faults: &[Fault], pause: Millis, length: Millis, weather: Weather) {
        self.net.weather = weather;
        let faults = faults.to_vec();
        let until = self.now + length;
        self.schedule(pause, Event::Fault(FaultEvent::Next { faults, pause, until }));
    }

    pub(crate) fn on_fault(&mut self, event: FaultEvent) {
        match event {
            FaultEvent::Next { faults, pause, until } => {
                if self.now >= until || self.cluster.healthy || faults.is_empty() {
                    return;
                }
                let fault = self.fault_rng.pick(&faults);
                self.inflict(fault);
                let delay = self.fault_rng.range(0..2 * pause) + 1;
                self.schedule(delay, Event::Fault(FaultEvent::Next { faults, pause, until }));
            }
            FaultEvent::Unpause => {
                if self.cluster.map.flags & (flag::PAUSE_RD | flag::PAUSE_WR) != 0 {
                    self.new_epoch(|map| map.flags &= !(flag::PAUSE_RD | flag::PAUSE_WR));
                }
            }
            FaultEvent::NotFull => self.set_full(false, 0),
            FaultEvent::NoPgTemp { pg } => {
                if self.cluster.map.pg_temp.contains_key(&pg) {
                    self.new_epoch(|map| drop(map.pg_temp.remove(&pg)));
                }
            }
            FaultEvent::FinishSplit => {
                let pool = self.cluster.pool();
                self.new_epoch(|map| {
                    let pool = map.pools.get_mut(&pool).expect("never removed");
                    pool.pgp_num = pool.pg_num;
                });
            }
            FaultEvent::FinishMerge => {
                let pool = self.cluster.pool();
                let half = self.cluster.map.pools[&pool].pg_num_pending;
                if half == self.cluster.map.pools[&pool].pg_num {
                    return;
                }
                self.new_epoch(|map| {
                    let epoch = map.epoch;
                    map.pg_temp.retain(|pg, _| pg.seed < half);
                    map.primary_temp.retain(|pg, _| pg.seed < half);
                    let pool = map.pools.get_mut(&pool).expect("never removed");
                    pool.pg_num = half;
                    pool.last_force_op_resend = epoch;
                });
            }
        }
    }

    fn some_pg(&mut self) -> PgId {
        let pool = self.cluster.pool();
        let seed = self.fault_rng.range(0..self.cluster.map.pools[&pool].pg_num.into());
        PgId { pool, seed: u32::try_from(seed).expect("below pg_num") }
    }

    fn set_full(&mut self, full: bool, flags: u64) {
        let pool = self.cluster.pool();
        let was = self.cluster.map.pools[&pool].flags & pool_flag::FULL != 0;
        if was == full {
            return;
        }
        self.new_epoch(|map| {
            let pool = map.pools.get_mut(&pool).expect("never removed");
            pool.flags &= !(pool_flag::FULL | pool_flag::FULL_QUOTA);
            pool.flags |= flags;
        });
    }

    /// Lets a fault happen now.
    pub fn inflict(&mut self, fault: Fault) {
        self.note(format_args!("fault {fault:?}"));
        let osds = self.cluster.osds.len();
        let osd = self.fault_rng.index(osds);
        let mon = self.fault_rng.index(self.cluster.mons.len());
        let later = self.fault_rng.range(50..15_000);
        match fault {
            Fault::KillOsd => {
                // A second one may be down, but not all.
                if self.cluster.running_osds().len() > 2 && self.cluster.osds[osd].alive {
                    self.kill_osd(osd);
                    self.start_osd(osd, later);
                }
            }
            Fault::FreezeOsd => self.freeze_osd(osd, later + 2000),
            Fault::FalselyDown => {
                if self.cluster.map.osds[osd].up {
                    self.mark_down(osd);
                }
            }
            Fault::ThereAndBack => {
                let pg = self.some_pg();
                let epoch = self.cluster.epoch();
                let acting = self.cluster.pg(epoch, pg).map(|info| info.acting.clone()).unwrap_or_default();
                if let Some(&last) = acting.last() {
                    let before = self.cluster.map.primary_temp.get(&pg).copied();
                    self.new_epoch(|map| map.primary_temp.extend([(pg, last)]));
                    self.new_epoch(|map| {
                        map.primary_temp.remove(&pg);
                        map.primary_temp.extend(before.map(|osd| (pg, osd)));
                    });
                }
            }
            Fault::Blink => {
                if self.cluster.map.osds[osd].up && self.cluster.osds[osd].alive {
                    let addr = self.cluster.osds[osd].addr;
                    self.mark_down(osd);
                    self.new_epoch(|map| {
                        map.osds[osd].up = true;
                        map.osds[osd].addr = addr;
                    });
                }
            }
            Fault::PgTemp => {
                let pg = self.some_pg();
                let size = usize::from(self.cluster.config.size);
                let other = |i: usize| OsdId(i32::try_from((osd + i) % osds).expect("few OSDs"));
                let temp: Vec<OsdId> = (0..size).map(other).collect();
                self.new_epoch(|map| drop(map.pg_temp.insert(pg, temp)));
                self.schedule(later, Event::Fault(FaultEvent::NoPgTemp { pg }));
            }
            Fault::Reweight => {
                let weight = self.fault_rng.pick(&[0, 0x8000, ONE]);
                if self.fault_rng.percent(50) {
                    self.new_epoch(|map| map.osds[osd].weight = weight.max(0x4000));
                } else {
                    self.new_epoch(|map| map.osds[osd].primary_affinity = weight);
                }
            }
            Fault::Split => self.split(),
            Fault::Merge => {
                let pool = self.cluster.pool();
                if self.cluster.map.pools[&pool].pg_num < 4 {
                    return;
                }
                self.new_epoch(|map| {
                    let pool = map.pools.get_mut(&pool).expect("never removed");
                    pool.pg_num_pending = pool.pg_num / 2;
                    pool.pgp_num = pool.pg_num / 2;
                });
                self.schedule(later / 4, Event::Fault(FaultEvent::FinishMerge));
            }
            Fault::ForceResend => {
                let pool = self.cluster.pool();
                self.new_epoch(|map| {
                    let epoch = map.epoch;
                    map.pools.get_mut(&pool).expect("never removed").last_force_op_resend = epoch;
                });
            }
            Fault::Pause => {
                let flags =
                    self.fault_rng.pick(&[flag::PAUSE_RD, flag::PAUSE_WR, flag::PAUSE_RD | flag::PAUSE_WR]);
                self.new_epoch(|map| map.flags |= flags);
                self.schedule(later / 2, Event::Fault(FaultEvent::Unpause));
            }
            Fault::Full => {
                let flags = self.fault_rng.pick(&[pool_flag::FULL, pool_flag::FULL | pool_flag::FULL_QUOTA]);
                self.set_full(true, flags);
                self.schedule(later / 2, Event::Fault(FaultEvent::NotFull));
            }
            Fault::Churn => {
                for _ in 0..self.fault_rng.range(2..60) {
                    self.new_epoch(|_| {});
                }
            }
            Fault::Trim => {
                if self.fault_rng.percent(60) {
                    // What nobody will be told of: the epochs are gone before they are published.
                    let unseen = self.fault_rng.pick(&[Fault::ThereAndBack, Fault::Blink]);
                    self.inflict(unseen);
                    return self.trim_maps(0);
                }
                let keep = self.fault_rng.range(0..6);
                self.trim_maps(u32::try_from(keep).expect("below 6"));
            }
            Fault::KillMon => {
                if self.cluster.mons[mon].alive {
                    self.kill_mon(mon);
                    self.start_mon(mon, later);
                }
            }
            Fault::KillAllMons => {
                for mon in 0..self.cluster.mons.len() {
                    if self.cluster.mons[mon].alive {
                        self.kill_mon(mon);
                        let delay = later + self.fault_rng.range(0..3000);
                        self.start_mon(mon, delay);
                    }
                }
            }
            Fault::MoveMon => {
                let port = self.fault_rng.pick(&[3300, 3301, 3302]);
                self.move_mon(mon, port);
            }
            Fault::DeletePool => {
                let doomed = self.cluster.map.pools.keys().copied().next_back();
                if let Some(doomed) = doomed.filter(|doomed| *doomed != self.cluster.pool()) {
                    self.new_epoch(|map| drop(map.pools.remove(&doomed)));
                }
            }
            Fault::Partition => {
                let client = self.fault_rng.index(2);
                for mon in 0..self.cluster.mons.len() {
                    self.cut_off(client, Daemon::Mon(mon), later);
                }
                for osd in 0..osds {
                    self.cut_off(client, Daemon::Osd(osd), later);
                }
            }
            Fault::ResetAll => {
                for conn in self.net.conns.keys().copied().collect::<Vec<_>>() {
                    self.reset(conn);
                }
            }
        }
    }

    fn cut_off(&mut self, client: usize, daemon: Daemon, length: Millis) {
        if self.fault_rng.percent(40) {
            self.note(format_args!("{} and {daemon} cut off for {length} ms", client_ip(client)));
            self.net.partitions.insert((client, daemon), self.now + length);
        }
    }

    fn split(&mut self) {
        let pool = self.cluster.pool();
        let MapSize { pg_num, pending } = self.sizes();
        if pg_num > 32 || pending != pg_num {
            return;
        }
        self.new_epoch(|map| {
            let pool = map.pools.get_mut(&pool).expect("never removed");
            pool.pg_num *= 2;
            pool.pg_num_pending = pool.pg_num;
        });
        let delay = self.fault_rng.range(0..5000);
        self.schedule(delay, Event::Fault(FaultEvent::FinishSplit));
    }

    fn sizes(&self) -> MapSize {
        let pool = &self.cluster.map.pools[&self.cluster.pool()];
        MapSize { pg_num: pool.pg_num, pending: pool.pg_num_pending }
    }

    /// Puts everything right. From here on nothing goes wrong.
    pub fn heal(&mut self) {
        self.note(format_args!("healed"));
        self.cluster.healthy = true;
        self.net.calm();
        for osd in 0..self.cluster.osds.len() {
            self.cluster.osds[osd].frozen_until = self.now;
            if !self.cluster.osds[osd].alive {
                self.start_osd(osd, 0);
            }
        }
        for mon in 0..self.cluster.mons.len() {
            self.cluster.mons[mon].frozen_until = self.now;
            self.move_mon(mon, 3300);
            if !self.cluster.mons[mon].alive {
                self.start_mon(mon, 0);
            }
        }
        let pool = self.cluster.pool();
        let addrs: Vec<_> = self.cluster.osds.iter().map(|osd| osd.alive.then_some(osd.addr)).collect();
        self.new_epoch(|map| {
            map.flags &= !(flag::PAUSE_RD | flag::PAUSE_WR | flag::FULL);
            map.pg_temp.clear();
            map.primary_temp.clear();
            let pool = map.pools.get_mut(&pool).expect("never removed");
            pool.flags &= !(pool_flag::FULL | pool_flag::FULL_QUOTA);
            for (osd, addr) in map.osds.iter_mut().zip(addrs) {
                osd.weight = ONE;
                if let Some(addr) = addr {
                    osd.up = true;
                    osd.addr = addr;
                }
            }
        });
    }
}

struct MapSize {
    pg_num: u32,
    pending: u32,
}
