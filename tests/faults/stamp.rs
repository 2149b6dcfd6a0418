//! What a block holds, so that its bytes alone tell which write they come from.
//!
//! ```text
//!  a block:  8 sectors of 512 bytes, each
//!  +-------+--------------+--------+------------------+----------+---------------------------+
//!  | magic | block number | writer | sequence, sector | checksum | words made from the above |
//!  +-------+--------------+--------+------------------+----------+---------------------------+
//! ```

use crate::common::random::mix;

/// Bytes in a block, the unit in which contents are checked.
pub(crate) const BLOCK: usize = 4096;
const SECTOR: usize = 512;
const WORD: usize = 8;
const MAGIC: u64 = u64::from_le_bytes(*b"FAULTBLK");

/// Which write wrote a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) block: u64,
    /// The connection that sent it.
    pub(crate) writer: u64,
    /// Number of the write, unique among all writes to the image.
    pub(crate) sequence: u64,
}

/// What the bytes of a block turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    Zeroes,
    Stamped(Stamp),
    /// Every sector is whole, but they do not belong together.
    Torn,
    /// Not anything that was ever written.
    Garbage,
}

impl Stamp {
    pub(crate) fn fill(self, block: &mut [u8]) {
        for (number, sector) in block.chunks_exact_mut(SECTOR).enumerate() {
            for (word, value) in sector.chunks_exact_mut(WORD).zip(self.sector(number as u64)) {
                word.copy_from_slice(&value.to_le_bytes());
            }
        }
    }

    /// The words of one of its sectors.
    fn sector(self, number: u64) -> [u64; SECTOR / WORD] {
        let place = self.sequence << 8 | number;
        let checksum = mix(mix(mix(self.block) ^ self.writer) ^ place);
        let mut words = [0; SECTOR / WORD];
        words[..5].copy_from_slice(&[MAGIC, self.block, self.writer, place, checksum]);
        for (word, n) in words[5..].iter_mut().zip(1..) {
            *word = checksum.wrapping_mul(2 * n + 1);
        }
        words
    }
}

impl Content {
    pub(crate) fn of(block: &[u8]) -> Self {
        let mut sectors =
            block.chunks_exact(SECTOR).enumerate().map(|(number, bytes)| sector(number as u64, bytes));
        let first = sectors.next().expect("a block has sectors");
        let rest: Vec<Self> = sectors.collect();
        if first == Self::Garbage || rest.contains(&Self::Garbage) {
            Self::Garbage
        } else if rest.iter().all(|content| *content == first) {
            first
        } else {
            Self::Torn
        }
    }
}

fn sector(number: u64, bytes: &[u8]) -> Content {
    let mut words = [0; SECTOR / WORD];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(WORD)) {
        *word = u64::from_le_bytes(bytes.try_into().expect("8 bytes"));
    }
    if words == [0; SECTOR / WORD] {
        return Content::Zeroes;
    }
    let [_magic, block, writer, place, ..] = words;
    let stamp = Stamp { block, writer, sequence: place >> 8 };
    if words == stamp.sector(number) { Content::Stamped(stamp) } else { Content::Garbage }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { block: 7, writer: 2, sequence: 99 };

    fn stamped(stamp: Stamp) -> Vec<u8> {
        let mut block = vec![0; BLOCK];
        stamp.fill(&mut block);
        block
    }

    #[test]
    fn a_block_tells_who_wrote_it() {
        assert_eq!(Content::of(&stamped(STAMP)), Content::Stamped(STAMP));
        assert_eq!(Content::of(&[0; BLOCK]), Content::Zeroes);
    }

    #[test]
    fn any_changed_bit_is_noticed() {
        for bit in (0..BLOCK * 8).step_by(61) {
            let mut block = stamped(STAMP);
            block[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Content::of(&block), Content::Garbage, "bit {bit}");
        }
    }

    #[test]
    fn a_block_of_two_writes_is_torn() {
        let newer = stamped(Stamp { sequence: 100, ..STAMP });
        for cut in (SECTOR..BLOCK).step_by(SECTOR) {
            let mut block = stamped(STAMP);
            block[cut..].copy_from_slice(&newer[cut..]);
            assert_eq!(Content::of(&block), Content::Torn);
            block[cut..].fill(0);
            assert_eq!(Content::of(&block), Content::Torn);
        }
    }

    #[test]
    fn sectors_in_another_order_are_garbage() {
        let mut block = stamped(STAMP);
        block.rotate_left(SECTOR);
        assert_eq!(Content::of(&block), Content::Garbage);
    }
}
