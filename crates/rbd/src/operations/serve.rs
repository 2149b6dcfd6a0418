//! Being asked, as the owner of the exclusive lock, for an operation.
//!
//! A notify is answered at once, and the work is done in a task of its own. Requesters repeat themselves when they
//! hear nothing for long, or have lost their watch; what they repeat is not done again.
//!
//! Ceph: `ImageWatcher::handle_operation_request` in `src/librbd/ImageWatcher.cc`.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rados::Errno;
use tokio::sync::watch;
use tracing::{info, warn};

use super::OperationError;
use super::ask::RESTART;
use super::features::give_up_lock_without_feature;
use super::maintain::{NOTIFY_TIMEOUT, Turn, execute, is_supported};
use crate::image::core::Core;
use crate::lock::ExclusiveLock;
use crate::watcher::{AsyncRequestId, Maintenance, NotifyMessage};
use crate::{ImageError, LockError, ObjectStore};

/// How long a result is remembered. Ceph: `ImageWatcher::mark_async_request_complete`.
const MEMORY: Duration = Duration::from_secs(600);

/// The most results that are remembered, and requests that are worked on. Nobody makes so many who means well.
const MAX_RESULTS: usize = 1024;
const MAX_PENDING: usize = 64;

/// How often the requester hears how far the work has come, if it takes so long.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// How often the requester is told that the work is done, if it does not take note.
const COMPLETION_TRIES: usize = 6;

/// How long the lock is kept for the requester's sake. A client that lives takes note of a notify at once.
const TELL_PATIENCE: Duration = Duration::from_secs(1);

/// The requests that were accepted.
#[derive(Debug, Default)]
pub(crate) struct Served {
    /// The results of those that are done.
    requests: HashMap<AsyncRequestId, Option<i32>>,
    /// Those that are done, and since when, oldest first.
    done: VecDeque<(Instant, AsyncRequestId)>,
}

/// What to do about a request.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It is new.
    Begin,
    /// It is being worked on.
    Pending,
    /// It was done, with this result.
    Done(i32),
    /// There are too many.
    TooMany,
}

impl Served {
    fn admit(&mut self, id: AsyncRequestId, now: Instant) -> Verdict {
        while let Some((since, old)) = self.done.front().copied() {
            if now.saturating_duration_since(since) < MEMORY && self.done.len() <= MAX_RESULTS {
                break;
            }
            self.done.pop_front();
            self.requests.remove(&old);
        }
        match self.requests.get(&id) {
            Some(None) => Verdict::Pending,
            Some(Some(result)) => Verdict::Done(*result),
            None if self.requests.len() - self.done.len() >= MAX_PENDING => Verdict::TooMany,
            None => {
                self.requests.insert(id, None);
                Verdict::Begin
            }
        }
    }

    fn complete(&mut self, id: AsyncRequestId, result: i32, now: Instant) {
        if result == RESTART {
            // It was not done, and may be asked for again.
            self.requests.remove(&id);
        } else if self.requests.insert(id, Some(result)) == Some(None) {
            self.done.push_back((now, id));
        }
    }
}

/// Some client, maybe this one, asks the owner of the lock for an operation. Returns the answer, if this client is the
/// owner.
pub(crate) fn serve<S: ObjectStore>(
    core: &Arc<Core<S>>,
    id: Option<AsyncRequestId>,
    request: Maintenance,
) -> Option<i32> {
    let lock = core.lock.get()?;
    let tenure = core.tenure();
    // Who has just given it up is silent as well, and the requester tries again.
    if !lock.is_held() {
        lock.peer_works();
        return None;
    }
    let Some(id) = id.filter(|_| is_supported(&request)) else {
        return lock.refuse_maintenance(request.op());
    };
    if lock.id() == Some(id.client) {
        return Some(RESTART);
    }
    let verdict = core.served.lock().admit(id, Instant::now());
    match verdict {
        Verdict::Begin => {
            // From here on the lock is kept, if it still is.
            let working = lock.work();
            if !lock.is_held() {
                core.served.lock().complete(id, RESTART, Instant::now());
                return None;
            }
            info!(image = core.display_name(), op = %request.op(), %id, "another client wants the image changed");
            let core = core.clone();
            tokio::spawn(async move {
                work_and_tell(&core, id, tenure, &request).await;
                drop(working);
                give_up_lock_without_feature(&core).await;
            });
            Some(0)
        }
        Verdict::Pending => Some(0),
        Verdict::Done(0) => {
            // It waits for a completion, having missed the one that there was.
            let core = core.clone();
            tokio::spawn(async move { tell(&core, id, 0).await });
            Some(0)
        }
        Verdict::Done(result) => Some(result),
        Verdict::TooMany => Some(RESTART),
    }
}

