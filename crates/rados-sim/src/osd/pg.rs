//! Placement groups at their primary: when they become active, what is queued, and what becomes of it when
//! the interval ends.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use ceph_codec::{Epoch, PgId};

use super::{Incoming, OsdEvent, id_of};
use crate::cluster::{Cluster, Daemon, Mutation};
use crate::map::pool_flag;
use crate::net::ConnId;
use crate::store::{Applied, ObjectKey, parse_record};
use crate::wire::{self, OsdOp, Reply, WireOp, errno, op};
use crate::world::{Event, World};

#[derive(Debug)]
pub(super) struct Pg {
    pub(super) interval: Epoch,
    pub(super) active: bool,
    /// Requests that came before it was active.
    waiting: Vec<(ConnId, OsdOp)>,
    /// By object; the first request of each is being carried out.
    queues: BTreeMap<ObjectKey, VecDeque<Queued>>,
}

#[derive(Debug)]
struct Queued {
    client: u64,
    conn: ConnId,
    request: OsdOp,
    /// Where to send the result: the request and those that came again meanwhile.
    askers: Vec<(ConnId, OsdOp)>,
}

/// Objects whose names begin so are elsewhere: without it.
pub(crate) const ELSEWHERE: &str = "elsewhere-";

fn object_key(request: &OsdOp) -> ObjectKey {
    (request.locator.pool, request.locator.namespace.clone(), request.object.clone())
}

impl World {
    /// A placement group that this OSD is now the primary of will be active some time later.
    pub(super) fn begin_interval(&mut self, osd: usize, pg: PgId) {
        let (epoch, generation) = (self.cluster.osds[osd].epoch, self.cluster.osds[osd].generation);
        let Some(info) = self.cluster.pg(epoch, pg) else { return };
        if info.primary != Some(id_of(osd)) {
            return;
        }
        let interval = info.interval;
        let fresh = Pg { interval, active: false, waiting: Vec::new(), queues: BTreeMap::new() };
        self.cluster.osds[osd].pgs.insert(pg, fresh);
        let delay = self.rng.range(1..if self.cluster.healthy { 200 } else { 1500 });
        self.schedule(delay, Event::Osd(OsdEvent::Activate { osd, generation, pg, interval }));
    }

    pub(super) fn activate(&mut self, osd: usize, generation: u32, pg: PgId, interval: Epoch) {
        let this = &self.cluster.osds[osd];
        if !this.alive || this.generation != generation {
            return;
        }
        if this.pgs.get(&pg).is_none_or(|pg| pg.interval != interval || pg.active) {
            return;
        }
        let again = Event::Osd(OsdEvent::Activate { osd, generation, pg, interval });
        if !self.can_serve(osd, pg, interval) {
            let delay = self.rng.range(50..500);
            return self.schedule(delay, again);
        }
        if self.cluster.active.get(&pg).is_some_and(|(newer, _)| *newer > interval) {
            return;
        }
        self.note(format_args!("osd.{osd}: {pg} active, interval {interval}"));
        self.cluster.active.insert(pg, (interval, osd));
        let Some(this) = self.cluster.osds[osd].pgs.get_mut(&pg) else { return };
        this.active = true;
        let waiting = std::mem::take(&mut this.waiting);
        self.release_backoffs(osd, pg);
        for (conn, request) in waiting {
            self.handle_op(osd, conn, request);
        }
    }

    /// Whether all of the acting set are there and know of this interval.
    fn can_serve(&self, osd: usize, pg: PgId, interval: Epoch) -> bool {
        let Some(info) = self.cluster.pg(self.cluster.osds[osd].epoch, pg) else { return false };
        let enough = self
            .cluster
            .info(self.cluster.osds[osd].epoch)
            .and_then(|epoch| epoch.map.pool(pg.pool))
            .is_some_and(|pool| info.acting.len() >= usize::from(pool.min_size));
        enough
            && info.interval == interval
            && info.acting.iter().all(|member| {
                let member = usize::try_from(member.0).ok().and_then(|member| self.cluster.osds.get(member));
                member.is_some_and(|m| {
                    let agrees =
                        self.cluster.pg(m.epoch, pg).is_some_and(|theirs| theirs.interval == interval);
                    m.alive && m.frozen_until <= self.now && agrees
                })
            })
    }

