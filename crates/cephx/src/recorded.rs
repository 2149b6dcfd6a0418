//! Exchanges recorded between daemons and `librados`: given the randomness of the recorded client, ours must
//! send the same bytes, and take what the daemons answered.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ceph_codec::{Decode, EntityType, GlobalId, Reader};

use crate::aes256k::CONFOUNDER;
use crate::crypto::Usage;
use crate::*;

const NOW: Duration = Duration::from_secs(1000);

/// A frame of revision 1 in crc mode: tag and segments.
type Frame<'a> = (u8, Vec<&'a [u8]>);

/// A preamble of 32 bytes, segments with a checksum behind the first, and if there are more an epilogue of 13.
fn split(stream: &[u8]) -> Vec<Frame<'_>> {
    let mut r = Reader::new(stream);
    assert_eq!(r.take("banner", 8).unwrap(), b"ceph v2\n");
    let len = u16::decode(&mut r).unwrap();
    r.take("banner payload", len.into()).unwrap();
    let mut out = Vec::new();
    while !r.is_empty() {
        let preamble = r.take("preamble", 32).unwrap();
        let mut segments = Vec::new();
        for i in 0..usize::from(preamble[1]) {
            let len = u32::decode_from(&preamble[2 + 6 * i..]).unwrap() as usize;
            segments.push(r.take("segment", len).unwrap());
            r.take("checksum", if i == 0 && len > 0 { 4 } else { 0 }).unwrap();
        }
        r.take("epilogue", if segments.len() > 1 { 13 } else { 0 }).unwrap();
        out.push((preamble[0], segments));
    }
    out
}

/// First segments of the frames with a tag.
fn frames(stream: &[u8], tag: u8) -> Vec<&[u8]> {
    split(stream).iter().filter(|frame| frame.0 == tag).map(|frame| frame.1[0]).collect()
}

/// Front segments of the messages of a type, which their headers have at offset 16.
fn messages(stream: &[u8], kind: u16) -> Vec<&[u8]> {
    let of_kind = |segments: &[&[u8]]| u16::decode_from(&segments[0][16..]) == Ok(kind);
    split(stream).iter().filter(|(tag, segments)| *tag == 17 && of_kind(segments)).map(|f| f.1[1]).collect()
}

fn stream(base: &Path, name: &str, direction: &str) -> Vec<u8> {
    fs::read(base.join(format!("{name}.{direction}"))).unwrap()
}

/// One recorded connection.
struct Recording {
    request: Vec<u8>,
    reply_more: Vec<u8>,
    request_more: Vec<u8>,
    global_id: GlobalId,
    secure: bool,
    done: Vec<u8>,
}

impl Recording {
    fn read(base: &Path, name: &str) -> Self {
        let (c2s, s2c) = (stream(base, name, "c2s"), stream(base, name, "s2c"));
        let mut request = Reader::new(frames(&c2s, 2)[0]);
        assert_eq!(u32::decode(&mut request), Ok(METHOD));
        request.seq("modes", u32::decode).unwrap();
        let mut done = Reader::new(frames(&s2c, 6)[0]);
        Self {
            request: Vec::decode(&mut request).unwrap(),
            reply_more: Vec::decode_from(frames(&s2c, 4)[0]).unwrap(),
            request_more: Vec::decode_from(frames(&c2s, 5)[0]).unwrap(),
            global_id: GlobalId::decode(&mut done).unwrap(),
            secure: u32::decode(&mut done).unwrap() == 2,
            done: Vec::decode(&mut done).unwrap(),
        }
    }
}

/// Gives out recorded randomness, all of it and no more.
fn replay(mut recorded: Vec<u8>) -> impl FnMut(&mut [u8]) {
    move |out| {
        let rest = recorded.split_off(out.len());
        out.copy_from_slice(&recorded);
        recorded = rest;
    }
}

