//! What waits to be written, and how frames get there. See [`frame`](crate::frame) for the format.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};
use ceph_codec::crc32c;

use crate::crypto::Cipher;
use crate::frame::{
    BLOCK_LEN, CRC_LEN, CRC_SEED, EPILOGUE_LEN, INLINE_LEN, LATE_COMPLETE, PREAMBLE_LEN, Preamble, padded,
};
use crate::message::Header;
use crate::{Message, Tag};

/// A frame to be sent: its segments, those after the first in pieces.
pub(crate) struct Outgoing<'a> {
    pub(crate) tag: Tag,
    pub(crate) first: &'a [u8],
    pub(crate) rest: [&'a [Bytes]; 3],
}

impl Outgoing<'_> {
    fn preamble(&self) -> Preamble {
        let [a, b, c] = self.rest.map(|pieces| pieces.iter().map(Bytes::len).sum());
        Preamble { tag: self.tag, lens: [self.first.len(), a, b, c] }
    }
}

/// A piece of at least this many bytes is written from where it is, a smaller one is copied: below, one more
/// slice in `writev` and one more reference count cost more than the copy.
const OWN_CHUNK: usize = 2048;
/// An encrypted frame of at least this many bytes gets a buffer of its own.
const OWN_BUFFER: usize = 16 << 10;
/// By how much the shared buffer grows.
const GROWTH: usize = 16 << 10;

/// Bytes that wait to be written: few chunks, however many small frames there are.
pub(crate) struct Outbox {
    chunks: VecDeque<Bytes>,
    /// What comes after `chunks`; small things are gathered here.
    tail: BytesMut,
    cipher: Option<Cipher>,
    /// Whether to fill in checksums of segments.
    with_crc: bool,
}

impl Outbox {
    pub(crate) fn new(with_crc: bool) -> Self {
        Self { chunks: VecDeque::new(), tail: BytesMut::new(), cipher: None, with_crc }
    }

    /// From here on everything is encrypted.
    pub(crate) fn encrypted(&mut self, cipher: Cipher) {
        self.cipher = Some(cipher);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.chunks.is_empty() && self.tail.is_empty()
    }

    pub(crate) fn fill_io_slices<'a>(&'a self, out: &mut [IoSlice<'a>]) -> usize {
        let tail = (!self.tail.is_empty()).then_some(&*self.tail);
        let all = self.chunks.iter().map(|chunk| &**chunk).chain(tail);
        let mut filled = 0;
        for (slot, chunk) in out.iter_mut().zip(all) {
            *slot = IoSlice::new(chunk);
            filled += 1;
        }
        filled
    }

    pub(crate) fn advance(&mut self, mut n: usize) {
        while let Some(chunk) = self.chunks.front_mut() {
            if n < chunk.len() {
                chunk.advance(n);
                return;
            }
            n -= chunk.len();
            self.chunks.pop_front();
        }
        self.tail.advance(n);
    }

