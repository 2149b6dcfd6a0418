//! Pools: making one ready for images, and what is in it.
//!
//! Ceph: `src/librbd/api/Pool.cc`, `src/librbd/image/ValidatePoolRequest.cc`.

use ceph_codec::SnapId;
use futures::{StreamExt, TryStreamExt};
use rados::{Errno, OpError, Operation, SnapContext};
use tracing::warn;

use crate::cls::{self, Batch};
use crate::names::{self, POOL_INFO, TRASH};
use crate::operations::failed;
use crate::{Config, CreateError, ObjectStore, OperationError, TrashSource, list_images, list_trash};

/// What `rbd_info` says once it was found that the pool can hold images.
const VALIDATED: &[u8] = b"overwrite validated";
/// What it says while that is being found out.
const VALIDATING: &[u8] = b"validate";

/// Makes a pool ready for images: tells the cluster what it is used for, and tries out whether it can be used so. A
/// pool that is used for something else already needs `force`.
///
/// # Errors
/// [`CreateError::UnsuitablePool`] if it cannot hold images, [`CreateError::OtherUse`] if it is used for something
/// else; [`OperationError::Op`] with `EACCES` if the user may not do that.
///
/// Ceph: `Pool<I>::init()` in `src/librbd/api/Pool.cc`.
pub async fn init_pool<S: ObjectStore>(
    store: &S,
    config: &Config,
    force: bool,
) -> Result<(), OperationError> {
    match store.enable_application(force).await {
        Err(error) if error.is(Errno::EPERM) => {
            return Err(CreateError::OtherUse { pool: store.pool_name() }.into());
        }
        result => result.map_err(failed("tell the cluster what the pool is used for"))?,
    }
    let create = Operation::new().create(false);
    store.write(TRASH, create, &SnapContext::default()).await.map_err(failed("make the trash"))?;
    if config.of_pool(store).await.validates_pools() {
        validate(store).await?;
    }
    Ok(())
}

/// Tries out whether a pool can hold images: whether its users can have snapshots of their own, and overwrite parts
/// of objects. Done once for a pool.
///
/// Ceph: `ValidatePoolRequest` in `src/librbd/image/ValidatePoolRequest.cc`.
pub(crate) async fn validate<S: ObjectStore>(store: &S) -> Result<(), OperationError> {
    let doing = "find out whether the pool can hold images";
    let unsuitable = |why| OperationError::from(CreateError::UnsuitablePool { pool: store.pool_name(), why });
    // Once for all namespaces.
    let store = &store.with_pool(store.pool(), "").map_err(failed(doing))?;
    let info = match store.read(POOL_INFO, Operation::new().read(0, 64), SnapId::HEAD).await {
        Err(error) if error.is(Errno::ENOENT) => bytes::Bytes::new(),
        reply => reply.map_err(failed(doing))?.data(0),
    };
    if info == VALIDATED {
        return Ok(());
    }
    let overwritten = |result: Result<rados::OpReply, OpError>| match result {
        Err(error) if error.is(Errno::EOPNOTSUPP) => {
            Err(unsuitable("parts of objects cannot be overwritten"))
        }
        result => result.map(drop).map_err(failed(doing)),
    };
    if info != VALIDATING {
        // From now on the pool cannot have snapshots of the whole.
        let snap = match store.create_snapshot_id().await {
            Err(error) if error.is(Errno::EINVAL) => {
                return Err(unsuitable("it has snapshots of the whole pool"));
            }
            snap => snap.map_err(failed(doing))?,
        };
        let operation = Operation::new().create(true).write(0, VALIDATING);
        let written = match store.write(POOL_INFO, operation, &SnapContext::default()).await {
            Err(error) if error.is(Errno::EEXIST) => Ok(()),
            written => overwritten(written),
        };
        if let Err(error) = store.remove_snapshot_id(snap).await {
            warn!(pool = store.pool_name(), %error, "could not give a snapshot id up again");
        }
        written?;
    }
    let operation = Operation::new().write(0, VALIDATED);
    overwritten(store.write(POOL_INFO, operation, &SnapContext::default()).await)
}

