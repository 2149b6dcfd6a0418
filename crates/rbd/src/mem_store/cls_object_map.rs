//! The methods `object_map_*` of the object class `rbd`.
//!
//! Ceph: `src/cls/rbd/cls_rbd.cc`; the stored form is `BitVector` in `src/common/bit_vector.hpp`.

use ceph_codec::{Decode, DecodeError, Encode, Reader, crc32c, encode_bytes, versioned};
use rados::Errno;

use super::object::Object;

/// A data block has a checksum of its own.
const BLOCK: usize = 4096;
/// Ceph: `MAX_OBJECT_MAP_OBJECT_COUNT`.
const MAX_OBJECTS: u64 = 256_000_000;
pub(super) const EXISTS: u8 = 1;
pub(super) const EXISTS_CLEAN: u8 = 3;

/// Two bits for each object; the first has the highest bits of its byte.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct States(pub(super) Vec<u8>);

pub(super) fn call(object: &mut Object, method: &str, input: &[u8]) -> Result<Vec<u8>, Errno> {
    let invalid = |_: DecodeError| Errno::EINVAL;
    let r = &mut Reader::new(input);
    let mut states = States::load(object);
    match method {
        "object_map_load" => return states.map(|states| states.encoded(false)),
        "object_map_save" => states = States::decode_from(input).map_err(invalid),
        "object_map_resize" => {
            let (count, default) = (u64::decode(r).map_err(invalid)?, u8::decode(r).map_err(invalid)?);
            if count > MAX_OBJECTS {
                return Err(Errno::EINVAL);
            }
            let count = usize::try_from(count).map_err(|_| Errno::EINVAL)?;
            let mut resized = states.unwrap_or_default();
            if resized.0.iter().skip(count).any(|state| *state != default) {
                return Err(Errno(116)); // ESTALE
            }
            resized.0.resize(count, default);
            states = Ok(resized);
        }
        "object_map_update" => {
            let (start, end) = <(u64, u64)>::decode(r).map_err(invalid)?;
            let (new, current) = <(u8, Option<u8>)>::decode(r).map_err(invalid)?;
            let all = states.as_mut().map_err(|errno| *errno)?;
            if start >= end || end > all.0.len() as u64 {
                return Err(Errno::ERANGE);
            }
            let range = usize::try_from(start).map_err(|_| Errno::ERANGE)?
                ..usize::try_from(end).map_err(|_| Errno::ERANGE)?;
            for state in &mut all.0[range] {
                let clean = current == Some(EXISTS) && *state == EXISTS_CLEAN;
                if current.is_none_or(|current| *state == current || clean) {
                    *state = new;
                }
            }
        }
        "object_map_snap_remove" => {
            let before = States::decode_from(input).map_err(invalid)?;
            states = states.map(|states| states.without_snapshot(&before));
        }
        "object_map_snap_add" => states = states.map(States::after_snapshot),
        _ => return Err(Errno::EOPNOTSUPP),
    }
    object.exists = true;
    object.data = states?.encoded(true);
    Ok(Vec::new())
}

impl States {
    pub(super) fn load(object: &Object) -> Result<Self, Errno> {
        object.must_exist()?;
        if object.data.is_empty() {
            return Err(Errno::ENOENT);
        }
        Self::decode_from(&object.data).map_err(|_| Errno::EINVAL)
    }

    /// What exists has not changed since the snapshot that was just taken.
    pub(super) fn after_snapshot(mut self) -> Self {
        for state in &mut self.0 {
            if *state == EXISTS {
                *state = EXISTS_CLEAN;
            }
        }
        self
    }

    /// What was written before the snapshot that was just removed, which had the states `before`, has been written since
    /// the one before it.
    fn without_snapshot(mut self, before: &Self) -> Self {
        for (number, state) in self.0.iter_mut().enumerate() {
            if *state == EXISTS_CLEAN && before.0.get(number).is_none_or(|state| *state == EXISTS) {
                *state = EXISTS;
            }
        }
        self
    }

    /// As stored, with checksums, or as `object_map_load` returns it, without.
    pub(super) fn encoded(&self, checksums: bool) -> Vec<u8> {
        let mut header = Vec::new();
        versioned(&mut header, 1, 1, |out| (self.0.len() as u64).encode(out));
        let data: Vec<u8> = self
            .0
            .chunks(4)
            .map(|four| four.iter().zip([6, 4, 2, 0]).fold(0, |byte, (state, shift)| byte | state << shift))
            .collect();
        let mut footer = Vec::new();
        if checksums {
            crc32c(0, &header).encode(&mut footer);
            let crcs: Vec<u32> = data.chunks(BLOCK).map(|block| crc32c(0, block)).collect();
            ceph_codec::encode_seq(crcs.iter(), &mut footer);
        }
        let mut out = Vec::new();
        encode_bytes(&header, &mut out);
        out.extend_from_slice(&data);
        encode_bytes(&footer, &mut out);
        out
    }
}

impl Decode for States {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let what = "object map";
        let header = r.bytes(what)?;
        let count = Reader::new(header).versioned(what, 1, |r, _| u64::decode(r))?;
        let impossible = DecodeError::Invalid { what, value: count };
        let count = usize::try_from(count).map_err(|_| impossible.clone())?;
        let data = r.take(what, count.div_ceil(4))?;
        let footer = r.bytes(what)?;
        if !footer.is_empty() {
            let r = &mut Reader::new(footer);
            let mut crcs = vec![(u32::decode(r)?, crc32c(0, header))];
            let stored = r.seq(what, u32::decode)?;
            if stored.len() != data.len().div_ceil(BLOCK) {
                return Err(impossible);
            }
            crcs.extend(stored.into_iter().zip(data.chunks(BLOCK).map(|block| crc32c(0, block))));
            if let Some((expected, actual)) = crcs.into_iter().find(|(stored, computed)| stored != computed) {
                return Err(DecodeError::BadCrc { what, actual, expected });
            }
        }
        let states = (0..count).map(|i| data[i / 4] >> (6 - 2 * (i % 4)) & 3).collect();
        Ok(Self(states))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_map_looks_as_on_pacific() {
        let states = States(vec![0; 16]);
        assert_eq!(states.encoded(false), include_bytes!("../../testdata/16.2.15/cls_rbd/object_map_load"));
        // `rados get rbd_object_map.ID` of the same map.
        let stored = [
            0x0e, 0, 0, 0, 1, 1, 8, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x0c, 0, 0, 0, 0xe6, 0xb3,
            0xc1, 0x6e, 1, 0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(states.encoded(true), stored);
        assert_eq!(States::decode_from(&stored), Ok(states));
    }

    #[test]
    fn a_damaged_map_is_noticed() {
        let mut stored = States(vec![1; 16]).encoded(true);
        stored[19] ^= 1;
        assert!(States::decode_from(&stored).is_err());
    }
}
