//! The cluster behind all clients: pools, objects, watches, the blocklist.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use ceph_codec::{EntityAddr, Epoch, GlobalId, PoolId, SnapId, Utime};
use rados::{Errno, NotifyReply, OpError, OpOutcome, OpReply, Operation, Release, Watch, WatchEvent};
use tokio::sync::{mpsc, oneshot};

use super::object::{self, Object};
use super::{Access, Caller, Identity};

/// What a barred client gets. This cluster has no epochs and no clock.
pub(crate) fn blocklisted() -> OpError {
    OpError::Blocklisted { since: SystemTime::UNIX_EPOCH, epoch: Epoch(0) }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ObjectKey {
    pub(super) pool: PoolId,
    pub(super) namespace: Arc<str>,
    pub(super) name: String,
}

#[derive(Debug)]
pub(super) struct Cluster {
    pools: Vec<String>,
    objects: BTreeMap<ObjectKey, Object>,
    clients: u32,
    snaps: u64,
    watches: Vec<WatchEntry>,
    last_cookie: u64,
    notifies: HashMap<u64, PendingNotify>,
    last_notify: u64,
    blocklist: BTreeSet<EntityAddr>,
    pub(super) now: Utime,
    pub(super) release: Release,
    random: u32,
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            pools: Vec::new(),
            objects: BTreeMap::new(),
            clients: 0,
            snaps: 0,
            watches: Vec::new(),
            last_cookie: 0,
            notifies: HashMap::new(),
            last_notify: 0,
            blocklist: BTreeSet::new(),
            now: Utime { sec: 1_795_397_631, nsec: 0 },
            release: Release::PACIFIC,
            random: 0,
        }
    }
}

#[derive(Debug)]
struct WatchEntry {
    key: ObjectKey,
    owner: Identity,
    cookie: u64,
    events: mpsc::Sender<WatchEvent>,
}

#[derive(Debug)]
struct PendingNotify {
    waiting: BTreeSet<(GlobalId, u64)>,
    reply: NotifyReply,
    done: oneshot::Sender<NotifyReply>,
}

impl Cluster {
    pub(super) fn create_pool(&mut self, name: &str) -> PoolId {
        self.pools.push(name.to_owned());
        PoolId(i64::try_from(self.pools.len()).unwrap_or(i64::MAX))
    }

    pub(super) fn pool_name(&self, pool: PoolId) -> Option<&str> {
        self.pools.get(usize::try_from(pool.0 - 1).ok()?).map(String::as_str)
    }

    pub(super) fn pools(&self) -> Vec<(PoolId, String)> {
        (1..).map(PoolId).zip(self.pools.iter().cloned()).collect()
    }

    /// Unpredictable enough: another number each time.
    pub(super) fn next_random(&mut self) -> u32 {
        // From Numerical Recipes; each number comes up once in a period of 2^32.
        self.random = self.random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.random
    }

    pub(super) fn next_client(&mut self) -> u32 {
        self.clients += 1;
        self.clients
    }

    pub(super) fn next_snap(&mut self) -> SnapId {
        self.snaps += 1;
        SnapId(self.snaps)
    }

    pub(super) fn remove_snap(&mut self, pool: PoolId, snap: SnapId) {
        for object in self.objects.iter_mut().filter(|(key, _)| key.pool == pool).map(|(_, object)| object) {
            object.forget(snap);
        }
        self.objects.retain(|_, object| !object.is_gone());
    }

    pub(super) fn objects(&self, pool: PoolId, namespace: &str) -> Vec<String> {
        self.objects
            .iter()
            .filter(|(key, object)| key.pool == pool && *key.namespace == *namespace && object.exists)
            .map(|(key, _)| key.name.clone())
            .collect()
    }

    pub(super) fn object(&self, key: &ObjectKey) -> Option<&Object> {
        self.objects.get(key).filter(|object| object.exists)
    }

    /// The object, made if there is none.
    pub(super) fn object_mut(&mut self, key: ObjectKey) -> &mut Object {
        let object = self.objects.entry(key).or_default();
        object.exists = true;
        object
    }

