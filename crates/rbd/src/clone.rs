//! Clones: images that begin with the contents of a snapshot of another.
//!
//! ```text
//! the child's header     parent, overlap      1, after the child was made like any image
//! the child's header     it is a clone of 2   2
//! the parent's header    child                3, version 2
//! rbd_children           parent -> child      3, version 1: in the child's pool, for a protected snapshot
//! the child's header     metadata             4
//! ```
//! Ceph: `src/librbd/image/CloneRequest.cc`, `AttachParentRequest.cc`, `AttachChildRequest.cc`.

use ceph_codec::SnapId;
use rados::{Errno, Operation};
use thiserror::Error;
use tracing::{debug, warn};

use crate::children::{self, detach_child};
use crate::cls::children::{ChildSpec, add_child, child_attach};
use crate::cls::create::{metadata_set_all, op_features_set};
use crate::cls::parent::{parent_attach, set_parent};
use crate::cls::{self, ParentSpec};
use crate::create::{CreateError, make_image, unmake};
use crate::directory::{self, change};
use crate::header::{self, Header, Snapshot};
use crate::names::{self, CHILDREN};
use crate::object_map;
use crate::operations::{check_op_features, failed};
use crate::{
    Config, CreateOptions, Features, ImageRef, ObjectStore, OpFeatures, OpenError, OperationError,
    SnapshotRef,
};

/// Metadata pairs to copy at once.
const PAGE: u64 = 128;

/// What a clone is to be like.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CloneOptions {
    /// Object size, striping and features are those of the parent if they are not given, the data pool is not.
    pub create: CreateOptions,
    /// 1 for a clone that needs a protected snapshot, 2 for one that the parent knows of; else
    /// `rbd_default_clone_format`.
    pub format: Option<u8>,
}

/// Why an image cannot be cloned.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CloneError {
    /// There is no such version of clones.
    #[error("clones have format 1 or 2, not {0}")]
    Format(u8),
    /// Clones of version 1 are in the namespace of their parent.
    #[error("a clone in another namespace than its parent needs clone format 2")]
    OtherNamespace,
    /// The parent cannot have clones.
    #[error("image {image} cannot be cloned: it lacks the feature layering")]
    ParentLacksLayering {
        /// The parent.
        image: String,
    },
    /// The clone would not be one.
    #[error("a clone needs the feature layering")]
    ChildLacksLayering,
    /// Clones of version 1 need a protected snapshot.
    #[error("snapshot {image}@{snapshot} is not protected, which a clone of format 1 needs")]
    Unprotected {
        /// The parent.
        image: String,
        /// Its snapshot.
        snapshot: String,
    },
    /// There is nothing to share.
    #[error("snapshot {image}@{snapshot} is empty: it has no bytes to be cloned")]
    Empty {
        /// The parent.
        image: String,
        /// Its snapshot.
        snapshot: String,
    },
}

impl CloneError {
    pub(crate) fn errno(&self) -> Errno {
        match self {
            Self::Format(_) | Self::Unprotected { .. } | Self::Empty { .. } => Errno::EINVAL,
            Self::OtherNamespace => Errno(18), // EXDEV
            Self::ParentLacksLayering { .. } | Self::ChildLacksLayering => Errno(38), // ENOSYS
        }
    }

    pub(crate) fn help(&self) -> Option<String> {
        Some(match self {
            Self::OtherNamespace => "--rbd-default-clone-format 2".to_owned(),
            Self::Unprotected { image, snapshot } => format!("rbd snap protect {image}@{snapshot}"),
            _ => return None,
        })
    }
}

