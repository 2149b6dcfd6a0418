//! The namespaces of a pool, which the object `rbd_namespace` of its default namespace lists.
//!
//! Ceph: `namespace_add()`, `namespace_remove()`, `namespace_list()` in `src/cls/rbd/cls_rbd.cc`.

use ceph_codec::{Decode, DecodeError, Encode, Reader};
use rados::Operation;

use super::Call;

/// Appends adding a namespace. `EEXIST` if it is there.
pub(crate) fn namespace_add(operation: Operation, name: &str) -> Operation {
    operation.call_mut("rbd", "namespace_add", name.encode_to_vec())
}

/// Appends removing a namespace. `ENOENT` if it is not there.
pub(crate) fn namespace_remove(operation: Operation, name: &str) -> Operation {
    operation.call_mut("rbd", "namespace_remove", name.encode_to_vec())
}

/// Up to `max` namespaces after `after`, in order. `ENOENT` if there never was one.
pub(crate) fn namespace_list(after: &str, max: u64) -> Call<Names> {
    Call::rbd("namespace_list", (after, max).encode_to_vec())
}

/// A list of names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Names(pub(crate) Vec<String>);

impl Decode for Names {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.seq("namespaces", String::decode).map(Self)
    }
}
