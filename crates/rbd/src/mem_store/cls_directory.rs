//! The methods of the object class `rbd` for what lists images: directories, ids, the trash, namespaces.
//!
//! Ceph: `src/cls/rbd/cls_rbd.cc`.

use std::collections::BTreeMap;

use ceph_codec::{Decode, Encode, Reader};
use rados::Errno;

use super::cls_rbd::{Output, arg, count, raw, with_prefix};
use super::object::Object;
use crate::cls::trash::TrashRecord;

const NAME_PREFIX: &str = "name_";
const ID_PREFIX: &str = "id_";

/// None if the method is of another kind.
pub(super) fn call(object: &mut Object, method: &str, input: &[u8]) -> Option<Output> {
    let r = &mut Reader::new(input);
    Some(match method {
        "get_id" => get_id(object),
        "set_id" => set_id(object, input),
        "dir_list" => dir_list(object, r),
        "dir_get_name" => exists(object).and_then(|()| raw(object, &id_key(&arg::<String>(r)?))),
        "dir_get_id" => exists(object).and_then(|()| raw(object, &name_key(&arg::<String>(r)?))),
        "dir_add_image" => add_image(object, r),
        "dir_remove_image" => remove_image(object, r),
        "dir_rename_image" => rename_image(object, r),
        "dir_state_assert" => assert_state(object, r),
        "dir_state_set" => set_state(object, r),
        "trash_add" => trash_add(object, r),
        "trash_remove" => trash_remove(object, r),
        "trash_get" => exists(object).and_then(|()| raw(object, &id_key(&arg::<String>(r)?))),
        "trash_list" => trash_list(object, r),
        "trash_state_set" => trash_state_set(object, r),
        "namespace_add" => namespace_add(object, r),
        "namespace_remove" => namespace_remove(object, r),
        "namespace_list" => namespace_list(object, r),
        _ => return None,
    })
}

fn exists(object: &Object) -> Result<(), Errno> {
    object.must_exist()
}

fn name_key(name: &str) -> String {
    format!("{NAME_PREFIX}{name}")
}

fn id_key(id: &str) -> String {
    format!("{ID_PREFIX}{id}")
}

fn put(object: &mut Object, key: String, value: &impl Encode) {
    object.exists = true;
    object.omap.insert(key, value.encode_to_vec());
}

fn remove(object: &mut Object, key: &str) -> Output {
    exists(object)?;
    object.omap.remove(key).map(|_| Vec::new()).ok_or(Errno::ENOENT)
}

fn get_id(object: &Object) -> Output {
    exists(object)?;
    if object.data.is_empty() { Err(Errno::ENOENT) } else { Ok(object.data.clone()) }
}

fn set_id(object: &mut Object, input: &[u8]) -> Output {
    exists(object)?;
    if !object.data.is_empty() {
        return Err(Errno::EEXIST);
    }
    object.data = input.to_vec();
    Ok(Vec::new())
}

fn dir_list(object: &Object, r: &mut Reader<'_>) -> Output {
    exists(object)?;
    let (after, max) = (arg::<String>(r)?, arg(r)?);
    let mut page = BTreeMap::new();
    for (name, id) in with_prefix(object, NAME_PREFIX, &after).take(count(max)) {
        page.insert(name, String::decode_from(id).map_err(|_| Errno::EIO)?);
    }
    Ok(page.encode_to_vec())
}

fn add_image(object: &mut Object, r: &mut Reader<'_>) -> Output {
    let (name, id) = (arg::<String>(r)?, arg::<String>(r)?);
    add(object, &name, &id)
}

fn add(object: &mut Object, name: &str, id: &str) -> Output {
    if name.is_empty() || id.is_empty() {
        return Err(Errno::EINVAL);
    }
    if object.omap.contains_key(&name_key(name)) {
        return Err(Errno::EEXIST);
    }
    if object.omap.contains_key(&id_key(id)) {
        return Err(Errno(9)); // EBADF
    }
    put(object, name_key(name), &id);
    put(object, id_key(id), &name);
    Ok(Vec::new())
}

