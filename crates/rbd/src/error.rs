//! Why an image cannot be opened, and why reading or writing it fails.

use ceph_codec::PoolId;
use rados::{Errno, OpError};
use thiserror::Error;

use crate::image::parent_cap;
use crate::{Features, LayoutError, LockError, ObjectMapError};

/// Why an image cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There is no such image in the pool and namespace.
    #[error("image {image} does not exist")]
    NoImage {
        /// Name or id, as asked for.
        image: String,
    },
    /// The image has no such snapshot.
    #[error("image {image} has no snapshot {snapshot}")]
    NoSnapshot {
        /// Name or id of the image.
        image: String,
        /// Name or id of the snapshot, as asked for.
        snapshot: String,
    },
    /// The image has format 1, and is to be changed.
    #[error("image {image} has format 1, which can only be read")]
    FormatV1 {
        /// Its name.
        image: String,
    },
    /// The image uses features that cannot be honoured.
    #[error("image {image} uses feature {features}{}", if *.read_only { "" } else { ", which forbids writing to it here" })]
    Feature {
        /// Name or id of the image.
        image: String,
        /// The features in question.
        features: Features,
        /// Whether even reading is impossible.
        read_only: bool,
    },
    /// The snapshot that the image is a clone of cannot be opened.
    #[error("cannot open {parent}, the parent of image {image}")]
    Parent {
        /// Name or id of the image.
        image: String,
        /// Pool, namespace, image and snapshot of the parent; ids where the names are not known.
        parent: String,
        /// Name of the parent's pool, or its number.
        pool: String,
        /// The parent's namespace in the pool.
        namespace: String,
        /// Why.
        source: Box<Self>,
    },
    /// A parent is said to be in a pool that is gone.
    #[error("pool {pool} does not exist")]
    NoPool {
        /// Number of the pool.
        pool: PoolId,
    },
    /// Parents lead back to one of them.
    #[error("it is a parent of itself")]
    ParentCycle,
    /// The chain of parents is too long.
    #[error("more than {max} parents one behind the other are not supported")]
    TooManyParents {
        /// How many are supported.
        max: usize,
    },
    /// The image's data pool is gone.
    #[error("image {image} has its data in pool {pool}, which does not exist")]
    NoDataPool {
        /// Name or id of the image.
        image: String,
        /// Number of the data pool.
        pool: PoolId,
    },
    /// The image's metadata describe an impossible layout.
    #[error("image {image} has an impossible layout")]
    Layout {
        /// Name or id of the image.
        image: String,
        /// What is impossible.
        source: LayoutError,
    },
    /// The image's snapshot ids are not in order.
    #[error("image {image} has an invalid snapshot context")]
    SnapContext {
        /// Name or id of the image.
        image: String,
    },
    /// The exclusive lock was asked for, and the image is none that has one.
    #[error(
        "image {image} cannot be locked exclusively: it lacks the feature exclusive-lock, or is read-only"
    )]
    NoExclusiveLock {
        /// Name or id of the image.
        image: String,
    },
    /// The exclusive lock was asked for, and could not be had.
    #[error("cannot take the exclusive lock of image {image}")]
    Lock {
        /// Name or id of the image.
        image: String,
        /// Why.
        source: LockError,
    },
    /// The cluster refused an operation.
    #[error("cannot {action} of image {image}")]
    Op {
        /// Name or id of the image.
        image: String,
        /// What failed.
        action: &'static str,
        /// Why.
        source: OpError,
    },
}

