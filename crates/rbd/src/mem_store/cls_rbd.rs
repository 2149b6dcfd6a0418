//! The object class `rbd`, as far as serving an image needs it. Ceph: `src/cls/rbd/cls_rbd.cc`.

use std::collections::BTreeMap;
use std::ops::Bound;

use ceph_codec::{Decode, Encode, PoolId, Reader, SnapId, Utime, versioned};
use rados::Errno;

use super::cls_snapshots::{put_snapshot, snapshot};
use super::object::Object;
use super::{cls_children, cls_directory, cls_snapshots};
use crate::Features;

const METADATA_PREFIX: &str = "metadata_";

pub(super) type Output = Result<Vec<u8>, Errno>;

pub(super) fn call(object: &mut Object, method: &str, input: &[u8], now: Utime) -> Output {
    if let Some(output) = cls_directory::call(object, method, input) {
        return output;
    }
    if let Some(output) = cls_children::call(object, method, input) {
        return output;
    }
    let r = &mut Reader::new(input);
    match method {
        "create" => return create(object, r, now),
        "get_all_features" => return Ok(Features::KNOWN.0.encode_to_vec()),
        "metadata_set" => return metadata_set(object, r),
        _ => object.must_exist()?,
    }
    if let Some(output) = cls_snapshots::call(object, method, input, now) {
        return output;
    }
    match method {
        "get_size" => get_size(object, arg(r)?),
        "get_features" => get_features(object, arg(r)?),
        "get_flags" => get_flags(object, arg(r)?),
        "set_flags" => set_flags(object, r),
        "set_access_timestamp" => set_timestamp(object, "access_timestamp", now),
        "set_modify_timestamp" => set_timestamp(object, "modify_timestamp", now),
        "get_object_prefix" => raw(object, "object_prefix"),
        "get_create_timestamp" => or_default(object, "create_timestamp", &Utime::default()),
        "get_access_timestamp" => or_default(object, "access_timestamp", &Utime::default()),
        "get_modify_timestamp" => or_default(object, "modify_timestamp", &Utime::default()),
        "get_data_pool" => or_default(object, "data_pool_id", &PoolId(-1)),
        "op_features_get" => or_default(object, "op_features", &0u64),
        "snapshot_get_limit" => or_default(object, "snap_limit", &u64::MAX),
        "get_stripe_unit_count" => get_stripe_unit_count(object),
        "image_group_get" => image_group_get(object),
        "metadata_list" => metadata_list(object, &arg::<String>(r)?, arg(r)?),
        "metadata_get" => metadata_get(object, &arg::<String>(r)?),
        "metadata_remove" => metadata_remove(object, &arg::<String>(r)?),
        "set_stripe_unit_count" => set_stripe_unit_count(object, r),
        "op_features_set" => change_op_features(object, arg(r)?, arg(r)?),
        _ => Err(Errno::EOPNOTSUPP),
    }
}

pub(super) fn arg<T: Decode>(r: &mut Reader<'_>) -> Result<T, Errno> {
    T::decode(r).map_err(|_| Errno::EINVAL)
}

pub(super) fn raw(object: &Object, key: &str) -> Output {
    object.omap.get(key).cloned().ok_or(Errno::ENOENT)
}

fn or_default(object: &Object, key: &str, default: &impl Encode) -> Output {
    Ok(object.omap.get(key).cloned().unwrap_or_else(|| default.encode_to_vec()))
}

pub(super) fn value<T: Decode>(object: &Object, key: &str) -> Result<T, Errno> {
    T::decode_from(object.omap.get(key).ok_or(Errno::ENOENT)?).map_err(|_| Errno::EIO)
}

fn create(object: &mut Object, r: &mut Reader<'_>, now: Utime) -> Output {
    let (size, order, features) = (arg::<u64>(r)?, arg::<u8>(r)?, arg::<u64>(r)?);
    let (prefix, data_pool) = (arg::<String>(r)?, if r.is_empty() { PoolId(-1) } else { arg(r)? });
    let features = Features(features);
    if !features.without(Features::KNOWN).is_empty() {
        return Err(Errno(38)); // ENOSYS
    }
    if object.omap.contains_key("object_prefix") {
        return Err(Errno::EEXIST);
    }
    if features.contains(Features::OPERATIONS) || features.contains(Features::DATA_POOL) != (data_pool.0 >= 0)
    {
        return Err(Errno::EINVAL);
    }
    let mut put = |key: &str, value: Vec<u8>| object.omap.insert(key.to_owned(), value);
    put("size", size.encode_to_vec());
    put("order", order.encode_to_vec());
    put("features", features.0.encode_to_vec());
    put("object_prefix", prefix.encode_to_vec());
    put("snap_seq", 0u64.encode_to_vec());
    for key in ["create_timestamp", "access_timestamp", "modify_timestamp"] {
        put(key, now.encode_to_vec());
    }
    if data_pool.0 >= 0 {
        put("data_pool_id", data_pool.encode_to_vec());
    }
    object.exists = true;
    Ok(Vec::new())
}

fn set_timestamp(object: &mut Object, key: &str, now: Utime) -> Output {
    object.omap.insert(key.to_owned(), now.encode_to_vec());
    Ok(Vec::new())
}

