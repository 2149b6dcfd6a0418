//! One client instance: its identity in the cluster, its connections and its tasks.

mod core;
mod dns;
mod error;
mod hunt;
mod lookup;
mod mon;
mod options;
mod osd;
mod settings;
mod stall;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ceph_codec::{EntityAddr, Epoch, GlobalId, PoolId, Uuid};
use ceph_conf::Config;
use ceph_osdmap::OsdMap;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

pub(crate) use self::core::Core;
pub use error::{ConnectError, MonFailure};
pub use lookup::OsdCounts;
pub use mon::MonTarget;
pub use options::Options;

use self::core::Progress;
use crate::error::OpError;
use crate::ioctx::IoCtx;
use crate::op::Errno;
use crate::requests::RequestStatus;

/// A connected client instance. Cheap to clone; the last clone (also of an [`IoCtx`]) that is dropped closes
/// the connections.
///
/// It runs on the tokio runtime on which [`connect`](Self::connect) was called: a task for the monitors, one
/// for each OSD it talks to. On a single-threaded runtime everything stays on that thread.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) core: Arc<Core>,
    _guard: Arc<Guard>,
}

#[derive(Debug)]
struct Guard(Arc<Core>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.end(OpError::Shutdown);
    }
}

/// The answer of the monitors to a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandReply {
    /// What they say about it, for people.
    pub status: String,
    /// Its output.
    pub output: Bytes,
}

/// Why the monitors did not carry out a command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// They refused.
    #[error("the monitors refused: {status} ({errno})")]
    Refused {
        /// Why, for programs.
        errno: Errno,
        /// Why, for people.
        status: String,
    },
    /// They did not answer within [`Options::mon_op_timeout`]. They may carry it out all the same.
    #[error("no answer within the time limit")]
    TimedOut,
    /// The client was shut down.
    #[error("the client is shut down")]
    Shutdown,
}

/// How often watches are pinged and stalls looked at. Ceph: `objecter_tick_interval`.
const TICK: Duration = Duration::from_secs(5);
/// How often more is sent over connections that broke before.
const WIDEN: Duration = Duration::from_millis(100);

impl Client {
    /// Connects to a cluster: finds a monitor, authenticates, fetches the OSDMap.
    ///
    /// # Errors
    /// [`ConnectError`], at the latest after [`Options::connect_timeout`]; at once if a monitor rejects the
    /// user, or none can ever answer.
    pub async fn connect(options: Options) -> Result<Self, ConnectError> {
        let limit = options.connect_timeout;
        let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let core = Arc::new(Core::new(options, hostname.trim().to_owned()));
        let client = Self { core: Arc::clone(&core), _guard: Arc::new(Guard(Arc::clone(&core))) };
        let mut progress = core.progress.subscribe();
        mon::spawn(Arc::clone(&core));
        let outcome = timeout(limit, progress.wait_for(|p| !matches!(p, Progress::Connecting(_)))).await;
        let now = match outcome {
            Ok(Ok(progress)) => progress.clone(),
            Ok(Err(_)) => return Err(ConnectError::Shutdown),
            Err(_) => core.progress.borrow().clone(),
        };
        match now {
            Progress::Ready => {}
            Progress::Failed(error) | Progress::Connecting(Some(error)) => {
                // Lets go of the other reference.
                core.progress.send_replace(Progress::Connecting(None));
                return Err(Arc::try_unwrap(error).unwrap_or_else(ConnectError::Shared));
            }
            Progress::Connecting(None) => return Err(ConnectError::NoOsdMap(limit)),
        }
        spawn_ticks(&core);
        Ok(client)
    }

    /// The number that the monitors gave this instance; `N` in `client.N`.
    #[must_use]
    pub fn global_id(&self) -> GlobalId {
        self.core.dialer.global_id()
    }

    /// The address that watchers, locks and the blocklist know this instance by.
    #[must_use]
    pub fn addr(&self) -> EntityAddr {
        self.core.dialer.my_addr().unwrap_or(EntityAddr::BLANK)
    }

    /// The cluster.
    #[must_use]
    pub fn fsid(&self) -> Uuid {
        self.core.state.lock().monc.fsid()
    }

