//! The handshake on a stream.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tracing::debug;

use crate::export::{Exports, Opened};
use crate::handshake::{Event, Handshake, HandshakeError};
use crate::session::Session;

/// A reasonable limit for [`negotiate`]: people may wait for an export to be opened, but half-open connections must
/// not pile up.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);

/// A handshake that led to the transmission phase.
#[derive(Debug)]
pub struct Negotiated<E> {
    /// The export the client chose, with its canonical name.
    pub export: Opened<E>,
    /// What was agreed upon.
    pub session: Session,
    /// Bytes of the transmission phase that were read already.
    pub leftover: BytesMut,
}

/// Why a handshake failed. The connection is to be closed.
#[derive(Debug, Error)]
pub enum NegotiateError {
    /// The client broke the protocol or asked for something that can't be refused politely.
    #[error("the client was turned away during the handshake")]
    Handshake(#[from] HandshakeError),
    /// It took longer than allowed.
    #[error("the handshake took longer than {limit:?}")]
    TimedOut {
        /// What was allowed.
        limit: Duration,
    },
    /// The connection broke.
    #[error("the connection broke during the handshake")]
    Io(#[from] io::Error),
}

/// Conducts the handshake of a new connection. Exports are opened as the client asks for them.
///
/// `None` if the client left without choosing an export, for example after listing them. The stream is only
/// borrowed: afterwards it can be moved to the thread that serves the export. On TCP it should have `TCP_NODELAY`.
///
/// # Errors
/// [`NegotiateError`]; in any case the stream is not to be used any more.
pub async fn negotiate<S, X>(
    stream: &mut S,
    exports: &X,
    limit: Duration,
) -> Result<Option<Negotiated<X::Export>>, NegotiateError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    X: Exports,
{
    match tokio::time::timeout(limit, converse(stream, exports)).await {
        Ok(result) => result,
        Err(_) => Err(NegotiateError::TimedOut { limit }),
    }
}

async fn converse<S, X>(stream: &mut S, exports: &X) -> Result<Option<Negotiated<X::Export>>, NegotiateError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    X: Exports,
{
    let mut handshake = Handshake::new();
    let mut received = BytesMut::with_capacity(1024);
    loop {
        let event = handshake.poll_event();
        match &event {
            Ok(Some(Event::List)) => {
                let list = exports.list().await;
                handshake.answer_list(list.as_deref());
            }
            Ok(Some(Event::Open { name })) => {
                // Each time anew: between INFO and GO the size may have changed.
                let opened = exports.open(name).await;
                let answer = opened.as_ref().map(|opened| (opened.name.as_str(), &opened.info));
                let session = handshake.answer_open(answer)?;
                debug!(name, accepted = opened.is_ok(), "client asks for an export");
                if let (Some(session), Ok(export)) = (session, &opened) {
                    debug!(name = export.name, ?session, "transmission begins");
                    transmit(stream, &mut handshake).await?;
                    let leftover = handshake.into_leftover();
                    return Ok(opened.ok().map(|export| Negotiated { export, session, leftover }));
                }
            }
            Ok(Some(Event::Aborted) | None) | Err(_) => {}
        }
        transmit(stream, &mut handshake).await?;
        match event? {
            Some(Event::Aborted) => return Ok(None),
            Some(Event::List | Event::Open { .. }) => {}
            None => {
                if stream.read_buf(&mut received).await? == 0 {
                    return Ok(None);
                }
                handshake.handle_bytes(&received);
                received.clear();
            }
        }
    }
}

async fn transmit<S: AsyncWrite + Unpin>(stream: &mut S, handshake: &mut Handshake) -> io::Result<()> {
    while let Some(bytes) = handshake.poll_transmit() {
        stream.write_all(&bytes).await?;
    }
    stream.flush().await
}
