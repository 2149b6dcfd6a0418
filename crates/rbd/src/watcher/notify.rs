//! What clients of one image tell each other through its header object.
//!
//! ```text
//! notify   versioned(7) { op le32 | fields of the op }          empty: "the header changed", from old clients
//! answer   versioned(1) { result le32, 0 or a negative errno }  empty: "not for me", from all but the lock owner
//! ```
//! Ceph: `NotifyMessage`, `ResponseMessage` in `src/librbd/WatchNotifyTypes.cc`.

use std::fmt;

use bytes::Bytes;
use ceph_codec::{Decode, DecodeError, Encode, GlobalId, Reader, versioned};

/// One watch of one client instance: who holds or wants the exclusive lock.
///
/// Ceph: `ClientId` in `src/librbd/watcher/Types.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ClientId {
    /// The client instance.
    pub gid: GlobalId,
    /// The cookie of its watch of the header.
    pub handle: u64,
}

impl Decode for ClientId {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { gid: GlobalId::decode(r)?, handle: u64::decode(r)? })
    }
}

impl Encode for ClientId {
    fn encode(&self, out: &mut Vec<u8>) {
        self.gid.encode(out);
        self.handle.encode(out);
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client.{} (watch {})", self.gid, self.handle)
    }
}

/// What a notify is about. Ceph: `NotifyOp` in `src/librbd/WatchNotifyTypes.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NotifyOp(pub u32);

macro_rules! ops {
    ($($name:ident = $value:literal, $text:literal;)*) => {
        #[allow(missing_docs, reason = "the names are the documentation")]
        impl NotifyOp {
            $(pub const $name: Self = Self($value);)*
        }

        impl fmt::Display for NotifyOp {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match *self {
                    $(Self::$name => f.write_str($text),)*
                    Self(other) => write!(f, "operation {other}"),
                }
            }
        }
    };
}
ops! {
    ACQUIRED_LOCK = 0, "acquired lock";
    RELEASED_LOCK = 1, "released lock";
    REQUEST_LOCK = 2, "request lock";
    HEADER_UPDATE = 3, "header update";
    ASYNC_PROGRESS = 4, "progress";
    ASYNC_COMPLETE = 5, "completion";
    FLATTEN = 6, "flatten";
    RESIZE = 7, "resize";
    SNAP_CREATE = 8, "snapshot create";
    SNAP_REMOVE = 9, "snapshot remove";
    REBUILD_OBJECT_MAP = 10, "object map rebuild";
    SNAP_RENAME = 11, "snapshot rename";
    SNAP_PROTECT = 12, "snapshot protect";
    SNAP_UNPROTECT = 13, "snapshot unprotect";
    RENAME = 14, "rename";
    UPDATE_FEATURES = 15, "feature update";
    MIGRATE = 16, "migrate";
    SPARSIFY = 17, "sparsify";
    QUIESCE = 18, "quiesce";
    UNQUIESCE = 19, "unquiesce";
    METADATA_UPDATE = 20, "metadata update";
}

/// One notify on a header object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotifyMessage {
    /// This client has taken the exclusive lock.
    AcquiredLock(ClientId),
    /// This client has given the exclusive lock up.
    ReleasedLock(ClientId),
    /// This client wants the exclusive lock; its owner answers.
    RequestLock {
        /// Who wants it.
        client: ClientId,
        /// Whether an owner that would rather keep it should give it up all the same.
        force: bool,
    },
    /// The header changed: size, snapshots, features, metadata.
    HeaderUpdate,
    /// News of an operation that some client asked the lock owner for.
    AsyncUpdate(NotifyOp),
    /// Asks all clients to stop, or to go on, writing around a snapshot.
    Quiesce(NotifyOp),
    /// Asks the lock owner to do something to the image. The fields are not decoded: no such request is carried
    /// out here. Operations not known here, of newer clients, are among them.
    Maintenance(NotifyOp),
}

/// The version of the messages written here, and the oldest readers that understand them.
const VERSION: u8 = 7;
const COMPAT: u8 = 1;

impl NotifyMessage {
    /// Decodes the payload of a notify.
    ///
    /// # Errors
    /// [`DecodeError`] if it is none.
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        if payload.is_empty() {
            return Ok(Self::HeaderUpdate);
        }
        Reader::new(payload).versioned("NotifyMessage", COMPAT, |r, version| {
            let op = NotifyOp(u32::decode(r)?);
            let client = |r: &mut Reader<'_>| {
                if version >= 2 { ClientId::decode(r) } else { Ok(ClientId::default()) }
            };
            Ok(match op {
                NotifyOp::ACQUIRED_LOCK => Self::AcquiredLock(client(r)?),
                NotifyOp::RELEASED_LOCK => Self::ReleasedLock(client(r)?),
                NotifyOp::REQUEST_LOCK => {
                    Self::RequestLock { client: client(r)?, force: version >= 3 && bool::decode(r)? }
                }
                NotifyOp::HEADER_UPDATE => Self::HeaderUpdate,
                NotifyOp::ASYNC_PROGRESS | NotifyOp::ASYNC_COMPLETE => Self::AsyncUpdate(op),
                NotifyOp::QUIESCE | NotifyOp::UNQUIESCE => Self::Quiesce(op),
                other => Self::Maintenance(other),
            })
        })
    }

    /// Encodes a message that this client sends. The others come out without their fields.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut wire = Vec::with_capacity(32);
        versioned(&mut wire, VERSION, COMPAT, |out| match self {
            Self::AcquiredLock(client) => (NotifyOp::ACQUIRED_LOCK.0, client).encode(out),
            Self::ReleasedLock(client) => (NotifyOp::RELEASED_LOCK.0, client).encode(out),
            Self::RequestLock { client, force } => {
                (NotifyOp::REQUEST_LOCK.0, client).encode(out);
                force.encode(out);
            }
            Self::HeaderUpdate => NotifyOp::HEADER_UPDATE.0.encode(out),
            Self::AsyncUpdate(op) | Self::Quiesce(op) | Self::Maintenance(op) => op.0.encode(out),
        });
        wire.into()
    }
}

