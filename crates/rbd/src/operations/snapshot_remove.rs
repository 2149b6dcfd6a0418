//! Removing a snapshot.
//!
//! ```text
//! to the trash -> has it clones? --yes--> it stays there until they are gone
//!                     | no
//!                     v
//!   parent told, if nothing else refers to it -> object map -> the number given back -> header
//! ```
//! What was interrupted is begun again: every step knows that it was done before.
//!
//! Ceph: `src/librbd/operation/SnapshotRemoveRequest.cc`.

use ceph_codec::SnapId;
use rados::{Errno, Operation};
use tracing::info;

use super::{MaintenanceError, OperationError, Turn};
use crate::cls::children::{child_detach, children_list};
use crate::cls::snapshot_get;
use crate::cls::snapshots::{snapshot_remove, snapshot_trash_add};
use crate::header::Header;
use crate::image::core::{Core, Right};
use crate::{Flags, ObjectStore, Snapshot, SnapshotNamespace, children, directory};

pub(super) async fn run<S: ObjectStore>(
    turn: &Turn<'_, S>,
    namespace: &SnapshotNamespace,
    name: &str,
) -> Result<(), OperationError> {
    let core = turn.core;
    let right = turn.begin().await?;
    let _one_at_a_time = core.snapshotting.lock().await;
    core.ensure_fresh().await?;
    let snapshot = check(core, namespace, name)?;
    let is_trash = matches!(snapshot.namespace, SnapshotNamespace::Trash { .. });
    let trashed = !is_trash && move_to_trash(turn, &right, snapshot.id).await?;
    if (trashed || is_trash) && has_clones(core, snapshot.id).await? {
        core.ensure_fresh().await?;
        info!(
            image = core.display_name(),
            name, "the snapshot has clones and is in the trash until they are gone"
        );
        // Whoever asks for the removal of a trashed snapshot is told; all others asked for no more than that.
        return if trashed {
            Ok(())
        } else {
            Err(in_use(core, &snapshot, core_children(core, &snapshot).await))
        };
    }
    let header = core.header();
    if is_last_of_parent(&header, &snapshot) {
        children::detach_child(&core.store, &header, &core.id).await?;
    }
    if let Some(map) = core.map() {
        let invalid = snapshot.flags.contains(Flags::OBJECT_MAP_INVALID);
        let removed = map.remove_snapshot(snapshot.id, invalid, next(&header, snapshot.id)).await;
        removed.map_err(MaintenanceError::ObjectMap)?;
    }
    match core.data.remove_snapshot_id(snapshot.id).await {
        Err(error) if !error.is(Errno::ENOENT) => {
            return Err(core.operation_failed("give the number of the snapshot back", error));
        }
        _ => {}
    }
    turn.change_header(&right, "remove the snapshot from the image", |operation| {
        snapshot_remove(operation, snapshot.id)
    })
    .await?;
    core.ensure_fresh().await?;
    info!(image = core.display_name(), snap = %snapshot.id, name, "removed a snapshot");
    Ok(())
}

/// The snapshot, if it may be removed.
pub(crate) fn check<S: ObjectStore>(
    core: &Core<S>,
    namespace: &SnapshotNamespace,
    name: &str,
) -> Result<Snapshot, OperationError> {
    let header = core.header();
    let snapshot = header
        .snapshot_in(namespace, name)
        .ok_or_else(|| OperationError::NoSnapshot { snapshot: name.to_owned() })?;
    if snapshot.protected || snapshot.unprotecting {
        let (image, snapshot) = (core.display_name().to_owned(), name.to_owned());
        return Err(MaintenanceError::SnapshotProtected { image, snapshot }.into());
    }
    Ok(snapshot.clone())
}

/// Returns whether it is there; OSDs before Ceph 13 have no trash for snapshots, and no clones that would need it.
async fn move_to_trash<S: ObjectStore>(
    turn: &Turn<'_, S>,
    right: &Right,
    snap: SnapId,
) -> Result<bool, OperationError> {
    let moved = turn
        .change_header(right, "move the snapshot to the trash", |operation| {
            snapshot_trash_add(operation, snap)
        })
        .await;
    match moved {
        Err(error) if error.errno() == Errno::EOPNOTSUPP => Ok(false),
        Err(error) if error.errno() != Errno::EEXIST => Err(error),
        _ => Ok(true),
    }
}

/// Whether there are clones of version 2. Those in pools that do not exist any more are forgotten.
async fn has_clones<S: ObjectStore>(core: &Core<S>, snap: SnapId) -> Result<bool, OperationError> {
    let (store, header) = (&core.store, &core.header_object);
    let failed = |source| core.operation_failed("look for clones of the snapshot", source);
    if directory::call(store, header, snapshot_get(snap)).await.map_err(failed)?.child_count == 0 {
        return Ok(false);
    }
    let clones = match directory::call(store, header, children_list(snap)).await {
        Err(error) if error.is(Errno::ENOENT) => return Ok(true),
        clones => clones.map_err(failed)?,
    };
    // A pool that is not known here may be a new one.
    store.wait_for_newest_pools().await.map_err(failed)?;
    let mut left = false;
    for clone in clones {
        if store.with_pool(clone.pool, &clone.namespace).is_ok() {
            left = true;
            continue;
        }
        match directory::change(store, header, child_detach(Operation::new(), snap, &clone)).await {
            Err(error) if !error.is(Errno::ENOENT) => return Err(failed(error)),
            _ => {}
        }
    }
    Ok(left)
}

/// Whether nothing else of the image has the parent that the snapshot has.
fn is_last_of_parent(header: &Header, snapshot: &Snapshot) -> bool {
    let has_parent = |snapshot: &Snapshot| snapshot.parent_overlap.is_some();
    let others = header.snapshots.iter().filter(|other| other.id != snapshot.id);
    has_parent(snapshot) && header.parent_overlap.is_none() && !others.into_iter().any(has_parent)
}

/// The snapshot that was taken after it, or the live image.
fn next(header: &Header, snap: SnapId) -> SnapId {
    header.snapshots.iter().map(|other| other.id).filter(|other| *other > snap).min().unwrap_or(SnapId::HEAD)
}

async fn core_children<S: ObjectStore>(core: &Core<S>, snapshot: &Snapshot) -> Vec<String> {
    let image = crate::ImageRef::Id(core.id.clone());
    let snapshot = crate::SnapshotRef::Id(snapshot.id);
    let children = crate::list_children(&core.store, &image, Some(&snapshot), false).await;
    // Without their names the error is still right.
    children.unwrap_or_default().iter().map(ToString::to_string).collect()
}

fn in_use<S: ObjectStore>(core: &Core<S>, snapshot: &Snapshot, clones: Vec<String>) -> OperationError {
    let (image, snapshot) = (core.display_name().to_owned(), snapshot.name.clone());
    MaintenanceError::SnapshotInUse { image, snapshot, clones }.into()
}
