//! Messages as daemons read and write them: the other half of the client's `messages`.

use std::collections::BTreeMap;

use bytes::Bytes;
use ceph_codec::{
    Decode, DecodeError, Encode, EntityAddrVec, Epoch, GlobalId, HObject, ObjectLocator, PgId, Reader, ReqId,
    SpgId, Tid, Utime, Uuid, encode_bytes, versioned,
};
use ceph_msgr::Message;

/// Ceph: `CEPH_MSG_*` in `src/include/ceph_fs.h`, `MSG_*` in `src/msg/Message.h`.
pub(crate) mod kind {
    pub(crate) const MON_MAP: u16 = 4;
    pub(crate) const MON_SUBSCRIBE: u16 = 15;
    pub(crate) const AUTH: u16 = 17;
    pub(crate) const AUTH_REPLY: u16 = 18;
    pub(crate) const MON_GET_VERSION: u16 = 19;
    pub(crate) const MON_GET_VERSION_REPLY: u16 = 20;
    pub(crate) const OSD_MAP: u16 = 41;
    pub(crate) const OSD_OP: u16 = 42;
    pub(crate) const OSD_OP_REPLY: u16 = 43;
    pub(crate) const WATCH_NOTIFY: u16 = 44;
    pub(crate) const MON_COMMAND: u16 = 50;
    pub(crate) const MON_COMMAND_ACK: u16 = 51;
    pub(crate) const OSD_BACKOFF: u16 = 61;
}

/// Ceph: `CEPH_OSD_FLAG_*` in `src/include/rados.h`.
pub(crate) mod flag {
    pub(crate) const WRITE: u32 = 0x20;
    pub(crate) const FULL_TRY: u32 = 0x80_0000;
    pub(crate) const FULL_FORCE: u32 = 0x100_0000;
}

/// Ceph: `CEPH_OSD_OP_*` in `src/include/rados.h`.
pub(crate) mod op {
    pub(crate) const READ: u16 = 0x1201;
    pub(crate) const STAT: u16 = 0x1202;
    pub(crate) const NOTIFY: u16 = 0x1206;
    pub(crate) const NOTIFY_ACK: u16 = 0x1207;
    pub(crate) const DELETE: u16 = 0x2205;
    pub(crate) const WATCH: u16 = 0x220f;
    pub(crate) const CREATE: u16 = 0x220d;
    pub(crate) const CALL: u16 = 0x1401;
}

/// Linux's numbers, negative as on the wire.
pub(crate) mod errno {
    pub(crate) const ENOENT: i32 = -2;
    pub(crate) const EAGAIN: i32 = -11;
    pub(crate) const EINVAL: i32 = -22;
    pub(crate) const EOPNOTSUPP: i32 = -95;
    pub(crate) const ENOTCONN: i32 = -107;
    pub(crate) const EBLOCKLISTED: i32 = -108;
    pub(crate) const ETIMEDOUT: i32 = -110;
}

pub(crate) fn message(kind: u16, version: u16, tid: Tid, front: Vec<u8>) -> Message {
    let priority = ceph_msgr::priority::DEFAULT;
    Message { kind, version, compat_version: 1, tid, priority, front: front.into(), ..Message::default() }
}

fn encode_paxos(version: u64, out: &mut Vec<u8>) {
    version.encode(out);
    (-1i16).encode(out);
    0u64.encode(out);
}

fn skip_paxos(r: &mut Reader<'_>) -> Result<(), DecodeError> {
    r.take("paxos fields", 18).map(drop)
}

/// Ceph: `MMonMap`, with `MonMap` version 9.
pub(crate) fn mon_map(fsid: Uuid, epoch: Epoch, mons: &[(String, EntityAddrVec)]) -> Message {
    let mut map = Vec::new();
    versioned(&mut map, 9, 6, |out| {
        fsid.encode(out);
        epoch.encode(out);
        Utime::default().encode(out);
        Utime::default().encode(out);
        for _ in 0..2 {
            versioned(out, 1, 1, |out| 0u64.encode(out)); // features
        }
        u32::try_from(mons.len()).expect("a few").encode(out);
        for (name, addrs) in mons {
            name.encode(out);
            versioned(out, 5, 1, |out| {
                name.encode(out);
                addrs.encode(out);
                (0u16, 0u16).encode(out); // priority, weight
                0u32.encode(out); // crush_loc
            });
        }
    });
    let mut front = Vec::new();
    encode_bytes(&map, &mut front);
    message(kind::MON_MAP, 1, Tid(0), front)
}

/// Ceph: `MMonSubscribe`: the first version wanted and whether only once, by topic.
pub(crate) fn decode_subscribe(front: &[u8]) -> Result<BTreeMap<String, (u64, bool)>, DecodeError> {
    let r = &mut Reader::new(front);
    let topics = r.map("topics", |r| {
        let start = u64::decode(r)?;
        Ok((start, u8::decode(r)? & 1 != 0))
    })?;
    String::decode(r)?;
    Ok(topics)
}

