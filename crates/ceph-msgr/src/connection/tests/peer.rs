//! The other end: frames taken apart and put together, and a daemon that does as it is told.

use super::super::*;
use crate::crypto::Cipher;
use crate::features;
use crate::handshake::LOSSY;
use crate::outbox::Outgoing;

/// A frame in parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Raw {
    pub(super) tag: Tag,
    pub(super) segments: [Bytes; 4],
}

impl Raw {
    pub(super) fn control(tag: Tag, payload: impl Encode) -> Self {
        let mut segments = <[Bytes; 4]>::default();
        segments[0] = payload.encode_to_vec().into();
        Self { tag, segments }
    }

    fn outgoing(&self) -> Outgoing<'_> {
        let [_, rest @ ..] = &self.segments;
        Outgoing { tag: self.tag, first: &self.segments[0], rest: rest.each_ref().map(std::slice::from_ref) }
    }

    /// Of a message, the last one that its sender had received.
    pub(super) fn acknowledged(&self) -> Option<u64> {
        (self.tag == Tag::MESSAGE).then(|| Header::decode_from(&self.segments[0]).unwrap().ack_seq)
    }

    pub(super) fn message(&self) -> Message {
        let header = Header::decode_from(&self.segments[0]).unwrap();
        let [_, front, middle, data] = self.segments.clone();
        Message {
            kind: header.kind,
            version: header.version,
            compat_version: header.compat_version,
            tid: header.tid,
            priority: header.priority,
            front,
            middle,
            data: data.into(),
        }
    }
}

/// The ciphers of a daemon: what it opens is what the client seals.
pub(super) fn server_ciphers(secret: &[u8]) -> (Cipher, Cipher) {
    let (client_rx, client_tx) = ciphers(secret).unwrap();
    (client_tx, client_rx)
}

/// The frames of a stream without its banner; encrypted from `AUTH_SIGNATURE` on if there is a cipher.
pub(super) fn all_frames(wire: &[u8], mut cipher: Option<Cipher>) -> Vec<Raw> {
    let mut reader = FrameReader::new(true);
    reader.buf().extend_from_slice(wire);
    let mut frames = Vec::new();
    let plain = plain_frames(wire, cipher.is_some());
    loop {
        if frames.len() == plain
            && let Some(cipher) = cipher.take()
        {
            reader.encrypted(cipher);
        }
        let Some(frame) = reader.next(|_| Ok(())).unwrap() else { break };
        frames.push(Raw { tag: frame.tag, segments: std::array::from_fn(|i| frame.segment_bytes(i)) });
    }
    assert!(reader.unread().is_empty(), "only whole frames");
    frames
}

/// How many frames come before `AUTH_SIGNATURE`.
fn plain_frames(wire: &[u8], secure: bool) -> usize {
    if !secure {
        return usize::MAX;
    }
    let mut reader = FrameReader::new(true);
    reader.buf().extend_from_slice(wire);
    // What is encrypted has no valid checksum.
    std::iter::from_fn(|| reader.next(|_| Ok(())).ok().flatten()).count()
}

pub(super) fn encode_frames(frames: &[Raw], mut cipher: Option<Cipher>) -> Vec<u8> {
    let mut outbox = Outbox::new(true);
    for frame in frames {
        if frame.tag == Tag::AUTH_SIGNATURE
            && let Some(cipher) = cipher.take()
        {
            outbox.encrypted(cipher);
        }
        outbox.frame(&frame.outgoing());
    }
    drain(&mut outbox)
}

/// Everything that a connection wants to write.
pub(super) fn read_all(c: &mut Connection) -> Vec<u8> {
    let mut all = Vec::new();
    while c.wants_write() {
        let mut slices = [IoSlice::new(&[]); 8];
        let n = c.fill_io_slices(&mut slices);
        let bytes = slices[..n].iter().flat_map(|slice| slice.to_vec()).collect::<Vec<_>>();
        c.advance_write(bytes.len());
        all.extend(bytes);
    }
    all
}

