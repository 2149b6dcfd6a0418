//! Clones: whatever the parent is and wherever it lies, the clone and its snapshots hold what they should, for librbd as
//! well as for us; the object maps are right; and without its parent a clone still has everything.

#![allow(clippy::unwrap_used, reason = "test")]
#![allow(clippy::cast_possible_truncation, reason = "test")]

mod common;

use std::fs;

use common::nbd::{Client, Command, Request};
use common::random::Rng;
use common::{Cluster, KIB, MIB, Release, Server, json, program, run, run_within};

const SIZE: u64 = 16 * MIB;

/// A clone, what it should hold, and its snapshots and what they should hold.
struct Clone<'a> {
    cluster: &'a Cluster,
    spec: String,
    head: Vec<u8>,
    snapshots: Vec<(String, Vec<u8>)>,
}

/// A user who may write where the clones are, and read where the parents are.
fn user(cluster: &Cluster, name: &str, osd: &str) -> String {
    let keyring = cluster.file(&format!("client.{name}.keyring"));
    cluster.run(&format!("ceph auth get-or-create client.{name} mon 'profile rbd' osd '{osd}' -o {keyring}"));
    name.to_owned()
}

fn serve(cluster: &Cluster, user: &str, specs: &[&str]) -> Server {
    let keyring = cluster.file(&format!("client.{user}.keyring"));
    let mut command = program();
    command.args(["serve", "--id", user, "--conf", &cluster.conf(), "--keyring", &keyring]).args(specs);
    Server::serve_with(cluster, &mut command)
}

/// Data with holes of all sizes.
fn contents(rng: &mut Rng, size: u64) -> Vec<u8> {
    let mut contents = vec![0; size as usize];
    while rng.range(0..24) > 0 {
        let offset = rng.range(0..size);
        let len = rng.range(1..2 * MIB).min(size - offset);
        let byte = rng.next() as u8;
        for (at, chunk) in contents[offset as usize..(offset + len) as usize].chunks_mut(61).enumerate() {
            chunk.fill(byte.wrapping_add(at as u8) | 1);
        }
    }
    contents
}

/// A file of its own for each image: tests may run side by side.
fn file(cluster: &Cluster, spec: &str, kind: &str) -> String {
    cluster.file(&format!("{}.{kind}", spec.replace('/', ".")))
}

/// Makes an image of these contents, with a snapshot `base`.
fn golden(cluster: &Cluster, spec: &str, options: &str, contents: &[u8]) {
    let raw = file(cluster, spec, "golden");
    fs::write(&raw, contents).unwrap();
    cluster.run(&format!(
        "rbd import --no-progress {options} {raw} {spec} && rbd snap create --no-progress {spec}@base"
    ));
}

