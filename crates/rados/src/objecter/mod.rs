//! The Objecter: sends operations to the right OSD, until they are answered.
//!
//! A state machine without sockets, clocks or tasks. Requests, maps, messages and session changes go in;
//! [`Action`]s come out: connect, send, complete.
//!
//! ```text
//!  submit ---> Target::recompute --+--> homeless     no primary: parked until a map brings one
//!                                  +--> session      unsent while connecting, paused or backed off
//!                                         | Send
//!                                         v
//!              session reset, new map, unblock ---> Send again, same tid
//!                                         | reply
//!                                         v
//!                                     Complete
//! ```
//! Rules that keep data safe: an operation keeps its tid on every resend, so that an OSD recognises one that
//! it has already applied; tids rise in the order of submission, and a session sends in that order; a reply
//! to an attempt other than the last is ignored.
//!
//! Ceph: `src/osdc/Objecter.cc`.

mod flow_control;
mod incoming;
mod linger;
mod maps;
mod placements;
mod session;
mod status;
mod target;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use ceph_codec::{
    DecodeError, EntityAddr, EntityName, EntityType, Epoch, ObjectLocator, OsdId, ReqId, SnapId, Tid, Utime,
};
use ceph_osdmap::OsdMap;

use crate::error::OpError;
use crate::messages::osd::{OsdBackoff, OsdOp, OsdOpReply, backoff_op, flag};
use crate::messages::watch::WatchNotify;
use crate::op::{Errno, Op, OpOutcome, OpReply, Operation, SnapContext};
use crate::watch::WatchEvent;

use flow_control::FlowControl;
pub use flow_control::Limits;
use linger::Linger;
pub use maps::MapError;
pub(crate) use maps::decode_full;
use placements::Placements;
use session::Session;
pub(crate) use session::SessionId;
pub(crate) use status::Stall;
use target::{Target, Verdict};

/// A moment, on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Now {
    /// For modification times of objects. It may jump.
    pub(crate) wall: Utime,
    /// For everything else.
    pub(crate) monotonic: Duration,
}

/// What to do to which object.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) object: Arc<str>,
    pub(crate) locator: Arc<ObjectLocator>,
    pub(crate) operation: Operation,
    /// What to read: the live object or a snapshot.
    pub(crate) snap: SnapId,
    /// What exists while writing.
    pub(crate) snapc: SnapContext,
}

impl Request {
    fn flags(&self) -> u32 {
        let mut flags = if self.operation.is_write() { flag::WRITE } else { flag::READ };
        if self.operation.is_pg_op() {
            // A cache tier has placement groups of its own.
            flags |= flag::IGNORE_OVERLAY;
        }
        if self.operation.full_try { flags | flag::FULL_TRY } else { flags }
    }
}

/// What the owner has to do.
#[derive(Debug)]
pub(crate) enum Action<C> {
    /// Open a connection, then call `session_opened`; on failure call `session_reset`, after a pause.
    Connect { session: SessionId, addr: EntityAddr },
    /// Close a connection; nothing that it still delivers counts.
    Close { session: SessionId },
    /// Send an `MOSDOp`.
    SendOp { session: SessionId, tid: Tid, front: Vec<u8>, payload: Vec<Bytes> },
    /// Send an `MOSDBackoff`.
    SendBackoff { session: SessionId, backoff: OsdBackoff },
    /// An operation has ended.
    Complete { completion: C, result: Result<OpReply, OpError> },
    /// Something for the owner of a watch.
    Watch { cookie: u64, event: WatchEvent },
    /// Ask the monitors for the newest epoch of the OSDMap, then call `newest_epoch`.
    AskNewestEpoch,
    /// The cluster has barred this client instance; say so.
    Barred { since: SystemTime, epoch: Epoch },
}

/// Who is told the result of an operation.
#[derive(Debug)]
enum Completion<C> {
    Caller(C),
    Register { cookie: u64 },
    Reconnect { cookie: u64 },
    Ping { cookie: u64, generation: u32 },
}

