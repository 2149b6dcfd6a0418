//! Looking up which objects exist: to check an object map, or to write it anew.
//!
//! ```text
//! changes pause ---> note what is changed from here on ---> changes go on
//! ask for each object, which takes long
//! changes pause ---> compare, or overwrite the map, but for what was changed ---> flags ---> changes go on
//! ```
//! The map of a snapshot is changed by nobody but those who copy objects up, or remove the snapshot before it.
//!
//! Ceph: `src/librbd/operation/ObjectMapIterate.cc`, `RebuildObjectMapRequest.cc`.

use ceph_codec::{Decode, SnapId};
use futures::StreamExt;
use rados::{Errno, Operation, SnapContext, SnapSet};
use tracing::{error, info};

use super::{MaintenanceError, OperationError, Progress, Turn};
use crate::cls::object_map::{object_map_save, set_flags};
use crate::header::Header;
use crate::image::core::{Core, Right};
use crate::image::pause::Paused;
use crate::lock::ExclusiveLock;
use crate::object_map::{self, Mismatch, ObjectMap, ObjectState, States, Touched, mismatches, object_name};
use crate::{Features, Flags, ImageError, ObjectMapError, ObjectStore, names};

/// The flags that tell of an object map.
const INVALID: Flags = Flags(Flags::OBJECT_MAP_INVALID.0 | Flags::FAST_DIFF_INVALID.0);

/// Mismatches that are told one by one.
const TOLD: usize = 100;

/// Writes the map of the live image anew, and marks it as valid.
pub(super) async fn rebuild<S: ObjectStore>(
    turn: &Turn<'_, S>,
    progress: &dyn Progress,
) -> Result<(), OperationError> {
    let core = turn.core;
    let Scanned { scan, found, right, _paused } = scan(turn, progress).await?;
    let objects = core.layout.object_count(core.header().size);
    scan.map.replace(found, objects, &scan.touched).await.map_err(MaintenanceError::ObjectMap)?;
    turn.change_header(&right, "mark the object map as valid", |operation| {
        set_flags(operation, Flags::default(), INVALID, SnapId::HEAD)
    })
    .await?;
    scan.map.marked_valid().await;
    core.ensure_fresh().await?;
    info!(image = core.display_name(), "rebuilt the object map");
    Ok(())
}

/// Compares the map of the live image with its objects. Returns how many are not as the map says; it is marked as
/// invalid then.
pub(crate) async fn check<S: ObjectStore>(
    core: &Core<S>,
    progress: &dyn Progress,
) -> Result<u64, OperationError> {
    let _working = core.lock.get().map(ExclusiveLock::work);
    loop {
        match check_in_tenure(&Turn::new(core), progress).await {
            Err(OperationError::Maintenance(MaintenanceError::LockMoved)) => {}
            result => return result,
        }
    }
}

async fn check_in_tenure<S: ObjectStore>(
    turn: &Turn<'_, S>,
    progress: &dyn Progress,
) -> Result<u64, OperationError> {
    let core = turn.core;
    let Scanned { scan, found, right: _right, _paused } = scan(turn, progress).await?;
    let wrong = scan.map.mismatches(&found, &scan.touched);
    tell(core, &wrong);
    if !wrong.is_empty() {
        scan.map.mark_invalid().await.map_err(MaintenanceError::ObjectMap)?;
        core.outdate();
        core.ensure_fresh().await?;
    }
    Ok(wrong.len() as u64)
}