/// Runs the monitor's part. Returns the secrets of the session.
fn authenticate(client: &mut Client, mon: &Recording, now: Duration) -> SessionSecrets {
    let mut handshake = client.start_mon();
    assert_eq!(handshake.payload(), mon.request);
    // Kind of the request, version, client challenge.
    let mut random = replay(mon.request_more[3..11].to_vec());
    let answer = handshake.challenge(client, &mon.reply_more, now, &mut random).unwrap();
    assert_eq!(answer, mon.request_more);
    handshake.done(client, mon.global_id, &mon.done, now).unwrap()
}

fn admin_key(base: &Path) -> CryptoKey {
    let keyring = Keyring::parse(&fs::read(base.join("keyring")).unwrap()).unwrap();
    keyring.get(&EntityAuthName::client("admin")).unwrap().clone()
}

/// The randomness of a recorded authorizer: its nonce, and the confounder in front of it.
fn randomness(payload: &[u8], key: &CryptoKey) -> (Vec<u8>, Vec<u8>) {
    let mut r = Reader::new(payload);
    r.take("mode, global id, service, version, secret id", 1 + 8 + 4 + 1 + 8).unwrap();
    r.bytes("ticket").unwrap();
    let sealed = r.bytes("authorizer").unwrap();
    let opened = key.open(Usage::Authorize, sealed).unwrap();
    let nonce = opened.reader().rest()[1..9].to_vec();
    let confounder = match key.kind() {
        KeyKind::Aes => Vec::new(),
        KeyKind::Aes256k => aes256k::decrypt(key.secret(), 0x10, sealed).unwrap()[..CONFOUNDER].to_vec(),
    };
    (nonce, confounder)
}

/// All `testdata/RELEASE/handshake-KIND/client-RELEASE/`.
fn recordings() -> Vec<(PathBuf, CryptoKey)> {
    let children = |path: &Path| -> Vec<PathBuf> {
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect()
    };
    let testdata = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let mut out = Vec::new();
    for kind in children(&testdata).iter().flat_map(|release| children(release)) {
        if kind.file_name().unwrap().to_str().unwrap().starts_with("handshake-") {
            out.extend(children(&kind).into_iter().map(|client| (client, admin_key(&kind))));
        }
    }
    assert_eq!(out.len(), 8);
    out
}

#[test]
fn we_say_what_librados_said_to_monitors_and_osds() {
    for (base, key) in recordings() {
        println!("{}", base.display());
        let mut client = Client::new(EntityAuthName::client("admin"), key);
        let mon = Recording::read(&base, "mon");
        let secrets = authenticate(&mut client, &mon, NOW);
        assert_eq!(secrets.connection_secret.len(), if mon.secure { 64 } else { 0 });
        assert_eq!(client.global_id(), mon.global_id);
        for service in [EntityType::MON, EntityType::OSD, EntityType::AUTH] {
            assert!(client.has_ticket(service, NOW), "{service}");
        }

        let osd = Recording::read(&base, "osd");
        let session_key = client.session_key(EntityType::OSD);
        let (nonce, confounder1) = randomness(&osd.request, &session_key);
        let (_, confounder2) = randomness(&osd.request_more, &session_key);
        let mut random = replay([nonce, confounder1, confounder2].concat());
        let mut authorizer = client.authorize(EntityType::OSD, &mut random).unwrap();
        assert_eq!(authorizer.payload(), osd.request);
        assert_eq!(authorizer.challenge(&osd.reply_more, &mut random).unwrap(), osd.request_more);
        let secrets = authorizer.done(&osd.done).unwrap();
        assert_eq!(secrets.connection_secret.len(), if osd.secure { 64 } else { 0 });
        assert_eq!(*secrets.session_key, session_key.secret());
    }
}

#[test]
fn a_client_that_wants_no_services_gets_the_secrets_all_the_same() {
    for (base, key) in recordings() {
        let mut client = Client::with_services(EntityAuthName::client("admin"), key, &[]);
        let mon = Recording::read(&base, "mon-monmap-only");
        let secrets = authenticate(&mut client, &mon, NOW);
        assert_eq!(secrets.connection_secret.len(), if mon.secure { 64 } else { 0 });
        assert!(!client.has_ticket(EntityType::OSD, NOW));
    }
}

