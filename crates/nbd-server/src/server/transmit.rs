//! The transmission phase on a stream: one task does all for its connection.
//!
//! Whenever it wakes up, it reads what there is, starts all requests that are complete, polls them, and writes all
//! replies that are ready by one vectored write. So requests that arrive together reach the device together, before
//! any of them is waited for, and the number of system calls goes down as the load goes up.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tracing::debug;

use crate::budget::Share;
use crate::device::BlockDevice;
use crate::server::Shutdown;
use crate::session::Session;
use crate::transmission::{Answer, Incoming, ReplyQueue, Request, RequestError, RequestReader};

const MAX_SLICES: usize = 128;
/// How long to wait for the client to close first.
const LINGER: Duration = Duration::from_secs(1);

/// How a connection came to its good end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The client said goodbye (`NBD_CMD_DISC`).
    Disconnect,
    /// The client closed without a word, between two requests.
    Hangup,
    /// The server is being shut down.
    Shutdown,
}

/// How a connection came to its bad end.
#[derive(Debug, Error)]
pub enum TransmissionError {
    /// The client broke the protocol.
    #[error("the client broke the protocol")]
    Request(#[from] RequestError),
    /// The connection broke.
    #[error("the connection to the client broke")]
    Io(#[from] io::Error),
}

/// Serves `device` to a client that has finished its handshake, until one of them ends it. Requests run
/// concurrently, all in this future; how many, and how much memory they take, is limited by the connection's `share` of
/// a [`Budget`](crate::Budget).
///
/// Requests that were started are always finished, even if nobody is left to get the answer; they are abandoned only
/// if this future is dropped. After [`Shutdown`] no more requests are read; what is in flight may take its time.
///
/// # Errors
/// [`TransmissionError`] once all that was started is finished.
pub async fn serve_transmission<S, D>(
    mut stream: S,
    device: Arc<D>,
    session: Session,
    leftover: BytesMut,
    share: Share,
    shutdown: &Shutdown,
) -> Result<End, TransmissionError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    D: BlockDevice,
{
    let shared = Arc::new((device, session.clone()));
    let start = |Request { cookie, command }| {
        let shared = Arc::clone(&shared);
        async move {
            let payload_len = command.payload_len();
            let (device, session) = &*shared;
            Finished { cookie, payload_len, answer: command.run(&**device, session).await }
        }
    };
    let mut connection = Connection {
        stream: &mut stream,
        replies: ReplyQueue::new(session.structured_replies()),
        reader: RequestReader::new(session, leftover),
        start,
        running: FuturesUnordered::new(),
        share,
        receiving: None,
        is_full: false,
        written: 0,
        unwritten: VecDeque::new(),
        input: Ok(None),
        output: Ok(()),
    };
    let mut stop = pin!(shutdown.triggered());
    poll_fn(|cx| {
        if connection.is_reading() && stop.as_mut().poll(cx).is_ready() {
            connection.input = Ok(Some(End::Shutdown));
        }
        connection.poll(cx)
    })
    .await;
    let Connection { input, output, .. } = connection;
    output?;
    close(&mut stream, input.is_err() || matches!(input, Ok(Some(End::Shutdown)))).await;
    Ok(input?.unwrap_or(End::Hangup))
}

/// Closing a TCP socket with unread bytes resets it, and the last replies would be lost: let the client go first.
async fn close<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, linger: bool) {
    if stream.shutdown().await.is_err() || !linger {
        return;
    }
    let drain = async {
        let mut sink = [0; 4096];
        while stream.read(&mut sink).await.is_ok_and(|len| len > 0) {}
    };
    if tokio::time::timeout(LINGER, drain).await.is_err() {
        debug!("client did not close after the server did");
    }
}

struct Finished {
    cookie: u64,
    payload_len: usize,
    answer: Answer,
}

struct Connection<'a, S, R, F> {
    stream: &'a mut S,
    reader: RequestReader,
    start: R,
    running: FuturesUnordered<F>,
    /// What is paid for: what is received, running, or a reply that is not written.
    share: Share,
    /// The payload of the request that is paid for and not complete.
    receiving: Option<usize>,
    /// Whether the next request is there and finds no room.
    is_full: bool,
    replies: ReplyQueue,
    /// Bytes of replies that were written.
    written: u64,
    /// Where each reply in `replies` ends, counted as `written`, and the payload of its request.
    unwritten: VecDeque<(u64, usize)>,
    /// `Ok(None)` while requests are read.
    input: Result<Option<End>, TransmissionError>,
    output: io::Result<()>,
}

