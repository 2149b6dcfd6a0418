//! Messages, in both modes.

use ceph_codec::{Tid, crc32c};
use proptest::prelude::*;

use super::super::*;
use super::peer::{Daemon, Raw, drive, raw, read_all, unread};
use crate::error::FrameError;
use crate::frame::PREAMBLE_LEN;
use crate::message::Payload;

const MODES: [ConMode; 2] = [ConMode::Crc, ConMode::Secure];

fn message(tid: u64, front: usize, middle: usize, data: usize) -> Message {
    let bytes = |len: usize| (0..len).map(|i| (i as u8) ^ (tid as u8)).collect::<Bytes>();
    Message {
        kind: 43,
        version: 8,
        compat_version: 2,
        tid: Tid(tid),
        priority: 127,
        front: bytes(front),
        middle: bytes(middle),
        data: bytes(data).into(),
    }
}

/// Everything that a daemon sends on a connection with these messages, keepalives between them.
fn stream(mode: ConMode, messages: &[Message]) -> Vec<u8> {
    let (mut c, mut daemon) = Daemon::open(mode);
    for message in messages {
        let frame = daemon.message(message);
        daemon.write(&frame);
        daemon.write(&Raw::control(Tag::KEEPALIVE2_ACK, Utime { sec: 5, nsec: 6 }));
        daemon.write(&Raw::control(Tag::ACK, 1u64));
    }
    daemon.flush(&mut c);
    daemon.sent
}

fn messages(events: &[Event]) -> Vec<&Message> {
    let messages = events.iter().filter_map(|event| match event {
        Event::Message(message) => Some(message),
        _ => None,
    });
    messages.collect()
}

#[test]
fn the_way_bytes_are_cut_does_not_matter() {
    let sent = [message(1, 200, 0, 16), message(2, 0, 0, 0), message(3, 0, 5, 0), message(4, 1, 0, 200_000)];
    for mode in MODES {
        let stream = stream(mode, &sent);
        let whole = drive(&stream, usize::MAX);
        assert_eq!(messages(&whole.0), sent.iter().collect::<Vec<_>>());
        assert_eq!(whole.1, None);
        for size in [1, 2, 3, 31, 32, 33, 95, 96, 97, 1000, 65_536] {
            assert_eq!(drive(&stream, size), whole, "{mode} in pieces of {size}");
        }
    }
}

#[test]
fn a_flipped_bit_never_changes_what_is_understood() {
    let sent = [message(1, 30, 0, 20), message(2, 3, 50, 0)];
    for mode in MODES {
        let stream = stream(mode, &sent);
        let (expected, _) = drive(&stream, usize::MAX);
        for at in 0..stream.len() {
            let mut flipped = stream.clone();
            flipped[at] ^= 1 << (at % 8);
            let (events, error) = drive(&flipped, usize::MAX);
            assert!(expected.starts_with(&events), "{mode}, byte {at}");
            if mode == ConMode::Secure {
                // A banner has no checksum: it is the daemon that finds out, from the client's signature.
                assert!(error.is_some() || (8..26).contains(&at), "{mode}, byte {at}");
            }
        }
    }
}

/// The frames of an open connection as the bytes they take, so that they can be moved.
fn session_frames(mode: ConMode, sent: &[Message]) -> (Connection, Vec<Vec<u8>>) {
    let (mut c, mut daemon) = Daemon::open(mode);
    let mut scratch = Connection::new(super::peer::config());
    let frames = sent.iter().map(|message| {
        let before = daemon.sent.len();
        let frame = daemon.message(message);
        daemon.write(&frame);
        daemon.flush(&mut scratch);
        daemon.sent[before..].to_vec()
    });
    let frames = frames.collect();
    read_all(&mut c);
    (c, frames)
}

