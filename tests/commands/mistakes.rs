//! What cannot be done fails with the exit code of `rbd`, and changes nothing.

use crate::common::{Cluster, Output};
use crate::{BOTH, Side};

#[test]
fn mistakes_end_with_the_same_exit_codes() {
    let cluster = Cluster::shared();
    cluster.run("rbd namespace create rbdpool/m");
    for command in [
        "rbd create rbdpool/m/i --size 10M",
        "rbd create rbdpool/m/other --size 10M",
        "rbd snap create --no-progress rbdpool/m/i@s",
        "rbd snap create --no-progress rbdpool/m/i@p",
        "rbd snap protect rbdpool/m/i@p",
        "rbd clone rbdpool/m/i@p rbdpool/m/clone",
        "rbd create rbdpool/m/locked --size 10M && rbd lock add rbdpool/m/locked by-hand",
        "rbd create rbdpool/m/full --size 10M && rbd snap create --no-progress rbdpool/m/full@one",
        "rbd snap limit set rbdpool/m/full --limit 1",
        "rbd create rbdpool/m/kept --size 10M && rbd trash mv rbdpool/m/kept --expires-at '2 days'",
    ] {
        cluster.run(command);
    }
    let before = cluster.run("rbd ls -l rbdpool/m && rbd trash ls -l rbdpool/m && rbd snap ls rbdpool/m/i");
    let kept = cluster.run("rbd trash ls rbdpool/m").split(' ').next().unwrap().to_owned();
    let wrong: Vec<String> = WRONG.iter().map(|command| command.replace("KEPT", &kept)).collect();
    let mut different = Vec::new();
    for command in &wrong {
        let [ours, theirs]: [Output; 2] = BOTH.map(|side| side.try_run(cluster, command));
        assert_ne!(theirs.status.code(), Some(0), "{theirs}");
        if ours.status.code() != theirs.status.code() {
            different.push(format!("{ours}\n{theirs}"));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n\n"));
    assert_eq!(
        cluster.run("rbd ls -l rbdpool/m && rbd trash ls -l rbdpool/m && rbd snap ls rbdpool/m/i"),
        before
    );
}

const WRONG: &[&str] = &[
    // No such pool, namespace, image, snapshot, key.
    "info nopool/i",
    "ls nopool",
    "info rbdpool/nons/i",
    "ls rbdpool/nons",
    "info rbdpool/m/none",
    "info rbdpool/m/i@none",
    "snap ls rbdpool/m/none",
    "status rbdpool/m/none",
    "lock ls rbdpool/m/none",
    "lock rm rbdpool/m/i id client.1",
    "image-meta ls rbdpool/m/none",
    "image-meta get rbdpool/m/i key",
    "image-meta rm rbdpool/m/i key",
    "config image get rbdpool/m/i rbd_cache",
    "config image rm rbdpool/m/i rbd_cache",
    "children rbdpool/m/i@none",
    "resize rbdpool/m/none --size 1G",
    "rm rbdpool/m/none",
    "trash mv rbdpool/m/none",
    "trash restore rbdpool/m/0123456789ab",
    "trash rm rbdpool/m/0123456789ab",
    "clone rbdpool/m/i@none rbdpool/m/new",
    "clone rbdpool/m/none@s rbdpool/m/new",
    "clone rbdpool/m/i@p rbdpool/nons/new",
    "create nopool/new --size 1M",
    "create rbdpool/nons/new --size 1M",
    "create rbdpool/m/new --size 1M --data-pool nopool",
    "namespace rm rbdpool/nons",
    "namespace ls nopool",
    "snap create rbdpool/m/none@s",
    "snap rm rbdpool/m/i@none",
    "snap rm rbdpool/m/i --snap-id 12345",
    "snap purge rbdpool/m/none",
    "snap rollback rbdpool/m/i@none",
    "snap rename rbdpool/m/i@none rbdpool/m/i@new",
    "snap protect rbdpool/m/i@none",
    "snap unprotect rbdpool/m/i@none",
    "snap limit set rbdpool/m/none --limit 1",
    "rename rbdpool/m/none rbdpool/m/new",
    "flatten rbdpool/m/none",
    "feature enable rbdpool/m/none exclusive-lock",
    "object-map check rbdpool/m/none",
    "object-map rebuild rbdpool/m/none",
    "cp rbdpool/m/none rbdpool/m/new",
    "import /nonexistent rbdpool/m/new",
    "import-diff /nonexistent rbdpool/m/i",
    "export rbdpool/m/none -",
    "export-diff rbdpool/m/i@none -",
    "diff rbdpool/m/i --from-snap none",
    "du rbdpool/m/none",
    "bench rbdpool/m/none --io-type write",
    // It exists.
    "create rbdpool/m/i --size 1M",
    "snap create rbdpool/m/i@s",
    "clone rbdpool/m/i@p rbdpool/m/other",
    "namespace create rbdpool/m",
    "lock add rbdpool/m/locked by-hand",
    "lock add rbdpool/m/locked another",
    "snap rename rbdpool/m/i@s rbdpool/m/i@p",
    "rename rbdpool/m/i rbdpool/m/other",
    "cp rbdpool/m/i rbdpool/m/other",
    "feature enable rbdpool/m/i exclusive-lock",
    // Something depends on it.
    "snap unprotect rbdpool/m/i@p",
    "snap rm rbdpool/m/i@p",
    "rm rbdpool/m/i",
    "namespace rm rbdpool/m",
    // Not as it is.
    "snap protect rbdpool/m/i@p",
    "snap unprotect rbdpool/m/i@s",
    "snap limit set rbdpool/m/i --limit 1",
    "flatten rbdpool/m/i",
    "flatten rbdpool/m/other",
    "clone rbdpool/m/i@s rbdpool/m/new --rbd-default-clone-format 1",
    "resize rbdpool/m/i --size 10M",
    "resize rbdpool/m/i --size 5M",
    "snap create rbdpool/m/full@s",
    "trash rm rbdpool/m/KEPT",
    // Not like that.
    "create rbdpool/m/new",
    "create rbdpool/m/new --size much",
    "create rbdpool/m/new --size 1M --object-size 1K",
    "create rbdpool/m/new --size 1M --object-size 64M",
    "create rbdpool/m/new --size 1M --image-feature none",
    "create rbdpool/m/new --size 1M --image-feature object-map",
    "create rbdpool/m/new --size 1M --stripe-unit 3K --stripe-count 2",
    "create rbdpool/m/new@s --size 1M",
    "create rbdpool/m/new/er --size 1M",
    "resize rbdpool/m/i",
    "info",
    "info rbdpool/m/i --format xml2",
    "info rbdpool/m/i --pretty-format",
    "info --image-id 1 rbdpool/m/i",
    "snap ls rbdpool/m/i@s",
    "snap create rbdpool/m/i",
    "snap create rbdpool/m/i@a/b",
    "feature disable rbdpool/m/i layering",
    "feature enable rbdpool/m/i",
    "cp rbdpool/m/i",
    "snap limit set rbdpool/m/i",
    "snap rename rbdpool/m/i@s rbdpool/m/other@t",
    "snap rename rbdpool/m/i@s",
    "rename rbdpool/m/i",
    "rename rbdpool/m/i otherpool/new",
    "lock add rbdpool/m/i",
    "lock rm rbdpool/m/i id",
    "lock rm rbdpool/m/i id somebody",
    "image-meta get rbdpool/m/i",
    "config image set rbdpool/m/i rbd_cache maybe",
    "config image set rbdpool/m/i cache true",
    "namespace create rbdpool",
];

#[test]
fn a_dry_run_refuses_what_would_be_refused_and_changes_nothing() {
    let cluster = Cluster::shared();
    cluster.run("rbd namespace create rbdpool/dry && rbd namespace create rbdpool/dry-empty");
    for command in [
        "rbd create rbdpool/dry/i --size 10M",
        "rbd create rbdpool/dry/parent --size 10M && rbd snap create --no-progress rbdpool/dry/parent@s",
        "rbd snap create --no-progress rbdpool/dry/parent@p && rbd snap protect rbdpool/dry/parent@p",
        "rbd create rbdpool/dry/old --size 10M && rbd trash mv rbdpool/dry/old",
    ] {
        cluster.run(command);
    }
    let shown = "rbd ls -l rbdpool/dry && rbd trash ls -l rbdpool/dry && rbd namespace ls rbdpool";
    let before = cluster.run(shown);
    let old = cluster.run("rbd trash ls rbdpool/dry").split(' ').next().unwrap().to_owned();
    for command in [
        "rm rbdpool/dry/i".to_owned(),
        format!("trash rm rbdpool/dry/{old}"),
        "trash purge rbdpool/dry".to_owned(),
        "resize --allow-shrink rbdpool/dry/i --size 1M".to_owned(),
        "namespace rm rbdpool/dry-empty".to_owned(),
        "snap rm rbdpool/dry/parent@s".to_owned(),
        "snap purge rbdpool/dry/parent".to_owned(),
        "snap rollback rbdpool/dry/parent@s".to_owned(),
    ] {
        let said = Side::Ours.run(cluster, &format!("{command} --dry-run"));
        assert!(said.starts_with("would "), "{command}: {said}");
    }
    for (command, code) in [
        ("rm rbdpool/dry/parent", 39),
        ("rm rbdpool/dry/none", 2),
        ("resize rbdpool/dry/i --size 1M", 22),
        ("namespace rm rbdpool/dry", 16),
        ("snap rm rbdpool/dry/parent@none", 2),
        ("snap rm rbdpool/dry/parent@p", 16),
        ("snap rollback rbdpool/dry/parent@none", 2),
        ("trash rm rbdpool/dry/none", 2),
    ] {
        let refused = Side::Ours.try_run(cluster, &format!("{command} --dry-run"));
        assert_eq!(refused.status.code(), Some(code), "{refused}");
    }
    assert_eq!(cluster.run(shown), before);
}

#[test]
fn an_image_that_is_open_is_not_removed_and_whoever_has_it_open_is_named() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 10M");
    let _server = crate::common::Server::serve(cluster, &[&image.spec]);
    let refused = Side::Ours.try_run(cluster, &format!("rm {image} --no-progress"));
    assert_eq!(refused.status.code(), Some(16), "{refused}");
    let status = Side::Theirs.run(cluster, &format!("status {image}"));
    let address = status.split_once("watcher=").unwrap().1.split(' ').next().unwrap();
    assert!(refused.stderr.contains(address), "{refused}\n{status}");
}
