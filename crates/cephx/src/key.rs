//! A secret key, as keyrings and tickets carry it.
//!
//! ```text
//!  0            2                 10          12        12 + len
//! +------------+-----------------+-----------+---------+
//! | type le16  | created utime_t | len le16  | secret  |
//! +------------+-----------------+-----------+---------+
//! ```
//! In text it is the base64 of that. Ceph: `CryptoKey` in `src/auth/Crypto.cc`.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ceph_codec::{Decode, DecodeError, Reader, Utime};
use thiserror::Error;
use zeroize::Zeroizing;

/// Longest text that can be a key, in bytes; far above what any cipher needs.
const MAX_TEXT: usize = 4096;

/// Which cipher a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// AES-128-CBC without authentication. Ceph: `CEPH_CRYPTO_AES`, "aes".
    Aes,
    /// AES-256-CTS with HMAC-SHA384 of RFC 8009. Ceph: `CEPH_CRYPTO_AES256KRB5`, "aes256k".
    Aes256k,
}

impl KeyKind {
    /// Length of its secret in bytes.
    const fn secret_len(self) -> usize {
        match self {
            Self::Aes => 16,
            Self::Aes256k => 32,
        }
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Aes => "aes",
            Self::Aes256k => "aes256k",
        })
    }
}

/// A secret key. Wiped from memory when dropped, never shown by `Debug`.
#[derive(Clone)]
pub struct CryptoKey {
    kind: KeyKind,
    created: Utime,
    secret: Zeroizing<Vec<u8>>,
}

/// Text or bytes that are not a key. Says nothing of their contents.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Nothing is there.
    #[error("the key is empty")]
    Empty,
    /// The text is far too long.
    #[error("{len} bytes are too long for a key")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// The text is not base64.
    #[error("the key is not base64")]
    NotBase64,
    /// The base64 is cut short or something else.
    #[error("the key is malformed")]
    Malformed(#[source] DecodeError),
    /// A type of key that is not known here.
    #[error("the key is of type {0}; known are 1 (aes) and 2 (aes256k)")]
    UnknownKind(u16),
    /// The secret has not the length its cipher needs.
    #[error("the {kind} key has {len} bytes instead of {}", kind.secret_len())]
    WrongLength {
        /// The cipher.
        kind: KeyKind,
        /// Length of the secret in bytes.
        len: usize,
    },
    /// More bytes follow the secret.
    #[error("{0} bytes follow the key")]
    TrailingBytes(usize),
}

impl CryptoKey {
    /// Reads the text form: the value of `key =` in a keyring or configuration file, or the contents of a key
    /// file. Whitespace around it is ignored.
    ///
    /// # Errors
    /// [`KeyError`], whose text never has a part of the key.
    pub fn from_base64(text: &str) -> Result<Self, KeyError> {
        Self::from_key_file(text.as_bytes())
    }

    /// Reads a key file (`--keyfile`, `keyfile =`): the text form alone.
    ///
    /// # Errors
    /// As [`from_base64`](Self::from_base64).
    pub fn from_key_file(bytes: &[u8]) -> Result<Self, KeyError> {
        let text = bytes.trim_ascii();
        if text.is_empty() {
            return Err(KeyError::Empty);
        }
        if text.len() > MAX_TEXT {
            return Err(KeyError::TooLong { len: text.len() });
        }
        // Sized for the whole result, so that no reallocation leaves a copy behind.
        let mut wire = Zeroizing::new(vec![0; base64::decoded_len_estimate(text.len())]);
        let len = STANDARD.decode_slice(text, &mut wire).map_err(|_| KeyError::NotBase64)?;
        let mut r = Reader::new(&wire[..len]);
        let key = Self::decode(&mut r)?;
        if r.is_empty() { Ok(key) } else { Err(KeyError::TrailingBytes(r.remaining())) }
    }