    /// Applies an operation: all of its ops, or none if one fails.
    pub(super) fn execute(
        &mut self,
        identity: &Identity,
        key: ObjectKey,
        operation: &Operation,
        access: &Access,
    ) -> Result<OpReply, OpError> {
        self.check_allowed(identity)?;
        match access {
            Access::Read(SnapId::DIR) => self.execute_on_dir(&key, operation),
            Access::Read(snap) if *snap != SnapId::HEAD => self.execute_on_snap(&key, operation, *snap),
            Access::Read(_) => self.execute_on_head(identity, key, operation, None),
            Access::Write(snapc) if !snapc.is_valid() => Err(OpError::Errno(Errno::EINVAL)),
            Access::Write(snapc) => self.execute_on_head(identity, key, operation, Some(snapc)),
        }
    }

    fn execute_on_snap(
        &self,
        key: &ObjectKey,
        operation: &Operation,
        snap: SnapId,
    ) -> Result<OpReply, OpError> {
        let object = self.objects.get(key);
        let data = object.and_then(|o| o.data_at(snap)).ok_or(OpError::Errno(Errno::ENOENT))?;
        let outcomes = run(operation, |kind| object::read(data, kind))?;
        Ok(OpReply { result: 0, version: 0, outcomes })
    }

    /// What an object keeps for all of its snapshots.
    fn execute_on_dir(&self, key: &ObjectKey, operation: &Operation) -> Result<OpReply, OpError> {
        let object = self.objects.get(key).ok_or(OpError::Errno(Errno::ENOENT))?;
        let outcomes = run(operation, |kind| match kind {
            rados::OpKind::ListSnaps => Ok(object.snap_set_encoded()),
            _ => Err(Errno::EINVAL),
        })?;
        Ok(OpReply { result: 0, version: 0, outcomes })
    }

    fn execute_on_head(
        &mut self,
        identity: &Identity,
        key: ObjectKey,
        operation: &Operation,
        snapc: Option<&rados::SnapContext>,
    ) -> Result<OpReply, OpError> {
        let watchers =
            self.watches.iter().filter(|watch| watch.key == key).map(|watch| (watch.owner, watch.cookie));
        let caller = Caller { identity, now: self.now, watchers: watchers.collect() };
        let object = self.objects.entry(key.clone()).or_default();
        // Only an operation of several ops can fail halfway.
        let before = (operation.is_write() && operation.len() > 1).then(|| object.clone());
        if let Some(snapc) = snapc.filter(|_| operation.is_write()) {
            object.preserve(snapc);
        }
        let result = run(operation, |kind| object.apply(kind, &caller));
        if let (Err(_), Some(before)) = (&result, before) {
            *object = before;
        }
        if result.is_ok() && operation.is_write() {
            object.version += 1;
        }
        let version = object.version;
        if object.is_gone() {
            self.objects.remove(&key);
        }
        Ok(OpReply { result: 0, version, outcomes: result? })
    }

    fn check_allowed(&self, identity: &Identity) -> Result<(), OpError> {
        if self.is_blocklisted(&identity.addr) { Err(blocklisted()) } else { Ok(()) }
    }

    pub(super) fn watch(&mut self, identity: &Identity, key: ObjectKey) -> Result<Watch, OpError> {
        self.check_allowed(identity)?;
        if self.object(&key).is_none() {
            return Err(OpError::Errno(Errno::ENOENT));
        }
        self.last_cookie += 1;
        let (sender, events) = mpsc::channel(Watch::EVENTS);
        let cookie = self.last_cookie;
        self.watches.push(WatchEntry { key, owner: *identity, cookie, events: sender });
        Ok(Watch { cookie, events })
    }

    pub(super) fn unwatch(&mut self, gid: GlobalId, cookie: u64) {
        self.watches.retain(|watch| watch.owner.gid != gid || watch.cookie != cookie);
        self.forget_watcher(|waiting| *waiting == (gid, cookie));
    }

    pub(super) fn lose_watches(&mut self, gid: GlobalId) {
        for watch in self.watches.iter().filter(|watch| watch.owner.gid == gid) {
            // A dead client does not listen.
            let _ = watch.events.try_send(WatchEvent::Lost(Errno::ENOTCONN));
        }
        self.watches.retain(|watch| watch.owner.gid != gid);
        self.forget_watcher(|(waiting, _)| *waiting == gid);
    }

