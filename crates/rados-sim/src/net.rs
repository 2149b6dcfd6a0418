//! The network: streams of bytes between clients and daemons, on which anything may happen to any byte.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use bytes::{Buf, Bytes};
use ceph_codec::{AddrType, EntityAddr};
use ceph_msgr::{ServerConnection, ServerEvent};
use parking_lot::Mutex;
use rados::{Connecting, Stream, System};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::sleep;

use crate::cluster::Daemon;
use crate::rng::Rng;
use crate::world::{Event, Millis, Sim, World};

/// Numbers connections in the order in which they are opened.
pub type ConnId = usize;

/// Whose bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The client's.
    ToServer,
    /// The daemon's.
    ToClient,
}

/// What happens to a direction of a connection behind a certain byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The connection is reset.
    Reset,
    /// The receiver sees the end; the other direction goes on.
    HalfClose,
    /// Nothing more arrives, and nobody is told.
    BlackHole,
    /// The next byte arrives changed.
    Corrupt,
}

/// How the network treats connections.
#[derive(Debug, Clone)]
pub struct Weather {
    /// Longest delay of a chunk.
    pub latency: Millis,
    /// Percentage of connections in which something happens to one of the first bytes.
    pub fates: u64,
    /// How many bytes "the first" are.
    pub fate_range: u64,
    /// Percentage of attempts to connect that are refused.
    pub refused: u64,
    /// Percentage of attempts to connect that are accepted and not answered.
    pub black_holes: u64,
    /// Percentage of connections whose bytes arrive one by one at first, or in small chunks.
    pub crumbled: u64,
}

impl Weather {
    /// Nothing happens to anything.
    pub const CALM: Self =
        Self { latency: 3, fates: 0, fate_range: 1, refused: 0, black_holes: 0, crumbled: 0 };
}

/// Chosen for one connection beforehand: which one, which direction, behind which byte, what.
pub type Script = (ConnId, Direction, u64, Fate);

#[derive(Debug)]
pub(crate) struct Network {
    rng: Rng,
    pub(crate) weather: Weather,
    pub(crate) script: Option<Script>,
    pub(crate) conns: BTreeMap<ConnId, Conn>,
    opened: usize,
    /// Pairs of client and daemon that cannot reach each other, and until when.
    pub(crate) partitions: BTreeMap<(usize, Daemon), Millis>,
    /// Bytes that connections were given to carry, in both directions.
    pub(crate) carried: BTreeMap<ConnId, [u64; 2]>,
}

/// Bytes of a banner.
const BANNER: u64 = 26;

/// Bytes that a direction takes before its reader has read them.
const WINDOW: usize = 256 << 10;

#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) client: usize,
    pub(crate) daemon: Daemon,
    /// `None` in a black hole.
    server: Option<ServerConnection>,
    to_server: Pipe,
    to_client: Pipe,
    inbox: VecDeque<Bytes>,
    /// What the client's next read finds when the inbox is empty.
    end: Option<End>,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// The client closed its end.
    client_gone: bool,
    /// The daemon closed its end.
    server_gone: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Eof,
    Reset,
}

#[derive(Debug)]
struct Pipe {
    queue: VecDeque<(Millis, Item)>,
    bytes: usize,
    /// All bytes that ever came in.
    total: u64,
    last: Millis,
    fate: Option<(u64, Fate)>,
    swallowed: bool,
    /// Largest chunk, for the first bytes.
    crumb: usize,
}

#[derive(Debug)]
enum Item {
    Bytes(Bytes),
    Eof,
    Reset,
}

impl Pipe {
    fn new(fate: Option<(u64, Fate)>, crumb: usize) -> Self {
        Self { queue: VecDeque::new(), bytes: 0, total: 0, last: 0, fate, swallowed: false, crumb }
    }
}

impl Network {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            rng: Rng::new(seed, "network"),
            weather: Weather::CALM,
            script: None,
            conns: BTreeMap::new(),
            opened: 0,
            partitions: BTreeMap::new(),
            carried: BTreeMap::new(),
        }
    }
}