/// Does the work, and tells the requester before the lock moves: who learns of that first asks the next owner for what
/// has been done.
async fn work_and_tell<S: ObjectStore>(
    core: &Arc<Core<S>>,
    id: AsyncRequestId,
    tenure: u64,
    request: &Maintenance,
) {
    let result = work(core, id, tenure, request).await;
    let kept = core.lock.get().and_then(ExclusiveLock::try_begin);
    core.served.lock().complete(id, result, Instant::now());
    let (announcer, teller) = (core.clone(), core.clone());
    let announced = tokio::spawn(async move {
        if result == 0 {
            announcer.announce_update().await;
        }
    });
    if kept.is_some() {
        // It ends soon, and all it could be is cancelled.
        let _ = announced.await;
    }
    let told = tokio::spawn(async move { tell(&teller, id, result).await });
    // Who is alive has heard it by then.
    let _ = tokio::time::timeout(TELL_PATIENCE, told).await;
}

/// Does the work; 0 or a negative errno.
async fn work<S: ObjectStore>(core: &Core<S>, id: AsyncRequestId, tenure: u64, request: &Maintenance) -> i32 {
    let (progress, news) = watch::channel((0, 0));
    let turn = Turn::of_tenure(core, tenure);
    let executed = tokio::select! {
        executed = execute(&turn, request, &progress) => executed,
        () = report(core, id, news) => unreachable!("it reports for ever"),
    };
    match executed {
        Ok(()) => 0,
        // This client goes; whoever has the lock next can do it.
        Err(OperationError::Image(ImageError::Closed | ImageError::Lock(LockError::GivenUp))) => RESTART,
        Err(error) => {
            warn!(image = core.display_name(), op = %request.op(), %id, %error, "could not do what another client wants");
            -error.errno().0
        }
    }
}

/// Tells the requester again and again how far the work has come: it gives up on who is silent.
async fn report<S: ObjectStore>(core: &Core<S>, id: AsyncRequestId, news: watch::Receiver<(u64, u64)>) {
    loop {
        tokio::time::sleep(PROGRESS_EVERY).await;
        let (done, total) = *news.borrow();
        let message = NotifyMessage::AsyncProgress { id, done, total };
        // If it is not heard the next one may be.
        let _ = core.store.notify(&core.header_object, message.encode(), NOTIFY_TIMEOUT).await;
    }
}

/// Tells the requester that the work is done, until it has taken note.
async fn tell<S: ObjectStore>(core: &Core<S>, id: AsyncRequestId, result: i32) {
    let message = NotifyMessage::AsyncComplete { id, result }.encode();
    for _ in 0..COMPLETION_TRIES {
        match core.store.notify(&core.header_object, message.clone(), NOTIFY_TIMEOUT).await {
            // Others may be silent.
            Ok(reply) if !reply.timeouts.contains(&(id.client.gid, id.client.handle)) => return,
            Ok(_) => {}
            Err(error) if error.is(Errno::ETIMEDOUT) => {}
            Err(error) => {
                warn!(image = core.display_name(), %id, %error, "could not tell that a request is done");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watcher::ClientId;
    use ceph_codec::GlobalId;

    fn id(number: u64) -> AsyncRequestId {
        AsyncRequestId { client: ClientId { gid: GlobalId(1), handle: 2 }, number }
    }

    #[test]
    fn a_request_is_done_once_however_often_it_is_repeated() {
        let (mut served, now) = (Served::default(), Instant::now());
        assert_eq!(served.admit(id(1), now), Verdict::Begin);
        assert_eq!(served.admit(id(1), now), Verdict::Pending);
        served.complete(id(1), -17, now);
        assert_eq!(served.admit(id(1), now + MEMORY / 2), Verdict::Done(-17));
        assert_eq!(served.admit(id(1), now + MEMORY), Verdict::Begin, "nobody asks again so late");
    }

    #[test]
    fn what_the_lock_was_lost_for_may_be_asked_for_again() {
        let (mut served, now) = (Served::default(), Instant::now());
        assert_eq!(served.admit(id(1), now), Verdict::Begin);
        served.complete(id(1), RESTART, now);
        assert_eq!(served.admit(id(1), now), Verdict::Begin);
    }

    #[test]
    fn a_flood_of_requests_takes_little_memory() {
        let (mut served, now) = (Served::default(), Instant::now());
        for number in 0..100_000 {
            if served.admit(id(number), now) == Verdict::Begin && number % 2 == 0 {
                served.complete(id(number), 0, now);
            }
        }
        assert!(served.requests.len() <= MAX_RESULTS + MAX_PENDING + 1);
        assert_eq!(served.admit(id(200_000), now), Verdict::TooMany);
    }
}
