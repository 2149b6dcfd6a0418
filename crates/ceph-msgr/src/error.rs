//! Why a connection ended.

use ceph_codec::{DecodeError, EntityAddr, EntityAddrVec, EntityType};
use thiserror::Error;

use crate::Tag;

/// Why a connection ended, or a call was refused.
///
/// After any error of [`Connection::poll_event`](crate::Connection::poll_event) or
/// [`finish_auth`](crate::Connection::finish_auth) the connection is closed; its owner drops it and connects
/// again if [`is_transient`](Self::is_transient).
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MsgrError {
    /// The first bytes are not a banner of Ceph.
    #[error("the peer does not speak Ceph's messenger v2, it starts with {}", start.escape_ascii())]
    NotMsgr2 {
        /// The first bytes that it sent.
        start: [u8; 8],
    },
    /// The first bytes are the banner of messenger v1.
    #[error(
        "the peer speaks only Ceph's messenger v1 at this address; messenger v2 has a port of its own (3300 for monitors)"
    )]
    Msgr1,
    /// The peer speaks only revision 0 of the protocol.
    #[error(
        "the peer lacks revision 1 of messenger v2 (it supports {supported:#x}); Ceph 14.2.11, 15.2.2 or newer is needed"
    )]
    Revision0 {
        /// Its features of the messenger.
        supported: u64,
    },
    /// The peer requires a feature of the messenger that is not implemented here.
    #[error("the peer requires features {required:#x} of messenger v2, this side supports {supported:#x}")]
    UnsupportedRevision {
        /// What it requires.
        required: u64,
        /// What this side supports.
        supported: u64,
    },
    /// The banner lacks its features.
    #[error("the peer sent a malformed banner")]
    Banner {
        /// What is wrong.
        #[source]
        source: DecodeError,
    },
    /// A frame is damaged, or larger than allowed.
    #[error("the peer sent a bad frame")]
    Frame(#[from] FrameError),
    /// The fields of a frame cannot be decoded.
    #[error("the peer sent a malformed {frame}")]
    Malformed {
        /// The frame.
        frame: Tag,
        /// What is wrong.
        #[source]
        source: DecodeError,
    },
    /// A frame that has no place here.
    #[error("the peer sent {frame} while {state}")]
    Unexpected {
        /// The frame.
        frame: Tag,
        /// What this side was doing.
        state: &'static str,
    },
    /// The peer is another kind of daemon.
    #[error("{addr} is of kind {actual}, not {expected}")]
    WrongPeerKind {
        /// The address dialled.
        addr: EntityAddr,
        /// What should be there.
        expected: EntityType,
        /// What it says it is.
        actual: EntityType,
    },
    /// The peer is another daemon, or another instance of the one expected.
    #[error("{expected} identifies as {actual}")]
    WrongPeer {
        /// The address dialled.
        expected: EntityAddr,
        /// Its addresses, in its own words.
        actual: EntityAddrVec,
    },
    /// The peer chose a mode of connection that this side did not offer.
    #[error("the peer chose connection mode {mode}, which was not offered")]
    ModeNotOffered {
        /// The mode.
        mode: u32,
    },
    /// The connection shall be encrypted, but authentication brought no secret for it.
    #[error("the connection secret has {have} bytes, {need} are needed")]
    ShortSecret {
        /// Its length.
        have: usize,
        /// What encryption needs.
        need: usize,
    },
    /// The peer saw another handshake than this side sent, or does not know the session key.
    #[error(
        "the peer's signature of the handshake is wrong: somebody changed it, or the peer has another key"
    )]
    BadSignature,
    /// The peer requires features that this client does not have.
    #[error("the peer requires features {missing:#x} that this client lacks")]
    MissingFeatures {
        /// The features missing here; see [`features`](crate::features).
        missing: u64,
    },
    /// The peer lacks features that this client requires.
    #[error("the peer lacks the required features {missing:#x}")]
    PeerLacksFeatures {
        /// The features missing there; see [`features`](crate::features).
        missing: u64,
    },
    /// A message was lost, repeated or moved.
    #[error("the peer sent message {actual} instead of {expected}")]
    Sequence {
        /// The number it should have.
        expected: u64,
        /// The number it has.
        actual: u64,
    },
    /// The handshake is longer than any can be.
    #[error("the handshake exceeds {limit} bytes")]
    LongHandshake {
        /// Bytes allowed.
        limit: usize,
    },
    /// A message was to be sent before the connection is ready.
    #[error("the connection is not ready")]
    NotReady,
    /// A message to be sent is larger than the protocol allows.
    #[error("a message with {len} bytes of data cannot be sent")]
    TooLarge {
        /// Bytes of its largest part.
        len: usize,
    },
    /// A call that has no place in this state of the handshake, such as an answer to a question never asked.
    #[error("{call} has no place while {state}")]
    Misuse {
        /// The call.
        call: &'static str,
        /// The state.
        state: &'static str,
    },
    /// The connection ended with an earlier error.
    #[error("the connection is closed")]
    Closed,
}

impl MsgrError {
    /// Whether a new connection to the same peer may do better.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Banner { .. }
            | Self::Frame(_)
            | Self::Malformed { .. }
            | Self::Unexpected { .. }
            | Self::WrongPeerKind { .. }
            | Self::WrongPeer { .. }
            | Self::BadSignature
            | Self::Sequence { .. }
            | Self::LongHandshake { .. }
            | Self::NotReady
            | Self::Closed => true,
            Self::NotMsgr2 { .. }
            | Self::Msgr1
            | Self::Revision0 { .. }
            | Self::UnsupportedRevision { .. }
            | Self::ModeNotOffered { .. }
            | Self::ShortSecret { .. }
            | Self::MissingFeatures { .. }
            | Self::PeerLacksFeatures { .. }
            | Self::TooLarge { .. }
            | Self::Misuse { .. } => false,
        }
    }
}

/// Why a frame was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FrameError {
    /// A checksum does not match.
    #[error("checksum of the {part} is {actual:#010x}, the sender says {expected:#010x}")]
    BadCrc {
        /// What is covered by it.
        part: &'static str,
        /// Computed here.
        actual: u32,
        /// Sent along.
        expected: u32,
    },
    /// An encrypted unit was changed, lost, repeated or moved.
    #[error("an encrypted unit is not authentic")]
    BadTag,
    /// A tag that no frame has.
    #[error("unknown tag {tag}")]
    UnknownTag {
        /// The tag.
        tag: u8,
    },
    /// A frame has 1 to 4 segments, and the last is empty only if it is the only one.
    #[error("impossible number of segments {count}")]
    BadSegments {
        /// The number announced.
        count: u8,
    },
    /// A frame is compressed although that was never agreed upon.
    #[error("the frame is compressed")]
    Compressed,
    /// A segment is larger than allowed.
    #[error("segment {segment} of {frame} has {len} bytes, {limit} are allowed")]
    TooLong {
        /// The frame.
        frame: Tag,
        /// Which segment, from 0.
        segment: usize,
        /// Bytes announced.
        len: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The byte behind a frame says neither "complete" nor "aborted".
    #[error("impossible late status {status:#04x}")]
    BadLateStatus {
        /// The byte.
        status: u8,
    },
}