    /// Notifies wait for nobody who does not watch any more.
    fn forget_watcher(&mut self, gone: impl Fn(&(GlobalId, u64)) -> bool) {
        for notify in self.notifies.values_mut() {
            notify.waiting.retain(|waiting| !gone(waiting));
        }
        self.complete_notifies();
    }

    pub(super) fn notify(
        &mut self,
        identity: &Identity,
        key: &ObjectKey,
        payload: &Bytes,
    ) -> Result<(u64, oneshot::Receiver<NotifyReply>), OpError> {
        self.check_allowed(identity)?;
        if self.object(key).is_none() {
            return Err(OpError::Errno(Errno::ENOENT));
        }
        self.last_notify += 1;
        let notify_id = self.last_notify;
        let (done, receiver) = oneshot::channel();
        let mut pending = PendingNotify { waiting: BTreeSet::new(), reply: NotifyReply::default(), done };
        for watch in self.watches.iter().filter(|watch| watch.key == *key) {
            let event = WatchEvent::Notify { notify_id, notifier: identity.gid, payload: payload.clone() };
            pending.waiting.insert((watch.owner.gid, watch.cookie));
            // Who does not listen will time out.
            let _ = watch.events.try_send(event);
        }
        self.notifies.insert(notify_id, pending);
        self.complete_notifies();
        Ok((notify_id, receiver))
    }

    pub(super) fn acknowledge(&mut self, gid: GlobalId, cookie: u64, notify_id: u64, answer: Bytes) {
        if let Some(notify) = self.notifies.get_mut(&notify_id)
            && notify.waiting.remove(&(gid, cookie))
        {
            notify.reply.acks.push((gid, cookie, answer));
        }
        self.complete_notifies();
    }

    fn complete_notifies(&mut self) {
        let complete: Vec<u64> =
            self.notifies.iter().filter(|(_, n)| n.waiting.is_empty()).map(|(id, _)| *id).collect();
        for id in complete {
            if let Some(notify) = self.notifies.remove(&id) {
                // The notifier may have given up.
                let _ = notify.done.send(notify.reply);
            }
        }
    }

    /// Ends a notify whose time is up; who has not acknowledged is listed as such.
    pub(super) fn finish_notify(&mut self, id: u64) -> Option<NotifyReply> {
        let notify = self.notifies.remove(&id)?;
        Some(NotifyReply { timeouts: notify.waiting.into_iter().collect(), ..notify.reply })
    }

    pub(super) fn blocklist(&mut self, addr: EntityAddr) {
        self.blocklist.insert(instance(&addr));
        let gone: Vec<GlobalId> = self
            .watches
            .iter()
            .filter(|watch| instance(&watch.owner.addr) == instance(&addr))
            .map(|watch| watch.owner.gid)
            .collect();
        for gid in gone {
            self.lose_watches(gid);
        }
    }

    pub(super) fn is_blocklisted(&self, addr: &EntityAddr) -> bool {
        self.blocklist.contains(&instance(addr))
    }
}

/// The messenger's version does not matter to who it is.
fn instance(addr: &EntityAddr) -> EntityAddr {
    EntityAddr { kind: ceph_codec::AddrType::ANY, ..*addr }
}

fn run(
    operation: &Operation,
    mut apply: impl FnMut(&rados::OpKind) -> object::OpResult,
) -> Result<Vec<OpOutcome>, OpError> {
    let mut outcomes = Vec::with_capacity(operation.len());
    for op in operation.ops() {
        outcomes.push(match apply(&op.kind) {
            Ok(data) => OpOutcome { rval: 0, data },
            Err(errno) if op.may_fail() => OpOutcome { rval: -errno.0, data: Bytes::new() },
            Err(errno) => {
                let index = outcomes.len();
                outcomes.push(OpOutcome { rval: -errno.0, data: Bytes::new() });
                return Err(OpError::Op { errno, index, outcomes });
            }
        });
    }
    Ok(outcomes)
}
