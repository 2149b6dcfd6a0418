#![allow(clippy::cast_possible_truncation, reason = "lengths in tests are small")]

use proptest::prelude::*;

use super::*;
use crate::device::BlockSize;
use crate::wire::transmission_flag as flag;

const FIXED: u32 = 0b11;

/// A client that has been greeted.
fn greeted(flags: u32) -> Handshake {
    let mut handshake = Handshake::new();
    assert_eq!(handshake.poll_transmit().unwrap(), &b"NBDMAGICIHAVEOPT\0\x03"[..]);
    handshake.handle_bytes(&flags.to_be_bytes());
    handshake
}

fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = b"IHAVEOPT".to_vec();
    bytes.put_u32(number);
    bytes.put_u32(data.len() as u32);
    bytes.put_slice(data);
    bytes
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes(), text.as_bytes()].concat()
}

/// Data of INFO and GO.
fn go(name: &str, requests: &[u16]) -> Vec<u8> {
    let mut data = string(name);
    data.put_u16(requests.len() as u16);
    for request in requests {
        data.put_u16(*request);
    }
    data
}

/// Data of LIST_META_CONTEXT and SET_META_CONTEXT.
fn contexts(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = string(name);
    data.put_u32(queries.len() as u32);
    for query in queries {
        data.extend(string(query));
    }
    data
}

/// What the server sent: option, type and data of each reply.
fn replies(handshake: &mut Handshake) -> Vec<(u32, u32, Vec<u8>)> {
    let mut bytes = handshake.poll_transmit().unwrap_or_default();
    let mut replies = Vec::new();
    while !bytes.is_empty() {
        assert_eq!(bytes.get_u64(), wire::OPTION_REPLY_MAGIC);
        let (option, reply, len) = (bytes.get_u32(), bytes.get_u32(), bytes.get_u32());
        replies.push((option, reply, bytes.split_to(len as usize).to_vec()));
    }
    replies
}

/// The type of the only reply to an option.
fn only_reply(handshake: &mut Handshake) -> u32 {
    let replies = replies(handshake);
    assert_eq!(replies.len(), 1, "{replies:?}");
    replies[0].1
}

fn disk() -> DeviceInfo {
    DeviceInfo {
        description: "a disk".to_owned(),
        block_size: BlockSize::new(1, 65536).unwrap(),
        fast_zero: true,
        ..DeviceInfo::new(5000)
    }
}

/// Sends an option and, if it opens "disk", says yes.
fn send(handshake: &mut Handshake, number: u32, data: &[u8]) -> Option<Session> {
    handshake.handle_bytes(&option(number, data));
    answer(handshake)
}

fn answer(handshake: &mut Handshake) -> Option<Session> {
    match handshake.poll_event().unwrap() {
        Some(Event::Open { name }) if name == "disk" || name.is_empty() => {
            handshake.answer_open(Ok(("disk", &disk()))).unwrap()
        }
        Some(Event::Open { name }) => handshake.answer_open(Err(&ExportError::Unknown { name })).unwrap(),
        Some(Event::List) => {
            let list = [ExportInfo { name: "disk".to_owned(), description: "a disk".to_owned() }];
            handshake.answer_list(Ok(&list));
            None
        }
        Some(Event::Aborted) | None => None,
    }
}

