//! Clients at work under faults, and the verdict.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cephx::EntityAuthName;
use parking_lot::Mutex;
use rados::{Client, IoCtx, MonTarget, Operation, Options, SnapContext, SnapId, WatchEvent};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::auth::user_key;
use crate::checker::Checker;
use crate::cluster::{Config, DOOMED_POOL, POOL, mon_addr};
use crate::faults::Fault;
use crate::net::{ClientHost, ConnId, Script, Weather};
use crate::osd::pg::ELSEWHERE;
use crate::rng::Rng;
use crate::store::{ObjectKey, parse_contents, record};
use crate::world::{Millis, Sim, Trace};

/// What to do to a cluster.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The cluster.
    pub cluster: Config,
    /// What goes wrong.
    pub faults: Vec<Fault>,
    /// Mean time between faults.
    pub pause: Millis,
    /// How long things go wrong.
    pub length: Millis,
    /// The network meanwhile.
    pub weather: Weather,
    /// Clients.
    pub clients: usize,
    /// Objects that all clients append to.
    pub objects: usize,
    /// Records that each client appends to each object.
    pub records: usize,
    /// Bytes that a record may be longer than its number; a tenth of them are, the others have less than 200.
    pub padding: u64,
    /// Whether one client watches and another notifies.
    pub notifies: bool,
    /// Whether events are printed as they happen.
    pub print: bool,
    /// What happens to one connection.
    pub script: Option<Script>,
}

/// How it went.
#[derive(Debug)]
pub struct Report {
    /// Rules that were broken; none, if all is well.
    pub violations: Vec<String>,
    /// Writes acknowledged.
    pub writes: usize,
    /// Reads answered.
    pub reads: usize,
    /// Notifies answered.
    pub notifies: usize,
    /// Epochs of the map.
    pub epochs: u32,
    /// Bytes that each connection was given to carry, those of the client first.
    pub carried: BTreeMap<ConnId, [u64; 2]>,
    /// Simulated time.
    pub took: Duration,
    /// All events, if they were recorded.
    pub trace: Vec<String>,
}

/// Once everything is well, all that was submitted has to be answered within this time.
const PATIENCE: Duration = Duration::from_secs(180);

impl Plan {
    /// A plan that follows from the seed: everything may go wrong, sometimes often, sometimes a lot of one
    /// thing.
    #[must_use]
    pub fn random(seed: u64) -> Self {
        let rng = &mut Rng::new(seed, "plan");
        let mut faults = Fault::ALL.to_vec();
        if rng.percent(50) {
            let some = rng.range(1..5);
            faults = (0..some).map(|_| rng.pick(&Fault::ALL)).collect();
        }
        let rough = Weather {
            latency: rng.pick(&[3, 20, 150]),
            fates: rng.pick(&[0, 5, 25, 60]),
            fate_range: rng.pick(&[200, 1500, 20_000]),
            refused: rng.pick(&[0, 5]),
            black_holes: rng.pick(&[0, 0, 4]),
            crumbled: rng.pick(&[0, 10]),
        };
        Self {
            cluster: Config {
                osds: rng.pick(&[3, 5, 8]),
                mons: rng.pick(&[1, 3]),
                size: rng.pick(&[2, 3]),
                pg_num: rng.pick(&[1, 4, 8]),
                ticket_secs: rng.pick(&[None, Some(5), Some(60)]),
                secure: rng.percent(50),
                max_ops: rng.pick(&[None, None, Some(2), Some(8)]),
                ..Config::default()
            },
            faults,
            pause: rng.pick(&[200, 1500, 6000]),
            length: rng.pick(&[5_000, 20_000, 60_000]),
            weather: rough,
            clients: rng.pick(&[1, 2]),
            objects: rng.pick(&[1, 3, 6]),
            records: rng.pick(&[5, 12]),
            padding: 70_000,
            notifies: rng.percent(50),
            print: false,
            script: None,
        }
    }
}

