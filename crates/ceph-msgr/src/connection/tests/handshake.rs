//! Up to the first message.

use super::super::state::MAX_HANDSHAKE;
use super::super::*;
use super::peer::{Daemon, Raw, client_ident, config, raw, read_all, server_ident, target, unread};
use crate::features;

fn banner_error(bytes: &[u8]) -> MsgrError {
    let mut c = Connection::new(config());
    unread(&mut c, bytes);
    let error = c.poll_event().unwrap_err();
    assert_eq!(c.poll_event(), Err(MsgrError::Closed));
    error
}

/// A daemon that sent its banner, and a client that read it.
fn met() -> (Connection, Daemon) {
    let (mut c, mut daemon) = (Connection::new(config()), Daemon::new());
    daemon.flush(&mut c);
    assert_eq!(c.poll_event(), Ok(None));
    (c, daemon)
}

#[test]
fn a_client_speaks_first() {
    let mut c = Connection::new(config());
    assert!(c.wants_write());
    let hello = Hello { kind: EntityType::CLIENT, peer_addr: target() };
    assert_eq!(Daemon::new().read(&mut c), [Raw::control(Tag::HELLO, hello)]);
    assert!(!c.wants_write());
}

#[test]
fn messenger_v1_is_recognized() {
    assert_eq!(banner_error(b"ceph v027\0\0\0"), MsgrError::Msgr1);
}

#[test]
fn strangers_are_refused() {
    let error = banner_error(b"SSH-2.0-OpenSSH");
    assert_eq!(error, MsgrError::NotMsgr2 { start: *b"SSH-2.0-" });
    assert_eq!(error.to_string(), "the peer does not speak Ceph's messenger v2, it starts with SSH-2.0-");
}

#[test]
fn revision_0_is_refused() {
    let banner = Banner { supported: 0, required: 0 }.to_wire();
    assert_eq!(banner_error(&banner), MsgrError::Revision0 { supported: 0 });
}

#[test]
fn an_unknown_required_revision_is_refused() {
    let banner = Banner { supported: 7, required: 4 }.to_wire();
    assert_eq!(banner_error(&banner), MsgrError::UnsupportedRevision { required: 4, supported: 1 });
}

#[test]
fn a_banner_too_short_for_its_features_is_malformed() {
    assert!(matches!(banner_error(b"ceph v2\n\x08\x00\x01\0\0\0\0\0\0\0"), MsgrError::Banner { .. }));
}

#[test]
fn a_longer_banner_is_understood() {
    let mut c = Connection::new(config());
    let mut banner = Banner { supported: 1, required: 0 }.to_wire();
    banner[8] = 20;
    banner.extend([1, 2, 3, 4]);
    unread(&mut c, &banner);
    assert_eq!(c.poll_event(), Ok(None));
    assert_eq!(c.state.name(), "waiting for HELLO");
}

#[test]
fn both_modes_open() {
    for mode in [ConMode::Crc, ConMode::Secure] {
        let (c, _) = Daemon::open(mode);
        assert_eq!(c.features(), features::SUPPORTED, "what both have");
    }
}

#[test]
fn the_first_client_frame_with_an_answer_lists_the_modes_in_order() {
    let (mut c, mut daemon) = met();
    daemon.hello(&mut c);
    c.start_auth(2, b"me").unwrap();
    let frames = daemon.read(&mut c);
    assert_eq!(frames[1].segments[0], "\x02\0\0\0\x02\0\0\0\x02\0\0\0\x01\0\0\0\x02\0\0\0me");
}

#[test]
fn another_kind_of_daemon_is_refused() {
    let (mut c, mut daemon) = met();
    let hello = Hello { kind: EntityType::MON, peer_addr: EntityAddr::BLANK };
    let error = daemon.tell(&mut c, &Raw::control(Tag::HELLO, hello)).unwrap_err();
    assert_eq!(error.to_string(), "v2:127.0.0.1:6800/77 is of kind mon, not osd");
}

#[test]
fn a_refused_method_can_be_followed_by_another() {
    let (mut c, mut daemon) = met();
    daemon.hello(&mut c);
    c.start_auth(1, b"").unwrap();
    let bad = (
        (1u32, -13i32),
        (std::collections::BTreeSet::from([2u32]), std::collections::BTreeSet::from([1u32, 2])),
    );
    let event = daemon.tell(&mut c, &Raw::control(Tag::AUTH_BAD_METHOD, bad)).unwrap();
    let (allowed_methods, allowed_modes) = (vec![2], vec![1, 2]);
    assert_eq!(event, Some(Event::AuthBadMethod { method: 1, result: -13, allowed_methods, allowed_modes }));
    c.start_auth(2, b"").unwrap();
    let event = daemon.tell(&mut c, &Daemon::auth_done(2)).unwrap();
    assert!(matches!(event, Some(Event::AuthDone { mode: ConMode::Secure, .. })));
}

