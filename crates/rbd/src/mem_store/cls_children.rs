//! The methods of the object class `rbd` for parents and children.
//!
//! Ceph: `src/cls/rbd/cls_rbd.cc`.

use std::collections::BTreeSet;

use ceph_codec::{Decode, Encode, PoolId, Reader, SnapId, versioned};
use rados::Errno;

use super::cls_rbd::{self, Output, arg, value};
use super::cls_snapshots::{put_snapshot, snapshot, snapshots};
use super::object::Object;
use crate::cls::ParentSpec;
use crate::cls::children::ChildSpec;
use crate::{Features, OpFeatures};

/// None if the method is of another kind.
pub(super) fn call(object: &mut Object, method: &str, input: &[u8]) -> Option<Output> {
    let r = &mut Reader::new(input);
    Some(match method {
        "parent_get" => parent_get(object),
        "parent_overlap_get" => parent_overlap_get(object, r),
        "parent_attach" => parent_attach(object, r),
        "set_parent" => set_parent(object, r),
        "parent_detach" | "remove_parent" => detach(object),
        "child_attach" => child_attach(object, r),
        "child_detach" => child_detach(object, r),
        "children_list" => children_list(object, r),
        "add_child" => add_child(object, r),
        "remove_child" => remove_child(object, r),
        "get_children" => get_children(object, r),
        _ => return None,
    })
}

/// The parent, as the header stores it. Ceph: `cls_rbd_parent` in `src/cls/rbd/cls_rbd.h`.
pub(super) struct Parent {
    spec: ParentSpec,
    /// None if only snapshots have it still.
    overlap: Option<u64>,
}

impl Parent {
    pub(super) fn of(object: &Object) -> Option<Self> {
        let stored = object.omap.get("parent")?;
        Reader::new(stored)
            .versioned("cls_rbd_parent", 2, |r, _| {
                let (pool, namespace) = <(PoolId, String)>::decode(r)?;
                let (image_id, snap) = <(String, SnapId)>::decode(r)?;
                Ok(Self { spec: ParentSpec { pool, namespace, image_id, snap }, overlap: Option::decode(r)? })
            })
            .ok()
    }

    fn store(&self, object: &mut Object) {
        let mut out = Vec::new();
        versioned(&mut out, 2, 1, |out| {
            (self.spec.pool, self.spec.namespace.as_str()).encode(out);
            (self.spec.image_id.as_str(), self.spec.snap).encode(out);
            self.overlap.encode(out);
        });
        object.omap.insert("parent".to_owned(), out);
    }

    /// Bytes of the live image that may come from the parent.
    pub(super) fn overlap(object: &Object) -> Option<u64> {
        Self::of(object).and_then(|parent| parent.overlap)
    }

    /// The image was made smaller.
    pub(super) fn shrink(object: &mut Object, size: u64) {
        if let Some(mut parent) = Self::of(object)
            && parent.overlap.is_some_and(|overlap| overlap > size)
        {
            parent.overlap = Some(size);
            parent.store(object);
        }
    }
}

fn parent_get(object: &Object) -> Output {
    object.must_exist()?;
    Ok(Parent::of(object).map_or_else(ParentSpec::none, |parent| parent.spec).encode_to_vec())
}

fn parent_overlap_get(object: &Object, r: &mut Reader<'_>) -> Output {
    object.must_exist()?;
    let snap = arg(r)?;
    let overlap =
        if snap == SnapId::HEAD { Parent::overlap(object) } else { snapshot(object, snap)?.parent_overlap };
    Ok(overlap.encode_to_vec())
}

fn parent_attach(object: &mut Object, r: &mut Reader<'_>) -> Output {
    let (spec, overlap) = (arg(r)?, arg(r)?);
    let reattach = !r.is_empty() && arg(r)?;
    attach(object, spec, overlap, reattach)
}

fn set_parent(object: &mut Object, r: &mut Reader<'_>) -> Output {
    let ((pool, image_id), snap) = (arg::<(PoolId, String)>(r)?, arg(r)?);
    let overlap = arg(r)?;
    attach(object, ParentSpec { pool, namespace: String::new(), image_id, snap }, overlap, false)
}

fn attach(object: &mut Object, spec: ParentSpec, overlap: u64, reattach: bool) -> Output {
    require_layering(object)?;
    if !spec.exists() || overlap == 0 {
        return Err(Errno::EINVAL);
    }
    let conflict = |old: Parent| old.overlap.is_some() || old.spec != spec;
    if !reattach && Parent::of(object).is_some_and(conflict) {
        return Err(Errno::EEXIST);
    }
    let size: u64 = value(object, "size")?;
    Parent { spec, overlap: Some(overlap.min(size)) }.store(object);
    Ok(Vec::new())
}

