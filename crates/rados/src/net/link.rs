//! A connection that moves bytes between a socket and the messenger's state machine.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ceph_codec::{GlobalId, Utime};
use ceph_msgr::{Connection, Event, MsgrError};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::time::Instant;

use super::{Outbox, Stream};

/// Why a connection ended.
#[derive(Debug, Error)]
pub(crate) enum LinkError {
    #[error("the connection failed")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Messenger(#[from] MsgrError),
    #[error("the peer closed the connection")]
    Closed,
    #[error("the peer is silent")]
    Silent,
}

/// One connection to a daemon.
#[derive(Debug)]
pub(crate) struct Link {
    stream: Box<dyn Stream>,
    pub(super) connection: Connection,
    /// The number under which the peer knows us.
    pub(crate) global_id: GlobalId,
    messages: Vec<ceph_msgr::Message>,
    /// Whether bytes came since the last look.
    received: bool,
    /// When a look last found that bytes had come.
    heard: Instant,
}

/// Pieces of one vectored write. Linux takes 1024; more than this many are rarely ready at once.
const MAX_SLICES: usize = 64;

impl Link {
    pub(super) fn new(stream: Box<dyn Stream>, connection: Connection) -> Self {
        Self {
            stream,
            connection,
            global_id: GlobalId(0),
            messages: Vec::new(),
            received: false,
            heard: Instant::now(),
        }
    }

    /// Features of both sides, once the connection is open.
    pub(crate) fn features(&self) -> u64 {
        self.connection.features()
    }

    /// The next event of the handshake.
    pub(super) async fn event(&mut self) -> Result<Event, LinkError> {
        std::future::poll_fn(|cx| {
            loop {
                if let Some(event) = self.connection.poll_event()? {
                    return Poll::Ready(Ok(event));
                }
                self.poll_write(cx)?;
                ready!(self.poll_read(cx))?;
            }
        })
        .await
    }

    /// The next event of an open connection, while sending what comes into `outbox`. `None`: the outbox was
    /// closed.
    pub(crate) async fn serve(&mut self, outbox: &Outbox) -> Result<Option<Event>, LinkError> {
        std::future::poll_fn(|cx| {
            loop {
                if let Some(event) = self.connection.poll_event()? {
                    return Poll::Ready(Ok(Some(event)));
                }
                if !outbox.poll_take(cx, &mut self.messages) {
                    return Poll::Ready(Ok(None));
                }
                for message in self.messages.drain(..) {
                    self.connection.send(&message)?;
                }
                self.poll_write(cx)?;
                ready!(self.poll_read(cx))?;
            }
        })
        .await
    }

    /// Asks the peer for a sign of life; `now` is wall-clock time. To be called every few seconds.
    ///
    /// # Errors
    /// [`LinkError::Silent`] if nothing came for `limit`, not even a part of a long message.
    pub(crate) fn check_alive(&mut self, limit: Duration, now: Utime) -> Result<(), LinkError> {
        if std::mem::take(&mut self.received) {
            self.heard = Instant::now();
        }
        if self.heard.elapsed() > limit {
            return Err(LinkError::Silent);
        }
        self.connection.keepalive(now);
        Ok(())
    }

    /// Writes what it can. Not being able to write more is no reason to wait: reading goes on.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<(), LinkError> {
        while self.connection.wants_write() {
            let mut slices = [IoSlice::new(&[]); MAX_SLICES];
            let filled = self.connection.fill_io_slices(&mut slices);
            match Pin::new(&mut self.stream).poll_write_vectored(cx, &slices[..filled]) {
                Poll::Ready(Ok(0)) => return Err(LinkError::Closed),
                Poll::Ready(Ok(n)) => self.connection.advance_write(n),
                Poll::Ready(Err(error)) => return Err(error.into()),
                Poll::Pending => break,
            }
        }
        Ok(())
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        let read = pin!(self.stream.read_buf(self.connection.read_buf()));
        match ready!(read.poll(cx)) {
            Ok(0) => Poll::Ready(Err(LinkError::Closed)),
            Ok(_) => {
                self.received = true;
                Poll::Ready(Ok(()))
            }
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }
}
