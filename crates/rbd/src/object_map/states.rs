//! The states of all objects of an image, two bits each, as they stand in the object map's object.
//!
//! ```text
//! u32 14 | versioned(1) { number of states le64 }                     header
//! 4 states a byte, the first in the highest bits                      data
//! u32 len | crc of the header | u32 blocks | crc of each 4096 bytes   footer; empty if there are no checksums
//! ```
//! Ceph: `BitVector<2>` in `src/common/bit_vector.hpp`.

use std::ops::Range;

use bitvec::field::BitField;
use bitvec::order::Msb0;
use bitvec::vec::BitVec;
use ceph_codec::{Decode, DecodeError, Encode, Reader, crc32c, encode_bytes, encode_seq, versioned};

/// What is known about an object. Ceph: `OBJECT_*` in `src/include/rbd/object_map_types.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum ObjectState {
    /// There is no such object.
    Nonexistent = 0,
    /// There may be one, written since the last snapshot.
    Exists = 1,
    /// It is being removed.
    Pending = 2,
    /// There may be one, not written since the last snapshot.
    ExistsClean = 3,
}

impl ObjectState {
    const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::Nonexistent,
            1 => Self::Exists,
            2 => Self::Pending,
            _ => Self::ExistsClean,
        }
    }

    /// Whether a change from `self` to `new` has to be written down. Ceph: `ObjectMap::update_required`.
    fn needs_change_to(self, new: Self) -> bool {
        self != new
            && !(new == Self::Pending && self == Self::Nonexistent)
            && !(new == Self::Nonexistent && self != Self::Pending)
    }

    /// Whether an update that expects `expected` changes an object in this state. Ceph: `object_map_update` in
    /// `src/cls/rbd/cls_rbd.cc`.
    fn is_as_expected(self, expected: Option<Self>) -> bool {
        match expected {
            None => true,
            Some(Self::Exists) => matches!(self, Self::Exists | Self::ExistsClean),
            Some(expected) => self == expected,
        }
    }
}

/// The largest map that OSDs take. Ceph: `MAX_OBJECT_MAP_OBJECT_COUNT` in `src/cls/rbd/cls_rbd_types.h`.
pub(crate) const MAX_OBJECTS: u64 = 256_000_000;

const BITS: usize = 2;
const STATES_PER_BYTE: u64 = 4;
const BLOCK: usize = 4096;

/// The states of objects `0..len`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct States {
    bits: BitVec<u8, Msb0>,
}

impl States {
    /// `len` objects, all in the same state.
    pub(crate) fn new(len: u64, state: ObjectState) -> Self {
        let mut states = Self { bits: BitVec::new() };
        states.resize(len, state);
        states
    }

    /// Number of objects.
    pub(crate) fn len(&self) -> u64 {
        (self.bits.len() / BITS) as u64
    }

    /// The state of an object; `None` past the end.
    pub(crate) fn get(&self, object: u64) -> Option<ObjectState> {
        let at = usize::try_from(object).ok()?.checked_mul(BITS)?;
        let bits = self.bits.get(at..at.checked_add(BITS)?)?;
        Some(ObjectState::from_bits(bits.load_be()))
    }

    /// Whether any of the objects has to change its state. Objects past the end do not count.
    pub(crate) fn needs_change(&self, objects: Range<u64>, new: ObjectState) -> bool {
        self.slots(objects).any(|at| self.load(at).needs_change_to(new))
    }

    /// Whether any of the objects is in this state.
    pub(crate) fn contains(&self, objects: Range<u64>, state: ObjectState) -> bool {
        self.slots(objects).any(|at| self.load(at) == state)
    }

    /// Changes those of the objects that are in the expected state.
    pub(crate) fn change(&mut self, objects: Range<u64>, new: ObjectState, expected: Option<ObjectState>) {
        for at in self.slots(objects) {
            if self.load(at).is_as_expected(expected) {
                self.bits[at..at + BITS].store_be(new as u8);
            }
        }
    }

    /// A snapshot was taken: nothing has been written since. Ceph: `object_map_snap_add` in
    /// `src/cls/rbd/cls_rbd.cc`.
    pub(crate) fn clean(&mut self) {
        for at in self.slots(0..self.len()) {
            if self.load(at) == ObjectState::Exists {
                self.bits[at..at + BITS].store_be(ObjectState::ExistsClean as u8);
            }
        }
    }

