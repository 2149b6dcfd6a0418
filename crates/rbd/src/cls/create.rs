//! What makes the header of a new image, and object maps, the way the class's methods want it.
//!
//! ```text
//! create                 size u64 | order u8 | features u64 | object prefix | data pool i64, or -1
//! set_stripe_unit_count  unit u64 | count u64
//! op_features_set        op features u64 | mask u64
//! metadata_set           map of keys and values
//! object_map_resize      objects u64 | state u8
//! get_all_features       -> features u64
//! mirror_image_remove    id of the image
//! ```
//! Ceph: `src/cls/rbd/cls_rbd.cc`.

use std::collections::BTreeMap;

use ceph_codec::{Encode, PoolId};
use rados::Operation;

use super::Call;
use crate::{Features, OpFeatures};

/// Appends writing the header of a new image. `EEXIST` if there is one, `ENOSYS` for features that the OSD does not
/// know.
pub(crate) fn create(
    operation: Operation,
    size: u64,
    order: u8,
    features: Features,
    object_prefix: &str,
    data_pool: Option<PoolId>,
) -> Operation {
    let data_pool = data_pool.unwrap_or(PoolId(-1));
    let input = ((size, order), ((features.0, object_prefix), data_pool)).encode_to_vec();
    operation.call_mut("rbd", "create", input)
}

/// Appends setting the striping. `ENOEXEC` unless the image has the feature.
pub(crate) fn set_stripe_unit_count(operation: Operation, unit: u64, count: u64) -> Operation {
    operation.call_mut("rbd", "set_stripe_unit_count", (unit, count).encode_to_vec())
}

/// Appends changing those operation features that are in `mask`, and the feature `operations` with them.
pub(crate) fn op_features_set(operation: Operation, op_features: OpFeatures, mask: OpFeatures) -> Operation {
    operation.call_mut("rbd", "op_features_set", (op_features.0, mask.0).encode_to_vec())
}

/// Appends setting metadata pairs.
pub(crate) fn metadata_set_all(operation: Operation, pairs: &BTreeMap<String, Vec<u8>>) -> Operation {
    operation.call_mut("rbd", "metadata_set", pairs.encode_to_vec())
}

/// Appends making an object map of so many objects, none of which exists.
pub(crate) fn object_map_create(operation: Operation, objects: u64) -> Operation {
    operation.call_mut("rbd", "object_map_resize", (objects, 0u8).encode_to_vec())
}

/// On any object that exists: the features that the OSD knows.
pub(crate) fn get_all_features() -> Call<Features> {
    Call::rbd("get_all_features", Vec::new())
}

/// Appends, on `rbd_mirroring`, forgetting how an image is mirrored. `ENOENT` if it is not.
pub(crate) fn mirror_image_remove(operation: Operation, id: &str) -> Operation {
    operation.call_mut("rbd", "mirror_image_remove", id.encode_to_vec())
}
