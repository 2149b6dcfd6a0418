//! Who holds the lock, and is it alive?

use ceph_codec::{Decode, EntityAddr, EntityName, EntityType, GlobalId, SnapId};
use rados::{ObjectWatcher, OpError, Operation};

use super::Predecessors;
use super::cls::{self, EXCLUSIVE, LockInfo, LockOwner};
use crate::ObjectStore;
use crate::watcher::ClientId;

/// The tag of locks that RBD clients manage by themselves. Ceph: `WATCHER_LOCK_TAG` in
/// `src/librbd/managed_lock/Utils.cc`.
pub(super) const TAG: &str = "internal";

/// The cookie of a lock, from that of the watch which proves that its owner is alive.
pub(super) fn lock_cookie(watch: u64) -> String {
    format!("auto {watch}")
}

/// The cookie of the watch in the cookie of a lock; `None` for other locks.
fn watch_of(cookie: &str) -> Option<u64> {
    cookie.strip_prefix("auto ")?.trim().parse().ok()
}

/// Who stands in the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Holder {
    /// Nobody, any more.
    Nobody,
    /// A lock that a user took, such as by `rbd lock add`: nobody will answer a request for it.
    Foreign(LockOwner),
    /// This client instance, through a watch that is gone: a leftover, or another opening of the image.
    Own(LockOwner),
    /// A client with its watch.
    Alive(LockOwner),
    /// A client without the watch named in its lock, but with another: it may be about to correct that. The
    /// flag says whether it is this client instance, by another opening of the image.
    Rewatching(LockOwner, bool),
    /// A client without a watch.
    Dead(LockOwner),
}

impl LockOwner {
    /// Under which name it takes the lock; none if the lock was taken by hand.
    pub(crate) fn client_id(&self) -> Option<ClientId> {
        let gid = u64::try_from(self.name.num).ok().filter(|_| self.name.kind == EntityType::CLIENT)?;
        Some(ClientId { gid: GlobalId(gid), handle: watch_of(&self.cookie)? })
    }
}

impl Holder {
    /// Reads who holds the lock of an image, and who watches it. Those of the `predecessors` that have ended are dead,
    /// whatever the watches say.
    pub(super) async fn find<S: ObjectStore>(
        store: &S,
        header_object: &str,
        me: GlobalId,
        my_watch: Option<u64>,
        predecessors: Option<&dyn Predecessors>,
    ) -> Result<Self, OpError> {
        let operation = cls::get_info(Operation::new()).list_watchers();
        let reply = store.read(header_object, operation, SnapId::HEAD).await?;
        let info = LockInfo::decode_from(&reply.data(0))?;
        let holder = Self::judge(info, &reply.outcome(1)?.watchers()?, me, my_watch);
        Ok(match predecessors {
            Some(predecessors) => holder.unless_ended(predecessors),
            None => holder,
        })
    }

    pub(super) fn owner(&self) -> Option<&LockOwner> {
        match self {
            Self::Nobody => None,
            Self::Foreign(owner)
            | Self::Own(owner)
            | Self::Alive(owner)
            | Self::Rewatching(owner, _)
            | Self::Dead(owner) => Some(owner),
        }
    }

    /// Judges a lock by the watchers of the same object, seen at the same time. `me` and `my_watch` are this
    /// client instance and the watch through which it wants the lock.
    ///
    /// Ceph: `GetLockerRequest`, `BreakRequest` in `src/librbd/managed_lock/`.
    pub(super) fn judge(
        info: LockInfo,
        watchers: &[ObjectWatcher],
        me: GlobalId,
        my_watch: Option<u64>,
    ) -> Self {
        let LockInfo { lockers, kind, tag } = info;
        let Some(owner) = lockers.into_iter().next() else { return Self::Nobody };
        let Some(watch) = watch_of(&owner.cookie).filter(|_| kind == EXCLUSIVE && tag == TAG) else {
            return Self::Foreign(owner);
        };
        if owner.addr.addr.is_none_or(|addr| addr.ip().is_unspecified()) {
            return Self::Foreign(owner);
        }
        let mut others = false;
        for watcher in watchers.iter().filter(|watcher| same_instance(&watcher.addr, &owner.addr)) {
            if watcher.cookie == watch {
                return Self::Alive(owner);
            }
            others |= Some(watcher.cookie) != my_watch;
        }
        let own = is_client(owner.name, me);
        if others {
            Self::Rewatching(owner, own)
        } else if own {
            Self::Own(owner)
        } else {
            Self::Dead(owner)
        }
    }
}

impl Holder {
    /// Corrects a verdict by what is known for certain: a client may be dead though its watch is still there.
    pub(super) fn unless_ended(self, predecessors: &dyn Predecessors) -> Self {
        match self {
            Self::Alive(owner) | Self::Rewatching(owner, false)
                if predecessors.has_ended(owner.name, owner.addr) =>
            {
                Self::Dead(owner)
            }
            other => other,
        }
    }
}

fn is_client(name: EntityName, id: GlobalId) -> bool {
    name.kind == EntityType::CLIENT && u64::try_from(name.num) == Ok(id.0)
}

/// Whether two addresses are of the same client instance. Locks store every address as if of messenger v1.
fn same_instance(a: &EntityAddr, b: &EntityAddr) -> bool {
    (a.nonce, a.addr) == (b.nonce, b.addr)
}
