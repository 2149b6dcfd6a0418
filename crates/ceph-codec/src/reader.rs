//! Reading: a cursor over borrowed bytes.

use std::collections::{BTreeMap, BTreeSet};

use crate::DecodeError;

/// A cursor over bytes from a peer. Cheap to make; a nested struct gets one of its own.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

/// A type that can be read from Ceph's wire.
pub trait Decode: Sized {
    /// Reads one value and advances `r` past it.
    ///
    /// # Errors
    /// [`DecodeError`] if the bytes are not such a value; `r` is then somewhere inside it.
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError>;

    /// Reads one value that must fill `bytes` up to its end or be followed by fields unknown here.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    fn decode_from(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::decode(&mut Reader::new(bytes))
    }
}

impl<'a> Reader<'a> {
    /// Starts at the first byte of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Bytes not read yet.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Whether all bytes are read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// What is left, without advancing.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Takes `len` bytes.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] if fewer are left.
    pub fn take(&mut self, what: &'static str, len: usize) -> Result<&'a [u8], DecodeError> {
        let Some((head, rest)) = self.rest.split_at_checked(len) else {
            return Err(DecodeError::Truncated { what, need: len, have: self.rest.len() });
        };
        self.rest = rest;
        Ok(head)
    }

    /// Takes `N` bytes as an array.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] if fewer are left.
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], DecodeError> {
        let Some((head, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(DecodeError::Truncated { what, need: N, have: self.rest.len() });
        };
        self.rest = rest;
        Ok(*head)
    }

    /// Takes a `u32` length and that many bytes: Ceph's `string` and `bufferlist`.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] if the announced length is not there.
    pub fn bytes(&mut self, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let len = self.len(what)?;
        self.take(what, len)
    }

    /// Takes a `u32` length, bounded only by the caller's later [`take`](Self::take).
    fn len(&mut self, what: &'static str) -> Result<usize, DecodeError> {
        let len = u32::from_le_bytes(self.array(what)?);
        usize::try_from(len).map_err(|_| DecodeError::Invalid { what, value: len.into() })
    }

    /// Takes a `u32` length and that many bytes of UTF-8.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] or [`DecodeError::NotUtf8`].
    pub fn str(&mut self, what: &'static str) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(self.bytes(what)?).map_err(|_| DecodeError::NotUtf8 { what })
    }

    /// Takes a `u32` count of elements that need at least `min_element_len` bytes each.
    ///
    /// A count that the remaining bytes cannot hold is refused here, so the result may size an allocation.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] if the count is impossible.
    pub fn count(&mut self, what: &'static str, min_element_len: usize) -> Result<usize, DecodeError> {
        let count = self.len(what)?;
        match count.checked_mul(min_element_len.max(1)) {
            Some(need) if need <= self.rest.len() => Ok(count),
            _ => Err(DecodeError::Invalid { what, value: count as u64 }),
        }
    }

    /// Takes a `u32` count and as many elements.
    ///
    /// # Errors
    /// Those of [`count`](Self::count) and of the elements.
    pub fn seq<T>(
        &mut self,
        what: &'static str,
        mut element: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let count = self.count(what, 1)?;
        // An element in memory may be larger than on the wire: start small, grow with what is really there.
        let mut out = Vec::with_capacity(count.min(1024));
        for _ in 0..count {
            out.push(element(self)?);
        }
        Ok(out)
    }

    /// Takes a `u32` count and as many key-value pairs. A key that comes twice keeps its last value.
    ///
    /// # Errors
    /// Those of [`count`](Self::count) and of the pairs.
    pub fn map<K: Decode + Ord, V>(
        &mut self,
        what: &'static str,
        mut value: impl FnMut(&mut Self) -> Result<V, DecodeError>,
    ) -> Result<BTreeMap<K, V>, DecodeError> {
        let count = self.count(what, 1)?;
        let mut out = BTreeMap::new();
        for _ in 0..count {
            let key = K::decode(self)?;
            out.insert(key, value(self)?);
        }
        Ok(out)
    }

    /// Reads a versioned struct, the envelope that lets old and new Ceph read each other.
    ///
    /// ```text
    ///  0          1               2            6             6 + len
    /// +----------+---------------+------------+--------------+
    /// | struct_v | struct_compat | len le32   | fields ...   |
    /// +----------+---------------+------------+--------------+
    /// ```
    /// `fields` gets a reader that ends with the struct, and `struct_v`; what it leaves unread are fields of
    /// newer versions and is skipped.
    ///
    /// Ceph: `DECODE_START`, `DECODE_FINISH` in `src/include/encoding.h`.
    ///
    /// # Errors
    /// [`DecodeError::TooNew`] if `struct_compat` is above `known`; else what `fields` returns.
    pub fn versioned<T>(
        &mut self,
        what: &'static str,
        known: u8,
        fields: impl FnOnce(&mut Self, u8) -> Result<T, DecodeError>,
    ) -> Result<T, DecodeError> {
        let [version, compat] = self.array(what)?;
        if compat > known {
            return Err(DecodeError::TooNew { what, compat, known });
        }
        let len = self.len(what)?;
        fields(&mut Self::new(self.take(what, len)?), version)
    }
}

macro_rules! scalar {
    ($($t:ty),*) => {$(
        impl Decode for $t {
            fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
                Ok(Self::from_le_bytes(r.array(stringify!($t))?))
            }
        }
    )*};
}
scalar!(u8, u16, u32, u64, i8, i16, i32, i64);

