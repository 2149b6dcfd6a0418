//! `info`, `ls`, `snap ls` and `status` print what `rbd` prints.

#![allow(clippy::unwrap_used, reason = "test")]

mod common;

use std::time::Duration;

use common::{Cluster, Server, json, program, run, run_within};
use serde_json::Value;

fn ours(cluster: &Cluster, args: &[&str]) -> String {
    let mut command = program();
    command.args(args).args(["--id", "qemu", "--conf", &cluster.conf()]);
    run_within(Duration::from_secs(30), &mut command).success()
}

/// Holds when the JSON and the plain text are exactly those that `rbd` prints.
fn assert_same(cluster: &Cluster, command: &str, spec: &str) -> Value {
    for format in ["--format plain", "--format json"] {
        let line = format!("{command} {spec} {format}");
        let theirs = cluster.run(&format!("rbd {line}"));
        let ours = ours(cluster, &line.split(' ').collect::<Vec<_>>());
        assert_eq!(ours, theirs, "{line}");
    }
    json(&cluster.run(&format!("rbd {command} {spec} --format json")))
}

#[test]
fn info_has_the_fields_of_rbd_info() {
    let cluster = Cluster::shared();
    cluster.run(
        "ceph osd pool create otherdata 8 && rbd pool init otherdata && rbd namespace create rbdpool/ns",
    );
    cluster.run("rbd create rbdpool/ns/inside --size 10M");
    for options in [
        "--size 64M",
        "--size 1000000B --object-size 32K",
        "--size 64M --stripe-unit 64K --stripe-count 4 --image-feature layering,striping",
        "--size 64M --data-pool otherdata",
        "--size 0",
        "--size 64M --image-feature layering,exclusive-lock,journaling",
    ] {
        let image = cluster.create(options);
        assert_same(cluster, "info", &image.spec);
        cluster.run(&format!(
            "rbd snap create --no-progress {image}@one && rbd snap create --no-progress {image}@two"
        ));
        cluster.run(&format!("rbd snap protect {image}@two"));
        assert_same(cluster, "info", &image.spec);
        assert_same(cluster, "info", &format!("{image}@two"));
        assert_same(cluster, "snap ls", &image.spec);
    }
    assert_same(cluster, "info", "rbdpool/ns/inside");
}

#[test]
fn info_of_a_clone_names_its_parent() {
    let cluster = Cluster::shared();
    let parent = cluster.create("--size 16M");
    cluster.run(&format!("rbd snap create --no-progress {parent}@base"));
    cluster.run(&format!("rbd clone --rbd-default-clone-format 2 {parent}@base {parent}-clone"));
    let info = assert_same(cluster, "info", &format!("{parent}-clone"));
    assert_eq!(info["parent"]["snapshot"], "base", "{info}");
}

#[test]
fn ls_lists_the_images_of_a_pool_and_of_a_namespace() {
    let cluster = Cluster::shared();
    // A namespace of its own: the other tests make images while this one lists them.
    cluster.run("rbd namespace create rbdpool/listed && rbd namespace create rbdpool/empty");
    cluster.run("rbd create --size 1G rbdpool/listed/image && rbd create --size 10M rbdpool/listed/small");
    cluster.run(
        "rbd snap create --no-progress rbdpool/listed/image@s && rbd snap protect rbdpool/listed/image@s",
    );
    cluster
        .run("rbd clone rbdpool/listed/image@s rbdpool/listed/clone && rbd lock add rbdpool/listed/small me");
    for spec in
        ["rbdpool/listed", "rbdpool/empty", "rbdpool --namespace listed", "--pool rbdpool --namespace listed"]
    {
        assert_same(cluster, "ls", spec);
        assert_same(cluster, "ls --long", spec);
    }
}

#[test]
fn status_shows_watchers() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 16M");
    let idle = assert_same(cluster, "status", &image.spec);
    assert_eq!(idle["watchers"], serde_json::json!([]));
    let server = Server::serve(cluster, &[&image.spec]);
    server.qemu_io(&image.spec, &["write -P 1 0 4k"]);
    let busy = assert_same(cluster, "status", &image.spec);
    assert_eq!(busy["watchers"].as_array().unwrap().len(), 1, "{busy}");
}

/// Without `mon_host`, DNS is asked for SRV records, here in a namespace with a resolver of its own.
#[test]
fn monitors_are_found_through_dns() {
    let cluster = Cluster::shared();
    let port = run(&format!("grep -oP 'v2:127.0.0.1:\\K[0-9]+' {} | head -n 1", cluster.conf()));
    let (conf, resolv) = (cluster.file("dns.conf"), cluster.file("resolv.conf"));
    run(&format!("grep -vE 'mon[ _]host' {} >{conf}", cluster.conf()));
    run(&format!("printf 'nameserver 127.0.0.53\nsearch cluster.test\n' >{resolv}"));
    let _dns = common::start(&format!(
        "exec dnsmasq --no-daemon --no-resolv --no-hosts --conf-file=/dev/null --user=root --pid-file= \
         --listen-address=127.0.0.53 --bind-interfaces --address=/mon1.cluster.test/127.0.0.1 \
         --srv-host=_ceph-mon._tcp.cluster.test,mon1.cluster.test,{}",
        port.trim()
    ));
    let program = program().get_program().to_str().unwrap().to_owned();
    let ls = format!("{program} ls rbdpool --id qemu --conf {conf}");
    let in_namespace = format!(
        "unshare --mount bash -c 'mount --bind {resolv} /etc/resolv.conf && {ls}' || {{ sleep 1; exit 1; }}"
    );
    let listed = common::wait_until("a list of images", Duration::from_secs(20), || {
        let output = run_within(
            Duration::from_secs(40),
            std::process::Command::new("bash").args(["-c", &in_namespace]),
        );
        output.status.success().then_some(output.stdout)
    });
    assert_eq!(listed, cluster.run("rbd ls rbdpool"));
}
