//! What `rbd info` and `rbd status` show.

use std::collections::BTreeMap;

use ceph_codec::{PoolId, SnapId, Utime};
use rados::{Errno, ObjectWatcher, OpError, Operation};

use super::core::Core;
use super::open::{Found, find, find_snapshot, header_object};
use super::{ImageRef, OpenOptions};
use crate::cls::{self, ParentSpec};
use crate::header::{self, Header};
use crate::lock::locks_of;
use crate::{
    Features, Flags, Layout, LockOwner, Locks, ObjectStore, OpFeatures, OpenError, Snapshot,
    SnapshotNamespace, directory, names,
};

/// The object that lists a pool's groups.
const GROUP_DIRECTORY: &str = "rbd_group_directory";

/// What `rbd info` shows of an image. Fields are named as there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageInfo {
    /// Its name; none if it has been removed from the directory.
    pub name: Option<String>,
    /// Its id; empty in format 1.
    pub id: String,
    /// Bytes; those of the snapshot if one is meant.
    pub size: u64,
    /// Number of objects if all exist.
    pub objects: u64,
    /// Binary logarithm of the object size.
    pub order: u8,
    /// Bytes of an object.
    pub object_size: u64,
    /// Number of snapshots.
    pub snapshot_count: usize,
    /// Name of the pool of its data objects, if that is another one.
    pub data_pool: Option<String>,
    /// What the names of its data objects begin with.
    pub block_name_prefix: String,
    /// 1 or 2.
    pub format: u8,
    /// Its features.
    pub features: Features,
    /// What maintenance has to look at.
    pub op_features: OpFeatures,
    /// Whether its object map can be trusted.
    pub flags: Flags,
    /// The group that it is in: pool, namespace and name.
    pub group: Option<String>,
    /// When it was made.
    pub create_timestamp: Utime,
    /// When it was last read, roughly.
    pub access_timestamp: Utime,
    /// When it was last written, roughly.
    pub modify_timestamp: Utime,
    /// Whether the snapshot is protected, if one is meant.
    pub protected: Option<bool>,
    /// How many snapshots it may have, if that is limited.
    pub snapshot_limit: Option<u64>,
    /// The snapshot that it is a clone of.
    pub parent: Option<ParentInfo>,
    /// Bytes of a stripe unit, if it is striped.
    pub stripe_unit: Option<u64>,
    /// Objects that a stripe goes over, if it is striped.
    pub stripe_count: Option<u64>,
}

/// The snapshot that an image is a clone of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentInfo {
    /// Name of its pool.
    pub pool: String,
    /// Namespace in the pool.
    pub pool_namespace: String,
    /// Name of the parent image.
    pub image: String,
    /// Id of the parent image.
    pub id: String,
    /// Name of the snapshot.
    pub snapshot: String,
    /// Whether the parent image is in the trash.
    pub trash: bool,
    /// Bytes of the clone that may come from the parent.
    pub overlap: u64,
}

/// Everything that can be told about an image without opening it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageDetails {
    /// What `rbd info` shows.
    pub info: ImageInfo,
    /// Its snapshots, newest first.
    pub snapshots: Vec<Snapshot>,
    /// Who has it open.
    pub watchers: Vec<ObjectWatcher>,
    /// Who holds its lock: with the feature `exclusive-lock` its only writer, else whoever `rbd lock add` let have it.
    pub locks: Locks,
    /// How it is mirrored to another cluster, if it is.
    pub mirroring: Option<MirroringInfo>,
}

/// How an image is mirrored, in the words of `rbd info`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MirroringInfo {
    /// `journal` or `snapshot`.
    pub mode: &'static str,
    /// `enabled`, or what is happening to it.
    pub state: &'static str,
    /// The id that it has in all clusters.
    pub global_id: String,
    /// Whether it is the original, and not a copy; not known where the journal would tell.
    pub primary: Option<bool>,
}

pub(super) fn of_open<S: ObjectStore>(core: &Core<S>) -> ImageInfo {
    let header = core.header();
    let data_pool = header.data_pool.map(|_| core.data.pool_name());
    describe(core.name(), &core.id, &header, core.layout, core.snap, data_pool)
}

fn describe(
    name: Option<String>,
    id: &str,
    header: &Header,
    layout: Layout,
    snap: SnapId,
    data_pool: Option<String>,
) -> ImageInfo {
    let size = header.size_at(snap).unwrap_or(0);
    ImageInfo {
        name,
        id: id.to_owned(),
        size,
        objects: layout.object_count(size),
        order: layout.order(),
        object_size: layout.object_size(),
        snapshot_count: header.snapshots.len(),
        data_pool,
        block_name_prefix: header.object_prefix.clone(),
        format: header.format,
        features: header.features,
        op_features: header.op_features,
        flags: header.flags_at(snap).unwrap_or_default(),
        group: None,
        create_timestamp: header.create_timestamp,
        access_timestamp: header.access_timestamp,
        modify_timestamp: header.modify_timestamp,
        protected: header.snapshot(snap).map(|snapshot| snapshot.protected),
        snapshot_limit: header.snapshot_limit,
        parent: None,
        stripe_unit: header.striping.map(|(unit, _)| unit),
        stripe_count: header.striping.map(|(_, count)| count),
    }
}