impl Conn {
    fn pipe(&mut self, direction: Direction) -> &mut Pipe {
        match direction {
            Direction::ToServer => &mut self.to_server,
            Direction::ToClient => &mut self.to_client,
        }
    }
}

impl Network {
    /// Puts a chunk, or what befalls it, on the wire. Returns when it arrives; `None` if there is nothing left.
    fn put(&mut self, conn: ConnId, direction: Direction, bytes: &mut Bytes, now: Millis) -> Option<Millis> {
        let pipe = self.conns.get_mut(&conn)?.pipe(direction);
        if bytes.is_empty() || pipe.swallowed {
            return None;
        }
        let small = if pipe.total < 1500 { pipe.crumb } else { usize::MAX };
        let mut len = bytes.len().min(small);
        let mut item = None;
        if let Some((at, fate)) = pipe.fate {
            let before = at.saturating_sub(pipe.total);
            if before > 0 {
                len = len.min(usize::try_from(before).unwrap_or(usize::MAX));
            } else {
                pipe.fate = None;
                pipe.swallowed = fate != Fate::Corrupt;
                match fate {
                    Fate::BlackHole => return None,
                    Fate::Reset => item = Some(Item::Reset),
                    Fate::HalfClose => item = Some(Item::Eof),
                    Fate::Corrupt => {
                        let mut one = bytes.split_to(1).to_vec();
                        one[0] ^= 1 << self.rng.index(8);
                        item = Some(Item::Bytes(one.into()));
                    }
                }
            }
        }
        let item = item.unwrap_or_else(|| Item::Bytes(bytes.split_to(len)));
        if let Item::Bytes(chunk) = &item {
            pipe.total += chunk.len() as u64;
            pipe.bytes += chunk.len();
        }
        pipe.last = pipe.last.max(now + self.rng.range(0..self.weather.latency + 1));
        let at = pipe.last;
        pipe.queue.push_back((at, item));
        Some(at)
    }
}

impl Network {
    pub(crate) fn opened(&self) -> usize {
        self.opened
    }

    /// Nothing happens any more to connections, old or new.
    pub(crate) fn calm(&mut self) {
        self.weather = Weather::CALM;
        self.partitions.clear();
        for conn in self.conns.values_mut() {
            conn.to_server.fate = None;
            conn.to_client.fate = None;
        }
    }
}

/// The IP of a client.
#[must_use]
pub fn client_ip(client: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 1, 0, u8::try_from(client + 1).expect("few clients")))
}

enum Verdict {
    Wait(Millis),
    Refused,
    Swallowed,
    Open(ConnId),
}

impl World {
    fn connect(&mut self, client: usize, addr: SocketAddr) -> Verdict {
        let Some(daemon) = self.daemon_at(addr) else { return Verdict::Refused };
        if let Some(until) = self.unreachable_until(client, daemon) {
            return Verdict::Wait(until - self.now);
        }
        let (rng, weather) = (&mut self.net.rng, &self.net.weather);
        if rng.percent(weather.refused) {
            self.note(format_args!("client {client} -> {daemon} refused"));
            return Verdict::Refused;
        }
        if rng.percent(weather.black_holes) {
            self.note(format_args!("client {client} -> {daemon} swallowed"));
            return Verdict::Swallowed;
        }
        let id = self.net.opened;
        self.net.opened += 1;
        let mut fates = [None, None];
        if rng.percent(weather.fates) {
            let fate = rng.pick(&[Fate::Reset, Fate::HalfClose, Fate::BlackHole, Fate::Corrupt]);
            let at = rng.range(0..weather.fate_range);
            // A banner has no checksum: who changes that makes another protocol of it.
            let at = if fate == Fate::Corrupt { at.max(BANNER) } else { at };
            fates[rng.index(2)] = Some((at, fate));
        }
        if let Some((conn, direction, at, fate)) = self.net.script
            && conn == id
        {
            fates[direction as usize] = Some((at, fate));
        }
        let crumb = if rng.percent(weather.crumbled) { rng.pick(&[1, 2, 7, 40]) } else { usize::MAX };
        self.note(format_args!("client {client} -> {daemon} connection {id}, fates {fates:?}"));
        let seen = EntityAddr {
            kind: AddrType::MSGR2,
            nonce: 0,
            addr: Some(SocketAddr::new(client_ip(client), 40_000 + u16::try_from(id % 20_000).unwrap_or(0))),
        };
        let server = ServerConnection::new(self.server_config(daemon, seen));
        let conn = Conn {
            client,
            daemon,
            server: Some(server),
            to_server: Pipe::new(fates[0], crumb),
            to_client: Pipe::new(fates[1], crumb),
            inbox: VecDeque::new(),
            end: None,
            reader: None,
            writer: None,
            client_gone: false,
            server_gone: false,
        };
        self.net.conns.insert(id, conn);
        self.flush(id);
        Verdict::Open(id)
    }

