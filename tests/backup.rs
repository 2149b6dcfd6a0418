//! Backups: what `rbd-nbd-rs` exports, diffs and counts is what `rbd` does, to the last byte; and what it imports from
//! them is what they were made from.

mod common;

use common::{Cluster, program};

/// The same command, typed to both programs as client.qemu, prints the same; `-` is standard output.
fn assert_same(cluster: &Cluster, user: &str, command: &str) {
    let ours = program();
    let ours = ours.get_program().to_str().expect("made from ASCII");
    let (a, b) = (cluster.file("ours.out"), cluster.file("theirs.out"));
    let user = format!("--id {user} --conf {}", cluster.conf());
    cluster.run(&format!(
        "{ours} {command} {user} >{a}; rbd {command} {user} >{b}; test -s {b}; cmp {a} {b} >&2"
    ));
}

fn ours(cluster: &Cluster, command: &str) -> String {
    let ours = program();
    let ours = ours.get_program().to_str().expect("made from ASCII");
    cluster.run(&format!("{ours} {command} --id qemu --conf {}", cluster.conf()))
}

/// Changes an image through librbd.
fn change(cluster: &Cluster, spec: &str, commands: &[&str]) {
    let commands: String = commands.iter().map(|command| format!(" -c '{command}'")).collect();
    cluster.run(&format!("qemu-io -d unmap -f raw{commands} rbd:{spec}:conf={}", cluster.conf()));
}

/// An image with two snapshots, holes, discarded and unaligned parts.
fn image(cluster: &Cluster, spec: &str, create: &str) -> String {
    cluster.run(&format!("rbd {create} {spec}"));
    change(cluster, spec, &["write -P 1 0 3M", "write -P 2 5000000 100000", "write -P 3 9M 4k"]);
    cluster.run(&format!("rbd snap create --no-progress {spec}@a"));
    change(cluster, spec, &["write -P 4 100 300", "discard 4M 4M", "write -P 5 6M 70001"]);
    cluster.run(&format!("rbd snap create --no-progress {spec}@b"));
    change(cluster, spec, &["write -P 6 9M 1M", "discard 0 2M", "write -P 7 4M 64k"]);
    cluster.run(&format!("rbd image-meta set {spec} owner backup"));
    spec.to_owned()
}

/// Of every kind that is exported in a way of its own.
fn images(cluster: &Cluster) -> Vec<String> {
    cluster.run("rbd namespace create rbdpool/backup");
    let mut images = vec![
        image(cluster, "rbdpool/plain", "create --size 12M"),
        image(cluster, "rbdpool/odd", "create --size 11000001B --object-size 64K"),
        image(
            cluster,
            "rbdpool/striped",
            "create --size 16M --object-size 1M --stripe-unit 64K --stripe-count 3",
        ),
        image(cluster, "rbdpool/nomap", "create --size 12M --image-feature layering,exclusive-lock"),
        image(cluster, "rbdpool/backup/inside", "create --size 12M"),
    ];
    cluster.run("rbd snap protect rbdpool/plain@a");
    images.push(image(cluster, "rbdpool/child", "clone rbdpool/plain@a"));
    cluster.run("rbd object-map check --no-progress rbdpool/child");
    images
}

const PAIRS: [(&str, &str); 6] =
    [("", "@a"), ("", "@b"), ("", ""), ("--from-snap a", "@b"), ("--from-snap a", ""), ("--from-snap b", "")];

#[test]
fn exports_diffs_and_usage_are_those_of_rbd() {
    let cluster = Cluster::shared();
    for spec in images(cluster) {
        for snapshot in ["", "@a", "@b"] {
            assert_same(cluster, "qemu", &format!("export --no-progress {spec}{snapshot} -"));
        }
        assert_same(cluster, "qemu", &format!("export --no-progress --export-format 2 {spec} -"));
        for (from, to) in PAIRS {
            for whole in ["", "--whole-object"] {
                assert_same(
                    cluster,
                    "qemu",
                    &format!("export-diff --no-progress {from} {whole} {spec}{to} -"),
                );
                assert_same(cluster, "qemu", &format!("diff {from} {whole} {spec}{to} --format json"));
            }
        }
        for exact in ["", "--exact"] {
            assert_same(cluster, "qemu", &format!("du {exact} {spec} --format json"));
        }
    }
}

