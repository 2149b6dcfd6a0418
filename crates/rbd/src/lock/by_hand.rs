//! What users do about locks by themselves: see them, take one, take one away.
//!
//! A lock taken by hand keeps all clients from writing that need the exclusive lock, until it is taken away by hand.
//! It says nothing to clients of images that have no such feature, except to those who look.
//!
//! Ceph: `list_lockers`, `lock`, `break_lock` in `src/librbd/internal.cc`, `src/tools/rbd/action/Lock.cc`.

use std::time::Duration;

use ceph_codec::{AddrType, Decode, EntityAddr, EntityName, SnapId};
use rados::{Errno, OpError, Operation, SnapContext};
use thiserror::Error;
use tracing::debug;

use super::cls::{self, EXCLUSIVE, LockInfo, LockOwner, SHARED};
use crate::image::header_object;
use crate::operations::failed;
use crate::watcher::NotifyMessage;
use crate::{ImageRef, ObjectStore, OperationError};

/// How long to wait for others to have heard of a change.
const NOTIFY_TIMEOUT: Duration = Duration::from_secs(5);

/// What is tried when locks are looked at.
const LIST: &str = "list the locks";

/// The locks of an image, automatic or by hand.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Locks {
    /// Who has one; several only if they share.
    pub owners: Vec<LockOwner>,
    /// Whether nobody else may have one.
    pub exclusive: bool,
    /// What those who share it call it; `internal` for locks that clients manage by themselves.
    pub tag: String,
}

/// Why a lock could not be taken, or not be taken away.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ManualLockError {
    /// Others have it.
    #[error("image {image} is locked already, by {owner}")]
    Held {
        /// Name or id of the image.
        image: String,
        /// One of them.
        owner: LockOwner,
        /// `EEXIST` if this client has taken the very same lock before, else `EBUSY`.
        errno: Errno,
    },
    /// There is no such lock.
    #[error("image {image} has no lock \"{cookie}\" of {owner}")]
    None {
        /// Name or id of the image.
        image: String,
        /// Whose lock was meant.
        owner: EntityName,
        /// Which lock was meant.
        cookie: String,
    },
}

impl ManualLockError {
    /// The errno that librbd would return for it.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            Self::Held { errno, .. } => *errno,
            Self::None { .. } => Errno::ENOENT,
        }
    }

    /// What the user can do about it, if anything.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        Some(match self {
            Self::Held { image, owner, .. } => {
                format!("`{}` takes it away, and shuts its owner out of the cluster", owner.removal(image))
            }
            Self::None { image, .. } => format!("see the locks with `rbd lock ls {image}`"),
        })
    }
}

/// Lists the locks of an image.
///
/// # Errors
/// [`OperationError::Open`] if there is no such image, [`OperationError::Op`].
pub async fn list_locks<S: ObjectStore>(store: &S, image: &ImageRef) -> Result<Locks, OperationError> {
    let header = header_object(store, image).await?;
    locks_of(store, &header).await.map_err(failed(LIST))
}

/// Locks an image by hand: exclusively, or together with all who use the same `shared_tag`. `cookie` is what to call
/// the lock. It stays when the client goes.
///
/// # Errors
/// [`OperationError::Lock`] if others have it; [`OperationError::Open`] if there is no such image;
/// [`OperationError::Op`].
pub async fn add_lock<S: ObjectStore>(
    store: &S,
    image: &ImageRef,
    cookie: &str,
    shared_tag: Option<&str>,
) -> Result<(), OperationError> {
    let header = header_object(store, image).await?;
    let (kind, tag) = match shared_tag {
        Some(tag) => (SHARED, tag),
        None => (EXCLUSIVE, ""),
    };
    let operation = cls::lock_as(Operation::new().assert_exists(), kind, cookie, tag);
    match store.write(&header, operation, &SnapContext::default()).await {
        Err(error) if error.is(Errno::EBUSY) || error.is(Errno::EEXIST) => {
            let mut owners = locks_of(store, &header).await.map_err(failed(LIST))?.owners.into_iter();
            let image = image.as_str().to_owned();
            // Somebody who has gone again meanwhile need not be named.
            let owner = owners.next().ok_or_else(|| failed("lock the image")(error.clone()))?;
            Err(ManualLockError::Held { image, owner, errno: error.errno() }.into())
        }
        done => {
            done.map_err(failed("lock the image"))?;
            announce(store, &header).await;
            Ok(())
        }
    }
}

