//! Maintenance of an image in use: what `rbd` asks of our server as the owner of the lock, and what we ask of librbd.

#![allow(clippy::unwrap_used, reason = "test")]

mod common;

use std::time::Duration;

use common::{Cluster, Image, Load, MIB, Running, Server, json, program, qemu_io, start, wait_until};

/// What waits for a client that does not answer takes 5 s at least, and up to 30 s: the times of librbd's notifies,
/// requests and watches.
const NO_TIMEOUT: Duration = Duration::from_millis(4500);

/// How long `rbd` waits for an owner that works for it.
const GRANTED: Duration = Duration::from_secs(2);

/// Runs a command of `rbd` that must be carried out at once. On a loaded machine it may take longer by three times what
/// one takes at that moment that only looks.
fn prompt(cluster: &Cluster, command: &str) -> String {
    let output = cluster.try_run(command);
    let control = cluster.try_run("rbd info rbdpool/image").took;
    assert!(output.took < GRANTED + 3 * control, "{control:?} only to look, but: {output}");
    output.success()
}

/// One of our own commands, as the least privileged user.
fn ours(cluster: &Cluster, args: &str) -> String {
    let mut command = program();
    command.args(args.split_whitespace()).args(["--id", "qemu", "--conf", &cluster.conf()]);
    let output = common::run_within(Duration::from_secs(60), &mut command);
    assert!(output.took < NO_TIMEOUT, "waited for something: {output}");
    output.success()
}

fn lock_owner(cluster: &Cluster, image: &Image) -> String {
    json(&cluster.run(&format!("rbd lock ls {image} --format json")))[0]["locker"]
        .as_str()
        .unwrap_or("")
        .to_owned()
}

/// librbd serving the image, with the lock after a write.
fn librbd(cluster: &Cluster, image: &Image) -> (Running, String) {
    let socket = cluster.file(&format!("{}.sock", image.spec.replace('/', ".")));
    let server =
        start(&format!("exec qemu-nbd -f raw -t -x disk -k {socket} '{}'", cluster.qemu(&image.spec)));
    let uri = format!("nbd+unix:///disk?socket={socket}");
    wait_until("qemu-nbd serves", Duration::from_secs(30), || {
        start(&format!("nbdinfo --size '{uri}'")).finish().status.success().then_some(())
    });
    qemu_io(&uri, &["write -P 1 32M 64k"]);
    (server, uri)
}

/// The first bytes at `offset` of a snapshot, as librbd exports it.
fn exported(cluster: &Cluster, snapshot: &str, offset: u64) -> Vec<u8> {
    let file = cluster.file("exported");
    cluster.run(&format!("rm -f {file} && rbd export --no-progress {snapshot} {file}"));
    let exported = std::fs::read(&file).unwrap();
    exported[usize::try_from(offset).unwrap()..][..64].to_vec()
}

#[test]
fn our_server_carries_out_what_rbd_asks_of_the_owner_while_it_is_written_to() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 64M");
    let server = Server::serve(cluster, &[&image.spec]);
    let load = Load::start(&server, &image.spec);
    load.longest_wait();
    let owner = lock_owner(cluster, &image);
    assert!(owner.starts_with("client."), "the load has taken the lock: {owner}");
    for command in [
        "rbd snap create --no-progress IMAGE@s1",
        "rbd snap create --no-progress IMAGE@s2",
        "rbd snap rename IMAGE@s1 IMAGE@s3",
        "rbd snap protect IMAGE@s3",
        "rbd snap unprotect IMAGE@s3",
        "rbd snap rm --no-progress IMAGE@s3",
        "rbd resize --no-progress IMAGE --size 128M",
        "rbd resize --no-progress IMAGE --size 48M --allow-shrink",
        "rbd image-meta set IMAGE conf_rbd_discard_granularity_bytes 4096",
        "rbd image-meta remove IMAGE conf_rbd_discard_granularity_bytes",
        // A snapshot without object map would take that of the image with it.
        "rbd snap purge --no-progress IMAGE",
        "rbd feature disable IMAGE object-map,fast-diff",
        "rbd feature enable IMAGE object-map,fast-diff",
        "rbd object-map rebuild --no-progress IMAGE",
        "rbd snap create --no-progress IMAGE@s4",
        "rbd rename IMAGE IMAGE-renamed && rbd rename IMAGE-renamed IMAGE",
        "rbd snap purge --no-progress IMAGE",
    ] {
        prompt(cluster, &command.replace("IMAGE", &image.spec));
        assert_eq!(lock_owner(cluster, &image), owner, "it was done by the owner: {command}");
    }
    load.finish();
    assert_eq!(json(&cluster.run(&format!("rbd info {image} --format json")))["size"], 48 * MIB);
    assert_eq!(cluster.run(&format!("rbd snap ls --all {image}")), "");
    server.stop();
    cluster.assert_object_map_is_correct(&image.spec);
}

