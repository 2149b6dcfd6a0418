//! Which image is meant, and what its name says about the cluster.

use ceph_conf::{ImageSpec, Overrides, QemuRbd};
use rbd::{ImageRef, OpenOptions, SnapshotRef};
use tracing::warn;

use crate::report::Error;
use crate::spec::{UsageError, check_name};

/// An image that was named on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// What to call it towards NBD clients: the text as it was given, without QEMU's options.
    pub(crate) name: String,
    pub(crate) spec: ImageSpec,
    /// The image of `spec` is an id and not a name.
    pub(crate) by_id: bool,
    /// The cluster and the user.
    pub(crate) overrides: Overrides,
}

impl Target {
    /// Parses either spelling. What QEMU's spelling says about the cluster goes before the other options.
    ///
    /// # Errors
    /// [`Error::Spec`] or [`Error::QemuName`].
    pub(crate) fn parse(text: &str, overrides: &Overrides) -> Result<Self, Error> {
        if !QemuRbd::is_qemu_name(text) {
            let spec = text.parse()?;
            return Ok(Self { name: text.to_owned(), spec, by_id: false, overrides: overrides.clone() });
        }
        let named: QemuRbd = text.parse()?;
        if named.options.get("key").is_some() {
            warn!("everybody on this host can see the key on the command line; use a keyring instead");
        }
        let overrides = combine(overrides, &named.overrides());
        Ok(Self { name: named.spec.to_string(), spec: named.spec, by_id: false, overrides })
    }

    /// Refuses names that nothing new may have.
    pub(crate) fn checked(self) -> Result<Self, Error> {
        check_name("a pool", &self.spec.pool)?;
        check_name("an image", &self.spec.image)?;
        check_name("a snapshot", self.spec.snapshot.as_deref().unwrap_or_default())?;
        Ok(self)
    }

    /// The name of the snapshot, which has to be there.
    pub(crate) fn snapshot(&self) -> Result<&str, UsageError> {
        self.spec.snapshot.as_deref().ok_or(UsageError::Missing { what: "snapshot name" })
    }

    /// The image of a snapshot.
    pub(crate) fn whole_image(&self) -> Self {
        Self { spec: ImageSpec { snapshot: None, ..self.spec.clone() }, ..self.clone() }
    }

    pub(crate) fn image_ref(&self) -> ImageRef {
        let name = self.spec.image.clone();
        if self.by_id { ImageRef::Id(name) } else { ImageRef::Name(name) }
    }

    /// What to open.
    pub(crate) fn open_options(&self, read_only: bool) -> OpenOptions {
        let options = OpenOptions::new(self.image_ref());
        let options = if read_only { options.read_only() } else { options };
        match &self.spec.snapshot {
            Some(name) => options.snapshot(SnapshotRef::Name(name.clone())),
            None => options,
        }
    }
}

fn combine(general: &Overrides, named: &Overrides) -> Overrides {
    let mut combined = general.clone();
    if named.conf.is_some() {
        combined.conf.clone_from(&named.conf);
    }
    if named.id.is_some() {
        combined.id.clone_from(&named.id);
        combined.name = None;
    }
    // A field goes before the option of the same name, so it has to make way.
    let set = |option| named.options.get(option).is_some();
    if set("mon_host") {
        combined.mon_host = None;
    }
    if set("key") || set("keyfile") || set("keyring") {
        combined.keyring = None;
        combined.keyfile = None;
    }
    combined.options.merge(&named.options);
    combined
}

#[cfg(test)]
mod tests {
    use super::*;

    fn general() -> Overrides {
        Overrides {
            conf: Some("/general.conf".into()),
            name: Some("client.general".into()),
            keyring: Some("/general.keyring".into()),
            ..Overrides::default()
        }
    }

    #[test]
    fn a_plain_spec_is_called_what_it_was_called() {
        let target = Target::parse("image@snap", &general()).unwrap();
        assert_eq!((target.name.as_str(), target.spec.pool.as_str()), ("image@snap", "rbd"));
        assert_eq!(target.overrides, general());
    }

    #[test]
    fn what_a_qemu_name_says_goes_before_the_options() {
        let target = Target::parse("rbd:p/i:id=qemu:keyring=/k:conf=/c", &general()).unwrap();
        assert_eq!(target.name, "p/i");
        assert_eq!(target.overrides.conf, Some("/c".into()));
        assert_eq!((target.overrides.id.as_deref(), &target.overrides.name), (Some("qemu"), &None));
        assert_eq!((&target.overrides.keyring, target.overrides.options.get("keyring")), (&None, Some("/k")));
    }

    #[test]
    fn what_a_qemu_name_does_not_say_comes_from_the_options() {
        let target = Target::parse("rbd:p/i", &general()).unwrap();
        assert_eq!(target.overrides, general());
    }

    #[test]
    fn a_malformed_qemu_name_does_not_show_its_key() {
        let error = Target::parse("rbd:p/i:key=AQsecret:x", &general()).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("AQsecret"));
    }
}
