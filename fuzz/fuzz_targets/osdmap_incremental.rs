//! Whatever a monitor sends as incremental OSDMap: no panic, and one that is refused changes nothing.
#![no_main]

use std::sync::LazyLock;

use ceph_codec::{DecodeError, Epoch, PgId};
use ceph_osdmap::{Incremental, OsdMap};
use libfuzzer_sys::fuzz_target;

static BASE: LazyLock<OsdMap> = LazyLock::new(|| {
    let bytes = include_bytes!("../corpus/osdmap/tentacle-04-ec-optimizations");
    OsdMap::decode(bytes).expect("the seed is a map")
});

fuzz_target!(|data: &[u8]| {
    let Some(mut inc) = decode(data) else { return };
    let mut map = BASE.clone();
    inc.fsid = map.fsid();
    inc.epoch = Epoch(map.epoch().0 + 1);
    if map.apply(inc).is_err() {
        assert_eq!(map, *BASE);
        return;
    }
    for pool in map.pools().take(3) {
        let _ = map.placement(PgId { pool: pool.id, seed: 1 });
    }
});

/// The fuzzer cannot guess checksums, so they are put right. That of the resulting full map follows and is not
/// checked.
fn decode(data: &[u8]) -> Option<Incremental> {
    match Incremental::decode(data) {
        Err(DecodeError::BadCrc { actual, .. }) => {
            let (body, full_crc) = data.split_last_chunk::<4>()?;
            let (body, _) = body.split_last_chunk::<4>()?;
            Incremental::decode(&[body, &actual.to_le_bytes(), full_crc].concat()).ok()
        }
        result => result.ok(),
    }
}
