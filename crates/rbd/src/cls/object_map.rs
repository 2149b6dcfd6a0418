//! Changing object maps, and what an image's flags say about them.
//!
//! ```text
//! object_map_save    states, as they are stored          on the map's object
//! object_map_resize  number of objects u64 | state u8    on the map's object
//! set_flags          flags u64 | mask u64 | snapshot     on the header
//! ```
//! Ceph: `src/cls/rbd/cls_rbd.cc`.

use ceph_codec::{Encode, SnapId};
use rados::Operation;

use crate::Flags;
use crate::object_map::{ObjectState, States};

/// Appends writing a whole map.
pub(crate) fn object_map_save(operation: Operation, states: &States) -> Operation {
    operation.call_mut("rbd", "object_map_save", states.encode_to_vec())
}

/// Appends making room for so many objects, with all new ones in one state, or giving up the room of those past them.
/// Makes the map if there is none. `ESTALE` if one of those given up is in another state.
pub(crate) fn object_map_resize(operation: Operation, objects: u64, state: ObjectState) -> Operation {
    operation.call_mut("rbd", "object_map_resize", (objects, state as u8).encode_to_vec())
}

/// Appends changing those flags that are in `mask`, of the live image or of a snapshot. `ENOENT` if there is no such
/// snapshot.
pub(crate) fn set_flags(operation: Operation, flags: Flags, mask: Flags, snap: SnapId) -> Operation {
    let mut input = (flags.0, mask.0).encode_to_vec();
    snap.encode(&mut input);
    operation.call_mut("rbd", "set_flags", input)
}
