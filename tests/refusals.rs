//! What cannot work ends soon, with one sentence that says why, and changes nothing.

#![allow(clippy::unwrap_used, reason = "test")]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use common::{Cluster, Release, Server, json, program, run_within};

/// A refusal that needs no waiting for anybody.
const SOON: Duration = Duration::from_secs(20);
/// One that is sure only after monitors had their time to answer.
const BOUNDED: Duration = Duration::from_secs(60);

/// Runs `serve` with what must be refused. The message has to name each of `words`, and to hold no key.
fn refused(limit: Duration, cluster: &Cluster, args: &[&str], words: &[&str]) -> String {
    let socket = cluster.file("refused.sock");
    let mut command = program();
    command.arg("serve").args(args);
    if !args.contains(&"--socket") && !args.contains(&"--listen") {
        command.args(["--socket", &socket]);
    }
    let output = run_within(limit, &mut command);
    let everything = output.to_string();
    let message = output.failure();
    assert!(!message.contains("panicked"), "{everything}");
    // The sentence, and what to do about it.
    assert!((1..=2).contains(&message.trim().lines().count()), "one sentence, not this: {everything}");
    for word in words {
        assert!(message.to_lowercase().contains(&word.to_lowercase()), "{word:?} is missing: {everything}");
    }
    // Keys of either type begin like this.
    for secret in ["AQ", "Ag"] {
        let leaked = message.split_whitespace().any(|word| word.starts_with(secret) && word.len() > 30);
        assert!(!leaked, "a key was printed: {everything}");
    }
    assert!(!fs::exists(&socket).unwrap(), "the socket was left behind");
    message
}

/// The arguments that work for the cluster, but for what the test adds.
fn as_qemu<'a>(conf: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["--id", "qemu", "--conf", conf], more].concat()
}

