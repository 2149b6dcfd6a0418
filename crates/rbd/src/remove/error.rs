//! Why an image must not be removed.

use ceph_codec::{AddrType, EntityAddr};
use rados::{Errno, ObjectWatcher};
use thiserror::Error;

use crate::LockError;

/// Why an image must not be removed.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum RemoveError {
    /// It is open somewhere.
    #[error("image {image} is open: {}", shown(.watchers))]
    Watched {
        /// The image.
        image: String,
        /// Who has it open.
        watchers: Vec<ObjectWatcher>,
    },
    /// Its lock is not to be had.
    #[error("cannot lock image {image}")]
    NoLock {
        /// The image.
        image: String,
        /// Why.
        source: LockError,
    },
    /// It has snapshots.
    #[error("image {image} has snapshots: {}", .snapshots.join(", "))]
    Snapshots {
        /// The image.
        image: String,
        /// Their names.
        snapshots: Vec<String>,
    },
    /// Removed snapshots of it have clones.
    #[error("image {image} has clones: {}", .children.join(", "))]
    Children {
        /// The image.
        image: String,
        /// The clones.
        children: Vec<String>,
    },
    /// It is in a group.
    #[error("image {image} is in group {group}")]
    InGroup {
        /// The image.
        image: String,
        /// The group.
        group: String,
    },
    /// It is being migrated.
    #[error("image {image} is being migrated")]
    Migrating {
        /// The image.
        image: String,
    },
    /// It is mirrored.
    #[error("image {image} is mirrored to another cluster")]
    Mirrored {
        /// The image.
        image: String,
    },
}

impl RemoveError {
    /// Ceph: `PreRemoveRequest`.
    pub(crate) fn errno(&self) -> Errno {
        match self {
            Self::Watched { .. } | Self::NoLock { .. } | Self::Migrating { .. } => Errno::EBUSY,
            Self::Snapshots { .. } | Self::Children { .. } => Errno(39), // ENOTEMPTY
            Self::InGroup { .. } => Errno(31),                           // EMLINK
            Self::Mirrored { .. } => Errno::EOPNOTSUPP,
        }
    }

    pub(crate) fn help(&self) -> Option<String> {
        Some(match self {
            Self::Watched { .. } => "close it there; who crashed is forgotten after 30 seconds".to_owned(),
            Self::Snapshots { image, .. } => format!("remove them first: rbd snap purge {image}"),
            Self::Children { .. } => "remove or flatten them first: rbd flatten CLONE".to_owned(),
            Self::InGroup { image, group } => {
                format!("take it out first: rbd group image rm {group} {image}")
            }
            Self::Migrating { image } => format!("rbd migration commit {image} (or abort)"),
            Self::Mirrored { image } => format!("rbd mirror image disable {image}"),
            Self::NoLock { image, source } => return source.help(image),
        })
    }
}

fn shown(watchers: &[ObjectWatcher]) -> String {
    let one = |watcher: &ObjectWatcher| {
        // As `rbd status` shows it.
        let addr = EntityAddr { kind: AddrType::ANY, ..watcher.addr };
        format!("{} at {addr}", watcher.name)
    };
    watchers.iter().map(one).collect::<Vec<_>>().join(", ")
}
