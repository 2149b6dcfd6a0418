//! Limiting the number of snapshots.
//!
//! Ceph: `src/librbd/operation/SnapshotLimitRequest.cc`.

use rados::Errno;

use super::{MaintenanceError, OperationError, Turn, check_op_features};
use crate::ObjectStore;
use crate::cls::snapshots::snapshot_set_limit;

pub(crate) async fn run<S: ObjectStore>(
    turn: &Turn<'_, S>,
    limit: Option<u64>,
) -> Result<(), OperationError> {
    let core = turn.core;
    let right = turn.begin().await?;
    check_op_features(core.display_name(), &core.header())?;
    let set = turn
        .change_header(&right, "limit the number of snapshots", |operation| {
            snapshot_set_limit(operation, limit)
        })
        .await;
    match set {
        // There was none.
        Err(error) if error.errno() == Errno::ENOENT && limit.is_none() => {}
        Err(error) if error.errno() == Errno::ERANGE => {
            let count = core.header().snapshots.len();
            let image = core.display_name().to_owned();
            return Err(
                MaintenanceError::LimitTooLow { image, count, limit: limit.unwrap_or(u64::MAX) }.into()
            );
        }
        set => set?,
    }
    core.ensure_fresh().await?;
    core.announce_update().await;
    Ok(())
}
