//! Messages to and from OSDs.

use bytes::Bytes;
use ceph_codec::{
    Decode, DecodeError, Encode, Epoch, HObject, ObjectLocator, PgId, Reader, ReqId, SnapId, SpgId, Utime,
    encode_seq,
};

use crate::op::{OP_LEN, Op, OpOutcome, SnapContext, encode_op};

/// Flags of a request. Ceph: `CEPH_OSD_FLAG_*` in `src/include/rados.h`.
pub(crate) mod flag {
    pub(crate) const ONDISK: u32 = 0x4;
    pub(crate) const RETRY: u32 = 0x8;
    pub(crate) const READ: u32 = 0x10;
    pub(crate) const WRITE: u32 = 0x20;
    pub(crate) const IGNORE_CACHE: u32 = 0x8000;
    pub(crate) const IGNORE_OVERLAY: u32 = 0x2_0000;
    pub(crate) const REDIRECTED: u32 = 0x20_0000;
    pub(crate) const KNOWN_REDIR: u32 = 0x40_0000;
    pub(crate) const FULL_TRY: u32 = 0x80_0000;
    pub(crate) const FULL_FORCE: u32 = 0x100_0000;
    pub(crate) const SUPPORTS_POOL_EIO: u32 = 0x800_0000;
}

/// A request to an OSD. Ceph: `MOSDOp` version 8 in `src/messages/MOSDOp.h`.
#[derive(Debug)]
pub(crate) struct OsdOp<'a> {
    pub(crate) spg: SpgId,
    /// The object's hash, not folded to the number of placement groups.
    pub(crate) raw_hash: u32,
    pub(crate) epoch: Epoch,
    pub(crate) flags: u32,
    pub(crate) reqid: ReqId,
    pub(crate) mtime: Utime,
    pub(crate) locator: &'a ObjectLocator,
    pub(crate) object: &'a str,
    pub(crate) ops: &'a [Op],
    pub(crate) snap: SnapId,
    pub(crate) snapc: &'a SnapContext,
    /// How many times it was sent before.
    pub(crate) retry_attempt: i32,
    /// Features of the connection.
    pub(crate) features: u64,
}

impl OsdOp<'_> {
    pub(crate) const VERSION: u16 = 8;
    pub(crate) const COMPAT: u16 = 3;

    /// The front, and the payload chunks that follow it.
    pub(crate) fn encode(&self) -> (Vec<u8>, Vec<Bytes>) {
        let mut out = Vec::with_capacity(
            230 + self.object.len()
                + self.locator.namespace.len()
                + OP_LEN * self.ops.len()
                + 8 * self.snapc.snaps.len(),
        );
        let mut data = Vec::with_capacity(self.ops.len());
        self.spg.encode(&mut out);
        self.raw_hash.encode(&mut out);
        self.epoch.encode(&mut out);
        self.flags.encode(&mut out);
        self.reqid.encode(&mut out);
        out.extend_from_slice(&[0; 24]); // blkin trace
        self.reqid.inc.encode(&mut out);
        self.mtime.encode(&mut out);
        self.locator.encode(&mut out);
        self.object.encode(&mut out);
        u16::try_from(self.ops.len()).expect("an operation has few ops").encode(&mut out);
        for op in self.ops {
            encode_op(op, &mut out, &mut data);
        }
        self.snap.encode(&mut out);
        self.snapc.seq.encode(&mut out);
        encode_seq(self.snapc.snaps.iter(), &mut out);
        self.retry_attempt.encode(&mut out);
        self.features.encode(&mut out);
        (out, data)
    }
}

/// Where an object really is. Ceph: `request_redirect_t` in `src/osd/osd_types.h`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Redirect {
    pub(crate) locator: ObjectLocator,
    /// Its name there, if another.
    pub(crate) object: String,
}

/// The answer of an OSD. Ceph: `MOSDOpReply` versions 7 and 8 in `src/messages/MOSDOpReply.h`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OsdOpReply {
    pub(crate) flags: u64,
    /// 0 or positive, or a negative errno.
    pub(crate) result: i32,
    pub(crate) epoch: Epoch,
    /// The attempt it answers, -1 if the OSD did not say.
    pub(crate) retry_attempt: i32,
    pub(crate) user_version: u64,
    pub(crate) outcomes: Vec<OpOutcome>,
    pub(crate) redirect: Option<Redirect>,
}

