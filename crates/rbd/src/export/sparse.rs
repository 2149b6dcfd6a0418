//! Finding zeroes.

use bytes::Bytes;

use crate::Segment;

/// Whether it has no other bytes than zeroes.
pub(super) fn is_zero(segment: &Segment) -> bool {
    match segment {
        Segment::Hole(_) => true,
        Segment::Data(data) => all_zero(data),
    }
}

/// Cuts data where blocks of nothing but zeroes begin or end. With blocks of 0 bytes none are looked for.
///
/// Ceph: `calc_sparse_extent` in `src/tools/rbd/Utils.cc`.
pub(super) fn segments(data: &Bytes, block: usize) -> Vec<Segment> {
    if block == 0 {
        return vec![Segment::Data(data.clone())];
    }
    let mut segments = Vec::new();
    let (mut start, mut zero) = (0, false);
    let mut cut = |start: usize, end: usize, zero: bool| {
        if start < end {
            let part = data.slice(start..end);
            segments.push(if zero { Segment::Hole(part.len() as u64) } else { Segment::Data(part) });
        }
    };
    for (at, block) in (0..).step_by(block).zip(data.chunks(block)) {
        let is_zero = all_zero(block);
        if is_zero != zero {
            cut(start, at, zero);
            (start, zero) = (at, is_zero);
        }
    }
    cut(start, data.len(), zero);
    segments
}

fn all_zero(data: &[u8]) -> bool {
    // In pieces, so that it ends early where there are data, and takes many bytes at once where there are none.
    data.chunks(64).all(|piece| piece.iter().fold(0, |bits, byte| bits | byte) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn blocks_of_zeroes_are_holes() {
        let data = Bytes::from_static(b"\0\0ab\0\0\0\0\0c\0");
        let found = segments(&data, 2);
        let expected = [
            Segment::Hole(2),
            Segment::Data(Bytes::from_static(b"ab")),
            Segment::Hole(4),
            Segment::Data(Bytes::from_static(b"\0c")),
            Segment::Hole(1),
        ];
        assert_eq!(found, expected);
        assert_eq!(segments(&data, 0), [Segment::Data(data)]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost(data in prop::collection::vec(0u8..2, 0..300), block in 1usize..70) {
            let found = segments(&data.clone().into(), block);
            let bytes: Vec<u8> = found
                .iter()
                .flat_map(|segment| match segment {
                    Segment::Hole(len) => vec![0; usize::try_from(*len).unwrap()],
                    Segment::Data(data) => data.to_vec(),
                })
                .collect();
            prop_assert_eq!(bytes, data);
            prop_assert!(found.windows(2).all(|two| matches!(
                two, [Segment::Hole(_), Segment::Data(_)] | [Segment::Data(_), Segment::Hole(_)])));
        }
    }
}
