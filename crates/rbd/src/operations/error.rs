//! Why maintenance of an image fails.

use std::io;
use std::sync::Arc;

use ceph_codec::SnapId;
use rados::{Errno, OpError};
use thiserror::Error;

use super::MaintenanceError;
use crate::{
    CloneError, ConfigError, CreateError, FormatError, ImageError, ManualLockError, NamespaceError,
    OpFeatures, OpenError, RemoveError, TrashError,
};

/// Why an operation on an image failed.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum OperationError {
    /// The image cannot be changed, or not be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// An image that the operation needs cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The image has no such snapshot.
    #[error("the image has no snapshot {snapshot}")]
    NoSnapshot {
        /// Its name.
        snapshot: String,
    },
    /// A difference was asked for that would go back in time.
    #[error("snapshot {from} is newer than snapshot {to}")]
    SnapshotOrder {
        /// The snapshot to start from.
        from: SnapId,
        /// The snapshot to end at.
        to: SnapId,
    },
    /// The image has operation features that are not known here, so maintenance might harm it. Reading and writing do
    /// not.
    #[error("image {image} has operation features that are not supported: {op_features}")]
    OpFeatures {
        /// The image.
        image: String,
        /// Those that are not known.
        op_features: OpFeatures,
    },
    /// An image cannot be made.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// An image cannot be cloned.
    #[error(transparent)]
    Clone(#[from] CloneError),
    /// An image must not be removed.
    #[error(transparent)]
    Remove(#[from] RemoveError),
    /// Something cannot be done to an image in the trash.
    #[error(transparent)]
    Trash(#[from] TrashError),
    /// A namespace cannot be made or removed.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// An option cannot be set.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A diff starts from a snapshot that the image does not have.
    #[error("the diff starts from snapshot {snapshot}, which the image does not have")]
    NoStartSnapshot {
        /// Its name.
        snapshot: String,
    },
    /// A stream to import cannot be understood.
    #[error("cannot understand what is to be imported")]
    Format(#[from] FormatError),
    /// What is to be imported cannot be read.
    #[error("cannot read what is to be imported")]
    Input(#[source] Arc<io::Error>),
    /// What is exported cannot be written.
    #[error("cannot write what is exported")]
    Output(#[source] Arc<io::Error>),
    /// An open image cannot be maintained.
    #[error(transparent)]
    Maintenance(#[from] MaintenanceError),
    /// A lock cannot be taken, or not be taken away.
    #[error(transparent)]
    Lock(#[from] ManualLockError),
    /// The cluster did not carry out a step.
    #[error("could not {doing}")]
    Op {
        /// What was tried.
        doing: &'static str,
        /// Why it failed.
        source: OpError,
    },
}

impl OperationError {
    /// The errno that librbd would return for it.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            Self::Image(error) => error.errno(),
            Self::Open(error) => error.errno(),
            Self::NoSnapshot { .. } => Errno::ENOENT,
            Self::OpFeatures { .. } => Errno::EROFS,
            Self::Create(error) => error.errno(),
            Self::Clone(error) => error.errno(),
            Self::Remove(error) => error.errno(),
            Self::Trash(error) => error.errno(),
            Self::Namespace(error) => error.errno(),
            Self::Config(error) => error.errno(),
            Self::SnapshotOrder { .. } | Self::NoStartSnapshot { .. } => Errno::EINVAL,
            Self::Format(error) => error.errno(),
            Self::Input(error) | Self::Output(error) => error.raw_os_error().map_or(Errno::EIO, Errno),
            Self::Maintenance(error) => error.errno(),
            Self::Lock(error) => error.errno(),
            Self::Op { source, .. } => source.errno(),
        }
    }

    /// What the user can do about it, if anything.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Open(error) => error.help(),
            Self::Create(error) => error.help(),
            Self::Clone(error) => error.help(),
            Self::Remove(error) => error.help(),
            Self::Trash(error) => error.help(),
            Self::Namespace(error) => error.help(),
            Self::Maintenance(error) => error.help(),
            Self::Lock(error) => error.help(),
            Self::Image(ImageError::Lock(error)) => error.help("IMAGE"),
            _ => None,
        }
    }
}
