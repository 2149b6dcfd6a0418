//! What an image needs from the place where its objects are.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use ceph_codec::{EntityAddr, GlobalId, PoolId, SnapId, Utime};
use rados::{NotifyReply, OpError, OpReply, Operation, Release, SnapContext, Watch};

/// One pool and namespace, as seen by one client instance. Cheap to clone.
///
/// Operations are submitted when the method is called, in the order of the calls, and are not withdrawn when
/// the future is dropped. They wait for the cluster as long as it takes.
pub trait ObjectStore: Clone + Send + Sync + 'static {
    /// Applies an operation that reads, to the live object or to a snapshot of it.
    fn read(
        &self,
        object: &str,
        operation: Operation,
        snap: SnapId,
    ) -> impl Future<Output = Result<OpReply, OpError>> + Send + 'static;

    /// Applies an operation that writes, under the given snapshot context.
    fn write(
        &self,
        object: &str,
        operation: Operation,
        snapc: &SnapContext,
    ) -> impl Future<Output = Result<OpReply, OpError>> + Send + 'static;

    /// Starts to watch an object.
    fn watch(&self, object: &str) -> impl Future<Output = Result<Watch, OpError>> + Send;

    /// Ends a watch of this client instance.
    fn unwatch(&self, cookie: u64) -> impl Future<Output = Result<(), OpError>> + Send;

    /// Sends `payload` to all watchers and waits for their answers, at most about `timeout`.
    fn notify(
        &self,
        object: &str,
        payload: Bytes,
        timeout: Duration,
    ) -> impl Future<Output = Result<NotifyReply, OpError>> + Send;

    /// Acknowledges a notify that came through the watch `cookie`.
    fn acknowledge(
        &self,
        object: &str,
        cookie: u64,
        notify_id: u64,
        answer: Bytes,
    ) -> impl Future<Output = Result<(), OpError>> + Send;

    /// Bars a client instance from the cluster, and returns when this client's map shows it.
    fn blocklist(&self, addr: EntityAddr) -> impl Future<Output = Result<(), OpError>> + Send;

    /// Whether this client instance is itself barred.
    fn is_blocklisted(&self) -> bool;

    /// The same client's view of another pool, by number.
    ///
    /// # Errors
    /// [`OpError::NoPool`] if there is no such pool.
    fn with_pool(&self, pool: PoolId, namespace: &str) -> Result<Self, OpError>;

    /// Number of the pool.
    fn pool(&self) -> PoolId;

    /// Name of the pool.
    fn pool_name(&self) -> String;

    /// Namespace in the pool; empty for the default one.
    fn namespace(&self) -> &str;

    /// The number and the address under which the cluster knows this client instance; both appear in
    /// watchers and locks.
    fn identity(&self) -> (GlobalId, EntityAddr);

    /// Numbers and names of all pools but those that are caches of others.
    fn pools(&self) -> Vec<(PoolId, String)>;

    /// Waits until [`pools`](Self::pools) and [`with_pool`](Self::with_pool) know all pools that exist by now.
    fn wait_for_newest_pools(&self) -> impl Future<Output = Result<(), OpError>> + Send;

    /// A number for a new snapshot of objects of this pool.
    ///
    /// # Errors
    /// `EINVAL` if the pool has snapshots of the whole.
    fn create_snapshot_id(&self) -> impl Future<Output = Result<SnapId, OpError>> + Send;

    /// Gives up a snapshot: what only it needs is removed from the objects of this pool, in time.
    ///
    /// # Errors
    /// `EINVAL` if the pool has snapshots of the whole.
    fn remove_snapshot_id(&self, snap: SnapId) -> impl Future<Output = Result<(), OpError>> + Send;

    /// Tells the cluster that the pool is used for images.
    ///
    /// # Errors
    /// `EPERM` if it is used for something else, unless `force`.
    fn enable_application(&self, force: bool) -> impl Future<Output = Result<(), OpError>> + Send;

    /// Makes all clients read the configuration of pools again.
    fn announce_config_change(&self) -> impl Future<Output = Result<(), OpError>> + Send;

    /// Whether the cluster admits no clients before Ceph 13 (mimic), so that all know clones of version 2.
    fn requires_mimic(&self) -> bool;

    /// The release that all OSDs are of at least. Where the `rbd` of one release writes or shows something else than
    /// that of another, the cluster's own is followed.
    fn release(&self) -> Release;

    /// The date.
    fn now(&self) -> Utime;

    /// An unpredictable number.
    fn random(&self) -> u32;
}
