//! Why an image cannot be maintained.

use rados::Errno;
use thiserror::Error;

use crate::operations::FeatureError;
use crate::watcher::{Maintenance, NotifyOp};
use crate::{ImageError, LockOwner, ObjectMapError};

/// Why a change of more than an image's contents failed.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum MaintenanceError {
    /// The object map cannot follow.
    #[error("cannot keep the image's object map right")]
    ObjectMap(#[from] ObjectMapError),
    /// Features cannot be enabled or disabled.
    #[error(transparent)]
    Feature(#[from] FeatureError),
    /// The image has no object map.
    #[error("image {image} does not have the feature object-map")]
    NoObjectMap {
        /// The image.
        image: String,
    },
    /// Nobody can do that here.
    #[error("{operation} is not supported")]
    Unsupported {
        /// What was wanted.
        operation: NotifyOp,
    },
    /// The exclusive lock was given up in the middle; whoever has it now is to be asked.
    #[error("the exclusive lock has moved to another client")]
    LockMoved,
    /// The owner of the exclusive lock could not do it.
    #[error("{owner} holds the exclusive lock, and its {operation} failed: {errno}")]
    Owner {
        /// Who was asked.
        owner: LockOwner,
        /// What was wanted.
        operation: NotifyOp,
        /// What it answered.
        errno: Errno,
    },
    /// Another client uses the image.
    #[error(
        "{owner} holds the exclusive lock of image {image}, and would go on with what it remembers of it"
    )]
    LockHeld {
        /// The image.
        image: String,
        /// Who holds it.
        owner: LockOwner,
    },
    /// There is a snapshot of that name.
    #[error("image {image} already has a snapshot {snapshot}")]
    SnapshotExists {
        /// The image.
        image: String,
        /// Name of the snapshot.
        snapshot: String,
    },
    /// The image may not have more snapshots.
    #[error("image {image} has as many snapshots as its limit allows{}", limit_text(*.limit))]
    TooManySnapshots {
        /// The image.
        image: String,
        /// The limit, if it is known.
        limit: Option<u64>,
    },
    /// The snapshot is protected.
    #[error("snapshot {snapshot} of image {image} is protected")]
    SnapshotProtected {
        /// The image.
        image: String,
        /// Name of the snapshot.
        snapshot: String,
    },
    /// The snapshot is not protected.
    #[error("snapshot {snapshot} of image {image} is not protected")]
    SnapshotNotProtected {
        /// The image.
        image: String,
        /// Name of the snapshot.
        snapshot: String,
    },
    /// The snapshot has clones.
    #[error("snapshot {snapshot} of image {image} has clones{}", list(.clones))]
    SnapshotInUse {
        /// The image.
        image: String,
        /// Name of the snapshot.
        snapshot: String,
        /// The clones, with their pools, if they could be found.
        clones: Vec<String>,
    },
    /// The image has more snapshots than it is to be allowed.
    #[error("image {image} has {count} snapshots, more than the limit of {limit}")]
    LimitTooLow {
        /// The image.
        image: String,
        /// How many it has.
        count: usize,
        /// How many it should have.
        limit: u64,
    },
    /// The image cannot have clones.
    #[error("image {image} does not have the feature layering")]
    NoLayering {
        /// The image.
        image: String,
    },
    /// The image has no name that could be changed: it was removed, or is in the trash.
    #[error("the image with id {id} has no name")]
    NoName {
        /// Its id.
        id: String,
    },
    /// Another image has the name.
    #[error("there is an image {name} already")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// Some client did not stop writing for a snapshot.
    #[error("client.{client} does not quiesce: {errno}")]
    Quiesce {
        /// The number of the client.
        client: u64,
        /// What it answered.
        errno: Errno,
    },
    /// There is no such metadata pair.
    #[error("the image has no metadata {key}")]
    NoMetadata {
        /// The key.
        key: String,
    },
    /// The image is no clone.
    #[error("image {image} has no parent")]
    NoParent {
        /// The image.
        image: String,
    },
    /// The image would become smaller, which was not allowed.
    #[error("image {image} has {size} bytes, and shrinking it to {new_size} was not allowed")]
    ShrinkNotAllowed {
        /// The image.
        image: String,
        /// Its size in bytes.
        size: u64,
        /// The size that was asked for.
        new_size: u64,
    },
}

