//! An image's metadata, as its header object holds them.

mod v1;

use std::collections::BTreeMap;

use ceph_codec::{PoolId, SnapId, Utime};
use rados::{Errno, OpError, SnapContext};

use crate::cls::snapshots::Protection;
use crate::cls::{self, Batch, GroupSpec, ParentSpec, Slot, SnapshotNamespace};
use crate::{Features, Flags, ObjectStore, OpFeatures};
pub(crate) use v1::decode as decode_v1;

/// Metadata pairs to ask for at once. Images have few; the rest comes in further operations.
const METADATA_PAGE: u64 = 128;

/// Snapshots to ask for at once: four calls each, and an operation has at most 65535.
const SNAPSHOT_PAGE: usize = 512;

/// How often to start again because a snapshot was removed between two operations. Ceph:
/// `MAX_ENOENT_RETRIES` in `librbd/image/RefreshRequest.cc`.
const RETRIES: usize = 10;

/// Keys of metadata that override configuration.
const CONF_PREFIX: &str = "conf_";

/// Everything that the header tells. What cannot change during the image's life comes with the rest: it costs
/// no further operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    /// 1 or 2.
    pub(crate) format: u8,
    pub(crate) order: u8,
    pub(crate) object_prefix: String,
    /// None if the data are in the pool of the header.
    pub(crate) data_pool: Option<PoolId>,
    /// Unit and count, if the image has the feature.
    pub(crate) striping: Option<(u64, u64)>,
    pub(crate) create_timestamp: Utime,
    pub(crate) access_timestamp: Utime,
    pub(crate) modify_timestamp: Utime,
    pub(crate) size: u64,
    pub(crate) features: Features,
    /// Those that a client must know to do what it wants to do.
    pub(crate) incompatible: Features,
    pub(crate) op_features: OpFeatures,
    pub(crate) flags: Flags,
    pub(crate) snapc: SnapContext,
    /// Newest first, as in `snapc`.
    pub(crate) snapshots: Vec<Snapshot>,
    pub(crate) snapshot_limit: Option<u64>,
    pub(crate) parent: Option<ParentSpec>,
    /// Bytes of the live image that may come from the parent.
    pub(crate) parent_overlap: Option<u64>,
    pub(crate) group: Option<GroupSpec>,
    /// Configuration that the image overrides, without the prefix `conf_`.
    pub(crate) config: BTreeMap<String, String>,
}

/// A snapshot of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its number.
    pub id: SnapId,
    /// Its name.
    pub name: String,
    /// Who made it, and what for.
    pub namespace: SnapshotNamespace,
    /// Bytes of the image when it was taken.
    pub size: u64,
    /// When it was taken.
    pub timestamp: Utime,
    /// Whether it is protected from removal, because it has clones or may get some.
    pub protected: bool,
    /// Whether somebody is about to end that, or was interrupted at it: it can be neither cloned nor removed.
    pub unprotecting: bool,
    /// Number of clones that refer to it.
    pub child_count: u32,
    /// Flags of its object map.
    pub flags: Flags,
    /// Bytes of it that may come from the image's parent.
    pub parent_overlap: Option<u64>,
}

impl Header {
    /// Reads it, in either format.
    pub(crate) async fn load_format<S: ObjectStore>(
        store: &S,
        object: &str,
        format: u8,
        read_only: bool,
    ) -> Result<Self, OpError> {
        match format {
            1 => Self::load_v1(store, object).await,
            _ => Self::load(store, object, read_only).await,
        }
    }

    /// Reads one of format 2; two operations, one if there are no snapshots.
    pub(crate) async fn load<S: ObjectStore>(
        store: &S,
        object: &str,
        read_only: bool,
    ) -> Result<Self, OpError> {
        let mut retries = 0;
        loop {
            let mut header = Self::load_live(store, object, read_only).await?;
            match load_snapshots(store, object, &header.snapc.snaps).await {
                Ok(snapshots) => {
                    header.snapshots = snapshots;
                    return Ok(header);
                }
                Err(error) if error.is(Errno::ENOENT) && retries < RETRIES => retries += 1,
                Err(error) => return Err(error),
            }
        }
    }

