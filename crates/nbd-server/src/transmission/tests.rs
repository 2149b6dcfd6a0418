#![allow(clippy::cast_possible_truncation, reason = "lengths in tests are small")]

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::FutureExt;
use proptest::prelude::*;

use super::*;
use crate::device::{
    BlockDevice, BlockSize, DeviceError, DeviceInfo, ErrorKind, Extent, ReadData, Segment, ZeroFlags,
};
use crate::mem::MemDevice;
use crate::session::Session;
use crate::wire::{self, Errno, MAX_PAYLOAD, command, command_flag as flag};

const MIB: u64 = 1 << 20;

fn header(flags: u16, command: u16, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.put_u32(wire::REQUEST_MAGIC);
    bytes.put_u16(flags);
    bytes.put_u16(command);
    bytes.put_u64(cookie);
    bytes.put_u64(offset);
    bytes.put_u32(len);
    bytes
}

/// Gives bytes to the reader as a socket would, in pieces of at most `cut`; what it makes of them.
fn receive(reader: &mut RequestReader, bytes: &[u8], cut: usize) -> Result<Vec<Incoming>, RequestError> {
    let mut all = Vec::new();
    let mut pieces = bytes.chunks(cut);
    let mut piece: &[u8] = &[];
    loop {
        while let Some(incoming) = reader.next_request(|_| true)? {
            let end = incoming == Incoming::Disconnect;
            all.push(incoming);
            if end {
                return Ok(all);
            }
        }
        if piece.is_empty() {
            match pieces.next() {
                Some(next) => piece = next,
                None => return Ok(all),
            }
        }
        let mut space = reader.space();
        let len = space.remaining_mut().min(piece.len());
        assert!(len > 0, "space is never empty");
        space.put_slice(&piece[..len]);
        piece = &piece[len..];
    }
}

/// What a single request without payload becomes.
fn command(session: &Session, flags: u16, command: u16, offset: u64, len: u32) -> Command {
    let mut reader = RequestReader::new(session.clone(), BytesMut::new());
    match &receive(&mut reader, &header(flags, command, 7, offset, len), usize::MAX).unwrap()[..] {
        [Incoming::Request(Request { cookie: 7, command })] => command.clone(),
        other => panic!("{other:?}"),
    }
}

fn errno(session: &Session, flags: u16, number: u16, offset: u64, len: u32) -> Option<Errno> {
    match command(session, flags, number, offset, len) {
        Command::Refused { errno, .. } => Some(errno),
        _ => None,
    }
}

fn disk() -> DeviceInfo {
    DeviceInfo { fast_zero: true, ..DeviceInfo::new(64 * MIB) }
}

fn structured() -> Session {
    Session::new(&disk(), true, true)
}

fn simple() -> Session {
    Session::new(&disk(), false, false)
}

#[test]
fn commands_are_decoded_with_their_flags() {
    let s = structured();
    assert_eq!(
        command(&s, flag::DF, command::READ, 5, 10),
        Command::Read { offset: 5, len: 10, dont_fragment: true }
    );
    assert_eq!(command(&s, 0, command::FLUSH, 0, 0), Command::Flush);
    assert_eq!(command(&s, flag::FUA, command::TRIM, 5, 10), Command::Trim { offset: 5, len: 10, fua: true });
    assert_eq!(command(&s, 0, command::CACHE, 5, 10), Command::Cache { offset: 5, len: 10 });
    let flags = ZeroFlags { may_unmap: true, fast_only: false, fua: false };
    assert_eq!(
        command(&s, 0, command::WRITE_ZEROES, 5, 10),
        Command::WriteZeroes { offset: 5, len: 10, flags }
    );
    let flags = ZeroFlags { may_unmap: false, fast_only: true, fua: true };
    assert_eq!(
        command(&s, flag::NO_HOLE | flag::FAST_ZERO | flag::FUA, command::WRITE_ZEROES, 5, 10),
        Command::WriteZeroes { offset: 5, len: 10, flags }
    );
    assert_eq!(
        command(&s, flag::REQ_ONE, command::BLOCK_STATUS, 5, 10),
        Command::BlockStatus { offset: 5, len: 10, one: true }
    );
}

