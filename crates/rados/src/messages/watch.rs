//! What an OSD tells a watcher.

use bytes::Bytes;
use ceph_codec::{Decode, DecodeError, GlobalId, Reader};

/// What happened. Ceph: `CEPH_WATCH_EVENT_*` in `src/include/rados.h`.
pub(crate) mod event {
    pub(crate) const NOTIFY: u8 = 1;
    pub(crate) const NOTIFY_COMPLETE: u8 = 2;
    pub(crate) const DISCONNECT: u8 = 3;
}

/// Ceph: `MWatchNotify` version 3 in `src/messages/MWatchNotify.h`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WatchNotify {
    pub(crate) event: u8,
    /// Number of the watch, or of the notify that completed.
    pub(crate) cookie: u64,
    pub(crate) notify_id: u64,
    pub(crate) payload: Bytes,
    /// 0, or a negative errno.
    pub(crate) result: i32,
    pub(crate) notifier: GlobalId,
}

impl WatchNotify {
    pub(crate) fn decode(version: u16, front: &Bytes) -> Result<Self, DecodeError> {
        let r = &mut Reader::new(front);
        let message_version = u8::decode(r)?;
        let event = u8::decode(r)?;
        let cookie = u64::decode(r)?;
        u64::decode(r)?; // version, unused
        let notify_id = u64::decode(r)?;
        let payload =
            if message_version >= 1 { front.slice_ref(r.bytes("notify payload")?) } else { Bytes::new() };
        let result = if version >= 2 { i32::decode(r)? } else { 0 };
        let notifier = if version >= 3 { GlobalId::decode(r)? } else { GlobalId(0) };
        Ok(Self { event, cookie, notify_id, payload, result, notifier })
    }
}
