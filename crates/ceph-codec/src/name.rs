//! Who is talking: monitor, OSD, client.

use std::fmt;

use crate::{Decode, DecodeError, Encode, Reader};

/// Kind of daemon or client. A bit each, so that sets of them fit a mask. Ceph: `CEPH_ENTITY_TYPE_*` in
/// `src/include/msgr.h`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntityType(pub u8);

impl EntityType {
    /// A monitor.
    pub const MON: Self = Self(0x01);
    /// A metadata server.
    pub const MDS: Self = Self(0x02);
    /// An object storage daemon.
    pub const OSD: Self = Self(0x04);
    /// A client.
    pub const CLIENT: Self = Self(0x08);
    /// A manager.
    pub const MGR: Self = Self(0x10);
    /// The authentication service, as a target of tickets.
    pub const AUTH: Self = Self(0x20);

    /// The type named by `text`, as in the part of `client.admin` before the dot.
    #[must_use]
    pub fn from_name(text: &str) -> Option<Self> {
        Some(match text {
            "mon" => Self::MON,
            "mds" => Self::MDS,
            "osd" => Self::OSD,
            "client" => Self::CLIENT,
            "mgr" => Self::MGR,
            "auth" => Self::AUTH,
            _ => return None,
        })
    }
}

impl fmt::Display for EntityType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::MON => "mon",
            Self::MDS => "mds",
            Self::OSD => "osd",
            Self::CLIENT => "client",
            Self::MGR => "mgr",
            Self::AUTH => "auth",
            Self(other) => return write!(f, "type{other:#x}"),
        })
    }
}

impl fmt::Debug for EntityType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Decode for EntityType {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        u8::decode(r).map(Self)
    }
}

impl Encode for EntityType {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
    }
}

/// An instance on the wire, such as `osd.3` or `client.4123`; not the name in a keyring, which is text.
///
/// Ceph: `entity_name_t` in `src/msg/msg_types.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntityName {
    /// Its kind.
    pub kind: EntityType,
    /// Its number: the id of an OSD, the global id of a client, -1 for a client not numbered yet.
    pub num: i64,
}

impl EntityName {
    /// The name that is shown as `text`, such as `client.4123`.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        let (kind, num) = text.split_once('.')?;
        let num: u64 = num.parse().ok()?;
        Some(Self { kind: EntityType::from_name(kind)?, num: i64::try_from(num).ok()? })
    }
}

impl Decode for EntityName {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { kind: EntityType::decode(r)?, num: i64::decode(r)? })
    }
}

impl Encode for EntityName {
    fn encode(&self, out: &mut Vec<u8>) {
        self.kind.encode(out);
        self.num.encode(out);
    }
}

impl fmt::Display for EntityName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.num < 0 { write!(f, "{}.?", self.kind) } else { write!(f, "{}.{}", self.kind, self.num) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_it_is_shown() {
        let name = EntityName { kind: EntityType::CLIENT, num: 4123 };
        assert_eq!(EntityName::from_text(&name.to_string()), Some(name));
        for text in ["client", "client.", "client.-1", "client.?", "admin.1", "client.1.2", ""] {
            assert_eq!(EntityName::from_text(text), None, "{text}");
        }
    }
}