#[test]
fn fua_is_accepted_on_every_command() {
    for number in [command::READ, command::FLUSH, command::TRIM, command::CACHE, command::BLOCK_STATUS] {
        let len = if number == command::FLUSH { 0 } else { 512 };
        assert_eq!(errno(&structured(), flag::FUA, number, 0, len), None, "command {number}");
    }
}

#[test]
fn unknown_commands_and_flags_are_invalid() {
    for number in [8, 9, 100, u16::MAX] {
        assert_eq!(errno(&structured(), 0, number, 0, 512), Some(Errno::Invalid));
    }
    for (number, flags) in [
        (command::READ, flag::NO_HOLE),
        (command::READ, 1 << 15),
        (command::TRIM, flag::NO_HOLE),
        (command::CACHE, flag::DF),
        (command::WRITE_ZEROES, flag::REQ_ONE),
        (command::BLOCK_STATUS, flag::DF),
    ] {
        assert_eq!(errno(&structured(), flags, number, 0, 512), Some(Errno::Invalid), "{number} {flags:#x}");
    }
}

#[test]
fn what_was_not_negotiated_is_invalid() {
    assert_eq!(errno(&simple(), flag::DF, command::READ, 0, 512), Some(Errno::Invalid));
    assert_eq!(errno(&simple(), 0, command::BLOCK_STATUS, 0, 512), Some(Errno::Invalid));
    let no_context = Session::new(&disk(), true, false);
    assert_eq!(errno(&no_context, 0, command::BLOCK_STATUS, 0, 512), Some(Errno::Invalid));
    let slow = Session::new(&DeviceInfo::new(MIB), true, true);
    assert_eq!(errno(&slow, flag::FAST_ZERO, command::WRITE_ZEROES, 0, 512), Some(Errno::Invalid));
}

#[test]
fn beyond_the_end_writes_and_zeroes_lack_space_and_others_are_invalid() {
    let size = 64 * MIB;
    for (offset, len) in [(size - 511, 512), (size, 1), (u64::MAX, 512), (u64::MAX - 511, 512)] {
        for number in [command::READ, command::TRIM, command::CACHE, command::BLOCK_STATUS] {
            assert_eq!(errno(&structured(), 0, number, offset, len), Some(Errno::Invalid));
        }
        assert_eq!(errno(&structured(), 0, command::WRITE_ZEROES, offset, len), Some(Errno::NoSpace));
        let mut reader = RequestReader::new(structured(), BytesMut::new());
        let mut bytes = header(0, command::WRITE, 1, offset, len);
        bytes.extend(vec![0; len as usize]);
        let refused = Command::Refused { errno: Errno::NoSpace, reason: "the range ends beyond the export" };
        let expected = Incoming::Request(Request { cookie: 1, command: refused });
        assert_eq!(receive(&mut reader, &bytes, 100), Ok(vec![expected]));
    }
    assert_eq!(errno(&structured(), 0, command::READ, size - 512, 512), None);
}

#[test]
fn a_read_only_export_permits_no_change() {
    let session = Session::new(&DeviceInfo { read_only: true, ..disk() }, true, true);
    for number in [command::TRIM, command::WRITE_ZEROES] {
        assert_eq!(errno(&session, 0, number, 0, 512), Some(Errno::Perm));
    }
    let mut reader = RequestReader::new(session, BytesMut::new());
    let bytes =
        [header(0, command::WRITE, 1, 0, 4), b"data".to_vec(), header(0, command::READ, 2, 0, 4)].concat();
    let all = receive(&mut reader, &bytes, 5).unwrap();
    assert!(matches!(
        all[..],
        [
            Incoming::Request(Request { cookie: 1, command: Command::Refused { errno: Errno::Perm, .. } }),
            Incoming::Request(Request { cookie: 2, command: Command::Read { .. } })
        ]
    ));
}

