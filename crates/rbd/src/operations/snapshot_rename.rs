//! Giving a snapshot another name.
//!
//! Ceph: `src/librbd/operation/SnapshotRenameRequest.cc`.

use ceph_codec::SnapId;
use rados::Errno;

use super::{MaintenanceError, OperationError, Turn};
use crate::ObjectStore;
use crate::cls::snapshots::snapshot_rename;

pub(super) async fn run<S: ObjectStore>(
    turn: &Turn<'_, S>,
    snap: SnapId,
    name: &str,
) -> Result<(), OperationError> {
    let core = turn.core;
    let right = turn.begin().await?;
    let renamed = turn
        .change_header(&right, "rename the snapshot", |operation| snapshot_rename(operation, snap, name))
        .await;
    match renamed {
        Err(error) if error.errno() == Errno::EEXIST => {
            let (image, snapshot) = (core.display_name().to_owned(), name.to_owned());
            Err(MaintenanceError::SnapshotExists { image, snapshot }.into())
        }
        Err(error) if error.errno() == Errno::ENOENT => {
            Err(OperationError::NoSnapshot { snapshot: snap.to_string() })
        }
        Err(error) => Err(error),
        Ok(()) => Ok(core.ensure_fresh().await?),
    }
}