impl Clone<'_> {
    /// Writes, discards and zeroes here and there, several requests at a time, and takes snapshots in between.
    fn change(&mut self, server: &Server, rng: &mut Rng, rounds: usize) {
        let mut client = Client::connect(server.socket(), &self.spec).unwrap();
        for round in 0..rounds {
            let (mut under_way, mut trimmed) = (Vec::new(), Vec::new());
            // Every request in a slot of its own: the order of others does not matter.
            let slots = 12;
            for slot in 0..slots {
                let (from, to) = (slot * SIZE / slots, (slot + 1) * SIZE / slots);
                let unit = *rng.pick(&[1, 512, 4 * KIB, 64 * KIB]);
                let offset = rng.range(from..to).next_multiple_of(unit).min(to);
                let len = (rng.range(1..MIB).next_multiple_of(unit)).min(to - offset);
                let range = offset as usize..(offset + len) as usize;
                let command =
                    *rng.pick(&[Command::Write, Command::Write, Command::WriteZeroes, Command::Trim]);
                let data = match command {
                    Command::Write => vec![rng.next() as u8 | 1; len as usize],
                    _ => Vec::new(),
                };
                match command {
                    Command::Write => self.head[range].copy_from_slice(&data),
                    Command::WriteZeroes => self.head[range].fill(0),
                    _ => trimmed.push(range),
                }
                if len > 0 {
                    under_way.push(client.submit(Request::new(command, offset, len), &data).unwrap());
                }
            }
            for cookie in under_way {
                client.wait(cookie).unwrap();
            }
            // What a discard gives up is up to the image, by granules of its objects.
            for range in trimmed {
                let now = client.read(range.start as u64, range.len() as u64).unwrap();
                let places = (range.start..).zip(&mut self.head[range.clone()]);
                for ((at, place), now) in places.zip(now) {
                    assert!(
                        now == 0 || now == *place,
                        "a discard turned {place} into {now} at {at} in round {round}"
                    );
                    *place = now;
                }
            }
            if round % 3 == 1 {
                let name = format!("{}@s{}", self.spec, self.snapshots.len());
                self.cluster.run(&format!("rbd snap create --no-progress {name}"));
                self.snapshots.push((name, self.head.clone()));
            }
        }
        same(&client.read_all().unwrap(), &self.head, &format!("{} as we serve it", self.spec));
        client.disconnect();
    }

    /// Compares everything with what librbd and we read, and the object maps with the objects.
    fn verify(&self, user: &str) {
        let info = json(&self.cluster.run(&format!("rbd info {} --format json", self.spec)));
        let has_map = info["features"].as_array().unwrap().contains(&"object-map".into());
        let head = [(self.spec.clone(), self.head.clone())];
        let all: Vec<_> = head.iter().chain(&self.snapshots).collect();
        for (spec, expected) in &all {
            let exported = file(self.cluster, spec, "exported");
            self.cluster.run(&format!("rm -f {exported}; rbd export --no-progress {spec} {exported}"));
            same(&fs::read(&exported).unwrap(), expected, &format!("{spec} as librbd reads it"));
            if has_map {
                self.cluster.assert_object_map_is_correct(spec);
            }
        }
        let specs: Vec<_> = all.iter().map(|(spec, _)| spec.as_str()).collect();
        let server = serve(self.cluster, user, &specs);
        for (spec, expected) in &all {
            let mut client = Client::connect(server.socket(), spec).unwrap();
            same(&client.read_all().unwrap(), expected, &format!("{spec} as we read it"));
            client.disconnect();
            // By way of the block status, too.
            let copy = file(self.cluster, spec, "copied");
            run(&format!("rm -f {copy}; qemu-img convert -f raw -O raw '{}' {copy}", server.uri(spec)));
            same(&fs::read(&copy).unwrap(), expected, &format!("{spec} as qemu-img copies it"));
        }
        server.stop();
    }
}

fn same(found: &[u8], expected: &[u8], what: &str) {
    if found != expected {
        let wrong = found.iter().zip(expected).position(|(a, b)| a != b);
        panic!(
            "{what}: {} bytes instead of {}, the first wrong one at {wrong:?}",
            found.len(),
            expected.len()
        );
    }
}

/// Cut or filled up with zeroes.
fn sized(contents: &[u8]) -> Vec<u8> {
    let mut sized = contents.to_vec();
    sized.resize(SIZE as usize, 0);
    sized
}

#[test]
fn clones_of_every_kind_hold_what_was_written_with_their_parent_and_without() {
    let cluster = Cluster::shared();
    for pool in ["golden", "data"] {
        cluster.run(&format!("ceph osd pool create {pool} 8 && rbd pool init {pool}"));
    }
    cluster.run("rbd namespace create golden/ns && rbd namespace create rbdpool/vms");
    let user =
        user(cluster, "clones", "profile rbd pool=rbdpool, profile rbd pool=golden, profile rbd pool=data");
    let v1 = "--rbd-default-clone-format 1";
    let v2 = "--rbd-default-clone-format 2";
    // Where the parent is, how it is made, how and where the clone is made.
    let kinds = [
        ("rbdpool/base0", "", format!("{v2} rbdpool/base0@base rbdpool/clone0")),
        (
            "golden/base1",
            "--object-size 1M --stripe-unit 65536 --stripe-count 4",
            format!("{v1} golden/base1@base rbdpool/clone1"),
        ),
        (
            "golden/ns/base2",
            "--object-size 8M",
            format!(
                "{v2} --object-size 2M --stripe-unit 32768 --stripe-count 3 golden/ns/base2@base rbdpool/vms/clone2"
            ),
        ),
        (
            "golden/base3",
            "--object-size 64K --data-pool data",
            format!("{v2} --data-pool data --object-size 4M golden/base3@base rbdpool/clone3"),
        ),
        ("rbdpool/base4", "", format!("{v2} --image-feature layering rbdpool/base4@base rbdpool/clone4")),
        (
            "golden/base5",
            "",
            format!(
                "{v2} --image-feature layering,exclusive-lock,object-map golden/base5@base rbdpool/clone5"
            ),
        ),
    ];
    let mut rng = Rng::new(7);
    for (number, (parent, options, clone)) in kinds.iter().enumerate() {
        let deep = number != 4 && number != 5;
        lives_with_its_parent_and_without(cluster, &user, &mut rng, (parent, options, clone, deep));
    }
}