    async fn load_live<S: ObjectStore>(store: &S, object: &str, read_only: bool) -> Result<Self, OpError> {
        let mut batch = Batch::default();
        let size = batch.add(cls::get_size(SnapId::HEAD));
        let object_prefix = batch.add(cls::get_object_prefix());
        let features = batch.add(cls::get_features(read_only));
        let flags = batch.add(cls::get_flags(SnapId::HEAD));
        let snapc = batch.add(cls::get_snapcontext());
        let data_pool = batch.add(cls::get_data_pool());
        let op_features = batch.add(cls::op_features_get());
        let create_timestamp = batch.add(cls::get_create_timestamp());
        let access_timestamp = batch.add(cls::get_access_timestamp());
        let modify_timestamp = batch.add(cls::get_modify_timestamp());
        let parent = batch.add(cls::parent_get());
        let parent_overlap = batch.add(cls::parent_overlap_get(SnapId::HEAD));
        let group = batch.add(cls::image_group_get());
        let metadata = batch.add(cls::metadata_list("", METADATA_PAGE));
        let striping = batch.add_optional(cls::get_stripe_unit_count());
        let limit = batch.add_optional(cls::snapshot_get_limit());
        let reply = store.read(object, batch.into_operation(), SnapId::HEAD).await?;

        let (order, size) = size.get(&reply)?;
        let (features, incompatible) = features.get(&reply)?;
        let ids = snapc.get(&reply)?;
        let data_pool = data_pool.get(&reply)?;
        let parent = parent.get(&reply)?;
        let group = group.get(&reply)?;
        let mut metadata = metadata.get(&reply)?;
        if metadata.len() as u64 >= METADATA_PAGE {
            metadata = rest_of_metadata(store, object, metadata).await?;
        }
        Ok(Self {
            format: 2,
            order,
            object_prefix: object_prefix.get(&reply)?,
            data_pool: (data_pool.0 >= 0).then_some(data_pool),
            striping: if features.contains(Features::STRIPING_V2) {
                Some(striping.get(&reply)?)
            } else {
                None
            },
            create_timestamp: create_timestamp.get(&reply)?,
            access_timestamp: access_timestamp.get(&reply)?,
            modify_timestamp: modify_timestamp.get(&reply)?,
            size,
            features,
            incompatible,
            op_features: op_features.get(&reply)?,
            flags: flags.get(&reply)?,
            snapc: SnapContext { seq: ids.seq, snaps: ids.snaps.into() },
            snapshots: Vec::new(),
            snapshot_limit: limit.get(&reply).ok().filter(|limit| *limit < u64::MAX),
            parent: parent.exists().then_some(parent),
            parent_overlap: parent_overlap.get(&reply)?,
            group: (group.pool.0 >= 0).then_some(group),
            config: config(&metadata),
        })
    }

    /// The snapshot with that number.
    pub(crate) fn snapshot(&self, id: SnapId) -> Option<&Snapshot> {
        self.snapshots.iter().find(|snapshot| snapshot.id == id)
    }

    /// The newest snapshot made by a user with that name.
    pub(crate) fn snapshot_named(&self, name: &str) -> Option<&Snapshot> {
        self.snapshots.iter().find(|s| s.namespace == SnapshotNamespace::User && s.name == name)
    }

    /// The snapshot with that name in that namespace.
    pub(crate) fn snapshot_in(&self, namespace: &SnapshotNamespace, name: &str) -> Option<&Snapshot> {
        self.snapshots.iter().find(|s| namespace.matches(&s.namespace) && s.name == name)
    }

    /// Size of the live image or of a snapshot; none if there is no such snapshot.
    pub(crate) fn size_at(&self, snap: SnapId) -> Option<u64> {
        if snap == SnapId::HEAD { Some(self.size) } else { self.snapshot(snap).map(|s| s.size) }
    }

