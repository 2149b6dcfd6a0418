//! The state of an open image, kept current, and what happens when other clients call.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use ceph_codec::SnapId;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use rados::{Errno, OpError};
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use super::copyup::CopyUps;
use super::in_flight::{InFlight, Ticket};
use super::open::{Access, Found, check_supported, close, load_map};
use super::options::ImageOptions;
use super::pause::{Paused, Pauses};
use super::timestamps::Timestamps;
use super::write::CLEARS_AT_ONCE;
use crate::cls::ParentSpec;
use crate::header::Header;
use crate::lock::{ExclusiveLock, LockHooks, Mutation};
use crate::object_map::{MapOf, ObjectMap, States};
use crate::operations::{Asked, Served};
use crate::watcher::{AsyncRequestId, ClientId, Maintenance, NotifyOp, WatchHandler, Watcher};
use crate::{
    Config, ConfigOption, Features, Flags, ImageError, Layout, LockError, ObjectMapError, ObjectStore,
    OpenError, config, operations,
};

/// What all handles of an open image share.
pub(crate) struct Core<S: ObjectStore> {
    pub(crate) name: Option<String>,
    new_name: RwLock<Option<String>>,
    pub(crate) id: String,
    pub(crate) header_object: String,
    /// The pool of the header.
    pub(crate) store: S,
    /// The pool of the data objects.
    pub(crate) data: S,
    pub(crate) object_prefix: String,
    pub(crate) layout: Layout,
    pub(crate) snap: SnapId,
    pub(crate) read_only: bool,
    /// The image is treated as if it had no parent.
    pub(super) without_parent: bool,
    /// The parents from the image that a user opened to this one, if it is one of them.
    pub(super) chain: Vec<ParentSpec>,
    view: RwLock<View<S>>,
    freshness: Freshness,
    pub(crate) in_flight: Arc<InFlight>,
    /// Maintenance under way, which no flush waits for.
    pub(crate) maintenance: Arc<InFlight>,
    /// Not for images that are open read-only.
    pub(crate) lock: OnceLock<ExclusiveLock<S>>,
    /// How often the lock has been acquired.
    tenures: AtomicU64,
    pauses: Pauses,
    /// Held by whoever changes the size.
    pub(crate) resizing: tokio::sync::Mutex<()>,
    /// Held by whoever takes or removes a snapshot, rolls back to one, changes features or parts the image from its
    /// parent: each depends on which snapshots and object maps there are. To be had before `resizing` and a pause.
    pub(crate) snapshotting: tokio::sync::Mutex<()>,
    /// The end of the image while it is being made smaller.
    end: AtomicU64,
    /// What other clients have asked this one to do as the lock's owner.
    pub(crate) served: Mutex<Served>,
    /// What this client has asked the lock's owner to do.
    pub(crate) asked: Mutex<Asked>,
    /// Only while the lock is held.
    map: RwLock<Option<ObjectMap<S>>>,
    pub(crate) watcher: Mutex<Option<Watcher<S>>>,
    /// Objects being removed, and by how many discards.
    pub(crate) removing: Mutex<HashMap<u64, u32>>,
    /// The configuration of the client, and what the pool overrides of it.
    config: RwLock<Config>,
    pool_config: BTreeMap<String, String>,
    pub(super) timestamps: Timestamps,
    /// Turns of the requests that clear many objects.
    pub(crate) clears: Semaphore,
    pub(super) copy_ups: CopyUps,
    /// To hand to tasks.
    pub(crate) me: Weak<Self>,
}

/// What was last seen of the image; it belongs together.
pub(super) struct View<S: ObjectStore> {
    pub(super) header: Arc<Header>,
    /// By the header and the configuration.
    options: ImageOptions,
    /// What the live image, or the snapshot that is open, has its missing objects from.
    pub(super) parent: Option<Arc<Core<S>>>,
    /// Only for a snapshot, and only if it is trusted.
    pub(super) snapshot_map: Option<Arc<States>>,
}

/// Counts the updates of the header that were announced and those that were looked at.
#[derive(Default)]
struct Freshness {
    announced: AtomicU64,
    seen: AtomicU64,
    refreshing: tokio::sync::Mutex<()>,
}

