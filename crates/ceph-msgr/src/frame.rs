//! Frames, and how they are read.
//!
//! ```text
//! preamble, 32 bytes
//! +-----+------------+---------------------------+-------+---+----------+
//! | tag | n segments | 4 x (len le32, align le16)| flags | 0 | crc le32 |
//! +-----+------------+---------------------------+-------+---+----------+
//!
//! with checksums
//! | preamble | segment 0 | crc | segments 1.. | late status, 3 x crc |
//!             `--- if not empty'               `---- if n > 1 ------'
//!
//! encrypted; every line is a unit with a tag of 16 bytes behind it, segments are padded with zeros to 16 bytes
//! | preamble | first 48 bytes of segment 0 |
//! | rest of segment 0 |                                    if there is any
//! | segments 1.. | late status, 15 zeros |                 if n > 1
//! ```
//! Empty segments at the end are not counted. A frame whose sender changed its mind has the late status
//! "aborted" and is dropped.
//!
//! Ceph: `FrameAssembler` in `src/msg/async/frames_v2.cc`.

use std::fmt;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use ceph_codec::crc32c;

use crate::crypto::{Cipher, TAG_LEN};
use crate::error::FrameError;

/// What a frame is. Ceph: `Tag` in `src/msg/async/frames_v2.h`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tag(pub u8);

impl Tag {
    pub(crate) const HELLO: Self = Self(1);
    pub(crate) const AUTH_REQUEST: Self = Self(2);
    pub(crate) const AUTH_BAD_METHOD: Self = Self(3);
    pub(crate) const AUTH_REPLY_MORE: Self = Self(4);
    pub(crate) const AUTH_REQUEST_MORE: Self = Self(5);
    pub(crate) const AUTH_DONE: Self = Self(6);
    pub(crate) const AUTH_SIGNATURE: Self = Self(7);
    pub(crate) const CLIENT_IDENT: Self = Self(8);
    pub(crate) const SERVER_IDENT: Self = Self(9);
    pub(crate) const IDENT_MISSING_FEATURES: Self = Self(10);
    pub(crate) const MESSAGE: Self = Self(17);
    pub(crate) const KEEPALIVE2: Self = Self(18);
    pub(crate) const KEEPALIVE2_ACK: Self = Self(19);
    pub(crate) const ACK: Self = Self(20);

    /// The name of the frame in Ceph, if it is one.
    fn name(self) -> Option<&'static str> {
        const NAMES: [&str; 22] = [
            "HELLO",
            "AUTH_REQUEST",
            "AUTH_BAD_METHOD",
            "AUTH_REPLY_MORE",
            "AUTH_REQUEST_MORE",
            "AUTH_DONE",
            "AUTH_SIGNATURE",
            "CLIENT_IDENT",
            "SERVER_IDENT",
            "IDENT_MISSING_FEATURES",
            "SESSION_RECONNECT",
            "SESSION_RESET",
            "SESSION_RETRY",
            "SESSION_RETRY_GLOBAL",
            "SESSION_RECONNECT_OK",
            "WAIT",
            "MESSAGE",
            "KEEPALIVE2",
            "KEEPALIVE2_ACK",
            "ACK",
            "COMPRESSION_REQUEST",
            "COMPRESSION_DONE",
        ];
        NAMES.get(usize::from(self.0).checked_sub(1)?).copied()
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "frame {}", self.0),
        }
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

pub(crate) const MAX_SEGMENTS: usize = 4;
pub(crate) const PREAMBLE_LEN: usize = 32;
pub(crate) const CRC_LEN: usize = 4;
/// Bytes of segment 0 that are encrypted together with the preamble.
pub(crate) const INLINE_LEN: usize = 48;
/// To which segments of encrypted frames are padded.
pub(crate) const BLOCK_LEN: usize = 16;
/// Late status and three checksums.
pub(crate) const EPILOGUE_LEN: usize = 1 + 3 * CRC_LEN;
/// The preamble as a unit of an encrypted connection.
const SEALED_PREAMBLE_LEN: usize = PREAMBLE_LEN + INLINE_LEN + TAG_LEN;

const CRC_AT: usize = PREAMBLE_LEN - CRC_LEN;
const FLAG_COMPRESSED: u8 = 1;

pub(crate) const LATE_COMPLETE: u8 = 0xe;
const LATE_ABORTED: u8 = 0x1;
const LATE_MASK: u8 = 0xf;

/// Where segments of checksums start. The preamble's starts with 0 instead.
pub(crate) const CRC_SEED: u32 = u32::MAX;

/// What a frame is and how long its segments are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Preamble {
    pub(crate) tag: Tag,
    /// Bytes of each segment, 0 for those that are not there.
    pub(crate) lens: [usize; MAX_SEGMENTS],
}

impl Preamble {
    /// Number of segments: empty ones at the end do not count, but one there always is.
    pub(crate) fn segments(&self) -> usize {
        self.lens.iter().rposition(|&len| len > 0).unwrap_or(0) + 1
    }

