//! What `rbd` shows.

use crate::common::{Cluster, Server, json};
use crate::{Side, assert_same};

#[test]
fn info_has_everything_that_rbd_shows() {
    let cluster = Cluster::shared();
    cluster.run("ceph osd pool create otherdata 8 && rbd pool init otherdata");
    for options in [
        "--size 64M",
        "--size 1000000B --object-size 32K",
        "--size 64M --stripe-unit 64K --stripe-count 4 --image-feature layering,striping",
        "--size 64M --data-pool otherdata",
        "--size 0",
        "--size 3G --object-size 8M --image-shared",
        "--size 64M --image-feature layering,exclusive-lock,journaling",
    ] {
        let image = cluster.create(options);
        cluster.run(&format!("rbd snap create --no-progress {image}@one"));
        cluster.run(&format!("rbd snap create --no-progress {image}@two && rbd snap protect {image}@two"));
        cluster.run(&format!("rbd snap limit set {image} --limit 5"));
        for command in ["info", "snap ls", "snap ls --all", "status", "lock ls"] {
            assert_same(cluster, &format!("{command} {image}"));
        }
        assert_same(cluster, &format!("info {image}@two"));
        let id = json(&cluster.run(&format!("rbd info {image} --format json")))["id"].clone();
        assert_same(cluster, &format!("info --pool rbdpool --image-id {}", id.as_str().unwrap()));
    }
}

#[test]
fn clones_are_shown_with_their_parents_and_parents_with_their_clones() {
    let cluster = Cluster::shared();
    cluster.run("rbd namespace create rbdpool/family");
    let run = |command: &str| cluster.run(&format!("cd /; {command}"));
    run("rbd create rbdpool/family/parent --size 16M");
    run(
        "rbd snap create --no-progress rbdpool/family/parent@base && rbd snap protect rbdpool/family/parent@base",
    );
    run("rbd clone rbdpool/family/parent@base rbdpool/family/old");
    run("rbd clone --rbd-default-clone-format 2 rbdpool/family/parent@base rbdpool/family/new");
    run("rbd clone --rbd-default-clone-format 2 rbdpool/family/parent@base rbdpool/far");
    run("rbd snap create --no-progress rbdpool/family/new@s");
    run("rbd clone --rbd-default-clone-format 2 rbdpool/family/new@s rbdpool/family/grandchild");
    run("rbd clone --rbd-default-clone-format 2 rbdpool/family/parent@base rbdpool/family/gone");
    run("rbd trash mv rbdpool/family/gone");
    for command in [
        "info rbdpool/family/old",
        "info rbdpool/family/new",
        "info rbdpool/far",
        "info rbdpool/family/new@s",
        "children rbdpool/family/parent",
        "children rbdpool/family/parent@base",
        "children --all rbdpool/family/parent@base",
        "children --descendants rbdpool/family/parent",
        "children rbdpool/family/old",
        "ls rbdpool/family",
        "ls --long rbdpool/family",
        "trash ls rbdpool/family",
        "trash ls --long rbdpool/family",
    ] {
        assert_same(cluster, command);
    }
}

#[test]
fn snapshots_in_the_trash_are_shown_as_such() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 10M");
    cluster.run(&format!("rbd snap create --no-progress {image}@gone"));
    cluster.run(&format!("rbd clone --rbd-default-clone-format 2 {image}@gone {image}-clone"));
    cluster.run(&format!(
        "rbd snap rm --no-progress {image}@gone && rbd snap create --no-progress {image}@here"
    ));
    for command in ["snap ls", "snap ls --all"] {
        assert_same(cluster, &format!("{command} {image}"));
    }
}

#[test]
fn mirrored_images_are_shown_as_such() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 10M");
    cluster.run("rbd mirror pool enable rbdpool image");
    cluster.run(&format!("rbd mirror image enable {image} snapshot"));
    for command in ["info", "snap ls", "snap ls --all"] {
        assert_same(cluster, &format!("{command} {image}"));
    }
    cluster.run(&format!("rbd mirror image demote {image}"));
    for command in ["info", "snap ls --all"] {
        assert_same(cluster, &format!("{command} {image}"));
    }
}

#[test]
fn who_uses_an_image_is_shown() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 16M");
    let server = Server::serve(cluster, &[&image.spec]);
    server.qemu_io(&image.spec, &["write -P 1 0 4k"]);
    let status = assert_same(cluster, &format!("status {image}"));
    assert_eq!(status["watchers"].as_array().unwrap().len(), 1, "{status}");
    let locks = assert_same(cluster, &format!("lock ls {image}"));
    assert_eq!(locks[0]["address"], status["watchers"][0]["address"], "{locks} {status}");

    let shared = cluster.create("--size 16M --image-shared");
    cluster.run(&format!("rbd lock add {shared} one --shared tag && rbd lock add {shared} two --shared tag"));
    assert_eq!(assert_same(cluster, &format!("lock ls {shared}")).as_array().unwrap().len(), 2);
}

#[test]
fn metadata_and_options_are_shown() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 16M");
    cluster.run(&format!("rbd image-meta set {image} one 1"));
    assert_same(cluster, &format!("image-meta ls {image}"));
    cluster.run(&format!(
        "rbd image-meta set {image} two 'two words' && rbd config image set {image} rbd_cache false"
    ));
    assert_same(cluster, &format!("image-meta ls {image}"));
    assert_same(cluster, &format!("config image ls {image}"));
    for command in [format!("image-meta get {image} two"), format!("config image get {image} rbd_cache")] {
        assert_eq!(Side::Ours.run(cluster, &command), Side::Theirs.run(cluster, &command), "{command}");
    }
}

#[test]
fn a_pool_and_its_namespaces_are_shown() {
    // Of its own: other tests make images while this one counts.
    let cluster = Cluster::start(crate::common::Release::Host, &[]);
    cluster.run("rbd namespace create rbdpool/one && rbd namespace create rbdpool/another");
    cluster.run("rbd create rbdpool/one/image --size 3G && rbd trash mv rbdpool/one/image");
    cluster.run(
        "rbd snap create --no-progress rbdpool/image@s && rbd resize --no-progress rbdpool/image --size 2G",
    );
    for command in [
        "namespace ls rbdpool",
        "namespace ls --pool rbdpool",
        "pool stats rbdpool",
        "pool stats rbdpool/one",
        "ls rbdpool/another",
        "ls -l rbdpool/another",
        "trash ls rbdpool/another",
        "--pool rbdpool ls",
        "ls -l -p rbdpool",
        "info -p rbdpool image",
        "info --image rbdpool/image",
        "--pool rbdpool --image image --snap s info",
    ] {
        assert_same(&cluster, command);
    }
}
