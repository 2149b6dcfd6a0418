//! RBD images on any object store: layout, snapshots, exclusive lock, object map, I/O.

mod cls;
mod diff;
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
mod operations;
mod rados_store;
mod store;
mod watcher;

pub use cls::SnapshotNamespace;
pub use diff::{DiffExtent, DiffOptions};
pub use directory::{DirectoryEntry, list_images};
pub use error::{ImageError, OpenError};
pub use features::{Features, Flags, OpFeatures};
pub use header::Snapshot;
pub use image::{
    DiscardOptions, Extent, Image, ImageDetails, ImageInfo, ImageRef, MirroringInfo, OpenOptions, ParentInfo,
    ReadData, Segment, SegmentIter, SnapshotRef,
};
pub use layout::{Extent as ObjectRange, Layout, LayoutError, ObjectExtent};
pub use lock::{LockError, LockOwner};
pub use mem_store::{MemStore, NewImage};
pub use object_map::ObjectMapError;
pub use operations::{OperationError, Progress};
pub use store::ObjectStore;
pub use watcher::{ClientId, NotifyMessage, NotifyOp};

/// Decodes what an object class returns, the kind of it in the first byte. For fuzzing: whatever the bytes, it
/// returns.
///
/// # Errors
/// [`ceph_codec::DecodeError`] if it is malformed.
#[doc(hidden)]
pub fn decode_metadata(bytes: &[u8]) -> Result<(), ceph_codec::DecodeError> {
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
        _ => Ok(()),
    }
}