/// Encodes the lock owner's answer to a request: 0 or a negative errno.
pub(crate) fn encode_answer(result: i32) -> Bytes {
    let mut wire = Vec::with_capacity(10);
    versioned(&mut wire, 1, 1, |out| result.encode(out));
    wire.into()
}

/// Decodes one client's answer; `None` if it has nothing to say.
pub(crate) fn decode_answer(answer: &[u8]) -> Result<Option<i32>, DecodeError> {
    if answer.is_empty() {
        return Ok(None);
    }
    Reader::new(answer).versioned("ResponseMessage", 1, |r, _| i32::decode(r)).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hex_literal::hex;
    use proptest::prelude::*;

    const OWNER: ClientId = ClientId { gid: GlobalId(4130), handle: 139_810_446_513_312 };
    const PEER: ClientId = ClientId { gid: GlobalId(4158), handle: 140_265_578_859_088 };

    /// Seen by `rados watch` on a header while `qemu-nbd` and `rbd` of Ceph 16.2.15 used the image.
    #[test]
    fn messages_match_ceph_pacific() {
        let seen: &[(&[u8], NotifyMessage)] = &[
            (
                &hex!("0701 14000000 00000000 2210000000000000 a0140028287f0000"),
                NotifyMessage::AcquiredLock(OWNER),
            ),
            (
                &hex!("0701 14000000 01000000 2210000000000000 a0140028287f0000"),
                NotifyMessage::ReleasedLock(OWNER),
            ),
            (
                &hex!("0701 15000000 02000000 3e10000000000000 508a0020927f0000 00"),
                NotifyMessage::RequestLock { client: PEER, force: false },
            ),
            (&hex!("0701 04000000 03000000"), NotifyMessage::HeaderUpdate),
        ];
        for (wire, message) in seen {
            assert_eq!(NotifyMessage::decode(wire), Ok(*message));
            assert_eq!(message.encode(), wire);
        }
    }

    /// From the same session: `rbd snap create`, `rbd resize`, `rbd image-meta set`.
    #[test]
    fn requests_to_the_owner_match_ceph_pacific() {
        let seen: &[(&[u8], NotifyMessage)] = &[
            (
                &hex!(
                    "0701 34000000 08000000 02000000 7331 0101 04000000 00000000 2f10000000000000 2048012c937f0000 0100000000000000 0000000000000000"
                ),
                NotifyMessage::Maintenance(NotifyOp::SNAP_CREATE),
            ),
            (
                &hex!(
                    "0701 25000000 07000000 0000000500000000 3110000000000000 2015004ce07f0000 0100000000000000 00"
                ),
                NotifyMessage::Maintenance(NotifyOp::RESIZE),
            ),
            (
                &hex!(
                    "0701 27000000 14000000 01000000 6b 01 01000000 76 3310000000000000 b0150048597f0000 0100000000000000"
                ),
                NotifyMessage::Maintenance(NotifyOp::METADATA_UPDATE),
            ),
            (
                &hex!("0701 1c000000 12000000 2210000000000000 a0140028287f0000 0100000000000000"),
                NotifyMessage::Quiesce(NotifyOp::QUIESCE),
            ),
            (
                &hex!("0701 20000000 05000000 3110000000000000 2015004ce07f0000 0100000000000000 00000000"),
                NotifyMessage::AsyncUpdate(NotifyOp::ASYNC_COMPLETE),
            ),
        ];
        for (wire, message) in seen {
            assert_eq!(NotifyMessage::decode(wire), Ok(*message));
        }
    }

    #[test]
    fn an_empty_notify_is_a_header_update_of_an_old_client() {
        assert_eq!(NotifyMessage::decode(&[]), Ok(NotifyMessage::HeaderUpdate));
    }

    #[test]
    fn the_first_version_names_no_client() {
        let wire = hex!("0101 04000000 02000000");
        let request = NotifyMessage::RequestLock { client: ClientId::default(), force: false };
        assert_eq!(NotifyMessage::decode(&wire), Ok(request));
    }

    #[test]
    fn operations_of_newer_clients_are_maintenance() {
        let wire = hex!("0901 05000000 63000000 ff");
        assert_eq!(NotifyMessage::decode(&wire), Ok(NotifyMessage::Maintenance(NotifyOp(99))));
    }

    /// Sent as the lock owner's answer to `rbd` 16.2.15, which understood it.
    #[test]
    fn answers_match_ceph_pacific() {
        assert_eq!(encode_answer(-95)[..], hex!("0101 04000000 a1ffffff"));
        assert_eq!(encode_answer(0)[..], hex!("0101 04000000 00000000"));
        assert_eq!(decode_answer(&encode_answer(-95)), Ok(Some(-95)));
        assert_eq!(decode_answer(&[]), Ok(None));
        assert!(decode_answer(&[1]).is_err());
    }

    proptest! {
        #[test]
        fn truncated_messages_are_refused(cut in 1usize..26) {
            let wire = NotifyMessage::AcquiredLock(OWNER).encode();
            prop_assert!(NotifyMessage::decode(&wire[..cut]).is_err());
        }
    }
}
