//! The session with the monitors: what is asked of them, so that it survives their failures.
//!
//! A state machine without sockets. Subscriptions, commands and questions stay here until they are answered,
//! and are sent again on every new session; the owner connects, and sends what [`MonClient::poll_message`]
//! gives. Times are durations since any fixed moment.
//!
//! Ceph: `src/mon/MonClient.cc`.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use ceph_codec::{Decode, DecodeError, EntityAddr, Epoch, PoolId, Tid, Uuid};
use ceph_msgr::Message;
use thiserror::Error;

use crate::messages::kind;
use crate::messages::mon::{
    AuthReply, CommandAck, MonInfo, MonMap, OsdMaps, Subscription, VersionReply, decode_config,
    decode_mon_map, encode_auth, encode_command, encode_get_version, encode_subscribe,
};
use crate::messages::pool_op::{PoolOpReply, SnapOp};

/// Within this time a monitor of some use answers what needs nobody's consent: the map of monitors when a
/// session begins, and the newest epoch of a map.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// How long a monitor may take to answer a request for tickets.
const RENEWAL_LIMIT: Duration = Duration::from_secs(30);
use crate::requests::{RequestStatus, WaitsFor};

/// What a monitor said that concerns others.
#[derive(Debug)]
pub(crate) enum MonEvent<C, P> {
    /// New OSDMaps; the owner reports what it has with [`MonClient::have_osdmap`].
    OsdMaps(OsdMaps),
    /// New tickets, or their refusal.
    AuthReply(AuthReply),
    /// The services' keys were replaced: their tickets are of no use any more.
    TicketsRevoked,
    /// All options that the monitors have for this client, by name.
    Config(BTreeMap<String, String>),
    /// A command has ended.
    Command { completion: C, ack: CommandAck, output: Bytes },
    /// A change of a pool's snapshots has ended.
    PoolOp { completion: P, reply: PoolOpReply },
    /// The newest epoch of the OSDMap when this question, and all before it, had been asked.
    NewestEpoch { question: u64, epoch: Epoch },
}

/// Why a session with a monitor has to end. A new one, perhaps with another monitor, goes on.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum MonSessionError {
    #[error("the monitor sent a malformed message")]
    Malformed(#[from] DecodeError),
    #[error("the monitor belongs to the cluster {found}, not to {expected}")]
    OtherCluster { expected: Uuid, found: Uuid },
    #[error("the monitor is not one of the cluster's any more (monmap {0})")]
    NotInMap(Epoch),
    #[error("the monitor does not answer, though it is alive")]
    Mute,
    #[error("the monitor did not answer a request for tickets within {} seconds", .0.as_secs())]
    NoTickets(Duration),
}

/// A question that waits for its answer.
#[derive(Debug)]
struct Asked<C, P> {
    question: Question<C, P>,
    since: Duration,
    /// When it was sent in this session.
    sent: Option<Duration>,
    attempts: u32,
}

#[derive(Debug)]
enum Question<C, P> {
    Command { json: String, input: Bytes, completion: C },
    PoolOp { pool: PoolId, op: SnapOp, completion: P },
    NewestEpoch,
}

/// The session that is open.
#[derive(Debug)]
struct Session {
    peer: EntityAddr,
    opened: Duration,
    /// Whether the monitor has answered the subscriptions.
    greeted: bool,
    /// Whether it has told the configuration.
    told_config: bool,
    /// When tickets were asked for that have not come yet.
    asked_tickets: Option<Duration>,
    /// The question whose answer only this session needs.
    probe: Option<u64>,
}

/// See the [module](self). `C` is told how a command ended, `P` how a change of a pool did.
#[derive(Debug)]
pub(crate) struct MonClient<C, P> {
    monmap: MonMap,
    /// `host name` in subscriptions, for the operator's eyes.
    hostname: String,
    subscriptions: BTreeMap<&'static str, Subscription>,
    /// By tid.
    asked: BTreeMap<u64, Asked<C, P>>,
    /// A full OSDMap was asked for because what came was of no use.
    asked_full_osdmap: bool,
    /// Of the OSDMap that is here.
    osdmap_epoch: Epoch,
    last_tid: u64,
    session: Option<Session>,
    /// Sessions in a row that ended because the monitor owed answers.
    mute: u32,
    outbox: VecDeque<Message>,
    events: VecDeque<MonEvent<C, P>>,
}

const OSDMAP: &str = "osdmap";
const MONMAP: &str = "monmap";
/// Comes before [`MONMAP`] in the alphabet, so a monitor deals with it first.
const CONFIG: &str = "config";

