//! Maps that nobody sane would make end in an error or in no devices, soon, and never in a panic.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::fs;
use std::path::Path;

use ceph_codec::{Decode, DecodeError};
use crush::{Algorithm, CrushMap, ITEM_NONE, Mode, Rule, RuleKind, Step};
use proptest::prelude::*;

const FULL: [u32; 64] = [0x1_0000; 64];

fn bytes(path: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(path)).unwrap()
}

fn load(path: &str) -> CrushMap {
    CrushMap::decode_from(&bytes(path)).unwrap()
}

fn map_some(map: &CrushMap) {
    for rule in 0..map.rules.len().min(30) {
        for x in 0..2 {
            let devices = map.map(u32::try_from(rule).unwrap(), x, 6, &FULL, Some(3));
            assert!(devices.len() <= 6);
        }
    }
}

#[test]
fn every_prefix_of_a_map_is_an_error_or_a_map_without_its_newer_fields() {
    for path in ["pacific/allalg.crush", "tentacle/build_tree.crush"] {
        let bytes = bytes(path);
        let mut whole = 0;
        for len in 0..bytes.len() {
            if let Ok(map) = CrushMap::decode_from(&bytes[..len]) {
                whole += 1;
                map_some(&map);
            }
        }
        assert!((3..12).contains(&whole), "{path}: {whole} prefixes end between optional fields");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn damaged_maps_do_no_harm(
        which in 0usize..3,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = bytes(["pacific/allalg.crush", "pacific/multi_choose_args.crush", "tentacle/multi_msr.crush"][which]);
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(map) = CrushMap::decode_from(&bytes) {
            map_some(&map);
        }
    }
}

#[test]
fn counts_that_the_input_cannot_hold_are_refused_without_allocating() {
    let mut bytes = bytes("pacific/allalg.crush");
    bytes[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(CrushMap::decode_from(&bytes).is_err());
}

#[test]
fn a_bucket_must_have_the_id_of_its_place() {
    let mut bytes = bytes("pacific/allalg.crush");
    // After the header comes the first bucket: its algorithm, then its id.
    bytes[20] ^= 1;
    let error = CrushMap::decode_from(&bytes).unwrap_err();
    assert!(matches!(error, DecodeError::Invalid { what: "id of a bucket", .. }), "{error}");
}

#[test]
fn buckets_that_contain_each_other_give_no_devices() {
    for (path, rules) in [("pacific/allalg.crush", [0, 1]), ("tentacle/multi_msr.crush", [20, 21])] {
        let mut map = load(path);
        let ids: Vec<i32> = map.buckets.iter().flatten().map(|b| b.id).collect();
        for bucket in map.buckets.iter_mut().flatten() {
            for (i, item) in bucket.items.iter_mut().enumerate() {
                *item = ids[i % ids.len()];
            }
            bucket.level = 10;
        }
        for rule in rules {
            assert!(map.rule(rule).is_some());
            assert!(map.map(rule, 1, 3, &FULL, None).iter().all(|&device| device == ITEM_NONE));
        }
    }
}

#[test]
fn tries_without_end_end() {
    for alg in ["straw2", "uniform"] {
        let mut map = load(&format!("pacific/build_{alg}.crush"));
        map.tunables.choose_total_tries = u32::MAX - 1;
        map.tunables.choose_local_tries = u32::MAX;
        map.tunables.choose_local_fallback_tries = u32::MAX;
        for mode in [Mode::Firstn, Mode::Indep] {
            for leaf in [false, true] {
                let root = map.item_names.iter().find(|(_, name)| *name == "root").unwrap();
                let steps = vec![
                    Step::Take(*root.0),
                    Step::SetChooseleafTries(i32::MAX),
                    Step::Choose { count: i32::MAX, level: i32::from(leaf), mode, leaf },
                    Step::Emit,
                ];
                map.rules[0] = Some(Rule { kind: RuleKind::REPLICATED, steps });
                assert_eq!(map.map(0, 1, 10, &[], None), [], "every device is out");
            }
        }
    }
}

#[test]
fn an_empty_bucket_is_no_place_for_data() {
    let mut map = load("pacific/build_straw2.crush");
    let full = map.map(0, 7, 3, &FULL, None);
    let host = map.buckets.iter_mut().flatten().find(|b| b.items.contains(&full[0])).unwrap();
    host.items.clear();
    host.alg = Algorithm::Straw2 { weights: vec![] };
    let rest = map.map(0, 7, 3, &FULL, None);
    assert_eq!(rest.len(), 3);
    assert!(!rest.contains(&full[0]));
}

#[test]
fn trees_without_shape_are_no_place_for_data() {
    let mut map = load("pacific/build_tree.crush");
    for nodes in [vec![], vec![1], vec![1, 2, 3], vec![0; 64], vec![u32::MAX; 255]] {
        for bucket in map.buckets.iter_mut().flatten() {
            bucket.alg = Algorithm::Tree { nodes: nodes.clone() };
        }
        map_some(&map);
    }
}

#[test]
fn nothing_comes_of_no_rule_no_replicas_or_no_map() {
    let map = load("pacific/build_straw2.crush");
    assert_eq!(map.map(99, 1, 3, &FULL, None), []);
    assert_eq!(map.map(0, 1, 0, &FULL, None), []);
    assert_eq!(CrushMap::default().map(0, 1, 3, &FULL, None), []);
}
