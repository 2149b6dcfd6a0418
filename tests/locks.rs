//! Who may write: the watch and the exclusive lock, as librbd and its tools see them.

#![allow(clippy::unwrap_used, reason = "test")]

mod common;

use std::time::{Duration, Instant};

use common::{Cluster, Image, MIB, Server, json, program, qemu_io, run, start, wait_until};
use serde_json::{Value, json as value};

/// Maintenance by `rbd` has to be granted by the owner, not to wait for its end.
const PROMPT: Duration = Duration::from_secs(8);

fn watchers(cluster: &Cluster, image: &Image) -> Value {
    json(&cluster.run(&format!("rbd status {image} --format json")))["watchers"].clone()
}

fn locks(cluster: &Cluster, image: &Image) -> Value {
    json(&cluster.run(&format!("rbd lock ls {image} --format json")))
}

/// Clients that were shut out, as one does who takes another for dead.
fn blocklist(cluster: &Cluster) -> String {
    cluster.run("ceph osd blocklist ls")
}

/// fio writing all over an export until dropped; returns once it does.
fn load(cluster: &Cluster, server: &Server, image: &Image) -> (tempfile::TempDir, common::Running) {
    let dir = tempfile::tempdir().unwrap();
    let writer = start(&format!(
        "cd {} && exec fio --thread --name=load --ioengine=nbd --uri='{}' --rw=randwrite --bs=4k-64k --blockalign=4k --iodepth=8 \
         --size=32M --offset=32M --time_based --runtime=110",
        dir.path().display(),
        server.uri(&image.spec)
    ));
    wait_until("fio writes", Duration::from_secs(60), || (cluster.object_count(image) > 2).then_some(()));
    (dir, writer)
}

#[test]
fn an_open_image_is_watched_and_locked_only_by_its_first_write() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 64M");
    let server = Server::serve(cluster, &[&image.spec]);
    assert_eq!(watchers(cluster, &image).as_array().unwrap().len(), 1);
    server.qemu_io(&image.spec, &["read -P 0 0 1M"]);
    assert_eq!(locks(cluster, &image), value!([]), "reading needs no lock");
    server.qemu_io(&image.spec, &["write -P 1 0 4k"]);
    assert_eq!(locks(cluster, &image).as_array().unwrap().len(), 1);
}

#[test]
fn watch_and_lock_name_the_same_client_address_and_cookie() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 64M");
    let server = Server::serve(cluster, &[&image.spec]);
    server.qemu_io(&image.spec, &["write -P 1 0 4k"]);
    let watcher = watchers(cluster, &image)[0].clone();
    let lock = locks(cluster, &image)[0].clone();
    // librbd decides by exactly these whether the owner of a lock is alive, and blocklists it if not.
    assert_eq!(lock["id"], format!("auto {}", watcher["cookie"]));
    assert_eq!(lock["locker"], format!("client.{}", watcher["client"]));
    assert_eq!(lock["address"], watcher["address"]);
    assert!(watcher["address"].as_str().unwrap().starts_with("127.0.0.1:0/"), "{watcher}");
}

#[test]
fn the_lock_goes_to_and_fro_between_two_servers() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 64M");
    let before = blocklist(cluster);
    let servers = [(); 2].map(|()| Server::serve(cluster, &[&image.spec]));
    for round in 1..=6 {
        let (writer, reader) = (&servers[round % 2], &servers[(round + 1) % 2]);
        writer.qemu_io(&image.spec, &[&format!("write -P {round} {round}M 1M")]);
        reader.qemu_io(&image.spec, &[&format!("read -P {round} {round}M 1M")]);
    }
    assert_eq!(blocklist(cluster), before);
    for server in servers {
        server.stop();
    }
    cluster.assert_object_map_is_correct(&image.spec);
}

