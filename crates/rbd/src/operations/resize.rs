//! Changing the size of an image. Its snapshots keep theirs.
//!
//! ```text
//! grow    changes pause -> object map -> header -> changes go on
//! shrink  the new end is in force -> objects past it are removed -> changes pause -> header -> object map
//! ```
//! So the object map is never smaller than the image. What is past the end of an image is always gone: it would come
//! to light again when the image grows.
//!
//! Ceph: `src/librbd/operation/ResizeRequest.cc`, `TrimRequest.cc`.

use tracing::info;

use super::{MaintenanceError, OperationError, Progress, Turn};
use crate::cls::header::set_size;
use crate::image::core::{Core, Right};
use crate::object_map::MAX_OBJECTS;
use crate::{Features, ObjectMapError, ObjectStore};

/// Objects that are removed before it is seen whether the exclusive lock is to be given up. What was removed before is
/// passed over in no time when all begins anew.
const OBJECTS_PER_STEP: u64 = 1024;

pub(super) async fn run<S: ObjectStore>(
    turn: &Turn<'_, S>,
    size: u64,
    allow_shrink: bool,
    progress: &dyn Progress,
) -> Result<(), OperationError> {
    let core = turn.core;
    let _one_at_a_time = core.resizing.lock().await;
    loop {
        let right = turn.begin().await?;
        let tenure = core.tenure();
        let paused = core.pause(&right).await;
        let old = core.header().size;
        check(core, size)?;
        if size == old {
            return Ok(());
        }
        if size > old {
            return grow(turn, &right, size).await;
        }
        if !allow_shrink {
            let image = core.display_name().to_owned();
            return Err(MaintenanceError::ShrinkNotAllowed { image, size: old, new_size: size }.into());
        }
        let _hidden = core.hide_past(size);
        drop((paused, right));
        trim(turn, old, size, progress).await?;
        let right = turn.begin().await?;
        let _paused = core.pause(&right).await;
        // Whoever had the lock meanwhile may have written past the new end, or chosen another one.
        if core.tenure() == tenure && core.header().size == old {
            return shrink(turn, &right, size).await;
        }
    }
}

fn check<S: ObjectStore>(core: &Core<S>, size: u64) -> Result<(), OperationError> {
    let objects = core.layout.object_count(size);
    if core.has(Features::OBJECT_MAP) && objects > MAX_OBJECTS {
        return Err(MaintenanceError::ObjectMap(ObjectMapError::TooLarge { objects }).into());
    }
    Ok(())
}

async fn grow<S: ObjectStore>(turn: &Turn<'_, S>, right: &Right, size: u64) -> Result<(), OperationError> {
    let core = turn.core;
    if let Some(map) = core.map() {
        map.resize(core.layout.object_count(size)).await.map_err(MaintenanceError::ObjectMap)?;
    }
    set(turn, right, size).await
}

async fn shrink<S: ObjectStore>(turn: &Turn<'_, S>, right: &Right, size: u64) -> Result<(), OperationError> {
    set(turn, right, size).await?;
    let core = turn.core;
    if let Some(map) = core.map() {
        map.resize(core.layout.object_count(size)).await.map_err(MaintenanceError::ObjectMap)?;
    }
    Ok(())
}

async fn set<S: ObjectStore>(turn: &Turn<'_, S>, right: &Right, size: u64) -> Result<(), OperationError> {
    turn.change_header(right, "change the image's size", |operation| set_size(operation, size)).await?;
    turn.core.ensure_fresh().await?;
    info!(image = turn.core.display_name(), size, "changed the image's size");
    Ok(())
}

/// Removes all that is past the new end of an image.
async fn trim<S: ObjectStore>(
    turn: &Turn<'_, S>,
    old: u64,
    new: u64,
    progress: &dyn Progress,
) -> Result<(), OperationError> {
    let core = turn.core;
    let layout = core.layout;
    // The objects of a stripe period that is cut have something of the image, or may have.
    let period = layout.object_size().saturating_mul(layout.stripe_count());
    let periods = new.div_ceil(period);
    let (first, end) = (periods * layout.stripe_count(), layout.object_count(old));
    let mut start = first;
    while start < end {
        let right = turn.begin().await?;
        let _change = core.begin_change(&right).await?;
        let objects = start..end.min(start + OBJECTS_PER_STEP);
        start = objects.end;
        core.remove_objects(objects, core.management_ops()).await?;
        progress.update(start - first, end - first);
    }
    let boundary = periods.saturating_mul(period).min(old);
    if boundary > new {
        let right = turn.begin().await?;
        let _change = core.begin_change(&right).await?;
        core.clear_past(new, boundary - new).await?;
    }
    Ok(())
}
