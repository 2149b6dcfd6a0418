//! Whatever monitors do, disks go on: they come and go, move, forget keys and change the configuration.

#![allow(clippy::unwrap_used, reason = "test")]

mod common;

use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use common::{Cluster, Image, Load, Release, Server, json, program, run, start, wait_until};

/// A request that takes longer is noticed.
const NOTICED: Duration = Duration::from_secs(1);
/// For what comes by itself.
const LIMIT: Duration = Duration::from_secs(60);
/// How long a ticket for an OSD is good for. The daemons rotate their keys as often.
const TICKET_LIFE: Duration = Duration::from_secs(10);

/// Three monitors, one OSD, and tickets that are soon of no use any more.
fn cluster() -> &'static Cluster {
    static SHARED: OnceLock<Cluster> = OnceLock::new();
    SHARED.get_or_init(|| {
        let ttl = TICKET_LIFE.as_secs().to_string();
        // Within a few tests the proof of who a client is is replaced, too.
        let mon_ttl = "auth mon ticket ttl = 120";
        Cluster::start(Release::Host, &["--mons", "3", "--ticket-ttl", &ttl, "--conf", mon_ttl])
    })
}

/// A server of an image of its own, in use.
struct Disk {
    image: Image,
    server: Server,
    load: Load,
    /// The monitors by the addresses where they were first looked for.
    configured: Vec<(String, String)>,
}

/// A daemon that is stopped for as long as this is there.
struct Frozen<'a> {
    cluster: &'a Cluster,
    daemon: String,
}

impl<'a> Frozen<'a> {
    fn new(cluster: &'a Cluster, daemon: &str) -> Self {
        cluster.signal(daemon, "STOP");
        Self { cluster, daemon: daemon.to_owned() }
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        self.cluster.signal(&self.daemon, "CONT");
    }
}

impl Disk {
    fn new(cluster: &Cluster) -> Self {
        Self::served_by(cluster, &cluster.conf(), &[])
    }

    fn served_by(cluster: &Cluster, conf: &str, env: &[(&str, &str)]) -> Self {
        let image = cluster.create("--size 16M");
        let mut command = program();
        command.args(["serve", "--id", "qemu", "--conf", conf, &image.spec]);
        command.env("RUST_LOG", "info,rados::client=debug").envs(env.iter().copied());
        let server = Server::serve_with(cluster, &mut command);
        let load = Load::start(&server, &image.spec);
        let monmap = json(&cluster.run("ceph mon dump -f json"));
        let monitors = monmap["mons"].as_array().expect("a list").iter();
        let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
        let configured = monitors
            .map(|mon| (text(&mon["public_addrs"]["addrvec"][0]["addr"]), text(&mon["name"])))
            .collect();
        let disk = Self { image, server, load, configured };
        thread::sleep(Duration::from_secs(1));
        // What the first requests wait for is not what is looked at.
        disk.load.longest_wait();
        disk
    }

    /// Holds if nobody who uses the disk noticed anything since the last look.
    fn assert_unaffected(&self, by: &str) {
        let longest = self.load.longest_wait();
        eprintln!("{by}: the longest request took {longest:.1?}");
        assert!(longest < NOTICED, "{by}: a request took {longest:.1?}");
    }

    /// How often a session with a monitor began, and with which the last one did.
    fn sessions(&self) -> (usize, String) {
        let printed = self.server.printed();
        let opened: Vec<&str> =
            printed.lines().filter(|line| line.contains("monitor session open")).collect();
        let label = opened.last().and_then(|line| line.split("monitor=").nth(1)).expect("it is connected");
        let label = label.trim().trim_matches('"');
        let known = self.configured.iter().find(|(addr, _)| addr == label).map(|(_, name)| name.as_str());
        let name = known.or_else(|| label.strip_prefix("mon.")).expect("it is one of them");
        (opened.len(), format!("mon.{name}"))
    }

    /// The monitor of the session after the first `count`.
    fn wait_for_session(&self, count: usize, limit: Duration) -> String {
        wait_until("a new session with a monitor", limit, || {
            let (now, name) = self.sessions();
            (now > count).then_some(name)
        })
    }

    fn restart_osd(&self, cluster: &Cluster) {
        cluster.stop_daemon("osd.0");
        cluster.revive("osd.0");
        // Only a map that a monitor gives tells where it is now, and it takes only a ticket that is still good.
        self.load.longest_wait();
    }

