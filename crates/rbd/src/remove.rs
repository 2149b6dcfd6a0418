//! Removing images.
//!
//! An image goes through the trash, so that a removal that was interrupted has an entry there to go on with; and what
//! goes first is what could not be found without the rest:
//!
//! ```text
//! rbd_trash        id -> name, removing     1, and removed as 6
//! rbd_id.NAME, rbd_directory                2
//! rbd_data.ID.*    those that may exist     3, under the exclusive lock
//! the parent       forgets its child        4
//! rbd_header.ID, rbd_object_map.ID          5
//! ```
//! Ceph: `Image<I>::remove()` in `src/librbd/api/Image.cc`, `src/librbd/image/PreRemoveRequest.cc`,
//! `src/librbd/image/RemoveRequest.cc`.

mod error;

use ceph_codec::SnapId;
use futures::{StreamExt, TryStreamExt};
use rados::{Errno, ObjectWatcher, OpError, Operation};
use tracing::{debug, warn};

use crate::children::{detach_child, list_children, remove_trashed_snapshot};
use crate::cls;
use crate::directory::{self, change};
use crate::header::{self, Header};
use crate::image::core::Core;
use crate::names::{self, DIRECTORY, MIRRORING};
use crate::object_map::{self, ObjectState};
use crate::operations::{check_op_features, failed};
use crate::trash::{self, TrashSource, TrashState};
use crate::{
    Config, Features, Image, ImageError, ImageRef, ObjectStore, OpenError, OpenOptions, OperationError,
    Progress, SnapshotNamespace,
};
pub use error::RemoveError;

/// What is going to be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// The image's name; that which it had, if it is in the trash.
    pub name: String,
    /// Its id.
    pub id: String,
    /// Its size in bytes; none if it has no header any more.
    pub size: Option<u64>,
}

/// Whether an image can be removed, without doing it. It is not locked either: it may change until it is removed.
///
/// # Errors
/// As [`remove_image`].
pub async fn check_remove_image<S: ObjectStore>(store: &S, name: &str) -> Result<Removal, OperationError> {
    let id = match find(store, name).await? {
        Found::Image(id) | Found::Rest(id) => id,
    };
    check(store, name, &id).await
}

/// Removes an image with all that belongs to it. The progress is in objects.
///
/// A removal that was interrupted can be repeated: what is left of an image counts as one.
///
/// # Errors
/// [`RemoveError`] in [`OperationError::Remove`] if the image must not be removed; [`OpenError::NoImage`] and
/// [`OpenError::FormatV1`] in [`OperationError::Open`]; else what the cluster reports.
///
/// Ceph: `Image<I>::remove()`.
pub async fn remove_image<S: ObjectStore>(
    store: &S,
    config: &Config,
    name: &str,
    progress: &dyn Progress,
) -> Result<(), OperationError> {
    let id = match find(store, name).await? {
        Found::Image(id) => id,
        Found::Rest(id) => {
            let entry = trash::entry(store, &id).await.map_err(failed("look into the trash"))?;
            if let Some(entry) = entry
                && entry.state == TrashState::Moving
            {
                trash::take_name(store, &entry).await?;
            }
            return remove_entry(store, name, &id, None, progress).await;
        }
    };
    let config = config.of_pool(store).await;
    if config.is_set("rbd_move_to_trash_on_remove") {
        let delay = config.number("rbd_move_to_trash_on_remove_expire_seconds");
        trash::move_image(store, name, &id, TrashSource::User, delay).await?;
        return Ok(());
    }
    let held = match hold(store, &id, name).await {
        Err(OperationError::Remove(RemoveError::Children { .. }))
            if config.is_set("rbd_move_parent_to_trash_on_remove") =>
        {
            trash::move_image(store, name, &id, TrashSource::UserParent, 0).await?;
            return Ok(());
        }
        held => held?,
    };
    if let Err(error) = trash::add(store, name, &id, TrashSource::Removing, 0).await {
        release(held).await;
        return Err(error);
    }
    let removed = remove_entry(store, name, &id, held, progress).await;
    if let Err(error) = &removed
        && matches!(error, OperationError::Remove(_))
    {
        // It has its name back as if nothing had happened.
        if let Err(error) = trash::restore(store, &id, Some(name), &[TrashSource::Removing]).await {
            warn!(image = name, id, %error, "the image stays in the trash");
        }
    }
    removed
}

