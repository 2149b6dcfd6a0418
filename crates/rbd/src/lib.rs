//! RBD images on any object store: layout, snapshots, exclusive lock, object map, I/O.

mod children;
mod clone;
mod cls;
mod config;
mod create;
mod diff;
mod directory;
mod error;
mod export;
mod features;
mod header;
mod image;
mod layout;
mod lock;
mod mem_store;
mod names;
mod namespaces;
mod object_map;
mod operations;
mod pool;
mod rados_store;
mod remove;
mod store;
mod trash;
mod watcher;

pub use children::{Child, list_children};
pub use clone::{CloneError, CloneOptions, clone_image};
pub use cls::{MirrorSnapshot, SnapshotNamespace};
pub use config::{
    Config, ConfigError, ConfigOption, ConfigSource, check_image_option, check_pool_option,
    list_image_config, list_pool_config, pool_config, remove_pool_config, set_pool_config,
};
pub use create::{CreateError, CreateOptions, create_image};
pub use diff::{DiffExtent, DiffOptions};
pub use directory::{DirectoryEntry, list_all_images, list_images};
pub use error::{ImageError, OpenError};
pub use export::{FormatError, ImportOptions, ImportStream, Output, Part, Property, Record, StreamDecoder};
pub use features::{Features, Flags, OpFeatures};
pub use header::Snapshot;
pub use image::{
    Extent, Image, ImageDetails, ImageInfo, ImageRef, MirroringInfo, OpenOptions, ParentInfo, ReadData,
    Segment, SegmentIter, SnapshotRef, list_metadata,
};
pub use layout::{Extent as ObjectRange, Layout, LayoutError, ObjectExtent};
pub use lock::{
    LockError, LockOwner, Locks, ManualLockError, Predecessors, add_lock, check_remove_lock, list_locks,
    remove_lock,
};
pub use mem_store::{MemStore, NewImage};
pub use namespaces::{
    NamespaceError, check_remove_namespace, create_namespace, list_namespaces, namespace_exists,
    remove_namespace,
};
pub use object_map::ObjectMapError;
pub use operations::{FeatureError, MaintenanceError, OperationError, Progress};
pub use pool::{ImageStats, PoolStats, init_pool, pool_stats};
pub use remove::{Removal, RemoveError, check_remove_image, remove_image};
pub use store::ObjectStore;
pub use trash::{
    TrashEntry, TrashError, TrashSource, TrashState, check_purge_trash, check_remove_from_trash, list_trash,
    move_to_trash, purge_trash, remove_from_trash, restore_from_trash,
};
pub use watcher::{AsyncRequestId, ClientId, Maintenance, NotifyMessage, NotifyOp, SnapshotFlags};

/// Decodes what an image's metadata are made of, the kind of it in the first byte. For fuzzing: whatever the bytes, it
/// returns.
///
/// # Errors
/// [`ceph_codec::DecodeError`] if it is malformed.
#[doc(hidden)]
pub fn decode_metadata(bytes: &[u8]) -> Result<(), ceph_codec::DecodeError> {
    use std::collections::BTreeSet;

    use ceph_codec::{Decode, Reader};
    let mut reader = Reader::new(bytes);
    let r = &mut reader;
    match u8::decode(r)? {
        0 => cls::SnapIds::decode(r).map(drop),
        1 => Option::<cls::ParentSpec>::decode(r).map(drop),
        2 => cls::MirrorImage::decode(r).map(drop),
        3 => cls::GroupSpec::decode(r).map(drop),
        4 => cls::SnapshotRecord::decode(r).map(drop),
        5 => cls::trash::TrashRecord::decode(r).map(drop),
        6 => lock::cls::LockInfo::decode(r).map(drop),
        7 => object_map::States::decode(r).map(drop),
        8 => BTreeSet::<cls::children::ChildSpec>::decode(r).map(drop),
        9 => cls::namespaces::Names::decode(r).map(drop),
        10 => header::decode_v1(r.rest()).map(drop),
        11 => directory::decode_v1(r.rest()).map(drop),
        12 => rados::SnapSet::decode(r).map(drop),
        _ => Ok(()),
    }
}