fn write(cluster: &Cluster, name: &str, content: &str) -> String {
    let path = cluster.file(name);
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

fn new_key(cluster: &Cluster) -> String {
    cluster.run("ceph-authtool --gen-print-key").trim().to_owned()
}

#[test]
fn a_wrong_key() {
    let cluster = Cluster::shared();
    let key = new_key(cluster);
    let keyring = write(cluster, "wrong.keyring", &format!("[client.qemu]\n\tkey = {key}\n"));
    let message = refused(
        SOON,
        cluster,
        &as_qemu(&cluster.conf(), &["--keyring", &keyring, "rbdpool/image"]),
        &["client.qemu", "key"],
    );
    assert!(!message.contains(&key), "{message}");
}

#[test]
fn an_unknown_user() {
    let cluster = Cluster::shared();
    let keyring =
        write(cluster, "unknown.keyring", &format!("[client.nobody]\n\tkey = {}\n", new_key(cluster)));
    let args = ["--id", "nobody", "--conf", &cluster.conf(), "--keyring", &keyring, "rbdpool/image"];
    refused(SOON, cluster, &args, &["client.nobody"]);
}

#[test]
fn a_user_without_capabilities_for_the_pool() {
    let cluster = Cluster::shared();
    for (name, caps) in
        [("noosd", "mon 'profile rbd'"), ("elsewhere", "mon 'profile rbd' osd 'profile rbd pool=another'")]
    {
        cluster.run(&format!(
            "umask 77; ceph auth get-or-create client.{name} {caps} -o {}",
            cluster.file(&format!("client.{name}.keyring"))
        ));
        let args = ["--id", name, "--conf", &cluster.conf(), "rbdpool/image"];
        refused(SOON, cluster, &args, &["rbdpool", &format!("client.{name}"), "caps"]);
    }
    cluster.run(&format!(
        "umask 77; ceph auth get-or-create client.nomon osd 'allow *' -o {}",
        cluster.file("client.nomon.keyring")
    ));
    let args = ["--id", "nomon", "--conf", &cluster.conf(), "rbdpool/image"];
    refused(SOON, cluster, &args, &["client.nomon"]);
}

#[test]
fn a_keyring_without_the_user_or_missing_or_malformed() {
    let cluster = Cluster::shared();
    let conf = cluster.conf();
    let with = |keyring: &str, words: &[&str]| {
        refused(SOON, cluster, &as_qemu(&conf, &["--keyring", keyring, "rbdpool/image"]), words);
    };
    with("/nonexistent/keyring", &["/nonexistent/keyring"]);
    let other = write(cluster, "other.keyring", &format!("[client.other]\n\tkey = {}\n", new_key(cluster)));
    with(&other, &["client.qemu", &other]);
    let garbage = write(cluster, "garbage.keyring", "[client.qemu\nnothing like it\n");
    with(&garbage, &[&garbage]);
    let undecodable = write(cluster, "undecodable.keyring", "[client.qemu]\n\tkey = AQ!!!not-base64\n");
    with(&undecodable, &[&undecodable, "key"]);
    let short = write(cluster, "short.keyring", "[client.qemu]\n\tkey = AQAAAA==\n");
    with(&short, &[&short, "key"]);
}

#[test]
fn no_such_pool_image_snapshot_or_namespace() {
    let cluster = Cluster::shared();
    for (spec, word) in [
        ("nopool/image", "nopool"),
        ("rbdpool/noimage", "noimage"),
        ("rbdpool/image@nosnap", "nosnap"),
        ("rbdpool/nons/image", "nons"),
    ] {
        refused(SOON, cluster, &as_qemu(&cluster.conf(), &[spec]), &[word]);
    }
}

#[test]
fn a_malformed_image_name() {
    let cluster = Cluster::shared();
    for spec in ["rbdpool/", "/image", "a/b/c/d", "rbdpool/image@", "rbdpool/@snap"] {
        refused(SOON, cluster, &as_qemu(&cluster.conf(), &[spec]), &[]);
    }
}

#[test]
fn a_missing_or_malformed_configuration() {
    let cluster = Cluster::shared();
    refused(
        SOON,
        cluster,
        &["--conf", "/nonexistent/ceph.conf", "rbdpool/image"],
        &["/nonexistent/ceph.conf"],
    );
    let malformed = write(cluster, "malformed.conf", "[global]\nmon host = 127.0.0.1\n[client\n");
    refused(SOON, cluster, &["--conf", &malformed, "rbdpool/image"], &[&malformed, "3"]);
    let hosts = write(cluster, "hosts.conf", "[global]\nmon host = [v2:127.0.0.1:99999]\n");
    let keyring = cluster.file("client.qemu.keyring");
    refused(SOON, cluster, &as_qemu(&hosts, &["--keyring", &keyring, "rbdpool/image"]), &["99999"]);
}

#[test]
fn a_monitor_that_nobody_reaches() {
    let cluster = Cluster::shared();
    let keyring = cluster.file("client.qemu.keyring");
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_address = silent.local_addr().unwrap().to_string();
    let hosts = format!("v2:{closed},v2:{silent_address}");
    let args =
        ["--id", "qemu", "--keyring", &keyring, "--mon-host", &hosts, "--conf", "/dev/null", "rbdpool/image"];
    // All that were tried are named.
    refused(BOUNDED, cluster, &args, &[&closed, &silent_address]);
}

#[test]
fn a_name_of_a_monitor_that_does_not_resolve() {
    let cluster = Cluster::shared();
    let keyring = cluster.file("client.qemu.keyring");
    let args = [
        "--id",
        "qemu",
        "--keyring",
        &keyring,
        "--mon-host",
        "nosuch.invalid",
        "--conf",
        "/dev/null",
        "rbdpool/image",
    ];
    refused(BOUNDED, cluster, &args, &["nosuch.invalid"]);
}

#[test]
fn a_monitor_that_speaks_only_messenger_v1() {
    let cluster = Cluster::shared();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            // Its banner, and the blank addresses that follow.
            let _ = stream.write_all(b"ceph v027").and_then(|()| stream.write_all(&[0; 272]));
            let _ = stream.read(&mut [0; 64]);
        }
    });
    let keyring = cluster.file("client.qemu.keyring");
    let hosts = format!("v2:{address}");
    let args =
        ["--id", "qemu", "--keyring", &keyring, "--mon-host", &hosts, "--conf", "/dev/null", "rbdpool/image"];
    refused(BOUNDED, cluster, &args, &[&address, "v1"]);
}