    /// Flags of the live image or of a snapshot; none if there is no such snapshot.
    pub(crate) fn flags_at(&self, snap: SnapId) -> Option<Flags> {
        if snap == SnapId::HEAD { Some(self.flags) } else { self.snapshot(snap).map(|s| s.flags) }
    }

    /// Bytes of the live image or of a snapshot that may come from a parent.
    pub(crate) fn parent_overlap_at(&self, snap: SnapId) -> u64 {
        let overlap = if snap == SnapId::HEAD {
            self.parent_overlap
        } else {
            self.snapshot(snap).and_then(|s| s.parent_overlap)
        };
        if self.parent.is_some() { overlap.unwrap_or(0) } else { 0 }
    }
}

async fn load_snapshots<S: ObjectStore>(
    store: &S,
    object: &str,
    ids: &[SnapId],
) -> Result<Vec<Snapshot>, OpError> {
    let mut snapshots = Vec::with_capacity(ids.len());
    for ids in ids.chunks(SNAPSHOT_PAGE) {
        let mut batch = Batch::default();
        let slots: Vec<_> = ids.iter().map(|id| SnapshotSlots::ask(&mut batch, *id)).collect();
        let reply = store.read(object, batch.into_operation(), SnapId::HEAD).await?;
        for slots in slots {
            let record = slots.record.get(&reply)?;
            let protection = slots.protection.get(&reply)?;
            snapshots.push(Snapshot {
                id: record.id,
                name: record.name,
                namespace: record.namespace,
                size: record.size,
                timestamp: record.timestamp,
                protected: protection == Protection::Protected as u8,
                unprotecting: protection == Protection::Unprotecting as u8,
                child_count: record.child_count,
                flags: slots.flags.get(&reply)?,
                parent_overlap: slots.parent_overlap.get(&reply)?,
            });
        }
    }
    Ok(snapshots)
}

struct SnapshotSlots {
    record: Slot<cls::SnapshotRecord>,
    flags: Slot<Flags>,
    protection: Slot<u8>,
    parent_overlap: Slot<Option<u64>>,
}

impl SnapshotSlots {
    fn ask(batch: &mut Batch, id: SnapId) -> Self {
        Self {
            record: batch.add(cls::snapshot_get(id)),
            flags: batch.add(cls::get_flags(id)),
            protection: batch.add(cls::get_protection_status(id)),
            parent_overlap: batch.add(cls::parent_overlap_get(id)),
        }
    }
}

/// All metadata pairs of an image.
pub(crate) async fn metadata<S: ObjectStore>(
    store: &S,
    object: &str,
) -> Result<BTreeMap<String, Vec<u8>>, OpError> {
    rest_of_metadata(store, object, BTreeMap::new()).await
}

async fn rest_of_metadata<S: ObjectStore>(
    store: &S,
    object: &str,
    mut all: BTreeMap<String, Vec<u8>>,
) -> Result<BTreeMap<String, Vec<u8>>, OpError> {
    loop {
        let after = all.last_key_value().map_or("", |(key, _)| key);
        let (operation, slot) = cls::metadata_list(after, METADATA_PAGE).alone();
        let page = slot.get(&store.read(object, operation, SnapId::HEAD).await?)?;
        let known = all.len();
        let last = (page.len() as u64) < METADATA_PAGE;
        all.extend(page);
        // A page of nothing new would go on for ever.
        if last || all.len() == known {
            return Ok(all);
        }
    }
}

/// Values that are not text are nobody's configuration.
fn config(metadata: &BTreeMap<String, Vec<u8>>) -> BTreeMap<String, String> {
    metadata
        .iter()
        .filter_map(|(key, value)| Some((key.strip_prefix(CONF_PREFIX)?, std::str::from_utf8(value).ok()?)))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// Whether the object is there; nothing else about it.
pub(crate) async fn exists<S: ObjectStore>(store: &S, object: &str) -> Result<bool, OpError> {
    match store.read(object, rados::Operation::new().stat(), SnapId::HEAD).await {
        Ok(_) => Ok(true),
        Err(error) if error.is(Errno::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}
