//! The streams that `rbd export`, `export-diff`, `import` and `import-diff` exchange.
//!
//! ```text
//! image, format 2   "rbd image v2\n"  { tag | length le64 | value }...  'E'
//!                   "rbd image diffs v2\n"  number of diffs le64  diff (version 2)...
//! diff, version 2   "rbd diff v2\n"   { tag | length le64 | value }...  'e'
//! diff, version 1   "rbd diff v1\n"   { tag | value }...                'e'
//!
//! image   'O' order le64 | 'T' features le64 | 'U' stripe unit le64 | 'C' stripe count le64 | 'M' key, value
//! diff    'f' snapshot that it starts from | 't' snapshot that it ends at | 'p' whether that is protected, u8
//!         's' bytes of the image le64 | 'w' offset le64, length le64, data | 'z' offset le64, length le64
//! ```
//! Texts have their length before them, le32. Of values that are known here the length is not looked at.
//!
//! Ceph: `src/tools/rbd/Utils.h`, `src/tools/rbd/action/Export.cc`, `src/tools/rbd/action/Import.cc`.

use bytes::{Buf, Bytes, BytesMut};
use ceph_codec::{Decode, DecodeError, Encode, Reader};
use rados::Errno;
use thiserror::Error;

const IMAGE_BANNER: &[u8] = b"rbd image v2\n";
const DIFFS_BANNER: &[u8] = b"rbd image diffs v2\n";
const DIFF_BANNER: &[u8] = b"rbd diff v1\n";
const DIFF_BANNER_V2: &[u8] = b"rbd diff v2\n";

/// The longest name of a snapshot, and the longest key and value of metadata, in bytes.
const MAX_NAME: usize = 4096;
const MAX_METADATA: usize = 1 << 20;

/// The version of a diff.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// On its own.
    One,
    /// Within an image.
    Two,
    /// The same as `rbd` wrote it before Ceph 18: the protection of a snapshot is announced as 8 bytes, and is 1.
    TwoBeforeReef,
}

/// What an exported image says about itself, before its contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Property {
    /// Binary logarithm of the object size.
    Order(u64),
    /// Bits of its features.
    Features(u64),
    /// Bytes of a stripe unit.
    StripeUnit(u64),
    /// Objects that a stripe goes over.
    StripeCount(u64),
    /// A pair of its metadata.
    Metadata {
        /// Name of the pair.
        key: String,
        /// The value, which is whatever users make of it.
        value: Vec<u8>,
    },
}

/// What a diff says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// The snapshot that has to be there.
    FromSnapshot(String),
    /// The snapshot to make in the end.
    ToSnapshot(String),
    /// Whether to protect that snapshot.
    Protected(bool),
    /// Bytes of the image.
    Size(u64),
    /// Data at this place follow.
    Data {
        /// First byte in the image.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// Zeroes are at this place.
    Zeroes {
        /// First byte in the image.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// There is no more to it.
    End,
}

/// A part of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Something about the image.
    Property(Property),
    /// So many diffs follow.
    Diffs(u64),
    /// Something of a diff.
    Record(Record),
    /// The next bytes of the data announced by [`Record::Data`]. Never empty.
    Data(Bytes),
    /// The stream is complete. What follows it does not matter.
    End,
}

/// Why a stream cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FormatError {
    /// It is something else.
    #[error("this is no {expected}: it does not begin with {banner:?}")]
    Banner {
        /// What it should be.
        expected: &'static str,
        /// What it should begin with.
        banner: String,
    },
    /// It is not complete.
    #[error("the stream ends in the middle of {what}")]
    Truncated {
        /// What it is in the middle of.
        what: &'static str,
    },
    /// A name or value is longer than any real one.
    #[error("{what} of {len} bytes is longer than {max}")]
    TooLong {
        /// What it is.
        what: &'static str,
        /// Bytes that it has.
        len: u64,
        /// Bytes that it may have.
        max: usize,
    },
    /// A name is not text.
    #[error("{what} is not UTF-8")]
    NotText {
        /// What it is.
        what: &'static str,
    },
    /// A diff of version 1 has a tag that is not known, so that nobody can tell where the next one is.
    #[error("tag {tag:#04x} of a diff is not known")]
    Tag {
        /// The tag.
        tag: u8,
    },
    /// Data reach past the end of what 64 bits can count.
    #[error("{len} bytes at {offset} are past the end of any image")]
    Overflow {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
}

