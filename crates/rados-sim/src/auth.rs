//! Who clients are: without authentication, or with cephx and tickets whose secrets are replaced again and
//! again.

use std::collections::BTreeMap;

use ceph_codec::{Decode, EntityAddr, EntityType, GlobalId, Reader};
use ceph_msgr::{ClientIdent, ConMode};
use cephx::CryptoKey;
use cephx::server::{Granted, KeyServer};

use crate::cluster::{Config, Daemon};
use crate::net::ConnId;
use crate::rng::Rng;
use crate::wire;
use crate::world::{Event, World};

#[derive(Debug)]
pub(crate) struct Auth {
    rng: Rng,
    keys: Option<KeyServer>,
    next_id: u64,
    /// Connections that are authenticated, and as whom.
    clients: BTreeMap<ConnId, GlobalId>,
    /// Handshakes under way, and those of monitors that are over: renewals refer to their challenge.
    challenges: BTreeMap<ConnId, Challenge>,
}

#[derive(Debug)]
struct Challenge {
    number: u64,
    /// The number that the client asks back.
    claimed: GlobalId,
}

#[derive(Debug)]
pub(crate) enum AuthEvent {
    /// The services get new secrets.
    Rotate,
}

/// The key of the only user.
pub(crate) fn user_key(seed: u64) -> CryptoKey {
    let mut rng = Rng::new(seed, "user key");
    KeyServer::new_key(&mut |buf| rng.fill(buf))
}

impl Auth {
    pub(crate) fn new(seed: u64, config: &Config) -> Self {
        let mut rng = Rng::new(seed, "authentication");
        let keys =
            config.ticket_secs.map(|secs| KeyServer::new(user_key(seed), secs, &mut |buf| rng.fill(buf)));
        Self { rng, keys, next_id: 4100, clients: BTreeMap::new(), challenges: BTreeMap::new() }
    }

    pub(crate) fn disconnected(&mut self, conn: ConnId) {
        self.clients.remove(&conn);
        self.challenges.remove(&conn);
    }

    fn fresh_id(&mut self) -> GlobalId {
        self.next_id += 1;
        GlobalId(self.next_id)
    }
}

impl World {
    pub(crate) fn rotate_secrets(&mut self) {
        let Some(secs) = self.cluster.config.ticket_secs else { return };
        let Auth { keys, rng, .. } = &mut self.cluster.auth;
        if let Some(keys) = keys {
            keys.rotate(&mut |buf| rng.fill(buf));
        }
        self.schedule(u64::from(secs) * 1000, Event::Auth(AuthEvent::Rotate));
    }

    /// Makes all tickets worthless, those that prove who a client is, too.
    pub fn forget_tickets(&mut self) {
        self.note(format_args!("all tickets are worthless"));
        let Auth { keys, rng, .. } = &mut self.cluster.auth;
        if let Some(keys) = keys {
            keys.forget(&mut |buf| rng.fill(buf));
        }
    }

    pub(crate) fn on_auth_request(&mut self, conn: ConnId, daemon: Daemon, method: u32, payload: &[u8]) {
        let Auth { keys, rng, .. } = &mut self.cluster.auth;
        let Some(keys) = keys else { return self.accept_without_proof(conn, method, payload) };
        let number = rng.next();
        let (question, claimed) = match daemon {
            Daemon::Mon(_) => {
                let Some(claimed) = claimed_id(payload) else {
                    return self.violation("malformed request for authentication".to_owned());
                };
                (Ok(KeyServer::challenge(number)), claimed)
            }
            Daemon::Osd(_) => {
                let random = &mut |buf: &mut [u8]| rng.fill(buf);
                (keys.challenge_authorizer(EntityType::OSD, payload, number, random), GlobalId(0))
            }
        };
        match question {
            Ok(question) => {
                self.cluster.auth.challenges.insert(conn, Challenge { number, claimed });
                if let Some(server) = self.server(conn) {
                    server.reply_more(&question);
                }
            }
            Err(errno) => self.refuse(conn, errno),
        }
    }

