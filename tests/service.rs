//! How operators run it: configuration from everywhere, few rights, systemd, logs.

#![allow(clippy::unwrap_used, reason = "test")]

mod common;

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use common::{Cluster, Server, program, run, start, wait_until};

/// Value of `mon host` in the cluster's configuration.
fn mon_host(cluster: &Cluster) -> String {
    cluster.run("ceph-conf --show-config-value mon_host").trim().to_owned()
}

fn key_of_qemu(cluster: &Cluster) -> String {
    cluster.run("ceph auth print-key client.qemu").trim().to_owned()
}

#[test]
fn the_environment_configures_as_it_does_for_ceph() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 16M");
    let mut command = program();
    command.env("CEPH_CONF", cluster.conf()).env("CEPH_ARGS", "--id qemu").args(["serve", &image.spec]);
    let server = Server::serve_with(cluster, &mut command);
    server.qemu_io(&image.spec, &["write -P 1 0 4k", "read -P 1 0 4k"]);
}

#[test]
fn no_configuration_file_is_needed() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 16M");
    let keyfile = cluster.file("key");
    std::fs::write(&keyfile, key_of_qemu(cluster)).unwrap();
    for (option, file) in [("--keyring", cluster.file("client.qemu.keyring")), ("--keyfile", keyfile)] {
        let mut command = program();
        command.args(["serve", &image.spec, "--name", "client.qemu", option, &file]);
        command.args(["--conf", "/dev/null", "--mon-host", &mon_host(cluster)]);
        let server = Server::serve_with(cluster, &mut command);
        server.qemu_io(&image.spec, &["write -P 1 0 4k", "read -P 1 0 4k"]);
    }
}

#[test]
fn a_user_who_may_only_read_serves_read_only() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 16M");
    run(&format!("qemu-io -f raw -c 'write -P 7 0 8M' '{}'", cluster.qemu(&image.spec)));
    cluster.run(&format!("rbd snap create --no-progress {image}@s"));
    cluster.run(&format!(
        "umask 77; ceph auth get-or-create client.reader mon 'profile rbd-read-only' osd 'profile rbd-read-only pool=rbdpool' -o {}",
        cluster.file("client.reader.keyring")
    ));
    let snapshot = format!("{image}@s");
    let mut command = program();
    command.args([
        "serve",
        "--read-only",
        &image.spec,
        &snapshot,
        "--id",
        "reader",
        "--conf",
        &cluster.conf(),
    ]);
    let server = Server::serve_with(cluster, &mut command);
    server.qemu_io_read_only(&image.spec, &["read -P 7 0 8M", "read -P 0 8M 8M"]);
    server.qemu_io_read_only(&snapshot, &["read -P 7 0 8M", "read -P 0 8M 8M"]);
    server.stop();
}

#[test]
fn systemd_is_told_when_clients_can_connect_and_when_the_end_begins() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 16M");
    let path = cluster.file("notify.sock");
    let systemd = UnixDatagram::bind(&path).unwrap();
    systemd.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let told = || {
        let mut buffer = [0; 256];
        let len = systemd.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..len]).into_owned()
    };
    let mut command = program();
    command.env("NOTIFY_SOCKET", &path).args([
        "serve",
        &image.spec,
        "--id",
        "qemu",
        "--conf",
        &cluster.conf(),
    ]);
    let server = Server::serve_with(cluster, &mut command);
    assert!(told().contains("READY=1"));
    run(&format!("nbdinfo --size '{}'", server.uri(&image.spec)));
    server.stop();
    assert!(told().contains("STOPPING=1"));
}

#[test]
fn no_key_reaches_the_most_verbose_log() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 16M");
    let server = Server::serve(cluster, &["-vvvv", &image.spec]);
    server.qemu_io(&image.spec, &["write -P 1 0 4k", "read -P 1 0 4k"]);
    let printed = server.printed();
    assert!(printed.lines().count() > 3, "not verbose: {printed}");
    assert!(!printed.contains(&key_of_qemu(cluster)));
    server.stop();
}

#[test]
fn nothing_but_the_place_to_connect_is_printed_by_default() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 16M");
    let server = Server::serve(cluster, &[&image.spec]);
    server.qemu_io(&image.spec, &["write -P 1 0 4k", "discard 0 4M", "read -P 0 1M 4k"]);
    assert_eq!(server.printed().lines().count(), 2, "{}", server.printed());
    server.stop();
}

#[test]
fn it_says_on_demand_what_each_request_waits_for() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 16M");
    let server = Server::serve(cluster, &[&image.spec]);
    server.qemu_io(&image.spec, &["write -P 1 0 4k"]);
    cluster.signal("osd.0", "STOP");
    let write = start(&format!("qemu-io -f raw -c 'write -P 2 4096 8k' '{}'", server.uri(&image.spec)));
    std::thread::sleep(Duration::from_secs(1));
    run(&format!("kill -USR1 {}", server.pid()));
    std::thread::sleep(Duration::from_secs(1));
    let printed = server.printed();
    cluster.signal("osd.0", "CONT");
    write.finish().success();
    let of_the_write = printed.lines().find(|line| line.contains("write 4096~8192"));
    let line = of_the_write.unwrap_or_else(|| panic!("not a word of the write: {printed}"));
    for part in ["rbd_data.", "(pg ", "osd.0", "sent 1 times", "for the OSD's answer"] {
        assert!(line.contains(part), "no {part:?} in {line}");
    }
    run(&format!("kill -USR1 {}", server.pid()));
    wait_until("a word of nothing", Duration::from_secs(5), || {
        server.printed().contains("0 requests are under way").then_some(())
    });
}

#[test]
fn a_second_sigterm_ends_it_at_once() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 16M");
    let server = Server::serve(cluster, &[&image.spec]);
    server.qemu_io(&image.spec, &["write -P 1 0 4k"]);
    // With the OSD asleep there is no tidy end.
    cluster.signal("osd.0", "STOP");
    let _waiting = start(&format!("qemu-io -f raw -c 'write -P 2 0 4k' '{}'", server.uri(&image.spec)));
    std::thread::sleep(Duration::from_secs(1));
    let pid = server.pid();
    run(&format!("kill -TERM {pid}"));
    std::thread::sleep(Duration::from_secs(1));
    let began = Instant::now();
    run(&format!("kill -TERM {pid} 2>/dev/null || true"));
    wait_until("end", Duration::from_secs(5), || {
        // A child that nobody has waited for stays as a zombie.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        (!stat.contains(") ") || stat.contains(") Z ")).then_some(())
    });
    let took = began.elapsed();
    cluster.signal("osd.0", "CONT");
    assert!(took < Duration::from_secs(3), "{took:?}");
}
