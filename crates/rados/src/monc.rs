//! The session with the monitors: what is asked of them, so that it survives their failures.
//!
//! A state machine without sockets. Subscriptions, commands and version queries stay here until they are
//! answered, and are sent again on every new session; the owner connects, and sends what
//! [`MonClient::poll_message`] gives.
//!
//! Ceph: `src/mon/MonClient.cc`.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use ceph_codec::{Decode, DecodeError, EntityAddr, Epoch, Tid, Uuid};
use ceph_msgr::Message;

use crate::messages::kind;
use crate::messages::mon::{
    AuthReply, CommandAck, MonMap, OsdMaps, Subscription, VersionReply, decode_mon_map, encode_auth,
    encode_command, encode_get_version, encode_subscribe,
};

/// What a monitor said that concerns others.
#[derive(Debug)]
pub(crate) enum MonEvent<C> {
    /// New OSDMaps; the owner reports what it has with [`MonClient::have_osdmap`].
    OsdMaps(OsdMaps),
    /// New tickets, or their refusal.
    AuthReply(AuthReply),
    /// A command has ended.
    Command { completion: C, ack: CommandAck, output: Bytes },
    /// The newest epoch of the OSDMap.
    NewestEpoch(Epoch),
}

#[derive(Debug)]
struct Command<C> {
    json: String,
    completion: C,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct MonClient<C> {
    monmap: MonMap,
    /// `host name` in subscriptions, for the operator's eyes.
    hostname: String,
    subscriptions: BTreeMap<&'static str, Subscription>,
    commands: BTreeMap<u64, Command<C>>,
    wants_newest_epoch: bool,
    last_tid: u64,
    connected: bool,
    outbox: VecDeque<Message>,
}

const OSDMAP: &str = "osdmap";
const MONMAP: &str = "monmap";

impl<C> MonClient<C> {
    pub(crate) fn new(hostname: String) -> Self {
        let mut subscriptions = BTreeMap::new();
        subscriptions.insert(MONMAP, Subscription { start: 0, once: false });
        subscriptions.insert(OSDMAP, Subscription { start: 0, once: false });
        Self {
            monmap: MonMap::default(),
            hostname,
            subscriptions,
            commands: BTreeMap::new(),
            wants_newest_epoch: false,
            last_tid: 0,
            connected: false,
            outbox: VecDeque::new(),
        }
    }

    /// The cluster, once a monitor told its map; all zeros before.
    pub(crate) fn fsid(&self) -> Uuid {
        self.monmap.fsid
    }

    /// Where the monitors are according to their map, with names; those that speak only messenger v1 have no
    /// address. Empty before the first map.
    pub(crate) fn monitors(&self) -> impl Iterator<Item = (&str, Option<EntityAddr>)> {
        self.monmap.mons.iter().map(|(name, mon)| (name.as_str(), mon.addrs.msgr2()))
    }

    /// A monitor accepted us: everything open is asked again.
    pub(crate) fn session_opened(&mut self) {
        self.connected = true;
        self.outbox.clear();
        self.push_subscriptions();
        if self.wants_newest_epoch {
            self.push_get_version();
        }
        let tids: Vec<u64> = self.commands.keys().copied().collect();
        for tid in tids {
            self.push_command(tid);
        }
    }

    /// The session is lost.
    pub(crate) fn session_closed(&mut self) {
        self.connected = false;
        self.outbox.clear();
    }

    /// The next message to send.
    pub(crate) fn poll_message(&mut self) -> Option<Message> {
        self.outbox.pop_front()
    }

    /// The OSDMap up to `epoch` is here: from now on later ones are wanted.
    pub(crate) fn have_osdmap(&mut self, epoch: Epoch) {
        // Only remembered for the next session; this one's monitor goes on by itself.
        self.subscriptions.insert(OSDMAP, Subscription { start: u64::from(epoch.0) + 1, once: false });
    }

    /// Asks for maps from `start` on; 0 asks for a full one. For when what came could not be used.
    pub(crate) fn request_osdmap(&mut self, start: Option<Epoch>) {
        let start = start.map_or(0, |epoch| u64::from(epoch.0));
        self.subscriptions.insert(OSDMAP, Subscription { start, once: false });
        if self.connected {
            self.push_subscriptions();
        }
    }

    /// Asks for the newest epoch of the OSDMap.
    pub(crate) fn request_newest_epoch(&mut self) {
        self.wants_newest_epoch = true;
        if self.connected {
            self.push_get_version();
        }
    }

    /// Sends a command, JSON as the `ceph` tool sends it.
    pub(crate) fn command(&mut self, json: String, completion: C) {
        self.last_tid += 1;
        let tid = self.last_tid;
        self.commands.insert(tid, Command { json, completion });
        if self.connected {
            self.push_command(tid);
        }
    }

