//! The 38 bytes of an op, and the payload that travels beside them.
//!
//! ```text
//!  0        2          6                          34                38
//! +--------+----------+--------------------------+-----------------+
//! | opcode | flags    | 28 bytes, per opcode     | payload length  |
//! +--------+----------+--------------------------+-----------------+
//! ```
//! Ceph: `struct ceph_osd_op` in `src/include/rados.h`.

use bytes::Bytes;
use ceph_codec::{Encode, encode_seq};

use super::{Op, OpKind, WatchAction};

/// Bytes of an encoded op.
pub(crate) const OP_LEN: usize = 38;

const RD: u16 = 0x1000;
const WR: u16 = 0x2000;
const DATA: u16 = 0x0200;
const ATTR: u16 = 0x0300;
const EXEC: u16 = 0x0400;

impl OpKind {
    fn code(&self) -> u16 {
        match self {
            Self::Read { .. } => RD | DATA | 1,
            Self::Stat => RD | DATA | 2,
            Self::SparseRead { .. } => RD | DATA | 5,
            Self::Notify { .. } => RD | DATA | 6,
            Self::NotifyAck { .. } => RD | DATA | 7,
            Self::AssertVersion { .. } => RD | DATA | 8,
            Self::ListWatchers => RD | DATA | 9,
            Self::OmapGetVals { .. } => RD | DATA | 18,
            Self::OmapGetValsByKeys { .. } => RD | DATA | 20,
            Self::CompareExtent { .. } => RD | DATA | 32,
            Self::Write { .. } => WR | DATA | 1,
            Self::WriteFull { .. } => WR | DATA | 2,
            Self::Truncate { .. } => WR | DATA | 3,
            Self::Zero { .. } => WR | DATA | 4,
            Self::Delete => WR | DATA | 5,
            Self::Create { .. } => WR | DATA | 13,
            Self::Watch { .. } => WR | DATA | 15,
            Self::SetAllocHint { .. } => WR | DATA | 35,
            Self::GetXattr { .. } => RD | ATTR | 1,
            Self::SetXattr { .. } => WR | ATTR | 1,
            Self::Call { .. } => RD | EXEC | 1,
        }
    }

    pub(crate) fn writes(&self) -> bool {
        // The opcode of a call says "read" whatever the method does.
        matches!(self, Self::Call { mutates: true, .. }) || self.code() & WR != 0
    }
}

/// Appends the op's 38 bytes to `front` and its payload, if it has any, to `data`.
pub(crate) fn encode_op(op: &Op, front: &mut Vec<u8>, data: &mut Vec<Bytes>) {
    op.kind.code().encode(front);
    op.flags.encode(front);
    let mut body = Vec::with_capacity(28);
    let mut payload_len = 0;
    let mut attach = |payload: Bytes| {
        payload_len += payload.len();
        if !payload.is_empty() {
            data.push(payload);
        }
    };
    match &op.kind {
        OpKind::Read { offset, len } | OpKind::SparseRead { offset, len } | OpKind::Zero { offset, len } => {
            (*offset, *len).encode(&mut body);
        }
        OpKind::Truncate { size } => (*size, 0u64).encode(&mut body),
        OpKind::Write { offset, data } | OpKind::CompareExtent { offset, data } => {
            (*offset, data.len() as u64).encode(&mut body);
            attach(data.clone());
        }
        OpKind::WriteFull { data } => {
            (0u64, data.len() as u64).encode(&mut body);
            attach(data.clone());
        }
        OpKind::Stat | OpKind::ListWatchers | OpKind::Create { .. } | OpKind::Delete => {}
        OpKind::AssertVersion { version } => (0u64, *version).encode(&mut body), // unused, ver
        OpKind::SetAllocHint { object_size, write_size, flags } => {
            (*object_size, *write_size).encode(&mut body);
            flags.encode(&mut body);
        }
        OpKind::Call { class, method, input, .. } => {
            body.extend([short_len(class), short_len(method), 0]);
            wire_len(input.len()).encode(&mut body);
            attach(Bytes::from_static(class.as_bytes()));
            attach(Bytes::from_static(method.as_bytes()));
            attach(input.clone());
        }
        OpKind::OmapGetVals { after, prefix, max } => {
            let mut input = after.encode_to_vec();
            max.encode(&mut input);
            prefix.encode(&mut input);
            attach(input.into());
        }
        OpKind::OmapGetValsByKeys { keys } => {
            let mut input = Vec::new();
            encode_seq(keys.iter(), &mut input);
            attach(input.into());
        }
        OpKind::GetXattr { name } => {
            wire_len(name.len()).encode(&mut body);
            attach(Bytes::copy_from_slice(name.as_bytes()));
        }
        OpKind::SetXattr { name, value } => {
            wire_len(name.len()).encode(&mut body);
            wire_len(value.len()).encode(&mut body);
            attach(Bytes::copy_from_slice(name.as_bytes()));
            attach(value.clone());
        }
        OpKind::Watch { cookie, action } => {
            let (code, generation) = match *action {
                WatchAction::Unwatch => (0u8, 0),
                WatchAction::Watch => (3, 0),
                WatchAction::Reconnect { generation } => (5, generation),
                WatchAction::Ping { generation } => (7, generation),
            };
            cookie.encode(&mut body);
            0u64.encode(&mut body); // version, no longer used
            code.encode(&mut body);
            generation.encode(&mut body);
            0u32.encode(&mut body); // timeout: the OSD's default
        }
        OpKind::Notify { cookie, timeout_secs, payload } => {
            cookie.encode(&mut body);
            let mut input = 1u32.encode_to_vec(); // protocol version
            timeout_secs.encode(&mut input);
            ceph_codec::encode_bytes(payload, &mut input);
            attach(input.into());
        }
        OpKind::NotifyAck { notify_id, cookie, payload } => {
            let mut input = notify_id.encode_to_vec();
            cookie.encode(&mut input);
            ceph_codec::encode_bytes(payload, &mut input);
            attach(input.into());
        }
    }
    body.resize(28, 0);
    front.extend_from_slice(&body);
    wire_len(payload_len).encode(front);
}

fn short_len(name: &str) -> u8 {
    u8::try_from(name.len()).expect("names of classes and methods are short constants")
}

fn wire_len(len: usize) -> u32 {
    u32::try_from(len).expect("payloads are far below 4 GiB")
}
