//! The handshake, as a state machine: bytes and answers go in, bytes and questions come out.
//!
//! ```text
//!             handle_bytes()  +-----------+  poll_transmit() -> bytes for the client
//!  socket --------------->    | Handshake |
//!                             +-----------+  poll_event() -> List | Open | Aborted
//!  owner of the exports: answer_list(), answer_open() -> Session: the transmission phase begins
//! ```
//!
//! Fixed newstyle: after the greeting the client sends options, each answered before the next is looked at, until
//! `GO` or `EXPORT_NAME` ends the handshake. Clients that do not know *fixed* newstyle may send `EXPORT_NAME` only.
//!
//! Source: "Handshake phase" and "Option types" in `doc/proto.md` of the NBD project.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;

use crate::device::DeviceInfo;
use crate::export::{ExportError, ExportInfo};
use crate::session::Session;
use crate::wire::{self, MAX_STRING, info, option, rep};

/// Data of an option up to this many bytes is looked at.
pub const MAX_OPTION_LEN: u32 = 64 << 10;
/// Data of an option up to this many bytes is skipped, and the option refused; beyond that the client is hostile.
pub const MAX_SKIPPED_OPTION_LEN: u32 = 32 << 20;

/// What the owner of a [`Handshake`] has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The client wants the list of exports: call [`Handshake::answer_list`].
    List,
    /// The client asks for an export: call [`Handshake::answer_open`].
    Open {
        /// Name of the export; empty for the default one.
        name: String,
    },
    /// The client went no further: send what [`Handshake::poll_transmit`] still has, and close.
    Aborted,
}

/// Why the connection must be closed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HandshakeError {
    /// "The server MUST close the connection if it does not recognize the client's flags."
    #[error("client set unknown handshake flags {flags:#x}")]
    UnknownClientFlags {
        /// All flags of the client.
        flags: u32,
    },
    /// The client does not speak this protocol, or lost its place.
    #[error("option starts with {magic:#018x} instead of IHAVEOPT")]
    BadOptionMagic {
        /// What was there instead.
        magic: u64,
    },
    /// Announced more data than any option needs.
    #[error("option {option} announces {len} bytes of data, more than {MAX_SKIPPED_OPTION_LEN}")]
    OptionTooLong {
        /// Number of the option.
        option: u32,
        /// Announced length in bytes.
        len: u32,
    },
    /// Only `EXPORT_NAME` is allowed without the fixed newstyle flag.
    #[error("client sent option {option} without having negotiated fixed newstyle")]
    NotFixedNewstyle {
        /// Number of the option.
        option: u32,
    },
    /// `EXPORT_NAME` with a name that is no string; this option can't be refused in another way.
    #[error("client sent an export name that is not a string of at most {MAX_STRING} bytes")]
    BadExportName,
    /// `EXPORT_NAME` of something that can't be served; this option can't be refused in another way.
    #[error("client asked for an export by the old option EXPORT_NAME, which cannot be refused politely")]
    NoExport(#[source] ExportError),
}

/// One handshake, server side. See the [module](self).
#[derive(Debug)]
pub struct Handshake {
    state: State,
    inbox: BytesMut,
    outbox: BytesMut,
    fixed_newstyle: bool,
    no_zeroes: bool,
    structured_replies: bool,
    /// The export for which `base:allocation` was selected.
    base_allocation_of: Option<String>,
}

#[derive(Debug)]
enum State {
    ClientFlags,
    Header,
    Data { option: u32, len: usize },
    Skip { option: u32, left: usize },
    AwaitList,
    AwaitOpen { name: String, purpose: Purpose },
    Closed,
}

/// Why an export is opened.
#[derive(Debug)]
enum Purpose {
    ExportName,
    Info { requests: Vec<u16> },
    Go { requests: Vec<u16> },
    ListMetaContext { base_allocation: bool },
    SetMetaContext { base_allocation: bool },
}

impl Purpose {
    const fn option(&self) -> u32 {
        match self {
            Self::ExportName => option::EXPORT_NAME,
            Self::Info { .. } => option::INFO,
            Self::Go { .. } => option::GO,
            Self::ListMetaContext { .. } => option::LIST_META_CONTEXT,
            Self::SetMetaContext { .. } => option::SET_META_CONTEXT,
        }
    }
}