    fn unreachable_until(&self, client: usize, daemon: Daemon) -> Option<Millis> {
        let partition = self.net.partitions.get(&(client, daemon)).copied().unwrap_or(0);
        let until = partition.max(self.frozen_until(daemon));
        (until > self.now).then_some(until)
    }

    /// Puts bytes on the wire.
    fn push(&mut self, conn: ConnId, direction: Direction, mut bytes: Bytes) {
        self.net.carried.entry(conn).or_default()[direction as usize] += bytes.len() as u64;
        let now = self.now;
        while let Some(at) = self.net.put(conn, direction, &mut bytes, now) {
            self.schedule(at - now, Event::Deliver { conn, direction });
        }
    }

    fn push_end(&mut self, conn: ConnId, direction: Direction, item: Item) {
        let Some(connection) = self.net.conns.get_mut(&conn) else { return };
        let pipe = connection.pipe(direction);
        if pipe.swallowed {
            return;
        }
        pipe.swallowed = true;
        pipe.last = pipe.last.max(self.now);
        let at = pipe.last;
        pipe.queue.push_back((at, item));
        self.schedule(at - self.now, Event::Deliver { conn, direction });
    }

    /// Something may have arrived.
    pub(crate) fn deliver(&mut self, id: ConnId, direction: Direction) {
        let Some(conn) = self.net.conns.get(&id) else { return };
        let (client, daemon) = (conn.client, conn.daemon);
        let blocked = match direction {
            Direction::ToServer => self.unreachable_until(client, daemon),
            // What a frozen daemon has sent arrives.
            Direction::ToClient => {
                self.net.partitions.get(&(client, daemon)).copied().filter(|until| *until > self.now)
            }
        };
        if let Some(until) = blocked {
            return self.schedule(until - self.now, Event::Deliver { conn: id, direction });
        }
        let now = self.now;
        loop {
            let Some(conn) = self.net.conns.get_mut(&id) else { return };
            let pipe = conn.pipe(direction);
            let Some((at, _)) = pipe.queue.front() else { break };
            if *at > now {
                break;
            }
            let Some((_, item)) = pipe.queue.pop_front() else { break };
            if let Item::Bytes(bytes) = &item {
                pipe.bytes -= bytes.len();
            }
            match direction {
                Direction::ToClient => {
                    match item {
                        Item::Bytes(bytes) => conn.inbox.push_back(bytes),
                        Item::Eof => conn.end = conn.end.or(Some(End::Eof)),
                        Item::Reset => {
                            conn.inbox.clear();
                            conn.end = Some(End::Reset);
                        }
                    }
                    let (reader, writer) = (conn.reader.take(), conn.writer.take());
                    self.wakers.extend(reader.into_iter().chain(writer));
                    if self.net.conns.get(&id).is_some_and(|conn| conn.end == Some(End::Reset)) {
                        self.close_server(id);
                    }
                }
                Direction::ToServer => {
                    let writer = conn.writer.take();
                    self.wakers.extend(writer);
                    match item {
                        Item::Bytes(bytes) => self.serve(id, &bytes),
                        Item::Eof => self.hang_up(id, Item::Eof),
                        Item::Reset => {
                            self.reset_client(id);
                            self.close_server(id);
                        }
                    }
                }
            }
        }
        self.forget_if_closed(id);
    }

