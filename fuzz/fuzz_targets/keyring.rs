//! Keyrings and key files, which users write.
#![no_main]

use cephx::{CryptoKey, Keyring};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(keyring) = Keyring::parse(data) {
        for name in keyring.names() {
            assert!(keyring.get(name).is_some());
        }
    }
    let _ = CryptoKey::from_key_file(data);
});
