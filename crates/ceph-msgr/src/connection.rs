//! One connection, from the first byte to the last.

mod state;

use std::fmt;
use std::io::IoSlice;
use std::mem;

use bytes::{Bytes, BytesMut};
use ceph_codec::{Decode, DecodeError, Encode, EntityAddr, EntityType, GlobalId, Reader, Utime};
use subtle::ConstantTimeEq;

use crate::crypto::{SIGNATURE_LEN, ciphers, signature};
use crate::error::MsgrError;
use crate::frame::{Frame, FrameReader, Tag};
use crate::handshake::{
    AuthBadMethod, AuthDone, AuthRequest, Banner, ClientIdent, ClientIdentFrame, ConMode, Hello, REVISION_1,
    ServerIdent, blob,
};
use crate::message::{Header, Message};
use crate::outbox::Outbox;
use state::{Offer, Session, State, Transcript};

/// What a connection needs to know from the start.
#[derive(Debug, Clone)]
pub struct ConnectionConfig {
    /// What should answer: a monitor, an OSD.
    pub peer_kind: EntityType,
    /// The address dialled, exactly as in the monitor map or OSD map: the peer must own it, nonce and all.
    pub peer_addr: EntityAddr,
    /// Modes that are acceptable, the preferred one first.
    pub modes: Vec<ConMode>,
    /// Bytes of data that a received message may have. Its other parts have limits of their own.
    pub max_data_len: usize,
    /// Whether segments carry checksums: Ceph's option `ms_crc_data`, which both sides must agree on. Without
    /// effect on encrypted connections.
    pub crc_data: bool,
}

impl ConnectionConfig {
    /// Data of up to 128 MiB, with checksums.
    #[must_use]
    pub fn new(peer_kind: EntityType, peer_addr: EntityAddr, modes: Vec<ConMode>) -> Self {
        Self { peer_kind, peer_addr, modes, max_data_len: 128 << 20, crc_data: true }
    }
}

/// What happened, in the order in which the peer made it happen.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The peer introduced itself. Answer with [`Connection::start_auth`].
    Hello {
        /// This side's address as the peer sees it.
        my_addr: EntityAddr,
    },
    /// The peer refused the method, or the proof. Answer with [`Connection::start_auth`] and something else,
    /// or give up.
    AuthBadMethod {
        /// The method refused.
        method: u32,
        /// Why: a negative errno. `EACCES` means that the key, ticket or capabilities are wrong.
        result: i32,
        /// Methods that it would accept.
        allowed_methods: Vec<u32>,
        /// Modes that it would accept; see [`ConMode::number`].
        allowed_modes: Vec<u32>,
    },
    /// The peer has a question. Answer with [`Connection::continue_auth`].
    AuthMore(Bytes),
    /// The peer accepted the proof. Check its own in the payload, then call [`Connection::finish_auth`].
    AuthDone {
        /// This client's number.
        global_id: GlobalId,
        /// The mode that the peer chose among those offered.
        mode: ConMode,
        /// For the authentication method.
        payload: Bytes,
    },
    /// Messages may be sent.
    Ready(ServerIdent),
    /// A message arrived.
    Message(Message),
    /// The answer to [`Connection::keepalive`], with its time.
    KeepaliveAck(Utime),
}

/// One connection to a daemon, as a state machine: bytes and calls go in, bytes and events come out.
///
/// ```text
/// Banner --> Hello --> Start ==start_auth==> Reply --> Done ==finish_auth==> Signature --> Ident --> Open
///                        ^                   |   ^
///                        +-- AuthBadMethod --+   +==continue_auth== More <-- AuthMore
/// ```
/// Where an arrow is double the owner has to act; until it does, nothing more is read from what arrived. Any
/// error closes the connection.
///
/// The owner's loop: read from the socket into [`read_buf`](Self::read_buf); call
/// [`poll_event`](Self::poll_event) until it returns `None` and act on the events; then write what
/// [`fill_io_slices`](Self::fill_io_slices) gives and report it with [`advance_write`](Self::advance_write).
pub struct Connection {
    config: ConnectionConfig,
    offer: Offer,
    state: State,
    reader: FrameReader,
    outbox: Outbox,
    /// Answers to keepalives queued since the transport last wrote.
    unsent_acks: u32,
}

/// Answers to keepalives that may wait for the transport; a peer that does not read gets no more.
const MAX_UNSENT_ACKS: u32 = 16;

impl Connection {
    /// A new connection, which at once has something to write.
    #[must_use]
    pub fn new(config: ConnectionConfig) -> Self {
        Self::with_offer(config, Offer::OURS)
    }

