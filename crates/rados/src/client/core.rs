//! What all tasks of one client instance share, and the only place that carries out the Objecter's actions.
//!
//! Everything here is quick: state machines are fed under one short lock, and their outputs are handed to
//! channels and outboxes. No lock is held across an `.await`.

mod monitors;

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ceph_codec::{DecodeError, Encode, EntityAddr, EntityType, Epoch, ObjectLocator, OsdId, Tid, Utime};
use ceph_conf::Config;
use ceph_msgr::Message;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::error::OpError;
use crate::messages::kind;
use crate::messages::mon::{CommandAck, OsdMaps};
use crate::messages::osd::{OsdBackoff, OsdOp};
use crate::messages::pool_op::PoolOpReply;
use crate::monc::MonClient;
use crate::net::{Dialer, Outbox, Proof};
use crate::objecter::{Action, Now, Objecter, Request, SessionId, decode_full};
use crate::op::{Errno, OpReply};
use crate::requests::RequestStatus;
use crate::watch::{WatchEvent, WatchSender};

use super::settings::Settings;
use super::stall::{DESCRIBED, PATIENCE, StallLog};
use super::{ConnectError, Options, osd};

pub(crate) use monitors::MonError;

/// Where the result of an operation goes.
pub(crate) type OpSender = oneshot::Sender<Result<OpReply, OpError>>;
/// Where the result of a monitor command goes.
pub(crate) type CommandSender = oneshot::Sender<(CommandAck, Bytes)>;
/// Where the result of a change of a pool's snapshots goes.
pub(crate) type PoolOpSender = oneshot::Sender<PoolOpReply>;

/// How far connecting has come.
#[derive(Debug, Clone)]
pub(crate) enum Progress {
    /// No OSDMap yet; the last failed attempts, if any.
    Connecting(Option<Arc<ConnectError>>),
    Ready,
    /// No use trying again.
    Failed(Arc<ConnectError>),
}

#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) options: Options,
    /// Where the tasks run, whoever starts them.
    pub(crate) runtime: Handle,
    pub(crate) dialer: Dialer,
    /// `None` without authentication.
    pub(crate) auth: Option<Mutex<cephx::Client>>,
    pub(crate) state: Mutex<State>,
    pub(crate) progress: watch::Sender<Progress>,
    pub(crate) epoch: watch::Sender<Epoch>,
    /// What applies of the options that may change.
    pub(crate) settings: watch::Sender<Settings>,
    /// The options' configuration with the monitors' in it.
    pub(crate) config: watch::Sender<Arc<Config>>,
    /// Something waits for an OSD to answer others.
    pub(crate) held: Arc<Notify>,
    /// Wakes who waits for tickets: there are new ones.
    pub(crate) tickets_renewed: Notify,
    /// Wakes the monitor's task: a ticket is missing.
    pub(crate) tickets_wanted: Notify,
    /// Signalled once, when the client is shut down.
    pub(crate) closed: watch::Sender<bool>,
}

#[derive(Debug)]
pub(crate) struct State {
    /// `None` before the first OSDMap.
    pub(crate) objecter: Option<Objecter<OpSender>>,
    pub(crate) monc: MonClient<CommandSender, PoolOpSender>,
    mon_outbox: Option<Arc<Outbox>>,
    /// What the monitors have said last.
    mon_config: BTreeMap<String, String>,
    osd_outboxes: BTreeMap<SessionId, Arc<Outbox>>,
    pub(crate) watches: BTreeMap<u64, Watcher>,
    /// Who waits for room for another request, in order.
    waiting_for_room: VecDeque<oneshot::Sender<()>>,
    newest_epoch_waiters: BTreeMap<u64, oneshot::Sender<Epoch>>,
    /// The question for the newest epoch that the Objecter waits for.
    objecters_question: Option<u64>,
    first_cookie: u64,
    stalls: StallLog,
    /// Failed attempts in a row to reach an OSD at an address, for the pause before the next.
    osd_failures: BTreeMap<OsdId, (EntityAddr, u32)>,
}

/// The owner of a watch.
#[derive(Debug)]
pub(crate) struct Watcher {
    events: WatchSender,
    pub(crate) object: Arc<str>,
    pub(crate) locator: Arc<ObjectLocator>,
}

impl Watcher {
    /// False if the owner has not taken so many events that there is no room for another.
    fn deliver(&mut self, event: WatchEvent) -> bool {
        self.events.send(event)
    }
}