impl<C> Completion<C> {
    /// Requests of linger ops are not sent again; the linger op makes a new one.
    fn should_resend(&self) -> bool {
        matches!(self, Self::Caller(_))
    }
}

#[derive(Debug)]
struct PendingOp<C> {
    tid: Tid,
    target: Target,
    operation: Operation,
    snap: SnapId,
    snapc: SnapContext,
    /// When it was submitted.
    since: Now,
    /// How many times it was sent.
    attempts: i32,
    completion: Completion<C>,
    /// The newest map does not have its pool, or the one that its pool's overlay names.
    lacks_pool: bool,
    /// The epoch at which to conclude that the pool does not exist.
    pool_gone_at: Option<Epoch>,
    /// Bytes that it counts for in flow control; `None` if it is exempt.
    cost: Option<u64>,
    /// It was sent on a connection that is still open; flow control counts it.
    with_osd: bool,
    /// Answers that could not be decoded.
    malformed: u32,
}

/// So many answers to one operation that cannot be decoded are not an accident.
const MALFORMED_LIMIT: u32 = 3;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Objecter<C> {
    map: OsdMap,
    placements: Placements,
    /// This client instance's address, as in blocklists.
    my_addr: EntityAddr,
    /// Why nothing is sent any more.
    ended: Option<OpError>,
    last_tid: u64,
    next_cookie: u64,
    next_incarnation: u64,
    sessions: BTreeMap<OsdId, Session<C>>,
    homeless: BTreeMap<Tid, PendingOp<C>>,
    /// Operations for which there is no room yet.
    waiting: BTreeMap<Tid, PendingOp<C>>,
    /// OSDs for which something waits until they answer.
    holding: BTreeSet<OsdId>,
    lingers: BTreeMap<u64, Linger<C>>,
    actions: VecDeque<Action<C>>,
    /// Up to which operation the newest epoch was asked for, while the answer is outstanding.
    asked_newest_epoch: Option<Tid>,
    /// Nothing is sent before the map is as new as that.
    epoch_barrier: Epoch,
    flow: FlowControl,
    /// How long an operation may take.
    op_timeout: Option<Duration>,
    /// When the last input that brought the time came.
    now: Now,
}

/// Why an OSD refused `operation`, and which op of it, where it says so: the first that failed and must not.
fn refusal(operation: &Operation, reply: OsdOpReply) -> OpError {
    let OsdOpReply { result, outcomes, .. } = reply;
    let errno = Errno(result.saturating_neg());
    let failed = |(op, outcome): (&Op, &OpOutcome)| outcome.rval == result && !op.may_fail();
    match operation.ops().iter().zip(&outcomes).position(failed) {
        Some(index) if outcomes.len() == operation.len() => OpError::Op { errno, index, outcomes },
        _ => OpError::Errno(errno),
    }
}

impl<C> Objecter<C> {
    /// Starts with a full map. `first_cookie` should differ between client instances.
    pub(crate) fn new(map: OsdMap, my_addr: EntityAddr, first_cookie: u64) -> Self {
        let ended = map.is_blocklisted(&my_addr).then(|| maps::blocklisted_by(&map));
        Self {
            map,
            placements: Placements::default(),
            my_addr,
            ended,
            last_tid: 0,
            next_cookie: first_cookie,
            next_incarnation: 1,
            sessions: BTreeMap::new(),
            homeless: BTreeMap::new(),
            waiting: BTreeMap::new(),
            holding: BTreeSet::new(),
            lingers: BTreeMap::new(),
            actions: VecDeque::new(),
            asked_newest_epoch: None,
            epoch_barrier: Epoch(0),
            flow: FlowControl::default(),
            op_timeout: None,
            now: Now::default(),
        }
    }

    /// The newest map.
    pub(crate) fn map(&self) -> &OsdMap {
        &self.map
    }

    /// Why nothing is sent any more. It stays so: operations that were in flight may or may not have been
    /// applied, and only a new instance can start afresh.
    pub(crate) fn ended(&self) -> Option<&OpError> {
        self.ended.as_ref()
    }