#[test]
fn a_list_cannot_announce_more_than_it_has() {
    let (mut c, mut daemon) = met();
    daemon.hello(&mut c);
    c.start_auth(2, b"").unwrap();
    let bad = raw(Tag::AUTH_BAD_METHOD, [[2u8; 8], [0xff; 8]].concat());
    let error = daemon.tell(&mut c, &bad).unwrap_err();
    assert!(matches!(error, MsgrError::Malformed { frame: Tag::AUTH_BAD_METHOD, .. }), "{error:?}");
}

#[test]
fn a_mode_that_was_not_offered_is_refused() {
    for (modes, chosen) in [(vec![ConMode::Secure], 1), (vec![ConMode::Crc], 2), (vec![ConMode::Crc], 0)] {
        let mut c = Connection::new(ConnectionConfig { modes, ..config() });
        let mut daemon = Daemon::new();
        daemon.hello(&mut c);
        c.start_auth(2, b"").unwrap();
        let event = daemon.tell(&mut c, &Daemon::auth_done(chosen));
        assert_eq!(event, Err(MsgrError::ModeNotOffered { mode: chosen }));
    }
}

#[test]
fn encryption_without_a_secret_is_refused() {
    let (mut c, mut daemon) = met();
    daemon.authenticate(&mut c, ConMode::Secure);
    let error = c.finish_auth(b"key", b"", client_ident()).unwrap_err();
    assert_eq!(error, MsgrError::ShortSecret { have: 0, need: 40 });
    assert_eq!(c.poll_event(), Err(MsgrError::Closed), "and not in plain text either");
}

#[test]
fn a_wrong_signature_is_refused() {
    let (mut c, mut daemon) = met();
    daemon.authenticate(&mut c, ConMode::Crc);
    c.finish_auth(b"key", b"", client_ident()).unwrap();
    daemon.read(&mut c);
    let event = daemon.tell(&mut c, &raw(Tag::AUTH_SIGNATURE, vec![7; 32]));
    assert_eq!(event, Err(MsgrError::BadSignature));
    assert!(read_all(&mut c).is_empty(), "the client did not identify itself");
}

#[test]
fn a_handshake_that_was_changed_on_its_way_is_found_out() {
    let (mut c, mut daemon) = met();
    daemon.authenticate(&mut c, ConMode::Crc);
    daemon.read(&mut c);
    // The daemon received something else than the client sent.
    let signed = signature(b"key", b"changed");
    c.finish_auth(b"key", b"", client_ident()).unwrap();
    let event = daemon.tell(&mut c, &raw(Tag::AUTH_SIGNATURE, signed.to_vec()));
    assert_eq!(event, Err(MsgrError::BadSignature));
}

#[test]
fn features_that_are_missing_are_named() {
    let (mut c, mut daemon) = met();
    daemon.sign(&mut c, ConMode::Crc);
    let missing = features::CRUSH_MSR;
    let event = daemon.tell(&mut c, &Raw::control(Tag::IDENT_MISSING_FEATURES, missing));
    assert_eq!(event, Err(MsgrError::MissingFeatures { missing }));
}

/// `SERVER_IDENT` with a field changed.
fn ident_with(at: usize, field: u64) -> Raw {
    let mut fields = server_ident().segments[0].to_vec();
    let start = fields.len() - 48 + 8 * at;
    fields[start..start + 8].copy_from_slice(&field.to_le_bytes());
    raw(Tag::SERVER_IDENT, fields)
}

#[test]
fn a_daemon_must_have_and_may_require_only_what_the_client_has() {
    let (mut c, mut daemon) = met();
    daemon.sign(&mut c, ConMode::Crc);
    let event = daemon.tell(&mut c, &ident_with(2, 0));
    assert_eq!(event, Err(MsgrError::PeerLacksFeatures { missing: features::REQUIRED }));

    let (mut c, mut daemon) = met();
    daemon.sign(&mut c, ConMode::Crc);
    let event = daemon.tell(&mut c, &ident_with(3, features::SERVER_TENTACLE));
    assert_eq!(event, Err(MsgrError::MissingFeatures { missing: 1 << 50 }));
}

