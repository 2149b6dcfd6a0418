//! Open images.

mod copyup;
pub(crate) mod core;
mod data;
mod in_flight;
mod info;
mod maintenance;
mod open;
mod options;
mod parent;
pub(crate) mod pause;
mod read;
mod run_to_end;
mod status;
#[cfg(test)]
mod tests;
mod timestamps;
mod write;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use ceph_codec::SnapId;

use crate::lock::LockOptions;
use crate::{
    Config, ConfigOption, Features, ImageError, Layout, ObjectStore, OpenError, Predecessors, Snapshot,
};
use core::Core;
pub use data::{ReadData, Segment, SegmentIter};
pub use info::{ImageDetails, ImageInfo, MirroringInfo, ParentInfo, list_metadata};
pub(crate) use open::header_object;
pub(crate) use parent::parent_cap;
use run_to_end::RunToEnd;
pub use status::Extent;

/// Names an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageRef {
    /// By its name.
    Name(String),
    /// By its id, which stays when the image is renamed or moved to the trash.
    Id(String),
}

impl ImageRef {
    /// The name or id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Name(text) | Self::Id(text) => text,
        }
    }
}

/// Names a snapshot of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotRef {
    /// By the name that a user gave it.
    Name(String),
    /// By its number.
    Id(SnapId),
}

/// What to open, and how.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    pub(crate) image: ImageRef,
    pub(crate) snapshot: Option<SnapshotRef>,
    pub(crate) read_only: bool,
    pub(crate) without_parent: bool,
    pub(crate) lock: LockOptions,
    pub(crate) config: Option<Config>,
}

impl OpenOptions {
    /// The image of that name, for reading and writing.
    #[must_use]
    pub fn image(name: impl Into<String>) -> Self {
        Self::new(ImageRef::Name(name.into()))
    }

    /// An image, for reading and writing.
    #[must_use]
    pub fn new(image: ImageRef) -> Self {
        Self {
            image,
            snapshot: None,
            read_only: false,
            without_parent: false,
            lock: LockOptions::default(),
            config: None,
        }
    }

    /// A snapshot of the image instead of the image itself, for reading.
    #[must_use]
    pub fn snapshot(self, snapshot: SnapshotRef) -> Self {
        Self { snapshot: Some(snapshot), ..self }
    }

    /// Without its parent, for maintenance of what is not contents: they must be neither read nor changed.
    ///
    /// Ceph: `OPEN_FLAG_SKIP_OPEN_PARENT`.
    #[must_use]
    pub fn without_parent(self) -> Self {
        Self { without_parent: true, ..self }
    }

    /// For reading only: the lock is never taken.
    #[must_use]
    pub fn read_only(self) -> Self {
        Self { read_only: true, ..self }
    }

    /// With the options of the client's configuration, and what the pool overrides of them, instead of Ceph's
    /// defaults. What the image overrides itself counts in any case.
    #[must_use]
    pub fn config(self, config: Config) -> Self {
        Self { config: Some(config), ..self }
    }

    /// Takes the exclusive lock at once, and hands it over to nobody who asks for it. Opening fails if another
    /// client keeps it in the same way, or if the image is not one that has such a lock. Not for what is open for
    /// reading only.
    ///
    /// Ceph: `rbd_lock_acquire` with `RBD_LOCK_MODE_EXCLUSIVE`, as of `rbd device map --exclusive`.
    #[must_use]
    pub fn exclusive(mut self) -> Self {
        self.lock.exclusive = true;
        self
    }

    /// Takes the exclusive lock over at once from owners that are known to have ended, instead of waiting until
    /// the cluster notices.
    #[must_use]
    pub fn predecessors(mut self, predecessors: Arc<dyn Predecessors>) -> Self {
        self.lock.predecessors = Some(predecessors);
        self
    }
}

/// An open image, or an open snapshot of one. Cheap to clone; clones are the same open image.
///
/// **Durability.** What is acknowledged is durable: OSDs acknowledge nothing else. [`flush`](Self::flush) waits
/// for what was begun before.
///
/// **Order.** A request sees, and overwrites, all that was acknowledged before it was made. Requests under way
/// at the same time that overlap may take effect in any order.
///
/// **Cancellation.** A change that has begun (its future was polled) goes on if its future is dropped.
///
/// **Other clients.** Where the image has the feature `exclusive-lock`, the lock is taken with the first change,
/// and given up when another client asks for it, or at [`close`](Self::close). An image that is merely dropped
/// keeps lock and watch until the client ends.
///
/// All methods must be called in the context of a tokio runtime that has its timer enabled.
pub struct Image<S: ObjectStore>(pub(crate) Arc<Core<S>>);

impl<S: ObjectStore> Clone for Image<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: ObjectStore> fmt::Debug for Image<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Image")
            .field("id", &self.0.id)
            .field("name", &self.0.name)
            .field("snap", &self.0.snap)
            .finish_non_exhaustive()
    }
}

impl<S: ObjectStore> Image<S> {
    /// Opens an image.
    ///
    /// # Errors
    /// [`OpenError`] if there is no such image or it cannot be served correctly. Nothing is left behind then.
    pub async fn open(store: S, options: OpenOptions) -> Result<Self, OpenError> {
        open::open(store, options).await.map(Self)
    }

    /// Shows an image without opening it; images that cannot be opened can be shown.
    ///
    /// # Errors
    /// [`OpenError`] if there is no such image or its metadata cannot be read.
    pub async fn inspect(store: &S, options: &OpenOptions) -> Result<ImageDetails, OpenError> {
        info::inspect(store, options).await
    }

