//! The daemon's side of a connection, for simulated daemons that test clients.
//!
//! ```text
//! banner, HELLO --> AuthRequest ==reply_more== AuthMore ==accept==> Identified --> Message ...
//!                        ^  +==refuse==+
//! ```
//! Where an arrow is double the owner has to act. It is lenient: what a daemon would refuse is the client's
//! tests' business, here only what cannot be read is an error.

use std::fmt;
use std::io::IoSlice;
use std::mem;

use bytes::{Bytes, BytesMut};
use ceph_codec::{
    Decode, Encode, EntityAddr, EntityAddrVec, EntityType, GlobalId, Reader, Utime, encode_bytes, encode_seq,
};

use crate::crypto::{SIGNATURE_LEN, ciphers, signature};
use crate::error::MsgrError;
use crate::features;
use crate::frame::{Frame, FrameReader, Tag};
use crate::handshake::{Banner, ClientIdent, ConMode, Hello, LOSSY, REVISION_1, blob};
use crate::message::{Header, Message};
use crate::outbox::Outbox;

/// Who answers a connection.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// What it is: a monitor, an OSD.
    pub kind: EntityType,
    /// Its number: the id of an OSD, the rank of a monitor.
    pub id: GlobalId,
    /// Its addresses.
    pub addrs: EntityAddrVec,
    /// Where it sees the client.
    pub client_addr: EntityAddr,
    /// Features that it has; see [`features`].
    pub features: u64,
}

/// What a client did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServerEvent {
    /// It wants to authenticate. Answer with [`ServerConnection::reply_more`], [`ServerConnection::accept`] or
    /// [`ServerConnection::refuse`].
    AuthRequest {
        /// The method, see `cephx::METHOD`.
        method: u32,
        /// Modes that it would like, the preferred one first; see [`ConMode::number`].
        modes: Vec<u32>,
        /// What the method says.
        payload: Bytes,
    },
    /// It answered a question. Answer as above.
    AuthMore(Bytes),
    /// Messages may be sent.
    Identified(ClientIdent),
    /// A message arrived.
    Message(Message),
}

/// A connection to one client, as a state machine: see [`Connection`](crate::Connection) for how bytes come
/// and go.
pub struct ServerConnection {
    config: ServerConfig,
    state: State,
    reader: FrameReader,
    outbox: Outbox,
    sent: Vec<u8>,
    received: Vec<u8>,
    features: u64,
    in_seq: u64,
    out_seq: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Banner,
    Hello,
    Request,
    More,
    /// The owner has to act.
    Asked,
    Signature {
        expected: [u8; SIGNATURE_LEN],
    },
    Ident,
    Open,
    Closed,
}

impl ServerConnection {
    /// A new connection, which at once has something to write.
    #[must_use]
    pub fn new(config: ServerConfig) -> Self {
        let mut outbox = Outbox::new(true);
        let mut sent = Banner { supported: REVISION_1, required: 0 }.to_wire();
        outbox.raw(&sent);
        let hello = Hello { kind: config.kind, peer_addr: config.client_addr }.encode_to_vec();
        sent.extend_from_slice(outbox.control(Tag::HELLO, &hello));
        Self {
            config,
            state: State::Banner,
            reader: FrameReader::new(true),
            outbox,
            sent,
            received: Vec::new(),
            features: 0,
            in_seq: 0,
            out_seq: 0,
        }
    }

    /// Where the transport appends what arrives.
    pub fn read_buf(&mut self) -> &mut BytesMut {
        self.reader.buf()
    }

    /// The next thing that the client did, if the bytes for it have arrived.
    ///
    /// # Errors
    /// What cannot be read; the connection is closed then.
    pub fn poll_event(&mut self) -> Result<Option<ServerEvent>, MsgrError> {
        self.poll_inner().inspect_err(|_| self.state = State::Closed)
    }