enum Found {
    Image(String),
    /// In the trash, because its removal was interrupted.
    Rest(String),
}

async fn find<S: ObjectStore>(store: &S, name: &str) -> Result<Found, OperationError> {
    let doing = "look up the image's id";
    match directory::call(store, DIRECTORY, cls::dir_get_id(name)).await {
        Err(error) if error.is(Errno::ENOENT) => {}
        id => return Ok(Found::Image(id.map_err(failed(doing))?)),
    }
    let rest = |entry: &trash::TrashEntry| entry.name == name && entry.source == TrashSource::Removing;
    if let Some(entry) = trash::list_trash(store).await?.into_iter().find(rest) {
        return Ok(Found::Rest(entry.id));
    }
    let image = name.to_owned();
    if header::exists(store, &names::v1_header_object(name)).await.map_err(failed(doing))? {
        return Err(OpenError::FormatV1 { image }.into());
    }
    Err(OpenError::NoImage { image }.into())
}

/// Removes the image of an entry of the trash, then the entry. Where it may not be removed the entry is as before.
/// `shown` is what the user calls the image.
///
/// Ceph: `src/librbd/trash/RemoveRequest.cc`.
pub(crate) async fn remove_entry<S: ObjectStore>(
    store: &S,
    shown: &str,
    id: &str,
    held: Option<Image<S>>,
    progress: &dyn Progress,
) -> Result<(), OperationError> {
    if let Err(error) = trash::set_state(store, id, TrashState::Removing, TrashState::Normal).await {
        release(held).await;
        return Err(error);
    }
    let held = match held {
        // Who opened it by its name while it had one is seen now.
        Some(image) => match still_unneeded(store, shown, id, &image).await {
            Ok(()) => Ok(Some(image)),
            Err(error) => {
                image.close().await;
                Err(error)
            }
        },
        None => hold(store, id, shown).await,
    };
    let removed = match held {
        Ok(held) => destroy(store, id, held, progress).await,
        Err(error) => Err(error),
    };
    if removed.is_err() {
        if let Err(error) = trash::set_state(store, id, TrashState::Normal, TrashState::Removing).await {
            warn!(id, %error, "the image's entry in the trash says that it is being removed");
        }
        return removed;
    }
    trash::forget(store, id).await;
    Ok(())
}

/// Looks whether an image can be removed, without locking it.
pub(crate) async fn check<S: ObjectStore>(
    store: &S,
    name: &str,
    id: &str,
) -> Result<Removal, OperationError> {
    let header = check_header(store, name, id).await?;
    Ok(Removal { name: name.to_owned(), id: id.to_owned(), size: header.map(|header| header.size) })
}

async fn check_header<S: ObjectStore>(
    store: &S,
    name: &str,
    id: &str,
) -> Result<Option<Header>, OperationError> {
    let header = match Header::load(store, &names::header_object(id), true).await {
        Err(error) if error.is(Errno::ENOENT) => return Ok(None),
        header => header.map_err(failed("read the image's header"))?,
    };
    let forbidden = header.features.common(Features(Features::JOURNALING.0 | Features::NON_PRIMARY.0));
    if !forbidden.is_empty() {
        let (image, features) = (name.to_owned(), forbidden);
        return Err(OpenError::Feature { image, features, read_only: false }.into());
    }
    refuse(store, name, id, &header).await?;
    Ok(Some(header))
}

/// Opens and locks an image that is about to be removed, so that nobody else gets the lock any more; none if it has no
/// header (any more).
///
/// Ceph: `src/librbd/image/PreRemoveRequest.cc`.
async fn hold<S: ObjectStore>(store: &S, id: &str, shown: &str) -> Result<Option<Image<S>>, OperationError> {
    // Who uses the image is not to be disturbed by a removal that will be refused.
    let Some(header) = check_header(store, shown, id).await? else { return Ok(None) };
    let Some(image) = open_alone(store, id, shown, &header).await? else { return Ok(None) };
    let ready = match refuse(store, shown, id, &image.0.header()).await {
        Ok(()) => remove_trashed_snapshots(&image).await,
        refused => refused,
    };
    if let Err(error) = ready {
        image.close().await;
        return Err(error);
    }
    Ok(Some(image))
}