/// Makes an image that begins with the contents of a snapshot, without copying them. Returns its id. Parent and clone
/// may be in different pools and namespaces.
///
/// # Errors
/// [`CloneError`] in [`OperationError::Clone`], [`CreateError`] in [`OperationError::Create`], [`OpenError`] in
/// [`OperationError::Open`] if there is no such image or snapshot; else [`OperationError::Op`]. What was made of the
/// clone is removed again then.
///
/// Ceph: `CloneRequest` in `src/librbd/image/CloneRequest.cc`.
pub async fn clone_image<S: ObjectStore>(
    parent_store: &S,
    parent: &ImageRef,
    snapshot: &SnapshotRef,
    store: &S,
    config: &Config,
    name: &str,
    options: &CloneOptions,
) -> Result<String, OperationError> {
    let config = config.of_pool(store).await;
    let format = match options.format {
        Some(format @ (1 | 2)) => format,
        Some(format) => return Err(CloneError::Format(format).into()),
        None => default_format(store, &config),
    };
    if format == 1 && parent_store.namespace() != store.namespace() {
        return Err(CloneError::OtherNamespace.into());
    }
    let (parent_id, header) = children::find(parent_store, parent).await?;
    check_op_features(parent.as_str(), &header)?;
    let snapshot = find_snapshot(parent.as_str(), &header, snapshot)?;
    check(parent.as_str(), &header, snapshot, format)?;

    let object_size = 1u64.checked_shl(header.order.into()).unwrap_or(0);
    let (unit, count) = header.striping.unwrap_or((object_size, 1));
    let create = CreateOptions {
        order: options.create.order.or(Some(header.order)),
        features: options.create.features.or(Some(header.features)),
        stripe_unit: options.create.stripe_unit.or(Some(unit)),
        stripe_count: options.create.stripe_count.or(Some(count)),
        ..options.create.clone()
    };
    if create.features.is_some_and(|features| !features.contains(Features::LAYERING)) {
        return Err(CloneError::ChildLacksLayering.into());
    }
    let exists = header::exists(store, &names::v1_header_object(name)).await;
    if exists.map_err(failed("look whether the image exists"))? {
        return Err(CreateError::Exists { image: name.to_owned() }.into());
    }
    let id = make_image(store, &config, name, snapshot.size, &create).await?;

    let parent = Parent {
        store: parent_store,
        header_object: names::header_object(&parent_id),
        spec: ParentSpec {
            pool: parent_store.pool(),
            namespace: parent_store.namespace().to_owned(),
            image_id: parent_id,
            snap: snapshot.id,
        },
        overlap: snapshot.size,
    };
    let attached = attach(store, &parent, &id, format).await;
    let result = match attached {
        Ok(()) => copy_metadata(&parent, store, &id).await,
        error => error,
    };
    if let Err(error) = result {
        warn!(name, id, %error, "the clone is undone");
        undo(store, name, &id).await;
        return Err(error);
    }
    debug!(name, id, format, parent = parent.spec.image_id, "image cloned");
    Ok(id)
}

/// A snapshot that is being cloned.
struct Parent<'a, S> {
    store: &'a S,
    header_object: String,
    spec: ParentSpec,
    overlap: u64,
}

/// Ceph: `CloneRequest::validate_options()`.
fn default_format<S: ObjectStore>(store: &S, config: &Config) -> u8 {
    match config.get("rbd_default_clone_format") {
        "1" => 1,
        "auto" if !store.requires_mimic() => 1,
        _ => 2,
    }
}

fn find_snapshot<'a>(
    image: &str,
    header: &'a Header,
    snapshot: &SnapshotRef,
) -> Result<&'a Snapshot, OpenError> {
    let (found, shown) = match snapshot {
        SnapshotRef::Id(id) => (header.snapshot(*id), id.to_string()),
        SnapshotRef::Name(name) => (header.snapshot_named(name), name.clone()),
    };
    found.ok_or_else(|| OpenError::NoSnapshot { image: image.to_owned(), snapshot: shown })
}

/// Ceph: `CloneRequest::validate_parent()`.
fn check(image: &str, header: &Header, snapshot: &Snapshot, format: u8) -> Result<(), CloneError> {
    let (image, name) = (image.to_owned(), snapshot.name.clone());
    if !header.features.contains(Features::LAYERING) {
        return Err(CloneError::ParentLacksLayering { image });
    }
    if format == 1 && !snapshot.protected {
        return Err(CloneError::Unprotected { image, snapshot: name });
    }
    if snapshot.size == 0 {
        return Err(CloneError::Empty { image, snapshot: name });
    }
    Ok(())
}