impl<S: ObjectStore> Core<S> {
    pub(super) fn new(
        store: S,
        found: Found<S>,
        snap: SnapId,
        access: Access,
    ) -> Result<Arc<Self>, OpenError> {
        let Found { name, id, header_object, header, layout, data } = found;
        let data = data?;
        let (config, pool_config) = (access.config.overridden(&access.pool_config), access.pool_config);
        let options = ImageOptions::of(&config.overridden(&header.config));
        let timestamps = Timestamps::new(header.access_timestamp, header.modify_timestamp);
        Ok(Arc::new_cyclic(|me| Self {
            name,
            new_name: RwLock::default(),
            header_object,
            id,
            store,
            data,
            object_prefix: header.object_prefix.clone(),
            layout,
            snap,
            read_only: access.read_only,
            without_parent: access.without_parent,
            chain: access.chain,
            view: RwLock::new(View { header: Arc::new(header), options, parent: None, snapshot_map: None }),
            freshness: Freshness::default(),
            in_flight: Arc::default(),
            maintenance: Arc::default(),
            lock: OnceLock::new(),
            tenures: AtomicU64::new(0),
            pauses: Pauses::default(),
            resizing: tokio::sync::Mutex::default(),
            snapshotting: tokio::sync::Mutex::default(),
            end: AtomicU64::new(u64::MAX),
            served: Mutex::default(),
            asked: Mutex::default(),
            map: RwLock::new(None),
            watcher: Mutex::new(None),
            removing: Mutex::default(),
            config: RwLock::new(config),
            pool_config,
            timestamps,
            clears: Semaphore::new(CLEARS_AT_ONCE),
            copy_ups: CopyUps::default(),
            me: me.clone(),
        }))
    }

    /// The metadata as last seen.
    pub(crate) fn header(&self) -> Arc<Header> {
        self.view().header.clone()
    }

