//! Requests: from bytes to checked commands.

use bytes::buf::Limit;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;

use crate::device::{Extent, ZeroFlags};
use crate::session::Session;
use crate::transmission::Answer;
use crate::transmission::run::MAX_EXTENTS;
use crate::wire::{self, Errno, MAX_PAYLOAD, command, command_flag as flag, transmission_flag};

/// A refused write may be this long (bytes): its payload is skipped. Beyond that the client is hostile.
pub const MAX_SKIPPED_PAYLOAD: u32 = 2 * MAX_PAYLOAD;

const HEADER_LEN: usize = 28;
/// A payload above this gets its buffer before it has arrived; others are copied from where small requests arrive, which
/// costs less than another call of the system.
const LARGE_PAYLOAD: usize = 32 << 10;
/// Least and most bytes to ask the socket for. It starts low, so that idle connections cost little and little of a
/// large payload lands in the shared buffer, and doubles while the client sends as much as is asked for.
const MIN_READ: usize = 8 << 10;
const MAX_READ: usize = 128 << 10;

/// One request of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The client's name for the request, which the reply repeats.
    pub cookie: u64,
    /// What to do.
    pub command: Command,
}

/// What a client wants. Ranges (bytes) are inside the export and aligned; lengths may be 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `NBD_CMD_READ`, at most [`MAX_PAYLOAD`].
    Read {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        len: u32,
        /// Answer in a single chunk (`NBD_CMD_FLAG_DF`).
        dont_fragment: bool,
    },
    /// `NBD_CMD_WRITE`, at most [`MAX_PAYLOAD`].
    Write {
        /// First byte.
        offset: u64,
        /// The bytes.
        data: Bytes,
        /// Answer once they are durable.
        fua: bool,
    },
    /// `NBD_CMD_FLUSH`.
    Flush,
    /// `NBD_CMD_TRIM`.
    Trim {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        len: u64,
        /// Answer once it is durable.
        fua: bool,
    },
    /// `NBD_CMD_CACHE`.
    Cache {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        len: u64,
    },
    /// `NBD_CMD_WRITE_ZEROES`.
    WriteZeroes {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        len: u64,
        /// How to do it.
        flags: ZeroFlags,
    },
    /// `NBD_CMD_BLOCK_STATUS` of `base:allocation`; not empty.
    BlockStatus {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        len: u32,
        /// Answer with one extent, no longer than `len`.
        one: bool,
    },
    /// Any of them that is not allowed: it only needs to be answered.
    Refused {
        /// The error to answer.
        errno: Errno,
        /// Why, for people.
        reason: &'static str,
    },
}

impl Command {
    /// Bytes of memory that its payload takes, or that of its answer may take.
    pub fn payload_len(&self) -> usize {
        match self {
            Self::Read { len, .. } => *len as usize,
            Self::Write { data, .. } => data.len(),
            Self::BlockStatus { one: false, .. } => MAX_EXTENTS * size_of::<Extent>(),
            _ => 0,
        }
    }
}

/// What comes from a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// Something to be answered.
    Request(Request),
    /// The client will send no more (`NBD_CMD_DISC`): answer what is outstanding, then close.
    Disconnect,
}

/// Why no further request can be read: the connection must be closed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RequestError {
    /// The client lost its place.
    #[error("request starts with {magic:#010x} instead of NBD_REQUEST_MAGIC")]
    BadMagic {
        /// What was there instead.
        magic: u32,
    },
    /// More payload than can be skipped.
    #[error("write of {len} bytes, more than {MAX_SKIPPED_PAYLOAD}")]
    PayloadTooLong {
        /// Announced length in bytes.
        len: u32,
    },
}

/// Reads requests, payloads included, with as little copying as the cuts between the bytes allow.
///
/// Fill [`space`](Self::space) from the socket, then call [`next_request`](Self::next_request) until it has none.
///
/// A payload never shares memory with another one, nor with this reader: what a request holds is as long as its payload.
#[derive(Debug)]
pub struct RequestReader {
    session: Session,
    state: State,
    buffer: BytesMut,
    read_size: usize,
    /// Length of `buffer` at which the last `space` was used up.
    full_at: usize,
}

#[derive(Debug)]
enum State {
    Header,
    /// The header of a write is still in the buffer, and its payload will be, too.
    Admitted,
    Payload {
        header: Header,
        payload: BytesMut,
    },
    Skip {
        cookie: u64,
        left: usize,
        errno: Errno,
        reason: &'static str,
    },
    Closed,
}

#[derive(Debug, Clone, Copy)]
struct Header {
    flags: u16,
    command: u16,
    cookie: u64,
    offset: u64,
    len: u32,
}

