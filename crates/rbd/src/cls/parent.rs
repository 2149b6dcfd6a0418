//! What the header of a clone keeps of its parent.
//!
//! ```text
//! parent_attach  ParentImageSpec | overlap u64 | reattach u8
//! set_parent     pool i64 | image id | snapshot u64 | overlap u64
//! sparse_copyup  map of offsets and lengths | all bytes in one
//! ```
//! Ceph: `image::parent::attach()`, `image::parent::detach()` in `src/cls/rbd/cls_rbd.cc`.

use bytes::Bytes;
use ceph_codec::{Encode, PoolId, encode_seq, versioned};
use rados::Operation;

use super::ParentSpec;

/// Appends making the image a clone of `parent`, whose first `overlap` bytes it shares; a parent in a namespace needs
/// Ceph 14 and is only known to this method. `EEXIST` if it is a clone already, unless `reattach`; `EINVAL` if
/// `overlap` is 0.
pub(crate) fn parent_attach(
    operation: Operation,
    parent: &ParentSpec,
    overlap: u64,
    reattach: bool,
) -> Operation {
    operation.call_mut("rbd", "parent_attach", (parent, (overlap, reattach)).encode_to_vec())
}

/// Appends ending that the live image is a clone; with deep-flatten its snapshots are none any more either. `ENOENT`
/// if it is no clone.
pub(crate) fn parent_detach(operation: Operation) -> Operation {
    operation.call_mut("rbd", "parent_detach", Vec::new())
}

/// [`parent_attach`] as OSDs before Ceph 14 know it. The parent's namespace is not told.
pub(crate) fn set_parent(operation: Operation, parent: &ParentSpec, overlap: u64) -> Operation {
    let input = ((parent.pool, parent.image_id.as_str()), (parent.snap, overlap)).encode_to_vec();
    operation.call_mut("rbd", "set_parent", input)
}

/// Appends, on a data object of the clone, making the object with these contents: offsets in the object, and the bytes
/// there. An object that is there already stays as it is.
pub(crate) fn sparse_copyup(operation: Operation, pieces: &[(u64, Bytes)]) -> Operation {
    let total: usize = pieces.iter().map(|(_, bytes)| bytes.len()).sum();
    let mut input = Vec::with_capacity(8 + pieces.len() * 16 + total);
    let extents: Vec<(u64, u64)> = pieces.iter().map(|(at, bytes)| (*at, bytes.len() as u64)).collect();
    encode_seq(extents.iter(), &mut input);
    u32::try_from(total).expect("an object is smaller than 4 GiB").encode(&mut input);
    pieces.iter().for_each(|(_, bytes)| input.extend_from_slice(bytes));
    operation.call_mut("rbd", "sparse_copyup", input)
}

impl ParentSpec {
    /// No parent, as headers say it.
    pub(crate) const fn none() -> Self {
        Self {
            pool: PoolId(-1),
            namespace: String::new(),
            image_id: String::new(),
            snap: ceph_codec::SnapId::HEAD,
        }
    }
}

impl Encode for ParentSpec {
    fn encode(&self, out: &mut Vec<u8>) {
        versioned(out, 1, 1, |out| {
            (self.pool, self.namespace.as_str()).encode(out);
            (self.image_id.as_str(), self.snap).encode(out);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ceph_codec::Decode;

    #[test]
    fn a_parent_is_encoded_as_by_pacific() {
        let golden = include_bytes!("../../testdata/16.2.15/cls_rbd/parent_get");
        assert_eq!(ParentSpec::decode_from(golden).unwrap().encode_to_vec(), golden);
        let none = include_bytes!("../../testdata/16.2.15/cls_rbd/parent_get-none");
        assert_eq!(ParentSpec::none().encode_to_vec(), none);
    }
}
