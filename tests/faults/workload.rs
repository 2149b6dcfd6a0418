//! Many requests of all kinds through the NBD socket, each of them checked.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::checker::{Change, Checker, Reading, SnapshotRule};
use crate::common::nbd::{self, Command, Replies, Request, Requests};
use crate::common::random::Rng;
use crate::stalls::{Meter, Waited};
use crate::stamp::{BLOCK, Stamp};

/// How to load an export.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) connections: u64,
    /// Requests under way on each connection.
    pub(crate) depth: usize,
    /// Requests a second on each connection, at most.
    pub(crate) rate: u32,
    /// Size of the image in blocks.
    pub(crate) blocks: u64,
    pub(crate) seed: u64,
}

impl Plan {
    /// As much as a busy guest does, on a machine that has other things to do as well.
    pub(crate) fn new(bytes: u64, seed: u64) -> Self {
        Self { connections: 4, depth: 8, rate: 100, blocks: bytes / BLOCK as u64, seed }
    }
}

/// The clients of one export, at work.
#[derive(Debug)]
pub(crate) struct Workload {
    shared: Arc<Shared>,
    requests: Vec<Requests>,
    threads: Vec<JoinHandle<()>>,
    socket: String,
    export: String,
    blocks: u64,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Something was answered, or it is time to stop.
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    checker: Checker,
    meter: Meter,
    /// By connection and cookie.
    in_flight: HashMap<(u64, u64), InFlight>,
    stop: bool,
    errors: Vec<String>,
}

#[derive(Debug)]
struct InFlight {
    request: Request,
    sent: Instant,
    check: Check,
}

#[derive(Debug, Clone, Copy)]
enum Check {
    Change { sequence: u64 },
    Read(Reading),
    Nothing,
}

impl Shared {
    /// A thread that panicked has said what is wrong; the others go on to their end.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Request {
    fn blocks(self) -> Range<u64> {
        let first = self.offset / BLOCK as u64;
        first..first + u64::from(self.length) / BLOCK as u64
    }
}