impl OsdOpReply {
    pub(crate) fn decode(version: u16, front: &[u8], data: &Bytes) -> Result<Self, DecodeError> {
        if version < 7 {
            let version = u8::try_from(version).unwrap_or_default();
            return Err(DecodeError::TooOld { what: "MOSDOpReply", version, oldest: 7 });
        }
        let r = &mut Reader::new(front);
        r.bytes("object name")?;
        PgId::decode(r)?;
        let flags = u64::decode(r)?;
        let result = i32::decode(r)?;
        r.take("bad_replay_version", 12)?;
        let epoch = Epoch::decode(r)?;
        let count = r.count("ops of a reply", OP_LEN)?;
        let mut lens = Vec::with_capacity(count);
        for _ in 0..count {
            let op = r.take("op of a reply", OP_LEN)?;
            lens.push(u32::decode_from(&op[OP_LEN - 4..])?);
        }
        let retry_attempt = i32::decode(r)?;
        let mut outcomes = Vec::with_capacity(count);
        let mut at = 0usize;
        for len in lens {
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            let end = at.checked_add(len).filter(|&end| end <= data.len()).ok_or(DecodeError::Truncated {
                what: "data of a reply",
                need: len,
                have: data.len() - at,
            })?;
            outcomes.push(OpOutcome { rval: i32::decode(r)?, data: data.slice(at..end) });
            at = end;
        }
        if at != data.len() {
            return Err(DecodeError::Invalid { what: "data length of a reply", value: data.len() as u64 });
        }
        r.take("replay_version", 12)?;
        let user_version = u64::decode(r)?;
        let redirect = if bool::decode(r)? { Some(Redirect::decode(r)?) } else { None };
        Ok(Self { flags, result, epoch, retry_attempt, user_version, outcomes, redirect })
    }
}

impl Decode for Redirect {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.versioned("request_redirect_t", 1, |r, _| {
            let redirect = Self { locator: ObjectLocator::decode(r)?, object: String::decode(r)? };
            r.bytes("legacy instructions")?;
            Ok(redirect)
        })
    }
}

/// What a backoff message is about. Ceph: `CEPH_OSD_BACKOFF_OP_*`.
pub(crate) mod backoff_op {
    pub(crate) const BLOCK: u8 = 1;
    pub(crate) const ACK_BLOCK: u8 = 2;
    pub(crate) const UNBLOCK: u8 = 3;
}

/// An OSD asks to hold back requests for a range of objects, or lifts that. Ceph: `MOSDBackoff` version 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OsdBackoff {
    pub(crate) spg: SpgId,
    pub(crate) epoch: Epoch,
    pub(crate) op: u8,
    /// Unique within the session.
    pub(crate) id: u64,
    pub(crate) begin: HObject,
    pub(crate) end: HObject,
}

