//! What a client takes from the machine it runs on, so that tests can put another in its place.

use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// What a client instance takes from the machine it runs on: connections, randomness and the date. Intervals
/// and deadlines are measured by the clock of the tokio runtime.
///
/// The default is [`HostSystem`]. A simulation brings its own, and together with a runtime whose time is paused
/// everything that a client does follows from it.
pub trait System: Debug + Send + Sync + 'static {
    /// Opens a connection to a daemon.
    ///
    /// # Errors
    /// The future resolves to [`io::Error`] if nobody listens there or the address cannot be reached.
    fn connect(&self, addr: SocketAddr) -> Connecting<'_>;

    /// Fills `buf` with unpredictable bytes.
    fn random(&self, buf: &mut [u8]);

    /// For how long the machine has been suspended since it was started. The clock of the runtime stands still
    /// meanwhile, but tickets expire.
    fn time_suspended(&self) -> Duration {
        Duration::ZERO
    }

    /// The date: for modification times of objects and for the eyes of others, never to measure with.
    fn now(&self) -> SystemTime;
}

/// A connection being opened.
pub type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Stream>>> + Send + 'a>>;

/// The bytes of a connection. Vectored writes should be real ones: large payloads are never joined.
pub trait Stream: AsyncRead + AsyncWrite + Debug + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Debug + Send + Unpin> Stream for T {}

/// The host: TCP, the operating system's randomness and its clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostSystem;

impl System for HostSystem {
    fn connect(&self, addr: SocketAddr) -> Connecting<'_> {
        Box::pin(async move {
            let stream = TcpStream::connect(addr).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }

    /// # Panics
    /// If the operating system has no randomness to give; nothing secure can be done then.
    fn random(&self, buf: &mut [u8]) {
        getrandom::fill(buf).expect("the operating system gives random bytes");
    }

    #[cfg(target_os = "linux")]
    fn time_suspended(&self) -> Duration {
        use rustix::time::{ClockId, clock_gettime};
        let clock = |id| Duration::try_from(clock_gettime(id)).unwrap_or_default();
        // In this order the difference can only be too large, by an instant.
        let awake = clock(ClockId::Monotonic);
        clock(ClockId::Boottime).saturating_sub(awake)
    }

    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}
