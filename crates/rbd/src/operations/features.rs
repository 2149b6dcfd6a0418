//! Enabling and disabling features.
//!
//! ```text
//! enable    changes pause -> flags: maps invalid -> features -> object maps made -> changes go on
//! disable   changes pause -> object maps removed -> features -> flags cleared -> changes go on -> lock given up
//! ```
//! Ceph: `src/librbd/operation/EnableFeaturesRequest.cc`, `DisableFeaturesRequest.cc`, `Operations::update_features`.

use ceph_codec::SnapId;
use rados::{Errno, Operation, SnapContext};
use thiserror::Error;
use tracing::info;

use super::{MaintenanceError, OperationError, Turn};
use crate::cls::header::set_features;
use crate::cls::object_map::{object_map_resize, set_flags};
use crate::header::Header;
use crate::image::core::{Core, Right};
use crate::image::pause::Paused;
use crate::object_map::{MAX_OBJECTS, ObjectState, object_name};
use crate::{Features, Flags, ObjectMapError, ObjectStore};

/// What can be enabled and disabled. Ceph: `RBD_FEATURES_MUTABLE` in `src/include/rbd/features.h`.
const MUTABLE: Features = Features(
    Features::EXCLUSIVE_LOCK.0 | Features::OBJECT_MAP.0 | Features::FAST_DIFF.0 | Features::JOURNALING.0,
);
/// What can be disabled, and never be enabled again. Ceph: `RBD_FEATURES_DISABLE_ONLY`.
const DISABLE_ONLY: Features = Features::DEEP_FLATTEN;

/// These come and go together.
const MAPS: Features = Features(Features::OBJECT_MAP.0 | Features::FAST_DIFF.0);
const MAPS_INVALID: Flags = Flags(Flags::OBJECT_MAP_INVALID.0 | Flags::FAST_DIFF_INVALID.0);

/// Why features cannot be enabled or disabled.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FeatureError {
    /// They are for the life of an image.
    #[error("features {0} of an image cannot be changed")]
    Immutable(Features),
    /// No feature was named.
    #[error("no feature was named")]
    None,
    /// The image has them.
    #[error("features {0} are enabled already")]
    Enabled(Features),
    /// The image does not have them.
    #[error("features {0} are disabled already")]
    Disabled(Features),
    /// A feature needs another one.
    #[error("feature {feature} needs feature {needs}, which has to be enabled before")]
    Needs {
        /// The feature.
        feature: Features,
        /// What it needs.
        needs: Features,
    },
    /// A feature is needed by others.
    #[error("feature {feature} is needed by {by}, which has to be disabled before")]
    NeededBy {
        /// The feature.
        feature: Features,
        /// What needs it.
        by: Features,
    },
    /// Journals are neither written nor read here.
    #[error("journaling cannot be enabled or disabled here")]
    Journaling,
}

impl FeatureError {
    /// The errno that librbd would return for it.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            Self::Journaling => Errno::EOPNOTSUPP,
            _ => Errno::EINVAL,
        }
    }

    /// What the user can do about it, if anything.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Journaling => {
                Some("use Ceph's own tool while nobody has the image open: rbd feature ...".into())
            }
            _ => None,
        }
    }
}

/// Checks what an image's user asks for, and completes it.
///
/// Ceph: `Operations::update_features`.
pub(crate) fn complete(
    current: Features,
    features: Features,
    enable: bool,
) -> Result<Features, FeatureError> {
    let possible = if enable { MUTABLE } else { MUTABLE.union(DISABLE_ONLY) };
    let impossible = features.without(possible);
    if !impossible.is_empty() {
        return Err(FeatureError::Immutable(impossible));
    }
    let names = |feature| features.contains(feature);
    let has = |feature| current.contains(feature);
    let both = if enable {
        (names(Features::OBJECT_MAP) && !has(Features::FAST_DIFF))
            || (names(Features::FAST_DIFF) && !has(Features::OBJECT_MAP))
    } else {
        names(Features::OBJECT_MAP) && has(Features::FAST_DIFF)
    };
    let features = if both { features.union(MAPS) } else { features };
    if features.is_empty() {
        return Err(FeatureError::None);
    }
    let (there, missing) = (features.common(current), features.without(current));
    match (enable, there.is_empty(), missing.is_empty()) {
        (true, false, _) => Err(FeatureError::Enabled(there)),
        (false, _, false) => Err(FeatureError::Disabled(missing)),
        _ => Ok(features),
    }
}

