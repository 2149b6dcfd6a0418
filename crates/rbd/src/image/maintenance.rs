//! Maintenance of an open image, as its users see it.

use ceph_codec::SnapId;
use futures::future::BoxFuture;
use rados::Errno;
use tokio::sync::watch;

use super::{Image, RunToEnd};
use crate::cls::header::metadata_get;
use crate::operations::{
    self, MaintenanceError, OperationError, Progress, Turn, object_map, rollback, snapshot_limit,
    snapshot_remove,
};
use crate::watcher::{Maintenance, SnapshotFlags};
use crate::{Features, ObjectStore, Snapshot, SnapshotNamespace, directory};

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

    /// Removes a user's snapshot; one that has clones stays in the trash until they are gone.
    ///
    /// # Errors
    /// [`OperationError::NoSnapshot`], [`MaintenanceError::SnapshotProtected`].
    pub async fn remove_snapshot(&self, name: &str) -> Result<(), OperationError> {
        self.remove_snapshot_in(SnapshotNamespace::User, name).await
    }

    /// Removes a snapshot of any kind.
    ///
    /// # Errors
    /// As of [`remove_snapshot`](Self::remove_snapshot); [`MaintenanceError::SnapshotInUse`] if it is in the trash and
    /// has clones still.
    pub async fn remove_snapshot_in(
        &self,
        namespace: SnapshotNamespace,
        name: &str,
    ) -> Result<(), OperationError> {
        self.0.ensure_fresh().await?;
        snapshot_remove::check(&self.0, &namespace, name)?;
        self.maintain(Maintenance::RemoveSnapshot { namespace, name: name.to_owned() }, &()).await
    }

    /// Whether [`remove_snapshot`](Self::remove_snapshot) would be possible.
    ///
    /// # Errors
    /// Its own.
    pub async fn check_remove_snapshot(&self, name: &str) -> Result<Snapshot, OperationError> {
        self.0.ensure_fresh().await?;
        snapshot_remove::check(&self.0, &SnapshotNamespace::User, name)
    }

    /// Removes all of the users' snapshots that are not protected, and tells which are.
    ///
    /// # Errors
    /// As of [`remove_snapshot`](Self::remove_snapshot).
    pub async fn purge_snapshots(&self, progress: &dyn Progress) -> Result<Vec<String>, OperationError> {
        let (removable, protected) = self.check_purge_snapshots().await?;
        for (done, name) in removable.iter().enumerate() {
            self.remove_snapshot(name).await?;
            progress.update(done as u64 + 1, removable.len() as u64);
        }
        Ok(protected)
    }

    /// The users' snapshots that [`purge_snapshots`](Self::purge_snapshots) would remove, and those that are protected.
    ///
    /// # Errors
    /// [`OperationError::Image`] if the cluster does not tell.
    pub async fn check_purge_snapshots(&self) -> Result<(Vec<String>, Vec<String>), OperationError> {
        self.0.ensure_fresh().await?;
        let snapshots = self.snapshots();
        let of_users = snapshots.into_iter().filter(|snapshot| snapshot.namespace == SnapshotNamespace::User);
        let (protected, removable): (Vec<_>, Vec<_>) =
            of_users.partition(|snapshot| snapshot.protected || snapshot.unprotecting);
        let names = |snapshots: Vec<Snapshot>| snapshots.into_iter().map(|snapshot| snapshot.name).collect();
        Ok((names(removable), names(protected)))
    }

    /// Gives a user's snapshot another name.
    ///
    /// # Errors
    /// [`OperationError::NoSnapshot`], [`MaintenanceError::SnapshotExists`].
    pub async fn rename_snapshot(&self, old: &str, new: &str) -> Result<(), OperationError> {
        self.0.ensure_fresh().await?;
        let snap = rollback::find(&self.0, old)?.id;
        self.maintain(Maintenance::RenameSnapshot { snap, name: new.to_owned() }, &()).await
    }

    /// Protects a user's snapshot from removal, so that it can be cloned.
    ///
    /// # Errors
    /// [`OperationError::NoSnapshot`], [`MaintenanceError::SnapshotProtected`], [`MaintenanceError::NoLayering`].
    pub async fn protect_snapshot(&self, name: &str) -> Result<(), OperationError> {
        let (namespace, name) = (SnapshotNamespace::User, name.to_owned());
        self.maintain(Maintenance::ProtectSnapshot { namespace, name }, &()).await
    }

    /// Ends the protection of a user's snapshot.
    ///
    /// # Errors
    /// [`OperationError::NoSnapshot`], [`MaintenanceError::SnapshotNotProtected`], [`MaintenanceError::SnapshotInUse`].
    pub async fn unprotect_snapshot(&self, name: &str) -> Result<(), OperationError> {
        let (namespace, name) = (SnapshotNamespace::User, name.to_owned());
        self.maintain(Maintenance::UnprotectSnapshot { namespace, name }, &()).await
    }

    /// Gives the image the contents and the size that it had at a user's snapshot. Nothing can be written meanwhile. If
    /// it fails halfway it has to be done again.
    ///
    /// # Errors
    /// [`OperationError::NoSnapshot`]; [`MaintenanceError::LockHeld`] while another client has the exclusive lock.
    pub async fn roll_back(&self, name: &str, progress: &dyn Progress) -> Result<(), OperationError> {
        let (core, name) = (self.0.clone(), name.to_owned());
        run_to_end(progress, |progress| async move { rollback::run(&core, &name, &progress).await }).await
    }

    /// Whether [`roll_back`](Self::roll_back) would be possible.
    ///
    /// # Errors
    /// Its own.
    pub async fn check_roll_back(&self, name: &str) -> Result<Snapshot, OperationError> {
        self.0.ensure_fresh().await?;
        rollback::check(&self.0, name).await
    }

    /// Limits the number of snapshots, or lets there be any number.
    ///
    /// # Errors
    /// [`MaintenanceError::LimitTooLow`] if there are more.
    pub async fn set_snapshot_limit(&self, limit: Option<u64>) -> Result<(), OperationError> {
        let core = self.0.clone();
        run_to_end(&(), |_| async move { snapshot_limit::run(&Turn::new(&core), limit).await }).await
    }

    /// Gives the image another name.
    ///
    /// # Errors
    /// [`MaintenanceError::NameTaken`], [`MaintenanceError::NoName`] if it was removed or is in the trash.
    pub async fn rename(&self, name: &str) -> Result<(), OperationError> {
        self.maintain(Maintenance::Rename { name: name.to_owned() }, &()).await?;
        self.0.set_name(name);
        Ok(())
    }

    /// Sets a metadata pair.
    ///
    /// # Errors
    /// See [`OperationError`].
    pub async fn set_metadata(&self, key: &str, value: impl Into<Vec<u8>>) -> Result<(), OperationError> {
        let (key, value) = (key.to_owned(), Some(value.into()));
        self.maintain(Maintenance::UpdateMetadata { key, value }, &()).await
    }

    /// Enables features, or disables them. A new object map is marked as invalid, and has to be
    /// [rebuilt](Self::rebuild_object_map) to be of use.
    ///
    /// # Errors
    /// [`MaintenanceError::Feature`]
    pub async fn update_features(&self, features: Features, enable: bool) -> Result<(), OperationError> {
        self.0.ensure_fresh().await?;
        let complete = operations::features::complete(self.features(), features, enable);
        let features = complete.map_err(MaintenanceError::Feature)?;
        self.maintain(Maintenance::UpdateFeatures { features, enable }, &()).await
    }

    /// Looks up which objects the image, or one of its snapshots, has, writes that into its object map, and marks the
    /// map as valid. `progress` counts objects.
    ///
    /// # Errors
    /// [`MaintenanceError::NoObjectMap`], [`OperationError::NoSnapshot`].
    pub async fn rebuild_object_map(
        &self,
        snapshot: Option<&str>,
        progress: &dyn Progress,
    ) -> Result<(), OperationError> {
        let Some(name) = snapshot else {
            return self.maintain(Maintenance::RebuildObjectMap, progress).await;
        };
        let (core, snap) = (self.0.clone(), self.snapshot_id(name).await?);
        run_to_end(progress, |progress| async move {
            object_map::rebuild_snapshot(&Turn::of_snapshot_map(&core), snap, &progress).await?;
            core.announce_update().await;
            Ok(())
        })
        .await
    }

    /// Compares the object map of the image, or of one of its snapshots, with the objects. Returns how many are not as
    /// the map says; it is marked as invalid then. The exclusive lock is needed for it. `progress` counts objects.
    ///
    /// # Errors
    /// [`MaintenanceError::NoObjectMap`], [`OperationError::NoSnapshot`].
    pub async fn check_object_map(
        &self,
        snapshot: Option<&str>,
        progress: &dyn Progress,
    ) -> Result<u64, OperationError> {
        let snap = match snapshot {
            Some(name) => Some(self.snapshot_id(name).await?),
            None => None,
        };
        let core = self.0.clone();
        run_to_end(progress, |progress| async move {
            match snap {
                Some(snap) => {
                    object_map::check_snapshot(&Turn::of_snapshot_map(&core), snap, &progress).await
                }
                None => object_map::check(&core, &progress).await,
            }
        })
        .await
    }

    async fn snapshot_id(&self, name: &str) -> Result<SnapId, OperationError> {
        self.0.ensure_fresh().await?;
        let found = self.0.header().snapshot_named(name).map(|snapshot| snapshot.id);
        found.ok_or_else(|| OperationError::NoSnapshot { snapshot: name.to_owned() })
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

    // Of a named type: the removal of a snapshot may lead to that of another, of the parent.
    fn maintain<'a>(
        &'a self,
        request: Maintenance,
        progress: &'a dyn Progress,
    ) -> BoxFuture<'a, Result<(), OperationError>> {
        let core = self.0.clone();
        let work = |progress| async move { operations::maintain(&core, &request, &progress).await };
        Box::pin(run_to_end(progress, work))
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