    /// The interval is over: what was in flight may have been applied or not, and nobody is told. Who stays
    /// primary takes it up again, everybody else forgets it.
    pub(super) fn end_interval(&mut self, osd: usize, pg: PgId) {
        let Some(old) = self.cluster.osds[osd].pgs.remove(&pg) else { return };
        let mut requests: Vec<(ConnId, OsdOp)> = old.waiting;
        for (object, queue) in old.queues {
            for (i, queued) in queue.into_iter().enumerate() {
                if i == 0
                    && self.is_current(osd, pg, old.interval, queued.request.hash)
                    && self.rng.percent(50)
                {
                    self.note(format_args!("osd.{osd}: op {} applied and not answered", queued.request.tid));
                    self.execute(osd, &object, queued.client, queued.conn, &queued.request);
                }
                requests.extend(queued.askers);
            }
        }
        if old.active {
            self.release_backoffs(osd, pg);
        }
        self.forget_watchers(osd, pg);
        // In the order in which they came.
        requests.sort_by_key(|(conn, request)| (*conn, request.tid, request.retry_attempt));
        let epoch = self.cluster.osds[osd].epoch;
        let still_primary = self.cluster.pg(epoch, pg).is_some_and(|info| info.primary == Some(id_of(osd)));
        if still_primary {
            // They are looked at again once the new interval has begun.
            let requests = requests.into_iter().map(|(conn, request)| (conn, Incoming::Op(request)));
            self.cluster.osds[osd].waiting_for_map.splice(..0, requests);
        } else {
            for (_, request) in requests {
                self.note(format_args!("osd.{osd}: op {} dropped with its interval", request.tid));
            }
        }
    }

    /// Whether nobody younger, of this placement group or of one split from it or merged with it, serves the
    /// object.
    fn is_current(&self, osd: usize, pg: PgId, interval: Epoch, hash: u32) -> bool {
        let superseded = self.cluster.active.iter().any(|(other, (since, _))| {
            let then = self.cluster.info(*since).and_then(|info| info.map.pool(other.pool));
            *since > interval
                && other.pool == pg.pool
                && then.is_some_and(|pool| pool.raw_to_pg(hash) == *other)
        });
        !superseded && self.cluster.active.get(&pg) == Some(&(interval, osd))
    }

    /// Something comes in. It waits for the map that its sender had, and overtakes nobody who waits.
    pub(super) fn receive(&mut self, osd: usize, conn: ConnId, incoming: Incoming) {
        let this = &mut self.cluster.osds[osd];
        if incoming.epoch() > this.epoch || this.waiting_for_map.iter().any(|(from, _)| *from == conn) {
            this.waiting_for_map.push((conn, incoming));
            return;
        }
        match incoming {
            Incoming::Op(request) => self.handle_op(osd, conn, request),
            Incoming::BlockAck { id, .. } => self.block_acknowledged(osd, conn, id),
        }
    }

    fn handle_op(&mut self, osd: usize, conn: ConnId, request: OsdOp) {
        let this = &mut self.cluster.osds[osd];
        let epoch = this.epoch;
        let Some(session) = this.sessions.get(&conn) else { return };
        let (client, addr) = (session.client.0, session.addr);
        self.share_maps(osd, conn, request.epoch);
        let pg = request.spg.pg;
        let Some(info) = self.cluster.info(epoch) else { return };
        let drop = |world: &mut Self, why: &str| {
            world.note(format_args!("osd.{osd}: op {} dropped: {why}", request.tid));
        };
        let (Some(pool), Some(at)) = (info.map.pool(pg.pool), info.pgs.get(&pg)) else {
            return drop(self, "no such placement group");
        };
        if at.primary != Some(id_of(osd)) {
            return drop(self, "not the primary");
        }
        if request.epoch < at.primary_since {
            return drop(self, "sent before this primary");
        }
        if request.epoch < pool.last_force_op_resend || request.epoch < at.split {
            return drop(self, "sent before a split");
        }
        if info.map.is_blocklisted(&addr) {
            let reply = Reply { result: errno::EBLOCKLISTED, ..Reply::default() };
            return self.answer(osd, conn, &request, &reply);
        }
        let marked_full = info.marked_full.get(&pg.pool).copied().unwrap_or(Epoch(0));
        let is_full = pool.flags.0 & pool_flag::FULL != 0;
        if request.respects_full() && (request.epoch < marked_full || is_full) {
            return drop(self, "full");
        }
        if self.is_backed_off(osd, conn, &request) {
            return drop(self, "backed off");
        }
        let is_active = self.cluster.osds[osd].pgs.get(&pg).is_some_and(|pg| pg.active);
        if !is_active {
            if self.rng.percent(60) {
                return self.block(osd, conn, &request, true);
            }
            if let Some(pg) = self.cluster.osds[osd].pgs.get_mut(&pg) {
                pg.waiting.push((conn, request));
            }
            return;
        }
        if !self.cluster.healthy && self.rng.percent(3) {
            return self.block(osd, conn, &request, false);
        }
        if let Some(name) = request.object.strip_prefix(ELSEWHERE) {
            let reply =
                Reply { redirect: Some((request.locator.clone(), name.to_owned())), ..Reply::default() };
            return self.answer(osd, conn, &request, &reply);
        }
        if !self.cluster.healthy && !request.writes() && self.rng.percent(3) {
            let reply = Reply { result: errno::EAGAIN, ..Reply::default() };
            return self.answer(osd, conn, &request, &reply);
        }
        if self.cluster.config.mutation == Some(Mutation::SwallowsRequests) && self.rng.percent(2) {
            return;
        }
        self.enqueue(osd, client, conn, request);
    }