/// Writes the map of a snapshot anew, and marks it as valid.
pub(crate) async fn rebuild_snapshot<S: ObjectStore>(
    turn: &Turn<'_, S>,
    snap: SnapId,
    progress: &dyn Progress,
) -> Result<(), OperationError> {
    let core = turn.core;
    let object = object_name(&core.id, snap);
    loop {
        core.ensure_fresh().await?;
        let header = core.header();
        check_feature(core, &header)?;
        let size = header.size_at(snap).ok_or(ImageError::SnapshotGone)?;
        let objects = core.layout.object_count(size);
        let before = match load(core, &object).await {
            Ok(states) if states.len() == objects => states,
            _ => make_anew(turn, snap, objects).await?,
        };
        let mut found = find_states(core, &header, snap, progress).await?;
        // Whoever copies objects up meanwhile has the lock, and marks them first.
        let right = turn.begin().await?;
        if core.header().snapc != header.snapc {
            continue;
        }
        let _paused = core.pause(&right).await;
        let now = load(core, &object).await;
        let now = now.map_err(|source| core.operation_failed("load the object map", source))?;
        for object in 0..found.len() {
            let state = now.get(object).unwrap_or(ObjectState::Nonexistent);
            if before.get(object) != Some(state) && state != ObjectState::Nonexistent {
                found.change(object..object + 1, state, None);
            }
        }
        let save = object_map_save(Operation::new(), &found);
        let saved = core.store.write(&object, save, &SnapContext::default()).await;
        saved.map_err(|source| core.operation_failed("save the object map", source))?;
        turn.change_header(&right, "mark the object map as valid", |operation| {
            set_flags(operation, Flags::default(), INVALID, snap)
        })
        .await?;
        core.ensure_fresh().await?;
        info!(image = core.display_name(), %snap, "rebuilt the object map of a snapshot");
        return Ok(());
    }
}

/// Makes the map of a snapshot that has none, or a broken one: copy-ups of the time until it is right need one to note
/// themselves in.
///
/// Ceph: `RebuildObjectMapRequest::send_resize_object_map`.
async fn make_anew<S: ObjectStore>(
    turn: &Turn<'_, S>,
    snap: SnapId,
    objects: u64,
) -> Result<States, OperationError> {
    let core = turn.core;
    if objects > object_map::MAX_OBJECTS {
        return Err(MaintenanceError::ObjectMap(ObjectMapError::TooLarge { objects }).into());
    }
    let right = turn.begin().await?;
    turn.change_header(&right, "mark the object map as invalid", |operation| {
        set_flags(operation, INVALID, INVALID, snap)
    })
    .await?;
    // Copy-ups that found no map to note themselves in are over before objects are looked at.
    let _paused = core.pause(&right).await;
    let empty = States::new(objects, ObjectState::Nonexistent);
    let save = object_map_save(Operation::new(), &empty);
    let saved = core.store.write(&object_name(&core.id, snap), save, &SnapContext::default()).await;
    saved.map_err(|source| core.operation_failed("make the object map", source))?;
    core.ensure_fresh().await?;
    Ok(empty)
}

/// Compares the map of a snapshot with its objects, like [`check`].
pub(crate) async fn check_snapshot<S: ObjectStore>(
    turn: &Turn<'_, S>,
    snap: SnapId,
    progress: &dyn Progress,
) -> Result<u64, OperationError> {
    let core = turn.core;
    let object = object_name(&core.id, snap);
    loop {
        core.ensure_fresh().await?;
        let header = core.header();
        check_feature(core, &header)?;
        let states = load(core, &object).await;
        let found = find_states(core, &header, snap, progress).await?;
        core.ensure_fresh().await?;
        if core.header().snapc != header.snapc {
            continue;
        }
        let mut wrong: Vec<Mismatch> = match states {
            Ok(states) => mismatches(&states, &found).collect(),
            Err(error) => {
                error!(image = core.display_name(), %snap, %error, "cannot load the object map");
                mismatches(&States::new(0, ObjectState::Nonexistent), &found).collect()
            }
        };
        if !wrong.is_empty() {
            // What was copied up after the map was loaded is no mistake.
            let _right = turn.begin().await?;
            let now = load(core, &object).await;
            let is_now = |object| now.as_ref().map(|now| now.get(object).unwrap_or(ObjectState::Nonexistent));
            wrong.retain(|mismatch| is_now(mismatch.object).is_ok_and(|now| now == mismatch.state));
        }
        tell(core, &wrong);
        let valid = header.flags_at(snap).is_some_and(|flags| !flags.contains(Flags::OBJECT_MAP_INVALID));
        if !wrong.is_empty() && valid {
            let right = turn.begin().await?;
            turn.change_header(&right, "mark the object map as invalid", |operation| {
                set_flags(operation, INVALID, INVALID, snap)
            })
            .await?;
        }
        return Ok(wrong.len() as u64);
    }
}

