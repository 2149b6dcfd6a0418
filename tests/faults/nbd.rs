//! An NBD client that keeps many requests under way. The `nbd` crate's, which negotiates here, sends one at a time and
//! knows neither FUA nor zeroes.

use std::io::{self, BufReader, Read, Write};
use std::os::unix::net::UnixStream;

/// What to do, with the protocol's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    Read = 0,
    Write = 1,
    Disconnect = 2,
    Flush = 3,
    Trim = 4,
    WriteZeroes = 6,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Request {
    pub(crate) command: Command,
    /// Durable before it is acknowledged (`NBD_CMD_FLAG_FUA`).
    pub(crate) fua: bool,
    pub(crate) offset: u64,
    pub(crate) length: u32,
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
    let mut stream = UnixStream::connect(socket)?;
    let export = nbd::client::handshake(&mut stream, export.as_bytes())?;
    Ok((Requests(stream.try_clone()?), Replies(BufReader::with_capacity(64 << 10, stream)), export.size))
}

impl Requests {
    /// Sends a request; `data` is what to write.
    pub(crate) fn send(&mut self, cookie: u64, request: Request, data: &[u8]) -> io::Result<()> {
        const MAGIC: u32 = 0x2560_9513;
        let mut header = Vec::with_capacity(28 + data.len());
        header.extend(MAGIC.to_be_bytes());
        header.extend(u16::from(request.fua).to_be_bytes());
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

impl Replies {
    /// The next reply; `None` at the end of the connection.
    pub(crate) fn next(&mut self) -> io::Result<Option<Reply>> {
        const MAGIC: [u8; 4] = 0x6744_6698_u32.to_be_bytes();
        let mut header = [0; 16];
        if self.0.read(&mut header[..1])? == 0 {
            return Ok(None);
        }
        self.0.read_exact(&mut header[1..])?;
        let (magic, rest) = header.split_at(4);
        let (error, cookie) = rest.split_at(4);
        if magic != MAGIC {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a simple reply"));
        }
        Ok(Some(Reply {
            cookie: u64::from_be_bytes(cookie.try_into().expect("8 bytes")),
            error: u32::from_be_bytes(error.try_into().expect("4 bytes")),
        }))
    }

    /// What a reply to a read has behind it, if there was no error.
    pub(crate) fn payload(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_exact(buffer)
    }
}
