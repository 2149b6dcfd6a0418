//! Images whose size changes while they are served.

#![allow(clippy::unwrap_used, reason = "test")]

mod common;

use std::fs::File;
use std::time::Duration;

use common::{Cluster, Image, MIB, Server, run, start, wait_until};

/// What a new connection is told.
fn size_told(server: &Server, image: &Image) -> u64 {
    run(&format!("nbdinfo --size '{}'", server.uri(&image.spec))).trim().parse().unwrap()
}

fn resize(cluster: &Cluster, image: &Image, size: &str) {
    cluster.run(&format!("rbd resize --no-progress --allow-shrink --size {size} {image}"));
}

#[test]
fn a_new_connection_is_told_the_new_size_and_an_old_one_gets_errors_past_the_end() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 64M");
    let server = Server::serve(cluster, &[&image.spec]);
    let shrunk = cluster.file("shrunk");
    let old = start(&format!(
        "{{ echo 'write -P 1 0 4k'; until [ -e {shrunk} ]; do sleep 0.1; done
            echo 'write -P 2 40M 4k'; echo 'write -z 40M 4k'; echo 'read 40M 4k'; echo 'read 30M 4M'
            echo 'write -P 3 4k 4k'; echo 'read -P 3 4k 4k'; echo 'read -P 1 0 4k'; }} |
         qemu-io -f raw '{}' 2>&1",
        server.uri(&image.spec)
    ));
    wait_until("it writes", Duration::from_secs(30), || (cluster.object_count(&image) > 0).then_some(()));
    resize(cluster, &image, "32M");
    wait_until("the new size is known", Duration::from_secs(10), || {
        (size_told(&server, &image) == 32 * MIB).then_some(())
    });
    File::create(&shrunk).unwrap();
    let printed = old.finish_within(Duration::from_secs(60)).stdout;
    let count = |what: &str| printed.matches(what).count();
    assert_eq!(count("write failed: No space left on device"), 2, "{printed}");
    assert_eq!(count("read failed: Invalid argument"), 2, "{printed}");
    assert_eq!((count("wrote 4096/4096"), count("read 4096/4096")), (2, 2), "{printed}");
    assert_eq!(count("Pattern verification failed"), 0, "{printed}");

    resize(cluster, &image, "96M");
    wait_until("the new size is known", Duration::from_secs(10), || {
        (size_told(&server, &image) == 96 * MIB).then_some(())
    });
    server.qemu_io(&image.spec, &["read -P 0 40M 4k", "write -P 4 95M 1M", "read -P 3 4k 4k"]);
    server.stop();
    cluster.assert_object_map_is_correct(&image.spec);
}

#[test]
fn who_may_only_read_sees_the_writes_and_the_size_of_others() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 64M");
    cluster.run(&format!(
        "umask 77; ceph auth get-or-create client.reader mon 'profile rbd-read-only' osd 'profile rbd-read-only pool=rbdpool' -o {}",
        cluster.file("client.reader.keyring")
    ));
    let mut command = common::program();
    command.args(["serve", "--read-only", &image.spec, "--id", "reader", "--conf", &cluster.conf()]);
    let reader = Server::serve_with(cluster, &mut command);
    assert_eq!(size_told(&reader, &image), 64 * MIB);
    let writer = Server::serve(cluster, &[&image.spec]);
    writer.qemu_io(&image.spec, &["write -P 5 1M 1M"]);
    reader.qemu_io_read_only(&image.spec, &["read -P 5 1M 1M"]);
    resize(cluster, &image, "80M");
    assert_eq!(size_told(&reader, &image), 80 * MIB, "each connection looks, as nobody tells");
    resize(cluster, &image, "16M");
    assert_eq!(size_told(&reader, &image), 16 * MIB);
    // Nobody knows of it, neither as a watcher nor as the owner of a lock.
    assert_eq!(cluster.run(&format!("rbd status {image}")).matches("watcher=").count(), 1, "the writer");
    reader.stop();
}
