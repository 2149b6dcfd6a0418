//! Ending the service in an orderly way.

use std::sync::Arc;

use tokio::sync::watch;

/// Tells connections to end, once and for all. Clones are the same switch.
///
/// A connection that is told finishes the requests it has read, sends their replies and closes. Requests it has not
/// read are not answered, not even by `ESHUTDOWN`: a client that can reconnect (QEMU with `reconnect-delay`) repeats
/// what was not answered, while an error would reach the guest.
#[derive(Debug, Clone)]
pub struct Shutdown(Arc<watch::Sender<bool>>);

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl Shutdown {
    /// Not requested yet.
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    /// Requests it.
    pub fn trigger(&self) {
        self.0.send_replace(true);
    }

    /// Whether it was requested.
    pub fn is_triggered(&self) -> bool {
        *self.0.borrow()
    }

    /// Resolves once it is requested.
    pub async fn triggered(&self) {
        // An error would mean that there is no sender, but `self` is one.
        let _ = self.0.subscribe().wait_for(|triggered| *triggered).await;
    }
}
