//! Carries out what the lock's state machine decides.

use std::future::Future;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use ceph_codec::{AddrType, EntityAddr};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use rados::{Errno, NotifyReply, OpError, Operation, SnapContext};
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::cls::{self, LockOwner};
use super::holder::{Holder, TAG, lock_cookie};
use super::machine::{Action, Answer, Event, Handle};
use super::{LockError, LockHooks, Predecessors, Shared};
use crate::store::ObjectStore;
use crate::watcher::{ClientId, NotifyMessage, decode_answer};

/// How long a notify waits for the other clients. Ceph: `Notifier::NOTIFY_TIMEOUT`.
const NOTIFY_TIMEOUT: Duration = Duration::from_secs(5);

/// What it takes to carry actions out.
pub(super) struct Driver<S, H> {
    pub(super) store: S,
    pub(super) header: Arc<str>,
    pub(super) predecessors: Option<Arc<dyn Predecessors>>,
    pub(super) hooks: Weak<H>,
    pub(super) shared: Weak<Shared>,
}

impl<S: ObjectStore, H: LockHooks> Driver<S, H> {
    /// Runs until the last handle of the lock is gone.
    pub(super) async fn run(self, mut todo: mpsc::UnboundedReceiver<Action>) {
        let mut running = FuturesUnordered::<BoxFuture<'static, Option<Event>>>::new();
        loop {
            tokio::select! {
                action = todo.recv() => match action {
                    Some(action) => running.push(self.start(action)),
                    None => return,
                },
                Some(event) = running.next() => {
                    let (Some(event), Some(shared)) = (event, self.shared.upgrade()) else { continue };
                    shared.feed(|_| event);
                }
            }
        }
    }

    /// The work for one action; its event when done.
    fn start(&self, action: Action) -> BoxFuture<'static, Option<Event>> {
        let me = || {
            let watch = self.shared.upgrade().and_then(|shared| shared.core.lock().machine.watch());
            ClientId { gid: self.store.identity().0, handle: watch.unwrap_or(0) }
        };
        match action {
            Action::Lock(watch) => {
                let operation = cls::lock(Operation::new(), &lock_cookie(watch), TAG);
                self.write(operation, Event::Locked)
            }
            Action::Inspect => {
                let (me, store, header) = (me(), self.store.clone(), self.header.clone());
                let predecessors = self.predecessors.clone();
                Box::pin(async move {
                    let (me, watch) = (me.gid, Some(me.handle));
                    let holder = Holder::find(&store, &header, me, watch, predecessors.as_deref()).await;
                    Some(Event::Inspected(holder))
                })
            }
            Action::Request(round) => {
                let request = NotifyMessage::RequestLock { client: me(), force: false };
                let notify = self.notify(request);
                Box::pin(async move { Some(Event::Requested(round, owners_answer(notify.await))) })
            }
            Action::Blocklist(owner) => {
                warn!(%owner, "the owner of the exclusive lock is dead, blocklisting it");
                let addr = EntityAddr { kind: AddrType::ANY, ..owner.addr };
                let store = self.store.clone();
                Box::pin(async move { Some(Event::OwnerBlocklisted(store.blocklist(addr).await)) })
            }
            Action::Break(LockOwner { name, cookie, .. }) => {
                warn!(owner = %name, cookie, "breaking the exclusive lock");
                self.write(cls::break_lock(Operation::new(), name, &cookie), Event::Broken)
            }
            Action::Prepare => {
                let hooks = self.hooks.clone();
                Box::pin(async move {
                    let prepared = match hooks.upgrade() {
                        Some(hooks) => hooks.acquired().await,
                        None => Err(LockError::GivenUp),
                    };
                    Some(Event::Prepared(prepared))
                })
            }
            Action::Rebind { old, new } => {
                let operation = cls::set_cookie(Operation::new(), &lock_cookie(old), TAG, &lock_cookie(new));
                self.write(operation, Event::Rebound)
            }
            Action::Drain => {
                let gate = self.shared.upgrade().map(|shared| shared.gate.clone());
                Box::pin(async move {
                    gate?.drained().await;
                    Some(Event::Drained)
                })
            }
            Action::Close => {
                let hooks = self.hooks.clone();
                Box::pin(async move {
                    if let Some(hooks) = hooks.upgrade() {
                        hooks.releasing().await;
                    }
                    Some(Event::Closed)
                })
            }
            Action::Unlock(watch) => self.unlock(watch),
            Action::Wake(at) => {
                let delay = at.saturating_duration_since(Instant::now());
                Box::pin(async move {
                    tokio::time::sleep(delay).await;
                    Some(Event::Timer)
                })
            }
            Action::AnnounceAcquired => {
                info!(object = %self.header, "acquired the exclusive lock");
                self.announce(NotifyMessage::AcquiredLock(me()))
            }
            Action::AnnounceReleased => {
                info!(object = %self.header, "released the exclusive lock");
                self.announce(NotifyMessage::ReleasedLock(me()))
            }
            Action::OpenGate | Action::ShutGate | Action::Fail(_) | Action::GivenUp | Action::Warn { .. } => {
                unreachable!("carried out where they are decided")
            }
        }
    }

    fn write(
        &self,
        operation: Operation,
        event: fn(Result<(), OpError>) -> Event,
    ) -> BoxFuture<'static, Option<Event>> {
        let reply = self.store.write(&self.header, operation, &SnapContext::default());
        Box::pin(async move { Some(event(reply.await.map(drop))) })
    }

    fn unlock(&self, watch: Handle) -> BoxFuture<'static, Option<Event>> {
        let operation = cls::unlock(Operation::new(), &lock_cookie(watch));
        let reply = self.store.write(&self.header, operation, &SnapContext::default());
        Box::pin(async move {
            let result = reply.await.map(drop);
            match &result {
                Err(error) if error.is(Errno::ENOENT) => warn!("the exclusive lock was already taken away"),
                Err(error) => warn!(%error, "could not give the exclusive lock up"),
                Ok(()) => {}
            }
            Some(Event::Unlocked(result))
        })
    }

    /// Nobody needs to answer.
    fn announce(&self, message: NotifyMessage) -> BoxFuture<'static, Option<Event>> {
        let notify = self.notify(message);
        Box::pin(async move {
            if let Err(error) = notify.await {
                warn!(%error, "could not tell the other clients about the exclusive lock");
            }
            Some(Event::Announced)
        })
    }

    fn notify(
        &self,
        message: NotifyMessage,
    ) -> impl Future<Output = Result<NotifyReply, OpError>> + Send + 'static {
        let (store, header) = (self.store.clone(), self.header.clone());
        async move { store.notify(&header, message.encode(), NOTIFY_TIMEOUT).await }
    }
}

/// What the lock's owner said, among the answers of all watchers. Ceph: `NotifyLockOwner.cc`.
fn owners_answer(reply: Result<NotifyReply, OpError>) -> Answer {
    let reply = match reply {
        Ok(reply) => reply,
        Err(error) if error.is(Errno::ETIMEDOUT) => return Answer::Nobody,
        Err(error) => return Answer::Failed(error),
    };
    let mut answers = reply.acks.iter().filter_map(|(_, _, answer)| decode_answer(answer).transpose());
    match (answers.next(), answers.next()) {
        (None, _) => Answer::Nobody,
        (Some(Ok(result)), None) => Answer::Owner(result),
        (Some(Err(error)), _) => Answer::Failed(error.into()),
        // Two clients that take themselves for the owner: the lock has just moved between them.
        (Some(_), Some(_)) => Answer::Owner(-Errno::EINVAL.0),
    }
}