    /// Holds back what is submitted from now on, and what is sent again, until the map is as new as `epoch`.
    /// What is with the OSDs already stays there.
    ///
    /// Ceph: `Objecter::set_epoch_barrier`.
    pub(crate) fn set_epoch_barrier(&mut self, epoch: Epoch) {
        self.epoch_barrier = self.epoch_barrier.max(epoch);
    }

    /// The next thing for the owner to do.
    pub(crate) fn poll_action(&mut self) -> Option<Action<C>> {
        self.actions.pop_front()
    }

    /// Submits an operation.
    pub(crate) fn submit(&mut self, request: Request, now: Now, completion: C) -> Tid {
        self.now = now;
        let tid = self.next_tid();
        if let Some(error) = &self.ended {
            self.actions.push_back(Action::Complete { completion, result: Err(error.clone()) });
            return tid;
        }
        let flags = request.flags();
        let cost = request.operation.cost();
        self.flow.begin(cost);
        let op = PendingOp {
            tid,
            target: Target::new(request.object, request.locator, flags),
            operation: request.operation,
            snap: request.snap,
            snapc: request.snapc,
            since: now,
            attempts: 0,
            completion: Completion::Caller(completion),
            lacks_pool: false,
            pool_gone_at: None,
            cost,
            with_osd: false,
            malformed: 0,
        };
        self.target_and_send(op);
        tid
    }

    /// Limits how long operations may take, those under way too; `None` is as long as the cluster needs.
    pub(crate) fn set_op_timeout(&mut self, limit: Option<Duration>) {
        self.op_timeout = limit;
    }

    /// How long operations may take.
    pub(crate) fn op_timeout(&self) -> Option<Duration> {
        self.op_timeout
    }

    /// Ends the operations that took too long. To be called from time to time if there is a limit.
    pub(crate) fn expire(&mut self, now: Now) {
        self.now = now;
        let Some(limit) = self.op_timeout else { return };
        let late = |op: &&PendingOp<C>| {
            op.completion.should_resend() && now.monotonic.saturating_sub(op.since.monotonic) >= limit
        };
        let assigned = self.sessions.values().flat_map(|session| session.ops.values());
        let all = self.homeless.values().chain(self.waiting.values()).chain(assigned);
        let tids: Vec<Tid> = all.filter(late).map(|op| op.tid).collect();
        for tid in tids {
            if let Some(op) = self.take_op(tid) {
                self.finish(op, Err(OpError::TimedOut));
            }
        }
        self.admit_waiting();
    }

    /// A connection is ready. `features` are those of both sides.
    pub(crate) fn session_opened(&mut self, id: SessionId, features: u64) {
        let Some(session) = self.live_session(id) else { return };
        session.features = Some(features);
        self.fill_window(id.osd);
    }

    /// A connection was lost or could not be made. Operations stay, and are sent again on the next one.
    pub(crate) fn session_reset(&mut self, id: SessionId) {
        let incarnation = self.next_incarnation;
        let Some(session) = live(&mut self.sessions, id) else { return };
        session.id.incarnation = incarnation;
        if session.features.take().is_some() {
            session.window.broken();
        }
        session.backoffs.clear();
        session.ops.retain(|_, op| op.completion.should_resend());
        session.ops.values_mut().for_each(|op| self.flow.give_back(op));
        let (new_id, addr) = (session.id, session.addr);
        let lingers: Vec<u64> = session.lingers.iter().copied().collect();
        if session.ops.is_empty() && lingers.is_empty() {
            self.sessions.remove(&id.osd); // opened again when there is something to say
            return;
        }
        self.next_incarnation += 1;
        self.actions.push_back(Action::Connect { session: new_id, addr });
        for cookie in lingers {
            self.send_linger(cookie);
        }
        self.admit_waiting();
    }