    /// Asks for new tickets.
    pub(crate) fn renew_tickets(&mut self, method: u32, payload: &[u8]) {
        let front = encode_auth(method, payload, self.monmap.epoch);
        self.push(kind::AUTH, 1, 1, Tid(0), front);
    }

    /// All waiting commands, when the client is shut down.
    pub(crate) fn take_commands(&mut self) -> impl Iterator<Item = C> + use<C> {
        std::mem::take(&mut self.commands).into_values().map(|command| command.completion)
    }

    /// A message of the monitor. `Ok(None)`: it concerns nobody else.
    ///
    /// # Errors
    /// [`DecodeError`] if it is malformed; the session should end then.
    pub(crate) fn handle_message(&mut self, message: Message) -> Result<Option<MonEvent<C>>, DecodeError> {
        let front = &message.front;
        Ok(match message.kind {
            kind::MON_MAP => {
                let monmap = decode_mon_map(front)?;
                if monmap.epoch >= self.monmap.epoch {
                    let start = u64::from(monmap.epoch.0) + 1;
                    self.subscriptions.insert(MONMAP, Subscription { start, once: false });
                    self.monmap = monmap;
                }
                None
            }
            kind::OSD_MAP => Some(MonEvent::OsdMaps(OsdMaps::decode(front)?)),
            kind::AUTH_REPLY => Some(MonEvent::AuthReply(AuthReply::decode_from(front)?)),
            kind::MON_GET_VERSION_REPLY => {
                let reply = VersionReply::decode_from(front)?;
                self.wants_newest_epoch = false;
                Some(MonEvent::NewestEpoch(Epoch(u32::try_from(reply.newest).unwrap_or(u32::MAX))))
            }
            kind::MON_COMMAND_ACK => {
                let ack = CommandAck::decode_from(front)?;
                self.commands.remove(&message.tid.0).map(|command| MonEvent::Command {
                    completion: command.completion,
                    ack,
                    output: message.data.into_bytes(),
                })
            }
            _ => None,
        })
    }

    fn push_subscriptions(&mut self) {
        let front = encode_subscribe(&self.subscriptions, &self.hostname);
        self.push(kind::MON_SUBSCRIBE, 3, 1, Tid(0), front);
    }

    fn push_get_version(&mut self) {
        self.last_tid += 1;
        let handle = self.last_tid;
        self.push(kind::MON_GET_VERSION, 1, 1, Tid(handle), encode_get_version(handle, OSDMAP));
    }

    fn push_command(&mut self, tid: u64) {
        if let Some(command) = self.commands.get(&tid) {
            let front = encode_command(self.monmap.fsid, &command.json);
            self.push(kind::MON_COMMAND, 0, 0, Tid(tid), front);
        }
    }

    fn push(&mut self, kind: u16, version: u16, compat_version: u16, tid: Tid, front: Vec<u8>) {
        self.outbox.push_back(Message {
            kind,
            version,
            compat_version,
            tid,
            priority: ceph_msgr::priority::DEFAULT,
            front: front.into(),
            ..Message::default()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ceph_codec::Encode;

    fn kinds(monc: &mut MonClient<u8>) -> Vec<u16> {
        std::iter::from_fn(|| monc.poll_message()).map(|m| m.kind).collect()
    }

    fn ack(tid: u64) -> Message {
        let mut front = vec![0; 18];
        0i32.encode(&mut front);
        "done".encode(&mut front);
        Message { kind: kind::MON_COMMAND_ACK, tid: Tid(tid), front: front.into(), ..Message::default() }
    }

    #[test]
    fn what_is_open_is_asked_again_on_every_new_session() {
        let mut monc = MonClient::new("host".into());
        monc.command("{}".into(), 7);
        monc.request_newest_epoch();
        assert!(kinds(&mut monc).is_empty(), "nobody to ask yet");
        for _ in 0..2 {
            monc.session_opened();
            assert_eq!(kinds(&mut monc), [kind::MON_SUBSCRIBE, kind::MON_GET_VERSION, kind::MON_COMMAND]);
            monc.session_closed();
        }
        monc.session_opened();
        let event = monc.handle_message(ack(1)).unwrap();
        assert!(matches!(event, Some(MonEvent::Command { completion: 7, .. })));
        assert!(monc.handle_message(ack(1)).unwrap().is_none(), "a second answer concerns nobody");
    }

    #[test]
    fn a_new_session_continues_the_maps_where_the_last_one_ended() {
        let mut monc = MonClient::<u8>::new(String::new());
        monc.have_osdmap(Epoch(41));
        assert_eq!(monc.subscriptions[OSDMAP].start, 42);
        monc.request_osdmap(None);
        assert_eq!(monc.subscriptions[OSDMAP].start, 0, "a full map");
    }
}
