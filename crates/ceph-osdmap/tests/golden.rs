//! Maps of three releases are read as Ceph's own tools read them, and every PG is placed as they place it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use ceph_codec::{AddrType, EntityAddr, Epoch, OsdId, PoolId, ShardId};
use ceph_osdmap::{Incremental, MapFlags, OsdMap, PoolFlags, PoolKind};
use flate2::read::GzDecoder;
use serde_json::Value;

mod common;
use common::{check_placements, parse_osds, parse_pg};

const RELEASES: [&str; 3] = ["pacific", "reef", "tentacle"];

fn testdata(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(path)
}

fn text(path: &str) -> String {
    fs::read_to_string(testdata(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn gunzip(path: &Path) -> String {
    let mut text = String::new();
    let file = fs::File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    GzDecoder::new(file).read_to_string(&mut text).unwrap();
    text
}

fn load(path: &Path) -> OsdMap {
    OsdMap::decode(&fs::read(path).unwrap()).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// All `.osdmap` files of a folder of testdata.
fn maps_in(folder: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(testdata(folder)).unwrap().map(|entry| entry.unwrap().path());
    let mut maps: Vec<_> = files.filter(|path| path.extension().is_some_and(|e| e == "osdmap")).collect();
    maps.sort();
    assert!(!maps.is_empty(), "{folder} has maps");
    maps
}

#[test]
fn every_pg_is_placed_as_osdmaptool_does() {
    for release in RELEASES {
        for folder in ["live", "offline", "incremental"] {
            for path in maps_in(&format!("{release}/{folder}")) {
                let dump = path.with_extension("pgs.gz");
                let map = load(&path);
                if map.epoch() == Epoch(1) {
                    assert_eq!(map.pools().count(), 0, "nothing to place");
                    continue;
                }
                check_placements(&path.display().to_string(), &map, &gunzip(&dump));
            }
        }
    }
}

/// All incremental maps of a release, by the epoch they lead to.
fn incrementals(release: &str) -> BTreeMap<Epoch, Incremental> {
    let file = fs::File::open(testdata(&format!("{release}/incremental/incs.tar.gz"))).unwrap();
    let mut archive = tar::Archive::new(GzDecoder::new(file));
    let mut incrementals = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        if bytes.is_empty() {
            continue;
        }
        let inc = Incremental::decode(&bytes).unwrap_or_else(|e| panic!("{:?}: {e}", entry.path().unwrap()));
        incrementals.insert(inc.epoch, inc);
    }
    incrementals
}

#[test]
fn incrementals_lead_from_the_first_map_to_every_later_full_map() {
    for release in RELEASES {
        let full: BTreeMap<Epoch, OsdMap> = maps_in(&format!("{release}/incremental"))
            .iter()
            .chain(&maps_in(&format!("{release}/live")))
            .map(|path| load(path))
            .map(|map| (map.epoch(), map))
            .collect();
        let mut map = full[&Epoch(1)].clone();
        let incrementals = incrementals(release);
        let last = *full.keys().next_back().unwrap();
        assert_eq!(incrementals.keys().next_back(), Some(&last));
        let mut compared = 0;
        for (epoch, inc) in incrementals {
            map.apply(inc).unwrap_or_else(|e| panic!("{release}: {e}"));
            assert_eq!(map.epoch(), epoch);
            if let Some(full) = full.get(&epoch) {
                assert_eq!(&map, full, "{release} at epoch {epoch}");
                compared += 1;
            }
        }
        assert_eq!(compared, full.len() - 1, "{release}: all but the first map were reached");
    }
}

#[test]
fn an_incremental_applies_to_its_predecessor_only() {
    let mut map = load(&testdata("pacific/incremental/full_20.osdmap"));
    let before = map.clone();
    let mut incrementals = incrementals("pacific");
    let skips_one = incrementals.remove(&Epoch(22)).unwrap();
    let message = map.apply(skips_one).unwrap_err().to_string();
    assert_eq!(message, "incremental map 22 does not follow epoch 20");
    let again = incrementals.remove(&Epoch(20)).unwrap();
    map.apply(again).unwrap_err();
    let mut of_other_cluster = incrementals.remove(&Epoch(21)).unwrap();
    of_other_cluster.fsid.0[0] ^= 1;
    assert!(map.apply(of_other_cluster).unwrap_err().to_string().contains("is of cluster"));
    assert_eq!(map, before, "a refused incremental changes nothing");
}

#[test]
fn objects_are_placed_as_the_monitor_does() {
    for release in RELEASES {
        let path = maps_in(&format!("{release}/incremental"))
            .into_iter()
            .max_by_key(|path| load(path).epoch())
            .unwrap();
        let map = load(&path);
        let answers = text(&format!("{release}/live/osd_map_object.jsonl"));
        let mut with_namespace = 0;
        for line in answers.lines() {
            let answer: Value = serde_json::from_str(line).unwrap();
            let id = PoolId(answer["pool_id"].as_i64().unwrap());
            assert_eq!(map.pool_by_name(answer["pool"].as_str().unwrap()), Some(id));
            let pool = map.pool(id).unwrap();
            let (namespace, name) = match answer["objname"].as_str().unwrap().split_once('/') {
                Some((namespace, name)) => (namespace, name),
                None => ("", answer["objname"].as_str().unwrap()),
            };
            with_namespace += usize::from(!namespace.is_empty());

            let hash = pool.hash_object(namespace, "", name);
            assert_eq!(parse_pg(answer["raw_pgid"].as_str().unwrap()).seed, hash, "{line}");
            assert_eq!(pool.hash_object(namespace, name, "unused"), hash, "the key replaces the name");
            let pg = pool.raw_to_pg(hash);
            assert_eq!(parse_pg(answer["pgid"].as_str().unwrap()), pg, "{line}");
            let placement = map.placement(pg);
            assert_eq!(parse_osds(&answer["up"].to_string()), placement.up, "{line}");
            assert_eq!(parse_osds(&answer["acting"].to_string()), placement.acting, "{line}");
            let primary = |key: &str| answer[key].as_i64().map(|osd| OsdId(osd.try_into().unwrap()));
            assert_eq!(primary("up_primary"), placement.up_primary, "{line}");
            assert_eq!(primary("acting_primary"), placement.acting_primary, "{line}");
            let shard = placement.primary_shard();
            match pool.kind {
                PoolKind::Replicated => assert_eq!(shard, ShardId::NONE),
                PoolKind::Erasure => {
                    let place = usize::try_from(shard.0).unwrap();
                    assert_eq!(Some(placement.acting[place]), placement.acting_primary);
                }
            }
        }
        assert_eq!((answers.lines().count(), with_namespace), (82, 18), "{release}");
    }
}

#[test]
fn objects_are_placed_as_osdmaptool_does() {
    for release in RELEASES {
        for path in maps_in(&format!("{release}/live")) {
            let map = load(&path);
            let listing = fs::read_to_string(path.with_extension("objects.txt")).unwrap();
            for line in listing.lines() {
                // " object 'foo' -> 2.6 -> [3,2,9]"
                let (rest, osds) = line.rsplit_once(" -> ").unwrap();
                let (object, pg) = rest.rsplit_once(" -> ").unwrap();
                let name = object.trim().strip_prefix("object '").unwrap().strip_suffix('\'').unwrap();
                let pg = parse_pg(pg);
                let pool = map.pool(pg.pool).unwrap();
                assert_eq!(pool.raw_to_pg(pool.hash_object("", "", name)), pg, "{line}");
                assert_eq!(map.placement(pg).acting, parse_osds(osds), "{line}");
            }
            assert_eq!(listing.lines().count(), 32, "{}", path.display());
        }
    }
}

#[test]
fn fields_are_those_that_osdmaptool_prints() {
    for release in RELEASES {
        for path in maps_in(&format!("{release}/live")) {
            let json = path.with_extension("json.gz");
            // Ceph 20.2.4 crashes when it prints this one.
            if release == "tentacle" && path.ends_with("06-osd7-down.osdmap") {
                assert!(!json.exists());
                continue;
            }
            check_fields(&load(&path), &serde_json::from_str(&gunzip(&json)).unwrap());
        }
    }
}

fn check_fields(map: &OsdMap, json: &Value) {
    assert_eq!(u64::from(map.epoch().0), json["epoch"].as_u64().unwrap());
    assert_eq!(map.fsid().to_string(), json["fsid"].as_str().unwrap());
    assert_eq!(u64::from(map.flags().0), json["flags_num"].as_u64().unwrap());
    let ratios = map.full_ratios();
    for (ratio, key) in [
        (ratios.full, "full_ratio"),
        (ratios.nearfull, "nearfull_ratio"),
        (ratios.backfillfull, "backfillfull_ratio"),
    ] {
        assert!((f64::from(ratio) - json[key].as_f64().unwrap()).abs() < 1e-6, "{key}");
    }

    let pools = json["pools"].as_array().unwrap();
    assert_eq!(pools.len(), map.pools().count());
    for (pool, json) in map.pools().zip(pools) {
        let number = |key: &str| match &json[key] {
            Value::String(text) => text.parse().unwrap(),
            value => value.as_i64().unwrap_or_else(|| panic!("{key} of {json}")),
        };
        let tier = |tier: Option<PoolId>| tier.map_or(-1, |pool| pool.0);
        assert_eq!(pool.id.0, number("pool"));
        assert_eq!(pool.name, json["pool_name"].as_str().unwrap());
        assert_eq!(i64::from(pool.size), number("size"));
        assert_eq!(i64::from(pool.min_size), number("min_size"));
        assert_eq!(i64::from(pool.crush_rule), number("crush_rule"));
        assert_eq!(i64::from(pool.pg_num), number("pg_num"));
        assert_eq!(i64::from(pool.pgp_num), number("pg_placement_num"));
        assert_eq!(i64::from(pool.pg_num_pending), number("pg_num_pending"));
        assert_eq!(i64::from(pool.last_change.0), number("last_change"));
        assert_eq!(i64::from(pool.last_force_op_resend.0), number("last_force_op_resend"));
        assert_eq!(pool.flags.0.cast_signed(), number("flags"));
        assert_eq!(pool.quota_max_bytes.cast_signed(), number("quota_max_bytes"));
        assert_eq!(pool.quota_max_objects.cast_signed(), number("quota_max_objects"));
        assert_eq!(pool.snap_seq.0.cast_signed(), number("snap_seq"));
        assert_eq!(i64::from(pool.stripe_width), number("stripe_width"));
        assert_eq!(tier(pool.tier_of), number("tier_of"));
        assert_eq!(tier(pool.read_tier), number("read_tier"));
        assert_eq!(tier(pool.write_tier), number("write_tier"));
        assert_eq!(pool.erasure_code_profile, json["erasure_code_profile"].as_str().unwrap());
        let applications: Vec<&String> = json["application_metadata"].as_object().unwrap().keys().collect();
        assert_eq!(pool.applications.keys().collect::<Vec<_>>(), applications);
        let snaps = json["pool_snaps"].as_array().unwrap();
        assert_eq!(pool.snaps.values().map(|s| s.name.as_str()).collect::<Vec<_>>(), {
            snaps.iter().map(|s| s["name"].as_str().unwrap()).collect::<Vec<_>>()
        });
        if let Some(shards) = json["nonprimary_shards"].as_str() {
            let ours: Vec<String> =
                (0..128).filter(|&s| pool.nonprimary_shards.contains(s)).map(|s| s.to_string()).collect();
            assert_eq!(ours.join(","), shards.trim_matches(['{', '}']));
        }
    }

    for json in json["osds"].as_array().unwrap() {
        let osd = OsdId(json["osd"].as_i64().unwrap().try_into().unwrap());
        assert!(map.exists(osd));
        assert_eq!(map.is_up(osd), json["up"] == 1, "osd.{osd}");
        let weight = f64::from(map.osd_weight(osd).unwrap()) / 65536.0;
        assert!((weight - json["weight"].as_f64().unwrap()).abs() < 1e-4);
        let json_addrs = json["public_addrs"]["addrvec"].as_array().unwrap();
        let addrs = map.osd_addrs(osd).map_or(&[][..], |addrs| &addrs.0);
        let text: Vec<String> = addrs.iter().map(ToString::to_string).collect();
        let json_text: Vec<String> = json_addrs
            .iter()
            .map(|a| {
                format!("{}:{}/{}", a["type"].as_str().unwrap(), a["addr"].as_str().unwrap(), a["nonce"])
            })
            .collect();
        assert_eq!(text, json_text);
    }
    let addresses = |key: &str| {
        let mut keys: Vec<String> =
            json[key].as_object().into_iter().flat_map(|o| o.keys().cloned()).collect();
        keys.sort();
        keys
    };
    let mut exact: Vec<String> = map.blocklist().exact().map(|(addr, _)| addr.to_string()).collect();
    exact.sort();
    assert_eq!(exact, addresses("blocklist"));
    let ranges: Vec<String> = map.blocklist().ranges().map(|(addr, _)| addr.to_string()).collect();
    assert_eq!(ranges, addresses("range_blocklist"));
}

#[test]
fn flags_and_blocklist_of_a_paused_cluster_are_seen() {
    for release in RELEASES {
        let map = load(&testdata(&format!("{release}/live/05-flags-blocklist.osdmap")));
        assert!(map.flags().contains(MapFlags::PAUSE_RD | MapFlags::PAUSE_WR));
        assert!(!map.flags().intersects(MapFlags::FULL));
        let client = |addr: &str, nonce| EntityAddr {
            kind: AddrType::MSGR2,
            nonce,
            addr: Some(addr.parse().unwrap()),
        };
        assert!(map.is_blocklisted(&client("10.1.2.3:0", 12345)));
        assert!(!map.is_blocklisted(&client("10.1.2.3:0", 12346)));
        assert!(map.is_blocklisted(&client("10.9.200.3:6789", 1)));
        assert!(!map.is_blocklisted(&client("10.10.0.1:0", 1)));
    }
    let map = load(&testdata("tentacle/live/05-flags-blocklist.osdmap"));
    let optimized: Vec<_> = map.pools().filter(|p| p.flags.contains(PoolFlags::EC_OPTIMIZATIONS)).collect();
    assert!(!optimized.is_empty());
    assert!(optimized.iter().all(|pool| pool.nonprimary_shards.0 != 0));
}

#[test]
fn a_changed_byte_is_noticed() {
    let bytes = fs::read(testdata("pacific/live/06-osd7-down.osdmap")).unwrap();
    for at in (0..bytes.len()).step_by(97) {
        let mut changed = bytes.clone();
        changed[at] ^= 0x10;
        assert!(OsdMap::decode(&changed).is_err(), "byte {at}");
    }
}