#[test]
fn a_socket_path_in_use() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 16M");
    let server = Server::serve(cluster, &[&image.spec]);
    let conf = cluster.conf();
    refused(SOON, cluster, &as_qemu(&conf, &["--socket", server.socket(), &image.spec]), &[server.socket()]);
    server.qemu_io(&image.spec, &["write -P 1 0 4k"]);
    // A file that is no socket is nobody's to remove.
    let file = write(cluster, "precious", "content");
    refused(SOON, cluster, &as_qemu(&conf, &["--socket", &file, &image.spec]), &[&file]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "content");
    refused(
        SOON,
        cluster,
        &as_qemu(&conf, &["--socket", "/nonexistent/folder/sock", &image.spec]),
        &["/nonexistent"],
    );
    let long = format!("/tmp/{}", "x".repeat(120));
    refused(SOON, cluster, &as_qemu(&conf, &["--socket", &long, &image.spec]), &[]);
}

#[test]
fn the_socket_of_a_server_that_was_killed_is_in_nobodys_way() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 16M");
    let server = Server::serve(cluster, &[&image.spec]);
    let socket = server.socket().to_owned();
    server.kill();
    assert!(fs::exists(&socket).unwrap());
    let mut command = program();
    command.args(["serve", &image.spec, "--id", "qemu", "--conf", &cluster.conf(), "--socket", &socket]);
    Server::spawn(cluster, &mut command, Some(socket)).stop();
}

#[test]
fn an_address_that_others_reach_is_listened_on_only_when_insisted() {
    let cluster = Cluster::shared();
    refused(
        SOON,
        cluster,
        &as_qemu(&cluster.conf(), &["--listen", "0.0.0.0:10809", "rbdpool/image"]),
        &["0.0.0.0:10809"],
    );
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    refused(SOON, cluster, &as_qemu(&cluster.conf(), &["--listen", &address, "rbdpool/image"]), &[&address]);
}

#[test]
fn features_that_we_cannot_keep_correct() {
    let cluster = Cluster::shared();
    let journaled = cluster.create("--size 16M --image-feature layering,exclusive-lock,journaling");
    refused(SOON, cluster, &as_qemu(&cluster.conf(), &[&journaled.spec]), &["journaling", &journaled.spec]);
}

#[test]
fn a_key_of_a_type_that_the_cluster_does_not_allow() {
    let cluster = Cluster::start(Release::Tentacle, &[]);
    let keyring =
        write(&cluster, "aes.keyring", "[client.qemu]\n\tkey = AQBtMiFnAAAAABAAq2JW4SLKMzVMBzEwk8UFzA==\n");
    let conf = cluster.conf();
    refused(
        SOON,
        &cluster,
        &as_qemu(&conf, &["--keyring", &keyring, "rbdpool/image"]),
        &["client.qemu", "aes"],
    );
}

#[test]
fn refusals_change_nothing_on_the_cluster() {
    let cluster = Cluster::shared();
    let conf = cluster.conf();
    let state = || {
        let objects = cluster.run("rados -p rbdpool --all ls | sort");
        let watchers = json(&cluster.run("rbd status rbdpool/image --format json"));
        (objects, watchers, cluster.run("ceph osd blocklist ls"), cluster.run("ceph auth ls 2>/dev/null"))
    };
    let before = state();
    for spec in ["rbdpool/noimage", "rbdpool/image@nosnap", "nopool/image"] {
        refused(SOON, cluster, &as_qemu(&conf, &[spec]), &[]);
    }
    // One good image does not make up for a bad one.
    refused(SOON, cluster, &as_qemu(&conf, &["rbdpool/image", "rbdpool/noimage"]), &["noimage"]);
    assert_eq!(state(), before);
}
