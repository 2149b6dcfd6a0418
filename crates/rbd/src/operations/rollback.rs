//! Giving an image the contents and the size that it had at a snapshot.
//!
//! Nothing else is written meanwhile, and the exclusive lock stays: half of one state and half of another is of no use
//! to anybody. If it is interrupted, it has to be done again.
//!
//! Ceph: `src/librbd/operation/SnapshotRollbackRequest.cc`. Unlike librbd, which takes the object map of the snapshot
//! over as it is, an object that is written by it is marked as written.

use std::sync::atomic::{AtomicBool, Ordering};

use futures::StreamExt;
use tracing::info;

use super::{MaintenanceError, OperationError, Progress, Turn, check_op_features, resize};
use crate::image::core::Core;
use crate::lock::{ExclusiveLock, Holder};
use crate::object_map::{ObjectState, States};
use crate::{Features, ImageError, ObjectStore, Snapshot, SnapshotNamespace};

pub(crate) async fn run<S: ObjectStore>(
    core: &Core<S>,
    name: &str,
    progress: &dyn Progress,
) -> Result<(), OperationError> {
    let _working = core.lock.get().map(ExclusiveLock::work);
    loop {
        core.ensure_fresh().await?;
        let snapshot = check(core, name).await?;
        let turn = Turn::of_this_tenure(core).await?;
        let _one_at_a_time = core.snapshotting.lock().await;
        core.ensure_fresh().await?;
        let snapshot = find(core, &snapshot.name)?;
        match roll_back(&turn, &snapshot, progress).await {
            // Whoever has the lock now may be told to stop.
            Err(OperationError::Maintenance(MaintenanceError::LockMoved)) => {}
            result => {
                result?;
                info!(image = core.display_name(), name, "rolled the image back to a snapshot");
                core.announce_update().await;
                return Ok(());
            }
        }
    }
}

/// The snapshot, if the image may be rolled back: not while another client has the lock. It would give it up if asked, and
/// go on with what it remembers of other contents.
pub(crate) async fn check<S: ObjectStore>(core: &Core<S>, name: &str) -> Result<Snapshot, OperationError> {
    if core.read_only {
        return Err(ImageError::ReadOnly.into());
    }
    check_op_features(core.display_name(), &core.header())?;
    let snapshot = find(core, name)?;
    if let Some(lock) = core.lock.get().filter(|lock| core.has(Features::EXCLUSIVE_LOCK) && !lock.is_held()) {
        let holder = lock.holder(&core.store, &core.header_object).await;
        let holder = holder.map_err(|source| core.operation_failed("find the owner of the lock", source))?;
        if let Holder::Alive(owner) = holder {
            return Err(MaintenanceError::LockHeld { image: core.display_name().to_owned(), owner }.into());
        }
    }
    Ok(snapshot)
}

/// The snapshot of that name, made by a user.
pub(crate) fn find<S: ObjectStore>(core: &Core<S>, name: &str) -> Result<Snapshot, OperationError> {
    let header = core.header();
    let snapshot = header.snapshot_in(&SnapshotNamespace::User, name).cloned();
    snapshot.ok_or_else(|| OperationError::NoSnapshot { snapshot: name.to_owned() })
}

async fn roll_back<S: ObjectStore>(
    turn: &Turn<'_, S>,
    snapshot: &Snapshot,
    progress: &dyn Progress,
) -> Result<(), OperationError> {
    let core = turn.core;
    resize::run(turn, snapshot.size, true, &()).await?;
    let right = turn.begin().await?;
    let _paused = core.pause(&right).await;
    let before = core.map_of(snapshot.id).await;
    let objects = core.layout.object_count(snapshot.size);
    let known_missing = |object| {
        let is_missing = |map: &States| map.get(object) == Some(ObjectState::Nonexistent);
        core.is_known_to_be_missing(object) && before.as_ref().is_some_and(is_missing)
    };
    let failed = AtomicBool::new(false);
    let to_do = (0..objects).filter(|object| !known_missing(*object));
    let to_do = to_do.take_while(|_| !failed.load(Ordering::Relaxed));
    let mut work = futures::stream::iter(to_do.map(|object| {
        let existed = before
            .as_ref()
            .is_none_or(|map| map.get(object).is_none_or(|state| state != ObjectState::Nonexistent));
        async move { core.roll_back_object(object, snapshot.id, existed).await.map(|()| object) }
    }))
    .buffer_unordered(core.management_ops());
    let (mut done, mut result) = (0, Ok(()));
    // What is under way is finished in any case: it must not be when the lock is given up.
    while let Some(rolled_back) = work.next().await {
        match rolled_back {
            Ok(object) => {
                done = done.max(object + 1);
                progress.update(done, objects);
            }
            Err(error) => {
                failed.store(true, Ordering::Relaxed);
                result = result.and(Err(error.into()));
            }
        }
    }
    result
}
