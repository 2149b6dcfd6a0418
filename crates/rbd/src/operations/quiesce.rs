//! Asking all clients of an image to stop writing for a snapshot, as those do that can freeze a file system.
//!
//! Ceph: `ImageWatcher::notify_quiesce` in `src/librbd/ImageWatcher.cc`.

use rados::Errno;
use tracing::{debug, warn};

use super::maintain::{NOTIFY_TIMEOUT, next_request};
use super::{MaintenanceError, OperationError, Progress};
use crate::image::core::Core;
use crate::watcher::{AsyncRequestId, NotifyMessage, SnapshotFlags, decode_answer};
use crate::{ImageError, ObjectStore};

/// How often a client may let the time for an answer pass. Ceph: `rbd_quiesce_notification_attempts`.
const ATTEMPTS: u64 = 10;

/// Asks all clients to stop, until they have. Those that have died meanwhile do not count.
pub(super) async fn begin<S: ObjectStore>(
    core: &Core<S>,
    flags: SnapshotFlags,
    progress: &dyn Progress,
) -> Result<Option<AsyncRequestId>, OperationError> {
    // Without a watch nobody could be answered.
    let Some(id) = next_request(core) else { return Ok(None) };
    match ask_all(core, id, progress).await {
        Err(error) if flags.contains(SnapshotFlags::IGNORE_QUIESCE_ERROR) => {
            warn!(image = core.display_name(), %error, "taking the snapshot all the same");
        }
        Err(error) => {
            end(core, Some(id)).await;
            return Err(error);
        }
        Ok(()) => {}
    }
    Ok(Some(id))
}

async fn ask_all<S: ObjectStore>(
    core: &Core<S>,
    id: AsyncRequestId,
    progress: &dyn Progress,
) -> Result<(), OperationError> {
    let message = NotifyMessage::Quiesce(id).encode();
    for attempt in 1..=ATTEMPTS {
        let _until_the_image_is_closed = core.maintenance.begin().ok_or(ImageError::Closed)?;
        let failed = |source| core.operation_failed("ask the other clients to stop writing", source);
        let reply =
            core.store.notify(&core.header_object, message.clone(), NOTIFY_TIMEOUT).await.map_err(failed)?;
        progress.update(attempt, ATTEMPTS);
        for (client, _, answer) in &reply.acks {
            let result = decode_answer(answer).unwrap_or(Some(-Errno::EINVAL.0)).unwrap_or(0);
            if result < 0 && result != -Errno::EOPNOTSUPP.0 {
                let errno = Errno(result.saturating_neg());
                return Err(MaintenanceError::Quiesce { client: client.0, errno }.into());
            }
        }
        let Some(silent) = reply.timeouts.first() else { return Ok(()) };
        debug!(image = core.display_name(), ?silent, "a client has not stopped writing yet");
        if attempt == ATTEMPTS {
            return Err(MaintenanceError::Quiesce { client: silent.0.0, errno: Errno::ETIMEDOUT }.into());
        }
    }
    Ok(())
}

/// Lets all clients go on.
pub(super) async fn end<S: ObjectStore>(core: &Core<S>, id: Option<AsyncRequestId>) {
    let Some(id) = id else { return };
    let message = NotifyMessage::Unquiesce(id).encode();
    if let Err(error) = core.store.notify(&core.header_object, message, NOTIFY_TIMEOUT).await {
        warn!(image = core.display_name(), %error, "could not tell the other clients to go on");
    }
}