    /// Ends it, and holds if all that was written is there, for librbd, too.
    fn finish(self, cluster: &Cluster) {
        self.load.finish();
        let digest = self.server.digest(&self.image.spec);
        self.server.stop();
        assert_eq!(cluster.librbd_digest(&self.image.spec), digest);
    }
}

async fn connect(cluster: &Cluster, id: &str) -> rados::Client {
    let overrides = ceph_conf::Overrides {
        conf: Some(cluster.conf().into()),
        id: Some(id.into()),
        ..ceph_conf::Overrides::default()
    };
    let config = ceph_conf::load(&ceph_conf::Environment::default(), &overrides).unwrap();
    let options = rados::Options::from_config(&config).await.unwrap();
    rados::Client::connect(options).await.unwrap()
}

fn wait_for_quorum(cluster: &Cluster, mons: usize) {
    wait_until("a quorum", LIMIT, || {
        let status = cluster.try_run("ceph quorum_status -f json --connect-timeout 5");
        let quorum = status.status.success().then(|| json(&status.stdout)["quorum"].clone())?;
        (quorum.as_array()?.len() == mons).then_some(())
    });
}

#[test]
fn a_monitor_that_is_killed_is_not_noticed() {
    let cluster = cluster();
    let disk = Disk::new(cluster);
    let (count, own) = disk.sessions();
    cluster.signal(&own, "KILL");
    assert_ne!(disk.wait_for_session(count, LIMIT), own);
    disk.assert_unaffected("its monitor killed");
    cluster.revive(&own);
    wait_for_quorum(cluster, 3);
    disk.assert_unaffected("its monitor back");
    let leader = json(&cluster.run("ceph quorum_status -f json"))["quorum_leader_name"].clone();
    let leader = format!("mon.{}", leader.as_str().unwrap());
    cluster.signal(&leader, "KILL");
    wait_for_quorum(cluster, 2);
    disk.assert_unaffected("the leader killed");
    cluster.revive(&leader);
    wait_for_quorum(cluster, 3);
    disk.restart_osd(cluster);
    disk.finish(cluster);
}

#[test]
fn a_frozen_monitor_is_left_when_its_pings_are_not_answered() {
    let cluster = cluster();
    let disk = Disk::new(cluster);
    // How long that takes is for the operator to say, also to clients that run.
    cluster.run("ceph config set client.qemu mon_client_ping_interval 1");
    cluster.run("ceph config set client.qemu mon_client_ping_timeout 3");
    thread::sleep(Duration::from_secs(2));
    let (count, own) = disk.sessions();
    let frozen = Frozen::new(cluster, &own);
    assert_ne!(disk.wait_for_session(count, Duration::from_secs(10)), own);
    disk.assert_unaffected("its monitor frozen");
    drop(frozen);
    for option in ["mon_client_ping_interval", "mon_client_ping_timeout"] {
        cluster.run(&format!("ceph config rm client.qemu {option}"));
    }
    wait_for_quorum(cluster, 3);
    disk.finish(cluster);
}

#[test]
fn a_frozen_monitor_is_left_sooner_when_it_is_needed() {
    let cluster = cluster();
    let disk = Disk::new(cluster);
    let (count, own) = disk.sessions();
    let frozen = Frozen::new(cluster, &own);
    // Where it is then only a monitor can tell. By its pings alone the frozen one would be left after 30 s or more.
    cluster.stop_daemon("osd.0");
    cluster.revive("osd.0");
    assert_ne!(disk.wait_for_session(count, Duration::from_secs(20)), own);
    let longest = disk.load.longest_wait();
    eprintln!("monitor frozen, OSD restarted: the longest request took {longest:.1?}");
    drop(frozen);
    wait_for_quorum(cluster, 3);
    disk.finish(cluster);
}

#[test]
fn all_monitors_may_be_away_for_longer_than_a_ticket_lives() {
    let cluster = cluster();
    let disk = Disk::new(cluster);
    for mon in ["mon.a", "mon.b", "mon.c"] {
        cluster.signal(mon, "KILL");
    }
    thread::sleep(2 * TICKET_LIFE);
    disk.assert_unaffected("no monitor");
    for mon in ["mon.a", "mon.b", "mon.c"] {
        cluster.revive(mon);
    }
    wait_for_quorum(cluster, 3);
    disk.assert_unaffected("all monitors back");
    disk.restart_osd(cluster);
    disk.finish(cluster);
}

