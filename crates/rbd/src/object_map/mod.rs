//! The object map: which objects of an image exist, so that reads, diffs and removals can pass over the others.
//!
//! It must never say that an object is missing which is there. So an object is marked before it is created, and
//! unmarked after it is removed; and if that fails, the whole map is marked as invalid in the image's header
//! before anything else is done to the object. While the image is open for writing the map is locked, beside
//! the image's own exclusive lock, so that updates of a predecessor that was taken for dead cannot arrive late.
//!
//! Ceph: `src/librbd/ObjectMap.cc`, `src/librbd/object_map/`, `object_map_*` in `src/cls/rbd/cls_rbd.cc`.

mod copy_up;
mod maintenance;
mod states;
#[cfg(test)]
mod tests;
mod touched;
mod updates;

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use ceph_codec::{Decode, Encode, SnapId};
use parking_lot::{Mutex, RwLock};
use rados::{Errno, OpError, Operation, SnapContext};
use thiserror::Error;
use tokio::sync::{Notify, oneshot};
use tracing::{error, warn};

use crate::lock::cls::{self, LockInfo};
use crate::store::ObjectStore;
pub(crate) use maintenance::{Mismatch, mismatches};
pub(crate) use states::{MAX_OBJECTS, ObjectState, States};
pub(crate) use touched::Touched;
use updates::{MAX_OBJECTS_PER_UPDATE, Update, Updates};

/// Bits of an image's or a snapshot's flags. Ceph: `RBD_FLAG_*` in `src/include/rbd/librbd.h`.
const FLAG_OBJECT_MAP_INVALID: u64 = 1 << 0;
const FLAG_FAST_DIFF_INVALID: u64 = 1 << 1;

/// Name of the object that holds an object map. Ceph: `ObjectMap::object_map_name`.
pub(crate) fn object_name(image_id: &str, snap: SnapId) -> String {
    match snap {
        SnapId::HEAD => format!("rbd_object_map.{image_id}"),
        SnapId(snap) => format!("rbd_object_map.{image_id}.{snap:016x}"),
    }
}

/// Why an object map is of no use.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ObjectMapError {
    /// The image has more objects than an object map can hold.
    #[error("an object map cannot hold {objects} objects, only {MAX_OBJECTS}")]
    TooLarge {
        /// Objects of the image.
        objects: u64,
    },
    /// The map could be neither updated nor marked as invalid. What the update was for must not be done.
    #[error("could not mark the object map as invalid")]
    Invalidate(#[source] OpError),
    /// This client cannot do anything any more.
    #[error("could not use the object map")]
    Store(#[from] OpError),
}

/// Which object map to open.
#[derive(Debug, Clone)]
pub(crate) struct MapOf {
    /// The image.
    pub(crate) image_id: String,
    /// Where its flags are.
    pub(crate) header_object: String,
    /// The snapshot, or [`SnapId::HEAD`] for the live image, whose map is locked and kept up to date.
    pub(crate) snap: SnapId,
    /// Objects of the image or snapshot at its current size.
    pub(crate) objects: u64,
    /// Whether its flags already say that the map is invalid.
    pub(crate) invalid: bool,
    /// Whether the image has the feature fast-diff, which falls with the map.
    pub(crate) fast_diff: bool,
}

/// An open object map. Cheap to clone.
pub(crate) struct ObjectMap<S> {
    inner: Arc<Inner<S>>,
}

impl<S> Clone for ObjectMap<S> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<S> std::fmt::Debug for ObjectMap<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ObjectMap").field("object", &self.inner.object).finish_non_exhaustive()
    }
}

struct Inner<S> {
    store: S,
    of: MapOf,
    object: String,
    states: RwLock<States>,
    updates: Mutex<Updates<oneshot::Sender<Result<(), ObjectMapError>>>>,
    /// Updates not done yet, so that most writes need not look at `updates`.
    busy: AtomicUsize,
    idle: Notify,
    invalid: AtomicBool,
    /// Held while the header is told that the map is invalid; says whether it knows.
    invalidated: tokio::sync::Mutex<bool>,
    marker: Arc<touched::Marker>,
}