    /// The bytes on the wire. Lengths fit `u32` because senders check them.
    pub(crate) fn to_wire(self) -> [u8; PREAMBLE_LEN] {
        const ALIGN: [u16; MAX_SEGMENTS] = [8, 8, 8, 4096];
        let count = self.segments();
        let mut wire = [0; PREAMBLE_LEN];
        wire[0] = self.tag.0;
        wire[1] = u8::try_from(count).expect("at most 4");
        for (i, slot) in wire[2..26].chunks_exact_mut(6).take(count).enumerate() {
            let len = u32::try_from(self.lens[i]).expect("senders check lengths");
            slot[..4].copy_from_slice(&len.to_le_bytes());
            slot[4..].copy_from_slice(&ALIGN[i].to_le_bytes());
        }
        let crc = crc32c(0, &wire[..CRC_AT]);
        wire[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        wire
    }

    fn from_wire(wire: &[u8; PREAMBLE_LEN]) -> Result<Self, FrameError> {
        let expected = u32_at(wire, CRC_AT);
        check_crc("preamble", crc32c(0, &wire[..CRC_AT]), expected)?;
        let tag = Tag(wire[0]);
        if tag.name().is_none() {
            return Err(FrameError::UnknownTag { tag: tag.0 });
        }
        let count = wire[1];
        if !(1..=4).contains(&count) {
            return Err(FrameError::BadSegments { count });
        }
        if wire[26] & FLAG_COMPRESSED != 0 {
            return Err(FrameError::Compressed);
        }
        let mut lens = [0; MAX_SEGMENTS];
        for (i, len) in lens.iter_mut().take(count.into()).enumerate() {
            *len = usize::try_from(u32_at(wire, 2 + 6 * i)).unwrap_or(usize::MAX);
        }
        let preamble = Self { tag, lens };
        if preamble.segments() != usize::from(count) {
            return Err(FrameError::BadSegments { count });
        }
        Ok(preamble)
    }

    /// Bytes of the whole frame on an encrypted connection.
    pub(crate) fn sealed_len(&self) -> usize {
        self.sealed_layout().total
    }

    fn layout(&self, sealed: bool) -> Layout {
        if sealed { self.sealed_layout() } else { self.crc_layout() }
    }

    fn crc_layout(&self) -> Layout {
        let mut starts = [PREAMBLE_LEN; MAX_SEGMENTS];
        let mut end = PREAMBLE_LEN + self.lens[0];
        if self.lens[0] > 0 {
            end += CRC_LEN;
        }
        let rest = end;
        for (start, len) in starts.iter_mut().zip(self.lens).skip(1) {
            *start = end;
            end += len;
        }
        if self.segments() > 1 {
            end += EPILOGUE_LEN;
        }
        Layout { starts, rest, total: end }
    }

    fn sealed_layout(&self) -> Layout {
        let mut starts = [PREAMBLE_LEN; MAX_SEGMENTS];
        let mut end = SEALED_PREAMBLE_LEN;
        let first = padded(self.lens[0]);
        if first > INLINE_LEN {
            end += first - INLINE_LEN + TAG_LEN;
            // Once decrypted, the inline part is moved to the rest, over the tag between them.
            starts[0] += TAG_LEN;
        }
        let rest = end;
        for (start, len) in starts.iter_mut().zip(self.lens).skip(1) {
            *start = end;
            end += padded(len);
        }
        if self.segments() > 1 {
            end += BLOCK_LEN + TAG_LEN;
        }
        Layout { starts, rest, total: end }
    }
}

/// Bytes of a segment of `len` bytes in an encrypted frame.
pub(crate) fn padded(len: usize) -> usize {
    len.next_multiple_of(BLOCK_LEN)
}

/// Where the parts of a frame are, from its first byte.
struct Layout {
    starts: [usize; MAX_SEGMENTS],
    /// Where segment 1 is or would be.
    rest: usize,
    /// Bytes of the whole frame.
    total: usize,
}

/// A frame that arrived whole and is intact.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) tag: Tag,
    /// All its bytes, as they were on the wire if it was not encrypted.
    pub(crate) wire: Bytes,
    segments: [Range<usize>; MAX_SEGMENTS],
}

impl Frame {
    /// The bytes of a segment; none if it is not there.
    pub(crate) fn segment(&self, i: usize) -> &[u8] {
        &self.wire[self.segments[i].clone()]
    }

    /// A segment as a part of the buffer into which the frame was received.
    pub(crate) fn segment_bytes(&self, i: usize) -> Bytes {
        // An empty part would keep the buffer alive for nothing.
        if self.segments[i].is_empty() { Bytes::new() } else { self.wire.slice(self.segments[i].clone()) }
    }
}

/// Space that a reader has at least, unless the rest of a large frame wants exactly what it needs.
const READ_LEN: usize = 64 << 10;

/// Takes frames off a stream.
pub(crate) struct FrameReader {
    inbox: BytesMut,
    /// The preamble at the start of `inbox`, if it is there; it is already decrypted then.
    pending: Option<Preamble>,
    cipher: Option<Cipher>,
    /// Whether the peer fills in checksums of segments.
    check_crc: bool,
}

impl FrameReader {
    pub(crate) fn new(check_crc: bool) -> Self {
        Self { inbox: BytesMut::new(), pending: None, cipher: None, check_crc }
    }

