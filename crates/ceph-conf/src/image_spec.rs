//! Names of images as users write them.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::QemuRbd;

/// An image, or a snapshot of one: `[POOL/[NAMESPACE/]]IMAGE[@SNAPSHOT]`. Ceph: `extract_spec` in
/// `src/tools/rbd/Utils.cc`.
///
/// A spec without pool means the pool `rbd`. Names with `/` or `@` in them cannot be told apart in this form and
/// are refused; QEMU's form ([`QemuRbd`]) can escape them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ImageSpec {
    /// The pool.
    pub pool: String,
    /// The namespace in the pool; `None` is the default one.
    pub namespace: Option<String>,
    /// The image.
    pub image: String,
    /// The snapshot, if one is meant and not the image's head.
    pub snapshot: Option<String>,
}

/// The pool of images that are named without one: the default of the option `rbd_default_pool`.
const DEFAULT_POOL: &str = "rbd";

/// Why a text names no image.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SpecError {
    /// A part is there but empty.
    #[error("'{spec}' names no image: the {part} is empty, expected [POOL/[NAMESPACE/]]IMAGE[@SNAPSHOT]")]
    EmptyPart {
        /// The spec as given.
        spec: String,
        /// Which part.
        part: &'static str,
    },
    /// QEMU's form of a name. Not shown, since it may hold a key.
    #[error("the image is named in QEMU's form 'rbd:...', expected [POOL/[NAMESPACE/]]IMAGE[@SNAPSHOT]")]
    QemuName,
    /// More parts than there are.
    #[error("'{spec}' names no image: too many '{separator}', expected [POOL/[NAMESPACE/]]IMAGE[@SNAPSHOT]")]
    TooManyParts {
        /// The spec as given.
        spec: String,
        /// The separator that is there too often.
        separator: char,
    },
}

impl FromStr for ImageSpec {
    type Err = SpecError;

    fn from_str(spec: &str) -> Result<Self, SpecError> {
        if QemuRbd::is_qemu_name(spec) {
            return Err(SpecError::QemuName);
        }
        let named = |part, name: &str| match name {
            "" => Err(SpecError::EmptyPart { spec: spec.to_owned(), part }),
            name => Ok(name.to_owned()),
        };
        let too_many = |separator| SpecError::TooManyParts { spec: spec.to_owned(), separator };

        let (path, snapshot) = match spec.split_once('@') {
            Some((_, snapshot)) if snapshot.contains('@') => return Err(too_many('@')),
            Some((_, snapshot)) if snapshot.contains('/') => return Err(too_many('/')),
            Some((path, snapshot)) => (path, Some(named("snapshot", snapshot)?)),
            None => (spec, None),
        };
        let parts: Vec<_> = path.split('/').collect();
        let (pool, namespace, image) = match *parts {
            [image] => (DEFAULT_POOL, None, image),
            [pool, image] => (pool, None, image),
            [pool, namespace, image] => (pool, Some(named("namespace", namespace)?), image),
            _ => return Err(too_many('/')),
        };
        Ok(Self { pool: named("pool", pool)?, namespace, image: named("image", image)?, snapshot })
    }
}

impl fmt::Display for ImageSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.pool)?;
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        f.write_str(&self.image)?;
        match &self.snapshot {
            Some(snapshot) => write!(f, "@{snapshot}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pool_namespace_and_snapshot_may_be_left_out() {
        for (spec, printed) in [
            ("image", "rbd/image"),
            ("pool/image", "pool/image"),
            ("pool/ns/image", "pool/ns/image"),
            ("image@snap", "rbd/image@snap"),
            ("pool/ns/image@snap:1", "pool/ns/image@snap:1"),
        ] {
            assert_eq!(spec.parse::<ImageSpec>().unwrap().to_string(), printed);
        }
    }

    #[test]
    fn empty_and_surplus_parts_are_refused() {
        for spec in ["", "/", "/i", "p/", "p//i", "p/n/", "@s", "i@", "p/n/i/x", "i@s@t", "i@s/t"] {
            assert!(spec.parse::<ImageSpec>().is_err(), "{spec}");
        }
        assert_eq!(
            "pool/@snap".parse::<ImageSpec>().unwrap_err().to_string(),
            "'pool/@snap' names no image: the image is empty, expected [POOL/[NAMESPACE/]]IMAGE[@SNAPSHOT]"
        );
    }

    #[test]
    fn qemu_s_form_is_refused_without_showing_it() {
        let error = "rbd:pool/i:key=AQBhush".parse::<ImageSpec>().unwrap_err();
        assert_eq!(error, SpecError::QemuName);
        assert!(!error.to_string().contains("AQBhush"), "{error}");
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(
            pool in "[^/@]{1,8}", namespace in proptest::option::of("[^/@]{1,8}"),
            image in "[^/@]{1,8}", snapshot in proptest::option::of("[^/@]{1,8}"),
        ) {
            let spec = ImageSpec { pool, namespace, image, snapshot };
            prop_assert_eq!(spec.to_string().parse(), Ok(spec));
        }

        #[test]
        fn any_text_is_a_spec_or_refused(text in "[a/@]{0,12}") {
            if let Ok(spec) = text.parse::<ImageSpec>() {
                prop_assert!(spec.to_string().ends_with(&text));
            }
        }
    }
}
