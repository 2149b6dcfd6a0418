//! Maintenance of an open image, as its users see it.

use rados::Errno;
use tokio::sync::watch;

use super::{Image, RunToEnd};
use crate::cls::header::metadata_get;
use crate::operations::{self, MaintenanceError, OperationError, Progress};
use crate::watcher::{Maintenance, SnapshotFlags};
use crate::{ObjectStore, SnapshotNamespace, directory};

/// # Maintenance
///
/// Every change is made under the exclusive lock, if the image has one: by this client, or on its behalf by the client
/// that owns it. All clients of the image see it when the method returns, or soon after if they are slow. A change
/// that has begun goes on if its future is dropped.
///
/// # Errors
/// All of these return [`OperationError`]; the errors of [`write`](Self::write) are among them.
impl<S: ObjectStore> Image<S> {
    /// Takes a snapshot: what was acknowledged before is in it, what begins afterwards is not.
    ///
    /// # Errors
    /// [`MaintenanceError::SnapshotExists`], [`MaintenanceError::TooManySnapshots`], [`MaintenanceError::Quiesce`].
    pub async fn create_snapshot(
        &self,
        name: &str,
        flags: SnapshotFlags,
        progress: &dyn Progress,
    ) -> Result<(), OperationError> {
        let (namespace, name) = (SnapshotNamespace::User, name.to_owned());
        self.maintain(Maintenance::CreateSnapshot { namespace, name, flags }, progress).await
    }

    /// Changes the size, in bytes. What is past the end of a smaller image is gone, but for its snapshots.
    ///
    /// # Errors
    /// [`MaintenanceError::ShrinkNotAllowed`] unless `allow_shrink`; [`MaintenanceError::ObjectMap`] if it would have too
    /// many objects.
    pub async fn resize(
        &self,
        size: u64,
        allow_shrink: bool,
        progress: &dyn Progress,
    ) -> Result<(), OperationError> {
        self.maintain(Maintenance::Resize { size, allow_shrink }, progress).await
    }

    /// Gives a clone all that it still has from its parent, and parts it from that.
    ///
    /// # Errors
    /// [`MaintenanceError::NoParent`]
    pub async fn flatten(&self, progress: &dyn Progress) -> Result<(), OperationError> {
        self.maintain(Maintenance::Flatten, progress).await
    }

    /// Sets a metadata pair.
    ///
    /// # Errors
    /// See [`OperationError`].
    pub async fn set_metadata(&self, key: &str, value: impl Into<Vec<u8>>) -> Result<(), OperationError> {
        let (key, value) = (key.to_owned(), Some(value.into()));
        self.maintain(Maintenance::UpdateMetadata { key, value }, &()).await
    }

    /// Removes a metadata pair.
    ///
    /// # Errors
    /// [`MaintenanceError::NoMetadata`]
    pub async fn remove_metadata(&self, key: &str) -> Result<(), OperationError> {
        let core = &self.0;
        match directory::call(&core.store, &core.header_object, metadata_get(key)).await {
            Err(error) if error.refusal() == Some(Errno::ENOENT) => {
                return Err(MaintenanceError::NoMetadata { key: key.to_owned() }.into());
            }
            value => value.map_err(|source| core.operation_failed("read the image's metadata", source))?,
        };
        self.maintain(Maintenance::UpdateMetadata { key: key.to_owned(), value: None }, &()).await
    }

    async fn maintain(&self, request: Maintenance, progress: &dyn Progress) -> Result<(), OperationError> {
        let core = self.0.clone();
        run_to_end(progress, |progress| async move { operations::maintain(&core, &request, &progress).await })
            .await
    }
}

/// Runs work that goes on when nobody waits for it any more, nor for its progress.
async fn run_to_end<T, F>(progress: &dyn Progress, work: impl FnOnce(watch::Sender<(u64, u64)>) -> F) -> T
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let (sender, mut news) = watch::channel((0, 0));
    let mut work = RunToEnd::new(work(sender));
    loop {
        tokio::select! {
            result = &mut work => return result,
            Ok(()) = news.changed() => {
                let (done, total) = *news.borrow_and_update();
                progress.update(done, total);
            }
        }
    }
}
