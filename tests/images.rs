//! Images that are made, cloned, moved to the trash and removed are what the real `rbd` would have made and left.

#![allow(clippy::unwrap_used, reason = "test")]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::{Cluster, Image, Output, json, program, run_within, start_command};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(120);

/// Runs the program as the user of a VM's disk.
fn ours(cluster: &Cluster, command: &str) -> Output {
    let conf = cluster.conf();
    let mut program = program();
    run_within(LIMIT, program.args(command.split_whitespace()).args(["--id", "qemu", "--conf", &conf]))
}

fn theirs(cluster: &Cluster, command: &str) -> Output {
    cluster.try_run(&format!("rbd {command}"))
}

/// A name for an image that no other test uses.
fn name(cluster: &Cluster) -> Image {
    let image = cluster.create("--size 1M");
    cluster.run(&format!("rbd rm --no-progress {image}"));
    image
}

/// The cluster's objects in all namespaces, but for the lists, which stay when they are empty.
fn objects(cluster: &Cluster, of: &str) -> Vec<String> {
    let all = cluster.run("rados --pool rbdpool --all ls");
    let mut objects: Vec<_> = all.lines().filter(|line| line.contains(of)).map(str::to_owned).collect();
    objects.sort();
    objects
}

fn info(cluster: &Cluster, spec: impl std::fmt::Display) -> Value {
    json(&cluster.run(&format!("rbd info {spec} --format json")))
}

fn id(cluster: &Cluster, spec: impl std::fmt::Display) -> String {
    info(cluster, spec)["id"].as_str().unwrap().to_owned()
}

/// What tells two images of the same kind apart.
fn without_identity(mut info: Value) -> Value {
    for key in ["name", "id", "block_name_prefix", "create_timestamp", "access_timestamp", "modify_timestamp"]
    {
        info.as_object_mut().unwrap().remove(key);
    }
    info
}

/// The header's keys and values, without what tells images apart.
fn header(cluster: &Cluster, spec: impl std::fmt::Display) -> BTreeMap<String, String> {
    let header = format!("rbd_header.{}", id(cluster, spec));
    let listing = cluster.run(&format!("rados --pool rbdpool listomapvals {header}"));
    let mut pairs: BTreeMap<String, String> = BTreeMap::new();
    let mut key = String::new();
    for line in listing.lines().filter(|line| !line.is_empty()) {
        if line.starts_with("value (") || line.contains("  |") {
            pairs.entry(key.clone()).or_default().push_str(line);
        } else {
            line.clone_into(&mut key);
        }
    }
    pairs.retain(|key, _| !key.ends_with("_timestamp") && key != "object_prefix");
    pairs
}

#[test]
fn a_new_image_is_what_rbd_makes_of_the_same_options() {
    let cluster = Cluster::shared();
    for options in [
        "--size 100M",
        "--size 100M --object-size 1M",
        "--size 100M --stripe-unit 64K --stripe-count 4",
        "--size 100G --object-size 32M --image-feature layering",
        "--size 100M --image-feature layering,exclusive-lock,object-map",
        "--size 100M --image-feature layering,fast-diff",
        "--size 100M --image-shared",
        "--size 0",
    ] {
        let (expected, made) = (name(cluster), name(cluster));
        theirs(cluster, &format!("create {options} {expected}")).success();
        ours(cluster, &format!("create {options} {made}")).success();
        assert_eq!(
            without_identity(info(cluster, &made)),
            without_identity(info(cluster, &expected)),
            "{options}"
        );
        assert_eq!(header(cluster, &made), header(cluster, &expected), "{options}");
        let map = |image| {
            let map = format!("rados --pool rbdpool get rbd_object_map.{} - | sha256sum", id(cluster, image));
            cluster.run(&map)
        };
        if info(cluster, &made)["features"].as_array().unwrap().contains(&"object-map".into()) {
            assert_eq!(map(&made), map(&expected), "{options}");
        }
        // Each removes what the other made.
        ours(cluster, &format!("rm {expected}")).success();
        theirs(cluster, &format!("rm --no-progress {made}")).success();
    }
}

#[test]
fn what_rbd_refuses_to_make_is_refused_with_the_same_exit_code_and_leaves_nothing() {
    let cluster = Cluster::shared();
    theirs(cluster, "namespace create rbdpool/refusals").success();
    theirs(cluster, "create --size 1M rbdpool/refusals/taken").success();
    let before = objects(cluster, "refusals");
    for command in [
        "create --size 1M rbdpool/refusals/taken",
        "create --size 1M --image-feature object-map rbdpool/refusals/new",
        "create --size 1M --stripe-unit 64K rbdpool/refusals/new",
        "create --size 1M --stripe-unit 256 --stripe-count 2 rbdpool/refusals/new",
        "create --size 1M --object-size 64M rbdpool/refusals/new",
        "create --size 1M --data-pool none rbdpool/refusals/new",
        "create --size 1M rbdpool/nowhere/new",
        "clone rbdpool/refusals/taken@none rbdpool/refusals/new",
        "clone rbdpool/refusals/none@none rbdpool/refusals/new",
        "rm rbdpool/refusals/none",
        "trash mv rbdpool/refusals/none",
        "trash rm rbdpool/refusals/123456",
        "trash restore rbdpool/refusals/123456",
    ] {
        let (expected, got) = (theirs(cluster, command), ours(cluster, command));
        assert_ne!(expected.status.code(), Some(0), "{expected}");
        assert_eq!(got.status.code(), expected.status.code(), "{got}\nbut\n{expected}");
    }
    assert_eq!(objects(cluster, "refusals"), before);
}

