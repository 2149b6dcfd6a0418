//! Damaged maps end in an error, or in a map that places PGs somewhere, and never in a panic.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::fs;
use std::io::Read;
use std::path::Path;

use ceph_codec::{DecodeError, Epoch, PgId};
use ceph_osdmap::{Incremental, OSD_NONE, OsdMap, PoolKind};
use flate2::read::GzDecoder;
use proptest::prelude::*;

fn testdata(path: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(path)).unwrap()
}

/// The largest incremental maps of the newest release.
fn incrementals() -> Vec<Vec<u8>> {
    let bytes = testdata("tentacle/incremental/incs.tar.gz");
    let mut archive = tar::Archive::new(GzDecoder::new(&bytes[..]));
    let mut all: Vec<Vec<u8>> = archive
        .entries()
        .unwrap()
        .map(|entry| {
            let mut bytes = Vec::new();
            entry.unwrap().read_to_end(&mut bytes).unwrap();
            bytes
        })
        .collect();
    all.sort_by_key(|bytes| std::cmp::Reverse(bytes.len()));
    all.truncate(20);
    all
}

/// Puts the right checksum where the sender's is, `from_end` bytes before the end, if that is all that is wrong.
fn repair<T>(
    bytes: &mut [u8],
    from_end: usize,
    decode: impl Fn(&[u8]) -> Result<T, DecodeError>,
) -> Result<T, DecodeError> {
    match decode(bytes) {
        Err(DecodeError::BadCrc { actual, .. }) => {
            let at = bytes.len() - from_end;
            bytes[at..at + 4].copy_from_slice(&actual.to_le_bytes());
            decode(bytes)
        }
        other => other,
    }
}

fn damage(bytes: &mut [u8], damage: &[(prop::sample::Index, u8)]) {
    for (at, value) in damage {
        let at = at.index(bytes.len());
        bytes[at] = *value;
    }
}

fn place_some(map: &OsdMap) {
    for pool in map.pools().take(6) {
        for seed in [0, u32::MAX] {
            let placement = map.placement(PgId { pool: pool.id, seed });
            for &osd in placement.up.iter().chain(&placement.acting) {
                let hole = pool.kind == PoolKind::Erasure && osd == OSD_NONE;
                assert!(hole || map.is_up(osd), "{osd} of {placement:?}");
            }
        }
        let _ = pool.hash_object("namespace", "", "name");
    }
}

fn some_damage() -> impl Strategy<Value = Vec<(prop::sample::Index, u8)>> {
    prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(250))]

    #[test]
    fn damaged_full_maps_do_no_harm(which in 0usize..3, at in some_damage()) {
        let mut bytes = testdata([
            "tentacle/live/06-osd7-down.osdmap",
            "reef/live/02-upmap-temp-affinity.osdmap",
            "pacific/offline/multi_choose_args.osdmap",
        ][which]);
        damage(&mut bytes, &at);
        if let Ok(map) = repair(&mut bytes, 4, OsdMap::decode) {
            place_some(&map);
        }
    }
}

#[test]
fn damaged_incrementals_do_no_harm() {
    let base = OsdMap::decode(&testdata("tentacle/live/04-ec-optimizations.osdmap")).unwrap();
    let incrementals = incrementals();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(250));
    let cases = (0..incrementals.len(), some_damage());
    runner
        .run(&cases, |(which, at)| {
            let mut bytes = incrementals[which].clone();
            damage(&mut bytes, &at);
            if let Ok(mut inc) = repair(&mut bytes, 8, Incremental::decode) {
                let mut map = base.clone();
                inc.fsid = map.fsid();
                inc.epoch = Epoch(map.epoch().0 + 1);
                if map.apply(inc).is_ok() {
                    place_some(&map);
                } else {
                    prop_assert_eq!(&map, &base, "a refused incremental changes nothing");
                }
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn no_prefix_of_a_map_is_a_map() {
    let full = testdata("tentacle/live/06-osd7-down.osdmap");
    for len in 0..full.len() {
        assert!(OsdMap::decode(&full[..len]).is_err(), "{len} bytes");
    }
    let inc = &incrementals()[0];
    for len in 0..inc.len() {
        assert!(Incremental::decode(&inc[..len]).is_err(), "{len} bytes");
    }
}

#[test]
fn an_incremental_cannot_ask_for_more_osds_than_any_cluster_has() {
    let mut bytes = incrementals().swap_remove(19);
    // Envelopes, fsid, epoch, modified, new_pool_max, new_flags; then the full map, the crush map, new_max_osd.
    let mut at = 6 + 6 + 16 + 4 + 8 + 8 + 4;
    for _ in 0..2 {
        at += 4 + u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    }
    bytes[at..at + 4].copy_from_slice(&i32::MAX.to_le_bytes());
    let error = repair(&mut bytes, 8, Incremental::decode).unwrap_err();
    assert_eq!(error, DecodeError::Invalid { what: "new_max_osd", value: i32::MAX as u64 });
}

#[test]
fn maps_of_releases_without_an_envelope_are_named_too_old() {
    let error = OsdMap::decode(&[6, 0, 1, 2, 3]).unwrap_err();
    assert!(matches!(error, DecodeError::TooOld { version: 6, .. }), "{error}");
}