fn limit_text(limit: Option<u64>) -> String {
    limit.map_or_else(String::new, |limit| format!(" ({limit})"))
}

fn list(clones: &[String]) -> String {
    if clones.is_empty() { String::new() } else { format!(": {}", clones.join(", ")) }
}

/// Linux's `ENOSYS`.
const ENOSYS: Errno = Errno(38);

/// Linux's `ERESTART`, with which librbd says that the lock has moved.
const ERESTART: Errno = Errno(85);

impl MaintenanceError {
    /// What the owner of the lock means by a result, which is not 0.
    pub(super) fn of_owner(image: &str, owner: LockOwner, request: &Maintenance, result: i32) -> Self {
        let errno = Errno(result.saturating_neg());
        let image = image.to_owned();
        match (request, errno) {
            (Maintenance::CreateSnapshot { name, .. }, Errno::EEXIST) => {
                Self::SnapshotExists { image, snapshot: name.clone() }
            }
            (Maintenance::Flatten, Errno::EINVAL) => Self::NoParent { image },
            (Maintenance::CreateSnapshot { .. }, Errno::EDQUOT) => {
                Self::TooManySnapshots { image, limit: None }
            }
            (
                Maintenance::RemoveSnapshot { name, .. } | Maintenance::ProtectSnapshot { name, .. },
                Errno::EBUSY,
            ) => Self::SnapshotProtected { image, snapshot: name.clone() },
            (Maintenance::UnprotectSnapshot { name, .. }, Errno::EBUSY) => {
                Self::SnapshotInUse { image, snapshot: name.clone(), clones: Vec::new() }
            }
            (Maintenance::Rename { name }, Errno::EEXIST) => Self::NameTaken { name: name.clone() },
            _ => Self::Owner { owner, operation: request.op(), errno },
        }
    }

    /// The errno that librbd would return for it.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            Self::ObjectMap(error) => ImageError::ObjectMap(error.clone()).errno(),
            Self::Feature(error) => error.errno(),
            Self::NoObjectMap { .. } => Errno::EINVAL,
            Self::Unsupported { .. } => Errno::EOPNOTSUPP,
            Self::LockMoved => ERESTART,
            Self::Owner { errno, .. } | Self::Quiesce { errno, .. } => *errno,
            Self::SnapshotExists { .. } | Self::NameTaken { .. } => Errno::EEXIST,
            Self::SnapshotProtected { .. } | Self::SnapshotInUse { .. } => Errno::EBUSY,
            Self::SnapshotNotProtected { .. } => Errno::EINVAL,
            Self::LockHeld { .. } => Errno::EROFS,
            Self::LimitTooLow { .. } => Errno::ERANGE,
            Self::NoLayering { .. } => ENOSYS,
            Self::NoMetadata { .. } | Self::NoName { .. } => Errno::ENOENT,
            Self::TooManySnapshots { .. } => Errno::EDQUOT,
            Self::NoParent { .. } | Self::ShrinkNotAllowed { .. } => Errno::EINVAL,
        }
    }

    /// What the user can do about it, if anything.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        Some(match self {
            Self::Feature(error) => return error.help(),
            Self::TooManySnapshots { image, .. } => {
                format!("raise the limit: rbd snap limit set {image} --limit NUMBER, or remove snapshots")
            }
            Self::LockHeld { .. } => "stop whatever uses the image: shut the VM down".to_owned(),
            Self::SnapshotProtected { image, snapshot } => {
                format!("unprotect it: rbd snap unprotect {image}@{snapshot}")
            }
            Self::SnapshotInUse { .. } => {
                "flatten or remove the clones: rbd flatten CLONE, rbd rm CLONE".to_owned()
            }
            Self::ShrinkNotAllowed { .. } => {
                "what is past the new end is lost; if that is meant, give --allow-shrink".to_owned()
            }
            _ => return None,
        })
    }
}