/// An option that is refused: type of the reply and text for people.
type Refusal = (u32, &'static str);

impl Default for Handshake {
    fn default() -> Self {
        Self::new()
    }
}

impl Handshake {
    /// Begins with the server's greeting, ready to be transmitted.
    pub fn new() -> Self {
        let mut outbox = BytesMut::with_capacity(512);
        outbox.put_u64(wire::INIT_MAGIC);
        outbox.put_u64(wire::OPTION_MAGIC);
        outbox.put_u16(wire::SERVER_FLAGS);
        Self {
            state: State::ClientFlags,
            inbox: BytesMut::new(),
            outbox,
            fixed_newstyle: false,
            no_zeroes: false,
            structured_replies: false,
            base_allocation_of: None,
        }
    }

    /// Takes bytes of the client, cut in any way. Then [`poll_event`](Self::poll_event) until it has none.
    pub fn handle_bytes(&mut self, bytes: &[u8]) {
        self.inbox.extend_from_slice(bytes);
    }

    /// Bytes to be sent to the client, if any.
    pub fn poll_transmit(&mut self) -> Option<Bytes> {
        (!self.outbox.is_empty()).then(|| self.outbox.split().freeze())
    }

    /// Goes on as far as the bytes reach, at most to the next event. None comes while an answer is missing.
    ///
    /// # Errors
    /// The connection is to be closed at once; there will be no further events.
    pub fn poll_event(&mut self) -> Result<Option<Event>, HandshakeError> {
        loop {
            // A state is taken by value: a step that fails leaves `Closed` behind.
            match std::mem::replace(&mut self.state, State::Closed) {
                State::ClientFlags if self.inbox.len() >= 4 => self.on_client_flags()?,
                State::Header if self.inbox.len() >= 16 => self.on_header()?,
                State::Data { option, len } if self.inbox.len() >= len => {
                    let data = self.inbox.split_to(len);
                    if let Some(event) = self.on_option(option, &data)? {
                        return Ok(Some(event));
                    }
                }
                State::Skip { option, left } if !self.inbox.is_empty() || left == 0 => {
                    let skipped = left.min(self.inbox.len());
                    self.inbox.advance(skipped);
                    if skipped == left {
                        self.refuse(option, (rep::ERR_TOO_BIG, "the option has too much data"));
                    } else {
                        self.state = State::Skip { option, left: left - skipped };
                    }
                }
                waiting => {
                    self.state = waiting;
                    return Ok(None);
                }
            }
        }
    }

    /// Answers [`Event::List`]. Does nothing unless that was asked.
    pub fn answer_list(&mut self, exports: Result<&[ExportInfo], &ExportError>) {
        if !matches!(self.state, State::AwaitList) {
            return;
        }
        match exports {
            Ok(exports) => {
                for export in exports {
                    let (name, description) = (clip(&export.name), clip(&export.description));
                    self.reply(option::LIST, rep::SERVER, 4 + name.len() + description.len());
                    put_string(&mut self.outbox, name);
                    self.outbox.put_slice(description.as_bytes());
                }
                self.ack(option::LIST);
            }
            Err(error) => self.refuse_export(option::LIST, error),
        }
    }

    /// Answers [`Event::Open`] with the canonical name of the export and what it looks like. Does nothing unless
    /// that was asked.
    ///
    /// With a session, the handshake is over: once what [`poll_transmit`](Self::poll_transmit) has is sent, the
    /// transmission phase begins, with the bytes of [`into_leftover`](Self::into_leftover) as the first.
    ///
    /// # Errors
    /// The connection is to be closed at once.
    pub fn answer_open(
        &mut self,
        export: Result<(&str, &DeviceInfo), &ExportError>,
    ) -> Result<Option<Session>, HandshakeError> {
        let (asked, purpose) = match std::mem::replace(&mut self.state, State::Closed) {
            State::AwaitOpen { name, purpose } => (name, purpose),
            other => {
                self.state = other;
                return Ok(None);
            }
        };
        let option = purpose.option();
        let (name, device) = match export {
            Ok(export) => export,
            Err(error) if option == option::EXPORT_NAME => {
                return Err(HandshakeError::NoExport(error.clone()));
            }
            Err(error) => {
                self.refuse_export(option, error);
                return Ok(None);
            }
        };
        let base_allocation = self.base_allocation_of.as_ref() == Some(&asked);
        let session = Session::new(device, self.structured_replies, base_allocation);
        match purpose {
            Purpose::ExportName => {
                self.outbox.put_u64(session.size());
                self.outbox.put_u16(session.transmission_flags());
                if !self.no_zeroes {
                    self.outbox.put_bytes(0, 124);
                }
                return Ok(Some(session));
            }
            Purpose::Info { requests } => {
                self.put_info(option, &requests, name, device, &session);
                self.ack(option);
            }
            Purpose::Go { requests } => {
                self.put_info(option, &requests, name, device, &session);
                self.ack(option);
                self.state = State::Closed;
                return Ok(Some(session));
            }
            Purpose::ListMetaContext { base_allocation } => {
                if base_allocation {
                    self.put_base_allocation(option, 0);
                }
                self.ack(option);
            }
            Purpose::SetMetaContext { base_allocation } => {
                if base_allocation {
                    self.put_base_allocation(option, wire::BASE_ALLOCATION_ID);
                    self.base_allocation_of = Some(asked);
                }
                self.ack(option);
            }
        }
        Ok(None)
    }

    /// The bytes the client sent after the handshake.
    pub fn into_leftover(self) -> BytesMut {
        self.inbox
    }

    fn on_client_flags(&mut self) -> Result<(), HandshakeError> {
        let flags = self.inbox.get_u32();
        if flags & !(wire::CLIENT_FIXED_NEWSTYLE | wire::CLIENT_NO_ZEROES) != 0 {
            return Err(HandshakeError::UnknownClientFlags { flags });
        }
        self.fixed_newstyle = flags & wire::CLIENT_FIXED_NEWSTYLE != 0;
        self.no_zeroes = flags & wire::CLIENT_NO_ZEROES != 0;
        self.state = State::Header;
        Ok(())
    }

    fn on_header(&mut self) -> Result<(), HandshakeError> {
        let magic = self.inbox.get_u64();
        let option = self.inbox.get_u32();
        let len = self.inbox.get_u32();
        if magic != wire::OPTION_MAGIC {
            return Err(HandshakeError::BadOptionMagic { magic });
        }
        if !self.fixed_newstyle && option != option::EXPORT_NAME {
            return Err(HandshakeError::NotFixedNewstyle { option });
        }
        if len > MAX_SKIPPED_OPTION_LEN {
            return Err(HandshakeError::OptionTooLong { option, len });
        }
        self.state = if len <= MAX_OPTION_LEN {
            State::Data { option, len: len as usize }
        } else if option == option::EXPORT_NAME {
            return Err(HandshakeError::BadExportName);
        } else {
            State::Skip { option, left: len as usize }
        };
        Ok(())
    }

    /// One complete option. Leaves the state `Header` (answered), one of `Await..`, or `Closed`.
    fn on_option(&mut self, option: u32, mut data: &[u8]) -> Result<Option<Event>, HandshakeError> {
        let parsed = match option {
            option::EXPORT_NAME => {
                let name = parse_string(data).ok_or(HandshakeError::BadExportName)?;
                Ok((name, Purpose::ExportName))
            }
            option::ABORT => {
                self.ack(option);
                self.state = State::Closed;
                return Ok(Some(Event::Aborted));
            }
            option::LIST => {
                if data.is_empty() {
                    self.state = State::AwaitList;
                    return Ok(Some(Event::List));
                }
                Err((rep::ERR_INVALID, "LIST has no data"))
            }
            option::STRUCTURED_REPLY => {
                if data.is_empty() {
                    self.structured_replies = true;
                    self.ack(option);
                    return Ok(None);
                }
                Err((rep::ERR_INVALID, "STRUCTURED_REPLY has no data"))
            }
            option::INFO => parse_info(&mut data).map(|(name, requests)| (name, Purpose::Info { requests })),
            option::GO => parse_info(&mut data).map(|(name, requests)| (name, Purpose::Go { requests })),
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => self.parse_meta_context(option, data),
            // Among them STARTTLS, and EXTENDED_HEADERS, which is experimental.
            _ => Err((rep::ERR_UNSUP, "the server does not support this option")),
        };
        match parsed {
            Ok((name, purpose)) => {
                self.state = State::AwaitOpen { name: name.clone(), purpose };
                Ok(Some(Event::Open { name }))
            }
            Err(refusal) => {
                self.refuse(option, refusal);
                Ok(None)
            }
        }
    }

    fn parse_meta_context(&mut self, option: u32, mut data: &[u8]) -> Result<(String, Purpose), Refusal> {
        let set = option == option::SET_META_CONTEXT;
        if set {
            // "Replaces all previously-set metadata contexts (including when this command fails)."
            self.base_allocation_of = None;
        }
        if !self.structured_replies {
            return Err((rep::ERR_INVALID, "metadata contexts need structured replies"));
        }
        let name = take_string(&mut data)?;
        let queries = data.try_get_u32().map_err(|_| SHORT)?;
        let mut base_allocation = queries == 0 && !set;
        for _ in 0..queries {
            let query = take_string(&mut data)?;
            // Queries of other namespaces "MUST be ignored", and so is an unknown leaf of ours.
            base_allocation |= query == wire::BASE_ALLOCATION || (query == "base:" && !set);
        }
        if !data.is_empty() {
            return Err(TRAILING);
        }
        let purpose = if set {
            Purpose::SetMetaContext { base_allocation }
        } else {
            Purpose::ListMetaContext { base_allocation }
        };
        Ok((name, purpose))
    }

    fn put_info(
        &mut self,
        option: u32,
        requests: &[u16],
        name: &str,
        device: &DeviceInfo,
        session: &Session,
    ) {
        self.reply(option, rep::INFO, 12);
        self.outbox.put_u16(info::EXPORT);
        self.outbox.put_u64(session.size());
        self.outbox.put_u16(session.transmission_flags());
        for (request, text) in [(info::NAME, name), (info::DESCRIPTION, &device.description)] {
            if requests.contains(&request) {
                let text = clip(text);
                self.reply(option, rep::INFO, 2 + text.len());
                self.outbox.put_u16(request);
                self.outbox.put_slice(text.as_bytes());
            }
        }
        if requests.contains(&info::BLOCK_SIZE) {
            self.reply(option, rep::INFO, 14);
            self.outbox.put_u16(info::BLOCK_SIZE);
            self.outbox.put_u32(device.block_size.minimum());
            self.outbox.put_u32(device.block_size.preferred());
            self.outbox.put_u32(wire::MAX_PAYLOAD);
        }
    }

    fn put_base_allocation(&mut self, option: u32, id: u32) {
        self.reply(option, rep::META_CONTEXT, 4 + wire::BASE_ALLOCATION.len());
        self.outbox.put_u32(id);
        self.outbox.put_slice(wire::BASE_ALLOCATION.as_bytes());
    }

    /// The final, good answer to an option.
    fn ack(&mut self, option: u32) {
        self.reply(option, rep::ACK, 0);
        self.state = State::Header;
    }

    /// The final, bad answer to an option. The client may go on with another one.
    fn refuse(&mut self, option: u32, (reply, text): (u32, &str)) {
        let text = clip(text);
        self.reply(option, reply, text.len());
        self.outbox.put_slice(text.as_bytes());
        self.state = State::Header;
    }

    fn refuse_export(&mut self, option: u32, error: &ExportError) {
        let reply = match error {
            ExportError::Unknown { .. } => rep::ERR_UNKNOWN,
            ExportError::Refused { .. } => rep::ERR_POLICY,
            ExportError::Shutdown => rep::ERR_SHUTDOWN,
        };
        self.refuse(option, (reply, &error.to_string()));
    }

    fn reply(&mut self, option: u32, reply: u32, len: usize) {
        self.outbox.put_u64(wire::OPTION_REPLY_MAGIC);
        self.outbox.put_u32(option);
        self.outbox.put_u32(reply);
        self.outbox.put_u32(u32::try_from(len).expect("at most two clipped strings"));
    }
}

const SHORT: Refusal = (rep::ERR_INVALID, "the option ends in the middle of a field");
const TRAILING: Refusal = (rep::ERR_INVALID, "the option goes on after its last field");

/// Data of `INFO` and `GO`: name of the export and kinds of information asked for.
fn parse_info(data: &mut &[u8]) -> Result<(String, Vec<u16>), Refusal> {
    let name = take_string(data)?;
    let count = data.try_get_u16().map_err(|_| SHORT)?;
    let (requests, rest) = data.split_at_checked(2 * usize::from(count)).ok_or(SHORT)?;
    if !rest.is_empty() {
        return Err(TRAILING);
    }
    let requests = requests.chunks_exact(2).map(|mut request| request.get_u16()).collect();
    Ok((name, requests))
}

/// A string with its length in 32 bits before it.
fn take_string(data: &mut &[u8]) -> Result<String, Refusal> {
    let len = data.try_get_u32().map_err(|_| SHORT)?;
    let (string, rest) = data.split_at_checked(len as usize).ok_or(SHORT)?;
    *data = rest;
    parse_string(string)
        .ok_or((rep::ERR_INVALID, "a string is not UTF-8, has a NUL or is longer than 4096 bytes"))
}

/// "All strings are UTF-8, MUST NOT contain `NUL`, and MUST be no longer than 4096 bytes."
fn parse_string(bytes: &[u8]) -> Option<String> {
    let string = std::str::from_utf8(bytes).ok()?;
    (string.len() <= MAX_STRING && !string.contains('\0')).then(|| string.to_owned())
}

/// The part of a string of ours that may be sent.
pub(crate) fn clip(text: &str) -> &str {
    let text = text.split('\0').next().unwrap_or_default();
    let mut end = text.len().min(MAX_STRING);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn put_string(out: &mut BytesMut, text: &str) {
    out.put_u32(u32::try_from(text.len()).expect("clipped"));
    out.put_slice(text.as_bytes());
}

#[cfg(test)]
mod tests;
