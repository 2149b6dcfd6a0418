//! Owners that are known to be dead, whatever their watch says.

use std::fmt;

use super::cls::LockOwner;

/// Knows which client instances of the past have ended for certain.
///
/// The watch of a client that was killed lives on for half a minute, and for as long others take it for alive. Who
/// runs in place of an earlier process, and can prove that it ended, need not wait: the dead one is blocklisted and
/// its lock is broken at once.
pub trait Predecessors: fmt::Debug + Send + Sync + 'static {
    /// Whether the process of this client instance, the one of this number *and* address, has ended for certain.
    /// Called when the lock is wanted and another client has it; must not take long.
    ///
    /// A wrong yes shuts a living client out of the cluster. When in doubt: no.
    fn has_ended(&self, owner: &LockOwner) -> bool;
}
