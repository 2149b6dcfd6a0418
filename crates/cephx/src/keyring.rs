//! Keyring files.
//!
//! ```text
//! # comment
//! [client.qemu]
//!         key = AQCrhgNrSTJUJxAA4R2M1aOK9kPcG1hTVOGBfg==
//!         caps mon = "profile rbd"
//! ```
//! The configuration files' syntax, with sections named after users. Only `key` matters to a client; other
//! settings are skipped, a value that ends in a backslash together with the next line.
//!
//! Ceph: `KeyRing::decode` in `src/auth/KeyRing.cc`.

use std::collections::BTreeMap;

use nom::bytes::complete::{tag, take_till, take_till1};
use nom::character::complete::{char, space0};
use nom::combinator::rest;
use nom::sequence::{delimited, terminated};
use nom::{IResult, Parser};
use thiserror::Error;

use crate::{CryptoKey, EntityAuthName, KeyError};

/// Largest keyring, in bytes: room for thousands of keys.
const MAX_LEN: usize = 1 << 20;

/// The keys of a keyring file.
#[derive(Debug, Clone, Default)]
pub struct Keyring {
    keys: BTreeMap<EntityAuthName, CryptoKey>,
}

/// Why a file is not a keyring. Never has a part of a key in its text.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum KeyringError {
    /// The file is too large.
    #[error("the keyring has {len} bytes, more than {MAX_LEN}")]
    TooLarge {
        /// Its length in bytes.
        len: usize,
    },
    /// The file is not text.
    #[error("the keyring is binary; rewrite it as text with `ceph-authtool`")]
    Binary,
    /// A line is neither section, setting, comment nor empty.
    #[error("line {line} of the keyring is neither `[user]` nor `setting = value`")]
    Syntax {
        /// Counted from 1.
        line: usize,
    },
    /// A section is not named after a user.
    #[error("line {line} of the keyring: the section is not named after a user such as [client.qemu]")]
    BadSection {
        /// Counted from 1.
        line: usize,
    },
    /// A setting is in front of the first section.
    #[error("line {line} of the keyring belongs to no user; a line such as [client.qemu] must come before")]
    NoSection {
        /// Counted from 1.
        line: usize,
    },
    /// A key can't be used.
    #[error("line {line} of the keyring: the key of {name} is unusable")]
    BadKey {
        /// Counted from 1.
        line: usize,
        /// Whose key it is.
        name: EntityAuthName,
        /// What is wrong with it.
        #[source]
        source: KeyError,
    },
}

impl Keyring {
    /// Reads a keyring file. The caller still has its bytes and should wipe them.
    ///
    /// # Errors
    /// [`KeyringError`] with the number of the line.
    pub fn parse(bytes: &[u8]) -> Result<Self, KeyringError> {
        if bytes.len() > MAX_LEN {
            return Err(KeyringError::TooLarge { len: bytes.len() });
        }
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let control = |b: &u8| b.is_ascii_control() && !b.is_ascii_whitespace();
        if bytes.iter().any(control) {
            return Err(KeyringError::Binary);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| KeyringError::Binary)?;

        let mut keys = BTreeMap::new();
        let mut section = Section::None;
        let mut lines = text.lines().zip(1..);
        while let Some((text, line)) = lines.next() {
            match Line::parse(text).ok_or(KeyringError::Syntax { line })? {
                Line::Empty => {}
                Line::Section("global") => section = Section::Global,
                Line::Section(name) => {
                    section = Section::User(name.parse().map_err(|_| KeyringError::BadSection { line })?);
                }
                Line::Setting { name, value } => {
                    let name = name.trim_end();
                    match &section {
                        Section::None => return Err(KeyringError::NoSection { line }),
                        Section::User(user) if name == "key" => {
                            let key = CryptoKey::from_base64(value).map_err(|source| {
                                KeyringError::BadKey { line, name: user.clone(), source }
                            })?;
                            keys.insert(user.clone(), key);
                        }
                        Section::User(_) | Section::Global => skip_continuation(value, &mut lines),
                    }
                }
            }
        }
        Ok(Self { keys })
    }

    /// The key of a user, such as `client.qemu`.
    #[must_use]
    pub fn get(&self, name: &EntityAuthName) -> Option<&CryptoKey> {
        self.keys.get(name)
    }

    /// The users that have a key here.
    pub fn names(&self) -> impl Iterator<Item = &EntityAuthName> {
        self.keys.keys()
    }
}

enum Section {
    None,
    /// Settings that a shared file has for others.
    Global,
    User(EntityAuthName),
}

enum Line<'a> {
    Empty,
    Section(&'a str),
    Setting { name: &'a str, value: &'a str },
}

impl<'a> Line<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let text = text.trim();
        if text.is_empty() || text.starts_with(['#', ';']) {
            return Some(Self::Empty);
        }
        if let Ok((rest, name)) = section(text) {
            let rest = rest.trim_start();
            return (rest.is_empty() || rest.starts_with(['#', ';'])).then_some(Self::Section(name.trim()));
        }
        let (_, (name, value)) = setting(text).ok()?;
        Some(Self::Setting { name, value })
    }
}

fn section(text: &str) -> IResult<&str, &str> {
    delimited(char('['), take_till(|c| c == ']'), char(']')).parse(text)
}

