//! The advisory locks of object class `lock`: what OSDs keep about who holds which lock of an object.
//!
//! ```text
//! lock           versioned(1) { name | type u8 | cookie | tag | description | duration (8 bytes) | flags u8 }
//! unlock         versioned(1) { name | cookie }
//! break_lock     versioned(1) { name | locker | cookie }
//! set_cookie     versioned(1) { name | type u8 | cookie | tag | new cookie }
//! assert_locked  versioned(1) { name | type u8 | cookie | tag }
//! get_info       versioned(1) { name }  ->  versioned(1) { lockers | type u8 | tag }
//! ```
//! Ceph: `src/cls/lock/cls_lock_ops.h`, `src/cls/lock/cls_lock_types.h`.

use std::fmt;

use bytes::Bytes;
use ceph_codec::{Decode, DecodeError, Encode, EntityAddr, EntityName, Reader, Utime, versioned};
use rados::Operation;

/// The name of every lock that RBD takes. Ceph: `RBD_LOCK_NAME` in `src/include/rbd_types.h`.
const LOCK_NAME: &str = "rbd_lock";

const CLASS: &str = "lock";

/// `ClsLockType::EXCLUSIVE`.
pub(crate) const EXCLUSIVE: u8 = 1;
/// `ClsLockType::SHARED`.
pub(crate) const SHARED: u8 = 2;

/// Appends taking the lock exclusively. `EBUSY` if another holds it, `EEXIST` if this client does.
pub(crate) fn lock(operation: Operation, cookie: &str, tag: &str) -> Operation {
    lock_as(operation, EXCLUSIVE, cookie, tag)
}

/// Appends taking the lock, exclusively or shared with all that have the same tag. `EBUSY` if others hold it in
/// another way, `EEXIST` if this client does already.
pub(crate) fn lock_as(operation: Operation, kind: u8, cookie: &str, tag: &str) -> Operation {
    let input = input(|out| {
        (LOCK_NAME, kind).encode(out);
        (cookie, tag).encode(out);
        "".encode(out); // description
        (0u32, 0u32).encode(out); // duration: for ever
        0u8.encode(out); // flags
    });
    operation.call_mut(CLASS, "lock", input)
}

/// Appends giving up this client's lock. `ENOENT` if it has none.
pub(crate) fn unlock(operation: Operation, cookie: &str) -> Operation {
    operation.call_mut(CLASS, "unlock", input(|out| (LOCK_NAME, cookie).encode(out)))
}

/// Appends taking the lock away from another client. `ENOENT` if it has none.
pub(crate) fn break_lock(operation: Operation, locker: EntityName, cookie: &str) -> Operation {
    let input = input(|out| {
        (LOCK_NAME, locker).encode(out);
        cookie.encode(out);
    });
    operation.call_mut(CLASS, "break_lock", input)
}

/// Appends changing the cookie of this client's lock. `EBUSY` if it does not hold it.
pub(crate) fn set_cookie(operation: Operation, old: &str, tag: &str, new: &str) -> Operation {
    let input = input(|out| {
        (LOCK_NAME, EXCLUSIVE).encode(out);
        (old, tag).encode(out);
        new.encode(out);
    });
    operation.call_mut(CLASS, "set_cookie", input)
}

/// Appends a guard: `EBUSY` unless this client holds the lock exclusively with this cookie and tag.
pub(crate) fn assert_locked(operation: Operation, cookie: &str, tag: &str) -> Operation {
    let input = input(|out| {
        (LOCK_NAME, EXCLUSIVE).encode(out);
        (cookie, tag).encode(out);
    });
    operation.call(CLASS, "assert_locked", input)
}

/// Appends asking who holds the lock; decode the op's data with [`LockInfo::decode_from`].
pub(crate) fn get_info(operation: Operation) -> Operation {
    operation.call(CLASS, "get_info", input(|out| LOCK_NAME.encode(out)))
}

fn input(fields: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut out = Vec::with_capacity(64);
    versioned(&mut out, 1, 1, fields);
    out.into()
}

/// Who holds a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockOwner {
    /// The client instance.
    pub name: EntityName,
    /// What it called its lock; `auto` and the cookie of its watch if it manages the lock by itself.
    pub cookie: String,
    /// Its address, which is what has to be blocklisted to stop it.
    pub addr: EntityAddr,
}

impl LockOwner {
    /// The command that takes the lock away and shuts the owner out. `image` names the image, with its pool.
    #[must_use]
    pub fn removal(&self, image: &str) -> String {
        let quote = if self.cookie.contains('"') { '\'' } else { '"' };
        format!("rbd lock rm {image} {quote}{}{quote} {}", self.cookie, self.name)
    }
}

impl fmt::Display for LockOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Lockers are stored as if they spoke messenger v1, whatever they speak; `rbd lock ls` hides that, too.
        let addr = EntityAddr { kind: ceph_codec::AddrType::ANY, ..self.addr };
        write!(f, "{} at {addr} (lock \"{}\")", self.name, self.cookie)
    }
}

/// A lock and its holders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LockInfo {
    pub(crate) lockers: Vec<LockOwner>,
    /// `ClsLockType`
    pub(crate) kind: u8,
    pub(crate) tag: String,
}

impl Decode for LockInfo {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.versioned("cls_lock_get_info_reply", 1, |r, _| {
            let lockers = r.seq("lockers", |r| {
                let (name, cookie) =
                    r.versioned("locker_id_t", 1, |r, _| <(EntityName, String)>::decode(r))?;
                let addr = r.versioned("locker_info_t", 1, |r, _| {
                    Utime::decode(r)?; // expiration
                    EntityAddr::decode(r) // a description follows
                })?;
                Ok(LockOwner { name, cookie, addr })
            })?;
            Ok(Self { lockers, kind: u8::decode(r)?, tag: String::decode(r)? })
        })
    }
}
