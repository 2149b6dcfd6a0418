//! QEMU's way to name an image: `rbd:POOL/[NAMESPACE/]IMAGE[@SNAPSHOT][:OPTION=VALUE]...`.
//!
//! QEMU: `qemu_rbd_parse_filename` in `block/rbd.c`.

use std::str::FromStr;

use thiserror::Error;

use crate::{ImageSpec, Options, Overrides};

/// An image as the value of QEMU's `-drive file=` names it, with options for the connection to its cluster.
///
/// A backslash takes the next character's meaning away, so `\:`, `\@`, `\/`, `\=` and `\\` can stand in names and
/// values. As in QEMU, an `@` anywhere behind the pool must have a backslash or it begins the snapshot's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QemuRbd {
    /// The image.
    pub spec: ImageSpec,
    /// The option `id`: the user's name without `client.`.
    pub id: Option<String>,
    /// The option `conf`: path of the configuration file; `/dev/null` for none.
    pub conf: Option<String>,
    /// All other options, `key` among them: any option of Ceph's.
    pub options: Options,
}

/// Why a text is no image for QEMU. Shows no values: one of them may be a key.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum QemuError {
    /// Not QEMU's form at all.
    #[error("the name does not begin with 'rbd:'")]
    NoPrefix,
    /// There is no `/`.
    #[error("the name has no pool, expected rbd:POOL/IMAGE")]
    NoPool,
    /// The image's name is not one.
    #[error(
        "the {part} in the name is empty, expected rbd:POOL/[NAMESPACE/]IMAGE[@SNAPSHOT][:OPTION=VALUE]..."
    )]
    EmptyPart {
        /// Which part.
        part: &'static str,
    },
    /// Text between colons without `=`.
    #[error(
        "option {number} of the name is not of the form OPTION=VALUE; a ':' in a value needs a backslash"
    )]
    NoValue {
        /// Which option, from 1.
        number: usize,
    },
}

impl QemuRbd {
    /// Whether a text is meant to be QEMU's form.
    #[must_use]
    pub fn is_qemu_name(name: &str) -> bool {
        name.starts_with(PREFIX)
    }

    /// The options as overrides of the configuration.
    #[must_use]
    pub fn overrides(&self) -> Overrides {
        Overrides {
            conf: self.conf.as_ref().map(Into::into),
            id: self.id.clone(),
            options: self.options.clone(),
            ..Overrides::default()
        }
    }
}

const PREFIX: &str = "rbd:";

impl FromStr for QemuRbd {
    type Err = QemuError;

    fn from_str(name: &str) -> Result<Self, QemuError> {
        let named = |part, token| match unescape(token) {
            name if name.is_empty() => Err(QemuError::EmptyPart { part }),
            name => Ok(name),
        };

        let rest = name.strip_prefix(PREFIX).ok_or(QemuError::NoPrefix)?;
        let (pool, rest) = split(rest, '/');
        let rest = rest.ok_or(QemuError::NoPool)?;
        let (image, snapshot, mut rest) = match split(rest, '@') {
            (image, Some(rest)) => {
                let (snapshot, rest) = split(rest, ':');
                (image, Some(snapshot), rest)
            }
            (_, None) => {
                let (image, rest) = split(rest, ':');
                (image, None, rest)
            }
        };
        let (namespace, image) = match split(image, '/') {
            // QEMU takes an empty namespace for the default one.
            (namespace, Some(image)) => (Some(namespace).filter(|namespace| !namespace.is_empty()), image),
            (image, None) => (None, image),
        };
        let spec = ImageSpec {
            pool: named("pool", pool)?,
            namespace: namespace.map(unescape),
            image: named("image", image)?,
            snapshot: snapshot.map(|snapshot| named("snapshot", snapshot)).transpose()?,
        };

        let mut parsed = Self { spec, id: None, conf: None, options: Options::default() };
        let mut number = 0;
        while let Some(text) = rest {
            number += 1;
            let (option, value) = split(text, '=');
            let (value, after) = split(value.ok_or(QemuError::NoValue { number })?, ':');
            let value = unescape(value);
            match unescape(option).as_str() {
                "id" => parsed.id = Some(value),
                "conf" => parsed.conf = Some(value),
                option => parsed.options.set(option, zeroize::Zeroizing::new(value).as_str()),
            }
            rest = after;
        }
        Ok(parsed)
    }
}

/// Splits at the first `delimiter` without a backslash. QEMU: `qemu_rbd_next_tok`.
fn split(text: &str, delimiter: char) -> (&str, Option<&str>) {
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        if c == delimiter {
            return (&text[..at], Some(&text[at + c.len_utf8()..]));
        }
        if c == '\\' {
            chars.next();
        }
    }
    (text, None)
}

