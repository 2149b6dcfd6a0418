//! Opening: finding the image, refusing what cannot be served correctly, taking up contact with other clients.

use std::collections::BTreeMap;
use std::sync::Arc;

use ceph_codec::{Decode, SnapId};
use rados::{Errno, OpError, Operation};
use tracing::{debug, warn};

use super::core::Core;
use super::{ImageRef, OpenOptions, SnapshotRef, info};
use crate::cls::ParentSpec;
use crate::header::Header;
use crate::lock::{ExclusiveLock, LockOptions, bar_the_dead};
use crate::object_map::{self, States};
use crate::watcher::Watcher;
use crate::{Config, Features, Flags, Layout, ObjectStore, OpenError, config, directory, header, names};

/// Features without which an image cannot even be read.
const FORBID_READING: Features = Features(Features::MIGRATING.0 | Features::DIRTY_CACHE.0);
/// Features that forbid writing.
const FORBID_WRITING: Features = Features(Features::JOURNALING.0 | Features::NON_PRIMARY.0);

/// An image that was found, with its metadata.
pub(super) struct Found<S> {
    pub(super) name: Option<String>,
    /// Empty for an image of format 1.
    pub(super) id: String,
    pub(super) header_object: String,
    pub(super) header: Header,
    pub(super) layout: Layout,
    /// The pool of its data objects; the error if that is gone.
    pub(super) data: Result<S, OpenError>,
}

/// Finds an image and reads its metadata.
pub(super) async fn find<S: ObjectStore>(
    store: &S,
    image: &ImageRef,
    read_only: bool,
) -> Result<Found<S>, OpenError> {
    let shown = image.as_str();
    let failed =
        |action: &'static str| move |source| OpenError::Op { image: shown.to_owned(), action, source };
    let Place { id, header_object, format } = locate(store, image).await?;
    if format == 1 && !read_only {
        return Err(OpenError::FormatV1 { image: shown.to_owned() });
    }
    let name = match image {
        ImageRef::Name(name) => Some(name.clone()),
        ImageRef::Id(id) => {
            directory::name_of(store, id).await.map_err(failed("look up the name"))?.map(|(name, _)| name)
        }
    };
    let header = match Header::load_format(store, &header_object, format, read_only).await {
        Err(error) if error.is(Errno::ENOENT) => return Err(OpenError::NoImage { image: shown.to_owned() }),
        header => header.map_err(failed("read the header"))?,
    };
    if !header.snapc.is_valid() {
        return Err(OpenError::SnapContext { image: shown.to_owned() });
    }
    let (unit, count) = header.striping.unwrap_or((1, 1));
    let layout = Layout::new(header.order, unit, count)
        .map_err(|source| OpenError::Layout { image: shown.to_owned(), source })?;
    let data = match header.data_pool {
        None => Ok(store.clone()),
        Some(pool) => store
            .with_pool(pool, store.namespace())
            .map_err(|_| OpenError::NoDataPool { image: shown.to_owned(), pool }),
    };
    Ok(Found { name, id, header_object, header, layout, data })
}

/// Where the metadata of an image are.
struct Place {
    id: String,
    header_object: String,
    format: u8,
}

async fn locate<S: ObjectStore>(store: &S, image: &ImageRef) -> Result<Place, OpenError> {
    let of_id = |id: String| Place { header_object: names::header_object(&id), id, format: 2 };
    let name = match image {
        ImageRef::Id(id) => return Ok(of_id(id.clone())),
        ImageRef::Name(name) => name,
    };
    let failed = |source| OpenError::Op { image: name.clone(), action: "look up the id", source };
    match directory::id_of(store, name).await {
        Err(error) if error.is(Errno::ENOENT) => {}
        id => return id.map(of_id).map_err(failed),
    }
    let header_object = names::v1_header_object(name);
    if header::exists(store, &header_object).await.map_err(failed)? {
        return Ok(Place { id: String::new(), header_object, format: 1 });
    }
    Err(OpenError::NoImage { image: name.clone() })
}

