//! The task of one session with an OSD: connects, then moves messages until the connection ends.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use ceph_codec::{EntityAddr, EntityType};
use ceph_msgr::Event;
use cephx::AuthError;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::net::{DialError, Link, LinkError, Outbox, dial};
use crate::objecter::SessionId;

use super::core::{Core, backoff};

/// Time for TCP and the handshake.
const DIAL_LIMIT: Duration = Duration::from_secs(10);
/// Longest pause between attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The first pause. An OSD is worth more attempts than a monitor: there is no other to ask, and everything that
/// waits for it has to survive a whole round trip of one connection.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// What a connection that was open counts for at most, in failures: it may be the network's fault, and then
/// waiting only makes it worse.
const HUNG_UP: u32 = 2;
/// Time between questions whether the OSD is alive.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// Silence after which the connection counts as dead.
const SILENCE: Duration = Duration::from_secs(40);

pub(super) fn spawn(core: Arc<Core>, session: SessionId, addr: EntityAddr, outbox: Arc<Outbox>) {
    core.runtime.clone().spawn(async move {
        let mut failures = core.osd_failures(session.osd, addr);
        tokio::select! {
            biased;
            () = outbox.closed() => return,
            () = pause(failures) => {}
        }
        let dialled = tokio::select! {
            biased;
            () = outbox.closed() => return,
            dialled = open(&core, addr) => dialled,
        };
        match dialled {
            Ok(mut link) => {
                tracing::debug!(osd = %session.osd, %addr, "connected");
                core.osd_opened(session, link.features());
                let since = Instant::now();
                let mut answered = false;
                let served = serve(&core, session, &mut link, &outbox, &mut answered).await;
                let Err(error) = served else { return };
                tracing::info!(
                    osd = %session.osd, %addr, error = &error as &dyn std::error::Error,
                    "connection to the OSD ended"
                );
                // One that accepts us and hangs up must not be asked in a busy loop; one that answers and whose
                // connections break is worth another try at once.
                let lived = since.elapsed();
                failures = match answered || lived > LONGEST_PAUSE {
                    false => failures.saturating_add(1).min(HUNG_UP),
                    true => u32::from(lived < FIRST_PAUSE),
                };
            }
            Err(error) => {
                let level = if error.is_transient() { "temporarily" } else { "persistently" };
                tracing::info!(
                    osd = %session.osd, %addr, error = &error as &dyn std::error::Error, "OSD unreachable, {level}"
                );
                failures = failures.saturating_add(1);
            }
        }
        core.osd_reset(session, addr, failures);
    });
}

async fn pause(failures: u32) {
    if failures > 0 {
        sleep(backoff(failures, FIRST_PAUSE, LONGEST_PAUSE)).await;
    }
}

async fn open(core: &Core, addr: EntityAddr) -> Result<Link, DialError> {
    let proof = match core.osd_proof() {
        Ok(proof) => proof,
        Err(_) => {
            wait_for_tickets(core).await;
            core.osd_proof()?
        }
    };
    let modes = core.settings.borrow().client_modes.clone();
    let opened = dial(&core.dialer, EntityType::OSD, addr, &modes, proof, DIAL_LIMIT).await;
    if let (Err(DialError::Auth(AuthError::TicketRefused { service, .. })), Some(auth)) =
        (&opened, &core.auth)
    {
        auth.lock().invalidate(*service);
        core.tickets_wanted.notify_one();
    }
    opened
}

/// Asks the monitor's task for tickets, and waits for them for a while.
async fn wait_for_tickets(core: &Core) {
    let mut renewed = pin!(core.tickets_renewed.notified());
    renewed.as_mut().enable();
    core.tickets_wanted.notify_one();
    if core.osd_proof().is_err() {
        // In vain or not: what follows tells.
        let _ = timeout(DIAL_LIMIT, renewed).await;
    }
}

/// Moves messages until the connection fails (an error) or the session is not wanted any more; `answered` says
/// whether the OSD sent any.
async fn serve(
    core: &Arc<Core>,
    session: SessionId,
    link: &mut Link,
    outbox: &Outbox,
    answered: &mut bool,
) -> Result<(), LinkError> {
    let mut next_keepalive = Instant::now() + KEEPALIVE;
    loop {
        tokio::select! {
            biased;
            event = link.serve(outbox) => {
                let Some(event) = event? else { return Ok(()) };
                if let Event::Message(message) = event {
                    core.osd_message(session, message).map_err(malformed)?;
                    *answered = true;
                }
            }
            () = sleep_until(next_keepalive) => {
                next_keepalive = Instant::now() + KEEPALIVE;
                link.check_alive(SILENCE, core.now_utime())?;
            }
        }
    }
}

fn malformed(error: ceph_codec::DecodeError) -> LinkError {
    LinkError::Io(std::io::Error::new(std::io::ErrorKind::InvalidData, error))
}