/// Ceph: `MOSDMap`, version 4.
pub(crate) fn osd_maps(
    fsid: Uuid,
    incrementals: &BTreeMap<Epoch, Bytes>,
    full: &BTreeMap<Epoch, Bytes>,
    oldest: Epoch,
    newest: Epoch,
) -> Message {
    let mut front = fsid.encode_to_vec();
    for maps in [incrementals, full] {
        u32::try_from(maps.len()).expect("a few").encode(&mut front);
        for (epoch, bytes) in maps {
            epoch.encode(&mut front);
            encode_bytes(bytes, &mut front);
        }
    }
    oldest.encode(&mut front);
    newest.encode(&mut front);
    message(kind::OSD_MAP, 4, Tid(0), front)
}

/// Ceph: `MMonGetVersion`: handle and topic.
pub(crate) fn decode_get_version(front: &[u8]) -> Result<(u64, String), DecodeError> {
    let r = &mut Reader::new(front);
    Ok((u64::decode(r)?, String::decode(r)?))
}

pub(crate) fn version_reply(handle: u64, newest: u64, oldest: u64) -> Message {
    let mut front = (handle, newest).encode_to_vec();
    oldest.encode(&mut front);
    message(kind::MON_GET_VERSION_REPLY, 2, Tid(handle), front)
}

/// Ceph: `MMonCommand`.
pub(crate) fn decode_command(front: &[u8]) -> Result<Vec<String>, DecodeError> {
    let r = &mut Reader::new(front);
    skip_paxos(r)?;
    Uuid::decode(r)?;
    r.seq("words of a command", String::decode)
}

pub(crate) fn command_ack(tid: Tid, result: i32, status: &str) -> Message {
    let mut front = Vec::new();
    encode_paxos(0, &mut front);
    result.encode(&mut front);
    status.encode(&mut front);
    0u32.encode(&mut front); // the command
    message(kind::MON_COMMAND_ACK, 1, tid, front)
}

/// Ceph: `MAuth`: protocol and payload.
pub(crate) fn decode_auth(front: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let r = &mut Reader::new(front);
    skip_paxos(r)?;
    u32::decode(r)?;
    Vec::decode(r)
}

pub(crate) fn auth_reply(result: i32, id: GlobalId, payload: &[u8]) -> Message {
    let mut front = (2u32, result).encode_to_vec();
    id.encode(&mut front);
    encode_bytes(payload, &mut front);
    "".encode(&mut front);
    message(kind::AUTH_REPLY, 1, Tid(0), front)
}

/// One op of a request.
#[derive(Debug, Clone)]
pub(crate) struct WireOp {
    pub(crate) code: u16,
    /// The fields that depend on the code.
    pub(crate) body: [u8; 28],
    pub(crate) data: Bytes,
}

impl WireOp {
    pub(crate) fn u64_at(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.body[at..at + 8].try_into().expect("eight bytes"))
    }
}

/// Ceph: `MOSDOp` version 8.
#[derive(Debug, Clone)]
pub(crate) struct OsdOp {
    pub(crate) tid: Tid,
    pub(crate) spg: SpgId,
    pub(crate) hash: u32,
    pub(crate) epoch: Epoch,
    pub(crate) flags: u32,
    pub(crate) locator: ObjectLocator,
    pub(crate) object: String,
    pub(crate) ops: Vec<WireOp>,
    pub(crate) retry_attempt: i32,
}

impl OsdOp {
    pub(crate) fn decode(message: &Message) -> Result<Self, DecodeError> {
        let r = &mut Reader::new(&message.front);
        let spg = SpgId::decode(r)?;
        let hash = u32::decode(r)?;
        let epoch = Epoch::decode(r)?;
        let flags = u32::decode(r)?;
        ReqId::decode(r)?;
        r.take("trace", 24)?;
        i32::decode(r)?; // incarnation
        Utime::decode(r)?;
        let locator = ObjectLocator::decode(r)?;
        let object = String::decode(r)?;
        let mut data = message.data.clone().into_bytes();
        let mut ops = Vec::new();
        for _ in 0..u16::decode(r)? {
            let code = u16::decode(r)?;
            u32::decode(r)?; // flags
            let body = r.array("op")?;
            let len = usize::try_from(u32::decode(r)?).unwrap_or(usize::MAX);
            if len > data.len() {
                return Err(DecodeError::Truncated { what: "data of an op", need: len, have: data.len() });
            }
            ops.push(WireOp { code, body, data: data.split_to(len) });
        }
        u64::decode(r)?; // snapshot
        u64::decode(r)?; // newest snapshot
        r.seq("snapshots", u64::decode)?;
        let retry_attempt = i32::decode(r)?;
        Ok(Self { tid: message.tid, spg, hash, epoch, flags, locator, object, ops, retry_attempt })
    }

    pub(crate) fn writes(&self) -> bool {
        self.flags & flag::WRITE != 0
    }

