//! What clients of one image tell each other through its header object.
//!
//! ```text
//! notify   versioned(7) { op le32 | fields of the op }          empty: "the header changed", from old clients
//! answer   versioned(1) { result le32, 0 or a negative errno }  empty: "not for me", from all but the lock owner
//! ```
//! Ceph: `NotifyMessage`, `ResponseMessage` in `src/librbd/WatchNotifyTypes.cc`.

use std::fmt;

use super::maintenance::{self, Maintenance};
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

/// Names a request to the lock owner. The requester repeats it under the same name until it knows what became of it.
///
/// Ceph: `AsyncRequestId` in `src/librbd/WatchNotifyTypes.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AsyncRequestId {
    /// Who made it.
    pub client: ClientId,
    /// Its number; no other of that client has it.
    pub number: u64,
}

impl Decode for AsyncRequestId {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { client: ClientId::decode(r)?, number: u64::decode(r)? })
    }
}

impl Encode for AsyncRequestId {
    fn encode(&self, out: &mut Vec<u8>) {
        self.client.encode(out);
        self.number.encode(out);
    }
}

impl fmt::Display for AsyncRequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "request {} of {}", self.number, self.client)
    }
}

/// One notify on a header object.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// How far the lock owner has come with what it was asked for.
    AsyncProgress {
        /// The request.
        id: AsyncRequestId,
        /// Units of work that are done.
        done: u64,
        /// All of them.
        total: u64,
    },
    /// The lock owner has finished what it was asked for.
    AsyncComplete {
        /// The request.
        id: AsyncRequestId,
        /// 0 or a negative errno.
        result: i32,
    },
    /// Asks all clients to stop writing before a snapshot; to be answered when that is done.
    Quiesce(AsyncRequestId),
    /// Tells all clients to go on after a snapshot.
    Unquiesce(AsyncRequestId),
    /// Asks the lock owner to change the image.
    Maintenance {
        /// None from clients before Ceph 16 for some requests: they wait for the answer to the notify itself.
        id: Option<AsyncRequestId>,
        /// What to do.
        request: Maintenance,
    },
    /// A message of newer clients, or one whose fields are not as expected.
    Unknown(NotifyOp),
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
                NotifyOp::ASYNC_PROGRESS => Self::AsyncProgress {
                    id: AsyncRequestId::decode(r)?,
                    done: u64::decode(r)?,
                    total: u64::decode(r)?,
                },
                NotifyOp::ASYNC_COMPLETE => {
                    Self::AsyncComplete { id: AsyncRequestId::decode(r)?, result: i32::decode(r)? }
                }
                NotifyOp::QUIESCE => Self::Quiesce(AsyncRequestId::decode(r)?),
                NotifyOp::UNQUIESCE => Self::Unquiesce(AsyncRequestId::decode(r)?),
                // Whoever waits for an answer must get one, even if it is that nobody understands it.
                other => match maintenance::decode(other, version, r) {
                    Ok(Some((id, request))) => Self::Maintenance { id, request },
                    Ok(None) | Err(_) => Self::Unknown(other),
                },
            })
        })
    }

    /// Encodes the message. Unknown ones come out without their fields.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut wire = Vec::with_capacity(64);
        versioned(&mut wire, VERSION, COMPAT, |out| match self {
            Self::AcquiredLock(client) => (NotifyOp::ACQUIRED_LOCK.0, client).encode(out),
            Self::ReleasedLock(client) => (NotifyOp::RELEASED_LOCK.0, client).encode(out),
            Self::RequestLock { client, force } => {
                (NotifyOp::REQUEST_LOCK.0, client).encode(out);
                force.encode(out);
            }
            Self::HeaderUpdate => NotifyOp::HEADER_UPDATE.0.encode(out),
            Self::AsyncProgress { id, done, total } => {
                (NotifyOp::ASYNC_PROGRESS.0, id).encode(out);
                (done, total).encode(out);
            }
            Self::AsyncComplete { id, result } => {
                (NotifyOp::ASYNC_COMPLETE.0, id).encode(out);
                result.encode(out);
            }
            Self::Quiesce(id) => (NotifyOp::QUIESCE.0, id).encode(out),
            Self::Unquiesce(id) => (NotifyOp::UNQUIESCE.0, id).encode(out),
            Self::Maintenance { id, request } => {
                request.op().0.encode(out);
                request.encode(id.unwrap_or(NOBODY), out);
            }
            Self::Unknown(op) => op.0.encode(out),
        });
        wire.into()
    }
}

/// What stands for no request where the format insists on one.
const NOBODY: AsyncRequestId = AsyncRequestId { client: ClientId { gid: GlobalId(0), handle: 0 }, number: 0 };

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
    use crate::{SnapshotFlags, SnapshotNamespace};
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
            assert_eq!(NotifyMessage::decode(wire).as_ref(), Ok(message));
            assert_eq!(message.encode(), wire);
        }
    }

    fn id(gid: u64, handle: u64) -> AsyncRequestId {
        AsyncRequestId { client: ClientId { gid: GlobalId(gid), handle }, number: 1 }
    }

    /// From the same session: `rbd snap create`, `rbd resize`, `rbd image-meta set`.
    #[test]
    fn requests_to_the_owner_match_ceph_pacific() {
        let seen: &[(&[u8], NotifyMessage)] = &[
            (
                &hex!(
                    "0701 34000000 08000000 02000000 7331 0101 04000000 00000000 2f10000000000000 2048012c937f0000 0100000000000000 0000000000000000"
                ),
                NotifyMessage::Maintenance {
                    id: Some(id(0x102f, 0x7f93_2c01_4820)),
                    request: Maintenance::CreateSnapshot {
                        namespace: SnapshotNamespace::User,
                        name: "s1".into(),
                        flags: SnapshotFlags::default(),
                    },
                },
            ),
            (
                &hex!(
                    "0701 25000000 07000000 0000000500000000 3110000000000000 2015004ce07f0000 0100000000000000 00"
                ),
                NotifyMessage::Maintenance {
                    id: Some(id(0x1031, 0x7fe0_4c00_1520)),
                    request: Maintenance::Resize { size: 80 << 20, allow_shrink: false },
                },
            ),
            (
                &hex!(
                    "0701 27000000 14000000 01000000 6b 01 01000000 76 3310000000000000 b0150048597f0000 0100000000000000"
                ),
                NotifyMessage::Maintenance {
                    id: Some(id(0x1033, 0x7f59_4800_15b0)),
                    request: Maintenance::UpdateMetadata { key: "k".into(), value: Some(b"v".to_vec()) },
                },
            ),
            (
                &hex!("0701 1c000000 12000000 2210000000000000 a0140028287f0000 0100000000000000"),
                NotifyMessage::Quiesce(AsyncRequestId { client: OWNER, number: 1 }),
            ),
            (
                &hex!("0701 20000000 05000000 3110000000000000 2015004ce07f0000 0100000000000000 00000000"),
                NotifyMessage::AsyncComplete { id: id(0x1031, 0x7fe0_4c00_1520), result: 0 },
            ),
        ];
        for (wire, message) in seen {
            assert_eq!(NotifyMessage::decode(wire).as_ref(), Ok(message));
            assert_eq!(message.encode(), wire);
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
    fn operations_of_newer_clients_are_known_by_number() {
        let wire = hex!("0901 05000000 63000000 ff");
        assert_eq!(NotifyMessage::decode(&wire), Ok(NotifyMessage::Unknown(NotifyOp(99))));
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
