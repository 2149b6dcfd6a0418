//! Option names and values, and which of them are secret.

use std::collections::BTreeMap;
use std::fmt;

use zeroize::Zeroizing;

/// A secret text: wiped from memory when dropped, never shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// The text itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(Zeroizing::new(text.to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

/// Options by name; the last value set for a name wins.
///
/// Names are kept in the form in which Ceph lists them: `mon host`, `mon-host` and `mon_host` are one name. Case
/// matters, as it does for Ceph. Values are wiped when dropped, and `Debug` shows no secret ones.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Options(BTreeMap<String, Zeroizing<String>>);

impl Options {
    /// Sets an option. White space around name and value is dropped.
    pub fn set(&mut self, name: &str, value: &str) {
        self.0.insert(normalize(name), Zeroizing::new(value.trim().to_owned()));
    }

    /// The value of an option, if it was set.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let value = self.0.get(name).or_else(|| self.0.get(&normalize(name)));
        value.map(|value| value.as_str())
    }

    /// All options, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Sets all options of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.0.extend(other.0.iter().map(|(name, value)| (name.clone(), value.clone())));
    }

    /// Whether none is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<N: AsRef<str>, V: AsRef<str>> FromIterator<(N, V)> for Options {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        let mut options = Self::default();
        for (name, value) in pairs {
            options.set(name.as_ref(), value.as_ref());
        }
        options
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |(name, value)| (name, if is_secret(name) { REDACTED } else { value });
        f.debug_map().entries(self.iter().map(shown)).finish()
    }
}

const REDACTED: &str = "<redacted>";

/// Whether values of this option must not be shown. `key` is the client's; the others are daemons' but may stand
/// in the same file.
pub(crate) fn is_secret(name: &str) -> bool {
    name == "key" || ["secret", "password", "passphrase"].iter().any(|word| name.contains(word))
}

/// The value as it may stand in an error.
pub(crate) fn shown(name: &str, value: &str) -> String {
    if is_secret(name) { REDACTED } else { value }.to_owned()
}

/// Ceph: `ConfFile::normalize_key_name` for white space, `dashes_to_underscores` of `ceph_argparse.cc` for dashes.
fn normalize(name: &str) -> String {
    name.split_whitespace().collect::<Vec<_>>().join("_").replace('-', "_")
}

/// Splits lists such as `crc secure` or `cephx, none`. Ceph: `get_str_list` with its default delimiters.
pub(crate) fn words(list: &str) -> impl Iterator<Item = &str> {
    list.split([';', ',', '=', ' ', '\t']).filter(|word| !word.is_empty())
}

/// Splits lists of paths, which may contain blanks. Ceph: `get_str_list(.., ";,")`.
pub(crate) fn paths(list: &str) -> impl Iterator<Item = &str> {
    list.split([';', ',']).filter(|path| !path.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_dashes_and_underscores_are_the_same() {
        let options = Options::from_iter([(" mon \t host ", " a ")]);
        for name in ["mon_host", "mon host", "mon-host", "mon  host "] {
            assert_eq!(options.get(name), Some("a"), "{name}");
        }
        assert_eq!(options.get("Mon_host"), None);
    }

    #[test]
    fn secrets_are_not_shown() {
        let options =
            Options::from_iter([("key", "AQBhush"), ("keyring", "/k"), ("rgw_swift_secret", "AQBhush")]);
        let shown = format!("{options:?} {:?}", Secret::from("AQBhush"));
        assert!(!shown.contains("hush"), "{shown}");
        assert!(shown.contains("/k"), "{shown}");
    }

    #[test]
    fn the_last_value_wins() {
        let mut options = Options::from_iter([("a", "1"), ("a", "2"), ("b", "3")]);
        options.merge(&Options::from_iter([("b", "4")]));
        assert_eq!(options.iter().collect::<Vec<_>>(), [("a", "2"), ("b", "4")]);
    }
}
