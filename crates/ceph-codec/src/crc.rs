//! CRC32C as Ceph uses it: the raw register with an explicit seed, never inverted.

/// CRC32C of `data` continuing from `seed`, without the initial and final inversions of the usual definition.
///
/// Ceph: `ceph_crc32c` in `src/include/crc32c.h`.
#[must_use]
pub fn crc32c(seed: u32, data: &[u8]) -> u32 {
    // The crate inverts before and after; doing it again leaves the raw register.
    !crc32c::crc32c_append(!seed, data)
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
    fn zeros_need_no_buffer() {
        assert_eq!(crc32c_zeros(7, 10_000), crc32c(7, &[0; 10_000]));
    }
}