impl FormatError {
    /// The errno that `rbd` exits with.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            Self::Truncated { .. } => EBADMSG,
            _ => Errno::EINVAL,
        }
    }
}

const EBADMSG: Errno = Errno(74);

/// The beginning of an exported image.
pub(super) fn image_header(properties: &[Property], diffs: u64) -> Vec<u8> {
    let mut out = IMAGE_BANNER.to_vec();
    for property in properties {
        property.encode(&mut out);
    }
    b'E'.encode(&mut out);
    out.extend_from_slice(DIFFS_BANNER);
    diffs.encode(&mut out);
    out
}

/// The beginning of a diff.
pub(super) fn diff_header(records: &[Record], version: Version) -> Vec<u8> {
    let banner = match version {
        Version::One => DIFF_BANNER,
        Version::Two | Version::TwoBeforeReef => DIFF_BANNER_V2,
    };
    let mut out = banner.to_vec();
    for record in records {
        record.encode(version, &mut out);
    }
    out
}

impl Encode for Property {
    fn encode(&self, out: &mut Vec<u8>) {
        let (tag, number) = match self {
            Self::Order(order) => (b'O', order),
            Self::Features(bits) => (b'T', bits),
            Self::StripeUnit(bytes) => (b'U', bytes),
            Self::StripeCount(count) => (b'C', count),
            Self::Metadata { key, value } => {
                (b'M', (key.len() + value.len()) as u64 + 8).encode(out);
                key.encode(out);
                return ceph_codec::encode_bytes(value, out);
            }
        };
        (tag, 8u64).encode(out);
        number.encode(out);
    }
}

impl Record {
    /// Appends it; data have to follow [`Record::Data`].
    pub(super) fn encode(&self, version: Version, out: &mut Vec<u8>) {
        let (tag, len) = match self {
            Self::FromSnapshot(name) => (b'f', name.len() as u64 + 4),
            Self::ToSnapshot(name) => (b't', name.len() as u64 + 4),
            Self::Protected(_) => (b'p', if version == Version::TwoBeforeReef { 8 } else { 1 }),
            Self::Size(_) => (b's', 8),
            Self::Data { len, .. } => (b'w', len.saturating_add(16)),
            Self::Zeroes { .. } => (b'z', 16),
            Self::End => return b'e'.encode(out),
        };
        tag.encode(out);
        if version != Version::One {
            len.encode(out);
        }
        match self {
            Self::FromSnapshot(name) | Self::ToSnapshot(name) => name.encode(out),
            Self::Protected(protected) => protected.encode(out),
            Self::Size(bytes) => bytes.encode(out),
            Self::Data { offset, len } | Self::Zeroes { offset, len } => (*offset, *len).encode(out),
            Self::End => {}
        }
    }
}

/// Takes a stream apart: bytes go in as they come, parts come out.
///
/// It keeps no more than the bytes of one name or value that is not complete, and what was pushed and not taken.
#[derive(Debug)]
pub struct StreamDecoder {
    input: BytesMut,
    state: State,
    diffs: u64,
    /// Diffs after the current one.
    diffs_left: u64,
    version: Version,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    ImageBanner,
    Properties,
    DiffsBanner,
    Count,
    DiffBanner,
    Records,
    Data { left: u64 },
    Skip { left: u64, then: Then },
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Properties,
    Records,
}

/// What one step gives.
enum Step {
    Part(Part),
    /// Nothing to tell; go on.
    On,
    /// More bytes are needed.
    Starved,
}

impl StreamDecoder {
    /// For what `rbd export --export-format 2` writes.
    #[must_use]
    pub fn image() -> Self {
        Self {
            input: BytesMut::new(),
            state: State::ImageBanner,
            diffs: 0,
            diffs_left: 0,
            version: Version::Two,
        }
    }

