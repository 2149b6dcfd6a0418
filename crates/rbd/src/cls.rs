//! Calls of the object class `rbd`, which keeps an image's metadata in the OSD.
//!
//! A [`Batch`] makes many calls in one operation; a [`Slot`] finds the answer of one of them in the reply.
//!
//! Ceph: `src/cls/rbd/cls_rbd.cc`, `src/cls/rbd/cls_rbd_types.cc`; the client's side is `cls_rbd_client.cc`.

pub(crate) mod children;
pub(crate) mod create;
pub(crate) mod directory;
pub(crate) mod header;
pub(crate) mod namespaces;
pub(crate) mod object_map;
pub(crate) mod parent;
pub(crate) mod snapshots;
pub(crate) mod trash;

use std::collections::BTreeMap;
use std::marker::PhantomData;

use ceph_codec::{Decode, DecodeError, Encode, PoolId, Reader, SnapId, Utime};
use rados::{Errno, OpError, OpReply, Operation};

pub use snapshots::{MirrorSnapshot, SnapshotNamespace};

use crate::{Features, Flags, OpFeatures};

/// One call of a method that only reads.
pub(crate) struct Call<T> {
    class: &'static str,
    method: &'static str,
    input: Vec<u8>,
    answer: PhantomData<fn() -> T>,
}

impl<T: Decode> Call<T> {
    pub(crate) fn new(class: &'static str, method: &'static str, input: Vec<u8>) -> Self {
        Self { class, method, input, answer: PhantomData }
    }

    fn rbd(method: &'static str, input: Vec<u8>) -> Self {
        Self::new("rbd", method, input)
    }

    /// An operation of this call alone, and where its answer will be.
    pub(crate) fn alone(self) -> (Operation, Slot<T>) {
        let mut batch = Batch::default();
        let slot = batch.add(self);
        (batch.into_operation(), slot)
    }
}

/// Calls that become one operation.
#[derive(Default)]
pub(crate) struct Batch(Operation);

impl Batch {
    /// A call that fails the operation if it fails.
    pub(crate) fn add<T>(&mut self, call: Call<T>) -> Slot<T> {
        let index = self.0.len();
        self.0 = std::mem::take(&mut self.0).call(call.class, call.method, call.input);
        Slot { index, answer: PhantomData }
    }

    /// A call that may fail.
    pub(crate) fn add_optional<T>(&mut self, call: Call<T>) -> Slot<T> {
        let slot = self.add(call);
        self.0 = std::mem::take(&mut self.0).fail_ok();
        slot
    }

    pub(crate) fn into_operation(self) -> Operation {
        self.0
    }
}

/// Where in a reply the answer of a call is.
pub(crate) struct Slot<T> {
    index: usize,
    answer: PhantomData<fn() -> T>,
}

impl<T: Decode> Slot<T> {
    pub(crate) fn get(&self, reply: &OpReply) -> Result<T, OpError> {
        let outcome = reply.outcome(self.index)?;
        if outcome.rval < 0 {
            return Err(OpError::Errno(Errno(outcome.rval.saturating_neg())));
        }
        Ok(T::decode_from(&outcome.data)?)
    }
}

fn of_snap(snap: SnapId) -> Vec<u8> {
    snap.encode_to_vec()
}

/// Order and size.
pub(crate) fn get_size(snap: SnapId) -> Call<(u8, u64)> {
    Call::rbd("get_size", of_snap(snap))
}

/// All features, and those among them that a client must know.
pub(crate) fn get_features(read_only: bool) -> Call<(Features, Features)> {
    Call::rbd("get_features", (SnapId::HEAD, read_only).encode_to_vec())
}

pub(crate) fn get_object_prefix() -> Call<String> {
    Call::rbd("get_object_prefix", Vec::new())
}

pub(crate) fn get_flags(snap: SnapId) -> Call<Flags> {
    Call::rbd("get_flags", of_snap(snap))
}

/// Newest snapshot id ever used, and ids of the existing snapshots.
pub(crate) fn get_snapcontext() -> Call<SnapIds> {
    Call::rbd("get_snapcontext", Vec::new())
}

/// Stripe unit and count; fails with `ENOEXEC` unless the image has the feature.
pub(crate) fn get_stripe_unit_count() -> Call<(u64, u64)> {
    Call::rbd("get_stripe_unit_count", Vec::new())
}

/// The data pool, -1 if it is the image's own.
pub(crate) fn get_data_pool() -> Call<PoolId> {
    Call::rbd("get_data_pool", Vec::new())
}

pub(crate) fn get_create_timestamp() -> Call<Utime> {
    Call::rbd("get_create_timestamp", Vec::new())
}

pub(crate) fn get_access_timestamp() -> Call<Utime> {
    Call::rbd("get_access_timestamp", Vec::new())
}