    /// Bytes for the daemon.
    fn serve(&mut self, id: ConnId, bytes: &[u8]) {
        let Some(server) = self.net.conns.get_mut(&id).and_then(|conn| conn.server.as_mut()) else { return };
        server.read_buf().extend_from_slice(bytes);
        loop {
            let Some(conn) = self.net.conns.get_mut(&id) else { return };
            let daemon = conn.daemon;
            let Some(server) = &mut conn.server else { return };
            match server.poll_event() {
                Ok(None) => break,
                Ok(Some(ServerEvent::AuthRequest { method, payload, .. })) => {
                    self.on_auth_request(id, daemon, method, &payload);
                }
                Ok(Some(ServerEvent::AuthMore(payload))) => self.on_auth_more(id, daemon, &payload),
                Ok(Some(ServerEvent::Identified(ident))) => self.on_identified(id, daemon, &ident),
                Ok(Some(ServerEvent::Message(message))) => match daemon {
                    Daemon::Mon(mon) => self.on_mon_message(mon, id, message),
                    Daemon::Osd(osd) => self.on_osd_message(osd, id, message),
                },
                Ok(Some(_)) => {}
                Err(error) => {
                    self.note(format_args!("connection {id}: {daemon} hangs up: {error}"));
                    self.flush(id);
                    return self.hang_up(id, Item::Eof);
                }
            }
        }
        self.flush(id);
    }

    /// Sends what the daemon has to say.
    pub(crate) fn flush(&mut self, id: ConnId) {
        let Some(server) = self.net.conns.get_mut(&id).and_then(|conn| conn.server.as_mut()) else { return };
        if server.wants_write() {
            let bytes = server.take_write();
            self.push(id, Direction::ToClient, bytes);
        }
    }

    /// The daemon's end of a connection that is still there.
    pub(crate) fn server(&mut self, id: ConnId) -> Option<&mut ServerConnection> {
        self.net.conns.get_mut(&id)?.server.as_mut()
    }

    /// The daemon's end breaks off.
    pub(crate) fn reset(&mut self, id: ConnId) {
        self.hang_up(id, Item::Reset);
    }

    fn hang_up(&mut self, id: ConnId, item: Item) {
        self.push_end(id, Direction::ToClient, item);
        self.close_server(id);
    }

    fn reset_client(&mut self, id: ConnId) {
        let Some(conn) = self.net.conns.get_mut(&id) else { return };
        conn.inbox.clear();
        conn.end = Some(End::Reset);
        self.wakers.extend(conn.reader.take().into_iter().chain(conn.writer.take()));
    }

    fn close_server(&mut self, id: ConnId) {
        let Some(conn) = self.net.conns.get_mut(&id) else { return };
        if conn.server_gone {
            return;
        }
        conn.server_gone = true;
        conn.server = None;
        match conn.daemon {
            Daemon::Mon(mon) => self.mon_disconnected(mon, id),
            Daemon::Osd(osd) => self.osd_disconnected(osd, id),
        }
        self.forget_if_closed(id);
    }

    fn forget_if_closed(&mut self, id: ConnId) {
        if self.net.conns.get(&id).is_some_and(|conn| conn.client_gone && conn.server_gone) {
            self.net.conns.remove(&id);
        }
    }

