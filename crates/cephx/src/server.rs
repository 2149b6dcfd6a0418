//! The side of monitors and services, for simulated daemons that test clients.
//!
//! One user, one realm. What only daemons read, the inside of tickets, has a form of its own.

use std::collections::BTreeMap;

use ceph_codec::{Decode, DecodeError, Encode, EntityType, GlobalId, Reader, Utime, encode_bytes};

use crate::client::{GET_AUTH_SESSION_KEY, GET_PRINCIPAL_SESSION_KEY};
use crate::crypto::Usage;
use crate::ticket::TicketBlob;
use crate::{CryptoKey, KeyKind, Random, SessionSecrets};

const EACCES: i32 = -13;
const EINVAL: i32 = -22;

/// Lifetime of AUTH tickets in seconds. Ceph: `auth_mon_ticket_ttl`.
const AUTH_VALIDITY: u32 = 72 * 3600;

/// How many generations of secrets a ticket may be old.
const GENERATIONS: u64 = 3;

/// What monitors know: the user's key, and the secrets that tickets are sealed with.
#[derive(Debug)]
pub struct KeyServer {
    user: CryptoKey,
    /// For AUTH tickets, which live long.
    auth: CryptoKey,
    /// By generation; one for all services.
    secrets: BTreeMap<u64, CryptoKey>,
    /// Lifetime of new tickets of services in seconds.
    validity: u32,
}

/// A client that proved who it is.
#[derive(Debug)]
pub struct Granted {
    /// Its number.
    pub global_id: GlobalId,
    /// Payload of `AUTH_DONE`.
    pub payload: Vec<u8>,
    /// For the connection.
    pub secrets: SessionSecrets,
}

struct Inside {
    session_key: CryptoKey,
    global_id: GlobalId,
}

impl KeyServer {
    /// For a user with this key.
    pub fn new(user: CryptoKey, validity: u32, random: Random<'_>) -> Self {
        let mut server = Self { user, auth: Self::new_key(random), secrets: BTreeMap::new(), validity };
        server.rotate(random);
        server
    }

    /// A new key, of the kind that Ceph 16 makes.
    pub fn new_key(random: Random<'_>) -> CryptoKey {
        let mut secret = [0; 16];
        random(&mut secret);
        CryptoKey::from_secret(KeyKind::Aes, &secret)
    }

    /// Makes the next generation of secrets. Tickets of services that are three generations old are worthless.
    pub fn rotate(&mut self, random: Random<'_>) {
        let next = self.secrets.last_key_value().map_or(1, |(id, _)| id + 1);
        self.secrets.insert(next, Self::new_key(random));
        self.secrets.retain(|id, _| id + GENERATIONS > next);
    }

    /// Forgets all secrets, so that all tickets are worthless.
    pub fn forget(&mut self, random: Random<'_>) {
        for _ in 0..=GENERATIONS {
            self.rotate(random);
        }
        self.auth = Self::new_key(random);
    }

    /// Payload of a monitor's `AUTH_REPLY_MORE`.
    #[must_use]
    pub fn challenge(challenge: u64) -> Vec<u8> {
        (1u8, challenge).encode_to_vec()
    }

    /// A client's answer to a monitor's challenge, on a new connection: `claimed` is the number it asks back, 0
    /// for none; `fresh` is its number if it has none.
    ///
    /// # Errors
    /// A negative errno.
    pub fn authenticate(
        &self,
        challenge: u64,
        request: &[u8],
        claimed: GlobalId,
        fresh: GlobalId,
        random: Random<'_>,
    ) -> Result<Granted, i32> {
        let r = &mut Reader::new(request);
        if u16::decode(r).map_err(malformed)? != GET_AUTH_SESSION_KEY {
            return Err(EINVAL);
        }
        let mut secret = [0; 64];
        random(&mut secret);
        let (global_id, payload, session_key) =
            self.auth_reply(challenge, r, claimed, fresh, &secret, random)?;
        let secrets = secrets_of(&session_key, &secret);
        Ok(Granted { global_id, payload, secrets })
    }

    /// A client's `MAuth` on an established connection, which began with `challenge`. Returns the payload of
    /// `MAuthReply`.
    ///
    /// # Errors
    /// A negative errno.
    pub fn renew(
        &self,
        challenge: u64,
        request: &[u8],
        client: GlobalId,
        random: Random<'_>,
    ) -> Result<Vec<u8>, i32> {
        let r = &mut Reader::new(request);
        match u16::decode(r).map_err(malformed)? {
            GET_AUTH_SESSION_KEY => Ok(self.auth_reply(challenge, r, client, client, &[], random)?.1),
            GET_PRINCIPAL_SESSION_KEY => {
                let (inside, _) = self.authorizer(EntityType::AUTH, r)?;
                u8::decode(r).map_err(malformed)?;
                let mask = u32::decode(r).map_err(malformed)?;
                let mut out = GET_PRINCIPAL_SESSION_KEY.encode_to_vec();
                0i32.encode(&mut out);
                self.tickets(&inside.session_key, None, &services(mask), client, random, &mut out);
                Ok(out)
            }
            _ => Err(EINVAL),
        }
    }