    /// An OSD has answered.
    pub(crate) fn handle_op_reply(&mut self, id: SessionId, tid: Tid, reply: OsdOpReply) {
        let Some(session) = self.live_session(id) else { return };
        let Some(op) = session.ops.get(&tid) else { return };
        if reply.retry_attempt >= 0 && reply.retry_attempt != op.attempts - 1 {
            return;
        }
        let Some(op) = session.ops.remove(&tid) else { return };
        session.window.answered();
        self.conclude(op, reply);
        self.admit_waiting();
    }

    /// Ends an answered operation, or sends it elsewhere.
    fn conclude(&mut self, mut op: PendingOp<C>, reply: OsdOpReply) {
        if reply.result == -Errno::EBLOCKLISTED.0 {
            // The OSD's map is newer than ours.
            let error = OpError::Blocklisted { since: self.now.wall.to_system_time(), epoch: reply.epoch };
            self.finish(op, Err(error.clone()));
            return self.end(error);
        }
        if let Some(redirect) = reply.redirect {
            op.target.redirect(redirect);
            return self.submit_anew(op);
        }
        if reply.result == -Errno::EAGAIN.0 {
            op.target.forget();
            return self.submit_anew(op);
        }
        let result = if reply.result < 0 {
            Err(refusal(&op.operation, reply))
        } else if reply.outcomes.len() != op.operation.len() {
            let value = reply.outcomes.len() as u64;
            Err(OpError::Malformed(DecodeError::Invalid { what: "number of ops in a reply", value }))
        } else {
            Ok(OpReply { result: reply.result, version: reply.user_version, outcomes: reply.outcomes })
        };
        self.finish(op, result);
    }

    /// An OSD's answer cannot be decoded. The owner resets the session, and the same answer would come again
    /// and again: an operation that only gets such answers fails.
    pub(crate) fn handle_malformed_reply(&mut self, id: SessionId, tid: Tid, error: &DecodeError) {
        let Some(session) = self.live_session(id) else { return };
        let Some(op) = session.ops.get_mut(&tid) else { return };
        op.malformed += 1;
        if op.malformed >= MALFORMED_LIMIT
            && let Some(op) = session.ops.remove(&tid)
        {
            self.finish(op, Err(OpError::Malformed(error.clone())));
            self.admit_waiting();
        }
    }

    /// Sends an answered operation elsewhere: a new request to the OSDs, hence a new tid.
    fn submit_anew(&mut self, mut op: PendingOp<C>) {
        self.flow.give_back(&mut op);
        op.tid = self.next_tid();
        op.attempts = 0;
        self.target_and_send(op);
    }

    /// An OSD asks to hold back requests, or lifts that.
    pub(crate) fn handle_backoff(&mut self, id: SessionId, backoff: OsdBackoff) {
        let Some(session) = live(&mut self.sessions, id) else { return };
        match backoff.op {
            backoff_op::BLOCK => {
                if !session.backoffs.block(&backoff) {
                    self.actions.push_back(Action::Close { session: id });
                    return self.session_reset(id);
                }
                let held = session.ops.values_mut().filter(|op| backoff.is_about(&op.target));
                held.for_each(|op| self.flow.give_back(op));
                // The OSD's own epoch, so that it can drop this if the placement group has split since.
                let backoff = OsdBackoff { op: backoff_op::ACK_BLOCK, ..backoff };
                self.actions.push_back(Action::SendBackoff { session: id, backoff });
            }
            backoff_op::UNBLOCK => {
                if !session.backoffs.unblock(backoff.id) {
                    return;
                }
                let tids: Vec<Tid> =
                    session.ops.values().filter(|op| backoff.is_about(&op.target)).map(|op| op.tid).collect();
                for tid in tids {
                    self.send(id.osd, tid);
                }
            }
            _ => {}
        }
        self.admit_waiting();
    }

    /// An OSD tells about a watch or a notify.
    pub(crate) fn handle_watch_message(&mut self, id: SessionId, message: WatchNotify, data: &Bytes) {
        if self.live_session(id).is_some() {
            self.handle_watch_notify(message, data);
        }
    }

