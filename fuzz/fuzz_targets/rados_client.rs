//! Whatever monitors and OSDs say, and when: requests end at most once, and the map only goes forward.
#![no_main]

use libfuzzer_sys::fuzz_target;

static MAP: &[u8] = include_bytes!("../../crates/ceph-osdmap/testdata/pacific/incremental/full_60.osdmap");

fuzz_target!(|script: &[u8]| {
    rados::hostile::play(MAP, script).expect("the map is good");
});