#[test]
fn monitors_may_all_be_replaced_by_others_elsewhere() {
    let cluster = Cluster::start(Release::Tentacle, &["--mons", "3", "--ticket-ttl", "20"]);
    // The addresses that the client was given lead nowhere in the end.
    let conf = cluster.file("before.conf");
    std::fs::copy(cluster.conf(), &conf).unwrap();
    let disk = Disk::served_by(&cluster, &conf, &[]);
    for (old, new) in [("a", "d"), ("b", "e"), ("c", "f")] {
        cluster.add_mon(new);
        cluster.remove_mon(old);
        disk.assert_unaffected(&format!("mon.{old} replaced by mon.{new}"));
    }
    let (_, last) = disk.sessions();
    assert!(["mon.d", "mon.e", "mon.f"].contains(&last.as_str()), "still with {last}");
    let gone = program().args(["ls", "--id", "qemu", "--conf", &conf, "rbdpool"]).output().unwrap();
    assert!(!gone.status.success(), "the old addresses were to lead nowhere");
    disk.restart_osd(&cluster);
    cluster.run("ceph auth wipe-rotating-service-keys");
    disk.restart_osd(&cluster);
    disk.finish(&cluster);
}

#[test]
fn clients_go_on_for_ten_ticket_lives_idle_under_load_and_stopped_for_a_while() {
    let cluster = cluster();
    let disk = Disk::new(cluster);
    let image = cluster.create("--size 16M");
    let idle = Server::serve(cluster, &[&image.spec]);
    idle.qemu_io(&image.spec, &["write -P 7 0 1M"]);
    let stopped = Disk::new(cluster);
    let pid = stopped.server.pid();
    run(&format!("kill -STOP {pid}"));
    for round in 0..5 {
        thread::sleep(2 * TICKET_LIFE - Duration::from_secs(4));
        disk.assert_unaffected("two lives of a ticket");
        disk.restart_osd(cluster);
        // Its watch has expired after 30 s, and the keys of its tickets are gone after three lives at the latest.
        if round == 1 {
            run(&format!("kill -CONT {pid}"));
            let longest = stopped.load.longest_wait();
            assert!(longest > 3 * TICKET_LIFE, "it was not stopped: {longest:?}");
        }
    }
    idle.qemu_io(&image.spec, &["read -P 7 0 1M", "write -P 8 0 1M", "read -P 8 0 1M"]);
    idle.stop();
    stopped.finish(cluster);
    disk.finish(cluster);
}

