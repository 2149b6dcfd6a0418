//! Operations on the objects of one pool and namespace.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ceph_codec::{ObjectLocator, PoolId, SnapId};
use tokio::sync::{mpsc, oneshot};

use crate::client::{Client, Watcher};
use crate::error::OpError;
use crate::objecter::{Objecter, Request};
use crate::op::{OpKind, OpReply, Operation, SnapContext};
use crate::watch::{NotifyReply, Watch};

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

    fn submit(&self, request: Request) -> impl Future<Output = Result<OpReply, OpError>> + Send + use<> {
        let (sender, receiver) = oneshot::channel();
        let core = Arc::clone(&self.client.core);
        let now = core.now();
        let tid = core.with_objecter(|objecter| objecter.submit(request, now, sender));
        let limit = core.settings.borrow().op_timeout;
        async move {
            let Some(limit) = limit else { return answer(receiver.await) };
            match tokio::time::timeout(limit, receiver).await {
                Ok(result) => answer(result),
                Err(_) => {
                    core.with_objecter(|objecter| tid.and_then(|tid| objecter.cancel(tid)));
                    Err(OpError::TimedOut)
                }
            }
        }
    }

    /// Starts to watch an object. The watch ends with [`unwatch`](Self::unwatch), not when it is dropped. If
    /// the future is dropped there is no watch.
    ///
    /// # Errors
    /// [`OpError`], such as `ENOENT` if there is no such object or `EPERM` if the user may not write.
    pub async fn watch(&self, object: &str) -> Result<Watch, OpError> {
        let (sender, receiver) = oneshot::channel();
        let (events, inbox) = mpsc::unbounded_channel();
        let request = self.request(object, Operation::new(), SnapId::HEAD, SnapContext::default());
        let watcher =
            Watcher { events, object: Arc::clone(&request.object), locator: Arc::clone(&request.locator) };
        let cookie = {
            let core = &self.client.core;
            let cookie =
                core.with_objecter(|objecter| objecter.watch(request, sender)).ok_or(OpError::Shutdown)?;
            core.state.lock().watches.insert(cookie, watcher);
            cookie
        };
        let mut unfinished = Unfinished { ioctx: self, cookie: Some(cookie) };
        let registered = answer(receiver.await);
        unfinished.cookie = None;
        match registered {
            Ok(_) => Ok(Watch { cookie, events: inbox }),
            Err(error) => {
                self.client.core.state.lock().watches.remove(&cookie);
                Err(error)
            }
        }
    }

    /// Ends a watch of this client instance.
    ///
    /// # Errors
    /// `ENOTCONN` if there is no such watch; [`OpError`] if the OSD could not be told. It then forgets the
    /// watch by itself, within half a minute.
    pub async fn unwatch(&self, cookie: u64) -> Result<(), OpError> {
        match self.submit_unwatch(cookie) {
            Some(unwatched) => unwatched.await.map(drop),
            None => Err(OpError::Errno(crate::Errno::ENOTCONN)),
        }
    }

    /// Forgets a watch at once; the future ends when the OSD has, too. `None` if there is no such watch.
    fn submit_unwatch(
        &self,
        cookie: u64,
    ) -> Option<impl Future<Output = Result<OpReply, OpError>> + Send + use<>> {
        let core = &self.client.core;
        let watcher = core.state.lock().watches.remove(&cookie)?;
        core.with_objecter(|objecter| objecter.forget_watch(cookie));
        let request = Request {
            object: watcher.object,
            locator: watcher.locator,
            operation: Objecter::<()>::unwatch_operation(cookie).full_try(),
            snap: SnapId::HEAD,
            snapc: SnapContext::default(),
        };
        Some(self.submit(request))
    }

    /// Sends `payload` to all watchers of an object and waits for their answers, at most about `timeout`.
    ///
    /// # Errors
    /// [`OpError`]. That some watchers did not answer in time is not an error.
    pub async fn notify(
        &self,
        object: &str,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<NotifyReply, OpError> {
        let (sender, receiver) = oneshot::channel();
        let request = self.request(object, Operation::new(), SnapId::HEAD, SnapContext::default());
        let secs = u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX).max(1);
        self.client.core.with_objecter(|objecter| objecter.notify(request, payload, secs, sender));
        let reply = answer(receiver.await)?;
        Ok(NotifyReply::decode(&reply.data(0))?)
    }

    /// Acknowledges a notify that came through the watch `cookie`.
    ///
    /// # Errors
    /// [`OpError`].
    pub async fn acknowledge(
        &self,
        object: &str,
        cookie: u64,
        notify_id: u64,
        answer: Bytes,
    ) -> Result<(), OpError> {
        let operation = Operation::new().push(OpKind::NotifyAck { notify_id, cookie, payload: answer });
        self.read(object, operation, SnapId::HEAD).await.map(drop)
    }
}

/// A watch whose registration nobody waits for any more.
struct Unfinished<'a> {
    ioctx: &'a IoCtx,
    cookie: Option<u64>,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        // The registration may be under way, and is followed by its end.
        drop(self.cookie.and_then(|cookie| self.ioctx.submit_unwatch(cookie)));
    }
}

fn answer(result: Result<Result<OpReply, OpError>, oneshot::error::RecvError>) -> Result<OpReply, OpError> {
    result.unwrap_or(Err(OpError::Shutdown))
}
