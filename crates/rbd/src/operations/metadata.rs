//! Metadata pairs of an image. Those whose keys begin with `conf_` are its configuration; all clients take note at once.
//!
//! Ceph: `src/librbd/operation/MetadataSetRequest.cc`, `MetadataRemoveRequest.cc`.

use super::{OperationError, Turn};
use crate::ObjectStore;
use crate::cls::header::{metadata_remove, metadata_set};

/// Sets a pair, or removes it.
pub(super) async fn run<S: ObjectStore>(
    turn: &Turn<'_, S>,
    key: &str,
    value: Option<&[u8]>,
) -> Result<(), OperationError> {
    let right = turn.begin().await?;
    turn.change_header(&right, "change the image's metadata", |operation| match value {
        Some(value) => metadata_set(operation, key, value),
        None => metadata_remove(operation, key),
    })
    .await
}