    /// Reads the wire form.
    pub(crate) fn decode(r: &mut Reader<'_>) -> Result<Self, KeyError> {
        let (kind, created, len) =
            (|| Ok((u16::decode(r)?, Utime::decode(r)?, u16::decode(r)?)))().map_err(KeyError::Malformed)?;
        let secret = r.take("secret of a key", len.into()).map_err(KeyError::Malformed)?;
        let kind = match kind {
            1 => KeyKind::Aes,
            2 => KeyKind::Aes256k,
            other => return Err(KeyError::UnknownKind(other)),
        };
        if secret.len() != kind.secret_len() {
            return Err(KeyError::WrongLength { kind, len: secret.len() });
        }
        Ok(Self { kind, created, secret: Zeroizing::new(secret.to_vec()) })
    }

    /// Which cipher it is for.
    #[must_use]
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// When it was made.
    #[must_use]
    pub fn created(&self) -> Utime {
        self.created
    }

    pub(crate) fn secret(&self) -> &[u8] {
        &self.secret
    }
}

impl fmt::Debug for CryptoKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CryptoKey").field("kind", &self.kind).finish_non_exhaustive()
    }
}

#[cfg(any(test, feature = "server"))]
impl CryptoKey {
    pub(crate) fn from_secret(kind: KeyKind, secret: &[u8]) -> Self {
        assert_eq!(secret.len(), kind.secret_len());
        Self { kind, created: Utime::default(), secret: Zeroizing::new(secret.to_vec()) }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        use ceph_codec::Encode;
        let kind: u16 = if self.kind == KeyKind::Aes { 1 } else { 2 };
        kind.encode(out);
        self.created.encode(out);
        u16::try_from(self.secret.len()).expect("16 or 32").encode(out);
        out.extend_from_slice(&self.secret);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const AES: &str = "AQCrhgNrSTJUJxAA4R2M1aOK9kPcG1hTVOGBfg==";
    const AES256K: &str = "AgDWhgNrA4/pAiAA+iRxcEBiqMucc/tGUy1ZnBTrtgeI72ZApa+4Jgh65Vw=";

    fn base64_of(bytes: &[u8]) -> String {
        STANDARD.encode(bytes)
    }

    #[test]
    fn keys_made_by_ceph_are_read() {
        let key = CryptoKey::from_base64(AES).unwrap();
        assert_eq!((key.kind(), key.secret().len(), key.created().sec), (KeyKind::Aes, 16, 0x6b03_86ab));
        let key = CryptoKey::from_base64(AES256K).unwrap();
        assert_eq!((key.kind(), key.secret().len(), key.created().sec), (KeyKind::Aes256k, 32, 0x6b03_86d6));
    }

    #[test]
    fn a_key_file_may_have_whitespace_around_the_key() {
        let key = CryptoKey::from_key_file(format!(" \t{AES}\r\n\n").as_bytes()).unwrap();
        assert_eq!(key.kind(), KeyKind::Aes);
    }

    #[test]
    fn debug_shows_no_secret() {
        assert_eq!(format!("{:?}", CryptoKey::from_base64(AES).unwrap()), "CryptoKey { kind: Aes, .. }");
    }

    #[test]
    fn each_kind_of_damage_has_its_own_error() {
        let error = |text: &str| CryptoKey::from_base64(text).unwrap_err();
        assert_eq!(error(" \n"), KeyError::Empty);
        assert_eq!(error(&"A".repeat(5000)), KeyError::TooLong { len: 5000 });
        assert_eq!(error("[client.admin]"), KeyError::NotBase64);
        assert_eq!(error(&AES[..AES.len() - 4]), {
            let source = DecodeError::Truncated { what: "secret of a key", need: 16, have: 15 };
            KeyError::Malformed(source)
        });
        assert_eq!(error(&base64_of(&[0; 12])), KeyError::UnknownKind(0));
        assert_eq!(error(&base64_of(&[3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])), KeyError::UnknownKind(3));
        let short = base64_of(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 9]);
        assert_eq!(error(&short), KeyError::WrongLength { kind: KeyKind::Aes, len: 1 });
        let long = base64_of(&[&STANDARD.decode(AES).unwrap()[..], &[0, 0]].concat());
        assert_eq!(error(&long), KeyError::TrailingBytes(2));
    }

    proptest! {
        #[test]
        fn hostile_key_files_are_an_error_or_a_key(bytes: Vec<u8>) {
            prop_assert!(CryptoKey::from_key_file(&bytes).is_err());
        }
    }
}