impl<C, P> MonClient<C, P> {
    pub(crate) fn new(hostname: String) -> Self {
        let mut subscriptions = BTreeMap::new();
        subscriptions.insert(CONFIG, Subscription { start: 0, once: false });
        subscriptions.insert(MONMAP, Subscription { start: 0, once: false });
        subscriptions.insert(OSDMAP, Subscription { start: 0, once: false });
        Self {
            monmap: MonMap::default(),
            hostname,
            subscriptions,
            asked: BTreeMap::new(),
            asked_full_osdmap: false,
            osdmap_epoch: Epoch(0),
            last_tid: 0,
            session: None,
            mute: 0,
            outbox: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// The cluster, once a monitor told its map; all zeros before.
    pub(crate) fn fsid(&self) -> Uuid {
        self.monmap.fsid
    }

    /// The monitors according to their map, by name. Empty before the first map.
    pub(crate) fn monitors(&self) -> &BTreeMap<String, MonInfo> {
        &self.monmap.mons
    }

    /// Everything that is asked and not answered.
    pub(crate) fn requests(&self, now: Duration) -> Vec<RequestStatus> {
        let waits_for = if self.session.is_some() { WaitsFor::MonitorAnswer } else { WaitsFor::Monitor };
        let status = |tid: u64, what: String, since: Duration, attempts| RequestStatus {
            tid,
            what,
            object: None,
            age: now.saturating_sub(since),
            attempts,
            pg: None,
            osd: None,
            waits_for: waits_for.clone(),
        };
        let asked = self
            .asked
            .iter()
            .map(|(tid, asked)| status(*tid, asked.question.to_string(), asked.since, asked.attempts));
        let tickets = self.session.as_ref().and_then(|session| session.asked_tickets);
        asked.chain(tickets.map(|since| status(0, "new tickets".to_owned(), since, 1))).collect()
    }

    /// The monitor at `peer` accepted us: everything open is asked again.
    pub(crate) fn session_opened(&mut self, peer: EntityAddr, now: Duration) {
        self.session = Some(Session {
            peer,
            opened: now,
            greeted: false,
            told_config: false,
            asked_tickets: None,
            probe: None,
        });
        self.outbox.clear();
        // From the map that is here on, not from the next: the answer shows that the monitor is of some use.
        self.subscriptions.insert(MONMAP, Subscription { start: self.monmap.epoch.0.into(), once: false });
        self.push_subscriptions();
        self.asked_full_osdmap = false;
        let tids: Vec<u64> = self.asked.keys().copied().collect();
        for tid in tids {
            self.push_question(tid, now);
        }
    }

    /// The session is lost.
    pub(crate) fn session_closed(&mut self) {
        if let Some(question) = self.session.take().and_then(|session| session.probe) {
            self.cancel(question);
        }
        self.outbox.clear();
        for asked in self.asked.values_mut() {
            asked.sent = None;
        }
    }

    /// To be called every second or so.
    ///
    /// # Errors
    /// [`MonSessionError`] if the monitor owes answers for too long, however alive it is: another one may be
    /// of more use.
    pub(crate) fn check_answers(&mut self, now: Duration) -> Result<(), MonSessionError> {
        let Some(session) = &self.session else { return Ok(()) };
        let is_late = |since: Duration, limit| now.saturating_sub(since) > limit;
        if session.asked_tickets.is_some_and(|since| is_late(since, RENEWAL_LIMIT)) {
            return Err(MonSessionError::NoTickets(RENEWAL_LIMIT));
        }
        // A command may take long: it waits for a quorum, or for whatever it does.
        let question = self
            .asked
            .values()
            .filter(|asked| matches!(asked.question, Question::NewestEpoch))
            .find_map(|asked| asked.sent);
        let greeting = (!session.greeted).then_some(session.opened);
        // If all are slow, coming back again and again makes them slower.
        let limit = ANSWER_LIMIT.saturating_mul(1 << self.mute.min(3));
        if question.into_iter().chain(greeting).any(|since| is_late(since, limit)) {
            self.mute = self.mute.saturating_add(1);
            return Err(MonSessionError::Mute);
        }
        Ok(())
    }

    /// The next message to send.
    pub(crate) fn poll_message(&mut self) -> Option<Message> {
        self.outbox.pop_front()
    }

    /// The OSDMap up to `epoch` is here: from now on later ones are wanted.
    pub(crate) fn have_osdmap(&mut self, epoch: Epoch) {
        self.asked_full_osdmap = false;
        self.osdmap_epoch = epoch;
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
        if self.session.is_some() {
            self.push_subscriptions();
        }
    }

    /// Asks for the newest epoch of the OSDMap; returns the number of the question. The answer to a later
    /// question answers all before it, not the other way round.
    pub(crate) fn request_newest_epoch(&mut self, now: Duration) -> u64 {
        self.ask(Question::NewestEpoch, now)
    }

    /// Makes sure that a question is under way which a monitor of some use answers at once: when its answers
    /// matter, silence is found out sooner.
    pub(crate) fn probe(&mut self, now: Duration) {
        if self.session.is_some() && !self.asked.values().any(Asked::is_about_epoch) {
            let question = self.request_newest_epoch(now);
            if let Some(session) = &mut self.session {
                session.probe = Some(question);
            }
        }
    }

    /// Sends a command, JSON as the `ceph` tool sends it; returns its number.
    pub(crate) fn command(&mut self, json: String, input: Bytes, completion: C, now: Duration) -> u64 {
        self.ask(Question::Command { json, input, completion }, now)
    }

    /// Changes the snapshots of a pool; returns the number of the question. What is sent again, because the
    /// monitor that had it was lost, may be done twice: a snapshot's number may be given out for nobody.
    pub(crate) fn pool_op(&mut self, pool: PoolId, op: SnapOp, completion: P, now: Duration) -> u64 {
        self.ask(Question::PoolOp { pool, op, completion }, now)
    }

    /// Forgets a question: nobody waits for its answer any more. The monitors may act on it all the same.
    pub(crate) fn cancel(&mut self, tid: u64) {
        self.asked.remove(&tid);
    }

    fn ask(&mut self, question: Question<C, P>, now: Duration) -> u64 {
        self.last_tid += 1;
        let tid = self.last_tid;
        self.asked.insert(tid, Asked { question, since: now, sent: None, attempts: 0 });
        if self.session.is_some() {
            self.push_question(tid, now);
        }
        tid
    }

    /// Asks for new tickets.
    pub(crate) fn renew_tickets(&mut self, method: u32, payload: &[u8], now: Duration) {
        let Some(session) = &mut self.session else { return };
        session.asked_tickets = Some(now);
        let front = encode_auth(method, payload, self.monmap.epoch);
        self.push(kind::AUTH, 1, 1, Tid(0), front);
    }

    /// Drops all questions with their completions, when the client is shut down.
    pub(crate) fn forget_questions(&mut self) {
        self.asked.clear();
    }

    /// What a monitor said that concerns others, in its order.
    pub(crate) fn poll_event(&mut self) -> Option<MonEvent<C, P>> {
        self.events.pop_front()
    }

    /// A message of the monitor.
    ///
    /// # Errors
    /// [`MonSessionError`]; the session has to end then.
    pub(crate) fn handle_message(&mut self, message: Message) -> Result<(), MonSessionError> {
        let front = &message.front;
        let event = match message.kind {
            kind::MON_MAP => return self.handle_mon_map(decode_mon_map(front)?),
            kind::CONFIG => {
                if let Some(session) = &mut self.session {
                    session.told_config = true;
                }
                Some(MonEvent::Config(decode_config(front)?))
            }
            kind::OSD_MAP => Some(MonEvent::OsdMaps(OsdMaps::decode(front)?)),
            kind::AUTH_REPLY => {
                if let Some(session) = &mut self.session {
                    session.asked_tickets = None;
                }
                Some(MonEvent::AuthReply(AuthReply::decode_from(front)?))
            }
            kind::MON_GET_VERSION_REPLY => self.handle_version(VersionReply::decode_from(front)?),
            kind::MON_COMMAND_ACK => {
                let ack = CommandAck::decode_from(front)?;
                self.handle_command_ack(message.tid.0, ack, message.data.into_bytes())
            }
            kind::POOL_OP_REPLY => self.handle_pool_op_reply(message.tid.0, PoolOpReply::decode(front)?),
            _ => None,
        };
        self.events.extend(event);
        Ok(())
    }

    fn handle_mon_map(&mut self, monmap: MonMap) -> Result<(), MonSessionError> {
        let known = self.monmap.epoch > Epoch(0);
        if known && monmap.fsid != self.monmap.fsid {
            return Err(MonSessionError::OtherCluster { expected: self.monmap.fsid, found: monmap.fsid });
        }
        if let Some(session) = self.session.as_mut().filter(|session| !session.greeted) {
            session.greeted = true;
            if !self.asked.values().any(Asked::is_about_epoch) {
                self.mute = 0;
            }
            // Up to Ceph 16 a monitor says nothing if it has no options for us.
            if !session.told_config {
                self.events.push_back(MonEvent::Config(BTreeMap::new()));
            }
        }
        if monmap.epoch < self.monmap.epoch {
            // A monitor that is behind, and will catch up.
            return Ok(());
        }
        if known && monmap.auth_epoch > self.monmap.auth_epoch {
            self.events.push_back(MonEvent::TicketsRevoked);
        }
        let start = u64::from(monmap.epoch.0) + 1;
        self.subscriptions.insert(MONMAP, Subscription { start, once: false });
        self.monmap = monmap;
        match &self.session {
            Some(session) if !self.monmap.contains(session.peer) => {
                Err(MonSessionError::NotInMap(self.monmap.epoch))
            }
            _ => Ok(()),
        }
    }

    fn handle_version(&mut self, reply: VersionReply) -> Option<MonEvent<C, P>> {
        let question = reply.handle;
        if !self.asked.get(&question).is_some_and(Asked::is_about_epoch) {
            return None;
        }
        self.asked.retain(|tid, asked| *tid > question || !asked.is_about_epoch());
        self.mute = 0;
        let epoch = Epoch(u32::try_from(reply.newest).unwrap_or(u32::MAX));
        Some(MonEvent::NewestEpoch { question, epoch })
    }

    fn handle_command_ack(&mut self, tid: u64, ack: CommandAck, output: Bytes) -> Option<MonEvent<C, P>> {
        let is_command = |asked: &Asked<C, P>| matches!(asked.question, Question::Command { .. });
        self.asked.get(&tid).filter(|asked| is_command(asked))?;
        match self.asked.remove(&tid)?.question {
            Question::Command { completion, .. } => Some(MonEvent::Command { completion, ack, output }),
            _ => None,
        }
    }

    fn handle_pool_op_reply(&mut self, tid: u64, reply: PoolOpReply) -> Option<MonEvent<C, P>> {
        let is_pool_op = |asked: &Asked<C, P>| matches!(asked.question, Question::PoolOp { .. });
        self.asked.get(&tid).filter(|asked| is_pool_op(asked))?;
        match self.asked.remove(&tid)?.question {
            Question::PoolOp { completion, .. } => Some(MonEvent::PoolOp { completion, reply }),
            _ => None,
        }
    }

    fn push_subscriptions(&mut self) {
        let front = encode_subscribe(&self.subscriptions, &self.hostname);
        self.push(kind::MON_SUBSCRIBE, 3, 1, Tid(0), front);
    }

    fn push_question(&mut self, tid: u64, now: Duration) {
        let Some(asked) = self.asked.get_mut(&tid) else { return };
        asked.sent = Some(now);
        asked.attempts = asked.attempts.saturating_add(1);
        let fsid = self.monmap.fsid;
        let (kind, version, compat, front, data) = match &asked.question {
            Question::Command { json, input, .. } => {
                (kind::MON_COMMAND, 0, 0, encode_command(fsid, json), input.clone())
            }
            Question::PoolOp { pool, op, .. } => {
                let front = op.encode(fsid, *pool, self.osdmap_epoch);
                (kind::POOL_OP, SnapOp::VERSION, SnapOp::COMPAT, front, Bytes::new())
            }
            Question::NewestEpoch => {
                (kind::MON_GET_VERSION, 1, 1, encode_get_version(tid, OSDMAP), Bytes::new())
            }
        };
        self.push(kind, version, compat, Tid(tid), front);
        if let Some(message) = self.outbox.back_mut() {
            message.data = std::iter::once(data).collect();
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

impl<C, P> Asked<C, P> {
    fn is_about_epoch(&self) -> bool {
        matches!(self.question, Question::NewestEpoch)
    }
}

impl<C, P> fmt::Display for Question<C, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Its name only, for its arguments may be secret.
            Self::Command { json, .. } => write!(f, "command {}", prefix_of(json)),
            Self::PoolOp { pool, .. } => write!(f, "change of the snapshots of pool {pool}"),
            Self::NewestEpoch => f.write_str("newest OSDMap epoch"),
        }
    }
}

fn prefix_of(json: &str) -> String {
    let command: Option<serde_json::Value> = serde_json::from_str(json).ok();
    let prefix = command.as_ref().and_then(|command| command["prefix"].as_str());
    prefix.unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests;
