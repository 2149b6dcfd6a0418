//! Objects: where they live, how they sort, which request touched them.

use std::cmp::Ordering;

use crate::{Decode, DecodeError, Encode, EntityName, PoolId, Reader, SnapId, Tid, encode_bytes, versioned};

/// Where an object lives, apart from its name. Ceph: `object_locator_t` in `src/osd/osd_types.cc`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ObjectLocator {
    /// The pool.
    pub pool: PoolId,
    /// Hashed instead of the name if not empty.
    pub key: String,
    /// Namespace in the pool; empty is the default one.
    pub namespace: String,
    /// A hash that overrides both; used when listing.
    pub hash: Option<i64>,
}

impl ObjectLocator {
    /// An object of `pool` in `namespace`, hashed by its name.
    #[must_use]
    pub fn new(pool: PoolId, namespace: impl Into<String>) -> Self {
        Self { pool, key: String::new(), namespace: namespace.into(), hash: None }
    }
}

const NO_HASH: i64 = -1;

impl Encode for ObjectLocator {
    fn encode(&self, out: &mut Vec<u8>) {
        // A reader that ignored the hash would look on the wrong OSD, so a set hash forbids it.
        let compat = if self.hash.is_some() { 6 } else { 3 };
        versioned(out, 6, compat, |out| {
            self.pool.encode(out);
            (-1i32).encode(out); // preferred OSD, retired
            self.key.encode(out);
            self.namespace.encode(out);
            self.hash.unwrap_or(NO_HASH).encode(out);
        });
    }
}

impl Decode for ObjectLocator {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.versioned("object_locator_t", 6, |r, version| {
            if version < 3 {
                return Err(DecodeError::TooOld { what: "object_locator_t", version, oldest: 3 });
            }
            let pool = PoolId::decode(r)?;
            i32::decode(r)?; // preferred OSD, retired
            let key = String::decode(r)?;
            let namespace = if version >= 5 { String::decode(r)? } else { String::new() };
            let hash = if version >= 6 { i64::decode(r)? } else { NO_HASH };
            Ok(Self { pool, key, namespace, hash: (hash != NO_HASH).then_some(hash) })
        })
    }
}

/// A place in the order in which OSDs sort objects; bounds of a backoff. Names are bytes, as OSDs compare them.
///
/// Ceph: `hobject_t` in `src/common/hobject.h`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HObject {
    /// The locator key, empty if it is the name.
    pub key: Vec<u8>,
    /// The object's name.
    pub name: Vec<u8>,
    /// The snapshot, [`SnapId::HEAD`] for the live object.
    pub snap: SnapId,
    /// The raw hash of the name.
    pub hash: u32,
    /// Sorts after everything else.
    pub max: bool,
    /// Namespace in the pool.
    pub namespace: Vec<u8>,
    /// The pool; `i64::MIN` in the place before all objects.
    pub pool: PoolId,
}

impl HObject {
    /// Before everything. Ceph: `hobject_t()`.
    pub const MIN: Self = Self::bound(false);
    /// After everything. Ceph: `hobject_t::get_max`.
    pub const MAX: Self = Self::bound(true);

    const fn bound(max: bool) -> Self {
        Self {
            key: Vec::new(),
            name: Vec::new(),
            snap: SnapId(0),
            hash: 0,
            max,
            namespace: Vec::new(),
            pool: PoolId(i64::MIN),
        }
    }

    fn effective_key(&self) -> &[u8] {
        if self.key.is_empty() { &self.name } else { &self.key }
    }
}