#[test]
fn who_may_only_read_can_back_up() {
    let cluster = Cluster::shared();
    let spec = image(cluster, "rbdpool/readable", "create --size 12M");
    let keyring = cluster.file("client.reader.keyring");
    cluster.run(&format!(
        "ceph auth get-or-create client.reader mon 'profile rbd-read-only' osd 'profile rbd-read-only pool=rbdpool' -o {keyring}"
    ));
    let user = format!("reader --keyring {keyring}");
    for command in [
        &format!("export --no-progress {spec} -"),
        &format!("export-diff --no-progress --from-snap a {spec}@b -"),
        &format!("diff --from-snap a {spec} --format json"),
        &format!("du {spec} --format json"),
        &format!("info {spec} --format json"),
        &format!("snap ls {spec} --format json"),
    ] {
        assert_same(cluster, &user, command);
    }
}

#[test]
fn what_is_imported_and_copied_is_what_was_exported() {
    let cluster = Cluster::shared();
    let spec = image(cluster, "rbdpool/source", "create --size 11000000B --object-size 1M");
    let file = cluster.file("exported");
    let digest = |spec: &str| cluster.librbd_digest(spec);
    let used =
        |spec: &str| cluster.run(&format!("rbd du {spec} --format json | grep -o '\"used_size\":[0-9]*'"));

    cluster.run(&format!("rbd export --no-progress {spec} {file}"));
    ours(cluster, &format!("import --no-progress --object-size 1M {file} rbdpool/flat"));
    cluster.run(&format!("rbd import --no-progress --object-size 1M {file} rbdpool/flat-theirs"));
    assert_eq!(digest("rbdpool/flat"), digest(&spec));
    assert_eq!(used("rbdpool/flat"), used("rbdpool/flat-theirs"), "as sparse as by rbd");

    cluster.run(&format!("rm {file} && rbd export --no-progress --export-format 2 {spec} {file}"));
    ours(cluster, &format!("import --no-progress --export-format 2 {file} rbdpool/whole"));
    ours(cluster, &format!("cp --no-progress {spec} rbdpool/copy"));
    assert_eq!(digest("rbdpool/copy"), digest(&spec));

    cluster.run(&format!("rm {file} && rbd export --no-progress {spec}@a {file}"));
    ours(cluster, &format!("import --no-progress --object-size 1M {file} rbdpool/chain"));
    cluster.run("rbd snap create --no-progress rbdpool/chain@a");
    for (from, to) in [("a", "@b"), ("b", "")] {
        cluster.run(&format!(
            "rm -f {file} && rbd export-diff --no-progress --from-snap {from} {spec}{to} {file}"
        ));
        ours(cluster, &format!("import-diff --no-progress {file} rbdpool/chain"));
    }
    for snapshot in ["", "@a", "@b"] {
        assert_eq!(
            digest(&format!("rbdpool/whole{snapshot}")),
            digest(&format!("{spec}{snapshot}")),
            "{snapshot}"
        );
        assert_eq!(
            digest(&format!("rbdpool/chain{snapshot}")),
            digest(&format!("{spec}{snapshot}")),
            "{snapshot}"
        );
    }
    assert_eq!(
        cluster.run("rbd image-meta get rbdpool/whole owner"),
        cluster.run(&format!("rbd image-meta get {spec} owner"))
    );
    for copy in ["flat", "whole", "copy", "chain"] {
        cluster.run(&format!("rbd object-map check --no-progress rbdpool/{copy}"));
        assert!(cluster.run(&format!("rbd info rbdpool/{copy}")).contains("flags: \n"), "{copy}");
    }
}