impl Core {
    /// # Panics
    /// Outside a tokio runtime.
    pub(crate) fn new(options: Options, hostname: String) -> Self {
        let mut seed = [0; 12];
        options.system.random(&mut seed);
        let [n0, n1, n2, n3, cookie @ ..] = seed;
        let nonce = u32::from_le_bytes([n0, n1, n2, n3]).max(1);
        // Cookies of different instances should differ, and fit a positive number of any language.
        let first_cookie = (u64::from_le_bytes(cookie) >> 17).max(1);
        let auth = options.key.clone().map(|key| Mutex::new(cephx::Client::new(options.name.clone(), key)));
        let dialer = Dialer::new(Arc::clone(&options.system), nonce);
        let settings = watch::Sender::new(Settings::new(&options));
        let config = watch::Sender::new(Arc::new(options.config.clone()));
        Self {
            options,
            settings,
            config,
            runtime: Handle::current(),
            dialer,
            auth,
            state: Mutex::new(State {
                objecter: None,
                monc: MonClient::new(hostname),
                mon_outbox: None,
                mon_config: BTreeMap::new(),
                osd_outboxes: BTreeMap::new(),
                watches: BTreeMap::new(),
                waiting_for_room: VecDeque::new(),
                newest_epoch_waiters: BTreeMap::new(),
                objecters_question: None,
                first_cookie,
                stalls: StallLog::default(),
                osd_failures: BTreeMap::new(),
            }),
            progress: watch::Sender::new(Progress::Connecting(None)),
            epoch: watch::Sender::new(Epoch(0)),
            held: Arc::default(),
            tickets_renewed: Notify::new(),
            tickets_wanted: Notify::new(),
            closed: watch::Sender::new(false),
        }
    }

    /// Wall-clock time, for modification times of objects.
    pub(crate) fn now_utime(&self) -> Utime {
        Utime::from_system_time(self.options.system.now())
    }

