#![allow(clippy::cast_possible_truncation, reason = "test")]

use std::time::Duration;

use ceph_codec::{DecodeError, Encode, EntityType, GlobalId, Utime, encode_bytes};
use proptest::prelude::*;

use super::*;
use crate::{KeyError, KeyKind};

const START: Duration = Duration::from_secs(5000);
const HOUR: u32 = 3600;
const SERVICES: [EntityType; 3] = [EntityType::MON, EntityType::OSD, EntityType::MGR];

fn no_random(out: &mut [u8]) {
    out.fill(9);
}

fn secs(secs: u64) -> Duration {
    START + Duration::from_secs(secs)
}

/// A monitor: it makes what the real one makes, with session keys counted up.
struct Monitor {
    kind: KeyKind,
    keys_made: u8,
}

impl Monitor {
    fn user_key(&self) -> CryptoKey {
        key(self.kind, 200)
    }

    fn new_key(&mut self) -> CryptoKey {
        self.keys_made += 1;
        key(self.kind, self.keys_made)
    }

    /// Appends the tickets for `services`, encrypted for the owner of `key`.
    fn tickets(
        &mut self,
        out: &mut Vec<u8>,
        key: &CryptoKey,
        old: Option<&CryptoKey>,
        services: &[(EntityType, CryptoKey)],
        validity: u32,
    ) {
        1u8.encode(out);
        (services.len() as u32).encode(out);
        for (service, session_key) in services {
            u32::from(service.0).encode(out);
            1u8.encode(out);
            let sealed = key.seal(Usage::TicketSessionKey, &mut no_random, |out| {
                1u8.encode(out);
                session_key.encode(out);
                Utime { sec: validity, nsec: 0 }.encode(out);
            });
            encode_bytes(&sealed, out);
            let blob = TicketBlob { secret_id: 7, blob: vec![service.0; 20] }.encode_to_vec();
            old.is_some().encode(out);
            match old {
                Some(old) => {
                    let sealed = old.seal(Usage::TicketBlob, &mut no_random, |out| encode_bytes(&blob, out));
                    encode_bytes(&sealed, out);
                }
                None => encode_bytes(&blob, out),
            }
        }
    }

    /// The payload of AUTH_DONE, or of a MAuthReply that renews the AUTH ticket.
    fn auth_reply(
        &mut self,
        old: Option<&CryptoKey>,
        secret: &[u8],
        services: &[EntityType],
        validity: u32,
    ) -> Vec<u8> {
        let auth_key = self.new_key();
        let mut out = Vec::new();
        GET_AUTH_SESSION_KEY.encode(&mut out);
        0i32.encode(&mut out);
        let user_key = self.user_key();
        self.tickets(&mut out, &user_key, old, &[(EntityType::AUTH, auth_key.clone())], 72 * HOUR);
        let sealed = auth_key.seal(Usage::ConnectionSecret, &mut no_random, |out| encode_bytes(secret, out));
        encode_bytes(&sealed.encode_to_vec(), &mut out);
        let mut extra = Vec::new();
        let services: Vec<_> = services.iter().map(|service| (*service, self.new_key())).collect();
        self.tickets(&mut extra, &auth_key, None, &services, validity);
        encode_bytes(&extra, &mut out);
        out
    }

    /// The payload of a MAuthReply with tickets for services.
    fn service_reply(&mut self, auth_key: &CryptoKey, services: &[EntityType]) -> Vec<u8> {
        let mut out = Vec::new();
        GET_PRINCIPAL_SESSION_KEY.encode(&mut out);
        0i32.encode(&mut out);
        let services: Vec<_> = services.iter().map(|service| (*service, self.new_key())).collect();
        self.tickets(&mut out, auth_key, None, &services, HOUR);
        out
    }

    fn client(&self) -> Client {
        Client::new(EntityAuthName::client("a"), self.user_key())
    }
}

fn key(kind: KeyKind, byte: u8) -> CryptoKey {
    CryptoKey::from_secret(kind, &vec![byte; if kind == KeyKind::Aes { 16 } else { 32 }])
}

fn monitor() -> Monitor {
    Monitor { kind: KeyKind::Aes256k, keys_made: 0 }
}

fn challenge() -> Vec<u8> {
    [&[1][..], &77u64.to_le_bytes()].concat()
}

fn challenged(client: &Client) -> MonHandshake {
    let mut handshake = client.start_mon();
    handshake.challenge(client, &challenge(), START, &mut no_random).unwrap();
    handshake
}

