//! Monitors: they tell clients of maps, answer questions and carry out commands.

use std::collections::BTreeMap;

use bytes::Bytes;
use ceph_codec::{AddrType, DecodeError, EntityAddr, EntityAddrVec, Epoch, Tid, Utime};
use ceph_msgr::Message;

use crate::cluster::Daemon;
use crate::net::ConnId;
use crate::wire::{self, errno, kind};
use crate::world::{Event, Millis, World};

#[derive(Debug)]
pub(crate) struct Mon {
    pub(crate) alive: bool,
    pub(crate) addr: EntityAddr,
    pub(crate) frozen_until: Millis,
    /// The newest map that this monitor has.
    epoch: Epoch,
    sessions: BTreeMap<ConnId, Session>,
}

#[derive(Debug, Default)]
struct Session {
    /// The next map wanted, if maps are.
    osdmap: Option<Epoch>,
    monmap: bool,
    once: bool,
    /// The newest map sent: none up to it is sent again as an incremental. Ceph: `MonSession::osd_epoch`.
    sent: Epoch,
}

#[derive(Debug)]
pub(crate) enum MonEvent {
    Map { mon: usize, epoch: Epoch },
    Start { mon: usize },
    Command { mon: usize, conn: ConnId, tid: Tid, words: Vec<String> },
}

/// Maps in one message. Ceph: `osd_map_message_max`.
const MAX_MAPS: u32 = 40;

impl Mon {
    pub(crate) fn new(addr: EntityAddr) -> Self {
        Self { alive: true, addr, frozen_until: 0, epoch: Epoch(1), sessions: BTreeMap::new() }
    }
}

impl World {
    pub(crate) fn on_mon_event(&mut self, event: MonEvent) {
        match event {
            MonEvent::Map { mon, epoch } => {
                if let Some(delay) = self.thaw(Daemon::Mon(mon)) {
                    return self.schedule(delay, Event::Mon(MonEvent::Map { mon, epoch }));
                }
                let this = &mut self.cluster.mons[mon];
                if !this.alive || this.epoch >= epoch {
                    return;
                }
                this.epoch = epoch;
                for conn in this.sessions.keys().copied().collect::<Vec<_>>() {
                    self.send_subscribed_maps(mon, conn);
                }
            }
            MonEvent::Start { mon } => {
                let newest = self.cluster.epoch();
                let this = &mut self.cluster.mons[mon];
                this.alive = true;
                this.epoch = newest;
                self.note(format_args!("mon.{mon} started"));
            }
            MonEvent::Command { mon, conn, tid, words } => {
                let (result, status) = self.command(&words);
                if self.cluster.mons[mon].sessions.contains_key(&conn) {
                    self.send(conn, &wire::command_ack(tid, result, &status));
                }
            }
        }
    }

    /// How long until a frozen daemon goes on; `None` if it is not frozen.
    pub(crate) fn thaw(&self, daemon: Daemon) -> Option<Millis> {
        let until = self.frozen_until(daemon);
        (until > self.now).then(|| until - self.now)
    }

    pub(crate) fn tell_mon_of_map(&mut self, mon: usize, epoch: Epoch, lag: Millis) {
        self.schedule(lag, Event::Mon(MonEvent::Map { mon, epoch }));
    }

    pub(crate) fn kill_mon(&mut self, mon: usize) {
        self.note(format_args!("mon.{mon} killed"));
        self.cluster.mons[mon].alive = false;
        for conn in self.connections_to(Daemon::Mon(mon)) {
            self.reset(conn);
        }
    }

    /// A monitor goes on at another port of its host, and all monitors tell their clients.
    pub(crate) fn move_mon(&mut self, mon: usize, port: u16) {
        let mut addr = self.cluster.mons[mon].addr;
        if addr.addr.is_none_or(|addr| addr.port() == port) {
            return;
        }
        addr.addr.iter_mut().for_each(|addr| addr.set_port(port));
        self.note(format_args!("mon.{mon} moves to {addr}"));
        self.cluster.mons[mon].addr = addr;
        self.cluster.monmap_epoch = self.cluster.monmap_epoch.next();
        for conn in self.connections_to(Daemon::Mon(mon)) {
            self.reset(conn);
        }
        for mon in 0..self.cluster.mons.len() {
            let sessions = self.cluster.mons[mon].sessions.iter();
            let subscribers: Vec<ConnId> =
                sessions.filter(|(_, s)| s.monmap).map(|(conn, _)| *conn).collect();
            subscribers.into_iter().for_each(|conn| self.send_mon_map(conn));
        }
    }

    pub(crate) fn start_mon(&mut self, mon: usize, delay: Millis) {
        self.schedule(delay, Event::Mon(MonEvent::Start { mon }));
    }

    pub(crate) fn mon_session_opened(&mut self, mon: usize, conn: ConnId) {
        self.cluster.mons[mon].sessions.insert(conn, Session::default());
        // A real one sends its map unasked, before anything else.
        self.send_mon_map(conn);
    }

    pub(crate) fn mon_disconnected(&mut self, mon: usize, conn: ConnId) {
        self.cluster.mons[mon].sessions.remove(&conn);
        self.cluster.auth.disconnected(conn);
    }

    /// Sends a message, if the connection is still there.
    pub(crate) fn send(&mut self, conn: ConnId, message: &Message) {
        if let Some(server) = self.server(conn)
            && server.send(message).is_ok()
        {
            self.flush(conn);
        }
    }

    pub(crate) fn on_mon_message(&mut self, mon: usize, conn: ConnId, message: Message) {
        self.note(format_args!("mon.{mon} <- {conn}: message {} tid {}", message.kind, message.tid));
        if let Err(error) = self.handle_mon_message(mon, conn, &message) {
            self.violation(format!("malformed message {} for a monitor: {error}", message.kind));
        }
    }

