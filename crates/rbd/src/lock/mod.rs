//! The exclusive lock of an image: who may change it, and its object map, right now.
//!
//! The lock is taken before the first change and kept until somebody else asks for it. It is cooperative: the
//! owner finishes what it has begun, closes the object map, gives the lock up, and asks for it again when it
//! next needs it. An owner that died is recognised by its watch being gone; it is blocklisted, so that nothing
//! it sent before can still arrive, and its lock is broken.
//!
//! [`ExclusiveLock`] is a handle; what happens when is decided in [`machine`], and carried out in [`driver`].
//!
//! Ceph: `src/librbd/ExclusiveLock.h`, `src/librbd/ManagedLock.h`, and `doc/rbd/rbd-exclusive-locks.rst`.

mod by_hand;
pub(crate) mod cls;
mod driver;
mod gate;
mod holder;
mod machine;
mod predecessors;
#[cfg(test)]
mod tests;
mod work;

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Instant;

use ceph_codec::GlobalId;
use parking_lot::Mutex;
use rados::{Errno, OpError, Operation};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, info, warn};

use crate::store::ObjectStore;
use crate::watcher::{ClientId, NotifyOp};
pub(crate) use by_hand::locks_of;
pub use by_hand::{Locks, ManualLockError, add_lock, check_remove_lock, list_locks, remove_lock};
pub use cls::LockOwner;
pub(crate) use gate::{Gate, Mutation};
pub(crate) use holder::Holder;
use machine::{Action, Event, Machine};
pub use predecessors::Predecessors;
pub(crate) use predecessors::bar_the_dead;

/// Why the exclusive lock could not be had.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum LockError {
    /// Another client took this one for dead and took over, or an operator barred it.
    #[error("the cluster has blocklisted this client; another client took the lock over")]
    Blocklisted,
    /// The owner has the image for itself and keeps the lock.
    #[error("{owner} holds the exclusive lock and refuses to give it up")]
    Refused {
        /// Who holds it.
        owner: LockOwner,
    },
    /// A user locked the image, and has to unlock it.
    #[error("{owner} has locked the image by hand")]
    LockedByHand {
        /// Who holds it.
        owner: LockOwner,
    },
    /// The owner is dead, but this user may not do what it takes to succeed it.
    #[error(
        "{owner} is dead but holds the exclusive lock, and this user may not blocklist it: \
         it needs the capability mon 'profile rbd'"
    )]
    MayNotBlocklist {
        /// Who holds it.
        owner: LockOwner,
    },
    /// The image is being closed.
    #[error("the exclusive lock was given up while it was waited for")]
    GivenUp,
    /// The cluster did not carry out a step.
    #[error("could not {doing}")]
    Store {
        /// What was tried.
        doing: &'static str,
        /// Why it failed.
        source: OpError,
    },
    /// The lock was there, but the image could not be made ready for changes.
    #[error("could not prepare the image for changes")]
    Prepare(#[source] Arc<dyn Error + Send + Sync>),
}

impl PartialEq for LockError {
    /// By what is shown to a user.
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl Eq for LockError {}

impl LockError {
    /// What the user can do about it, if anything. `image` names the image for `rbd`, with its pool.
    #[must_use]
    pub fn help(&self, image: &str) -> Option<String> {
        Some(match self {
            Self::Blocklisted => {
                format!("start again, and see `rbd status {image}` for who uses the image now")
            }
            Self::Refused { owner } => format!(
                "stop that client; if it cannot be reached, `{}` takes the lock away and shuts it out of the cluster",
                owner.removal(image)
            ),
            Self::LockedByHand { owner } => {
                format!("`{}` removes it, and shuts its owner out of the cluster", owner.removal(image))
            }
            Self::MayNotBlocklist { owner } => format!(
                "grant this user mon 'profile rbd', or let an administrator do it: `{}`",
                owner.removal(image)
            ),
            Self::GivenUp | Self::Store { .. } | Self::Prepare(_) => return None,
        })
    }
}

/// How the opener of an image wants its exclusive lock to be treated.
#[derive(Debug, Clone, Default)]
pub(crate) struct LockOptions {
    /// Never hand the lock over. Ceph: `StandardPolicy` instead of `AutomaticPolicy`, in
    /// `src/librbd/exclusive_lock/`.
    pub(crate) exclusive: bool,
    /// Who need not be waited for.
    pub(crate) predecessors: Option<Arc<dyn Predecessors>>,
}

/// What an image does when the lock comes and goes.
pub(crate) trait LockHooks: Send + Sync + 'static {
    /// The lock is there, mutations do not run yet: refresh the header and open the object map. If it fails the
    /// lock is given up.
    fn acquired(&self) -> impl Future<Output = Result<(), LockError>> + Send;

    /// The lock is about to be given up, no mutation runs: close the object map.
    fn releasing(&self) -> impl Future<Output = ()> + Send;
}