fn drain(outbox: &mut Outbox) -> Vec<u8> {
    let mut all = Vec::new();
    while !outbox.is_empty() {
        let mut slices = [IoSlice::new(&[]); 1];
        outbox.fill_io_slices(&mut slices);
        let bytes = slices[0].to_vec();
        outbox.advance(bytes.len());
        all.extend(bytes);
    }
    all
}

/// Hands bytes to a connection without looking at what it makes of them.
pub(super) fn unread(c: &mut Connection, bytes: &[u8]) {
    c.read_buf().extend_from_slice(bytes);
}

pub(super) const KEY: &[u8] = b"session key";
pub(super) const SECRET: &[u8] = &[0xab; 64];
pub(super) const TARGET: &str = "127.0.0.1:6800";

pub(super) fn target() -> EntityAddr {
    EntityAddr { nonce: 77, ..EntityAddr::msgr2(TARGET.parse().unwrap()) }
}

pub(super) fn config() -> ConnectionConfig {
    ConnectionConfig::new(EntityType::OSD, target(), vec![ConMode::Secure, ConMode::Crc])
}

pub(super) fn client_ident() -> ClientIdent {
    let addr = EntityAddr {
        kind: ceph_codec::AddrType::ANY,
        nonce: 4711,
        addr: Some("127.0.0.1:0".parse().unwrap()),
    };
    ClientIdent { addrs: addr.into(), global_id: GlobalId(4123), global_seq: 3 }
}

pub(super) fn server_ident() -> Raw {
    let mut fields = ceph_codec::EntityAddrVec(vec![target()]).encode_to_vec();
    for field in [3, 9, features::SUPPORTED | features::SERVER_SQUID, features::REQUIRED, LOSSY, 0u64] {
        field.encode(&mut fields);
    }
    raw(Tag::SERVER_IDENT, fields)
}

pub(super) fn raw(tag: Tag, payload: Vec<u8>) -> Raw {
    let mut segments = <[Bytes; 4]>::default();
    segments[0] = payload.into();
    Raw { tag, segments }
}

/// A daemon that checks what a client must do and otherwise does what a test says.
pub(super) struct Daemon {
    reader: FrameReader,
    outbox: Outbox,
    /// All bytes that went to the client.
    pub(super) sent: Vec<u8>,
    received: Vec<u8>,
    seq: u64,
}

impl Daemon {
    /// After the banner.
    pub(super) fn new() -> Self {
        let mut outbox = Outbox::new(true);
        outbox.raw(&Banner { supported: 3, required: 0 }.to_wire());
        Self { reader: FrameReader::new(true), outbox, sent: Vec::new(), received: Vec::new(), seq: 0 }
    }

    pub(super) fn write(&mut self, frame: &Raw) {
        self.outbox.frame(&frame.outgoing());
    }

    /// Hands over what was written.
    pub(super) fn flush(&mut self, c: &mut Connection) {
        let bytes = drain(&mut self.outbox);
        self.sent.extend_from_slice(&bytes);
        unread(c, &bytes);
    }

    /// The frames that the client wrote.
    pub(super) fn read(&mut self, c: &mut Connection) -> Vec<Raw> {
        let bytes = read_all(c);
        let banner = if self.received.is_empty() { 26 } else { 0 };
        assert_eq!(bytes[..banner], Banner { supported: 1, required: 0 }.to_wire()[..banner]);
        self.reader.buf().extend_from_slice(&bytes[banner..]);
        self.received.extend_from_slice(&bytes);
        std::iter::from_fn(|| self.reader.next(|_| Ok(())).unwrap())
            .map(|frame| Raw { tag: frame.tag, segments: std::array::from_fn(|i| frame.segment_bytes(i)) })
            .collect()
    }

    /// Writes a frame and returns what the client makes of it.
    pub(super) fn tell(&mut self, c: &mut Connection, frame: &Raw) -> Result<Option<Event>, MsgrError> {
        self.write(frame);
        self.flush(c);
        c.poll_event()
    }

    pub(super) fn hello(&mut self, c: &mut Connection) {
        let hello = Hello { kind: EntityType::OSD, peer_addr: EntityAddr::BLANK };
        let event = self.tell(c, &Raw::control(Tag::HELLO, hello));
        assert_eq!(event, Ok(Some(Event::Hello { my_addr: EntityAddr::BLANK })));
    }