/// Opens an image without its parent, with the exclusive lock for this client alone; none if it has no header any more.
pub(crate) async fn open_alone<S: ObjectStore>(
    store: &S,
    id: &str,
    shown: &str,
    header: &Header,
) -> Result<Option<Image<S>>, OperationError> {
    let mut options = OpenOptions::new(ImageRef::Id(id.to_owned())).without_parent();
    if header.features.contains(Features::EXCLUSIVE_LOCK) {
        options = options.exclusive();
    }
    match Image::open(store.clone(), options).await {
        Err(OpenError::NoImage { .. }) => Ok(None),
        Err(OpenError::Lock { source, .. }) => {
            Err(RemoveError::NoLock { image: shown.to_owned(), source }.into())
        }
        image => Ok(Some(image?)),
    }
}

async fn still_unneeded<S: ObjectStore>(
    store: &S,
    shown: &str,
    id: &str,
    image: &Image<S>,
) -> Result<(), OperationError> {
    image.refresh().await?;
    refuse(store, shown, id, &image.0.header()).await
}

async fn release<S: ObjectStore>(image: Option<Image<S>>) {
    if let Some(image) = image {
        image.close().await;
    }
}

/// Refuses to remove what somebody still needs.
async fn refuse<S: ObjectStore>(
    store: &S,
    name: &str,
    id: &str,
    header: &Header,
) -> Result<(), OperationError> {
    let image = || name.to_owned();
    check_op_features(name, header)?;
    if header.features.contains(Features::MIGRATING) {
        return Err(RemoveError::Migrating { image: image() }.into());
    }
    let kept = header.snapshots.iter().filter(|s| !matches!(s.namespace, SnapshotNamespace::Trash { .. }));
    let snapshots: Vec<_> = kept.map(|snapshot| snapshot.name.clone()).collect();
    if !snapshots.is_empty() {
        return Err(RemoveError::Snapshots { image: image(), snapshots }.into());
    }
    let watchers = other_watchers(store, id).await.map_err(failed("list who has the image open"))?;
    if !watchers.is_empty() {
        return Err(RemoveError::Watched { image: image(), watchers }.into());
    }
    if let Some(group) = &header.group {
        let (image, group) = (image(), group_name(store, group).await);
        return Err(RemoveError::InGroup { image, group }.into());
    }
    refuse_mirrored(store, name, id).await?;
    if header.snapshots.iter().any(|snapshot| snapshot.child_count > 0) {
        let children = list_children(store, &ImageRef::Id(id.to_owned()), None, false).await?;
        let children = children.iter().map(ToString::to_string).collect();
        return Err(RemoveError::Children { image: image(), children }.into());
    }
    Ok(())
}

/// Refuses what rbd-mirror would have to know of.
pub(crate) async fn refuse_mirrored<S: ObjectStore>(
    store: &S,
    name: &str,
    id: &str,
) -> Result<(), OperationError> {
    match directory::call(store, MIRRORING, cls::mirror_image_get(id)).await {
        Ok(_) => Err(RemoveError::Mirrored { image: name.to_owned() }.into()),
        Err(error) if error.is(Errno::ENOENT) || error.is(Errno::EOPNOTSUPP) => Ok(()),
        Err(error) => Err(failed("look whether the image is mirrored")(error)),
    }
}

/// Those who watch the header, but for this client instance.
async fn other_watchers<S: ObjectStore>(store: &S, id: &str) -> Result<Vec<ObjectWatcher>, OpError> {
    let (me, _) = store.identity();
    let reply = store.read(&names::header_object(id), Operation::new().list_watchers(), SnapId::HEAD).await?;
    let mut watchers = reply.outcome(0)?.watchers()?;
    watchers.retain(|watcher| u64::try_from(watcher.name.num) != Ok(me.0));
    Ok(watchers)
}

async fn group_name<S: ObjectStore>(store: &S, group: &cls::GroupSpec) -> String {
    let name = async {
        let store = store.with_pool(group.pool, store.namespace())?;
        let name = directory::call(&store, "rbd_group_directory", cls::dir_get_name(&group.id)).await?;
        Ok::<_, OpError>(format!("{}/{name}", store.pool_name()))
    };
    name.await.unwrap_or_else(|_| group.id.clone())
}