    fn auth_reply(
        &self,
        challenge: u64,
        r: &mut Reader<'_>,
        claimed: GlobalId,
        fresh: GlobalId,
        secret: &[u8],
        random: Random<'_>,
    ) -> Result<(GlobalId, Vec<u8>, CryptoKey), i32> {
        let (_, client_challenge) = <(u8, u64)>::decode(r).map_err(malformed)?;
        let proof = u64::decode(r).map_err(malformed)?;
        let old = TicketBlob::decode(r).map_err(malformed)?;
        let mask = u32::decode(r).map_err(malformed)?;
        if proof != self.user.challenge_proof(challenge, client_challenge) {
            return Err(EACCES);
        }
        let old = self.open(EntityType::AUTH, &old).filter(|old| old.global_id == claimed);
        let global_id = match (claimed, &old) {
            (GlobalId(0), _) => fresh,
            (_, None) => return Err(EACCES),
            (claimed, Some(_)) => claimed,
        };
        let mut out = GET_AUTH_SESSION_KEY.encode_to_vec();
        0i32.encode(&mut out);
        let old_key = old.as_ref().map(|old| &old.session_key);
        let session_key =
            self.tickets(&self.user, old_key, &[EntityType::AUTH], global_id, random, &mut out).remove(0);
        let sealed = session_key.seal(Usage::ConnectionSecret, random, |out| encode_bytes(secret, out));
        encode_bytes(&sealed.encode_to_vec(), &mut out);
        let mut extra = Vec::new();
        self.tickets(&session_key, None, &services(mask), global_id, random, &mut extra);
        encode_bytes(&extra, &mut out);
        Ok((global_id, out, session_key))
    }

    /// Appends tickets, whose session keys are sealed with `key`; returns these keys.
    fn tickets(
        &self,
        key: &CryptoKey,
        old: Option<&CryptoKey>,
        services: &[EntityType],
        global_id: GlobalId,
        random: Random<'_>,
        out: &mut Vec<u8>,
    ) -> Vec<CryptoKey> {
        1u8.encode(out);
        u32::try_from(services.len()).expect("at most 8").encode(out);
        let mut keys = Vec::new();
        for service in services {
            let (secret_id, secret, validity) = match *service {
                EntityType::AUTH => (0, &self.auth, AUTH_VALIDITY),
                _ => {
                    let (id, secret) = self.secrets.last_key_value().expect("there is always one");
                    (*id, secret, self.validity)
                }
            };
            let session_key = Self::new_key(random);
            u32::from(service.0).encode(out);
            1u8.encode(out);
            let sealed = key.seal(Usage::TicketSessionKey, random, |out| {
                1u8.encode(out);
                session_key.encode(out);
                Utime { sec: validity, nsec: 0 }.encode(out);
            });
            encode_bytes(&sealed, out);
            let inside = secret.seal(Usage::TicketBlob, random, |out| {
                service.encode(out);
                global_id.encode(out);
                session_key.encode(out);
            });
            let blob = TicketBlob { secret_id, blob: inside }.encode_to_vec();
            old.is_some().encode(out);
            match old {
                Some(old) => {
                    let sealed = old.seal(Usage::TicketBlob, random, |out| encode_bytes(&blob, out));
                    encode_bytes(&sealed, out);
                }
                None => encode_bytes(&blob, out),
            }
            keys.push(session_key);
        }
        keys
    }

    fn open(&self, service: EntityType, blob: &TicketBlob) -> Option<Inside> {
        let secret =
            if service == EntityType::AUTH { Some(&self.auth) } else { self.secrets.get(&blob.secret_id) };
        let opened = secret?.open(Usage::TicketBlob, &blob.blob).ok()?;
        let r = &mut opened.reader();
        if EntityType::decode(r).ok()? != service {
            return None;
        }
        let global_id = GlobalId::decode(r).ok()?;
        Some(Inside { session_key: CryptoKey::decode(r).ok()?, global_id })
    }

    /// Reads an authorizer: what is in its ticket, and what its owner sealed.
    fn authorizer(&self, service: EntityType, r: &mut Reader<'_>) -> Result<(Inside, Proof), i32> {
        u8::decode(r).map_err(malformed)?; // mode
        GlobalId::decode(r).map_err(malformed)?;
        u32::decode(r).map_err(malformed)?; // service
        let blob = TicketBlob::decode(r).map_err(malformed)?;
        let sealed = r.bytes("proof").map_err(malformed)?;
        let inside = self.open(service, &blob).ok_or(EACCES)?;
        let opened = inside.session_key.open(Usage::Authorize, sealed).map_err(|_| EACCES)?;
        let r = &mut opened.reader();
        let (_, nonce) = <(u8, u64)>::decode(r).map_err(malformed)?;
        let answer = Option::<u64>::decode(r).map_err(malformed)?;
        Ok((inside, Proof { nonce, answer }))
    }