    fn enqueue(&mut self, osd: usize, client: u64, conn: ConnId, request: OsdOp) {
        let key = (client, request.tid.0);
        let forgets = self.cluster.config.mutation == Some(Mutation::ForgetsRequests);
        if request.writes()
            && !forgets
            && let Some(applied) = self.cluster.store.requests.get(&key).cloned()
        {
            self.note(format_args!("osd.{osd}: op {} is known", request.tid));
            let outcomes = request.ops.iter().map(|_| (0, Bytes::new())).collect();
            let reply = Reply { result: applied.result, version: applied.version, outcomes, redirect: None };
            return self.answer(osd, conn, &request, &reply);
        }
        let generation = self.cluster.osds[osd].generation;
        let object = object_key(&request);
        let pg = request.spg.pg;
        let Some(this) = self.cluster.osds[osd].pgs.get_mut(&pg) else { return };
        let interval = this.interval;
        let queue = this.queues.entry(object.clone()).or_default();
        if !forgets
            && let Some(same) = queue.iter_mut().find(|q| (q.client, q.request.tid) == (client, request.tid))
        {
            same.askers.push((conn, request));
            return;
        }
        queue.push_back(Queued { client, conn, request: request.clone(), askers: vec![(conn, request)] });
        let length = queue.len();
        if self.cluster.config.mutation == Some(Mutation::ReordersWrites)
            && length > 2
            && self.rng.percent(20)
            && let Some(queue) =
                self.cluster.osds[osd].pgs.get_mut(&pg).and_then(|pg| pg.queues.get_mut(&object))
        {
            queue.swap(length - 1, length - 2);
        }
        if length == 1 {
            self.start_next(osd, generation, pg, interval, object);
        }
    }

    fn start_next(&mut self, osd: usize, generation: u32, pg: PgId, interval: Epoch, object: ObjectKey) {
        let delay = if self.rng.percent(10) { self.rng.range(1..800) } else { self.rng.range(0..12) };
        self.schedule(delay, Event::Osd(OsdEvent::Done { osd, generation, pg, interval, object }));
    }

    pub(super) fn op_done(
        &mut self,
        osd: usize,
        generation: u32,
        pg: PgId,
        interval: Epoch,
        object: ObjectKey,
    ) {
        let this = &self.cluster.osds[osd];
        if !this.alive
            || this.generation != generation
            || this.pgs.get(&pg).is_none_or(|pg| pg.interval != interval)
        {
            return;
        }
        // A member that is dead or frozen holds everything up until the monitors notice; who has been
        // replaced without knowing it never gets an answer from the others.
        let first = this.pgs.get(&pg).and_then(|pg| pg.queues.get(&object)).and_then(VecDeque::front);
        let Some(hash) = first.map(|queued| queued.request.hash) else { return };
        let stuck = self.thaw(Daemon::Osd(osd)).or_else(|| {
            let serves = self.can_serve(osd, pg, interval) && self.is_current(osd, pg, interval, hash);
            (!serves).then_some(200)
        });
        if let Some(delay) = stuck {
            return self
                .schedule(delay, Event::Osd(OsdEvent::Done { osd, generation, pg, interval, object }));
        }
        let this = self.cluster.osds[osd].pgs.get_mut(&pg);
        let Some(queue) = this.and_then(|pg| pg.queues.get_mut(&object)) else { return };
        let Some(queued) = queue.pop_front() else { return };
        let more = !queue.is_empty();
        let reply = self.execute(osd, &object, queued.client, queued.conn, &queued.request);
        for (conn, request) in &queued.askers {
            self.answer(osd, *conn, request, &reply);
            if !self.cluster.healthy && self.rng.percent(2) {
                self.answer(osd, *conn, request, &reply);
            }
        }
        if more {
            self.start_next(osd, generation, pg, interval, object);
        } else if let Some(pg) = self.cluster.osds[osd].pgs.get_mut(&pg) {
            pg.queues.remove(&object);
        }
    }

    pub(super) fn answer(&mut self, osd: usize, conn: ConnId, request: &OsdOp, reply: &Reply) {
        let this = &self.cluster.osds[osd];
        let epoch = this.epoch;
        if !this.sessions.contains_key(&conn) {
            return;
        }
        self.note(format_args!("osd.{osd} -> {conn}: op {} result {}", request.tid, reply.result));
        self.send(conn, &wire::op_reply(request, reply, request.spg.pg, epoch));
    }

