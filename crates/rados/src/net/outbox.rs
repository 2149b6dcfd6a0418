//! Messages on their way to the task that owns a connection.

use std::task::{Context, Poll, Waker};

use ceph_msgr::Message;
use parking_lot::Mutex;

/// Filled by whoever has something to send, emptied by the connection's task, which is woken once for all
/// that came meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    messages: Vec<Message>,
    closed: bool,
    waker: Option<Waker>,
}

impl Outbox {
    pub(crate) fn push(&self, message: Message) {
        let waker = {
            let mut inner = self.inner.lock();
            inner.messages.push(message);
            inner.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Tells the connection's task to end. Messages not yet taken are dropped.
    pub(crate) fn close(&self) {
        let waker = {
            let mut inner = self.inner.lock();
            inner.closed = true;
            inner.messages.clear();
            inner.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Resolves when it is closed.
    pub(crate) async fn closed(&self) {
        std::future::poll_fn(|cx| {
            let mut inner = self.inner.lock();
            if inner.closed {
                return Poll::Ready(());
            }
            inner.waker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Moves all messages into `into`; false if closed. The task is woken when more come.
    pub(crate) fn poll_take(&self, cx: &Context<'_>, into: &mut Vec<Message>) -> bool {
        let mut inner = self.inner.lock();
        into.append(&mut inner.messages);
        match &mut inner.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        !inner.closed
    }
}
