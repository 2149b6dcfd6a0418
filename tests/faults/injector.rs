//! What happens to a cluster on a bad day. Every fault begins, lasts, and is healed; a seed decides whom it hits.

use std::fmt::Debug;
use std::thread;
use std::time::Duration;

use crate::checker::SnapshotRule;
use crate::common::random::Rng;
use crate::common::{Cluster, MIB, json, run, wait_until};
use crate::scene::Scene;

/// What brings everything back takes no longer.
const LIMIT: Duration = Duration::from_secs(180);
pub(crate) const OSDS: u64 = 3;
pub(crate) const MONS: [&str; 3] = ["mon.a", "mon.b", "mon.c"];
const OSD_NAMES: [&str; 3] = ["osd.0", "osd.1", "osd.2"];

/// Something that goes wrong, once.
pub(crate) trait Fault: Debug {
    fn begin(&mut self, scene: &Scene<'_>, rng: &mut Rng);

    /// How long it lasts.
    fn lasts(&self) -> Duration;

    fn heal(&mut self, scene: &Scene<'_>);
}

/// A kind of fault, and what it is called.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) new: fn() -> Box<dyn Fault>,
}

/// All there are.
pub(crate) const FAULTS: &[Kind] = &[
    Kind { name: "osd-killed", new: || Box::<OsdKilled>::default() },
    Kind { name: "osd-frozen", new: || Box::<OsdFrozen>::default() },
    Kind { name: "osd-marked-down", new: || Box::new(OsdMarkedDown) },
    Kind { name: "osd-out", new: || Box::<OsdOut>::default() },
    Kind { name: "pg-num", new: || Box::<PgNum>::default() },
    Kind { name: "upmap", new: || Box::<Upmap>::default() },
    Kind { name: "weights", new: || Box::new(Weights) },
    Kind { name: "pause", new: || Box::new(Pause) },
    Kind { name: "noup", new: || Box::new(NoUp) },
    Kind { name: "full", new: || Box::new(Full) },
    Kind { name: "quota", new: || Box::new(Quota) },
    Kind { name: "mon-leader-killed", new: || Box::new(MonKilled::leader()) },
    Kind { name: "mon-in-use-killed", new: || Box::new(MonKilled::in_use()) },
    Kind { name: "all-mons", new: || Box::new(AllMons) },
    Kind { name: "socket-failures", new: || Box::new(SocketFailures) },
    Kind { name: "resets", new: || Box::new(Resets { times: 10 }) },
    Kind { name: "tickets", new: || Box::new(Tickets) },
    Kind { name: "suspended", new: || Box::new(Suspended) },
    Kind { name: "snapshots", new: || Box::<Snapshots>::default() },
];

/// The kind of this name.
pub(crate) fn named(name: &str) -> Kind {
    *FAULTS.iter().find(|kind| kind.name == name).unwrap_or_else(|| panic!("no fault is called {name}"))
}

fn ceph(cluster: &Cluster, commands: &[String]) {
    // One process for all of them.
    let lines: String = commands.iter().map(|command| format!("'{command}' ")).collect();
    let printed = cluster.run(&format!("printf '%s\\n' {lines} | ceph 2>&1"));
    assert!(!printed.contains("Error"), "{commands:?}: {printed}");
}

fn pool(cluster: &Cluster) -> serde_json::Value {
    let pools = json(&cluster.run("ceph osd pool ls detail --format json"));
    let found = pools.as_array().and_then(|pools| pools.iter().find(|pool| pool["pool_name"] == "rbdpool"));
    found.expect("the cluster was made with it").clone()
}

fn pool_is_full(cluster: &Cluster) -> bool {
    pool(cluster)["flags_names"].as_str().expect("a list").split(',').any(|flag| flag == "full")
}

/// `kill -9`, and started again.
#[derive(Debug, Default)]
struct OsdKilled(&'static str);

impl Fault for OsdKilled {
    fn begin(&mut self, scene: &Scene<'_>, rng: &mut Rng) {
        self.0 = rng.pick::<&str>(&OSD_NAMES);
        scene.cluster.signal(self.0, "KILL");
    }

    fn lasts(&self) -> Duration {
        Duration::from_secs(8)
    }

    fn heal(&mut self, scene: &Scene<'_>) {
        scene.cluster.revive(self.0);
    }
}

/// It lives, but does not answer.
#[derive(Debug, Default)]
struct OsdFrozen(&'static str);

impl Fault for OsdFrozen {
    fn begin(&mut self, scene: &Scene<'_>, rng: &mut Rng) {
        self.0 = rng.pick::<&str>(&OSD_NAMES);
        scene.cluster.signal(self.0, "STOP");
    }

    fn lasts(&self) -> Duration {
        Duration::from_secs(20)
    }

    fn heal(&mut self, scene: &Scene<'_>) {
        scene.cluster.signal(self.0, "CONT");
    }
}

/// It is told to be down, and comes back by itself.
#[derive(Debug)]
struct OsdMarkedDown;

impl Fault for OsdMarkedDown {
    fn begin(&mut self, scene: &Scene<'_>, rng: &mut Rng) {
        scene.cluster.run(&format!("ceph osd down {}", rng.pick(&OSD_NAMES)));
    }

    fn lasts(&self) -> Duration {
        Duration::from_secs(3)
    }

    fn heal(&mut self, _: &Scene<'_>) {}
}

/// Its data go elsewhere, and come back.
#[derive(Debug, Default)]
struct OsdOut(&'static str);

impl Fault for OsdOut {
    fn begin(&mut self, scene: &Scene<'_>, rng: &mut Rng) {
        self.0 = rng.pick::<&str>(&OSD_NAMES);
        scene.cluster.run(&format!("ceph osd out {}", self.0));
    }

    fn lasts(&self) -> Duration {
        Duration::from_secs(5)
    }

    fn heal(&mut self, scene: &Scene<'_>) {
        scene.cluster.run(&format!("ceph osd in {}", self.0));
    }
}

/// Placement groups split in two, and merge again.
#[derive(Debug, Default)]
struct PgNum(u64);

impl PgNum {
    fn set(scene: &Scene<'_>, number: u64) {
        scene.cluster.run(&format!("ceph osd pool set rbdpool pg_num {number}"));
        wait_until(&format!("{number} placement groups"), LIMIT, || {
            let pool = pool(scene.cluster);
            let reached = pool["pg_num"] == number && pool["pg_placement_num"] == number;
            thread::sleep(Duration::from_millis(500));
            reached.then_some(())
        });
    }
}

impl Fault for PgNum {
    fn begin(&mut self, scene: &Scene<'_>, _: &mut Rng) {
        self.0 = pool(scene.cluster)["pg_num"].as_u64().expect("a number");
        Self::set(scene, 2 * self.0);
    }

    fn lasts(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn heal(&mut self, scene: &Scene<'_>) {
        Self::set(scene, self.0);
    }
}

/// Exceptions from CRUSH's choice, for half of the placement groups.
#[derive(Debug, Default)]
struct Upmap(Vec<String>);

impl Fault for Upmap {
    fn begin(&mut self, scene: &Scene<'_>, rng: &mut Rng) {
        let dump = json(&scene.cluster.run("ceph pg ls-by-pool rbdpool --format json 2>/dev/null"));
        let mut commands = Vec::new();
        for pg in dump["pg_stats"].as_array().expect("a list") {
            let up: Vec<u64> =
                pg["up"].as_array().expect("a list").iter().filter_map(serde_json::Value::as_u64).collect();
            let spare = (0..OSDS).find(|osd| !up.contains(osd));
            let (Some(spare), false) = (spare, rng.one_in(2)) else { continue };
            let id = pg["pgid"].as_str().expect("a name").to_owned();
            commands.push(format!("osd pg-upmap-items {id} {} {spare}", rng.pick(&up)));
            self.0.push(id);
        }
        ceph(scene.cluster, &commands);
    }

    fn lasts(&self) -> Duration {
        Duration::from_secs(3)
    }

    fn heal(&mut self, scene: &Scene<'_>) {
        let commands: Vec<_> = self.0.iter().map(|pg| format!("osd rm-pg-upmap-items {pg}")).collect();
        ceph(scene.cluster, &commands);
    }
}

/// CRUSH weights, reweights and primary affinities change several times.
#[derive(Debug)]
struct Weights;

impl Fault for Weights {
    fn begin(&mut self, scene: &Scene<'_>, rng: &mut Rng) {
        for _ in 0..4 {
            let (osd, percent) = (rng.pick(&OSD_NAMES), rng.range(30..100));
            let command = match rng.range(0..3) {
                0 => format!("osd crush reweight {osd} 0.00{percent}"),
                1 => format!("osd reweight {osd} 0.{percent}"),
                _ => format!("osd primary-affinity {osd} 0.{percent}"),
            };
            ceph(scene.cluster, &[command]);
        }
    }

    fn lasts(&self) -> Duration {
        Duration::from_secs(2)
    }

    fn heal(&mut self, scene: &Scene<'_>) {
        let commands = OSD_NAMES.iter().flat_map(|osd| {
            [
                format!("osd crush reweight {osd} 0.002"),
                format!("osd reweight {osd} 1"),
                format!("osd primary-affinity {osd} 1"),
            ]
        });
        ceph(scene.cluster, &commands.collect::<Vec<_>>());
    }
}

#[derive(Debug)]
struct Pause;

impl Fault for Pause {
    fn begin(&mut self, scene: &Scene<'_>, _: &mut Rng) {
        scene.cluster.run("ceph osd set pause");
    }

    fn lasts(&self) -> Duration {
        Duration::from_secs(6)
    }

    fn heal(&mut self, scene: &Scene<'_>) {
        scene.cluster.run("ceph osd unset pause");
    }
}

/// An OSD is down, and may not come back.
#[derive(Debug)]
struct NoUp;

impl Fault for NoUp {
    fn begin(&mut self, scene: &Scene<'_>, rng: &mut Rng) {
        ceph(scene.cluster, &["osd set noup".to_owned(), format!("osd down {}", rng.pick(&OSD_NAMES))]);
    }

    fn lasts(&self) -> Duration {
        Duration::from_secs(6)
    }

    fn heal(&mut self, scene: &Scene<'_>) {
        scene.cluster.run("ceph osd unset noup");
    }
}

/// The OSDs have reached the full ratio, because the ratio has become small.
#[derive(Debug)]
struct Full;

impl Full {
    fn set(scene: &Scene<'_>, commands: [&str; 3], full: bool) {
        ceph(scene.cluster, &commands.map(str::to_owned));
        wait_until("the pool is or is not full", LIMIT, || {
            (pool_is_full(scene.cluster) == full).then_some(())
        });
    }
}

impl Fault for Full {
    fn begin(&mut self, scene: &Scene<'_>, _: &mut Rng) {
        let small =
            ["osd set-nearfull-ratio 0.01", "osd set-backfillfull-ratio 0.02", "osd set-full-ratio 0.03"];
        Self::set(scene, small, true);
    }

    fn lasts(&self) -> Duration {
        Duration::from_secs(4)
    }

    fn heal(&mut self, scene: &Scene<'_>) {
        let usual =
            ["osd set-full-ratio 0.95", "osd set-backfillfull-ratio 0.9", "osd set-nearfull-ratio 0.85"];
        Self::set(scene, usual, false);
    }
}

#[derive(Debug)]
struct Quota;

impl Quota {
    fn set(scene: &Scene<'_>, bytes: u64) {
        scene.cluster.run(&format!("ceph osd pool set-quota rbdpool max_bytes {bytes}"));
        wait_until("the quota has an effect", LIMIT, || {
            (pool_is_full(scene.cluster) == (bytes > 0)).then_some(())
        });
    }
}

impl Fault for Quota {
    fn begin(&mut self, scene: &Scene<'_>, _: &mut Rng) {
        Self::set(scene, 4096);
    }

    fn lasts(&self) -> Duration {
        Duration::from_secs(4)
    }

    fn heal(&mut self, scene: &Scene<'_>) {
        Self::set(scene, 0);
    }
}

/// A monitor is killed, and started again.
#[derive(Debug)]
struct MonKilled {
    choose: fn(&Scene<'_>) -> String,
    name: String,
}

impl MonKilled {
    fn leader() -> Self {
        let choose = |scene: &Scene<'_>| {
            let leader = json(&scene.cluster.run("ceph quorum_status"))["quorum_leader_name"].clone();
            format!("mon.{}", leader.as_str().expect("there is one"))
        };
        Self { choose, name: String::new() }
    }

    /// The one that the program talks to.
    fn in_use() -> Self {
        let choose = |scene: &Scene<'_>| {
            let peers = run(&format!(
                "ss -Htnp state established | grep 'pid={},' | awk '{{ print $4 }}'",
                scene.pids()[0]
            ));
            let monmap = json(&scene.cluster.run("ceph mon dump --format json 2>/dev/null"));
            let mons = monmap["mons"].as_array().expect("a list");
            let in_use = mons.iter().find(|mon| {
                let addr = mon["public_addrs"]["addrvec"][0]["addr"].as_str().expect("an address");
                peers.lines().any(|peer| peer == addr)
            });
            format!("mon.{}", in_use.expect("it talks to a monitor")["name"].as_str().expect("a name"))
        };
        Self { choose, name: String::new() }
    }
}

impl Fault for MonKilled {
    fn begin(&mut self, scene: &Scene<'_>, _: &mut Rng) {
        self.name = (self.choose)(scene);
        scene.cluster.signal(&self.name, "KILL");
    }

    fn lasts(&self) -> Duration {
        Duration::from_secs(6)
    }

    fn heal(&mut self, scene: &Scene<'_>) {
        scene.cluster.revive(&self.name);
    }
}

/// There is no monitor at all for a while.
#[derive(Debug)]
struct AllMons;

impl Fault for AllMons {
    fn begin(&mut self, scene: &Scene<'_>, _: &mut Rng) {
        MONS.iter().for_each(|mon| scene.cluster.signal(mon, "KILL"));
    }

    fn lasts(&self) -> Duration {
        Duration::from_secs(5)
    }

    fn heal(&mut self, scene: &Scene<'_>) {
        MONS.iter().for_each(|mon| scene.cluster.revive(mon));
    }
}

/// Daemons drop connections at random: one in so many messages.
#[derive(Debug)]
pub(crate) struct SocketFailures;

impl SocketFailures {
    pub(crate) fn set(cluster: &Cluster, one_in: u64) {
        let set: String = OSD_NAMES
            .iter()
            .chain(&MONS)
            .map(|name| {
                let socket = cluster.file(&format!("run/ceph-{name}.asok"));
                format!("ceph daemon {socket} config set ms_inject_socket_failures {one_in} >/dev/null; ")
            })
            .collect();
        cluster.run(&set);
    }
}

impl Fault for SocketFailures {
    fn begin(&mut self, scene: &Scene<'_>, rng: &mut Rng) {
        Self::set(scene.cluster, rng.range(50..500));
    }

    fn lasts(&self) -> Duration {
        Duration::from_secs(8)
    }

    fn heal(&mut self, scene: &Scene<'_>) {
        Self::set(scene.cluster, 0);
    }
}

/// All TCP connections of the program are destroyed, once a second.
#[derive(Debug)]
struct Resets {
    times: u32,
}

impl Fault for Resets {
    fn begin(&mut self, scene: &Scene<'_>, _: &mut Rng) {
        for _ in 0..self.times {
            scene.destroy_connections();
            thread::sleep(Duration::from_secs(1));
        }
    }

    fn lasts(&self) -> Duration {
        Duration::ZERO
    }

    fn heal(&mut self, _: &Scene<'_>) {}
}

/// Tickets run out five times, and each time the connections that the old ones had opened are gone.
#[derive(Debug)]
struct Tickets;

impl Fault for Tickets {
    fn begin(&mut self, scene: &Scene<'_>, _: &mut Rng) {
        for _ in 0..5 {
            thread::sleep(scene.ticket_life + Duration::from_secs(1));
            scene.destroy_connections();
        }
    }

    fn lasts(&self) -> Duration {
        Duration::from_secs(2)
    }

    fn heal(&mut self, _: &Scene<'_>) {}
}

/// The program is stopped for longer than its watch (30 s) and its tickets live.
#[derive(Debug)]
struct Suspended;

impl Suspended {
    fn signal(scene: &Scene<'_>, signal: &str) {
        for pid in scene.pids() {
            run(&format!("kill -{signal} {pid}"));
        }
    }
}

impl Fault for Suspended {
    fn begin(&mut self, scene: &Scene<'_>, _: &mut Rng) {
        Self::signal(scene, "STOP");
        thread::sleep(scene.ticket_life.max(Duration::from_secs(30)) + Duration::from_secs(10));
    }

    fn lasts(&self) -> Duration {
        Duration::ZERO
    }

    fn heal(&mut self, scene: &Scene<'_>) {
        Self::signal(scene, "CONT");
    }
}

/// Snapshots are taken, read and removed, and the image grows and shrinks, all from the `rbd` CLI.
#[derive(Debug, Default)]
struct Snapshots(Vec<SnapshotRule>);

impl Fault for Snapshots {
    fn begin(&mut self, scene: &Scene<'_>, _: &mut Rng) {
        for side in scene.sides() {
            let image = &side.image;
            let take = || drop(scene.cluster.run(&format!("rbd snap create --no-progress {image}@snap")));
            self.0.push(side.workload().while_taking_snapshot(take));
            scene.cluster.run(&format!("rbd resize --no-progress {image} --size {}B", scene.size + 8 * MIB));
        }
    }

    fn lasts(&self) -> Duration {
        Duration::from_secs(2)
    }

    fn heal(&mut self, scene: &Scene<'_>) {
        for (side, rule) in scene.sides().iter().zip(self.0.drain(..)) {
            let image = &side.image;
            let wrong = rule.check(&scene.export(&format!("{image}@snap")));
            assert!(
                wrong.is_empty(),
                "in the snapshot of {image} {} are wrong: {:?}",
                wrong.len(),
                &wrong[..wrong.len().min(20)]
            );
            scene.cluster.run(&format!("rbd snap rm --no-progress {image}@snap"));
            scene
                .cluster
                .run(&format!("rbd resize --no-progress --allow-shrink {image} --size {}B", scene.size));
        }
    }
}