/// What a client instance of the simulation is made from.
#[must_use]
pub fn options(sim: &Sim, seed: u64, client: usize, config: &Config) -> Options {
    let monitors = (0..config.mons)
        .map(|rank| MonTarget { label: format!("mon.{rank}"), addr: Some(mon_addr(rank)) })
        .collect();
    let key = config.ticket_secs.map(|_| user_key(seed));
    let mut options = Options::new(monitors, EntityAuthName::client("sim"), key);
    options.system = Arc::new(ClientHost::new(sim, seed, client));
    options.connect_timeout = Duration::from_secs(600);
    if let Some(ops) = config.max_ops {
        options.limits.ops = ops;
    }
    options
}

/// Runs a plan. To be called on a single-threaded runtime whose time is paused.
pub async fn run(seed: u64, plan: &Plan, recorded: bool) -> Report {
    let sim = Sim::new(seed, plan.cluster.clone());
    sim.record(if plan.print {
        Trace::Print
    } else if recorded {
        Trace::Keep
    } else {
        Trace::Off
    });
    let begun = Instant::now();
    let tasks_before = tasks();
    let work = Work {
        sim: sim.clone(),
        checker: Arc::default(),
        notified: Arc::default(),
        stopped: Arc::default(),
        held: Held::default(),
        plan: plan.clone(),
        seed,
    };
    sim.with(|world| world.net.script = plan.script);
    sim.with(|world| world.begin_faults(&plan.faults, plan.pause, plan.length, plan.weather.clone()));
    let mut clients = JoinSet::new();
    for client in 0..plan.clients {
        clients.spawn(work.clone().client(client));
    }
    sleep(Duration::from_millis(plan.length)).await;
    sim.with(|world| world.heal());
    let all = async { while clients.join_next().await.is_some_and(|ended| ended.is_ok()) {} };
    let stuck = timeout(PATIENCE, all).await.is_err();
    if stuck {
        work.checker
            .lock()
            .violation(format!("stuck {} seconds after everything was well", PATIENCE.as_secs()));
    }
    drop(clients);
    // Tasks end in their own time, but soon.
    sleep(Duration::from_secs(60)).await;
    let left = tasks().saturating_sub(tasks_before);
    let checker = work.checker.lock();
    let (mut violations, epochs, carried) = sim.with(|world| {
        let stored = world.cluster.store.objects.iter();
        let stored: BTreeMap<ObjectKey, Vec<u64>> =
            stored.map(|(key, object)| (key.clone(), object.records.clone())).collect();
        let mut all = checker.check(&stored);
        all.extend(world.violations.clone());
        let connections = world.connections();
        if connections > 0 {
            all.push(format!("{connections} connections were never closed"));
        }
        (all, world.cluster.epoch().0, world.net.carried.clone())
    });
    let held = work.held.bytes();
    if held > 0 && !stuck {
        violations.push(format!("{held} bytes of payload are still held"));
    }
    if left > 0 && !stuck {
        violations.push(format!("{left} tasks did not end"));
    }
    let report = Report {
        violations,
        writes: checker.writes(),
        reads: checker.reads(),
        notifies: *work.notified.lock(),
        epochs,
        carried,
        took: begun.elapsed(),
        trace: sim.trace(),
    };
    sim.end();
    report
}

fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

/// Counts the bytes of payloads that somebody still holds.
#[derive(Debug, Clone, Default)]
pub struct Held(Arc<AtomicUsize>);

struct Counted {
    bytes: Bytes,
    held: Arc<AtomicUsize>,
}

impl Held {
    /// Counts these bytes for as long as anybody refers to them.
    #[must_use]
    pub fn count(&self, bytes: Bytes) -> Bytes {
        self.0.fetch_add(bytes.len(), Ordering::Relaxed);
        Bytes::from_owner(Counted { bytes, held: Arc::clone(&self.0) })
    }

