//! An NBD client that keeps many requests under way, and knows all that the servers under test offer.
//!
//! [`Client`] does everything on one thread. [`connect`] gives the halves of a connection instead, for a thread each;
//! it does not ask for structured replies, so that what they carry stays simple.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Longer than a cluster takes to give up a dead client and to let the next one write.
const ANSWER_LIMIT: Duration = Duration::from_secs(100);

const BLOCK_STATUS_CONTEXT: &str = "base:allocation";

/// What to do, with the protocol's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Command {
    Read = 0,
    Write = 1,
    Disconnect = 2,
    Flush = 3,
    Trim = 4,
    WriteZeroes = 6,
    BlockStatus = 7,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Request {
    pub(crate) command: Command,
    /// Durable before it is acknowledged (`NBD_CMD_FLAG_FUA`).
    pub(crate) fua: bool,
    /// Zeroes are to be written, not unmapped (`NBD_CMD_FLAG_NO_HOLE`).
    pub(crate) no_hole: bool,
    pub(crate) offset: u64,
    pub(crate) length: u32,
}

impl Request {
    pub(crate) fn new(command: Command, offset: u64, length: u64) -> Self {
        let length = u32::try_from(length).expect("requests are small");
        Self { command, fua: false, no_hole: false, offset, length }
    }
}

/// The half of a connection that sends.
#[derive(Debug)]
pub(crate) struct Requests(UnixStream);

/// The half of a connection that receives.
#[derive(Debug)]
pub(crate) struct Replies(BufReader<UnixStream>);

/// A reply without what was read: the cookie of its request and an error, 0 for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) cookie: u64,
    pub(crate) error: u32,
}

/// Connects to an export; returns its size in bytes, too.
pub(crate) fn connect(socket: &str, export: &str) -> io::Result<(Requests, Replies, u64)> {
    let Handshake { stream, size, .. } = Handshake::perform(socket, export, false)?;
    Ok((Requests(stream.try_clone()?), Replies(BufReader::with_capacity(64 << 10, stream)), size))
}

impl Requests {
    /// Sends a request; `data` is what to write.
    pub(crate) fn send(&mut self, cookie: u64, request: Request, data: &[u8]) -> io::Result<()> {
        const MAGIC: u32 = 0x2560_9513;
        let flags = u16::from(request.fua) | u16::from(request.no_hole) << 1;
        let mut header = Vec::with_capacity(28 + data.len());
        header.extend(MAGIC.to_be_bytes());
        header.extend(flags.to_be_bytes());
        header.extend((request.command as u16).to_be_bytes());
        header.extend(cookie.to_be_bytes());
        header.extend(request.offset.to_be_bytes());
        header.extend(request.length.to_be_bytes());
        header.extend(data);
        self.0.write_all(&header)
    }

    /// Ends the connection in both directions, whatever is under way.
    pub(crate) fn abort(&self) {
        // The peer may have been faster.
        let _ = self.0.shutdown(std::net::Shutdown::Both);
    }

    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }
}

const SIMPLE_REPLY: u32 = 0x6744_6698;
const STRUCTURED_REPLY: u32 = 0x668e_33ef;

impl Replies {
    /// The next reply; `None` at the end of the connection.
    pub(crate) fn next(&mut self) -> io::Result<Option<Reply>> {
        match self.magic()? {
            Some(SIMPLE_REPLY) => self.simple().map(Some),
            Some(other) => Err(malformed(&format!("{other:#x} does not begin a simple reply"))),
            None => Ok(None),
        }
    }

    /// What a reply to a read has behind it, if there was no error.
    pub(crate) fn payload(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_exact(buffer)
    }

    fn magic(&mut self) -> io::Result<Option<u32>> {
        let mut magic = [0; 4];
        if self.0.read(&mut magic[..1])? == 0 {
            return Ok(None);
        }
        self.0.read_exact(&mut magic[1..])?;
        Ok(Some(u32::from_be_bytes(magic)))
    }

    fn simple(&mut self) -> io::Result<Reply> {
        let error = read_u32(&mut self.0)?;
        Ok(Reply { error, cookie: read_u64(&mut self.0)? })
    }
}

/// What a request came to, other than success.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The server answered with this number of an error.
    Refused(u32),
    /// The connection is of no more use.
    Broken(io::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => write!(f, "the server answers with error {error}"),
            Self::Broken(error) => write!(f, "the connection breaks: {error}"),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

/// What is known of a piece of the export without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) length: u64,
    pub(crate) hole: bool,
    pub(crate) zero: bool,
}

/// What a request that succeeded returned: what was read, or the status of what was asked for.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) data: Vec<u8>,
    pub(crate) status: Vec<Status>,
}