#[test]
fn what_our_server_cannot_do_as_owner_is_done_by_rbd_with_the_lock() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 64M");
    let server = Server::serve(cluster, &[&image.spec]);
    server.qemu_io(&image.spec, &["write -P 1 0 8M", "write -P 0 4M 4M"]);
    prompt(cluster, &format!("rbd sparsify --no-progress {image}"));
    server.qemu_io(&image.spec, &["read -P 1 0 4M", "read -P 0 4M 4M", "write -P 2 4M 64k"]);
    server.stop();
    cluster.assert_object_map_is_correct(&image.spec);
}

#[test]
fn a_refusal_of_our_server_reaches_rbd_as_that_of_librbd_does() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 64M");
    let server = Server::serve(cluster, &[&image.spec]);
    cluster.run(&format!("rbd snap create --no-progress {image}@s1"));
    cluster.run(&format!("rbd snap limit set {image} --limit 1"));
    server.qemu_io(&image.spec, &["write -P 1 0 4k"]);
    for (command, code) in [
        ("rbd snap create --no-progress IMAGE@s1", 17),
        ("rbd snap create --no-progress IMAGE@s2", 122),
        ("rbd snap rm --no-progress IMAGE@nope", 2),
        ("rbd resize --no-progress IMAGE --size 1M", 22),
        ("rbd flatten --no-progress IMAGE", 22),
        ("rbd image-meta remove IMAGE nope", 2),
    ] {
        let output = cluster.try_run(&command.replace("IMAGE", &image.spec));
        assert!(output.took < NO_TIMEOUT && output.status.code() == Some(code), "{output}");
    }
    assert_ne!(lock_owner(cluster, &image), "");
}

#[test]
fn rbd_flattens_a_clone_that_our_server_is_writing_to() {
    let cluster = Cluster::shared();
    let parent = cluster.create("--size 64M");
    let clone = Image { spec: format!("{parent}-clone") };
    let writer = Server::serve(cluster, &[&parent.spec]);
    writer.qemu_io(&parent.spec, &["write -P 7 8M 56M"]);
    writer.stop();
    cluster.run(&format!("rbd snap create --no-progress {parent}@s && rbd snap protect {parent}@s && rbd clone {parent}@s {clone}"));
    let server = Server::serve(cluster, &[&clone.spec]);
    let load = Load::start(&server, &clone.spec);
    load.longest_wait();
    cluster.run(&format!("rbd flatten --no-progress {clone}"));
    assert!(json(&cluster.run(&format!("rbd info {clone} --format json")))["parent"].is_null());
    assert_eq!(cluster.run(&format!("rbd children {parent}@s")), "");
    load.finish();
    server.qemu_io(&clone.spec, &["read -P 7 32M 32M"]);
    server.stop();
    cluster.assert_object_map_is_correct(&clone.spec);
}

#[test]
fn snapshots_of_both_sides_have_what_was_acknowledged_before_and_nothing_later() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 64M");
    let server = Server::serve(cluster, &[&image.spec]);
    let load = Load::start(&server, &image.spec);
    for round in 1..=8u8 {
        server.qemu_io(&image.spec, &[&format!("write -P {round} 40M 64k")]);
        let snapshot = format!("{image}@s{round}");
        if round % 2 == 0 {
            cluster.run(&format!("rbd snap create --no-progress {snapshot}"));
        } else {
            ours(cluster, &format!("snap create --no-progress {snapshot}"));
        }
    }
    server.qemu_io(&image.spec, &["write -P 99 40M 64k"]);
    load.finish();
    for round in 1..=8u8 {
        assert_eq!(exported(cluster, &format!("{image}@s{round}"), 40 * MIB), [round; 64]);
    }
    server.stop();
    cluster.assert_object_map_is_correct(&image.spec);
    for round in 1..=8 {
        cluster.assert_object_map_is_correct(&format!("{image}@s{round}"));
    }
}