    /// The snapshot before was removed, which had the states `before`: what had been written for it has been written
    /// since the one before it. Ceph: `object_map_snap_remove` in `src/cls/rbd/cls_rbd.cc`.
    pub(crate) fn merge(&mut self, before: &Self) {
        for object in 0..self.len() {
            let written = before.get(object).is_none_or(|state| state == ObjectState::Exists);
            if written && self.get(object) == Some(ObjectState::ExistsClean) {
                self.change(object..object + 1, ObjectState::Exists, None);
            }
        }
    }

    /// Cuts the map, or grows it with objects in the given state.
    pub(crate) fn resize(&mut self, len: u64, state: ObjectState) {
        let old = self.len();
        let bits = usize::try_from(len.min(MAX_OBJECTS)).expect("bounded by MAX_OBJECTS") * BITS;
        self.bits.resize(bits, false);
        if state != ObjectState::Nonexistent {
            self.change(old..len, state, None);
        }
    }

    /// Positions of the first bits.
    fn slots(&self, objects: Range<u64>) -> impl Iterator<Item = usize> + use<> {
        let len = self.bits.len() / BITS;
        let clip = |object: u64| usize::try_from(object).unwrap_or(len).min(len);
        (clip(objects.start)..clip(objects.end)).map(|object| object * BITS)
    }

    fn load(&self, at: usize) -> ObjectState {
        ObjectState::from_bits(self.bits[at..at + BITS].load_be())
    }
}

impl Decode for States {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let header = r.bytes("object map header")?;
        let len = Reader::new(header).versioned("object map header", 1, |r, _| u64::decode(r))?;
        if len > MAX_OBJECTS {
            return Err(DecodeError::Invalid { what: "size of the object map", value: len });
        }
        let bytes = usize::try_from(len.div_ceil(STATES_PER_BYTE)).expect("bounded by MAX_OBJECTS");
        let data = r.take("object map data", bytes)?;
        let footer = r.bytes("object map footer")?;
        if !footer.is_empty() {
            check(header, data, &mut Reader::new(footer))?;
        }
        let mut bits = BitVec::from_slice(data);
        bits.truncate(usize::try_from(len).expect("bounded by MAX_OBJECTS") * BITS);
        Ok(Self { bits })
    }
}

impl Encode for States {
    /// With checksums, as they are stored.
    fn encode(&self, out: &mut Vec<u8>) {
        let mut header = Vec::new();
        versioned(&mut header, 1, 1, |out| self.len().encode(out));
        encode_bytes(&header, out);
        let mut data = self.bits.clone();
        data.set_uninitialized(false);
        let data = data.into_vec();
        out.extend_from_slice(&data);
        let mut footer = crc32c(0, &header).encode_to_vec();
        let crcs: Vec<u32> = data.chunks(BLOCK).map(|block| crc32c(0, block)).collect();
        encode_seq(crcs.iter(), &mut footer);
        encode_bytes(&footer, out);
    }
}

/// Compares the checksums of a footer.
fn check(header: &[u8], data: &[u8], footer: &mut Reader<'_>) -> Result<(), DecodeError> {
    check_crc("object map header", header, footer)?;
    let blocks = footer.count("object map checksums", size_of::<u32>())?;
    if blocks != data.len().div_ceil(BLOCK) {
        return Err(DecodeError::Invalid { what: "number of object map checksums", value: blocks as u64 });
    }
    data.chunks(BLOCK).try_for_each(|block| check_crc("object map data", block, footer))
}

