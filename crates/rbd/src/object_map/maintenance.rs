//! Changes of a whole object map, around snapshots and resizes. But for the removal of a snapshot no update may be under
//! way or begin meanwhile: changes of contents are held back.
//!
//! Ceph: `SnapshotCreateRequest.cc`, `SnapshotRemoveRequest.cc`, `ResizeRequest.cc` in
//! `src/librbd/object_map/`.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use ceph_codec::{Decode, Encode, SnapId};
use rados::{Errno, OpError, Operation, SnapContext};
use tracing::error;

use super::{
    FLAG_FAST_DIFF_INVALID, FLAG_OBJECT_MAP_INVALID, Inner, ObjectMap, ObjectMapError, ObjectState, States,
    Touched, object_name, resize_op,
};
use crate::ObjectStore;
use crate::cls::object_map::object_map_save;

impl<S: ObjectStore> ObjectMap<S> {
    /// Makes the map of a snapshot that was just taken, and notes that nothing has changed since. A map that cannot be
    /// made is marked as invalid.
    ///
    /// # Errors
    /// [`ObjectMapError`] if that fails, too.
    pub(crate) async fn add_snapshot(&self, snap: SnapId) -> Result<(), ObjectMapError> {
        let inner = &self.inner;
        inner.idle().await;
        if let Err(error) = inner.copy_to(snap).await {
            return inner.spoilt(snap, error).await;
        }
        if !inner.of.fast_diff {
            return Ok(());
        }
        let marked =
            inner.write(inner.guarded(), |op| op.call_mut("rbd", "object_map_snap_add", Bytes::new())).await;
        if marked.is_ok() {
            inner.states.write().clean();
        }
        // If not, everything will seem to have changed.
        inner.safe(marked).await
    }

