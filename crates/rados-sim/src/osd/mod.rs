//! OSDs: processes that die and come back, whose maps lag behind, and that serve the placement groups of
//! which they think they are the primary.
//!
//! Ceph: `src/osd/OSD.cc`, `src/osd/PG.cc`, `src/osd/PrimaryLogPG.cc`.

pub(crate) mod pg;
mod watch;

use std::collections::BTreeMap;

use ceph_codec::{EntityAddr, Epoch, GlobalId, OsdId, PgId};
use ceph_msgr::Message;

use crate::cluster::{Cluster, Daemon, osd_addr};
use crate::map::{flag, pool_flag};
use crate::net::ConnId;
use crate::store::ObjectKey;
use crate::wire::{Backoff, OsdOp, kind, op};
use crate::world::{Event, Millis, World};
use pg::Pg;
use watch::Notify;

#[derive(Debug)]
pub(crate) struct Osd {
    pub(crate) alive: bool,
    pub(crate) addr: EntityAddr,
    pub(crate) frozen_until: Millis,
    /// How often the process was started.
    pub(crate) generation: u32,
    /// The newest map that this OSD has.
    pub(crate) epoch: Epoch,
    sessions: BTreeMap<ConnId, Session>,
    pgs: BTreeMap<PgId, Pg>,
    /// What came from a client whose map was newer, and all that came from the same client since.
    waiting_for_map: Vec<(ConnId, Incoming)>,
    /// Connections of watchers, by object, client and cookie.
    watchers: BTreeMap<(ObjectKey, u64, u64), ConnId>,
    notifies: BTreeMap<u64, Notify>,
    next_id: u64,
}

/// What a client sends to a placement group.
#[derive(Debug)]
enum Incoming {
    Op(OsdOp),
    /// The acknowledgement of a backoff must not overtake what was sent before it.
    BlockAck {
        epoch: Epoch,
        id: u64,
    },
}

impl Incoming {
    fn epoch(&self) -> Epoch {
        match self {
            Self::Op(request) => request.epoch,
            Self::BlockAck { epoch, .. } => *epoch,
        }
    }
}

#[derive(Debug)]
struct Session {
    client: GlobalId,
    addr: EntityAddr,
    /// The newest map that it was sent here.
    epoch: Epoch,
    backoffs: BTreeMap<u64, Held>,
}

/// A backoff as its OSD sees it. It holds requests back until it is lifted *and* the client has acknowledged it:
/// what the client sent before it knew must not overtake what was dropped.
#[derive(Debug)]
struct Held {
    backoff: Backoff,
    acknowledged: bool,
    lifted: bool,
}

#[derive(Debug)]
pub(crate) enum OsdEvent {
    Map {
        osd: usize,
        epoch: Epoch,
    },
    /// The monitors find out that it died.
    Missed {
        osd: usize,
        generation: u32,
    },
    Start {
        osd: usize,
    },
    /// Wrongly marked down, it tells the monitors that it lives.
    Protest {
        osd: usize,
        generation: u32,
    },
    Activate {
        osd: usize,
        generation: u32,
        pg: PgId,
        interval: Epoch,
    },
    Done {
        osd: usize,
        generation: u32,
        pg: PgId,
        interval: Epoch,
        object: ObjectKey,
    },
    Unblock {
        osd: usize,
        generation: u32,
        conn: ConnId,
        id: u64,
    },
    WatchTimeout {
        object: ObjectKey,
        client: u64,
        cookie: u64,
    },
    NotifyTimeout {
        osd: usize,
        generation: u32,
        id: u64,
    },
}

impl Osd {
    pub(crate) fn new(addr: EntityAddr) -> Self {
        Self {
            alive: true,
            addr,
            frozen_until: 0,
            generation: 0,
            epoch: Epoch(1),
            sessions: BTreeMap::new(),
            pgs: BTreeMap::new(),
            waiting_for_map: Vec::new(),
            watchers: BTreeMap::new(),
            notifies: BTreeMap::new(),
            next_id: 1,
        }
    }

    fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}

fn id_of(osd: usize) -> OsdId {
    OsdId(i32::try_from(osd).expect("few OSDs"))
}

