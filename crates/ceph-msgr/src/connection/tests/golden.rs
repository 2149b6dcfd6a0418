//! Recorded connections of real clients and daemons, in both modes; see `testdata/README.md`.
//!
//! Our client answers a recorded daemon with the recorded client's choices, and must write what it wrote.

use std::collections::BTreeMap;
use std::io::Read;

use super::super::*;
use super::peer::{Raw, all_frames, encode_frames, read_all, server_ciphers, unread};
use crate::crypto::Cipher;
use crate::features;

const COMPRESSION_REQUEST: Tag = Tag(21);
const COMPRESSION_DONE: Tag = Tag(22);

struct Recording {
    name: String,
    kind: EntityType,
    session_key: Vec<u8>,
    secret: Vec<u8>,
    c2s: Vec<u8>,
    s2c: Vec<u8>,
}

fn recordings(file: &str) -> Vec<Recording> {
    let path = format!("{}/testdata/{file}.tar.gz", env!("CARGO_MANIFEST_DIR"));
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap()));
    let mut files = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        files.insert(entry.path().unwrap().to_str().unwrap().to_owned(), bytes);
    }
    let hex = |text: &str| -> Vec<u8> {
        let digits = text.trim_matches('-').as_bytes().chunks(2);
        digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    };
    let keys = String::from_utf8(files["keys.txt"].clone()).unwrap();
    let recordings: Vec<_> = keys
        .lines()
        .map(|line| {
            let [name, kind, session_key, secret] = line.split(' ').collect::<Vec<_>>().try_into().unwrap();
            Recording {
                name: name.to_owned(),
                kind: EntityType::from_name(kind).unwrap(),
                session_key: hex(session_key),
                secret: hex(secret),
                c2s: files[&format!("{name}.c2s")].clone(),
                s2c: files[&format!("{name}.s2c")].clone(),
            }
        })
        .collect();
    assert_eq!(recordings.len(), 14, "{file}");
    recordings
}

/// A recorded stream: banner and frames. Compression, agreed upon by newer clients only to be off, is left
/// out.
struct Stream {
    banner: Vec<u8>,
    frames: Vec<Raw>,
}

impl Stream {
    fn new(wire: &[u8], cipher: impl Fn() -> Option<Cipher>) -> Self {
        let (banner, rest) = wire.split_at(26);
        let mut frames = all_frames(rest, cipher());
        assert_eq!(encode_frames(&frames, cipher()), rest, "frames are encoded as Ceph does");
        frames.retain(|frame| ![COMPRESSION_REQUEST, COMPRESSION_DONE].contains(&frame.tag));
        Self { banner: banner.to_vec(), frames }
    }

    /// The bytes, encrypted anew because frames may be missing.
    fn to_wire(&self, cipher: Option<Cipher>) -> Vec<u8> {
        [self.banner.clone(), encode_frames(&self.frames, cipher)].concat()
    }

    fn first(&self, tag: Tag) -> &[u8] {
        &self.frames.iter().find(|frame| frame.tag == tag).unwrap().segments[0]
    }
}