impl Decode for bool {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(u8::decode(r)? != 0)
    }
}

impl Decode for String {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.str("string").map(str::to_owned)
    }
}

impl Decode for Vec<u8> {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.bytes("bytes").map(<[u8]>::to_vec)
    }
}

impl<A: Decode, B: Decode> Decode for (A, B) {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok((A::decode(r)?, B::decode(r)?))
    }
}

impl<T: Decode> Decode for Option<T> {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(if bool::decode(r)? { Some(T::decode(r)?) } else { None })
    }
}

impl<K: Decode + Ord, V: Decode> Decode for BTreeMap<K, V> {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.map("map", V::decode)
    }
}

impl<T: Decode + Ord> Decode for BTreeSet<T> {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(r.seq("set", T::decode)?.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_struct_cannot_read_past_its_own_end() {
        let wire = [1, 1, 2, 0, 0, 0, 7, 8, 9];
        let mut r = Reader::new(&wire);
        let inner = r.versioned("test", 1, |r, _| u32::decode(r));
        assert_eq!(inner, Err(DecodeError::Truncated { what: "u32", need: 4, have: 2 }));
    }

    #[test]
    fn fields_of_newer_versions_are_skipped() {
        let wire = [9, 1, 2, 0, 0, 0, 7, 8, 42];
        let mut r = Reader::new(&wire);
        assert_eq!(r.versioned("test", 1, |r, v| Ok((v, u8::decode(r)?))), Ok((9, 7)));
        assert_eq!(u8::decode(&mut r), Ok(42));
    }

    #[test]
    fn a_struct_for_newer_readers_only_is_refused() {
        let mut r = Reader::new(&[3, 3, 0, 0, 0, 0]);
        let got = r.versioned("test", 2, |_, _| Ok(()));
        assert_eq!(got, Err(DecodeError::TooNew { what: "test", compat: 3, known: 2 }));
    }

    #[test]
    fn an_announced_count_allocates_nothing() {
        let mut r = Reader::new(&[0xff, 0xff, 0xff, 0xff, 1]);
        assert!(r.seq("test", u8::decode).is_err());
    }

    #[test]
    fn an_empty_buffer_is_an_error_for_every_scalar() {
        assert!(u8::decode_from(&[]).is_err());
        assert!(Option::<u8>::decode_from(&[]).is_err());
        assert!(String::decode_from(&[]).is_err());
    }
}
