//! What is asked of the monitors about the snapshots of a pool.

use bytes::Bytes;
use ceph_codec::{Decode, DecodeError, Encode, Epoch, PoolId, Reader, SnapId, Uuid};

use super::mon::{encode_paxos, skip_paxos};

/// A change of the snapshots of a pool. Ceph: `POOL_OP_*` in `src/include/ceph_fs.h`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SnapOp {
    Create { name: String },
    Remove { name: String },
    CreateSelfManaged,
    RemoveSelfManaged { snap: SnapId },
}

impl SnapOp {
    pub(crate) const VERSION: u16 = 4;
    pub(crate) const COMPAT: u16 = 2;

    fn code(&self) -> u32 {
        match self {
            Self::Create { .. } => 0x11,
            Self::Remove { .. } => 0x12,
            Self::CreateSelfManaged => 0x21,
            Self::RemoveSelfManaged { .. } => 0x22,
        }
    }

    /// Ceph: `MPoolOp`. `epoch` is that of an OSDMap that the monitor should have before it answers.
    pub(crate) fn encode(&self, fsid: Uuid, pool: PoolId, epoch: Epoch) -> Vec<u8> {
        let (name, snap) = match self {
            Self::Create { name } | Self::Remove { name } => (name.as_str(), SnapId(0)),
            Self::CreateSelfManaged => ("", SnapId(0)),
            Self::RemoveSelfManaged { snap } => ("", *snap),
        };
        let mut out = Vec::with_capacity(72 + name.len());
        encode_paxos(epoch.0.into(), &mut out);
        fsid.encode(&mut out);
        // No pool has a number beyond 32 bits; a bad one is refused by the monitor.
        u32::try_from(pool.0).unwrap_or(u32::MAX).encode(&mut out);
        self.code().encode(&mut out);
        0u64.encode(&mut out); // owner, retired
        snap.encode(&mut out);
        name.encode(&mut out);
        0u8.encode(&mut out);
        0i16.encode(&mut out); // CRUSH rule of a new pool
        out
    }
}

/// Ceph: `MPoolOpReply`, version 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PoolOpReply {
    /// 0, or a negative errno.
    pub(crate) result: i32,
    /// The first OSDMap that shows it.
    pub(crate) epoch: Epoch,
    data: Bytes,
}

impl PoolOpReply {
    pub(crate) fn decode(front: &Bytes) -> Result<Self, DecodeError> {
        let r = &mut Reader::new(front);
        skip_paxos(r)?;
        Uuid::decode(r)?;
        let (result, epoch) = (i32::decode(r)?, Epoch::decode(r)?);
        let data = if bool::decode(r)? { front.slice_ref(r.bytes("response_data")?) } else { Bytes::new() };
        Ok(Self { result, epoch, data })
    }

    /// The answer to [`SnapOp::CreateSelfManaged`].
    pub(crate) fn new_snap(&self) -> Result<SnapId, DecodeError> {
        SnapId::decode_from(&self.data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::recorded::Recorded;

    #[test]
    fn requests_are_encoded_as_by_librados() {
        let same = |file: &str, op: SnapOp, pool: i64, epoch: u32| {
            let path = format!("{}/testdata/librados/{file}", env!("CARGO_MANIFEST_DIR"));
            let theirs = Recorded::parse(&std::fs::read(path).unwrap().into()).unwrap();
            let r = &mut Reader::new(&theirs.front);
            skip_paxos(r).unwrap();
            let fsid = Uuid::decode(r).unwrap();
            assert_eq!(op.encode(fsid, PoolId(pool), Epoch(epoch)), theirs.front, "{file}");
            assert_eq!((theirs.kind, theirs.version), (crate::messages::kind::POOL_OP, SnapOp::VERSION));
        };
        let name = "two".to_owned();
        same("create-pool-snap", SnapOp::Create { name: name.clone() }, 2, 14);
        same("remove-pool-snap", SnapOp::Remove { name }, 2, 15);
        same("create-self-managed-snap", SnapOp::CreateSelfManaged, 3, 16);
        same("remove-self-managed-snap", SnapOp::RemoveSelfManaged { snap: SnapId(2) }, 3, 17);
    }
}
