//! What other tools do to images: make them, resize them, take snapshots.

use ceph_codec::{Encode, PoolId, SnapId, Utime, versioned};
use rados::Errno;

use super::cls_children::Parent;
use super::cls_object_map::States;
use super::cls_snapshots::{self, SnapshotRecord};
use super::{MemStore, ObjectKey};
use crate::{Features, Layout, LayoutError, names};

/// An image to be made in a [`MemStore`].
#[derive(Debug, Clone)]
pub struct NewImage {
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// Binary logarithm of the object size.
    pub order: u8,
    /// Stripe unit in bytes and stripe count, if it is to be striped.
    pub striping: Option<(u64, u64)>,
    /// Its features; those that the other fields need are added.
    pub features: Features,
    /// Where its data objects go, if not into the same pool.
    pub data_pool: Option<PoolId>,
}

impl Default for NewImage {
    /// Empty and without name, with the features and the object size that Ceph uses by default.
    fn default() -> Self {
        Self {
            name: String::new(),
            size: 0,
            order: 22,
            striping: None,
            features: Features(61),
            data_pool: None,
        }
    }
}

impl MemStore {
    /// Makes an image and returns its id. An image of the same name is replaced.
    ///
    /// # Errors
    /// [`LayoutError`] if its layout is impossible.
    pub fn create_image(&self, image: &NewImage) -> Result<String, LayoutError> {
        let (unit, count) = image.striping.unwrap_or_else(|| (1 << image.order.min(25), 1));
        let layout = Layout::new(image.order, unit, count)?;
        let mut cluster = self.cluster.lock();
        let id = format!("{:x}", 0x1000_0000_0000 + cluster.next_snap().0);
        let mut features = image.features;
        let mut prefix = format!("rbd_data.{id}");
        if image.striping.is_some() {
            features = features.union(Features::STRIPING_V2);
        }
        if image.data_pool.is_some() {
            features = features.union(Features::DATA_POOL);
            prefix = format!("rbd_data.{}.{id}", self.pool);
        }

        let now = Utime { sec: 1_795_397_631, nsec: 0 };
        let header = cluster.object_mut(self.key(&names::header_object(&id)));
        let mut put = |key: &str, value: Vec<u8>| header.omap.insert(key.to_owned(), value);
        put("size", image.size.encode_to_vec());
        put("order", image.order.encode_to_vec());
        put("features", features.0.encode_to_vec());
        put("object_prefix", prefix.encode_to_vec());
        put("snap_seq", 0u64.encode_to_vec());
        for key in ["create_timestamp", "access_timestamp", "modify_timestamp"] {
            put(key, now.encode_to_vec());
        }
        if let Some((unit, count)) = image.striping {
            put("stripe_unit", unit.encode_to_vec());
            put("stripe_count", count.encode_to_vec());
        }
        if let Some(pool) = image.data_pool {
            put("data_pool_id", pool.encode_to_vec());
        }
        cluster.object_mut(self.key(&names::id_object(&image.name))).data = id.encode_to_vec();
        let directory = cluster.object_mut(self.key(names::DIRECTORY));
        directory.omap.insert(format!("name_{}", image.name), id.encode_to_vec());
        directory.omap.insert(format!("id_{id}"), image.name.encode_to_vec());
        if features.contains(Features::OBJECT_MAP) {
            let states = States(vec![0; index(layout.object_count(image.size))]);
            cluster.object_mut(self.map_key(&id, SnapId::HEAD)).data = states.encoded(true);
        }
        Ok(id)
    }

    /// Makes a clone of a snapshot and returns its id. `parent` is where the parent is: another pool or namespace of the
    /// same cluster, or this one. The parent does not learn of it.
    ///
    /// # Errors
    /// [`LayoutError`] if the clone's layout is impossible.
    pub fn create_clone(
        &self,
        image: &NewImage,
        parent: &Self,
        parent_id: &str,
        snap: SnapId,
        overlap: u64,
    ) -> Result<String, LayoutError> {
        let id = self.create_image(image)?;
        self.set_parent(&id, parent, parent_id, snap, overlap);
        Ok(id)
    }

    /// Changes what an image is a clone of, and the bytes it may have from it.
    pub fn set_parent(&self, id: &str, parent: &Self, parent_id: &str, snap: SnapId, overlap: u64) {
        let mut stored = Vec::new();
        versioned(&mut stored, 2, 2, |out| {
            (parent.pool, &*parent.namespace).encode(out);
            (parent_id, snap).encode(out);
            Some(overlap).encode(out);
        });
        self.set_header_key(id, "parent", stored);
    }

