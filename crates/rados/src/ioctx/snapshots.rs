//! Snapshots of a pool.
//!
//! A pool has either snapshots of all of its objects, which the monitors manage and which have names, or
//! snapshots that its users manage: the monitors only give out numbers, and whoever writes says in a
//! [`SnapContext`](crate::SnapContext) which of them exist. RBD does the latter. The first snapshot of a pool decides.
//!
//! Ceph: `Objecter::create_pool_snap` and those that follow it in `src/osdc/Objecter.cc`.

use ceph_codec::SnapId;
use ceph_osdmap::PoolSnap;

use super::IoCtx;
use crate::error::OpError;
use crate::messages::pool_op::SnapOp;
use crate::op::Errno;

impl IoCtx {
    /// Makes a snapshot of the whole pool. Writes that begin after it was made leave it alone.
    ///
    /// # Errors
    /// `EEXIST` if there is one of that name, `EINVAL` if the pool's users manage its snapshots, `EPERM`.
    pub async fn create_snapshot(&self, name: &str) -> Result<SnapId, OpError> {
        if self.snapshot(name)?.is_some() {
            return Err(OpError::Errno(Errno::EEXIST));
        }
        self.pool_op(SnapOp::Create { name: name.to_owned() }).await?;
        self.snapshot(name)?.map(|snap| snap.id).ok_or(OpError::Errno(Errno::ENOENT))
    }

    /// Removes a snapshot of the whole pool. Its space is given back later.
    ///
    /// # Errors
    /// `ENOENT` if there is none of that name, `EPERM`.
    pub async fn remove_snapshot(&self, name: &str) -> Result<(), OpError> {
        if self.snapshot(name)?.is_none() {
            return Err(OpError::Errno(Errno::ENOENT));
        }
        self.pool_op(SnapOp::Remove { name: name.to_owned() }).await
    }

    /// The snapshots of the whole pool, oldest first, as the OSDMap here has them.
    ///
    /// # Errors
    /// [`OpError::NoPool`]
    pub fn snapshots(&self) -> Result<Vec<PoolSnap>, OpError> {
        self.with_pool(|pool| pool.snaps.values().cloned().collect())
    }

    /// A snapshot of the whole pool by name, `None` if there is none in the OSDMap here.
    ///
    /// # Errors
    /// [`OpError::NoPool`]
    pub fn snapshot(&self, name: &str) -> Result<Option<PoolSnap>, OpError> {
        self.with_pool(|pool| pool.snaps.values().find(|snap| snap.name == name).cloned())
    }

    /// A number for a snapshot that the pool's users manage. It is larger than all given out before, and
    /// never given out again.
    ///
    /// # Errors
    /// `EINVAL` if the pool has snapshots of the whole, `EPERM`.
    pub async fn create_self_managed_snapshot(&self) -> Result<SnapId, OpError> {
        let reply = self.client.core.pool_op(self.pool(), SnapOp::CreateSelfManaged).await?;
        Ok(reply.new_snap()?)
    }

    /// Gives up a snapshot that the pool's users manage: what only it needs is removed, in time. Nobody may
    /// write with it in a [`SnapContext`](crate::SnapContext) any more.
    ///
    /// # Errors
    /// `EINVAL` if the pool has snapshots of the whole, `ENOENT` for a number never given out, `EPERM`.
    pub async fn remove_self_managed_snapshot(&self, snap: SnapId) -> Result<(), OpError> {
        self.pool_op(SnapOp::RemoveSelfManaged { snap }).await
    }

    async fn pool_op(&self, op: SnapOp) -> Result<(), OpError> {
        self.client.core.pool_op(self.pool(), op).await.map(drop)
    }
}
