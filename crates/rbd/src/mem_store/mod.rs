//! An [`ObjectStore`] in memory: a small cluster for tests, examples and benchmarks.
//!
//! It does what OSDs do for RBD: snapshots of objects, watch and notify, blocklisting, and the object classes
//! `lock` and `rbd`. Clients can be made to fail, to stall and to die at any operation.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
//! use rbd::{Image, MemStore, NewImage, OpenOptions};
//!
//! let store = MemStore::new();
//! store.create_image(&NewImage { name: "disk".into(), size: 1 << 30, ..NewImage::default() })?;
//! let image = Image::open(store, OpenOptions::image("disk")).await?;
//! image.write(4096, "hello".into()).await?;
//! assert_eq!(image.read(4096, 5).await?.to_vec(), b"hello");
//! image.close().await;
//! # Ok::<_, Box<dyn std::error::Error>>(()) })?;
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```

mod cls_children;
mod cls_directory;
mod cls_lock;
mod cls_object_map;
mod cls_rbd;
mod cls_snapshots;
mod cluster;
mod image;
mod object;

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ceph_codec::{
    AddrType, Encode, EntityAddr, EntityName, EntityType, GlobalId, PoolId, SnapId, Utime, versioned,
};
use parking_lot::Mutex;
use rados::{NotifyReply, OpError, OpReply, Operation, Release, SnapContext, Watch};
use tokio::sync::oneshot;

use crate::ObjectStore;
#[cfg(test)]
pub(crate) use cluster::blocklisted;
use cluster::{Cluster, ObjectKey};
pub use image::NewImage;

/// One client's view of a pool of a cluster in memory. Clones are the same client.
#[derive(Clone)]
pub struct MemStore {
    cluster: Arc<Mutex<Cluster>>,
    client: Arc<Client>,
    pool: PoolId,
    namespace: Arc<str>,
}

/// One client instance.
struct Client {
    gid: GlobalId,
    addr: EntityAddr,
    state: Mutex<ClientState>,
}

#[derive(Default)]
struct ClientState {
    /// How many more operations reach the cluster.
    operations_left: Option<u64>,
    fault: Option<Box<Fault>>,
    /// Operations that were submitted while the client is held.
    held: Option<VecDeque<Box<dyn FnOnce() + Send>>>,
    /// How often answers let other tasks run first, at most, and a state of pseudo-randomness.
    jitter: (u32, u32),
}

type Fault = dyn FnMut(&str, &Operation) -> Option<OpError> + Send;

impl Default for MemStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemStore")
            .field("client", &self.client.gid)
            .field("pool", &self.pool)
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

impl MemStore {
    /// A new cluster with one pool, number 1 and named `rbd`, and its first client.
    #[must_use]
    pub fn new() -> Self {
        let mut cluster = Cluster::default();
        let pool = cluster.create_pool("rbd");
        Self::of_client(Arc::new(Mutex::new(cluster)), pool, "".into())
    }

    /// Another client of the same cluster.
    #[must_use]
    pub fn connect(&self) -> Self {
        Self::of_client(self.cluster.clone(), self.pool, self.namespace.clone())
    }

    fn of_client(cluster: Arc<Mutex<Cluster>>, pool: PoolId, namespace: Arc<str>) -> Self {
        let number = cluster.lock().next_client();
        let client = Client {
            gid: GlobalId(4100 + u64::from(number)),
            addr: EntityAddr {
                kind: AddrType::ANY,
                nonce: 0x1000_0000 + number,
                addr: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
            },
            state: Mutex::default(),
        };
        Self { cluster, client: Arc::new(client), pool, namespace }
    }

    /// Creates a pool and returns its number.
    pub fn create_pool(&self, name: &str) -> PoolId {
        self.cluster.lock().create_pool(name)
    }

    /// Sets the date, which stands still otherwise.
    pub fn set_now(&self, now: Utime) {
        self.cluster.lock().now = now;
    }

    /// Makes it a cluster of another release than 16.
    pub fn set_release(&self, release: Release) {
        self.cluster.lock().release = release;
    }

    /// The objects of this pool and namespace that exist, by name.
    #[must_use]
    pub fn objects(&self) -> Vec<String> {
        self.cluster.lock().objects(self.pool, &self.namespace)
    }

    /// Asks `fault` about every further operation of this client: an error makes the operation fail without
    /// being applied.
    pub fn set_fault(&self, fault: impl FnMut(&str, &Operation) -> Option<OpError> + Send + 'static) {
        self.client.state.lock().fault = Some(Box::new(fault));
    }

    /// Undoes [`set_fault`](Self::set_fault).
    pub fn clear_fault(&self) {
        self.client.state.lock().fault = None;
    }

    /// After `operations` more operations this client is dead, as if its process was killed: nothing that it does
    /// reaches the cluster. Its watches stay until [`lose_watches`](Self::lose_watches).
    pub fn kill_after(&self, operations: u64) {
        self.client.state.lock().operations_left = Some(operations);
    }

    /// Ends this client's watches as an OSD does that has not heard of it for too long. If it lives, it is told.
    pub fn lose_watches(&self) {
        self.cluster.lock().lose_watches(self.client.gid);
    }

    /// From now on this client's operations wait until [`resume`](Self::resume), as if the cluster was down.
    pub fn hold(&self) {
        self.client.state.lock().held.get_or_insert_default();
    }

    /// Lets operations go again that wait since [`hold`](Self::hold), in the order in which they were submitted.
    pub fn resume(&self) {
        loop {
            let mut state = self.client.state.lock();
            let next = state.held.as_mut().and_then(VecDeque::pop_front);
            let Some(operation) = next else {
                state.held = None;
                return;
            };
            drop(state);
            operation();
        }
    }

    /// Makes the answers to this client come late, out of order, by letting other tasks run up to `turns` times.
    pub fn set_jitter(&self, turns: u32, seed: u32) {
        self.client.state.lock().jitter = (turns, seed);
    }

    fn key(&self, object: &str) -> ObjectKey {
        ObjectKey { pool: self.pool, namespace: self.namespace.clone(), name: object.to_owned() }
    }

    fn submit(
        &self,
        object: &str,
        operation: Operation,
        access: Access,
    ) -> impl Future<Output = Result<OpReply, OpError>> + Send + 'static {
        let (done, answer) = oneshot::channel();
        let key = self.key(object);
        let (cluster, client) = (self.cluster.clone(), self.client.clone());
        let run = move || {
            let result = client
                .admit(&key.name, &operation)
                .and_then(|()| cluster.lock().execute(&client.caller_identity(), key, &operation, &access));
            // Nobody waits if the future was dropped.
            let _ = done.send(result);
        };
        let mut state = self.client.state.lock();
        let turns = state.next_jitter();
        match &mut state.held {
            Some(queue) => queue.push_back(Box::new(run)),
            None => {
                drop(state);
                run();
            }
        }
        async move {
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
            answer.await.unwrap_or(Err(OpError::Shutdown))
        }
    }
}

/// How an operation reaches an object.
enum Access {
    Read(SnapId),
    Write(SnapContext),
}

/// Number and address of a client.
#[derive(Debug, Clone, Copy)]
struct Identity {
    gid: GlobalId,
    addr: EntityAddr,
}

/// Who makes an operation, and who watches the object.
struct Caller<'a> {
    identity: &'a Identity,
    now: Utime,
    watchers: Vec<(Identity, u64)>,
}

impl Client {
    fn caller_identity(&self) -> Identity {
        Identity { gid: self.gid, addr: self.addr }
    }

    /// Whether an operation reaches the cluster.
    fn admit(&self, object: &str, operation: &Operation) -> Result<(), OpError> {
        let mut state = self.state.lock();
        match &mut state.operations_left {
            Some(0) => return Err(OpError::Shutdown),
            Some(left) => *left -= 1,
            None => {}
        }
        state.fault.as_mut().and_then(|fault| fault(object, operation)).map_or(Ok(()), Err)
    }

    fn is_dead(&self) -> bool {
        self.state.lock().operations_left == Some(0)
    }
}

impl ClientState {
    fn next_jitter(&mut self) -> u32 {
        let (turns, state) = &mut self.jitter;
        if *turns == 0 {
            return 0;
        }
        // Any generator will do (this one is from Numerical Recipes); the high bits are the better ones.
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (*state >> 16) % (*turns + 1)
    }
}

impl Caller<'_> {
    fn name(&self) -> EntityName {
        client_name(self.identity)
    }

    fn addr(&self) -> EntityAddr {
        self.identity.addr
    }

    /// Ceph: `obj_list_watch_response_t` in `src/osd/osd_types.h`.
    fn watchers_encoded(&self) -> Bytes {
        let mut out = Vec::new();
        versioned(&mut out, 1, 1, |out| {
            u32::try_from(self.watchers.len()).unwrap_or(u32::MAX).encode(out);
            for (watcher, cookie) in &self.watchers {
                versioned(out, 2, 1, |out| {
                    client_name(watcher).encode(out);
                    cookie.encode(out);
                    30u32.encode(out);
                    watcher.addr.encode(out);
                });
            }
        });
        out.into()
    }
}

fn client_name(identity: &Identity) -> EntityName {
    EntityName { kind: EntityType::CLIENT, num: i64::try_from(identity.gid.0).unwrap_or(i64::MAX) }
}

impl ObjectStore for MemStore {
    fn read(
        &self,
        object: &str,
        operation: Operation,
        snap: SnapId,
    ) -> impl Future<Output = Result<OpReply, OpError>> + Send + 'static {
        self.submit(object, operation, Access::Read(snap))
    }

    fn write(
        &self,
        object: &str,
        operation: Operation,
        snapc: &SnapContext,
    ) -> impl Future<Output = Result<OpReply, OpError>> + Send + 'static {
        self.submit(object, operation, Access::Write(snapc.clone()))
    }

    async fn watch(&self, object: &str) -> Result<Watch, OpError> {
        self.client.admit(object, &Operation::new())?;
        self.cluster.lock().watch(&self.client.caller_identity(), self.key(object))
    }

    async fn unwatch(&self, cookie: u64) -> Result<(), OpError> {
        self.client.admit("", &Operation::new())?;
        self.cluster.lock().unwatch(self.client.gid, cookie);
        Ok(())
    }

    async fn notify(&self, object: &str, payload: Bytes, timeout: Duration) -> Result<NotifyReply, OpError> {
        self.client.admit(object, &Operation::new())?;
        let identity = self.client.caller_identity();
        let (id, mut done) = self.cluster.lock().notify(&identity, &self.key(object), &payload)?;
        match tokio::time::timeout(timeout, &mut done).await {
            Ok(reply) => Ok(reply.unwrap_or_default()),
            Err(_) => Ok(self.cluster.lock().finish_notify(id).unwrap_or_default()),
        }
    }

    async fn acknowledge(
        &self,
        object: &str,
        cookie: u64,
        notify_id: u64,
        answer: Bytes,
    ) -> Result<(), OpError> {
        self.client.admit(object, &Operation::new())?;
        self.cluster.lock().acknowledge(self.client.gid, cookie, notify_id, answer);
        Ok(())
    }

    async fn blocklist(&self, addr: EntityAddr) -> Result<(), OpError> {
        self.client.admit("", &Operation::new())?;
        self.cluster.lock().blocklist(addr);
        Ok(())
    }

    fn is_blocklisted(&self) -> bool {
        !self.client.is_dead() && self.cluster.lock().is_blocklisted(&self.client.addr)
    }

    fn with_pool(&self, pool: PoolId, namespace: &str) -> Result<Self, OpError> {
        self.cluster.lock().pool_name(pool).ok_or(OpError::NoPool(pool))?;
        Ok(Self { pool, namespace: namespace.into(), ..self.clone() })
    }

    fn pool(&self) -> PoolId {
        self.pool
    }

    fn pool_name(&self) -> String {
        self.cluster.lock().pool_name(self.pool).unwrap_or_default().to_owned()
    }

    fn namespace(&self) -> &str {
        &self.namespace
    }

    fn identity(&self) -> (GlobalId, EntityAddr) {
        (self.client.gid, self.client.addr)
    }

    fn pools(&self) -> Vec<(PoolId, String)> {
        self.cluster.lock().pools()
    }

    async fn wait_for_newest_pools(&self) -> Result<(), OpError> {
        self.client.admit("", &Operation::new())
    }

    async fn create_snapshot_id(&self) -> Result<SnapId, OpError> {
        self.client.admit("", &Operation::new())?;
        Ok(self.cluster.lock().next_snap())
    }

    async fn remove_snapshot_id(&self, snap: SnapId) -> Result<(), OpError> {
        self.client.admit("", &Operation::new())?;
        self.cluster.lock().remove_snap(self.pool, snap);
        Ok(())
    }

    async fn enable_application(&self, _force: bool) -> Result<(), OpError> {
        self.client.admit("", &Operation::new())
    }

    async fn announce_config_change(&self) -> Result<(), OpError> {
        self.client.admit("", &Operation::new())
    }

    fn requires_mimic(&self) -> bool {
        true
    }

    fn release(&self) -> Release {
        self.cluster.lock().release
    }

    fn now(&self) -> Utime {
        self.cluster.lock().now
    }

    fn random(&self) -> u32 {
        self.cluster.lock().next_random()
    }
}

#[cfg(test)]
mod tests;