    /// The machine that this instance runs on: where its randomness and the date come from.
    #[must_use]
    pub fn system(&self) -> &dyn crate::System {
        &*self.core.options.system
    }

    /// The epoch of the newest OSDMap here.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        *self.core.epoch.borrow()
    }

    /// The configuration in force: that of [`Options::config`], and in it what the monitors say (`ceph config
    /// set`) about options that nobody set on this host. It changes when they say something else; what this
    /// crate knows of takes effect at once, for new requests and connections.
    #[must_use]
    pub fn config(&self) -> watch::Receiver<Arc<Config>> {
        self.core.config.subscribe()
    }

    /// Whether the cluster has ever barred this instance since it connected: blocklisted it, or forgotten who
    /// it is. It stays useless then.
    #[must_use]
    pub fn is_blocklisted(&self) -> bool {
        self.ended().is_some_and(|error| error.ends_the_instance())
    }

    /// Why this instance can do nothing any more, if that is so: what every request from now on fails with.
    #[must_use]
    pub fn ended(&self) -> Option<OpError> {
        self.core.with_objecter(|objecter| objecter.ended().cloned()).flatten()
    }

    /// All requests that have not ended, to OSDs and to monitors, and what each waits for; the oldest first.
    ///
    /// Ceph: `objecter_requests` of the admin socket.
    #[must_use]
    pub fn requests(&self) -> Vec<RequestStatus> {
        self.core.requests()
    }

    /// Waits until there is room for another request within [`Options::limits`], so that whoever makes requests
    /// faster than the cluster carries them out does not pile them up. Requests made without asking wait
    /// inside the client, in their order.
    ///
    /// # Errors
    /// As every request, once the instance has [`ended`](Self::ended).
    pub async fn room(&self) -> Result<(), OpError> {
        self.core.room().await
    }

    /// Holds requests back until this client's OSDMap is as new as `epoch`, for whoever learned elsewhere that
    /// something has changed in that epoch. What is with the OSDs already stays there.
    ///
    /// Ceph: `Objecter::set_epoch_barrier`.
    pub fn set_epoch_barrier(&self, epoch: Epoch) {
        self.core.with_objecter(|objecter| objecter.set_epoch_barrier(epoch));
    }

    /// Looks something up in the newest OSDMap. `look` should be quick: requests wait meanwhile.
    pub fn with_map<R>(&self, look: impl FnOnce(&OsdMap) -> R) -> R {
        self.core
            .with_objecter(|objecter| look(objecter.map()))
            .expect("connect returns a client only when there is an OSDMap")
    }

    /// A pool by name. If the map here does not have it, the newest one is asked for first.
    ///
    /// # Errors
    /// `ENOENT` if there is no such pool.
    pub async fn pool(&self, name: &str) -> Result<IoCtx, OpError> {
        if let Some(id) = self.with_map(|map| map.pool_by_name(name)) {
            return Ok(self.pool_by_id(id));
        }
        self.wait_for_newest_map().await?;
        let id = self.with_map(|map| map.pool_by_name(name)).ok_or(OpError::Errno(Errno::ENOENT))?;
        Ok(self.pool_by_id(id))
    }

    /// A pool by number; whether it exists is found out by the first operation.
    #[must_use]
    pub fn pool_by_id(&self, id: PoolId) -> IoCtx {
        IoCtx::new(self.clone(), id, "")
    }

    /// Waits until this client has the newest OSDMap that the monitors had when it asked.
    ///
    /// # Errors
    /// [`OpError::Shutdown`], [`OpError::TimedOut`].
    pub async fn wait_for_newest_map(&self) -> Result<Epoch, OpError> {
        let newest = self.core.newest_epoch().await?;
        self.core.wait_for_map(newest).await
    }

    /// Sends a command to the monitors: JSON, as `ceph` sends it. It waits for them as long as it takes, and is
    /// sent again when the monitor that had it is lost; it is withdrawn when the future is dropped.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn mon_command(&self, json: &serde_json::Value) -> Result<CommandReply, CommandError> {
        self.mon_command_with_input(json, Bytes::new()).await
    }

    /// Like [`mon_command`](Self::mon_command), for a command that takes input: what `ceph -i FILE` sends.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn mon_command_with_input(
        &self,
        json: &serde_json::Value,
        input: Bytes,
    ) -> Result<CommandReply, CommandError> {
        let answer = self.core.command(json.to_string(), input).await;
        let (ack, output) = answer.map_err(|error| match error {
            OpError::TimedOut => CommandError::TimedOut,
            _ => CommandError::Shutdown,
        })?;
        if ack.result < 0 {
            let errno = Errno(ack.result.saturating_neg());
            return Err(CommandError::Refused { errno, status: ack.status });
        }
        Ok(CommandReply { status: ack.status, output })
    }

    /// Bars the client instance at `addr` from the cluster, and waits until this client's map shows it, so
    /// that nothing is read here that the other could still change.
    ///
    /// # Errors
    /// `EACCES` if the user may not: it needs mon caps `profile rbd`.
    pub async fn blocklist(&self, addr: EntityAddr) -> Result<(), OpError> {
        let Some(socket) = addr.addr else { return Err(OpError::Errno(Errno::EINVAL)) };
        let command = serde_json::json!({
            "prefix": "osd blocklist",
            "blocklistop": "add",
            "addr": format!("{socket}/{}", addr.nonce),
        });
        self.obeyed(&command).await?;
        self.wait_for_newest_map().await.map(drop)
    }

    /// Tells the cluster what a pool is used for, as `ceph osd pool application enable` does, and waits until this
    /// client's map shows it. A pool that is used for something else already needs `force`.
    ///
    /// # Errors
    /// `EPERM` if the pool is used for something else, `EACCES` if the user may not, `ENOENT` if there is no such
    /// pool.
    pub async fn enable_application(
        &self,
        pool: &str,
        application: &str,
        force: bool,
    ) -> Result<(), OpError> {
        let mut command =
            serde_json::json!({ "prefix": "osd pool application enable", "pool": pool, "app": application });
        if force {
            command["yes_i_really_mean_it"] = true.into();
        }
        self.obeyed(&command).await?;
        self.wait_for_newest_map().await.map(drop)
    }

    /// Changes an option of everybody's configuration, as `ceph config set global` does.
    ///
    /// # Errors
    /// `EACCES` if the user may not, `EINVAL` if there is no such option or the value does not fit.
    pub async fn set_global_config(&self, option: &str, value: &str) -> Result<(), OpError> {
        let command = serde_json::json!({
            "prefix": "config set",
            "who": "global",
            "name": option,
            "value": value,
        });
        self.obeyed(&command).await
    }

    /// Sends a command whose answer is only whether it was carried out.
    async fn obeyed(&self, command: &serde_json::Value) -> Result<(), OpError> {
        match self.mon_command(command).await {
            Ok(_) => Ok(()),
            Err(CommandError::Refused { errno, .. }) => Err(OpError::Errno(errno)),
            Err(CommandError::TimedOut) => Err(OpError::TimedOut),
            Err(CommandError::Shutdown) => Err(OpError::Shutdown),
        }
    }

    /// Closes the connections now. Operations in flight fail with [`OpError::Shutdown`].
    pub fn shut_down(&self) {
        self.core.end(OpError::Shutdown);
    }
}

fn spawn_ticks(core: &Arc<Core>) {
    let weak = Arc::downgrade(core);
    let held = Arc::clone(&core.held);
    let mut closed = core.closed.subscribe();
    core.runtime.spawn(async move {
        let mut next_tick = Instant::now() + TICK;
        let mut next_expiry = TICK;
        loop {
            let held = tokio::select! {
                biased;
                _ = closed.wait_for(|closed| *closed) => return,
                () = sleep_until(next_tick.min(Instant::now() + next_expiry)) => false,
                () = held.notified() => true,
            };
            if held {
                sleep(WIDEN).await;
            }
            let Some(core) = weak.upgrade() else { return };
            if held {
                core.widen();
            }
            next_expiry = core.expire().unwrap_or(TICK);
            if Instant::now() >= next_tick {
                next_tick = Instant::now() + TICK;
                core.tick();
            }
        }
    });
}