/// The object that holds an image's metadata, and its locks.
pub(crate) async fn header_object<S: ObjectStore>(store: &S, image: &ImageRef) -> Result<String, OpenError> {
    let object = locate(store, image).await?.header_object;
    match header::exists(store, &object).await {
        Ok(true) => Ok(object),
        Ok(false) => Err(OpenError::NoImage { image: image.as_str().to_owned() }),
        Err(source) => {
            Err(OpenError::Op { image: image.as_str().to_owned(), action: "look up the header", source })
        }
    }
}

/// The number of the snapshot that is meant.
pub(super) fn find_snapshot(
    image: &str,
    header: &Header,
    snapshot: Option<&SnapshotRef>,
) -> Result<SnapId, OpenError> {
    let (found, shown) = match snapshot {
        None => return Ok(SnapId::HEAD),
        Some(SnapshotRef::Name(name)) => (header.snapshot_named(name), name.clone()),
        Some(SnapshotRef::Id(id)) => (header.snapshot(*id), id.to_string()),
    };
    found
        .map(|snapshot| snapshot.id)
        .ok_or_else(|| OpenError::NoSnapshot { image: image.to_owned(), snapshot: shown })
}

/// Refuses what cannot be read, or written, correctly.
///
/// Ceph: the checks of `RefreshRequest` in `src/librbd/image/RefreshRequest.cc`.
pub(super) fn check_supported(image: &str, header: &Header, read_only: bool) -> Result<(), OpenError> {
    let refuse = |features: Features, read_only| {
        if features.is_empty() {
            return Ok(());
        }
        Err(OpenError::Feature { image: image.to_owned(), features, read_only })
    };
    refuse(header.incompatible.without(Features::KNOWN), read_only)?;
    refuse(header.features.common(FORBID_READING), true)?;
    if !read_only {
        refuse(header.features.common(FORBID_WRITING), false)?;
    }
    Ok(())
}

pub(super) async fn open<S: ObjectStore>(store: S, options: OpenOptions) -> Result<Arc<Core<S>>, OpenError> {
    let read_only = options.read_only || options.snapshot.is_some();
    let shown = options.image.as_str();
    let found = find(&store, &options.image, read_only).await?;
    let snap = find_snapshot(shown, &found.header, options.snapshot.as_ref())?;
    let OpenOptions { without_parent, lock, config, .. } = options;
    let (config, pool_config) = match config {
        Some(config) => (config, config::pool_overrides_or_none(&store).await),
        None => (Config::default(), BTreeMap::new()),
    };
    let access = Access { read_only, without_parent, chain: Vec::new(), lock, config, pool_config };
    open_found(store, found, snap, access).await
}

/// How an image is opened.
pub(super) struct Access {
    pub(super) read_only: bool,
    pub(super) without_parent: bool,
    /// The parents from the image that a user opened to this one, if it is one of them.
    pub(super) chain: Vec<ParentSpec>,
    pub(super) lock: LockOptions,
    /// The configuration of the client, and what the pool overrides of it.
    pub(super) config: Config,
    pub(super) pool_config: BTreeMap<String, String>,
}

/// Opens an image that was found, at a snapshot.
pub(super) async fn open_found<S: ObjectStore>(
    store: S,
    found: Found<S>,
    snap: SnapId,
    access: Access,
) -> Result<Arc<Core<S>>, OpenError> {
    let (read_only, lock) = (access.read_only, access.lock.clone());
    let LockOptions { exclusive, predecessors } = lock.clone();
    check_supported(found.name.as_deref().unwrap_or(&found.id), &found.header, read_only)?;
    let core = Core::new(store, found, snap, access)?;
    if !read_only {
        let lock = ExclusiveLock::new(core.store.clone(), core.header_object.clone(), lock, &core);
        assert!(core.lock.set(lock).is_ok(), "nobody else has seen the image yet");
    }
    let opened = async {
        watch(&core).await?;
        if let Some(predecessors) = predecessors {
            let watchers = info::watchers(&core.store, &core.header_object).await;
            bar_the_dead(&core.store, &*predecessors, watchers).await;
        }
        // Something may have changed between reading the header and watching it.
        core.outdate();
        core.refresh().await?;
        if exclusive { lock_at_once(&core).await } else { Ok(()) }
    };
    match opened.await {
        Ok(()) => Ok(core),
        Err(error) => {
            close(&core).await;
            Err(error)
        }
    }
}

