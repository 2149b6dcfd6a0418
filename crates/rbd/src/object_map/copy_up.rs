//! What a copy-up changes in the object maps of snapshots.
//!
//! Ceph: `CopyupRequest<I>::update_object_maps` in `src/librbd/io/CopyupRequest.cc`.

use ceph_codec::SnapId;
use futures::StreamExt;
use rados::{Errno, Operation, SnapContext};

use super::{Inner, ObjectMap, ObjectMapError, ObjectState, Update, object_name, update_op};
use crate::ObjectStore;

/// Maps that are updated at the same time. Ceph: `rbd_concurrent_management_ops`.
const MAPS_AT_ONCE: usize = 10;

impl<S: ObjectStore> ObjectMap<S> {
    /// Notes that an object is about to exist in these snapshots, all with the contents of the first, the oldest. A map
    /// that cannot be told is marked as invalid; one that does not exist is none.
    ///
    /// # Errors
    /// [`ObjectMapError`] if that fails, too: the object must not be made.
    pub(crate) async fn copied_up(
        &self,
        object: u64,
        oldest_first: impl Iterator<Item = SnapId>,
    ) -> Result<(), ObjectMapError> {
        let inner = &*self.inner;
        let later = if inner.of.fast_diff { ObjectState::ExistsClean } else { ObjectState::Exists };
        let states = std::iter::once(ObjectState::Exists).chain(std::iter::repeat(later));
        let updates = oldest_first.zip(states).map(|(snap, state)| inner.exists_in(snap, object, state));
        let mut updates = futures::stream::iter(updates).buffer_unordered(MAPS_AT_ONCE);
        let mut result = Ok(());
        while let Some(updated) = updates.next().await {
            result = result.and(updated);
        }
        result
    }
}

impl<S: ObjectStore> Inner<S> {
    async fn exists_in(&self, snap: SnapId, object: u64, new: ObjectState) -> Result<(), ObjectMapError> {
        let update = Update { objects: object..object + 1, new, expected: None };
        let name = object_name(&self.of.image_id, snap);
        let operation = update_op(Operation::new(), &update);
        match self.store.write(&name, operation, &SnapContext::default()).await {
            Ok(_) => Ok(()),
            Err(error) if error.refusal() == Some(Errno::ENOENT) => Ok(()),
            Err(error) => self.spoilt(snap, error).await,
        }
    }
}