impl World {
    pub(crate) fn on_osd_event(&mut self, event: OsdEvent) {
        match event {
            OsdEvent::Map { osd, epoch } => self.osd_map_arrived(osd, epoch),
            OsdEvent::Missed { osd, generation } => {
                let this = &self.cluster.osds[osd];
                let frozen = this.frozen_until > self.now;
                if this.generation == generation && (!this.alive || frozen) && self.cluster.map.osds[osd].up {
                    self.mark_down(osd);
                }
            }
            OsdEvent::Start { osd } => self.start_osd_now(osd),
            OsdEvent::Protest { osd, generation } => {
                let this = &self.cluster.osds[osd];
                if this.alive && this.generation == generation && !self.cluster.map.osds[osd].up {
                    let addr = this.addr;
                    self.new_epoch(|map| {
                        map.osds[osd].up = true;
                        map.osds[osd].addr = addr;
                    });
                }
            }
            OsdEvent::Activate { osd, generation, pg, interval } => {
                self.activate(osd, generation, pg, interval)
            }
            OsdEvent::Done { osd, generation, pg, interval, object } => {
                self.op_done(osd, generation, pg, interval, object);
            }
            OsdEvent::Unblock { osd, generation, conn, id } => {
                if self.cluster.osds[osd].generation == generation {
                    self.unblock(osd, conn, id);
                }
            }
            OsdEvent::WatchTimeout { object, client, cookie } => self.watch_timeout(object, client, cookie),
            OsdEvent::NotifyTimeout { osd, generation, id } => {
                if self.cluster.osds[osd].generation == generation {
                    self.complete_notify(osd, id, true);
                }
            }
        }
    }

    // Life and death.

    /// The process is gone; the monitors notice some time later.
    pub(crate) fn kill_osd(&mut self, osd: usize) {
        self.note(format_args!("osd.{osd} killed"));
        let this = &mut self.cluster.osds[osd];
        this.alive = false;
        let generation = this.generation;
        for pg in this.pgs.keys().copied().collect::<Vec<_>>() {
            self.end_interval(osd, pg);
        }
        for conn in self.connections_to(Daemon::Osd(osd)) {
            self.reset(conn);
        }
        self.clear_osd(osd);
        let delay = self.rng.range(100..12_000);
        self.schedule(delay, Event::Osd(OsdEvent::Missed { osd, generation }));
    }

    fn clear_osd(&mut self, osd: usize) {
        let this = &mut self.cluster.osds[osd];
        this.pgs.clear();
        this.waiting_for_map.clear();
        this.watchers.clear();
        this.notifies.clear();
    }

    pub(crate) fn freeze_osd(&mut self, osd: usize, length: Millis) {
        self.note(format_args!("osd.{osd} frozen for {length} ms"));
        self.cluster.osds[osd].frozen_until = self.now + length;
        let generation = self.cluster.osds[osd].generation;
        let delay = self.rng.range(2_000..20_000);
        self.schedule(delay, Event::Osd(OsdEvent::Missed { osd, generation }));
    }

    pub(crate) fn start_osd(&mut self, osd: usize, delay: Millis) {
        self.schedule(delay, Event::Osd(OsdEvent::Start { osd }));
    }

    fn start_osd_now(&mut self, osd: usize) {
        if self.cluster.osds[osd].alive {
            return;
        }
        if self.cluster.map.osds[osd].up {
            // The monitors mark the old process down before they let the new one in.
            self.mark_down(osd);
        }
        let this = &mut self.cluster.osds[osd];
        this.generation += 1;
        this.alive = true;
        this.frozen_until = 0;
        this.addr = osd_addr(osd, this.generation);
        let addr = this.addr;
        self.note(format_args!("osd.{osd} started at {addr}"));
        self.osd_started(osd);
        self.new_epoch(|map| {
            map.osds[osd].up = true;
            map.osds[osd].addr = addr;
        });
    }

    /// It begins with the newest map.
    pub(crate) fn osd_started(&mut self, osd: usize) {
        let epoch = self.cluster.epoch();
        self.cluster.osds[osd].epoch = epoch;
        self.clear_osd(osd);
        let Some(info) = self.cluster.info(epoch) else { return };
        let pgs: Vec<PgId> = info.pgs.keys().copied().collect();
        for pg in pgs {
            self.begin_interval(osd, pg);
        }
    }

    pub(crate) fn mark_down(&mut self, osd: usize) {
        self.note(format_args!("osd.{osd} marked down"));
        self.new_epoch(|map| map.osds[osd].up = false);
    }

    // Maps.

    pub(crate) fn tell_osd_of_map(&mut self, osd: usize, epoch: Epoch, lag: Millis) {
        self.schedule(lag, Event::Osd(OsdEvent::Map { osd, epoch }));
    }

