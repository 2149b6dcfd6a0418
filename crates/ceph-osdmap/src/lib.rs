//! The OSDMap: which pools and OSDs a cluster has, and where an object lives.
//!
//! ```text
//! pool, namespace, name --hash--> raw hash --stable mod pg_num--> PG
//!     PG --CRUSH--> raw --upmap--> --drop OSDs that are down--> up --pg_temp, primary_temp--> acting
//! ```
//!
//! * [`OsdMap::decode`] reads a full map, [`Incremental::decode`] the changes of one epoch, and
//!   [`OsdMap::apply`] goes from one epoch to the next.
//! * [`Pool::hash_object`] and [`Pool::raw_to_pg`] find the placement group of an object.
//! * [`OsdMap::placement`] finds the OSDs of a placement group; requests go to
//!   [`acting_primary`](Placement::acting_primary).
//!
//! Everything is a pure function of the map: the result must equal that of the cluster's own code, or requests
//! go to OSDs that drop them.
//!
//! Ceph: `src/osd/OSDMap.cc`, `src/osd/osd_types.cc`.

mod blocklist;
mod flags;
mod hash;
mod incremental;
mod map;
mod placement;
mod pool;
mod snaps;
mod wrapper;

pub use blocklist::Blocklist;
pub use flags::{MapFlags, OsdState, PoolFlags, Release};
pub use hash::ObjectHash;
pub use incremental::{ApplyError, Incremental};
pub use map::{ErasureCodeProfile, FullRatios, OsdMap};
pub use placement::{OSD_NONE, Placement};
pub use pool::{PeeringCrush, Pool, PoolKind, PoolSnap, ShardSet, pg_was_split_or_merged};
pub use snaps::SnapIntervals;