#[test]
fn an_image_that_is_removed_leaves_no_object() {
    let cluster = Cluster::shared();
    for options in [
        "--size 64M",
        "--size 64M --object-size 1M --stripe-unit 64K --stripe-count 4",
        "--size 64M --image-feature layering",
    ] {
        let image = cluster.create(options);
        cluster.run(&format!(
            "rbd bench --io-type write --io-pattern rand --io-size 64K --io-total 4M {image} >/dev/null"
        ));
        let id = id(cluster, &image);
        assert!(objects(cluster, &id).len() > 5, "there is something to remove");
        let dry = ours(cluster, &format!("rm --dry-run {image}")).success();
        assert!(dry.contains(&id), "{dry}");
        assert!(objects(cluster, &id).len() > 5, "a dry run changes nothing");
        ours(cluster, &format!("rm {image}")).success();
        assert_eq!(objects(cluster, &id), Vec::<String>::new(), "{options}");
        assert!(!theirs(cluster, "trash ls --all rbdpool").success().contains(&id));
    }
}

#[test]
fn an_image_in_use_is_not_removed_and_it_is_said_by_whom() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 16M");
    // It ends with its input.
    let watch = cluster.start_command(&format!("exec rbd watch {image} < <(sleep 15)"));
    let watcher = common::wait_until("the image is watched", LIMIT, || {
        let status = json(&cluster.run(&format!("rbd status {image} --format json")));
        status["watchers"].as_array()?.first()?["client"].as_u64()
    });
    let refused = ours(cluster, &format!("rm {image}"));
    assert_eq!(refused.status.code(), theirs(cluster, &format!("rm --no-progress {image}")).status.code());
    assert!(refused.stderr.contains(&format!("client.{watcher}")), "{refused}");
    watch.finish_within(LIMIT).success();

    cluster.run(&format!("rbd snap create --no-progress {image}@keep-me"));
    let refused = ours(cluster, &format!("rm {image}"));
    assert_eq!(refused.status.code(), theirs(cluster, &format!("rm --no-progress {image}")).status.code());
    assert!(refused.stderr.contains("keep-me"), "{refused}");

    // A clone keeps its parent even after the snapshot was removed.
    let clone = name(cluster);
    ours(cluster, &format!("clone --rbd-default-clone-format 2 {image}@keep-me {clone}")).success();
    cluster.run(&format!("rbd snap rm --no-progress {image}@keep-me"));
    let refused = ours(cluster, &format!("rm {image}"));
    assert_eq!(refused.status.code(), theirs(cluster, &format!("rm --no-progress {image}")).status.code());
    assert!(refused.stderr.contains(&clone.spec), "{refused}");
    ours(cluster, &format!("rm {clone}")).success();
    assert_eq!(info(cluster, &image)["snapshot_count"], 0, "the snapshot went with its last clone");
    ours(cluster, &format!("rm {image}")).success();
}

#[test]
fn clones_are_the_same_whoever_makes_them() {
    let cluster = Cluster::shared();
    let parent = cluster.create("--size 64M");
    cluster.run(&format!("rbd bench --io-type write --io-size 64K --io-total 4M {parent} >/dev/null"));
    cluster.run(&format!("rbd image-meta set {parent} key value"));
    cluster.run(&format!("rbd snap create --no-progress {parent}@s && rbd snap protect {parent}@s"));
    let contents = cluster.librbd_digest(&format!("{parent}@s"));
    for options in [
        "--rbd-default-clone-format 1",
        "--rbd-default-clone-format 2",
        "",
        "--object-size 8M",
        "--image-feature layering,exclusive-lock",
        "--stripe-unit 64K --stripe-count 4",
    ] {
        let (expected, made) = (name(cluster), name(cluster));
        theirs(cluster, &format!("clone {options} {parent}@s {expected}")).success();
        ours(cluster, &format!("clone {options} {parent}@s {made}")).success();
        assert_eq!(
            without_identity(info(cluster, &made)),
            without_identity(info(cluster, &expected)),
            "{options}"
        );
        assert_eq!(header(cluster, &made), header(cluster, &expected), "{options}");
        for command in [format!("children {parent}"), format!("children --format json {parent}@s")] {
            let listed = ours(cluster, &command).success();
            assert_eq!(listed, theirs(cluster, &command).success(), "{command}");
            assert!(listed.contains(made.spec.trim_start_matches("rbdpool/")), "{command}: {listed}");
        }
        assert_eq!(cluster.librbd_digest(&made.spec), contents, "{options}");
        cluster.run(&format!("rbd bench --io-type write --io-size 4K --io-total 64K {made} >/dev/null"));
        if !options.contains("image-feature") {
            cluster.assert_object_map_is_correct(&made.spec);
        }
        ours(cluster, &format!("rm {expected}")).success();
        theirs(cluster, &format!("rm --no-progress {made}")).success();
        assert_eq!(theirs(cluster, &format!("children {parent}@s")).success(), "", "{options}");
    }
    cluster.run(&format!("rbd snap unprotect {parent}@s && rbd snap rm --no-progress {parent}@s"));
    ours(cluster, &format!("rm {parent}")).success();
}