/// What is in a pool and namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolStats {
    /// Its images.
    pub images: ImageStats,
    /// Those in the trash.
    pub trash: ImageStats,
}

/// How many images, and how large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ImageStats {
    /// Number of images.
    pub count: u64,
    /// Bytes that they have.
    pub provisioned_bytes: u64,
    /// Bytes that they have, each at its largest snapshot if that is larger.
    pub max_provisioned_bytes: u64,
    /// Number of their snapshots.
    pub snapshots: u64,
}

/// Counts the images of a pool and namespace.
///
/// # Errors
/// [`OperationError::Op`].
///
/// Ceph: `Pool<I>::get_stats()` in `src/librbd/api/Pool.cc`.
pub async fn pool_stats<S: ObjectStore>(store: &S, config: &Config) -> Result<PoolStats, OperationError> {
    let doing = "count the images";
    let mut images: Vec<String> =
        list_images(store).await.map_err(failed(doing))?.into_iter().map(|image| image.id).collect();
    let mut trash = Vec::new();
    for entry in list_trash(store).await? {
        // What is on its way out counts as long as it is there.
        if entry.source == TrashSource::Removing { &mut images } else { &mut trash }.push(entry.id);
    }
    let at_once = usize::try_from(config.number("rbd_concurrent_management_ops")).unwrap_or(1).max(1);
    let count = async |ids: Vec<String>| {
        let sizes = futures::stream::iter(ids).map(|id| async move { image_stats(store, &id).await });
        let mut sum = ImageStats::default();
        let mut sizes = sizes.buffer_unordered(at_once);
        while let Some(one) = sizes.try_next().await? {
            sum.count += 1;
            sum.provisioned_bytes = sum.provisioned_bytes.saturating_add(one.provisioned_bytes);
            sum.max_provisioned_bytes = sum.max_provisioned_bytes.saturating_add(one.max_provisioned_bytes);
            sum.snapshots += one.snapshots;
        }
        Ok::<_, OpError>(sum)
    };
    Ok(PoolStats {
        images: count(images).await.map_err(failed(doing))?,
        trash: count(trash).await.map_err(failed(doing))?,
    })
}

/// How often to start again because a snapshot was removed between two operations.
const RETRIES: usize = 10;

async fn image_stats<S: ObjectStore>(store: &S, id: &str) -> Result<ImageStats, OpError> {
    let header = names::header_object(id);
    let mut retries = 0;
    loop {
        let mut batch = Batch::default();
        let size = batch.add(cls::get_size(SnapId::HEAD));
        let snaps = batch.add(cls::get_snapcontext());
        let reply = match store.read(&header, batch.into_operation(), SnapId::HEAD).await {
            // Removed meanwhile, or half removed before.
            Err(error) if error.is(Errno::ENOENT) => {
                return Ok(ImageStats { count: 1, ..ImageStats::default() });
            }
            reply => reply?,
        };
        let (_, provisioned_bytes) = size.get(&reply)?;
        let snaps = snaps.get(&reply)?.snaps;
        let mut largest = provisioned_bytes;
        let mut gone = None;
        for page in snaps.chunks(512) {
            let mut batch = Batch::default();
            let slots: Vec<_> = page.iter().map(|snap| batch.add(cls::get_size(*snap))).collect();
            match store.read(&header, batch.into_operation(), SnapId::HEAD).await {
                Err(error) if error.is(Errno::ENOENT) => gone = Some(error),
                reply => {
                    let reply = reply?;
                    for slot in slots {
                        largest = largest.max(slot.get(&reply)?.1);
                    }
                }
            }
        }
        if let Some(error) = gone {
            retries += 1;
            if retries > RETRIES {
                return Err(error);
            }
            continue;
        }
        let snapshots = snaps.len() as u64;
        return Ok(ImageStats { count: 1, provisioned_bytes, max_provisioned_bytes: largest, snapshots });
    }
}
