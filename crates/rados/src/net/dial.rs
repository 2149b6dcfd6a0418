//! Opens a connection and brings it through the messenger's handshake.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ceph_codec::{AddrType, EntityAddr, EntityType, GlobalId};
use ceph_msgr::{ClientIdent, ConMode, Connection, ConnectionConfig, Event};
use cephx::AuthError;
use parking_lot::Mutex;
use thiserror::Error;
use tokio::time::{Instant, timeout};

use super::{Link, LinkError, Proof, System};

/// Why no connection could be opened.
#[derive(Debug, Error)]
pub(crate) enum DialError {
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    #[error("the address has no IP")]
    NoAddress,
    #[error(transparent)]
    Auth(#[from] AuthError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("no answer within {} seconds", .0.as_secs())]
    TimedOut(Duration),
}

impl DialError {
    /// Whether trying again later may help without anybody changing anything.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Connect(_) | Self::TimedOut(_) => true,
            Self::NoAddress => false,
            Self::Auth(error) => error.is_transient(),
            Self::Link(LinkError::Messenger(error)) => error.is_transient(),
            Self::Link(LinkError::Io(_) | LinkError::Closed | LinkError::Silent) => true,
        }
    }
}

/// What all connections of one client instance have in common.
#[derive(Debug)]
pub(crate) struct Dialer {
    system: Arc<dyn System>,
    started: Instant,
    suspended_before: Duration,
    nonce: u32,
    global_seq: AtomicU64,
    global_id: AtomicU64,
    /// The instance's address, once a monitor told which IP it sees.
    my_addr: Mutex<Option<EntityAddr>>,
}

impl Dialer {
    pub(crate) fn new(system: Arc<dyn System>, nonce: u32) -> Self {
        Self {
            started: Instant::now(),
            suspended_before: system.time_suspended(),
            system,
            nonce,
            global_seq: AtomicU64::new(0),
            global_id: AtomicU64::new(0),
            my_addr: Mutex::new(None),
        }
    }

    /// Time since this was made, without that for which the machine was suspended: what nobody could have
    /// answered is not held against them.
    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Time on the clock that tickets are measured with: they expire while the machine is suspended, too.
    pub(crate) fn ticket_now(&self) -> Duration {
        self.now() + self.system.time_suspended().saturating_sub(self.suspended_before)
    }

    /// The address that watchers, locks and blocklists know this instance by; known after the first
    /// connection.
    pub(crate) fn my_addr(&self) -> Option<EntityAddr> {
        *self.my_addr.lock()
    }

    /// The number that the monitors gave this instance; 0 before the first session.
    pub(crate) fn global_id(&self) -> GlobalId {
        GlobalId(self.global_id.load(Ordering::Relaxed))
    }

    /// The session with this number is the one that counts.
    pub(crate) fn set_global_id(&self, id: GlobalId) {
        self.global_id.store(id.0, Ordering::Relaxed);
    }

    /// The first peer to tell our IP decides; an address that changed would split the identity.
    fn learn_addr(&self, seen: EntityAddr) -> EntityAddr {
        let mut mine = self.my_addr.lock();
        *mine.get_or_insert_with(|| {
            let addr = seen.addr.map(|mut addr| {
                addr.set_port(0);
                addr
            });
            EntityAddr { kind: AddrType::ANY, nonce: self.nonce, addr }
        })
    }
}

/// Opens a connection to the daemon at `addr`.
///
/// # Errors
/// [`DialError`], after at most `limit`.
pub(crate) async fn dial(
    dialer: &Dialer,
    peer: EntityType,
    addr: EntityAddr,
    modes: &[ConMode],
    proof: Proof<'_>,
    limit: Duration,
) -> Result<Link, DialError> {
    match timeout(limit, open(dialer, peer, addr, modes, proof)).await {
        Ok(result) => result,
        Err(_) => Err(DialError::TimedOut(limit)),
    }
}

async fn open(
    dialer: &Dialer,
    peer: EntityType,
    addr: EntityAddr,
    modes: &[ConMode],
    mut proof: Proof<'_>,
) -> Result<Link, DialError> {
    let socket = addr.addr.ok_or(DialError::NoAddress)?;
    let stream = dialer.system.connect(socket).await.map_err(DialError::Connect)?;
    let connection = Connection::new(ConnectionConfig::new(peer, addr, modes.to_vec()));
    let mut link = Link::new(stream, connection);
    let mut my_addr = None;
    loop {
        match link.event().await? {
            Event::Hello { my_addr: seen } => {
                my_addr = Some(seen);
                link.connection.start_auth(proof.method(), proof.payload()).map_err(LinkError::from)?;
            }
            Event::AuthMore(payload) => {
                let answer = proof.challenge(&payload, dialer.ticket_now(), &*dialer.system)?;
                link.connection.continue_auth(&answer).map_err(LinkError::from)?;
            }
            Event::AuthBadMethod { result, allowed_methods, .. } => {
                return Err(proof.refused(result, &allowed_methods).into());
            }
            Event::AuthDone { global_id: given, payload, .. } => {
                // A monitor gives the number, an OSD only repeats it.
                let global_id = if peer == EntityType::MON { given } else { dialer.global_id() };
                let secrets = proof.done(given, &payload, dialer.ticket_now())?;
                let ident = ClientIdent {
                    // Only now: the word of a peer that proved nothing must not decide who we are.
                    addrs: my_addr.map(|seen| dialer.learn_addr(seen).into()).unwrap_or_default(),
                    global_id,
                    global_seq: dialer.global_seq.fetch_add(1, Ordering::Relaxed) + 1,
                };
                link.global_id = global_id;
                link.connection
                    .finish_auth(&secrets.session_key, &secrets.connection_secret, ident)
                    .map_err(LinkError::from)?;
                return finish(link).await;
            }
            _ => {}
        }
    }
}

/// Waits until messages may be sent.
async fn finish(mut link: Link) -> Result<Link, DialError> {
    loop {
        if let Event::Ready(_) = link.event().await? {
            return Ok(link);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::time::SystemTime;

    use super::super::Connecting;
    use super::*;

    /// A machine that sleeps.
    #[derive(Debug)]
    struct Sleeper(AtomicU64);

    impl System for Sleeper {
        fn connect(&self, _: std::net::SocketAddr) -> Connecting<'_> {
            Box::pin(std::future::pending())
        }

        fn random(&self, _: &mut [u8]) {}

        fn time_suspended(&self) -> Duration {
            Duration::from_secs(self.0.load(Ordering::Relaxed))
        }

        fn now(&self) -> SystemTime {
            SystemTime::UNIX_EPOCH
        }
    }

    #[test]
    fn tickets_age_while_the_machine_sleeps_and_patience_does_not() {
        let machine = Arc::new(Sleeper(AtomicU64::new(1000)));
        let dialer = Dialer::new(Arc::clone(&machine) as Arc<dyn System>, 1);
        machine.0.store(1600, Ordering::Relaxed);
        let (awake, tickets) = (dialer.now(), dialer.ticket_now());
        assert!(awake < Duration::from_secs(600), "{awake:?}");
        assert!(tickets >= awake + Duration::from_secs(600), "{tickets:?}");
    }
}
