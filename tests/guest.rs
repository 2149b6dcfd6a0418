//! A virtual machine with an image as its disk.

#![allow(clippy::unwrap_used, reason = "test")]

mod common;

use common::{Cluster, Guest, Server, run};

/// Makes files of known content in /mnt and prints their digests.
const WRITE_FILES: &str = "
    mke2fs -q -t ext4 /dev/vda
    mount /dev/vda /mnt
    mkdir /mnt/files
    for n in 1 2 3 4 5 6 7 8; do head -c ${n}234567 /dev/urandom >/mnt/files/$n; done
    md5sum /mnt/files/* >/mnt/sums
    sync
    echo sums: $(md5sum </mnt/sums)";

#[test]
fn the_guest_sees_a_disk_of_the_right_size() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 300M");
    let server = Server::serve(cluster, &[&image.spec]);
    let printed =
        Guest::boot(&[server.drive(&image.spec)], "lsblk --bytes --noheadings --output NAME,SIZE").finish();
    assert!(printed.lines().any(|line| line.split_whitespace().eq(["vda", "314572800"])), "{printed}");
}

#[test]
fn files_survive_a_guest_that_lost_its_power_after_sync() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 256M");
    let server = Server::serve(cluster, &[&image.spec]);
    let mut guest = Guest::boot(&[server.drive(&image.spec)], &format!("{WRITE_FILES}\nsleep 1000"));
    let sums = guest.wait_for("sums:");
    guest.kill();

    let mut guest = Guest::boot(
        &[server.drive(&image.spec)],
        "mount /dev/vda /mnt
         md5sum -c /mnt/sums
         echo sums: $(md5sum </mnt/sums)
         umount /mnt
         e2fsck -f -n /dev/vda",
    );
    assert_eq!(guest.wait_for("sums:"), sums);
    guest.finish();
    server.stop();
    cluster.assert_object_map_is_correct(&image.spec);
}

#[test]
fn fstrim_frees_objects_and_leaves_the_files() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 256M");
    let server = Server::serve(cluster, &[&image.spec]);
    let mut guest = Guest::boot(
        &[server.drive(&image.spec)],
        &format!(
            "{WRITE_FILES}
             head -c 96m /dev/urandom >/mnt/waste
             sync
             echo full
             sleep 5
             rm /mnt/waste
             sync
             fstrim -v /mnt
             umount /mnt
             echo trimmed"
        ),
    );
    let sums = guest.wait_for("sums:");
    guest.wait_for("full");
    let full = cluster.object_count(&image);
    assert!(full >= 96 / 4, "{full} objects");
    guest.finish();
    let trimmed = cluster.object_count(&image);
    assert!(trimmed + 8 <= full, "{trimmed} objects are left of {full}");
    server.stop();
    cluster.assert_object_map_is_correct(&image.spec);

    // Everything is still there for a guest on what librbd exports.
    let exported = cluster.file("exported.img");
    cluster.run(&format!("rbd export --no-progress {image} {exported}"));
    let mut guest = Guest::boot(
        &[format!("file={exported},format=raw,if=virtio")],
        "mount /dev/vda /mnt
         md5sum -c /mnt/sums
         echo sums: $(md5sum </mnt/sums)",
    );
    assert_eq!(guest.wait_for("sums:"), sums);
    guest.finish();
    run(&format!("rm {exported}"));
}

#[test]
fn a_guest_only_pauses_while_the_server_restarts() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 256M");
    let server = Server::serve(cluster, &[&image.spec]);
    let drive = server.drive(&image.spec);
    assert!(drive.contains("reconnect-delay"), "{drive}");
    let mut guest = Guest::boot(
        &[drive],
        &format!(
            "{WRITE_FILES}
             for n in $(seq 20); do
                 head -c 2m /dev/urandom >/mnt/more$n
                 sync
                 echo wrote $n
             done
             cat /mnt/more* | md5sum
             md5sum -c /mnt/sums
             umount /mnt
             e2fsck -f -n /dev/vda"
        ),
    );
    guest.wait_for("wrote 3");
    let socket = server.socket().to_owned();
    server.stop();
    let mut command = common::program();
    command.args(["serve", &image.spec, "--id", "qemu", "--conf", &cluster.conf(), "--socket", &socket]);
    let server = Server::spawn(cluster, &mut command, Some(socket));
    guest.wait_for("wrote 20");
    guest.finish();
    server.stop();
    cluster.assert_object_map_is_correct(&image.spec);
}