#[test]
fn the_lock_goes_to_and_fro_between_us_and_librbd() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 64M");
    let before = blocklist(cluster);
    let server = Server::serve(cluster, &[&image.spec]);
    // One librbd client that stays open takes the lock when it is its turn and gives it back.
    let librbd = cluster.file("librbd.sock");
    let _qemu_nbd =
        start(&format!("exec qemu-nbd -f raw -t -x disk -k {librbd} '{}'", cluster.qemu(&image.spec)));
    let librbd = format!("nbd+unix:///disk?socket={librbd}");
    wait_until("qemu-nbd serves", Duration::from_secs(30), || {
        start(&format!("nbdinfo --size '{librbd}'")).finish().status.success().then_some(())
    });
    assert_eq!(watchers(cluster, &image).as_array().unwrap().len(), 2);
    for round in 1..=6 {
        server.qemu_io(&image.spec, &[&format!("write -P {round} {round}M 512k")]);
        qemu_io(&librbd, &[&format!("read -P {round} {round}M 512k")]);
        qemu_io(&librbd, &[&format!("write -P 1{round} {}k 512k", round * 1024 + 512)]);
        server.qemu_io(&image.spec, &[&format!("read -P 1{round} {}k 512k", round * 1024 + 512)]);
    }
    assert_eq!(blocklist(cluster), before);
    server.stop();
    cluster.assert_object_map_is_correct(&image.spec);
}

#[test]
fn two_writers_that_never_rest_both_make_progress() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 64M");
    let servers = [(); 2].map(|()| Server::serve(cluster, &[&image.spec]));
    let dir = tempfile::tempdir().unwrap();
    let writers: Vec<_> = servers
        .iter()
        .enumerate()
        .map(|(at, server)| {
            start(&format!(
                "cd {} && fio --thread --name=writer{at} --ioengine=nbd --uri='{}' --rw=randwrite --bs=4k --iodepth=1 \
                 --offset={}M --size=16M --time_based --runtime=5 --output-format=json",
                dir.path().display(),
                server.uri(&image.spec),
                at * 32
            ))
        })
        .collect();
    for writer in writers {
        let printed = writer.finish().success();
        let report = json(&printed[printed.find('{').unwrap()..]);
        let writes = report["jobs"][0]["write"]["total_ios"].as_u64().unwrap();
        assert!(writes > 50, "{writes} writes in 5 s");
    }
    for server in servers {
        server.stop();
    }
    cluster.assert_object_map_is_correct(&image.spec);
}

#[test]
fn maintenance_by_rbd_is_granted_promptly_while_we_write() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 64M");
    let server = Server::serve(cluster, &[&image.spec]);
    let (_dir, mut writer) = load(cluster, &server, &image);
    for command in [
        format!("rbd snap create --no-progress {image}@one"),
        format!("rbd snap protect {image}@one"),
        format!("rbd snap unprotect {image}@one"),
        format!("rbd snap rename {image}@one {image}@two"),
        format!("rbd snap create --no-progress {image}@three"),
        format!("rbd snap rm --no-progress {image}@two"),
        format!("rbd snap purge --no-progress {image}"),
        format!("rbd resize --no-progress --size 80M {image}"),
        format!("rbd image-meta set {image} key value"),
        format!("rbd feature disable {image} object-map"),
        format!("rbd feature enable {image} object-map fast-diff"),
        format!("rbd object-map rebuild --no-progress {image}"),
    ] {
        let began = Instant::now();
        cluster.run(&command);
        assert!(began.elapsed() < PROMPT, "{:?}: {command}", began.elapsed());
        assert!(writer.is_running(), "fio failed after {command}");
    }
    drop(writer);
    let info = json(&cluster.run(&format!("rbd info {image} --format json")));
    assert_eq!(info["size"], 80 * MIB);
    server.stop();
    cluster.assert_object_map_is_correct(&image.spec);
}