    /// Takes a snapshot, as the owner of the exclusive lock does for `rbd snap create`: the header and the object
    /// maps are changed. Nobody is notified.
    ///
    /// # Errors
    /// `ENOENT` if there is no image with that id, `EIO` if its metadata are damaged.
    pub fn create_snapshot(&self, id: &str, name: &str) -> Result<SnapId, Errno> {
        let mut cluster = self.cluster.lock();
        let snap = cluster.next_snap();
        let key = self.key(&names::header_object(id));
        cluster.object(&key).ok_or(Errno::ENOENT)?;
        let header = cluster.object_mut(key);
        let record = SnapshotRecord {
            id: snap,
            name: name.to_owned(),
            size: stored_u64(&header.omap["size"])?,
            flags: header.omap.get("flags").map_or(Ok(0), |flags| stored_u64(flags))?,
            parent_overlap: Parent::overlap(header),
            ..SnapshotRecord::default()
        };
        cls_snapshots::put_snapshot(header, &record);
        header.omap.insert("snap_seq".to_owned(), snap.encode_to_vec());
        if let Some(map) = cluster.object(&self.map_key(id, SnapId::HEAD)).cloned() {
            let states = States::load(&map)?.after_snapshot();
            cluster.object_mut(self.map_key(id, snap)).data = map.data;
            cluster.object_mut(self.map_key(id, SnapId::HEAD)).data = states.encoded(true);
        }
        Ok(snap)
    }

    /// Removes a snapshot from the header. Nobody is notified, and its data are kept.
    pub fn remove_snapshot(&self, id: &str, snap: SnapId) {
        let mut cluster = self.cluster.lock();
        let header = cluster.object_mut(self.key(&names::header_object(id)));
        header.omap.remove(&cls_snapshots::snapshot_key(snap));
    }

    /// Changes an image's size and that of its object map. Nobody is notified, and no data are removed.
    ///
    /// # Errors
    /// `ENOENT` if there is no image with that id, `EIO` if its metadata are damaged.
    pub fn resize_image(&self, id: &str, size: u64) -> Result<(), Errno> {
        let mut cluster = self.cluster.lock();
        let key = self.key(&names::header_object(id));
        let order = *cluster.object(&key).and_then(|h| h.omap["order"].first()).ok_or(Errno::ENOENT)?;
        let header = cluster.object_mut(key);
        header.omap.insert("size".to_owned(), size.encode_to_vec());
        Parent::shrink(header, size);
        if let Some(map) = cluster.object(&self.map_key(id, SnapId::HEAD)) {
            let mut states = States::load(map)?;
            states.0.resize(index(size.div_ceil(1 << order)), 0);
            cluster.object_mut(self.map_key(id, SnapId::HEAD)).data = states.encoded(true);
        }
        Ok(())
    }

    /// Sets a key of an image's header as it is stored, encoded.
    pub fn set_header_key(&self, id: &str, key: &str, value: Vec<u8>) {
        let mut cluster = self.cluster.lock();
        cluster.object_mut(self.key(&names::header_object(id))).omap.insert(key.to_owned(), value);
    }

    /// The states in an image's object map, by number of the object; none if it has no (readable) map.
    #[must_use]
    pub fn object_map(&self, id: &str) -> Option<Vec<u8>> {
        let cluster = self.cluster.lock();
        Some(States::load(cluster.object(&self.map_key(id, SnapId::HEAD))?).ok()?.0)
    }

    /// The same of one of its snapshots.
    #[must_use]
    pub fn snapshot_object_map(&self, id: &str, snap: SnapId) -> Option<Vec<u8>> {
        let cluster = self.cluster.lock();
        Some(States::load(cluster.object(&self.map_key(id, snap))?).ok()?.0)
    }

    /// Overwrites the states of an image's object map, or that of a snapshot.
    pub fn set_object_map(&self, id: &str, snap: SnapId, states: Vec<u8>) {
        let mut cluster = self.cluster.lock();
        cluster.object_mut(self.map_key(id, snap)).data = States(states).encoded(true);
    }

    fn map_key(&self, id: &str, snap: SnapId) -> ObjectKey {
        let name = format!("rbd_object_map.{id}");
        self.key(&if snap == SnapId::HEAD { name } else { format!("{name}.{:016x}", snap.0) })
    }
}

fn stored_u64(value: &[u8]) -> Result<u64, Errno> {
    value.try_into().map(u64::from_le_bytes).map_err(|_| Errno::EIO)
}

fn index(count: u64) -> usize {
    usize::try_from(count).expect("tests have small images")
}
