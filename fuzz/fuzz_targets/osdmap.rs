//! Whatever a monitor sends as OSDMap: no panic, and PGs are placed on OSDs that are up, if anywhere.
#![no_main]

use ceph_codec::{DecodeError, PgId};
use ceph_osdmap::{OSD_NONE, OsdMap, PoolKind};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(map) = decode(data) else { return };
    for pool in map.pools().take(3) {
        let pg = pool.raw_to_pg(pool.hash_object("", "", "rbd_data.1"));
        let placement = map.placement(PgId { pool: pool.id, seed: pg.seed });
        for &osd in placement.up.iter().chain(&placement.acting) {
            assert!(map.is_up(osd) || osd == OSD_NONE && pool.kind == PoolKind::Erasure);
        }
    }
});

/// The fuzzer cannot guess checksums, so they are put right.
fn decode(data: &[u8]) -> Option<OsdMap> {
    match OsdMap::decode(data) {
        Err(DecodeError::BadCrc { actual, .. }) => {
            let (body, _) = data.split_last_chunk::<4>()?;
            OsdMap::decode(&[body, &actual.to_le_bytes()].concat()).ok()
        }
        result => result.ok(),
    }
}