    /// How many there are.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.held.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

#[derive(Debug, Clone)]
struct Work {
    sim: Sim,
    checker: Arc<Mutex<Checker>>,
    notified: Arc<Mutex<usize>>,
    /// The watcher was told to stop, whether or not the notifier knows.
    stopped: Arc<AtomicBool>,
    held: Held,
    plan: Plan,
    seed: u64,
}

impl Work {
    async fn client(self, number: usize) {
        let options = options(&self.sim, self.seed, number, &self.plan.cluster);
        let client = match Client::connect(options).await {
            Ok(client) => client,
            Err(error) => {
                return self.checker.lock().violation(format!("client {number} cannot connect: {error:?}"));
            }
        };
        let pool = match client.pool(POOL).await {
            Ok(pool) => pool,
            Err(error) => return self.checker.lock().violation(format!("no pool: {error}")),
        };
        let mut tasks = JoinSet::new();
        if let Ok(doomed) = client.pool(DOOMED_POOL).await {
            tasks.spawn(self.clone().doomed(doomed, Rng::new(self.seed, &format!("client {number} doomed"))));
        }
        for object in 0..self.plan.objects {
            let rng = Rng::new(self.seed, &format!("client {number} object {object}"));
            let place = match object % 3 {
                0 => pool.clone(),
                1 => pool.with_namespace("namespace"),
                _ => pool.with_key("key"),
            };
            tasks.spawn(self.clone().object(place, number, object, rng));
        }
        if self.plan.notifies {
            if number == 0 {
                tasks.spawn(self.clone().watch(pool.clone()));
            }
            if number + 1 == self.plan.clients {
                tasks.spawn(self.clone().notify(pool.clone()));
            }
        }
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                self.checker.lock().violation(format!("a task of client {number} failed: {error}"));
            }
        }
        client.shut_down();
    }

    /// A random pause, so that all that is submitted spreads over the faults.
    fn pause(&self, rng: &mut Rng) -> impl Future<Output = ()> + use<> {
        // Often none: requests to one object are to be in flight together.
        let longest = if rng.percent(50) { 1 } else { 4 * self.plan.length / self.plan.records as u64 };
        sleep(Duration::from_millis(rng.range(0..longest.max(1))))
    }

    /// Appends to one object and reads it, without waiting for anything.
    async fn object(self, pool: IoCtx, client: usize, object: usize, mut rng: Rng) {
        let name = format!("object{object}");
        let key: ObjectKey = (pool.pool(), pool.namespace().to_owned(), name.clone());
        let mut inflight = JoinSet::new();
        for i in 0..self.plan.records {
            self.pause(&mut rng).await;
            let id = (client as u64) << 32 | (object as u64) << 16 | i as u64;
            let longest = if rng.percent(10) { self.plan.padding } else { self.plan.padding.min(200) };
            let padding = rng.range(0..longest);
            let payload = self.held.count(record(id, usize::try_from(padding).unwrap_or(0)));
            self.checker.lock().submitted(client, &key, id);
            let operation = Operation::new().call_mut("sim", "append", payload);
            let write = pool.write(&name, operation, &SnapContext::default());
            let (checker, object) = (Arc::clone(&self.checker), key.clone());
            inflight.spawn(async move {
                let result = write.await;
                checker.lock().answered(&object, id, result.map(drop).map_err(|error| error.to_string()));
            });
            if rng.percent(40) {
                let must_see = self.checker.lock().acknowledged_in(&key);
                let elsewhere = if rng.percent(20) { ELSEWHERE } else { "" };
                let read =
                    pool.read(&format!("{elsewhere}{name}"), Operation::new().read(0, 1 << 20), SnapId::HEAD);
                let (checker, object) = (Arc::clone(&self.checker), key.clone());
                inflight.spawn(async move {
                    match read.await {
                        Ok(reply) => checker.lock().read(&object, must_see, parse_contents(&reply.data(0))),
                        Err(error) if error.is(rados::Errno::ENOENT) => {
                            checker.lock().read(&object, must_see, Vec::new());
                        }
                        Err(error) => checker.lock().violation(format!("a read failed: {error}")),
                    }
                });
            }
        }
        while inflight.join_next().await.is_some() {}
    }

    /// Writes to a pool that may be gone at any time: all that may be said then is that it is.
    async fn doomed(self, pool: IoCtx, mut rng: Rng) {
        let mut inflight = JoinSet::new();
        for id in 0..5 {
            self.pause(&mut rng).await;
            let operation = Operation::new().call_mut("sim", "append", record(id, 0));
            inflight.spawn(pool.write(&format!("doomed{id}"), operation, &SnapContext::default()));
        }
        while let Some(Ok(result)) = inflight.join_next().await {
            match result {
                Ok(_) => {}
                Err(error) if error.is(rados::Errno::ENOENT) => {
                    let gone = self.sim.with(|world| !world.cluster.has_pool(pool.pool()));
                    if !gone {
                        self.checker.lock().violation("a pool that exists is said not to".to_owned());
                    }
                }
                Err(error) => {
                    self.checker.lock().violation(format!("a write to the doomed pool failed: {error}"))
                }
            }
        }
    }

    /// Watches an object, again whenever the watch is lost, until told to stop.
    async fn watch(self, pool: IoCtx) {
        let name = "watched";
        if let Err(error) = pool.write(name, Operation::new().create(false), &SnapContext::default()).await {
            return self.checker.lock().violation(format!("create failed: {error}"));
        }
        loop {
            let mut watch = match pool.watch(name).await {
                Ok(watch) => watch,
                Err(error) => return self.checker.lock().violation(format!("watch failed: {error}")),
            };
            loop {
                match watch.events.recv().await {
                    Some(WatchEvent::Notify { notify_id, payload, .. }) => {
                        let stop = payload == "stop";
                        let ack = pool.acknowledge(name, watch.cookie, notify_id, Bytes::from_static(b"yes"));
                        if let Err(error) = ack.await {
                            self.checker.lock().violation(format!("acknowledge failed: {error}"));
                        }
                        if stop {
                            self.stopped.store(true, Ordering::Relaxed);
                            if let Err(error) = pool.unwatch(watch.cookie).await {
                                self.checker.lock().violation(format!("unwatch failed: {error}"));
                            }
                            return;
                        }
                    }
                    Some(WatchEvent::Lost(_)) => break,
                    _ => return self.checker.lock().violation("a watch ended without a word".to_owned()),
                }
            }
            let _ = pool.unwatch(watch.cookie).await;
        }
    }

    /// Notifies the watcher now and then, and tells it to stop when all is well.
    async fn notify(self, pool: IoCtx) {
        let mut rng = Rng::new(self.seed, "notify");
        for _ in 0..4 {
            self.pause(&mut rng).await;
            let secs = rng.range(1..10);
            match pool.notify("watched", Bytes::from_static(b"hello"), Duration::from_secs(secs)).await {
                Ok(_) => *self.notified.lock() += 1,
                Err(error) if error.is(rados::Errno::ENOENT) => {}
                Err(error) => self.checker.lock().violation(format!("notify failed: {error}")),
            }
        }
        while !self.sim.with(|world| world.cluster.is_healthy()) {
            sleep(Duration::from_secs(1)).await;
        }
        // A notify may reach its watcher twice, and only the answer to the second count.
        while !self.stopped.load(Ordering::Relaxed) {
            sleep(Duration::from_secs(1)).await;
            let reply = pool.notify("watched", Bytes::from_static(b"stop"), Duration::from_secs(10)).await;
            match reply {
                Ok(reply) if !reply.acks.is_empty() => return,
                Ok(_) => {}
                Err(error) if error.is(rados::Errno::ENOENT) => {}
                Err(error) => return self.checker.lock().violation(format!("notify failed: {error}")),
            }
        }
    }
}
