//! When the cluster is in trouble a disk waits; it does not lie and does not fail.

#![allow(clippy::unwrap_used, reason = "test")]

mod common;

use std::time::Duration;

use common::{Cluster, Release, Running, Server, json, start, wait_until};

/// fio that writes, and reads all of it back at the end.
fn verified_writes(dir: &tempfile::TempDir, uri: &str, options: &str) -> Running {
    start(&format!(
        "cd {} && exec fio --thread --name=verify --ioengine=nbd --uri='{uri}' --rw=randwrite --bsrange=4k-64k --blockalign=4k \
         --size=64M --iodepth=16 --verify=crc32c --verify_fatal=1 --do_verify=1 {options}",
        dir.path().display(),
    ))
}

#[test]
fn restarts_of_the_osd_under_load_lose_no_write() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 64M");
    let server = Server::serve(cluster, &[&image.spec]);
    let dir = tempfile::tempdir().unwrap();
    let mut writer = verified_writes(&dir, &server.uri(&image.spec), "--rate=2m");
    for _ in 0..3 {
        std::thread::sleep(Duration::from_secs(2));
        assert!(writer.is_running());
        cluster.stop_daemon("osd.0");
        cluster.revive("osd.0");
    }
    writer.finish().success();
    let digest = server.digest(&image.spec);
    server.stop();
    assert_eq!(cluster.librbd_digest(&image.spec), digest);
    cluster.assert_object_map_is_correct(&image.spec);
}

#[test]
fn an_osd_that_hangs_delays_requests_and_fails_none() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 64M");
    let server = Server::serve(cluster, &[&image.spec]);
    server.qemu_io(&image.spec, &["write -P 1 0 1M"]);
    cluster.signal("osd.0", "STOP");
    let mut write = start(&format!("qemu-io -f raw -c 'write -P 2 0 1M' '{}'", server.uri(&image.spec)));
    std::thread::sleep(Duration::from_secs(12));
    let waits = write.is_running();
    cluster.signal("osd.0", "CONT");
    assert!(waits, "{}", write.finish());
    write.finish().success();
    server.qemu_io(&image.spec, &["read -P 2 0 1M"]);
    // Waiting is the default, silence is not.
    assert!(server.printed().contains("osd.0"), "no word about the stall: {}", server.printed());
}

#[test]
fn requests_finish_after_a_monitor_was_away() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 64M");
    let server = Server::serve(cluster, &[&image.spec]);
    server.qemu_io(&image.spec, &["write -P 1 0 1M"]);
    cluster.stop_daemon("mon.a");
    server.qemu_io(&image.spec, &["write -P 2 1M 1M", "read -P 1 0 1M"]);
    cluster.revive("mon.a");
    // Only a map from the monitor tells where the OSD is after its restart.
    cluster.stop_daemon("osd.0");
    cluster.revive("osd.0");
    server.qemu_io(&image.spec, &["write -P 3 2M 1M", "read -P 2 1M 1M", "read -P 3 2M 1M"]);
}

#[test]
fn the_pause_flag_holds_requests_back() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 64M");
    let server = Server::serve(cluster, &[&image.spec]);
    server.qemu_io(&image.spec, &["write -P 1 0 1M"]);
    cluster.run("ceph osd pause");
    // Only with the answer to the first does an OSD tell of the new map.
    let mut write = start(&format!(
        "qemu-io -f raw -c 'write -P 2 0 1M' -c 'write -P 2 1M 1M' -c 'write -P 2 2M 1M' '{}'",
        server.uri(&image.spec)
    ));
    std::thread::sleep(Duration::from_secs(5));
    let waits = write.is_running();
    cluster.run("ceph osd unpause");
    assert!(waits, "{}", write.finish());
    write.finish().success();
    server.qemu_io(&image.spec, &["read -P 2 0 3M"]);
}

#[test]
fn writes_to_a_pool_at_its_quota_wait_and_reads_do_not() {
    let cluster = Cluster::start(Release::Pacific, &["--mgr", "--conf", "mgr stats period = 1"]);
    let image = cluster.create("--size 128M");
    let server = Server::serve(&cluster, &[&image.spec]);
    server.qemu_io(&image.spec, &["write -P 1 0 32M"]);
    cluster.run("ceph osd pool set-quota rbdpool max_bytes 16777216");
    wait_until("the pool is full", Duration::from_secs(60), || {
        let pools = json(&cluster.run("ceph osd pool ls detail --format json"));
        let flags =
            pools.as_array()?.iter().find(|pool| pool["pool_name"] == "rbdpool")?["flags_names"].clone();
        flags.as_str()?.contains("full").then_some(())
    });
    std::thread::sleep(Duration::from_secs(2));
    let mut write = start(&format!("qemu-io -f raw -c 'write -P 2 32M 1M' '{}'", server.uri(&image.spec)));
    std::thread::sleep(Duration::from_secs(5));
    assert!(write.is_running(), "{}", write.finish());
    // Read-only, because QEMU ends with a flush otherwise, and that waits for the write.
    server.qemu_io_read_only(&image.spec, &["read -P 1 0 32M"]);
    cluster.run("ceph osd pool set-quota rbdpool max_bytes 0");
    write.finish().success();
    server.qemu_io(&image.spec, &["read -P 2 32M 1M"]);
    server.stop();
    cluster.assert_object_map_is_correct(&image.spec);
}

#[test]
fn placement_groups_may_split_under_load() {
    // It is the manager who carries a split out, a few at a time.
    let cluster = Cluster::start(Release::Pacific, &["--mgr"]);
    let image = cluster.create("--size 64M");
    let server = Server::serve(&cluster, &[&image.spec]);
    let dir = tempfile::tempdir().unwrap();
    let mut writer = verified_writes(&dir, &server.uri(&image.spec), "--rate=2m");
    cluster.run("ceph osd pool set rbdpool pg_num 48");
    wait_until("the groups are split", Duration::from_secs(60), || {
        let pools = json(&cluster.run("ceph osd pool ls detail --format json"));
        (pools.as_array()?.iter().find(|pool| pool["pool_name"] == "rbdpool")?["pg_num"] == 48).then_some(())
    });
    assert!(writer.is_running());
    writer.finish().success();
    let digest = server.digest(&image.spec);
    server.stop();
    assert_eq!(cluster.librbd_digest(&image.spec), digest);
}
