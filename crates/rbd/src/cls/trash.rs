//! The trash of a pool and namespace, `rbd_trash`.
//!
//! ```text
//! trash_add        id | TrashImageSpec
//! trash_remove     id
//! trash_get        id                           ->  TrashImageSpec
//! trash_list       after | max u64              ->  map of ids to TrashImageSpec
//! trash_state_set  id | new u8 | expected u8
//!
//! TrashImageSpec   versioned(2) { source u8 | name | moved utime | deferred until utime | state u8 }
//! ```
//! Ceph: `src/cls/rbd/cls_rbd.cc`; `TrashImageSpec` in `src/cls/rbd/cls_rbd_types.cc`.

use std::collections::BTreeMap;

use ceph_codec::{Decode, DecodeError, Encode, Reader, Utime, versioned};
use rados::Operation;

use super::Call;

/// What is known of an image in the trash. Ceph: `cls::rbd::TrashImageSpec`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TrashRecord {
    /// Who moved it there. Ceph: `cls::rbd::TrashImageSource`.
    pub(crate) source: u8,
    pub(crate) name: String,
    pub(crate) deletion_time: Utime,
    pub(crate) deferment_end: Utime,
    /// Ceph: `cls::rbd::TrashImageState`.
    pub(crate) state: u8,
}

/// An image in the trash is complete.
pub(crate) const STATE_NORMAL: u8 = 0;
/// It is on its way into the trash.
pub(crate) const STATE_MOVING: u8 = 1;
/// It is being removed.
pub(crate) const STATE_REMOVING: u8 = 2;
/// It is on its way back.
pub(crate) const STATE_RESTORING: u8 = 3;

/// Appends adding an image; makes the trash if there is none. `EEXIST` if it is there.
pub(crate) fn trash_add(operation: Operation, id: &str, record: &TrashRecord) -> Operation {
    operation.call_mut("rbd", "trash_add", (id, record).encode_to_vec())
}

/// Appends removing an image. `ENOENT` if it is not there.
pub(crate) fn trash_remove(operation: Operation, id: &str) -> Operation {
    operation.call_mut("rbd", "trash_remove", id.encode_to_vec())
}

/// Appends changing the state. `ESTALE` if it is neither `expected` nor `new` before.
pub(crate) fn trash_state_set(operation: Operation, id: &str, new: u8, expected: u8) -> Operation {
    operation.call_mut("rbd", "trash_state_set", (id, (new, expected)).encode_to_vec())
}

/// The record of one image; `ENOENT` if it is not there.
pub(crate) fn trash_get(id: &str) -> Call<TrashRecord> {
    Call::rbd("trash_get", id.encode_to_vec())
}

/// Up to `max` images with ids after `after`. `ENOENT` if there is no trash.
pub(crate) fn trash_list(after: &str, max: u64) -> Call<BTreeMap<String, TrashRecord>> {
    Call::rbd("trash_list", (after, max).encode_to_vec())
}

impl Encode for TrashRecord {
    fn encode(&self, out: &mut Vec<u8>) {
        versioned(out, 2, 1, |out| {
            (self.source, self.name.as_str()).encode(out);
            (&self.deletion_time, &self.deferment_end).encode(out);
            self.state.encode(out);
        });
    }
}

impl Decode for TrashRecord {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.versioned("TrashImageSpec", 2, |r, version| {
            let (source, name) = <(u8, String)>::decode(r)?;
            let (deletion_time, deferment_end) = <(Utime, Utime)>::decode(r)?;
            let state = if version >= 2 { u8::decode(r)? } else { STATE_NORMAL };
            Ok(Self { source, name, deletion_time, deferment_end, state })
        })
    }
}
