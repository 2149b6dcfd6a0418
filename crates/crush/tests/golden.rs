//! Every mapping that `crushtool` printed for the maps in `testdata` comes out the same here.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use ceph_codec::Decode;
use crush::{CrushMap, hash};
use flate2::read::GzDecoder;

mod common;
use common::{Mapping, parse_mappings};

const FULL: u32 = 0x1_0000;

fn testdata(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(path)
}

fn load(path: &str) -> CrushMap {
    CrushMap::decode_from(&fs::read(testdata(path)).unwrap()).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn mappings(path: &str) -> Vec<Mapping> {
    let mut text = String::new();
    GzDecoder::new(fs::File::open(testdata(path)).unwrap()).read_to_string(&mut text).unwrap();
    parse_mappings(&text)
}

/// Compares all mappings; `replicas` are the values of `--num-rep`, in the order in which they were printed.
fn check(map: &CrushMap, mappings: &[Mapping], replicas: &[usize], weights: &[u32], pool: Option<u32>) {
    let mut replicas = replicas.iter();
    let mut current = 0;
    let mut last_rule = u32::MAX;
    for m in mappings {
        if m.rule < last_rule && m.x == 0 {
            current = *replicas.next().expect("as many runs as replica counts");
        }
        last_rule = m.rule;
        let x = pool.map_or(m.x, |pool| hash::hash2(m.x, pool));
        let devices = map.map(m.rule, x, current, weights, Some(0));
        assert_eq!(devices, m.devices, "rule {} x {} replicas {current}", m.rule, m.x);
    }
    assert!(!mappings.is_empty() && replicas.next().is_none(), "all runs were compared");
}

const WITH_ALL_REPLICAS: [&str; 13] = [
    "allalg",
    "allalg_argonaut",
    "allalg_bobtail",
    "allalg_firefly",
    "allalg_jewel",
    "allalg_strawcalc0",
    "multi",
    "multi_argonaut",
    "multi_bobtail",
    "multi_choose_args",
    "multi_firefly",
    "multi_jewel",
    "multi_msr",
];

#[test]
fn all_bucket_algorithms_rule_forms_and_tunables_map_as_crushtool_does() {
    for release in ["pacific", "reef", "tentacle"] {
        for name in WITH_ALL_REPLICAS {
            let golden = if name == "multi_msr" { "tentacle" } else { "pacific" };
            if name == "multi_msr" && release != "tentacle" {
                continue;
            }
            let map = load(&format!("{release}/{name}.crush"));
            let mappings = mappings(&format!("{golden}/{name}.mappings.gz"));
            let weights = vec![FULL; map.max_devices.try_into().unwrap()];
            println!("{release}/{name}: {} mappings", mappings.len());
            check(&map, &mappings, &[2, 3, 6], &weights, None);
        }
    }
}

#[test]
fn built_hierarchies_map_as_crushtool_does() {
    for release in ["pacific", "reef", "tentacle"] {
        for alg in ["uniform", "list", "tree", "straw", "straw2"] {
            let map = load(&format!("{release}/build_{alg}.crush"));
            let mappings = mappings(&format!("pacific/build_{alg}.mappings.gz"));
            println!("{release}/build_{alg}: {} mappings", mappings.len());
            check(&map, &mappings, &[3], &[FULL; 24], None);
        }
    }
}

#[test]
fn reweighted_devices_map_as_crushtool_does() {
    let map = load("pacific/multi.crush");
    let mut weights = vec![FULL; map.max_devices.try_into().unwrap()];
    for (device, weight) in [(0, 0), (1, FULL / 2), (4, FULL / 4), (7, 58_982), (12, 0), (20, FULL / 4 * 3)] {
        weights[device] = weight;
    }
    check(&map, &mappings("pacific/multi.reweight.mappings.gz"), &[3], &weights, None);
}

#[test]
fn a_pool_without_choose_args_uses_those_of_minus_one() {
    let map = load("pacific/multi_choose_args.crush");
    let weights = vec![FULL; map.max_devices.try_into().unwrap()];
    check(&map, &mappings("pacific/multi_choose_args.pool3.mappings.gz"), &[3], &weights, Some(3));
}

#[test]
fn names_classes_and_tunables_are_decoded() {
    let map = load("pacific/multi_choose_args.crush");
    assert_eq!(map.types[&1], "host");
    assert_eq!(map.item_names[&0], "osd.0");
    assert_eq!(map.rule_names.len(), map.rules.iter().flatten().count());
    assert!(map.device_class(0).is_some());
    assert!(!map.classes.shadow_buckets.is_empty());
    assert_eq!(map.choose_args.keys().copied().collect::<Vec<_>>(), [-1, 3]);
    let three_positions = map.choose_args[&3].values().any(|arg| arg.weight_sets.len() == 3);
    assert!(three_positions && map.choose_args[&3].values().any(|arg| !arg.ids.is_empty()));
    assert_eq!(map.tunables.choose_total_tries, 50);
}
