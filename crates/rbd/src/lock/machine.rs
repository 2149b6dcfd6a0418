//! The exclusive lock as a state machine: events go in, actions come out. No I/O, no clock, no tasks.
//!
//! ```text
//!             wanted                        EBUSY            alive
//!  Unlocked ---------> [AwaitWatch] Locking -----> Inspecting -----> Requesting --> Waiting
//!   ^   ^                  ^  ^  ^   |                |  dead            |             |
//!   |   | failed           |  |  |   | ok             v                  |  released,  |
//!   |   +------------------+  |  |   |            Blocklisting           |  or time    |
//!   |                         |  |   v                v                  |  is up      |
//!   |                         |  | Preparing      Breaking               |             |
//!   |                         |  |   |                |                  |             |
//!   |                         |  +---|----------------+------------------+-------------+
//!   |              wanted     |      v
//!   |           [Yielding] ---+    Held <-- mutations run only here
//!   |               ^                | asked for, or given up
//!   |               |                v
//!   +---------------+--- Unlocking <- Closing <- Draining
//! ```
//! A client that is blocklisted ends up in `Lost` from anywhere, for ever.
//!
//! The header's watch may be registered anew, under a new cookie, at any time. While the lock is held its cookie
//! is changed to match, beside all that: the others take an owner whose cookie has no watch for dead.
//!
//! Ceph: `src/librbd/ManagedLock.cc`, `src/librbd/ExclusiveLock.cc`, `src/librbd/managed_lock/`.

use std::mem;
use std::time::{Duration, Instant};

use rados::{Errno, OpError};

use super::LockError;
use super::cls::LockOwner;
use super::holder::Holder;
use super::work::{Patience, Work};

/// After the owner has agreed to give the lock up: ask again after this. Ceph: `client_notify_timeout`.
const AGREED_RETRY: Duration = Duration::from_secs(10);
/// After asking failed. Ceph: `RETRY_DELAY_SECONDS` in `ImageWatcher.cc`.
const FAILED_RETRY: Duration = Duration::from_secs(1);
/// After nobody answered at all, as while the lock changes hands.
const SILENT_RETRY: Duration = Duration::from_millis(250);
/// How long an owner that has lost its watch, but still watches under another cookie, may take to change the
/// cookie of its lock before it counts as dead.
const REWATCH_GRACE: Duration = Duration::from_secs(3);
/// How long the client that asked for the lock may take to get it, before this one wants it back.
const HANDOVER: Duration = Duration::from_millis(500);
/// How long it may then keep it. Clients begin at once what has waited for the lock, and finish it before they hand
/// the lock over; so this is only to have less hand-overs than writes.
const KEEP: Duration = Duration::from_millis(10);
/// How often waiting for somebody else's lock is worth a line in the log.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// The cookie of a watch.
pub(super) type Handle = u64;

#[derive(Debug, Clone)]
pub(super) enum Event {
    /// A mutation waits for the lock.
    Wanted,
    /// The lock is to be given up, or not to be acquired any more.
    GiveUp,
    /// The watch has a new cookie, or none for now.
    Watch(Option<Handle>),
    /// Another client has acquired the lock.
    PeerAcquired,
    /// Another client has released the lock.
    PeerReleased,
    /// Maintenance was asked of another client, or is about to be done by one.
    PeerWorks,
    /// Another client has ended maintenance, or has stopped before it was done.
    PeerWorked {
        done: bool,
    },
    /// This client begins maintenance.
    WorkBegun,
    /// This client is done with it, one way or another.
    WorkEnded,
    /// Another client wants the lock.
    PeerWants,
    /// The cluster has blocklisted this client.
    Blocklisted,
    /// The time asked for by [`Action::Wake`] has come.
    Timer,
    // What became of actions:
    Locked(Result<(), OpError>),
    Inspected(Result<Holder, OpError>),
    Requested(u64, Answer),
    OwnerBlocklisted(Result<(), OpError>),
    Broken(Result<(), OpError>),
    Prepared(Result<(), LockError>),
    Rebound(Result<(), OpError>),
    Drained,
    Closed,
    Unlocked(Result<(), OpError>),
    /// The other clients know that the lock is free, or nearly all.
    Announced,
}