#[test]
fn go_answers_the_information_asked_for_and_begins_transmission() {
    let mut h = greeted(FIXED);
    let session =
        send(&mut h, option::GO, &go("", &[info::NAME, info::DESCRIPTION, info::BLOCK_SIZE, 77])).unwrap();
    let flags = flag::HAS_FLAGS
        | flag::SEND_FLUSH
        | flag::SEND_FUA
        | flag::SEND_TRIM
        | flag::SEND_WRITE_ZEROES
        | flag::SEND_FAST_ZERO
        | flag::SEND_CACHE
        | flag::CAN_MULTI_CONN;
    let mut export = vec![0, 0];
    export.put_u64(5000);
    export.put_u16(flags);
    let replies = replies(&mut h);
    assert_eq!(
        replies,
        [
            (option::GO, rep::INFO, export),
            (option::GO, rep::INFO, b"\0\x01disk".to_vec()),
            (option::GO, rep::INFO, b"\0\x02a disk".to_vec()),
            (option::GO, rep::INFO, b"\0\x03\0\0\0\x01\0\x01\0\0\x02\0\0\0".to_vec()),
            (option::GO, rep::ACK, vec![]),
        ]
    );
    assert_eq!((session.size(), session.transmission_flags()), (5000, flags));
    assert!(!session.structured_replies());
}

#[test]
fn bytes_after_the_handshake_are_handed_over() {
    let mut h = greeted(FIXED);
    let bytes = [option(option::GO, &go("disk", &[])), b"request".to_vec()].concat();
    h.handle_bytes(&bytes);
    assert!(answer(&mut h).is_some());
    assert_eq!(h.poll_event(), Ok(None));
    assert_eq!(h.into_leftover(), &b"request"[..]);
}

#[test]
fn info_leaves_the_client_free_to_go_on() {
    let mut h = greeted(FIXED);
    assert_eq!(send(&mut h, option::INFO, &go("disk", &[])), None);
    let types: Vec<u32> = replies(&mut h).iter().map(|reply| reply.1).collect();
    assert_eq!(types, [rep::INFO, rep::ACK]);
    assert!(send(&mut h, option::GO, &go("disk", &[])).is_some());
}

#[test]
fn an_unknown_export_is_refused_and_the_client_may_go_on() {
    let mut h = greeted(FIXED);
    for number in [option::GO, option::INFO] {
        assert_eq!(send(&mut h, number, &go("tape", &[])), None);
        assert_eq!(only_reply(&mut h), rep::ERR_UNKNOWN);
    }
    assert!(send(&mut h, option::GO, &go("disk", &[])).is_some());
}

#[test]
fn refusals_by_the_owner_have_their_own_types() {
    let mut h = greeted(FIXED);
    let refused = ExportError::Refused { reason: "busy".to_owned() };
    for (error, reply) in [(refused, rep::ERR_POLICY), (ExportError::Shutdown, rep::ERR_SHUTDOWN)] {
        h.handle_bytes(&option(option::GO, &go("disk", &[])));
        h.poll_event().unwrap();
        assert_eq!(h.answer_open(Err(&error)), Ok(None));
        assert_eq!(replies(&mut h), [(option::GO, reply, error.to_string().into_bytes())]);
    }
}

