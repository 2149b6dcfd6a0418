//! What a block device must offer to be served.

use std::future::Future;

use bytes::Bytes;
use thiserror::Error;

use crate::wire::{Errno, MAX_PAYLOAD};

/// A block device: an array of bytes that can be served as an NBD export.
///
/// Requests of one connection run concurrently, and several connections may share the device. The server calls
/// a method only with a range inside of [`size`](DeviceInfo::size), aligned to the minimum block size, not empty,
/// and calls those that change something only if the device is not read-only.
///
/// **Size.** A connection keeps the size that it was told at its beginning; the next one is told the new size. A
/// device that has shrunk meanwhile refuses what reaches past its end: writes with [`ErrorKind::NoSpace`], all
/// else with [`ErrorKind::Invalid`], as the protocol wants it.
///
/// **Durability.** A write (trim, write of zeroes) may be acknowledged, that is its future may resolve, before the data
/// is durable, except with `fua`. [`flush`](Self::flush) must not resolve before everything that was acknowledged
/// before the call, through whichever connection, is durable.
///
/// **Cancellation.** The futures are dropped unfinished only when the connection broke: nobody waits for the answer.
/// Requests in flight may then have happened or not.
pub trait BlockDevice: Send + Sync + 'static {
    /// Size and abilities. Asked whenever a client asks; what a connection began with does not change under it.
    fn info(&self) -> DeviceInfo;

    /// Reads `len` bytes (at most [`MAX_PAYLOAD`]) at `offset`.
    fn read(&self, offset: u64, len: u32) -> impl Future<Output = Result<ReadData, DeviceError>> + Send;

    /// Writes `data` at `offset`; with `fua` resolves only once the data is durable.
    ///
    /// `data` may be a slice of a larger receive buffer: copy it if it is to be kept after the future resolved.
    fn write(
        &self,
        offset: u64,
        data: Bytes,
        fua: bool,
    ) -> impl Future<Output = Result<(), DeviceError>> + Send;

    /// Resolves once all that was acknowledged before the call is durable.
    fn flush(&self) -> impl Future<Output = Result<(), DeviceError>> + Send;

    /// Hints that `len` bytes at `offset` are no longer needed. All, part or none of them may be dropped, and
    /// reading them may return anything; bytes outside must not change.
    fn trim(&self, offset: u64, len: u64, fua: bool) -> impl Future<Output = Result<(), DeviceError>> + Send;

    /// Makes `len` bytes at `offset` read as zeroes.
    fn write_zeroes(
        &self,
        offset: u64,
        len: u64,
        flags: ZeroFlags,
    ) -> impl Future<Output = Result<(), DeviceError>> + Send;

    /// Hints that `len` bytes at `offset` will be read soon. Does nothing by default.
    fn cache(&self, offset: u64, len: u64) -> impl Future<Output = Result<(), DeviceError>> + Send {
        let _ = (offset, len);
        std::future::ready(Ok(()))
    }

    /// Tells what is allocated from `offset` on: one or more (at most `max_extents`) consecutive extents.
    ///
    /// They may cover less than `len`, and the last one may reach beyond it: clients ask for the rest, or are glad
    /// not to have to ask. The default calls everything data.
    fn block_status(
        &self,
        offset: u64,
        len: u64,
        max_extents: usize,
    ) -> impl Future<Output = Result<Vec<Extent>, DeviceError>> + Send {
        let _ = (offset, max_extents);
        std::future::ready(Ok(vec![Extent { len, hole: false, zero: false }]))
    }
}

/// What a client is told about a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Size in bytes.
    pub size: u64,
    /// Whether writes, trims and zeroes are refused (`EPERM`).
    pub read_only: bool,
    /// Text for people; at most 4096 bytes are sent.
    pub description: String,
    /// Size constraints.
    pub block_size: BlockSize,
    /// Whether it can tell at once that zeroing is not faster than writing ([`ZeroFlags::fast_only`]).
    pub fast_zero: bool,
    /// Whether a flush on one connection covers writes acknowledged on another: true unless each connection gets a
    /// device with a cache of its own.
    pub multi_conn: bool,
    /// Whether it behaves like a spinning disk.
    pub rotational: bool,
}

impl DeviceInfo {
    /// A writable device of `size` bytes with default block sizes, shared by all connections.
    pub const fn new(size: u64) -> Self {
        Self {
            size,
            read_only: false,
            description: String::new(),
            block_size: BlockSize::DEFAULT,
            fast_zero: false,
            multi_conn: true,
            rotational: false,
        }
    }
}

/// Size constraints: in bytes, powers of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockSize {
    minimum: u32,
    preferred: u32,
}

impl BlockSize {
    /// Any offset and length will do, multiples of 4 KiB are best.
    pub const DEFAULT: Self = Self { minimum: 1, preferred: 4096 };

    /// Requests must be multiples of `minimum`, and should be multiples of `preferred`.
    ///
    /// `None` unless both are powers of two, `minimum` at most 64 KiB, `preferred` at least 512, not below `minimum`
    /// and at most [`MAX_PAYLOAD`].
    pub const fn new(minimum: u32, preferred: u32) -> Option<Self> {
        let valid = minimum.is_power_of_two()
            && minimum <= 64 << 10
            && preferred.is_power_of_two()
            && preferred >= 512
            && preferred >= minimum
            && preferred <= MAX_PAYLOAD;
        if valid { Some(Self { minimum, preferred }) } else { None }
    }

