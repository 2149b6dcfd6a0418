//! The methods of the object class `rbd` for snapshots, size and features.
//!
//! Ceph: `src/cls/rbd/cls_rbd.cc`.

use ceph_codec::{Decode, DecodeError, Encode, Reader, SnapId, Utime, versioned};
use rados::Errno;

use super::cls_children::Parent;
use super::cls_rbd::{Output, arg, change_op_features, raw, value, with_prefix};
use super::object::Object;
use crate::{Features, OpFeatures, SnapshotNamespace};

const PREFIX: &str = "snapshot_";

/// Features that may be enabled and disabled. Ceph: `RBD_FEATURES_MUTABLE`, `RBD_FEATURES_DISABLE_ONLY`.
const MUTABLE: Features = Features(
    Features::EXCLUSIVE_LOCK.0 | Features::OBJECT_MAP.0 | Features::FAST_DIFF.0 | Features::JOURNALING.0,
);

/// None if the method is of another kind.
pub(super) fn call(object: &mut Object, method: &str, input: &[u8], now: Utime) -> Option<Output> {
    let r = &mut Reader::new(input);
    Some(match method {
        "get_snapcontext" => get_snapcontext(object),
        "snapshot_get" => arg(r).and_then(|snap| snapshot_get(object, snap)),
        "get_protection_status" => {
            arg(r).and_then(|snap| Ok(snapshot(object, snap)?.protection.encode_to_vec()))
        }
        "snapshot_add" => snapshot_add(object, r, now),
        "snapshot_remove" => arg(r).and_then(|snap| snapshot_remove(object, snap)),
        "snapshot_rename" => snapshot_rename(object, r),
        "snapshot_trash_add" => arg(r).and_then(|snap| snapshot_trash_add(object, snap)),
        "snapshot_set_limit" => arg(r).and_then(|limit| snapshot_set_limit(object, limit)),
        "set_protection_status" => set_protection_status(object, r),
        "set_size" => arg(r).and_then(|size| set_size(object, size)),
        "set_features" => set_features(object, r),
        _ => return None,
    })
}

fn get_snapcontext(object: &Object) -> Output {
    let seq: u64 = value(object, "snap_seq")?;
    let mut ids = Vec::new();
    for key in with_prefix(object, PREFIX, "").map(|(key, _)| key) {
        ids.push(u64::from_str_radix(key, 16).map_err(|_| Errno::EIO)?);
    }
    ids.reverse();
    let mut out = seq.encode_to_vec();
    ceph_codec::encode_seq(ids.iter(), &mut out);
    Ok(out)
}

fn snapshot_get(object: &Object, snap: SnapId) -> Output {
    let record = snapshot(object, snap)?;
    let mut out = Vec::new();
    versioned(&mut out, 1, 1, |out| {
        (record.id, &record.namespace).encode(out);
        (&record.name, record.size).encode(out);
        (record.timestamp, record.child_count).encode(out);
    });
    Ok(out)
}

fn snapshot_add(object: &mut Object, r: &mut Reader<'_>, now: Utime) -> Output {
    let (name, id) = arg::<(String, SnapId)>(r)?;
    let namespace = if r.is_empty() { SnapshotNamespace::User } else { arg(r)? };
    let seq: SnapId = value(object, "snap_seq")?;
    if id < seq {
        return Err(Errno(116)); // ESTALE
    }
    let limit = value(object, "snap_limit").unwrap_or(u64::MAX);
    for (number, old) in snapshots(object)?.into_iter().enumerate() {
        if number as u64 + 1 >= limit {
            return Err(Errno::EDQUOT);
        }
        if (old.name == name && old.namespace == namespace) || old.id == id {
            return Err(Errno::EEXIST);
        }
    }
    let record = SnapshotRecord {
        id,
        name,
        namespace,
        size: value(object, "size")?,
        flags: value(object, "flags").unwrap_or(0),
        timestamp: now,
        parent_overlap: Parent::overlap(object),
        ..SnapshotRecord::default()
    };
    put_snapshot(object, &record);
    object.omap.insert("snap_seq".to_owned(), id.encode_to_vec());
    Ok(Vec::new())
}

