//! Clients that are known to be dead, whatever their watch says.

use std::collections::BTreeSet;
use std::fmt;

use ceph_codec::{AddrType, EntityAddr, EntityName};
use rados::{ObjectWatcher, OpError};
use tracing::warn;

use crate::ObjectStore;

/// Knows which client instances of the past have ended for certain.
///
/// The watch of a client that was killed lives on for half a minute, and for as long others take it for alive and wait
/// for its answers. Who runs in place of an earlier process, and can prove that it ended, need not wait: the dead one
/// is blocklisted, which ends its watch, and its lock is broken at once.
pub trait Predecessors: fmt::Debug + Send + Sync + 'static {
    /// Whether the process of this client instance, the one of this number *and* address, has ended for certain.
    /// Called for those who have an image open when it is opened, and for the owner of the lock when that is wanted;
    /// must not take long.
    ///
    /// A wrong yes shuts a living client out of the cluster. When in doubt: no.
    fn has_ended(&self, client: EntityName, addr: EntityAddr) -> bool;
}

/// Shuts those out that have ended but still count as watchers. If it does not work, they go by themselves later.
pub(crate) async fn bar_the_dead<S: ObjectStore>(
    store: &S,
    predecessors: &dyn Predecessors,
    watchers: Result<Vec<ObjectWatcher>, OpError>,
) {
    let dead: BTreeSet<_> = watchers
        .unwrap_or_default()
        .iter()
        .filter(|watcher| predecessors.has_ended(watcher.name, watcher.addr))
        .map(|watcher| (watcher.name, EntityAddr { kind: AddrType::ANY, ..watcher.addr }))
        .collect();
    for (client, addr) in dead {
        warn!(%client, %addr, "a dead client still watches the image, blocklisting it");
        if let Err(error) = store.blocklist(addr).await {
            warn!(%client, %addr, %error, "cannot blocklist a dead client");
        }
    }
}
