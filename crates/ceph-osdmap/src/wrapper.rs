//! The envelope that full and incremental maps share.

use ceph_codec::{Decode, DecodeError, Reader, crc32c};

/// Reads a map in its envelope and checks its checksum.
///
/// ```text
/// u8 version | u8 compat | u32 len | client section | OSD section | u32 crc | ...
///                                                                  ^ of all bytes but these
/// ```
/// `sections` reads both sections and nothing else.
///
/// # Errors
/// What `sections` returns; [`DecodeError::BadCrc`]; [`DecodeError::TooOld`] for encodings from before 2013.
///
/// Ceph: `OSDMap::decode`, `OSDMap::Incremental::decode` in `src/osd/OSDMap.cc`.
pub(crate) fn decode<'a, T>(
    bytes: &'a [u8],
    what: &'static str,
    sections: impl FnOnce(&mut Reader<'a>) -> Result<T, DecodeError>,
) -> Result<T, DecodeError> {
    // Older versions have no envelope, hence no length that `versioned` could read.
    if let Some(&version) = bytes.first()
        && version < OLDEST
    {
        return Err(DecodeError::TooOld { what, version, oldest: OLDEST });
    }
    let r = &mut Reader::new(bytes);
    let (value, crc) = r.versioned(what, KNOWN, |r, version| {
        let value = sections(r)?;
        let crc = if version >= 8 { Some((r.remaining(), u32::decode(r)?)) } else { None };
        Ok((value, crc))
    })?;
    if let Some((from_end, expected)) = crc {
        let whole = &bytes[..bytes.len() - r.remaining()];
        let (before, rest) = whole.split_at(whole.len() - from_end);
        let actual = crc32c(crc32c(u32::MAX, before), &rest[4..]);
        if actual != expected {
            return Err(DecodeError::BadCrc { what, actual, expected });
        }
    }
    Ok(value)
}

const OLDEST: u8 = 7;
const KNOWN: u8 = 8;

/// Reads elements that clients have no use for.
pub(crate) fn skip_seq<T: Decode>(r: &mut Reader<'_>, what: &'static str) -> Result<(), DecodeError> {
    r.seq(what, |r| T::decode(r).map(drop)).map(drop)
}

/// Reads a map that clients have no use for.
pub(crate) fn skip_map<K: Decode, V: Decode>(
    r: &mut Reader<'_>,
    what: &'static str,
) -> Result<(), DecodeError> {
    skip_seq::<(K, V)>(r, what)
}

/// A single precision number. Ceph: `encode(float)` in `src/include/encoding.h`.
pub(crate) fn f32(r: &mut Reader<'_>) -> Result<f32, DecodeError> {
    u32::decode(r).map(f32::from_bits)
}
