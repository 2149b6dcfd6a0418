//! Clients that the cluster refuses to serve.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};

use ceph_codec::{AddrType, EntityAddr, Utime};

use crate::Release;

/// Clients that the cluster refuses to serve, each until a point in time.
///
/// Entries name one client instance (IP, port and nonce), all of an IP (port and nonce 0), or a range of IPs.
///
/// Ceph: `OSDMap::is_blocklisted` and `OSDMap::range_bits` in `src/osd/OSDMap.cc`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Blocklist {
    pub(crate) exact: HashMap<EntityAddr, Utime>,
    /// The nonce is the length of the prefix.
    pub(crate) ranges: BTreeMap<EntityAddr, Utime>,
}

impl Blocklist {
    /// Whether nobody is on the list.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.ranges.is_empty()
    }

    /// The entries for single clients and IPs with the time at which they end.
    pub fn exact(&self) -> impl Iterator<Item = (&EntityAddr, Utime)> {
        self.exact.iter().map(|(addr, &until)| (addr, until))
    }

    /// The entries for ranges with the time at which they end. The nonce is the length of the prefix in bits.
    pub fn ranges(&self) -> impl Iterator<Item = (&EntityAddr, Utime)> {
        self.ranges.iter().map(|(addr, &until)| (addr, until))
    }

    /// Whether `addr` is refused, in a cluster that requires at least `release`.
    pub(crate) fn contains(&self, addr: &EntityAddr, release: Release) -> bool {
        if self.is_empty() {
            return false;
        }
        // Who is refused is refused by any messenger; before Nautilus there was only one.
        let kind = if release < Release::NAUTILUS { AddrType::LEGACY } else { AddrType::ANY };
        let instance = EntityAddr { kind, ..*addr };
        if self.exact.contains_key(&instance) {
            return true;
        }
        let Some(ip) = addr.addr.map(|a| a.ip()) else { return false };
        let all_of_ip = EntityAddr { kind, nonce: 0, addr: addr.addr.map(without_port) };
        self.exact.contains_key(&all_of_ip) || self.ranges.keys().any(|range| range_contains(range, ip))
    }
}

fn without_port(mut addr: SocketAddr) -> SocketAddr {
    addr.set_port(0);
    addr
}

fn range_contains(range: &EntityAddr, ip: IpAddr) -> bool {
    let prefix = range.nonce;
    match (range.addr.map(|a| a.ip()), ip) {
        (Some(IpAddr::V4(range)), IpAddr::V4(ip)) => {
            let differ = range.to_bits() ^ ip.to_bits();
            differ.checked_shr(32u32.saturating_sub(prefix)).unwrap_or(0) == 0
        }
        (Some(IpAddr::V6(range)), IpAddr::V6(ip)) => {
            let differ = range.to_bits() ^ ip.to_bits();
            differ.checked_shr(128u32.saturating_sub(prefix)).unwrap_or(0) == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATER: Utime = Utime { sec: 9, nsec: 0 };

    fn addr(kind: AddrType, addr: &str, nonce: u32) -> EntityAddr {
        EntityAddr { kind, nonce, addr: Some(addr.parse().unwrap()) }
    }

    fn list(entry: EntityAddr) -> Blocklist {
        if entry.kind == AddrType::CIDR {
            Blocklist { ranges: BTreeMap::from([(entry, LATER)]), ..Blocklist::default() }
        } else {
            Blocklist { exact: HashMap::from([(entry, LATER)]), ..Blocklist::default() }
        }
    }

    fn refuses(entry: EntityAddr, client: EntityAddr) -> bool {
        list(entry).contains(&client, Release(16))
    }

    #[test]
    fn an_instance_is_refused_by_any_messenger_and_its_successor_is_not() {
        let entry = addr(AddrType::ANY, "10.0.0.1:0", 77);
        assert!(refuses(entry, addr(AddrType::MSGR2, "10.0.0.1:0", 77)));
        assert!(refuses(entry, addr(AddrType::ANY, "10.0.0.1:0", 77)));
        assert!(!refuses(entry, addr(AddrType::MSGR2, "10.0.0.1:0", 78)));
        assert!(!refuses(entry, addr(AddrType::MSGR2, "10.0.0.2:0", 77)));
    }

    #[test]
    fn an_entry_without_port_and_nonce_is_for_the_whole_ip() {
        let entry = addr(AddrType::ANY, "10.0.0.1:0", 0);
        assert!(refuses(entry, addr(AddrType::MSGR2, "10.0.0.1:3333", 5)));
        assert!(!refuses(entry, addr(AddrType::MSGR2, "10.0.0.2:3333", 5)));
    }

    #[test]
    fn ranges_compare_the_prefix() {
        let v4 = addr(AddrType::CIDR, "10.1.128.0:0", 17);
        assert!(refuses(v4, addr(AddrType::MSGR2, "10.1.255.1:5", 5)));
        assert!(!refuses(v4, addr(AddrType::MSGR2, "10.1.127.1:5", 5)));
        let v6 = addr(AddrType::CIDR, "[fd00:1::]:0", 32);
        assert!(refuses(v6, addr(AddrType::MSGR2, "[fd00:1:2::3]:5", 5)));
        assert!(!refuses(v6, addr(AddrType::MSGR2, "[fd00:2::3]:5", 5)));
        assert!(!refuses(v6, addr(AddrType::MSGR2, "10.1.255.1:5", 5)));
        let everybody = addr(AddrType::CIDR, "0.0.0.0:0", 0);
        assert!(refuses(everybody, addr(AddrType::MSGR2, "10.1.255.1:5", 5)));
        let one = addr(AddrType::CIDR, "10.0.0.1:0", 32);
        assert!(!refuses(one, addr(AddrType::MSGR2, "10.0.0.3:5", 5)));
    }
}