    /// To be called every few seconds.
    pub(crate) fn tick(&mut self, now: Now) {
        self.now = now;
        self.ping_watches();
        self.admit_waiting();
    }

    /// Fails everything in flight and everything to come, and closes all sessions.
    pub(crate) fn end(&mut self, error: OpError) {
        if self.ended.is_some() {
            return;
        }
        if let OpError::Blocklisted { since, epoch } = error {
            self.actions.push_back(Action::Barred { since, epoch });
        }
        self.fail_all(&error);
        self.ended = Some(error);
        for session in std::mem::take(&mut self.sessions).into_values() {
            self.actions.push_back(Action::Close { session: session.id });
        }
    }

    fn next_tid(&mut self) -> Tid {
        self.last_tid += 1;
        Tid(self.last_tid)
    }

    fn live_session(&mut self, id: SessionId) -> Option<&mut Session<C>> {
        live(&mut self.sessions, id)
    }

    /// The session with `osd`, opened if need be; `None` if the map has no address for it.
    fn session(&mut self, osd: OsdId) -> Option<&mut Session<C>> {
        if !self.sessions.contains_key(&osd) {
            let addr = self.map.osd_addrs(osd)?.msgr2()?;
            let id = SessionId { osd, incarnation: self.next_incarnation };
            self.next_incarnation += 1;
            self.actions.push_back(Action::Connect { session: id, addr });
            self.sessions.insert(osd, Session::new(id, addr));
        }
        self.sessions.get_mut(&osd)
    }

    fn take_op(&mut self, tid: Tid) -> Option<PendingOp<C>> {
        if let Some(op) = self.homeless.remove(&tid).or_else(|| self.waiting.remove(&tid)) {
            return Some(op);
        }
        self.sessions.values_mut().find_map(|session| session.ops.remove(&tid))
    }

    /// Finds out where an operation belongs, hands it there and sends it, whether or not that is a new place.
    fn target_and_send(&mut self, mut op: PendingOp<C>) {
        match op.target.recompute(&self.map, &mut self.placements, self.epoch_barrier) {
            Verdict::NoPool => self.park_without_pool(op),
            Verdict::PoolEio => self.finish(op, Err(OpError::Errno(Errno::EIO))),
            Verdict::Unchanged | Verdict::Resend => self.assign_and_send(op),
        }
    }

    /// Hands an operation with a fresh target to its session and sends it, if nothing is in the way.
    fn assign_and_send(&mut self, mut op: PendingOp<C>) {
        let tid = op.tid;
        op.lacks_pool = false;
        let osd = op.target.osd;
        match osd.and_then(|osd| self.session(osd)) {
            Some(session) => {
                session.ops.insert(tid, op);
                let osd = session.id.osd;
                self.send(osd, tid);
            }
            None => {
                self.homeless.insert(tid, op);
            }
        }
    }

    /// Sends an operation of a session, unless it is paused, backed off, the session is not open yet, or there
    /// is no room: then it waits for that.
    fn send(&mut self, osd: OsdId, tid: Tid) {
        let Some(session) = self.sessions.get_mut(&osd) else { return };
        let Some(features) = session.features else { return };
        let is_window_full = session.is_window_full();
        let Some(op) = session.ops.get_mut(&tid) else { return };
        if op.target.paused {
            return;
        }
        if !session.backoffs.is_empty() && session.backoffs.blocks(op.target.spg, &op.target.place()) {
            return;
        }
        if is_window_full {
            self.holding.insert(osd);
            return;
        }
        let is_next = self.waiting.first_key_value().is_none_or(|(first, _)| tid < *first);
        if !self.flow.admit(op, is_next) {
            self.waiting.extend(session.ops.remove_entry(&tid));
            return;
        }
        let mut flags = op.target.flags | flag::KNOWN_REDIR | flag::SUPPORTS_POOL_EIO | flag::ONDISK;
        if op.attempts > 0 {
            flags |= flag::RETRY;
        }
        let message = OsdOp {
            spg: op.target.spg,
            raw_hash: op.target.raw_hash,
            epoch: self.map.epoch(),
            flags,
            // Left empty, the OSD takes the connection's client and the message's tid.
            reqid: ReqId { name: EntityName { kind: EntityType(0), num: 0 }, tid: Tid(0), inc: 0 },
            mtime: op.since.wall,
            locator: &op.target.locator,
            object: &op.target.object,
            ops: &op.operation.ops,
            snap: op.snap,
            snapc: &op.snapc,
            retry_attempt: op.attempts,
            features,
        };
        let (front, payload) = message.encode();
        op.attempts += 1;
        self.actions.push_back(Action::SendOp { session: session.id, tid, front, payload });
    }