pub(super) async fn run<S: ObjectStore>(
    turn: &Turn<'_, S>,
    features: Features,
    enable: bool,
) -> Result<(), OperationError> {
    let impossible = features.without(MUTABLE.union(DISABLE_ONLY));
    if !impossible.is_empty() {
        return Err(MaintenanceError::Feature(FeatureError::Immutable(impossible)).into());
    }
    if features.contains(Features::JOURNALING) {
        return Err(MaintenanceError::Feature(FeatureError::Journaling).into());
    }
    let core = turn.core;
    let right = turn.begin().await?;
    let one_at_a_time = core.snapshotting.lock().await;
    let paused = core.pause(&right).await;
    let changed = if enable {
        turn_on(turn, &right, features).await
    } else {
        turn_off(turn, &right, &paused, features).await
    };
    core.ensure_fresh().await?;
    // As the features are now, whatever became of it.
    let reopened = core.reopen_map(&right, &paused).await;
    drop((paused, one_at_a_time, right));
    if let (Err(_), Some(lock)) = (&reopened, core.lock.get()) {
        // Nothing can be written before the map is there, and it is looked for with the next lock.
        let _ = lock.release().await;
    }
    changed?;
    reopened.map_err(MaintenanceError::ObjectMap)?;
    info!(image = core.display_name(), %features, enable, "changed the image's features");
    Ok(())
}

/// Gives the lock of an image up that has none any more: nobody will ever ask for it.
pub(super) async fn give_up_lock_without_feature<S: ObjectStore>(core: &Core<S>) {
    if let Some(lock) = core.lock.get().filter(|_| !core.has(Features::EXCLUSIVE_LOCK)) {
        // That it is lost already does not matter.
        let _ = lock.release().await;
    }
}

async fn turn_on<S: ObjectStore>(
    turn: &Turn<'_, S>,
    right: &Right,
    features: Features,
) -> Result<(), OperationError> {
    let core = turn.core;
    let header = core.header();
    let current = header.features;
    let mut new = features.without(current);
    if new.intersects(MAPS) {
        new = new.union(MAPS);
    }
    let mut mask = new;
    if new.contains(Features::OBJECT_MAP) {
        if !current.union(new).contains(Features::EXCLUSIVE_LOCK) {
            let (feature, needs) = (Features::OBJECT_MAP, Features::EXCLUSIVE_LOCK);
            return Err(MaintenanceError::Feature(FeatureError::Needs { feature, needs }).into());
        }
        mask = mask.union(Features::EXCLUSIVE_LOCK);
        let largest = header.snapshots.iter().map(|snapshot| snapshot.size).fold(header.size, u64::max);
        let objects = core.layout.object_count(largest);
        if objects > MAX_OBJECTS {
            return Err(MaintenanceError::ObjectMap(ObjectMapError::TooLarge { objects }).into());
        }
    }
    turn.change_header(right, "enable features", |operation| {
        let operation = match new.intersects(MAPS) {
            true => flag_all(operation, &header, MAPS_INVALID, MAPS_INVALID),
            false => operation,
        };
        set_features(operation, current.union(new), mask)
    })
    .await?;
    if new.contains(Features::OBJECT_MAP) && !current.contains(Features::OBJECT_MAP) {
        for (snap, size) in versions(&header) {
            let objects = core.layout.object_count(size);
            let make = object_map_resize(Operation::new(), objects, ObjectState::Nonexistent);
            let made = core.store.write(&object_name(&core.id, snap), make, &SnapContext::default()).await;
            made.map_err(|source| core.operation_failed("make the object map", source))?;
        }
    }
    Ok(())
}