/// Where the parent is, how it is made, how and where the clone is made, and whether it has `deep-flatten`.
type Kind<'a> = (&'a str, &'a str, &'a str, bool);

fn lives_with_its_parent_and_without(cluster: &Cluster, user: &str, rng: &mut Rng, kind: Kind<'_>) {
    let (parent, options, clone, deep) = kind;
    let size = rng.range(6 * MIB..SIZE);
    let content = contents(rng, size);
    golden(cluster, parent, options, &content);
    if clone.contains("clone-format 1") {
        cluster.run(&format!("rbd snap protect {parent}@base"));
    }
    cluster.run(&format!("rbd clone {clone}"));
    let spec = clone.split(' ').next_back().unwrap().to_owned();
    cluster.run(&format!("rbd resize --no-progress --size {SIZE}B {spec}"));
    let mut clone = Clone { cluster, spec: spec.clone(), head: sized(&content), snapshots: Vec::new() };
    let server = serve(cluster, user, &[&spec]);
    clone.change(&server, rng, 5);
    server.stop();
    clone.verify(user);

    // Flattened by librbd, which asks us, in the middle of changes.
    let server = serve(cluster, user, &[&spec]);
    let flatten = std::thread::scope(|scope| {
        let flatten = scope.spawn(|| cluster.run(&format!("rbd flatten --no-progress {spec}")));
        clone.change(&server, rng, 2);
        flatten.join().unwrap()
    });
    assert_eq!(flatten, "", "{spec}");
    let info = json(&cluster.run(&format!("rbd info {spec} --format json")));
    assert!(info["parent"].is_null() || !deep, "{info}");
    clone.change(&server, rng, 2);
    server.stop();
    clone.verify(user);
    if deep {
        // No snapshot needs the parent either: with deep-flatten they have all of their own.
        assert_eq!(cluster.run(&format!("rbd children {parent}@base")), "");
        cluster.run(&format!("rbd snap unprotect {parent}@base || true; rbd snap rm --no-progress {parent}@base && rbd rm --no-progress {parent}"));
        clone.verify(user);
    }
}

/// With all connections encrypted: these are also the longest ways that data go.
#[test]
fn clones_whose_data_are_erasure_coded_hold_what_was_written() {
    let options = ["--osds", "3", "--store", "bluestore", "--mode", "secure"];
    let cluster = &Cluster::start(Release::Host, &options);
    cluster.create_erasure_coded_pool("coded");
    let user = user(cluster, "clones", "profile rbd pool=rbdpool, profile rbd pool=coded");
    let mut rng = Rng::new(11);
    for (parent, options, clone) in [
        (
            "rbdpool/base0",
            "--data-pool coded",
            "--rbd-default-clone-format 2 --data-pool coded rbdpool/base0@base rbdpool/clone0",
        ),
        (
            "rbdpool/base1",
            "--object-size 64K",
            "--rbd-default-clone-format 1 --data-pool coded --object-size 1M --stripe-unit 32K --stripe-count 3 \
             rbdpool/base1@base rbdpool/clone1",
        ),
    ] {
        lives_with_its_parent_and_without(cluster, &user, &mut rng, (parent, options, clone, true));
        let clone = clone.split(' ').next_back().unwrap();
        let snapshots = cluster.run(&format!("rbd snap ls {clone} --format json"));
        let snapshots: Vec<_> =
            json(&snapshots).as_array().unwrap().iter().map(|snap| snap["name"].clone()).collect();
        let since = snapshots.iter().map(|name| format!("--from-snap {}", name.as_str().unwrap()));
        for since in [String::new()].into_iter().chain(since) {
            for whole in ["", "--whole-object "] {
                let diff = format!("diff --format json {whole}{since} {clone}");
                let [ours, theirs] = [program().get_program().to_str().unwrap(), "rbd"]
                    .map(|tool| cluster.run(&format!("{tool} {diff} --conf {}", cluster.conf())));
                assert_eq!(json(&ours), json(&theirs), "{diff}");
            }
        }
    }
}