    /// Sends what is not with its OSD yet, as far as its connections are good for that.
    fn fill_window(&mut self, osd: OsdId) {
        let Some(session) = self.sessions.get(&osd) else { return };
        let held: Vec<Tid> = session.ops.values().filter(|op| !op.with_osd).map(|op| op.tid).collect();
        for tid in held {
            self.send(osd, tid);
            if self.holding.contains(&osd) {
                return;
            }
        }
    }

    fn finish(&mut self, mut op: PendingOp<C>, result: Result<OpReply, OpError>) {
        self.let_go(&mut op);
        match op.completion {
            Completion::Caller(completion) => self.actions.push_back(Action::Complete { completion, result }),
            Completion::Register { cookie } => self.linger_registered(cookie, result),
            Completion::Reconnect { cookie } => self.linger_checked(cookie, None, result),
            Completion::Ping { cookie, generation } => self.linger_checked(cookie, Some(generation), result),
        }
    }

    /// Keeps an operation whose pool is not in the map: the map may be older than the pool.
    fn park_without_pool(&mut self, mut op: PendingOp<C>) {
        let pool = op.target.pool();
        if op.target.pool_ever_existed {
            op.pool_gone_at = Some(self.map.epoch());
        }
        match op.pool_gone_at {
            Some(epoch) if self.map.epoch() >= epoch => {
                self.finish(op, Err(OpError::NoPool(pool)));
            }
            known => {
                op.lacks_pool = true;
                self.homeless.insert(op.tid, op);
                if known.is_none() {
                    self.ask_newest_epoch();
                }
            }
        }
    }

    fn ask_newest_epoch(&mut self) {
        if self.asked_newest_epoch.is_none() {
            self.asked_newest_epoch = Some(Tid(self.last_tid));
            self.actions.push_back(Action::AskNewestEpoch);
        }
    }

    /// The monitors' newest epoch: pools that are not in that map do not exist. It says nothing to operations
    /// younger than the question.
    pub(crate) fn newest_epoch(&mut self, newest: Epoch) {
        let Some(asked) = self.asked_newest_epoch.take() else { return };
        let unsure = |op: &PendingOp<C>| op.lacks_pool && op.pool_gone_at.is_none();
        let (known, unknown): (Vec<Tid>, Vec<Tid>) =
            self.homeless.values().filter(|op| unsure(op)).map(|op| op.tid).partition(|tid| *tid <= asked);
        for tid in known {
            if let Some(mut op) = self.homeless.remove(&tid) {
                op.pool_gone_at = Some(newest);
                self.park_without_pool(op);
            }
        }
        if !unknown.is_empty() {
            self.ask_newest_epoch();
        }
    }

    fn fail_all(&mut self, error: &OpError) {
        let mut ops = std::mem::take(&mut self.homeless);
        ops.append(&mut self.waiting);
        for session in self.sessions.values_mut() {
            ops.append(&mut session.ops);
        }
        for op in ops.into_values() {
            // Linger ops hear of it below, once each.
            if op.completion.should_resend() {
                self.finish(op, Err(error.clone()));
            }
        }
        self.fail_lingers(error);
    }
}

/// The session, if that connection is still the one that counts.
fn live<C>(sessions: &mut BTreeMap<OsdId, Session<C>>, id: SessionId) -> Option<&mut Session<C>> {
    sessions.get_mut(&id.osd).filter(|session| session.id == id)
}