#[test]
fn librbd_carries_out_what_we_ask_of_it_as_owner() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 64M");
    let (_server, uri) = librbd(cluster, &image);
    let owner = lock_owner(cluster, &image);
    for command in [
        "snap create --no-progress IMAGE@s1",
        "snap create --no-progress IMAGE@s2",
        "snap rename IMAGE@s1 IMAGE@s3",
        "snap protect IMAGE@s3",
        "snap unprotect IMAGE@s3",
        "snap rm --no-progress IMAGE@s3",
        "resize --no-progress IMAGE --size 128M",
        "resize --no-progress IMAGE --size 48M --allow-shrink",
        "image-meta set IMAGE key value",
        "image-meta remove IMAGE key",
        "feature disable IMAGE object-map,fast-diff",
        "feature enable IMAGE object-map,fast-diff",
        "object-map rebuild --no-progress IMAGE",
        "snap purge --no-progress IMAGE",
    ] {
        ours(cluster, &command.replace("IMAGE", &image.spec));
        assert_eq!(lock_owner(cluster, &image), owner, "it was done by the owner: {command}");
    }
    let renamed = Image { spec: format!("{image}-renamed") };
    ours(cluster, &format!("rename {image} {renamed}"));
    assert_eq!(lock_owner(cluster, &renamed), owner);
    ours(cluster, &format!("rename {renamed} {image}"));
    qemu_io(&uri, &["read -P 1 32M 64k", "write -P 2 16M 64k"]);
    let refused = common::run_within(
        Duration::from_secs(60),
        program().args(["snap", "rm", &format!("{image}@nope"), "--id", "qemu", "--conf", &cluster.conf()]),
    );
    assert_eq!(refused.status.code(), Some(2), "{refused}");
    assert_eq!(json(&cluster.run(&format!("rbd info {image} --format json")))["size"], 48 * MIB);
}

#[test]
fn an_image_is_rolled_back_as_by_rbd() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 64M");
    let server = Server::serve(cluster, &[&image.spec]);
    server.qemu_io(&image.spec, &["write -P 1 0 16M", "write -P 2 20M 1M"]);
    ours(cluster, &format!("snap create --no-progress {image}@s1"));
    let first = cluster.librbd_digest(&format!("{image}@s1"));
    server.qemu_io(&image.spec, &["write -P 3 2M 8M", "discard 12M 4M", "write -P 4 40M 4M"]);
    ours(cluster, &format!("snap create --no-progress {image}@s2"));
    let second = cluster.librbd_digest(&format!("{image}@s2"));
    server.qemu_io(&image.spec, &["write -P 5 0 64M"]);
    let refused = common::run_within(
        Duration::from_secs(60),
        program().args([
            "snap",
            "rollback",
            &format!("{image}@s1"),
            "--id",
            "qemu",
            "--conf",
            &cluster.conf(),
        ]),
    );
    assert_eq!(refused.status.code(), Some(30), "not under a VM: {refused}");
    server.stop();
    ours(cluster, &format!("resize --no-progress {image} --size 30M --allow-shrink"));
    ours(cluster, &format!("snap rollback --no-progress {image}@s1"));
    assert_eq!(cluster.librbd_digest(&image.spec), first);
    cluster.assert_object_map_is_correct(&image.spec);
    ours(cluster, &format!("snap rollback --no-progress {image}@s2"));
    assert_eq!(cluster.librbd_digest(&image.spec), second);
    cluster.assert_object_map_is_correct(&image.spec);
    cluster.run(&format!("rbd snap rollback --no-progress {image}@s1"));
    ours(cluster, &format!("snap rollback --no-progress {image}@s2"));
    assert_eq!(cluster.librbd_digest(&image.spec), second);
    cluster.assert_object_map_is_correct(&image.spec);
    assert_eq!(cluster.librbd_digest(&format!("{image}@s1")), first);
}