#[test]
fn requests_are_aligned_to_the_minimum_block_size() {
    let block_size = BlockSize::new(512, 4096).unwrap();
    let session = Session::new(&DeviceInfo { block_size, ..disk() }, true, true);
    assert_eq!(errno(&session, 0, command::READ, 512, 1024), None);
    assert_eq!(errno(&session, 0, command::READ, 513, 1024), Some(Errno::Invalid));
    assert_eq!(errno(&session, 0, command::TRIM, 512, 100), Some(Errno::Invalid));
    for (minimum, preferred) in
        [(3, 4096), (0, 4096), (1 << 17, 1 << 17), (1, 256), (1, 1 << 26), (4096, 512)]
    {
        assert_eq!(BlockSize::new(minimum, preferred), None);
    }
}

#[test]
fn a_read_beyond_the_maximum_payload_is_refused() {
    assert_eq!(errno(&structured(), 0, command::READ, 0, MAX_PAYLOAD), None);
    assert_eq!(errno(&structured(), 0, command::READ, 0, MAX_PAYLOAD + 1), Some(Errno::Overflow));
    assert_eq!(errno(&simple(), 0, command::READ, 0, MAX_PAYLOAD + 1), Some(Errno::Invalid));
    assert_eq!(errno(&structured(), 0, command::TRIM, 0, 64 << 20), None, "it has no payload");
}

#[test]
fn an_overlong_write_is_skipped_and_an_absurd_one_ends_the_connection() {
    let mut reader = RequestReader::new(structured(), BytesMut::new());
    let len = MAX_PAYLOAD + 1;
    let mut bytes = header(0, command::WRITE, 1, 0, len);
    bytes.resize(bytes.len() + len as usize, 0);
    bytes.extend(header(0, command::DISC, 0, 0, 0));
    let all = receive(&mut reader, &bytes, 1 << 20).unwrap();
    let [Incoming::Request(refused), Incoming::Disconnect] = &all[..] else { panic!("{all:?}") };
    assert!(matches!(refused.command, Command::Refused { errno: Errno::Invalid, .. }));
    assert!(reader.space().get_ref().capacity() < 1 << 20, "what is skipped is not stored");

    let mut reader = RequestReader::new(structured(), BytesMut::new());
    let bytes = header(0, command::WRITE, 1, 0, u32::MAX);
    assert_eq!(receive(&mut reader, &bytes, 28), Err(RequestError::PayloadTooLong { len: u32::MAX }));
    assert_eq!(reader.next_request(|_| true), Ok(None), "and nothing more");
}

#[test]
fn a_bad_magic_ends_the_connection() {
    let mut reader = RequestReader::new(structured(), BytesMut::new());
    let bytes = [0; 28];
    assert_eq!(receive(&mut reader, &bytes, 28), Err(RequestError::BadMagic { magic: 0 }));
}

#[test]
fn a_large_payload_is_read_into_a_buffer_of_its_size() {
    let mut reader = RequestReader::new(structured(), BytesMut::new());
    let len = 4 << 20;
    assert_eq!(receive(&mut reader, &header(0, command::WRITE, 1, 0, len), 28), Ok(vec![]));
    let mut left = len as usize;
    assert_eq!(reader.space().remaining_mut(), left, "just the payload, not what follows");
    reader.space().put_slice(&[1; 100]);
    left -= 100;
    assert_eq!(reader.space().remaining_mut(), left);
    assert_eq!(reader.space().get_ref().capacity(), len as usize);
    reader.space().put_bytes(2, left);
    let Ok(Some(Incoming::Request(request))) = reader.next_request(|_| true) else { panic!() };
    assert_eq!(request.command.payload_len(), len as usize);
}

