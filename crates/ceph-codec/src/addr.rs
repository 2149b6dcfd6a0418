//! Addresses of daemons and clients.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use crate::{Decode, DecodeError, Encode, Reader, encode_bytes, versioned};

/// Which messenger listens at an address. Ceph: `entity_addr_t::TYPE_*` in `src/msg/msg_types.h`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddrType(pub u32);

impl AddrType {
    /// No address.
    pub const NONE: Self = Self(0);
    /// Messenger v1.
    pub const LEGACY: Self = Self(1);
    /// Messenger v2.
    pub const MSGR2: Self = Self(2);
    /// Any messenger; used by clients and in blocklists.
    pub const ANY: Self = Self(3);
    /// A range of addresses, in blocklists.
    pub const CIDR: Self = Self(4);
}

impl fmt::Display for AddrType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::NONE => "none",
            Self::LEGACY => "v1",
            Self::MSGR2 => "v2",
            Self::ANY => "any",
            Self::CIDR => "cidr",
            Self(other) => return write!(f, "type{other}"),
        })
    }
}

impl fmt::Debug for AddrType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One address: messenger, IP and port, and a nonce that tells instances at one address apart.
///
/// ```text
/// u8 1 | versioned { u32 type | u32 nonce | u32 len | sockaddr (family le16, port be16, IP) }
/// u8 0 | 3 bytes 0 | u32 nonce | 128 bytes sockaddr_storage         the legacy form
/// ```
/// Ceph: `entity_addr_t` in `src/msg/msg_types.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntityAddr {
    /// Which messenger listens there.
    pub kind: AddrType,
    /// Distinguishes instances at one IP and port.
    pub nonce: u32,
    /// IP and port; `None` is Ceph's blank address.
    pub addr: Option<SocketAddr>,
}

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

impl EntityAddr {
    /// No address at all.
    pub const BLANK: Self = Self { kind: AddrType::NONE, nonce: 0, addr: None };

    /// An address of messenger v2 without a nonce, as typed by a user.
    #[must_use]
    pub const fn msgr2(addr: SocketAddr) -> Self {
        Self { kind: AddrType::MSGR2, nonce: 0, addr: Some(addr) }
    }

    fn encode_sockaddr(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(28);
        match self.addr {
            None => {}
            Some(SocketAddr::V4(a)) => {
                AF_INET.encode(&mut out);
                out.extend_from_slice(&a.port().to_be_bytes());
                out.extend_from_slice(&a.ip().octets());
                out.extend_from_slice(&[0; 8]);
            }
            Some(SocketAddr::V6(a)) => {
                AF_INET6.encode(&mut out);
                out.extend_from_slice(&a.port().to_be_bytes());
                out.extend_from_slice(&a.flowinfo().to_be_bytes());
                out.extend_from_slice(&a.ip().octets());
                a.scope_id().encode(&mut out);
            }
        }
        out
    }

    fn decode_sockaddr(bytes: &[u8]) -> Result<Option<SocketAddr>, DecodeError> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let r = &mut Reader::new(bytes);
        let family = u16::decode(r)?;
        match family {
            0 => Ok(None),
            AF_INET => {
                let port = u16::from_be_bytes(r.array("port")?);
                let ip = Ipv4Addr::from(r.array::<4>("IPv4 address")?);
                Ok(Some(SocketAddr::new(IpAddr::V4(ip), port)))
            }
            AF_INET6 => {
                let port = u16::from_be_bytes(r.array("port")?);
                let flowinfo = u32::from_be_bytes(r.array("flow info")?);
                let ip = Ipv6Addr::from(r.array::<16>("IPv6 address")?);
                let scope = u32::decode(r)?;
                Ok(Some(SocketAddr::V6(SocketAddrV6::new(ip, port, flowinfo, scope))))
            }
            other => Err(DecodeError::Invalid { what: "address family", value: other.into() }),
        }
    }

    fn decode_after_marker(marker: u8, r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match marker {
            0 => {
                r.array::<3>("legacy address")?;
                let nonce = u32::decode(r)?;
                let storage = r.array::<128>("sockaddr_storage")?;
                // The legacy form keeps the family in network order.
                let mut sockaddr = storage;
                sockaddr.swap(0, 1);
                let addr = Self::decode_sockaddr(&sockaddr)?;
                let kind = if addr.is_some() { AddrType::LEGACY } else { AddrType::NONE };
                Ok(Self { kind, nonce, addr })
            }
            1 => r.versioned("entity_addr_t", 1, |r, _| {
                Ok(Self {
                    kind: AddrType(u32::decode(r)?),
                    nonce: u32::decode(r)?,
                    addr: Self::decode_sockaddr(r.bytes("sockaddr")?)?,
                })
            }),
            other => Err(DecodeError::Invalid { what: "entity_addr_t marker", value: other.into() }),
        }
    }
}