#[test]
fn export_name_is_followed_by_124_zeroes_unless_the_client_declined_them() {
    for (flags, zeroes) in [(0b01, 124), (0b11, 0), (0b00, 124)] {
        let mut h = greeted(flags);
        assert!(send(&mut h, option::EXPORT_NAME, b"disk").is_some());
        let bytes = h.poll_transmit().unwrap();
        assert_eq!(bytes[..8], 5000u64.to_be_bytes());
        assert_eq!(bytes.len(), 10 + zeroes);
        assert!(bytes[10..].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn export_name_of_an_unknown_export_ends_the_connection() {
    let mut h = greeted(FIXED);
    h.handle_bytes(&option(option::EXPORT_NAME, b"tape"));
    h.poll_event().unwrap();
    let error = ExportError::Unknown { name: "tape".to_owned() };
    assert_eq!(h.answer_open(Err(&error)), Err(HandshakeError::NoExport(error.clone())));
    assert_eq!(h.poll_transmit(), None);
}

#[test]
fn without_fixed_newstyle_only_export_name_is_allowed() {
    let mut h = greeted(0);
    h.handle_bytes(&option(option::LIST, b""));
    assert_eq!(h.poll_event(), Err(HandshakeError::NotFixedNewstyle { option: option::LIST }));
}

#[test]
fn unknown_client_flags_end_the_connection() {
    let mut h = greeted(0b111);
    assert_eq!(h.poll_event(), Err(HandshakeError::UnknownClientFlags { flags: 0b111 }));
    assert_eq!(h.poll_transmit(), None);
}

#[test]
fn abort_is_acknowledged_even_with_data() {
    let mut h = greeted(FIXED);
    h.handle_bytes(&option(option::ABORT, b"bye"));
    assert_eq!(h.poll_event(), Ok(Some(Event::Aborted)));
    assert_eq!(only_reply(&mut h), rep::ACK);
    h.handle_bytes(&option(option::LIST, b""));
    assert_eq!(h.poll_event(), Ok(None), "nothing after the end");
}

#[test]
fn list_tells_names_and_descriptions() {
    let mut h = greeted(FIXED);
    send(&mut h, option::LIST, b"");
    let line = [string("disk"), b"a disk".to_vec()].concat();
    assert_eq!(replies(&mut h), [(option::LIST, rep::SERVER, line), (option::LIST, rep::ACK, vec![])]);
    send(&mut h, option::LIST, b"data");
    assert_eq!(only_reply(&mut h), rep::ERR_INVALID);
}

#[test]
fn options_that_are_not_supported_are_skipped() {
    let mut h = greeted(FIXED);
    // PEEK_EXPORT, STARTTLS, EXTENDED_HEADERS, and unheard-of ones.
    for number in [4, 5, 11, 12, 0, u32::MAX] {
        send(&mut h, number, b"some data");
        assert_eq!(only_reply(&mut h), rep::ERR_UNSUP, "option {number}");
    }
    assert!(send(&mut h, option::GO, &go("disk", &[])).is_some());
}

#[test]
fn too_much_data_is_skipped_and_refused() {
    let mut h = greeted(FIXED);
    for number in [option::GO, option::LIST, 99] {
        send(&mut h, number, &vec![0; MAX_OPTION_LEN as usize + 1]);
        assert_eq!(only_reply(&mut h), rep::ERR_TOO_BIG);
    }
    assert!(send(&mut h, option::GO, &go("disk", &[])).is_some());
}

#[test]
fn absurd_lengths_end_the_connection() {
    let mut h = greeted(FIXED);
    h.handle_bytes(b"IHAVEOPT\0\0\0\x07\xff\xff\xff\xff");
    assert_eq!(h.poll_event(), Err(HandshakeError::OptionTooLong { option: 7, len: u32::MAX }));
    let mut h = greeted(FIXED);
    h.handle_bytes(&option(option::EXPORT_NAME, &vec![b'x'; MAX_OPTION_LEN as usize + 1]));
    assert_eq!(h.poll_event(), Err(HandshakeError::BadExportName));
}

#[test]
fn a_bad_magic_ends_the_connection() {
    let mut h = greeted(FIXED);
    h.handle_bytes(b"GET / HTTP/1.1\r\n");
    let magic = u64::from_be_bytes(*b"GET / HT");
    assert_eq!(h.poll_event(), Err(HandshakeError::BadOptionMagic { magic }));
}

#[test]
fn malformed_data_is_invalid_and_the_next_option_is_found() {
    let mut h = greeted(FIXED);
    send(&mut h, option::STRUCTURED_REPLY, b"");
    replies(&mut h);
    let good = contexts("disk", &["base:allocation"]);
    let cases: &[(u32, Vec<u8>)] = &[
        (option::GO, vec![]),
        (option::GO, b"\0\0\0\x05disk\0\0".to_vec()),
        (option::GO, b"\xff\xff\xff\xffdisk\0\0".to_vec()),
        (option::GO, b"\0\0\0\x04disk\0\x01".to_vec()),
        (option::GO, [go("disk", &[]), vec![0]].concat()),
        (option::GO, go("di\0sk", &[])),
        (option::GO, go(&"x".repeat(4097), &[])),
        (option::INFO, b"\0\0\0\x02\xff\xfe\0\0".to_vec()),
        (option::STRUCTURED_REPLY, vec![0]),
        (option::SET_META_CONTEXT, good[..good.len() - 1].to_vec()),
        (option::SET_META_CONTEXT, [good, vec![0]].concat()),
        (option::LIST_META_CONTEXT, b"\0\0\0\0\xff\xff\xff\xff".to_vec()),
    ];
    for (number, data) in cases {
        send(&mut h, *number, data);
        assert_eq!(only_reply(&mut h), rep::ERR_INVALID, "option {number} with {data:?}");
    }
    assert!(send(&mut h, option::GO, &go("disk", &[])).is_some());
}

#[test]
fn names_of_4096_bytes_are_allowed() {
    let mut h = greeted(FIXED);
    send(&mut h, option::GO, &go(&"x".repeat(4096), &[]));
    assert_eq!(only_reply(&mut h), rep::ERR_UNKNOWN);
}

#[test]
fn metadata_contexts_need_structured_replies() {
    for number in [option::LIST_META_CONTEXT, option::SET_META_CONTEXT] {
        let mut h = greeted(FIXED);
        send(&mut h, number, &contexts("disk", &["base:allocation"]));
        assert_eq!(only_reply(&mut h), rep::ERR_INVALID);
    }
}

#[test]
fn list_meta_context_answers_wildcards_and_no_query_at_all() {
    let found = [vec![0; 4], b"base:allocation".to_vec()].concat();
    for (queries, expected) in [
        (&[][..], true),
        (&["base:"], true),
        (&["x-other:thing", "base:allocation"], true),
        (&["base:unheard-of"], false),
        (&["qemu:"], false),
    ] {
        let mut h = greeted(FIXED);
        send(&mut h, option::STRUCTURED_REPLY, b"");
        replies(&mut h);
        send(&mut h, option::LIST_META_CONTEXT, &contexts("disk", queries));
        let mut replies = replies(&mut h);
        assert_eq!(replies.pop().map(|reply| reply.1), Some(rep::ACK));
        let context = (option::LIST_META_CONTEXT, rep::META_CONTEXT, found.clone());
        assert_eq!(replies, if expected { vec![context] } else { vec![] }, "{queries:?}");
    }
}

/// Negotiates with these SET_META_CONTEXT options, then GO for "disk".
fn selected(options: &[(&str, &[&str])]) -> bool {
    let mut h = greeted(FIXED);
    send(&mut h, option::STRUCTURED_REPLY, b"");
    for (name, queries) in options {
        send(&mut h, option::SET_META_CONTEXT, &contexts(name, queries));
    }
    let session = send(&mut h, option::GO, &go("disk", &[])).unwrap();
    assert!(session.structured_replies());
    assert_ne!(session.transmission_flags() & flag::SEND_DF, 0);
    session.base_allocation()
}

#[test]
fn a_context_is_selected_by_its_full_name_for_the_export_of_go_by_the_last_option() {
    assert!(selected(&[("disk", &["base:allocation"])]));
    assert!(selected(&[("disk", &["x-other:thing", "base:allocation", "base:allocation"])]));
    assert!(!selected(&[("disk", &["base:"])]), "a wildcard only lists");
    assert!(!selected(&[("disk", &[])]));
    assert!(!selected(&[("", &["base:allocation"])]), "selected under another name");
    assert!(!selected(&[("disk", &["base:allocation"]), ("disk", &[])]), "replaced");
    assert!(
        !selected(&[("disk", &["base:allocation"]), ("tape", &["base:allocation"])]),
        "even by a failure"
    );
}

#[test]
fn set_meta_context_gives_the_context_an_id() {
    let mut h = greeted(FIXED);
    send(&mut h, option::STRUCTURED_REPLY, b"");
    replies(&mut h);
    send(&mut h, option::SET_META_CONTEXT, &contexts("disk", &["base:allocation"]));
    let context = [wire::BASE_ALLOCATION_ID.to_be_bytes().to_vec(), b"base:allocation".to_vec()].concat();
    let set = option::SET_META_CONTEXT;
    assert_eq!(replies(&mut h), [(set, rep::META_CONTEXT, context), (set, rep::ACK, vec![])]);
}

#[test]
fn a_read_only_export_offers_nothing_that_changes_it() {
    let info = DeviceInfo { read_only: true, multi_conn: false, rotational: true, ..disk() };
    let flags = Session::new(&info, true, true).transmission_flags();
    let expected = flag::HAS_FLAGS
        | flag::READ_ONLY
        | flag::SEND_FLUSH
        | flag::SEND_FUA
        | flag::SEND_CACHE
        | flag::SEND_DF
        | flag::ROTATIONAL;
    assert_eq!(flags, expected);
}

#[test]
fn texts_that_are_sent_are_clipped_to_what_a_string_may_be() {
    assert_eq!(clip("short"), "short");
    assert_eq!(clip("a\0b"), "a");
    assert_eq!(clip(&"é".repeat(3000)).len(), 4096);
    assert_eq!(clip(&format!("x{}", "é".repeat(3000))).len(), 4095);
}

/// All that is to be seen of a handshake with a client that sends `pieces`.
fn observe<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<u8>, String) {
    let mut h = Handshake::new();
    let mut sent = Vec::new();
    for piece in pieces {
        h.handle_bytes(piece);
        loop {
            let event = h.poll_event();
            let outcome = match &event {
                Ok(None) => break,
                Ok(Some(Event::List)) => {
                    h.answer_list(Ok(&[]));
                    continue;
                }
                Ok(Some(Event::Open { name })) if name == "tape" => {
                    h.answer_open(Err(&ExportError::Unknown { name: name.clone() })).map(|_| None)
                }
                Ok(Some(Event::Open { .. })) => h.answer_open(Ok(("disk", &disk()))),
                Ok(Some(Event::Aborted)) => return finish(h, sent, "aborted"),
                Err(error) => Err(error.clone()),
            };
            match outcome {
                Ok(None) => {}
                Ok(Some(session)) => return finish(h, sent, &format!("{session:?}")),
                Err(error) => return finish(h, sent, &format!("{error:?}")),
            }
        }
        sent.extend(h.poll_transmit().unwrap_or_default());
    }
    finish(h, sent, "unfinished")
}

fn finish(mut h: Handshake, mut sent: Vec<u8>, end: &str) -> (Vec<u8>, String) {
    sent.extend(h.poll_transmit().unwrap_or_default());
    (sent, end.to_owned())
}

fn any_option() -> impl Strategy<Value = Vec<u8>> {
    let name = prop_oneof![Just("disk"), Just("tape"), Just("")];
    let data = prop_oneof![
        name.clone().prop_map(|name| go(name, &[info::NAME, info::BLOCK_SIZE])),
        name.clone().prop_map(|name| contexts(name, &["base:allocation"])),
        name.prop_map(|name| name.as_bytes().to_vec()),
        proptest::collection::vec(any::<u8>(), 0..40),
        Just(vec![0; MAX_OPTION_LEN as usize + 10]),
    ];
    (0u32..13, data).prop_map(|(number, data)| option(number, &data))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn how_the_bytes_are_cut_does_not_matter(
        flags in 0u32..4,
        options in proptest::collection::vec(any_option(), 0..6),
        garbage in proptest::collection::vec(any::<u8>(), 0..20),
        cut in 1usize..50,
    ) {
        let bytes = [&flags.to_be_bytes()[..], &options.concat(), &garbage].concat();
        let whole = observe([&bytes[..]]);
        prop_assert_eq!(&observe(bytes.chunks(cut)), &whole);
    }
}