#[test]
fn after_a_kill_the_next_server_takes_over_and_the_object_map_is_true() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 64M");
    for round in 0..2 {
        let server = Server::serve(cluster, &[&image.spec]);
        server.qemu_io(&image.spec, &[&format!("write -P 1{round} 1M 1M"), "flush"]);
        let (_dir, writer) = load(cluster, &server, &image);
        server.kill();
        drop(writer);

        let dead = locks(cluster, &image)[0]["address"].as_str().unwrap().to_owned();
        let began = Instant::now();
        let server = Server::serve(cluster, &[&image.spec]);
        server.qemu_io(&image.spec, &[&format!("read -P 1{round} 1M 1M"), "write -P 3 0 4k"]);
        // An abandoned watch lasts 30 s, and librbd waits for that.
        assert!(began.elapsed() < PROMPT, "{:?}", began.elapsed());
        assert!(blocklist(cluster).contains(&dead), "what it still sends must not arrive");
        server.stop();
        cluster.assert_object_map_is_correct(&image.spec);
        let digests: Vec<_> = [0; 2].iter().map(|_| cluster.librbd_digest(&image.spec)).collect();
        assert_eq!(digests[0], digests[1]);
    }
}

#[test]
fn a_server_whose_lock_was_broken_stops_writing_and_says_so() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 64M");
    let other = cluster.create("--size 64M");
    let server = Server::serve(cluster, &[&image.spec]);
    server.qemu_io(&image.spec, &["write -P 1 0 1M"]);
    let lock = locks(cluster, &image)[0].clone();
    let before = blocklist(cluster);
    cluster.run(&format!("rbd lock rm {image} {} {}", lock["id"], lock["locker"]));
    assert_ne!(blocklist(cluster), before);

    let write = start(&format!("qemu-io -f raw -c 'write -P 2 0 1M' '{}'", server.uri(&image.spec)));
    let write = write.finish_within(Duration::from_secs(60));
    assert!(!write.status.success(), "{write}");
    // Nothing came through, and a new server goes on.
    let next = Server::serve(cluster, &[&image.spec, &other.spec]);
    next.qemu_io(&image.spec, &["read -P 1 0 1M", "write -P 3 0 1M", "read -P 3 0 1M"]);
    next.qemu_io(&other.spec, &["write -P 3 0 1M"]);
    let printed = server.printed();
    assert!(printed.contains("blocklist"), "{printed}");
    wait_until("it tells who has the image now", Duration::from_secs(30), || {
        let printed = server.printed();
        let told = printed.contains("nobody has the exclusive lock now")
            || printed.contains("another client has the exclusive lock now");
        told.then_some(())
    });
    next.stop();
    cluster.assert_object_map_is_correct(&image.spec);
}

#[test]
fn an_image_without_exclusive_lock_is_never_locked() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 64M --image-feature layering");
    let server = Server::serve(cluster, &[&image.spec]);
    server.qemu_io(&image.spec, &["write -P 1 0 1M", "read -P 1 0 1M"]);
    assert_eq!(locks(cluster, &image), value!([]));
    assert_eq!(watchers(cluster, &image).as_array().unwrap().len(), 1);
}

#[test]
fn a_predecessor_that_is_merely_stopped_is_waited_for() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 64M");
    let stopped = Server::serve(cluster, &[&image.spec]);
    stopped.qemu_io(&image.spec, &["write -P 1 0 1M"]);
    let address = locks(cluster, &image)[0]["address"].as_str().unwrap().to_owned();
    run(&format!("kill -STOP {}", stopped.pid()));
    let next = Server::serve(cluster, &[&image.spec]);
    let mut write = start(&format!("qemu-io -f raw -c 'write -P 2 0 1M' '{}'", next.uri(&image.spec)));
    std::thread::sleep(Duration::from_secs(8));
    assert!(write.is_running() && !blocklist(cluster).contains(&address), "it may be alive");
    run(&format!("kill -CONT {}", stopped.pid()));
    write.finish_within(Duration::from_secs(30)).success();
    assert!(!blocklist(cluster).contains(&address));
    stopped.qemu_io(&image.spec, &["read -P 2 0 1M", "write -P 3 0 1M"]);
    stopped.stop();
    next.stop();
}

