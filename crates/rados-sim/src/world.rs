//! Everything that is not the client: one state machine, driven by one queue of events under simulated time.

use std::collections::BTreeMap;
use std::fmt::Arguments;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use ceph_codec::Utime;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::auth::AuthEvent;
use crate::cluster::{Cluster, Config};
use crate::faults::FaultEvent;
use crate::mon::MonEvent;
use crate::net::{ConnId, Direction, Network};
use crate::osd::OsdEvent;
use crate::rng::Rng;

/// Milliseconds since the simulation began.
pub type Millis = u64;

/// The date on which simulations begin, in seconds since 1970.
const BEGINNING: u64 = 1_700_000_000;

/// What becomes of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trace {
    /// Nothing.
    Off,
    /// They are remembered.
    Keep,
    /// They are printed.
    Print,
}

/// What happens at a point in time.
#[derive(Debug)]
pub(crate) enum Event {
    /// Bytes, or the end of them, arrive.
    Deliver {
        conn: ConnId,
        direction: Direction,
    },
    Mon(MonEvent),
    Osd(OsdEvent),
    Fault(FaultEvent),
    Auth(AuthEvent),
}

/// The simulated world. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Sim {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    world: Mutex<World>,
    /// Something was scheduled for earlier than the driver knew, or the end has come.
    changed: Notify,
    start: Instant,
}

/// All daemons, all that is on the wire, and what is going to happen.
#[derive(Debug)]
pub struct World {
    pub(crate) now: Millis,
    pub(crate) net: Network,
    /// The daemons.
    pub cluster: Cluster,
    /// For decisions of daemons.
    pub(crate) rng: Rng,
    /// For faults.
    pub(crate) fault_rng: Rng,
    queue: BTreeMap<(Millis, u64), Event>,
    scheduled: u64,
    /// Until when the driver sleeps.
    driver_sleeps: Millis,
    ended: bool,
    /// Of client tasks, to be woken once the lock is free.
    pub(crate) wakers: Vec<Waker>,
    trace: Trace,
    events: Vec<String>,
    /// Rules that the client broke.
    pub violations: Vec<String>,
}

impl Sim {
    /// A world in which everything follows from `seed`. Its daemons live until [`end`](Self::end).
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn new(seed: u64, config: Config) -> Self {
        let mut world = World {
            now: 0,
            net: Network::new(seed),
            cluster: Cluster::new(seed, config),
            rng: Rng::new(seed, "daemons"),
            fault_rng: Rng::new(seed, "faults"),
            queue: BTreeMap::new(),
            scheduled: 0,
            driver_sleeps: 0,
            ended: false,
            wakers: Vec::new(),
            trace: Trace::Off,
            events: Vec::new(),
            violations: Vec::new(),
        };
        world.boot();
        let shared = Shared { world: Mutex::new(world), changed: Notify::new(), start: Instant::now() };
        let sim = Self { shared: Arc::new(shared) };
        tokio::spawn(sim.clone().drive());
        sim
    }

    /// Looks at the world, or changes it.
    pub fn with<R>(&self, f: impl FnOnce(&mut World) -> R) -> R {
        let (result, wakers, sooner) = {
            let mut world = self.shared.world.lock();
            let now = self.shared.start.elapsed().as_millis();
            world.now = Millis::try_from(now).unwrap_or(Millis::MAX);
            let result = f(&mut world);
            let next = world.queue.first_key_value().map_or(Millis::MAX, |((at, _), _)| *at);
            let sooner = next < world.driver_sleeps || world.ended;
            (result, std::mem::take(&mut world.wakers), sooner)
        };
        if sooner {
            self.shared.changed.notify_one();
        }
        wakers.into_iter().for_each(Waker::wake);
        result
    }

    async fn drive(self) {
        loop {
            let next = self.with(World::run);
            let Some(next) = next else { return };
            let at = self.shared.start + Duration::from_millis(next);
            tokio::select! {
                biased;
                () = self.shared.changed.notified() => {}
                () = sleep_until(at) => {}
            }
        }
    }

    /// Ends it: nothing happens any more.
    pub fn end(&self) {
        self.with(|world| world.ended = true);
    }

    /// What becomes of events from now on.
    pub fn record(&self, trace: Trace) {
        self.with(|world| world.trace = trace);
    }

    /// The events that were kept.
    #[must_use]
    pub fn trace(&self) -> Vec<String> {
        self.with(|world| world.events.clone())
    }
}

impl World {
    /// Runs what is due; returns when to come back, `None` at the end.
    fn run(&mut self) -> Option<Millis> {
        while let Some(entry) = self.queue.first_entry()
            && entry.key().0 <= self.now
            && !self.ended
        {
            match entry.remove() {
                Event::Deliver { conn, direction } => self.deliver(conn, direction),
                Event::Mon(event) => self.on_mon_event(event),
                Event::Osd(event) => self.on_osd_event(event),
                Event::Fault(event) => self.on_fault(event),
                Event::Auth(AuthEvent::Rotate) => self.rotate_secrets(),
            }
        }
        if self.ended {
            return None;
        }
        // With nothing to do the driver looks once an hour, which costs nothing.
        let next = self.queue.first_key_value().map_or(self.now + 3_600_000, |((at, _), _)| *at);
        self.driver_sleeps = next;
        Some(next)
    }

    pub(crate) fn schedule(&mut self, delay: Millis, event: Event) {
        self.scheduled += 1;
        self.queue.insert((self.now + delay, self.scheduled), event);
    }

    pub(crate) fn note(&mut self, what: Arguments<'_>) {
        match self.trace {
            Trace::Off => {}
            Trace::Keep => self.events.push(format!("{:>8} {what}", self.now)),
            Trace::Print => println!("{:>8} {what}", self.now),
        }
    }

    /// A rule was broken.
    pub(crate) fn violation(&mut self, what: String) {
        self.note(format_args!("VIOLATION {what}"));
        self.violations.push(format!("at {} ms: {what}", self.now));
    }

    /// The date.
    #[must_use]
    pub fn date(&self) -> Utime {
        let sec = u32::try_from(BEGINNING + self.now / 1000).expect("simulations are short");
        let nsec = u32::try_from(self.now % 1000 * 1_000_000).expect("below a second");
        Utime { sec, nsec }
    }
}