fn remove_image(object: &mut Object, r: &mut Reader<'_>) -> Output {
    let (name, id) = (arg::<String>(r)?, arg::<String>(r)?);
    exists(object)?;
    let (stored_id, stored_name) = (raw(object, &name_key(&name))?, raw(object, &id_key(&id))?);
    if stored_id != id.encode_to_vec() || stored_name != name.encode_to_vec() {
        return Err(Errno(116)); // ESTALE
    }
    object.omap.remove(&name_key(&name));
    object.omap.remove(&id_key(&id));
    Ok(Vec::new())
}

fn rename_image(object: &mut Object, r: &mut Reader<'_>) -> Output {
    let (old, new, id) = (arg::<String>(r)?, arg::<String>(r)?, arg::<String>(r)?);
    if object.omap.contains_key(&name_key(&new)) {
        return Err(Errno::EEXIST);
    }
    remove_image(object, &mut Reader::new(&(old, id.as_str()).encode_to_vec()))?;
    add(object, &new, &id)
}

/// The default is whatever is asked for.
fn assert_state(object: &Object, r: &mut Reader<'_>) -> Output {
    let expected: u8 = arg(r)?;
    exists(object)?;
    let state = object.omap.get("state").and_then(|state| state.first()).copied().unwrap_or(expected);
    if state == expected { Ok(Vec::new()) } else { Err(Errno::ENOENT) }
}

fn set_state(object: &mut Object, r: &mut Reader<'_>) -> Output {
    let state: u8 = arg(r)?;
    if state == 1 {
        exists(object)?;
        if with_prefix(object, NAME_PREFIX, "").next().is_some() {
            return Err(Errno::EBUSY);
        }
    }
    put(object, "state".to_owned(), &state);
    Ok(Vec::new())
}

fn trash_add(object: &mut Object, r: &mut Reader<'_>) -> Output {
    let (id, record) = (arg::<String>(r)?, arg::<TrashRecord>(r)?);
    if object.omap.contains_key(&id_key(&id)) {
        return Err(Errno::EEXIST);
    }
    put(object, id_key(&id), &record);
    Ok(Vec::new())
}

fn trash_remove(object: &mut Object, r: &mut Reader<'_>) -> Output {
    remove(object, &id_key(&arg::<String>(r)?))
}

fn trash_list(object: &Object, r: &mut Reader<'_>) -> Output {
    exists(object)?;
    let (after, max) = (arg::<String>(r)?, arg(r)?);
    let mut page = BTreeMap::new();
    for (id, record) in with_prefix(object, ID_PREFIX, &after).take(count(max)) {
        page.insert(id, TrashRecord::decode_from(record).map_err(|_| Errno::EIO)?);
    }
    Ok(page.encode_to_vec())
}

fn trash_state_set(object: &mut Object, r: &mut Reader<'_>) -> Output {
    let (id, new, expected) = (arg::<String>(r)?, arg::<u8>(r)?, arg::<u8>(r)?);
    exists(object)?;
    let mut record = TrashRecord::decode_from(&raw(object, &id_key(&id))?).map_err(|_| Errno::EIO)?;
    if record.state != expected && record.state != new {
        return Err(Errno(116)); // ESTALE
    }
    record.state = new;
    put(object, id_key(&id), &record);
    Ok(Vec::new())
}

fn namespace_add(object: &mut Object, r: &mut Reader<'_>) -> Output {
    let key = name_key(&arg::<String>(r)?);
    if object.omap.contains_key(&key) {
        return Err(Errno::EEXIST);
    }
    object.exists = true;
    object.omap.insert(key, Vec::new());
    Ok(Vec::new())
}

fn namespace_remove(object: &mut Object, r: &mut Reader<'_>) -> Output {
    remove(object, &name_key(&arg::<String>(r)?))
}

fn namespace_list(object: &Object, r: &mut Reader<'_>) -> Output {
    exists(object)?;
    let (after, max) = (arg::<String>(r)?, arg(r)?);
    let names: Vec<&str> =
        with_prefix(object, NAME_PREFIX, &after).take(count(max)).map(|(name, _)| name).collect();
    let mut out = Vec::new();
    ceph_codec::encode_seq(names.iter(), &mut out);
    Ok(out)
}