/// A client with tickets for `services`, all of an hour.
fn connected(mon: &mut Monitor, services: &[EntityType]) -> Client {
    let mut client = mon.client();
    let reply = mon.auth_reply(None, b"", services, HOUR);
    challenged(&client).done(&mut client, GlobalId(42), &reply, START).unwrap();
    client
}

fn mask(request: &Renewal) -> u32 {
    let Renewal::Request(payload) = request else { panic!("no request") };
    u32::from_le_bytes(*payload.last_chunk().unwrap())
}

#[test]
fn the_first_handshake_asks_for_a_new_id_and_shows_no_ticket() {
    let client = monitor().client();
    let mut handshake = client.start_mon();
    assert!(handshake.payload().ends_with(&[0; 8]));
    let request = handshake.challenge(&client, &challenge(), START, &mut no_random).unwrap();
    // Kind, version, challenge, proof, then an empty ticket and the services.
    assert_eq!(request[19..], [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x35, 0, 0, 0]);
}

#[test]
fn a_later_handshake_asks_the_id_back_and_decrypts_the_ticket_with_the_old_key() {
    for kind in [KeyKind::Aes, KeyKind::Aes256k] {
        let mut mon = Monitor { kind, keys_made: 0 };
        let mut client = connected(&mut mon, &SERVICES);
        let old_key = client.session_key(EntityType::AUTH);
        let mut handshake = client.start_mon();
        assert!(handshake.payload().ends_with(&42u64.to_le_bytes()));
        let request = handshake.challenge(&client, &challenge(), START, &mut no_random).unwrap();
        assert!(request[19..].starts_with(&[1, 7]));
        // Tickets for services are there, only AUTH is asked for.
        assert!(request.ends_with(&[0x20, 0, 0, 0]));
        let reply = mon.auth_reply(Some(&old_key), &[5; 64], &[], HOUR);
        let secrets = handshake.done(&mut client, GlobalId(42), &reply, START).unwrap();
        assert_eq!(*secrets.connection_secret, [5; 64]);
        assert_ne!(client.session_key(EntityType::AUTH).secret(), old_key.secret());
        assert!(client.has_ticket(EntityType::OSD, START));
    }
}

#[test]
fn an_encrypted_ticket_without_an_old_key_is_refused() {
    let mut mon = monitor();
    let mut client = mon.client();
    let reply = mon.auth_reply(Some(&key(mon.kind, 99)), b"", &[], HOUR);
    let result = challenged(&client).done(&mut client, GlobalId(42), &reply, START).map(drop);
    assert_eq!(result, Err(AuthError::OutOfTurn { what: "an encrypted ticket" }));
}

#[test]
fn an_encrypted_ticket_of_a_service_is_refused() {
    let mut mon = monitor();
    let mut client = connected(&mut mon, &[EntityType::MON]);
    client.renew(secs(6), &mut no_random);
    let auth_key = client.session_key(EntityType::AUTH);
    let mut reply = [GET_PRINCIPAL_SESSION_KEY.to_le_bytes().as_slice(), &[0; 4]].concat();
    mon.tickets(&mut reply, &auth_key, Some(&auth_key), &[(EntityType::OSD, key(mon.kind, 1))], HOUR);
    let result = client.renewed(0, &reply, secs(6));
    assert_eq!(result, Err(AuthError::OutOfTurn { what: "an encrypted ticket" }));
}

#[test]
fn the_id_that_was_asked_back_must_come() {
    let mut mon = monitor();
    let mut client = connected(&mut mon, &SERVICES);
    let reply = mon.auth_reply(None, b"", &SERVICES, HOUR);
    let result = challenged(&client).done(&mut client, GlobalId(43), &reply, START).map(drop);
    assert_eq!(result, Err(AuthError::WrongGlobalId { given: GlobalId(43), own: GlobalId(42) }));
    let mut client = mon.client();
    let result = challenged(&client).done(&mut client, GlobalId(0), &reply, START).map(drop);
    assert_eq!(result, Err(AuthError::WrongGlobalId { given: GlobalId(0), own: GlobalId(0) }));
}

#[test]
fn of_two_first_handshakes_one_counts() {
    let mut mon = monitor();
    let mut client = mon.client();
    let (first, second) = (challenged(&client), challenged(&client));
    let reply = mon.auth_reply(None, b"", &SERVICES, HOUR);
    second.done(&mut client, GlobalId(42), &reply, START).unwrap();
    let result = first.done(&mut client, GlobalId(43), &reply, START).map(drop);
    assert_eq!(result, Err(AuthError::Superseded));
    assert_eq!(client.global_id(), GlobalId(42));
}

