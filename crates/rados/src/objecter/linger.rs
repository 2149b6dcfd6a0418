//! Linger ops: requests that stay registered with an OSD and are registered again wherever their object goes.
//!
//! ```text
//!            watch()                   session reset or new primary
//!  (none) ------------> registering ------------------------------+
//!                            | committed                           |
//!                            v             reconnect committed     v
//!                        registered <------------------------ reconnecting
//!                            |  ping answered: stays              |
//!                            |  ping or reconnect refused         |
//!                            +-------------> lost <---------------+   the owner learns it once
//! ```
//! A watch that the OSD has dropped is not registered again here: notifies were missed, and the owner has to
//! know before it goes on.
//!
//! Ceph: `LingerOp` in `src/osdc/Objecter.h`, `src/osdc/Objecter.cc`.

use std::time::Duration;

use bytes::Bytes;
use ceph_codec::{Decode, SnapId, Tid};
use ceph_osdmap::MapFlags;

use crate::error::OpError;
use crate::messages::osd::flag;
use crate::messages::watch::{WatchNotify, event};
use crate::op::{Errno, OpKind, OpOutcome, OpReply, Operation, SnapContext, WatchAction};
use crate::watch::WatchEvent;

use super::target::{Target, Verdict};
use super::{Action, Completion, Objecter, PendingOp, Request};

/// A ping that is not answered for so long may have been dropped by an OSD that was not ready; it is followed by
/// another, long before the OSD ends the watch (30 s).
const PING_PATIENCE: Duration = Duration::from_secs(10);

/// A registered or registering watch, or a notify that waits for its answers.
#[derive(Debug)]
pub(crate) struct Linger<C> {
    pub(crate) target: Target,
    pub(crate) kind: LingerKind,
    /// Whoever waits for the registration (watch) or for the answers (notify).
    completion: Option<C>,
    registered: bool,
    /// Counts registrations, so that an OSD can tell an old one from a new one.
    pub(super) generation: u32,
    pub(super) lost: bool,
    /// The request that registers, if it is under way.
    register_tid: Option<Tid>,
    /// The last ping; a new one waits until it is answered.
    ping_tid: Option<Tid>,
    /// Where it is assigned.
    pub(crate) osd: Option<ceph_codec::OsdId>,
    /// On the monotonic clock, when it was last registered.
    pub(super) since: Duration,
    /// When the last question whether it is registered was sent.
    asked: Duration,
    /// When the last question was sent that the OSD has answered with yes.
    confirmed: Duration,
}

impl<C> Linger<C> {
    /// A notify that has reached the OSD.
    pub(super) fn awaits_watchers(&self) -> bool {
        matches!(self.kind, LingerKind::Notify { .. }) && self.registered
    }
}

#[derive(Debug, Clone)]
pub(crate) enum LingerKind {
    Watch,
    Notify { payload: Bytes, timeout_secs: u32, notify_id: Option<u64> },
}

impl<C> Objecter<C> {
    /// Starts to watch an object; `completion` gets the result of the registration. Returns the cookie.
    pub(crate) fn watch(&mut self, request: Request, completion: C) -> u64 {
        // A watch takes no space: a full pool must not cost it.
        self.add_linger(request, LingerKind::Watch, flag::WRITE | flag::FULL_TRY, completion)
    }

    /// Notifies the watchers of an object; `completion` gets their answers as the data of the only outcome.
    pub(crate) fn notify(
        &mut self,
        request: Request,
        payload: Bytes,
        timeout_secs: u32,
        completion: C,
    ) -> u64 {
        let kind = LingerKind::Notify { payload, timeout_secs, notify_id: None };
        self.add_linger(request, kind, flag::READ, completion)
    }

    /// Forgets a watch or a notify: no more pings, registrations or events. Of a watch the caller sends the
    /// unwatch.
    pub(crate) fn forget_linger(&mut self, cookie: u64) {
        self.remove_linger(cookie);
        self.admit_waiting();
    }

    /// What removes the watch from its OSD.
    pub(crate) fn unwatch_operation(cookie: u64) -> Operation {
        Operation::new().push(OpKind::Watch { cookie, action: WatchAction::Unwatch })
    }

    fn add_linger(&mut self, request: Request, kind: LingerKind, flags: u32, completion: C) -> u64 {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        if let Some(error) = &self.ended {
            self.actions.push_back(Action::Complete { completion, result: Err(error.clone()) });
            return cookie;
        }
        let target = Target::of_linger(request.object, request.locator, flags);
        let linger = Linger {
            target,
            kind,
            completion: Some(completion),
            registered: false,
            generation: 0,
            lost: false,
            register_tid: None,
            ping_tid: None,
            osd: None,
            since: self.now.monotonic,
            asked: self.now.monotonic,
            confirmed: self.now.monotonic,
        };
        self.lingers.insert(cookie, linger);
        match self.retarget_linger(cookie) {
            Verdict::PoolEio => self.end_linger(cookie, Errno::EIO),
            Verdict::NoPool | Verdict::Unchanged | Verdict::Resend => self.send_linger(cookie),
        }
        cookie
    }

