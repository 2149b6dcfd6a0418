//! Which images are clones of a snapshot.
//!
//! The header of the parent knows its clones of version 2. Those of version 1 are known to the object `rbd_children` of
//! the pool that the clone is in, which the parent has to look for in every pool.
//!
//! ```text
//! child_attach, child_detach   snapshot u64 | ChildImageSpec
//! children_list                snapshot u64  ->  set of ChildImageSpec
//! add_child, remove_child      pool i64 | image id | snapshot u64 | id of the clone
//! get_children                 pool i64 | image id | snapshot u64  ->  set of ids
//! ```
//! Ceph: `src/cls/rbd/cls_rbd.cc`; `ChildImageSpec` in `src/cls/rbd/cls_rbd_types.cc`.

use std::collections::BTreeSet;

use ceph_codec::{Decode, DecodeError, Encode, PoolId, Reader, SnapId, versioned};
use rados::Operation;

use super::{Call, ParentSpec};

/// Names a clone, in any pool. Ceph: `cls::rbd::ChildImageSpec`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ChildSpec {
    pub(crate) pool: PoolId,
    pub(crate) namespace: String,
    pub(crate) image_id: String,
}

impl Encode for ChildSpec {
    fn encode(&self, out: &mut Vec<u8>) {
        versioned(out, 2, 1, |out| {
            (self.pool, self.image_id.as_str()).encode(out);
            self.namespace.encode(out);
        });
    }
}

impl Decode for ChildSpec {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.versioned("ChildImageSpec", 2, |r, version| {
            let (pool, image_id) = <(PoolId, String)>::decode(r)?;
            let namespace = if version >= 2 { String::decode(r)? } else { String::new() };
            Ok(Self { pool, namespace, image_id })
        })
    }
}

/// Appends, on the parent's header, that `child` is a clone of `snap`. `EEXIST` if that is known, `ENOENT` if there is
/// no such snapshot or it is in the trash.
pub(crate) fn child_attach(operation: Operation, snap: SnapId, child: &ChildSpec) -> Operation {
    operation.call_mut("rbd", "child_attach", (snap, child).encode_to_vec())
}

/// Appends, on the parent's header, that `child` is no clone of `snap` any more. `ENOENT` if it was none.
pub(crate) fn child_detach(operation: Operation, snap: SnapId, child: &ChildSpec) -> Operation {
    operation.call_mut("rbd", "child_detach", (snap, child).encode_to_vec())
}

/// On the parent's header: the clones of version 2. `ENOENT` if there are none.
pub(crate) fn children_list(snap: SnapId) -> Call<BTreeSet<ChildSpec>> {
    Call::rbd("children_list", snap.encode_to_vec())
}

/// Appends, on `rbd_children`, that the image with the id `child` is a clone of `parent`. `EEXIST` if that is known.
pub(crate) fn add_child(operation: Operation, parent: &ParentSpec, child: &str) -> Operation {
    operation.call_mut("rbd", "add_child", (v1_parent(parent), child).encode_to_vec())
}

/// Appends, on `rbd_children`, that `child` is no clone of `parent` any more. `ENOENT` if it was none.
pub(crate) fn remove_child(operation: Operation, parent: &ParentSpec, child: &str) -> Operation {
    operation.call_mut("rbd", "remove_child", (v1_parent(parent), child).encode_to_vec())
}

/// On `rbd_children`: ids of the clones of `parent` in that pool. `ENOENT` if there are none.
pub(crate) fn get_children(parent: &ParentSpec) -> Call<BTreeSet<String>> {
    Call::rbd("get_children", v1_parent(parent).encode_to_vec())
}

/// Version 1 of clones knows no namespaces.
fn v1_parent(parent: &ParentSpec) -> ((PoolId, &str), SnapId) {
    ((parent.pool, parent.image_id.as_str()), parent.snap)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_without_namespace_is_understood() {
        let old = [1, 1, 15, 0, 0, 0, 123, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, b'a', b'b', b'c'];
        let child = ChildSpec::decode_from(&old).unwrap();
        let expected = ChildSpec { pool: PoolId(123), namespace: String::new(), image_id: "abc".into() };
        assert_eq!(child, expected);
        let new = [&[2, 1, 19][..], &old[3..], &[0; 4]].concat();
        assert_eq!(child.encode_to_vec(), new);
    }
}
