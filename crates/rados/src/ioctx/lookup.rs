//! What the OSDMap knows about a pool and its objects, without asking anybody.

use ceph_codec::Epoch;
use ceph_osdmap::{Placement, Pool, PoolFlags, PoolKind};

use super::IoCtx;
use crate::error::OpError;

/// Where an object is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectLocation {
    /// The OSDMap that says so.
    pub epoch: Epoch,
    /// The hash of its name, or of its key.
    pub hash: u32,
    /// Its placement group, and that group's OSDs.
    pub placement: Placement,
}

impl IoCtx {
    /// What the OSDMap says about the pool: its name, kind, size, quotas, flags, snapshots.
    ///
    /// # Errors
    /// [`OpError::NoPool`]
    pub fn info(&self) -> Result<Pool, OpError> {
        self.with_pool(Pool::clone)
    }

    /// Where the object of that name is, or would be. What `ceph osd map` shows.
    ///
    /// # Errors
    /// [`OpError::NoPool`]
    pub fn locate(&self, object: &str) -> Result<ObjectLocation, OpError> {
        let locator = &self.locator;
        self.client.with_map(|map| {
            let pool = map.pool(locator.pool).ok_or(OpError::NoPool(locator.pool))?;
            let hash = pool.hash_object(&locator.namespace, &locator.key, object);
            let placement = map.placement(pool.raw_to_pg(hash));
            Ok(ObjectLocation { epoch: map.epoch(), hash, placement })
        })
    }

    /// The unit in bytes in which objects of the pool have to be written: from front to back, in multiples of
    /// it but for the last piece. `None` if they can be written anywhere, as in all but erasure-coded pools
    /// without overwrites.
    ///
    /// # Errors
    /// [`OpError::NoPool`]
    pub fn required_alignment(&self) -> Result<Option<u32>, OpError> {
        self.with_pool(|pool| {
            let appends_only =
                pool.kind == PoolKind::Erasure && !pool.flags.contains(PoolFlags::EC_OVERWRITES);
            appends_only.then_some(pool.stripe_width)
        })
    }

    pub(super) fn with_pool<R>(&self, look: impl FnOnce(&Pool) -> R) -> Result<R, OpError> {
        let id = self.pool();
        self.client.with_map(|map| map.pool(id).map(look)).ok_or(OpError::NoPool(id))
    }
}