type Refusal = (Errno, &'static str);

impl RequestReader {
    /// Begins with what the client sent right after the handshake.
    pub fn new(session: Session, leftover: BytesMut) -> Self {
        Self { session, state: State::Header, buffer: leftover, read_size: MIN_READ, full_at: usize::MAX }
    }

    /// Where the next bytes of the client go; never empty.
    pub fn space(&mut self) -> Limit<&mut BytesMut> {
        if let State::Payload { header, payload } = &mut self.state {
            let missing = header.len as usize - payload.len();
            return payload.limit(missing);
        }
        self.buffer.reserve(self.read_size);
        self.full_at = self.buffer.len() + self.read_size;
        (&mut self.buffer).limit(self.read_size)
    }

    /// The next request, if all of it is there.
    ///
    /// Each is announced to `admit` with the length of its payload ([`Command::payload_len`], bytes) before there is
    /// room for it. If it is not admitted, it is announced again by the next call; there is no use in reading further
    /// meanwhile.
    ///
    /// # Errors
    /// The connection is to be closed; there will be no further requests.
    pub fn next_request(
        &mut self,
        mut admit: impl FnMut(usize) -> bool,
    ) -> Result<Option<Incoming>, RequestError> {
        if self.buffer.len() >= self.full_at {
            self.read_size = (2 * self.read_size).min(MAX_READ);
        }
        self.full_at = usize::MAX;
        loop {
            match std::mem::replace(&mut self.state, State::Closed) {
                state @ (State::Header | State::Admitted) if self.buffer.len() >= HEADER_LEN => {
                    let admitted = matches!(state, State::Admitted);
                    if let Some(incoming) = self.on_header(|len| admitted || admit(len))? {
                        return Ok(Some(incoming));
                    }
                    if matches!(self.state, State::Header | State::Admitted) {
                        return Ok(None);
                    }
                }
                State::Payload { header, payload } if payload.len() == header.len as usize => {
                    self.state = State::Header;
                    return Ok(Some(write(header, payload.freeze())));
                }
                State::Skip { cookie, left, errno, reason } if left == 0 || !self.buffer.is_empty() => {
                    let skipped = left.min(self.buffer.len());
                    self.buffer.advance(skipped);
                    if skipped == left {
                        self.state = State::Header;
                        return Ok(Some(request(cookie, Command::Refused { errno, reason })));
                    }
                    self.state = State::Skip { cookie, left: left - skipped, errno, reason };
                }
                waiting => {
                    self.state = waiting;
                    return Ok(None);
                }
            }
        }
    }

    /// Gives memory back while nothing is going on.
    pub fn relax(&mut self) {
        if self.buffer.is_empty() && self.buffer.capacity() > MIN_READ {
            self.buffer = BytesMut::new();
        }
    }

    /// Ends it: gives all memory back, and has no further requests.
    pub fn close(&mut self) {
        self.state = State::Closed;
        self.buffer = BytesMut::new();
    }

    /// With a complete header in the buffer. Leaves it there, and the state `Header` or `Admitted`, if it is not admitted
    /// or the payload that follows is small and not complete.
    fn on_header(&mut self, admit: impl FnOnce(usize) -> bool) -> Result<Option<Incoming>, RequestError> {
        let header = Header::parse(&self.buffer)?;
        if header.command == command::DISC {
            return Ok(Some(Incoming::Disconnect));
        }
        let checked = check(&header, &self.session);
        let len = header.len as usize;
        let is_write = header.command == command::WRITE;
        if is_write && checked.is_err() && header.len > MAX_SKIPPED_PAYLOAD {
            return Err(RequestError::PayloadTooLong { len: header.len });
        }
        let payload_len = match &checked {
            Ok(_) if is_write => len,
            Ok(command) => command.payload_len(),
            Err(_) => 0,
        };
        if !admit(payload_len) {
            self.state = State::Header;
            return Ok(None);
        }
        if !is_write {
            self.buffer.advance(HEADER_LEN);
            self.state = State::Header;
            let command = checked.unwrap_or_else(|(errno, reason)| Command::Refused { errno, reason });
            return Ok(Some(request(header.cookie, command)));
        }
        if let Err((errno, reason)) = checked {
            self.buffer.advance(HEADER_LEN);
            self.state = State::Skip { cookie: header.cookie, left: len, errno, reason };
        } else if self.buffer.len() >= HEADER_LEN + len {
            let payload = Bytes::copy_from_slice(&self.buffer[HEADER_LEN..HEADER_LEN + len]);
            self.buffer.advance(HEADER_LEN + len);
            self.state = State::Header;
            return Ok(Some(write(header, payload)));
        } else if len <= LARGE_PAYLOAD {
            self.read_size = self.read_size.max(HEADER_LEN + len - self.buffer.len());
            self.state = State::Admitted;
        } else {
            self.buffer.advance(HEADER_LEN);
            let mut payload = BytesMut::with_capacity(len);
            payload.extend_from_slice(&self.buffer);
            self.buffer.clear();
            self.read_size = MIN_READ;
            self.state = State::Payload { header, payload };
        }
        Ok(None)
    }
}

impl Header {
    /// `bytes` are at least [`HEADER_LEN`].
    fn parse(mut bytes: &[u8]) -> Result<Self, RequestError> {
        let magic = bytes.get_u32();
        if magic != wire::REQUEST_MAGIC {
            return Err(RequestError::BadMagic { magic });
        }
        Ok(Self {
            flags: bytes.get_u16(),
            command: bytes.get_u16(),
            cookie: bytes.get_u64(),
            offset: bytes.get_u64(),
            len: bytes.get_u32(),
        })
    }

    const fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

const fn request(cookie: u64, command: Command) -> Incoming {
    Incoming::Request(Request { cookie, command })
}

const fn write(header: Header, data: Bytes) -> Incoming {
    request(header.cookie, Command::Write { offset: header.offset, data, fua: header.has(flag::FUA) })
}

/// What a header asks for, a write still without its payload, or the error that "Error values" wants for it.
fn check(header: &Header, session: &Session) -> Result<Command, Refusal> {
    let &Header { offset, len, .. } = header;
    let fua = header.has(flag::FUA);
    let df = if session.structured_replies() { flag::DF } else { 0 };
    let fast_zero = if session.has(transmission_flag::SEND_FAST_ZERO) { flag::FAST_ZERO } else { 0 };
    let (command, own_flags) = match header.command {
        command::READ => (Command::Read { offset, len, dont_fragment: header.has(flag::DF) }, df),
        command::WRITE => (Command::Write { offset, data: Bytes::new(), fua }, 0),
        command::FLUSH => (Command::Flush, 0),
        command::TRIM => (Command::Trim { offset, len: len.into(), fua }, 0),
        command::CACHE => (Command::Cache { offset, len: len.into() }, 0),
        command::WRITE_ZEROES => {
            let flags = ZeroFlags {
                may_unmap: !header.has(flag::NO_HOLE),
                fast_only: header.has(flag::FAST_ZERO),
                fua,
            };
            (Command::WriteZeroes { offset, len: len.into(), flags }, flag::NO_HOLE | fast_zero)
        }
        command::BLOCK_STATUS => {
            (Command::BlockStatus { offset, len, one: header.has(flag::REQ_ONE) }, flag::REQ_ONE)
        }
        _ => return Err((Errno::Invalid, "unknown command")),
    };
    // FUA is negotiated, and then "the server MUST accept this flag for all commands".
    if header.flags & !(own_flags | flag::FUA) != 0 {
        return Err((Errno::Invalid, "a flag that this command does not have"));
    }
    if header.command == command::FLUSH {
        let reserved = offset == 0 && len == 0;
        return if reserved { Ok(command) } else { Err((Errno::Invalid, "flush has no range")) };
    }
    let grows = matches!(command, Command::Write { .. } | Command::WriteZeroes { .. });
    let changes = grows || matches!(command, Command::Trim { .. });
    if changes && session.has(transmission_flag::READ_ONLY) {
        return Err((Errno::Perm, "the export is read-only"));
    }
    if offset.checked_add(len.into()).is_none_or(|end| end > session.size()) {
        let errno = if grows { Errno::NoSpace } else { Errno::Invalid };
        return Err((errno, "the range ends beyond the export"));
    }
    let misaligned = (offset | u64::from(len)) & u64::from(session.block_size().minimum() - 1) != 0;
    if misaligned {
        return Err((Errno::Invalid, "the range is not aligned to the minimum block size"));
    }
    match command {
        Command::Read { .. } if len > MAX_PAYLOAD => {
            // EOVERFLOW is for clients that know of DF.
            let errno = if session.structured_replies() { Errno::Overflow } else { Errno::Invalid };
            Err((errno, "read of more than the maximum payload"))
        }
        Command::Write { .. } if len > MAX_PAYLOAD => {
            Err((Errno::Invalid, "write of more than the maximum payload"))
        }
        Command::BlockStatus { .. } if !session.base_allocation() => {
            Err((Errno::Invalid, "no metadata context was negotiated"))
        }
        Command::BlockStatus { .. } if len == 0 => Err((Errno::Invalid, "status of an empty range")),
        command => Ok(command),
    }
}

impl From<Refusal> for Answer {
    fn from((errno, reason): Refusal) -> Self {
        Self::Failed { errno, message: reason.into() }
    }
}