    /// What was last seen, which must not be held for long.
    pub(super) fn view(&self) -> RwLockReadGuard<'_, View<S>> {
        self.view.read()
    }

    /// The name, unless another client has changed it.
    pub(crate) fn name(&self) -> Option<String> {
        self.new_name.read().clone().or_else(|| self.name.clone())
    }

    /// Notes that the image was renamed.
    pub(crate) fn set_name(&self, name: &str) {
        *self.new_name.write() = Some(name.to_owned());
    }

    /// For messages: the name under which the image was opened.
    pub(crate) fn display_name(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.id)
    }

    /// The object map, if this client keeps it, that is, if it holds the lock.
    pub(crate) fn map(&self) -> Option<ObjectMap<S>> {
        self.map.read().clone()
    }

    /// The object map of a snapshot, as stored; none if it is not to be trusted.
    pub(crate) async fn map_of(&self, snap: SnapId) -> Option<States> {
        load_map(self, &self.header(), snap).await
    }

    /// Size in bytes of what is open, as last seen; none if it was a snapshot that is gone.
    pub(crate) fn size(&self) -> Option<u64> {
        let size = self.view().header.size_at(self.snap)?;
        Some(if self.snap == SnapId::HEAD { size.min(self.end.load(Ordering::Acquire)) } else { size })
    }

    /// Lets the image end earlier, as long as the result lives.
    pub(crate) fn hide_past(&self, end: u64) -> Hidden<'_> {
        self.end.store(end, Ordering::Release);
        Hidden(&self.end)
    }

    /// Checks that a range lies inside of the image.
    pub(crate) fn check_range(&self, offset: u64, len: u64) -> Result<(), ImageError> {
        let size = self.size().ok_or(ImageError::SnapshotGone)?;
        match offset.checked_add(len) {
            Some(end) if end <= size => Ok(()),
            _ => Err(ImageError::OutOfRange { offset, len, size }),
        }
    }

    /// Waits until the metadata are as new as the last announced update.
    pub(crate) async fn ensure_fresh(&self) -> Result<(), ImageError> {
        let freshness = &self.freshness;
        if freshness.seen.load(Ordering::Acquire) == freshness.announced.load(Ordering::Acquire) {
            return Ok(());
        }
        self.refresh().await.map_err(|error| ImageError::Refresh(Box::new(error)))
    }

    /// Notes that the metadata have to be read again.
    pub(crate) fn outdate(&self) {
        self.freshness.announced.fetch_add(1, Ordering::AcqRel);
    }

    /// How many updates of the header were announced.
    pub(super) fn announced(&self) -> u64 {
        self.freshness.announced.load(Ordering::Acquire)
    }

    pub(super) async fn refresh(&self) -> Result<(), OpenError> {
        let freshness = &self.freshness;
        let _one_at_a_time = freshness.refreshing.lock().await;
        let announced = freshness.announced.load(Ordering::Acquire);
        if freshness.seen.load(Ordering::Acquire) == announced {
            return Ok(());
        }
        let failed = |source| OpenError::Op {
            image: self.display_name().to_owned(),
            action: "read the header",
            source,
        };
        let mut unknown = None;
        let (header, parent) = loop {
            let format = self.header().format;
            let header = Header::load_format(&self.store, &self.header_object, format, self.read_only)
                .await
                .map_err(failed)?;
            check_supported(self.display_name(), &header, self.read_only)?;
            match self.parent_of(&header).await {
                Ok(parent) => break (header, parent),
                // The parent may have been given up and removed since the header was read.
                Err(error) if error.errno() == Errno::ENOENT && unknown != header.parent => {
                    unknown = header.parent;
                }
                Err(error) => return Err(error),
            }
        };
        // After the header: when that says that there is no parent any more, the map knows of all that came from it.
        let snapshot_map = self.snapshot_map_of(&header).await;
        let size = header.size_at(self.snap);
        if size != self.size() {
            tracing::info!(image = self.display_name(), ?size, "the image's size has changed");
        }
        debug!(image = self.display_name(), snapc = ?header.snapc, "header refreshed");
        let old = {
            let mut view = self.view.write();
            let options = ImageOptions::of(&self.config.read().overridden(&header.config));
            let new = View { header: Arc::new(header), options, parent: parent.clone(), snapshot_map };
            std::mem::replace(&mut *view, new)
        };
        freshness.seen.store(announced, Ordering::Release);
        if let Some(old) = old.parent
            && parent.is_none_or(|new| !Arc::ptr_eq(&old, &new))
        {
            tokio::spawn(async move { close(&old).await });
        }
        Ok(())
    }

    /// The object map of the snapshot that is open, if it can be trusted.
    async fn snapshot_map_of(&self, header: &Header) -> Option<Arc<States>> {
        if self.snap == SnapId::HEAD {
            return None;
        }
        // A map of no clone does not change; that of a clone does, when its image is written to or flattened.
        if header.parent_overlap_at(self.snap) > 0 {
            // Without watch that would not be noticed.
            self.watcher.lock().as_ref()?;
        } else if let View { snapshot_map: Some(known), parent: None, .. } = &*self.view() {
            return Some(known.clone());
        }
        load_map(self, header, self.snap).await.map(Arc::new)
    }

    /// Gets the right to change contents of the image, and keeps the metadata current. Not to be waited for by
    /// whoever has it, or any other right, already.
    pub(crate) async fn begin_mutation(&self) -> Result<Permit, ImageError> {
        loop {
            let lock = self.acquire().await?;
            let change = self.pauses.enter().await;
            // What the pause was for may have changed the metadata, and given the image a lock.
            self.ensure_fresh().await?;
            if lock.is_some() || !self.has(Features::EXCLUSIVE_LOCK) {
                return Ok(Permit { _change: change, _lock: lock });
            }
        }
    }

    /// Gets the right to maintain the image: nobody else does, as far as there is a lock for that.
    pub(crate) async fn begin_maintenance(&self) -> Result<Right, ImageError> {
        if self.read_only {
            return Err(ImageError::ReadOnly);
        }
        let ticket = self.maintenance.begin().ok_or(ImageError::Closed)?;
        Ok(Right { lock: self.acquire().await?, _ticket: ticket })
    }

    /// As [`begin_maintenance`](Self::begin_maintenance), but none if the lock has not been held all the time since
    /// this was the [`tenure`](Self::tenure).
    pub(crate) async fn go_on_with_maintenance(&self, tenure: u64) -> Result<Option<Right>, ImageError> {
        let ticket = self.maintenance.begin().ok_or(ImageError::Closed)?;
        let Some(lock) = self.lock.get().and_then(ExclusiveLock::try_begin) else { return Ok(None) };
        if self.tenure() != tenure {
            return Ok(None);
        }
        self.ensure_fresh().await?;
        Ok(Some(Right { lock: Some(lock), _ticket: ticket }))
    }

    /// As [`begin_maintenance`](Self::begin_maintenance), of what needs no lock.
    pub(crate) async fn begin_lockless_maintenance(&self) -> Result<Right, ImageError> {
        if self.read_only {
            return Err(ImageError::ReadOnly);
        }
        let ticket = self.maintenance.begin().ok_or(ImageError::Closed)?;
        self.ensure_fresh().await?;
        Ok(Right { lock: None, _ticket: ticket })
    }

    /// Which time it is that this client has the lock, or had it last.
    pub(crate) fn tenure(&self) -> u64 {
        self.tenures.load(Ordering::Acquire)
    }

    /// Counts a change of contents as part of maintenance.
    pub(crate) async fn begin_change(&self, _right: &Right) -> Result<Mutation, ImageError> {
        let change = self.pauses.enter().await;
        self.ensure_fresh().await?;
        Ok(change)
    }

    /// Holds all changes of contents back, when those under way are over.
    pub(crate) async fn pause(&self, _right: &Right) -> Paused<'_> {
        self.pauses.pause().await
    }

    /// Gets the lock, if there is one, and current metadata.
    async fn acquire(&self) -> Result<Option<Mutation>, ImageError> {
        loop {
            self.ensure_fresh().await?;
            let Some(lock) = self.lock.get().filter(|_| self.has(Features::EXCLUSIVE_LOCK)) else {
                return Ok(None);
            };
            if let Some(mutation) = lock.try_begin() {
                return Ok(Some(mutation));
            }
            match lock.begin().await {
                Ok(mutation) => {
                    self.ensure_fresh().await?;
                    return Ok(Some(mutation));
                }
                // Not because the image is closed, but for a change of its features.
                Err(LockError::GivenUp) if self.maintenance.begin().is_some() => {}
                Err(error) => return Err(ImageError::Lock(error)),
            }
        }
    }

    pub(crate) fn has(&self, feature: Features) -> bool {
        self.view().header.features.contains(feature)
    }

    /// What the configuration says about the image.
    pub(crate) fn options(&self) -> ImageOptions {
        self.view().options
    }

    /// The configuration of the client with what the pool overrides of it.
    pub(super) fn config(&self) -> Config {
        self.config.read().clone()
    }

    /// Replaces the configuration of the client.
    pub(super) fn set_config(&self, config: &Config) {
        *self.config.write() = config.overridden(&self.pool_config);
        let mut view = self.view.write();
        view.options = ImageOptions::of(&self.config.read().overridden(&view.header.config));
    }

    /// What the pool and the image override of the configuration, without effect here.
    pub(super) fn ignored_options(&self) -> Vec<ConfigOption> {
        let header = self.header();
        config::ignored(&self.config(), &self.pool_config, &header.config)
    }

    /// How many steps of maintenance go on at the same time. Ceph: `rbd_concurrent_management_ops`.
    pub(crate) fn management_ops(&self) -> usize {
        self.options().management_ops
    }

    /// The error of an operation on an object. Being blocklisted ends the lock.
    pub(crate) fn failed(&self, object: String, source: OpError) -> ImageError {
        if source.ends_the_instance()
            && let Some(lock) = self.lock.get()
        {
            lock.blocklisted();
        }
        ImageError::Op { object, source }
    }
}

