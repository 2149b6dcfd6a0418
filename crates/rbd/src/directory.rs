//! Which images a pool and namespace have. Ceph: `rbd_directory` in `src/include/rbd_types.h`.

use ceph_codec::{Decode, DecodeError, Reader, SnapId};
use rados::{Errno, OpError, Operation, SnapContext};

use crate::cls::{self, Call};
use crate::names::{DIRECTORY, TRASH};
use crate::trash::{self, TrashSource};
use crate::{ObjectStore, names};

/// Bytes of the directory of images of format 1, at most; an OSD would not hold more in an object.
const MAX_V1_DIRECTORY: u64 = 128 << 20;

/// Names to ask for at once.
const PAGE: u64 = 1024;

/// An image in a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirectoryEntry {
    /// The image's name.
    pub name: String,
    /// The id that its objects are named after.
    pub id: String,
}

/// Lists the images of a pool and namespace, by name. Images of format 1 are not among them.
///
/// # Errors
/// Those of [`ObjectStore::read`]. A pool without any image has none and is no error.
pub async fn list_images<S: ObjectStore>(store: &S) -> Result<Vec<DirectoryEntry>, OpError> {
    let mut images: Vec<DirectoryEntry> = Vec::new();
    loop {
        let after = images.last().map_or("", |image| &image.name);
        let page = match call(store, DIRECTORY, cls::dir_list(after, PAGE)).await {
            Err(error) if error.is(Errno::ENOENT) => return Ok(images),
            page => page?,
        };
        let last = (page.len() as u64) < PAGE;
        let known = images.len();
        images.extend(page.into_iter().map(|(name, id)| DirectoryEntry { name, id }));
        // A page of nothing new would go on for ever.
        if last || images.len() == known {
            return Ok(images);
        }
    }
}

/// Lists all that has the name of an image in a pool and namespace, as `rbd ls` does: images of format 1, whose ids are
/// empty, then those of format 2, then what is left of images whose removal was interrupted.
///
/// # Errors
/// Those of [`ObjectStore::read`].
///
/// Ceph: `Image<I>::list_images()` in `src/librbd/api/Image.cc`.
pub async fn list_all_images<S: ObjectStore>(store: &S) -> Result<Vec<DirectoryEntry>, OpError> {
    let mut images = if store.namespace().is_empty() { list_v1(store).await? } else { Vec::new() };
    images.extend(list_images(store).await?);
    let trash = trash::list(store).await?.into_iter();
    let removing = trash.filter(|entry| entry.source == TrashSource::Removing);
    images.extend(removing.map(|entry| DirectoryEntry { name: entry.name, id: entry.id }));
    Ok(images)
}

/// Images of format 1 are in the directory's data: a header of any kind, then names, with nothing to each.
///
/// Ceph: `CEPH_OSD_OP_TMAPUP` in `src/osd/PrimaryLogPG.cc`.
async fn list_v1<S: ObjectStore>(store: &S) -> Result<Vec<DirectoryEntry>, OpError> {
    let data = match store.read(DIRECTORY, Operation::new().read(0, MAX_V1_DIRECTORY), SnapId::HEAD).await {
        Err(error) if error.is(Errno::ENOENT) => return Ok(Vec::new()),
        reply => reply?.data(0),
    };
    if data.is_empty() {
        return Ok(Vec::new());
    }
    let names = decode_v1(&data)?.into_iter();
    Ok(names.map(|name| DirectoryEntry { name, id: String::new() }).collect())
}

pub(crate) fn decode_v1(bytes: &[u8]) -> Result<Vec<String>, DecodeError> {
    let r = &mut Reader::new(bytes);
    r.bytes("header of the directory")?;
    let names = r.map("directory", Vec::<u8>::decode)?;
    Ok(names.into_keys().collect())
}

/// The id of an image; `ENOENT` if there is none of that name (and format 2).
pub(crate) async fn id_of<S: ObjectStore>(store: &S, name: &str) -> Result<String, OpError> {
    call(store, &names::id_object(name), cls::get_id()).await
}

/// The name of an image, and whether it is in the trash; none if it has no name any more.
pub(crate) async fn name_of<S: ObjectStore>(store: &S, id: &str) -> Result<Option<(String, bool)>, OpError> {
    let gone = |error: &OpError| error.is(Errno::ENOENT) || error.is(Errno::EOPNOTSUPP);
    match call(store, DIRECTORY, cls::dir_get_name(id)).await {
        Err(error) if gone(&error) => {}
        name => return Ok(Some((name?, false))),
    }
    match call(store, TRASH, cls::trash::trash_get(id)).await {
        Err(error) if gone(&error) => Ok(None),
        record => Ok(Some((record?.name, true))),
    }
}

/// Makes one call.
pub(crate) async fn call<S: ObjectStore, T: Decode>(
    store: &S,
    object: &str,
    call: Call<T>,
) -> Result<T, OpError> {
    let (operation, slot) = call.alone();
    slot.get(&store.read(object, operation, SnapId::HEAD).await?)
}

/// Changes an object that has no snapshots.
pub(crate) async fn change<S: ObjectStore>(
    store: &S,
    object: &str,
    operation: Operation,
) -> Result<(), OpError> {
    store.write(object, operation, &SnapContext::default()).await.map(drop)
}

/// Removes an object that has no snapshots, if there is one.
pub(crate) async fn remove<S: ObjectStore>(store: &S, object: &str) -> Result<(), OpError> {
    match change(store, object, Operation::new().delete().full_try()).await {
        Err(error) if error.is(Errno::ENOENT) => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MemStore, NewImage};
    use hex_literal::hex;

    #[tokio::test]
    async fn images_of_format_1_are_listed_first() {
        let store = MemStore::new();
        store.create_image(&NewImage { name: "new".into(), ..NewImage::default() }).unwrap();
        // `rados get rbd_directory` of Ceph 16.2.15, with an image `old1` of format 1.
        let directory = hex!("00000000 01000000 04000000 6f6c6431 00000000");
        change(&store, DIRECTORY, Operation::new().write(0, directory.to_vec())).await.unwrap();
        let images = list_all_images(&store).await.unwrap();
        assert_eq!(images[0], DirectoryEntry { name: "old1".into(), id: String::new() });
        assert_eq!((images.len(), images[1].name.as_str()), (2, "new"));
    }
}
