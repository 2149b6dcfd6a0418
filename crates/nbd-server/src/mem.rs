//! A device in memory, for tests, examples and documentation.

use std::collections::BTreeMap;
use std::future::{self, Future};
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

use crate::device::{BlockDevice, DeviceError, DeviceInfo, ErrorKind, Extent, ReadData, Segment, ZeroFlags};

/// Unit of allocation in bytes; absent chunks read as zeroes.
const CHUNK: usize = 64 << 10;

/// A sparse device in memory, which can fail on command.
///
/// Trim frees whole chunks of 64 KiB and leaves the rest; zeroing is fast if it frees all it touches.
#[derive(Debug)]
pub struct MemDevice {
    info: DeviceInfo,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    chunks: BTreeMap<u64, Box<[u8]>>,
    failure: Option<(u64, DeviceError)>,
}

impl MemDevice {
    /// A device of `size` bytes, all zeroes.
    pub fn new(size: u64) -> Self {
        let info =
            DeviceInfo { description: "sparse memory".to_owned(), fast_zero: true, ..DeviceInfo::new(size) };
        Self::with_info(info)
    }

    /// A device with these properties, all zeroes.
    pub fn with_info(info: DeviceInfo) -> Self {
        Self { info, inner: Mutex::default() }
    }

    /// Lets the next `count` operations succeed and all later ones fail with `error`, without doing anything.
    pub fn fail_after(&self, count: u64, error: DeviceError) {
        self.inner.lock().failure = Some((count, error));
    }

    /// Ends what [`fail_after`](Self::fail_after) began.
    pub fn heal(&self) {
        self.inner.lock().failure = None;
    }

    /// Number of bytes of memory in use for contents.
    pub fn allocated(&self) -> u64 {
        (self.inner.lock().chunks.len() * CHUNK) as u64
    }

    fn run<T>(&self, operation: impl FnOnce(&mut Inner) -> Result<T, DeviceError>) -> Result<T, DeviceError> {
        let mut inner = self.inner.lock();
        match &mut inner.failure {
            Some((0, error)) => return Err(error.clone()),
            Some((count, _)) => *count -= 1,
            None => {}
        }
        operation(&mut inner)
    }
}

impl BlockDevice for MemDevice {
    fn info(&self) -> DeviceInfo {
        self.info.clone()
    }

    fn read(&self, offset: u64, len: u32) -> impl Future<Output = Result<ReadData, DeviceError>> + Send {
        future::ready(self.run(|inner| Ok(inner.read(offset, len))))
    }

    fn write(
        &self,
        offset: u64,
        data: Bytes,
        _fua: bool,
    ) -> impl Future<Output = Result<(), DeviceError>> + Send {
        future::ready(self.run(|inner| {
            let mut data = &data[..];
            for (index, range) in pieces(offset, data.len() as u64) {
                let (piece, rest) = data.split_at(range.len());
                let chunk = inner.chunks.entry(index).or_insert_with(|| vec![0; CHUNK].into_boxed_slice());
                chunk[range].copy_from_slice(piece);
                data = rest;
            }
            Ok(())
        }))
    }

    fn flush(&self) -> impl Future<Output = Result<(), DeviceError>> + Send {
        future::ready(self.run(|_| Ok(())))
    }

    fn trim(
        &self,
        offset: u64,
        len: u64,
        _fua: bool,
    ) -> impl Future<Output = Result<(), DeviceError>> + Send {
        future::ready(self.run(|inner| {
            inner.free(offset, len);
            Ok(())
        }))
    }

    fn write_zeroes(
        &self,
        offset: u64,
        len: u64,
        flags: ZeroFlags,
    ) -> impl Future<Output = Result<(), DeviceError>> + Send {
        future::ready(self.run(|inner| {
            let whole = |at: u64| at.is_multiple_of(CHUNK as u64);
            if flags.fast_only && !(flags.may_unmap && whole(offset) && whole(len)) {
                return Err(DeviceError::new(
                    ErrorKind::NotSupported,
                    "only whole free chunks are zeroed fast",
                ));
            }
            if flags.may_unmap {
                inner.free(offset, len);
            }
            for (index, range) in pieces(offset, len) {
                if flags.may_unmap {
                    if let Some(chunk) = inner.chunks.get_mut(&index) {
                        chunk[range].fill(0);
                    }
                } else {
                    let chunk =
                        inner.chunks.entry(index).or_insert_with(|| vec![0; CHUNK].into_boxed_slice());
                    chunk[range].fill(0);
                }
            }
            Ok(())
        }))
    }

    fn block_status(
        &self,
        offset: u64,
        len: u64,
        max_extents: usize,
    ) -> impl Future<Output = Result<Vec<Extent>, DeviceError>> + Send {
        future::ready(self.run(|inner| Ok(inner.status(offset, len, max_extents))))
    }
}

impl Inner {
    fn read(&self, offset: u64, len: u32) -> ReadData {
        let mut read = ReadData::new();
        let mut data = BytesMut::new();
        for (index, range) in pieces(offset, len.into()) {
            if let Some(chunk) = self.chunks.get(&index) {
                data.extend_from_slice(&chunk[range]);
            } else {
                read.push(Segment::Data(data.split().freeze()));
                read.push(Segment::Hole(range.len() as u64));
            }
        }
        read.push(Segment::Data(data.freeze()));
        read
    }

    /// Frees the chunks that are inside the range as a whole.
    fn free(&mut self, offset: u64, len: u64) {
        let first = offset.div_ceil(CHUNK as u64);
        let end = (offset + len) / CHUNK as u64;
        if first < end {
            let freed: Vec<u64> = self.chunks.range(first..end).map(|(index, _)| *index).collect();
            for index in freed {
                self.chunks.remove(&index);
            }
        }
    }

    fn status(&self, offset: u64, len: u64, max_extents: usize) -> Vec<Extent> {
        let mut extents: Vec<Extent> = Vec::new();
        for (index, range) in pieces(offset, len) {
            let hole = !self.chunks.contains_key(&index);
            let full = extents.len() == max_extents;
            match extents.last_mut() {
                Some(last) if last.hole == hole => last.len += range.len() as u64,
                _ if full => break,
                _ => extents.push(Extent { len: range.len() as u64, hole, zero: hole }),
            }
        }
        extents
    }
}

/// The chunks that a range touches: index, and range within the chunk.
fn pieces(offset: u64, len: u64) -> impl Iterator<Item = (u64, Range<usize>)> {
    const LEN: u64 = CHUNK as u64;
    let end = offset + len;
    (offset / LEN..end.div_ceil(LEN)).map(move |index| {
        let base = index * LEN;
        let within = |at: u64| usize::try_from(at.saturating_sub(base).min(LEN)).expect("at most CHUNK");
        (index, within(offset)..within(end))
    })
}