impl<S: ObjectStore> ObjectMap<S> {
    /// Locks the map, if it is that of the live image, and loads it. The caller must hold the image's exclusive
    /// lock then. A map that cannot be loaded is marked as invalid, and goes on as one in which all objects
    /// exist.
    ///
    /// # Errors
    /// [`ObjectMapError::TooLarge`]: go on without a map. Else this client cannot do anything any more.
    ///
    /// Ceph: `RefreshRequest` in `src/librbd/object_map/RefreshRequest.cc`.
    pub(crate) async fn load(store: S, of: MapOf) -> Result<Self, ObjectMapError> {
        let inner = Arc::new(Inner {
            object: object_name(&of.image_id, of.snap),
            states: RwLock::new(States::new(0, ObjectState::Exists)),
            updates: Mutex::default(),
            busy: AtomicUsize::new(0),
            idle: Notify::new(),
            invalid: AtomicBool::new(of.invalid),
            invalidated: tokio::sync::Mutex::new(of.invalid),
            marker: Arc::default(),
            store,
            of,
        });
        inner.open().await?;
        Ok(Self { inner })
    }

    /// Number of objects that the map has a state for.
    pub(crate) fn len(&self) -> u64 {
        self.inner.states.read().len()
    }

    /// Whether the map must not be trusted: it is only kept up to date, as far as possible.
    pub(crate) fn is_invalid(&self) -> bool {
        self.inner.invalid.load(Ordering::Acquire)
    }

    /// What the map says about an object; [`ObjectState::Exists`] past its end.
    pub(crate) fn state(&self, object: u64) -> ObjectState {
        self.inner.states.read().get(object).unwrap_or(ObjectState::Exists)
    }

    /// Whether the object may be there: not only by the map, but also if the map is invalid.
    pub(crate) fn may_exist(&self, object: u64) -> bool {
        self.is_invalid() || self.state(object) != ObjectState::Nonexistent
    }

    /// Whether an object must be [updated](Self::update) before it is changed in such a way: also while another
    /// update of it is under way. If not, submit the change before the next `await`, so that none can come
    /// between.
    pub(crate) fn needs_update(&self, object: u64, new: ObjectState) -> bool {
        self.inner.needs_update(&(object..object.saturating_add(1)), new)
    }

    /// Changes the states of those of the objects that are in the `expected` state, if one is given
    /// ([`ObjectState::Exists`] stands for [`ObjectState::ExistsClean`] as well). Returns when it is safe to go
    /// on: the map is changed, or marked as invalid. Goes on when the future is dropped.
    ///
    /// Another update may have followed by the time the caller runs again. Who is about to create an object has to
    /// look once more at its [state](Self::state); who removes one need not, the map then says that it may exist.
    ///
    /// # Errors
    /// [`ObjectMapError::Invalidate`] or [`ObjectMapError::Store`]: it is not safe to go on.
    pub(crate) async fn update(
        &self,
        objects: Range<u64>,
        new: ObjectState,
        expected: Option<ObjectState>,
    ) -> Result<(), ObjectMapError> {
        let mut start = objects.start;
        let end = objects.end.min(self.len());
        while start < end {
            let objects = start..end.min(start + MAX_OBJECTS_PER_UPDATE);
            start = objects.end;
            if self.inner.needs_update(&objects, new) {
                let (waiter, done) = oneshot::channel();
                self.inner.busy.fetch_add(1, Ordering::AcqRel);
                self.inner.updates.lock().push(Update { objects, new, expected }, waiter);
                self.inner.send_updates();
                done.await.unwrap_or(Err(ObjectMapError::Store(OpError::Shutdown)))?;
            }
        }
        Ok(())
    }

    /// Waits for updates under way and unlocks the map. Nothing may be updated any more.
    pub(crate) async fn close(&self) {
        let inner = &self.inner;
        inner.idle().await;
        if inner.of.snap != SnapId::HEAD {
            return;
        }
        match inner.write(Operation::new(), |op| cls::unlock(op, "")).await {
            Ok(()) => {}
            Err(error) if error.is(Errno::ENOENT) => {}
            Err(error) => warn!(map = inner.object, %error, "could not unlock the object map"),
        }
    }
}

