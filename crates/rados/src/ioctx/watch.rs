//! Watch and notify.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ceph_codec::SnapId;
use tokio::sync::oneshot;

use super::{IoCtx, answer};
use crate::client::Core;
use crate::error::OpError;
use crate::objecter::{Objecter, Request};
use crate::op::{Errno, OpKind, OpReply, Operation, SnapContext};
use crate::watch::{NotifyReply, Watch};

impl IoCtx {
    /// Starts to watch an object. The watch ends with [`unwatch`](Self::unwatch), not when it is dropped. If
    /// the future is dropped there is no watch.
    ///
    /// # Errors
    /// [`OpError`], such as `ENOENT` if there is no such object or `EPERM` if the user may not write.
    pub async fn watch(&self, object: &str) -> Result<Watch, OpError> {
        let (sender, receiver) = oneshot::channel();
        let request = self.request(object, Operation::new(), SnapId::HEAD, SnapContext::default());
        let (cookie, inbox) = self.client.core.watch(request, sender).ok_or(OpError::Shutdown)?;
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
            None => Err(OpError::Errno(Errno::ENOTCONN)),
        }
    }

    /// How long ago the OSD last confirmed the watch: no notify from before is missing.
    ///
    /// Ceph: `Objecter::linger_check`.
    ///
    /// # Errors
    /// `ENOTCONN` if there is no such watch, or it is lost.
    pub fn watch_check(&self, cookie: u64) -> Result<Duration, OpError> {
        let core = &self.client.core;
        let now = core.now();
        let confirmed = core.with_objecter(|objecter| objecter.watch_confirmed(cookie)).flatten();
        match confirmed {
            Some(confirmed) => Ok(now.monotonic.saturating_sub(confirmed)),
            None => Err(OpError::Errno(Errno::ENOTCONN)),
        }
    }

    /// Forgets a watch at once; the future ends when the OSD has, too. `None` if there is no such watch.
    fn submit_unwatch(
        &self,
        cookie: u64,
    ) -> Option<impl Future<Output = Result<OpReply, OpError>> + Send + use<>> {
        let core = &self.client.core;
        let watcher = core.state.lock().watches.remove(&cookie)?;
        core.with_objecter(|objecter| objecter.forget_linger(cookie));
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
        let kind = OpKind::Notify { cookie: 0, timeout_secs: secs, payload: payload.clone() };
        Operation::new().push(kind).check()?;
        let core = &self.client.core;
        let cookie = core.with_objecter(|objecter| objecter.notify(request, payload, secs, sender));
        // A notify that nobody waits for any more must not be sent again, perhaps hours later.
        let abandoned = Abandoned { core, cookie };
        let reply = answer(receiver.await)?;
        drop(abandoned);
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

/// A notify whose answers nobody waits for any more.
struct Abandoned<'a> {
    core: &'a Arc<Core>,
    cookie: Option<u64>,
}

impl Drop for Abandoned<'_> {
    fn drop(&mut self) {
        self.core.with_objecter(|objecter| self.cookie.map(|cookie| objecter.forget_linger(cookie)));
    }
}
