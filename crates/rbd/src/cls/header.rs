//! What else the header of an image lets be changed.
//!
//! ```text
//! set_size         size u64
//! set_features     features u64 | mask u64
//! set_access_timestamp, set_modify_timestamp: the OSD looks at its clock
//! metadata_set     map of keys and values
//! metadata_remove  key
//! metadata_get     key  ->  value
//! ```
//! Ceph: `src/cls/rbd/cls_rbd.cc`.

use std::collections::BTreeMap;

use ceph_codec::Encode;
use rados::Operation;

use super::Call;
use crate::Features;

/// Appends changing the size, in bytes. What is shared with the parent becomes smaller, too, if need be.
pub(crate) fn set_size(operation: Operation, size: u64) -> Operation {
    operation.call_mut("rbd", "set_size", size.encode_to_vec())
}

/// Appends changing those features that are in `mask`. `EINVAL` if one of them cannot be changed.
#[allow(dead_code, reason = "operations to come")]
pub(crate) fn set_features(operation: Operation, features: Features, mask: Features) -> Operation {
    operation.call_mut("rbd", "set_features", (features.0, mask.0).encode_to_vec())
}

/// Appends noting that the image is read now, by the OSD's clock.
pub(crate) fn set_access_timestamp(operation: Operation) -> Operation {
    operation.call_mut("rbd", "set_access_timestamp", Vec::new())
}

/// Appends noting that the image is changed now, by the OSD's clock.
pub(crate) fn set_modify_timestamp(operation: Operation) -> Operation {
    operation.call_mut("rbd", "set_modify_timestamp", Vec::new())
}

/// Appends setting a metadata pair.
pub(crate) fn metadata_set(operation: Operation, key: &str, value: &[u8]) -> Operation {
    let pairs = BTreeMap::from([(key.to_owned(), value.to_vec())]);
    operation.call_mut("rbd", "metadata_set", pairs.encode_to_vec())
}

/// Appends removing a metadata pair, if it is there.
pub(crate) fn metadata_remove(operation: Operation, key: &str) -> Operation {
    operation.call_mut("rbd", "metadata_remove", key.encode_to_vec())
}

/// The value of a metadata pair; `ENOENT` if there is none.
pub(crate) fn metadata_get(key: &str) -> Call<Vec<u8>> {
    Call::rbd("metadata_get", key.encode_to_vec())
}