/// Starts to listen to other clients. Who may only read may not watch, and goes without.
async fn watch<S: ObjectStore>(core: &Arc<Core<S>>) -> Result<(), OpenError> {
    let image = core.display_name();
    match Watcher::register(core.store.clone(), core.header_object.clone(), core).await {
        Ok(watcher) => {
            if let Some(lock) = core.lock.get() {
                lock.watch_registered(watcher.cookie());
            }
            *core.watcher.lock() = Some(watcher);
            Ok(())
        }
        Err(error) if core.read_only && (error.is(Errno::EPERM) || error.is(Errno::EACCES)) => {
            debug!(image, %error, "cannot watch the header, changes will not be noticed");
            Ok(())
        }
        Err(source) => Err(OpenError::Op { image: image.to_owned(), action: "watch the header", source }),
    }
}

/// Takes the exclusive lock before there is anything to write.
async fn lock_at_once<S: ObjectStore>(core: &Core<S>) -> Result<(), OpenError> {
    let image = || core.display_name().to_owned();
    let Some(lock) = core.lock.get().filter(|_| core.has(Features::EXCLUSIVE_LOCK)) else {
        return Err(OpenError::NoExclusiveLock { image: image() });
    };
    lock.begin().await.map(drop).map_err(|source| OpenError::Lock { image: image(), source })
}

/// Reads an object map, without any effect on it. None if it is not to be trusted.
///
/// It may be read without holding the lock: its owner marks an object before creating it. But the flags have to
/// be read after the map: they are set before an object is created that the map does not know of.
pub(super) async fn load_map<S: ObjectStore>(
    core: &Core<S>,
    header: &Header,
    snap: SnapId,
) -> Option<States> {
    if !header.features.contains(Features::OBJECT_MAP) {
        return None;
    }
    let load = async {
        let object = object_map::object_name(&core.id, snap);
        let operation = Operation::new().call("rbd", "object_map_load", bytes::Bytes::new());
        let reply = core.store.read(&object, operation, SnapId::HEAD).await?;
        let map = States::decode_from(&reply.data(0))?;
        let flags = directory::call(&core.store, &core.header_object, crate::cls::get_flags(snap)).await?;
        Ok::<_, OpError>((map, flags))
    };
    match load.await {
        Ok((map, flags)) => (!flags.contains(Flags::OBJECT_MAP_INVALID)).then_some(map),
        Err(error) => {
            warn!(image = core.display_name(), %error, "cannot read the object map, going without");
            None
        }
    }
}

/// Ends what was begun: all changes, then the lock, then the watch that proves that its owner is alive; and closes the
/// parents. Reading goes on to work.
pub(super) async fn close<S: ObjectStore>(core: &Core<S>) {
    close_one(core).await;
    let mut next = core.parent();
    while let Some(parent) = next {
        close_one(&parent.core).await;
        next = parent.core.parent();
    }
}

async fn close_one<S: ObjectStore>(core: &Core<S>) {
    core.in_flight.close();
    core.maintenance.close();
    core.in_flight.barrier().await;
    core.maintenance.barrier().await;
    if let Some(lock) = core.lock.get()
        && let Err(error) = lock.release().await
    {
        warn!(image = core.display_name(), %error, "could not give the exclusive lock up");
    }
    let watcher = core.watcher.lock().take();
    if let Some(watcher) = watcher
        && let Err(error) = watcher.unregister().await
    {
        debug!(image = core.display_name(), %error, "could not end the watch");
    }
}
