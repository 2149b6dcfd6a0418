//! Watch and notify: how clients of one object tell each other that something changed.

use bytes::Bytes;
use ceph_codec::{Decode, DecodeError, GlobalId, Reader};
use tokio::sync::mpsc;

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
    /// Events, in the order in which the OSD sent them.
    pub events: mpsc::UnboundedReceiver<WatchEvent>,
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
