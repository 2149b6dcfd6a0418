//! Protecting a snapshot, so that it can be cloned, and unprotecting it, so that it can be removed.
//!
//! Clones of version 1 are known only to the pools that they are in. So while they are looked for the snapshot is in a
//! state in between, in which it gets no more of them.
//!
//! Ceph: `src/librbd/operation/SnapshotProtectRequest.cc`, `SnapshotUnprotectRequest.cc`.

use rados::Errno;

use super::{MaintenanceError, OperationError, Turn};
use crate::cls::ParentSpec;
use crate::cls::children::get_children;
use crate::cls::snapshots::{Protection, set_protection_status};
use crate::image::core::{Core, Right};
use crate::names::CHILDREN;
use crate::{Features, ObjectStore, Snapshot, SnapshotNamespace, directory};

pub(super) async fn protect<S: ObjectStore>(
    turn: &Turn<'_, S>,
    namespace: &SnapshotNamespace,
    name: &str,
) -> Result<(), OperationError> {
    let right = turn.begin().await?;
    let snapshot = find(turn.core, namespace, name)?;
    if snapshot.protected {
        let image = turn.core.display_name().to_owned();
        return Err(MaintenanceError::SnapshotProtected { image, snapshot: name.to_owned() }.into());
    }
    set(turn, &right, &snapshot, Protection::Protected).await?;
    Ok(turn.core.ensure_fresh().await?)
}

pub(super) async fn unprotect<S: ObjectStore>(
    turn: &Turn<'_, S>,
    namespace: &SnapshotNamespace,
    name: &str,
) -> Result<(), OperationError> {
    let core = turn.core;
    let right = turn.begin().await?;
    let snapshot = find(core, namespace, name)?;
    // One that was interrupted is neither.
    if !snapshot.protected && !snapshot.unprotecting {
        let image = core.display_name().to_owned();
        return Err(MaintenanceError::SnapshotNotProtected { image, snapshot: name.to_owned() }.into());
    }
    set(turn, &right, &snapshot, Protection::Unprotecting).await?;
    let unprotected = match find_clones(core, &snapshot).await {
        Ok(clones) if clones.is_empty() => set(turn, &right, &snapshot, Protection::Unprotected).await,
        Ok(clones) => {
            let (image, snapshot) = (core.display_name().to_owned(), name.to_owned());
            Err(MaintenanceError::SnapshotInUse { image, snapshot, clones }.into())
        }
        Err(error) => Err(error),
    };
    if unprotected.is_err() {
        set(turn, &right, &snapshot, Protection::Protected).await?;
    }
    core.ensure_fresh().await?;
    unprotected
}

fn find<S: ObjectStore>(
    core: &Core<S>,
    namespace: &SnapshotNamespace,
    name: &str,
) -> Result<Snapshot, OperationError> {
    if !core.has(Features::LAYERING) {
        return Err(MaintenanceError::NoLayering { image: core.display_name().to_owned() }.into());
    }
    let header = core.header();
    let snapshot = header.snapshot_in(namespace, name).cloned();
    snapshot.ok_or_else(|| OperationError::NoSnapshot { snapshot: name.to_owned() })
}

async fn set<S: ObjectStore>(
    turn: &Turn<'_, S>,
    right: &Right,
    snapshot: &Snapshot,
    protection: Protection,
) -> Result<(), OperationError> {
    turn.change_header(right, "change the snapshot's protection", |operation| {
        set_protection_status(operation, snapshot.id, protection)
    })
    .await
}

/// The clones of version 1, in all pools.
async fn find_clones<S: ObjectStore>(
    core: &Core<S>,
    snapshot: &Snapshot,
) -> Result<Vec<String>, OperationError> {
    let store = &core.store;
    let parent = ParentSpec {
        pool: store.pool(),
        namespace: store.namespace().to_owned(),
        image_id: core.id.clone(),
        snap: snapshot.id,
    };
    let failed = |source| core.operation_failed("look for clones of the snapshot", source);
    store.wait_for_newest_pools().await.map_err(failed)?;
    let mut clones = Vec::new();
    for (pool, pool_name) in store.pools() {
        // They are in the namespace of their parent.
        let Ok(pool) = store.with_pool(pool, store.namespace()) else { continue };
        match directory::call(&pool, CHILDREN, get_children(&parent)).await {
            Ok(ids) => {
                for id in ids {
                    let name = directory::name_of(&pool, &id).await.map_err(failed)?;
                    clones.push(format!("{pool_name}/{}", name.map_or(id, |(name, _)| name)));
                }
            }
            Err(error) if error.refusal() == Some(Errno::ENOENT) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(clones)
}