    fn accept_without_proof(&mut self, conn: ConnId, method: u32, payload: &[u8]) {
        let Some(mut id) = claimed_id(payload) else {
            return self.violation("malformed request for authentication".to_owned());
        };
        if method != cephx::none::METHOD {
            return self.violation(format!("authentication method {method}"));
        }
        if id == GlobalId(0) {
            id = self.cluster.auth.fresh_id();
        }
        self.cluster.auth.clients.insert(conn, id);
        if let Some(server) = self.server(conn) {
            server.accept(id, ConMode::Crc, &[], &[], &[]).expect("no secret is needed");
        }
    }

    fn refuse(&mut self, conn: ConnId, errno: i32) {
        self.note(format_args!("connection {conn} refused: {errno}"));
        if let Some(server) = self.server(conn) {
            server.refuse(cephx::METHOD, errno, &[cephx::METHOD], &[1, 2]);
        }
    }

    pub(crate) fn on_auth_more(&mut self, conn: ConnId, daemon: Daemon, payload: &[u8]) {
        let fresh = self.cluster.auth.fresh_id();
        let Auth { keys: Some(keys), rng, challenges, .. } = &mut self.cluster.auth else { return };
        let Some(Challenge { number, claimed }) = challenges.get(&conn) else { return };
        let random = &mut |buf: &mut [u8]| rng.fill(buf);
        let granted = match daemon {
            Daemon::Mon(_) => keys.authenticate(*number, payload, *claimed, fresh, random),
            Daemon::Osd(_) => keys.authorize(EntityType::OSD, payload, *number, random),
        };
        match granted {
            Ok(Granted { global_id, payload, secrets }) => {
                self.cluster.auth.clients.insert(conn, global_id);
                let mode = if self.cluster.config.secure { ConMode::Secure } else { ConMode::Crc };
                if let Some(server) = self.server(conn) {
                    let accepted = server.accept(
                        global_id,
                        mode,
                        &payload,
                        &secrets.session_key,
                        &secrets.connection_secret,
                    );
                    accepted.expect("the secret is long enough");
                }
            }
            Err(errno) => self.refuse(conn, errno),
        }
    }

    pub(crate) fn on_renewal(&mut self, mon: usize, conn: ConnId, payload: &[u8]) {
        let Auth { keys: Some(keys), rng, challenges, clients, .. } = &mut self.cluster.auth else { return };
        let (Some(Challenge { number, .. }), Some(&client)) = (challenges.get(&conn), clients.get(&conn))
        else {
            return;
        };
        let reply = keys.renew(*number, payload, client, &mut |buf| rng.fill(buf));
        self.note(format_args!("mon.{mon}: tickets for client.{client}: {:?}", reply.as_ref().map(Vec::len)));
        match reply {
            Ok(payload) => self.send(conn, &wire::auth_reply(0, client, &payload)),
            Err(errno) => self.send(conn, &wire::auth_reply(errno, client, &[])),
        }
    }

    pub(crate) fn on_identified(&mut self, conn: ConnId, daemon: Daemon, ident: &ClientIdent) {
        let Some(&id) = self.cluster.auth.clients.get(&conn) else { return };
        self.note(format_args!("{daemon} <- {conn}: client.{id} at {}", ident.addrs));
        let addr = ident.addrs.0.first().copied().unwrap_or(EntityAddr::BLANK);
        match daemon {
            Daemon::Mon(mon) => self.mon_session_opened(mon, conn),
            Daemon::Osd(osd) => self.osd_session_opened(osd, conn, id, addr),
        }
    }
}

/// The number in a request: mode, type and name of the user, number.
fn claimed_id(payload: &[u8]) -> Option<GlobalId> {
    let r = &mut Reader::new(payload);
    u8::decode(r).ok()?;
    <(u32, String)>::decode(r).ok()?;
    GlobalId::decode(r).ok()
}
