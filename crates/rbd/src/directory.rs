//! Which images a pool and namespace have. Ceph: `rbd_directory` in `src/include/rbd_types.h`.

use ceph_codec::SnapId;
use rados::{Errno, OpError, Operation, SnapContext};

use crate::cls::{self, Call};
use crate::names::{DIRECTORY, TRASH};
use crate::{ObjectStore, names};

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
pub(crate) async fn call<S: ObjectStore, T: ceph_codec::Decode>(
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