    fn osd_map_arrived(&mut self, osd: usize, epoch: Epoch) {
        if let Some(delay) = self.thaw(Daemon::Osd(osd)) {
            return self.schedule(delay, Event::Osd(OsdEvent::Map { osd, epoch }));
        }
        while self.cluster.osds[osd].alive && self.cluster.osds[osd].epoch < epoch {
            self.advance(osd);
        }
        let waiting = std::mem::take(&mut self.cluster.osds[osd].waiting_for_map);
        for (conn, incoming) in waiting {
            self.receive(osd, conn, incoming);
        }
    }

    /// Goes to the next epoch.
    fn advance(&mut self, osd: usize) {
        let this = &mut self.cluster.osds[osd];
        let before = this.epoch;
        let epoch = before.next();
        this.epoch = epoch;
        let generation = this.generation;
        let (Some(old), Some(new)) = (self.cluster.info(before), self.cluster.info(epoch)) else { return };
        let gone = old.pgs.keys().filter(|pg| !new.pgs.contains_key(pg));
        let changed = new
            .pgs
            .iter()
            .filter(|(pg, info)| old.pgs.get(pg).is_none_or(|old| old.interval != info.interval));
        let mut affected: Vec<PgId> = gone.chain(changed.map(|(pg, _)| pg)).copied().collect();
        affected.sort();
        let wrongly_down = old.map.is_up(id_of(osd)) && !new.map.is_up(id_of(osd));
        for pg in affected {
            self.end_interval(osd, pg);
            self.begin_interval(osd, pg);
        }
        if wrongly_down {
            let delay = self.rng.range(10..4000);
            self.schedule(delay, Event::Osd(OsdEvent::Protest { osd, generation }));
        }
    }

    /// Gives a client the maps that it seems not to have. Ceph: `OSDService::maybe_share_map`.
    fn share_maps(&mut self, osd: usize, conn: ConnId, theirs: Epoch) {
        let this = &mut self.cluster.osds[osd];
        let newest = this.epoch;
        let Some(session) = this.sessions.get_mut(&conn) else { return };
        let have = theirs.max(session.epoch);
        if have >= newest {
            return;
        }
        session.epoch = newest;
        let oldest = self.cluster.oldest;
        if have.next() < oldest {
            self.send_maps(conn, Some((oldest.next(), newest)), Some(oldest), newest);
        } else {
            self.send_maps(conn, Some((have.next(), newest)), None, newest);
        }
    }

    // Sessions.

    pub(crate) fn osd_session_opened(
        &mut self,
        osd: usize,
        conn: ConnId,
        client: GlobalId,
        addr: EntityAddr,
    ) {
        let session = Session { client, addr, epoch: Epoch(0), backoffs: BTreeMap::new() };
        self.cluster.osds[osd].sessions.insert(conn, session);
    }

    pub(crate) fn osd_disconnected(&mut self, osd: usize, conn: ConnId) {
        self.cluster.auth.disconnected(conn);
        let this = &mut self.cluster.osds[osd];
        this.sessions.remove(&conn);
        this.waiting_for_map.retain(|(from, _)| *from != conn);
        this.watchers.retain(|_, watcher| *watcher != conn);
    }

    pub(crate) fn on_osd_message(&mut self, osd: usize, conn: ConnId, message: Message) {
        match message.kind {
            kind::OSD_OP => match OsdOp::decode(&message) {
                Ok(request) => {
                    self.note(format_args!(
                        "osd.{osd} <- {conn}: op {} {}/{} attempt {} of epoch {}",
                        request.tid, request.spg, request.object, request.retry_attempt, request.epoch
                    ));
                    self.check_target(osd, &request);
                    self.receive(osd, conn, Incoming::Op(request));
                }
                Err(error) => self.violation(format!("malformed request: {error}")),
            },
            kind::OSD_BACKOFF => match Backoff::decode(&message.front) {
                Ok(Backoff { op: Backoff::ACK_BLOCK, epoch, id, .. }) => {
                    self.receive(osd, conn, Incoming::BlockAck { epoch, id });
                }
                Ok(backoff) => self.violation(format!("backoff message {} of a client", backoff.op)),
                Err(error) => self.violation(format!("malformed backoff: {error}")),
            },
            other => self.violation(format!("message {other} for an OSD")),
        }
    }