impl Decode for EntityAddr {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let marker = u8::decode(r)?;
        Self::decode_after_marker(marker, r)
    }
}

impl Encode for EntityAddr {
    fn encode(&self, out: &mut Vec<u8>) {
        1u8.encode(out);
        versioned(out, 1, 1, |out| {
            self.kind.0.encode(out);
            self.nonce.encode(out);
            encode_bytes(&self.encode_sockaddr(), out);
        });
    }
}

/// As Ceph prints it in watchers and locks: `127.0.0.1:0/123`, with `v1:` or `v2:` in front where that matters.
impl fmt::Display for EntityAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            AddrType::NONE => return f.write_str("-"),
            AddrType::ANY => {}
            kind => write!(f, "{kind}:")?,
        }
        match self.addr {
            Some(addr) => write!(f, "{addr}/{}", self.nonce),
            None => write!(f, ":/{}", self.nonce),
        }
    }
}

/// The addresses of one daemon, one for each messenger it speaks. Ceph: `entity_addrvec_t` in
/// `src/msg/msg_types.h`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct EntityAddrVec(pub Vec<EntityAddr>);

impl EntityAddrVec {
    /// The address at which messenger v2 listens.
    #[must_use]
    pub fn msgr2(&self) -> Option<EntityAddr> {
        self.0.iter().copied().find(|a| a.kind == AddrType::MSGR2 && a.addr.is_some())
    }
}

impl From<EntityAddr> for EntityAddrVec {
    fn from(addr: EntityAddr) -> Self {
        Self(vec![addr])
    }
}

impl Decode for EntityAddrVec {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::decode(r)? {
            2 => r.seq("entity_addrvec_t", EntityAddr::decode).map(Self),
            marker => {
                let addr = EntityAddr::decode_after_marker(marker, r)?;
                Ok(if addr == EntityAddr::BLANK { Self::default() } else { Self(vec![addr]) })
            }
        }
    }
}

impl Encode for EntityAddrVec {
    fn encode(&self, out: &mut Vec<u8>) {
        2u8.encode(out);
        crate::encode_seq(self.0.iter(), out);
    }
}

impl fmt::Display for EntityAddrVec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [one] = self.0.as_slice() {
            return one.fmt(f);
        }
        f.write_str("[")?;
        for (i, addr) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            addr.fmt(f)?;
        }
        f.write_str("]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hex_literal::hex;

    /// `127.0.0.1:13300` as it stands in a monmap that `monmaptool` 16.2.15 wrote.
    #[test]
    fn matches_ceph_pacific() {
        let wire = hex!("01 0101 1c000000 02000000 00000000 10000000 0200 33f4 7f000001 0000000000000000");
        let addr = EntityAddr::msgr2("127.0.0.1:13300".parse().unwrap());
        assert_eq!(EntityAddr::decode_from(&wire), Ok(addr));
        assert_eq!(addr.encode_to_vec(), wire);
        assert_eq!(addr.to_string(), "v2:127.0.0.1:13300/0");
    }

    #[test]
    fn a_single_address_may_stand_for_a_vector() {
        let addr = EntityAddr::msgr2("[::1]:3300".parse().unwrap());
        assert_eq!(EntityAddrVec::decode_from(&addr.encode_to_vec()), Ok(addr.into()));
        let vec = EntityAddrVec(vec![addr, EntityAddr { kind: AddrType::LEGACY, ..addr }]);
        assert_eq!(EntityAddrVec::decode_from(&vec.encode_to_vec()), Ok(vec));
    }

    #[test]
    fn blank_addresses_have_no_sockaddr() {
        let wire = EntityAddr::BLANK.encode_to_vec();
        assert_eq!(wire, hex!("01 0101 0c000000 00000000 00000000 00000000"));
        assert_eq!(EntityAddr::decode_from(&wire), Ok(EntityAddr::BLANK));
    }

    #[test]
    fn the_legacy_form_is_read() {
        let mut wire = vec![0, 0, 0, 0, 7, 0, 0, 0, 0, 2, 0x1a, 0x85, 10, 0, 0, 1];
        wire.resize(8 + 128, 0);
        let addr = EntityAddr::decode_from(&wire).unwrap();
        assert_eq!(addr.to_string(), "v1:10.0.0.1:6789/7");
    }

    #[test]
    fn a_client_prints_without_a_messenger() {
        let addr = EntityAddr { kind: AddrType::ANY, nonce: 9, addr: Some("127.0.0.1:0".parse().unwrap()) };
        assert_eq!(addr.to_string(), "127.0.0.1:0/9");
    }
}