    fn handle_mon_message(&mut self, mon: usize, conn: ConnId, message: &Message) -> Result<(), DecodeError> {
        match message.kind {
            kind::MON_SUBSCRIBE => {
                let topics = wire::decode_subscribe(&message.front)?;
                if topics
                    .get("monmap")
                    .is_some_and(|(start, _)| *start <= u64::from(self.cluster.monmap_epoch.0))
                {
                    self.send_mon_map(conn);
                }
                if let Some(session) = self.cluster.mons[mon].sessions.get_mut(&conn) {
                    session.monmap |= topics.contains_key("monmap");
                }
                if let Some(&(start, once)) = topics.get("osdmap")
                    && let Some(session) = self.cluster.mons[mon].sessions.get_mut(&conn)
                {
                    session.osdmap = Some(Epoch(u32::try_from(start).unwrap_or(u32::MAX)));
                    session.once = once;
                    self.send_subscribed_maps(mon, conn);
                }
            }
            kind::MON_GET_VERSION => {
                let (handle, topic) = wire::decode_get_version(&message.front)?;
                let newest = if topic == "osdmap" { self.cluster.epoch() } else { self.cluster.monmap_epoch };
                self.send(conn, &wire::version_reply(handle, newest.0.into(), 1));
            }
            kind::MON_COMMAND => {
                let words = wire::decode_command(&message.front)?;
                let delay = self.rng.range(1..300);
                let tid = message.tid;
                self.schedule(delay, Event::Mon(MonEvent::Command { mon, conn, tid, words }));
            }
            kind::AUTH => {
                let payload = wire::decode_auth(&message.front)?;
                self.on_renewal(mon, conn, &payload);
            }
            other => self.violation(format!("message {other} for a monitor")),
        }
        Ok(())
    }

    fn send_mon_map(&mut self, conn: ConnId) {
        let mons: Vec<(String, EntityAddrVec)> =
            self.cluster.mons.iter().enumerate().map(|(i, mon)| (format!("{i}"), mon.addr.into())).collect();
        self.send(conn, &wire::mon_map(self.cluster.map.fsid, self.cluster.monmap_epoch, &mons));
    }

    /// Ceph: `OSDMonitor::check_osdmap_sub`, `OSDMonitor::send_incremental`.
    fn send_subscribed_maps(&mut self, mon: usize, conn: ConnId) {
        let this = &mut self.cluster.mons[mon];
        let newest = this.epoch;
        let Some(session) = this.sessions.get_mut(&conn) else { return };
        let Some(next) = session.osdmap.filter(|next| *next <= newest) else { return };
        let mut first = next;
        if session.once {
            session.osdmap = None;
        } else {
            session.osdmap = Some(newest.next());
        }
        if next == Epoch(0) {
            session.sent = newest;
            return self.send_maps(conn, None, Some(newest), newest);
        }
        first = first.max(session.sent.next());
        session.sent = session.sent.max(newest);
        let oldest = self.cluster.oldest;
        if first < oldest {
            self.send_maps(conn, None, Some(oldest), newest);
            first = oldest.next();
        }
        while first <= newest {
            let last = Epoch(first.0 + MAX_MAPS - 1).min(newest);
            self.send_maps(conn, Some((first, last)), None, newest);
            first = last.next();
        }
    }

    /// Sends maps: incrementals of a range of epochs, the full map of one.
    pub(crate) fn send_maps(
        &mut self,
        conn: ConnId,
        range: Option<(Epoch, Epoch)>,
        full: Option<Epoch>,
        newest: Epoch,
    ) {
        let mut incrementals: BTreeMap<Epoch, Bytes> = BTreeMap::new();
        let mut fulls: BTreeMap<Epoch, Bytes> = BTreeMap::new();
        if let Some((first, last)) = range {
            for epoch in first.0..=last.0 {
                let Some(info) = self.cluster.info(Epoch(epoch)) else { continue };
                match &info.incremental {
                    Some(incremental) => drop(incrementals.insert(Epoch(epoch), incremental.clone())),
                    None => drop(fulls.insert(Epoch(epoch), info.full.clone())),
                }
            }
        }
        if let Some(epoch) = full
            && let Some(info) = self.cluster.info(epoch)
        {
            fulls.insert(epoch, info.full.clone());
        }
        let oldest = self.cluster.oldest;
        let message = wire::osd_maps(self.cluster.map.fsid, &incrementals, &fulls, oldest, newest);
        self.note(format_args!("maps {range:?} full {full:?} -> {conn}"));
        self.send(conn, &message);
    }

    fn command(&mut self, words: &[String]) -> (i32, String) {
        let Some(json) = words.first().and_then(|word| serde_json::from_str::<serde_json::Value>(word).ok())
        else {
            return (errno::EINVAL, "not JSON".to_owned());
        };
        let text = |key: &str| json.get(key).and_then(|value| value.as_str()).unwrap_or_default().to_owned();
        match text("prefix").as_str() {
            "osd blocklist" => {
                let addr = text("addr");
                let Some((socket, nonce)) = addr.split_once('/') else {
                    return (errno::EINVAL, format!("no address: {addr}"));
                };
                let (Ok(socket), Ok(nonce)) = (socket.parse(), nonce.parse()) else {
                    return (errno::EINVAL, format!("no address: {addr}"));
                };
                let until = Utime { sec: self.date().sec + 3600, nsec: 0 };
                let entry = EntityAddr { kind: AddrType::ANY, nonce, addr: Some(socket) };
                self.new_epoch(|map| map.blocklist.extend([(entry, until)]));
                (0, format!("blocklisting {addr}"))
            }
            other => (errno::EINVAL, format!("unknown command {other}")),
        }
    }
}
