//! An image as a block device.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ceph_conf::Config;
use nbd_server::{BlockDevice, DeviceError, DeviceInfo, ErrorKind, Extent, ReadData, Segment, ZeroFlags};
use rados::{Errno, IoCtx};
use rbd::{Image, ImageError, LockError};
use tokio::sync::watch;
use tracing::{debug, warn};

use crate::cluster::{self, Cluster};
use crate::report::sentence;
use crate::target::Target;
use crate::text;

/// How long a client waits for news of the image's size.
const REFRESH_LIMIT: Duration = Duration::from_secs(5);

/// An open image, served to NBD clients.
#[derive(Debug)]
pub(crate) struct Device {
    image: Image<IoCtx>,
    /// For messages: the image's full name.
    name: String,
    /// Where to ask who has the image, once this client is barred.
    target: Target,
    asked_who_has_it: AtomicBool,
    /// Changes when the monitors say so.
    config: Mutex<watch::Receiver<Arc<Config>>>,
    complaints: Complaints,
}

impl Device {
    pub(crate) fn new(
        image: Image<IoCtx>,
        target: &Target,
        mut config: watch::Receiver<Arc<Config>>,
    ) -> Self {
        // It may have changed since the image was opened.
        config.mark_changed();
        let complaints = Complaints { since: Instant::now(), next: AtomicU64::new(0) };
        Self {
            image,
            name: target.spec.to_string(),
            target: target.clone(),
            asked_who_has_it: AtomicBool::new(false),
            config: Mutex::new(config),
            complaints,
        }
    }

    fn follow_config(&self) {
        let mut config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        if config.has_changed().unwrap_or(false) {
            self.image.set_config(&cluster::block_device_config(&config.borrow_and_update()));
        }
    }

    /// Looks at the image again if nobody tells of changes: its size is about to be told to a client.
    pub(crate) async fn refresh(&self) {
        match tokio::time::timeout(REFRESH_LIMIT, self.image.refresh()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(name = self.name, "{}; its size as last seen counts", sentence(&error)),
            Err(_) => warn!(name = self.name, "the cluster does not answer; the size as last seen counts"),
        }
    }

    /// Finishes what is under way, gives the exclusive lock back and stops watching.
    pub(crate) async fn close(&self) {
        self.image.close().await;
    }

    fn failed(&self, doing: Doing, offset: u64, error: &ImageError) -> DeviceError {
        let message = self.explain(error);
        if self.complaints.may_complain() {
            warn!(doing = doing.0, offset, message, "request failed");
        } else {
            debug!(doing = doing.0, offset, message, "request failed");
        }
        if self.image.is_blocklisted() && !self.asked_who_has_it.swap(true, Ordering::Relaxed) {
            tokio::spawn(tell_who_has_it(self.target.whole_image()));
        }
        DeviceError::new(error_kind(doing, error), message)
    }

    fn explain(&self, error: &ImageError) -> String {
        let what = format!("{}: {}", self.name, sentence(error));
        match error {
            ImageError::Lock(source) => match source.help(&self.name) {
                Some(help) => format!("{what}; {help}"),
                None => what,
            },
            _ => what,
        }
    }
}

/// Writes to the log who has an image now. A client that is barred is told nothing any more, so a new one asks.
async fn tell_who_has_it(target: Target) {
    let image = target.spec.to_string();
    match Cluster::inspect(&target).await {
        Ok(details) => match details.locks.owners.first() {
            Some(owner) => warn!(image, %owner, "another client has the exclusive lock now"),
            None => warn!(image, "nobody has the exclusive lock now; start this server again to go on"),
        },
        Err(error) => warn!(image, "cannot find out who has the exclusive lock now: {}", sentence(&error)),
    }
}

/// What a client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Doing(&'static str);

impl Doing {
    const READ: Self = Self("read");
    const WRITE: Self = Self("write");
    const DISCARD: Self = Self("discard");
    const WRITE_ZEROES: Self = Self("write zeroes");
    const BLOCK_STATUS: Self = Self("block status");

    /// "A server SHOULD return NBD_ENOSPC if it receives a write request including one or more sectors beyond the
    /// size of the device. It also SHOULD map the EDQUOT and EFBIG errors to NBD_ENOSPC. It SHOULD return NBD_EINVAL
    /// if it receives a read or trim request including one or more sectors beyond the size of the device."
    fn past_the_end(self) -> ErrorKind {
        match self {
            Self::WRITE | Self::WRITE_ZEROES => ErrorKind::NoSpace,
            _ => ErrorKind::Invalid,
        }
    }
}

impl BlockDevice for Device {
    fn info(&self) -> DeviceInfo {
        let layout = self.image.layout();
        DeviceInfo {
            read_only: self.image.is_read_only(),
            description: format!(
                "rbd image {}, id {}, {} objects",
                self.name,
                self.image.id(),
                text::bytes(layout.object_size())
            ),
            fast_zero: true,
            ..DeviceInfo::new(self.image.size())
        }
    }

    async fn read(&self, offset: u64, len: u32) -> Result<ReadData, DeviceError> {
        match self.image.read(offset, len.into()).await {
            Ok(data) => Ok(data.into_iter().map(segment).collect()),
            Err(error) => Err(self.failed(Doing::READ, offset, &error)),
        }
    }

    /// What OSDs acknowledge is durable, so `fua` asks for nothing more; the same goes for the others.
    async fn write(&self, offset: u64, data: Bytes, _fua: bool) -> Result<(), DeviceError> {
        self.image.write(offset, data).await.map_err(|error| self.failed(Doing::WRITE, offset, &error))
    }