/// Finds the lock that [`remove_lock`] would take away.
///
/// # Errors
/// [`OperationError::Lock`] if there is none; [`OperationError::Open`] if there is no such image;
/// [`OperationError::Op`].
pub async fn check_remove_lock<S: ObjectStore>(
    store: &S,
    image: &ImageRef,
    owner: EntityName,
    cookie: &str,
) -> Result<LockOwner, OperationError> {
    let header = header_object(store, image).await?;
    find(store, &header, image, owner, cookie).await
}

/// Takes a lock away from its owner. With `blocklist`, the owner is shut out of the cluster first, so that nothing it
/// still sends arrives; without, it may go on writing if it is alive.
///
/// # Errors
/// As for [`check_remove_lock`]; [`OperationError::Op`] if this user may not blocklist. The lock is still there then.
pub async fn remove_lock<S: ObjectStore>(
    store: &S,
    image: &ImageRef,
    owner: EntityName,
    cookie: &str,
    blocklist: bool,
) -> Result<(), OperationError> {
    let header = header_object(store, image).await?;
    let found = find(store, &header, image, owner, cookie).await?;
    if blocklist {
        let addr = EntityAddr { kind: AddrType::ANY, ..found.addr };
        store.blocklist(addr).await.map_err(failed("blocklist the owner of the lock"))?;
    }
    let operation = cls::break_lock(Operation::new().assert_exists(), owner, cookie);
    match store.write(&header, operation, &SnapContext::default()).await {
        Err(error) if error.is(Errno::ENOENT) => Err(none(image, owner, cookie)),
        done => {
            done.map_err(failed("remove the lock"))?;
            announce(store, &header).await;
            Ok(())
        }
    }
}

/// The locks of the image with that header; none if it is gone.
pub(crate) async fn locks_of<S: ObjectStore>(store: &S, header: &str) -> Result<Locks, OpError> {
    let reply = match store.read(header, cls::get_info(Operation::new()), SnapId::HEAD).await {
        Err(error) if error.is(Errno::ENOENT) => return Ok(Locks::default()),
        reply => reply?,
    };
    let LockInfo { lockers, kind, tag } = LockInfo::decode_from(&reply.data(0))?;
    Ok(Locks { owners: lockers, exclusive: kind == EXCLUSIVE, tag })
}

async fn find<S: ObjectStore>(
    store: &S,
    header: &str,
    image: &ImageRef,
    owner: EntityName,
    cookie: &str,
) -> Result<LockOwner, OperationError> {
    let mut owners = locks_of(store, header).await.map_err(failed(LIST))?.owners.into_iter();
    owners
        .find(|found| found.name == owner && found.cookie == cookie)
        .ok_or_else(|| none(image, owner, cookie))
}

fn none(image: &ImageRef, owner: EntityName, cookie: &str) -> OperationError {
    ManualLockError::None { image: image.as_str().to_owned(), owner, cookie: cookie.to_owned() }.into()
}

/// Who waits for the lock tries again. Nobody needs to answer.
async fn announce<S: ObjectStore>(store: &S, header: &str) {
    let message = NotifyMessage::HeaderUpdate.encode();
    if let Err(error) = store.notify(header, message, NOTIFY_TIMEOUT).await {
        debug!(header, %error, "could not tell others of the change of locks");
    }
}

#[cfg(test)]
mod tests {
    use ceph_codec::EntityType;

    use super::*;
    use crate::{Image, LockError, MemStore, NewImage, OpenOptions};

    fn cluster() -> (MemStore, ImageRef) {
        let store = MemStore::new();
        store.create_image(&NewImage { name: "disk".into(), size: 1 << 20, ..NewImage::default() }).unwrap();
        (store, ImageRef::Name("disk".into()))
    }

    fn name_of(store: &MemStore) -> EntityName {
        let id = store.identity().0.0;
        EntityName { kind: EntityType::CLIENT, num: i64::try_from(id).unwrap() }
    }

