//! The session with the monitors: what is asked of them, so that it survives their failures.
//!
//! A state machine without sockets. Subscriptions, commands and version queries stay here until they are
//! answered, and are sent again on every new session; the owner connects, and sends what
//! [`MonClient::poll_message`] gives.
//!
//! Ceph: `src/mon/MonClient.cc`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

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
    /// The newest epoch of the OSDMap when this question, and all before it, had been asked.
    NewestEpoch { question: u64, epoch: Epoch },
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
    /// Questions for the newest epoch that are not answered yet.
    questions: BTreeSet<u64>,
    /// A full OSDMap was asked for because what came was of no use.
    asked_full_osdmap: bool,
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
            questions: BTreeSet::new(),
            asked_full_osdmap: false,
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
        self.asked_full_osdmap = false;
        for question in self.questions.clone() {
            self.push_get_version(question);
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
        self.asked_full_osdmap = false;
        // Only remembered for the next session; this one's monitor goes on by itself.
        self.subscriptions.insert(OSDMAP, Subscription { start: u64::from(epoch.0) + 1, once: false });
    }

    /// Asks for maps from `start` on. For when some are missing.
    pub(crate) fn request_osdmap(&mut self, start: Epoch) {
        self.subscribe_osdmap(u64::from(start.0));
    }

    /// Asks for a full map. For when what came could not be used. If what comes then cannot be used either,
    /// asking again waits for the next session: no answer would be better.
    pub(crate) fn request_full_osdmap(&mut self) {
        if !std::mem::replace(&mut self.asked_full_osdmap, true) {
            self.subscribe_osdmap(0);
        }
    }

    fn subscribe_osdmap(&mut self, start: u64) {
        self.subscriptions.insert(OSDMAP, Subscription { start, once: false });
        if self.connected {
            self.push_subscriptions();
        }
    }

    /// Asks for the newest epoch of the OSDMap; returns the number of the question. The answer to a later
    /// question answers all before it, not the other way round.
    pub(crate) fn request_newest_epoch(&mut self) -> u64 {
        self.last_tid += 1;
        let question = self.last_tid;
        self.questions.insert(question);
        if self.connected {
            self.push_get_version(question);
        }
        question
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
                let question = reply.handle;
                if !self.questions.contains(&question) {
                    return Ok(None);
                }
                self.questions = self.questions.split_off(&(question + 1));
                let epoch = Epoch(u32::try_from(reply.newest).unwrap_or(u32::MAX));
                Some(MonEvent::NewestEpoch { question, epoch })
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

    fn push_get_version(&mut self, handle: u64) {
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
        monc.request_full_osdmap();
        assert_eq!(monc.subscriptions[OSDMAP].start, 0, "a full map");
    }

    #[test]
    fn a_full_map_that_is_of_no_use_is_not_asked_for_again_and_again() {
        let mut monc = MonClient::<u8>::new(String::new());
        monc.session_opened();
        kinds(&mut monc);
        monc.request_full_osdmap();
        monc.request_full_osdmap();
        assert_eq!(kinds(&mut monc), [kind::MON_SUBSCRIBE]);
        monc.have_osdmap(Epoch(3));
        monc.request_full_osdmap();
        assert_eq!(kinds(&mut monc), [kind::MON_SUBSCRIBE], "those were other maps");
    }

    #[test]
    fn an_answer_counts_for_earlier_questions_only() {
        let answer = |handle: u64| Message {
            kind: kind::MON_GET_VERSION_REPLY,
            front: [handle, 9, 1].iter().flat_map(|n: &u64| n.to_le_bytes()).collect::<Vec<_>>().into(),
            ..Message::default()
        };
        let mut monc = MonClient::<u8>::new(String::new());
        monc.session_opened();
        let (first, second, third) =
            (monc.request_newest_epoch(), monc.request_newest_epoch(), monc.request_newest_epoch());
        let event = monc.handle_message(answer(second)).unwrap();
        assert!(matches!(event, Some(MonEvent::NewestEpoch { question, .. }) if question == second));
        assert!(monc.handle_message(answer(first)).unwrap().is_none(), "answered already");
        assert!(monc.handle_message(answer(third)).unwrap().is_some());
        assert!(monc.handle_message(answer(99)).unwrap().is_none(), "nobody asked that");
    }
}