    /// Carries out a request: all its ops or none.
    fn execute(
        &mut self,
        osd: usize,
        object: &ObjectKey,
        client: u64,
        conn: ConnId,
        request: &OsdOp,
    ) -> Reply {
        let key = (client, request.tid.0);
        if request.writes() && self.cluster.store.requests.contains_key(&key) {
            // Only a cluster that forgets gets here twice.
            let forgets = self.cluster.config.mutation == Some(Mutation::ForgetsRequests);
            if !forgets {
                self.violation(format!(
                    "the simulation carries out op {} of client.{client} twice",
                    request.tid
                ));
            }
        }
        let mutation = self.cluster.config.mutation;
        let lost = mutation == Some(Mutation::LosesWrites) && request.writes() && self.rng.percent(2);
        let mut reply = Reply::default();
        for wire_op in &request.ops {
            let outcome = if lost {
                Ok(Bytes::new())
            } else {
                self.execute_op(osd, object, client, conn, request, wire_op)
            };
            match outcome {
                Ok(data) => reply.outcomes.push((0, data)),
                Err(errno) => {
                    reply.outcomes.push((errno, Bytes::new()));
                    reply.result = errno;
                    break;
                }
            }
        }
        if request.writes() {
            let store = &mut self.cluster.store;
            store.version += 1;
            reply.version = store.version;
            store.requests.insert(key, Applied { result: reply.result, version: reply.version });
        }
        reply
    }

    fn execute_op(
        &mut self,
        osd: usize,
        object: &ObjectKey,
        client: u64,
        conn: ConnId,
        request: &OsdOp,
        wire_op: &WireOp,
    ) -> Result<Bytes, i32> {
        match wire_op.code {
            op::CALL => self.append(object, wire_op),
            op::CREATE => {
                self.cluster.store.objects.entry(object.clone()).or_default();
                Ok(Bytes::new())
            }
            op::READ => {
                let stale =
                    self.cluster.config.mutation == Some(Mutation::ServesStaleReads) && self.rng.percent(10);
                let found = self.cluster.store.objects.get(object).ok_or(errno::ENOENT)?;
                Ok(found.read(if stale { found.earlier } else { found.records.len() }))
            }
            op::STAT => {
                let found = self.cluster.store.objects.get(object).ok_or(errno::ENOENT)?;
                let mut out = (8 * found.records.len() as u64).to_le_bytes().to_vec();
                out.extend_from_slice(&[0; 8]); // modification time
                Ok(out.into())
            }
            op::DELETE => {
                self.cluster.store.objects.remove(object).map(|_| Bytes::new()).ok_or(errno::ENOENT)
            }
            op::WATCH => self.watch_op(osd, object, client, conn, wire_op),
            op::NOTIFY => self.notify_op(osd, object, client, conn, wire_op),
            op::NOTIFY_ACK => self.notify_ack(osd, client, wire_op),
            other => {
                self.violation(format!("op {} has code {other:#x}", request.tid));
                Err(errno::EOPNOTSUPP)
            }
        }
    }

    /// `sim.append`: a call, because its input is opaque to the client.
    fn append(&mut self, object: &ObjectKey, wire_op: &WireOp) -> Result<Bytes, i32> {
        let names = usize::from(wire_op.body[0]) + usize::from(wire_op.body[1]);
        let Some(input) = wire_op.data.get(names..) else { return Err(errno::EINVAL) };
        let Some(id) = parse_record(input) else {
            self.violation(format!("a record of {} bytes arrived changed", input.len()));
            return Err(errno::EINVAL);
        };
        let lags = self.rng.range(1..6);
        let found = self.cluster.store.objects.entry(object.clone()).or_default();
        found.earlier = found.records.len().saturating_sub(usize::try_from(lags).unwrap_or(1));
        found.records.push(id);
        self.note(format_args!("{} += {id}", object.2));
        Ok(Bytes::new())
    }

    /// Requests that OSDs have and have not answered, and the bytes of their payloads.
    #[must_use]
    pub fn under_way(&self) -> (usize, usize) {
        let queues =
            self.cluster.osds.iter().flat_map(|osd| osd.pgs.values()).flat_map(|pg| pg.queues.values());
        let requests = queues.flatten().map(|queued| &queued.request);
        requests.fold((0, 0), |(count, bytes), request| {
            (count + 1, bytes + request.ops.iter().map(|op| op.data.len()).sum::<usize>())
        })
    }

    /// Whether clients of this pool wait because it is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let info = self.cluster.info(self.cluster.epoch());
        info.is_some_and(|info| Cluster::is_full(&info.map, self.cluster.pool()))
    }
}