#[test]
fn a_payload_takes_no_more_memory_than_its_length() {
    let mut reader = RequestReader::new(structured(), BytesMut::new());
    let write = |len: u32| [header(0, command::WRITE, 1, 0, len), vec![5; len as usize]].concat();
    let lens = [1, 4096, 100, 32 << 10, (32 << 10) + 1, 100_000, 7];
    let bytes: Vec<u8> = lens.into_iter().flat_map(write).collect();
    let incoming = receive(&mut reader, &bytes, 50_000).unwrap();
    let payload = |incoming| match incoming {
        Incoming::Request(Request { command: Command::Write { data, .. }, .. }) => data,
        other => panic!("{other:?}"),
    };
    let payloads: Vec<Bytes> = incoming.into_iter().map(payload).collect();
    assert_eq!(payloads.iter().map(Bytes::len).collect::<Vec<_>>(), lens.map(|len| len as usize));
    for payload in payloads {
        let len = payload.len();
        let whole = payload.try_into_mut().expect("shared with nothing");
        assert_eq!(whole.capacity(), len);
    }
}

#[test]
fn a_request_is_announced_until_it_is_admitted_and_waits_with_its_payload_unread() {
    for len in [0, 100, 50_000] {
        let mut reader = RequestReader::new(structured(), BytesMut::new());
        assert_eq!(receive(&mut reader, &header(0, command::FLUSH, 1, 0, 0), 28).unwrap().len(), 1);
        reader.space().put_slice(&header(0, command::WRITE, 2, 0, len));
        let mut announced = Vec::new();
        for _ in 0..2 {
            let refused = reader.next_request(|len| {
                announced.push(len);
                false
            });
            assert_eq!(refused, Ok(None));
        }
        assert_eq!(announced, [len as usize; 2]);
        assert!(reader.space().get_ref().capacity() < 50_000, "there is no room for the payload");
        let admitted = reader.next_request(|_| true);
        assert_eq!(admitted.unwrap().is_some(), len == 0);
        let rest = vec![1; len as usize];
        for piece in rest.chunks(40) {
            reader.space().put_slice(piece);
            let next = reader.next_request(|_| panic!("it was admitted"));
            assert!(next.is_ok());
        }
    }
}

#[test]
fn what_is_announced_is_the_memory_that_the_request_and_its_answer_take() {
    let s = structured();
    let announced = |number, len| {
        let mut reader = RequestReader::new(s.clone(), BytesMut::from(&header(0, number, 1, 0, len)[..]));
        let mut announced = None;
        let _ = reader.next_request(|len| {
            announced = Some(len);
            true
        });
        announced
    };
    assert_eq!(announced(command::READ, 5), Some(5));
    assert_eq!(announced(command::READ, MAX_PAYLOAD + 1), Some(0), "it is refused");
    assert_eq!(announced(command::WRITE, 5), Some(5));
    assert_eq!(announced(command::WRITE, MAX_PAYLOAD + 1), Some(0), "it is skipped");
    assert_eq!(announced(command::TRIM, 64 << 20), Some(0));
    assert_eq!(announced(command::FLUSH, 0), Some(0));
    assert!(announced(command::BLOCK_STATUS, 1 << 20) > Some(100_000), "there may be many extents");
    assert_eq!(announced(command::DISC, 0), None, "it has no answer");
}

/// The bytes that answer a request called 7.
fn reply(structured: bool, answer: Answer) -> Vec<u8> {
    let mut replies = ReplyQueue::new(structured);
    replies.push(7, answer);
    let len = replies.remaining();
    let bytes = replies.copy_to_bytes(len).to_vec();
    assert_eq!(replies.remaining(), 0);
    bytes
}

fn read(offset: u64, dont_fragment: bool, segments: &[Segment]) -> Answer {
    Answer::Read { offset, dont_fragment, data: segments.iter().cloned().collect() }
}

const COOKIE: [u8; 8] = 7u64.to_be_bytes();