/// A handle of the exclusive lock of one open image. The lock itself is not given up when handles are dropped:
/// see [`release`](Self::release).
pub(crate) struct ExclusiveLock<S> {
    shared: Arc<Shared>,
    _store: PhantomData<fn() -> S>,
}

impl<S> Clone for ExclusiveLock<S> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), _store: PhantomData }
    }
}

impl<S> fmt::Debug for ExclusiveLock<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExclusiveLock").field("core", &self.shared.core).finish_non_exhaustive()
    }
}

/// Maintenance of the image is under way.
#[derive(Debug)]
pub(crate) struct Working(Arc<Shared>);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.feed(|_| Event::WorkEnded);
    }
}

/// What handles and the driver share. The gate is outside of the mutex: every write passes it.
#[derive(Debug)]
struct Shared {
    gate: Arc<Gate>,
    core: Mutex<Core>,
    /// Actions for the driver. It ends when this is dropped.
    actions: mpsc::UnboundedSender<Action>,
    gid: GlobalId,
    exclusive: bool,
    predecessors: Option<Arc<dyn Predecessors>>,
}

#[derive(Debug)]
struct Core {
    machine: Machine,
    waiting: Vec<oneshot::Sender<Result<Mutation, LockError>>>,
    giving_up: Vec<oneshot::Sender<()>>,
}

impl<S: ObjectStore> ExclusiveLock<S> {
    /// Starts without the lock. Nothing is acquired before [`watch_registered`](Self::watch_registered) has
    /// told the cookie of the header's watch. `hooks` is not kept alive.
    pub(crate) fn new<H: LockHooks>(
        store: S,
        header_object: String,
        options: LockOptions,
        hooks: &Arc<H>,
    ) -> Self {
        let LockOptions { exclusive, predecessors } = options;
        let (actions, todo) = mpsc::unbounded_channel();
        let core = Core { machine: Machine::new(None), waiting: Vec::new(), giving_up: Vec::new() };
        let gid = store.identity().0;
        let shared = Arc::new(Shared {
            gate: Arc::default(),
            core: Mutex::new(core),
            actions,
            gid,
            exclusive,
            predecessors: predecessors.clone(),
        });
        let driver = driver::Driver {
            store,
            header: header_object.into(),
            predecessors,
            hooks: Arc::downgrade(hooks),
            shared: Arc::downgrade(&shared),
        };
        tokio::spawn(driver.run(todo));
        Self { shared, _store: PhantomData }
    }

    /// Counts one more mutation if the lock is held and nobody has asked for it.
    pub(crate) fn try_begin(&self) -> Option<Mutation> {
        self.shared.gate.try_enter()
    }

    /// Waits for the lock as long as it takes, and counts one more mutation.
    ///
    /// # Errors
    /// [`LockError`] if the lock is not to be had by waiting.
    pub(crate) async fn begin(&self) -> Result<Mutation, LockError> {
        if let Some(mutation) = self.try_begin() {
            return Ok(mutation);
        }
        let (sender, receiver) = oneshot::channel();
        self.shared.feed(|core| {
            core.waiting.push(sender);
            Event::Wanted
        });
        // The driver is gone only when the runtime is.
        receiver.await.unwrap_or(Err(LockError::GivenUp))
    }

    /// Gives the lock up: waits for the mutations in flight, closes what depends on the lock, and tells the other
    /// clients. Mutations that wait for the lock meanwhile fail with [`LockError::GivenUp`] if it was not held;
    /// later ones acquire it again.
    ///
    /// # Errors
    /// [`LockError::Blocklisted`] if the lock had been taken over.
    pub(crate) async fn release(&self) -> Result<(), LockError> {
        let (sender, receiver) = oneshot::channel();
        self.shared.feed(|core| {
            core.giving_up.push(sender);
            Event::GiveUp
        });
        // The driver is gone only when the runtime is, and the lock goes with the client.
        let _ = receiver.await;
        if self.is_lost() { Err(LockError::Blocklisted) } else { Ok(()) }
    }

    /// Whether the lock is held and not about to be given up.
    pub(crate) fn is_held(&self) -> bool {
        self.shared.core.lock().machine.is_held()
    }

    /// Whether the lock is lost for ever, because this client is blocklisted.
    pub(crate) fn is_lost(&self) -> bool {
        self.shared.core.lock().machine.is_lost()
    }

    /// Tells that the header is being watched under this cookie: at first, and again after each loss.
    pub(crate) fn watch_registered(&self, cookie: u64) {
        self.shared.feed(|_| Event::Watch(Some(cookie)));
    }

    /// Tells that the watch of the header is gone for now.
    pub(crate) fn watch_lost(&self) {
        self.shared.feed(|_| Event::Watch(None));
    }

    /// Tells that the cluster refuses this client, as learnt elsewhere: from the watch, or from an operation.
    pub(crate) fn blocklisted(&self) {
        self.shared.feed(|_| Event::Blocklisted);
    }

    /// Tells that a client, maybe this one, has acquired the lock.
    pub(crate) fn acquired_by(&self, client: ClientId) {
        if !self.is_me(client) {
            self.shared.feed(|_| Event::PeerAcquired);
        }
    }

