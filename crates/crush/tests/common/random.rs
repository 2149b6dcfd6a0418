//! Random CRUSH maps in the text form that `crushtool -c` reads.

use std::collections::hash_map::RandomState;
use std::env;
use std::fmt::Write;
use std::hash::{BuildHasher, Hasher};
use std::path::Path;
use std::process::Command;

/// A small generator of random numbers (splitmix64), so that a printed seed is all it takes to see a case again.
pub(crate) struct Rng(u64);

impl Rng {
    /// Takes the seed from the environment variable `SEED`, else a fresh one, and prints it.
    pub(crate) fn new() -> Self {
        let fresh = || RandomState::new().build_hasher().finish();
        let seed = env::var("SEED").map_or_else(|_| fresh(), |seed| seed.parse().expect("SEED is a number"));
        println!("SEED={seed}");
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }

    /// A number from `low` to `high`, both included.
    pub(crate) fn range(&mut self, low: u32, high: u32) -> u32 {
        low + u32::try_from(self.next() % u64::from(high - low + 1)).unwrap()
    }

    /// True once in `n`.
    pub(crate) fn one_in(&mut self, n: u32) -> bool {
        self.range(1, n) == 1
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.range(0, u32::try_from(from.len() - 1).unwrap()) as usize]
    }
}

/// Runs a tool of Ceph and returns what it prints; its failure is the test's.
pub(crate) fn run(tool: &str, dir: &Path, args: &[&str]) -> String {
    let output = Command::new(tool)
        .args(args)
        .current_dir(dir)
        .output()
        .unwrap_or_else(|e| panic!("cannot run {tool} (Debian: ceph-base): {e}"));
    let [stdout, stderr] =
        [output.stdout, output.stderr].map(|out| String::from_utf8_lossy(&out).into_owned());
    assert!(output.status.success(), "{tool} {args:?}: {}\n{stdout}\n{stderr}", output.status);
    stdout
}

/// The text of a random map with devices 0 to `devices - 1`, and rules 0 to 3 of random forms.
///
/// Rule 0 is for replicated pools and takes any level as failure domain; the others are of all forms.
/// Every second map has choose_args, for pool `pool`.
pub(crate) fn crush_text(rng: &mut Rng, devices: u32, pool: u64) -> String {
    let mut text = String::new();
    write_tunables(rng, &mut text);
    for device in 0..devices {
        writeln!(text, "device {device} osd.{device}").unwrap();
    }
    for (number, name) in ["osd", "host", "rack", "root"].iter().enumerate() {
        writeln!(text, "type {number} {name}").unwrap();
    }

    let mut hierarchy = Hierarchy { text, choose_args: String::new(), next_id: 1 };
    let positions = rng.range(1, 3);
    let mut items: Vec<String> = (0..devices).map(|device| format!("osd.{device}")).collect();
    for (level, largest) in [("host", 4), ("rack", 4), ("root", u32::MAX)] {
        let mut parents = Vec::new();
        while !items.is_empty() {
            let room = u32::try_from(items.len()).unwrap().min(largest);
            let len = if level == "root" { room } else { rng.range(1, room) };
            let children: Vec<String> = items.drain(..len as usize).collect();
            let name = format!("{level}{}", parents.len());
            hierarchy.bucket(rng, level, &name, &children, positions);
            parents.push(name);
        }
        items = parents;
    }

    let mut text = hierarchy.text;
    for number in 0..4 {
        write_rule(rng, &mut text, number);
    }
    if rng.one_in(2) {
        writeln!(text, "choose_args {pool} {{\n{}}}", hierarchy.choose_args).unwrap();
    }
    text
}

fn write_tunables(rng: &mut Rng, text: &mut String) {
    let classic = rng.one_in(3);
    for (name, modern, old) in [
        ("choose_local_tries", 0, rng.range(0, 3)),
        ("choose_local_fallback_tries", 0, rng.range(0, 6)),
        ("choose_total_tries", 50, rng.range(1, 30)),
        ("chooseleaf_descend_once", 1, rng.range(0, 1)),
        ("chooseleaf_vary_r", 1, rng.range(0, 3)),
        ("chooseleaf_stable", 1, rng.range(0, 1)),
        ("straw_calc_version", 1, rng.range(0, 1)),
    ] {
        writeln!(text, "tunable {name} {}", if classic { old } else { modern }).unwrap();
    }
    writeln!(text, "tunable allowed_bucket_algs 62").unwrap();
}