fn simple_header(error: u32) -> Vec<u8> {
    [&wire::SIMPLE_REPLY_MAGIC.to_be_bytes()[..], &error.to_be_bytes(), &COOKIE].concat()
}

fn chunk(flags: u16, kind: u16, payload: &[&[u8]]) -> Vec<u8> {
    let payload = payload.concat();
    let mut bytes = wire::STRUCTURED_REPLY_MAGIC.to_be_bytes().to_vec();
    bytes.put_u16(flags);
    bytes.put_u16(kind);
    bytes.put_slice(&COOKIE);
    bytes.put_u32(payload.len() as u32);
    bytes.extend(payload);
    bytes
}

#[test]
fn success_without_payload_is_a_simple_reply() {
    assert_eq!(reply(false, Answer::Done), simple_header(0));
    assert_eq!(reply(true, Answer::Done), simple_header(0));
}

#[test]
fn a_simple_read_has_zeroes_for_holes() {
    let segments = [Segment::Data(Bytes::from_static(b"ab")), Segment::Hole(100_000)];
    let bytes = reply(false, read(0, false, &segments));
    assert_eq!(bytes[..18], [simple_header(0), b"ab".to_vec()].concat());
    assert_eq!(bytes[18..], vec![0; 100_000]);
}

#[test]
fn a_structured_read_has_a_chunk_for_each_segment_and_the_last_is_done() {
    let data = Bytes::from(vec![9; 5000]);
    let bytes = reply(true, read(1000, false, &[Segment::Data(data.clone()), Segment::Hole(96)]));
    let expected = [
        chunk(0, wire::chunk::OFFSET_DATA, &[&1000u64.to_be_bytes(), &data]),
        chunk(1, wire::chunk::OFFSET_HOLE, &[&6000u64.to_be_bytes(), &96u32.to_be_bytes()]),
    ];
    assert_eq!(bytes, expected.concat());
}

#[test]
fn an_unfragmented_read_is_one_chunk() {
    let data = Segment::Data(Bytes::from_static(b"abc"));
    let bytes = reply(true, read(8, true, &[Segment::Hole(2), data]));
    assert_eq!(bytes, chunk(1, wire::chunk::OFFSET_DATA, &[&8u64.to_be_bytes(), b"\0\0abc"]));
    let bytes = reply(true, read(8, true, &[Segment::Hole(2)]));
    assert_eq!(bytes, chunk(1, wire::chunk::OFFSET_HOLE, &[&8u64.to_be_bytes(), &2u32.to_be_bytes()]));
}

#[test]
fn an_empty_read_has_no_content_chunk() {
    assert_eq!(reply(true, read(8, false, &[])), chunk(1, wire::chunk::NONE, &[]));
    assert_eq!(reply(false, read(8, false, &[])), simple_header(0));
}

#[test]
fn an_error_says_why_if_the_client_understands() {
    let error = || Answer::from(DeviceError::new(ErrorKind::NoSpace, "pool is full"));
    assert_eq!(reply(false, error()), simple_header(28));
    let expected =
        chunk(1, wire::chunk::ERROR, &[&28u32.to_be_bytes(), &12u16.to_be_bytes(), b"pool is full"]);
    assert_eq!(reply(true, error()), expected);
    let long = reply(true, DeviceError::new(ErrorKind::Io, "x".repeat(5000)).into());
    assert_eq!(long.len(), 20 + 6 + 4096);
}

#[test]
fn every_kind_of_failure_has_its_number() {
    let numbers = [
        (ErrorKind::Io, 5),
        (ErrorKind::NoSpace, 28),
        (ErrorKind::NotPermitted, 1),
        (ErrorKind::Invalid, 22),
        (ErrorKind::NotSupported, 95),
        (ErrorKind::NoMemory, 12),
        (ErrorKind::Shutdown, 108),
    ];
    for (kind, number) in numbers {
        assert_eq!(kind.errno().code(), number);
    }
}