    /// A client shows a ticket to a service. Returns the payload of `AUTH_REPLY_MORE`.
    ///
    /// # Errors
    /// A negative errno.
    pub fn challenge_authorizer(
        &self,
        service: EntityType,
        payload: &[u8],
        challenge: u64,
        random: Random<'_>,
    ) -> Result<Vec<u8>, i32> {
        let (inside, _) = self.authorizer(service, &mut Reader::new(payload))?;
        Ok(inside.session_key.seal(Usage::AuthorizeChallenge, random, |out| (1u8, challenge).encode(out)))
    }

    /// A client's answer to the challenge of a service.
    ///
    /// # Errors
    /// A negative errno.
    pub fn authorize(
        &self,
        service: EntityType,
        payload: &[u8],
        challenge: u64,
        random: Random<'_>,
    ) -> Result<Granted, i32> {
        let (inside, proof) = self.authorizer(service, &mut Reader::new(payload))?;
        if proof.answer != Some(challenge.wrapping_add(1)) {
            return Err(EACCES);
        }
        let mut secret = [0; 64];
        random(&mut secret);
        let sealed = inside.session_key.seal(Usage::AuthorizeReply, random, |out| {
            (2u8, proof.nonce.wrapping_add(1)).encode(out);
            encode_bytes(&secret, out);
        });
        let secrets = secrets_of(&inside.session_key, &secret);
        Ok(Granted { global_id: inside.global_id, payload: sealed.encode_to_vec(), secrets })
    }
}

struct Proof {
    nonce: u64,
    answer: Option<u64>,
}

fn malformed(_: DecodeError) -> i32 {
    EINVAL
}

fn secrets_of(session_key: &CryptoKey, connection_secret: &[u8]) -> SessionSecrets {
    SessionSecrets {
        session_key: session_key.secret().to_vec().into(),
        connection_secret: connection_secret.to_vec().into(),
    }
}

/// The services of a mask, but the monitors' own AUTH.
fn services(mask: u32) -> Vec<EntityType> {
    let bits = (0..8).map(|bit| 1u8 << bit).filter(|bit| mask & u32::from(*bit) != 0);
    bits.map(EntityType).filter(|service| *service != EntityType::AUTH).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{AuthError, Client, EntityAuthName, Renewal};

    const NOW: Duration = Duration::from_secs(1000);

    /// Something else each time.
    fn random(out: &mut [u8]) {
        use std::sync::atomic::{AtomicU8, Ordering};
        static NEXT: AtomicU8 = AtomicU8::new(1);
        out.fill(NEXT.fetch_add(1, Ordering::Relaxed));
    }

    fn connect(server: &KeyServer, client: &mut Client, challenge: u64) -> Result<SessionSecrets, AuthError> {
        let mut handshake = client.start_mon();
        let claimed = GlobalId::decode_from(handshake.payload().last_chunk::<8>().unwrap()).unwrap();
        let request =
            handshake.challenge(client, &KeyServer::challenge(challenge), NOW, &mut random).unwrap();
        match server.authenticate(challenge, &request, claimed, GlobalId(42), &mut random) {
            Ok(granted) => {
                let ours = handshake.done(client, granted.global_id, &granted.payload, NOW)?;
                assert_eq!(ours.session_key, granted.secrets.session_key);
                assert_eq!(ours.connection_secret, granted.secrets.connection_secret);
                Ok(ours)
            }
            Err(errno) => Err(handshake.refused(client, errno, &[2])),
        }
    }

    #[test]
    fn a_client_gets_tickets_renews_them_and_is_known_again_until_they_are_too_old() {
        let user = CryptoKey::from_secret(KeyKind::Aes, &[3; 16]);
        let mut server = KeyServer::new(user.clone(), 3600, &mut random);
        let mut client = Client::new(EntityAuthName::client("a"), user);
        connect(&server, &mut client, 7).unwrap();
        assert_eq!(client.global_id(), GlobalId(42));

        let mut authorizer = client.authorize(EntityType::OSD, &mut random).unwrap();
        let question =
            server.challenge_authorizer(EntityType::OSD, authorizer.payload(), 5, &mut random).unwrap();
        let answer = authorizer.challenge(&question, &mut random).unwrap();
        let granted = server.authorize(EntityType::OSD, &answer, 5, &mut random).unwrap();
        assert_eq!(granted.global_id, GlobalId(42));
        let ours = authorizer.done(&granted.payload).unwrap();
        assert_eq!(ours.connection_secret, granted.secrets.connection_secret);

        for later in [2800, 300_000] {
            let later = NOW + Duration::from_secs(later);
            let Renewal::Request(request) = client.renew(later, &mut random) else {
                panic!("nothing to renew")
            };
            let reply = server.renew(7, &request, GlobalId(42), &mut random).unwrap();
            client.renewed(0, &reply, later).unwrap();
        }
        server.rotate(&mut random);
        connect(&server, &mut client, 8).unwrap();
        server.forget(&mut random);
        assert!(matches!(connect(&server, &mut client, 9), Err(AuthError::ReclaimRejected { .. })));
    }
}