/// Makes parent and child know each other.
async fn attach<S: ObjectStore>(
    store: &S,
    parent: &Parent<'_, S>,
    id: &str,
    format: u8,
) -> Result<(), OperationError> {
    attach_parent(store, parent, id).await?;
    let doing = "tell the parent that it has a clone";
    if format == 1 {
        change(store, CHILDREN, add_child(Operation::new(), &parent.spec, id))
            .await
            .map_err(failed(doing))?;
        // Whoever unprotects it looks for clones after marking it; so either that one has seen this clone, or the mark
        // is seen here.
        let header = Header::load(parent.store, &parent.header_object, true).await.map_err(failed(doing))?;
        let snapshot = header.snapshot(parent.spec.snap);
        if !snapshot.is_some_and(|snapshot| snapshot.protected) {
            let (image, snapshot) = (parent.spec.image_id.clone(), parent.spec.snap.to_string());
            return Err(CloneError::Unprotected { image, snapshot }.into());
        }
        return Ok(());
    }
    let child = OpFeatures::CLONE_CHILD;
    change(store, &names::header_object(id), op_features_set(Operation::new(), child, child))
        .await
        .map_err(failed("mark the image as a clone"))?;
    let child =
        ChildSpec { pool: store.pool(), namespace: store.namespace().to_owned(), image_id: id.to_owned() };
    let operation = child_attach(Operation::new(), parent.spec.snap, &child);
    change(parent.store, &parent.header_object, operation).await.map_err(failed(doing))
}

/// Ceph: `src/librbd/image/AttachParentRequest.cc`.
async fn attach_parent<S: ObjectStore>(
    store: &S,
    parent: &Parent<'_, S>,
    id: &str,
) -> Result<(), OperationError> {
    let doing = "tell the clone who its parent is";
    let header = names::header_object(id);
    let operation = parent_attach(Operation::new(), &parent.spec, parent.overlap, false);
    match change(store, &header, operation).await {
        // OSDs before Ceph 14 know no parents in other namespaces.
        Err(error) if error.is(Errno::EOPNOTSUPP) && parent.store.namespace() == store.namespace() => {
            let operation = set_parent(Operation::new(), &parent.spec, parent.overlap);
            change(store, &header, operation).await.map_err(failed(doing))
        }
        Err(error) if error.is(Errno::EOPNOTSUPP) => Err(CloneError::OtherNamespace.into()),
        result => result.map_err(failed(doing)),
    }
}

/// Ceph: `src/librbd/deep_copy/MetadataCopyRequest.cc`.
async fn copy_metadata<S: ObjectStore>(
    parent: &Parent<'_, S>,
    store: &S,
    id: &str,
) -> Result<(), OperationError> {
    let doing = "copy the parent's metadata";
    let header = names::header_object(id);
    let mut after = String::new();
    loop {
        let page =
            directory::call(parent.store, &parent.header_object, cls::metadata_list(&after, PAGE)).await;
        let page = page.map_err(failed(doing))?;
        let Some(last) = page.last_key_value().map(|(key, _)| key.clone()) else { return Ok(()) };
        change(store, &header, metadata_set_all(Operation::new(), &page)).await.map_err(failed(doing))?;
        // A page of nothing new would go on for ever.
        if (page.len() as u64) < PAGE || last <= after {
            return Ok(());
        }
        after = last;
    }
}

