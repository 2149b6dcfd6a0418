//! Two servers and a client of librbd want the lock of one image all the time, and now and then one of them is killed.
//!
//! ```text
//!  writer ---- rbd-nbd-rs ----+                    +---- kill -9, start again
//!  writer ---- rbd-nbd-rs ----+---- one image -----+---- rbd snap create, resize, feature disable, enable,
//!  writer ---- qemu-nbd ------+                         object-map rebuild
//! ```
//!
//! A minute of it, or `LOCK_FIGHT_SECONDS`. Everything that was acknowledged has to be there, each writer has to get its
//! share, and maintenance has to be granted within two seconds. On a loaded machine that is two seconds more than three
//! times what the same command takes on an image that nobody uses, at the same moment.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test")]

#[allow(dead_code, reason = "not all of it is used here")]
#[path = "faults/checker.rs"]
mod checker;
mod common;
#[path = "faults/stamp.rs"]
mod stamp;

use std::env;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use checker::{Change, Checker, Reading, SnapshotRule};
use common::nbd::{Answer, Client, Command, Failure, Request};
use common::random::Rng;
use common::{Backend, Cluster, Image, Kind, MIB};
use stamp::{BLOCK, Stamp};

const SIZE: u64 = 32 * MIB;
const SIDES: [Kind; 3] = [Kind::Ours, Kind::Ours, Kind::Librbd];
/// Requests of a writer under way at the same time.
const DEPTH: usize = 4;
/// A request never waits longer, unless its own server was killed.
const PATIENCE: Duration = Duration::from_secs(15);
const GRANTED: Duration = Duration::from_secs(2);
/// From the start of a server whose predecessor had the lock to its first acknowledged write. librbd takes 28 s.
const TAKEN_OVER: Duration = Duration::from_secs(5);

struct Fight<'a> {
    cluster: &'a Cluster,
    image: Image,
    checker: Mutex<Checker>,
    sides: Vec<Side>,
    stop: AtomicBool,
}

struct Side {
    kind: Kind,
    /// `None` while it is being started.
    backend: Mutex<Option<Backend>>,
    /// Requests that were acknowledged.
    done: AtomicU64,
    /// In milliseconds, of requests that nobody killed.
    longest: AtomicU64,
}

/// What a request does to the checker when it ends.
enum Check {
    Change { sequence: u64, blocks: Range<u64> },
    Read { reading: Reading, first: u64 },
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Side {
    fn socket(&self) -> Option<String> {
        lock(&self.backend).as_ref().map(|backend| backend.socket().to_owned())
    }
}

impl<'a> Fight<'a> {
    fn new(cluster: &'a Cluster) -> Self {
        let image = cluster.create("--size 32M --object-size 1M");
        let side = |kind| Side {
            kind,
            backend: Mutex::new(Some(Backend::serve(kind, cluster, &image.spec))),
            done: AtomicU64::new(0),
            longest: AtomicU64::new(0),
        };
        let sides = SIDES.map(side).into();
        let checker = Mutex::new(Checker::new(SIZE / BLOCK as u64));
        Self { cluster, image, checker, sides, stop: AtomicBool::new(false) }
    }

    /// Writes and reads through one side until it is time to stop; a connection that breaks is made again.
    fn write(&self, side: usize, mut rng: Rng) {
        while !self.stop.load(Ordering::Relaxed) {
            let Some(socket) = self.sides[side].socket() else {
                thread::sleep(Duration::from_millis(20));
                continue;
            };
            // It may have been killed a moment ago.
            let Ok(mut client) = Client::connect(&socket, &self.image.spec) else { continue };
            while !self.stop.load(Ordering::Relaxed) {
                match self.round(side, &mut client, &mut rng) {
                    Ok(()) => {}
                    Err(Failure::Broken(_)) => {
                        let is_same = self.sides[side].socket().as_ref() == Some(&socket);
                        assert!(!is_same, "side {side} dropped a connection of its own accord");
                        break;
                    }
                    Err(refused @ Failure::Refused(_)) => panic!("side {side}: {refused}"),
                }
            }
        }
    }

