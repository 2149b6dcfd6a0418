//! Who a client is, as users type it.

use ceph_codec::EntityAuthName;
use thiserror::Error;

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

/// Parses the name of a user. Keyrings have names without id, such as `mon.`; a client is not called so.
pub(crate) fn parse_entity(name: &str) -> Result<EntityAuthName, EntityError> {
    let parsed = name.parse::<EntityAuthName>().ok();
    parsed.filter(|entity| !entity.id.is_empty()).ok_or_else(|| EntityError { name: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_type_is_refused_with_advice() {
        let error = parse_entity("qemu").unwrap_err();
        assert!(error.to_string().starts_with("'qemu' is not of the form TYPE.ID"), "{error}");
        assert_eq!(error.help().as_deref(), Some("use --id qemu or --name client.qemu"));
        for name in ["", ".", "client.", "user.x", "Client.x"] {
            assert!(parse_entity(name).is_err(), "{name}");
        }
        assert_eq!(parse_entity("client.rbd.host1"), Ok(EntityAuthName::client("rbd.host1")));
    }
}