/// What came back from asking the owner for the lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// The owner answered: 0 or a negative errno.
    Owner(i32),
    /// No owner answered.
    Nobody,
    /// The notify failed.
    Failed(OpError),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Action {
    /// Take the lock with this watch's cookie.
    Lock(Handle),
    /// Find out who holds the lock, and whether it is alive.
    Inspect,
    /// Ask the owner for the lock; the number comes back with the answer.
    Request(u64),
    /// Bar the dead owner from the cluster, and wait until this client's map shows it.
    Blocklist(LockOwner),
    /// Take the lock away from an owner that cannot write any more.
    Break(LockOwner),
    /// Load what depends on the lock: header, object map.
    Prepare,
    /// Change the cookie of the lock.
    Rebind { old: Handle, new: Handle },
    /// Wait for the mutations in flight.
    Drain,
    /// Close what depends on the lock.
    Close,
    /// Give the lock up.
    Unlock(Handle),
    /// Come back at this time.
    Wake(Instant),
    /// Tell all clients that this one has the lock.
    AnnounceAcquired,
    /// Tell all clients that the lock is free.
    AnnounceReleased,
    // At once, and without an event when done:
    /// Let mutations begin, those that wait first.
    OpenGate,
    /// Let no more mutations begin.
    ShutGate,
    /// Fail the mutations that wait.
    Fail(LockError),
    /// Whoever gave the lock up may go on.
    GivenUp,
    /// Log that the lock is somebody else's for so long already.
    Warn { owner: LockOwner, waited: Duration },
}

#[derive(Debug, Clone, PartialEq)]
enum State {
    Unlocked,
    AwaitWatch,
    Yielding,
    Locking(Handle),
    Inspecting,
    Requesting { round: u64 },
    Waiting { until: Instant },
    Blocklisting(LockOwner),
    Breaking,
    Preparing,
    Held,
    Draining,
    Closing,
    Unlocking,
    Lost,
}

#[derive(Debug)]
pub(super) struct Machine {
    state: State,
    watch: Option<Handle>,
    /// The cookie of the lock, from having it to giving it up.
    cookie: Option<Handle>,
    /// The cookie that the lock is just being given.
    rebinding: Option<Handle>,
    wanted: bool,
    giving_up: bool,
    peer_wants: bool,
    /// Until when the client that asked for the lock may have it.
    yields_until: Option<Instant>,
    /// Whether another client maintains the image, and how long it may then keep the lock.
    peer_works: bool,
    /// Whether it got the lock for that.
    peer_may_work: bool,
    patience: Patience,
    work: Work,
    /// The cookie could not be changed, so the lock may not be ours any more.
    doubtful: bool,
    /// Why to fail those who wait, once the lock is undone.
    failure: Option<LockError>,
    round: u64,
    owner: Option<LockOwner>,
    /// Since when the lock is wanted but somebody else's, and when to log it next.
    blocked: Option<(Instant, Instant)>,
    /// Since when the owner has had no watch with its cookie, but one with another.
    rewatching: Option<Instant>,
    actions: Vec<Action>,
}

impl Machine {
    pub(super) fn new(watch: Option<Handle>) -> Self {
        Self {
            state: State::Unlocked,
            watch,
            cookie: None,
            rebinding: None,
            wanted: false,
            giving_up: false,
            peer_wants: false,
            yields_until: None,
            peer_works: false,
            peer_may_work: false,
            patience: Patience::default(),
            work: Work::default(),
            doubtful: false,
            failure: None,
            round: 0,
            owner: None,
            blocked: None,
            rewatching: None,
            actions: Vec::new(),
        }
    }

    /// Whether this client counts as the owner, for those who ask. Ceph: `ManagedLock::is_lock_owner`.
    pub(super) fn is_owner(&self) -> bool {
        matches!(self.state, State::Preparing | State::Held | State::Draining | State::Closing)
    }

    /// Whether mutations may run.
    pub(super) fn is_held(&self) -> bool {
        self.state == State::Held
    }

    /// Whether the client is blocklisted.
    pub(super) fn is_lost(&self) -> bool {
        self.state == State::Lost
    }

    /// The watch with which the lock was taken.
    pub(super) fn watch(&self) -> Option<Handle> {
        self.watch
    }

    /// The cookie of the lock, from having it to giving it up.
    pub(super) fn cookie(&self) -> Option<Handle> {
        self.cookie
    }

