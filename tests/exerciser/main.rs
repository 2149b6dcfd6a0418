//! Random operations on an image that the program and librbd have open together, every byte of which is known.
//!
//! ```text
//!                     +---------- NBD ---- rbd-nbd-rs ---+
//!  exerciser ---------+---------- NBD ---- qemu-nbd -----+---- one image, its clones, their snapshots
//!   |    seed         +---------- rbd snap, resize ... --+
//!   +--- model: what every image and snapshot holds
//! ```
//!
//! In the spirit of `src/test/librbd/fsx.cc`. A seed chooses the kind of image, who has it open, and every operation;
//! only how requests under way at the same time overtake each other is left to chance. Here a few seeds do some hundred
//! operations each. `scripts/exerciser` takes any seed, as many operations as one likes, and whom one likes.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test")]

#[path = "../common/mod.rs"]
mod common;

mod content;
mod exerciser;
mod history;
mod io;
mod maintenance;
mod model;
mod party;
mod shape;
mod verify;

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use common::{Cluster, Kind, MIB, Release, qemu_io};
use exerciser::Exerciser;

/// With the pools and the namespace that images are in.
fn prepare(cluster: &Cluster) {
    for command in [
        "ceph osd pool create rbdother 8 2>/dev/null",
        "ceph osd pool create rbddata 8 2>/dev/null",
        "rbd pool init rbdother",
        "rbd pool init rbddata",
        "rbd namespace create rbdpool/tenant",
        "ceph auth caps client.qemu mon 'profile rbd' \
         osd 'profile rbd pool=rbdpool, profile rbd pool=rbdother, profile rbd pool=rbddata' 2>/dev/null",
    ] {
        cluster.run(command);
    }
}

/// Room for the snapshots of a long run: the space of removed ones was not seen to be used again.
const ROOM: [&str; 4] = ["--store", "bluestore", "--bytes", "30G"];

fn cluster() -> &'static Cluster {
    static SHARED: OnceLock<Cluster> = OnceLock::new();
    SHARED.get_or_init(|| {
        let cluster = env::var("CLUSTER")
            .map_or_else(|_| Cluster::start(Release::Host, &ROOM), |dir| Cluster::attach(&dir));
        if cluster.run("rbd namespace ls rbdpool").is_empty() {
            prepare(&cluster);
        }
        cluster
    })
}

fn option(name: &str, default: u64) -> u64 {
    env::var(name)
        .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} cannot be {text:?}")))
}

/// Names like `ours,librbd`.
fn parties() -> Option<Vec<Kind>> {
    let names = env::var("PARTIES").ok()?;
    let kind = |name| match name {
        "ours" => Kind::Ours,
        "librbd" => Kind::Librbd,
        other => panic!("PARTIES cannot be {other:?}"),
    };
    Some(names.split(',').map(kind).collect())
}

#[test]
#[ignore = "runs for long; scripts/exerciser starts it"]
fn exercise() {
    let seed = option("SEED", 1);
    for seed in seed..seed + option("SEEDS", 1) {
        Exerciser::new(cluster(), seed, parties()).run(option("OPERATIONS", 10_000));
    }
}

#[test]
fn librbd_alone_agrees_with_the_model() {
    Exerciser::new(cluster(), 1, Some(vec![Kind::Librbd; 2])).run(150);
}

#[test]
fn the_program_and_librbd_agree_with_the_model_on_one_image() {
    for seed in [17, 22, 31] {
        Exerciser::new(cluster(), seed, None).run(150);
    }
}

#[test]
fn a_byte_that_somebody_else_wrote_is_found() {
    let mut exerciser = Exerciser::new(cluster(), 2, Some(vec![Kind::Librbd]));
    for _ in 0..5 {
        exerciser.write();
    }
    let offset = exerciser.image.size().min(MIB) / 2;
    qemu_io(&cluster().qemu(&exerciser.image.spec), &[&format!("write -P 77 {offset} 512")]);
    let found = catch_unwind(AssertUnwindSafe(|| exerciser.verify())).unwrap_err();
    let message = found.downcast_ref::<String>().expect("a message");
    assert!(message.contains(&format!("{offset:#x}..{:#x}", offset + 512)), "{message}");
}
