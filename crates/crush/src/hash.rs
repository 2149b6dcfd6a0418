//! Robert Jenkins' 32-bit mix, the source of all of CRUSH's randomness.
//!
//! Ceph: `crush_hash32_rjenkins1*` in `src/crush/hash.c`; the mix is from
//! <http://burtleburtle.net/bob/hash/evahash.html>.

const SEED: u32 = 1_315_423_911;
const X: u32 = 231_232;
const Y: u32 = 1232;

/// Mixes three words reversibly. Also the core of the hash of object names.
#[must_use]
pub const fn mix(mut a: u32, mut b: u32, mut c: u32) -> (u32, u32, u32) {
    a = a.wrapping_sub(b).wrapping_sub(c) ^ (c >> 13);
    b = b.wrapping_sub(c).wrapping_sub(a) ^ (a << 8);
    c = c.wrapping_sub(a).wrapping_sub(b) ^ (b >> 13);
    a = a.wrapping_sub(b).wrapping_sub(c) ^ (c >> 12);
    b = b.wrapping_sub(c).wrapping_sub(a) ^ (a << 16);
    c = c.wrapping_sub(a).wrapping_sub(b) ^ (b >> 5);
    a = a.wrapping_sub(b).wrapping_sub(c) ^ (c >> 3);
    b = b.wrapping_sub(c).wrapping_sub(a) ^ (a << 10);
    c = c.wrapping_sub(a).wrapping_sub(b) ^ (b >> 15);
    (a, b, c)
}

/// Hash of one word.
#[must_use]
pub const fn hash1(a: u32) -> u32 {
    let (_, _, hash) = mix(a, X, SEED ^ a);
    let (_, _, hash) = mix(Y, a, hash);
    hash
}

/// Hash of two words.
#[must_use]
pub const fn hash2(a: u32, b: u32) -> u32 {
    let (a, b, hash) = mix(a, b, SEED ^ a ^ b);
    let (_, _, hash) = mix(X, a, hash);
    let (_, _, hash) = mix(b, Y, hash);
    hash
}

/// Hash of three words.
#[must_use]
pub const fn hash3(a: u32, b: u32, c: u32) -> u32 {
    let (a, b, hash) = mix(a, b, SEED ^ a ^ b ^ c);
    let (c, x, hash) = mix(c, X, hash);
    let (y, _, hash) = mix(Y, a, hash);
    let (_, _, hash) = mix(b, x, hash);
    let (_, _, hash) = mix(y, c, hash);
    hash
}

/// Hash of four words.
#[must_use]
pub const fn hash4(a: u32, b: u32, c: u32, d: u32) -> u32 {
    let (a, b, hash) = mix(a, b, SEED ^ a ^ b ^ c ^ d);
    let (c, d, hash) = mix(c, d, hash);
    let (_, x, hash) = mix(a, X, hash);
    let (y, _, hash) = mix(Y, b, hash);
    let (_, _, hash) = mix(c, x, hash);
    let (_, _, hash) = mix(y, d, hash);
    hash
}

/// Hash of five words.
#[must_use]
pub const fn hash5(a: u32, b: u32, c: u32, d: u32, e: u32) -> u32 {
    let (a, b, hash) = mix(a, b, SEED ^ a ^ b ^ c ^ d ^ e);
    let (c, d, hash) = mix(c, d, hash);
    let (e, x, hash) = mix(e, X, hash);
    let (y, _, hash) = mix(Y, a, hash);
    let (_, x, hash) = mix(b, x, hash);
    let (y, _, hash) = mix(y, c, hash);
    let (_, _, hash) = mix(d, x, hash);
    let (_, _, hash) = mix(y, e, hash);
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed by `src/crush/hash.c` of Ceph 18.2.7.
    #[test]
    fn every_number_of_words_hashes_as_in_ceph() {
        assert_eq!(hash1(1), 0xd508_2851);
        assert_eq!(hash1(0xdead_beef), 0x711d_6883);
        assert_eq!(hash2(1, 2), 0xb78d_ee9c);
        assert_eq!(hash3(1, 2, 3), 0x735a_d42b);
        assert_eq!(hash4(1, 2, 3, 4), 0x696d_1f16);
        assert_eq!(hash5(1, 2, 3, 4, 5), 0x4b42_a1a1);
        assert_eq!(hash5(0xdead_beef, 0, u32::MAX, 7, 1 << 31), 0x863b_a95f);
    }
}