/// A connection with structured replies, if the server has them.
#[derive(Debug)]
pub(crate) struct Client {
    requests: Requests,
    replies: Replies,
    /// Of the export in bytes.
    pub(crate) size: u64,
    /// Whether block status may be asked for.
    pub(crate) knows_status: bool,
    next_cookie: u64,
    under_way: HashMap<u64, (Request, Answer, u32)>,
    ended: HashMap<u64, Result<Answer, u32>>,
}

impl Client {
    pub(crate) fn connect(socket: &str, export: &str) -> io::Result<Self> {
        let Handshake { stream, size, knows_status } = Handshake::perform(socket, export, true)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        stream.set_write_timeout(Some(ANSWER_LIMIT))?;
        Ok(Self {
            requests: Requests(stream.try_clone()?),
            replies: Replies(BufReader::with_capacity(64 << 10, stream)),
            size,
            knows_status,
            next_cookie: 1,
            under_way: HashMap::new(),
            ended: HashMap::new(),
        })
    }

    /// Sends a request and returns its cookie. Nothing is received meanwhile: whoever submits more than a dozen large
    /// requests before waiting for one may block both ends.
    pub(crate) fn submit(&mut self, request: Request, data: &[u8]) -> io::Result<u64> {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        self.requests.send(cookie, request, data)?;
        let mut answer = Answer::default();
        if request.command == Command::Read {
            answer.data = vec![0xee; request.length as usize];
        }
        self.under_way.insert(cookie, (request, answer, 0));
        Ok(cookie)
    }

    /// Waits for the answer to a request that was submitted.
    pub(crate) fn wait(&mut self, cookie: u64) -> Result<Answer, Failure> {
        loop {
            if let Some(ended) = self.ended.remove(&cookie) {
                return ended.map_err(Failure::Refused);
            }
            assert!(self.under_way.contains_key(&cookie), "waits for nothing");
            self.receive()?;
        }
    }

    pub(crate) fn perform(&mut self, request: Request, data: &[u8]) -> Result<Answer, Failure> {
        let cookie = self.submit(request, data)?;
        self.wait(cookie)
    }

    pub(crate) fn read(&mut self, offset: u64, length: u64) -> Result<Vec<u8>, Failure> {
        Ok(self.perform(Request::new(Command::Read, offset, length), &[])?.data)
    }

    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), Failure> {
        self.perform(Request::new(Command::Write, offset, data.len() as u64), data).map(drop)
    }

    /// Reads the whole export.
    pub(crate) fn read_all(&mut self) -> Result<Vec<u8>, Failure> {
        const PIECE: u64 = 4 << 20;
        let mut all = Vec::new();
        for offset in (0..self.size).step_by(PIECE as usize) {
            all.extend(self.read(offset, PIECE.min(self.size - offset))?);
        }
        Ok(all)
    }

    /// Says goodbye; what is under way is not waited for.
    pub(crate) fn disconnect(mut self) {
        // The server may be gone already.
        let _ = self.requests.send(0, Request::new(Command::Disconnect, 0, 0), &[]);
    }

    fn receive(&mut self) -> io::Result<()> {
        match self.replies.magic()? {
            Some(SIMPLE_REPLY) => {
                let Reply { cookie, error } = self.replies.simple()?;
                let (request, answer, _) = self.under_way.get_mut(&cookie).ok_or_else(unasked)?;
                if request.command == Command::Read && error == 0 {
                    self.replies.0.read_exact(&mut answer.data)?;
                }
                self.end(cookie, error);
            }
            Some(STRUCTURED_REPLY) => self.chunk()?,
            Some(other) => return Err(malformed(&format!("{other:#x} begins no reply"))),
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
        Ok(())
    }

    fn chunk(&mut self) -> io::Result<()> {
        const DONE: u16 = 1;
        const OFFSET_DATA: u16 = 1;
        const OFFSET_HOLE: u16 = 2;
        const BLOCK_STATUS: u16 = 5;
        const ERROR_BIT: u16 = 1 << 15;
        let pipe = &mut self.replies.0;
        let (flags, kind) = (read_u16(pipe)?, read_u16(pipe)?);
        let cookie = read_u64(pipe)?;
        let mut body = vec![0; read_u32(pipe)? as usize];
        pipe.read_exact(&mut body)?;
        let body = &mut &body[..];
        let (request, answer, error) = self.under_way.get_mut(&cookie).ok_or_else(unasked)?;
        let start = |offset: u64| (offset - request.offset) as usize;
        match kind {
            0 => {}
            OFFSET_DATA => {
                let at = start(read_u64(body)?);
                answer.data[at..at + body.len()].copy_from_slice(body);
            }
            OFFSET_HOLE => {
                let at = start(read_u64(body)?);
                answer.data[at..][..read_u32(body)? as usize].fill(0);
            }
            BLOCK_STATUS => {
                let _context = read_u32(body)?;
                while !body.is_empty() {
                    let (length, flags) = (u64::from(read_u32(body)?), read_u32(body)?);
                    answer.status.push(Status { length, hole: flags & 1 != 0, zero: flags & 2 != 0 });
                }
            }
            kind if kind & ERROR_BIT != 0 => *error = read_u32(body)?,
            kind => return Err(malformed(&format!("a chunk of type {kind}"))),
        }
        if flags & DONE != 0 {
            let error = *error;
            self.end(cookie, error);
        }
        Ok(())
    }

    fn end(&mut self, cookie: u64, error: u32) {
        let (_, answer, _) = self.under_way.remove(&cookie).expect("looked up by the caller");
        self.ended.insert(cookie, if error == 0 { Ok(answer) } else { Err(error) });
    }
}