    pub(super) fn remove_linger(&mut self, cookie: u64) -> Option<Linger<C>> {
        let linger = self.lingers.remove(&cookie)?;
        if let Some(session) = linger.osd.and_then(|osd| self.sessions.get_mut(&osd)) {
            session.lingers.remove(&cookie);
        }
        if let Some(tid) = linger.register_tid {
            self.take_op(tid);
        }
        Some(linger)
    }

    /// Recomputes where a linger op belongs and moves it there.
    pub(super) fn retarget_linger(&mut self, cookie: u64) -> Verdict {
        let Some(linger) = self.lingers.get_mut(&cookie) else { return Verdict::Unchanged };
        let verdict = linger.target.recompute(&self.map, &mut self.placements, self.epoch_barrier);
        let (old, new) = (linger.osd, linger.target.osd);
        linger.osd = new;
        if old != new
            && let Some(session) = old.and_then(|osd| self.sessions.get_mut(&osd))
        {
            session.lingers.remove(&cookie);
        }
        if let Some(session) = new.and_then(|osd| self.session(osd)) {
            session.lingers.insert(cookie);
        }
        verdict
    }

    /// Registers, or registers again after the session or the primary changed.
    pub(super) fn send_linger(&mut self, cookie: u64) {
        let Some(linger) = self.lingers.get_mut(&cookie) else { return };
        if linger.lost {
            return;
        }
        let kind = match &mut linger.kind {
            LingerKind::Watch if linger.registered => {
                linger.generation += 1;
                OpKind::Watch { cookie, action: WatchAction::Reconnect { generation: linger.generation } }
            }
            LingerKind::Watch => OpKind::Watch { cookie, action: WatchAction::Watch },
            LingerKind::Notify { payload, timeout_secs, notify_id } => {
                *notify_id = None;
                OpKind::Notify { cookie, timeout_secs: *timeout_secs, payload: payload.clone() }
            }
        };
        linger.asked = self.now.monotonic;
        let reconnect = matches!(kind, OpKind::Watch { action: WatchAction::Reconnect { .. }, .. });
        let target = linger.target.clone();
        // A registration under way goes to the wrong place or was lost with its session.
        let stale = linger.register_tid.take();
        let tid = self.next_tid();
        if let Some(linger) = self.lingers.get_mut(&cookie) {
            linger.register_tid = Some(tid);
        }
        if let Some(stale) = stale {
            self.take_op(stale);
        }
        let completion =
            if reconnect { Completion::Reconnect { cookie } } else { Completion::Register { cookie } };
        self.submit_internal(tid, target, kind, completion);
    }

    fn submit_internal(&mut self, tid: Tid, target: Target, kind: OpKind, completion: Completion<C>) {
        let op = PendingOp {
            tid,
            target,
            operation: Operation::new().push(kind),
            snap: SnapId::HEAD,
            snapc: SnapContext::default(),
            since: self.now,
            attempts: 0,
            completion,
            lacks_pool: false,
            pool_gone_at: None,
            cost: None,
            with_osd: false,
            malformed: 0,
        };
        match op.target.osd {
            None if self.map.pool(op.target.pool()).is_none() => self.park_without_pool(op),
            _ => self.assign_and_send(op),
        }
    }

    /// Pings the OSDs of all watches, so that both sides notice a lost connection.
    pub(super) fn ping_watches(&mut self) {
        if self.map.flags().contains(MapFlags::PAUSE_RD) {
            return;
        }
        let due: Vec<(u64, u32, Target)> = self
            .lingers
            .iter()
            .filter(|(_, l)| matches!(l.kind, LingerKind::Watch) && l.registered && !l.lost)
            // A registration under way is as good as a ping.
            .filter(|(_, l)| l.register_tid.is_none())
            .filter(|(_, l)| {
                let session = l.osd.and_then(|osd| self.sessions.get(&osd));
                let fresh =
                    |op: &PendingOp<C>| self.now.monotonic.saturating_sub(op.since.monotonic) < PING_PATIENCE;
                session.is_some_and(|s| {
                    s.features.is_some() && !l.ping_tid.and_then(|tid| s.ops.get(&tid)).is_some_and(fresh)
                })
            })
            .map(|(cookie, l)| (*cookie, l.generation, l.target.clone()))
            .collect();
        for (cookie, generation, mut target) in due {
            // A ping is never held back: it keeps the watch alive while writes wait for a full pool.
            target.paused = false;
            let tid = self.next_tid();
            if let Some(linger) = self.lingers.get_mut(&cookie) {
                linger.ping_tid = Some(tid);
                linger.asked = self.now.monotonic;
            }
            let kind = OpKind::Watch { cookie, action: WatchAction::Ping { generation } };
            self.submit_internal(tid, target, kind, Completion::Ping { cookie, generation });
        }
    }

