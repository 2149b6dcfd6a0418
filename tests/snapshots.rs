//! Snapshots made while the image is in use hold exactly what was written before them.

#![allow(clippy::unwrap_used, reason = "test")]

mod common;

use common::{Cluster, Server, json, run, start};

#[test]
fn a_snapshot_of_an_open_image_has_what_was_written_before_it_and_nothing_after() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 64M");
    let server = Server::serve(cluster, &[&image.spec]);
    // Other writes go on in the second half all the time.
    let dir = tempfile::tempdir().unwrap();
    let mut writer = start(&format!(
        "cd {} && exec fio --thread --name=load --ioengine=nbd --uri='{}' --rw=randwrite --bs=4k-64k --blockalign=4k --iodepth=8 \
         --size=32M --offset=32M --time_based --runtime=100",
        dir.path().display(),
        server.uri(&image.spec)
    ));
    for round in 1..=5 {
        server.qemu_io(
            &image.spec,
            &[&format!("write -P {round} 0 8M"), &format!("write -P {round} {}M 1M", 10 + round)],
        );
        if round == 3 {
            server.qemu_io(&image.spec, &["discard 4M 4M"]);
        }
        cluster.run(&format!("rbd snap create --no-progress {image}@s{round}"));
    }
    server.qemu_io(&image.spec, &["discard 0 32M"]);
    assert!(writer.is_running());

    let specs: Vec<_> = (1..=5).map(|round| format!("{image}@s{round}")).collect();
    let snapshots = Server::serve(cluster, &specs.iter().map(String::as_str).collect::<Vec<_>>());
    let first: Vec<_> = specs.iter().map(|spec| cluster.librbd_digest(spec)).collect();
    for (round, spec) in (1..).zip(&specs) {
        let expected = if round == 3 {
            [format!("read -P {round} 0 4M"), "read -P 0 4M 4M".into()]
        } else {
            [format!("read -P {round} 0 4M"), format!("read -P {round} 4M 4M")]
        };
        snapshots.qemu_io_read_only(
            spec,
            &[&expected[0], &expected[1], &format!("read -P {round} {}M 1M", 10 + round)],
        );
        // The next round's block was not there yet.
        snapshots.qemu_io_read_only(spec, &[&format!("read -P 0 {}M 1M", 11 + round)]);
    }
    assert!(writer.is_running());
    drop(writer);
    for (spec, digest) in specs.iter().zip(first) {
        assert_eq!(cluster.librbd_digest(spec), digest, "{spec} changed");
        assert_eq!(snapshots.digest(spec), digest, "{spec}");
    }
    server.stop();
    for spec in [&image.spec].into_iter().chain(&specs) {
        cluster.assert_object_map_is_correct(spec);
    }
}

#[test]
fn fast_diff_between_snapshots_finds_every_object_that_was_written() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 64M");
    let server = Server::serve(cluster, &[&image.spec]);
    server.qemu_io(&image.spec, &["write -P 1 0 16M"]);
    cluster.run(&format!("rbd snap create --no-progress {image}@old"));
    server.qemu_io(&image.spec, &["write -P 2 5M 4k", "discard 8M 4M", "write -P 2 40M 4k"]);
    cluster.run(&format!("rbd snap create --no-progress {image}@new"));
    server.qemu_io(&image.spec, &["write -P 3 0 4k"]);
    let changed = |options: &str| {
        let diff = json(&cluster.run(&format!("rbd diff {options} --whole-object --format json")));
        let offsets = diff.as_array().unwrap().iter().map(|extent| extent["offset"].as_u64().unwrap() >> 20);
        offsets.collect::<Vec<_>>()
    };
    assert_eq!(changed(&format!("--from-snap old {image}@new")), [4, 8, 40]);
    assert_eq!(changed(&format!("--from-snap new {image}")), [0]);
    server.stop();
    for spec in [image.spec.clone(), format!("{image}@old"), format!("{image}@new")] {
        cluster.assert_object_map_is_correct(&spec);
    }
}

#[test]
fn a_snapshot_is_served_read_only_without_lock() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 16M");
    run(&format!("qemu-io -f raw -c 'write -P 7 0 8M' '{}'", cluster.qemu(&image.spec)));
    cluster.run(&format!("rbd snap create --no-progress {image}@s"));
    let spec = format!("{image}@s");
    let server = Server::serve(cluster, &[&spec]);
    let info = json(&run(&format!("nbdinfo --json '{}'", server.uri(&spec))));
    assert_eq!(info["exports"][0]["is_read_only"], true, "{info}");
    run(&format!("qemu-io -f raw -c 'write -P 8 0 8M' '{}'", cluster.qemu(&image.spec)));
    server.qemu_io_read_only(&spec, &["read -P 7 0 8M", "read -P 0 8M 8M"]);
    let write = start(&format!("qemu-io -f raw -c 'write 0 4k' '{}'", server.uri(&spec))).finish();
    assert!(!write.status.success(), "{write}");
    assert_eq!(cluster.run(&format!("rbd lock ls {image} --format json")).trim(), "[]");
    server.stop();
}

#[test]
fn a_snapshot_survives_a_resize_of_its_image() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 32M");
    let server = Server::serve(cluster, &[&image.spec]);
    server.qemu_io(&image.spec, &["write -P 1 0 32M"]);
    cluster.run(&format!("rbd snap create --no-progress {image}@full"));
    server.stop();
    cluster.run(&format!("rbd resize --no-progress --allow-shrink --size 8M {image}"));
    let spec = format!("{image}@full");
    let server = Server::serve(cluster, &[&image.spec, &spec]);
    assert_eq!(run(&format!("nbdinfo --size '{}'", server.uri(&spec))).trim(), (32 << 20).to_string());
    assert_eq!(run(&format!("nbdinfo --size '{}'", server.uri(&image.spec))).trim(), (8 << 20).to_string());
    server.qemu_io_read_only(&spec, &["read -P 1 0 32M"]);
    server.qemu_io(&image.spec, &["write -P 2 0 8M"]);
    server.qemu_io_read_only(&spec, &["read -P 1 0 32M"]);
    server.stop();
    cluster.assert_object_map_is_correct(&image.spec);
    cluster.assert_object_map_is_correct(&spec);
}
