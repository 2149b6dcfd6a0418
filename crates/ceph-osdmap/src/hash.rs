//! Hashes of object names.

use crush::hash::mix;

/// The function that hashes object names of a pool. Ceph: `CEPH_STR_HASH_*` in `src/include/ceph_hash.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ObjectHash(pub u8);

impl ObjectHash {
    /// That of the Linux dentry cache.
    pub const LINUX: Self = Self(1);
    /// Robert Jenkins', the default.
    pub const RJENKINS: Self = Self(2);

    /// Hashes bytes; an unknown function gives the highest number, as in Ceph.
    ///
    /// Ceph: `ceph_str_hash` in `src/common/ceph_hash.cc`.
    #[must_use]
    pub fn hash(self, bytes: &[u8]) -> u32 {
        match self {
            Self::LINUX => linux(bytes),
            Self::RJENKINS => rjenkins(bytes),
            _ => u32::MAX,
        }
    }
}

fn linux(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0u32, |hash, &byte| {
        let byte = u32::from(byte);
        hash.wrapping_add(byte << 4).wrapping_add(byte >> 4).wrapping_mul(11)
    })
}

fn rjenkins(bytes: &[u8]) -> u32 {
    const GOLDEN_RATIO: u32 = 0x9e37_79b9;
    let (mut a, mut b, mut c) = (GOLDEN_RATIO, GOLDEN_RATIO, 0u32);
    let mut chunks = bytes.chunks_exact(12);
    for chunk in &mut chunks {
        let [x, y, z] = words(chunk);
        (a, b, c) = mix(a.wrapping_add(x), b.wrapping_add(y), c.wrapping_add(z));
    }

    // The low byte of the last word is reserved for the length, so its bytes move up by one.
    let rest = chunks.remainder();
    let mut tail = [0; 12];
    let low = rest.len().min(8);
    tail[..low].copy_from_slice(&rest[..low]);
    tail[9..=rest.len().max(8)].copy_from_slice(&rest[low..]);
    let [x, y, z] = words(&tail);
    let length = u32::try_from(bytes.len() & 0xffff_ffff).expect("masked to 32 bits");
    c = c.wrapping_add(length).wrapping_add(z);
    mix(a.wrapping_add(x), b.wrapping_add(y), c).2
}

fn words(bytes: &[u8]) -> [u32; 3] {
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    [word(0), word(4), word(8)]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Straight from the description at <http://burtleburtle.net/bob/hash/evahash.html>, byte by byte.
    fn reference(bytes: &[u8]) -> u32 {
        let (mut a, mut b, mut c) = (0x9e37_79b9u32, 0x9e37_79b9u32, 0u32);
        let full = bytes.len() / 12 * 12;
        for (i, &byte) in bytes[..full].iter().enumerate() {
            let word = [&mut a, &mut b, &mut c][i % 12 / 4].wrapping_add(u32::from(byte) << (i % 4 * 8));
            *[&mut a, &mut b, &mut c][i % 12 / 4] = word;
            if i % 12 == 11 {
                (a, b, c) = mix(a, b, c);
            }
        }
        c = c.wrapping_add(u32::try_from(bytes.len()).unwrap());
        for (i, &byte) in bytes[full..].iter().enumerate() {
            let byte = u32::from(byte);
            match i {
                0..4 => a = a.wrapping_add(byte << (i * 8)),
                4..8 => b = b.wrapping_add(byte << ((i - 4) * 8)),
                _ => c = c.wrapping_add(byte << ((i - 7) * 8)),
            }
        }
        mix(a, b, c).2
    }

    /// Computed by `src/common/ceph_hash.cc` of Ceph 18.2.7.
    #[test]
    fn names_hash_as_in_ceph() {
        for (name, linux, rjenkins) in [
            ("", 0, 0xbd49_d10d),
            ("foo", 0x0024_db2a, 0x7fc1_f406),
            ("rbd_data.10226b8b4567.0000000000000000", 0xaa02_3d55, 0x87bd_7b9a),
            ("\u{e9}", 0x0006_3cfa, 0xd6f3_1281),
        ] {
            assert_eq!(ObjectHash::LINUX.hash(name.as_bytes()), linux, "{name}");
            assert_eq!(ObjectHash::RJENKINS.hash(name.as_bytes()), rjenkins, "{name}");
        }
        assert_eq!(ObjectHash(9).hash(b"foo"), u32::MAX);
    }

    #[test]
    fn every_length_of_the_tail_is_hashed() {
        let name: Vec<u8> = (0u8..60).map(|i| i.wrapping_mul(37) ^ 0xa5).collect();
        for len in 0..name.len() {
            assert_eq!(rjenkins(&name[..len]), reference(&name[..len]), "length {len}");
        }
    }
}