    /// Whether a full pool stops it.
    pub(crate) fn respects_full(&self) -> bool {
        self.writes() && self.flags & (flag::FULL_TRY | flag::FULL_FORCE) == 0
    }

    /// Its place in the order of objects.
    pub(crate) fn place(&self) -> HObject {
        HObject {
            key: self.locator.key.as_bytes().to_vec(),
            name: self.object.as_bytes().to_vec(),
            snap: ceph_codec::SnapId::HEAD,
            hash: self.hash,
            max: false,
            namespace: self.locator.namespace.as_bytes().to_vec(),
            pool: self.locator.pool,
        }
    }
}

/// What an OSD answers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reply {
    pub(crate) result: i32,
    pub(crate) version: u64,
    /// Of each op.
    pub(crate) outcomes: Vec<(i32, Bytes)>,
    pub(crate) redirect: Option<(ObjectLocator, String)>,
}

/// Ceph: `MOSDOpReply` version 8.
pub(crate) fn op_reply(op: &OsdOp, reply: &Reply, pg: PgId, epoch: Epoch) -> Message {
    let mut front = op.object.encode_to_vec();
    pg.encode(&mut front);
    u64::from(op.flags).encode(&mut front);
    reply.result.encode(&mut front);
    front.extend_from_slice(&[0; 12]); // bad_replay_version
    epoch.encode(&mut front);
    u32::try_from(op.ops.len()).expect("a few").encode(&mut front);
    let outcome = |i: usize| reply.outcomes.get(i).cloned().unwrap_or_default();
    for (i, op) in op.ops.iter().enumerate() {
        op.code.encode(&mut front);
        0u32.encode(&mut front);
        front.extend_from_slice(&op.body);
        u32::try_from(outcome(i).1.len()).expect("small").encode(&mut front);
    }
    op.retry_attempt.encode(&mut front);
    for i in 0..op.ops.len() {
        outcome(i).0.encode(&mut front);
    }
    front.extend_from_slice(&[0; 12]); // replay_version
    reply.version.encode(&mut front);
    reply.redirect.is_some().encode(&mut front);
    if let Some((locator, object)) = &reply.redirect {
        versioned(&mut front, 1, 1, |out| {
            locator.encode(out);
            object.encode(out);
            0u32.encode(out);
        });
    }
    front.extend_from_slice(&[0; 24]); // trace
    let mut message = message(kind::OSD_OP_REPLY, 8, op.tid, front);
    message.data = (0..op.ops.len()).map(|i| outcome(i).1).collect();
    message
}

/// Ceph: `MOSDBackoff`.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    pub(crate) spg: SpgId,
    pub(crate) epoch: Epoch,
    pub(crate) op: u8,
    pub(crate) id: u64,
    pub(crate) begin: HObject,
    pub(crate) end: HObject,
}

impl Backoff {
    pub(crate) const BLOCK: u8 = 1;
    pub(crate) const ACK_BLOCK: u8 = 2;
    pub(crate) const UNBLOCK: u8 = 3;

    pub(crate) fn to_message(&self) -> Message {
        let mut front = self.spg.encode_to_vec();
        self.epoch.encode(&mut front);
        self.op.encode(&mut front);
        self.id.encode(&mut front);
        self.begin.encode(&mut front);
        self.end.encode(&mut front);
        message(kind::OSD_BACKOFF, 1, Tid(0), front)
    }

    pub(crate) fn decode(front: &[u8]) -> Result<Self, DecodeError> {
        let r = &mut Reader::new(front);
        Ok(Self {
            spg: SpgId::decode(r)?,
            epoch: Epoch::decode(r)?,
            op: u8::decode(r)?,
            id: u64::decode(r)?,
            begin: HObject::decode(r)?,
            end: HObject::decode(r)?,
        })
    }
}

/// Ceph: `MWatchNotify` version 3.
#[derive(Debug, Clone, Default)]
pub(crate) struct WatchNotify {
    pub(crate) event: u8,
    pub(crate) cookie: u64,
    pub(crate) notify_id: u64,
    pub(crate) payload: Bytes,
    pub(crate) result: i32,
    pub(crate) notifier: u64,
    pub(crate) data: Bytes,
}

impl WatchNotify {
    pub(crate) const NOTIFY: u8 = 1;
    pub(crate) const COMPLETE: u8 = 2;
    pub(crate) const DISCONNECT: u8 = 3;

    pub(crate) fn to_message(&self) -> Message {
        let mut front = (1u8, self.event).encode_to_vec();
        self.cookie.encode(&mut front);
        0u64.encode(&mut front); // version
        self.notify_id.encode(&mut front);
        encode_bytes(&self.payload, &mut front);
        self.result.encode(&mut front);
        self.notifier.encode(&mut front);
        let mut message = message(kind::WATCH_NOTIFY, 3, Tid(0), front);
        message.data = self.data.clone().into();
        message
    }
}
