//! Flattening a clone: it gets all that it still has from its parent, and parts from it. It can be used meanwhile.
//!
//! ```text
//! each object that does not exist: copy-up, for the snapshots as well
//!   --> the parent (or its pool) forgets the clone --> the clone forgets the parent
//!   --> what only the clone kept is removed: a snapshot in the trash, an image in the trash
//! ```
//! Without the feature deep-flatten, snapshots that were taken before keep the parent, and it keeps the clone.
//!
//! Ceph: `src/librbd/operation/FlattenRequest.cc`, `src/librbd/image/DetachParentRequest.cc`.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures::StreamExt;
use rados::Errno;
use tracing::info;

use super::{MaintenanceError, OperationError, Progress, Turn};
use crate::cls::parent::parent_detach;
use crate::image::core::Core;
use crate::{Features, ObjectStore, children};

pub(super) async fn run<S: ObjectStore>(
    turn: &Turn<'_, S>,
    progress: &dyn Progress,
) -> Result<(), OperationError> {
    let core = turn.core;
    drop(turn.begin().await?);
    if !is_clone(core) {
        return Err(MaintenanceError::NoParent { image: core.display_name().to_owned() }.into());
    }
    loop {
        let tenure = core.tenure();
        if !copy_all(turn, progress).await? {
            // The image is being made smaller. If that fails the rest is needed after all.
            drop(core.resizing.lock().await);
            continue;
        }
        let right = turn.begin().await?;
        let one_at_a_time = core.snapshotting.lock().await;
        core.ensure_fresh().await?;
        if !is_clone(core) {
            return Ok(()); // another one was faster
        }
        // Whoever had the lock meanwhile may have removed objects.
        if core.tenure() != tenure {
            continue;
        }
        let header = core.header();
        let leaves = header.features.contains(Features::DEEP_FLATTEN) || header.snapshots.is_empty();
        if leaves {
            children::leave_parent(&core.store, &header, &core.id).await?;
        }
        match turn.change_header(&right, "part the image from its parent", parent_detach).await {
            Err(OperationError::Op { source, .. }) if source.refusal() == Some(Errno::ENOENT) => {}
            result => result?,
        }
        core.ensure_fresh().await?;
        if leaves {
            // Not before everybody knows that nothing of it is needed any more. It may take long.
            core.announce_update().await;
            drop((one_at_a_time, right));
            children::clean_up_parent(&core.store, &header).await;
        }
        info!(image = core.display_name(), "flattened");
        return Ok(());
    }
}

/// Whether the live image has a parent, if only for nothing.
fn is_clone<S: ObjectStore>(core: &Core<S>) -> bool {
    let header = core.header();
    header.parent.is_some() && header.parent_overlap.is_some()
}

/// Returns whether nothing was left out.
async fn copy_all<S: ObjectStore>(
    turn: &Turn<'_, S>,
    progress: &dyn Progress,
) -> Result<bool, OperationError> {
    let core = turn.core;
    let bytes = core.parent().map_or(0, |parent| parent.overlap.min(core.header().size));
    let objects = core.layout.object_count(bytes);
    let (stopped, done, complete) = (AtomicBool::new(false), AtomicU64::new(0), AtomicBool::new(true));
    let copy = async |object| {
        let right = turn.begin().await?;
        let _change = core.begin_change(&right).await?;
        // What is past the end of an image that is being made smaller must not be made anew after it was removed.
        if object >= core.layout.object_count(core.size().unwrap_or(0)) {
            complete.store(false, Ordering::Relaxed);
            return Ok(());
        }
        core.copy_up_object(object).await?;
        progress.update(done.fetch_add(1, Ordering::Relaxed) + 1, objects);
        Ok::<_, OperationError>(())
    };
    let mut copies = futures::stream::iter(0..objects)
        .take_while(|_| std::future::ready(!stopped.load(Ordering::Relaxed)))
        .map(copy)
        .buffer_unordered(core.management_ops());
    let mut result = Ok(());
    // What is under way is finished in any case: it must not be when the lock is given up.
    while let Some(copied) = copies.next().await {
        stopped.fetch_or(copied.is_err(), Ordering::Relaxed);
        result = result.and(copied);
    }
    result.map(|()| complete.load(Ordering::Relaxed))
}