    /// Removes the map of a snapshot. What has changed since the snapshot before it is then told by the map of the
    /// `next` one, or of the live image.
    ///
    /// # Errors
    /// [`ObjectMapError`] if the map cannot be removed, or the next one be marked as invalid.
    pub(crate) async fn remove_snapshot(
        &self,
        snap: SnapId,
        invalid: bool,
        next: SnapId,
    ) -> Result<(), ObjectMapError> {
        let inner = &self.inner;
        if inner.of.fast_diff {
            let operation = Operation::new().call("rbd", "object_map_load", Bytes::new());
            match inner.store.read(&object_name(&inner.of.image_id, snap), operation, SnapId::HEAD).await {
                // All of it was done before.
                Err(error) if error.is(Errno::ENOENT) => return Ok(()),
                Ok(reply) if !invalid => inner.merge(&reply.data(0), next).await?,
                Ok(_) => inner.spoil(next).await?,
                Err(error) => inner.spoilt(next, error).await?,
            }
        }
        let name = object_name(&inner.of.image_id, snap);
        match inner.store.write(&name, Operation::new().delete(), &SnapContext::default()).await {
            Ok(_) => Ok(()),
            Err(error) if error.is(Errno::ENOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether both are handles of one map, which share what they know.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        std::sync::Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// Starts to note which objects are changed. To be called while no changes are under way.
    pub(crate) fn touched(&self) -> Touched {
        self.inner.marker.listen(self.len())
    }

    /// Overwrites the map with states that were found, but for the objects that were changed meanwhile. It has as many
    /// `objects` as the image then, even if a resize was interrupted before.
    ///
    /// # Errors
    /// [`ObjectMapError::Store`]: the map is as it was.
    pub(crate) async fn replace(
        &self,
        mut found: States,
        objects: u64,
        touched: &Touched,
    ) -> Result<(), ObjectMapError> {
        let inner = &self.inner;
        inner.idle().await;
        {
            let states = inner.states.read();
            found.resize(objects, ObjectState::Exists);
            for object in (0..objects).filter(|object| touched.contains(*object)) {
                found.change(object..object + 1, states.get(object).unwrap_or(ObjectState::Exists), None);
            }
        }
        inner.write(inner.guarded(), |op| object_map_save(op, &found)).await?;
        *inner.states.write() = found;
        Ok(())
    }

    /// Which objects are not in the states that were found, but for those that were changed meanwhile: pairs of what
    /// the map says and what was found. That it says of a missing object that it may exist does not matter.
    pub(crate) fn mismatches(&self, found: &States, touched: &Touched) -> Vec<Mismatch> {
        let states = self.inner.states.read();
        mismatches(&states, found).filter(|mismatch| !touched.contains(mismatch.object)).collect()
    }

    /// Marks the map as invalid.
    ///
    /// # Errors
    /// [`ObjectMapError::Invalidate`]
    pub(crate) async fn mark_invalid(&self) -> Result<(), ObjectMapError> {
        self.inner.invalidate().await
    }

    /// The header says that the map is valid now.
    pub(crate) async fn marked_valid(&self) {
        *self.inner.invalidated.lock().await = false;
        self.inner.invalid.store(false, Ordering::Release);
    }

    /// Waits for updates under way. Nothing may be updated any more, and the map's object is about to be removed.
    pub(crate) async fn abandon(&self) {
        self.inner.idle().await;
    }

    /// Makes room for so many objects, or gives up the room of those past them, which must be known to be gone. If that
    /// fails the map is marked as invalid.
    ///
    /// # Errors
    /// [`ObjectMapError`] if that fails, too.
    pub(crate) async fn resize(&self, objects: u64) -> Result<(), ObjectMapError> {
        let inner = &self.inner;
        inner.idle().await;
        let resized =
            inner.write(inner.guarded(), |op| resize_op(op, objects, ObjectState::Nonexistent)).await;
        inner.safe(resized).await?;
        inner.states.write().resize(objects, ObjectState::Nonexistent);
        Ok(())
    }
}

/// An object whose state in the map is not what was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mismatch {
    pub(crate) object: u64,
    pub(crate) state: ObjectState,
    pub(crate) found: ObjectState,
}

/// Ceph: `needs_invalidate` in `src/librbd/Operations.cc`.
pub(crate) fn mismatches(states: &States, found: &States) -> impl Iterator<Item = Mismatch> {
    (0..found.len()).filter_map(|object| {
        let state = states.get(object).unwrap_or(ObjectState::Nonexistent);
        let found = found.get(object)?;
        let may_exist = matches!(state, ObjectState::Exists | ObjectState::ExistsClean);
        let harmless = may_exist && found == ObjectState::Nonexistent;
        (state != found && !harmless).then_some(Mismatch { object, state, found })
    })
}

impl<S: ObjectStore> Inner<S> {
    /// Waits for updates under way.
    pub(super) async fn idle(&self) {
        loop {
            let idle = self.idle.notified();
            if self.busy.load(Ordering::Acquire) == 0 {
                return;
            }
            idle.await;
        }
    }

    /// Gives a snapshot a copy of the map.
    async fn copy_to(&self, snap: SnapId) -> Result<(), OpError> {
        let stored = self.store.read(&self.object, Operation::new().read(0, 0), SnapId::HEAD).await?.data(0);
        let target = object_name(&self.of.image_id, snap);
        self.store
            .write(&target, Operation::new().write_full(stored), &SnapContext::default())
            .await
            .map(drop)
    }

    /// Adds to a map what the map of the snapshot before it, as loaded, tells of changes.
    async fn merge(&self, before: &Bytes, next: SnapId) -> Result<(), ObjectMapError> {
        let states = match States::decode_from(before) {
            Ok(states) => states,
            Err(error) => return self.spoilt(next, error.into()).await,
        };
        let operation = if next == SnapId::HEAD { self.guarded() } else { Operation::new() };
        let operation = operation.call_mut("rbd", "object_map_snap_remove", before.clone());
        let name = object_name(&self.of.image_id, next);
        match self.store.write(&name, operation, &SnapContext::default()).await {
            Err(error) if !error.is(Errno::ENOENT) => return self.spoilt(next, error).await,
            _ => {}
        }
        if next == SnapId::HEAD {
            self.states.write().merge(&states);
        }
        Ok(())
    }

    /// Makes it safe that a map could not be changed.
    pub(super) async fn spoilt(&self, snap: SnapId, error: OpError) -> Result<(), ObjectMapError> {
        if matches!(error, OpError::Blocklisted { .. } | OpError::IdentityLost | OpError::Shutdown) {
            return Err(error.into());
        }
        error!(map = self.object, %snap, %error, "could not change an object map, marking it as invalid");
        self.spoil(snap).await
    }

    /// Marks a map as invalid.
    async fn spoil(&self, snap: SnapId) -> Result<(), ObjectMapError> {
        if snap == SnapId::HEAD {
            return self.invalidate().await;
        }
        let fast_diff = if self.of.fast_diff { FLAG_FAST_DIFF_INVALID } else { 0 };
        let flags = FLAG_OBJECT_MAP_INVALID | fast_diff;
        let mut input = (flags, flags).encode_to_vec();
        snap.encode(&mut input);
        let operation = Operation::new().call_mut("rbd", "set_flags", input);
        self.store
            .write(&self.of.header_object, operation, &SnapContext::default())
            .await
            .map(drop)
            .map_err(ObjectMapError::Invalidate)
    }
}
