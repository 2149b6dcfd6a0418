//! Whatever a monitor sends as CRUSH map: no panic, and rules end with no more devices than asked for.
#![no_main]

use ceph_codec::Decode;
use crush::CrushMap;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(map) = CrushMap::decode_from(data) else { return };
    let weights = [0x1_0000; 40];
    // Rules with the most steps have the most to get wrong, and one mapping may take long.
    let rules =
        (0u32..).zip(&map.rules).filter_map(|(number, rule)| Some((rule.as_ref()?.steps.len(), number)));
    let mut rules: Vec<_> = rules.collect();
    rules.sort_unstable();
    for &(_, rule) in rules.iter().rev().take(2) {
        let devices = map.map(rule, 17, 5, &weights, Some(3));
        assert!(devices.len() <= 5);
    }
});