impl<S, R, F> Connection<'_, S, R, F>
where
    S: AsyncRead + AsyncWrite + Unpin,
    R: Fn(Request) -> F,
    F: Future<Output = Finished>,
{
    const fn is_reading(&self) -> bool {
        matches!(self.input, Ok(None)) && self.output.is_ok()
    }

    /// Resolves when nothing is to be read, run or written any more.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            self.start_requests(cx);
            while let Poll::Ready(Some(finished)) = self.running.poll_next_unpin(cx) {
                self.replies.push(finished.cookie, finished.answer);
                let end = self.written + self.replies.remaining() as u64;
                self.unwritten.push_back((end, finished.payload_len));
            }
            // Pending or not: what is not written counts as in flight.
            let _ = self.poll_write(cx);
            self.give_back();
            // Requests that were there but had no room.
            let more = self.start_requests(cx);
            let read = self.poll_read(cx);
            if !self.is_reading() {
                self.stop_receiving();
                if self.running.is_empty() && !self.replies.has_remaining() {
                    return Poll::Ready(());
                }
            }
            if read.is_pending() && !more {
                if self.running.is_empty() {
                    self.reader.relax();
                }
                return Poll::Pending;
            }
        }
    }

    /// Starts what is complete and has room; whether there was anything.
    fn start_requests(&mut self, cx: &Context<'_>) -> bool {
        let mut started = false;
        self.is_full = false;
        while self.is_reading() {
            let Self { reader, share, receiving, is_full, .. } = self;
            let next = reader.next_request(|payload_len| {
                *is_full = share.poll_take(cx, payload_len).is_pending();
                if !*is_full {
                    *receiving = Some(payload_len);
                }
                !*is_full
            });
            match next {
                Ok(Some(Incoming::Request(request))) => {
                    self.receiving = None;
                    self.running.push((self.start)(request));
                    started = true;
                }
                Ok(Some(Incoming::Disconnect)) => self.input = Ok(Some(End::Disconnect)),
                Ok(None) => break,
                Err(error) => self.input = Err(error.into()),
            }
        }
        started
    }

    /// What a client that goes away in the middle of a request leaves behind.
    fn stop_receiving(&mut self) {
        self.reader.close();
        self.share.stop_waiting();
        if let Some(payload_len) = self.receiving.take() {
            self.share.give_back(payload_len);
            self.share.settle();
        }
    }

    /// Gives back what the requests took whose replies are written.
    fn give_back(&mut self) {
        while let Some(&(end, payload_len)) = self.unwritten.front()
            && end <= self.written
        {
            self.unwritten.pop_front();
            self.share.give_back(payload_len);
        }
        self.share.settle();
    }

    /// Ready when all replies are written, or can't be.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.replies.has_remaining() {
            let written = match &self.output {
                Ok(()) => {
                    let mut slices = [IoSlice::new(&[]); MAX_SLICES];
                    let count = self.replies.chunks_vectored(&mut slices);
                    ready!(Pin::new(&mut *self.stream).poll_write_vectored(cx, &slices[..count]))
                }
                // Nobody is there to get them.
                Err(_) => Ok(self.replies.remaining()),
            };
            match written {
                Ok(0) => self.output = Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.replies.advance(count);
                    self.written += count as u64;
                }
                Err(error) => self.output = Err(error),
            }
        }
        Poll::Ready(())
    }

    /// Ready when something was read, or the input ended.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_reading() || self.is_full {
            return Poll::Pending;
        }
        let mut space = self.reader.space();
        let read = pin!(self.stream.read_buf(&mut space));
        match ready!(read.poll(cx)) {
            Ok(0) => self.input = Ok(Some(End::Hangup)),
            Ok(_) => {}
            Err(error) => self.input = Err(error.into()),
        }
        Poll::Ready(())
    }
}