#[test]
fn another_instance_at_the_same_address_is_refused() {
    let mut c =
        Connection::new(ConnectionConfig { peer_addr: EntityAddr { nonce: 78, ..target() }, ..config() });
    let mut daemon = Daemon::new();
    daemon.sign(&mut c, ConMode::Crc);
    let error = daemon.tell(&mut c, &server_ident()).unwrap_err();
    assert_eq!(error.to_string(), "v2:127.0.0.1:6800/78 identifies as v2:127.0.0.1:6800/77");
}

#[test]
fn frames_out_of_place_are_refused_in_every_state() {
    type Setup = fn(&mut Daemon, &mut Connection);
    let states: [(Setup, &[Tag]); 6] = [
        (|_, _| {}, &[Tag::HELLO]),
        (
            |daemon, c| {
                daemon.hello(c);
                c.start_auth(2, b"").unwrap();
            },
            &[Tag::AUTH_BAD_METHOD, Tag::AUTH_REPLY_MORE, Tag::AUTH_DONE],
        ),
        (
            |daemon, c| {
                daemon.authenticate(c, ConMode::Crc);
                c.finish_auth(b"", b"", client_ident()).unwrap();
            },
            &[Tag::AUTH_SIGNATURE],
        ),
        (|daemon, c| daemon.sign(c, ConMode::Secure), &[Tag::SERVER_IDENT, Tag::IDENT_MISSING_FEATURES]),
        (
            |daemon, c| (*c, *daemon) = Daemon::open(ConMode::Crc),
            &[Tag::MESSAGE, Tag::KEEPALIVE2, Tag::KEEPALIVE2_ACK, Tag::ACK],
        ),
        (
            |daemon, c| (*c, *daemon) = Daemon::open(ConMode::Secure),
            &[Tag::MESSAGE, Tag::KEEPALIVE2, Tag::KEEPALIVE2_ACK, Tag::ACK],
        ),
    ];
    for (setup, expected) in states {
        for tag in (1..=22).map(Tag) {
            let (mut c, mut daemon) = met();
            setup(&mut daemon, &mut c);
            let state = c.state.name();
            match daemon.tell(&mut c, &raw(tag, vec![0; 4])) {
                Err(MsgrError::Unexpected { frame, state: reported }) => {
                    assert!(!expected.contains(&tag), "{tag} while {state}");
                    assert_eq!((frame, reported), (tag, state));
                }
                _ => assert!(expected.contains(&tag), "{tag} while {state}"),
            }
        }
    }
}

#[test]
fn what_comes_before_the_owner_answered_waits() {
    let (mut c, mut daemon) = met();
    daemon.hello(&mut c);
    assert_eq!(daemon.tell(&mut c, &Daemon::auth_done(1)), Ok(None));
    c.start_auth(2, b"").unwrap();
    assert!(matches!(c.poll_event(), Ok(Some(Event::AuthDone { .. }))));
}

#[test]
fn answers_to_questions_never_asked_are_misuse() {
    let (mut c, mut daemon) = met();
    let error = c.continue_auth(b"").unwrap_err();
    assert_eq!(error.to_string(), "continue_auth has no place while waiting for HELLO");
    assert!(matches!(c.start_auth(2, b""), Err(MsgrError::Misuse { .. })));
    assert!(matches!(c.finish_auth(b"", b"", client_ident()), Err(MsgrError::Misuse { .. })));
    assert_eq!(c.send(&Message::default()), Err(MsgrError::NotReady));
    c.keepalive(Utime::default());
    daemon.hello(&mut c);
    assert_eq!(c.features(), 0);
}

#[test]
fn an_endless_handshake_ends() {
    let (mut c, mut daemon) = met();
    daemon.hello(&mut c);
    c.start_auth(2, b"").unwrap();
    let question = Raw::control(Tag::AUTH_REPLY_MORE, vec![0u8; 100_000]);
    let error = loop {
        match daemon.tell(&mut c, &question) {
            Ok(_) => c.continue_auth(b"").unwrap(),
            Err(error) => break error,
        }
    };
    assert_eq!(error, MsgrError::LongHandshake { limit: MAX_HANDSHAKE });
}

#[test]
fn debug_output_has_no_secrets() {
    let (c, _) = Daemon::open(ConMode::Secure);
    let text = format!("{c:?}");
    assert_eq!(
        text,
        "Connection { peer: EntityAddr { kind: v2, nonce: 77, addr: Some(127.0.0.1:6800) }, state: \"exchanging messages\", .. }"
    );
}
