//! Numbers that must not be mixed up.

use std::fmt;

use crate::{Decode, DecodeError, Encode, Reader};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($t:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $t);

        impl Decode for $name {
            fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
                <$t>::decode(r).map(Self)
            }
        }

        impl Encode for $name {
            fn encode(&self, out: &mut Vec<u8>) {
                self.0.encode(out);
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(/// Version of an OSDMap.
    Epoch(u32));
id!(/// Transaction id: numbers the requests of one client instance.
    Tid(u64));
id!(/// Number of a pool. Negative means none.
    PoolId(i64));
id!(/// Number of an OSD.
    OsdId(i32));
id!(/// Position in an erasure-coded acting set.
    ShardId(i8));
id!(/// The number that a monitor gives to a client instance; `N` in `client.N`.
    GlobalId(u64));
id!(/// Number of a snapshot.
    SnapId(u64));

impl ShardId {
    /// The shard of replicated pools.
    pub const NONE: Self = Self(-1);
}

impl SnapId {
    /// The live object, not a snapshot. Ceph: `CEPH_NOSNAP`.
    pub const HEAD: Self = Self(u64::MAX - 1);
    /// The set of an object's snapshots. Ceph: `CEPH_SNAPDIR`.
    pub const DIR: Self = Self(u64::MAX);
}

impl Epoch {
    /// The epoch after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }
}

/// A placement group: pool and seed. Ceph: `pg_t` in `src/osd/osd_types.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PgId {
    /// The pool it belongs to.
    pub pool: PoolId,
    /// Its number in the pool, or a raw hash not yet folded to one.
    pub seed: u32,
}

impl Decode for PgId {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let version = u8::decode(r)?;
        if version != 1 {
            return Err(DecodeError::Invalid { what: "pg_t version", value: version.into() });
        }
        let id = Self { pool: PoolId::decode(r)?, seed: u32::decode(r)? };
        i32::decode(r)?; // preferred OSD, retired
        Ok(id)
    }
}

impl Encode for PgId {
    fn encode(&self, out: &mut Vec<u8>) {
        1u8.encode(out);
        self.pool.encode(out);
        self.seed.encode(out);
        (-1i32).encode(out);
    }
}

impl fmt::Display for PgId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:x}", self.pool, self.seed)
    }
}

/// A placement group and the shard of it that an OSD holds. Ceph: `spg_t` in `src/osd/osd_types.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpgId {
    /// The placement group.
    pub pg: PgId,
    /// The shard, [`ShardId::NONE`] in replicated pools.
    pub shard: ShardId,
}

impl Decode for SpgId {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.versioned("spg_t", 1, |r, _| Ok(Self { pg: PgId::decode(r)?, shard: ShardId::decode(r)? }))
    }
}

impl Encode for SpgId {
    fn encode(&self, out: &mut Vec<u8>) {
        crate::versioned(out, 1, 1, |out| {
            self.pg.encode(out);
            self.shard.encode(out);
        });
    }
}

impl fmt::Display for SpgId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.shard == ShardId::NONE { self.pg.fmt(f) } else { write!(f, "{}s{}", self.pg, self.shard) }
    }
}

/// Sixteen bytes that identify a cluster (`fsid`) or a daemon. Ceph: `uuid_d` in `src/include/uuid.h`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Uuid(pub [u8; 16]);

impl Decode for Uuid {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.array("uuid").map(Self)
    }
}

impl Encode for Uuid {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_print_as_ceph_prints_them() {
        let pg = PgId { pool: PoolId(3), seed: 0x1f };
        assert_eq!(pg.to_string(), "3.1f");
        assert_eq!(SpgId { pg, shard: ShardId(2) }.to_string(), "3.1fs2");
        assert_eq!(SpgId { pg, shard: ShardId::NONE }.to_string(), "3.1f");
        assert_eq!(Uuid([0x11; 16]).to_string(), "11111111-1111-1111-1111-111111111111");
    }

    #[test]
    fn a_placement_group_comes_back() {
        let spg = SpgId { pg: PgId { pool: PoolId(3), seed: 0x1f }, shard: ShardId(2) };
        assert_eq!(SpgId::decode_from(&spg.encode_to_vec()), Ok(spg));
    }
}
