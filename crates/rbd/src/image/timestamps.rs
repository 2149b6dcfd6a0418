//! When an image was last read and last changed, roughly, which its header tells.
//!
//! The header is written at most once a minute, beside the requests and not in their way: none waits for it, and nothing
//! depends on its success. Who has opened an image for reading only leaves no trace.
//!
//! Ceph: `ImageRequest::update_timestamp` in `src/librbd/io/ImageRequest.cc`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use ceph_codec::Utime;
use rados::{Errno, Operation, SnapContext};
use tracing::debug;

use super::core::Core;
use crate::ObjectStore;
use crate::cls::header::{set_access_timestamp, set_modify_timestamp};

/// What is known of the times in the header.
#[derive(Debug, Default)]
pub(super) struct Timestamps {
    accessed: Timestamp,
    modified: Timestamp,
}

#[derive(Debug, Default)]
struct Timestamp {
    /// Seconds since 1970.
    last: AtomicU32,
    /// While it is being written, and for ever if it cannot be: if the pool is full it waits there, and one is enough.
    busy: Arc<AtomicBool>,
}

/// What a request does to an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Touch {
    Read,
    Change,
}

impl Timestamps {
    pub(super) fn new(accessed: Utime, modified: Utime) -> Self {
        let timestamp = |time: Utime| Timestamp { last: AtomicU32::new(time.sec), ..Timestamp::default() };
        Self { accessed: timestamp(accessed), modified: timestamp(modified) }
    }
}

impl<S: ObjectStore> Core<S> {
    /// Notes in the header that the image is being read or changed, if that was not noted lately.
    pub(super) fn touch(&self, touch: Touch) {
        if self.read_only {
            return;
        }
        let options = self.options();
        let (timestamp, interval) = match touch {
            Touch::Read => (&self.timestamps.accessed, options.access_interval),
            Touch::Change => (&self.timestamps.modified, options.modify_interval),
        };
        let now = self.store.now().sec;
        let last = timestamp.last.load(Ordering::Relaxed);
        if interval == 0 || u64::from(now) < interval.saturating_add(last.into()) {
            return;
        }
        if timestamp.busy.swap(true, Ordering::AcqRel) {
            return;
        }
        timestamp.last.store(now, Ordering::Relaxed);
        let operation = match touch {
            Touch::Read => set_access_timestamp(Operation::new()),
            Touch::Change => set_modify_timestamp(Operation::new()),
        };
        let written = self.store.write(&self.header_object, operation, &SnapContext::default());
        let (busy, image) = (timestamp.busy.clone(), self.display_name().to_owned());
        tokio::spawn(async move {
            let result = written.await;
            if let Err(error) = &result {
                debug!(image, ?touch, %error, "the header does not tell of it");
            }
            // OSDs before Ceph 14 do not know it, and users may be kept from it: that stays so.
            let never = |errno| result.as_ref().is_err_and(|error| error.is(errno));
            if ![Errno::EOPNOTSUPP, Errno::EPERM, Errno::EACCES].into_iter().any(never) {
                busy.store(false, Ordering::Release);
            }
        });
    }
}