/// Replays one connection and returns the kinds of the messages that the daemon sent.
fn replay(recording: &Recording) -> Vec<u16> {
    let secure = !recording.secret.is_empty();
    // Of the daemon: its receiver is our sender.
    let ciphers = || secure.then(|| server_ciphers(&recording.secret));
    let client = Stream::new(&recording.c2s, || ciphers().map(|(rx, _)| rx));
    let daemon = Stream::new(&recording.s2c, || ciphers().map(|(_, tx)| tx));

    let hello = Hello::decode_from(client.first(Tag::HELLO)).unwrap();
    let request = &mut Reader::new(client.first(Tag::AUTH_REQUEST));
    let method = u32::decode(request).unwrap();
    let modes = request.seq("modes", u32::decode).unwrap();
    let modes = modes.iter().map(|mode| if *mode == 2 { ConMode::Secure } else { ConMode::Crc }).collect();
    let auth = request.bytes("payload").unwrap();
    let ident = &mut Reader::new(client.first(Tag::CLIENT_IDENT));
    let addrs = ceph_codec::EntityAddrVec::decode(ident).unwrap();
    EntityAddr::decode(ident).unwrap();
    let client_ident = ClientIdent {
        addrs,
        global_id: GlobalId::decode(ident).unwrap(),
        global_seq: u64::decode(ident).unwrap(),
    };
    let offer = Offer {
        revision: u64::decode_from(&client.banner[10..]).unwrap(),
        supported: u64::decode(ident).unwrap(),
        required: u64::decode(ident).unwrap(),
        flags: u64::decode(ident).unwrap(),
        cookie: u64::decode(ident).unwrap(),
    };

    let config = ConnectionConfig::new(recording.kind, hello.peer_addr, modes);
    let mut c = Connection::with_offer(config, offer);
    unread(&mut c, &daemon.to_wire(ciphers().map(|(_, tx)| tx)));

    let mut to_send =
        client.frames.iter().skip_while(|frame| frame.tag != Tag::CLIENT_IDENT).skip(1).peekable();
    let mut kinds = Vec::new();
    loop {
        // What the recorded client sent after as many messages as we got.
        while let State::Open(session) = &c.state {
            let in_seq = session.in_seq;
            match to_send.next_if(|frame| frame.acknowledged().is_none_or(|acked| acked == in_seq)) {
                Some(frame) if frame.tag == Tag::MESSAGE => c.send(&frame.message()).unwrap(),
                Some(frame) => {
                    assert_eq!(frame.tag, Tag::KEEPALIVE2);
                    c.keepalive(Utime::decode_from(&frame.segments[0]).unwrap());
                }
                None => break,
            }
        }
        match c.poll_event().unwrap() {
            None => break,
            Some(Event::Hello { my_addr }) => {
                assert_eq!(
                    my_addr.addr.unwrap().port().to_string(),
                    recording.name.split('-').nth(1).unwrap()
                );
                c.start_auth(method, auth).unwrap();
            }
            Some(Event::AuthMore(_)) => {
                let answer = Reader::new(client.first(Tag::AUTH_REQUEST_MORE)).bytes("payload").unwrap();
                c.continue_auth(answer).unwrap();
            }
            Some(Event::AuthDone { mode, .. }) => {
                assert_eq!(mode == ConMode::Secure, secure);
                c.finish_auth(&recording.session_key, &recording.secret, client_ident.clone()).unwrap();
            }
            Some(Event::Ready(ident)) => {
                assert!(features::has(c.features(), features::SERVER_PACIFIC));
                assert_eq!(ident.features_required, 0x0c01_0200_4204_0000);
                assert_eq!(ident.flags, 1, "lossy");
            }
            Some(Event::Message(message)) => kinds.push(message.kind),
            Some(Event::KeepaliveAck(_)) => {}
            Some(other) => panic!("{other:?}"),
        }
    }
    assert!(c.reader.unread().is_empty(), "everything was understood");
    assert!(to_send.next().is_none(), "everything was sent");
    let ours = Stream::new(&read_all(&mut c), || ciphers().map(|(rx, _)| rx));
    for (ours, theirs) in ours.frames.iter().zip(&client.frames) {
        assert_eq!(ours, theirs, "{}", recording.name);
    }
    assert_eq!((ours.banner, ours.frames.len()), (client.banner, client.frames.len()));
    kinds
}

fn replay_all(file: &str) {
    const MONMAP: u16 = 4;
    const OSD_OPREPLY: u16 = 43;
    const WATCH_NOTIFY: u16 = 44;
    let mut messages = 0;
    for recording in recordings(file) {
        let kinds = replay(&recording);
        messages += kinds.len();
        match recording.kind {
            EntityType::MON => assert!(kinds.contains(&MONMAP), "{}: {kinds:?}", recording.name),
            _ => {
                assert!(kinds.contains(&OSD_OPREPLY), "{}: {kinds:?}", recording.name);
                assert!(kinds.iter().all(|kind| [OSD_OPREPLY, WATCH_NOTIFY].contains(kind)), "{kinds:?}");
            }
        }
    }
    assert!(messages > 50, "{messages}");
}

#[test]
fn pacific_client_with_pacific() {
    replay_all("pacific/aes-client-pacific");
}

#[test]
fn pacific_client_with_pacific_encrypted() {
    replay_all("pacific/secure-client-pacific");
}

#[test]
fn pacific_client_with_reef() {
    replay_all("reef/aes-client-pacific");
}

#[test]
fn reef_client_with_reef() {
    replay_all("reef/aes-client-reef");
}

#[test]
fn pacific_client_with_tentacle() {
    replay_all("tentacle/aes-client-pacific");
}

#[test]
fn tentacle_client_with_tentacle() {
    replay_all("tentacle/aes-client-tentacle");
}

#[test]
fn tentacle_client_with_tentacle_and_keys_of_type_2() {
    replay_all("tentacle/aes256k-client-tentacle");
}

#[test]
fn tentacle_client_with_tentacle_encrypted() {
    replay_all("tentacle/secure-client-tentacle");
}
