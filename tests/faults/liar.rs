//! A disk that does not do what it says, to find out whether the checker notices.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use nbd_server::{
    BlockDevice, Budget, DeviceError, DeviceInfo, ErrorKind, MemDevice, ReadData, Segment, Shutdown,
    SingleExport, ZeroFlags, serve,
};

use crate::stamp::BLOCK;
use crate::workload::{Plan, Workload};

const SIZE: u64 = 4 << 20;

/// What it does wrong, rarely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lie {
    Nothing,
    /// Acknowledges a write that never happens.
    LoseWrite,
    /// Writes the beginning only, up to the middle of a block.
    TearWrite,
    /// Writes to the blocks behind.
    MisplaceWrite,
    /// Acknowledges a write, and carries it out after some others.
    DelayWrite,
    /// Carries a write out, and once more after some others.
    RepeatWrite,
    /// Reads what was there before the last write.
    ReadThePast,
    /// Changes a bit while reading.
    FlipBit,
    /// Acknowledges zeroes that are never written.
    LoseZeroes,
    /// Trims the blocks behind as well.
    TrimTooMuch,
    /// Fails a request.
    Fail,
}

impl Lie {
    /// It is told once in so many requests of the kind concerned.
    fn one_in(self) -> u64 {
        // There are fewer trims and zeroes than writes.
        if matches!(self, Self::LoseZeroes | Self::TrimTooMuch) { 20 } else { 100 }
    }
}

/// By how many writes one is delayed.
const DELAY: usize = 50;

struct Liar {
    lie: Lie,
    present: MemDevice,
    /// What was there before the last write to it.
    past: MemDevice,
    requests: AtomicU64,
    held_back: Mutex<VecDeque<(usize, u64, Bytes)>>,
}

impl Liar {
    fn new(lie: Lie) -> Self {
        Self {
            lie,
            present: MemDevice::new(SIZE),
            past: MemDevice::new(SIZE),
            requests: AtomicU64::new(1),
            held_back: Mutex::default(),
        }
    }

    /// Whether to tell this lie now, if it is the one that is told at all.
    fn lies(&self, lie: Lie) -> bool {
        self.lie == lie && self.requests.fetch_add(1, Ordering::Relaxed).is_multiple_of(lie.one_in())
    }

    fn hold_back(&self, offset: u64, data: &Bytes) {
        self.held_back.lock().unwrap().push_back((DELAY, offset, data.clone()));
    }

    /// The writes that were held back for long enough.
    fn due(&self) -> Vec<(u64, Bytes)> {
        let mut held_back = self.held_back.lock().unwrap();
        held_back.iter_mut().for_each(|(left, ..)| *left -= 1);
        let due = held_back.iter().take_while(|(left, ..)| *left == 0).count();
        held_back.drain(..due).map(|(_, offset, data)| (offset, data)).collect()
    }
}

fn flat(read: &ReadData) -> Vec<u8> {
    let mut bytes = Vec::new();
    for segment in read.segments() {
        match segment {
            Segment::Data(data) => bytes.extend(data),
            Segment::Hole(len) => bytes.resize(bytes.len() + *len as usize, 0),
        }
    }
    bytes
}

impl BlockDevice for Liar {
    fn info(&self) -> DeviceInfo {
        self.present.info()
    }

    async fn read(&self, offset: u64, len: u32) -> Result<ReadData, DeviceError> {
        if self.lies(Lie::ReadThePast) {
            return self.past.read(offset, len).await;
        }
        let read = self.present.read(offset, len).await?;
        if !self.lies(Lie::FlipBit) {
            return Ok(read);
        }
        let mut bytes = flat(&read);
        *bytes.last_mut().expect("no read is empty") ^= 0x10;
        Ok(ReadData::data(bytes))
    }

    async fn write(&self, offset: u64, mut data: Bytes, fua: bool) -> Result<(), DeviceError> {
        for (offset, data) in self.due() {
            self.present.write(offset, data, fua).await?;
        }
        if self.lies(Lie::Fail) {
            return Err(DeviceError::new(ErrorKind::Io, "a lie"));
        }
        if self.lies(Lie::LoseWrite) {
            return Ok(());
        }
        if self.lies(Lie::DelayWrite) {
            self.hold_back(offset, &data);
            return Ok(());
        }
        if self.lies(Lie::RepeatWrite) {
            self.hold_back(offset, &data);
        }
        if self.lies(Lie::TearWrite) {
            data.truncate(data.len() - BLOCK / 2);
        }
        let end = offset + data.len() as u64;
        let misplaced =
            if end + data.len() as u64 <= SIZE && self.lies(Lie::MisplaceWrite) { end } else { offset };
        let before = self.present.read(offset, u32::try_from(data.len()).unwrap()).await?;
        self.past.write(offset, flat(&before).into(), false).await?;
        self.present.write(misplaced, data, fua).await
    }

    async fn flush(&self) -> Result<(), DeviceError> {
        self.present.flush().await
    }

    async fn trim(&self, offset: u64, len: u64, fua: bool) -> Result<(), DeviceError> {
        let too_much = offset + 2 * len <= SIZE && self.lies(Lie::TrimTooMuch);
        let flags = ZeroFlags { may_unmap: true, fast_only: false, fua };
        self.present.write_zeroes(offset, if too_much { 2 * len } else { len }, flags).await
    }

    async fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<(), DeviceError> {
        if self.lies(Lie::LoseZeroes) {
            return Ok(());
        }
        self.present.write_zeroes(offset, len, flags).await
    }
}

/// What the checker says about a disk that tells this lie, after some thousands of requests through a socket.
fn complaints(lie: Lie) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("nbd.sock");
    let shutdown = Shutdown::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let listener = {
        let _inside = runtime.enter();
        tokio::net::UnixListener::bind(&socket).unwrap()
    };
    let exports = Arc::new(SingleExport::new("disk", Arc::new(Liar::new(lie))));
    let server = thread::spawn({
        let shutdown = shutdown.clone();
        move || runtime.block_on(serve(listener, exports, &Budget::default(), &shutdown))
    });

    let plan = Plan { rate: 10_000, ..Plan::new(SIZE, 1) };
    let workload = Workload::start(socket.to_str().unwrap(), "disk", &plan);
    let mut requests = 0;
    let mut waits = 0;
    while requests < 6000 {
        thread::sleep(Duration::from_millis(20));
        requests += workload.waited().requests;
        waits += 1;
        assert!(waits < 6000, "{requests} requests only");
    }
    let mut quiet = workload.stop(Duration::from_secs(30));
    quiet.read_all();
    shutdown.trigger();
    server.join().unwrap();
    quiet.complaints()
}

#[test]
fn an_honest_disk_is_believed() {
    assert_eq!(complaints(Lie::Nothing), Vec::<String>::new());
}

#[test]
fn every_lie_is_found() {
    use Lie::*;
    let lies = [
        (LoseWrite, "Stale"),
        (TearWrite, "Torn"),
        (MisplaceWrite, "Misplaced"),
        (DelayWrite, "Stale"),
        (RepeatWrite, "Stale"),
        (ReadThePast, "Stale"),
        (FlipBit, "Garbage"),
        (LoseZeroes, "Stale"),
        (TrimTooMuch, "Stale"),
        (Fail, "error 5"),
    ];
    for (lie, word) in lies {
        let complaints = complaints(lie);
        assert!(
            complaints.iter().any(|complaint| complaint.contains(word)),
            "{lie:?} was not noticed: {complaints:?}"
        );
        eprintln!("{lie:?}: {} complaints, {:?}", complaints.len(), complaints[0]);
    }
}
