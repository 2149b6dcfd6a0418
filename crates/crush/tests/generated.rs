//! Random maps, compiled and mapped by the installed `crushtool`, map the same here.
//!
//! Each run takes other maps; the seed it prints repeats it: `SEED=17 cargo test -p crush --test generated`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::fs;

use ceph_codec::Decode;
use crush::CrushMap;

mod common;
use common::parse_mappings;
use common::random::{Rng, crush_text, run};

const FULL: u32 = 0x1_0000;
const MAPS: usize = 25;
const INPUTS: u32 = 200;

#[test]
fn random_maps_map_as_crushtool_does() {
    let dir = tempfile::tempdir().unwrap();
    let mut rng = Rng::new();
    for case in 0..MAPS {
        let devices = rng.range(1, 60);
        let text = crush_text(&mut rng, devices, 0);
        fs::write(dir.path().join("map.txt"), &text).unwrap();
        run("crushtool", dir.path(), &["--enable-unsafe-tunables", "-c", "map.txt", "-o", "map.crush"]);
        let map = CrushMap::decode_from(&fs::read(dir.path().join("map.crush")).unwrap()).unwrap();

        let replicas = rng.range(1, 7);
        let mut weights = vec![FULL; devices as usize];
        let (max_x, num_rep) = ((INPUTS - 1).to_string(), replicas.to_string());
        let mut args: Vec<String> = ["-i", "map.crush", "--test", "--show-mappings", "--min-x", "0"]
            .into_iter()
            .chain(["--max-x", &max_x, "--num-rep", &num_rep])
            .map(str::to_owned)
            .collect();
        for (device, weight) in weights.iter_mut().enumerate().filter(|_| devices > 3) {
            if rng.one_in(6) {
                // Sixteenths have the same binary form on both sides.
                let sixteenths = rng.range(0, 15);
                *weight = sixteenths * (FULL / 16);
                let decimal = f64::from(sixteenths) / 16.0;
                args.extend(["--weight".to_owned(), device.to_string(), decimal.to_string()]);
            }
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mappings = parse_mappings(&run("crushtool", dir.path(), &args));
        assert_eq!(mappings.len(), 4 * INPUTS as usize, "four rules were tested");
        for m in mappings {
            assert_eq!(
                map.map(m.rule, m.x, replicas as usize, &weights, Some(0)),
                m.devices,
                "case {case}: rule {} x {} replicas {replicas} weights {weights:?}\n{text}",
                m.rule,
                m.x
            );
        }
    }
}

#[test]
fn built_hierarchies_of_random_shape_map_as_crushtool_does() {
    let dir = tempfile::tempdir().unwrap();
    let mut rng = Rng::new();
    for alg in ["uniform", "list", "tree", "straw", "straw2"] {
        let devices = rng.range(4, 100);
        let (count, host, rack) =
            (devices.to_string(), rng.range(1, 9).to_string(), rng.range(2, 5).to_string());
        let build = ["-o", "built.crush", "--build", "--num_osds", &count];
        let layers = ["host", alg, &host, "rack", alg, &rack, "root", alg, "0"];
        run("crushtool", dir.path(), &[&build[..], &layers[..]].concat());
        let map = CrushMap::decode_from(&fs::read(dir.path().join("built.crush")).unwrap()).unwrap();
        let test = ["-i", "built.crush", "--test", "--show-mappings", "--min-x", "0", "--max-x", "300"];
        let mappings =
            parse_mappings(&run("crushtool", dir.path(), &[&test[..], &["--num-rep", "3"]].concat()));
        assert!(!mappings.is_empty());
        for m in mappings {
            let devices = map.map(m.rule, m.x, 3, &vec![FULL; devices as usize], Some(0));
            assert_eq!(devices, m.devices, "{build:?} {layers:?} x {}", m.x);
        }
    }
}
