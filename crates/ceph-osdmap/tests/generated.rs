//! Random clusters made by the installed `osdmaptool` have their PGs placed as it does.
//!
//! Each run takes other clusters; the seed it prints repeats it: `SEED=17 cargo test -p ceph-osdmap --test
//! generated`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::fs;

use ceph_codec::OsdId;
use ceph_osdmap::OsdMap;

mod common;
#[path = "../../crush/tests/common/random.rs"]
mod random;
use common::check_placements;
use random::{Rng, crush_text, run};

const CLUSTERS: usize = 12;

#[test]
fn pgs_of_random_clusters_are_placed_as_osdmaptool_does() {
    let dir = tempfile::tempdir().unwrap();
    let mut rng = Rng::new();
    let mut upmaps = 0;
    for case in 0..CLUSTERS {
        let osds = rng.range(4, 40);
        // Pool 1 is the only one: choose_args are its own or those of all pools (-1).
        let choose_args = *rng.pick(&[1, u64::MAX]);
        let text = crush_text(&mut rng, osds, choose_args);
        fs::write(dir.path().join("crush.txt"), &text).unwrap();
        run("crushtool", dir.path(), &["--enable-unsafe-tunables", "-c", "crush.txt", "-o", "crush"]);

        let (count, pg_bits, pgp_bits) =
            (osds.to_string(), rng.range(1, 4).to_string(), rng.range(1, 4).to_string());
        let create = ["--createsimple", &count, "--clobber", "--with-default-pool"];
        let bits = ["--pg-bits", &pg_bits, "--pgp-bits", &pgp_bits, "map"];
        run("osdmaptool", dir.path(), &[&create[..], &bits[..]].concat());
        run("osdmaptool", dir.path(), &["map", "--import-crush", "crush"]);
        let out = rng.range(0, osds - 1).to_string();
        let mark = ["map", "--mark-up-in", "--mark-out", &out];
        run("osdmaptool", dir.path(), &[&mark[..], &["--adjust-crush-weight", "0:1.0", "--save"]].concat());
        let balance =
            ["map", "--upmap", "upmaps.txt", "--upmap-max", "20", "--upmap-deviation", "1", "--save"];
        run("osdmaptool", dir.path(), &balance);
        upmaps += fs::read_to_string(dir.path().join("upmaps.txt")).unwrap().lines().count();

        let map = OsdMap::decode(&fs::read(dir.path().join("map")).unwrap()).unwrap();
        assert!(map.is_up(OsdId(0)), "the marks were saved");
        assert_eq!(map.osd_weight(OsdId(out.parse().unwrap())), Some(0));
        let dump = run("osdmaptool", dir.path(), &["map", "--test-map-pgs-dump-all"]);
        check_placements(&format!("case {case}, {mark:?} {create:?} {bits:?}\n{text}"), &map, &dump);
    }
    assert!(upmaps > 0, "the balancer found something to do in one of {CLUSTERS} clusters");
}