/// The part of an image past an end is not there, as long as it lives.
pub(crate) struct Hidden<'a>(&'a AtomicU64);

impl Drop for Hidden<'_> {
    fn drop(&mut self) {
        self.0.store(u64::MAX, Ordering::Release);
    }
}

/// The right to change contents of an image, as long as it lives.
#[derive(Debug)]
pub(crate) struct Permit {
    // In this order: what waits for the end of changes has the lock.
    _change: Mutation,
    _lock: Option<Mutation>,
}

/// The right to maintain an image, as long as it lives.
#[derive(Debug)]
pub(crate) struct Right {
    lock: Option<Mutation>,
    _ticket: Ticket,
}

impl Right {
    /// Whether it comes with the exclusive lock.
    pub(crate) fn has_lock(&self) -> bool {
        self.lock.is_some()
    }
}

impl<S: ObjectStore> LockHooks for Core<S> {
    async fn acquired(&self) -> Result<(), LockError> {
        self.tenures.fetch_add(1, Ordering::AcqRel);
        // The last owner may have changed anything.
        self.outdate();
        self.refresh().await.map_err(|error| LockError::Prepare(Arc::new(error)))?;
        self.open_map().await.map_err(|error| LockError::Prepare(Arc::new(error)))
    }

    async fn releasing(&self) {
        let map = self.map.write().take();
        if let Some(map) = map {
            map.close().await;
        }
    }
}