    /// Takes in what happened; returns what to do about it, in this order.
    pub(super) fn handle(&mut self, now: Instant, event: Event) -> Vec<Action> {
        match event {
            _ if self.state == State::Lost => self.handle_lost(&event),
            Event::Blocklisted => self.lose(),
            Event::Wanted => {
                self.wanted = true;
                match self.state {
                    State::Unlocked => self.start_when_due(now),
                    State::Held => self.admit(),
                    _ => {}
                }
            }
            Event::GiveUp => {
                self.giving_up = true;
                match self.state {
                    State::Held => self.release(),
                    State::Unlocked
                    | State::AwaitWatch
                    | State::Yielding
                    | State::Requesting { .. }
                    | State::Waiting { .. } => self.give_up(),
                    // Something is under way that has to be finished first.
                    _ => {}
                }
            }
            Event::Watch(watch) => {
                self.watch = watch;
                if self.state == State::AwaitWatch {
                    self.start();
                }
                self.rebind();
            }
            Event::PeerAcquired => match self.state {
                State::Unlocked | State::Yielding if self.yields_until.is_some() => {
                    self.peer_may_work = self.peer_works;
                    let keep = if self.peer_works { self.patience.time() } else { KEEP };
                    self.yields_until = Some(now + keep);
                    if self.state == State::Yielding {
                        self.start_when_due(now);
                    }
                }
                State::Requesting { .. } | State::Waiting { .. } => self.start(),
                _ => {}
            },
            Event::PeerReleased => {
                if self.yields_until.take().is_some() {
                    // Of its own accord, so it is done.
                    self.peer_is_idle();
                }
                match self.state {
                    State::Yielding | State::Requesting { .. } | State::Waiting { .. } => self.start(),
                    _ => {}
                }
            }
            Event::PeerWorks => {
                self.peer_works = true;
                // Not again and again, while it is waited for.
                if self.state == State::Unlocked {
                    self.yields_until = Some(now + self.patience.time());
                }
            }
            Event::PeerWorked { done } => {
                if done {
                    self.peer_is_idle();
                }
                self.peer_works = false;
                if matches!(self.state, State::Unlocked | State::Yielding) && self.yields_until.is_some() {
                    self.yields_until = Some(now + KEEP);
                    if self.state == State::Yielding {
                        self.start_when_due(now);
                    }
                }
            }
            Event::WorkBegun => self.work.begin(),
            Event::WorkEnded => {
                let is_held = self.state == State::Held;
                if self.work.end(is_held) && is_held && self.peer_wants {
                    self.release();
                }
            }
            Event::PeerWants => {
                if self.is_owner() {
                    self.peer_wants = true;
                }
                if self.state == State::Held {
                    self.hand_over(now);
                }
            }
            Event::Timer => match self.state {
                State::Waiting { until } if now >= until => self.start(),
                State::Yielding if self.yields_until.is_none_or(|until| now >= until) => {
                    if mem::take(&mut self.peer_works) && self.peer_may_work {
                        self.patience.grow();
                    }
                    self.start();
                }
                State::Held if self.peer_wants => self.hand_over(now),
                _ => {}
            },
            Event::Rebound(result) => self.rebound(result),
            done => self.step(now, done),
        }
        mem::take(&mut self.actions)
    }

    /// One action of the main line is done. Results that no longer fit the state are stale: of a request that
    /// was overtaken.
    fn step(&mut self, now: Instant, done: Event) {
        match (self.state.clone(), done) {
            (State::Locking(cookie), Event::Locked(result)) => self.locked(cookie, result),
            (State::Inspecting, Event::Inspected(result)) => self.inspected(now, result),
            (State::Requesting { round }, Event::Requested(answered, answer)) if round == answered => {
                self.requested(now, answer);
            }
            (State::Blocklisting(owner), Event::OwnerBlocklisted(result)) => match result {
                Ok(()) => self.enter(State::Breaking, Action::Break(owner)),
                Err(error) if error.is(Errno::EPERM) || error.is(Errno::EACCES) => {
                    self.fail(LockError::MayNotBlocklist { owner });
                }
                Err(error) => self.fail_store("blocklist the dead owner of the exclusive lock", error),
            },
            (State::Breaking, Event::Broken(result)) => match result {
                Ok(()) => self.start(),
                Err(error) if error.is(Errno::ENOENT) => self.start(),
                Err(error) => self.fail_store("break the exclusive lock of a dead client", error),
            },
            (State::Preparing, Event::Prepared(result)) => self.prepared(now, result),
            (State::Draining, Event::Drained) => self.enter(State::Closing, Action::Close),
            (State::Closing, Event::Closed) => self.unlock(),
            (State::Unlocking, Event::Unlocked(result)) => self.unlocked(now, result),
            (State::Unlocked, Event::Announced) if self.giving_up => self.give_up(),
            _ => {}
        }
    }

