//! Who carries an operation out: this client, or the owner of the exclusive lock.
//!
//! Ceph: `C_InvokeAsyncRequest` in `src/librbd/Operations.cc`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rados::{Errno, OpError, Operation};
use tracing::{debug, warn};

use super::ask::{Answer, ask};
use super::features::give_up_lock_without_feature;
use super::wait::Wait;
use super::{
    MaintenanceError, OperationError, Progress, check_op_features, features, flatten, metadata, object_map,
    rename, resize, snapshot_create, snapshot_protect, snapshot_remove, snapshot_rename,
};
use crate::image::core::{Core, Right};
use crate::lock::{ExclusiveLock, Holder};
use crate::watcher::{AsyncRequestId, Maintenance, NotifyMessage};
use crate::{Features, ImageError, ObjectStore, SnapshotNamespace, directory};

/// Before asking the owner again, while the lock changes hands.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// How long a notify waits for the other clients. Ceph: `Notifier::NOTIFY_TIMEOUT`.
pub(super) const NOTIFY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an operation waits for the others to have seen what it did. Who is alive has by then.
const UPDATE_PATIENCE: Duration = Duration::from_secs(1);

/// Numbers the requests of this process.
static LAST_REQUEST: AtomicU64 = AtomicU64::new(0);

/// Under which conditions an operation may go on.
pub(crate) struct Turn<'a, S: ObjectStore> {
    pub(crate) core: &'a Core<S>,
    terms: Terms,
}

#[derive(Debug, Clone, Copy)]
enum Terms {
    /// With the exclusive lock, if the image has one, as often as it has to be acquired.
    Lock,
    /// As long as the exclusive lock is not given up: whoever asked for the operation asks the next owner.
    Tenure(u64),
    /// Anyhow.
    Lockless,
}

impl<'a, S: ObjectStore> Turn<'a, S> {
    /// For an operation that this client wants.
    pub(crate) fn new(core: &'a Core<S>) -> Self {
        Self { core, terms: Terms::Lock }
    }

    /// For an operation that must not be interrupted: it fails with [`MaintenanceError::LockMoved`] then.
    pub(crate) async fn of_this_tenure(core: &'a Core<S>) -> Result<Self, OperationError> {
        let right = core.begin_maintenance().await?;
        let terms = if right.has_lock() { Terms::Tenure(core.tenure()) } else { Terms::Lock };
        Ok(Self { core, terms })
    }

    /// For work on the object map of a snapshot: only copy-ups change that as well, and they are made under the lock.
    pub(crate) fn of_snapshot_map(core: &'a Core<S>) -> Self {
        let terms = if core.header().parent.is_some() { Terms::Lock } else { Terms::Lockless };
        Self { core, terms }
    }

    /// For an operation that another client wants, accepted in this tenure of the lock.
    pub(super) fn of_tenure(core: &'a Core<S>, tenure: u64) -> Self {
        Self { core, terms: Terms::Tenure(tenure) }
    }

    /// Gets the right to maintain the image, and current metadata, for the next step.
    pub(crate) async fn begin(&self) -> Result<Right, OperationError> {
        match self.terms {
            Terms::Lock => Ok(self.core.begin_maintenance().await?),
            Terms::Lockless => Ok(self.core.begin_lockless_maintenance().await?),
            Terms::Tenure(tenure) => {
                self.core.go_on_with_maintenance(tenure).await?.ok_or(MaintenanceError::LockMoved.into())
            }
        }
    }

    /// Changes the header, if this client still has the lock that `right` is about. Whatever becomes of it, the header
    /// is read again before it is used.
    pub(crate) async fn change_header(
        &self,
        right: &Right,
        doing: &'static str,
        change: impl FnOnce(Operation) -> Operation,
    ) -> Result<(), OperationError> {
        let core = self.core;
        let guard = core.lock.get().filter(|_| right.has_lock());
        let operation = change(guard.map_or_else(Operation::new, |lock| lock.guard(Operation::new())));
        let changed = core.store.write(&core.header_object, operation, &rados::SnapContext::default()).await;
        core.outdate();
        match changed {
            Ok(_) => Ok(()),
            // The guard comes first.
            Err(OpError::Op { errno: Errno::EBUSY, index: 0, .. }) if guard.is_some() => {
                Err(MaintenanceError::LockMoved.into())
            }
            Err(source) => Err(core.operation_failed(doing, source)),
        }
    }
}

impl<S: ObjectStore> Core<S> {
    /// The error of a step of an operation. Being blocklisted ends the lock.
    pub(crate) fn operation_failed(&self, doing: &'static str, source: OpError) -> OperationError {
        if source.ends_the_instance() {
            return self.failed(self.header_object.clone(), source).into();
        }
        OperationError::Op { doing, source }
    }
}

