//! The object class `lock`, as far as RBD uses it. Ceph: `src/cls/lock/cls_lock.cc`.

use std::collections::BTreeMap;

use ceph_codec::{AddrType, Decode, DecodeError, Encode, EntityAddr, EntityName, Reader, Utime, versioned};
use rados::Errno;

use super::Caller;
use super::object::Object;

const PREFIX: &str = "lock.";
const EXCLUSIVE: u8 = 1;
const SHARED: u8 = 2;
const MAY_RENEW: u8 = 1;
const MUST_RENEW: u8 = 2;

#[derive(Debug, Default)]
struct LockState {
    /// Address and description, by holder and cookie.
    lockers: BTreeMap<(EntityName, String), (EntityAddr, String)>,
    kind: u8,
    tag: String,
}

pub(super) fn call(
    object: &mut Object,
    method: &str,
    input: &[u8],
    caller: &Caller<'_>,
) -> Result<Vec<u8>, Errno> {
    let input = Input::decode(method, input)?;
    let mut lock = LockState::load(object, &input.name)?;
    let me = (caller.name(), input.cookie.clone());
    match method {
        "get_info" => {
            object.must_exist()?;
            return Ok(lock.encode_to_vec());
        }
        "assert_locked" => {
            object.must_exist()?;
            lock.check_held(&input, &me)?;
            return Ok(Vec::new());
        }
        "lock" => {
            if !lock.lockers.is_empty() && lock.tag != input.tag {
                return Err(Errno::EBUSY);
            }
            let held = lock.lockers.contains_key(&me);
            if held && input.flags & (MAY_RENEW | MUST_RENEW) == 0 {
                return Err(Errno::EEXIST);
            }
            if !held && input.flags & MUST_RENEW != 0 {
                return Err(Errno::ENOENT);
            }
            lock.lockers.remove(&me);
            if !lock.lockers.is_empty() && (input.kind == EXCLUSIVE || lock.kind != input.kind) {
                return Err(Errno::EBUSY);
            }
            (lock.kind, lock.tag) = (input.kind, input.tag);
            let addr = EntityAddr { kind: AddrType::LEGACY, ..caller.addr() };
            lock.lockers.insert(me, (addr, input.description));
        }
        "unlock" => {
            object.must_exist()?;
            lock.lockers.remove(&me).ok_or(Errno::ENOENT)?;
        }
        "break_lock" => {
            object.must_exist()?;
            let locker = (input.locker.unwrap_or_else(|| caller.name()), input.cookie);
            lock.lockers.remove(&locker).ok_or(Errno::ENOENT)?;
        }
        "set_cookie" => {
            object.must_exist()?;
            lock.check_held(&input, &me)?;
            let renamed = (me.0, input.new_cookie);
            if lock.lockers.contains_key(&renamed) {
                return Err(Errno::EBUSY);
            }
            let holder = lock.lockers.remove(&me).ok_or(Errno::EBUSY)?;
            lock.lockers.insert(renamed, holder);
        }
        _ => return Err(Errno::EOPNOTSUPP),
    }
    object.exists = true;
    object.xattrs.insert(format!("{PREFIX}{}", input.name), lock.encode_to_vec());
    Ok(Vec::new())
}

impl LockState {
    fn load(object: &Object, name: &str) -> Result<Self, Errno> {
        match object.xattrs.get(&format!("{PREFIX}{name}")) {
            Some(stored) => Self::decode_from(stored).map_err(|_| Errno::EIO),
            None => Ok(Self::default()),
        }
    }

    fn check_held(&self, input: &Input, me: &(EntityName, String)) -> Result<(), Errno> {
        let held = self.kind == input.kind && self.tag == input.tag && self.lockers.contains_key(me);
        if held { Ok(()) } else { Err(Errno::EBUSY) }
    }
}

/// The arguments of all methods; each has some of them.
#[derive(Debug, Default)]
struct Input {
    name: String,
    kind: u8,
    cookie: String,
    tag: String,
    description: String,
    flags: u8,
    locker: Option<EntityName>,
    new_cookie: String,
}

impl Input {
    fn decode(method: &str, input: &[u8]) -> Result<Self, Errno> {
        Reader::new(input)
            .versioned("arguments of cls lock", 1, |r, _| Self::fields(method, r))
            .map_err(|_| Errno::EINVAL)
    }

    fn fields(method: &str, r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut input = Self { name: String::decode(r)?, ..Self::default() };
        match method {
            "unlock" => input.cookie = String::decode(r)?,
            "break_lock" => {
                input.locker = Some(EntityName::decode(r)?);
                input.cookie = String::decode(r)?;
            }
            "lock" | "assert_locked" | "set_cookie" => {
                input.kind = u8::decode(r)?;
                if !matches!(input.kind, EXCLUSIVE | SHARED) {
                    return Err(DecodeError::Invalid { what: "type of lock", value: input.kind.into() });
                }
                input.cookie = String::decode(r)?;
                input.tag = String::decode(r)?;
                if method == "lock" {
                    input.description = String::decode(r)?;
                    Utime::decode(r)?; // duration: locks do not expire here
                    input.flags = u8::decode(r)?;
                }
                if method == "set_cookie" {
                    input.new_cookie = String::decode(r)?;
                }
            }
            _ => {}
        }
        Ok(input)
    }
}

impl Encode for LockState {
    fn encode(&self, out: &mut Vec<u8>) {
        versioned(out, 1, 1, |out| {
            u32::try_from(self.lockers.len()).unwrap_or(u32::MAX).encode(out);
            for ((name, cookie), (addr, description)) in &self.lockers {
                versioned(out, 1, 1, |out| (name, cookie).encode(out));
                versioned(out, 1, 1, |out| {
                    Utime::default().encode(out);
                    addr.encode(out);
                    description.encode(out);
                });
            }
            self.kind.encode(out);
            self.tag.encode(out);
        });
    }
}

impl Decode for LockState {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.versioned("lock_info_t", 1, |r, _| {
            let lockers = r.seq("lockers", |r| {
                let id = r.versioned("locker_id_t", 1, |r, _| <(EntityName, String)>::decode(r))?;
                let info = r.versioned("locker_info_t", 1, |r, _| {
                    Utime::decode(r)?;
                    Ok((EntityAddr::decode(r)?, String::decode(r)?))
                })?;
                Ok((id, info))
            })?;
            Ok(Self { lockers: lockers.into_iter().collect(), kind: u8::decode(r)?, tag: String::decode(r)? })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_lock_looks_as_on_pacific() {
        let lock = LockState { kind: EXCLUSIVE, tag: "internal".to_owned(), ..LockState::default() };
        assert_eq!(lock.encode_to_vec(), include_bytes!("../../testdata/16.2.15/cls_rbd/lock_get_info"));
    }
}