#[test]
fn the_wall_clock_may_jump_in_both_directions() {
    let cluster = cluster();
    let library = run("ls /usr/lib/*/faketime/libfaketimeMT.so.1");
    let clock = cluster.file("clock");
    let set = |offset: &str| std::fs::write(&clock, offset).unwrap();
    set("+3600s");
    let env = [
        ("LD_PRELOAD", library.trim()),
        ("FAKETIME_TIMESTAMP_FILE", &clock),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    // An hour ahead of the monitors from the start.
    let disk = Disk::served_by(cluster, &cluster.conf(), &env);
    thread::sleep(Duration::from_secs(2));
    assert_log_time_is_faked(&disk);
    for offset in ["-86400s", "+86400s"] {
        set(offset);
        thread::sleep(TICKET_LIFE);
        disk.assert_unaffected(&format!("the clock at {offset}"));
        disk.restart_osd(cluster);
    }
    let (count, own) = disk.sessions();
    cluster.signal(&own, "KILL");
    disk.wait_for_session(count, LIMIT);
    cluster.revive(&own);
    wait_for_quorum(cluster, 3);
    let printed = disk.server.printed();
    disk.finish(cluster);
    assert!(
        !printed.contains("Silent") && !printed.contains("is silent"),
        "somebody was taken for dead: {printed}"
    );
}

/// Otherwise nothing is tested.
fn assert_log_time_is_faked(disk: &Disk) {
    let printed = disk.server.printed();
    let stamp = printed.lines().find_map(|line| line.split_once('Z').map(|(stamp, _)| stamp.to_owned()));
    let stamp = stamp.expect("lines have a time");
    let ahead = run(&format!("echo $(( $(date -d '{stamp}Z' +%s) - $(date +%s) ))"));
    let ahead: i64 = ahead.trim().parse().unwrap();
    assert!((3500..3700).contains(&ahead), "the clock of the process is {ahead} s ahead");
}

#[test]
fn the_central_configuration_is_followed_at_once_and_undone_at_once() {
    let cluster = cluster();
    let image = cluster.create("--size 16M");
    let mut command = program();
    command.args(["serve", "--id", "qemu", "--conf", &cluster.conf(), &image.spec]);
    let server = Server::serve_with(cluster, command.env("RUST_LOG", "info"));
    server.qemu_io(&image.spec, &["write -P 1 0 1M"]);
    let told = |value: &str| {
        wait_until("the client is told", LIMIT, || {
            let printed = server.printed();
            let last = printed.lines().rfind(|line| line.contains("rados_osd_op_timeout"))?.to_owned();
            last.contains(&format!("value=\"{value}\"")).then_some(())
        });
    };
    let read = || start(&format!("qemu-io -r -f raw -c 'read -P 1 0 1M' '{}'", server.uri(&image.spec)));

    cluster.run("ceph config set client.qemu rados_osd_op_timeout 3");
    told("3");
    cluster.run("ceph osd pause");
    wait_until("the pause is known", LIMIT, || {
        let mut read = read();
        thread::sleep(Duration::from_secs(1));
        read.is_running().then(|| read.finish())
    });
    let limited = read().finish();
    cluster.run("ceph config rm client.qemu rados_osd_op_timeout");
    told("its default again");
    let mut unlimited = read();
    // Longer than the limit was, and the interval in which it is looked at.
    thread::sleep(Duration::from_secs(10));
    let waits = unlimited.is_running();
    cluster.run("ceph osd unpause");
    assert!(limited.to_string().contains("failed"), "{limited}");
    assert!(waits, "{}", unlimited.finish());
    unlimited.finish().success();

    // Who comes later is told before it does anything.
    cluster.run("ceph config set client.qemu rados_osd_op_timeout 3");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let config = runtime.block_on(async {
        let client = connect(cluster, "qemu").await;
        client.config().borrow().clone()
    });
    assert_eq!(config.rados_osd_op_timeout().unwrap(), Some(Duration::from_secs(3)));
    cluster.run("ceph config rm client.qemu rados_osd_op_timeout");

    // What is set on this host counts.
    let args = ["--conf", &cluster.conf(), &image.spec];
    let mut command = program();
    command.args(["serve", "--id", "qemu"]).args(args).env("CEPH_ARGS", "--rados-osd-op-timeout 77");
    let stubborn = Server::serve_with(cluster, command.env("RUST_LOG", "info"));
    cluster.run("ceph config set client.qemu rados_osd_op_timeout 3");
    wait_until("the client is told", LIMIT, || {
        stubborn.printed().contains("set on this host, too").then_some(())
    });
    cluster.run("ceph config rm client.qemu rados_osd_op_timeout");
    stubborn.stop();
    server.stop();
}

#[test]
fn a_command_is_sent_again_when_the_monitor_that_had_it_dies() {
    let cluster = cluster();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = connect(cluster, "admin").await;
        cluster.run("ceph config set client.qemu rados_mon_op_timeout 2");
        let hasty = connect(cluster, "qemu").await;
        let command = serde_json::json!({
            "prefix": "osd blocklist", "blocklistop": "add", "addr": "192.0.2.1:0/77",
        });
        for mon in ["mon.a", "mon.b", "mon.c"] {
            cluster.signal(mon, "STOP");
        }
        let answer = tokio::spawn({
            let client = client.clone();
            async move { client.mon_command(&command).await }
        });
        let limited = tokio::time::timeout(LIMIT, hasty.wait_for_newest_map()).await;
        assert_eq!(limited, Ok(Err(rados::OpError::TimedOut)));
        assert_eq!(hasty.requests(), [], "nobody waits for it any more");
        let pending = client.requests();
        assert!(!answer.is_finished());
        for mon in ["mon.a", "mon.b", "mon.c"] {
            cluster.signal(mon, "KILL");
            cluster.revive(mon);
        }
        let reply = tokio::time::timeout(LIMIT, answer).await.expect("it is answered").unwrap().unwrap();
        assert!(reply.status.contains("192.0.2.1:0/77"), "{reply:?}");
        let [request] = pending.as_slice() else { panic!("{pending:?}") };
        assert!(request.what.contains("osd blocklist"), "{request}");
        assert_eq!(request.waits_for, rados::WaitsFor::MonitorAnswer);
        assert!(request.attempts == 1 && request.age > Duration::from_secs(1), "{request:?}");
        assert_eq!(client.requests(), []);
    });
    let listed = cluster.run("ceph osd blocklist ls");
    assert!(listed.contains("192.0.2.1:0/77"), "{listed}");
    cluster.run("ceph osd blocklist rm 192.0.2.1:0/77");
    cluster.run("ceph config rm client.qemu rados_mon_op_timeout");
    wait_for_quorum(cluster, 3);
}