/// One look at all objects of the live image, and what was changed meanwhile.
pub(super) struct Scan<S> {
    map: ObjectMap<S>,
    touched: Touched,
    header: std::sync::Arc<Header>,
    tenure: u64,
}

impl<S: ObjectStore> Scan<S> {
    pub(super) async fn begin(turn: &Turn<'_, S>) -> Result<Self, OperationError> {
        let core = turn.core;
        let right = turn.begin().await?;
        let _paused = core.pause(&right).await;
        let header = core.header();
        check_feature(core, &header)?;
        let objects = core.layout.object_count(header.size);
        let too_large = || MaintenanceError::ObjectMap(ObjectMapError::TooLarge { objects });
        let map = core.map().ok_or_else(too_large)?;
        Ok(Self { touched: map.touched(), map, header, tenure: core.tenure() })
    }

    /// Whether what was found still counts. Fails if the exclusive lock was away meanwhile.
    pub(super) fn is_current(&self, core: &Core<S>) -> Result<bool, OperationError> {
        if core.tenure() != self.tenure {
            return Err(MaintenanceError::LockMoved.into());
        }
        let header = core.header();
        // A map that was taken away and made anew does not tell this one what is touched.
        let same_map = core.map().is_some_and(|map| map.is_same(&self.map));
        // A snapshot that was taken makes all that exists clean. Objects past an old end are known to be touched.
        Ok(same_map && header.snapc == self.header.snapc && header.features == self.header.features)
    }
}

/// What was found of all objects, which counts as long as nothing changes.
struct Scanned<'a, S: ObjectStore> {
    scan: Scan<S>,
    found: States,
    // In this order: the pause ends before the lock may move.
    _paused: Paused<'a>,
    right: Right,
}

/// Looks at all objects of the live image, again if something came between that makes it worthless.
async fn scan<'a, S: ObjectStore>(
    turn: &Turn<'a, S>,
    progress: &dyn Progress,
) -> Result<Scanned<'a, S>, OperationError> {
    let core = turn.core;
    loop {
        let scan = Scan::begin(turn).await?;
        let found = find_states(core, &scan.header, SnapId::HEAD, progress).await?;
        let right = turn.begin().await?;
        let paused = core.pause(&right).await;
        if scan.is_current(core)? {
            return Ok(Scanned { scan, found, _paused: paused, right });
        }
    }
}

fn check_feature<S: ObjectStore>(core: &Core<S>, header: &Header) -> Result<(), OperationError> {
    if header.features.contains(Features::OBJECT_MAP) {
        return Ok(());
    }
    Err(MaintenanceError::NoObjectMap { image: core.display_name().to_owned() }.into())
}

fn tell<S: ObjectStore>(core: &Core<S>, wrong: &[Mismatch]) {
    for Mismatch { object, state, found } in wrong.iter().take(TOLD) {
        let name = names::data_object(&core.object_prefix, *object);
        error!("object map error: object {name} is marked as {state:?}, but should be {found:?}");
    }
}

async fn load<S: ObjectStore>(core: &Core<S>, object: &str) -> Result<States, rados::OpError> {
    let operation = Operation::new().call("rbd", "object_map_load", bytes::Bytes::new());
    let reply = core.store.read(object, operation, SnapId::HEAD).await?;
    Ok(States::decode_from(&reply.data(0))?)
}

/// Asks for the state of every object, of the live image or of a snapshot.
async fn find_states<S: ObjectStore>(
    core: &Core<S>,
    header: &Header,
    snap: SnapId,
    progress: &dyn Progress,
) -> Result<States, OperationError> {
    let size = header.size_at(snap).ok_or(ImageError::SnapshotGone)?;
    let objects = core.layout.object_count(size);
    if objects > object_map::MAX_OBJECTS {
        return Err(MaintenanceError::ObjectMap(ObjectMapError::TooLarge { objects }).into());
    }
    let mut found = States::new(objects, ObjectState::Nonexistent);
    let mut lookups = futures::stream::iter(0..objects)
        .map(|object| async move { Ok((object, find_state(core, header, snap, object).await?)) })
        .buffer_unordered(core.management_ops());
    let mut done = 0;
    while let Some(lookup) = lookups.next().await {
        let (object, state) = lookup.map_err(OperationError::Image)?;
        found.change(object..object + 1, state, None);
        done += 1;
        progress.update(done, objects);
    }
    Ok(found)
}