    /// Whether there is something to write.
    #[must_use]
    pub fn wants_write(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Takes everything that is to be written.
    pub fn take_write(&mut self) -> Bytes {
        let mut all = BytesMut::new();
        while !self.outbox.is_empty() {
            let mut slices = [IoSlice::new(&[]); 8];
            let filled = self.outbox.fill_io_slices(&mut slices);
            let before = all.len();
            slices[..filled].iter().for_each(|slice| all.extend_from_slice(slice));
            self.outbox.advance(all.len() - before);
        }
        all.freeze()
    }

    /// Asks the client a question of the authentication method.
    pub fn reply_more(&mut self, payload: &[u8]) {
        let mut question = Vec::new();
        encode_bytes(payload, &mut question);
        self.sent.extend_from_slice(self.outbox.control(Tag::AUTH_REPLY_MORE, &question));
        self.state = State::More;
    }

    /// Refuses the method or the proof with a negative errno.
    pub fn refuse(&mut self, method: u32, result: i32, allowed_methods: &[u32], allowed_modes: &[u32]) {
        let mut out = (method, result).encode_to_vec();
        encode_seq(allowed_methods.iter(), &mut out);
        encode_seq(allowed_modes.iter(), &mut out);
        self.sent.extend_from_slice(self.outbox.control(Tag::AUTH_BAD_METHOD, &out));
        self.state = State::Request;
    }

    /// Accepts the proof; the other arguments are as in
    /// [`Connection::finish_auth`](crate::Connection::finish_auth).
    ///
    /// # Errors
    /// [`MsgrError::ShortSecret`] in secure mode.
    pub fn accept(
        &mut self,
        global_id: GlobalId,
        mode: ConMode,
        payload: &[u8],
        session_key: &[u8],
        connection_secret: &[u8],
    ) -> Result<(), MsgrError> {
        let mut done = (global_id, mode.number()).encode_to_vec();
        encode_bytes(payload, &mut done);
        self.sent.extend_from_slice(self.outbox.control(Tag::AUTH_DONE, &done));
        let mine = signature(session_key, &self.received);
        let expected = signature(session_key, &self.sent);
        if mode == ConMode::Secure {
            let (client_rx, client_tx) = ciphers(connection_secret)?;
            self.reader.encrypted(client_tx);
            self.outbox.encrypted(client_rx);
        }
        self.outbox.control(Tag::AUTH_SIGNATURE, &mine);
        self.state = State::Signature { expected };
        Ok(())
    }

    /// Features that both sides have, once the client identified itself.
    #[must_use]
    pub fn features(&self) -> u64 {
        self.features
    }

    /// Whether messages may be sent.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// Queues a message.
    ///
    /// # Errors
    /// [`MsgrError::NotReady`] before the client identified itself.
    pub fn send(&mut self, message: &Message) -> Result<(), MsgrError> {
        if self.state != State::Open {
            return Err(MsgrError::NotReady);
        }
        self.out_seq += 1;
        self.outbox.message(message, self.out_seq, self.in_seq);
        Ok(())
    }

    /// Queues bytes that need not make sense.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.outbox.raw(bytes);
    }

    fn poll_inner(&mut self) -> Result<Option<ServerEvent>, MsgrError> {
        loop {
            if self.state == State::Banner && !self.read_banner()? {
                return Ok(None);
            }
            match self.state {
                State::Asked => return Ok(None),
                State::Closed => return Err(MsgrError::Closed),
                _ => {}
            }
            let Some(frame) = self.reader.next(|_| Ok(()))? else { return Ok(None) };
            if let Some(event) = self.on_frame(&frame)? {
                return Ok(Some(event));
            }
        }
    }

    fn read_banner(&mut self) -> Result<bool, MsgrError> {
        const LEN: usize = 26;
        if self.reader.unread().len() < LEN {
            return Ok(false);
        }
        let banner = self.reader.take(LEN);
        let start = *banner.first_chunk().expect("longer than that");
        if start != Banner::START {
            return Err(MsgrError::NotMsgr2 { start });
        }
        self.received.extend_from_slice(&banner);
        self.state = State::Hello;
        Ok(true)
    }

    fn on_frame(&mut self, frame: &Frame) -> Result<Option<ServerEvent>, MsgrError> {
        let payload = &mut Reader::new(frame.segment(0));
        let malformed = |source| MsgrError::Malformed { frame: frame.tag, source };
        match (mem::replace(&mut self.state, State::Asked), frame.tag) {
            (State::Hello, Tag::HELLO) => {
                Hello::decode(payload).map_err(malformed)?;
                self.received.extend_from_slice(&frame.wire);
                self.state = State::Request;
                Ok(None)
            }
            (State::Request, Tag::AUTH_REQUEST) => {
                self.received.extend_from_slice(&frame.wire);
                let method = u32::decode(payload).map_err(malformed)?;
                let modes = payload.seq("modes", u32::decode).map_err(malformed)?;
                let payload = blob(payload).map_err(malformed)?;
                Ok(Some(ServerEvent::AuthRequest { method, modes, payload }))
            }
            (State::More, Tag::AUTH_REQUEST_MORE) => {
                self.received.extend_from_slice(&frame.wire);
                Ok(Some(ServerEvent::AuthMore(blob(payload).map_err(malformed)?)))
            }
            (State::Signature { expected }, Tag::AUTH_SIGNATURE) => {
                if frame.segment(0) != expected {
                    return Err(MsgrError::BadSignature);
                }
                self.state = State::Ident;
                Ok(None)
            }
            (State::Ident, Tag::CLIENT_IDENT) => {
                let addrs = EntityAddrVec::decode(payload).map_err(malformed)?;
                EntityAddr::decode(payload).map_err(malformed)?; // the address dialled
                let (global_id, global_seq) = <(GlobalId, u64)>::decode(payload).map_err(malformed)?;
                self.features = u64::decode(payload).map_err(malformed)? & self.config.features;
                let mut ident = self.config.addrs.encode_to_vec();
                self.config.id.encode(&mut ident);
                for field in [1, self.config.features, features::REQUIRED, LOSSY, 0u64] {
                    field.encode(&mut ident);
                }
                self.outbox.control(Tag::SERVER_IDENT, &ident);
                self.state = State::Open;
                Ok(Some(ServerEvent::Identified(ClientIdent { addrs, global_id, global_seq })))
            }
            (State::Open, tag) => {
                self.state = State::Open;
                self.on_session_frame(tag, frame)
            }
            (_, tag) => Err(MsgrError::Unexpected { frame: tag, state: "serving a client" }),
        }
    }