    /// A flush is about the writes that were answered, and those are durable. Waiting for those under way would
    /// make a guest's flush hang with a write that waits for a full pool.
    async fn flush(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    async fn trim(&self, offset: u64, len: u64, _fua: bool) -> Result<(), DeviceError> {
        self.follow_config();
        self.image.discard(offset, len).await.map_err(|error| self.failed(Doing::DISCARD, offset, &error))
    }

    async fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<(), DeviceError> {
        if flags.fast_only && !flags.may_unmap {
            // Space can only be allocated by writing.
            return Err(DeviceError::new(
                ErrorKind::NotSupported,
                "zeroes without a hole take as long as data",
            ));
        }
        self.image
            .write_zeroes(offset, len, flags.may_unmap)
            .await
            .map_err(|error| self.failed(Doing::WRITE_ZEROES, offset, &error))
    }

    async fn block_status(
        &self,
        offset: u64,
        len: u64,
        max_extents: usize,
    ) -> Result<Vec<Extent>, DeviceError> {
        match self.image.block_status(offset, len, max_extents).await {
            Ok(extents) => {
                Ok(extents.into_iter().map(|e| Extent { len: e.len, hole: e.hole, zero: e.hole }).collect())
            }
            Err(error) => Err(self.failed(Doing::BLOCK_STATUS, offset, &error)),
        }
    }
}

fn segment(segment: rbd::Segment) -> Segment {
    match segment {
        rbd::Segment::Data(data) => Segment::Data(data),
        rbd::Segment::Hole(len) => Segment::Hole(len),
    }
}

/// What a client is told. A client can do nothing about most failures, and calls them I/O errors; it should try
/// another connection only if this server is at its end.
fn error_kind(doing: Doing, error: &ImageError) -> ErrorKind {
    match error {
        ImageError::ReadOnly => ErrorKind::NotPermitted,
        // The image has shrunk since the client was told its size.
        ImageError::OutOfRange { .. } => doing.past_the_end(),
        ImageError::Closed | ImageError::Lock(LockError::Blocklisted | LockError::GivenUp) => {
            ErrorKind::Shutdown
        }
        ImageError::Lock(
            LockError::Refused { .. } | LockError::LockedByHand { .. } | LockError::MayNotBlocklist { .. },
        ) => ErrorKind::NotPermitted,
        other => match other.errno() {
            Errno::ENOSPC | Errno::EDQUOT => ErrorKind::NoSpace,
            Errno::EPERM | Errno::EACCES | Errno::EROFS => ErrorKind::NotPermitted,
            Errno::EBLOCKLISTED => ErrorKind::Shutdown,
            _ => ErrorKind::Io,
        },
    }
}

/// Lets a failure be logged only now and then: a guest may send thousands of requests a second into one.
#[derive(Debug)]
struct Complaints {
    since: Instant,
    /// Seconds after `since`.
    next: AtomicU64,
}

/// Seconds.
const BETWEEN_COMPLAINTS: u64 = 5;

impl Complaints {
    fn may_complain(&self) -> bool {
        let now = self.since.elapsed().as_secs();
        self.next
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
                (now >= next).then_some(now + BETWEEN_COMPLAINTS)
            })
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use rados::OpError;

    use super::*;

    #[test]
    fn failures_are_told_in_the_few_words_of_nbd() {
        let op = |errno| ImageError::Op { object: "o".into(), source: OpError::Errno(errno) };
        for (error, kind) in [
            (ImageError::ReadOnly, ErrorKind::NotPermitted),
            (ImageError::OutOfRange { offset: 1, len: 1, size: 1 }, ErrorKind::Invalid),
            (ImageError::Closed, ErrorKind::Shutdown),
            (ImageError::SnapshotGone, ErrorKind::Io),
            (ImageError::Lock(LockError::Blocklisted), ErrorKind::Shutdown),
            (op(Errno::ENOSPC), ErrorKind::NoSpace),
            (op(Errno::EPERM), ErrorKind::NotPermitted),
            (op(Errno::EINVAL), ErrorKind::Io),
            (op(Errno::ENOENT), ErrorKind::Io),
            (ImageError::Op { object: "o".into(), source: OpError::TimedOut }, ErrorKind::Io),
            (
                ImageError::Op {
                    object: "o".into(),
                    source: OpError::Blocklisted {
                        since: std::time::SystemTime::UNIX_EPOCH,
                        epoch: rados::Epoch(1),
                    },
                },
                ErrorKind::Shutdown,
            ),
        ] {
            assert_eq!(error_kind(Doing::READ, &error), kind, "{error:?}");
        }
    }

    #[test]
    fn what_lies_behind_an_image_that_has_shrunk_has_no_space_for_writes_and_is_invalid_for_the_rest() {
        let error = ImageError::OutOfRange { offset: 8, len: 1, size: 8 };
        for (doing, kind) in [
            (Doing::READ, ErrorKind::Invalid),
            (Doing::WRITE, ErrorKind::NoSpace),
            (Doing::WRITE_ZEROES, ErrorKind::NoSpace),
            (Doing::DISCARD, ErrorKind::Invalid),
            (Doing::BLOCK_STATUS, ErrorKind::Invalid),
        ] {
            assert_eq!(error_kind(doing, &error), kind, "{doing:?}");
        }
    }

    #[test]
    fn a_flood_of_failures_is_logged_once() {
        let complaints = Complaints { since: Instant::now(), next: AtomicU64::new(0) };
        assert!(complaints.may_complain());
        assert!(!complaints.may_complain());
    }
}