    /// Every offset and length is a multiple of this.
    pub const fn minimum(self) -> u32 {
        self.minimum
    }

    /// Offsets and lengths are best multiples of this.
    pub const fn preferred(self) -> u32 {
        self.preferred
    }
}

/// How zeroes are to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ZeroFlags {
    /// The range may become unallocated (`NO_HOLE` is not set).
    pub may_unmap: bool,
    /// Fail with [`ErrorKind::NotSupported`], at once and without changing anything, unless it is faster than
    /// writing zeroes would be (`FAST_ZERO`).
    pub fast_only: bool,
    /// Resolve only once the zeroes are durable (`FUA`).
    pub fua: bool,
}

/// What was read: consecutive segments that together are exactly as long as was asked.
#[derive(Debug, Clone, Default)]
pub struct ReadData(Segments);

// Nearly every read is one segment, which should not cost an allocation.
#[derive(Debug, Clone, Default)]
enum Segments {
    #[default]
    Empty,
    One(Segment),
    Many(Vec<Segment>),
}

/// A part of what was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// These bytes.
    Data(Bytes),
    /// This many zeroes, which need not be sent.
    Hole(u64),
}

impl Segment {
    /// Length in bytes.
    pub const fn len(&self) -> u64 {
        match self {
            Self::Data(data) => data.len() as u64,
            Self::Hole(len) => *len,
        }
    }

    /// Whether it covers nothing.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl ReadData {
    /// Nothing yet; to be filled by [`push`](Self::push).
    pub const fn new() -> Self {
        Self(Segments::Empty)
    }

    /// Only data.
    pub fn data(data: impl Into<Bytes>) -> Self {
        Self(Segments::One(Segment::Data(data.into())))
    }

    /// Only zeroes.
    pub const fn hole(len: u64) -> Self {
        Self(Segments::One(Segment::Hole(len)))
    }

    /// Appends a segment; empty ones are dropped and adjacent holes joined.
    pub fn push(&mut self, segment: Segment) {
        if segment.is_empty() {
            return;
        }
        let last = match &mut self.0 {
            Segments::Empty => None,
            Segments::One(last) => Some(last),
            Segments::Many(all) => all.last_mut(),
        };
        if let (Some(Segment::Hole(last)), Segment::Hole(len)) = (last, &segment) {
            *last = last.saturating_add(*len);
            return;
        }
        self.0 = match std::mem::take(&mut self.0) {
            Segments::Empty => Segments::One(segment),
            Segments::One(first) => Segments::Many(vec![first, segment]),
            Segments::Many(mut all) => {
                all.push(segment);
                Segments::Many(all)
            }
        };
    }

    /// The segments in order.
    pub fn segments(&self) -> &[Segment] {
        match &self.0 {
            Segments::Empty => &[],
            Segments::One(segment) => std::slice::from_ref(segment),
            Segments::Many(all) => all,
        }
    }

    /// Length in bytes of all segments.
    pub fn len(&self) -> u64 {
        self.segments().iter().fold(0, |sum: u64, segment| sum.saturating_add(segment.len()))
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl FromIterator<Segment> for ReadData {
    fn from_iter<I: IntoIterator<Item = Segment>>(segments: I) -> Self {
        let mut data = Self::new();
        for segment in segments {
            data.push(segment);
        }
        data
    }
}

/// A run of bytes with the same allocation status, of the `base:allocation` context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Length in bytes.
    pub len: u64,
    /// Not allocated: writing may need new space.
    pub hole: bool,
    /// Reads as zeroes.
    pub zero: bool,
}

/// Why a device could not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct DeviceError {
    kind: ErrorKind,
    message: String,
}

/// Kinds of failures that the protocol can tell a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The data could not be read or written.
    Io,
    /// There is no space left, or a quota is used up.
    NoSpace,
    /// The device must not be changed, at least not by this server.
    NotPermitted,
    /// The request makes no sense to the device.
    Invalid,
    /// Zeroing would not be fast ([`ZeroFlags::fast_only`]).
    NotSupported,
    /// Memory ran out.
    NoMemory,
    /// The device is being closed.
    Shutdown,
}

impl ErrorKind {
    /// The number that tells a client.
    pub const fn errno(self) -> Errno {
        match self {
            Self::Io => Errno::Io,
            Self::NoSpace => Errno::NoSpace,
            Self::NotPermitted => Errno::Perm,
            Self::Invalid => Errno::Invalid,
            Self::NotSupported => Errno::NotSupported,
            Self::NoMemory => Errno::NoMemory,
            Self::Shutdown => Errno::Shutdown,
        }
    }
}

impl DeviceError {
    /// `message` is for people: clients with structured replies get (at most 4096 bytes of) it, so it must not hold
    /// secrets.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// What kind of failure it is.
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What happened, for people.
    pub fn message(&self) -> &str {
        &self.message
    }
}
