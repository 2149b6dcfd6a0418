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
use ceph_codec::{Encode, encode_bytes, encode_seq};

use super::{Comparison, Op, OpKind, WatchAction, XattrValue};

/// Bytes of an encoded op.
pub(crate) const OP_LEN: usize = 38;

const RD: u16 = 0x1000;
const WR: u16 = 0x2000;
const DATA: u16 = 0x0200;
const ATTR: u16 = 0x0300;
const EXEC: u16 = 0x0400;
const PG: u16 = 0x0500;

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
            Self::ListSnaps => RD | DATA | 10,
            Self::OmapGetKeys { .. } => RD | DATA | 17,
            Self::OmapGetVals { .. } => RD | DATA | 18,
            Self::OmapGetHeader => RD | DATA | 19,
            Self::OmapGetValsByKeys { .. } => RD | DATA | 20,
            Self::OmapCompare { .. } => RD | DATA | 25,
            Self::CompareExtent { .. } => RD | DATA | 32,
            Self::Write { .. } => WR | DATA | 1,
            Self::WriteFull { .. } => WR | DATA | 2,
            Self::Truncate { .. } => WR | DATA | 3,
            Self::Zero { .. } => WR | DATA | 4,
            Self::Delete => WR | DATA | 5,
            Self::Append { .. } => WR | DATA | 6,
            Self::Create { .. } => WR | DATA | 13,
            Self::Rollback { .. } => WR | DATA | 14,
            Self::Watch { .. } => WR | DATA | 15,
            Self::OmapSetVals { .. } => WR | DATA | 21,
            Self::OmapSetHeader { .. } => WR | DATA | 22,
            Self::OmapClear => WR | DATA | 23,
            Self::OmapRemoveKeys { .. } => WR | DATA | 24,
            Self::SetAllocHint { .. } => WR | DATA | 35,
            Self::WriteSame { .. } => WR | DATA | 38,
            Self::OmapRemoveRange { .. } => WR | DATA | 44,
            Self::GetXattr { .. } => RD | ATTR | 1,
            Self::GetXattrs => RD | ATTR | 2,
            Self::CompareXattr { .. } => RD | ATTR | 3,
            Self::SetXattr { .. } => WR | ATTR | 1,
            Self::RemoveXattr { .. } => WR | ATTR | 4,
            Self::Call { .. } => RD | EXEC | 1,
            Self::ListObjects { .. } => RD | PG | 5,
        }
    }

    pub(crate) fn writes(&self) -> bool {
        // The opcode of a call says "read" whatever the method does.
        matches!(self, Self::Call { mutates: true, .. }) || self.code() & WR != 0
    }

    /// Bytes that it counts for in flow control; `None` for what must not wait.
    pub(super) fn cost(&self) -> Option<u64> {
        match self {
            Self::Read { len, .. } | Self::SparseRead { len, .. } => Some(*len),
            Self::Watch { .. } | Self::Notify { .. } | Self::NotifyAck { .. } => None,
            _ => Some(self.payload_bound()),
        }
    }

    /// About how many bytes of payload it makes, never fewer.
    pub(super) fn payload_bound(&self) -> u64 {
        /// Lengths and counts beside what the caller gave.
        const FIXED: usize = 256;
        let names = |keys: &[String]| keys.iter().map(|key| key.len() + 4).sum::<usize>();
        let bytes = match self {
            Self::Write { data, .. }
            | Self::CompareExtent { data, .. }
            | Self::WriteFull { data }
            | Self::Append { data }
            | Self::OmapSetHeader { header: data }
            | Self::WriteSame { pattern: data, .. }
            | Self::Call { input: data, .. }
            | Self::Notify { payload: data, .. }
            | Self::NotifyAck { payload: data, .. } => return data.len() as u64,
            Self::OmapGetKeys { after, .. } => after.len(),
            Self::OmapGetVals { after, prefix, .. } => after.len() + prefix.len(),
            Self::OmapGetValsByKeys { keys } | Self::OmapRemoveKeys { keys } => names(keys),
            Self::OmapCompare { key, value, .. } => key.len() + value.len(),
            Self::OmapSetVals { pairs } => pairs.iter().map(|(k, v)| k.len() + v.len() + 8).sum(),
            Self::OmapRemoveRange { begin, end } => begin.len() + end.len(),
            Self::GetXattr { name } | Self::RemoveXattr { name } => name.len(),
            Self::SetXattr { name, value } => name.len() + value.len(),
            Self::CompareXattr { name, value: XattrValue::Bytes(value), .. } => name.len() + value.len(),
            Self::CompareXattr { name, value: XattrValue::Number(_), .. } => name.len(),
            Self::ListObjects { from, .. } => from.key.len() + from.name.len() + from.namespace.len(),
            Self::Read { .. }
            | Self::SparseRead { .. }
            | Self::Stat
            | Self::AssertVersion { .. }
            | Self::ListWatchers
            | Self::ListSnaps
            | Self::Create { .. }
            | Self::Zero { .. }
            | Self::Truncate { .. }
            | Self::Delete
            | Self::Rollback { .. }
            | Self::SetAllocHint { .. }
            | Self::OmapGetHeader
            | Self::OmapClear
            | Self::GetXattrs
            | Self::Watch { .. } => return 0,
        };
        (bytes + FIXED) as u64
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
        OpKind::WriteFull { data } | OpKind::Append { data } => {
            extent_of(data, &mut body);
            attach(data.clone());
        }
        OpKind::WriteSame { offset, len, pattern } => {
            (*offset, *len).encode(&mut body);
            (pattern.len() as u64).encode(&mut body);
            attach(pattern.clone());
        }
        OpKind::Stat
        | OpKind::ListWatchers
        | OpKind::ListSnaps
        | OpKind::Create { .. }
        | OpKind::Delete
        | OpKind::OmapGetHeader
        | OpKind::OmapClear
        | OpKind::GetXattrs => {}
        OpKind::AssertVersion { version } => (0u64, *version).encode(&mut body), // unused, ver
        OpKind::Rollback { snap } => snap.encode(&mut body),
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
        OpKind::ListObjects { max, epoch, from } => {
            max.encode(&mut body);
            epoch.encode(&mut body);
            attach(from.encode_to_vec().into());
        }
        OpKind::OmapGetKeys { .. }
        | OpKind::OmapGetVals { .. }
        | OpKind::OmapGetValsByKeys { .. }
        | OpKind::OmapCompare { .. }
        | OpKind::OmapSetVals { .. }
        | OpKind::OmapSetHeader { .. }
        | OpKind::OmapRemoveKeys { .. }
        | OpKind::OmapRemoveRange { .. } => {
            let input = omap_input(&op.kind);
            extent_of(&input, &mut body);
            attach(input);
        }
        OpKind::GetXattr { name } | OpKind::RemoveXattr { name } => {
            wire_len(name.len()).encode(&mut body);
            attach(Bytes::copy_from_slice(name.as_bytes()));
        }
        OpKind::SetXattr { name, value } => {
            (wire_len(name.len()), wire_len(value.len())).encode(&mut body);
            attach(Bytes::copy_from_slice(name.as_bytes()));
            attach(value.clone());
        }
        OpKind::CompareXattr { name, comparison, value } => {
            let (mode, value) = match value {
                XattrValue::Bytes(bytes) => (1u8, bytes.clone()),
                XattrValue::Number(number) => (2, number.encode_to_vec().into()),
            };
            (wire_len(name.len()), wire_len(value.len())).encode(&mut body);
            // The OSD asks how the given value compares with the stored one.
            body.extend([comparison_code(comparison.swapped()), mode]);
            attach(Bytes::copy_from_slice(name.as_bytes()));
            attach(value);
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
            encode_bytes(payload, &mut input);
            attach(input.into());
        }
        OpKind::NotifyAck { notify_id, cookie, payload } => {
            let mut input = notify_id.encode_to_vec();
            cookie.encode(&mut input);
            encode_bytes(payload, &mut input);
            attach(input.into());
        }
    }
    body.resize(28, 0);
    front.extend_from_slice(&body);
    wire_len(payload_len).encode(front);
}

