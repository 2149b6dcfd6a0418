//! Clones of an image, as the image knows them.
//!
//! Ceph: `Image<I>::list_descendants()` in `src/librbd/api/Image.cc`, `src/librbd/image/DetachChildRequest.cc`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ceph_codec::{PoolId, SnapId};
use futures::future::BoxFuture;
use rados::{Errno, OpError, Operation};
use tracing::{debug, warn};

use crate::cls::children::{ChildSpec, children_list, get_children};
use crate::cls::{self, ParentSpec};
use crate::directory::{self, change};
use crate::header::Header;
use crate::names::{self, CHILDREN};
use crate::operations::failed;
use crate::trash::{self, TrashSource, TrashState};
use crate::{
    Features, Image, ImageRef, ObjectStore, OpFeatures, OpenError, OpenOptions, OperationError, Snapshot,
    SnapshotNamespace, SnapshotRef, list_images,
};

/// A clone of an image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Child {
    /// Name of the pool that it is in; empty if that is gone.
    pub pool: String,
    /// Number of that pool.
    pub pool_id: PoolId,
    /// Its namespace; empty for the default one.
    pub namespace: String,
    /// Its name; empty if it has none (any more).
    pub image: String,
    /// Its id.
    pub image_id: String,
    /// Whether it is in the trash; the name is that which it had then.
    pub trash: bool,
}

impl fmt::Display for Child {
    /// As `rbd children` shows it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.pool)?;
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        match (self.image.as_str(), self.trash) {
            ("", _) => write!(f, "(id {})", self.image_id),
            (name, false) => f.write_str(name),
            (name, true) => write!(f, "{name} (trash {})", self.image_id),
        }
    }
}

/// Lists the clones of a snapshot, or of all snapshots of an image (also of those in the trash); with `descendants`
/// their clones, too, and so on. In the order of pools, namespaces and names.
///
/// # Errors
/// [`OperationError::Open`] if there is no such image or snapshot, else [`OperationError::Op`].
pub async fn list_children<S: ObjectStore>(
    store: &S,
    image: &ImageRef,
    snapshot: Option<&SnapshotRef>,
    descendants: bool,
) -> Result<Vec<Child>, OperationError> {
    let doing = "list the clones";
    // A pool that is not known yet may have clones, too.
    store.wait_for_newest_pools().await.map_err(failed(doing))?;
    let (id, header) = find(store, image).await?;
    let snaps = match snapshot {
        None => header.snapshots.iter().map(|snapshot| snapshot.id).collect(),
        Some(wanted) => {
            let (found, shown) = match wanted {
                SnapshotRef::Id(id) => (header.snapshot(*id), id.to_string()),
                SnapshotRef::Name(name) => (header.snapshot_named(name), name.clone()),
            };
            let image = image.as_str().to_owned();
            vec![found.ok_or(OpenError::NoSnapshot { image, snapshot: shown })?.id]
        }
    };
    let mut family = BTreeSet::new();
    let parent = ChildSpec { pool: store.pool(), namespace: store.namespace().to_owned(), image_id: id };
    let mut to_ask = vec![(parent, header.features, snaps)];
    while let Some((parent, features, snaps)) = to_ask.pop() {
        if !features.contains(Features::LAYERING) {
            continue;
        }
        for snap in snaps {
            for child in children_of(store, &parent, snap).await.map_err(failed(doing))? {
                if !family.insert(child.clone()) || !descendants {
                    continue;
                }
                if let Some((features, snaps)) = look_at(store, &child).await.map_err(failed(doing))? {
                    to_ask.push((child, features, snaps));
                }
            }
        }
    }
    with_names(store, family).await.map_err(failed(doing))
}

/// Id and metadata of an image.
pub(crate) async fn find<S: ObjectStore>(
    store: &S,
    image: &ImageRef,
) -> Result<(String, Header), OperationError> {
    let shown = image.as_str();
    let missing = || OpenError::NoImage { image: shown.to_owned() };
    let id = match image {
        ImageRef::Id(id) => id.clone(),
        ImageRef::Name(name) => match directory::id_of(store, name).await {
            Err(error) if error.is(Errno::ENOENT) => return Err(missing().into()),
            id => id.map_err(failed("look up the image's id"))?,
        },
    };
    match Header::load(store, &names::header_object(&id), true).await {
        Err(error) if error.is(Errno::ENOENT) => Err(missing().into()),
        header => Ok((id, header.map_err(failed("read the image's header"))?)),
    }
}