    fn on_session_frame(&mut self, tag: Tag, frame: &Frame) -> Result<Option<ServerEvent>, MsgrError> {
        let malformed = |source| MsgrError::Malformed { frame: tag, source };
        match tag {
            Tag::MESSAGE => {
                let header = Header::decode_from(frame.segment(0)).map_err(malformed)?;
                let expected = self.in_seq + 1;
                if header.seq != expected {
                    return Err(MsgrError::Sequence { expected, actual: header.seq });
                }
                self.in_seq = expected;
                Ok(Some(ServerEvent::Message(Message {
                    kind: header.kind,
                    version: header.version,
                    compat_version: header.compat_version,
                    tid: header.tid,
                    priority: header.priority,
                    front: frame.segment_bytes(1),
                    middle: frame.segment_bytes(2),
                    data: frame.segment_bytes(3).into(),
                })))
            }
            Tag::KEEPALIVE2 => {
                let then = Utime::decode_from(frame.segment(0)).map_err(malformed)?;
                self.outbox.control(Tag::KEEPALIVE2_ACK, &then.encode_to_vec());
                Ok(None)
            }
            Tag::KEEPALIVE2_ACK | Tag::ACK => Ok(None),
            tag => Err(MsgrError::Unexpected { frame: tag, state: "exchanging messages" }),
        }
    }
}

/// Neither keys nor payloads.
impl fmt::Debug for ServerConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerConnection").field("config", &self.config).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Connection, ConnectionConfig, Event};

    fn addr() -> EntityAddr {
        EntityAddr::msgr2("10.0.0.1:6800".parse().unwrap())
    }

    /// Moves bytes both ways until nothing is left to move.
    fn exchange(client: &mut Connection, server: &mut ServerConnection) {
        let mut slices = [IoSlice::new(&[]); 8];
        while client.wants_write() {
            let filled = client.fill_io_slices(&mut slices);
            let bytes: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
            client.advance_write(bytes.len());
            server.read_buf().extend_from_slice(&bytes);
            slices = [IoSlice::new(&[]); 8];
        }
        client.read_buf().extend_from_slice(&server.take_write());
    }

    #[test]
    fn the_client_gets_through_the_handshake_and_exchanges_messages_in_both_modes() {
        for mode in [ConMode::Crc, ConMode::Secure] {
            let config = ConnectionConfig::new(EntityType::OSD, addr(), vec![mode]);
            let mut client = Connection::new(config);
            let mut server = ServerConnection::new(ServerConfig {
                kind: EntityType::OSD,
                id: GlobalId(3),
                addrs: addr().into(),
                client_addr: addr(),
                features: features::SUPPORTED,
            });
            exchange(&mut client, &mut server);
            assert!(matches!(client.poll_event(), Ok(Some(Event::Hello { .. }))));
            client.start_auth(2, b"hi").unwrap();
            assert_eq!(server.poll_event(), Ok(None));
            exchange(&mut client, &mut server);
            assert!(matches!(server.poll_event(), Ok(Some(ServerEvent::AuthRequest { method: 2, .. }))));
            server.accept(GlobalId(9), mode, b"proof", b"key", &[7; 64]).unwrap();
            exchange(&mut client, &mut server);
            assert!(matches!(client.poll_event(), Ok(Some(Event::AuthDone { .. }))));
            let ident = ClientIdent { addrs: addr().into(), global_id: GlobalId(9), global_seq: 1 };
            client.finish_auth(b"key", &[7; 64], ident.clone()).unwrap();
            exchange(&mut client, &mut server);
            assert_eq!(server.poll_event(), Ok(None));
            assert_eq!(client.poll_event(), Ok(None), "the signature is right");
            exchange(&mut client, &mut server);
            assert_eq!(server.poll_event(), Ok(Some(ServerEvent::Identified(ident))));
            exchange(&mut client, &mut server);
            assert!(matches!(client.poll_event(), Ok(Some(Event::Ready(_)))));
            let message = Message { kind: 42, front: Bytes::from_static(b"front"), ..Message::default() };
            client.send(&message).unwrap();
            server.send(&message).unwrap();
            exchange(&mut client, &mut server);
            assert_eq!(server.poll_event(), Ok(Some(ServerEvent::Message(message.clone()))));
            assert_eq!(client.poll_event(), Ok(Some(Event::Message(message))));
        }
    }
}