impl Workload {
    /// Begins to load an export that is all zeroes.
    pub(crate) fn start(socket: &str, export: &str, plan: &Plan) -> Self {
        let state = State {
            checker: Checker::new(plan.blocks),
            meter: Meter::new(Instant::now()),
            in_flight: HashMap::new(),
            stop: false,
            errors: Vec::new(),
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let mut rng = Rng::new(plan.seed);
        let (mut requests, mut threads) = (Vec::new(), Vec::new());
        for connection in 0..plan.connections {
            let (sender, receiver, size) = nbd::connect(socket, export).expect("the server answers");
            assert!(size >= plan.blocks * BLOCK as u64, "an export of {size} bytes is too small");
            requests.push(sender.try_clone().expect("a socket can be shared"));
            let client = Client { shared: Arc::clone(&shared), connection };
            let (plan, rng) = (plan.clone(), rng.fork());
            threads.push(thread::spawn(move || client.send(sender, &plan, rng)));
            let client = Client { shared: Arc::clone(&shared), connection };
            threads.push(thread::spawn(move || client.receive(receiver)));
        }
        Self {
            shared,
            requests,
            threads,
            socket: socket.to_owned(),
            export: export.to_owned(),
            blocks: plan.blocks,
        }
    }

    /// How long requests waited since the last call.
    pub(crate) fn waited(&self) -> Waited {
        let state = &mut *self.shared.lock();
        let oldest = state.in_flight.values().map(|in_flight| in_flight.sent).min();
        state.meter.take(oldest, Instant::now())
    }

    /// Waits until everything that is under way now has been answered.
    ///
    /// # Panics
    /// After `limit`, with the requests that hang.
    pub(crate) fn wait_for_answers(&self, limit: Duration) {
        let now = Instant::now();
        let mut state = self.shared.lock();
        loop {
            let old: Vec<_> = state.in_flight.values().filter(|in_flight| in_flight.sent < now).collect();
            if old.is_empty() {
                return;
            }
            let left = limit.saturating_sub(now.elapsed());
            assert!(!left.is_zero(), "not answered within {limit:?}: {old:#?}");
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Runs something that takes a snapshot, and returns what that may hold.
    pub(crate) fn while_taking_snapshot(&self, take: impl FnOnce()) -> SnapshotRule {
        let reading = self.shared.lock().checker.begin_read();
        take();
        self.shared.lock().checker.snapshot_taken(reading)
    }

    /// Sends no more requests, waits for the answers, and returns what is known now.
    ///
    /// # Panics
    /// If a request failed or hangs, or something wrong was read.
    pub(crate) fn stop(mut self, limit: Duration) -> Quiet {
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
        self.wait_for_answers(limit);
        for thread in self.threads.drain(..) {
            thread.join().expect("the thread has said why");
        }
        let mut state = self.shared.lock();
        let blocks = u32::try_from(self.blocks).expect("tests have small images");
        let checker = std::mem::replace(&mut state.checker, Checker::new(0));
        let errors = std::mem::take(&mut state.errors);
        drop(state);
        Quiet { checker, errors, socket: self.socket.clone(), export: self.export.clone(), blocks }
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        for requests in &self.requests {
            requests.abort();
        }
    }
}

/// An export that nobody uses any more, and what should be there.
#[derive(Debug)]
pub(crate) struct Quiet {
    checker: Checker,
    errors: Vec<String>,
    socket: String,
    export: String,
    blocks: u32,
}

impl Quiet {
    /// Reads everything through a connection of its own.
    pub(crate) fn read_all(&mut self) -> Vec<u8> {
        const PIECE: usize = 1 << 20;
        let (mut requests, mut replies, _) =
            nbd::connect(&self.socket, &self.export).expect("the server answers");
        let mut data = vec![0; self.blocks as usize * BLOCK];
        let reading = self.checker.begin_read();
        for (number, piece) in (0..).zip(data.chunks_mut(PIECE)) {
            let request = Request::new(Command::Read, number * PIECE as u64, piece.len() as u64);
            requests.send(number, request, &[]).expect("the server listens");
            let reply = replies.next().expect("the server is alive").expect("the server does not disconnect");
            assert_eq!((reply.cookie, reply.error), (number, 0), "a read failed");
            replies.payload(piece).expect("the server is alive");
        }
        self.checker.finish_read(reading, 0, &data);
        data
    }

    /// Checks everything in the image, which came from elsewhere.
    pub(crate) fn check_all(&mut self, data: &[u8]) {
        assert!(data.len() >= self.blocks as usize * BLOCK, "the image has {} bytes only", data.len());
        let reading = self.checker.begin_read();
        self.checker.finish_read(reading, 0, &data[..self.blocks as usize * BLOCK]);
    }

    /// What is wrong, for people; empty if nothing is.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let violations = self.checker.violations().iter().map(ToString::to_string);
        self.errors.iter().cloned().chain(violations).collect()
    }

    /// How much was checked, for people.
    pub(crate) fn summary(&self) -> String {
        format!("{} blocks were read, {} complaints", self.checker.checked(), self.complaints().len())
    }

    /// # Panics
    /// If anything is wrong.
    pub(crate) fn assert_right(&self) {
        let complaints = self.complaints();
        let shown = &complaints[..complaints.len().min(20)];
        assert!(complaints.is_empty(), "{} wrong, the first of them: {shown:#?}", complaints.len());
        assert!(self.checker.checked() > u64::from(self.blocks), "next to nothing was read");
    }
}

/// One connection.
struct Client {
    shared: Arc<Shared>,
    connection: u64,
}

impl Client {
    fn send(&self, mut requests: Requests, plan: &Plan, mut rng: Rng) {
        let pause = Duration::from_secs(1) / plan.rate;
        let mut next = Instant::now();
        for cookie in 0.. {
            let request = choose(&mut rng, plan.blocks);
            thread::sleep(next.saturating_duration_since(Instant::now()));
            next = (next + pause).max(Instant::now());
            let Some(data) = self.register(cookie, request, plan.depth) else { break };
            if let Err(error) = requests.send(cookie, request, &data) {
                return self.broken(&error);
            }
        }
        // What is under way is waited for: the server may drop it otherwise.
        let mut state = self.shared.lock();
        while state.in_flight.keys().any(|(connection, _)| *connection == self.connection) {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        let end = Request::new(Command::Disconnect, 0, 0);
        let _ = requests.send(0, end, &[]);
    }

    /// Waits until there is room for the request, and notes that it is sent. `None` if none is to be sent any more.
    fn register(&self, cookie: u64, request: Request, depth: usize) -> Option<Vec<u8>> {
        let mut state = self.shared.lock();
        loop {
            if state.stop {
                return None;
            }
            if state.in_flight.keys().filter(|(connection, _)| *connection == self.connection).count() < depth
            {
                break;
            }
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let mut data = Vec::new();
        let mut change = |change| Check::Change { sequence: state.checker.begin(change, request.blocks()) };
        let check = match request.command {
            Command::Write => change(Change::Write),
            Command::WriteZeroes => change(Change::Zero),
            Command::Trim => change(Change::Trim),
            Command::Read => Check::Read(state.checker.begin_read()),
            Command::Flush | Command::BlockStatus | Command::Disconnect => Check::Nothing,
        };
        if let (Command::Write, Check::Change { sequence }) = (request.command, check) {
            data.resize(request.length as usize, 0);
            for (block, data) in request.blocks().zip(data.chunks_exact_mut(BLOCK)) {
                Stamp { block, writer: self.connection, sequence }.fill(data);
            }
        }
        let in_flight = InFlight { request, sent: Instant::now(), check };
        state.in_flight.insert((self.connection, cookie), in_flight);
        Some(data)
    }

    fn receive(&self, mut replies: Replies) {
        loop {
            match self.reply(&mut replies) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => return self.broken(&error),
            }
        }
        if !self.shared.lock().stop {
            self.broken(&io::ErrorKind::UnexpectedEof.into());
        }
    }

    fn reply(&self, replies: &mut Replies) -> io::Result<bool> {
        let Some(reply) = replies.next()? else { return Ok(false) };
        let key = (self.connection, reply.cookie);
        let mut data = Vec::new();
        let request = self.shared.lock().in_flight.get(&key).map(|in_flight| in_flight.request);
        let Some(request) = request else {
            return Err(io::Error::other(format!("a reply to nothing: {reply:?}")));
        };
        if request.command == Command::Read && reply.error == 0 {
            data.resize(request.length as usize, 0);
            replies.payload(&mut data)?;
        }
        let mut state = self.shared.lock();
        let InFlight { sent, check, .. } = state.in_flight.remove(&key).expect("it was there a moment ago");
        state.meter.answered(sent, Instant::now());
        match check {
            Check::Read(reading) if reply.error != 0 => state.checker.abandon(reading),
            Check::Read(reading) => state.checker.finish_read(reading, request.blocks().start, &data),
            Check::Change { sequence } if reply.error == 0 => {
                state.checker.acknowledge(sequence, request.blocks())
            }
            Check::Change { .. } | Check::Nothing => {}
        }
        if reply.error != 0 {
            state.errors.push(format!("error {} for {request:?}", reply.error));
        }
        drop(state);
        self.shared.changed.notify_all();
        Ok(true)
    }

    /// Notes that the connection is of no more use, and lets nobody wait for it.
    fn broken(&self, error: &io::Error) {
        let mut state = self.shared.lock();
        state.errors.push(format!("connection {} broke: {error}", self.connection));
        state.in_flight.retain(|(connection, _), _| *connection != self.connection);
        state.stop = true;
        drop(state);
        self.shared.changed.notify_all();
    }
}

/// The next request of a guest: mostly small, a part of them in the same few places.
fn choose(rng: &mut Rng, blocks: u64) -> Request {
    const CROWDED: u64 = 256;
    let command = match rng.range(0..100) {
        0..50 => Command::Write,
        50..86 => Command::Read,
        86..91 => Command::WriteZeroes,
        91..96 => Command::Trim,
        _ => Command::Flush,
    };
    if command == Command::Flush {
        return Request::new(command, 0, 0);
    }
    let most = if rng.one_in(50) { 300 } else { 16 };
    let length = rng.range(1..most + 1).min(blocks);
    let end = if rng.one_in(4) { blocks.min(CROWDED.max(length)) } else { blocks };
    let first = rng.range(0..end - length + 1);
    let fua = command != Command::Read && rng.one_in(8);
    Request { fua, ..Request::new(command, first * BLOCK as u64, length * BLOCK as u64) }
}