struct Hierarchy {
    text: String,
    choose_args: String,
    next_id: u32,
}

impl Hierarchy {
    fn bucket(&mut self, rng: &mut Rng, level: &str, name: &str, children: &[String], positions: u32) {
        let id = self.next_id;
        self.next_id += 1;
        let alg = *rng.pick(&["straw2", "straw2", "straw2", "straw", "list", "tree", "uniform"]);
        let same = rng.range(1, 8);
        let weight = |rng: &mut Rng| match alg {
            "uniform" => same * 500,
            // All-zero trees end outside of the tree in Ceph.
            "tree" => rng.range(1, 8000),
            _ if rng.one_in(8) => 0,
            _ => rng.range(1, 8000),
        };
        writeln!(self.text, "{level} {name} {{\n id -{id}\n alg {alg}\n hash 0").unwrap();
        for child in children {
            let weight = weight(rng);
            writeln!(self.text, " item {child} weight {}.{:03}", weight / 1000, weight % 1000).unwrap();
        }
        writeln!(self.text, "}}").unwrap();
        if alg == "straw2" {
            self.choose_args(rng, id, children.len(), positions);
        }
    }

    fn choose_args(&mut self, rng: &mut Rng, id: u32, len: usize, positions: u32) {
        writeln!(self.choose_args, "{{\n bucket_id -{id}\n weight_set [").unwrap();
        for _ in 0..positions {
            let weights: Vec<String> = (0..len).map(|_| format!("{}.5", rng.range(0, 9))).collect();
            writeln!(self.choose_args, " [ {} ]", weights.join(" ")).unwrap();
        }
        writeln!(self.choose_args, " ]").unwrap();
        if rng.one_in(2) {
            let ids: Vec<String> = (0..len).map(|_| format!("-{}", rng.range(100, 200))).collect();
            writeln!(self.choose_args, " ids [ {} ]", ids.join(" ")).unwrap();
        }
        writeln!(self.choose_args, "}}").unwrap();
    }
}

fn write_rule(rng: &mut Rng, text: &mut String, number: u32) {
    let level = *rng.pick(&["osd", "host", "host", "rack"]);
    let simple = [format!("chooseleaf firstn 0 type {level}"), "choose firstn 0 type osd".to_owned()];
    let any = [
        format!("chooseleaf firstn 0 type {level}"),
        format!("chooseleaf indep 0 type {level}"),
        "choose indep 0 type osd".to_owned(),
        "choose firstn 2 type rack\nstep chooseleaf firstn 2 type host".to_owned(),
        "choose indep 2 type rack\nstep chooseleaf indep 2 type host".to_owned(),
        "choose firstn 2 type rack\nstep choose firstn 2 type host\nstep choose firstn 1 type osd".to_owned(),
        "choose indep 3 type host\nstep choose indep 2 type osd".to_owned(),
        "chooseleaf firstn 1 type rack\nstep emit\nstep take root0\nstep chooseleaf firstn -1 type host"
            .to_owned(),
    ];
    let steps = if number == 0 { rng.pick(&simple) } else { rng.pick(&any) };
    let kind = if steps.contains("indep") { "erasure" } else { "replicated" };
    writeln!(text, "rule r{number} {{\nid {number}\ntype {kind}\nmin_size 1\nmax_size 10").unwrap();
    for name in ["set_choose_tries", "set_chooseleaf_tries"] {
        if rng.one_in(3) {
            writeln!(text, "step {name} {}", rng.range(1, 20)).unwrap();
        }
    }
    for name in ["set_choose_local_tries", "set_choose_local_fallback_tries", "set_chooseleaf_vary_r"] {
        if rng.one_in(6) {
            writeln!(text, "step {name} {}", rng.range(0, 4)).unwrap();
        }
    }
    if rng.one_in(4) {
        writeln!(text, "step set_chooseleaf_stable {}", rng.range(0, 1)).unwrap();
    }
    writeln!(text, "step take root0\nstep {steps}\nstep emit\n}}").unwrap();
}