#[test]
fn a_wrong_key_reads_nothing_of_what_a_monitor_says() {
    for (base, key) in recordings() {
        let wrong = CryptoKey::from_secret(key.kind(), &vec![1; key.secret().len()]);
        let mon = Recording::read(&base, "mon");
        let mut client = Client::new(EntityAuthName::client("admin"), wrong);
        let mut handshake = client.start_mon();
        handshake.challenge(&client, &mon.reply_more, NOW, &mut |b: &mut [u8]| b.fill(1)).unwrap();
        let result = handshake.done(&mut client, mon.global_id, &mon.done, NOW).map(drop);
        assert_eq!(result, Err(AuthError::Undecryptable { what: "session key of a ticket" }));
        assert_eq!(client.global_id(), GlobalId(0));
    }
}

#[test]
fn aes_tickets_are_renewed_and_the_id_asked_back_as_librados_does() {
    let renewals = [23_004, 45_008, 46_012, 69_020, 90_024, 92_024];
    replay_renewals("pacific/renewal-aes", &renewals, 117_044);
}

#[test]
fn aes256k_tickets_are_renewed_and_the_id_asked_back_as_librados_does() {
    replay_renewals("tentacle/renewal-aes256k", &[23_012, 45_044, 46_044, 69_052], 83_076);
}

/// Tickets for services lived 30 s in these clusters, AUTH tickets 60 s. The clients looked once a second;
/// the times are milliseconds after the handshake, from their logs.
fn replay_renewals(recording: &str, renewals: &[u64], reclaim: u64) {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(recording);
    let mut client = Client::new(EntityAuthName::client("admin"), admin_key(&base));
    let session = Recording::read(&base, "session");
    authenticate(&mut client, &session, Duration::ZERO);

    let (c2s, s2c) = (stream(&base, "session", "c2s"), stream(&base, "session", "s2c"));
    let (requests, replies) = (messages(&c2s, 17), messages(&s2c, 18));
    assert_eq!((requests.len(), replies.len()), (renewals.len(), renewals.len()));
    for ((request, reply), now) in requests.into_iter().zip(replies).zip(renewals) {
        let now = Duration::from_millis(*now);
        let due = client.renew_at().unwrap();
        assert!(due <= now && now < due + Duration::from_millis(1100), "{due:?} {now:?}");
        assert_eq!(client.renew(due - Duration::from_millis(1), &mut |_: &mut [u8]| ()), Renewal::Nothing);

        // Version and a session number, both retired; protocol.
        let mut r = Reader::new(&request[8 + 2 + 8..]);
        assert_eq!(u32::decode(&mut r), Ok(METHOD));
        let payload = r.bytes("payload").unwrap();
        let proves_key = payload[..2] == [0, 1];
        let random = if proves_key {
            payload[3..11].to_vec()
        } else {
            let (nonce, confounder) = randomness(&payload[2..], &client.session_key(EntityType::AUTH));
            [nonce, confounder].concat()
        };
        assert_eq!(client.renew(now, &mut replay(random)), Renewal::Request(payload.to_vec()));
        assert_eq!(client.renew_at(), None);

        let mut r = Reader::new(reply);
        assert_eq!(u32::decode(&mut r), Ok(METHOD));
        let result = i32::decode(&mut r).unwrap();
        assert_eq!(GlobalId::decode(&mut r), Ok(client.global_id()));
        client.renewed(result, r.bytes("result").unwrap(), now).unwrap();
    }

    let old_auth_key = client.session_key(EntityType::AUTH);
    client.mon_closed();
    authenticate(&mut client, &Recording::read(&base, "reclaim"), Duration::from_millis(reclaim));
    assert_eq!(client.global_id(), session.global_id);
    assert_ne!(client.session_key(EntityType::AUTH).secret(), old_auth_key.secret());
}
