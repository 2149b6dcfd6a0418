//! Messages, and the header in front of each.

use bytes::Bytes;
use ceph_codec::{Decode, DecodeError, Reader, Tid};

/// Priorities of messages; a daemon may serve higher ones first. Ceph: `CEPH_MSG_PRIO_*` in
/// `src/include/msgr.h`.
pub mod priority {
    /// For background work.
    pub const LOW: u16 = 64;
    /// What almost everything has.
    pub const DEFAULT: u16 = 127;
    /// For what others wait for.
    pub const HIGH: u16 = 196;
}

/// A message, sent or received.
///
/// What `kind` means and what is in the three parts is not the messenger's business. Usually the fields are in
/// `front` and bulk data in `data`; `middle` is hardly used.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Message {
    /// What it is. Ceph: `CEPH_MSG_*` in `src/include/ceph_fs.h`, `MSG_*` in `src/msg/Message.h`.
    pub kind: u16,
    /// Version of its encoding.
    pub version: u16,
    /// The oldest version whose readers understand it.
    pub compat_version: u16,
    /// Number of the request, and then of its reply.
    pub tid: Tid,
    /// See [`priority`].
    pub priority: u16,
    /// The fields.
    pub front: Bytes,
    /// More of them.
    pub middle: Bytes,
    /// The bulk data. Of a received message it is always in one piece.
    pub data: Payload,
}

/// Bulk data in one or several pieces, so that nobody has to join them.
#[derive(Clone, Default)]
pub struct Payload(Repr);

#[derive(Clone)]
enum Repr {
    One(Bytes),
    Many(Vec<Bytes>),
}

impl Default for Repr {
    fn default() -> Self {
        Self::One(Bytes::new())
    }
}

impl Payload {
    /// No data.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a piece; an empty one is dropped.
    pub fn push(&mut self, piece: Bytes) {
        match &mut self.0 {
            _ if piece.is_empty() => {}
            Repr::One(one) if one.is_empty() => *one = piece,
            Repr::One(one) => self.0 = Repr::Many(vec![std::mem::take(one), piece]),
            Repr::Many(pieces) => pieces.push(piece),
        }
    }

    /// The pieces in order.
    #[must_use]
    pub fn pieces(&self) -> &[Bytes] {
        match &self.0 {
            Repr::One(one) => std::slice::from_ref(one),
            Repr::Many(pieces) => pieces,
        }
    }

    /// Bytes in all pieces together.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pieces().iter().map(Bytes::len).sum()
    }

    /// Whether there is not one byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of it in one piece: without a copy if it is one already, as in every received message.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        match self.0 {
            Repr::One(one) => one,
            Repr::Many(pieces) => pieces.concat().into(),
        }
    }
}

impl From<Bytes> for Payload {
    fn from(piece: Bytes) -> Self {
        Self(Repr::One(piece))
    }
}

impl FromIterator<Bytes> for Payload {
    fn from_iter<I: IntoIterator<Item = Bytes>>(pieces: I) -> Self {
        let mut payload = Self::new();
        for piece in pieces {
            payload.push(piece);
        }
        payload
    }
}

/// Equal if the bytes are, however they are cut.
impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        let bytes = |p: &Self| p.clone().into_bytes();
        self.len() == other.len() && bytes(self) == bytes(other)
    }
}

impl Eq for Payload {}

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes in {} pieces", self.len(), self.pieces().len())
    }
}

/// What stands in front of a message on the wire.
///
/// ```text
/// u64 seq | u64 tid | u16 type | u16 priority | u16 version | u32 padding | u16 data_off |
/// u64 ack_seq | u8 flags | u16 compat_version | u16 reserved
/// ```
/// Ceph: `ceph_msg_header2` in `src/include/msgr.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// Number of the message on this connection, from 1.
    pub(crate) seq: u64,
    pub(crate) tid: Tid,
    pub(crate) kind: u16,
    pub(crate) priority: u16,
    pub(crate) version: u16,
    /// The last `seq` that the sender received.
    pub(crate) ack_seq: u64,
    pub(crate) compat_version: u16,
}

/// Complete, and without checksums of its own: `CEPH_MSG_FOOTER_COMPLETE` and `CEPH_MSG_FOOTER_NOCRC`, which
/// mattered in messenger v1.
const FLAGS: u8 = 3;

impl Header {
    /// Bytes of it on the wire.
    pub(crate) const LEN: usize = 41;

    pub(crate) fn to_wire(self) -> [u8; Self::LEN] {
        let mut wire = [0; Self::LEN];
        wire[..8].copy_from_slice(&self.seq.to_le_bytes());
        wire[8..16].copy_from_slice(&self.tid.0.to_le_bytes());
        wire[16..18].copy_from_slice(&self.kind.to_le_bytes());
        wire[18..20].copy_from_slice(&self.priority.to_le_bytes());
        wire[20..22].copy_from_slice(&self.version.to_le_bytes());
        // Padding in front of the data, and its offset in a page: hints that daemons no longer use.
        wire[28..36].copy_from_slice(&self.ack_seq.to_le_bytes());
        wire[36] = FLAGS;
        wire[37..39].copy_from_slice(&self.compat_version.to_le_bytes());
        wire
    }
}

impl Decode for Header {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let seq = u64::decode(r)?;
        let tid = Tid::decode(r)?;
        let kind = u16::decode(r)?;
        let priority = u16::decode(r)?;
        let version = u16::decode(r)?;
        r.take("padding and data offset", 6)?;
        let ack_seq = u64::decode(r)?;
        u8::decode(r)?;
        let compat_version = u16::decode(r)?;
        u16::decode(r)?;
        Ok(Self { seq, tid, kind, priority, version, ack_seq, compat_version })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_joins_its_pieces_in_order() {
        let payload: Payload =
            ["ab", "", "c"].map(|s| Bytes::from_static(s.as_bytes())).into_iter().collect();
        assert_eq!(payload.pieces().len(), 2);
        assert_eq!(payload.len(), 3);
        assert_eq!(payload, Payload::from(Bytes::from_static(b"abc")));
        assert_eq!(payload.into_bytes(), "abc");
    }

    #[test]
    fn one_piece_is_not_copied() {
        let piece = Bytes::from(vec![7; 100]);
        assert_eq!(Payload::from(piece.clone()).into_bytes().as_ptr(), piece.as_ptr());
    }

    #[test]
    fn a_header_comes_back() {
        let header =
            Header { seq: 1, tid: Tid(2), kind: 3, priority: 4, version: 5, ack_seq: 6, compat_version: 7 };
        let wire = header.to_wire();
        assert_eq!(Header::decode_from(&wire), Ok(header));
    }
}