fn setting(text: &str) -> IResult<&str, (&str, &str)> {
    let name = take_till1(|c| matches!(c, '=' | '#' | ';' | '[' | '"'));
    (terminated(name, (tag("="), space0)), value).parse(text)
}

/// A value in quotes, or up to a comment.
fn value(text: &str) -> IResult<&str, &str> {
    if text.starts_with('"') {
        let quoted: IResult<&str, &str> =
            delimited(char('"'), take_till(|c| c == '"'), char('"')).parse(text);
        return quoted.or_else(|_| rest(text));
    }
    take_till(|c| matches!(c, '#' | ';')).parse(text)
}

/// A line that ends in a backslash goes on in the next one.
fn skip_continuation<'a>(value: &str, lines: &mut impl Iterator<Item = (&'a str, usize)>) {
    let mut goes_on = value.trim_end().ends_with('\\');
    while goes_on {
        goes_on = lines.next().is_some_and(|(text, _)| text.trim_end().ends_with('\\'));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KeyKind;
    use proptest::prelude::*;

    const KEY: &str = "AQCrhgNrSTJUJxAA4R2M1aOK9kPcG1hTVOGBfg==";
    const KEY2: &str = "AgDWhgNrA4/pAiAA+iRxcEBiqMucc/tGUy1ZnBTrtgeI72ZApa+4Jgh65Vw=";

    fn kinds(text: &str) -> Vec<(String, KeyKind)> {
        let keyring = Keyring::parse(text.as_bytes()).unwrap();
        keyring.names().map(|name| (name.to_string(), keyring.get(name).unwrap().kind())).collect()
    }

    fn error(text: &str) -> KeyringError {
        Keyring::parse(text.as_bytes()).unwrap_err()
    }

    #[test]
    fn keyrings_written_by_ceph_are_read() {
        for (bytes, kind) in [
            (&include_bytes!("../testdata/pacific/handshake-aes/keyring")[..], KeyKind::Aes),
            (&include_bytes!("../testdata/tentacle/handshake-aes256k/keyring")[..], KeyKind::Aes256k),
        ] {
            let keyring = Keyring::parse(bytes).unwrap();
            let names: Vec<_> = keyring.names().map(ToString::to_string).collect();
            assert_eq!(names, ["mon.", "client.admin", "mgr.x"]);
            assert_eq!(keyring.get(&EntityAuthName::client("admin")).unwrap().kind(), kind);
            assert!(keyring.get(&EntityAuthName::client("nobody")).is_none());
        }
    }

    #[test]
    fn whitespace_comments_caps_and_unknown_settings_do_not_matter() {
        let text = format!(
            "\u{feff}# comment\n; comment\r\n\r\n[global]\nfsid = x\n  [ client.a ]  # mine\n\t key={KEY} ; comment\r\n\
             caps mon = \"allow r, allow command \\\"auth get\\\"\"\nauid = 0\ncaps osd = allow rwx \\\n  pool=a\n\
             [client.b]\nkey   =   \"{KEY2}\"\n[client.no-key]\ncaps_mon = allow r"
        );
        let expected = [("client.a".into(), KeyKind::Aes), ("client.b".into(), KeyKind::Aes256k)];
        assert_eq!(kinds(&text), expected);
    }

    #[test]
    fn the_last_key_of_a_user_counts() {
        let text = format!("[client.a]\nkey = {KEY}\n[client.a]\nkey = {KEY2}\n");
        assert_eq!(kinds(&text), [("client.a".into(), KeyKind::Aes256k)]);
    }

    #[test]
    fn an_empty_keyring_has_no_keys() {
        assert_eq!(kinds(""), []);
    }

    #[test]
    fn errors_tell_the_line_and_never_the_key() {
        assert_eq!(error(KEY), KeyringError::NoSection { line: 1 });
        assert_eq!(error("[client.a]\nnonsense"), KeyringError::Syntax { line: 2 });
        assert_eq!(error("[client.a\nkey = x"), KeyringError::Syntax { line: 1 });
        assert_eq!(error("\n[admin]\n"), KeyringError::BadSection { line: 2 });
        let name = EntityAuthName::client("a");
        let bad_key = KeyringError::BadKey { line: 3, name, source: KeyError::NotBase64 };
        assert_eq!(error("[client.a]\n\nkey = Zm9v!"), bad_key);
        assert!(!bad_key.to_string().contains("Zm9v"));
    }

    /// The encoding of keyrings before Ceph 0.48: version, count, entity names.
    #[test]
    fn a_binary_keyring_is_refused_as_such() {
        assert_eq!(Keyring::parse(b"\x01\x01\0\0\0\x08\0\0\0admin").unwrap_err(), KeyringError::Binary);
        assert_eq!(Keyring::parse(b"[client.\xff]").unwrap_err(), KeyringError::Binary);
    }

    #[test]
    fn a_huge_keyring_is_refused() {
        assert_eq!(
            Keyring::parse(&vec![b'\n'; MAX_LEN + 1]).unwrap_err(),
            KeyringError::TooLarge { len: 1048577 }
        );
    }

    proptest! {
        #[test]
        fn hostile_keyrings_do_not_panic(text in "(\\[|\\]|=|\"|\\\\|key|client\\.|#|;|\n| |.){0,40}") {
            let _ = Keyring::parse(text.as_bytes());
        }
    }
}
