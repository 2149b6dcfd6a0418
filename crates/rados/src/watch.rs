//! Watch and notify: how clients of one object tell each other that something changed.

use bytes::Bytes;
use ceph_codec::{Decode, DecodeError, GlobalId, Reader};
use tokio::sync::mpsc::{self, error::TrySendError};

use crate::Errno;

/// What a watcher learns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    /// Somebody sent a notify. It waits for our acknowledgement, so acknowledge at once.
    Notify {
        /// Names the notify in the acknowledgement.
        notify_id: u64,
        /// Who sent it.
        notifier: GlobalId,
        /// What was sent.
        payload: Bytes,
    },
    /// The OSD has dropped the watch, or may have: notifies may have been missed. The owner has to unwatch
    /// and watch again.
    Lost(Errno),
}

/// A registered watch. It is kept alive, and registered again after connection losses and map changes, until
/// [`IoCtx::unwatch`](crate::IoCtx::unwatch).
#[derive(Debug)]
pub struct Watch {
    /// The number of the watch, unique within the client instance; visible in `rbd status`.
    pub cookie: u64,
    /// Events, in the order in which the OSD sent them. There is room for [`Watch::EVENTS`]; with more that
    /// nobody takes the watch is lost (`ENOBUFS`).
    pub events: mpsc::Receiver<WatchEvent>,
}

impl Watch {
    /// Events that wait until they are taken.
    pub const EVENTS: usize = 1024;
}

/// Where the events of a watch go.
#[derive(Debug)]
pub(crate) struct WatchSender {
    events: mpsc::Sender<WatchEvent>,
    /// Room for the last event of all, so that it always arrives.
    last: Option<mpsc::OwnedPermit<WatchEvent>>,
}

impl WatchSender {
    pub(crate) fn new() -> (Self, mpsc::Receiver<WatchEvent>) {
        let (events, inbox) = mpsc::channel(Watch::EVENTS + 1);
        let last = events.clone().try_reserve_owned().ok();
        (Self { events, last }, inbox)
    }

    /// False if there is no room.
    pub(crate) fn send(&mut self, event: WatchEvent) -> bool {
        match (&event, self.last.take()) {
            (WatchEvent::Lost(_), Some(room)) => {
                room.send(event);
                true
            }
            (_, last) => {
                self.last = last;
                // Nobody listens to a watch that is being ended.
                !matches!(self.events.try_send(event), Err(TrySendError::Full(_)))
            }
        }
    }
}

/// What the watchers answered to a notify.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NotifyReply {
    /// Who acknowledged: client, cookie of its watch, and its answer.
    pub acks: Vec<(GlobalId, u64, Bytes)>,
    /// Who did not acknowledge in time: client and cookie of its watch.
    pub timeouts: Vec<(GlobalId, u64)>,
}

impl NotifyReply {
    /// Decodes what an OSD sends when a notify is complete. Ceph: `notify_reply` in
    /// `src/osd/Watch.cc`, `Notify::maybe_complete_notify`.
    ///
    /// # Errors
    /// [`DecodeError`] if it is none.
    pub fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let r = &mut Reader::new(bytes);
        let acks = r.seq("notify acknowledgements", |r| {
            let (gid, cookie) = (GlobalId::decode(r)?, u64::decode(r)?);
            Ok((gid, cookie, bytes.slice_ref(r.bytes("notify answer")?)))
        })?;
        let timeouts = r.seq("notify timeouts", <(GlobalId, u64)>::decode)?;
        Ok(Self { acks, timeouts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_of_a_watch_learns_that_it_was_too_slow() {
        let (mut sender, mut inbox) = WatchSender::new();
        let notify = |n| WatchEvent::Notify { notify_id: n, notifier: GlobalId(1), payload: Bytes::new() };
        assert!((0..Watch::EVENTS as u64).all(|n| sender.send(notify(n))));
        assert!(!sender.send(notify(0)), "no room");
        assert!(sender.send(WatchEvent::Lost(Errno::ENOBUFS)), "but for that");
        let got: Vec<_> = std::iter::from_fn(|| inbox.try_recv().ok()).collect();
        assert_eq!(got.len(), Watch::EVENTS + 1);
        assert_eq!(got.last(), Some(&WatchEvent::Lost(Errno::ENOBUFS)));
    }
}
