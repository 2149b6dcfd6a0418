//! Users of a cluster, by the names that keyrings give them.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::{Encode, EntityType};

/// The name of a user in a keyring, such as `client.qemu`. Ceph: `EntityName` in `src/common/entity_name.h`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntityAuthName {
    /// The part before the dot.
    pub kind: EntityType,
    /// The part after the dot; may be empty (`mon.`) and may have dots of its own.
    pub id: String,
}

impl Default for EntityAuthName {
    /// `client.admin`, as for all of Ceph's tools.
    fn default() -> Self {
        Self::client("admin")
    }
}

impl EntityAuthName {
    /// `client.` and `id`.
    #[must_use]
    pub fn client(id: &str) -> Self {
        Self { kind: EntityType::CLIENT, id: id.to_owned() }
    }
}

/// A name that is not like `client.qemu`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` is not a name of the form TYPE.ID, TYPE one of client, mon, osd, mgr, mds, auth")]
pub struct NameError(pub String);

impl FromStr for EntityAuthName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let error = || NameError(text.to_owned());
        let (kind, id) = text.split_once('.').ok_or_else(error)?;
        Ok(Self { kind: EntityType::from_name(kind).ok_or_else(error)?, id: id.to_owned() })
    }
}

impl fmt::Display for EntityAuthName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.kind, self.id)
    }
}

impl Encode for EntityAuthName {
    fn encode(&self, out: &mut Vec<u8>) {
        u32::from(self.kind.0).encode(out);
        self.id.encode(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_type_and_an_id_that_may_have_dots() {
        let name: EntityAuthName = "client.a.b".parse().unwrap();
        assert_eq!(name, EntityAuthName::client("a.b"));
        assert_eq!(name.to_string(), "client.a.b");
        assert_eq!("mon.".parse::<EntityAuthName>().unwrap().id, "");
    }

    #[test]
    fn a_name_without_a_known_type_is_refused() {
        assert!("qemu".parse::<EntityAuthName>().is_err());
        assert!("user.qemu".parse::<EntityAuthName>().is_err());
    }
}
