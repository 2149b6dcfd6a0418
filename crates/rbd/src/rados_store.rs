//! A pool of a real cluster as an object store.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use ceph_codec::{EntityAddr, GlobalId, PoolId, SnapId};
use rados::{IoCtx, NotifyReply, OpError, OpReply, Operation, SnapContext, Watch};

use crate::ObjectStore;

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
}