#[test]
fn payloads_are_gathered_not_copied() {
    let data = Bytes::from(vec![9; 5000]);
    let mut replies = ReplyQueue::new(true);
    for cookie in 0..3 {
        replies.push(cookie, Answer::Done);
        replies.push(cookie, read(0, false, &[Segment::Data(data.clone())]));
    }
    let mut slices = [std::io::IoSlice::new(&[]); 16];
    assert_eq!(replies.chunks_vectored(&mut slices), 6);
    assert_eq!(slices[1].as_ptr(), data.as_ptr());
    assert_eq!(slices[5].as_ptr(), data.as_ptr());
}

/// A device that tells what it is told to tell, whatever it is asked.
struct Liar {
    read: ReadData,
    extents: Vec<Extent>,
}

impl BlockDevice for Liar {
    fn info(&self) -> DeviceInfo {
        disk()
    }
    async fn read(&self, _: u64, _: u32) -> Result<ReadData, DeviceError> {
        Ok(self.read.clone())
    }
    async fn write(&self, _: u64, _: Bytes, _: bool) -> Result<(), DeviceError> {
        Ok(())
    }
    async fn flush(&self) -> Result<(), DeviceError> {
        Ok(())
    }
    async fn trim(&self, _: u64, _: u64, _: bool) -> Result<(), DeviceError> {
        Ok(())
    }
    async fn write_zeroes(&self, _: u64, _: u64, _: ZeroFlags) -> Result<(), DeviceError> {
        Ok(())
    }
    async fn block_status(&self, _: u64, _: u64, _: usize) -> Result<Vec<Extent>, DeviceError> {
        Ok(self.extents.clone())
    }
}

fn run<D: BlockDevice>(device: &D, session: &Session, command: Command) -> Answer {
    command.run(device, session).now_or_never().expect("the device of a test does not wait")
}

#[test]
fn a_device_that_reads_a_wrong_length_is_an_error() {
    for data in [ReadData::new(), ReadData::hole(511), ReadData::hole(u64::MAX)] {
        let liar = Liar { read: data, extents: vec![] };
        let command = Command::Read { offset: 0, len: 512, dont_fragment: false };
        let answer = run(&liar, &structured(), command);
        assert!(matches!(answer, Answer::Failed { errno: Errno::Io, .. }), "{answer:?}");
    }
}

fn status(session: &Session, extents: &[(u64, bool)], offset: u64, len: u32, one: bool) -> Vec<(u32, u32)> {
    let extents = extents.iter().map(|&(len, hole)| Extent { len, hole, zero: hole }).collect();
    let liar = Liar { read: ReadData::new(), extents };
    match run(&liar, session, Command::BlockStatus { offset, len, one }) {
        Answer::BlockStatus(descriptors) => descriptors,
        Answer::Failed { errno: Errno::Io, .. } => vec![],
        other => panic!("{other:?}"),
    }
}

#[test]
fn extents_are_joined_and_none_is_empty() {
    let s = structured();
    let extents = [(0, true), (512, false), (512, false), (0, true), (1024, true), (0, false), (1, true)];
    assert_eq!(status(&s, &extents, 0, 4096, false), [(1024, 0), (1025, 3)]);
    assert_eq!(status(&s, &[(0, true)], 0, 4096, false), [], "an error");
    assert_eq!(status(&s, &[], 0, 4096, false), [], "an error");
}

#[test]
fn the_last_extent_may_exceed_the_request_but_not_the_export_and_not_with_req_one() {
    let s = structured();
    assert_eq!(status(&s, &[(u64::MAX, true)], 0, 4096, false), [(64 << 20, 3)]);
    assert_eq!(status(&s, &[(u64::MAX, true)], 63 * MIB, 4096, false), [(1 << 20, 3)]);
    assert_eq!(status(&s, &[(u64::MAX, true), (1, false)], 0, 4096, true), [(4096, 3)]);
    assert_eq!(status(&s, &[(100, true), (100, false)], 0, 4096, true), [(100, 3)]);
}

