//! Error numbers, as OSDs and monitors return them.

use std::fmt;

/// An error number of Linux, positive. Ceph's wire uses Linux's numbers on every platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

macro_rules! errnos {
    ($($(#[$doc:meta])* $name:ident = $value:literal, $text:literal;)*) => {
        impl Errno {
            $($(#[$doc])* pub const $name: Self = Self($value);)*

            fn text(self) -> Option<&'static str> {
                Some(match self {
                    $(Self::$name => $text,)*
                    _ => return None,
                })
            }
        }
    };
}
errnos! {
    /// Operation not permitted: the user's caps do not allow it.
    EPERM = 1, "operation not permitted";
    /// No such object, image, pool, snapshot.
    ENOENT = 2, "no such object";
    /// Input/output error.
    EIO = 5, "input/output error";
    /// Try again.
    EAGAIN = 11, "try again";
    /// Permission denied.
    EACCES = 13, "permission denied";
    /// Resource busy.
    EBUSY = 16, "resource busy";
    /// Already exists.
    EEXIST = 17, "already exists";
    /// Invalid argument.
    EINVAL = 22, "invalid argument";
    /// No space left.
    ENOSPC = 28, "no space left";
    /// Read-only.
    EROFS = 30, "read-only";
    /// Result out of range.
    ERANGE = 34, "out of range";
    /// Exec format error: the answer could not be understood.
    ENOEXEC = 8, "malformed answer";
    /// No data.
    ENODATA = 61, "no data";
    /// The write's snapshot context is older than the object's.
    EOLDSNAPC = 85, "old snapshot context";
    /// Message too long.
    EMSGSIZE = 90, "too large";
    /// Not supported.
    EOPNOTSUPP = 95, "not supported";
    /// This client is blocklisted. Ceph: `EBLOCKLISTED`.
    EBLOCKLISTED = 108, "this client is blocklisted";
    /// Timed out.
    ETIMEDOUT = 110, "timed out";
    /// Too much came to be kept.
    ENOBUFS = 105, "no buffer space available";
    /// The watch is not registered any more.
    ENOTCONN = 107, "not connected";
    /// Canceled.
    ECANCELED = 125, "canceled";
    /// Quota exceeded.
    EDQUOT = 122, "quota exceeded";
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.text() {
            Some(text) => write!(f, "{text} (errno {})", self.0),
            None => write!(f, "errno {}", self.0),
        }
    }
}