/// The clones of one snapshot: of version 1, which any pool may have, and of version 2.
async fn children_of<S: ObjectStore>(
    store: &S,
    parent: &ChildSpec,
    snap: SnapId,
) -> Result<Vec<ChildSpec>, OpError> {
    let ChildSpec { pool, namespace, image_id } = parent.clone();
    let spec = ParentSpec { pool, namespace, image_id, snap };
    let mut found = Vec::new();
    for (pool, _) in store.pools() {
        let namespace = spec.namespace.clone();
        let Ok(pool_store) = store.with_pool(pool, &namespace) else { continue };
        match directory::call(&pool_store, CHILDREN, get_children(&spec)).await {
            Ok(ids) => found.extend(ids.into_iter().map(|image_id| ChildSpec {
                pool,
                namespace: namespace.clone(),
                image_id,
            })),
            Err(error) if error.is(Errno::ENOENT) => {}
            // A user may not be allowed to look into every pool.
            Err(error) if error.is(Errno::EPERM) || error.is(Errno::EACCES) => {
                debug!(%pool, %error, "clones in this pool are not known");
            }
            Err(error) => return Err(error),
        }
    }
    let parent_store = store.with_pool(spec.pool, &spec.namespace)?;
    match directory::call(&parent_store, &names::header_object(&spec.image_id), children_list(snap)).await {
        Ok(children) => found.extend(children),
        Err(error) if error.is(Errno::ENOENT) || error.is(Errno::EOPNOTSUPP) => {}
        Err(error) => return Err(error),
    }
    Ok(found)
}

