//! What is stored: objects that are lists of records, and the requests that made them.
//!
//! One store stands for all copies: a write reaches all living members of the acting set at once, or none.

use std::collections::BTreeMap;

use bytes::Bytes;
use ceph_codec::{EntityAddr, PoolId};

use crate::world::Millis;

/// Pool, namespace, name.
pub type ObjectKey = (PoolId, String, String);

/// See the [module](self).
#[derive(Debug, Default)]
pub struct Store {
    /// Objects that exist.
    pub objects: BTreeMap<ObjectKey, Object>,
    /// Writes by the client's number and tid, as in the logs of placement groups.
    pub(crate) requests: BTreeMap<(u64, u64), Applied>,
    pub(crate) version: u64,
}

/// One object.
#[derive(Debug, Default)]
pub struct Object {
    /// Records in the order in which they were appended.
    pub records: Vec<u64>,
    /// How many there were a while ago.
    pub(crate) earlier: usize,
    /// Watches by the client's number and cookie.
    pub(crate) watchers: BTreeMap<(u64, u64), StoredWatch>,
}

/// A watch as it is stored with the object.
#[derive(Debug, Clone)]
pub(crate) struct StoredWatch {
    pub(crate) addr: EntityAddr,
    /// When its client was last heard of.
    pub(crate) seen: Millis,
}

/// A write in the log.
#[derive(Debug, Clone)]
pub(crate) struct Applied {
    pub(crate) result: i32,
    pub(crate) version: u64,
}

impl Object {
    /// Its contents.
    pub(crate) fn read(&self, records: usize) -> Bytes {
        self.records[..records].iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>().into()
    }
}

/// What a client appends: the record's number, and as many bytes as it likes that follow from it.
#[must_use]
pub fn record(id: u64, padding: usize) -> Bytes {
    let mut bytes = id.to_le_bytes().to_vec();
    bytes.extend((0..padding).map(|i| pad_byte(id, i)));
    bytes.into()
}

fn pad_byte(id: u64, at: usize) -> u8 {
    (id.wrapping_mul(0x9e37_79b9) >> 8).to_le_bytes()[at % 3] ^ at.to_le_bytes()[0]
}

/// The number of a record, if all its bytes are right.
pub(crate) fn parse_record(bytes: &[u8]) -> Option<u64> {
    let (id, padding) = bytes.split_first_chunk()?;
    let id = u64::from_le_bytes(*id);
    padding.iter().enumerate().all(|(i, byte)| *byte == pad_byte(id, i)).then_some(id)
}

/// The numbers of the records in the contents of an object.
#[must_use]
pub fn parse_contents(bytes: &[u8]) -> Vec<u64> {
    bytes.chunks_exact(8).map(|chunk| u64::from_le_bytes(chunk.try_into().expect("eight bytes"))).collect()
}