    fn with_offer(config: ConnectionConfig, offer: Offer) -> Self {
        let mut transcript = Transcript::default();
        let mut outbox = Outbox::new(config.crc_data);
        let banner = Banner { supported: offer.revision, required: 0 }.to_wire();
        outbox.raw(&banner);
        transcript.sent.extend_from_slice(&banner);
        // Ceph sends this only once it knows the peer's revision. Here there is but one, so a round trip less.
        let hello = Hello { kind: EntityType::CLIENT, peer_addr: config.peer_addr }.encode_to_vec();
        transcript.sent.extend_from_slice(outbox.control(Tag::HELLO, &hello));
        let reader = FrameReader::new(config.crc_data);
        Self { config, offer, state: State::Banner(transcript), reader, outbox, unsent_acks: 0 }
    }

    /// Where the transport appends what arrives; it should fill the spare capacity and not more.
    ///
    /// While a large frame is arriving the spare capacity is exactly what is missing of it, so that it ends up
    /// in a buffer of its own. Otherwise there is room for many small frames.
    pub fn read_buf(&mut self) -> &mut BytesMut {
        self.reader.buf()
    }

    /// The next thing that happened, if the bytes for it have arrived.
    ///
    /// Some frames are answered here without an event, so ask [`wants_write`](Self::wants_write) afterwards,
    /// also when there was none.
    ///
    /// # Errors
    /// Whatever the peer does wrong; the connection is closed then, and further calls return
    /// [`MsgrError::Closed`].
    pub fn poll_event(&mut self) -> Result<Option<Event>, MsgrError> {
        self.poll_inner().inspect_err(|_| self.state = State::Closed)
    }