    /// For what `rbd export-diff` writes.
    #[must_use]
    pub fn diff() -> Self {
        Self {
            input: BytesMut::new(),
            state: State::DiffBanner,
            diffs: 1,
            diffs_left: 0,
            version: Version::One,
        }
    }

    /// Takes the next bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    /// The next part, if enough of it is there.
    ///
    /// # Errors
    /// [`FormatError`] if the stream cannot be understood. There is no way on then.
    pub fn next_part(&mut self) -> Result<Option<Part>, FormatError> {
        loop {
            match self.step()? {
                Step::Part(part) => return Ok(Some(part)),
                Step::On => {}
                Step::Starved => return Ok(None),
            }
        }
    }

    /// How many diffs the stream has, as far as it is known.
    #[must_use]
    pub fn diffs(&self) -> u64 {
        self.diffs
    }

    /// Tells what is missing at the end of the stream.
    #[must_use]
    pub fn truncated(&self) -> FormatError {
        let what = match self.state {
            State::ImageBanner | State::DiffsBanner | State::DiffBanner => "a banner",
            State::Properties | State::Skip { then: Then::Properties, .. } => "the image's properties",
            State::Count => "the number of diffs",
            State::Records | State::Skip { then: Then::Records, .. } | State::End => "a diff",
            State::Data { .. } => "the data of a diff",
        };
        FormatError::Truncated { what }
    }

    fn step(&mut self) -> Result<Step, FormatError> {
        match self.state {
            State::ImageBanner => self.banner("exported image of format 2", IMAGE_BANNER, State::Properties),
            State::DiffsBanner => self.banner("exported image of format 2", DIFFS_BANNER, State::Count),
            State::DiffBanner => {
                let banner = match self.version {
                    Version::One => DIFF_BANNER,
                    Version::Two | Version::TwoBeforeReef => DIFF_BANNER_V2,
                };
                self.banner("exported diff", banner, State::Records)
            }
            State::Properties => self.decode(property),
            State::Records => {
                let version = self.version;
                self.decode(|r| record(r, version))
            }
            State::Count => self.decode(|r| Ok(Item::Diffs(u64::decode(r)?))),
            State::Data { left: 0 } => Ok(self.go(State::Records)),
            State::Data { left } => Ok(self.data(left)),
            State::Skip { left, then } => Ok(self.skip(left, then)),
            State::End => Ok(Step::Part(Part::End)),
        }
    }

    fn go(&mut self, state: State) -> Step {
        self.state = state;
        Step::On
    }

    fn banner(&mut self, expected: &'static str, banner: &[u8], next: State) -> Result<Step, FormatError> {
        let there = self.input.len().min(banner.len());
        if self.input[..there] != banner[..there] {
            let banner = String::from_utf8_lossy(banner).into_owned();
            return Err(FormatError::Banner { expected, banner });
        }
        if there < banner.len() {
            return Ok(Step::Starved);
        }
        self.input.advance(there);
        Ok(self.go(next))
    }

    fn data(&mut self, left: u64) -> Step {
        let now = self.input.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if now == 0 {
            return Step::Starved;
        }
        self.state = State::Data { left: left - now as u64 };
        Step::Part(Part::Data(self.input.split_to(now).freeze()))
    }

    fn skip(&mut self, left: u64, then: Then) -> Step {
        let now = self.input.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        self.input.advance(now);
        match (left - now as u64, then) {
            (0, Then::Properties) => self.go(State::Properties),
            (0, Then::Records) => self.go(State::Records),
            (left, _) => {
                self.state = State::Skip { left, then };
                Step::Starved
            }
        }
    }