#[test]
fn a_chain_of_clones_is_read_through_and_its_middle_may_be_flattened_in_use() {
    let cluster = Cluster::shared();
    let mut rng = Rng::new(8);
    let content = contents(&mut rng, SIZE);
    golden(cluster, "rbdpool/chain0", "", &content);
    let mut middle = Clone { cluster, spec: "rbdpool/chain1".into(), head: content, snapshots: Vec::new() };
    cluster.run("rbd clone --rbd-default-clone-format 2 rbdpool/chain0@base rbdpool/chain1");
    let server = serve(cluster, "qemu", &["rbdpool/chain1"]);
    middle.change(&server, &mut rng, 2);
    server.stop();
    let mut top = Clone {
        cluster,
        spec: "rbdpool/chain3".into(),
        head: middle.snapshots[0].1.clone(),
        snapshots: Vec::new(),
    };
    cluster.run("rbd clone --rbd-default-clone-format 2 --object-size 1M --stripe-unit 1M --stripe-count 1 rbdpool/chain1@s0 rbdpool/chain2");
    cluster.run("rbd snap create --no-progress rbdpool/chain2@base");
    cluster.run("rbd clone --rbd-default-clone-format 2 rbdpool/chain2@base rbdpool/chain3");
    let server = serve(cluster, "qemu", &["rbdpool/chain3"]);
    top.change(&server, &mut rng, 2);
    // Its grandparent loses its own parent, and that goes away.
    cluster.run("rbd flatten --no-progress rbdpool/chain1");
    cluster.run("rbd snap rm --no-progress rbdpool/chain0@base && rbd rm --no-progress rbdpool/chain0");
    top.change(&server, &mut rng, 2);
    server.stop();
    middle.verify("qemu");
    top.verify("qemu");
}

#[test]
fn a_parent_in_the_trash_is_opened_and_goes_with_its_last_clone() {
    let cluster = Cluster::shared();
    let mut rng = Rng::new(9);
    let content = contents(&mut rng, SIZE);
    golden(cluster, "rbdpool/old", "", &content);
    cluster.run("rbd clone --rbd-default-clone-format 2 rbdpool/old@base rbdpool/heir");
    cluster.run("rbd snap rm --no-progress rbdpool/old@base && rbd trash mv rbdpool/old");
    let mut heir = Clone { cluster, spec: "rbdpool/heir".into(), head: content, snapshots: Vec::new() };
    let server = serve(cluster, "qemu", &["rbdpool/heir"]);
    heir.change(&server, &mut rng, 2);
    cluster.run("rbd flatten --no-progress rbdpool/heir");
    heir.change(&server, &mut rng, 1);
    server.stop();
    heir.verify("qemu");
    let trash = json(&cluster.run("rbd trash ls rbdpool --format json"));
    let id = trash[0]["id"].as_str().unwrap();
    let snapshots =
        json(&cluster.run(&format!("rbd snap ls --all --pool rbdpool --image-id {id} --format json")));
    assert_eq!(snapshots, serde_json::json!([]), "the removed snapshot went with its last clone");
}

#[test]
fn reading_the_parents_pool_is_enough_and_without_it_the_parent_is_named() {
    let cluster = Cluster::shared();
    let mut rng = Rng::new(10);
    let content = contents(&mut rng, SIZE);
    cluster.run("ceph osd pool create shared 8 && rbd pool init shared");
    golden(cluster, "shared/base", "", &content);
    cluster.run("rbd clone --rbd-default-clone-format 2 shared/base@base rbdpool/reader");
    let reader = user(cluster, "reader", "profile rbd pool=rbdpool, profile rbd-read-only pool=shared");
    let mut clone = Clone { cluster, spec: "rbdpool/reader".into(), head: content, snapshots: Vec::new() };
    let server = serve(cluster, &reader, &["rbdpool/reader"]);
    clone.change(&server, &mut rng, 3);
    server.stop();
    clone.verify(&reader);

    let socket = cluster.file("refused.sock");
    let mut command = program();
    command.args(["serve", "--id", "qemu", "--conf", &cluster.conf(), "--socket", &socket, "rbdpool/reader"]);
    let message = run_within(std::time::Duration::from_secs(30), &mut command).failure();
    for part in ["the parent of image reader", "shared/", "osd 'profile rbd-read-only pool=shared'"] {
        assert!(message.contains(part), "{part:?} is missing: {message}");
    }
}
