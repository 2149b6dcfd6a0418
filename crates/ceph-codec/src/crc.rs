//! CRC32C as Ceph uses it: the raw register with an explicit seed, never inverted.
//!
//! Measured on an AMD EPYC, with 4 KiB in the cache: the crate `crc32c` takes 270 to 350 ns, `crc-fast` 90 to
//! 150 ns; with 1 MiB 81 and 20 µs. Up to 200 bytes both take 15 to 35 ns.

use crc_fast::{CrcAlgorithm, Digest};

/// CRC32C of `data` continuing from `seed`, without the initial and final inversions of the usual definition.
///
/// Ceph: `ceph_crc32c` in `src/include/crc32c.h`.
#[must_use]
pub fn crc32c(seed: u32, data: &[u8]) -> u32 {
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, seed.into());
    digest.update(data);
    // The crate inverts at the end; doing it again leaves the raw register.
    !u32::try_from(digest.finalize()).expect("a CRC of 32 bits")
}

/// CRC32C of `len` zero bytes continuing from `seed`.
#[must_use]
pub fn crc32c_zeros(seed: u32, len: usize) -> u32 {
    const ZEROS: [u8; 4096] = [0; 4096];
    let mut crc = seed;
    let mut left = len;
    while left > 0 {
        let step = left.min(ZEROS.len());
        crc = crc32c(crc, &ZEROS[..step]);
        left -= step;
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of Ceph's own `src/test/common/test_crc32c.cc`.
    #[test]
    fn matches_cephs_test_vectors() {
        assert_eq!(crc32c(0, b"foo bar baz"), 4_119_623_852);
        assert_eq!(crc32c(1234, b"foo bar baz"), 881_700_046);
        assert_eq!(crc32c(0, b"whiz bang boom"), 2_360_230_088);
        assert_eq!(crc32c(5678, b"whiz bang boom"), 3_743_019_208);
    }

    #[test]
    fn pieces_continue_each_other() {
        let data: Vec<u8> = (0..10_000u32).map(|i| i.to_le_bytes()[0]).collect();
        for cut in [0, 1, 15, 255, 256, 4096, 9_999] {
            let (head, tail) = data.split_at(cut);
            assert_eq!(crc32c(crc32c(7, head), tail), crc32c(7, &data), "cut at {cut}");
        }
    }

    #[test]
    fn zeros_need_no_buffer() {
        assert_eq!(crc32c_zeros(7, 10_000), crc32c(7, &[0; 10_000]));
    }
}
