//! Whatever an object class returns as metadata of an image, its lock or its object map: it is decoded or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = rbd::decode_metadata(data);
});