    /// From here on everything is encrypted.
    pub(crate) fn encrypted(&mut self, cipher: Cipher) {
        self.cipher = Some(cipher);
    }

    /// Where to append what arrives.
    pub(crate) fn buf(&mut self) -> &mut BytesMut {
        let have = self.inbox.len();
        let total = self.pending.map_or(0, |preamble| preamble.layout(self.cipher.is_some()).total);
        if total > READ_LEN && total > have {
            if self.inbox.capacity() < total {
                let mut exact = BytesMut::with_capacity(total);
                exact.extend_from_slice(&self.inbox);
                self.inbox = exact;
            }
        } else if self.inbox.capacity() - have < READ_LEN / 16 || self.inbox.capacity() < total {
            self.inbox.reserve(READ_LEN);
        }
        &mut self.inbox
    }

    /// What arrived and is not taken yet.
    pub(crate) fn unread(&self) -> &[u8] {
        &self.inbox
    }

    /// Takes `len` bytes that are there and are not a frame.
    pub(crate) fn take(&mut self, len: usize) -> Bytes {
        self.inbox.split_to(len).freeze()
    }

    /// Takes the next frame, if it is there as a whole.
    ///
    /// `admit` sees how long it will be before any space for it is allocated. Aborted frames are dropped.
    pub(crate) fn next(
        &mut self,
        mut admit: impl FnMut(&Preamble) -> Result<(), FrameError>,
    ) -> Result<Option<Frame>, FrameError> {
        loop {
            let preamble = match self.pending {
                Some(preamble) => preamble,
                None => {
                    let Some(preamble) = self.next_preamble()? else { return Ok(None) };
                    admit(&preamble)?;
                    *self.pending.insert(preamble)
                }
            };
            let layout = preamble.layout(self.cipher.is_some());
            if self.inbox.len() < layout.total {
                return Ok(None);
            }
            self.pending = None;
            let mut wire = self.inbox.split_to(layout.total);
            let late_status = match &mut self.cipher {
                Some(cipher) => open(&mut wire, &preamble, &layout, cipher)?,
                None => verify(&wire, &preamble, &layout, self.check_crc)?,
            };
            match late_status & LATE_MASK {
                LATE_COMPLETE => {
                    let segments =
                        std::array::from_fn(|i| layout.starts[i]..layout.starts[i] + preamble.lens[i]);
                    return Ok(Some(Frame { tag: preamble.tag, wire: wire.freeze(), segments }));
                }
                LATE_ABORTED => {}
                _ => return Err(FrameError::BadLateStatus { status: late_status }),
            }
        }
    }

    fn next_preamble(&mut self) -> Result<Option<Preamble>, FrameError> {
        if let Some(cipher) = &mut self.cipher {
            let Some(unit) = self.inbox.get_mut(..SEALED_PREAMBLE_LEN) else { return Ok(None) };
            cipher.open(unit)?;
        }
        self.inbox.first_chunk().map(Preamble::from_wire).transpose()
    }
}

/// Decrypts a frame whose preamble is decrypted already. Returns the late status.
fn open(
    wire: &mut [u8],
    preamble: &Preamble,
    layout: &Layout,
    cipher: &mut Cipher,
) -> Result<u8, FrameError> {
    if layout.rest > SEALED_PREAMBLE_LEN {
        cipher.open(&mut wire[SEALED_PREAMBLE_LEN..layout.rest])?;
        wire.copy_within(PREAMBLE_LEN..PREAMBLE_LEN + INLINE_LEN, layout.starts[0]);
    }
    if preamble.segments() == 1 {
        return Ok(LATE_COMPLETE);
    }
    cipher.open(&mut wire[layout.rest..])?;
    Ok(wire[layout.total - TAG_LEN - BLOCK_LEN])
}

/// Verifies the checksums of a frame. Returns the late status.
fn verify(wire: &[u8], preamble: &Preamble, layout: &Layout, check: bool) -> Result<u8, FrameError> {
    const PARTS: [&str; MAX_SEGMENTS] =
        ["first segment", "second segment", "third segment", "fourth segment"];
    let check_segment = |i: usize, crc_at: usize| {
        let start = layout.starts[i];
        let actual = crc32c(CRC_SEED, &wire[start..start + preamble.lens[i]]);
        check_crc(PARTS[i], actual, u32_at(wire, crc_at))
    };
    if check && preamble.lens[0] > 0 {
        check_segment(0, layout.rest - CRC_LEN)?;
    }
    let count = preamble.segments();
    if count == 1 {
        return Ok(LATE_COMPLETE);
    }
    let epilogue = layout.total - EPILOGUE_LEN;
    if check {
        for i in 1..count {
            check_segment(i, epilogue + 1 + CRC_LEN * (i - 1))?;
        }
    }
    Ok(wire[epilogue])
}

fn check_crc(part: &'static str, actual: u32, expected: u32) -> Result<(), FrameError> {
    if actual == expected { Ok(()) } else { Err(FrameError::BadCrc { part, actual, expected }) }
}

/// The number at `at`, which the caller knows to be inside.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}
