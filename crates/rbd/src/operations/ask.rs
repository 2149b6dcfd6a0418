//! Asking the owner of the exclusive lock for an operation.
//!
//! ```text
//! requester                                      owner
//!    | ---- request, in a notify ---------------> |
//!    | <--- answer: 0 or a negative errno ------- |
//!    | <--- progress, in a notify --------------- |  as often as it likes
//!    | <--- completion, in a notify ------------- |
//! ```
//! The lock may move meanwhile, and with it goes the request: it is then to be asked for again.
//!
//! Ceph: `ImageWatcher::notify_async_request` in `src/librbd/ImageWatcher.cc`.

use std::collections::HashMap;
use std::pin::pin;
use std::time::Duration;

use rados::{Errno, NotifyReply, OpError};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tracing::debug;

use super::maintain::NOTIFY_TIMEOUT;
use super::wait::{MENTION_AFTER, Wait};
use super::{OperationError, Progress};
use crate::image::core::Core;
use crate::watcher::{AsyncRequestId, ClientId, Maintenance, NotifyMessage, decode_answer};
use crate::{LockOwner, ObjectStore};

/// How long the owner may be silent. Ceph: `rbd_request_timed_out_seconds`.
const PATIENCE: Duration = Duration::from_secs(30);

/// `-ERESTART`, which says that the lock has moved.
pub(crate) const RESTART: i32 = -85;

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// The owner is done with it: 0 or a negative errno.
    Done(i32),
    /// The owner cannot do such things.
    Unsupported,
    /// The owner is gone, or does not own the lock any more. It may be done with it, or still at it.
    AskAgain,
    /// The owner has stopped because the lock moved. To be asked for under another number: librbd remembers what it
    /// answered to this one, and says the same again when it has the lock again.
    Interrupted,
}

/// The requests that this client waits for.
#[derive(Debug, Default)]
pub(crate) struct Asked(HashMap<AsyncRequestId, Request>);

#[derive(Debug)]
struct Request {
    owner: Option<ClientId>,
    /// Dropped without a word if it has to be asked for again.
    done: oneshot::Sender<i32>,
    progress: watch::Sender<(u64, u64)>,
}

impl Asked {
    fn begin(
        &mut self,
        id: AsyncRequestId,
        owner: Option<ClientId>,
    ) -> (oneshot::Receiver<i32>, watch::Receiver<(u64, u64)>) {
        let (done, result) = oneshot::channel();
        let (progress, news) = watch::channel((0, 0));
        self.0.insert(id, Request { owner, done, progress });
        (result, news)
    }

    pub(crate) fn progressed(&mut self, id: AsyncRequestId, done: u64, total: u64) {
        if let Some(request) = self.0.get(&id) {
            request.progress.send_replace((done, total));
        }
    }

    pub(crate) fn completed(&mut self, id: AsyncRequestId, result: i32) {
        if let Some(request) = self.0.remove(&id) {
            // Who does not wait any more does not mind.
            let _ = request.done.send(result);
        }
    }

    /// Some client has the lock now: whoever else was asked has not.
    pub(crate) fn acquired_by(&mut self, client: ClientId) {
        self.0.retain(|_, request| request.owner == Some(client));
    }

    /// Some client has given the lock up.
    pub(crate) fn released_by(&mut self, client: ClientId) {
        self.0.retain(|_, request| request.owner.is_some_and(|owner| owner != client));
    }

    /// Something may have happened that was not heard of.
    pub(crate) fn restart_all(&mut self) {
        self.0.clear();
    }
}

/// Asks the owner, and waits until it is done.
pub(super) async fn ask<S: ObjectStore>(
    core: &Core<S>,
    owner: &LockOwner,
    id: AsyncRequestId,
    request: &Maintenance,
    progress: &dyn Progress,
    wait: &mut Wait,
) -> Result<Answer, OperationError> {
    let (mut result, mut news) = core.asked.lock().begin(id, owner.client_id());
    let message = NotifyMessage::Maintenance { id: Some(id), request: request.clone() };
    let accepted = core.store.notify(&core.header_object, message.encode(), NOTIFY_TIMEOUT);
    tokio::pin!(accepted);
    let mut waits_for_answer = true;
    let mut patience = pin!(tokio::time::sleep(PATIENCE));
    let answer = loop {
        tokio::select! {
            // The completion may come before the answer.
            result = &mut result => break result.map_or(Answer::AskAgain, Answer::of),
            reply = &mut accepted, if waits_for_answer => {
                waits_for_answer = false;
                match owners_answer(reply) {
                    Ok(0) => {}
                    Ok(result) => break Answer::of(result),
                    Err(error) if error.is(Errno::ETIMEDOUT) => break Answer::AskAgain,
                    Err(source) => {
                        core.asked.lock().0.remove(&id);
                        return Err(core.operation_failed("ask the owner of the exclusive lock", source));
                    }
                }
            }
            Ok(()) = news.changed() => {
                let (done, total) = *news.borrow_and_update();
                progress.update(done, total);
                wait.progressed();
                patience.as_mut().reset(Instant::now() + PATIENCE);
            }
            () = tokio::time::sleep(MENTION_AFTER) => wait.mention(core, request, owner),
            () = &mut patience => break Answer::AskAgain,
        }
    };
    core.asked.lock().0.remove(&id);
    debug!(%id, ?answer, "the owner of the lock has answered");
    Ok(answer)
}

impl Answer {
    fn of(result: i32) -> Self {
        match result {
            RESTART => Self::Interrupted,
            result if result == -Errno::ETIMEDOUT.0 => Self::AskAgain,
            result if result == -Errno::EOPNOTSUPP.0 => Self::Unsupported,
            result => Self::Done(result),
        }
    }
}

/// What the lock's owner said, among the answers of all watchers; `ETIMEDOUT` if nobody is the owner.
///
/// Ceph: `src/librbd/image_watcher/NotifyLockOwner.cc`.
fn owners_answer(reply: Result<NotifyReply, OpError>) -> Result<i32, OpError> {
    let reply = reply?;
    let mut answers = reply.acks.iter().filter_map(|(_, _, answer)| decode_answer(answer).transpose());
    match (answers.next(), answers.next()) {
        (None, _) => Err(OpError::Errno(Errno::ETIMEDOUT)),
        (Some(answer), None) => Ok(answer?),
        // The lock has just moved between them.
        (Some(_), Some(_)) => Err(OpError::Errno(Errno::ETIMEDOUT)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_that_was_interrupted_is_not_asked_under_the_same_number_again() {
        assert_eq!(Answer::of(RESTART), Answer::Interrupted);
        assert_eq!(Answer::of(-Errno::ETIMEDOUT.0), Answer::AskAgain, "it may still be at it");
        assert_eq!(Answer::of(-Errno::EOPNOTSUPP.0), Answer::Unsupported);
        assert_eq!(Answer::of(-Errno::EEXIST.0), Answer::Done(-Errno::EEXIST.0));
    }
}