    /// Looks at the metadata again, unless changes are noticed anyway: who may only read is not told of them.
    ///
    /// # Errors
    /// [`ImageError::Refresh`] if they cannot be read.
    pub async fn refresh(&self) -> Result<(), ImageError> {
        if self.0.watcher.lock().is_none() {
            self.0.outdate();
        }
        self.0.ensure_fresh().await
    }

    /// Its size in bytes; 0 if it is a snapshot that was removed. It changes when the image is resized.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.0.size().unwrap_or(0)
    }

    /// How its bytes are spread over objects.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.0.layout
    }

    /// Whether it is open for reading only.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.0.read_only
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// Whether this client holds the exclusive lock right now.
    #[must_use]
    pub fn is_lock_held(&self) -> bool {
        self.0.lock.get().is_some_and(crate::lock::ExclusiveLock::is_held)
    }

    /// Whether another client has taken over and barred this one: nothing can be done with it any more.
    #[must_use]
    pub fn is_blocklisted(&self) -> bool {
        self.0.store.is_blocklisted()
    }

    /// Its features, which may change while it is open.
    #[must_use]
    pub fn features(&self) -> Features {
        self.0.header().features
    }

    /// What `rbd info` shows.
    #[must_use]
    pub fn info(&self) -> ImageInfo {
        info::of_open(&self.0)
    }

    /// Its snapshots, newest first.
    #[must_use]
    pub fn snapshots(&self) -> Vec<Snapshot> {
        self.0.header().snapshots.clone()
    }

    /// Its metadata: pairs of a name and whatever a user made of it. Those with names that begin with `conf_` are
    /// its configuration.
    ///
    /// # Errors
    /// [`ImageError::Op`] if the cluster does not tell.
    pub async fn metadata(&self) -> Result<BTreeMap<String, Vec<u8>>, ImageError> {
        let core = &self.0;
        crate::header::metadata(&core.store, &core.header_object)
            .await
            .map_err(|source| core.failed(core.header_object.clone(), source))
    }

    /// Who has it open.
    ///
    /// # Errors
    /// [`ImageError::Op`] if the cluster does not tell.
    pub async fn watchers(&self) -> Result<Vec<rados::ObjectWatcher>, ImageError> {
        let core = &self.0;
        info::watchers(&core.store, &core.header_object)
            .await
            .map_err(|source| core.failed(core.header_object.clone(), source))
    }

    /// Who holds its exclusive lock, if anybody does.
    ///
    /// # Errors
    /// [`ImageError::Op`] if the cluster does not tell.
    pub async fn lock_owner(&self) -> Result<Option<crate::LockOwner>, ImageError> {
        let core = &self.0;
        info::lock_owner(&core.store, &core.header_object)
            .await
            .map_err(|source| core.failed(core.header_object.clone(), source))
    }

    /// Reads `len` bytes at `offset`.
    ///
    /// # Errors
    /// [`ImageError::OutOfRange`] if the image is not that large; else what the cluster reports.
    pub async fn read(&self, offset: u64, len: u64) -> Result<ReadData, ImageError> {
        self.0.read(offset, len).await
    }

    /// Writes `data` at `offset`. The buffer is not copied.
    ///
    /// # Errors
    /// [`ImageError::ReadOnly`], [`ImageError::OutOfRange`], [`ImageError::Lock`]; else what the cluster reports.
    /// Part of the data may have been written then.
    pub async fn write(&self, offset: u64, data: Bytes) -> Result<(), ImageError> {
        let core = self.0.clone();
        RunToEnd::new(async move { core.write(offset, data).await }).await
    }

    /// Replaces the configuration of the client, for requests from now on.
    pub fn set_config(&self, config: &Config) {
        self.0.set_config(config);
    }

    /// What the image, or its pool where it was opened with a [configuration](OpenOptions::config), overrides of the
    /// configuration, and what has no effect here.
    #[must_use]
    pub fn ignored_options(&self) -> Vec<ConfigOption> {
        self.0.ignored_options()
    }

    /// Gives up the contents of `len` bytes at `offset`, as far as that frees space: parts of objects that are
    /// not whole multiples of the granularity (`rbd_discard_granularity_bytes`, 64 KiB) keep their contents. What is given
    /// up reads as zeroes.
    ///
    /// # Errors
    /// As for [`write`](Self::write).
    pub async fn discard(&self, offset: u64, len: u64) -> Result<(), ImageError> {
        let core = self.0.clone();
        RunToEnd::new(async move { core.discard(offset, len).await }).await
    }

    /// Makes `len` bytes at `offset` read as zeroes, all of them. With `may_unmap` it gives up their space;
    /// without, it writes zeroes, so that there is space for later writes.
    ///
    /// # Errors
    /// As for [`write`](Self::write).
    pub async fn write_zeroes(&self, offset: u64, len: u64, may_unmap: bool) -> Result<(), ImageError> {
        let core = self.0.clone();
        RunToEnd::new(async move { core.write_zeroes(offset, len, may_unmap).await }).await
    }

    /// Waits for all changes that were begun before. They are durable then (unless they failed).
    pub async fn flush(&self) {
        self.0.in_flight.barrier().await;
    }

    /// Tells which parts of `len` bytes at `offset` are holes: read as zeroes, and take no space. At most `max`
    /// extents, which may cover less than was asked for but never nothing (unless that was asked for).
    ///
    /// What is called a hole was one at some time after the call. What is not may be one all the same.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub async fn block_status(&self, offset: u64, len: u64, max: usize) -> Result<Vec<Extent>, ImageError> {
        self.0.block_status(offset, len, max).await
    }

    /// Closes the image, for all its clones: waits for changes under way, gives the exclusive lock up, and stops
    /// watching. Changes fail from now on.
    pub async fn close(&self) {
        let core = self.0.clone();
        RunToEnd::new(async move { open::close(&core).await }).await;
    }
}
