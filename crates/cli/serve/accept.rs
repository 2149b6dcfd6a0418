//! Accepting connections, and leading each to its export.

use std::error::Error as StdError;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use nbd_server::{Budget, HANDSHAKE_TIMEOUT, Share, Shutdown, negotiate, serve_transmission};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use super::exports::Registry;
use super::listen::Listener;

/// Connections that may be in their handshake at a time; others wait to be accepted.
const MAX_HANDSHAKES: usize = 64;
/// Pause after a failed accept, usually for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts and serves connections until `stop`. Returns those that are left; `shutdown` ends them.
pub(super) async fn until(
    stop: impl Future<Output = ()>,
    listener: Listener,
    registry: &Arc<Registry>,
    shutdown: &Shutdown,
) -> JoinSet<()> {
    let mut stop = pin!(stop);
    // Shared by all exports: what one of them may not write for the time being does not add up.
    let budget = Budget::default();
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = &mut stop => return connections,
            Some(_) = connections.join_next() => continue,
            accepted = accept(&listener, &handshakes) => accepted,
        };
        match accepted {
            Ok((stream, permit)) => {
                let Some(share) = budget.connect() else {
                    let limit = budget.limits().connections;
                    warn!(limit, "closed a new connection: as many as may be are open");
                    continue;
                };
                let (registry, shutdown) = (Arc::clone(registry), shutdown.clone());
                match stream {
                    Accepted::Unix(stream) => {
                        connections.spawn(connection(stream, registry, shutdown, share, permit))
                    }
                    Accepted::Tcp(stream) => {
                        connections.spawn(connection(stream, registry, shutdown, share, permit))
                    }
                };
            }
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

enum Accepted {
    Unix(UnixStream),
    Tcp(TcpStream),
}

async fn accept(
    listener: &Listener,
    handshakes: &Arc<Semaphore>,
) -> io::Result<(Accepted, OwnedSemaphorePermit)> {
    let permit = Arc::clone(handshakes).acquire_owned().await.expect("never closed");
    let stream = match listener {
        Listener::Unix { socket, .. } => Accepted::Unix(socket.accept().await?.0),
        Listener::Tcp { socket, .. } => {
            let (stream, peer) = socket.accept().await?;
            info!(%peer, "client connects");
            // A reply must not wait for the acknowledgement of the one before it.
            stream.set_nodelay(true)?;
            Accepted::Tcp(stream)
        }
    };
    Ok((stream, permit))
}

async fn connection<S: Movable>(
    mut stream: S,
    registry: Arc<Registry>,
    shutdown: Shutdown,
    share: Share,
    permit: OwnedSemaphorePermit,
) {
    let outcome = tokio::select! {
        () = shutdown.triggered() => return,
        outcome = negotiate(&mut stream, &*registry, HANDSHAKE_TIMEOUT) => outcome,
    };
    drop(permit);
    let chosen = match outcome {
        Ok(Some(chosen)) => chosen,
        Ok(None) => return debug!("client left without choosing an export"),
        Err(error) => return warn!(error = &error as &dyn StdError, "handshake failed"),
    };
    let (name, export) = (chosen.export.name, chosen.export.export);
    info!(name, "client attached");
    let parked = match stream.park() {
        Ok(parked) => parked,
        Err(error) => return warn!(name, %error, "cannot move the connection to its shard"),
    };
    let device = Arc::clone(&export.device);
    let served = export.shard.run(async move {
        let stream = S::unpark(parked)?;
        serve_transmission(stream, device, chosen.session, chosen.leftover, share, &shutdown).await
    });
    match served.await {
        Ok(end) => info!(name, ?end, "client detached"),
        Err(error) => warn!(name, error = &error as &dyn StdError, "connection failed"),
    }
}

/// A stream that can be taken from one event loop to another.
trait Movable: AsyncRead + AsyncWrite + Unpin + Send + Sized + 'static {
    /// The stream between two event loops.
    type Parked: Send + 'static;
    fn park(self) -> io::Result<Self::Parked>;
    fn unpark(parked: Self::Parked) -> io::Result<Self>;
}

impl Movable for UnixStream {
    type Parked = std::os::unix::net::UnixStream;

    fn park(self) -> io::Result<Self::Parked> {
        self.into_std()
    }

    fn unpark(parked: Self::Parked) -> io::Result<Self> {
        Self::from_std(parked)
    }
}

impl Movable for TcpStream {
    type Parked = std::net::TcpStream;

    fn park(self) -> io::Result<Self::Parked> {
        self.into_std()
    }

    fn unpark(parked: Self::Parked) -> io::Result<Self> {
        Self::from_std(parked)
    }
}