pub(crate) fn get_modify_timestamp() -> Call<Utime> {
    Call::rbd("get_modify_timestamp", Vec::new())
}

pub(crate) fn op_features_get() -> Call<OpFeatures> {
    Call::rbd("op_features_get", Vec::new())
}

pub(crate) fn parent_get() -> Call<ParentSpec> {
    Call::rbd("parent_get", Vec::new())
}

/// Bytes of the image that may come from its parent; none if it has no parent at `snap`.
pub(crate) fn parent_overlap_get(snap: SnapId) -> Call<Option<u64>> {
    Call::rbd("parent_overlap_get", of_snap(snap))
}

pub(crate) fn image_group_get() -> Call<GroupSpec> {
    Call::rbd("image_group_get", Vec::new())
}

/// How many snapshots the image may have; `u64::MAX` for any number.
pub(crate) fn snapshot_get_limit() -> Call<u64> {
    Call::rbd("snapshot_get_limit", Vec::new())
}

pub(crate) fn snapshot_get(snap: SnapId) -> Call<SnapshotRecord> {
    Call::rbd("snapshot_get", of_snap(snap))
}

pub(crate) fn get_protection_status(snap: SnapId) -> Call<u8> {
    Call::rbd("get_protection_status", of_snap(snap))
}

/// Up to `max` metadata pairs with keys after `after`.
pub(crate) fn metadata_list(after: &str, max: u64) -> Call<BTreeMap<String, Vec<u8>>> {
    Call::rbd("metadata_list", (after, max).encode_to_vec())
}

/// On `rbd_id.NAME`.
pub(crate) fn get_id() -> Call<String> {
    Call::rbd("get_id", Vec::new())
}

/// On a directory: up to `max` names after `after`, with their ids.
pub(crate) fn dir_list(after: &str, max: u64) -> Call<BTreeMap<String, String>> {
    Call::rbd("dir_list", (after, max).encode_to_vec())
}

/// On a directory. `ENOENT` if there is no image of that name.
pub(crate) fn dir_get_id(name: &str) -> Call<String> {
    Call::rbd("dir_get_id", name.encode_to_vec())
}

/// On a directory.
pub(crate) fn dir_get_name(id: &str) -> Call<String> {
    Call::rbd("dir_get_name", id.encode_to_vec())
}

impl Decode for Features {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        u64::decode(r).map(Self)
    }
}

impl Decode for OpFeatures {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        u64::decode(r).map(Self)
    }
}

impl Decode for Flags {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        u64::decode(r).map(Self)
    }
}

/// Answer of `get_snapcontext`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SnapIds {
    pub(crate) seq: SnapId,
    pub(crate) snaps: Vec<SnapId>,
}

impl Decode for SnapIds {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { seq: SnapId::decode(r)?, snaps: r.seq("snapshot ids", SnapId::decode)? })
    }
}

/// Names a snapshot of an image in any pool. Ceph: `cls::rbd::ParentImageSpec`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ParentSpec {
    pub(crate) pool: PoolId,
    pub(crate) namespace: String,
    pub(crate) image_id: String,
    pub(crate) snap: SnapId,
}

impl ParentSpec {
    pub(crate) fn exists(&self) -> bool {
        self.pool.0 >= 0 && !self.image_id.is_empty() && self.snap != SnapId::HEAD
    }
}

impl Decode for ParentSpec {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.versioned("ParentImageSpec", 1, |r, _| {
            Ok(Self {
                pool: PoolId::decode(r)?,
                namespace: String::decode(r)?,
                image_id: String::decode(r)?,
                snap: SnapId::decode(r)?,
            })
        })
    }
}

/// How an image is mirrored. Ceph: `cls::rbd::MirrorImage`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MirrorImage {
    pub(crate) global_id: String,
    /// Ceph: `cls::rbd::MirrorImageState`.
    pub(crate) state: u8,
    /// Ceph: `cls::rbd::MirrorImageMode`.
    pub(crate) mode: u8,
}

impl Decode for MirrorImage {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.versioned("MirrorImage", 2, |r, version| {
            Ok(Self {
                global_id: String::decode(r)?,
                state: u8::decode(r)?,
                // Before there were modes, all was journaled.
                mode: if version >= 2 { u8::decode(r)? } else { 0 },
            })
        })
    }
}

/// How the image with that id is mirrored; `ENOENT` if it is not.
pub(crate) fn mirror_image_get(image_id: &str) -> Call<MirrorImage> {
    Call::rbd("mirror_image_get", image_id.encode_to_vec())
}

/// The group that an image is in; pool -1 for none. Ceph: `cls::rbd::GroupSpec`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GroupSpec {
    pub(crate) pool: PoolId,
    pub(crate) id: String,
}