    /// Up to `AUTH_DONE`.
    pub(super) fn authenticate(&mut self, c: &mut Connection, mode: ConMode) {
        self.hello(c);
        c.start_auth(2, b"ticket").unwrap();
        let event = self.tell(c, &Raw::control(Tag::AUTH_REPLY_MORE, "question"));
        assert_eq!(event, Ok(Some(Event::AuthMore(Bytes::from_static(b"question")))));
        c.continue_auth(b"answer").unwrap();
        let event = self.tell(c, &Self::auth_done(mode.number()));
        let payload = Bytes::from_static(b"proof");
        assert_eq!(event, Ok(Some(Event::AuthDone { global_id: GlobalId(4123), mode, payload })));
    }

    pub(super) fn auth_done(mode: u32) -> Raw {
        Raw::control(Tag::AUTH_DONE, ((4123u64, mode), "proof"))
    }

    /// Up to the daemon's signature.
    pub(super) fn sign(&mut self, c: &mut Connection, mode: ConMode) {
        self.authenticate(c, mode);
        self.read(c);
        let (expected, mine) = (signature(KEY, &self.sent), signature(KEY, &self.received));
        c.finish_auth(KEY, SECRET, client_ident()).unwrap();
        if mode == ConMode::Secure {
            let (rx, tx) = server_ciphers(SECRET);
            self.reader.encrypted(rx);
            self.outbox.encrypted(tx);
        }
        assert_eq!(self.read(c), [raw(Tag::AUTH_SIGNATURE, expected.to_vec())]);
        assert_eq!(self.tell(c, &raw(Tag::AUTH_SIGNATURE, mine.to_vec())), Ok(None));
        assert_eq!(self.read(c).iter().map(|frame| frame.tag).collect::<Vec<_>>(), [Tag::CLIENT_IDENT]);
    }

    /// A connection on which messages may flow, and its other end.
    pub(super) fn open(mode: ConMode) -> (Connection, Self) {
        let (mut c, mut daemon) = (Connection::new(config()), Self::new());
        daemon.sign(&mut c, mode);
        let event = daemon.tell(&mut c, &server_ident());
        assert!(matches!(event, Ok(Some(Event::Ready(_)))), "{event:?}");
        (c, daemon)
    }

    /// The next message on the wire.
    pub(super) fn message(&mut self, message: &Message) -> Raw {
        self.seq += 1;
        let header = Header {
            seq: self.seq,
            tid: message.tid,
            kind: message.kind,
            priority: message.priority,
            version: message.version,
            ack_seq: 0,
            compat_version: message.compat_version,
        };
        let first = Bytes::copy_from_slice(&header.to_wire());
        let data = message.data.clone().into_bytes();
        Raw { tag: Tag::MESSAGE, segments: [first, message.front.clone(), message.middle.clone(), data] }
    }
}

/// What a client makes of a stream that arrives in pieces of at most `size`, when it always answers as in
/// [`Daemon::open`].
pub(super) fn drive(stream: &[u8], size: usize) -> (Vec<Event>, Option<MsgrError>) {
    let mut c = Connection::new(config());
    let mut events = Vec::new();
    let mut rest = stream;
    while !rest.is_empty() {
        let buf = c.read_buf();
        let n = rest.len().min(size).min(buf.capacity() - buf.len());
        assert_ne!(n, 0, "there is always room");
        buf.extend_from_slice(&rest[..n]);
        rest = &rest[n..];
        loop {
            let event = match c.poll_event() {
                Ok(Some(event)) => event,
                Ok(None) => break,
                Err(error) => return (events, Some(error)),
            };
            let answered = match &event {
                Event::Hello { .. } | Event::AuthBadMethod { .. } => c.start_auth(2, b"ticket"),
                Event::AuthMore(_) => c.continue_auth(b"answer"),
                Event::AuthDone { .. } => c.finish_auth(KEY, SECRET, client_ident()),
                _ => Ok(()),
            };
            events.push(event);
            if let Err(error) = answered {
                return (events, Some(error));
            }
        }
    }
    (events, None)
}
