//! Replies: from answers to bytes, headers and payloads in a row without copying payloads.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::device::{ReadData, Segment};
use crate::handshake::clip;
use crate::wire::{self, Errno, chunk};

/// Payloads up to this many bytes are copied next to their headers: cheaper than an entry in the vector.
const SMALL_PAYLOAD: usize = 256;

static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// What became of a request.
#[derive(Debug, Clone)]
pub enum Answer {
    /// Done, and nothing to tell.
    Done,
    /// What was read.
    Read {
        /// Offset in bytes of the first byte.
        offset: u64,
        /// Send at most one chunk.
        dont_fragment: bool,
        /// At most [`MAX_PAYLOAD`](crate::MAX_PAYLOAD) bytes.
        data: ReadData,
    },
    /// Extents of `base:allocation`: length in bytes and `NBD_STATE_*` of each; at least one.
    BlockStatus(Vec<(u32, u32)>),
    /// It failed.
    Failed {
        /// The kind of error.
        errno: Errno,
        /// For people; sent if the client knows structured replies.
        message: Cow<'static, str>,
    },
}

/// Replies on their way to the client. It is a [`Buf`]: write it, vectored if possible, and advance.
#[derive(Debug)]
pub struct ReplyQueue {
    structured: bool,
    chunks: VecDeque<Bytes>,
    /// Headers (and small payloads) after the last of `chunks`.
    headers: BytesMut,
    len: usize,
}

impl ReplyQueue {
    /// An empty queue, for a client that did (not) negotiate structured replies.
    pub fn new(structured: bool) -> Self {
        Self { structured, chunks: VecDeque::new(), headers: BytesMut::new(), len: 0 }
    }

    /// Appends the reply to the request called `cookie`.
    pub fn push(&mut self, cookie: u64, answer: Answer) {
        match answer {
            // "[The server] MAY use either [...] for a command without a payload": the shorter one.
            Answer::Done => self.simple(cookie, 0),
            Answer::Failed { errno, .. } if !self.structured => self.simple(cookie, errno.code()),
            Answer::Failed { errno, message } => {
                let message = clip(&message);
                self.chunk(cookie, chunk::FLAG_DONE, chunk::ERROR, 6 + message.len());
                self.put(&errno.code().to_be_bytes());
                self.put(&u16::try_from(message.len()).expect("clipped").to_be_bytes());
                self.put(message.as_bytes());
            }
            Answer::Read { data, .. } if !self.structured => {
                self.simple(cookie, 0);
                self.put_segments(&data);
            }
            Answer::Read { offset, dont_fragment, data } => self.read(cookie, offset, dont_fragment, &data),
            Answer::BlockStatus(extents) => {
                self.chunk(cookie, chunk::FLAG_DONE, chunk::BLOCK_STATUS, 4 + 8 * extents.len());
                self.put(&wire::BASE_ALLOCATION_ID.to_be_bytes());
                for (len, status) in extents {
                    self.put(&len.to_be_bytes());
                    self.put(&status.to_be_bytes());
                }
            }
        }
    }

    fn read(&mut self, cookie: u64, offset: u64, dont_fragment: bool, data: &ReadData) {
        let segments = data.segments();
        if segments.is_empty() {
            return self.chunk(cookie, chunk::FLAG_DONE, chunk::NONE, 0);
        }
        if dont_fragment && segments.len() > 1 {
            let len = usize::try_from(data.len()).expect("at most the maximum payload");
            self.chunk(cookie, chunk::FLAG_DONE, chunk::OFFSET_DATA, 8 + len);
            self.put(&offset.to_be_bytes());
            return self.put_segments(data);
        }
        let mut offset = offset;
        for (at, segment) in segments.iter().enumerate() {
            let flags = if at + 1 == segments.len() { chunk::FLAG_DONE } else { 0 };
            match segment {
                Segment::Data(data) => {
                    self.chunk(cookie, flags, chunk::OFFSET_DATA, 8 + data.len());
                    self.put(&offset.to_be_bytes());
                    self.put_payload(data.clone());
                }
                Segment::Hole(len) => {
                    self.chunk(cookie, flags, chunk::OFFSET_HOLE, 12);
                    self.put(&offset.to_be_bytes());
                    let len = u32::try_from(*len).expect("at most the maximum payload");
                    self.put(&len.to_be_bytes());
                }
            }
            offset += segment.len();
        }
    }

    fn put_segments(&mut self, data: &ReadData) {
        for segment in data.segments() {
            match segment {
                Segment::Data(data) => self.put_payload(data.clone()),
                Segment::Hole(len) => {
                    let mut left = *len;
                    while left > 0 {
                        let len = usize::try_from(left).map_or(ZEROES.len(), |left| left.min(ZEROES.len()));
                        self.put_payload(Bytes::from_static(&ZEROES[..len]));
                        left -= len as u64;
                    }
                }
            }
        }
    }

    fn simple(&mut self, cookie: u64, error: u32) {
        self.put(&wire::SIMPLE_REPLY_MAGIC.to_be_bytes());
        self.put(&error.to_be_bytes());
        self.put(&cookie.to_be_bytes());
    }

    fn chunk(&mut self, cookie: u64, flags: u16, kind: u16, len: usize) {
        self.put(&wire::STRUCTURED_REPLY_MAGIC.to_be_bytes());
        self.put(&flags.to_be_bytes());
        self.put(&kind.to_be_bytes());
        self.put(&cookie.to_be_bytes());
        let len = u32::try_from(len).expect("at most the maximum payload and a header");
        self.put(&len.to_be_bytes());
    }

    fn put(&mut self, bytes: &[u8]) {
        self.headers.put_slice(bytes);
        self.len += bytes.len();
    }

    fn put_payload(&mut self, payload: Bytes) {
        if payload.len() <= SMALL_PAYLOAD {
            return self.put(&payload);
        }
        if !self.headers.is_empty() {
            self.chunks.push_back(self.headers.split().freeze());
        }
        self.len += payload.len();
        self.chunks.push_back(payload);
    }
}

impl Buf for ReplyQueue {
    fn remaining(&self) -> usize {
        self.len
    }

    fn chunk(&self) -> &[u8] {
        self.chunks.front().map_or(&self.headers, |chunk| chunk)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let headers = (!self.headers.is_empty()).then_some(&self.headers[..]);
        let all = self.chunks.iter().map(|chunk| &chunk[..]).chain(headers);
        slices.iter_mut().zip(all).map(|(slice, chunk)| *slice = IoSlice::new(chunk)).count()
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.len, "advance by {count} of {}", self.len);
        self.len -= count;
        while let Some(chunk) = self.chunks.front_mut() {
            if count < chunk.len() {
                return chunk.advance(count);
            }
            count -= chunk.len();
            self.chunks.pop_front();
        }
        self.headers.advance(count);
    }
}
