//! Operations on the objects of one pool and namespace.

mod listing;
mod lookup;
mod snapshots;
mod watch;

use std::future::Future;
use std::sync::Arc;

use ceph_codec::{ObjectLocator, PoolId, SnapId};
use tokio::sync::oneshot;

use crate::Object;
use crate::client::Client;
use crate::error::OpError;
use crate::objecter::Request;
use crate::op::{InvalidOperation, OpReply, Operation, SnapContext};

pub use listing::{ALL_NAMESPACES, ListedObject, ObjectCursor, ObjectPage};
pub use lookup::ObjectLocation;

/// One pool and namespace of a cluster. Cheap to clone.
///
/// Operations are submitted when a method is called, in the order of the calls, and are not withdrawn when
/// the future is dropped. They wait for the cluster as long as it takes, unless
/// [`Options::op_timeout`](crate::Options::op_timeout) says otherwise.
#[derive(Debug, Clone)]
pub struct IoCtx {
    client: Client,
    locator: Arc<ObjectLocator>,
}

impl IoCtx {
    pub(crate) fn new(client: Client, pool: PoolId, namespace: &str) -> Self {
        Self { client, locator: Arc::new(ObjectLocator::new(pool, namespace)) }
    }

    /// The same pool, another namespace; empty for the default one.
    #[must_use]
    pub fn with_namespace(&self, namespace: &str) -> Self {
        Self::new(self.client.clone(), self.locator.pool, namespace)
    }

    /// The same pool and namespace; objects are placed by `key` instead of by their names.
    #[must_use]
    pub fn with_key(&self, key: &str) -> Self {
        let locator = ObjectLocator { key: key.to_owned(), ..(*self.locator).clone() };
        Self { client: self.client.clone(), locator: Arc::new(locator) }
    }

    /// The client instance.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Number of the pool.
    #[must_use]
    pub fn pool(&self) -> PoolId {
        self.locator.pool
    }

    /// Namespace in the pool; empty for the default one.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.locator.namespace
    }

    /// An object, for one thing at a time; [`read`](Self::read) and [`write`](Self::write) do several at once.
    #[must_use]
    pub fn object<'a>(&'a self, name: &'a str) -> Object<'a> {
        Object::new(self, name)
    }

    /// Applies an operation that reads, to the live object or to a snapshot of it.
    ///
    /// # Errors
    /// The future resolves to [`OpError`].
    pub fn read(
        &self,
        object: &str,
        operation: Operation,
        snap: SnapId,
    ) -> impl Future<Output = Result<OpReply, OpError>> + Send + use<> {
        self.submit(self.request(object, operation, snap, SnapContext::default()))
    }

    /// Applies an operation that writes, under a snapshot context.
    ///
    /// # Errors
    /// The future resolves to [`OpError`].
    pub fn write(
        &self,
        object: &str,
        operation: Operation,
        snapc: &SnapContext,
    ) -> impl Future<Output = Result<OpReply, OpError>> + Send + use<> {
        self.submit(self.request(object, operation, SnapId::HEAD, snapc.clone()))
    }

    fn request(&self, object: &str, operation: Operation, snap: SnapId, snapc: SnapContext) -> Request {
        Request { object: object.into(), locator: Arc::clone(&self.locator), operation, snap, snapc }
    }

    /// Whether it can be sent.
    fn check(request: &Request) -> Result<(), InvalidOperation> {
        request.operation.check()?;
        if !request.snapc.is_valid() {
            return Err(InvalidOperation::SnapContext(request.snapc.clone()));
        }
        Ok(())
    }

    fn submit(&self, request: Request) -> impl Future<Output = Result<OpReply, OpError>> + Send + use<> {
        let (sender, receiver) = oneshot::channel();
        let core = &self.client.core;
        match Self::check(&request) {
            Ok(()) => {
                let now = core.now();
                core.with_objecter(|objecter| objecter.submit(request, now, sender));
            }
            Err(invalid) => {
                let _ = sender.send(Err(invalid.into()));
            }
        }
        async move { answer(receiver.await) }
    }
}

fn answer(result: Result<Result<OpReply, OpError>, oneshot::error::RecvError>) -> Result<OpReply, OpError> {
    result.unwrap_or(Err(OpError::Shutdown))
}