fn set_stripe_unit_count(object: &mut Object, r: &mut Reader<'_>) -> Output {
    let (unit, count) = (arg::<u64>(r)?, arg::<u64>(r)?);
    if !Features(value(object, "features")?).contains(Features::STRIPING_V2) {
        return Err(Errno::ENOEXEC);
    }
    let order: u8 = value(object, "order")?;
    if unit == 0 || count == 0 || !(1u64 << order).is_multiple_of(unit) {
        return Err(Errno::EINVAL);
    }
    object.omap.insert("stripe_unit".to_owned(), unit.encode_to_vec());
    object.omap.insert("stripe_count".to_owned(), count.encode_to_vec());
    Ok(Vec::new())
}

pub(super) fn change_op_features(object: &mut Object, op_features: u64, mask: u64) -> Output {
    let old: u64 = value(object, "op_features").unwrap_or(0);
    let new = old & !mask | op_features & mask;
    let features = Features(value(object, "features")?);
    let features = if new == 0 {
        object.omap.remove("op_features");
        features.without(Features::OPERATIONS)
    } else {
        object.omap.insert("op_features".to_owned(), new.encode_to_vec());
        features.union(Features::OPERATIONS)
    };
    object.omap.insert("features".to_owned(), features.0.encode_to_vec());
    Ok(Vec::new())
}

fn get_size(object: &Object, snap: SnapId) -> Output {
    let order: u8 = value(object, "order")?;
    let size = if snap == SnapId::HEAD { value(object, "size")? } else { snapshot(object, snap)?.size };
    Ok((order, size).encode_to_vec())
}

fn get_features(object: &Object, (_, read_only): (SnapId, bool)) -> Output {
    const INCOMPATIBLE: Features = Features(
        Features::LAYERING.0 | Features::STRIPING_V2.0 | Features::DATA_POOL.0 | Features::DIRTY_CACHE.0,
    );
    let features: u64 = value(object, "features")?;
    // A newer OSD knows more bits. Here all unknown ones forbid writing, and the upper half of them reading.
    let known = if read_only { INCOMPATIBLE.0 | !Features::KNOWN.0 >> 32 << 32 } else { u64::MAX };
    Ok((features, features & known).encode_to_vec())
}

fn get_flags(object: &Object, snap: SnapId) -> Output {
    if snap == SnapId::HEAD {
        return or_default(object, "flags", &0u64);
    }
    Ok(snapshot(object, snap)?.flags.encode_to_vec())
}

fn set_flags(object: &mut Object, r: &mut Reader<'_>) -> Output {
    let (flags, mask): (u64, u64) = arg(r)?;
    let snap = if r.is_empty() { SnapId::HEAD } else { arg(r)? };
    let change = |old: u64| old & !mask | flags & mask;
    if snap == SnapId::HEAD {
        let old = value(object, "flags").unwrap_or(0);
        object.omap.insert("flags".to_owned(), change(old).encode_to_vec());
    } else {
        let mut record = snapshot(object, snap)?;
        record.flags = change(record.flags);
        put_snapshot(object, &record);
    }
    Ok(Vec::new())
}

fn get_stripe_unit_count(object: &Object) -> Output {
    let features: u64 = value(object, "features")?;
    if !Features(features).contains(Features::STRIPING_V2) {
        return Err(Errno::ENOEXEC);
    }
    let order: u8 = value(object, "order")?;
    let unit = value(object, "stripe_unit").unwrap_or(1u64 << order);
    Ok((unit, value(object, "stripe_count").unwrap_or(1u64)).encode_to_vec())
}

fn image_group_get(object: &Object) -> Output {
    let mut none = Vec::new();
    versioned(&mut none, 1, 1, |out| (PoolId(-1), "").encode(out));
    Ok(raw(object, "rbd_group_ref").unwrap_or(none))
}

fn metadata_set(object: &mut Object, r: &mut Reader<'_>) -> Output {
    object.exists = true;
    for (key, value) in arg::<BTreeMap<String, Vec<u8>>>(r)? {
        object.omap.insert(format!("{METADATA_PREFIX}{key}"), value);
    }
    Ok(Vec::new())
}

/// The value is returned as a string, that is, with its length.
fn metadata_get(object: &Object, key: &str) -> Output {
    Ok(raw(object, &format!("{METADATA_PREFIX}{key}"))?.encode_to_vec())
}

fn metadata_remove(object: &mut Object, key: &str) -> Output {
    object.omap.remove(&format!("{METADATA_PREFIX}{key}"));
    Ok(Vec::new())
}

fn metadata_list(object: &Object, after: &str, max: u64) -> Output {
    let page: BTreeMap<_, _> = with_prefix(object, METADATA_PREFIX, after).take(count(max)).collect();
    Ok(page.encode_to_vec())
}

pub(super) fn count(max: u64) -> usize {
    usize::try_from(max).unwrap_or(usize::MAX)
}

/// Pairs whose keys start with `prefix` and come after `prefix` + `after`; the keys without the prefix.
pub(super) fn with_prefix<'a>(
    object: &'a Object,
    prefix: &'a str,
    after: &str,
) -> impl Iterator<Item = (&'a str, &'a Vec<u8>)> {
    let start = format!("{prefix}{after}");
    object
        .omap
        .range((Bound::Excluded(start), Bound::Unbounded))
        .map_while(move |(key, value)| Some((key.strip_prefix(prefix)?, value)))
}
