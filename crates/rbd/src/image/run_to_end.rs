//! Changes go on when nobody waits for them any more.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// A future that is finished by a task of its own if it is dropped before it has resolved.
///
/// An operation that was sent cannot be withdrawn. If a change could be dropped halfway (because its NBD
/// connection broke) the exclusive lock could be given away while its operation is still on the way, and
/// overwrite what the next owner writes; and an object map could be left behind its object.
pub(crate) struct RunToEnd<T: Send + 'static>(Option<Pin<Box<dyn Future<Output = T> + Send>>>);

impl<T: Send + 'static> RunToEnd<T> {
    pub(crate) fn new(future: impl Future<Output = T> + Send + 'static) -> Self {
        Self(Some(Box::pin(future)))
    }
}

impl<T: Send + 'static> Future for RunToEnd<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let future = self.0.as_mut().expect("not polled after it resolved");
        let poll = future.as_mut().poll(cx);
        if poll.is_ready() {
            self.0 = None;
        }
        poll
    }
}

impl<T: Send + 'static> Drop for RunToEnd<T> {
    fn drop(&mut self) {
        // Without a runtime the process is about to end.
        if let (Some(future), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(future);
        }
    }
}
