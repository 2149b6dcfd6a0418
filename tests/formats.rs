//! Images of format 1, which only old clusters have: readable, as `rbd` and `qemu-img` read them.

#![allow(clippy::unwrap_used, reason = "test")]

mod common;

use common::{Cluster, Server, json, program, run};

/// What our command prints as JSON.
fn ours(cluster: &Cluster, line: &str) -> serde_json::Value {
    let output = program()
        .args(line.split(' '))
        .args(["--format", "json", "--id", "qemu", "--conf", &cluster.conf()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    json(std::str::from_utf8(&output.stdout).unwrap())
}

#[test]
fn an_image_of_format_1_is_shown_and_served_for_reading() {
    let cluster = Cluster::shared();
    let write = |commands: &str| {
        run(&format!("qemu-io -f raw {commands} '{}'", cluster.qemu("rbdpool/old")));
    };
    cluster.run("RBD_FORCE_ALLOW_V1=1 rbd create --size 32M --image-format 1 rbdpool/old");
    write("-c 'write -P 1 0 6M'");
    cluster.run("rbd snap create --no-progress rbdpool/old@one");
    cluster.run("rbd resize --no-progress --size 48M rbdpool/old");
    write("-c 'write -P 2 3M 4M' -c 'write -P 3 47M 1M'");
    cluster.run("rbd snap create --no-progress rbdpool/old@two");
    write("-c 'write -P 4 0 1M'");

    for line in
        ["info rbdpool/old", "info rbdpool/old@one", "snap ls rbdpool/old", "ls rbdpool", "ls -l rbdpool"]
    {
        let theirs = json(&cluster.run(&format!("rbd {line} --format json")));
        assert_eq!(ours(cluster, line), theirs, "{line}");
    }
    let specs = ["rbdpool/old", "rbdpool/old@one", "rbdpool/old@two"];
    let server = Server::serve(cluster, &["--read-only", specs[0], specs[1], specs[2]]);
    for spec in specs {
        assert_eq!(server.digest(spec), cluster.librbd_digest(spec), "{spec}");
    }
    server.stop();

    let refused = program()
        .args(["serve", "rbdpool/old", "--id", "qemu", "--conf", &cluster.conf()])
        .args(["--socket", &cluster.file("old.sock")])
        .output()
        .unwrap();
    let printed = String::from_utf8(refused.stderr).unwrap();
    assert!(
        !refused.status.success() && printed.contains("format 1") && printed.contains("--read-only"),
        "{printed}"
    );
}
