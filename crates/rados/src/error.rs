//! Why an operation failed.

use std::time::SystemTime;

use ceph_codec::{DecodeError, Epoch};
use thiserror::Error;

use crate::op::{Errno, InvalidOperation, OpOutcome};

/// Why an operation on an object failed. Waiting is the default: an OSD that is down, a full pool or a lost
/// connection are not errors, the operation goes on when they end.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OpError {
    /// The cluster refused it, before any op of it ran.
    #[error("{0}")]
    Errno(Errno),
    /// One op of it failed on the OSD, and with it the whole: nothing was written.
    #[error("{errno}")]
    Op {
        /// Why.
        errno: Errno,
        /// Which one, counted from 0.
        index: usize,
        /// What each op returned; those after the failed one did not run.
        outcomes: Vec<OpOutcome>,
    },
    /// It was not sent: no message can hold it, or no OSD would accept it.
    #[error("the operation cannot be sent")]
    Invalid(#[from] InvalidOperation),
    /// The cluster has blocklisted this client instance; nothing it sends is accepted any more.
    #[error("the cluster has blocklisted this client (OSDMap epoch {epoch})")]
    Blocklisted {
        /// Since when: by the cluster's clock if its map told, by ours if an OSD's answer did.
        since: SystemTime,
        /// The epoch of the OSDMap that says so.
        epoch: Epoch,
    },
    /// The monitors do not accept this client instance as itself any more, though they accept its user: it
    /// was away for longer than its ticket is good for. Its watches and locks are not its own any more; only
    /// a new instance can go on.
    #[error("the monitors do not recognise this client instance any more")]
    IdentityLost,
    /// The pool does not exist (any more).
    #[error("pool {0} does not exist")]
    NoPool(ceph_codec::PoolId),
    /// The OSD's answer makes no sense.
    #[error("the OSD sent a malformed answer")]
    Malformed(#[from] DecodeError),
    /// The operator's time limit (`rados_osd_op_timeout`, `rados_mon_op_timeout`) ran out.
    #[error("no answer within the time limit")]
    TimedOut,
    /// The client was shut down.
    #[error("the client is shut down")]
    Shutdown,
}

impl OpError {
    /// The errno that librados would return for it.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            Self::Errno(errno) | Self::Op { errno, .. } => *errno,
            Self::Invalid(_) => Errno::EINVAL,
            Self::Blocklisted { .. } | Self::IdentityLost | Self::Shutdown => Errno::EBLOCKLISTED,
            Self::NoPool(_) => Errno::ENOENT,
            Self::Malformed(_) => Errno::EIO,
            Self::TimedOut => Errno::ETIMEDOUT,
        }
    }

    /// Whether this client instance can never do anything again, and another owns what it held.
    #[must_use]
    pub fn ends_the_instance(&self) -> bool {
        matches!(self, Self::Blocklisted { .. } | Self::IdentityLost)
    }

    /// The errno with which the cluster refused it, if that is what happened. Unlike [`errno`](Self::errno) it
    /// has none for a lost pool or connection, so that `ENOENT` means the object.
    #[must_use]
    pub fn refusal(&self) -> Option<Errno> {
        match self {
            Self::Errno(errno) | Self::Op { errno, .. } => Some(*errno),
            _ => None,
        }
    }

    /// Where the object's contents begin to differ from what
    /// [`compare_extent`](crate::Operation::compare_extent) expected, in bytes from the compared offset;
    /// `None` if that is not why it failed.
    ///
    /// Ceph: `-MAX_ERRNO - offset`, in `PrimaryLogPG::do_cmpext`.
    #[must_use]
    pub fn mismatch(&self) -> Option<u64> {
        const MAX_ERRNO: i32 = 4095;
        u64::try_from(self.refusal()?.0.checked_sub(MAX_ERRNO)?).ok()
    }

    /// Whether it is the given errno.
    #[must_use]
    pub fn is(&self, errno: Errno) -> bool {
        self.errno() == errno
    }
}