#[test]
fn a_handshake_out_of_turn_is_refused() {
    let mut mon = monitor();
    let mut client = mon.client();
    let reply = mon.auth_reply(None, b"", &[], HOUR);
    let result = client.start_mon().done(&mut client, GlobalId(42), &reply, START).map(drop);
    assert_eq!(result, Err(AuthError::OutOfTurn { what: "the end of authentication" }));
    let mut handshake = challenged(&client);
    let result = handshake.challenge(&client, &challenge(), START, &mut no_random).map(drop);
    assert_eq!(result, Err(AuthError::OutOfTurn { what: "challenge of the monitor" }));
}

#[test]
fn a_connection_secret_that_does_not_decrypt_is_an_error() {
    let mut mon = monitor();
    let mut client = mon.client();
    let mut reply = mon.auth_reply(None, &[5; 64], &[], HOUR);
    let extra = 4 + 1 + 4; // length, version and count of no tickets
    let at = reply.len() - extra - 1;
    reply[at] ^= 1;
    let result = challenged(&client).done(&mut client, GlobalId(42), &reply, START).map(drop);
    assert_eq!(result, Err(AuthError::Undecryptable { what: "connection secret" }));
    assert!(!client.has_ticket(EntityType::AUTH, START));
}

#[test]
fn a_session_key_of_an_unknown_type_is_an_error() {
    let mut mon = monitor();
    let client = connected(&mut mon, &SERVICES);
    let key = client.session_key(EntityType::AUTH);
    let sealed = key.seal(Usage::TicketSessionKey, &mut no_random, |out| {
        out.extend([1, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    });
    let mut reply = vec![1, 1, 0, 0, 0, 4, 0, 0, 0, 1];
    encode_bytes(&sealed, &mut reply);
    reply.extend([0; 5]);
    let result = decode_tickets(&mut Reader::new(&reply), &key, None, START).map(drop);
    let source = KeyError::UnknownKind(9);
    assert_eq!(result, Err(AuthError::BadSessionKey { service: EntityType::OSD, source }));
}

#[test]
fn more_tickets_than_there_are_services_are_refused() {
    let reply = [&[1, 33, 0, 0, 0][..], &[0; 1000]].concat();
    let result = decode_tickets(&mut Reader::new(&reply), &key(KeyKind::Aes, 1), None, START).map(drop);
    let source = DecodeError::Invalid { what: "number of tickets", value: 33 };
    assert_eq!(result, Err(AuthError::Malformed { what: "ticket reply", source }));
}

#[test]
fn tickets_are_due_when_a_quarter_of_their_life_is_left() {
    let mut client = connected(&mut monitor(), &SERVICES);
    assert_eq!(client.renew_at(), Some(secs(2700)));
    assert_eq!(client.renew(secs(2699), &mut no_random), Renewal::Nothing);
    assert_eq!(mask(&client.renew(secs(2700), &mut no_random)), 0x15);
    assert!(client.has_ticket(EntityType::OSD, secs(3599)));
    assert!(!client.has_ticket(EntityType::OSD, secs(3600)));
}

#[test]
fn the_auth_ticket_is_renewed_by_proving_the_key_again() {
    let mut mon = monitor();
    let mut client = connected(&mut mon, &SERVICES);
    let now = secs(54 * u64::from(HOUR));
    let request = client.renew(now, &mut no_random);
    assert_eq!(mask(&request), 0x35);
    assert!(matches!(&request, Renewal::Request(payload) if payload[..2] == [0, 1]));
    let old_key = client.session_key(EntityType::AUTH);
    let reply = mon.auth_reply(Some(&old_key), b"", &SERVICES, HOUR);
    client.renewed(0, &reply, now).unwrap();
    assert_eq!(client.renew_at(), Some(now + Duration::from_secs(2700)));
    assert_eq!(client.global_id(), GlobalId(42));
}

#[test]
fn an_invalidated_ticket_is_renewed_at_once_and_alone() {
    let mut mon = monitor();
    let mut client = connected(&mut mon, &SERVICES);
    client.invalidate(EntityType::OSD);
    client.invalidate(EntityType::AUTH);
    let result = client.authorize(EntityType::OSD, &mut no_random).map(drop);
    assert_eq!(result, Err(AuthError::NoTicket { service: EntityType::OSD }));
    assert_eq!(mask(&client.renew(secs(1), &mut no_random)), 0x04);
    assert_eq!(client.renew(secs(1), &mut no_random), Renewal::Nothing);
    let reply = mon.service_reply(&client.session_key(EntityType::AUTH), &[EntityType::OSD]);
    client.renewed(0, &reply, secs(1)).unwrap();
    assert!(client.authorize(EntityType::OSD, &mut no_random).is_ok());
}

#[test]
fn a_ticket_that_never_comes_is_not_asked_for_in_a_busy_loop() {
    let mut mon = monitor();
    let mut client = connected(&mut mon, &[EntityType::MON, EntityType::MGR]);
    assert_eq!(mask(&client.renew(secs(0), &mut no_random)), 0x04);
    let reply = mon.service_reply(&client.session_key(EntityType::AUTH), &[]);
    client.renewed(0, &reply, secs(0)).unwrap();
    assert_eq!(client.renew_at(), Some(secs(5)));
    assert_eq!(client.renew(secs(4), &mut no_random), Renewal::Nothing);
    assert_eq!(mask(&client.renew(secs(5), &mut no_random)), 0x04);
}

#[test]
fn a_missing_manager_is_no_reason_to_renew() {
    let mut client = connected(&mut monitor(), &[EntityType::MON, EntityType::OSD]);
    assert_eq!(client.renew_at(), Some(secs(2700)));
    assert_eq!(mask(&client.renew(secs(2700), &mut no_random)), 0x15);
}

#[test]
fn tickets_without_lifetime_are_renewed_once_a_second_at_most() {
    let mut mon = monitor();
    let mut client = mon.client();
    let reply = mon.auth_reply(None, b"", &SERVICES, 0);
    challenged(&client).done(&mut client, GlobalId(42), &reply, START).unwrap();
    assert_eq!(client.renew_at(), Some(secs(1)));
}

#[test]
fn nothing_is_renewed_without_a_session() {
    let mut client = monitor().client();
    assert_eq!(client.renew_at(), None);
    assert_eq!(client.renew(START, &mut no_random), Renewal::Nothing);
    let mut client = connected(&mut monitor(), &[]);
    client.mon_closed();
    assert_eq!(client.renew_at(), None);
    let unexpected = client.renewed(0, &[], START);
    assert_eq!(unexpected, Err(AuthError::OutOfTurn { what: "MAuthReply" }));
}

#[test]
fn services_nobody_asked_for_are_not_kept() {
    let mut mon = monitor();
    let client = connected(&mut mon, &[EntityType::MDS, EntityType::CLIENT, EntityType(0), EntityType(0x24)]);
    assert_eq!(client.tickets.len(), 1);
}

#[test]
fn refusals_of_a_monitor_are_told_apart() {
    let mut mon = monitor();
    let name = EntityAuthName::client("a");
    let fresh = mon.client();
    let handshake = challenged(&fresh);
    let error = handshake.refused(&fresh, -13, &[2]);
    assert_eq!(error, AuthError::KeyRejected { name: name.clone(), kind: KeyKind::Aes256k });
    assert!(error.help().unwrap().contains("auth_allowed_ciphers"));
    let error = handshake.refused(&fresh, -95, &[1]);
    assert_eq!(error, AuthError::MethodNotAllowed { method: 2, allowed: vec![1] });
    assert_eq!(handshake.refused(&fresh, -2, &[2]), AuthError::UnknownUser { name: name.clone() });
    assert!(handshake.refused(&fresh, -16, &[2]).is_transient());
    let error = handshake.refused(&fresh, i32::MIN, &[2]);
    assert_eq!(error, AuthError::Refused { name: name.clone(), status: i32::MIN });

    let mut client = connected(&mut mon, &[]);
    let reclaim = challenged(&client);
    let global_id = GlobalId(42);
    assert_eq!(reclaim.refused(&client, -13, &[2]), AuthError::ReclaimRejected { name, global_id });
    client.forget_identity();
    assert!(client.start_mon().payload().ends_with(&[0; 8]));
}

#[test]
fn an_error_in_the_header_of_a_reply_is_an_error() {
    let mut mon = monitor();
    let mut client = mon.client();
    let reply = [GET_AUTH_SESSION_KEY.to_le_bytes().as_slice(), &(-13i32).to_le_bytes()].concat();
    let result = challenged(&client).done(&mut client, GlobalId(42), &reply, START).map(drop);
    assert!(matches!(result, Err(AuthError::KeyRejected { .. })));
    let reply = mon.service_reply(&key(mon.kind, 1), &[]);
    let result = challenged(&client).done(&mut client, GlobalId(42), &reply, START).map(drop);
    assert_eq!(result, Err(AuthError::OutOfTurn { what: "the kind of the monitor's reply" }));
}

/// What an OSD says, with the session key of the ticket and the nonce of [`no_random`].
fn osd_says(key: &CryptoKey, usage: Usage, fields: &[u8]) -> Vec<u8> {
    key.seal(usage, &mut no_random, |out| out.extend_from_slice(fields))
}

#[test]
fn a_service_must_challenge_once_and_answer_the_nonce() {
    let client = connected(&mut monitor(), &SERVICES);
    let key = client.session_key(EntityType::OSD);
    let authorize = || client.authorize(EntityType::OSD, &mut no_random).unwrap();
    let challenge =
        osd_says(&key, Usage::AuthorizeChallenge, &[1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    let reply = |nonce: u64| {
        let fields = [&[1][..], &nonce.to_le_bytes()].concat();
        osd_says(&key, Usage::AuthorizeReply, &fields).encode_to_vec()
    };
    let nonce = u64::from_le_bytes([9; 8]);

    let mut authorizer = authorize();
    authorizer.challenge(&challenge, &mut no_random).unwrap();
    let again = authorizer.challenge(&challenge, &mut no_random);
    assert_eq!(again, Err(AuthError::OutOfTurn { what: "challenge of a service" }));
    assert!(authorizer.done(&reply(nonce + 1)).unwrap().connection_secret.is_empty());

    let mut authorizer = authorize();
    authorizer.challenge(&challenge, &mut no_random).unwrap();
    let result = authorizer.done(&reply(nonce)).map(drop);
    assert_eq!(result, Err(AuthError::NotMutual { service: EntityType::OSD }));

    let result = authorize().done(&reply(nonce + 1)).map(drop);
    assert_eq!(result, Err(AuthError::OutOfTurn { what: "authorizer reply" }));

    let refused = authorize().refused(-13, &[2]);
    assert_eq!(refused, AuthError::TicketRefused { service: EntityType::OSD, status: -13 });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn hostile_payloads_are_an_error(payload: Vec<u8>, status: i32) {
        for kind in [KeyKind::Aes, KeyKind::Aes256k] {
            let mut client = connected(&mut Monitor { kind, keys_made: 0 }, &SERVICES);
            let handshake = challenged(&client);
            prop_assert!(handshake.done(&mut client, GlobalId(42), &payload, START).is_err());
            let mut authorizer = client.authorize(EntityType::OSD, &mut no_random).unwrap();
            prop_assert!(authorizer.challenge(&payload, &mut no_random).is_err());
            prop_assert!(client.renewed(status, &payload, START).is_err());
            client.renew(START + Duration::from_secs(10_000), &mut no_random);
            prop_assert!(client.renewed(status, &payload, START).is_err());
        }
    }

    #[test]
    fn hostile_structs_from_someone_who_has_the_key_do_not_panic(plain: Vec<u8>, tickets: Vec<u8>) {
        for kind in [KeyKind::Aes, KeyKind::Aes256k] {
            let client = connected(&mut Monitor { kind, keys_made: 0 }, &SERVICES);
            let key = client.session_key(EntityType::OSD);
            let mut authorizer = client.authorize(EntityType::OSD, &mut no_random).unwrap();
            let _ = authorizer.challenge(&osd_says(&key, Usage::AuthorizeChallenge, &plain), &mut no_random);
            let _ = authorizer.done(&osd_says(&key, Usage::AuthorizeReply, &plain).encode_to_vec());

            for encrypted in [false, true] {
                let mut reply = vec![1, 1, 0, 0, 0, 0x20, 0, 0, 0, 1];
                encode_bytes(&osd_says(&key, Usage::TicketSessionKey, &plain), &mut reply);
                encrypted.encode(&mut reply);
                encode_bytes(&osd_says(&key, Usage::TicketBlob, &tickets), &mut reply);
                let _ = decode_tickets(&mut Reader::new(&reply), &key, Some(&key), START);
            }
        }
    }

    #[test]
    fn a_damaged_reply_is_an_error_or_the_same_secrets(at: prop::sample::Index, flip in 1u8..) {
        let mut mon = monitor();
        let mut client = mon.client();
        let mut reply = mon.auth_reply(None, &[5; 64], &SERVICES, HOUR);
        let at = at.index(reply.len());
        reply[at] ^= flip;
        if let Ok(secrets) = challenged(&client).done(&mut client, GlobalId(42), &reply, START) {
            prop_assert_eq!(&*secrets.connection_secret, &[5; 64]);
        }
    }
}
