//! Why bytes could not be decoded.

use thiserror::Error;

/// Why bytes could not be decoded. Names the field, so that a log line is enough to find the place.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The input ends before the field does.
    #[error("{what} needs {need} bytes, {have} are left")]
    Truncated {
        /// The field being read.
        what: &'static str,
        /// Bytes the field needs.
        need: usize,
        /// Bytes that are left.
        have: usize,
    },
    /// The struct says that only readers newer than this one may read it.
    #[error("{what} needs a reader of version {compat} or newer, this one knows {known}")]
    TooNew {
        /// The struct being read.
        what: &'static str,
        /// The oldest version that may read it.
        compat: u8,
        /// The newest version known here.
        known: u8,
    },
    /// The struct is older than anything this reader supports.
    #[error("{what} has version {version}, the oldest supported is {oldest}")]
    TooOld {
        /// The struct being read.
        what: &'static str,
        /// Its version.
        version: u8,
        /// The oldest version supported here.
        oldest: u8,
    },
    /// A field has a value that cannot be.
    #[error("{what} has the impossible value {value}")]
    Invalid {
        /// The field being read.
        what: &'static str,
        /// Its value, or a length or count that is out of bounds.
        value: u64,
    },
    /// Text that is not UTF-8.
    #[error("{what} is not UTF-8")]
    NotUtf8 {
        /// The field being read.
        what: &'static str,
    },
    /// A checksum does not match.
    #[error("{what}: checksum is {actual:#010x}, the sender says {expected:#010x}")]
    BadCrc {
        /// What is covered by the checksum.
        what: &'static str,
        /// Computed here.
        actual: u32,
        /// Sent along.
        expected: u32,
    },
}