    /// Tells that a client, maybe this one, has released the lock.
    pub(crate) fn released_by(&self, client: ClientId) {
        if !self.is_me(client) {
            self.shared.feed(|_| Event::PeerReleased);
        }
    }

    /// Some client asks for the lock. Returns what to answer, if this client is the owner, and starts to give
    /// the lock up, unless it is to be kept.
    pub(crate) fn requested(&self, client: ClientId) -> Option<i32> {
        if self.is_me(client) || !self.shared.core.lock().machine.is_owner() {
            return None;
        }
        if self.shared.exclusive {
            info!(%client, "another client asks for the exclusive lock, and is refused");
            return Some(-Errno::EROFS.0);
        }
        info!(%client, "another client asks for the exclusive lock");
        self.shared.feed(|_| Event::PeerWants);
        Some(0)
    }

    /// This client maintains the image as long as the result lives: once it has the lock, those who ask for it wait a
    /// while, in [`work`] it is told how long.
    pub(crate) fn work(&self) -> Working {
        self.shared.feed(|_| Event::WorkBegun);
        Working(self.shared.clone())
    }

    /// Tells that another client has asked the owner for maintenance.
    pub(crate) fn peer_works(&self) {
        self.shared.feed(|_| Event::PeerWorks);
    }

    /// Tells that another client has ended such maintenance, or has stopped before it was done.
    pub(crate) fn peer_worked(&self, done: bool) {
        self.shared.feed(|_| Event::PeerWorked { done });
    }

    /// Some client asks the owner for a change of the image that is not carried out here. Returns what to answer, if
    /// this client is the owner.
    ///
    /// A requester that is told so asks for the lock itself, gets it by [`requested`](Self::requested), and does the
    /// work. (It would wait on 0 for a completion, fail on other errors, and ask again and again without an answer.)
    ///
    /// Ceph: `C_InvokeAsyncRequest::handle_remote_request` in `src/librbd/Operations.cc`; Linux's own client
    /// answers the same, `rbd_watch_cb` in `drivers/block/rbd.c`.
    pub(crate) fn refuse_maintenance(&self, op: NotifyOp) -> Option<i32> {
        if !self.is_held() {
            return None;
        }
        self.peer_works();
        info!(%op, "another client wants to change the image, and will ask for the exclusive lock");
        Some(-Errno::EOPNOTSUPP.0)
    }

    /// Finds out who holds the lock, and whether it is alive.
    ///
    /// # Errors
    /// Those of [`ObjectStore::read`].
    pub(crate) async fn holder(&self, store: &S, header_object: &str) -> Result<Holder, OpError> {
        let watch = self.shared.core.lock().machine.watch();
        let predecessors = self.shared.predecessors.as_deref();
        Holder::find(store, header_object, self.shared.gid, watch, predecessors).await
    }

    /// Appends a guard: the operation fails with `EBUSY` unless this client still has the lock.
    pub(crate) fn guard(&self, operation: Operation) -> Operation {
        match self.shared.core.lock().machine.cookie() {
            Some(cookie) => cls::assert_locked(operation, &holder::lock_cookie(cookie), holder::TAG),
            None => operation,
        }
    }

    fn is_me(&self, client: ClientId) -> bool {
        self.id() == Some(client)
    }

    /// Under which name this client takes the lock; none while it does not watch the header.
    pub(crate) fn id(&self) -> Option<ClientId> {
        let handle = self.shared.core.lock().machine.watch()?;
        Some(ClientId { gid: self.shared.gid, handle })
    }
}

impl Shared {
    /// Makes an event and lets the machine have it, as one step.
    fn feed(self: &Arc<Self>, event: impl FnOnce(&mut Core) -> Event) {
        let mut core = self.core.lock();
        let event = event(&mut core);
        for action in core.machine.handle(Instant::now(), event) {
            match action {
                Action::OpenGate => {
                    self.gate.open();
                    for waiting in core.waiting.drain(..) {
                        // Who does not wait any more drops the mutation at once.
                        let _ = waiting.send(self.gate.try_enter().ok_or(LockError::GivenUp));
                    }
                }
                Action::ShutGate => self.gate.close(),
                Action::Fail(reason) => {
                    // Whoever waited tells the user, who may have thousands of requests a second.
                    debug!(%reason, waiting = core.waiting.len(), "no exclusive lock");
                    for waiting in core.waiting.drain(..) {
                        let _ = waiting.send(Err(reason.clone()));
                    }
                }
                Action::GivenUp => core.giving_up.drain(..).for_each(|waiting| {
                    let _ = waiting.send(());
                }),
                Action::Warn { owner, waited } => {
                    warn!(%owner, waited_secs = waited.as_secs(), "still waiting for the exclusive lock");
                }
                other => {
                    // Without a driver the runtime is shutting down, and nothing will come of it.
                    let _ = self.actions.send(other);
                }
            }
        }
    }
}