#[test]
fn extents_too_long_for_32_bits_are_split() {
    let huge = Session::new(&DeviceInfo::new(1 << 40), true, true);
    let max = 0xffff_0000;
    assert_eq!(
        status(&huge, &[(5 << 30, true)], 0, u32::MAX, false),
        [(max, 3), ((5 << 30) as u32 + 0x1_0000, 3)]
    );
    let adjacent = [(3 << 30, true), (2 << 30, true)];
    assert_eq!(status(&huge, &adjacent, 0, u32::MAX, false), [(max, 3), ((5 << 30) as u32 + 0x1_0000, 3)]);
    assert_eq!(status(&huge, &[(5 << 30, true)], 0, u32::MAX, true), [(max, 3)]);
}

#[test]
fn requests_of_nothing_succeed_without_the_device() {
    let device = MemDevice::new(MIB);
    device.fail_after(0, DeviceError::new(ErrorKind::Io, "not to be asked"));
    let session = Session::new(&device.info(), true, true);
    for number in [command::READ, command::TRIM, command::CACHE, command::WRITE_ZEROES] {
        let answer = run(&device, &session, command(&session, 0, number, MIB, 0));
        assert!(matches!(answer, Answer::Done | Answer::Read { .. }), "{answer:?}");
    }
    let empty = Command::Write { offset: 0, data: Bytes::new(), fua: true };
    assert!(matches!(run(&device, &session, empty), Answer::Done));
}

#[derive(Debug, Clone)]
enum Op {
    Read(bool),
    Write(u8),
    Zero(u16),
    Trim,
}

const SIZE: usize = 400_000;

fn any_op() -> impl Strategy<Value = (Op, usize, usize)> {
    let op = prop_oneof![
        any::<bool>().prop_map(Op::Read),
        any::<u8>().prop_map(Op::Write),
        prop_oneof![Just(0), Just(flag::NO_HOLE), Just(flag::FAST_ZERO)].prop_map(Op::Zero),
        Just(Op::Trim),
    ];
    (op, 0..=SIZE, 0..=SIZE).prop_map(|(op, a, b)| (op, a.min(b), a.max(b) - a.min(b)))
}

