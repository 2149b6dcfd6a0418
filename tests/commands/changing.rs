//! What is made, changed and removed is the same afterwards, whoever did it.

use crate::common::{Cluster, json};
use crate::{BOTH, Side, Twins};

#[test]
fn new_images_are_like_those_of_rbd() {
    let cluster = Cluster::shared();
    cluster.run("ceph osd pool create newdata 8 && rbd pool init newdata");
    cluster.run("ceph auth caps client.qemu mon 'profile rbd' osd 'profile rbd pool=rbdpool, profile rbd pool=newdata'");
    let twins = Twins::new(cluster, "create");
    for (name, options) in [
        ("plain", "--size 1G"),
        ("mebibytes", "-s 100"),
        ("odd", "--size 1000001B"),
        ("objects", "--size 10M --object-size 64K"),
        ("order", "--size 10M --order 23"),
        ("shared", "--size 10M --image-shared"),
        ("features", "--size 10M --image-feature layering,exclusive-lock,object-map,fast-diff"),
        ("implied", "--size 10M --image-feature exclusive-lock --image-feature object-map"),
        ("none", "--size 10M --image-feature layering"),
        ("striped", "--size 10M --stripe-unit 64K --stripe-count 4"),
        ("data", "--size 10M --data-pool newdata"),
        ("empty", "--size 0"),
        ("thick", "--size 9M --thick-provision"),
        ("journal", "--size 1M --journal-pool p --journal-splay-width 2 --journal-object-size 4M"),
    ] {
        twins.run(&format!("create NS/{name} {options}"));
        twins.assert_same(&format!("info NS/{name}"));
    }
    twins.assert_same("du NS/thick");
    for side in BOTH {
        let (pool, namespace) = ("rbdpool", twins.place(side).replace("rbdpool/", ""));
        side.run(cluster, &format!("create --pool {pool} --namespace {namespace} --image given --size 1M"));
    }
    twins.assert_same("ls -l NS");
}

#[test]
fn images_change_as_with_rbd() {
    let cluster = Cluster::shared();
    let twins = Twins::new(cluster, "change");
    for command in [
        "create NS/i --size 10M",
        "resize NS/i --size 30M",
        "snap create NS/i@one",
        "snap add NS/i@two",
        "resize NS/i --size 5M --allow-shrink",
        "image-meta set NS/i key value",
        "image-meta set NS/i other two%words",
        "image-meta rm NS/i key",
        "config image set NS/i rbd_cache false",
        "config image set NS/i rbd_qos_iops_limit 100",
        "config image remove NS/i rbd_cache",
        "lock add NS/i by-hand",
    ] {
        twins.run(command);
        for shown in ["info NS/i", "snap ls NS/i", "image-meta ls NS/i", "config image ls NS/i"] {
            // Nothing at all is no JSON.
            if shown != "image-meta ls NS/i" || command.contains("-meta set") {
                twins.assert_same(shown);
            }
        }
    }
    for side in BOTH {
        let lock =
            &json(&Side::Theirs.run(cluster, &format!("lock ls {}/i --format json", twins.place(side))))[0];
        assert_eq!(lock["id"], "by-hand", "{lock}");
        let removed =
            twins.run_on(side, &format!("lock remove NS/i by-hand {}", lock["locker"].as_str().unwrap()));
        assert!(removed.status.success(), "{removed}");
    }
    twins.assert_same("lock ls NS/i");
}

#[test]
fn clones_and_removals_are_like_those_of_rbd() {
    let cluster = Cluster::shared();
    let twins = Twins::new(cluster, "family");
    twins.run("create NS/parent --size 10M");
    twins.run("snap create NS/parent@base");
    twins.run("snap protect NS/parent@base");
    for command in [
        "clone NS/parent@base NS/first",
        "clone --rbd-default-clone-format 2 NS/parent@base NS/second --object-size 64K",
        "clone --rbd-default-clone-format 1 NS/parent@base NS/third --image-feature layering",
        "rm NS/parent",
        "rm NS/first",
        "trash mv NS/second",
        "flatten NS/second",
        "snap unprotect NS/parent@base",
        "snap rm NS/parent@base",
        "flatten NS/third",
        "snap unprotect NS/parent@base",
        "clone --rbd-default-clone-format 2 NS/parent@base NS/fourth",
        "snap rm NS/parent@base",
        "flatten NS/fourth",
    ] {
        twins.run(command);
        for shown in [
            "children --all NS/parent",
            "info NS/parent",
            "snap ls --all NS/parent",
            "ls -l NS",
            "trash ls --all NS",
        ] {
            twins.assert_same(shown);
        }
    }
    twins.run("rm NS/parent");
    twins.assert_same("ls -l NS");
    twins.assert_same("info NS/third");
    twins.assert_same("info NS/fourth");
}