    /// How many connections are open at either end.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.net.conns.len()
    }

    /// Connections to a daemon, the oldest first.
    pub(crate) fn connections_to(&self, daemon: Daemon) -> Vec<ConnId> {
        self.net.conns.iter().filter(|(_, conn)| conn.daemon == daemon).map(|(id, _)| *id).collect()
    }

    fn client_read(&mut self, id: ConnId, cx: &Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Some(conn) = self.net.conns.get_mut(&id) else { return Poll::Ready(Ok(())) };
        if conn.end == Some(End::Reset) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let mut some = false;
        while let Some(front) = conn.inbox.front_mut()
            && buf.remaining() > 0
        {
            let len = front.len().min(buf.remaining());
            buf.put_slice(&front[..len]);
            front.advance(len);
            if front.is_empty() {
                conn.inbox.pop_front();
            }
            some = true;
        }
        if some || conn.end == Some(End::Eof) {
            return Poll::Ready(Ok(()));
        }
        conn.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    fn client_write(
        &mut self,
        id: ConnId,
        cx: &Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Some(conn) = self.net.conns.get_mut(&id) else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        if conn.end == Some(End::Reset) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if conn.server_gone && !conn.to_server.swallowed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let mut room = WINDOW.saturating_sub(conn.to_server.bytes);
        if room == 0 {
            conn.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        // Now and then only a part is taken.
        if self.net.weather.fates > 0 && self.net.rng.percent(10) {
            room = room.min(self.net.rng.index(2000) + 1);
        }
        let mut bytes = Vec::new();
        for slice in slices {
            let len = slice.len().min(room - bytes.len());
            bytes.extend_from_slice(&slice[..len]);
        }
        let len = bytes.len();
        self.push(id, Direction::ToServer, bytes.into());
        Poll::Ready(Ok(len))
    }

    fn client_closed(&mut self, id: ConnId) {
        let Some(conn) = self.net.conns.get_mut(&id) else { return };
        conn.client_gone = true;
        conn.inbox.clear();
        conn.reader = None;
        conn.writer = None;
        self.note(format_args!("connection {id} closed by the client"));
        // Bytes on their way still arrive, then the end does; in a black hole the daemon finds out by itself.
        let Some(conn) = self.net.conns.get_mut(&id) else { return };
        if conn.to_server.swallowed {
            self.close_server(id);
        } else {
            self.push_end(id, Direction::ToServer, Item::Eof);
        }
        self.forget_if_closed(id);
    }
}

/// A client's end of a connection.
#[derive(Debug)]
struct SimStream {
    sim: Sim,
    conn: ConnId,
}

impl AsyncRead for SimStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.sim.with(|world| world.client_read(self.conn, cx, buf))
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.sim.with(|world| world.client_write(self.conn, cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        self.sim.with(|world| world.client_closed(self.conn));
    }
}

/// The machine on which a client of the simulation runs.
#[derive(Debug)]
pub struct ClientHost {
    sim: Sim,
    client: usize,
    rng: Mutex<Rng>,
}

impl ClientHost {
    /// The machine of client number `client`.
    #[must_use]
    pub fn new(sim: &Sim, seed: u64, client: usize) -> Self {
        let rng = Mutex::new(Rng::new(seed, &format!("client {client}")));
        Self { sim: sim.clone(), client, rng }
    }
}

impl System for ClientHost {
    fn connect(&self, addr: SocketAddr) -> Connecting<'_> {
        Box::pin(async move {
            let latency = self.sim.with(|world| world.net.rng.range(0..world.net.weather.latency + 1));
            sleep(Duration::from_millis(latency)).await;
            loop {
                match self.sim.with(|world| world.connect(self.client, addr)) {
                    Verdict::Wait(delay) => sleep(Duration::from_millis(delay)).await,
                    Verdict::Refused => return Err(io::ErrorKind::ConnectionRefused.into()),
                    Verdict::Swallowed => std::future::pending().await,
                    Verdict::Open(conn) => {
                        return Ok(Box::new(SimStream { sim: self.sim.clone(), conn }) as Box<dyn Stream>);
                    }
                }
            }
        })
    }

    fn random(&self, buf: &mut [u8]) {
        self.rng.lock().fill(buf);
    }

    fn now(&self) -> SystemTime {
        let date = self.sim.with(|world| world.date());
        SystemTime::UNIX_EPOCH + date.as_duration()
    }
}