impl<S: ObjectStore> Core<S> {
    /// Opens the object map, if the image has one. This client must have the lock.
    async fn open_map(&self) -> Result<(), ObjectMapError> {
        let header = self.header();
        if !header.features.contains(Features::OBJECT_MAP) {
            return Ok(());
        }
        let of = MapOf {
            image_id: self.id.clone(),
            header_object: self.header_object.clone(),
            snap: SnapId::HEAD,
            objects: self.layout.object_count(header.size),
            invalid: header.flags.contains(Flags::OBJECT_MAP_INVALID),
            fast_diff: header.features.contains(Features::FAST_DIFF),
        };
        match ObjectMap::load(self.store.clone(), of).await {
            Ok(map) => *self.map.write() = Some(map),
            Err(error @ ObjectMapError::TooLarge { .. }) => {
                warn!(image = self.display_name(), %error, "going on without object map");
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Opens the object map again after the image's features were changed.
    pub(crate) async fn reopen_map(&self, right: &Right, _paused: &Paused<'_>) -> Result<(), ObjectMapError> {
        if !right.has_lock() {
            return Ok(());
        }
        self.releasing().await;
        self.open_map().await
    }

    /// Closes the object map, whose object is about to be removed.
    pub(crate) async fn abandon_map(&self, _paused: &Paused<'_>) {
        let map = self.map.write().take();
        if let Some(map) = map {
            map.abandon().await;
        }
    }
}

impl<S: ObjectStore> WatchHandler for Core<S> {
    fn header_updated(&self) {
        self.outdate();
        let Some(core) = self.me.upgrade() else { return };
        // The next request would do it, but there may be none for long, and the size is shown to users.
        tokio::spawn(async move {
            if let Err(error) = core.ensure_fresh().await {
                warn!(image = core.display_name(), %error, "will try again with the next request");
            }
        });
    }

    fn lock_acquired(&self, client: ClientId) {
        self.asked.lock().acquired_by(client);
        if let Some(lock) = self.lock.get() {
            lock.acquired_by(client);
        }
    }

    fn lock_released(&self, client: ClientId) {
        self.asked.lock().released_by(client);
        if let Some(lock) = self.lock.get() {
            lock.released_by(client);
        }
    }

    fn lock_requested(&self, client: ClientId, _force: bool) -> Option<i32> {
        self.lock.get()?.requested(client)
    }

    fn maintenance_requested(&self, id: Option<AsyncRequestId>, request: Maintenance) -> Option<i32> {
        operations::serve(&self.me.upgrade()?, id, request)
    }

    fn unknown_requested(&self, op: NotifyOp) -> Option<i32> {
        self.lock.get()?.refuse_maintenance(op)
    }

    fn request_progressed(&self, id: AsyncRequestId, done: u64, total: u64) {
        self.asked.lock().progressed(id, done, total);
    }

    fn request_completed(&self, id: AsyncRequestId, result: i32) {
        self.asked.lock().completed(id, result);
        if let Some(lock) = self.lock.get() {
            lock.peer_worked(result != operations::RESTART);
        }
    }

    fn watch_registered(&self, cookie: u64) {
        // What was announced while there was no watch was not heard.
        self.asked.lock().restart_all();
        if let Some(lock) = self.lock.get() {
            lock.watch_registered(cookie);
        }
    }

    fn watch_lost(&self) {
        if let Some(lock) = self.lock.get() {
            lock.watch_lost();
        }
    }

    fn blocklisted(&self) {
        if let Some(lock) = self.lock.get() {
            lock.blocklisted();
        }
    }
}