#[test]
fn snapshots_live_as_with_rbd() {
    let cluster = Cluster::shared();
    let twins = Twins::new(cluster, "snapshots");
    for command in [
        "create NS/i --size 10M",
        "snap create NS/i@one",
        "snap create --pool rbdpool --snap two NS/i --skip-quiesce",
        "resize NS/i --size 20M",
        "snap create NS/i@three --ignore-quiesce-error",
        "snap rename NS/i@two NS/i@zwei",
        "snap rename NS/i@one NS/i@three",
        "snap protect NS/i@one",
        "snap rollback NS/i@one",
        "snap limit set NS/i --limit 3",
        "snap create NS/i@four",
        "snap limit set NS/i --limit 2",
        "snap limit clear NS/i",
        "snap create NS/i@four",
        "snap remove NS/i@zwei",
        "snap revert NS/i@four",
        "snap purge NS/i",
        "snap unprotect NS/i@one",
        "snap purge NS/i",
        "rename NS/i NS/renamed",
        "mv NS/renamed NS/i",
    ] {
        twins.run(command);
        for shown in ["info NS/i", "snap ls NS/i", "ls -l NS"] {
            if !command.starts_with("rename") || shown.starts_with("ls") {
                twins.assert_same(shown);
            }
        }
    }
}

#[test]
fn a_forced_removal_of_a_snapshot_flattens_its_clones() {
    let cluster = Cluster::shared();
    let twins = Twins::new(cluster, "forced");
    for command in [
        "create NS/i --size 10M",
        "snap create NS/i@s",
        "snap protect NS/i@s",
        "clone NS/i@s NS/clone",
        "snap rm NS/i@s",
        "snap rm NS/i@s --force",
    ] {
        twins.run(command);
    }
    for shown in ["info NS/clone", "snap ls --all NS/i", "info NS/i", "ls -l NS"] {
        twins.assert_same(shown);
    }
}

#[test]
fn the_trash_is_used_as_by_rbd() {
    let cluster = Cluster::shared();
    let twins = Twins::new(cluster, "trash");
    for name in ["a", "b", "c", "d"] {
        twins.run(&format!("create NS/{name} --size 10M"));
    }
    twins.run("trash mv NS/a");
    twins.run("trash move NS/b --expires-at tomorrow");
    twins.run("trash mv NS/c --expires-at 2%weeks");
    twins.assert_same("trash ls NS");
    twins.assert_same("ls -l NS");
    let both = |command: &str, name: &str| {
        let [ours, theirs] = BOTH.map(|side| {
            twins.run_on(side, &command.replace("ID", &format!("NS/{}", twins.trashed(side, name))))
        });
        assert_eq!(ours.status.code(), theirs.status.code(), "{ours}\n{theirs}");
        ours.status.code()
    };
    assert_ne!(both("trash rm ID", "b"), Some(0), "its time is not over");
    assert_eq!(both("trash rm ID --force", "b"), Some(0));
    assert_ne!(both("trash restore ID --image d", "c"), Some(0), "there is a d");
    assert_eq!(both("trash restore ID --image new", "c"), Some(0));
    twins.run("trash purge NS");
    twins.assert_same("trash ls NS");
    twins.assert_same("trash ls --all NS");
    twins.assert_same("ls -l NS");
    for side in BOTH {
        let left = cluster.run(&format!("rbd trash ls --all {}", twins.place(side)));
        assert_eq!(left, "", "{side:?}");
    }
}

#[test]
fn namespaces_come_and_go() {
    let cluster = Cluster::shared();
    for side in BOTH {
        let name = format!("rbdpool/life-{side:?}");
        side.run(cluster, &format!("namespace create {name}"));
        let listed = Side::Theirs.run(cluster, "namespace ls rbdpool");
        assert!(listed.contains(&format!("life-{side:?}")), "{listed}");
        side.run(cluster, &format!("create {name}/image --size 1M"));
        assert_eq!(side.try_run(cluster, &format!("namespace rm {name}")).status.code(), Some(16));
        side.run(cluster, &format!("rm {name}/image"));
        side.run(cluster, &format!("namespace remove --pool rbdpool --namespace life-{side:?}"));
        let listed = Side::Theirs.run(cluster, "namespace ls rbdpool");
        assert!(!listed.contains(&format!("life-{side:?}")), "{listed}");
    }
}