/// Snapshots in the trash that have lost their last clone, and were not removed with it.
async fn remove_trashed_snapshots<S: ObjectStore>(image: &Image<S>) -> Result<(), OperationError> {
    for snapshot in image.snapshots() {
        remove_trashed_snapshot(image, &snapshot).await?;
    }
    Ok(())
}

/// Removes an image without name that nobody needs.
///
/// Ceph: `src/librbd/image/RemoveRequest.cc`.
async fn destroy<S: ObjectStore>(
    store: &S,
    id: &str,
    held: Option<Image<S>>,
    progress: &dyn Progress,
) -> Result<(), OperationError> {
    if let Some(held) = held {
        let core = &held.0;
        let emptied = async {
            remove_objects(core, progress).await?;
            detach_child(store, &core.header(), id).await
        };
        let emptied = emptied.await;
        release(Some(held)).await;
        emptied?;
    }
    directory::remove(store, &names::header_object(id)).await.map_err(failed("remove the header"))?;
    let map = object_map::object_name(id, SnapId::HEAD);
    directory::remove(store, &map).await.map_err(failed("remove the object map"))?;
    match change(store, MIRRORING, cls::create::mirror_image_remove(Operation::new(), id)).await {
        Err(error) if error.is(Errno::ENOENT) || error.is(Errno::EOPNOTSUPP) => {}
        result => result.map_err(failed("end the mirroring of the image"))?,
    }
    debug!(id, "image removed");
    Ok(())
}