/// Drops backslashes; one at the end stays. QEMU: `qemu_rbd_unescape`.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        out.push(if c == '\\' { chars.next().unwrap_or(c) } else { c });
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(name: &str) -> QemuRbd {
        name.parse().unwrap()
    }

    #[test]
    fn names_without_options() {
        for (name, spec) in [
            ("rbd:p/i", "p/i"),
            ("rbd:p/i@s", "p/i@s"),
            ("rbd:p/n/i", "p/n/i"),
            ("rbd:p//i", "p/i"),
            ("rbd:p/n/i@s", "p/n/i@s"),
            (r"rbd:p\:1/i\@1@s\/1", "p:1/i@1@s/1"),
            (r"rbd:p/n\/i", "p/n/i"),
            (r"rbd:p/i\", r"p/i\"),
        ] {
            assert_eq!(parse(name).spec.to_string(), spec, "{name}");
        }
        assert_eq!(parse(r"rbd:p/n\/i").spec.namespace, None);
        assert_eq!(parse(r"rbd:p/n\/i").spec.image, "n/i");
    }

    #[test]
    fn options_are_separated_from_what_ceph_gets() {
        let name = r"rbd:p/i@s:id=qemu:conf=/etc/x.conf:mon_host=10.0.0.1\:6789\;[\:\:1]:key=AQBh+/8=:rbd cache=true";
        let parsed = parse(name);
        assert_eq!(parsed.id.as_deref(), Some("qemu"));
        assert_eq!(parsed.conf.as_deref(), Some("/etc/x.conf"));
        let options: Vec<_> = parsed.options.iter().collect();
        let expected = [("key", "AQBh+/8="), ("mon_host", "10.0.0.1:6789;[::1]"), ("rbd_cache", "true")];
        assert_eq!(options, expected);
        assert!(!format!("{parsed:?}").contains("AQBh"));
    }

    /// Surprising, but so does QEMU: it looks for the `@` before it looks for options.
    #[test]
    fn a_bare_at_sign_in_a_value_begins_the_snapshot() {
        let parsed = parse("rbd:p/i:id=a@b:conf=c");
        assert_eq!(parsed.spec.image, "i:id=a");
        assert_eq!(parsed.spec.snapshot.as_deref(), Some("b"));
        assert_eq!(parsed.conf.as_deref(), Some("c"));
        assert_eq!(parse(r"rbd:p/i:id=a\@b:conf=c").id.as_deref(), Some("a@b"));
    }

    #[test]
    fn malformed_names_are_refused_without_showing_the_key() {
        for (name, error) in [
            ("p/i", QemuError::NoPrefix),
            ("rbd:p", QemuError::NoPool),
            (r"rbd:p\/i", QemuError::NoPool),
            ("rbd:/i", QemuError::EmptyPart { part: "pool" }),
            ("rbd:p/", QemuError::EmptyPart { part: "image" }),
            ("rbd:p/i@", QemuError::EmptyPart { part: "snapshot" }),
            ("rbd:p/i:", QemuError::NoValue { number: 1 }),
            ("rbd:p/i:key=a:AQBh", QemuError::NoValue { number: 2 }),
        ] {
            let actual = name.parse::<QemuRbd>().unwrap_err();
            assert_eq!(actual, error, "{name}");
            assert!(!format!("{actual} {actual:?}").contains("AQBh"), "{actual}");
        }
    }

    fn escape(text: &str) -> String {
        text.chars().flat_map(|c| r"\/@:=".contains(c).then_some('\\').into_iter().chain([c])).collect()
    }

    proptest! {
        #[test]
        fn what_is_escaped_is_read_back(
            pool in r"[a/@:=\\]{1,6}", namespace in proptest::option::of(r"[a/@:=\\]{1,6}"),
            image in r"[a/@:=\\]{1,6}", snapshot in proptest::option::of(r"[a/@:=\\]{1,6}"),
            value in r"[a/@:=\\]{0,6}",
        ) {
            let mut name = format!("rbd:{}/", escape(&pool));
            if let Some(namespace) = &namespace {
                name += &format!("{}/", escape(namespace));
            }
            name += &escape(&image);
            if let Some(snapshot) = &snapshot {
                name += &format!("@{}", escape(snapshot));
            }
            name += &format!(":mon_host={}", escape(&value));
            let parsed = parse(&name);
            prop_assert_eq!(parsed.spec, ImageSpec { pool, namespace, image, snapshot });
            prop_assert_eq!(parsed.options.get("mon_host"), Some(value.as_str()));
        }

        #[test]
        fn any_text_is_a_name_or_refused(text in r"(rbd:)?[a/@:=\\é]{0,16}") {
            let _ = text.parse::<QemuRbd>();
        }
    }
}