#[test]
fn lost_repeated_and_moved_messages_are_noticed() {
    let sent = [message(1, 9, 0, 9), message(2, 9, 0, 9), message(3, 9, 0, 9)];
    let orders: [(&[usize], u64, u64); 3] = [(&[0, 2], 2, 3), (&[0, 0], 2, 1), (&[1, 0, 2], 1, 2)];
    for mode in MODES {
        for (order, expected, actual) in orders {
            let (mut c, frames) = session_frames(mode, &sent);
            for i in order {
                unread(&mut c, &frames[*i]);
            }
            let error = loop {
                match c.poll_event() {
                    Ok(event) => assert!(event.is_some(), "{order:?} must be noticed"),
                    Err(error) => break error,
                }
            };
            match mode {
                ConMode::Crc => assert_eq!(error, MsgrError::Sequence { expected, actual }),
                ConMode::Secure => assert_eq!(error, MsgrError::Frame(FrameError::BadTag)),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn messages_of_any_size_arrive(
        sizes in prop::collection::vec((0usize..5000, 0usize..100, 0usize..40_000), 1..6),
        size in 1usize..70_000,
        secure: bool,
    ) {
        let mode = if secure { ConMode::Secure } else { ConMode::Crc };
        let sent: Vec<_> =
            sizes.iter().zip(1..).map(|(&(front, middle, data), tid)| message(tid, front, middle, data)).collect();

        let (events, error) = drive(&stream(mode, &sent), size);
        prop_assert_eq!(error, None);
        prop_assert_eq!(messages(&events), sent.iter().collect::<Vec<_>>());

        // And the other way, with the data in pieces.
        let (mut c, mut daemon) = Daemon::open(mode);
        for message in &sent {
            let data = message.data.clone().into_bytes();
            let pieces: Payload = data.chunks(size).map(Bytes::copy_from_slice).collect();
            c.send(&Message { data: pieces, ..message.clone() }).unwrap();
        }
        let received: Vec<_> = daemon.read(&mut c).iter().map(Raw::message).collect();
        prop_assert_eq!(received, sent);
    }

    #[test]
    fn no_bytes_panic(bytes: Vec<u8>, size in 1usize..40) {
        prop_assert_eq!(drive(&bytes, usize::MAX), drive(&bytes, size));
    }

    #[test]
    fn no_frames_panic(
        frames in prop::collection::vec((1u8..=22, prop::collection::vec(any::<u8>(), 0..80)), 0..12),
        secure: bool,
    ) {
        let (mut c, mut daemon) = Daemon::open(if secure { ConMode::Secure } else { ConMode::Crc });
        for (tag, payload) in frames {
            daemon.write(&raw(Tag(tag), payload));
        }
        daemon.flush(&mut c);
        while let Ok(Some(_)) = c.poll_event() {}
    }
}

#[test]
fn sequence_numbers_count_and_acknowledge() {
    let (mut c, mut daemon) = Daemon::open(ConMode::Crc);
    for tid in 1..=2 {
        let frame = daemon.message(&message(tid, 1, 0, 0));
        daemon.tell(&mut c, &frame).unwrap();
    }
    c.send(&message(1, 1, 0, 0)).unwrap();
    c.send(&message(2, 1, 0, 0)).unwrap();
    let headers: Vec<_> = daemon
        .read(&mut c)
        .iter()
        .map(|frame| Header::decode_from(&frame.segments[0]).unwrap())
        .map(|header| (header.seq, header.ack_seq))
        .collect();
    assert_eq!(headers, [(1, 2), (2, 2)]);
}

#[test]
fn large_data_is_written_from_where_it_is() {
    let (mut c, _) = Daemon::open(ConMode::Crc);
    let data = Bytes::from(vec![7; 4 << 20]);
    c.send(&Message { data: data.clone().into(), ..message(1, 200, 0, 0) }).unwrap();
    let mut slices = [IoSlice::new(&[]); 8];
    assert_eq!(c.fill_io_slices(&mut slices), 3, "head, data, epilogue");
    assert_eq!(slices[1].as_ptr(), data.as_ptr());
    assert_eq!(slices[1].len(), data.len());
}

#[test]
fn large_data_arrives_in_a_buffer_of_its_size() {
    for mode in MODES {
        let sent = message(1, 200, 0, 4 << 20);
        let (mut c, frames) = session_frames(mode, std::slice::from_ref(&sent));
        let mut rest = frames[0].as_slice();
        let mut buffers = std::collections::BTreeSet::new();
        let received = loop {
            let buf = c.read_buf();
            buffers.insert(buf.as_ptr());
            let n = rest.len().min(buf.capacity() - buf.len()).min(150_000);
            buf.extend_from_slice(&rest[..n]);
            rest = &rest[n..];
            if let Some(Event::Message(message)) = c.poll_event().unwrap() {
                break message;
            }
        };
        assert_eq!(received, sent);
        assert!(rest.is_empty());
        assert!(buffers.len() <= 2, "where small frames arrive, and one for this");
    }
}

#[test]
fn small_messages_leave_in_one_piece() {
    for mode in MODES {
        let (mut c, _) = Daemon::open(mode);
        for tid in 0..20 {
            c.send(&message(tid, 200, 0, 500)).unwrap();
        }
        let mut slices = [IoSlice::new(&[]); 8];
        assert_eq!(c.fill_io_slices(&mut slices), 1, "{mode}");
    }
}

#[test]
fn partial_writes_lose_nothing() {
    for mode in MODES {
        let wire = |step: usize| {
            let (mut c, _) = Daemon::open(mode);
            c.send(&message(1, 200, 0, 100)).unwrap();
            c.send(&message(2, 200, 0, 30_000)).unwrap();
            c.keepalive(Utime { sec: 1, nsec: 2 });
            let mut wire = Vec::new();
            while c.wants_write() {
                let mut slices = [IoSlice::new(&[]); 2];
                let n = c.fill_io_slices(&mut slices);
                let bytes: Vec<u8> = slices[..n].iter().flat_map(|slice| slice.to_vec()).take(step).collect();
                c.advance_write(bytes.len());
                wire.extend(bytes);
            }
            wire
        };
        assert_eq!(wire(77), wire(usize::MAX), "{mode}");
    }
}

#[test]
fn keepalives_are_answered_with_their_time() {
    let (mut c, mut daemon) = Daemon::open(ConMode::Secure);
    let then = Utime { sec: 7, nsec: 8 };
    assert_eq!(daemon.tell(&mut c, &Raw::control(Tag::KEEPALIVE2, then)), Ok(None));
    assert_eq!(daemon.read(&mut c), [Raw::control(Tag::KEEPALIVE2_ACK, then)]);

    c.keepalive(then);
    assert_eq!(daemon.read(&mut c), [Raw::control(Tag::KEEPALIVE2, then)]);
    let event = daemon.tell(&mut c, &Raw::control(Tag::KEEPALIVE2_ACK, then));
    assert_eq!(event, Ok(Some(Event::KeepaliveAck(then))));
}

#[test]
fn a_peer_that_asks_without_reading_gets_no_endless_answers() {
    let (mut c, mut daemon) = Daemon::open(ConMode::Crc);
    for _ in 0..1000 {
        daemon.tell(&mut c, &Raw::control(Tag::KEEPALIVE2, Utime::default())).unwrap();
    }
    assert_eq!(daemon.read(&mut c).len(), MAX_UNSENT_ACKS as usize);
    daemon.tell(&mut c, &Raw::control(Tag::KEEPALIVE2, Utime::default())).unwrap();
    assert_eq!(daemon.read(&mut c).len(), 1, "once it reads it gets more");
}

/// A preamble with a right checksum.
fn preamble(tag: Tag, count: u8, lens: [u32; 4], flags: u8) -> Vec<u8> {
    let mut wire = vec![tag.0, count];
    for len in lens {
        wire.extend(len.to_le_bytes());
        wire.extend([8, 0]);
    }
    wire.extend([flags, 0]);
    wire.extend(crc32c(0, &wire).to_le_bytes());
    assert_eq!(wire.len(), PREAMBLE_LEN);
    wire
}

fn frame_error(wire: &[u8]) -> FrameError {
    let (mut c, _) = Daemon::open(ConMode::Crc);
    unread(&mut c, wire);
    match c.poll_event() {
        Err(MsgrError::Frame(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_length_is_refused_before_anything_is_allocated() {
    let lens = [41, 10, 0, u32::MAX];
    let (frame, segment, len) = (Tag::MESSAGE, 3, u32::MAX as usize);
    let error = frame_error(&preamble(Tag::MESSAGE, 4, lens, 0));
    assert_eq!(error, FrameError::TooLong { frame, segment, len, limit: 128 << 20 });
    for lens in [[41, u32::MAX, 0, 1], [41, 0, u32::MAX, 1], [42, 0, 0, 1]] {
        assert!(matches!(frame_error(&preamble(Tag::MESSAGE, 4, lens, 0)), FrameError::TooLong { .. }));
    }
    let error = frame_error(&preamble(Tag::KEEPALIVE2, 1, [1 << 20, 0, 0, 0], 0));
    assert!(matches!(error, FrameError::TooLong { segment: 0, .. }));
}

#[test]
fn an_impossible_number_of_segments_is_refused() {
    for (count, lens) in [(0, [0; 4]), (5, [1; 4]), (2, [41, 0, 0, 0])] {
        assert_eq!(frame_error(&preamble(Tag::MESSAGE, count, lens, 0)), FrameError::BadSegments { count });
    }
}

#[test]
fn lengths_behind_the_last_segment_do_not_count() {
    let (mut c, _) = Daemon::open(ConMode::Crc);
    let payload = Utime::default().encode_to_vec();
    let crc = crc32c(u32::MAX, &payload).to_le_bytes();
    unread(&mut c, &[&preamble(Tag::KEEPALIVE2_ACK, 1, [8, 9, 9, 9], 0)[..], &payload, &crc].concat());
    assert_eq!(c.poll_event(), Ok(Some(Event::KeepaliveAck(Utime::default()))));
}

#[test]
fn unknown_and_compressed_frames_are_refused() {
    assert_eq!(frame_error(&preamble(Tag(99), 1, [0; 4], 0)), FrameError::UnknownTag { tag: 99 });
    assert_eq!(frame_error(&preamble(Tag::MESSAGE, 1, [41, 0, 0, 0], 1)), FrameError::Compressed);
}

#[test]
fn a_message_with_a_short_header_is_malformed() {
    let (mut c, mut daemon) = Daemon::open(ConMode::Crc);
    let error = daemon.tell(&mut c, &raw(Tag::MESSAGE, vec![1; 40])).unwrap_err();
    assert!(matches!(error, MsgrError::Malformed { frame: Tag::MESSAGE, .. }), "{error:?}");
}

#[test]
fn an_aborted_message_is_dropped() {
    for (status, expected) in [(0x01, Ok(None)), (0xf1, Ok(None)), (0x03, Err(0x03))] {
        let (mut c, mut frames) = session_frames(ConMode::Crc, &[message(1, 9, 0, 9)]);
        let epilogue = frames[0].len() - 13;
        frames[0][epilogue] = status;
        unread(&mut c, &frames[0]);
        let expected = expected.map_err(|status| MsgrError::Frame(FrameError::BadLateStatus { status }));
        assert_eq!(c.poll_event(), expected);
    }
}

#[test]
fn without_checksums_they_are_zero_and_unchecked() {
    let (mut c, _) = Daemon::open(ConMode::Crc);
    c.send(&message(1, 9, 0, 9)).unwrap();
    let with = read_all(&mut c);

    let mut outbox = Outbox::new(false);
    let payload = Utime::default().encode_to_vec();
    let wire = outbox.control(Tag::KEEPALIVE2_ACK, &payload).to_vec();
    assert_eq!(wire[wire.len() - 4..], [0; 4]);
    let mut reader = FrameReader::new(false);
    reader.buf().extend_from_slice(&wire);
    assert!(reader.next(|_| Ok(())).unwrap().is_some());
    let mut reader = FrameReader::new(true);
    reader.buf().extend_from_slice(&wire);
    assert!(matches!(reader.next(|_| Ok(())), Err(FrameError::BadCrc { .. })));
    assert_ne!(with[with.len() - 12..with.len() - 8], [0; 4]);
}
