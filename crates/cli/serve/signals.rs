//! SIGTERM and SIGINT, which end the program, and SIGUSR1, which makes it say what it waits for.

use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::exports::Registry;
use crate::report::Error;

/// The signals that ask the program to end.
#[derive(Debug)]
pub(super) struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    /// From now on these signals do nothing by themselves.
    pub(super) fn new() -> Result<Self, Error> {
        let listen = |kind| signal(kind).map_err(Error::Signals);
        Ok(Self { term: listen(SignalKind::terminate())?, int: listen(SignalKind::interrupt())? })
    }

    /// Resolves when one of them comes.
    pub(super) async fn next(&mut self) {
        // They end only with the process.
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}

/// Writes all requests that have not ended to the log whenever SIGUSR1 comes.
pub(super) fn tell_requests_on_usr1(registry: Arc<Registry>) -> Result<(), Error> {
    let mut usr1 = signal(SignalKind::user_defined1()).map_err(Error::Signals)?;
    tokio::spawn(async move {
        while usr1.recv().await.is_some() {
            registry.tell_requests();
        }
    });
    Ok(())
}