    /// Decodes an item, once all of it is there.
    fn decode(
        &mut self,
        decode: impl FnOnce(&mut Reader<'_>) -> Result<Item, ItemError>,
    ) -> Result<Step, FormatError> {
        let mut reader = Reader::new(&self.input);
        let item = match decode(&mut reader) {
            Ok(item) => item,
            Err(ItemError::Incomplete) => return Ok(Step::Starved),
            Err(ItemError::Format(error)) => return Err(error),
        };
        let used = self.input.len() - reader.remaining();
        self.input.advance(used);
        Ok(match item {
            Item::Property(property) => Step::Part(Part::Property(property)),
            Item::EndOfProperties => self.go(State::DiffsBanner),
            Item::Diffs(count) => {
                self.diffs = count;
                match count.checked_sub(1) {
                    Some(left) => (self.state, self.diffs_left) = (State::DiffBanner, left),
                    None => self.state = State::End,
                }
                Step::Part(Part::Diffs(count))
            }
            Item::Record(record) => {
                match (&record, self.diffs_left.checked_sub(1)) {
                    (Record::Data { len, .. }, _) => self.state = State::Data { left: *len },
                    (Record::End, Some(left)) => (self.state, self.diffs_left) = (State::DiffBanner, left),
                    (Record::End, None) => self.state = State::End,
                    _ => {}
                }
                Step::Part(Part::Record(record))
            }
            Item::Unknown { len, then } => self.go(State::Skip { left: len, then }),
        })
    }
}

enum Item {
    Property(Property),
    EndOfProperties,
    Diffs(u64),
    Record(Record),
    Unknown { len: u64, then: Then },
}

enum ItemError {
    Incomplete,
    Format(FormatError),
}

impl From<DecodeError> for ItemError {
    /// Nothing but numbers is decoded, which can only be cut short.
    fn from(_: DecodeError) -> Self {
        Self::Incomplete
    }
}

impl From<FormatError> for ItemError {
    fn from(error: FormatError) -> Self {
        Self::Format(error)
    }
}

fn property(r: &mut Reader<'_>) -> Result<Item, ItemError> {
    let tag = u8::decode(r)?;
    if tag == b'E' {
        return Ok(Item::EndOfProperties);
    }
    let len = u64::decode(r)?;
    Ok(Item::Property(match tag {
        b'O' => Property::Order(u64::decode(r)?),
        b'T' => Property::Features(u64::decode(r)?),
        b'U' => Property::StripeUnit(u64::decode(r)?),
        b'C' => Property::StripeCount(u64::decode(r)?),
        b'M' => Property::Metadata {
            key: text(r, "the key of metadata", MAX_NAME)?,
            value: bytes(r, "a value of metadata", MAX_METADATA)?,
        },
        _ => return Ok(Item::Unknown { len, then: Then::Properties }),
    }))
}

fn record(r: &mut Reader<'_>, version: Version) -> Result<Item, ItemError> {
    let tag = u8::decode(r)?;
    if tag == b'e' {
        return Ok(Item::Record(Record::End));
    }
    let len = if version == Version::One { 0 } else { u64::decode(r)? };
    Ok(Item::Record(match tag {
        b'f' => Record::FromSnapshot(text(r, "the name of a snapshot", MAX_NAME)?),
        b't' => Record::ToSnapshot(text(r, "the name of a snapshot", MAX_NAME)?),
        b'p' => Record::Protected(u8::decode(r)? != 0),
        b's' => Record::Size(u64::decode(r)?),
        b'w' => {
            let (offset, len) = extent(r)?;
            Record::Data { offset, len }
        }
        b'z' => {
            let (offset, len) = extent(r)?;
            Record::Zeroes { offset, len }
        }
        _ if version != Version::One => return Ok(Item::Unknown { len, then: Then::Records }),
        tag => return Err(FormatError::Tag { tag }.into()),
    }))
}

fn extent(r: &mut Reader<'_>) -> Result<(u64, u64), ItemError> {
    let (offset, len) = <(u64, u64)>::decode(r)?;
    if offset.checked_add(len).is_none() {
        return Err(FormatError::Overflow { offset, len }.into());
    }
    Ok((offset, len))
}

fn text(r: &mut Reader<'_>, what: &'static str, max: usize) -> Result<String, ItemError> {
    String::from_utf8(bytes(r, what, max)?).map_err(|_| FormatError::NotText { what }.into())
}

fn bytes(r: &mut Reader<'_>, what: &'static str, max: usize) -> Result<Vec<u8>, ItemError> {
    let len = u32::decode(r)?;
    match usize::try_from(len) {
        Ok(len) if len <= max => Ok(r.take(what, len)?.to_vec()),
        _ => Err(FormatError::TooLong { what, len: len.into(), max }.into()),
    }
}

#[cfg(test)]
mod tests;
