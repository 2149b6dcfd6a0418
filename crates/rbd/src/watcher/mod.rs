//! The watch on an image's header: how this client learns of other clients, and they see that it is there.
//!
//! A watch is also the proof of life of the lock owner: a client whose watch is gone has its lock broken. So
//! notifies are acknowledged at once, whatever else goes on, and a lost watch is registered again at once.
//!
//! Ceph: `src/librbd/Watcher.cc`, `src/librbd/ImageWatcher.cc`, `src/librbd/watcher/RewatchRequest.cc`.

mod maintenance;
mod notify;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use rados::{OpError, Watch, WatchEvent};
use tokio::sync::oneshot;
use tracing::{debug, error, info, warn};

use crate::store::ObjectStore;
pub use maintenance::{Maintenance, SnapshotFlags};
pub use notify::{AsyncRequestId, ClientId, NotifyMessage, NotifyOp};
pub(crate) use notify::{decode_answer, encode_answer};

/// Between attempts to register a lost watch again: at first, and at most.
const REWATCH_DELAY: Duration = Duration::from_secs(1);
const MAX_REWATCH_DELAY: Duration = Duration::from_secs(30);

/// What an image does about notifies. All methods are called from the watch's task, in the order in which the
/// notifies came, and must not block: start work elsewhere.
pub(crate) trait WatchHandler: Send + Sync + 'static {
    /// The header changed, or may have changed while there was no watch.
    fn header_updated(&self);

    /// Some client, maybe this one, has taken the exclusive lock.
    fn lock_acquired(&self, client: ClientId);

    /// Some client, maybe this one, has given the exclusive lock up.
    fn lock_released(&self, client: ClientId);

    /// Some client, maybe this one, wants the exclusive lock. Returns the answer, 0 or a negative errno, if this
    /// client owns it; any answer of another client would confuse the requester.
    fn lock_requested(&self, client: ClientId, force: bool) -> Option<i32>;

    /// Some client, maybe this one, wants the lock owner to change the image. Returns as for `lock_requested`; 0
    /// promises a completion.
    fn maintenance_requested(&self, id: Option<AsyncRequestId>, request: Maintenance) -> Option<i32>;

    /// Some client wants the lock owner to do what is not understood here. Returns as for `lock_requested`.
    fn unknown_requested(&self, op: NotifyOp) -> Option<i32>;

    /// The lock owner tells how far it has come with a request.
    fn request_progressed(&self, id: AsyncRequestId, done: u64, total: u64);

    /// The lock owner has finished a request: 0 or a negative errno.
    fn request_completed(&self, id: AsyncRequestId, result: i32);

    /// The watch has this cookie from now on: after a loss. (Not called for the first registration.)
    fn watch_registered(&self, cookie: u64);

    /// The watch is gone for now.
    fn watch_lost(&self);

    /// The cluster has blocklisted this client; there will be no watch any more.
    fn blocklisted(&self);
}

/// The registered watch of a header. When it is dropped the watch ends, some time later.
#[derive(Debug)]
pub(crate) struct Watcher<S: ObjectStore> {
    cookie: Arc<AtomicU64>,
    stop: oneshot::Sender<oneshot::Sender<Result<(), OpError>>>,
    _store: std::marker::PhantomData<fn() -> S>,
}

impl<S: ObjectStore> Watcher<S> {
    /// Registers the watch and starts the task that serves it. The task does not keep `handler` alive.
    ///
    /// # Errors
    /// Those of [`ObjectStore::watch`]; `EPERM` for users that may only read.
    pub(crate) async fn register<H: WatchHandler>(
        store: S,
        header_object: String,
        handler: &Arc<H>,
    ) -> Result<Self, OpError> {
        let watch = store.watch(&header_object).await?;
        let cookie = Arc::new(AtomicU64::new(watch.cookie));
        let (stop, stopped) = oneshot::channel();
        let task = Task {
            store,
            object: header_object.into(),
            handler: Arc::downgrade(handler),
            cookie: cookie.clone(),
        };
        tokio::spawn(task.run(watch, stopped));
        Ok(Self { cookie, stop, _store: std::marker::PhantomData })
    }

    /// The cookie of the watch; 0 while it is lost.
    pub(crate) fn cookie(&self) -> u64 {
        self.cookie.load(Ordering::Acquire)
    }

    /// Ends the watch and waits until the cluster knows.
    ///
    /// # Errors
    /// Those of [`ObjectStore::unwatch`]. The watch then ends by itself when the client stops.
    pub(crate) async fn unregister(self) -> Result<(), OpError> {
        let (done, ended) = oneshot::channel();
        if self.stop.send(done).is_err() {
            return Ok(()); // the watch ended before: the client is blocklisted or shut down
        }
        ended.await.unwrap_or(Ok(()))
    }
}

struct Task<S, H> {
    store: S,
    object: Arc<str>,
    handler: Weak<H>,
    cookie: Arc<AtomicU64>,
}

