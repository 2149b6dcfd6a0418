//! A whole server: accepting connections and serving each in a task of its own.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use crate::budget::{Budget, Share};
use crate::device::BlockDevice;
use crate::export::Exports;
use crate::server::{HANDSHAKE_TIMEOUT, Shutdown, negotiate, serve_transmission};

/// Connections that may be in their handshake at a time; others wait to be accepted.
const MAX_HANDSHAKES: usize = 64;
/// Pause after a failed accept, usually for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listening socket.
#[derive(Debug)]
pub enum Listener {
    /// A unix socket.
    Unix(UnixListener),
    /// A TCP socket. There is no TLS: whoever can connect can read and write.
    Tcp(TcpListener),
}

impl From<UnixListener> for Listener {
    fn from(listener: UnixListener) -> Self {
        Self::Unix(listener)
    }
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

/// Serves `exports` to all who connect, until `shutdown`; then waits for the connections to finish.
///
/// Servers may share a `budget`. Connections of which it has no share are closed at once.
pub async fn serve<X, D>(
    listener: impl Into<Listener> + Send,
    exports: Arc<X>,
    budget: &Budget,
    shutdown: &Shutdown,
) where
    X: Exports<Export = Arc<D>>,
    D: BlockDevice,
{
    let listener = listener.into();
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.triggered() => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept(&listener, &handshakes) => accepted,
        };
        match accepted {
            Ok((stream, permit)) => {
                let Some(share) = budget.connect() else {
                    refused(budget);
                    continue;
                };
                let (exports, shutdown) = (Arc::clone(&exports), shutdown.clone());
                match stream {
                    Stream::Unix(stream) => {
                        connections.spawn(connection(stream, exports, shutdown, share, permit))
                    }
                    Stream::Tcp(stream) => {
                        connections.spawn(connection(stream, exports, shutdown, share, permit))
                    }
                };
            }
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    info!(connections = connections.len(), "shutting down");
    while connections.join_next().await.is_some() {}
}

/// Conducts the handshake with a client and serves the export that it chooses.
///
/// Ends when the client or `shutdown` ends it, or at once if `budget` has no share for it; what went wrong is logged.
pub async fn serve_connection<S, X, D>(stream: S, exports: &X, budget: &Budget, shutdown: &Shutdown)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    X: Exports<Export = Arc<D>>,
    D: BlockDevice,
{
    match budget.connect() {
        Some(share) => converse(stream, exports, shutdown, share, || ()).await,
        None => refused(budget),
    }
}

fn refused(budget: &Budget) {
    let limit = budget.limits().connections;
    warn!(limit, "closed a new connection: as many as may be are open");
}

enum Stream {
    Unix(tokio::net::UnixStream),
    Tcp(tokio::net::TcpStream),
}

async fn accept(
    listener: &Listener,
    handshakes: &Arc<Semaphore>,
) -> io::Result<(Stream, OwnedSemaphorePermit)> {
    let permit = Arc::clone(handshakes).acquire_owned().await.expect("never closed");
    let stream = match listener {
        Listener::Unix(listener) => Stream::Unix(listener.accept().await?.0),
        Listener::Tcp(listener) => {
            let stream = listener.accept().await?.0;
            // A reply must not wait for the acknowledgement of the one before it.
            stream.set_nodelay(true)?;
            Stream::Tcp(stream)
        }
    };
    Ok((stream, permit))
}

async fn connection<S, X, D>(
    stream: S,
    exports: Arc<X>,
    shutdown: Shutdown,
    share: Share,
    permit: OwnedSemaphorePermit,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    X: Exports<Export = Arc<D>>,
    D: BlockDevice,
{
    converse(stream, &*exports, &shutdown, share, || drop(permit)).await;
}

async fn converse<S, X, D>(
    mut stream: S,
    exports: &X,
    shutdown: &Shutdown,
    share: Share,
    negotiated: impl FnOnce() + Send,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    X: Exports<Export = Arc<D>>,
    D: BlockDevice,
{
    let outcome = tokio::select! {
        () = shutdown.triggered() => return,
        outcome = negotiate(&mut stream, exports, HANDSHAKE_TIMEOUT) => outcome,
    };
    negotiated();
    let chosen = match outcome {
        Ok(Some(chosen)) => chosen,
        Ok(None) => return debug!("client left without choosing an export"),
        Err(error) => return warn!(error = &error as &dyn std::error::Error, "handshake failed"),
    };
    let name = chosen.export.name;
    let device = chosen.export.export;
    match serve_transmission(stream, device, chosen.session, chosen.leftover, share, shutdown).await {
        Ok(end) => debug!(name, ?end, "connection ended"),
        Err(error) => warn!(name, error = &error as &dyn std::error::Error, "connection failed"),
    }
}
