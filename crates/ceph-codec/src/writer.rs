//! Writing: values append themselves to a `Vec<u8>`.

use std::collections::{BTreeMap, BTreeSet};

/// A type that can be written to Ceph's wire. Writing cannot fail.
pub trait Encode {
    /// Appends the value to `out`.
    fn encode(&self, out: &mut Vec<u8>);

    /// The value alone in a new buffer.
    fn encode_to_vec(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }
}

/// Appends a versioned struct; see [`Reader::versioned`](crate::Reader::versioned) for the picture.
///
/// `compat` is the oldest version whose readers understand these fields.
///
/// Ceph: `ENCODE_START`, `ENCODE_FINISH` in `src/include/encoding.h`.
pub fn versioned(out: &mut Vec<u8>, version: u8, compat: u8, fields: impl FnOnce(&mut Vec<u8>)) {
    out.extend([version, compat, 0, 0, 0, 0]);
    let start = out.len();
    fields(out);
    let len = wire_len(out.len() - start).to_le_bytes();
    out[start - 4..start].copy_from_slice(&len);
}

/// Appends a `u32` length and the bytes: Ceph's `string` and `bufferlist`.
pub fn encode_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    wire_len(bytes.len()).encode(out);
    out.extend_from_slice(bytes);
}

/// Appends a `u32` count and the elements: Ceph's `vector`, `list` and `set`.
pub fn encode_seq<'a, T: Encode + 'a>(items: impl ExactSizeIterator<Item = &'a T>, out: &mut Vec<u8>) {
    wire_len(items.len()).encode(out);
    for item in items {
        item.encode(out);
    }
}

fn wire_len(len: usize) -> u32 {
    u32::try_from(len).expect("nothing this side encodes reaches 4 GiB")
}

macro_rules! scalar {
    ($($t:ty),*) => {$(
        impl Encode for $t {
            fn encode(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}
scalar!(u8, u16, u32, u64, i8, i16, i32, i64);

impl Encode for bool {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
}

impl Encode for str {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_bytes(self.as_bytes(), out);
    }
}

impl Encode for String {
    fn encode(&self, out: &mut Vec<u8>) {
        self.as_str().encode(out);
    }
}

impl Encode for Vec<u8> {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_bytes(self, out);
    }
}

impl<T: Encode + ?Sized> Encode for &T {
    fn encode(&self, out: &mut Vec<u8>) {
        (**self).encode(out);
    }
}

impl<A: Encode, B: Encode> Encode for (A, B) {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
        self.1.encode(out);
    }
}

impl<T: Encode> Encode for Option<T> {
    fn encode(&self, out: &mut Vec<u8>) {
        self.is_some().encode(out);
        if let Some(value) = self {
            value.encode(out);
        }
    }
}

impl<K: Encode, V: Encode> Encode for BTreeMap<K, V> {
    fn encode(&self, out: &mut Vec<u8>) {
        wire_len(self.len()).encode(out);
        for (key, value) in self {
            key.encode(out);
            value.encode(out);
        }
    }
}

impl<T: Encode> Encode for BTreeSet<T> {
    fn encode(&self, out: &mut Vec<u8>) {
        encode_seq(self.iter(), out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Decode, Reader};
    use proptest::prelude::*;

    #[test]
    fn a_versioned_struct_carries_its_length() {
        let mut out = vec![0xaa];
        versioned(&mut out, 3, 1, |out| 0x0102_0304u32.encode(out));
        assert_eq!(out, [0xaa, 3, 1, 4, 0, 0, 0, 4, 3, 2, 1]);
    }

    proptest! {
        #[test]
        fn maps_come_back(map: BTreeMap<u64, String>) {
            let wire = map.encode_to_vec();
            let mut r = Reader::new(&wire);
            prop_assert_eq!(BTreeMap::decode(&mut r), Ok(map));
            prop_assert!(r.is_empty());
        }
    }
}