    /// The answer to a registration.
    pub(super) fn linger_registered(&mut self, cookie: u64, result: Result<OpReply, OpError>) {
        let Some(linger) = self.lingers.get_mut(&cookie) else { return };
        linger.register_tid = None;
        match (&mut linger.kind, result) {
            (LingerKind::Watch, Ok(reply)) => {
                linger.registered = true;
                linger.confirmed = linger.asked;
                if let Some(completion) = linger.completion.take() {
                    self.actions.push_back(Action::Complete { completion, result: Ok(reply) });
                }
            }
            (LingerKind::Notify { notify_id, .. }, Ok(reply)) => {
                linger.registered = true;
                *notify_id = u64::decode_from(&reply.data(0)).ok();
            }
            (_, Err(error)) => {
                if let Some(completion) = self.remove_linger(cookie).and_then(|l| l.completion) {
                    self.actions.push_back(Action::Complete { completion, result: Err(error) });
                }
            }
        }
    }

    /// The answer to a reconnect or, with `generation`, to a ping.
    pub(super) fn linger_checked(
        &mut self,
        cookie: u64,
        generation: Option<u32>,
        result: Result<OpReply, OpError>,
    ) {
        let Some(linger) = self.lingers.get_mut(&cookie) else { return };
        match generation {
            None => linger.register_tid = None,
            Some(generation) if generation != linger.generation => return,
            Some(_) => {}
        }
        match result {
            Ok(_) => linger.confirmed = linger.asked,
            Err(error) => self.lose_watch(cookie, error.errno()),
        }
    }

    /// On the monotonic clock, since when no notify can have been missed; `None` if there is no such watch, or
    /// it is lost.
    pub(crate) fn watch_confirmed(&self, cookie: u64) -> Option<Duration> {
        let linger = self.lingers.get(&cookie)?;
        let stands = matches!(linger.kind, LingerKind::Watch) && linger.registered && !linger.lost;
        stands.then_some(linger.confirmed)
    }

    /// Tells the owner, once, that the OSD has dropped the watch.
    pub(crate) fn lose_watch(&mut self, cookie: u64, errno: Errno) {
        let Some(linger) = self.lingers.get_mut(&cookie) else { return };
        if linger.lost || !matches!(linger.kind, LingerKind::Watch) {
            return;
        }
        linger.lost = true;
        // A deleted object and one whose watch is gone look the same to the owner.
        let errno = if errno == Errno::ENOENT { Errno::ENOTCONN } else { errno };
        self.actions.push_back(Action::Watch { cookie, event: WatchEvent::Lost(errno) });
    }

    pub(super) fn handle_watch_notify(&mut self, message: WatchNotify, data: &Bytes) {
        let cookie = message.cookie;
        let Some(linger) = self.lingers.get(&cookie) else { return };
        match (&linger.kind, message.event) {
            (LingerKind::Watch, event::NOTIFY) => {
                let WatchNotify { notify_id, notifier, payload, .. } = message;
                let event = WatchEvent::Notify { notify_id, notifier, payload };
                self.actions.push_back(Action::Watch { cookie, event });
            }
            (LingerKind::Watch, event::DISCONNECT) => self.lose_watch(cookie, Errno::ENOTCONN),
            (LingerKind::Notify { notify_id, .. }, event::NOTIFY_COMPLETE) => {
                if notify_id.is_some_and(|id| id != message.notify_id) {
                    return; // an earlier registration's
                }
                let Some(completion) = self.remove_linger(cookie).and_then(|l| l.completion) else { return };
                // Some watchers timed out; their names are in the data all the same.
                let result = match message.result {
                    r if r < 0 && r != -Errno::ETIMEDOUT.0 => Err(OpError::Errno(Errno(r.saturating_neg()))),
                    r => Ok(OpReply {
                        result: r,
                        version: 0,
                        outcomes: vec![OpOutcome { rval: r, data: data.clone() }],
                    }),
                };
                self.actions.push_back(Action::Complete { completion, result });
            }
            _ => {}
        }
    }

    /// The pool is gone, or answers everything with an error: whoever waits is told, a watch is lost.
    pub(super) fn end_linger(&mut self, cookie: u64, errno: Errno) {
        if self.lingers.get(&cookie).is_some_and(|linger| linger.completion.is_some()) {
            self.linger_registered(cookie, Err(OpError::Errno(errno)));
        } else {
            self.lose_watch(cookie, errno);
        }
    }

    /// Fails all linger ops: watches are lost, notifies and registrations end with `error`.
    pub(super) fn fail_lingers(&mut self, error: &OpError) {
        for cookie in self.lingers.keys().copied().collect::<Vec<_>>() {
            let Some(linger) = self.lingers.get_mut(&cookie) else { continue };
            if let Some(completion) = linger.completion.take() {
                self.actions.push_back(Action::Complete { completion, result: Err(error.clone()) });
                self.remove_linger(cookie);
            } else {
                self.lose_watch(cookie, error.errno());
            }
        }
    }
}