    /// Appends bytes that are not a frame.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
    }

    /// Appends a frame. Every segment must be shorter than 4 GiB.
    pub(crate) fn frame(&mut self, frame: &Outgoing<'_>) {
        match self.cipher.take() {
            Some(cipher) => self.sealed(frame, cipher),
            None => self.plain(frame),
        }
    }

    /// Appends a message, the connection's number `seq`. `ack_seq` is the number of the last one received.
    pub(crate) fn message(&mut self, message: &Message, seq: u64, ack_seq: u64) {
        let header = Header {
            seq,
            tid: message.tid,
            kind: message.kind,
            priority: message.priority,
            version: message.version,
            ack_seq,
            compat_version: message.compat_version,
        };
        self.frame(&Outgoing {
            tag: Tag::MESSAGE,
            first: &header.to_wire(),
            rest: [
                std::slice::from_ref(&message.front),
                std::slice::from_ref(&message.middle),
                message.data.pieces(),
            ],
        });
    }

    /// Appends a frame of one segment and returns its bytes, for the transcript of the handshake.
    pub(crate) fn control(&mut self, tag: Tag, payload: &[u8]) -> &[u8] {
        let before = self.tail.len();
        self.frame(&Outgoing { tag, first: payload, rest: [&[]; 3] });
        // Neither copied elsewhere nor cut: only pieces of later segments become chunks of their own.
        self.tail.get(before..).unwrap_or_default()
    }

    fn plain(&mut self, frame: &Outgoing<'_>) {
        let preamble = frame.preamble();
        self.room(PREAMBLE_LEN + frame.first.len() + CRC_LEN + EPILOGUE_LEN);
        self.tail.extend_from_slice(&preamble.to_wire());
        if !frame.first.is_empty() {
            self.tail.extend_from_slice(frame.first);
            self.tail.extend_from_slice(&self.crc(&[frame.first]).to_le_bytes());
        }
        let rest = &frame.rest[..preamble.segments() - 1];
        if rest.is_empty() {
            return;
        }
        let mut epilogue = [0; EPILOGUE_LEN];
        epilogue[0] = LATE_COMPLETE;
        for (segment, slot) in rest.iter().zip(epilogue[1..].chunks_exact_mut(CRC_LEN)) {
            slot.copy_from_slice(&self.crc(segment).to_le_bytes());
            for piece in *segment {
                self.piece(piece);
            }
        }
        self.room(EPILOGUE_LEN);
        self.tail.extend_from_slice(&epilogue);
    }

    fn crc(&self, pieces: &[impl AsRef<[u8]>]) -> u32 {
        if !self.with_crc {
            return 0;
        }
        pieces.iter().fold(CRC_SEED, |crc, piece| crc32c(crc, piece.as_ref()))
    }

    fn piece(&mut self, piece: &Bytes) {
        if piece.len() < OWN_CHUNK {
            self.room(piece.len());
            self.tail.extend_from_slice(piece);
        } else {
            self.chunk(piece.clone());
        }
    }

    fn chunk(&mut self, chunk: Bytes) {
        if !self.tail.is_empty() {
            self.chunks.push_back(self.tail.split().freeze());
        }
        self.chunks.push_back(chunk);
    }

    /// Makes room for `len` bytes in `tail`.
    fn room(&mut self, len: usize) {
        if self.tail.capacity() - self.tail.len() < len {
            self.tail.reserve(len.max(GROWTH));
        }
    }

    fn sealed(&mut self, frame: &Outgoing<'_>, mut cipher: Cipher) {
        let preamble = frame.preamble();
        let total = preamble.sealed_len();
        if total < OWN_BUFFER {
            self.room(total);
            seal(&preamble, frame, &mut cipher, &mut self.tail);
        } else {
            let mut own = BytesMut::with_capacity(total);
            seal(&preamble, frame, &mut cipher, &mut own);
            self.chunk(own.freeze());
        }
        self.cipher = Some(cipher);
    }
}

/// Appends the units of an encrypted frame to `out`.
fn seal(preamble: &Preamble, frame: &Outgoing<'_>, cipher: &mut Cipher, out: &mut BytesMut) {
    let (inline, more) = frame.first.split_at(frame.first.len().min(INLINE_LEN));
    unit(cipher, out, |out| {
        out.extend_from_slice(&preamble.to_wire());
        segment(out, INLINE_LEN, &[inline]);
    });
    if !more.is_empty() {
        unit(cipher, out, |out| segment(out, padded(more.len()), &[more]));
    }
    let rest = &frame.rest[..preamble.segments() - 1];
    if !rest.is_empty() {
        unit(cipher, out, |out| {
            for (pieces, &len) in rest.iter().zip(&preamble.lens[1..]) {
                segment(out, padded(len), pieces);
            }
            segment(out, BLOCK_LEN, &[[LATE_COMPLETE]]);
        });
    }
}

/// Appends what `fill` appends, encrypted, and its tag.
fn unit(cipher: &mut Cipher, out: &mut BytesMut, fill: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    fill(out);
    let tag = cipher.seal(&mut out[start..]);
    out.extend_from_slice(&tag);
}

/// Appends a segment, and zeros up to `len`.
fn segment(out: &mut BytesMut, len: usize, pieces: &[impl AsRef<[u8]>]) {
    let end = out.len() + len;
    for piece in pieces {
        out.extend_from_slice(piece.as_ref());
    }
    out.resize(end, 0);
}