/// Changes the image: here if nobody else may, else by asking the owner of the lock.
pub(crate) async fn maintain<S: ObjectStore>(
    core: &Arc<Core<S>>,
    request: &Maintenance,
    progress: &dyn Progress,
) -> Result<(), OperationError> {
    if core.read_only {
        return Err(ImageError::ReadOnly.into());
    }
    // All the time: what has to begin anew when the lock moves gets longer each time.
    let _working = core.lock.get().map(ExclusiveLock::work);
    let mut id = None;
    let mut take_the_lock = false;
    let mut wait = Wait::new();
    core.ensure_fresh().await?;
    let was_so = is_so(core, request).await?;
    let mut tried = false;
    loop {
        core.ensure_fresh().await?;
        check_op_features(core.display_name(), &core.header())?;
        let lock = core.lock.get().filter(|_| core.has(Features::EXCLUSIVE_LOCK));
        let Some(lock) = lock.filter(|_| needs_lock(request, core.header().features)) else {
            execute(&Turn { core, terms: Terms::Lockless }, request, progress).await?;
            core.announce_update().await;
            return Ok(());
        };
        let owner = if lock.is_held() || take_the_lock {
            None
        } else {
            let holder = lock.holder(&core.store, &core.header_object).await;
            match holder.map_err(|source| core.operation_failed("find the owner of the lock", source))? {
                Holder::Alive(owner) => Some(owner),
                _ => None,
            }
        };
        let Some(owner) = owner else {
            match execute(&Turn::new(core), request, progress).await {
                Err(OperationError::Maintenance(MaintenanceError::LockMoved)) => {
                    tried = true;
                    tokio::time::sleep(RETRY_DELAY).await;
                    continue;
                }
                Err(error) if tried && !was_so && is_done_already(request, error.errno()) => {}
                result => result?,
            }
            core.announce_update().await;
            give_up_lock_without_feature(core).await;
            return Ok(());
        };
        wait.mention(core, request, &owner);
        // The same request as before, if it was asked for before.
        id = id.or_else(|| next_request(core));
        let Some(asked) = id else {
            tokio::time::sleep(RETRY_DELAY).await;
            continue;
        };
        debug!(image = core.display_name(), %owner, op = %request.op(), id = %asked, "asking the owner of the lock");
        match ask(core, &owner, asked, request, progress, &mut wait).await? {
            Answer::Done(result)
                if result == 0
                    || tried && !was_so && is_done_already(request, Errno(result.saturating_neg())) =>
            {
                core.outdate();
                core.ensure_fresh().await?;
                return Ok(());
            }
            Answer::Done(result) => {
                return Err(MaintenanceError::of_owner(core.display_name(), owner, request, result).into());
            }
            Answer::Unsupported => take_the_lock = true,
            Answer::AskAgain => {
                tried = true;
                tokio::time::sleep(RETRY_DELAY).await;
            }
            Answer::Interrupted => {
                id = None;
                tried = true;
                tokio::time::sleep(RETRY_DELAY).await;
            }
        }
    }
}

/// Whether the image is already as a request would make it, so that the request has to fail.
async fn is_so<S: ObjectStore>(core: &Core<S>, request: &Maintenance) -> Result<bool, OperationError> {
    let header = core.header();
    let snapshot = |namespace, name: &str| header.snapshot_in(namespace, name);
    Ok(match request {
        Maintenance::CreateSnapshot { namespace, name, .. } => snapshot(namespace, name).is_some(),
        Maintenance::RemoveSnapshot { namespace, name } => snapshot(namespace, name).is_none(),
        Maintenance::RenameSnapshot { name, .. } => snapshot(&SnapshotNamespace::User, name).is_some(),
        Maintenance::ProtectSnapshot { namespace, name } => {
            snapshot(namespace, name).is_none_or(|snapshot| snapshot.protected)
        }
        Maintenance::UnprotectSnapshot { namespace, name } => {
            snapshot(namespace, name).is_none_or(|snapshot| !snapshot.protected && !snapshot.unprotecting)
        }
        Maintenance::Flatten => header.parent.is_none(),
        Maintenance::UpdateFeatures { features, enable: true } => header.features.intersects(*features),
        Maintenance::UpdateFeatures { features, enable: false } => !header.features.contains(*features),
        Maintenance::Rename { name } => match directory::id_of(&core.store, name).await {
            Err(error) if error.is(Errno::ENOENT) => false,
            id => id
                .map_err(|source| core.operation_failed("look for an image of that name", source))
                .map(|_| true)?,
        },
        _ => true,
    })
}

