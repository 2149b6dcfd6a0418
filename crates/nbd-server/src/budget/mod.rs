//! What the connections of a server may have in flight together: see [`Budget`].

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

/// A connection with this many requests in flight (read, and their replies not yet written) is not read any further.
pub const MAX_REQUESTS_IN_FLIGHT: usize = 256;
/// A connection with requests in flight is not read any further if the next one's payload would make them exceed this
/// many bytes, in either direction.
pub const MAX_BYTES_IN_FLIGHT: usize = 64 << 20;
/// As many requests of a connection are not taken from the [`Budget`].
pub const OWN_REQUESTS: usize = 32;
/// As many bytes of payload of a connection are not taken from the [`Budget`].
pub const OWN_BYTES: usize = 128 << 10;

/// What the connections of a server may have in flight together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections that are open at a time, those in their handshake included.
    pub connections: usize,
    /// Requests, in addition to [`OWN_REQUESTS`] of each connection.
    pub requests: usize,
    /// Bytes of payload, in either direction, in addition to [`OWN_BYTES`] of each connection.
    pub bytes: usize,
}

impl Default for Limits {
    /// 512 connections (half of the open files that a process has by default: a device needs some, too), 16384 requests,
    /// 256 MiB.
    fn default() -> Self {
        Self { connections: 512, requests: 16 << 10, bytes: 256 << 20 }
    }
}

impl Limits {
    const fn pool(self) -> Amount {
        Amount { requests: self.requests, bytes: self.bytes }
    }
}

/// Memory for requests, shared by all connections of a server. Clones are the same budget.
///
/// ```text
///  Share (a connection) -- its own allowance: always there, nobody is asked
///                       \- the rest: from the pool --> Budget (the server)
/// ```
/// A request is paid for before room is made for its payload, that of a read before the device is asked, and given
/// back when its reply is written. A connection that finds no room is not read until there is some.
///
/// * **The own allowance** ([`OWN_REQUESTS`], [`OWN_BYTES`]) lets small requests of one connection go on whatever the
///   others do.
/// * **First come, first served.** Who waits is served in turn, so large requests do not starve among small ones.
/// * **Nobody takes all.** A connection that has a quarter of what is left of the pool, or more, gets no more, and is
///   passed over in the queue. So disks whose cluster does not answer leave room for the others. (As switches share their
///   packet buffers: Choudhury and Hahne, "Dynamic queue length thresholds for shared-memory packet switches", 1998.)
/// * **Nothing is held while waiting** but for requests that go on without what is waited for, so there is no deadlock.
///   A payload is paid for as a whole before its first byte is read: no two can wait for each other's rest. A client
///   that stops in the middle of one keeps that, and never more than a connection may have.
/// * A request of more than the whole pool is served once nobody else has any of it.
#[derive(Clone)]
pub struct Budget(Arc<Inner>);

struct Inner {
    limits: Limits,
    pool: Mutex<Pool>,
}

struct Pool {
    /// Open connections.
    connections: usize,
    /// Number of the next one.
    next: u64,
    free: Amount,
    waiting: VecDeque<Waiting>,
}

/// A connection that waits for a part of the pool.
struct Waiting {
    connection: u64,
    /// What it waits for.
    missing: Amount,
    /// What it has of the pool already.
    held: Amount,
    waker: Waker,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Amount {
    requests: usize,
    bytes: usize,
}

/// A connection stops to take more when it has this part of what is left.
const GREED: usize = 4;

const MOST: Amount = Amount { requests: MAX_REQUESTS_IN_FLIGHT, bytes: MAX_BYTES_IN_FLIGHT };
const OWN: Amount = Amount { requests: OWN_REQUESTS, bytes: OWN_BYTES };

impl Amount {
    const NONE: Self = Self { requests: 0, bytes: 0 };

    const fn plus(self, other: Self) -> Self {
        Self { requests: self.requests + other.requests, bytes: self.bytes + other.bytes }
    }

    const fn minus(self, other: Self) -> Self {
        Self { requests: self.requests - other.requests, bytes: self.bytes - other.bytes }
    }

    /// What it exceeds the other by.
    const fn beyond(self, other: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(other.requests),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }

    const fn fits(self, other: Self) -> bool {
        self.requests <= other.requests && self.bytes <= other.bytes
    }

    fn at_most(self, other: Self) -> Self {
        Self { requests: self.requests.min(other.requests), bytes: self.bytes.min(other.bytes) }
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pool = self.0.pool.lock();
        f.debug_struct("Budget")
            .field("limits", &self.0.limits)
            .field("connections", &pool.connections)
            .field("free", &pool.free)
            .field("waiting", &pool.waiting.len())
            .finish()
    }
}

impl Budget {
    /// A budget of which nothing is used.
    pub fn new(limits: Limits) -> Self {
        let pool = Pool { connections: 0, next: 0, free: limits.pool(), waiting: VecDeque::new() };
        Self(Arc::new(Inner { limits, pool: Mutex::new(pool) }))
    }

    /// What it was made with.
    pub fn limits(&self) -> Limits {
        self.0.limits
    }

    /// The share of a new connection; `None` if as many as may be are open.
    pub fn connect(&self) -> Option<Share> {
        let mut pool = self.0.pool.lock();
        if pool.connections == self.0.limits.connections {
            return None;
        }
        pool.connections += 1;
        pool.next += 1;
        Some(Share {
            budget: self.clone(),
            connection: pool.next,
            most: OWN.plus(self.0.limits.pool()).at_most(MOST),
            used: Amount::NONE,
            held: Amount::NONE,
            asked: Amount::NONE,
        })
    }