    fn handle_lost(&mut self, event: &Event) {
        match event {
            Event::Wanted => self.actions.push(Action::Fail(LockError::Blocklisted)),
            Event::GiveUp => self.actions.push(Action::GivenUp),
            _ => {}
        }
    }

    fn enter(&mut self, state: State, action: Action) {
        self.state = state;
        self.actions.push(action);
    }

    /// Goes for the lock once whoever asked for it has had its time.
    fn start_when_due(&mut self, now: Instant) {
        match self.yields_until {
            Some(until) if now < until => self.enter(State::Yielding, Action::Wake(until)),
            _ => self.start(),
        }
    }

    /// Goes for the lock, from the beginning.
    fn start(&mut self) {
        self.yields_until = None;
        if self.giving_up {
            return self.give_up();
        }
        match self.watch {
            Some(cookie) => self.enter(State::Locking(cookie), Action::Lock(cookie)),
            None => self.state = State::AwaitWatch,
        }
    }

    fn locked(&mut self, cookie: Handle, result: Result<(), OpError>) {
        match result {
            // An earlier attempt had succeeded after all, or an unlock had not.
            Err(error) if error.is(Errno::EEXIST) => {}
            Err(error) if error.is(Errno::EBUSY) => {
                if self.giving_up {
                    return self.give_up();
                }
                return self.enter(State::Inspecting, Action::Inspect);
            }
            Err(error) => return self.fail_store("take the exclusive lock", error),
            Ok(()) => {}
        }
        self.cookie = Some(cookie);
        self.owner = None;
        self.blocked = None;
        self.rewatching = None;
        self.enter(State::Preparing, Action::Prepare);
        self.rebind();
    }

    fn inspected(&mut self, now: Instant, result: Result<Holder, OpError>) {
        if self.giving_up {
            return self.give_up();
        }
        let holder = match result {
            Ok(holder) => holder,
            Err(error) => return self.fail_store("find out who holds the exclusive lock", error),
        };
        if let Some(owner) = holder.owner() {
            self.note_owner(now, owner.clone());
        }
        let grace_until = self.rewatching.unwrap_or(now) + REWATCH_GRACE;
        match holder {
            Holder::Nobody => self.start(),
            Holder::Foreign(owner) => self.fail(LockError::LockedByHand { owner }),
            // Another opening of the image by this client may have it, and be about to change its cookie.
            Holder::Rewatching(..) | Holder::Own(_) if now < grace_until => {
                self.rewatching.get_or_insert(now);
                self.wait(now, FAILED_RETRY);
            }
            // Whatever this client itself still sends is not to be barred.
            Holder::Own(owner) | Holder::Rewatching(owner, true) => {
                self.enter(State::Breaking, Action::Break(owner));
            }
            Holder::Dead(owner) | Holder::Rewatching(owner, false) => {
                self.enter(State::Blocklisting(owner.clone()), Action::Blocklist(owner));
            }
            Holder::Alive(_) => {
                self.rewatching = None;
                self.round += 1;
                self.enter(State::Requesting { round: self.round }, Action::Request(self.round));
            }
        }
    }

    fn requested(&mut self, now: Instant, answer: Answer) {
        match answer {
            Answer::Owner(result) if result == -Errno::EROFS.0 => {
                if let Some(owner) = self.owner.clone() {
                    return self.fail(LockError::Refused { owner });
                }
                self.wait(now, FAILED_RETRY);
            }
            Answer::Owner(0) => self.wait(now, AGREED_RETRY),
            Answer::Nobody => self.wait(now, SILENT_RETRY),
            Answer::Failed(error) if error.ends_the_instance() => self.lose(),
            Answer::Failed(OpError::Shutdown) => {
                self.fail_store("ask for the exclusive lock", OpError::Shutdown)
            }
            Answer::Owner(_) | Answer::Failed(_) => self.wait(now, FAILED_RETRY),
        }
    }

    fn wait(&mut self, now: Instant, delay: Duration) {
        let until = now + delay;
        self.enter(State::Waiting { until }, Action::Wake(until));
    }

    fn note_owner(&mut self, now: Instant, owner: LockOwner) {
        let (since, warn_at) = *self.blocked.get_or_insert((now, now + WARN_EVERY));
        if now >= warn_at {
            self.blocked = Some((since, now + WARN_EVERY));
            self.actions
                .push(Action::Warn { owner: owner.clone(), waited: now.saturating_duration_since(since) });
        }
        self.owner = Some(owner);
    }

