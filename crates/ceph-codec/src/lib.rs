//! Ceph's encoding rules, and the small types that many messages share.
//!
//! Everything on Ceph's wire is little-endian and unaligned. Decoding borrows from a [`Reader`], which never
//! reads past what it was given and never allocates what a peer merely announces; encoding appends to a
//! `Vec<u8>` and cannot fail.
//!
//! Ceph: `doc/dev/encoding.rst`, `src/include/encoding.h`, `src/include/denc.h`.

mod addr;
mod auth_name;
mod crc;
mod error;
mod ids;
mod name;
mod object;
mod reader;
mod time;
mod writer;

pub use addr::{AddrType, EntityAddr, EntityAddrVec};
pub use auth_name::{EntityAuthName, NameError};
pub use crc::{crc32c, crc32c_zeros};
pub use error::DecodeError;
pub use ids::{Epoch, GlobalId, OsdId, PgId, PoolId, ShardId, SnapId, SpgId, Tid, Uuid};
pub use name::{EntityName, EntityType};
pub use object::{HObject, ObjectLocator, ReqId};
pub use reader::{Decode, Reader};
pub use time::Utime;
pub use writer::{Encode, encode_bytes, encode_seq, versioned};