impl<S: ObjectStore> Inner<S> {
    async fn open(&self) -> Result<(), ObjectMapError> {
        let objects = self.of.objects;
        if objects > MAX_OBJECTS {
            self.invalidate().await?;
            return Err(ObjectMapError::TooLarge { objects });
        }
        if self.of.snap == SnapId::HEAD {
            self.lock().await?;
        }
        let loaded = self
            .store
            .read(&self.object, Operation::new().call("rbd", "object_map_load", Bytes::new()), SnapId::HEAD)
            .await
            .and_then(|reply| Ok(States::decode_from(&reply.data(0))?));
        // What to do to the stored map if it is not as it should be.
        let (truncate, resize) = match loaded {
            Ok(states) if states.len() >= objects => {
                // A resize may have been interrupted after the image became smaller.
                *self.states.write() = states;
                return self.end_removals().await;
            }
            Ok(states) => {
                error!(map = self.object, states = states.len(), objects, "the object map is too small");
                (false, true)
            }
            Err(error @ (OpError::Blocklisted { .. } | OpError::IdentityLost | OpError::Shutdown)) => {
                return Err(error.into());
            }
            Err(error) => {
                error!(map = self.object, %error, "could not load the object map");
                let corrupt = error.is(Errno::EINVAL);
                (corrupt, corrupt)
            }
        };
        self.invalidate().await?;
        *self.states.write() = States::new(objects, ObjectState::Exists);
        if resize {
            let operation = if truncate { self.guarded().truncate(0) } else { self.guarded() };
            let resized = self.write(operation, |op| resize_op(op, objects, ObjectState::Nonexistent)).await;
            if let Err(error) = resized {
                error!(map = self.object, %error, "could not fit the object map to the image");
            }
        }
        Ok(())
    }

    /// What a predecessor was removing when it died may still be there. Nobody goes on with it, so it counts as
    /// existing: `rbd object-map check` accepts that for a missing object, but nothing else for one that exists.
    async fn end_removals(&self) -> Result<(), ObjectMapError> {
        if self.of.snap != SnapId::HEAD {
            return Ok(());
        }
        let (mut start, len) = (0, self.states.read().len());
        while start < len {
            let objects = start..len.min(start + MAX_OBJECTS_PER_UPDATE);
            start = objects.end;
            if self.states.read().contains(objects.clone(), ObjectState::Pending) {
                let (new, expected) = (ObjectState::Exists, Some(ObjectState::Pending));
                let update = Update { objects, new, expected };
                let reply = self.store.write(
                    &self.object,
                    update_op(self.guarded(), &update),
                    &SnapContext::default(),
                );
                self.safe(reply.await.map(drop)).await?;
                self.states.write().change(update.objects, new, expected);
            }
        }
        Ok(())
    }

    /// Takes the map's own lock, away from whoever held the image's lock before. Without it updates will fail
    /// and the map be marked as invalid, which is no reason not to write.
    ///
    /// Ceph: `src/librbd/object_map/LockRequest.cc`.
    async fn lock(&self) -> Result<(), OpError> {
        match self.try_lock().await {
            Ok(()) => return Ok(()),
            Err(error) if error.is(Errno::EBUSY) => {}
            Err(error) => return self.without_lock(error),
        }
        let info = self.store.read(&self.object, cls::get_info(Operation::new()), SnapId::HEAD).await;
        let lockers = match info.and_then(|reply| Ok(LockInfo::decode_from(&reply.data(0))?)) {
            Ok(info) => info.lockers,
            Err(error) if error.is(Errno::ENOENT) => Vec::new(),
            Err(error) => return self.without_lock(error),
        };
        for locker in lockers {
            warn!(map = self.object, owner = %locker, "breaking a leftover lock of the object map");
            match self.write(Operation::new(), |op| cls::break_lock(op, locker.name, &locker.cookie)).await {
                Ok(()) => {}
                Err(error) if error.is(Errno::ENOENT) => {}
                Err(error) => return self.without_lock(error),
            }
        }
        self.try_lock().await.or_else(|error| self.without_lock(error))
    }

    async fn try_lock(&self) -> Result<(), OpError> {
        match self.write(Operation::new(), |op| cls::lock(op, "", "")).await {
            Err(error) if error.is(Errno::EEXIST) => Ok(()), // ours already
            result => result,
        }
    }

    fn without_lock(&self, error: OpError) -> Result<(), OpError> {
        if matches!(error, OpError::Blocklisted { .. } | OpError::IdentityLost | OpError::Shutdown) {
            return Err(error);
        }
        error!(map = self.object, %error, "could not lock the object map");
        Ok(())
    }