/// Features and snapshots of an image; none if it is gone.
async fn look_at<S: ObjectStore>(
    store: &S,
    image: &ChildSpec,
) -> Result<Option<(Features, Vec<SnapId>)>, OpError> {
    let Ok(store) = store.with_pool(image.pool, &image.namespace) else { return Ok(None) };
    match Header::load(&store, &names::header_object(&image.image_id), true).await {
        Ok(header) => {
            Ok(Some((header.features, header.snapshots.iter().map(|snapshot| snapshot.id).collect())))
        }
        Err(error) if error.is(Errno::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Looks up the names, of a whole pool and namespace at a time.
async fn with_names<S: ObjectStore>(store: &S, family: BTreeSet<ChildSpec>) -> Result<Vec<Child>, OpError> {
    let pools: BTreeMap<PoolId, String> = store.pools().into_iter().collect();
    let mut names: BTreeMap<(PoolId, String), BTreeMap<String, (String, bool)>> = BTreeMap::new();
    let mut children = Vec::with_capacity(family.len());
    for child in family {
        let place = (child.pool, child.namespace.clone());
        if !names.contains_key(&place) {
            let known = match store.with_pool(child.pool, &child.namespace) {
                Ok(store) => images_by_id(&store).await?,
                Err(_) => BTreeMap::new(),
            };
            names.insert(place.clone(), known);
        }
        let known = names.get(&place).and_then(|names| names.get(&child.image_id));
        let (image, trash) = known.cloned().unwrap_or_default();
        children.push(Child {
            pool: pools.get(&child.pool).cloned().unwrap_or_default(),
            pool_id: child.pool,
            namespace: child.namespace,
            image,
            image_id: child.image_id,
            trash,
        });
    }
    children.sort();
    Ok(children)
}

/// Names of images, also of those in the trash, by id.
async fn images_by_id<S: ObjectStore>(store: &S) -> Result<BTreeMap<String, (String, bool)>, OpError> {
    let images = list_images(store).await?.into_iter().map(|image| (image.id, (image.name, false)));
    let mut by_id: BTreeMap<_, _> = images.collect();
    for entry in trash::list(store).await? {
        by_id.entry(entry.id).or_insert((entry.name, true));
    }
    Ok(by_id)
}

/// Makes the parent of an image forget it. If the image was the last clone of a snapshot that was removed, the
/// snapshot is removed for good; and if that was the last thing that kept an image in the trash, so is that image.
///
/// Ceph: `src/librbd/image/DetachChildRequest.cc`.
///
/// # Errors
/// [`OperationError::Op`]; what concerns the parent's snapshot and the parent itself is only logged.
pub(crate) async fn detach_child<S: ObjectStore>(
    store: &S,
    header: &Header,
    id: &str,
) -> Result<(), OperationError> {
    leave_parent(store, header, id).await?;
    clean_up_parent(store, header).await;
    Ok(())
}

/// The first half of [`detach_child`]: tells the parent, or the pool of a clone of version 1.
pub(crate) async fn leave_parent<S: ObjectStore>(
    store: &S,
    header: &Header,
    id: &str,
) -> Result<(), OperationError> {
    let Some(parent) = &header.parent else { return Ok(()) };
    let (store, object, operation) = if header.op_features.contains(OpFeatures::CLONE_CHILD) {
        // The pool of the parent may be gone, and the parent with it.
        let doing = "look for the parent's pool";
        store.wait_for_newest_pools().await.map_err(failed(doing))?;
        let Ok(parent_store) = store.with_pool(parent.pool, &parent.namespace) else { return Ok(()) };
        let child = ChildSpec {
            pool: store.pool(),
            namespace: store.namespace().to_owned(),
            image_id: id.to_owned(),
        };
        let operation = cls::children::child_detach(Operation::new(), parent.snap, &child);
        (parent_store, names::header_object(&parent.image_id), operation)
    } else {
        let operation = cls::children::remove_child(Operation::new(), parent, id);
        (store.clone(), CHILDREN.to_owned(), operation)
    };
    match change(&store, &object, operation).await {
        Err(error) if error.is(Errno::ENOENT) => Ok(()),
        result => result.map_err(failed("tell the parent that it has one clone less")),
    }
}

/// The other half: removes what only the clone kept, with `header` as it was when it was a clone.
pub(crate) fn clean_up_parent<'a, S: ObjectStore>(store: &'a S, header: &'a Header) -> BoxFuture<'a, ()> {
    // Maintenance of the parent may be part of it, which has this among its parts.
    Box::pin(async move {
        let Some(parent) = &header.parent else { return };
        if !header.op_features.contains(OpFeatures::CLONE_CHILD) {
            return;
        }
        let Ok(parent_store) = store.with_pool(parent.pool, &parent.namespace) else { return };
        if let Err(error) = remove_unneeded_snapshot(&parent_store, parent).await {
            warn!(parent = parent.image_id, %error, "could not clean up after the last clone of a snapshot");
        }
    })
}

/// Removes a snapshot in the trash that has no clones any more, and an image in the trash that has no snapshots any
/// more, if it was only kept for them.
async fn remove_unneeded_snapshot<S: ObjectStore>(
    store: &S,
    parent: &ParentSpec,
) -> Result<(), OperationError> {
    let header = names::header_object(&parent.image_id);
    let record = match directory::call(store, &header, cls::snapshot_get(parent.snap)).await {
        Err(error) if error.is(Errno::ENOENT) => return Ok(()),
        record => record.map_err(failed("read the parent's snapshot"))?,
    };
    if !matches!(record.namespace, SnapshotNamespace::Trash { .. }) || record.child_count > 0 {
        return Ok(());
    }
    let options = OpenOptions::new(ImageRef::Id(parent.image_id.clone())).without_parent();
    let image = Image::open(store.clone(), options).await?;
    let mut removed = Ok(());
    if let Some(snapshot) = image.snapshots().iter().find(|snapshot| snapshot.id == parent.snap) {
        removed = remove_trashed_snapshot(&image, snapshot).await;
    }
    let others = image.snapshots().iter().any(|snapshot| snapshot.id != parent.snap);
    image.close().await;
    removed?;
    if others {
        return Ok(());
    }
    let entry = trash::entry(store, &parent.image_id).await.map_err(failed("look into the trash"))?;
    let is_unneeded = |entry: trash::TrashEntry| {
        entry.source == TrashSource::UserParent
            && entry.state == TrashState::Normal
            && entry.deferment_end <= store.now()
    };
    if entry.is_some_and(is_unneeded) {
        // The parent may itself be the last clone of such a snapshot, and so on.
        Box::pin(crate::remove::remove_entry(store, &parent.image_id, &parent.image_id, None, &())).await?;
    }
    Ok(())
}

/// Removes a snapshot for good, if it is in the trash and has no clones any more.
pub(crate) async fn remove_trashed_snapshot<S: ObjectStore>(
    image: &Image<S>,
    snapshot: &Snapshot,
) -> Result<(), OperationError> {
    if !matches!(snapshot.namespace, SnapshotNamespace::Trash { .. }) || snapshot.child_count > 0 {
        return Ok(());
    }
    image.remove_snapshot_in(snapshot.namespace.clone(), &snapshot.name).await
}