async fn undo<S: ObjectStore>(store: &S, name: &str, id: &str) {
    let object = names::header_object(id);
    let detached = match Header::load(store, &object, true).await {
        Ok(header) => detach_child(store, &header, id).await,
        Err(error) => Err(failed("read the clone's header")(error)),
    };
    if let Err(error) = detached {
        warn!(id, %error, "the parent still knows a clone that could not be made");
    }
    let made = [names::id_object(name), object, object_map::object_name(id, SnapId::HEAD)];
    unmake(store, name, id, &made).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    use crate::cls::snapshots::{Protection, set_protection_status};
    use crate::{MemStore, NewImage, list_children, remove_image};

    /// A parent of 10 MiB with a snapshot `s`, which is protected or not.
    async fn parent(store: &MemStore, protected: bool) -> String {
        let image = NewImage { name: "parent".into(), size: 10 << 20, ..NewImage::default() };
        let id = store.create_image(&image).unwrap();
        let snap = store.create_snapshot(&id, "s").unwrap();
        if protected {
            protect(store, &id, snap, Protection::Protected).await;
        }
        id
    }

    async fn protect(store: &MemStore, id: &str, snap: SnapId, protection: Protection) {
        let operation = set_protection_status(Operation::new(), snap, protection);
        change(store, &names::header_object(id), operation).await.unwrap();
    }

    async fn clone(
        store: &MemStore,
        child_store: &MemStore,
        name: &str,
        format: u8,
    ) -> Result<String, OperationError> {
        let options = CloneOptions { format: Some(format), ..CloneOptions::default() };
        let (image, snapshot) = (ImageRef::Name("parent".into()), SnapshotRef::Name("s".into()));
        clone_image(store, &image, &snapshot, child_store, &Config::default(), name, &options).await
    }

    async fn children(store: &MemStore) -> Vec<String> {
        let list = list_children(store, &ImageRef::Name("parent".into()), None, true).await.unwrap();
        list.iter().map(ToString::to_string).collect()
    }

    #[tokio::test]
    async fn parent_and_clone_know_each_other() {
        for format in [1, 2] {
            let store = MemStore::new();
            let parent_id = parent(&store, true).await;
            let other = store.with_pool(store.create_pool("other"), "").unwrap();
            let id = clone(&store, &other, "kid", format).await.unwrap();
            let header = Header::load(&other, &names::header_object(&id), false).await.unwrap();
            let spec = header.parent.clone().unwrap();
            assert_eq!((spec.pool, spec.image_id.as_str()), (store.pool(), parent_id.as_str()));
            assert_eq!((header.size, header.parent_overlap), (10 << 20, Some(10 << 20)));
            assert_eq!(header.op_features.contains(OpFeatures::CLONE_CHILD), format == 2);
            assert_eq!(children(&store).await, ["other/kid"], "format {format}");
            let header = Header::load(&store, &names::header_object(&parent_id), false).await.unwrap();
            assert_eq!(header.op_features.contains(OpFeatures::CLONE_PARENT), format == 2);
        }
    }

    #[tokio::test]
    async fn metadata_come_from_the_parent() {
        let store = MemStore::new();
        let parent_id = parent(&store, false).await;
        for number in 0..300 {
            store.set_header_key(&parent_id, &format!("metadata_key{number:03}"), b"value".to_vec());
        }
        let id = clone(&store, &store, "kid", 2).await.unwrap();
        let header = names::header_object(&id);
        let page = directory::call(&store, &header, cls::metadata_list("", 1000)).await.unwrap();
        assert_eq!(page.len(), 300);
    }

    #[tokio::test]
    async fn a_clone_of_version_1_needs_a_protected_snapshot_of_its_namespace() {
        let store = MemStore::new();
        parent(&store, false).await;
        let error = clone(&store, &store, "kid", 1).await.unwrap_err();
        assert_eq!(
            (error.errno(), error.help().unwrap()),
            (Errno::EINVAL, "rbd snap protect parent@s".into())
        );
        let elsewhere = store.with_pool(store.pool(), "ns").unwrap();
        assert_eq!(clone(&store, &elsewhere, "kid", 1).await.unwrap_err().errno(), Errno(18));
    }

    #[tokio::test]
    async fn a_clone_of_version_1_is_undone_if_its_snapshot_is_being_unprotected() {
        let store = MemStore::new();
        let parent_id = parent(&store, true).await;
        let other = store.connect();
        store.set_fault(move |object, _| {
            // The other has looked for clones already.
            if object == CHILDREN {
                let snap = SnapId(2);
                protect(&other, &parent_id, snap, Protection::Unprotecting).now_or_never().unwrap();
            }
            None
        });
        let error = clone(&store, &store, "kid", 1).await.unwrap_err();
        assert!(matches!(error, OperationError::Clone(CloneError::Unprotected { .. })), "{error}");
        store.clear_fault();
        assert_eq!(children(&store).await, Vec::<String>::new());
        assert!(clone(&store, &store, "kid", 1).await.is_err(), "nor is another begun");
    }

    #[tokio::test]
    async fn what_cannot_be_cloned_is_refused() {
        let store = MemStore::new();
        let config = Config::default();
        let (image, snapshot) = (ImageRef::Name("parent".into()), SnapshotRef::Name("s".into()));
        let options = CloneOptions::default();
        let error =
            clone_image(&store, &image, &snapshot, &store, &config, "kid", &options).await.unwrap_err();
        assert!(matches!(error, OperationError::Open(OpenError::NoImage { .. })));
        parent(&store, false).await;
        let none = SnapshotRef::Name("none".into());
        let error = clone_image(&store, &image, &none, &store, &config, "kid", &options).await.unwrap_err();
        assert!(matches!(error, OperationError::Open(OpenError::NoSnapshot { .. })));
        let create = CreateOptions { features: Some(Features::EXCLUSIVE_LOCK), ..CreateOptions::default() };
        let flat = CloneOptions { create, ..CloneOptions::default() };
        let error = clone_image(&store, &image, &snapshot, &store, &config, "kid", &flat).await.unwrap_err();
        assert_eq!(error.errno(), Errno(38));
        clone(&store, &store, "kid", 2).await.unwrap();
        assert_eq!(clone(&store, &store, "kid", 2).await.unwrap_err().errno(), Errno::EEXIST);
        assert_eq!(children(&store).await, ["rbd/kid"]);
    }

    #[tokio::test]
    async fn whatever_step_fails_nothing_is_left() {
        for format in [1, 2] {
            for step in 0.. {
                let store = MemStore::new();
                parent(&store, true).await;
                // The pool is validated before: that stays.
                crate::pool::validate(&store).await.unwrap();
                let mut before = store.objects();
                let mut writes = 0;
                store.set_fault(move |_, operation| {
                    writes += u32::from(operation.is_write());
                    (operation.is_write() && writes == step + 1).then_some(rados::OpError::Errno(Errno::EIO))
                });
                let cloned = clone(&store, &store, "kid", format).await;
                store.clear_fault();
                if cloned.is_ok() {
                    assert!(step > 4, "there are more steps than {step}");
                    break;
                }
                let mut after = store.objects();
                for list in [&mut before, &mut after] {
                    list.retain(|name| name != CHILDREN);
                }
                assert_eq!(after, before, "format {format}, step {step}");
                assert_eq!(children(&store).await, Vec::<String>::new(), "format {format}, step {step}");
                clone(&store, &store, "kid", format).await.unwrap();
            }
        }
    }

    #[tokio::test]
    async fn a_clone_that_was_interrupted_can_be_removed_and_made_again() {
        for format in [1, 2] {
            for crash in 0.. {
                let store = MemStore::new();
                parent(&store, true).await;
                let doomed = store.connect();
                doomed.kill_after(crash);
                if clone(&doomed, &doomed, "kid", format).await.is_ok() {
                    break;
                }
                match remove_image(&store, &Config::default(), "kid", &()).await {
                    Ok(()) => {}
                    Err(error) => assert_eq!(error.errno(), Errno::ENOENT, "after {crash}: {error}"),
                }
                assert_eq!(children(&store).await, Vec::<String>::new(), "after {crash} operations");
                clone(&store, &store, "kid", format).await.unwrap();
                assert_eq!(children(&store).await, ["rbd/kid"], "after {crash} operations");
            }
        }
    }
}
