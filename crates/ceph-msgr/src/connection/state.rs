//! What a connection knows in each of its states.

use crate::crypto::SIGNATURE_LEN;
use crate::error::{FrameError, MsgrError};
use crate::features;
use crate::frame::{Frame, Preamble, Tag};
use crate::handshake::{ClientIdent, ConMode, LOSSY, REVISION_1};
use crate::message::Header;

/// What this side says it can do. A constant, but in tests that play the part of other clients.
#[derive(Clone, Copy)]
pub(super) struct Offer {
    /// Features of the messenger itself.
    pub(super) revision: u64,
    pub(super) supported: u64,
    pub(super) required: u64,
    pub(super) flags: u64,
    /// Of a session that could be resumed.
    pub(super) cookie: u64,
}

impl Offer {
    pub(super) const OURS: Self = Self {
        revision: REVISION_1,
        supported: features::SUPPORTED,
        required: features::REQUIRED,
        flags: LOSSY,
        cookie: 0,
    };
}

/// Each state owns only what it needs.
pub(super) enum State {
    /// The peer's banner is awaited.
    Banner(Transcript),
    /// `HELLO` is awaited.
    Hello(Transcript),
    /// `start_auth` is awaited.
    Start(Transcript),
    /// The peer's reply to an authentication frame is awaited.
    Reply(Transcript),
    /// `continue_auth` is awaited.
    More(Transcript),
    /// `finish_auth` is awaited.
    Done(Transcript, ConMode),
    /// `AUTH_SIGNATURE` is awaited.
    Signature { expected: [u8; SIGNATURE_LEN], ident: ClientIdent },
    /// `SERVER_IDENT` is awaited.
    Ident,
    /// Messages go to and fro.
    Open(Session),
    /// An error happened.
    Closed,
}

/// The bytes of the handshake in both directions, to be signed.
#[derive(Default)]
pub(super) struct Transcript {
    pub(super) sent: Vec<u8>,
    pub(super) received: Vec<u8>,
}

/// A connection on which messages flow.
pub(super) struct Session {
    pub(super) features: u64,
    /// `seq` of the last message received.
    pub(super) in_seq: u64,
    /// `seq` of the last message sent.
    pub(super) out_seq: u64,
}

/// Bytes that the peer may send before it has authenticated itself. Real handshakes have about 1 KiB.
pub(super) const MAX_HANDSHAKE: usize = 1 << 20;
/// Bytes of a frame that is not a message, later on.
const MAX_CONTROL: usize = 64 << 10;
/// Bytes of the front of a message. OSD maps of large clusters are the longest.
const MAX_FRONT: usize = 64 << 20;
/// Bytes of the middle of a message.
const MAX_MIDDLE: usize = 16 << 20;

impl State {
    /// What this side is doing, for messages.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Banner(_) => "waiting for the banner",
            Self::Hello(_) => "waiting for HELLO",
            Self::Start(_) => "about to authenticate",
            Self::Reply(_) => "authenticating",
            Self::More(_) => "answering an authentication question",
            Self::Done(..) => "checking the peer's authentication",
            Self::Signature { .. } => "waiting for the signature",
            Self::Ident => "waiting for SERVER_IDENT",
            Self::Open(_) => "exchanging messages",
            Self::Closed => "closed",
        }
    }

    /// Whether a frame may be as long as it says.
    pub(super) fn admit(&self, preamble: &Preamble, max_data: usize) -> Result<(), FrameError> {
        let limits = match self {
            Self::Open(_) if preamble.tag == Tag::MESSAGE => [Header::LEN, MAX_FRONT, MAX_MIDDLE, max_data],
            Self::Open(_) | Self::Ident | Self::Signature { .. } => [MAX_CONTROL, 0, 0, 0],
            _ => [MAX_HANDSHAKE, 0, 0, 0],
        };
        for (segment, (len, limit)) in preamble.lens.into_iter().zip(limits).enumerate() {
            if len > limit {
                return Err(FrameError::TooLong { frame: preamble.tag, segment, len, limit });
            }
        }
        Ok(())
    }
}

impl Transcript {
    pub(super) fn receive(&mut self, frame: &Frame) -> Result<(), MsgrError> {
        if self.received.len() + frame.wire.len() > MAX_HANDSHAKE {
            return Err(MsgrError::LongHandshake { limit: MAX_HANDSHAKE });
        }
        self.received.extend_from_slice(&frame.wire);
        Ok(())
    }
}
