//! The directory of a pool and namespace, `rbd_directory`, and the objects that tell an image's id, `rbd_id.NAME`.
//!
//! ```text
//! dir_add_image, dir_remove_image  name | id
//! dir_rename_image                 old name | new name | id
//! dir_state_assert, dir_state_set  state u8
//! set_id                           id
//! ```
//! Ceph: `src/cls/rbd/cls_rbd.cc`.

use ceph_codec::Encode;
use rados::Operation;

/// Whether images may be added. Ceph: `cls::rbd::DirectoryState`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DirectoryState {
    Ready = 0,
    /// The namespace is about to be removed.
    AddDisabled = 1,
}

/// Appends adding an image; makes the directory if there is none. `EEXIST` if there is an image of that name, `EBADF`
/// of that id.
pub(crate) fn dir_add_image(operation: Operation, name: &str, id: &str) -> Operation {
    operation.call_mut("rbd", "dir_add_image", (name, id).encode_to_vec())
}

/// Appends removing an image. `ENOENT` if it is not there, `ESTALE` if name and id are of two images.
pub(crate) fn dir_remove_image(operation: Operation, name: &str, id: &str) -> Operation {
    operation.call_mut("rbd", "dir_remove_image", (name, id).encode_to_vec())
}

/// Appends giving an image another name. `ENOENT` and `ESTALE` as of [`dir_remove_image`], `EEXIST` if the new name is
/// taken.
pub(crate) fn dir_rename_image(operation: Operation, old: &str, new: &str, id: &str) -> Operation {
    operation.call_mut("rbd", "dir_rename_image", (old, (new, id)).encode_to_vec())
}

/// Appends a guard: `ENOENT` if the directory exists and is in another state.
pub(crate) fn dir_state_assert(operation: Operation, state: DirectoryState) -> Operation {
    operation.call("rbd", "dir_state_assert", vec![state as u8])
}

/// Appends changing the state. `EBUSY` if adding is to be disabled and there are images, `ENOENT` if there is no
/// directory.
pub(crate) fn dir_state_set(operation: Operation, state: DirectoryState) -> Operation {
    operation.call_mut("rbd", "dir_state_set", vec![state as u8])
}

/// Appends, on an empty `rbd_id.NAME`, that the image has that id. `EEXIST` if it is not empty.
pub(crate) fn set_id(operation: Operation, id: &str) -> Operation {
    operation.call_mut("rbd", "set_id", id.encode_to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rados::OpKind;

    #[test]
    fn a_rename_tells_the_old_name_first() {
        let operation = dir_rename_image(Operation::new(), "a", "bc", "1");
        let OpKind::Call { input, .. } = &operation.ops()[0].kind else { panic!("no call") };
        assert_eq!(input[..], *b"\x01\0\0\0a\x02\0\0\0bc\x01\0\0\x001");
    }
}
