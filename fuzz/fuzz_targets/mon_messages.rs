//! Whatever a monitor sends as a message: it is decoded or refused.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = rados::decode_recorded_message(&Bytes::copy_from_slice(data));
});
