//! Options of pools and clients, and how full a pool may be.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::common::{Cluster, Release, json};
use crate::{BOTH, Side, assert_same};

/// Of its own: other tests look at options while these are changed. The manager knows how full pools are.
fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        let cluster = Cluster::start(Release::Pacific, &["--mgr"]);
        cluster.run("ceph auth caps client.qemu mon 'allow *' osd 'allow *' mgr 'allow *'");
        cluster
    })
}

/// Does the same twice, with each program; the second finds what the first has left. The exit codes are `codes`.
fn one_after_another(command: &str, codes: [i32; 2]) {
    let outputs = BOTH.map(|side| side.try_run(cluster(), command));
    assert_eq!(outputs.each_ref().map(|output| output.status.code()), codes.map(Some), "{outputs:?}");
    assert_eq!(outputs[0].stdout, outputs[1].stdout, "{command}");
}

#[test]
fn options_of_pools_and_clients_are_set_and_shown_as_by_rbd() {
    for (command, codes) in [
        ("config pool set rbdpool rbd_qos_iops_limit 2K", [0, 0]),
        ("config pool get rbdpool rbd_qos_iops_limit", [0, 0]),
        ("config pool set rbdpool rbd_default_order 23", [0, 0]),
        ("config pool rm rbdpool rbd_qos_iops_limit", [0, 2]),
        ("config pool get rbdpool rbd_qos_iops_limit", [2, 2]),
        ("config pool set rbdpool rbd_cache maybe", [22, 22]),
        ("config pool set rbdpool rbd_bogus 1", [22, 22]),
        ("config pool set rbdpool rbd_cache", [22, 22]),
        ("config pool get rbdpool mon_host", [22, 22]),
        ("config pool get rbdpool", [22, 22]),
        ("config pool ls", [22, 22]),
        ("config pool ls nopool", [2, 2]),
    ] {
        one_after_another(command, codes);
        assert_same(cluster(), "config pool ls rbdpool");
        assert_same(cluster(), "config image ls rbdpool/image");
    }
    for side in BOTH {
        side.run(cluster(), &format!("create rbdpool/order-{side:?} --size 16M"));
        let info = json(&Side::Theirs.run(cluster(), &format!("info rbdpool/order-{side:?} --format json")));
        assert_eq!(info["order"], 23, "{info}");
    }
    one_after_another("config pool remove rbdpool rbd_default_order", [0, 2]);

    for (command, codes) in [
        ("config global set global rbd_compression_hint compressible", [0, 0]),
        ("config global set client rbd_compression_hint none", [0, 0]),
        ("config global set client.x rbd_plugins one", [0, 0]),
        ("config global get client rbd_compression_hint", [0, 0]),
        ("config global get client.x rbd_compression_hint", [2, 2]),
        ("config global set global rbd_compression_hint maybe", [22, 22]),
        ("config global set global rbd_bogus 1", [22, 22]),
        ("config global set osd rbd_cache 1", [22, 22]),
        ("config global set global mon_host 1", [22, 22]),
        ("config global remove client rbd_compression_hint", [0, 0]),
    ] {
        one_after_another(command, codes);
        for entity in ["global", "client", "client.x", "client.y"] {
            assert_same(cluster(), &format!("config global ls {entity}"));
        }
    }
    one_after_another("config global rm global rbd_compression_hint", [0, 0]);
}

#[test]
fn a_pool_that_is_too_full_gives_up_what_is_in_its_trash() {
    let pools = BOTH.map(|side| (side, format!("full-{side:?}").to_lowercase()));
    for (side, pool) in &pools {
        cluster().run(&format!("ceph osd pool create {pool} 8 && rbd pool init {pool}"));
        for weeks in 1..=3 {
            side.run(cluster(), &format!("create {pool}/{weeks} --size 64M --thick-provision --no-progress"));
            side.run(cluster(), &format!("trash mv {pool}/{weeks} --expires-at {weeks}%weeks"));
        }
    }
    // About 5 % of the OSD's 4 GiB, as soon as it has reported that.
    let deadline = Instant::now() + Duration::from_secs(60);
    let is_known = |pool: &str| {
        let report = json(&cluster().run("ceph df --format json"));
        let usages = report["pools"].as_array().unwrap().iter();
        let of = |usage: &&serde_json::Value| usage["name"] == pool;
        usages.filter(of).any(|usage| usage["stats"]["bytes_used"].as_u64() >= Some(192 << 20))
    };
    while !pools.iter().all(|(_, pool)| is_known(pool)) {
        assert!(Instant::now() < deadline, "the pools are not reported as full");
        std::thread::sleep(Duration::from_secs(1));
    }
    let left = |options: &str| {
        pools.each_ref().map(|(side, pool)| {
            let purged = side.try_run(cluster(), &format!("trash purge {pool} {options}"));
            let trash = json(&Side::Theirs.run(cluster(), &format!("trash ls {pool} --format json")));
            let names =
                trash.as_array().unwrap().iter().map(|image| image["name"].clone()).collect::<Vec<_>>();
            (purged.status.code().unwrap(), names)
        })
    };
    for (options, code, count) in [
        ("", 0, 3),
        ("--threshold 2", 22, 3),
        ("--threshold some", 1, 3),
        ("--threshold 0.5", 0, 3),
        ("--threshold 0.045", 0, 2),
        ("--expired-before 10%days", 0, 2),
        ("--expired-before 16%days", 0, 1),
    ] {
        let [ours, theirs] = left(options);
        assert_eq!(ours, theirs, "{options}");
        assert_eq!((ours.0, ours.1.len()), (code, count), "{options}");
    }
}
