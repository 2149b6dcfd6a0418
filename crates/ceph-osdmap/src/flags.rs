//! Flag words and release numbers. Unknown bits are kept.

use std::ops::{BitAnd, BitOr, Not};

use ceph_codec::{Decode, DecodeError, Reader};

macro_rules! flags {
    ($(#[$doc:meta])* $name:ident($t:ty) { $($(#[$flag_doc:meta])* $flag:ident = $bit:literal;)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
        pub struct $name(pub $t);

        impl $name {
            $($(#[$flag_doc])* pub const $flag: Self = Self(1 << $bit);)*

            /// Whether all of `flags` are set.
            #[must_use]
            pub const fn contains(self, flags: Self) -> bool {
                self.0 & flags.0 == flags.0
            }

            /// Whether any of `flags` is set.
            #[must_use]
            pub const fn intersects(self, flags: Self) -> bool {
                self.0 & flags.0 != 0
            }
        }

        impl BitOr for $name {
            type Output = Self;
            fn bitor(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }
        }

        impl BitAnd for $name {
            type Output = Self;
            fn bitand(self, other: Self) -> Self {
                Self(self.0 & other.0)
            }
        }

        impl Not for $name {
            type Output = Self;
            fn not(self) -> Self {
                Self(!self.0)
            }
        }

        impl Decode for $name {
            fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
                <$t>::decode(r).map(Self)
            }
        }
    };
}

flags! {
    /// Flags of the whole cluster. Ceph: `CEPH_OSDMAP_*` in `src/include/rados.h`.
    MapFlags(u32) {
        /// Some OSD is nearly full; old releases only.
        NEARFULL = 0;
        /// No writes, the cluster is full; old releases only, see [`PoolFlags::FULL`].
        FULL = 1;
        /// Reads wait.
        PAUSE_RD = 2;
        /// Writes wait.
        PAUSE_WR = 3;
        /// Objects sort bitwise: always since Jewel.
        SORTBITWISE = 15;
        /// `require_osd_release` before there was such a field.
        REQUIRE_JEWEL = 16;
        /// `require_osd_release` before there was such a field.
        REQUIRE_KRAKEN = 17;
        /// `require_osd_release` before there was such a field.
        REQUIRE_LUMINOUS = 18;
        /// Deletes happen during recovery.
        RECOVERY_DELETES = 19;
        /// The length of the PG log is limited.
        PGLOG_HARDLIMIT = 22;
    }
}

flags! {
    /// Flags of a pool. Ceph: `pg_pool_t::FLAG_*` in `src/osd/osd_types.h`.
    PoolFlags(u64) {
        /// The pool's number goes into the hash of its PGs.
        HASHPSPOOL = 0;
        /// Writes wait or fail: the pool or the cluster is full.
        FULL = 1;
        /// An erasure-coded pool that allows overwrites.
        EC_OVERWRITES = 2;
        /// Full because of its quota; [`FULL`](Self::FULL) is set too.
        FULL_QUOTA = 10;
        /// Nearly full.
        NEARFULL = 11;
        /// Too full for backfill.
        BACKFILLFULL = 12;
        /// Snapshots are managed by clients, as RBD does.
        SELFMANAGED_SNAPS = 13;
        /// Snapshots are of the whole pool.
        POOL_SNAPS = 14;
        /// The first PGs are still being created.
        CREATING = 15;
        /// All requests fail with EIO.
        EIO = 16;
        /// Erasure coding with partial writes (Ceph 20): some shards cannot be primary.
        EC_OPTIMIZATIONS = 19;
    }
}

flags! {
    /// State of an OSD. Ceph: `CEPH_OSD_*` in `src/include/rados.h`.
    OsdState(u32) {
        /// It is part of the cluster.
        EXISTS = 0;
        /// It runs.
        UP = 1;
        /// Marked out automatically.
        AUTOOUT = 2;
        /// Never marked in.
        NEW = 3;
        /// Stopped by an administrator.
        STOP = 12;
    }
}

impl MapFlags {
    /// What [`Release`] replaced.
    pub(crate) const LEGACY_REQUIRE: Self =
        Self(Self::REQUIRE_JEWEL.0 | Self::REQUIRE_KRAKEN.0 | Self::REQUIRE_LUMINOUS.0);
}

/// A release of Ceph by its number: 16 is Pacific. 0 is unknown. Ceph: `ceph_release_t` in
/// `src/common/ceph_releases.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Release(pub u8);

impl Release {
    /// Not known.
    pub const UNKNOWN: Self = Self(0);
    /// Ceph 10.
    pub const JEWEL: Self = Self(10);
    /// Ceph 11.
    pub const KRAKEN: Self = Self(11);
    /// Ceph 12.
    pub const LUMINOUS: Self = Self(12);
    /// Ceph 13.
    pub const MIMIC: Self = Self(13);
    /// Ceph 14.
    pub const NAUTILUS: Self = Self(14);
    /// Ceph 16.
    pub const PACIFIC: Self = Self(16);
    /// Ceph 17.
    pub const QUINCY: Self = Self(17);
    /// Ceph 18.
    pub const REEF: Self = Self(18);
    /// Ceph 20.
    pub const TENTACLE: Self = Self(20);
}

impl Decode for Release {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        u8::decode(r).map(Self)
    }
}