    /// What to show to an OSD.
    ///
    /// # Errors
    /// [`cephx::AuthError::NoTicket`]
    pub(crate) fn osd_proof(&self) -> Result<Proof<'_>, cephx::AuthError> {
        match &self.auth {
            Some(auth) => Proof::ticket(auth, EntityType::OSD, &*self.options.system),
            None => {
                let payload = cephx::none::authorizer(&self.options.name, self.dialer.global_id());
                Ok(Proof::Nothing { payload })
            }
        }
    }

    /// Runs `f` on the Objecter and carries out what follows from it. `None` before the first OSDMap.
    pub(crate) fn with_objecter<R>(
        self: &Arc<Self>,
        f: impl FnOnce(&mut Objecter<OpSender>) -> R,
    ) -> Option<R> {
        let mut state = self.state.lock();
        let result = f(state.objecter.as_mut()?);
        self.carry_out(&mut state);
        Some(result)
    }

    /// Does what the Objecter asks for, and wakes those who wait for room in it.
    fn carry_out(self: &Arc<Self>, state: &mut State) {
        while let Some(action) = state.objecter.as_mut().and_then(Objecter::poll_action) {
            match action {
                Action::SendOp { session, tid, front, payload } => {
                    if let Some(outbox) = state.osd_outboxes.get(&session) {
                        outbox.push(op_message(tid, front, payload));
                    }
                }
                Action::Complete { completion, result } => {
                    // Nobody waits for an operation whose future was dropped.
                    let _ = completion.send(result);
                }
                Action::Connect { session, addr } => {
                    let outbox = Arc::new(Outbox::default());
                    state.osd_outboxes.insert(session, Arc::clone(&outbox));
                    osd::spawn(Arc::clone(self), session, addr, outbox);
                }
                Action::Close { session } => {
                    if let Some(outbox) = state.osd_outboxes.remove(&session) {
                        outbox.close();
                    }
                }
                Action::SendBackoff { session, backoff } => {
                    if let Some(outbox) = state.osd_outboxes.get(&session) {
                        outbox.push(backoff_message(&backoff));
                    }
                }
                Action::Watch { cookie, event } => {
                    let delivered =
                        state.watches.get_mut(&cookie).is_none_or(|watcher| watcher.deliver(event));
                    if let Some(objecter) = state.objecter.as_mut().filter(|_| !delivered) {
                        objecter.lose_watch(cookie, Errno::ENOBUFS);
                    }
                }
                Action::Barred { since, epoch } => tracing::error!(
                    %epoch,
                    seconds_ago = self.options.system.now().duration_since(since).unwrap_or_default().as_secs(),
                    addr = self.dialer.my_addr().map(tracing::field::display),
                    "the cluster has blocklisted this client; nothing it sends is accepted any more"
                ),
                Action::AskNewestEpoch => {
                    state.objecters_question = Some(state.monc.request_newest_epoch(self.dialer.now()));
                }
            }
        }
        state.flush_mon();
        state.wake_for_room();
        if state.objecter.as_ref().is_some_and(Objecter::is_holding) {
            self.held.notify_one();
        }
    }

    /// A while after something had to wait for an OSD to answer others.
    pub(crate) fn widen(self: &Arc<Self>) {
        self.with_objecter(Objecter::widen);
    }

    /// Waits until another request would not have to wait for others to end.
    pub(crate) async fn room(&self) -> Result<(), OpError> {
        let waiting = {
            let mut state = self.state.lock();
            let Some(objecter) = &state.objecter else { return Err(OpError::Shutdown) };
            if let Some(error) = objecter.ended() {
                return Err(error.clone());
            }
            if objecter.has_room() && state.waiting_for_room.is_empty() {
                return Ok(());
            }
            let (sender, waiting) = oneshot::channel();
            state.waiting_for_room.push_back(sender);
            waiting
        };
        waiting.await.map_err(|_| {
            let state = self.state.lock();
            state.objecter.as_ref().and_then(Objecter::ended).cloned().unwrap_or(OpError::Shutdown)
        })
    }

    /// Starts to watch; `None` before the first OSDMap.
    pub(crate) fn watch(
        self: &Arc<Self>,
        request: Request,
        sender: OpSender,
    ) -> Option<(u64, mpsc::Receiver<WatchEvent>)> {
        let (object, locator) = (Arc::clone(&request.object), Arc::clone(&request.locator));
        let mut state = self.state.lock();
        let cookie = state.objecter.as_mut()?.watch(request, sender);
        let (events, inbox) = WatchSender::new();
        // Under the same lock, so that no event comes before there is somebody to get it.
        state.watches.insert(cookie, Watcher { events, object, locator });
        self.carry_out(&mut state);
        Some((cookie, inbox))
    }

    /// A session with an OSD is open.
    pub(crate) fn osd_opened(self: &Arc<Self>, session: SessionId, features: u64) {
        self.with_objecter(|objecter| objecter.session_opened(session, features));
    }

    /// Failed attempts in a row to reach the OSD at this address.
    pub(crate) fn osd_failures(&self, osd: OsdId, addr: EntityAddr) -> u32 {
        let state = self.state.lock();
        state.osd_failures.get(&osd).filter(|(failed, _)| *failed == addr).map_or(0, |(_, count)| *count)
    }

    /// A session with an OSD is lost, or never came to be. `failures` in a row make up for a longer pause
    /// before the next attempt.
    pub(crate) fn osd_reset(self: &Arc<Self>, session: SessionId, addr: EntityAddr, failures: u32) {
        let mut state = self.state.lock();
        state.osd_failures.insert(session.osd, (addr, failures));
        if let Some(outbox) = state.osd_outboxes.remove(&session) {
            outbox.close();
        }
        if let Some(objecter) = &mut state.objecter {
            objecter.session_reset(session);
        }
        // It may be gone, and only a monitor that is alive tells where its objects are now.
        state.monc.probe(self.dialer.now());
        self.carry_out(&mut state);
    }

    /// A message of an OSD.
    ///
    /// # Errors
    /// [`DecodeError`] if it is malformed; the session has to end then.
    pub(crate) fn osd_message(
        self: &Arc<Self>,
        session: SessionId,
        message: Message,
    ) -> Result<(), DecodeError> {
        if message.kind == kind::OSD_MAP {
            self.new_maps(&OsdMaps::decode(&message.front)?);
            return Ok(());
        }
        self.with_objecter(|objecter| objecter.handle_message(session, message)).unwrap_or(Ok(()))
    }

    fn new_maps(self: &Arc<Self>, maps: &OsdMaps) {
        let mut state = self.state.lock();
        if state.objecter.is_none() {
            self.first_map(&mut state, maps);
        }
        let Some(objecter) = &mut state.objecter else { return };
        let outcome = objecter.handle_maps(maps);
        let epoch = objecter.map().epoch();
        match outcome {
            Ok(()) => {
                state.monc.have_osdmap(epoch);
                let behind = maps.incrementals.keys().next_back().is_some_and(|&last| last > epoch);
                if behind {
                    state.monc.request_osdmap(epoch.next());
                }
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "OSDMap unusable, asking for a full one"
                );
                state.monc.request_full_osdmap();
            }
        }
        self.carry_out(&mut state);
        drop(state);
        // Another task may have been faster with a newer one.
        self.epoch.send_if_modified(|known| epoch > std::mem::replace(known, epoch.max(*known)));
        self.progress.send_if_modified(|progress| {
            let ready = matches!(progress, Progress::Ready);
            *progress = Progress::Ready;
            !ready
        });
    }

    /// Makes the Objecter from the first full map.
    fn first_map(&self, state: &mut State, maps: &OsdMaps) {
        let Some((epoch, bytes)) = maps.full.last_key_value() else {
            state.monc.request_full_osdmap();
            return;
        };
        match decode_full(maps.fsid, *epoch, bytes) {
            Ok(map) => {
                let my_addr = self.dialer.my_addr().unwrap_or(EntityAddr::BLANK);
                let mut objecter = Objecter::new(map, my_addr, state.first_cookie);
                let settings = self.settings.borrow().clone();
                objecter.set_limits(settings.limits);
                objecter.set_op_timeout(settings.op_timeout);
                state.objecter = Some(objecter);
            }
            Err(source) => {
                let error = ConnectError::BadOsdMap(source);
                self.progress.send_replace(Progress::Failed(Arc::new(error)));
            }
        }
    }

    /// Every few seconds: pings watches, and says what operations are waiting for.
    pub(crate) fn tick(self: &Arc<Self>) {
        let now = self.now();
        self.with_objecter(|objecter| objecter.tick(now));
        let mut state = self.state.lock();
        let State { objecter: Some(objecter), monc, stalls, mon_outbox, .. } = &mut *state else { return };
        let mut stall = objecter.stall(now.monotonic, PATIENCE, DESCRIBED);
        stall.add(monc.requests(now.monotonic).into_iter().filter(|request| request.age >= PATIENCE));
        stalls.observe(&stall, mon_outbox.is_some(), objecter.map().epoch());
    }

    /// Ends operations that took too long; how long until there may be more, if there is a limit at all.
    pub(crate) fn expire(self: &Arc<Self>) -> Option<Duration> {
        let now = self.now();
        let limit = self.with_objecter(|objecter| {
            objecter.expire(now);
            objecter.op_timeout()
        });
        limit.flatten().map(|limit| (limit / 10).clamp(Duration::from_millis(20), Duration::from_secs(1)))
    }

    /// What has not ended.
    pub(crate) fn requests(&self) -> Vec<RequestStatus> {
        let now = self.dialer.now();
        let state = self.state.lock();
        let mut all = state.monc.requests(now);
        all.extend(state.objecter.iter().flat_map(|objecter| objecter.requests(now)));
        all.sort_by_key(|request| Reverse(request.age));
        all
    }

    /// The time for the Objecter.
    pub(crate) fn now(&self) -> Now {
        Now { wall: self.now_utime(), monotonic: self.dialer.now() }
    }

    /// Ends all tasks and fails all operations.
    pub(crate) fn end(self: &Arc<Self>, why: OpError) {
        if self.closed.send_replace(true) {
            return;
        }
        let mut state = self.state.lock();
        if let Some(objecter) = &mut state.objecter {
            objecter.end(why);
        }
        state.waiting_for_room.clear();
        self.carry_out(&mut state);
        state.watches.clear();
        state.newest_epoch_waiters.clear();
        state.monc.forget_questions();
        let mon = state.mon_outbox.take();
        for outbox in std::mem::take(&mut state.osd_outboxes).into_values().chain(mon) {
            outbox.close();
        }
    }
}