    /// Whether there is something to write.
    #[must_use]
    pub fn wants_write(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Fills `out` with what is to be written next, for a vectored write. Returns how many slices it filled.
    #[must_use]
    pub fn fill_io_slices<'a>(&'a self, out: &mut [IoSlice<'a>]) -> usize {
        self.outbox.fill_io_slices(out)
    }

    /// Tells that `n` bytes were written.
    ///
    /// # Panics
    /// If there were not as many to write.
    pub fn advance_write(&mut self, n: usize) {
        self.unsent_acks = 0;
        self.outbox.advance(n);
    }

    /// Starts to authenticate with `method` (2 is cephx). Answers [`Event::Hello`] and
    /// [`Event::AuthBadMethod`].
    ///
    /// # Errors
    /// [`MsgrError::Misuse`] at any other time.
    pub fn start_auth(&mut self, method: u32, payload: &[u8]) -> Result<(), MsgrError> {
        let mut transcript = match self.take_state() {
            State::Start(transcript) => transcript,
            other => return Err(self.misuse("start_auth", other)),
        };
        let request = AuthRequest { method, modes: &self.config.modes, payload }.encode_to_vec();
        transcript.sent.extend_from_slice(self.outbox.control(Tag::AUTH_REQUEST, &request));
        self.state = State::Reply(transcript);
        Ok(())
    }

    /// Answers [`Event::AuthMore`].
    ///
    /// # Errors
    /// [`MsgrError::Misuse`] at any other time.
    pub fn continue_auth(&mut self, payload: &[u8]) -> Result<(), MsgrError> {
        let mut transcript = match self.take_state() {
            State::More(transcript) => transcript,
            other => return Err(self.misuse("continue_auth", other)),
        };
        let more = payload.to_vec().encode_to_vec();
        transcript.sent.extend_from_slice(self.outbox.control(Tag::AUTH_REQUEST_MORE, &more));
        self.state = State::Reply(transcript);
        Ok(())
    }

    /// Answers [`Event::AuthDone`]: signs the handshake, encrypts from here on if that is the mode, and
    /// identifies this client once the peer's signature proved right.
    ///
    /// `session_key` and `connection_secret` are what authentication yielded. The key is empty if there was no
    /// authentication; the secret is needed in mode [`Secure`](ConMode::Secure) only.
    ///
    /// # Errors
    /// [`MsgrError::Misuse`] at any other time; [`MsgrError::ShortSecret`].
    pub fn finish_auth(
        &mut self,
        session_key: &[u8],
        connection_secret: &[u8],
        ident: ClientIdent,
    ) -> Result<(), MsgrError> {
        let (transcript, mode) = match self.take_state() {
            State::Done(transcript, mode) => (transcript, mode),
            other => return Err(self.misuse("finish_auth", other)),
        };
        // Each side signs what it received, so each side's signature is checked against what the other sent.
        let mine = signature(session_key, &transcript.received);
        let expected = signature(session_key, &transcript.sent);
        if mode == ConMode::Secure {
            let (rx, tx) = ciphers(connection_secret)?;
            self.reader.encrypted(rx);
            self.outbox.encrypted(tx);
        }
        self.outbox.control(Tag::AUTH_SIGNATURE, &mine);
        self.state = State::Signature { expected, ident };
        Ok(())
    }

    /// Features that both sides have, once [`Event::Ready`] said so; none before.
    #[must_use]
    pub fn features(&self) -> u64 {
        match &self.state {
            State::Open(session) => session.features,
            _ => 0,
        }
    }

    /// Queues a message.
    ///
    /// # Errors
    /// [`MsgrError::NotReady`] before [`Event::Ready`]; [`MsgrError::TooLarge`] if a part has 4 GiB or more.
    /// The connection stays as it is.
    pub fn send(&mut self, message: &Message) -> Result<(), MsgrError> {
        let State::Open(session) = &mut self.state else { return Err(MsgrError::NotReady) };
        let len = message.front.len().max(message.middle.len()).max(message.data.len());
        if u32::try_from(len).is_err() {
            return Err(MsgrError::TooLarge { len });
        }
        session.out_seq += 1;
        self.outbox.message(message, session.out_seq, session.in_seq);
        Ok(())
    }

    /// Asks the peer for a sign of life; [`Event::KeepaliveAck`] will bring `now` back. Does nothing before
    /// [`Event::Ready`].
    pub fn keepalive(&mut self, now: Utime) {
        if matches!(self.state, State::Open(_)) {
            self.outbox.control(Tag::KEEPALIVE2, &now.encode_to_vec());
        }
    }

    fn take_state(&mut self) -> State {
        mem::replace(&mut self.state, State::Closed)
    }

    fn misuse(&mut self, call: &'static str, state: State) -> MsgrError {
        let error = MsgrError::Misuse { call, state: state.name() };
        self.state = state;
        error
    }

    fn poll_inner(&mut self) -> Result<Option<Event>, MsgrError> {
        loop {
            if matches!(self.state, State::Banner(_)) && !self.read_banner()? {
                return Ok(None);
            }
            match self.state {
                State::Start(_) | State::More(_) | State::Done(..) => return Ok(None),
                State::Closed => return Err(MsgrError::Closed),
                _ => {}
            }
            let (state, max_data) = (&self.state, self.config.max_data_len);
            let Some(frame) = self.reader.next(|preamble| state.admit(preamble, max_data))? else {
                return Ok(None);
            };
            if let Some(event) = self.on_frame(&frame)? {
                return Ok(Some(event));
            }
        }
    }

    /// Returns whether the banner is there as a whole.
    fn read_banner(&mut self) -> Result<bool, MsgrError> {
        let Some((start, rest)) = self.reader.unread().split_first_chunk::<8>() else { return Ok(false) };
        if *start != Banner::START {
            return Err(if start.starts_with(&Banner::START_V1) {
                MsgrError::Msgr1
            } else {
                MsgrError::NotMsgr2 { start: *start }
            });
        }
        let Some((len, rest)) = rest.split_first_chunk() else { return Ok(false) };
        let len = usize::from(u16::from_le_bytes(*len));
        let Some(payload) = rest.get(..len) else { return Ok(false) };
        let (supported, required) =
            <(u64, u64)>::decode_from(payload).map_err(|source| MsgrError::Banner { source })?;
        if supported & REVISION_1 == 0 {
            return Err(MsgrError::Revision0 { supported });
        }
        if required & !REVISION_1 != 0 {
            return Err(MsgrError::UnsupportedRevision { required, supported: REVISION_1 });
        }
        let banner = self.reader.take(Banner::START.len() + 2 + len);
        if let State::Banner(mut transcript) = self.take_state() {
            transcript.received.extend_from_slice(&banner);
            self.state = State::Hello(transcript);
        }
        Ok(true)
    }

    fn on_frame(&mut self, frame: &Frame) -> Result<Option<Event>, MsgrError> {
        let payload = &mut Reader::new(frame.segment(0));
        let malformed = |source: DecodeError| MsgrError::Malformed { frame: frame.tag, source };
        match (self.take_state(), frame.tag) {
            (State::Hello(mut transcript), Tag::HELLO) => {
                let hello = Hello::decode(payload).map_err(malformed)?;
                if hello.kind != self.config.peer_kind {
                    return Err(MsgrError::WrongPeerKind {
                        addr: self.config.peer_addr,
                        expected: self.config.peer_kind,
                        actual: hello.kind,
                    });
                }
                transcript.receive(frame)?;
                self.state = State::Start(transcript);
                Ok(Some(Event::Hello { my_addr: hello.peer_addr }))
            }
            (State::Reply(mut transcript), Tag::AUTH_BAD_METHOD) => {
                let bad = AuthBadMethod::decode(payload).map_err(malformed)?;
                transcript.receive(frame)?;
                self.state = State::Start(transcript);
                Ok(Some(Event::AuthBadMethod {
                    method: bad.method,
                    result: bad.result,
                    allowed_methods: bad.allowed_methods,
                    allowed_modes: bad.allowed_modes,
                }))
            }
            (State::Reply(mut transcript), Tag::AUTH_REPLY_MORE) => {
                let question = blob(payload).map_err(malformed)?;
                transcript.receive(frame)?;
                self.state = State::More(transcript);
                Ok(Some(Event::AuthMore(question)))
            }
            (State::Reply(mut transcript), Tag::AUTH_DONE) => {
                let done = AuthDone::decode(payload).map_err(malformed)?;
                let mode = self.config.modes.iter().copied().find(|mode| mode.number() == done.mode);
                let mode = mode.ok_or(MsgrError::ModeNotOffered { mode: done.mode })?;
                transcript.receive(frame)?;
                self.state = State::Done(transcript, mode);
                Ok(Some(Event::AuthDone { global_id: done.global_id, mode, payload: done.payload }))
            }
            (State::Signature { expected, ident }, Tag::AUTH_SIGNATURE) => {
                let actual: [u8; SIGNATURE_LEN] = payload.array("signature").map_err(malformed)?;
                if !bool::from(actual.ct_eq(&expected)) {
                    return Err(MsgrError::BadSignature);
                }
                let ident = ClientIdentFrame {
                    ident: &ident,
                    target: self.config.peer_addr,
                    features_supported: self.offer.supported,
                    features_required: self.offer.required,
                    flags: self.offer.flags,
                    cookie: self.offer.cookie,
                };
                self.outbox.control(Tag::CLIENT_IDENT, &ident.encode_to_vec());
                self.state = State::Ident;
                Ok(None)
            }
            (State::Ident, Tag::IDENT_MISSING_FEATURES) => {
                Err(MsgrError::MissingFeatures { missing: u64::decode(payload).map_err(malformed)? })
            }
            (State::Ident, Tag::SERVER_IDENT) => {
                let ident = ServerIdent::decode(payload).map_err(malformed)?;
                let session = self.accept(&ident)?;
                self.state = State::Open(session);
                Ok(Some(Event::Ready(ident)))
            }
            (State::Open(session), _) => self.on_session_frame(session, frame),
            (state, tag) => Err(MsgrError::Unexpected { frame: tag, state: state.name() }),
        }
    }

    /// Whether the peer is the one wanted, and can be talked to.
    fn accept(&self, ident: &ServerIdent) -> Result<Session, MsgrError> {
        if !ident.addrs.0.contains(&self.config.peer_addr) {
            return Err(MsgrError::WrongPeer {
                expected: self.config.peer_addr,
                actual: ident.addrs.clone(),
            });
        }
        let missing = ident.features_required & !self.offer.supported;
        if missing != 0 {
            return Err(MsgrError::MissingFeatures { missing });
        }
        let missing = self.offer.required & !ident.features_supported;
        if missing != 0 {
            return Err(MsgrError::PeerLacksFeatures { missing });
        }
        Ok(Session { features: ident.features_supported & self.offer.supported, in_seq: 0, out_seq: 0 })
    }

    fn on_session_frame(&mut self, mut session: Session, frame: &Frame) -> Result<Option<Event>, MsgrError> {
        let payload = &mut Reader::new(frame.segment(0));
        let malformed = |source: DecodeError| MsgrError::Malformed { frame: frame.tag, source };
        let event = match frame.tag {
            Tag::MESSAGE => {
                let header = Header::decode(payload).map_err(malformed)?;
                let expected = session.in_seq + 1;
                if header.seq != expected {
                    return Err(MsgrError::Sequence { expected, actual: header.seq });
                }
                session.in_seq = header.seq;
                Some(Event::Message(Message {
                    kind: header.kind,
                    version: header.version,
                    compat_version: header.compat_version,
                    tid: header.tid,
                    priority: header.priority,
                    front: frame.segment_bytes(1),
                    middle: frame.segment_bytes(2),
                    data: frame.segment_bytes(3).into(),
                }))
            }
            Tag::KEEPALIVE2 => {
                let then = Utime::decode(payload).map_err(malformed)?;
                if self.unsent_acks < MAX_UNSENT_ACKS {
                    self.unsent_acks += 1;
                    self.outbox.control(Tag::KEEPALIVE2_ACK, &then.encode_to_vec());
                }
                None
            }
            Tag::KEEPALIVE2_ACK => Some(Event::KeepaliveAck(Utime::decode(payload).map_err(malformed)?)),
            // Nothing is kept for being sent again, so there is nothing to forget.
            Tag::ACK => None,
            tag => {
                return Err(MsgrError::Unexpected { frame: tag, state: State::Open(session).name() });
            }
        };
        self.state = State::Open(session);
        Ok(event)
    }
}

/// Neither keys nor payloads.
impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("peer", &self.config.peer_addr)
            .field("state", &self.state.name())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
