//! Old and new Ceph, and every way of authenticating and of protecting a connection.

#![allow(clippy::unwrap_used, reason = "test")]

mod common;

use std::thread;
use std::time::Duration;

use common::{Cluster, Release, Server, run, start};

/// Writes, reads, snapshots and locks once over everything, and compares with librbd.
fn round_trip(cluster: &Cluster) {
    let image = cluster.create("--size 64M");
    let server = Server::serve(cluster, &[&image.spec]);
    let dir = tempfile::tempdir().unwrap();
    run(&format!(
        "cd {} && fio --thread --name=verify --ioengine=nbd --uri='{}' --rw=randwrite --bsrange=512-256k --blockalign=512 \
         --size=64M --iodepth=32 --verify=crc32c --verify_fatal=1 --do_verify=1",
        dir.path().display(),
        server.uri(&image.spec)
    ));
    cluster.run(&format!("rbd snap create --no-progress {image}@s"));
    let before = server.digest(&image.spec);
    server.qemu_io(&image.spec, &["write -P 1 0 8M", "discard 8M 8M", "write -z 17M 100k"]);
    let after = server.digest(&image.spec);
    server.stop();
    assert_eq!(cluster.librbd_digest(&format!("{image}@s")), before);
    assert_eq!(cluster.librbd_digest(&image.spec), after);
    cluster.assert_object_map_is_correct(&image.spec);
    cluster.assert_object_map_is_correct(&format!("{image}@s"));
}

#[test]
fn pacific_with_its_defaults() {
    round_trip(Cluster::shared());
}

#[test]
fn tentacle_with_its_defaults_which_are_aes256k_keys() {
    round_trip(&Cluster::start(Release::Tentacle, &[]));
}

#[test]
fn tentacle_with_aes_keys_as_after_an_upgrade() {
    round_trip(&Cluster::start(Release::Tentacle, &["--key-type", "aes"]));
}

#[test]
fn three_osds() {
    round_trip(&Cluster::start(Release::Pacific, &["--osds", "3"]));
}

#[test]
fn a_cluster_that_insists_on_encryption() {
    round_trip(&Cluster::start(Release::Pacific, &["--mode", "secure"]));
    round_trip(&Cluster::start(Release::Tentacle, &["--mode", "secure"]));
}

#[test]
fn a_cluster_that_never_encrypts() {
    round_trip(&Cluster::start(Release::Pacific, &["--mode", "crc"]));
}

#[test]
fn a_cluster_without_authentication() {
    round_trip(&Cluster::start(Release::Pacific, &["--no-auth"]));
}

/// Tickets live 60 s; each new connection to the OSD needs one that is still good.
fn io_outlives_tickets(release: Release) {
    let cluster = Cluster::start(release, &["--ticket-ttl", "60"]);
    let image = cluster.create("--size 64M");
    let server = Server::serve(&cluster, &[&image.spec]);
    for round in 1..=5 {
        server.qemu_io(&image.spec, &[&format!("write -P {round} {round}M 1M")]);
        cluster.stop_daemon("osd.0");
        cluster.revive("osd.0");
        let read =
            start(&format!("qemu-io -f raw -c 'read -P {round} {round}M 1M' '{}'", server.uri(&image.spec)));
        read.finish_within(Duration::from_secs(60)).success();
        thread::sleep(Duration::from_secs(35));
    }
    server.qemu_io(&image.spec, &["write -P 9 0 1M", "read -P 5 5M 1M"]);
    server.stop();
    cluster.assert_object_map_is_correct(&image.spec);
}

#[test]
fn io_goes_on_when_tickets_of_either_kind_have_expired() {
    thread::scope(|scope| {
        for release in [Release::Pacific, Release::Tentacle] {
            scope.spawn(move || io_outlives_tickets(release));
        }
    });
}

#[test]
fn io_goes_on_while_monitors_come_and_go() {
    let cluster = Cluster::start(Release::Pacific, &["--mons", "3", "--osds", "2"]);
    let image = cluster.create("--size 64M");
    let server = Server::serve(&cluster, &[&image.spec]);
    let dir = tempfile::tempdir().unwrap();
    let mut writer = start(&format!(
        "cd {} && exec fio --thread --name=verify --ioengine=nbd --uri='{}' --rw=randwrite --bsrange=4k-64k --blockalign=4k \
         --size=64M --iodepth=16 --verify=crc32c --verify_fatal=1 --do_verify=1 --rate=1m",
        dir.path().display(),
        server.uri(&image.spec)
    ));
    for mon in ["mon.a", "mon.b", "mon.c"] {
        cluster.stop_daemon(mon);
        // Whichever monitor we were with, maps keep coming from another.
        cluster.stop_daemon("osd.1");
        cluster.revive("osd.1");
        thread::sleep(Duration::from_secs(3));
        cluster.revive(mon);
        assert!(writer.is_running());
    }
    writer.finish().success();
    server.stop();
    cluster.assert_object_map_is_correct(&image.spec);

    // And one that is down from the start is passed over.
    cluster.stop_daemon("mon.a");
    let server = Server::serve(&cluster, &[&image.spec]);
    server.qemu_io(&image.spec, &["write -P 1 0 1M", "read -P 1 0 1M"]);
}