impl Ord for HObject {
    /// Bitwise order: the hash counts with its bits reversed. Ceph: `cmp` in `src/common/hobject.cc`.
    fn cmp(&self, other: &Self) -> Ordering {
        self.max.cmp(&other.max).then_with(|| {
            if self.max {
                return Ordering::Equal;
            }
            self.pool
                .cmp(&other.pool)
                .then_with(|| self.hash.reverse_bits().cmp(&other.hash.reverse_bits()))
                .then_with(|| self.namespace.cmp(&other.namespace))
                .then_with(|| {
                    if self.key.is_empty() && other.key.is_empty() {
                        return Ordering::Equal;
                    }
                    self.effective_key().cmp(other.effective_key())
                })
                .then_with(|| self.name.cmp(&other.name))
                .then_with(|| self.snap.cmp(&other.snap))
        })
    }
}

impl PartialOrd for HObject {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Decode for HObject {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.versioned("hobject_t", 4, |r, version| {
            if version < 4 {
                return Err(DecodeError::TooOld { what: "hobject_t", version, oldest: 4 });
            }
            Ok(Self {
                key: Vec::decode(r)?,
                name: Vec::decode(r)?,
                snap: SnapId::decode(r)?,
                hash: u32::decode(r)?,
                max: bool::decode(r)?,
                namespace: Vec::decode(r)?,
                pool: PoolId::decode(r)?,
            })
        })
    }
}

impl Encode for HObject {
    fn encode(&self, out: &mut Vec<u8>) {
        versioned(out, 4, 3, |out| {
            encode_bytes(&self.key, out);
            encode_bytes(&self.name, out);
            self.snap.encode(out);
            self.hash.encode(out);
            self.max.encode(out);
            encode_bytes(&self.namespace, out);
            self.pool.encode(out);
        });
    }
}

/// Names one logical request for ever, so that an OSD can tell a resend from a new one.
///
/// Ceph: `osd_reqid_t` in `src/osd/osd_types.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReqId {
    /// The client instance.
    pub name: EntityName,
    /// The request's number.
    pub tid: Tid,
    /// The client's incarnation.
    pub inc: i32,
}

impl Encode for ReqId {
    fn encode(&self, out: &mut Vec<u8>) {
        versioned(out, 2, 2, |out| {
            self.name.encode(out);
            self.tid.encode(out);
            self.inc.encode(out);
        });
    }
}

impl Decode for ReqId {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.versioned("osd_reqid_t", 2, |r, _| {
            Ok(Self { name: EntityName::decode(r)?, tid: Tid::decode(r)?, inc: i32::decode(r)? })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hex_literal::hex;
    use proptest::prelude::*;

    /// Bytes Ceph 16.2 wrote: ceph-object-corpus, `archive/16.2.0-90-g50f1821b4c/objects/object_locator_t`.
    #[test]
    fn a_locator_matches_ceph_pacific() {
        let wire = hex!("06 06 1c000000 5d00000000000000 ffffffff 00000000 00000000 0e00000000000000");
        let locator = ObjectLocator {
            pool: PoolId(0x5d),
            key: String::new(),
            namespace: String::new(),
            hash: Some(14),
        };
        assert_eq!(ObjectLocator::decode_from(&wire).as_ref(), Ok(&locator));
        assert_eq!(locator.encode_to_vec(), wire);
    }

    fn place(hash: u32, name: &str) -> HObject {
        HObject {
            key: vec![],
            name: name.into(),
            snap: SnapId::HEAD,
            hash,
            max: false,
            namespace: vec![],
            pool: PoolId(1),
        }
    }

    #[test]
    fn objects_sort_by_the_reversed_bits_of_their_hash() {
        assert!(place(0x8000_0000, "z") < place(1, "a"), "bit 31 reversed is the smallest");
        assert!(place(5, "a") < place(5, "b"));
        let max = HObject { max: true, ..place(0, "") };
        assert!(place(u32::MAX, "z") < max);
    }

    proptest! {
        #[test]
        fn a_place_comes_back(hash: u32, name: Vec<u8>, key: Vec<u8>, max: bool, pool: i64) {
            let o = HObject { key, name, max, pool: PoolId(pool), ..place(hash, "") };
            prop_assert_eq!(HObject::decode_from(&o.encode_to_vec()), Ok(o));
        }
    }
}