/// The data of a reply to a read, checked chunk by chunk, and the error of any.
fn decode(structured: bool, mut reply: &[u8], offset: usize, len: usize, df: bool) -> Result<Vec<u8>, u32> {
    if !structured {
        assert_eq!(reply.get_u32(), wire::SIMPLE_REPLY_MAGIC);
        let error = reply.get_u32();
        reply.advance(8);
        return if error == 0 { Ok(reply.to_vec()) } else { Err(error) };
    }
    let mut data = Vec::new();
    let mut chunks = 0;
    loop {
        assert_eq!(reply.get_u32(), wire::STRUCTURED_REPLY_MAGIC);
        let (flags, kind) = (reply.get_u16(), reply.get_u16());
        assert_eq!(reply.get_u64(), 1);
        let (mut payload, rest) =
            reply.split_at(4 + u32::from_be_bytes(reply[..4].try_into().unwrap()) as usize);
        payload.advance(4);
        reply = rest;
        if kind == wire::chunk::ERROR {
            return Err(payload.get_u32());
        }
        if kind != wire::chunk::NONE {
            assert_eq!(payload.get_u64(), (offset + data.len()) as u64);
            chunks += 1;
            match kind {
                wire::chunk::OFFSET_DATA => data.extend_from_slice(payload),
                wire::chunk::OFFSET_HOLE => data.resize(data.len() + payload.get_u32() as usize, 0),
                _ => panic!("chunk of type {kind}"),
            }
        }
        if flags == wire::chunk::FLAG_DONE {
            assert!(reply.is_empty());
            assert!(!df || chunks <= 1);
            assert_eq!(data.len(), len);
            return Ok(data);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_device_behaves_like_an_array_of_bytes(
        structured: bool,
        ops in proptest::collection::vec(any_op(), 1..30),
        cut in prop_oneof![1usize..100, 1000usize..500_000],
    ) {
        let device = MemDevice::new(SIZE as u64);
        let session = Session::new(&device.info(), structured, structured);
        let mut reader = RequestReader::new(session.clone(), BytesMut::new());
        let mut replies = ReplyQueue::new(structured);
        let mut model = vec![0u8; SIZE];
        for (op, offset, len) in ops {
            let range = offset..offset + len;
            let df = structured && matches!(op, Op::Read(true));
            let (number, flags) = match op {
                Op::Read(_) => (command::READ, if df { flag::DF } else { 0 }),
                Op::Write(_) => (command::WRITE, flag::FUA),
                Op::Zero(flags) => (command::WRITE_ZEROES, flags),
                Op::Trim => (command::TRIM, 0),
            };
            let mut bytes = header(flags, number, 1, offset as u64, len as u32);
            if let Op::Write(byte) = op {
                bytes.resize(bytes.len() + len, byte);
            }
            let incoming = receive(&mut reader, &bytes, cut).unwrap();
            let [Incoming::Request(request)] = &incoming[..] else { panic!("{incoming:?}") };
            replies.push(request.cookie, run(&device, &session, request.command.clone()));
            let mut reply = vec![0; replies.remaining()];
            replies.copy_to_slice(&mut reply);
            match op {
                Op::Read(_) => {
                    let data = decode(structured, &reply, offset, len, df);
                    prop_assert!(data.as_deref() == Ok(&model[range]), "read at {offset}");
                }
                Op::Write(byte) => {
                    prop_assert_eq!(reply, [&wire::SIMPLE_REPLY_MAGIC.to_be_bytes()[..], &[0; 4], &1u64.to_be_bytes()].concat());
                    model[range].fill(byte);
                }
                Op::Zero(_) => {
                    let error = if reply.len() == 16 { reply[4..8] == 95u32.to_be_bytes() } else {
                        reply[20..24] == 95u32.to_be_bytes()
                    };
                    if !error {
                        model[range].fill(0);
                    }
                }
                Op::Trim => {
                    // What was trimmed is undefined: learn it. What is outside must not have changed.
                    let all = run(&device, &session, Command::Read { offset: 0, len: SIZE as u32, dont_fragment: false });
                    let mut all_replies = ReplyQueue::new(structured);
                    all_replies.push(1, all);
                    let mut all = vec![0; all_replies.remaining()];
                    all_replies.copy_to_slice(&mut all);
                    let all = decode(structured, &all, 0, SIZE, false).unwrap();
                    model[range.clone()].copy_from_slice(&all[range]);
                    prop_assert!(model == all, "a trim changed its neighbours");
                }
            }
        }
    }

    #[test]
    fn how_the_bytes_are_cut_does_not_matter(
        requests in proptest::collection::vec((0u16..4, 0u16..9, 0u64..200_000, 0u32..70_000), 0..8),
        garbage in proptest::collection::vec(any::<u8>(), 0..40),
        cut in prop_oneof![1usize..100, 1000usize..100_000],
    ) {
        let session = Session::new(&DeviceInfo::new(150_000), true, true);
        let mut bytes = Vec::new();
        for (cookie, (flags, number, offset, len)) in requests.into_iter().enumerate() {
            bytes.extend(header(flags, number, cookie as u64, offset, len));
            if number == command::WRITE {
                bytes.extend((0..len).map(|at| (at / 7) as u8));
            }
        }
        bytes.extend(garbage);
        let whole = receive(&mut RequestReader::new(session.clone(), BytesMut::from(&bytes[..])), &[], 1);
        prop_assert_eq!(receive(&mut RequestReader::new(session, BytesMut::new()), &bytes, cut), whole);
    }
}