#[test]
fn a_killed_server_that_had_no_lock_does_not_haunt_the_image_either() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 64M");
    Server::serve(cluster, &[&image.spec]).kill();
    let dead = watchers(cluster, &image)[0]["address"].clone();
    let server = Server::serve(cluster, &[&image.spec]);
    let left = watchers(cluster, &image);
    assert_eq!(left.as_array().unwrap().len(), 1, "{left}");
    assert_ne!(left[0]["address"], dead);
    server.stop();
}

#[test]
fn a_server_without_the_proof_waits_until_the_cluster_takes_its_predecessor_for_dead() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 64M");
    let server = Server::serve(cluster, &[&image.spec]);
    server.qemu_io(&image.spec, &["write -P 1 0 1M"]);
    server.kill();
    let began = Instant::now();
    let elsewhere = cluster.file("state of another host");
    let server = Server::serve(cluster, &[&image.spec, "--state-dir", &elsewhere]);
    server.qemu_io(&image.spec, &["write -P 3 0 4k"]);
    let waited = began.elapsed();
    assert!(waited > Duration::from_secs(10) && waited < Duration::from_secs(60), "{waited:?}");
    server.stop();
}

#[test]
fn an_exclusive_server_has_the_lock_from_the_start_and_keeps_it() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 64M");
    let before = blocklist(cluster);
    let owner = Server::serve(cluster, &[&image.spec, "--exclusive"]);
    let lock = locks(cluster, &image)[0].clone();
    let told = [lock["locker"].as_str().unwrap(), lock["address"].as_str().unwrap()];
    let command = format!("rbd lock rm {image} \"{}\" {}", lock["id"].as_str().unwrap(), told[0]);

    // A second one does not start.
    let second = program()
        .args(["serve", "--exclusive", &image.spec, "--id", "qemu", "--conf", &cluster.conf()])
        .args(["--socket", &cluster.file("second.sock")])
        .output()
        .unwrap();
    assert!(!second.status.success());
    let printed = String::from_utf8(second.stderr).unwrap();
    assert!(told.iter().all(|told| printed.contains(told)) && printed.contains(&command), "{printed}");

    // One that would share reads, and is told what to do when it writes: not permitted, rather than invalid.
    let other = Server::serve(cluster, &[&image.spec]);
    other.qemu_io(&image.spec, &["read -P 0 0 1M"]);
    let write = start(&format!("qemu-io -f raw -c 'write -P 2 0 1M' '{}' 2>&1", other.uri(&image.spec)));
    let write = write.finish_within(Duration::from_secs(30));
    assert!(write.stdout.contains("Operation not permitted"), "{write}");
    assert!(other.printed().contains(&command), "{}", other.printed());

    // librbd is refused as by itself.
    let librbd = start(&format!("qemu-io -f raw -c 'write -P 2 0 1M' '{}' 2>&1", cluster.qemu(&image.spec)));
    let librbd = librbd.finish_within(Duration::from_secs(30));
    assert!(librbd.stdout.contains("Read-only file system"), "{librbd}");

    owner.qemu_io(&image.spec, &["write -P 1 0 1M", "read -P 1 0 1M"]);
    owner.stop();
    other.qemu_io(&image.spec, &["write -P 2 0 1M"]);
    other.stop();
    assert_eq!(blocklist(cluster), before);
    cluster.assert_object_map_is_correct(&image.spec);
}

#[test]
fn an_exclusive_server_takes_the_lock_from_one_that_shares() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 64M");
    let sharing = Server::serve(cluster, &[&image.spec]);
    sharing.qemu_io(&image.spec, &["write -P 1 0 1M"]);
    let owner = Server::serve(cluster, &[&image.spec, "--exclusive"]);
    owner.qemu_io(&image.spec, &["read -P 1 0 1M", "write -P 2 0 1M"]);
    owner.stop();
    sharing.qemu_io(&image.spec, &["read -P 2 0 1M", "write -P 3 0 1M"]);
    sharing.stop();
}