async fn turn_off<S: ObjectStore>(
    turn: &Turn<'_, S>,
    right: &Right,
    paused: &Paused<'_>,
    features: Features,
) -> Result<(), OperationError> {
    let core = turn.core;
    let header = core.header();
    let current = header.features;
    let mut old = features.common(current);
    if old.intersects(MAPS) {
        old = old.union(MAPS);
    }
    let rest = current.without(old);
    let mut mask = old;
    if old.contains(Features::EXCLUSIVE_LOCK) {
        let by = rest.common(Features::OBJECT_MAP.union(Features::JOURNALING));
        if !by.is_empty() {
            let feature = Features::EXCLUSIVE_LOCK;
            return Err(MaintenanceError::Feature(FeatureError::NeededBy { feature, by }).into());
        }
        mask = mask.union(MAPS).union(Features::JOURNALING);
    }
    if old.contains(Features::OBJECT_MAP) {
        core.abandon_map(paused).await;
        for (snap, _) in versions(&header) {
            remove_map(core, snap).await?;
        }
    }
    turn.change_header(right, "disable features", |operation| {
        let operation = set_features(operation, rest, mask);
        if old.intersects(MAPS) {
            flag_all(operation, &header, Flags::default(), MAPS_INVALID)
        } else {
            operation
        }
    })
    .await
}

async fn remove_map<S: ObjectStore>(core: &Core<S>, snap: SnapId) -> Result<(), OperationError> {
    let name = object_name(&core.id, snap);
    match core.store.write(&name, Operation::new().delete(), &SnapContext::default()).await {
        Ok(_) => Ok(()),
        Err(error) if error.refusal() == Some(Errno::ENOENT) => Ok(()),
        Err(source) => Err(core.operation_failed("remove the object map", source)),
    }
}

/// The live image and its snapshots, with their sizes.
fn versions(header: &Header) -> impl Iterator<Item = (SnapId, u64)> {
    let snapshots = header.snapshots.iter().map(|snapshot| (snapshot.id, snapshot.size));
    std::iter::once((SnapId::HEAD, header.size)).chain(snapshots)
}

fn flag_all(operation: Operation, header: &Header, flags: Flags, mask: Flags) -> Operation {
    versions(header).fold(operation, |operation, (snap, _)| set_flags(operation, flags, mask, snap))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK: Features = Features::EXCLUSIVE_LOCK;

    #[test]
    fn an_object_map_and_fast_diff_come_and_go_together() {
        assert_eq!(complete(LOCK, Features::OBJECT_MAP, true), Ok(MAPS));
        assert_eq!(complete(LOCK, Features::FAST_DIFF, true), Ok(MAPS));
        assert_eq!(complete(LOCK.union(MAPS), Features::OBJECT_MAP, false), Ok(MAPS));
        assert_eq!(complete(LOCK.union(MAPS), Features::FAST_DIFF, false), Ok(Features::FAST_DIFF));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let deep = Features::DEEP_FLATTEN;
        assert_eq!(
            complete(LOCK, Features::LAYERING, false),
            Err(FeatureError::Immutable(Features::LAYERING))
        );
        assert_eq!(complete(LOCK, deep, true), Err(FeatureError::Immutable(deep)));
        assert_eq!(complete(LOCK.union(deep), deep, false), Ok(deep));
        assert_eq!(complete(LOCK, LOCK, true), Err(FeatureError::Enabled(LOCK)));
        assert_eq!(complete(LOCK, MAPS, false), Err(FeatureError::Disabled(MAPS)));
        assert_eq!(complete(LOCK, Features(0), true), Err(FeatureError::None));
    }
}