fn detach(object: &mut Object) -> Output {
    let features = require_layering(object)?;
    let mut parent = Parent::of(object).filter(|parent| parent.overlap.is_some()).ok_or(Errno::ENOENT)?;
    let mut kept = false;
    for mut record in snapshots(object)? {
        if record.parent_overlap.is_none() {
            continue;
        }
        if features.contains(Features::DEEP_FLATTEN) {
            record.parent_overlap = None;
            put_snapshot(object, &record);
        } else {
            kept = true;
        }
    }
    if kept {
        parent.overlap = None;
        parent.store(object);
        return Ok(Vec::new());
    }
    object.omap.remove("parent");
    cls_rbd::change_op_features(object, 0, OpFeatures::CLONE_CHILD.0)
}

fn require_layering(object: &Object) -> Result<Features, Errno> {
    object.must_exist()?;
    let features = Features(value(object, "features")?);
    if features.contains(Features::LAYERING) { Ok(features) } else { Err(Errno::ENOEXEC) }
}

fn children_key(snap: SnapId) -> String {
    format!("snap_children_{:016x}", snap.0)
}

fn child_attach(object: &mut Object, r: &mut Reader<'_>) -> Output {
    let (snap, child) = (arg(r)?, arg::<ChildSpec>(r)?);
    object.must_exist()?;
    let mut record = snapshot(object, snap)?;
    let mut children: BTreeSet<ChildSpec> = value(object, &children_key(snap)).unwrap_or_default();
    if !children.insert(child) {
        return Err(Errno::EEXIST);
    }
    object.omap.insert(children_key(snap), children.encode_to_vec());
    record.child_count += 1;
    put_snapshot(object, &record);
    let parent = OpFeatures::CLONE_PARENT.0;
    cls_rbd::change_op_features(object, parent, parent)
}

fn child_detach(object: &mut Object, r: &mut Reader<'_>) -> Output {
    let (snap, child) = (arg(r)?, arg::<ChildSpec>(r)?);
    object.must_exist()?;
    let mut record = snapshot(object, snap)?;
    let mut children: BTreeSet<ChildSpec> = value(object, &children_key(snap)).unwrap_or_default();
    if !children.remove(&child) {
        return Err(Errno::ENOENT);
    }
    if children.is_empty() {
        object.omap.remove(&children_key(snap));
    } else {
        object.omap.insert(children_key(snap), children.encode_to_vec());
    }
    record.child_count -= 1;
    put_snapshot(object, &record);
    if snapshots(object)?.iter().all(|record| record.child_count == 0) {
        cls_rbd::change_op_features(object, 0, OpFeatures::CLONE_PARENT.0)?;
    }
    Ok(Vec::new())
}

fn children_list(object: &Object, r: &mut Reader<'_>) -> Output {
    let snap = arg(r)?;
    object.must_exist()?;
    snapshot(object, snap)?;
    cls_rbd::raw(object, &children_key(snap))
}

/// Readable here; Ceph's keys are the encoded parent.
fn v1_key(r: &mut Reader<'_>) -> Result<String, Errno> {
    let ((pool, image), snap) = (arg::<(PoolId, String)>(r)?, arg::<SnapId>(r)?);
    Ok(format!("{pool}/{image}@{snap}"))
}

fn add_child(object: &mut Object, r: &mut Reader<'_>) -> Output {
    let (key, child) = (v1_key(r)?, arg::<String>(r)?);
    let mut children: BTreeSet<String> = value(object, &key).unwrap_or_default();
    if !children.insert(child) {
        return Err(Errno::EEXIST);
    }
    object.exists = true;
    object.omap.insert(key, children.encode_to_vec());
    Ok(Vec::new())
}

fn remove_child(object: &mut Object, r: &mut Reader<'_>) -> Output {
    let (key, child) = (v1_key(r)?, arg::<String>(r)?);
    object.must_exist()?;
    let mut children: BTreeSet<String> = value(object, &key)?;
    if !children.remove(&child) {
        return Err(Errno::ENOENT);
    }
    if children.is_empty() {
        object.omap.remove(&key);
    } else {
        object.omap.insert(key, children.encode_to_vec());
    }
    Ok(Vec::new())
}

fn get_children(object: &Object, r: &mut Reader<'_>) -> Output {
    object.must_exist()?;
    cls_rbd::raw(object, &v1_key(r)?)
}
