//! What monitors and services answer, in every state of the exchange.
//!
//! The first byte selects the kind of key (bit 0) and the state (bits 1 to 3), the rest is the payload. The
//! client has the tickets of a recorded handshake.
#![no_main]

use std::sync::LazyLock;
use std::time::Duration;

use ceph_codec::{Decode, EntityType, GlobalId, Reader};
use cephx::{Client, CryptoKey, EntityAuthName, Keyring, MonHandshake};
use libfuzzer_sys::fuzz_target;

const NOW: Duration = Duration::from_secs(1000);
const ID: GlobalId = GlobalId(4711);

/// A recorded monitor: the key of the client, the challenge, the end of the handshake.
struct Recording {
    key: CryptoKey,
    challenge: Vec<u8>,
    done: Vec<u8>,
}

static RECORDINGS: LazyLock<[Recording; 2]> = LazyLock::new(|| {
    [
        Recording::new(
            include_bytes!("../../crates/cephx/testdata/pacific/handshake-aes/keyring"),
            include_bytes!("../../crates/cephx/testdata/pacific/handshake-aes/client-pacific/mon.s2c"),
        ),
        Recording::new(
            include_bytes!("../../crates/cephx/testdata/tentacle/handshake-aes256k/keyring"),
            include_bytes!("../../crates/cephx/testdata/tentacle/handshake-aes256k/client-tentacle/mon.s2c"),
        ),
    ]
});

impl Recording {
    fn new(keyring: &[u8], stream: &[u8]) -> Self {
        let keyring = Keyring::parse(keyring).unwrap();
        let key = keyring.get(&name()).unwrap().clone();
        let challenge = frame(stream, 4);
        let done = frame(stream, 6);
        Self { key, challenge: bytes(&challenge), done: bytes(&done[12..]) }
    }

    fn client(&self) -> Client {
        Client::new(name(), self.key.clone())
    }

    fn challenged(&self, client: &Client) -> MonHandshake {
        let mut handshake = client.start_mon();
        handshake.challenge(client, &self.challenge, NOW, &mut random).unwrap();
        handshake
    }

    fn connected(&self) -> Client {
        let mut client = self.client();
        self.challenged(&client).done(&mut client, ID, &self.done, NOW).unwrap();
        client
    }
}

fn name() -> EntityAuthName {
    EntityAuthName::client("admin")
}

fn random(out: &mut [u8]) {
    out.fill(1);
}

fn bytes(payload: &[u8]) -> Vec<u8> {
    Vec::decode(&mut Reader::new(payload)).unwrap()
}

/// The payload of the first frame with a tag: a banner of 26 bytes, preambles of 32, checksums of 4.
fn frame(stream: &[u8], tag: u8) -> Vec<u8> {
    let mut r = Reader::new(&stream[26..]);
    loop {
        let preamble = r.take("preamble", 32).unwrap();
        let len = u32::decode(&mut Reader::new(&preamble[2..])).unwrap();
        let payload = r.take("payload", len as usize).unwrap();
        r.take("checksum", 4).unwrap();
        if preamble[0] == tag {
            return payload.to_vec();
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&selector, payload)) = data.split_first() else { return };
    let recording = &RECORDINGS[usize::from(selector & 1)];
    match (selector >> 1) & 7 {
        0 => {
            let client = recording.client();
            let _ = client.start_mon().challenge(&client, payload, NOW, &mut random);
        }
        1 => {
            let mut client = recording.client();
            let _ = recording.challenged(&client).done(&mut client, ID, payload, NOW);
        }
        2 => {
            let mut client = recording.connected();
            let _ = recording.challenged(&client).done(&mut client, ID, payload, NOW);
        }
        // Tickets for services are due first, then the AUTH ticket.
        state @ (3 | 4) => {
            let mut client = recording.connected();
            let later = NOW + Duration::from_secs(if state == 3 { 3600 } else { 3 * 24 * 3600 });
            client.renew(later, &mut random);
            let _ = client.renewed(0, payload, later);
        }
        state => {
            let client = recording.connected();
            let mut authorizer = client.authorize(EntityType::OSD, &mut random).unwrap();
            let _ = authorizer.challenge(payload, &mut random);
            if state == 6 {
                let _ = authorizer.done(payload);
            }
        }
    }
});