impl<S: ObjectStore, H: WatchHandler> Task<S, H> {
    async fn run(self, mut watch: Watch, mut stop: oneshot::Receiver<oneshot::Sender<Result<(), OpError>>>) {
        // An acknowledgement may wait for the cluster; the next notify must not wait for it.
        let mut acks = FuturesUnordered::<BoxFuture<'static, ()>>::new();
        loop {
            let event = tokio::select! {
                event = watch.events.recv() => event,
                Some(()) = acks.next() => continue,
                stopped = &mut stop => return self.stop(watch.cookie, stopped.ok()).await,
            };
            match event {
                Some(WatchEvent::Notify { notify_id, payload, notifier }) => {
                    debug!(object = %self.object, %notifier, notify_id, "notify");
                    let answer = self.answer(&payload);
                    acks.push(self.acknowledge(watch.cookie, notify_id, answer));
                }
                Some(WatchEvent::Lost(errno)) => {
                    warn!(object = %self.object, %errno, "lost the watch of the header, registering it again");
                    let rewatched = tokio::select! {
                        rewatched = self.rewatch(watch.cookie) => rewatched,
                        stopped = &mut stop => return self.stop(watch.cookie, stopped.ok()).await,
                    };
                    match rewatched {
                        Some(new) => watch = new,
                        None => return,
                    }
                }
                None => {
                    debug!(object = %self.object, "the client is shut down, the watch ends");
                    self.cookie.store(0, Ordering::Release);
                    return;
                }
            }
        }
    }

    /// What to answer to a notify, after telling the image.
    fn answer(&self, payload: &[u8]) -> Bytes {
        let Some(handler) = self.handler.upgrade() else { return Bytes::new() };
        let message = match NotifyMessage::decode(payload) {
            Ok(message) => message,
            Err(error) => {
                warn!(object = %self.object, %error, "another client sent a malformed notify");
                return Bytes::new();
            }
        };
        debug!(object = %self.object, ?message, "notify");
        let result = match message {
            NotifyMessage::AcquiredLock(client) => {
                handler.lock_acquired(client);
                None
            }
            NotifyMessage::ReleasedLock(client) => {
                handler.lock_released(client);
                None
            }
            NotifyMessage::HeaderUpdate => {
                handler.header_updated();
                None
            }
            NotifyMessage::RequestLock { client, force } => handler.lock_requested(client, force),
            NotifyMessage::Maintenance { id, request } => handler.maintenance_requested(id, request),
            NotifyMessage::Unknown(op) => handler.unknown_requested(op),
            NotifyMessage::AsyncProgress { id, done, total } => {
                handler.request_progressed(id, done, total);
                None
            }
            NotifyMessage::AsyncComplete { id, result } => {
                handler.request_completed(id, result);
                None
            }
            // Silence agrees to a quiesce: there are no hooks that could object.
            NotifyMessage::Quiesce(_) | NotifyMessage::Unquiesce(_) => None,
        };
        result.map_or_else(Bytes::new, encode_answer)
    }

    fn acknowledge(&self, cookie: u64, notify_id: u64, answer: Bytes) -> BoxFuture<'static, ()> {
        let (store, object) = (self.store.clone(), self.object.clone());
        Box::pin(async move {
            if let Err(error) = store.acknowledge(&object, cookie, notify_id, answer).await {
                debug!(%object, notify_id, %error, "could not acknowledge a notify");
            }
        })
    }

    /// Registers the watch again, as long as it takes. `None` if there is nothing to watch any more.
    async fn rewatch(&self, old: u64) -> Option<Watch> {
        self.cookie.store(0, Ordering::Release);
        self.handler.upgrade()?.watch_lost();
        let mut delay = REWATCH_DELAY;
        loop {
            if let Err(error) = self.store.unwatch(old).await {
                debug!(object = %self.object, %error, "could not end the lost watch");
            }
            match self.store.watch(&self.object).await {
                Ok(watch) => {
                    info!(object = %self.object, cookie = watch.cookie, "watching the header again");
                    self.cookie.store(watch.cookie, Ordering::Release);
                    let handler = self.handler.upgrade()?;
                    handler.watch_registered(watch.cookie);
                    handler.header_updated();
                    return Some(watch);
                }
                Err(error) if error.ends_the_instance() => {
                    error!(object = %self.object, %error, "the image cannot be served any more");
                    self.handler.upgrade()?.blocklisted();
                    return None;
                }
                Err(OpError::Shutdown) => return None,
                Err(error) => {
                    warn!(object = %self.object, %error, "could not watch the header again, trying on");
                    tokio::time::sleep(delay).await;
                    delay = (delay * 2).min(MAX_REWATCH_DELAY);
                }
            }
        }
    }

    async fn stop(self, cookie: u64, done: Option<oneshot::Sender<Result<(), OpError>>>) {
        self.cookie.store(0, Ordering::Release);
        let result = self.store.unwatch(cookie).await;
        if let Some(done) = done {
            // Nobody waits if the closing of the image was given up.
            let _ = done.send(result);
        }
    }
}
