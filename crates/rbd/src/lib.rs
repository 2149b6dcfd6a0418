//! RBD images on any object store: layout, snapshots, exclusive lock, object map, I/O.

mod store;

pub use store::ObjectStore;
