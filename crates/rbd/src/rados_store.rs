//! A pool of a real cluster as an object store.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use ceph_codec::{EntityAddr, GlobalId, PoolId, SnapId, Utime};
use rados::{IoCtx, NotifyReply, OpError, OpReply, Operation, Release, SnapContext, Watch};

use crate::ObjectStore;

/// What the cluster calls pools of images. Ceph: `APPLICATION_NAME_RBD` in `src/osd/osd_types.cc`.
const APPLICATION: &str = "rbd";

/// Changing it tells that the configuration of some pool has changed. Ceph: `update_pool_timestamp()` in
/// `src/librbd/api/PoolMetadata.cc`.
const CONFIG_CHANGED: &str = "rbd_config_pool_override_update_timestamp";

impl ObjectStore for IoCtx {
    fn read(
        &self,
        object: &str,
        operation: Operation,
        snap: SnapId,
    ) -> impl Future<Output = Result<OpReply, OpError>> + Send + 'static {
        Self::read(self, object, operation, snap)
    }

    fn write(
        &self,
        object: &str,
        operation: Operation,
        snapc: &SnapContext,
    ) -> impl Future<Output = Result<OpReply, OpError>> + Send + 'static {
        Self::write(self, object, operation, snapc)
    }

    fn watch(&self, object: &str) -> impl Future<Output = Result<Watch, OpError>> + Send {
        Self::watch(self, object)
    }

    fn unwatch(&self, cookie: u64) -> impl Future<Output = Result<(), OpError>> + Send {
        Self::unwatch(self, cookie)
    }

    fn notify(
        &self,
        object: &str,
        payload: Bytes,
        timeout: Duration,
    ) -> impl Future<Output = Result<NotifyReply, OpError>> + Send {
        Self::notify(self, object, payload, timeout)
    }

    fn acknowledge(
        &self,
        object: &str,
        cookie: u64,
        notify_id: u64,
        answer: Bytes,
    ) -> impl Future<Output = Result<(), OpError>> + Send {
        Self::acknowledge(self, object, cookie, notify_id, answer)
    }

    fn blocklist(&self, addr: EntityAddr) -> impl Future<Output = Result<(), OpError>> + Send {
        self.client().blocklist(addr)
    }

    fn is_blocklisted(&self) -> bool {
        self.client().is_blocklisted()
    }

    fn with_pool(&self, pool: PoolId, namespace: &str) -> Result<Self, OpError> {
        if self.client().with_map(|map| map.pool(pool).is_none()) {
            return Err(OpError::NoPool(pool));
        }
        Ok(self.client().pool_by_id(pool).with_namespace(namespace))
    }

    fn pool(&self) -> PoolId {
        Self::pool(self)
    }

    fn pool_name(&self) -> String {
        let pool = Self::pool(self);
        // The number is better than nothing for a pool that was deleted meanwhile.
        self.client()
            .with_map(|map| map.pool(pool).map_or_else(|| pool.to_string(), |pool| pool.name.clone()))
    }

    fn namespace(&self) -> &str {
        Self::namespace(self)
    }

    fn identity(&self) -> (GlobalId, EntityAddr) {
        (self.client().global_id(), self.client().addr())
    }

    fn pools(&self) -> Vec<(PoolId, String)> {
        self.client().with_map(|map| {
            let pools = map.pools().filter(|pool| pool.tier_of.is_none());
            pools.map(|pool| (pool.id, pool.name.clone())).collect()
        })
    }

    async fn wait_for_newest_pools(&self) -> Result<(), OpError> {
        self.client().wait_for_newest_map().await.map(drop)
    }

    fn create_snapshot_id(&self) -> impl Future<Output = Result<SnapId, OpError>> + Send {
        self.create_self_managed_snapshot()
    }

    fn remove_snapshot_id(&self, snap: SnapId) -> impl Future<Output = Result<(), OpError>> + Send {
        self.remove_self_managed_snapshot(snap)
    }

    async fn enable_application(&self, force: bool) -> Result<(), OpError> {
        self.client().enable_application(&self.pool_name(), APPLICATION, force).await
    }

    async fn announce_config_change(&self) -> Result<(), OpError> {
        let now = ObjectStore::now(self).sec.to_string();
        self.client().set_global_config(CONFIG_CHANGED, &now).await
    }

    fn requires_mimic(&self) -> bool {
        self.client().with_map(|map| map.require_min_compat_client() >= Release::MIMIC)
    }

    fn release(&self) -> Release {
        self.client().with_map(rados::OsdMap::require_osd_release)
    }

    fn now(&self) -> Utime {
        Utime::from_system_time(self.client().system().now())
    }

    fn random(&self) -> u32 {
        let mut bytes = [0; 4];
        self.client().system().random(&mut bytes);
        u32::from_le_bytes(bytes)
    }
}