    /// A few requests at once.
    fn round(&self, side: usize, client: &mut Client, rng: &mut Rng) -> Result<(), Failure> {
        let began = Instant::now();
        let mut under_way = Vec::new();
        for _ in 0..DEPTH {
            let (request, data, check) = self.choose(side, rng);
            under_way.push((client.submit(request, &data)?, check));
        }
        for (cookie, check) in under_way {
            let Answer { data, .. } = client.wait(cookie)?;
            let mut checker = lock(&self.checker);
            match check {
                Check::Change { sequence, blocks } => checker.acknowledge(sequence, blocks),
                Check::Read { reading, first } => checker.finish_read(reading, first, &data),
            }
            drop(checker);
            self.sides[side].done.fetch_add(1, Ordering::Relaxed);
        }
        self.sides[side].longest.fetch_max(began.elapsed().as_millis() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn choose(&self, side: usize, rng: &mut Rng) -> (Request, Vec<u8>, Check) {
        let length = rng.range(1..5);
        let first = rng.range(0..SIZE / BLOCK as u64 - length + 1);
        let blocks = first..first + length;
        let (command, change) = match rng.range(0..10) {
            0..6 => (Command::Write, Change::Write),
            6 => (Command::WriteZeroes, Change::Zero),
            7 => (Command::Trim, Change::Trim),
            _ => {
                let reading = lock(&self.checker).begin_read();
                let request = Request::new(Command::Read, first * BLOCK as u64, length * BLOCK as u64);
                return (request, Vec::new(), Check::Read { reading, first });
            }
        };
        let sequence = lock(&self.checker).begin(change, blocks.clone());
        let mut data = Vec::new();
        if command == Command::Write {
            data.resize(length as usize * BLOCK, 0);
            for (block, data) in blocks.clone().zip(data.chunks_exact_mut(BLOCK)) {
                Stamp { block, writer: side as u64, sequence }.fill(data);
            }
        }
        let request = Request::new(command, first * BLOCK as u64, length * BLOCK as u64);
        (request, data, Check::Change { sequence, blocks })
    }

    /// Kills a server of ours amid its work, starts it again, and waits until it does something.
    fn kill(&self, side: usize) {
        let side = &self.sides[side];
        let backend = lock(&side.backend).take().expect("nobody else kills");
        backend.kill();
        let before = side.done.load(Ordering::Relaxed);
        *lock(&side.backend) = Some(Backend::serve(side.kind, self.cluster, &self.image.spec));
        let began = Instant::now();
        common::wait_until("the server does something", TAKEN_OVER, || {
            (side.done.load(Ordering::Relaxed) > before + DEPTH as u64).then_some(())
        });
        eprintln!("killed and back to work {:.1?} after its start", began.elapsed());
    }

    /// Runs a command on the image, and on one that nobody uses to compare it with.
    fn maintain(&self, unused: &Image, command: &str) {
        let [took, control] = [&self.image, unused].map(|image| {
            let command = command.replace("IMAGE", &image.spec);
            let output = self.cluster.try_run(&command);
            assert!(output.status.success(), "{output}");
            output.took
        });
        eprintln!("{took:.1?} for {command}; {control:.1?} on an image that nobody uses");
        assert!(took < GRANTED + 3 * control, "{took:?} for {command}, {control:?} on an unused image");
    }

    /// Takes a snapshot; returns what it may hold.
    fn snapshot(&self, unused: &Image, name: &str) -> SnapshotRule {
        let reading = lock(&self.checker).begin_read();
        self.maintain(unused, &format!("rbd snap create --no-progress IMAGE@{name}"));
        lock(&self.checker).snapshot_taken(reading)
    }

    fn export(&self, spec: &str) -> Vec<u8> {
        let file = self.cluster.file("exported");
        self.cluster.run(&format!("rbd export --no-progress {spec} {file}"));
        let data = std::fs::read(&file).expect("rbd has written it");
        std::fs::remove_file(&file).expect("it is ours");
        data
    }

    /// How many requests each side got done while something ran.
    fn progress(&self, something: impl FnOnce()) -> Vec<u64> {
        let done =
            || -> Vec<u64> { self.sides.iter().map(|side| side.done.load(Ordering::Relaxed)).collect() };
        let before = done();
        something();
        done().iter().zip(before).map(|(after, before)| after - before).collect()
    }

    fn referee(&self, time: Duration, mut rng: Rng) {
        let unused = self.cluster.create("--size 32M --object-size 1M");
        let (began, mut round) = (Instant::now(), 0);
        let mut snapshots = Vec::new();
        while began.elapsed() < time {
            round += 1;
            let shares = self.progress(|| thread::sleep(Duration::from_secs(5)));
            eprintln!("{:3.0?}: {shares:?} requests in 5 s", began.elapsed());
            let all: u64 = shares.iter().sum();
            assert!(
                shares.iter().all(|share| share * 20 > all),
                "one of {SIDES:?} starves: {shares:?} requests"
            );

            let name = format!("s{round}");
            snapshots.push((name.clone(), self.snapshot(&unused, &name)));
            self.maintain(&unused, &format!("rbd resize --no-progress --size {}M IMAGE", 32 + round));
            self.maintain(&unused, "rbd feature disable IMAGE object-map fast-diff");
            self.maintain(&unused, "rbd feature enable IMAGE object-map fast-diff");
            // That of the snapshot as well: when it goes its map becomes part of the image's.
            self.maintain(&unused, &format!("rbd object-map rebuild --no-progress IMAGE@{name}"));
            self.maintain(&unused, "rbd object-map rebuild --no-progress IMAGE");
            for (name, rule) in snapshots.drain(..) {
                let wrong = rule.check(&self.export(&format!("{}@{name}", self.image))[..SIZE as usize]);
                assert!(wrong.is_empty(), "{name}: {wrong:?}");
                self.maintain(&unused, &format!("rbd snap rm --no-progress IMAGE@{name}"));
            }
            self.kill(rng.range(0..2) as usize);
        }
    }
}

#[test]
fn three_writers_share_a_lock_and_lose_nothing_while_owners_die() {
    let seconds =
        env::var("LOCK_FIGHT_SECONDS").map_or(60, |text| text.parse().expect("a number of seconds"));
    let fight = Fight::new(Cluster::shared());
    let mut rng = Rng::new(4);
    thread::scope(|scope| {
        let writers: Vec<_> = (0..SIDES.len())
            .map(|side| {
                let rng = rng.fork();
                let fight = &fight;
                scope.spawn(move || fight.write(side, rng))
            })
            .collect();
        let over = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            fight.referee(Duration::from_secs(seconds), rng);
        }));
        // The writers have to end, or nobody learns why.
        fight.stop.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.join().expect("the writer has said why");
        }
        over.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    let Fight { cluster, image, checker, sides, .. } = &fight;
    for side in sides {
        let longest = Duration::from_millis(side.longest.load(Ordering::Relaxed));
        eprintln!(
            "{:?}: {} requests, the longest round took {longest:.1?}",
            side.kind,
            side.done.load(Ordering::Relaxed)
        );
        assert!(longest < PATIENCE, "{:?} waited {longest:?}", side.kind);
        lock(&side.backend).take().expect("it runs").stop();
    }
    let exported = fight.export(&image.spec);
    let mut checker = lock(checker);
    let reading = checker.begin_read();
    checker.finish_read(reading, 0, &exported[..SIZE as usize]);
    assert_eq!(checker.violations(), [], "wrong blocks");
    drop(checker);
    cluster.assert_object_map_is_correct(&image.spec);
}