    /// Whether the request is here by its sender's own map, and should have been sent at all.
    fn check_target(&mut self, osd: usize, request: &OsdOp) {
        if request.epoch > self.cluster.epoch() {
            return self
                .violation(format!("op {} is of epoch {}, in the future", request.tid, request.epoch));
        }
        let Some(info) = self.cluster.info(request.epoch) else { return };
        let Some(pool) = info.map.pool(request.spg.pg.pool) else {
            return self.violation(format!("op {} is for a pool that its map does not have", request.tid));
        };
        let pg = pool.raw_to_pg(request.hash);
        let primary = info.pgs.get(&pg).and_then(|info| info.primary);
        let hash = pool.hash_object(&request.locator.namespace, &request.locator.key, &request.object);
        if pg != request.spg.pg || hash != request.hash || primary != Some(id_of(osd)) {
            self.violation(format!(
                "op {} for {} in {} came to osd.{osd}; by its map of epoch {} it belongs to {primary:?} in {pg}",
                request.tid, request.object, request.spg, request.epoch
            ));
            return;
        }
        // Pings of watches are never held back.
        if request.ops.first().is_some_and(|first| first.code == op::WATCH) {
            return;
        }
        let flags = info.map.flags().0;
        let full = request.respects_full() && Cluster::is_full(&info.map, request.spg.pg.pool);
        let paused = if request.writes() { flag::PAUSE_WR } else { flag::PAUSE_RD };
        let eio = pool.flags.0 & pool_flag::EIO != 0;
        if full || flags & paused != 0 || eio {
            self.violation(format!(
                "op {} was sent although its map of epoch {} says to wait: full {full} flags {flags:#x}",
                request.tid, request.epoch
            ));
        }
    }

    // Backoffs.

    fn block(&mut self, osd: usize, conn: ConnId, request: &OsdOp, whole_pg: bool) {
        let this = &mut self.cluster.osds[osd];
        let (id, epoch, generation) = (this.next_id(), this.epoch, this.generation);
        let mut begin = request.place();
        let mut end = begin.clone();
        if whole_pg {
            // From the first object with its hash to the end of the pool.
            begin.name.clear();
            begin.key.clear();
            begin.namespace.clear();
            begin.hash = 0;
            begin.snap = ceph_codec::SnapId(0);
            end.max = true;
        }
        let backoff = Backoff { spg: request.spg, epoch, op: Backoff::BLOCK, id, begin, end };
        let Some(session) = this.sessions.get_mut(&conn) else { return };
        let message = backoff.to_message();
        session.backoffs.insert(id, Held { backoff, acknowledged: false, lifted: false });
        self.note(format_args!("osd.{osd} -> {conn}: block {id} for {}", request.spg));
        self.send(conn, &message);
        if !whole_pg {
            let delay = self.rng.range(1..2000);
            self.schedule(delay, Event::Osd(OsdEvent::Unblock { osd, generation, conn, id }));
        }
    }

    fn unblock(&mut self, osd: usize, conn: ConnId, id: u64) {
        let this = &mut self.cluster.osds[osd];
        let epoch = this.epoch;
        let Some(session) = this.sessions.get_mut(&conn) else { return };
        let Some(held) = session.backoffs.get_mut(&id).filter(|held| !held.lifted) else { return };
        held.lifted = true;
        let backoff = held.backoff.clone();
        if held.acknowledged {
            session.backoffs.remove(&id);
        }
        self.note(format_args!("osd.{osd} -> {conn}: unblock {id}"));
        self.send(conn, &Backoff { op: Backoff::UNBLOCK, epoch, ..backoff }.to_message());
    }

    pub(super) fn block_acknowledged(&mut self, osd: usize, conn: ConnId, id: u64) {
        let Some(session) = self.cluster.osds[osd].sessions.get_mut(&conn) else { return };
        if let Some(held) = session.backoffs.get_mut(&id) {
            held.acknowledged = true;
            if held.lifted {
                session.backoffs.remove(&id);
            }
        }
    }

    /// Ceph: `PG::release_pg_backoffs`.
    fn release_backoffs(&mut self, osd: usize, pg: PgId) {
        let sessions = self.cluster.osds[osd].sessions.iter();
        let ids: Vec<(ConnId, u64)> = sessions
            .flat_map(|(conn, session)| {
                let of_pg = session.backoffs.values().filter(|held| held.backoff.spg.pg == pg);
                of_pg.map(|held| (*conn, held.backoff.id))
            })
            .collect();
        for (conn, id) in ids {
            self.unblock(osd, conn, id);
        }
    }

    fn is_backed_off(&self, osd: usize, conn: ConnId, request: &OsdOp) -> bool {
        let place = request.place();
        self.cluster.osds[osd].sessions.get(&conn).is_some_and(|session| {
            session.backoffs.values().any(|Held { backoff, .. }| {
                backoff.spg == request.spg
                    && (place == backoff.begin || (place > backoff.begin && place < backoff.end))
            })
        })
    }
}