fn check_crc(what: &'static str, bytes: &[u8], footer: &mut Reader<'_>) -> Result<(), DecodeError> {
    let (expected, actual) = (u32::decode(footer)?, crc32c(0, bytes));
    if expected == actual { Ok(()) } else { Err(DecodeError::BadCrc { what, actual, expected }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hex_literal::hex;
    use proptest::prelude::*;

    const STORED: &[u8] = include_bytes!("../../testdata/16.2.15/object_map/stored");
    const LOADED: &[u8] = include_bytes!("../../testdata/16.2.15/object_map/loaded");

    #[test]
    fn maps_match_ceph_pacific() {
        let stored = States::decode_from(STORED).unwrap();
        assert_eq!(States::decode_from(LOADED).as_ref(), Ok(&stored), "with and without checksums");
        assert_eq!(stored.encode_to_vec(), STORED);
        assert_eq!(stored.len(), 20_000);
        let there: Vec<_> =
            (0..stored.len()).filter(|&no| stored.get(no) != Some(ObjectState::Nonexistent)).collect();
        assert_eq!(there, [0, 5, 16_368, 16_383, 16_384, 19_998, 19_999]);
        for (no, state) in
            [(0, ObjectState::Exists), (5, ObjectState::ExistsClean), (19_999, ObjectState::Exists)]
        {
            assert_eq!(stored.get(no), Some(state));
        }
        assert_eq!(stored.get(20_000), None);
        assert_eq!(stored.get(u64::MAX), None);
    }

    #[test]
    fn the_first_object_is_in_the_highest_bits() {
        let states =
            States::decode_from(&hex!("0e000000 0101 08000000 0400000000000000 1b 00000000")).unwrap();
        let got: Vec<_> = (0..4).map(|no| states.get(no).unwrap() as u8).collect();
        assert_eq!(got, [0, 1, 2, 3]);
    }

    #[test]
    fn a_damaged_map_is_refused() {
        for at in [6, 18, 4200, STORED.len() - 1] {
            let mut damaged = STORED.to_vec();
            damaged[at] ^= 0x10;
            assert!(States::decode_from(&damaged).is_err(), "byte {at}");
        }
    }

    #[test]
    fn an_announced_size_allocates_nothing() {
        let wire = hex!("0e000000 0101 08000000 ffffffffffffffff 00000000");
        assert!(matches!(States::decode_from(&wire), Err(DecodeError::Invalid { .. })));
        let wire = hex!("0e000000 0101 08000000 00a3e10500000000 00000000");
        assert!(matches!(States::decode_from(&wire), Err(DecodeError::Truncated { .. })));
    }

    #[test]
    fn only_changes_that_matter_are_written_down() {
        use ObjectState::{Exists, ExistsClean, Nonexistent, Pending};
        let needs: Vec<_> = [Nonexistent, Exists, Pending, ExistsClean]
            .into_iter()
            .map(|old| [Nonexistent, Exists, Pending].map(|new| old.needs_change_to(new)))
            .collect();
        assert_eq!(
            needs,
            [
                [false, true, false], // nothing there: only a write matters
                [false, false, true], // there: its removal begins with Pending
                [true, true, false],
                [false, true, true], // a write after a snapshot is news
            ]
        );
    }

    fn any_state() -> impl Strategy<Value = ObjectState> {
        (0u8..4).prop_map(ObjectState::from_bits)
    }

    proptest! {
        #[test]
        fn changes_are_those_of_a_plain_list(
            len in 0u64..200,
            first in any_state(),
            changes in prop::collection::vec(
                (0u64..220, 0u64..220, any_state(), prop::option::of(any_state())), 0..20),
        ) {
            let mut states = States::new(len, first);
            let mut list = vec![first; usize::try_from(len).unwrap()];
            for (start, count, new, expected) in changes {
                let slots = || list.iter().enumerate().filter(|(no, _)| (start..start + count).contains(&(*no as u64)));
                prop_assert_eq!(
                    states.needs_change(start..start + count, new),
                    slots().any(|(_, state)| state.needs_change_to(new)));
                states.change(start..start + count, new, expected);
                for (no, state) in list.iter_mut().enumerate() {
                    if (start..start + count).contains(&(no as u64)) && state.is_as_expected(expected) {
                        *state = new;
                    }
                }
            }
            let got: Vec<_> = (0..states.len()).map(|no| states.get(no).unwrap()).collect();
            prop_assert_eq!(got, list);
        }

        #[test]
        fn a_map_comes_back_as_it_was(states in prop::collection::vec(any_state(), 0..100)) {
            let mut map = States::new(states.len() as u64, ObjectState::Exists);
            for (object, state) in (0..).zip(states) {
                map.change(object..object + 1, state, None);
            }
            prop_assert_eq!(States::decode_from(&map.encode_to_vec()), Ok(map));
        }

        #[test]
        fn any_bytes_are_a_map_or_an_error(bytes: Vec<u8>) {
            let _ = States::decode_from(&bytes);
        }

        #[test]
        fn growing_keeps_what_is_there(old in 0u64..100, new in 0u64..100) {
            let mut states = States::new(old, ObjectState::Exists);
            states.resize(new, ObjectState::Pending);
            for no in 0..new {
                let expected = if no < old { ObjectState::Exists } else { ObjectState::Pending };
                prop_assert_eq!(states.get(no), Some(expected));
            }
        }
    }
}