struct Handshake {
    stream: UnixStream,
    size: u64,
    knows_status: bool,
}

impl Handshake {
    fn perform(socket: &str, export: &str, structured: bool) -> io::Result<Self> {
        const GO: u32 = 7;
        const STRUCTURED: u32 = 8;
        const SET_META_CONTEXT: u32 = 10;
        const ACK: u32 = 1;
        const INFO: u32 = 3;
        const META_CONTEXT: u32 = 4;
        let mut stream = UnixStream::connect(socket)?;
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting)?;
        if !greeting.starts_with(b"NBDMAGICIHAVEOPT") {
            return Err(malformed("not the greeting of a server"));
        }
        // Fixed newstyle, no padding of zeroes.
        stream.write_all(&3_u32.to_be_bytes())?;

        let mut knows_status = false;
        if structured {
            send_option(&mut stream, STRUCTURED, &[])?;
            if option_reply(&mut stream, STRUCTURED)?.0 == ACK {
                let mut context = sized(export);
                context.extend(1_u32.to_be_bytes());
                context.extend(sized(BLOCK_STATUS_CONTEXT));
                send_option(&mut stream, SET_META_CONTEXT, &context)?;
                while option_reply(&mut stream, SET_META_CONTEXT)?.0 == META_CONTEXT {
                    knows_status = true;
                }
            }
        }
        let mut go = sized(export);
        go.extend(0_u16.to_be_bytes());
        send_option(&mut stream, GO, &go)?;
        let mut size = None;
        loop {
            match option_reply(&mut stream, GO)? {
                (INFO, data) if data.starts_with(&[0, 0]) => size = Some(read_u64(&mut &data[2..])?),
                (INFO, _) => {}
                (ACK, _) => break,
                (refusal, text) => {
                    let text = String::from_utf8_lossy(&text);
                    return Err(io::Error::other(format!(
                        "export {export} is refused ({refusal:#x}): {text}"
                    )));
                }
            }
        }
        let size = size.ok_or_else(|| malformed("an export without a size"))?;
        Ok(Self { stream, size, knows_status })
    }
}

fn send_option(stream: &mut UnixStream, option: u32, data: &[u8]) -> io::Result<()> {
    let mut message = b"IHAVEOPT".to_vec();
    message.extend(option.to_be_bytes());
    message.extend(sized_len(data).to_be_bytes());
    message.extend(data);
    stream.write_all(&message)
}

/// Type and data of the reply to an option.
fn option_reply(stream: &mut UnixStream, option: u32) -> io::Result<(u32, Vec<u8>)> {
    const MAGIC: u64 = 0x0003_e889_0455_65a9;
    if read_u64(stream)? != MAGIC || read_u32(stream)? != option {
        return Err(malformed("not the reply to the option"));
    }
    let kind = read_u32(stream)?;
    let mut data = vec![0; read_u32(stream)? as usize];
    stream.read_exact(&mut data)?;
    Ok((kind, data))
}

/// A string behind its length.
fn sized(text: &str) -> Vec<u8> {
    let mut bytes = sized_len(text.as_bytes()).to_be_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

fn sized_len(data: &[u8]) -> u32 {
    u32::try_from(data.len()).expect("options are small")
}

fn unasked() -> io::Error {
    malformed("a reply to nothing")
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn read_u16(from: &mut impl Read) -> io::Result<u16> {
    let mut bytes = [0; 2];
    from.read_exact(&mut bytes)?;
    Ok(u16::from_be_bytes(bytes))
}

fn read_u32(from: &mut impl Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    from.read_exact(&mut bytes)?;
    Ok(u32::from_be_bytes(bytes))
}

fn read_u64(from: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes)?;
    Ok(u64::from_be_bytes(bytes))
}
