//! Taking a snapshot.
//!
//! ```text
//! all clients quiesce -> changes pause -> a number -> header -> object map -> header read again -> changes go on
//!                                                       |
//!                                                       +-- refused: the number is given back
//! ```
//! What was acknowledged before has been applied when changes pause, and what comes after is sent with the new
//! snapshot context: so the snapshot has the one and not the other.
//!
//! Ceph: `src/librbd/operation/SnapshotCreateRequest.cc`.

use rados::Errno;
use tracing::{info, warn};

use super::{MaintenanceError, OperationError, Progress, Turn, quiesce};
use crate::cls::snapshots::snapshot_add;
use crate::image::core::Right;
use crate::watcher::SnapshotFlags;
use crate::{ObjectStore, SnapshotNamespace};

/// Linux's `ESTALE`.
const ESTALE: Errno = Errno(116);

pub(super) async fn run<S: ObjectStore>(
    turn: &Turn<'_, S>,
    namespace: &SnapshotNamespace,
    name: &str,
    flags: SnapshotFlags,
    progress: &dyn Progress,
) -> Result<(), OperationError> {
    // Held all the time: where many want the lock, it would move while the others quiesce, again and again.
    let right = turn.begin().await?;
    refuse_duplicate(turn, namespace, name)?;
    if flags.contains(SnapshotFlags::SKIP_QUIESCE) {
        return take(turn, &right, namespace, name, flags).await;
    }
    let quiesced = quiesce::begin(turn.core, flags, progress).await?;
    let taken = take(turn, &right, namespace, name, flags).await;
    quiesce::end(turn.core, quiesced).await;
    taken
}

fn refuse_duplicate<S: ObjectStore>(
    turn: &Turn<'_, S>,
    namespace: &SnapshotNamespace,
    name: &str,
) -> Result<(), OperationError> {
    match turn.core.header().snapshot_in(namespace, name) {
        None => Ok(()),
        Some(_) => Err(exists(turn, name)),
    }
}

fn exists<S: ObjectStore>(turn: &Turn<'_, S>, name: &str) -> OperationError {
    MaintenanceError::SnapshotExists { image: turn.core.display_name().to_owned(), snapshot: name.to_owned() }
        .into()
}

async fn take<S: ObjectStore>(
    turn: &Turn<'_, S>,
    right: &Right,
    namespace: &SnapshotNamespace,
    name: &str,
    flags: SnapshotFlags,
) -> Result<(), OperationError> {
    let core = turn.core;
    let _one_at_a_time = core.snapshotting.lock().await;
    let _paused = core.pause(right).await;
    let snap = add_to_header(turn, right, namespace, name).await?;
    if let Some(map) = core.map().filter(|_| !flags.contains(SnapshotFlags::SKIP_OBJECT_MAP)) {
        map.add_snapshot(snap).await.map_err(MaintenanceError::ObjectMap)?;
    }
    // Changes that begin now use the new snapshot context.
    core.ensure_fresh().await?;
    info!(image = core.display_name(), %snap, name, "took a snapshot");
    Ok(())
}

async fn add_to_header<S: ObjectStore>(
    turn: &Turn<'_, S>,
    right: &Right,
    namespace: &SnapshotNamespace,
    name: &str,
) -> Result<ceph_codec::SnapId, OperationError> {
    let core = turn.core;
    loop {
        let snap = core
            .data
            .create_snapshot_id()
            .await
            .map_err(|source| core.operation_failed("get a number for the snapshot", source))?;
        let added = turn
            .change_header(right, "add the snapshot to the image", |operation| {
                snapshot_add(operation, snap, name, namespace)
            })
            .await;
        let Err(error) = added else { return Ok(snap) };
        if is_refusal(&error)
            && let Err(error) = core.data.remove_snapshot_id(snap).await
        {
            warn!(image = core.display_name(), %snap, %error, "could not give the number of a snapshot back");
        }
        return Err(match error.errno() {
            // Somebody else has taken a snapshot meanwhile, with a higher number.
            ESTALE => continue,
            Errno::EEXIST => exists(turn, name),
            Errno::EDQUOT => MaintenanceError::TooManySnapshots {
                image: core.display_name().to_owned(),
                limit: core.header().snapshot_limit,
            }
            .into(),
            _ => error,
        });
    }
}

/// Whether the header certainly has not got the snapshot.
fn is_refusal(error: &OperationError) -> bool {
    match error {
        OperationError::Maintenance(MaintenanceError::LockMoved) => true,
        OperationError::Op { source, .. } => source.refusal().is_some(),
        _ => false,
    }
}
