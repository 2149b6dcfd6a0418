//! RBD images on any object store: layout, snapshots, exclusive lock, object map, I/O.

mod cls;
mod directory;
mod error;
mod features;
mod header;
mod image;
mod layout;
mod lock;
mod mem_store;
mod names;
mod object_map;
mod rados_store;
mod store;
mod watcher;

pub use cls::SnapshotNamespace;
pub use directory::{DirectoryEntry, list_images};
pub use error::{ImageError, OpenError};
pub use features::{Features, Flags, OpFeatures};
pub use header::Snapshot;
pub use image::{
    Extent, Image, ImageDetails, ImageInfo, ImageRef, MirroringInfo, OpenOptions, ParentInfo, ReadData,
    Segment, SegmentIter, SnapshotRef,
};
pub use layout::{Extent as ObjectRange, Layout, LayoutError, ObjectExtent};
pub use lock::{LockError, LockOwner};
pub use mem_store::{MemStore, NewImage};
pub use object_map::ObjectMapError;
pub use store::ObjectStore;
pub use watcher::{ClientId, NotifyMessage, NotifyOp};