pub(super) async fn inspect<S: ObjectStore>(
    store: &S,
    options: &OpenOptions,
) -> Result<ImageDetails, OpenError> {
    let shown = options.image.as_str();
    let failed =
        |action: &'static str| move |source| OpenError::Op { image: shown.to_owned(), action, source };
    let Found { name, id, header_object, header, layout, data } = find(store, &options.image, true).await?;
    let snap = find_snapshot(shown, &header, options.snapshot.as_ref())?;
    let data_pool = header.data_pool.map(|pool| match data {
        Ok(data) => data.pool_name(),
        Err(_) => format!("<missing data pool {pool}>"),
    });
    let mut info = describe(name, &id, &header, layout, snap, data_pool);
    if let Some(group) = &header.group {
        info.group =
            Some(group_name(store, group.pool, &group.id).await.map_err(failed("look up the group"))?);
    }
    let overlap = header.parent_overlap_at(snap);
    if let Some(parent) = header.parent.as_ref().filter(|_| overlap > 0) {
        info.parent =
            Some(describe_parent(store, parent, overlap).await.map_err(failed("look up the parent"))?);
    }
    Ok(ImageDetails {
        info,
        watchers: watchers(store, &header_object).await.map_err(failed("list the watchers"))?,
        locks: locks_of(store, &header_object).await.map_err(failed("look up the lock"))?,
        mirroring: mirroring(store, &id, &header).await.map_err(failed("look up mirroring"))?,
        snapshots: header.snapshots,
    })
}

async fn describe_parent<S: ObjectStore>(
    store: &S,
    parent: &ParentSpec,
    overlap: u64,
) -> Result<ParentInfo, OpError> {
    let pool = store.with_pool(parent.pool, &parent.namespace)?;
    let (image, trash) = directory::name_of(&pool, &parent.image_id).await?.unwrap_or_default();
    let header = names::header_object(&parent.image_id);
    let snapshot = directory::call(&pool, &header, cls::snapshot_get(parent.snap)).await?;
    Ok(ParentInfo {
        pool: pool.pool_name(),
        pool_namespace: parent.namespace.clone(),
        image,
        id: parent.image_id.clone(),
        snapshot: snapshot.name,
        trash,
        overlap,
    })
}

async fn group_name<S: ObjectStore>(store: &S, pool: PoolId, id: &str) -> Result<String, OpError> {
    let groups = store.with_pool(pool, store.namespace())?;
    let name = directory::call(&groups, GROUP_DIRECTORY, cls::dir_get_name(id)).await?;
    let namespace =
        if store.namespace().is_empty() { String::new() } else { format!("{}/", store.namespace()) };
    Ok(format!("{}/{namespace}{name}", groups.pool_name()))
}

async fn mirroring<S: ObjectStore>(
    store: &S,
    id: &str,
    header: &Header,
) -> Result<Option<MirroringInfo>, OpError> {
    let found = match directory::call(store, names::MIRRORING, cls::mirror_image_get(id)).await {
        // No such image, no image at all, or a store that knows nothing of it.
        Err(error) if error.is(Errno::ENOENT) || error.is(Errno::EOPNOTSUPP) => return Ok(None),
        found => found?,
    };
    let mode = match found.mode {
        0 => "journal",
        1 => "snapshot",
        _ => "unknown",
    };
    let state = match found.state {
        0 => "disabling",
        1 => "enabled",
        2 => return Ok(None),
        3 => "creating",
        _ => "unknown",
    };
    Ok(Some(MirroringInfo { mode, state, global_id: found.global_id, primary: is_primary(header) }))
}

/// Ceph: `GetInfoRequest::calc_promotion_state` in `src/librbd/mirror/GetInfoRequest.cc`.
fn is_primary(header: &Header) -> Option<bool> {
    header.snapshots.iter().find_map(|snapshot| match &snapshot.namespace {
        SnapshotNamespace::Mirror(mirror) => Some(mirror.state == PRIMARY),
        _ => None,
    })
}

/// Ceph: `MIRROR_SNAPSHOT_STATE_PRIMARY` in `src/cls/rbd/cls_rbd_types.h`.
const PRIMARY: u8 = 0;

pub(super) async fn watchers<S: ObjectStore>(store: &S, header: &str) -> Result<Vec<ObjectWatcher>, OpError> {
    let reply = store.read(header, Operation::new().list_watchers(), SnapId::HEAD).await?;
    Ok(reply.outcome(0)?.watchers()?)
}

pub(super) async fn lock_owner<S: ObjectStore>(
    store: &S,
    header: &str,
) -> Result<Option<LockOwner>, OpError> {
    Ok(locks_of(store, header).await?.owners.into_iter().next())
}

/// All metadata pairs of an image, by key, as `rbd image-meta ls` shows them.
///
/// # Errors
/// [`OpenError`] if there is no such image or it cannot be read.
pub async fn list_metadata<S: ObjectStore>(
    store: &S,
    image: &ImageRef,
) -> Result<BTreeMap<String, Vec<u8>>, OpenError> {
    let header = header_object(store, image).await?;
    match header::metadata(store, &header).await {
        Err(error) if error.is(Errno::ENOENT) => Err(OpenError::NoImage { image: image.as_str().to_owned() }),
        metadata => metadata.map_err(|source| OpenError::Op {
            image: image.as_str().to_owned(),
            action: "read the metadata",
            source,
        }),
    }
}

impl ImageInfo {
    /// What the image is to be opened as, to get the same again.
    #[must_use]
    pub fn image_ref(&self) -> ImageRef {
        match &self.name {
            Some(name) if self.format == 1 => ImageRef::Name(name.clone()),
            _ => ImageRef::Id(self.id.clone()),
        }
    }
}