#[test]
fn the_trash_is_the_same_from_both_sides() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 16M");
    let id = id(cluster, &image);
    let listed = |all: &str| {
        let command = format!("trash ls {all} --format json rbdpool");
        let (ours, theirs) = (ours(cluster, &command).success(), theirs(cluster, &command).success());
        assert_eq!(json(&ours), json(&theirs));
        ours.contains(&id)
    };
    ours(cluster, &format!("trash mv --expires-at tomorrow {image}")).success();
    assert!(listed("") && listed("--long"));
    let command = format!("trash rm --pool rbdpool {id}");
    let refused = ours(cluster, &command);
    assert_eq!(refused.status.code(), theirs(cluster, &command).status.code(), "{refused}");
    theirs(cluster, &format!("trash restore --pool rbdpool {id}")).success();
    assert_eq!(info(cluster, &image)["id"], *id);

    theirs(cluster, &format!("trash mv {image} --expires-at tomorrow")).success();
    let other = name(cluster);
    let new_name = other.spec.trim_start_matches("rbdpool/");
    ours(cluster, &format!("trash restore --pool rbdpool {id} --image {new_name}")).success();
    assert_eq!(info(cluster, &other)["id"], *id);
    assert!(!listed("--all"));

    theirs(cluster, &format!("trash mv {other}")).success();
    ours(cluster, &format!("trash rm --pool rbdpool {id}")).success();
    assert_eq!(objects(cluster, &id), Vec::<String>::new());
}

#[test]
fn a_removal_that_was_killed_is_gone_on_with_by_either() {
    let cluster = Cluster::shared();
    for round in 0..4 {
        let image = cluster.create("--size 64M --object-size 64K");
        let id = id(cluster, &image);
        cluster.run(&format!("rbd bench --io-type write --io-size 64K --io-total 64M {image} >/dev/null"));
        let objects_before = objects(cluster, &id).len();
        let conf = cluster.conf();
        let mut rm = program();
        rm.args(["rm", &image.spec, "--id", "qemu", "--conf", &conf]);
        let rm = start_command(&mut rm);
        let goal = objects_before * (3 - round) / 4;
        common::wait_until("some objects are gone", LIMIT, || {
            (objects(cluster, &id).len() <= goal).then_some(())
        });
        drop(rm); // kill -9
        if objects(cluster, &id).is_empty() {
            continue;
        }
        // Neither knows that the first is dead until its watch has timed out.
        let command = format!("rm --no-progress {image}");
        common::wait_until("nobody watches the image", LIMIT, || {
            let again = if round % 2 == 0 { ours(cluster, &command) } else { theirs(cluster, &command) };
            assert!(
                again.status.success() || again.stderr.contains("watch") || again.stderr.contains("is open")
            );
            again.status.success().then_some(())
        });
        assert_eq!(objects(cluster, &id), Vec::<String>::new(), "round {round}");
    }
}

#[test]
fn namespaces_are_made_and_removed_as_by_rbd() {
    let cluster = Cluster::shared();
    ours(cluster, "namespace create rbdpool/first").success();
    theirs(cluster, "namespace create rbdpool/second").success();
    for command in ["namespace ls --format json rbdpool", "namespace ls rbdpool"] {
        assert_eq!(ours(cluster, command).success(), theirs(cluster, command).success());
    }
    ours(cluster, "create --size 1M rbdpool/second/disk").success();
    theirs(cluster, "create --size 1M rbdpool/first/disk").success();
    for namespace in ["first", "second"] {
        let command = format!("namespace rm rbdpool/{namespace}");
        let (expected, got) = (theirs(cluster, &command), ours(cluster, &command));
        assert_eq!(got.status.code(), expected.status.code(), "{got}");
        assert!(got.stderr.contains("disk"), "{got}");
        ours(cluster, &format!("rm rbdpool/{namespace}/disk")).success();
    }
    theirs(cluster, "namespace rm rbdpool/first").success();
    ours(cluster, "namespace rm rbdpool/second").success();
    assert_eq!(ours(cluster, "namespace ls --format json rbdpool").success().trim(), "[]");
}