/// Offset 0 and the payload's length, as librados says of all ops with nothing but a payload.
fn extent_of(payload: &Bytes, body: &mut Vec<u8>) {
    (0u64, payload.len() as u64).encode(body);
}

fn omap_input(kind: &OpKind) -> Bytes {
    let mut input = Vec::new();
    match kind {
        OpKind::OmapGetKeys { after, max } => {
            after.encode(&mut input);
            max.encode(&mut input);
        }
        OpKind::OmapGetVals { after, prefix, max } => {
            after.encode(&mut input);
            max.encode(&mut input);
            prefix.encode(&mut input);
        }
        OpKind::OmapGetValsByKeys { keys } | OpKind::OmapRemoveKeys { keys } => {
            encode_seq(keys.iter(), &mut input);
        }
        OpKind::OmapCompare { key, comparison, value } => {
            1u32.encode(&mut input); // a map with one entry
            key.encode(&mut input);
            encode_bytes(value, &mut input);
            i32::from(comparison_code(*comparison)).encode(&mut input);
        }
        OpKind::OmapSetVals { pairs } => {
            wire_len(pairs.len()).encode(&mut input);
            for (key, value) in pairs {
                key.encode(&mut input);
                encode_bytes(value, &mut input);
            }
        }
        OpKind::OmapRemoveRange { begin, end } => (begin, end).encode(&mut input),
        OpKind::OmapSetHeader { header } => return header.clone(),
        _ => {}
    }
    input.into()
}

fn comparison_code(comparison: Comparison) -> u8 {
    match comparison {
        Comparison::Equal => 1,
        Comparison::NotEqual => 2,
        Comparison::Greater => 3,
        Comparison::GreaterOrEqual => 4,
        Comparison::Less => 5,
        Comparison::LessOrEqual => 6,
    }
}

impl Comparison {
    /// The same with the sides exchanged.
    fn swapped(self) -> Self {
        match self {
            Self::Equal | Self::NotEqual => self,
            Self::Greater => Self::Less,
            Self::GreaterOrEqual => Self::LessOrEqual,
            Self::Less => Self::Greater,
            Self::LessOrEqual => Self::GreaterOrEqual,
        }
    }
}

fn short_len(name: &str) -> u8 {
    u8::try_from(name.len()).expect("Operation::check refuses longer names of classes and methods")
}

fn wire_len(len: usize) -> u32 {
    u32::try_from(len).expect("Operation::check refuses payloads of gigabytes")
}