impl Decode for OsdBackoff {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
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

impl Encode for OsdBackoff {
    fn encode(&self, out: &mut Vec<u8>) {
        self.spg.encode(out);
        self.epoch.encode(out);
        self.op.encode(out);
        self.id.encode(out);
        self.begin.encode(out);
        self.end.encode(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::recorded::Recorded;
    use crate::op::{Advice, Comparison, OpKind, Operation, WatchAction};
    use ceph_codec::{EntityName, EntityType, Tid};

    /// Encodes `operation` with everything else taken from what librados sent, and compares.
    fn assert_same_as_librados(name: &str, operation: &Operation) {
        let theirs = recorded(name);
        assert_eq!(theirs.version, OsdOp::VERSION);
        let r = &mut Reader::new(&theirs.front);
        let spg = SpgId::decode(r).unwrap();
        let (raw_hash, epoch, flags) =
            (u32::decode(r).unwrap(), Epoch::decode(r).unwrap(), u32::decode(r).unwrap());
        r.versioned("reqid", 2, |r, _| r.take("reqid", 21).map(drop)).unwrap();
        r.take("trace, inc", 24 + 4).unwrap();
        let mtime = Utime::decode(r).unwrap();
        let locator = ObjectLocator::decode(r).unwrap();
        let object = String::decode(r).unwrap();
        // snap | seq | no snaps | attempt | features
        let tail = &mut Reader::new(&theirs.front[theirs.front.len() - (8 + 8 + 4 + 4 + 8)..]);
        let snap = SnapId::decode(tail).unwrap();
        tail.take("seq, snaps, attempt", 8 + 4 + 4).unwrap();
        let features = u64::decode(tail).unwrap();
        let ours = OsdOp {
            spg,
            raw_hash,
            epoch,
            flags,
            reqid: ReqId { name: EntityName { kind: EntityType(0), num: 0 }, tid: Tid(0), inc: 0 },
            mtime,
            locator: &locator,
            object: &object,
            ops: operation.ops(),
            snap,
            snapc: &SnapContext::default(),
            retry_attempt: 0,
            features,
        };
        let (front, data) = ours.encode();
        assert_eq!(front, theirs.front, "{name}");
        assert_eq!(data.concat(), theirs.data, "{name}");
        // What the Objecter adds to the caller's flags.
        let kind = if operation.is_write() { flag::WRITE } else { flag::READ };
        let tiers = if operation.is_pg_op() { flag::IGNORE_OVERLAY } else { 0 };
        assert_eq!(flags, kind | tiers | flag::ONDISK | flag::KNOWN_REDIR, "{name}");
    }

    fn recorded(name: &str) -> Recorded {
        let path = format!("{}/testdata/librados/{name}", env!("CARGO_MANIFEST_DIR"));
        Recorded::parse(&std::fs::read(path).unwrap().into()).unwrap()
    }

    fn op(kind: OpKind) -> Operation {
        Operation::new().push(kind)
    }

    fn data(name: &str) -> Bytes {
        recorded(name).data
    }

    #[test]
    fn requests_are_encoded_as_by_librados() {
        const NOSNAP: [u8; 8] = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        let cookie = 0x7f31_a400_14c0;
        assert_same_as_librados("read", &Operation::new().read(0, 4 << 20));
        assert_same_as_librados("stat", &Operation::new().stat());
        let calls = Operation::new()
            .call("rbd", "get_size", NOSNAP.to_vec())
            .call("rbd", "get_object_prefix", Bytes::new())
            .call("rbd", "get_features", [&NOSNAP[..], &[1]].concat());
        assert_same_as_librados("calls", &calls);
        assert_same_as_librados("lock", &Operation::new().call_mut("lock", "lock", data("lock").slice(8..)));
        assert_same_as_librados("watch", &op(OpKind::Watch { cookie, action: WatchAction::Watch }));
        let payload = data("notify").slice(12..);
        let notify = op(OpKind::Notify { cookie: 0x7f31_a400_5350, timeout_secs: 5, payload });
        assert_same_as_librados("notify", &notify);
        let payload = data("notify-ack").slice(20..);
        let ack = op(OpKind::NotifyAck { notify_id: 0xb_0000_0001, cookie, payload });
        assert_same_as_librados("notify-ack", &ack);
        assert_same_as_librados("write-full", &Operation::new().write_full(data("write-full")));
    }

    #[test]
    fn data_ops_are_encoded_as_by_librados() {
        let new = Operation::new;
        assert_same_as_librados("append", &new().append("more"));
        assert_same_as_librados("write", &new().write(4096, "data"));
        assert_same_as_librados("write-same", &new().write_same(16, 8, "ab"));
        assert_same_as_librados("create-exclusive", &new().create(true));
        assert_same_as_librados("zero", &new().zero(1, 2));
        assert_same_as_librados("truncate", &new().truncate(9));
        assert_same_as_librados("delete", &new().delete());
        assert_same_as_librados("rollback", &new().rollback(SnapId(1)));
        assert_same_as_librados("compare-extent", &new().compare_extent(0, "xy"));
        assert_same_as_librados("list-snaps", &new().list_snaps());
        assert_same_as_librados("assert-exists", &new().assert_exists().write_full("z"));
        assert_same_as_librados("assert-version", &new().assert_version(999));
    }

    #[test]
    fn xattr_ops_are_encoded_as_by_librados() {
        let new = Operation::new;
        let differs = |op: Operation| op.compare_xattr("name", Comparison::NotEqual, "value");
        assert_same_as_librados("remove-xattr", &new().remove_xattr("name"));
        assert_same_as_librados("get-xattrs", &new().get_xattrs());
        let equal = new().compare_xattr("name", Comparison::Equal, "value");
        assert_same_as_librados("compare-xattr", &equal.write_full("z"));
        assert_same_as_librados("compound", &differs(new().set_xattr("n", "v")).write_full("z"));
        let flags = new().remove_xattr("missing").fail_ok().write_full("z").advise(Advice::DontNeed);
        assert_same_as_librados("flags", &flags);
    }

    #[test]
    fn omap_ops_are_encoded_as_by_librados() {
        let new = Operation::new;
        assert_same_as_librados("omap-set-vals", &new().omap_set_vals([("b", "22"), ("a", "1")]));
        assert_same_as_librados("omap-set-header", &new().omap_set_header("header"));
        assert_same_as_librados("omap-remove-keys", &new().omap_remove_keys(["c", "a"]));
        assert_same_as_librados("omap-remove-range", &new().omap_remove_range("a", "c"));
        assert_same_as_librados("omap-clear", &new().omap_clear());
        let compare = new().omap_compare("b", Comparison::Equal, "22").write_full("y");
        assert_same_as_librados("omap-compare", &compare);
        assert_same_as_librados("omap-get-keys", &new().omap_get_keys("a", 1));
        assert_same_as_librados("omap-get-vals", &new().omap_get_vals("a", "b", 7));
        let keys = vec!["a".to_owned(), "zz".to_owned()];
        assert_same_as_librados("omap-get-vals-by-keys", &new().omap_get_vals_by_keys(keys));
        assert_same_as_librados("omap-get-header", &new().omap_get_header());
    }
}