    fn prepared(&mut self, now: Instant, result: Result<(), LockError>) {
        match result {
            Ok(()) if self.doubtful => self.enter(State::Closing, Action::Close),
            Ok(()) => {
                self.state = State::Held;
                self.actions.push(Action::AnnounceAcquired);
                self.admit();
                if self.giving_up {
                    self.release();
                } else if self.peer_wants {
                    self.hand_over(now);
                }
            }
            Err(LockError::Blocklisted) => self.lose(),
            Err(error) => {
                self.failure = Some(error);
                self.unlock();
            }
        }
    }

    fn peer_is_idle(&mut self) {
        self.peer_works = false;
        self.peer_may_work = false;
        self.patience = Patience::default();
    }

    fn admit(&mut self) {
        self.wanted = false;
        self.actions.push(Action::OpenGate);
    }

    /// Gives the lock to whoever wants it, once this client's maintenance has had its time.
    fn hand_over(&mut self, now: Instant) {
        match self.work.defer(now) {
            Some(until) => self.actions.push(Action::Wake(until)),
            None => self.release(),
        }
    }

    /// Gives the lock up, in order.
    fn release(&mut self) {
        self.work.interrupt();
        self.actions.push(Action::ShutGate);
        self.enter(State::Draining, Action::Drain);
    }

    fn unlock(&mut self) {
        self.state = State::Unlocking;
        if self.rebinding.is_none() {
            self.actions.extend(self.cookie.map(Action::Unlock));
        }
    }

    fn unlocked(&mut self, now: Instant, result: Result<(), OpError>) {
        if result.as_ref().is_err_and(OpError::ends_the_instance) {
            return self.lose();
        }
        // An unlock that failed otherwise is found as our own lock when it is wanted again.
        self.cookie = None;
        self.doubtful = false;
        self.state = State::Unlocked;
        self.actions.push(Action::AnnounceReleased);
        if mem::take(&mut self.peer_wants) {
            self.yields_until = Some(now + HANDOVER);
        }
        if let Some(error) = self.failure.take() {
            return self.fail(error);
        }
        if self.giving_up {
            // Whoever gives the lock up may be about to go: only after `Announced`.
        } else if self.wanted {
            self.start_when_due(now);
        }
    }

    /// Makes the cookie of the lock that of the watch.
    fn rebind(&mut self) {
        let (Some(old), Some(new)) = (self.cookie, self.watch) else { return };
        if old != new && self.rebinding.is_none() && self.is_owner() && !self.doubtful {
            self.rebinding = Some(new);
            self.actions.push(Action::Rebind { old, new });
        }
    }

    fn rebound(&mut self, result: Result<(), OpError>) {
        let Some(new) = self.rebinding.take() else { return };
        match result {
            Ok(()) => {
                self.cookie = Some(new);
                if self.state == State::Held {
                    self.actions.push(Action::AnnounceAcquired);
                }
                self.rebind();
            }
            Err(error) if error.ends_the_instance() => return self.lose(),
            Err(_) => {
                self.doubtful = true;
                if self.state == State::Held {
                    self.wanted = true;
                    self.release();
                }
            }
        }
        if self.state == State::Unlocking {
            self.unlock();
        }
    }

    /// Stops going for the lock; nothing is held, nothing under way.
    fn give_up(&mut self) {
        self.giving_up = false;
        self.state = State::Unlocked;
        self.blocked = None;
        self.rewatching = None;
        if mem::take(&mut self.wanted) {
            self.actions.push(Action::Fail(LockError::GivenUp));
        }
        self.actions.push(Action::GivenUp);
    }

    fn fail(&mut self, error: LockError) {
        self.wanted = false;
        self.state = State::Unlocked;
        self.blocked = None;
        self.rewatching = None;
        self.actions.push(Action::Fail(error));
        if mem::take(&mut self.giving_up) {
            self.actions.push(Action::GivenUp);
        }
    }

    fn fail_store(&mut self, doing: &'static str, source: OpError) {
        if source.ends_the_instance() {
            return self.lose();
        }
        self.fail(LockError::Store { doing, source });
    }

    fn lose(&mut self) {
        self.state = State::Lost;
        self.cookie = None;
        self.rebinding = None;
        self.wanted = false;
        self.actions.push(Action::ShutGate);
        self.actions.push(Action::Fail(LockError::Blocklisted));
        if mem::take(&mut self.giving_up) {
            self.actions.push(Action::GivenUp);
        }
    }
}