/// Whether an error means, of an image that was not so before and after an attempt whose end nobody knows, that this
/// attempt was successful.
fn is_done_already(request: &Maintenance, errno: Errno) -> bool {
    let done = match request {
        Maintenance::CreateSnapshot { .. }
        | Maintenance::RenameSnapshot { .. }
        | Maintenance::Rename { .. } => Errno::EEXIST,
        Maintenance::RemoveSnapshot { .. } => Errno::ENOENT,
        Maintenance::ProtectSnapshot { .. } => Errno::EBUSY,
        Maintenance::UnprotectSnapshot { .. } | Maintenance::Flatten | Maintenance::UpdateFeatures { .. } => {
            Errno::EINVAL
        }
        _ => return false,
    };
    errno == done
}

/// A name for a new request of this client; none while it does not watch the header.
pub(super) fn next_request<S: ObjectStore>(core: &Core<S>) -> Option<AsyncRequestId> {
    let client = core.lock.get()?.id()?;
    Some(AsyncRequestId { client, number: LAST_REQUEST.fetch_add(1, Ordering::Relaxed) + 1 })
}

/// Whether an operation has to be done by the owner of the lock. Ceph: the methods of `Operations`; the others are
/// one atomic change of the header.
fn needs_lock(request: &Maintenance, features: Features) -> bool {
    match request {
        Maintenance::RemoveSnapshot { .. } => features.contains(Features::OBJECT_MAP),
        Maintenance::RenameSnapshot { .. }
        | Maintenance::ProtectSnapshot { .. }
        | Maintenance::UnprotectSnapshot { .. } => false,
        _ => true,
    }
}

/// Whether this client can do it for another.
pub(super) fn is_supported(request: &Maintenance) -> bool {
    // Who wants a journal makes it himself.
    let journal = |features: &Features| features.contains(Features::JOURNALING);
    is_known(request) && !matches!(request, Maintenance::UpdateFeatures { features, .. } if journal(features))
}

/// Whether this client can do it at all.
fn is_known(request: &Maintenance) -> bool {
    match request {
        Maintenance::Migrate | Maintenance::Sparsify { .. } => false,
        // Mirroring keeps more of its snapshots than the header does.
        Maintenance::CreateSnapshot { namespace, .. } | Maintenance::RemoveSnapshot { namespace, .. } => {
            !matches!(namespace, SnapshotNamespace::Mirror(_) | SnapshotNamespace::Other(_))
        }
        _ => true,
    }
}

/// Changes the image. Other clients have to be told.
pub(super) async fn execute<S: ObjectStore>(
    turn: &Turn<'_, S>,
    request: &Maintenance,
    progress: &dyn Progress,
) -> Result<(), OperationError> {
    if !is_known(request) {
        return Err(MaintenanceError::Unsupported { operation: request.op() }.into());
    }
    match request {
        Maintenance::Flatten => flatten::run(turn, progress).await?,
        Maintenance::Resize { size, allow_shrink } => {
            resize::run(turn, *size, *allow_shrink, progress).await?;
        }
        Maintenance::CreateSnapshot { namespace, name, flags } => {
            snapshot_create::run(turn, namespace, name, *flags, progress).await?;
        }
        Maintenance::RemoveSnapshot { namespace, name } => {
            snapshot_remove::run(turn, namespace, name).await?;
        }
        Maintenance::RenameSnapshot { snap, name } => snapshot_rename::run(turn, *snap, name).await?,
        Maintenance::ProtectSnapshot { namespace, name } => {
            snapshot_protect::protect(turn, namespace, name).await?;
        }
        Maintenance::UnprotectSnapshot { namespace, name } => {
            snapshot_protect::unprotect(turn, namespace, name).await?;
        }
        Maintenance::Rename { name } => rename::run(turn, name).await?,
        Maintenance::RebuildObjectMap => object_map::rebuild(turn, progress).await?,
        Maintenance::UpdateFeatures { features: which, enable } => {
            features::run(turn, *which, *enable).await?
        }
        Maintenance::UpdateMetadata { key, value } => metadata::run(turn, key, value.as_deref()).await?,
        Maintenance::Migrate | Maintenance::Sparsify { .. } => unreachable!("refused before"),
    }
    Ok(())
}

impl<S: ObjectStore> Core<S> {
    /// Tells all clients that the header has changed, and waits a while until they know.
    pub(crate) async fn announce_update(&self) {
        let (store, object) = (self.store.clone(), self.header_object.clone());
        let notify = tokio::spawn(async move {
            let payload = NotifyMessage::HeaderUpdate.encode();
            match store.notify(&object, payload, NOTIFY_TIMEOUT).await {
                Ok(reply) if reply.timeouts.is_empty() => {}
                Ok(reply) => {
                    warn!(%object, silent = ?reply.timeouts, "some clients do not take note of the changed header");
                }
                Err(error) => {
                    warn!(%object, %error, "could not tell the other clients of the changed header")
                }
            }
        });
        // Who does not listen will find out when it does again.
        let _ = tokio::time::timeout(UPDATE_PATIENCE, notify).await;
    }
}