    fn needs_update(&self, objects: &Range<u64>, new: ObjectState) -> bool {
        self.marker.mark(objects);
        self.states.read().needs_change(objects.clone(), new)
            || (self.busy.load(Ordering::Acquire) > 0 && self.updates.lock().concerns(objects))
    }

    /// Sends what can be sent now.
    fn send_updates(self: &Arc<Self>) {
        let mut updates = self.updates.lock();
        while let Some((update, waiters)) = updates.next() {
            if self.states.read().needs_change(update.objects.clone(), update.new) {
                let operation = update_op(self.guarded(), &update);
                let reply = self.store.write(&self.object, operation, &SnapContext::default());
                // In a task of its own: others may wait for the result when this caller does not any more.
                tokio::spawn(self.clone().finish_update(update, waiters, reply));
            } else {
                updates.done(&update.objects);
                self.answer(waiters, &Ok(()));
            }
        }
    }

    async fn finish_update(
        self: Arc<Self>,
        update: Update,
        waiters: Vec<oneshot::Sender<Result<(), ObjectMapError>>>,
        reply: impl Future<Output = Result<rados::OpReply, OpError>>,
    ) {
        let result = self.safe(reply.await.map(drop)).await;
        if result.is_ok() {
            self.states.write().change(update.objects.clone(), update.new, update.expected);
        }
        self.updates.lock().done(&update.objects);
        self.send_updates();
        self.answer(waiters, &result);
    }

    fn answer(
        &self,
        waiters: Vec<oneshot::Sender<Result<(), ObjectMapError>>>,
        result: &Result<(), ObjectMapError>,
    ) {
        let count = waiters.len();
        for waiter in waiters {
            // Whoever does not wait any more does not mind.
            let _ = waiter.send(result.clone());
        }
        if self.busy.fetch_sub(count, Ordering::AcqRel) == count {
            self.idle.notify_waiters();
        }
    }

    /// Makes a failed change of the map safe: by marking the map as invalid.
    async fn safe(&self, result: Result<(), OpError>) -> Result<(), ObjectMapError> {
        match result {
            Ok(()) => Ok(()),
            Err(error @ (OpError::Blocklisted { .. } | OpError::IdentityLost | OpError::Shutdown)) => {
                Err(error.into())
            }
            Err(error) => {
                error!(map = self.object, %error, "could not update the object map, marking it as invalid");
                self.invalidate().await
            }
        }
    }

    /// Marks the map as invalid, here and in the header. Ceph: `InvalidateRequest.cc`.
    async fn invalidate(&self) -> Result<(), ObjectMapError> {
        self.invalid.store(true, Ordering::Release);
        let mut invalidated = self.invalidated.lock().await;
        if *invalidated {
            return Ok(());
        }
        let fast_diff = if self.of.fast_diff { FLAG_FAST_DIFF_INVALID } else { 0 };
        let flags = FLAG_OBJECT_MAP_INVALID | fast_diff;
        let mut input = Vec::with_capacity(24);
        (flags, flags).encode(&mut input); // values, mask
        self.of.snap.encode(&mut input);
        let operation = Operation::new().call_mut("rbd", "set_flags", input);
        let header = &self.of.header_object;
        self.store
            .write(header, operation, &SnapContext::default())
            .await
            .map_err(ObjectMapError::Invalidate)?;
        *invalidated = true;
        Ok(())
    }

    /// An operation that fails unless this client has the map's lock.
    fn guarded(&self) -> Operation {
        match self.of.snap {
            SnapId::HEAD => cls::assert_locked(Operation::new(), "", ""),
            _ => Operation::new(),
        }
    }

    async fn write(
        &self,
        operation: Operation,
        append: impl FnOnce(Operation) -> Operation,
    ) -> Result<(), OpError> {
        self.store.write(&self.object, append(operation), &SnapContext::default()).await.map(drop)
    }
}

fn update_op(operation: Operation, update: &Update) -> Operation {
    let mut input = Vec::with_capacity(24);
    (update.objects.start, update.objects.end).encode(&mut input);
    (update.new as u8, update.expected.map(|expected| expected as u8)).encode(&mut input);
    operation.call_mut("rbd", "object_map_update", input)
}

fn resize_op(operation: Operation, objects: u64, new: ObjectState) -> Operation {
    operation.call_mut("rbd", "object_map_resize", (objects, new as u8).encode_to_vec())
}