async fn find_state<S: ObjectStore>(
    core: &Core<S>,
    header: &Header,
    snap: SnapId,
    object: u64,
) -> Result<ObjectState, ImageError> {
    let name = names::data_object(&core.object_prefix, object);
    let reply = core.data.read(&name, Operation::new().list_snaps(), SnapId::DIR).await;
    match reply.and_then(|reply| Ok(reply.outcome(0)?.snap_set()?)) {
        Ok(set) => {
            let fast_diff = header.features.contains(Features::FAST_DIFF);
            Ok(state_at(&set, snap, &header.snapc.snaps, fast_diff))
        }
        Err(error) if error.refusal() == Some(Errno::ENOENT) => Ok(ObjectState::Nonexistent),
        Err(error) => Err(core.failed(name, error)),
    }
}

/// The state of an object at a snapshot, by what is kept of it. `snaps` are those of the image, newest first.
///
/// Ceph: `C_VerifyObjectCallback::get_object_state`.
fn state_at(set: &SnapSet, snap: SnapId, snaps: &[SnapId], fast_diff: bool) -> ObjectState {
    // Snapshots that were removed may still be known to the object.
    let existing =
        |from: SnapId| snaps.iter().rev().find(|snap| **snap >= from).copied().unwrap_or(SnapId::HEAD);
    for clone in &set.clones {
        let (from, to) = match (clone.id, clone.snaps.first(), clone.snaps.last()) {
            (SnapId::HEAD, ..) => (existing(SnapId(set.seq.0.saturating_add(1))), SnapId::HEAD),
            (_, Some(first), Some(last)) => (existing(*first), *last),
            // All of its snapshots are gone, and it will be soon.
            _ => continue,
        };
        if to < snap {
            continue;
        }
        if snap < from {
            break;
        }
        let clean = fast_diff && from != snap;
        return if clean { ObjectState::ExistsClean } else { ObjectState::Exists };
    }
    ObjectState::Nonexistent
}

#[cfg(test)]
mod tests {
    use super::*;
    use rados::CloneInfo;

    fn clone(id: u64, snaps: &[u64]) -> CloneInfo {
        let snaps = snaps.iter().map(|snap| SnapId(*snap)).collect();
        CloneInfo { id: SnapId(id), snaps, overlap: Vec::new(), size: 1 }
    }

    #[test]
    fn an_object_is_clean_at_all_but_the_first_snapshot_after_it_was_written() {
        let set = SnapSet { seq: SnapId(6), clones: vec![clone(4, &[3, 4]), clone(SnapId::HEAD.0, &[])] };
        let state = |snap, existing: &[u64]| {
            let existing: Vec<SnapId> = existing.iter().map(|snap| SnapId(*snap)).collect();
            state_at(&set, SnapId(snap), &existing, true)
        };
        let all = [8, 7, 6, 4, 3, 2];
        use ObjectState::{Exists, ExistsClean, Nonexistent};
        assert_eq!(state(2, &all), Nonexistent);
        assert_eq!(state(3, &all), Exists);
        assert_eq!(state(4, &all), ExistsClean);
        assert_eq!(state(6, &all), Nonexistent, "it was removed and came back");
        assert_eq!(state(7, &all), Exists);
        assert_eq!(state(8, &all), ExistsClean);
        assert_eq!(state(SnapId::HEAD.0, &all), ExistsClean);
        assert_eq!(state(4, &[8, 7, 6, 4, 2]), Exists, "snapshot 3 was removed");
        assert_eq!(state(SnapId::HEAD.0, &[6, 4]), Exists);
        assert_eq!(state_at(&set, SnapId::HEAD, &[SnapId(8)], false), Exists, "without fast-diff");
    }
}