    /// Serves all whose turn it is.
    fn serve_waiting(&self) {
        // A waker may run anything, so not under the lock.
        while let Some(waker) = self.serve_next() {
            waker.wake();
        }
    }

    fn serve_next(&self) -> Option<Waker> {
        let pool = &mut *self.0.pool.lock();
        let turn = pool.waiting.iter().position(|waiting| waiting.is_entitled(pool.free))?;
        if !pool.waiting[turn].missing.fits(pool.free) {
            return None;
        }
        let served = pool.waiting.remove(turn)?;
        pool.free = pool.free.minus(served.missing);
        Some(served.waker)
    }
}

impl Waiting {
    fn is_entitled(&self, free: Amount) -> bool {
        is_entitled(self.missing, self.held, free)
    }
}

/// Whether a connection that has `held` of the pool may have more of what it misses.
const fn is_entitled(missing: Amount, held: Amount, free: Amount) -> bool {
    (missing.requests == 0 || held.requests == 0 || held.requests < free.requests / GREED)
        && (missing.bytes == 0 || held.bytes == 0 || held.bytes < free.bytes / GREED)
}

/// The part of a [`Budget`] that one connection has. Dropped, it is given back.
#[derive(Debug)]
pub struct Share {
    budget: Budget,
    /// Its number.
    connection: u64,
    /// What may be in flight, but that any request may be alone.
    most: Amount,
    /// What is in flight.
    used: Amount,
    /// What was taken from the pool for it.
    held: Amount,
    /// What is waited for; nothing if it does not wait.
    asked: Amount,
}

impl Share {
    /// Pays for a request with `bytes` of payload. If that is pending, it is to be tried again, for the same request,
    /// after the task was woken or something was [given back](Self::give_back).
    pub(crate) fn poll_take(&mut self, cx: &Context<'_>, bytes: usize) -> Poll<()> {
        let wanted = self.used.plus(Amount { requests: 1, bytes });
        if wanted.requests > self.most.requests || bytes > 0 && wanted.bytes > self.most.bytes.max(bytes) {
            // There is something in flight, the end of which wakes the task.
            return Poll::Pending;
        }
        if self.asked == Amount::NONE && self.missing(wanted, bytes) == Amount::NONE {
            self.used = wanted;
            return Poll::Ready(());
        }
        self.ask(cx, wanted, bytes)
    }

    /// A request with `bytes` of payload is no longer in flight. Others get what it took with [`settle`](Self::settle).
    pub(crate) fn give_back(&mut self, bytes: usize) {
        self.used = self.used.minus(Amount { requests: 1, bytes });
    }

    /// Lets others have what is not used any more.
    pub(crate) fn settle(&mut self) {
        let surplus = self.held.beyond(self.used.beyond(OWN));
        if surplus == Amount::NONE {
            return;
        }
        self.held = self.held.minus(surplus);
        {
            let pool = &mut *self.budget.0.pool.lock();
            pool.free = pool.free.plus(surplus);
            if let Some(place) = self.place_in(pool) {
                pool.waiting[place].held = self.held;
            }
        }
        self.budget.serve_waiting();
    }

    /// Nothing more will be taken.
    pub(crate) fn stop_waiting(&mut self) {
        if self.asked == Amount::NONE {
            return;
        }
        {
            let pool = &mut *self.budget.0.pool.lock();
            match self.place_in(pool) {
                Some(place) => drop(pool.waiting.remove(place)),
                None => self.held = self.held.plus(self.asked),
            }
        }
        self.asked = Amount::NONE;
        self.settle();
        // It may have been in the way of others.
        self.budget.serve_waiting();
    }

    /// What has to come from the pool yet. A request of more than that has to be content with all of it.
    fn missing(&self, wanted: Amount, bytes: usize) -> Amount {
        let missing = wanted.beyond(OWN).at_most(self.budget.0.limits.pool()).beyond(self.held);
        // A request without payload waits for no bytes.
        if bytes == 0 { Amount { bytes: 0, ..missing } } else { missing }
    }

    fn ask(&mut self, cx: &Context<'_>, wanted: Amount, bytes: usize) -> Poll<()> {
        let budget = self.budget.clone();
        let mut lock = budget.0.pool.lock();
        let pool = &mut *lock;
        // It keeps its place in the queue, unless it was served.
        let place = match self.place_in(pool) {
            Some(place) => {
                pool.waiting.remove(place);
                place
            }
            None => {
                self.held = self.held.plus(self.asked);
                pool.waiting.len()
            }
        };
        let waited = self.asked != Amount::NONE;
        self.asked = Amount::NONE;
        let missing = self.missing(wanted, bytes);
        let is_its_turn = || !pool.waiting.iter().take(place).any(|waiting| waiting.is_entitled(pool.free));
        let is_there = missing.fits(pool.free) && is_entitled(missing, self.held, pool.free);
        if missing == Amount::NONE || is_there && is_its_turn() {
            pool.free = pool.free.minus(missing);
            self.held = self.held.plus(missing);
            self.used = wanted;
            drop(lock);
            if waited {
                // It may have been in the way of others.
                budget.serve_waiting();
            }
            return Poll::Ready(());
        }
        self.asked = missing;
        let (connection, held, waker) = (self.connection, self.held, cx.waker().clone());
        pool.waiting.insert(place, Waiting { connection, missing, held, waker });
        Poll::Pending
    }

    fn place_in(&self, pool: &Pool) -> Option<usize> {
        let waits = self.asked != Amount::NONE;
        let mut queue = pool.waiting.iter();
        if waits { queue.position(|waiting| waiting.connection == self.connection) } else { None }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.stop_waiting();
        self.used = Amount::NONE;
        self.settle();
        self.budget.0.pool.lock().connections -= 1;
    }
}

#[cfg(test)]
mod tests;
