//! Feature bits that the two ends of a connection exchange; what both have decides how messages are encoded.
//!
//! A feature may be several bits: its own, and those of its *incarnation*, because bits are reused for new
//! features once every supported release has the old one. So a test is [`has`], never `!= 0`.
//!
//! Ceph: `src/include/ceph_features.h`.

/// Whether all bits of `feature` are in `features`.
#[must_use]
pub const fn has(features: u64, feature: u64) -> bool {
    features & feature == feature
}

const fn first(bit: u32) -> u64 {
    1 << bit
}

const fn second(bit: u32) -> u64 {
    1 << bit | 1 << 57
}

const fn third(bit: u32) -> u64 {
    1 << bit | 1 << 57 | 1 << 28
}

/// Many operations to one object may be under way.
pub const OSDREPLYMUX: u64 = first(12);
/// Subscriptions that a monitor remembers without renewals; the incarnation bit of many others.
pub const SERVER_JEWEL: u64 = first(57);
/// Backoffs, resending on PG split, `pg_upmap`, `choose_args`.
pub const SERVER_LUMINOUS: u64 = second(21);
/// Version 9 of the client's section of OSD maps; the second incarnation bit of many others.
pub const SERVER_MIMIC: u64 = second(28);
/// Addresses of type "any", monitor map of version 6 and up.
pub const SERVER_NAUTILUS: u64 = third(2);
/// What Ceph 15 brought.
pub const SERVER_OCTOPUS: u64 = third(16);
/// What Ceph 16 brought.
pub const SERVER_PACIFIC: u64 = third(20);
/// What Ceph 17 brought.
pub const SERVER_QUINCY: u64 = third(33);
/// What Ceph 18 brought; a cluster with `pg-upmap-primary` requires it of clients.
pub const SERVER_REEF: u64 = third(31);
/// What Ceph 19 brought: `MOSDOp` of version 9.
pub const SERVER_SQUID: u64 = third(49);
/// What Ceph 20 brought: `pg_pool_t` of version 32.
pub const SERVER_TENTACLE: u64 = third(50);
/// Multi-step retry rules in CRUSH maps.
pub const CRUSH_MSR: u64 = third(38);
/// Ranges of addresses in the blocklist.
pub const RANGE_BLOCKLIST: u64 = third(34);
/// `entity_addrvec_t`; no messenger v2 without it.
pub const MSG_ADDR2: u64 = first(59);
/// The challenge of version 2 of cephx.
pub const CEPHX_V2: u64 = first(61);

/// What this client offers: the bits of librados 18.2.
///
/// Each is a promise to understand what a daemon then sends. Left out are [`CRUSH_MSR`], [`SERVER_SQUID`] and
/// [`SERVER_TENTACLE`]; without them daemons of Ceph 19 and 20 use the encodings of Ceph 18. Bits that concern
/// only file systems are in, as in every librados: they promise nothing to a client that never asks for one.
pub const SUPPORTED: u64 = 0x3f01_cfbf_fffd_ffff;

/// What this client insists on, as librados does on a lossy connection.
pub const REQUIRED: u64 = MSG_ADDR2 | OSDREPLYMUX;

#[cfg(test)]
mod tests {
    use super::*;

    /// What `SERVER_IDENT` of an OSD 16.2.15 offers: bit 57 and 28 are set, and so is bit 21, but not bit 49.
    const PACIFIC: u64 = 0x3f01_cfbd_fffd_ffff;

    #[test]
    fn a_feature_needs_all_its_bits() {
        assert!(has(PACIFIC, SERVER_PACIFIC));
        assert!(!has(PACIFIC, SERVER_QUINCY));
        assert!(!has(PACIFIC, SERVER_SQUID), "although it shares bits with it");
        assert_ne!(PACIFIC & SERVER_SQUID, 0);
    }

    #[test]
    fn only_what_is_understood_is_offered() {
        for offered in
            [SERVER_LUMINOUS, SERVER_NAUTILUS, SERVER_PACIFIC, SERVER_QUINCY, SERVER_REEF, CEPHX_V2]
        {
            assert!(has(SUPPORTED, offered), "{offered:#x}");
        }
        for unknown in [CRUSH_MSR, SERVER_SQUID, SERVER_TENTACLE] {
            assert!(!has(SUPPORTED, unknown), "{unknown:#x}");
        }
        assert!(has(SUPPORTED, REQUIRED));
    }
}
