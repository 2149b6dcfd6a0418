//! Messages of OSDs, but for maps: those also concern the monitors' client.

use ceph_codec::{Decode, DecodeError};
use ceph_msgr::Message;

use crate::messages::kind;
use crate::messages::osd::{OsdBackoff, OsdOpReply};
use crate::messages::watch::WatchNotify;

use super::{Objecter, SessionId};

impl<C> Objecter<C> {
    /// A message of an OSD. One of an unknown type is ignored.
    ///
    /// # Errors
    /// [`DecodeError`] if it is malformed; the session has to end then.
    pub(crate) fn handle_message(&mut self, id: SessionId, message: Message) -> Result<(), DecodeError> {
        let Message { kind, version, tid, front, data, .. } = message;
        let data = data.into_bytes();
        match kind {
            kind::OSD_OP_REPLY => match OsdOpReply::decode(version, &front, &data) {
                Ok(reply) => self.handle_op_reply(id, tid, reply),
                Err(error) => {
                    self.handle_malformed_reply(id, tid, &error);
                    return Err(error);
                }
            },
            kind::WATCH_NOTIFY => self.handle_watch_message(id, WatchNotify::decode(version, &front)?, &data),
            kind::OSD_BACKOFF => self.handle_backoff(id, OsdBackoff::decode_from(&front)?),
            other => tracing::debug!(kind = other, osd = %id.osd, "message of unknown type ignored"),
        }
        Ok(())
    }
}