impl State {
    /// Lets the first of those who wait for room go on. Its request, or the end of another, wakes the next.
    fn wake_for_room(&mut self) {
        if self.waiting_for_room.is_empty() {
            return;
        }
        if self.objecter.as_ref().is_some_and(|objecter| objecter.ended().is_some()) {
            return self.waiting_for_room.clear();
        }
        while self.objecter.as_ref().is_some_and(Objecter::has_room) {
            let Some(first) = self.waiting_for_room.pop_front() else { return };
            if first.send(()).is_ok() {
                return;
            }
        }
    }

    /// Sends what the monitor client has to say, if there is a session.
    pub(crate) fn flush_mon(&mut self) {
        let Some(outbox) = &self.mon_outbox else { return };
        while let Some(message) = self.monc.poll_message() {
            outbox.push(message);
        }
    }
}

/// How long to wait before attempt number `failures + 1` to reach a daemon.
pub(crate) fn backoff(failures: u32, first: Duration, longest: Duration) -> Duration {
    first.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(longest)
}

fn op_message(tid: Tid, front: Vec<u8>, payload: Vec<Bytes>) -> Message {
    Message {
        kind: kind::OSD_OP,
        version: OsdOp::VERSION,
        compat_version: OsdOp::COMPAT,
        tid,
        priority: OSD_CLIENT_OP_PRIORITY,
        front: front.into(),
        middle: Bytes::new(),
        data: payload.into_iter().collect(),
    }
}

/// Ceph's default of `osd_client_op_priority`.
const OSD_CLIENT_OP_PRIORITY: u16 = 63;

fn backoff_message(backoff: &OsdBackoff) -> Message {
    Message {
        kind: kind::OSD_BACKOFF,
        version: 1,
        compat_version: 1,
        // That of operations, so that it does not overtake them.
        priority: OSD_CLIENT_OP_PRIORITY,
        front: backoff.encode_to_vec().into(),
        ..Message::default()
    }
}
