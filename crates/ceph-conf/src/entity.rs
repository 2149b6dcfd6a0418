//! Who a client is, as keyrings name it.

use std::fmt;
use std::str::FromStr;

use ceph_codec::EntityType;
use thiserror::Error;

/// A user of the cluster, such as `client.admin`. Ceph: `EntityName` in `src/common/entity_name.cc`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Entity {
    /// The part before the dot; `client` for all but daemons.
    pub kind: EntityType,
    /// The part after the first dot.
    pub id: String,
}

impl Entity {
    /// The client with this id.
    #[must_use]
    pub fn client(id: &str) -> Self {
        Self { kind: EntityType::CLIENT, id: id.to_owned() }
    }
}

impl Default for Entity {
    /// `client.admin`, as for all of Ceph's tools.
    fn default() -> Self {
        Self::client("admin")
    }
}

impl fmt::Display for Entity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.kind, self.id)
    }
}

/// A name that is not of the form `TYPE.ID`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("'{name}' is not of the form TYPE.ID with one of the types auth, mon, osd, mds, mgr, client")]
pub struct EntityError {
    /// The name as given.
    pub name: String,
}

impl EntityError {
    /// What the user probably meant.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        let plain = !self.name.is_empty() && !self.name.contains('.');
        plain.then(|| format!("use --id {0} or --name client.{0}", self.name))
    }
}

impl FromStr for Entity {
    type Err = EntityError;

    fn from_str(name: &str) -> Result<Self, EntityError> {
        name.split_once('.')
            .and_then(|(kind, id)| Some((EntityType::from_name(kind)?, id)))
            .filter(|(_, id)| !id.is_empty())
            .map(|(kind, id)| Self { kind, id: id.to_owned() })
            .ok_or_else(|| EntityError { name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_split_at_the_first_dot() {
        let entity: Entity = "client.rbd.host1".parse().unwrap();
        assert_eq!((entity.kind, entity.id.as_str()), (EntityType::CLIENT, "rbd.host1"));
        assert_eq!(entity.to_string(), "client.rbd.host1");
    }

    #[test]
    fn a_name_without_type_is_refused_with_advice() {
        let error = "qemu".parse::<Entity>().unwrap_err();
        assert!(error.to_string().starts_with("'qemu' is not of the form TYPE.ID"), "{error}");
        assert_eq!(error.help().as_deref(), Some("use --id qemu or --name client.qemu"));
        for name in ["", ".", "client.", "user.x", "Client.x"] {
            assert!(name.parse::<Entity>().is_err(), "{name}");
        }
    }
}