    #[tokio::test]
    async fn an_exclusive_lock_by_hand_keeps_others_out_until_it_is_removed() {
        let (store, disk) = cluster();
        let user = store.connect();
        add_lock(&user, &disk, "mine", None).await.unwrap();
        let locks = list_locks(&store, &disk).await.unwrap();
        assert_eq!((locks.exclusive, locks.tag.as_str(), locks.owners.len()), (true, "", 1));
        assert_eq!((locks.owners[0].name, locks.owners[0].cookie.as_str()), (name_of(&user), "mine"));

        let again = add_lock(&user, &disk, "mine", None).await.unwrap_err();
        assert_eq!(again.errno(), Errno::EEXIST);
        for tag in [None, Some("tag")] {
            let error = add_lock(&store.connect(), &disk, "theirs", tag).await.unwrap_err();
            assert_eq!(error.errno(), Errno::EBUSY);
            assert!(error.to_string().contains("lock \"mine\""), "{error}");
        }
        let writer = Image::open(store.connect(), OpenOptions::image("disk")).await.unwrap();
        let error = writer.write(0, "x".into()).await.unwrap_err();
        assert!(
            matches!(&error, crate::ImageError::Lock(LockError::LockedByHand { owner }) if owner.cookie == "mine"),
            "{error}"
        );

        remove_lock(&store, &disk, name_of(&user), "mine", true).await.unwrap();
        assert!(user.is_blocklisted());
        assert_eq!(list_locks(&store, &disk).await.unwrap().owners, []);
        writer.write(0, "x".into()).await.unwrap();
    }

    #[tokio::test]
    async fn shared_locks_are_shared_under_one_tag() {
        let (store, disk) = cluster();
        let (a, b) = (store.connect(), store.connect());
        add_lock(&a, &disk, "a", Some("tag")).await.unwrap();
        add_lock(&b, &disk, "b", Some("tag")).await.unwrap();
        let error = add_lock(&store, &disk, "c", Some("other")).await.unwrap_err();
        assert_eq!(error.errno(), Errno::EBUSY);
        let locks = list_locks(&store, &disk).await.unwrap();
        assert_eq!((locks.exclusive, locks.tag.as_str(), locks.owners.len()), (false, "tag", 2));
        remove_lock(&store, &disk, name_of(&a), "a", false).await.unwrap();
        assert!(!a.is_blocklisted(), "not without being asked to");
        let locks = list_locks(&store, &disk).await.unwrap();
        assert_eq!(locks.owners.iter().map(|owner| owner.name).collect::<Vec<_>>(), [name_of(&b)]);
    }

    #[tokio::test]
    async fn only_a_lock_that_is_there_is_removed_and_only_its_owner_barred() {
        let (store, disk) = cluster();
        let user = store.connect();
        add_lock(&user, &disk, "mine", None).await.unwrap();
        for (owner, cookie) in [(name_of(&user), "other"), (name_of(&store), "mine")] {
            let error = remove_lock(&store, &disk, owner, cookie, true).await.unwrap_err();
            assert_eq!(error.errno(), Errno::ENOENT, "{error}");
            assert!(check_remove_lock(&store, &disk, owner, cookie).await.is_err());
        }
        assert!(!user.is_blocklisted());
        let found = check_remove_lock(&store, &disk, name_of(&user), "mine").await.unwrap();
        assert_eq!(found.name, name_of(&user));
        let missing = ImageRef::Name("missing".into());
        assert_eq!(list_locks(&store, &missing).await.unwrap_err().errno(), Errno::ENOENT);
        assert_eq!(add_lock(&store, &missing, "mine", None).await.unwrap_err().errno(), Errno::ENOENT);
    }

    #[tokio::test]
    async fn who_may_not_blocklist_removes_nothing() {
        let (store, disk) = cluster();
        let user = store.connect();
        add_lock(&user, &disk, "mine", None).await.unwrap();
        let weak = store.connect();
        weak.set_fault(|object, operation| {
            (object.is_empty() && operation.is_empty()).then_some(OpError::Errno(Errno::EACCES))
        });
        let error = remove_lock(&weak, &disk, name_of(&user), "mine", true).await.unwrap_err();
        assert_eq!(error.errno(), Errno::EACCES);
        assert_eq!(list_locks(&store, &disk).await.unwrap().owners.len(), 1);
    }
}
