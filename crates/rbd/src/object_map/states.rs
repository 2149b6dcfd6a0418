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
use ceph_codec::{Decode, DecodeError, Reader, crc32c};

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

    /// Changes those of the objects that are in the expected state.
    pub(crate) fn change(&mut self, objects: Range<u64>, new: ObjectState, expected: Option<ObjectState>) {
        for at in self.slots(objects) {
            if self.load(at).is_as_expected(expected) {
                self.bits[at..at + BITS].store_be(new as u8);
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