/// Removes the data objects, but for those that do not exist by the object map.
///
/// Ceph: `src/librbd/operation/TrimRequest.cc`.
async fn remove_objects<S: ObjectStore>(
    core: &Core<S>,
    progress: &dyn Progress,
) -> Result<(), OperationError> {
    let header = core.header();
    let objects = core.layout.object_count(header.size);
    let _right = core.begin_mutation().await?;
    let map = core.map();
    let no_map = |error| OperationError::Image(ImageError::ObjectMap(error));
    if let Some(map) = &map {
        map.update(0..objects, ObjectState::Pending, Some(ObjectState::Exists)).await.map_err(no_map)?;
    }
    let exists = |object: &u64| map.as_ref().is_none_or(|map| map.may_exist(*object));
    let remove = |object| async move {
        let name = names::data_object(&core.object_prefix, object);
        let operation = Operation::new().delete().full_try();
        match core.data.write(&name, operation, &core.header().snapc).await {
            Err(error) if !error.is(Errno::ENOENT) => Err(core.failed(name, error)),
            _ => Ok(object),
        }
    };
    progress.update(0, objects);
    let mut removals =
        futures::stream::iter((0..objects).filter(exists).map(remove)).buffered(core.management_ops());
    while let Some(object) = removals.try_next().await? {
        progress.update(object + 1, objects);
    }
    drop(removals);
    if let Some(map) = &map {
        map.update(0..objects, ObjectState::Nonexistent, Some(ObjectState::Pending)).await.map_err(no_map)?;
    }
    progress.update(objects, objects);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ceph_codec::Encode;
    use futures::FutureExt;

    use crate::{
        CloneOptions, CreateOptions, MemStore, SnapshotFlags, SnapshotRef, clone_image, create_image,
        list_images, list_trash,
    };

    const CONFIG: fn() -> Config = Config::default;

    /// An image of 40 MiB with two of its objects.
    async fn image(store: &MemStore) -> String {
        let id = create_image(store, &CONFIG(), "disk", 40 << 20, &CreateOptions::default()).await.unwrap();
        let image = Image::open(store.connect(), OpenOptions::image("disk")).await.unwrap();
        image.write(0, "a".into()).await.unwrap();
        image.write(39 << 20, "b".into()).await.unwrap();
        image.close().await;
        id
    }

    /// What a pool has when all images are gone.
    const POOL: [&str; 3] = ["rbd_directory", "rbd_info", "rbd_trash"];

    #[tokio::test]
    async fn an_image_that_is_removed_leaves_nothing() {
        let store = MemStore::new();
        let id = image(&store).await;
        let removal = check_remove_image(&store, "disk").await.unwrap();
        assert_eq!(removal, Removal { name: "disk".into(), id, size: Some(40 << 20) });
        remove_image(&store, &CONFIG(), "disk", &()).await.unwrap();
        assert_eq!(store.objects(), POOL);
        assert_eq!(
            (list_images(&store).await.unwrap().len(), list_trash(&store).await.unwrap().len()),
            (0, 0)
        );
        let error = remove_image(&store, &CONFIG(), "disk", &()).await.unwrap_err();
        assert!(matches!(error, OperationError::Open(OpenError::NoImage { .. })), "{error}");
    }

    #[tokio::test]
    async fn only_objects_that_exist_by_the_map_are_removed() {
        let store = MemStore::new();
        image(&store).await;
        let deletions = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
        let counter = deletions.clone();
        store.set_fault(move |object, _| {
            counter
                .fetch_add(u32::from(object.starts_with("rbd_data")), std::sync::atomic::Ordering::Relaxed);
            None
        });
        remove_image(&store, &CONFIG(), "disk", &()).await.unwrap();
        assert_eq!(deletions.load(std::sync::atomic::Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn an_image_that_is_open_elsewhere_stays_and_says_where() {
        let store = MemStore::new();
        image(&store).await;
        let objects = store.objects();
        let user = store.connect();
        let open = Image::open(user.clone(), OpenOptions::image("disk")).await.unwrap();
        let error = remove_image(&store, &CONFIG(), "disk", &()).await.unwrap_err();
        assert_eq!(error.errno(), Errno::EBUSY);
        let expected = format!("image disk is open: client.{} at", user.identity().0);
        assert!(error.to_string().starts_with(&expected), "{error}");
        assert_eq!(store.objects(), objects);
        open.close().await;
        remove_image(&store, &CONFIG(), "disk", &()).await.unwrap();
    }

    #[tokio::test]
    async fn who_opens_an_image_while_it_loses_its_name_keeps_it() {
        let store = MemStore::new();
        image(&store).await;
        let objects = store.objects();
        let user = Image::open(store.connect(), OpenOptions::image("disk")).await.unwrap();
        user.close().await;
        let late = store.connect();
        let header = store.objects().into_iter().find(|name| name.starts_with("rbd_header")).unwrap();
        store.set_fault(move |object, _| {
            // It watches just before the name is taken away.
            if object == "rbd_id.disk" {
                late.watch(&header).now_or_never().unwrap().unwrap();
            }
            None
        });
        let error = remove_image(&store, &CONFIG(), "disk", &()).await.unwrap_err();
        assert!(matches!(error, OperationError::Remove(RemoveError::Watched { .. })), "{error}");
        store.clear_fault();
        assert_eq!(store.objects(), [&objects[..], &["rbd_trash".to_owned()]].concat());
        assert_eq!(list_images(&store).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn an_image_with_snapshots_stays_and_says_which() {
        let store = MemStore::new();
        let id = image(&store).await;
        let snap = store.create_snapshot(&id, "before-upgrade").unwrap();
        for error in [
            remove_image(&store, &CONFIG(), "disk", &()).await.unwrap_err(),
            check_remove_image(&store, "disk").await.unwrap_err(),
        ] {
            assert_eq!(error.to_string(), "image disk has snapshots: before-upgrade");
            assert_eq!(
                (error.errno(), error.help().unwrap()),
                (Errno(39), "remove them first: rbd snap purge disk".into())
            );
        }
        store.remove_snapshot(&id, snap);
        remove_image(&store, &CONFIG(), "disk", &()).await.unwrap();
    }

    #[tokio::test]
    async fn a_parent_in_the_trash_goes_with_its_last_clone_and_so_on() {
        let store = MemStore::new();
        crate::set_pool_config(&store, "rbd_move_parent_to_trash_on_remove", "true").await.unwrap();
        image(&store).await;
        let names = ["disk", "child", "grandchild"];
        for family in names.windows(2) {
            let parent = Image::open(store.connect(), OpenOptions::image(family[0])).await.unwrap();
            parent.create_snapshot("s", SnapshotFlags::default(), &()).await.unwrap();
            let (image, snapshot) = (ImageRef::Name(family[0].into()), SnapshotRef::Name("s".into()));
            let options = CloneOptions { format: Some(2), ..CloneOptions::default() };
            clone_image(&store, &image, &snapshot, &store, &CONFIG(), family[1], &options).await.unwrap();
            // Its clone keeps it, in the trash.
            parent.remove_snapshot("s").await.unwrap();
            parent.close().await;
        }
        let error = check_remove_image(&store, "disk").await.unwrap_err();
        assert_eq!(error.to_string(), "image disk has clones: rbd/child");
        for name in &names[..2] {
            remove_image(&store, &CONFIG(), name, &()).await.unwrap();
        }
        let trash = list_trash(&store).await.unwrap();
        assert_eq!(trash.iter().map(|entry| entry.source).collect::<Vec<_>>(), [TrashSource::UserParent; 2]);
        remove_image(&store, &CONFIG(), "grandchild", &()).await.unwrap();
        assert_eq!(
            (store.objects(), list_trash(&store).await.unwrap()),
            (POOL.map(String::from).to_vec(), vec![])
        );
    }

    #[tokio::test]
    async fn an_image_with_unknown_operation_features_stays() {
        let store = MemStore::new();
        let id = image(&store).await;
        store.set_header_key(&id, "op_features", (1u64 << 40).encode_to_vec());
        let error = remove_image(&store, &CONFIG(), "disk", &()).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "image disk has operation features that are not supported: 0x10000000000"
        );
        assert_eq!(error.errno(), Errno::EROFS);
    }

    #[tokio::test]
    async fn the_lock_of_a_dead_owner_is_broken() {
        let store = MemStore::new();
        image(&store).await;
        let dead = store.connect();
        let open = Image::open(dead.clone(), OpenOptions::image("disk")).await.unwrap();
        open.write(0, "x".into()).await.unwrap();
        dead.kill_after(0);
        dead.lose_watches();
        remove_image(&store, &CONFIG(), "disk", &()).await.unwrap();
        assert_eq!(store.objects(), POOL);
    }

    #[tokio::test]
    async fn a_removal_that_was_interrupted_can_be_repeated() {
        for crash in 0.. {
            let store = MemStore::new();
            image(&store).await;
            let doomed = store.connect();
            doomed.kill_after(crash);
            if remove_image(&doomed, &CONFIG(), "disk", &()).await.is_ok() {
                assert!(crash > 10, "there are more operations than {crash}");
                break;
            }
            doomed.lose_watches();
            match remove_image(&store, &CONFIG(), "disk", &()).await {
                Ok(()) => {}
                Err(error) => assert_eq!(error.errno(), Errno::ENOENT, "after {crash}: {error}"),
            }
            assert_eq!(store.objects(), POOL, "after {crash} operations");
            assert_eq!(list_trash(&store).await.unwrap(), [], "after {crash} operations");
        }
    }

    #[tokio::test]
    async fn what_is_left_of_an_image_that_was_being_made_can_be_removed() {
        for crash in 0.. {
            let store = MemStore::new();
            let doomed = store.connect();
            doomed.kill_after(crash);
            let made = create_image(&doomed, &CONFIG(), "disk", 40 << 20, &CreateOptions::default()).await;
            if made.is_ok() {
                break;
            }
            match remove_image(&store, &CONFIG(), "disk", &()).await {
                Ok(()) => {}
                Err(error) => assert_eq!(error.errno(), Errno::ENOENT, "after {crash}: {error}"),
            }
            create_image(&store, &CONFIG(), "disk", 40 << 20, &CreateOptions::default()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn an_image_goes_to_the_trash_if_the_pool_says_so() {
        let store = MemStore::new();
        let id = image(&store).await;
        crate::set_pool_config(&store, "rbd_move_to_trash_on_remove", "true").await.unwrap();
        crate::set_pool_config(&store, "rbd_move_to_trash_on_remove_expire_seconds", "60").await.unwrap();
        remove_image(&store, &CONFIG(), "disk", &()).await.unwrap();
        let trash = list_trash(&store).await.unwrap();
        assert_eq!((trash[0].id.as_str(), trash[0].source), (id.as_str(), TrashSource::User));
        assert_eq!(trash[0].deferment_end.sec - trash[0].deletion_time.sec, 60);
    }
}