fn snapshot_remove(object: &mut Object, snap: SnapId) -> Output {
    let record = snapshot(object, snap)?;
    if record.protection != 0 || record.child_count > 0 {
        return Err(Errno::EBUSY);
    }
    object.omap.remove(&snapshot_key(snap));
    let rest = snapshots(object)?;
    let mut unused = 0;
    if Parent::overlap(object).is_none() && rest.iter().all(|record| record.parent_overlap.is_none()) {
        object.omap.remove("parent");
        unused |= OpFeatures::CLONE_CHILD.0;
    }
    if !rest.iter().any(|record| matches!(record.namespace, SnapshotNamespace::Trash { .. })) {
        unused |= OpFeatures::SNAP_TRASH.0;
    }
    change_op_features(object, 0, unused)
}

fn snapshot_rename(object: &mut Object, r: &mut Reader<'_>) -> Output {
    let (snap, name) = arg::<(SnapId, String)>(r)?;
    let taken = |record: &SnapshotRecord| record.namespace == SnapshotNamespace::User && record.name == name;
    if snapshots(object)?.iter().any(taken) {
        return Err(Errno::EEXIST);
    }
    let mut record = snapshot(object, snap)?;
    if record.namespace != SnapshotNamespace::User {
        return Err(Errno::EINVAL);
    }
    record.name = name;
    put_snapshot(object, &record);
    Ok(Vec::new())
}

fn snapshot_trash_add(object: &mut Object, snap: SnapId) -> Output {
    let mut record = snapshot(object, snap)?;
    if record.protection != 0 {
        return Err(Errno::EBUSY);
    }
    let original_kind = match record.namespace {
        SnapshotNamespace::User => 0,
        SnapshotNamespace::Group { .. } => 1,
        SnapshotNamespace::Trash { .. } => return Err(Errno::EEXIST),
        SnapshotNamespace::Mirror(_) => 3,
        SnapshotNamespace::Other(kind) => kind,
    };
    // A real OSD takes a random name.
    let original_name = std::mem::replace(&mut record.name, format!("trash-{snap}"));
    record.namespace = SnapshotNamespace::Trash { original_name, original_kind };
    put_snapshot(object, &record);
    change_op_features(object, OpFeatures::SNAP_TRASH.0, OpFeatures::SNAP_TRASH.0)
}

fn snapshot_set_limit(object: &mut Object, limit: u64) -> Output {
    if limit == u64::MAX {
        object.omap.remove("snap_limit");
    } else if limit < snapshots(object)?.len() as u64 {
        return Err(Errno::ERANGE);
    } else {
        object.omap.insert("snap_limit".to_owned(), limit.encode_to_vec());
    }
    Ok(Vec::new())
}

fn set_protection_status(object: &mut Object, r: &mut Reader<'_>) -> Output {
    let (snap, status) = arg::<(SnapId, u8)>(r)?;
    let features = Features(value(object, "features")?);
    if !features.contains(Features::LAYERING) {
        return Err(Errno::ENOEXEC);
    }
    if status > 2 {
        return Err(Errno::EINVAL);
    }
    let mut record = snapshot(object, snap)?;
    record.protection = status;
    put_snapshot(object, &record);
    Ok(Vec::new())
}

fn set_size(object: &mut Object, size: u64) -> Output {
    raw(object, "size")?;
    object.omap.insert("size".to_owned(), size.encode_to_vec());
    Parent::shrink(object, size);
    Ok(Vec::new())
}