impl OpenError {
    /// What the user can do about it, if anything.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        Some(match self {
            Self::FormatV1 { image } => {
                format!("serve it read-only, or copy it to an image of format 2: rbd cp {image} NEW")
            }
            Self::Feature { image, features, .. } => feature_help(image, *features)?,
            Self::NoExclusiveLock { image } => format!("rbd feature enable {image} exclusive-lock"),
            Self::Lock { image, source } => return source.help(image),
            Self::Parent { pool, namespace, source, .. } => match &**source {
                Self::Op { source, .. } if source.is(Errno::EPERM) || source.is(Errno::EACCES) => {
                    format!("the user needs the cap {}", parent_cap(pool, namespace))
                }
                source => return source.help(),
            },
            Self::TooManyParents { .. } => {
                "copy the data of the parents into one of the clones: rbd flatten IMAGE".to_owned()
            }
            Self::Op { source, .. } if source.is(Errno::EPERM) || source.is(Errno::EACCES) => {
                "the user needs the caps: mon 'profile rbd' osd 'profile rbd pool=POOL'".to_owned()
            }
            _ => return None,
        })
    }

    /// The errno that librbd would return for it.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            Self::NoImage { .. }
            | Self::NoSnapshot { .. }
            | Self::NoDataPool { .. }
            | Self::NoPool { .. } => Errno::ENOENT,
            Self::Parent { source, .. } => source.errno(),
            Self::FormatV1 { .. } | Self::TooManyParents { .. } => Errno::EOPNOTSUPP,
            Self::ParentCycle => Errno(40), // ELOOP
            Self::Feature { read_only: true, .. } => Errno::EOPNOTSUPP,
            Self::Feature { .. } => Errno::EROFS,
            Self::Layout { .. } | Self::NoExclusiveLock { .. } => Errno::EINVAL,
            Self::Lock { source, .. } => lock_errno(source),
            Self::SnapContext { .. } => Errno::EIO,
            Self::Op { source, .. } => source.errno(),
        }
    }
}

fn feature_help(image: &str, features: Features) -> Option<String> {
    Some(if features.contains(Features::JOURNALING) {
        format!("serve it read-only, or: rbd feature disable {image} journaling")
    } else if features.contains(Features::MIGRATING) {
        format!("finish the migration: rbd migration commit {image} (or abort)")
    } else if features.contains(Features::NON_PRIMARY) {
        format!("serve it read-only, or: rbd mirror image promote {image}")
    } else if features.contains(Features::DIRTY_CACHE) {
        format!("on the host that wrote it last: rbd persistent-cache flush {image}")
    } else {
        return None;
    })
}

/// Why reading or writing an image failed.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The image, or what was opened of it, must not be written to.
    #[error("the image is open for reading only")]
    ReadOnly,
    /// The range ends behind the image.
    #[error("{len} bytes at {offset} reach past the image's end at {size}")]
    OutOfRange {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
        /// Bytes of the image.
        size: u64,
    },
    /// The image was closed.
    #[error("the image is closed")]
    Closed,
    /// The snapshot that is open was removed.
    #[error("the snapshot was removed")]
    SnapshotGone,
    /// The exclusive lock could not be had.
    #[error("cannot get the image's exclusive lock")]
    Lock(#[source] LockError),
    /// The object map can be neither kept up to date nor marked as invalid, so nothing must be changed.
    #[error("cannot keep the image's object map right")]
    ObjectMap(#[source] ObjectMapError),
    /// The image's metadata could not be read again after they changed.
    #[error("cannot refresh the image's metadata")]
    Refresh(#[source] Box<OpenError>),
    /// An operation on one of its objects failed.
    #[error("operation on object {object} failed")]
    Op {
        /// Name of the object.
        object: String,
        /// Why.
        source: OpError,
    },
}

impl ImageError {
    /// The errno that librbd would return for it.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            Self::ReadOnly => Errno::EROFS,
            Self::OutOfRange { .. } => Errno::EINVAL,
            Self::Closed => Errno::EBLOCKLISTED,
            Self::SnapshotGone => Errno::ENOENT,
            Self::Lock(source) => lock_errno(source),
            Self::ObjectMap(ObjectMapError::TooLarge { .. }) => Errno::EINVAL,
            Self::ObjectMap(ObjectMapError::Invalidate(source) | ObjectMapError::Store(source)) => {
                source.errno()
            }
            Self::Refresh(source) => source.errno(),
            Self::Op { source, .. } => source.errno(),
        }
    }
}

fn lock_errno(error: &LockError) -> Errno {
    match error {
        LockError::Blocklisted | LockError::GivenUp => Errno::EBLOCKLISTED,
        LockError::Refused { .. } | LockError::LockedByHand { .. } => Errno::EROFS,
        LockError::MayNotBlocklist { .. } => Errno::EPERM,
        LockError::Store { source, .. } => source.errno(),
        LockError::Prepare(_) => Errno::EIO,
    }
}