impl Decode for GroupSpec {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.versioned("GroupSpec", 1, |r, _| Ok(Self { pool: PoolId::decode(r)?, id: String::decode(r)? }))
    }
}

/// Ceph: `cls::rbd::SnapshotInfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SnapshotRecord {
    pub(crate) id: SnapId,
    pub(crate) namespace: SnapshotNamespace,
    pub(crate) name: String,
    pub(crate) size: u64,
    pub(crate) timestamp: Utime,
    pub(crate) child_count: u32,
}

impl Decode for SnapshotRecord {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.versioned("SnapshotInfo", 1, |r, _| {
            Ok(Self {
                id: SnapId::decode(r)?,
                namespace: SnapshotNamespace::decode(r)?,
                name: String::decode(r)?,
                size: u64::decode(r)?,
                timestamp: Utime::decode(r)?,
                child_count: u32::decode(r)?,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    macro_rules! golden {
        ($method:literal) => {
            &include_bytes!(concat!("../testdata/16.2.15/cls_rbd/", $method))[..]
        };
    }

    /// Decodes the answer as the call would, and insists that nothing is left.
    fn answer<T: Decode>(_: Call<T>, wire: &[u8]) -> T {
        let mut r = Reader::new(wire);
        let answer = T::decode(&mut r).unwrap();
        assert!(r.is_empty(), "{} bytes are left", r.remaining());
        answer
    }

    #[test]
    fn scalars_come_from_pacific() {
        assert_eq!(answer(get_size(SnapId::HEAD), golden!("get_size")), (22, 64 << 20));
        assert_eq!(answer(get_features(false), golden!("get_features")), (Features(61), Features(61)));
        assert_eq!(answer(get_object_prefix(), golden!("get_object_prefix")), "rbd_data.1015bf161a11");
        assert_eq!(answer(get_flags(SnapId::HEAD), golden!("get_flags")), Flags(0));
        assert_eq!(answer(get_stripe_unit_count(), golden!("get_stripe_unit_count")), (65536, 4));
        assert_eq!(answer(get_data_pool(), golden!("get_data_pool")), PoolId(-1));
        assert_eq!(answer(op_features_get(), golden!("op_features_get")), OpFeatures(0));
        assert_eq!(answer(get_create_timestamp(), golden!("get_create_timestamp")).sec, 1_795_397_631);
        assert_eq!(answer(get_id(), golden!("get_id")), "1015bf161a11");
        assert_eq!(answer(get_protection_status(SnapId(4)), golden!("get_protection_status")), 2);
    }

    #[test]
    fn snapshots_come_from_pacific() {
        let ids = answer(get_snapcontext(), golden!("get_snapcontext"));
        assert_eq!(ids, SnapIds { seq: SnapId(4), snaps: vec![SnapId(4)] });
        let snap = answer(snapshot_get(SnapId(4)), golden!("snapshot_get"));
        assert_eq!((snap.id, snap.name.as_str(), snap.size), (SnapId(4), "s1", 64 << 20));
        assert_eq!((snap.namespace, snap.child_count), (SnapshotNamespace::User, 0));
    }

    #[test]
    fn parents_come_from_pacific() {
        let parent = answer(parent_get(), golden!("parent_get"));
        assert!(parent.exists());
        assert_eq!(
            (parent.pool, parent.image_id.as_str(), parent.snap),
            (PoolId(1), "1015bf161a11", SnapId(4))
        );
        assert!(!answer(parent_get(), golden!("parent_get-none")).exists());
        assert_eq!(answer(parent_overlap_get(SnapId::HEAD), golden!("parent_overlap_get")), Some(64 << 20));
        assert_eq!(answer(parent_overlap_get(SnapId::HEAD), golden!("parent_overlap_get-none")), None);
    }

    #[test]
    fn lists_come_from_pacific() {
        let metadata = answer(metadata_list("", 64), golden!("metadata_list"));
        assert_eq!(metadata["conf_rbd_cache"], b"false");
        let images = answer(dir_list("", 64), golden!("dir_list"));
        assert_eq!(images["stripe"], "101982231d50");
        assert_eq!(images.len(), 3);
        assert_eq!(answer(dir_get_name("1015bf161a11"), golden!("dir_get_name")), "img");
        assert_eq!(answer(image_group_get(), golden!("image_group_get")).pool, PoolId(-1));
    }

    #[test]
    fn an_optional_call_that_failed_says_how() {
        let mut batch = Batch::default();
        let slot = batch.add_optional(get_stripe_unit_count());
        assert!(batch.0.ops()[0].may_fail());
        let outcomes = vec![rados::OpOutcome { rval: -8, data: bytes::Bytes::new() }];
        let reply = OpReply { result: 0, version: 1, outcomes };
        assert_eq!(slot.get(&reply), Err(OpError::Errno(Errno::ENOEXEC)));
    }
}