fn set_features(object: &mut Object, r: &mut Reader<'_>) -> Output {
    let (features, mask) = arg::<(u64, u64)>(r)?;
    let (features, mask) = (Features(features), Features(mask).common(Features::KNOWN));
    let enabled = features.common(mask);
    let disabled = mask.without(features);
    let may_disable = MUTABLE.union(Features::DEEP_FLATTEN);
    if !enabled.without(MUTABLE).is_empty() || !disabled.without(may_disable).is_empty() {
        return Err(Errno::EINVAL);
    }
    let old = Features(value(object, "features")?);
    object.omap.insert("features".to_owned(), old.without(mask).union(enabled).0.encode_to_vec());
    Ok(Vec::new())
}

/// What the header keeps of a snapshot. Ceph: `cls_rbd_snap` in `src/cls/rbd/cls_rbd.h`.
#[derive(Debug, Clone)]
pub(super) struct SnapshotRecord {
    pub(super) id: SnapId,
    pub(super) name: String,
    pub(super) size: u64,
    pub(super) protection: u8,
    pub(super) flags: u64,
    pub(super) namespace: SnapshotNamespace,
    pub(super) timestamp: Utime,
    pub(super) child_count: u32,
    pub(super) parent_overlap: Option<u64>,
}

impl Default for SnapshotRecord {
    fn default() -> Self {
        Self {
            id: SnapId(0),
            name: String::new(),
            size: 0,
            protection: 0,
            flags: 0,
            namespace: SnapshotNamespace::User,
            timestamp: Utime::default(),
            child_count: 0,
            parent_overlap: None,
        }
    }
}

pub(super) fn snapshot(object: &Object, snap: SnapId) -> Result<SnapshotRecord, Errno> {
    value(object, &snapshot_key(snap))
}

/// All of them, oldest first.
pub(super) fn snapshots(object: &Object) -> Result<Vec<SnapshotRecord>, Errno> {
    with_prefix(object, PREFIX, "")
        .map(|(_, record)| SnapshotRecord::decode_from(record).map_err(|_| Errno::EIO))
        .collect()
}

pub(super) fn put_snapshot(object: &mut Object, record: &SnapshotRecord) {
    object.omap.insert(snapshot_key(record.id), record.encode_to_vec());
}

pub(super) fn snapshot_key(snap: SnapId) -> String {
    format!("{PREFIX}{:016x}", snap.0)
}

impl Encode for SnapshotRecord {
    fn encode(&self, out: &mut Vec<u8>) {
        versioned(out, 8, 8, |out| {
            self.id.encode(out);
            (&self.name, self.size).encode(out);
            (self.protection, self.flags).encode(out);
            (&self.namespace, self.timestamp).encode(out);
            (self.child_count, self.parent_overlap).encode(out);
        });
    }
}

impl Decode for SnapshotRecord {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.versioned("cls_rbd_snap", 8, |r, _| {
            let (id, name) = <(SnapId, String)>::decode(r)?;
            let (size, (protection, flags)) = <(u64, (u8, u64))>::decode(r)?;
            let (namespace, timestamp) = <(SnapshotNamespace, Utime)>::decode(r)?;
            let (child_count, parent_overlap) = <(u32, Option<u64>)>::decode(r)?;
            Ok(Self { id, name, size, protection, flags, namespace, timestamp, child_count, parent_overlap })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `snapshot_0000000000000004` in the omap of an image's header, from an OSD of Ceph 16.2.15.
    const STORED: [u8; 60] = [
        0x08, 0x08, 0x36, 0, 0, 0, 0x04, 0, 0, 0, 0, 0, 0, 0, 0x02, 0, 0, 0, 0x73, 0x31, 0, 0, 0, 0x04, 0, 0,
        0, 0, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0x01, 0x01, 0x04, 0, 0, 0, 0, 0, 0, 0, 0xff, 0x97, 0x03, 0x6b,
        0x70, 0x14, 0x5e, 0x17, 0, 0, 0, 0, 0,
    ];

    #[test]
    fn a_snapshot_is_stored_as_on_pacific() {
        let record = SnapshotRecord::decode_from(&STORED).unwrap();
        assert_eq!((record.id, record.name.as_str(), record.size), (SnapId(4), "s1", 64 << 20));
        assert_eq!(record.encode_to_vec(), STORED);
    }
}
