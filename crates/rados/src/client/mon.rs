//! The task that keeps a session with one of the monitors: finds one that answers, moves messages, finds
//! another when it fails.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use ceph_codec::{EntityAddr, EntityType};
use ceph_msgr::{Event, MsgrError};
use cephx::AuthError;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::OpError;
use crate::net::{DialError, Link, LinkError, Outbox, Proof, System, dial};

use super::core::{Core, MonError, Progress, backoff};
use super::error::{ConnectError, MonFailure};
use super::hunt::{Candidate, Last, hunting_order, put_back};
use super::options;

/// Monitors tried at a time. Ceph: `mon_client_hunt_parallel`.
const PARALLEL: usize = 3;
/// Time without an answer after which one more is tried.
const ONE_MORE: Duration = Duration::from_secs(1);
/// Time for TCP and the handshake.
const DIAL_LIMIT: Duration = Duration::from_secs(5);
/// The first pause between attempts.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause between rounds in which none answered.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// When the monitors accept the user but not the instance for so long it is lost. One that was away may first
/// have to learn the newest keys from the others.
const REJECTED_FOR: Duration = Duration::from_secs(30);
/// How often to look at tickets, and at what the monitor has not answered.
const CHECK: Duration = Duration::from_secs(1);

/// A monitor to try: what people call it, and its address if it speaks messenger v2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MonTarget {
    /// As configured, or the monitor's name.
    pub label: String,
    /// `None` for one that speaks messenger v1 only.
    pub addr: Option<EntityAddr>,
}

pub(super) fn spawn(core: Arc<Core>) {
    core.runtime.clone().spawn(async move {
        let mut closed = core.closed.subscribe();
        tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => {}
            () = run(&core) => {}
        }
    });
}

async fn run(core: &Arc<Core>) {
    let mut failures = 0;
    let mut rejected = None;
    let mut last = None;
    loop {
        match hunt(core, batches(core, failures, last.as_ref()).await).await {
            Ok((target, mut link)) => {
                let MonTarget { label, addr } = &target;
                tracing::debug!(monitor = label, "monitor session open");
                let outbox = Arc::new(Outbox::default());
                core.dialer.set_global_id(link.global_id);
                core.mon_opened(addr.unwrap_or(EntityAddr::BLANK), Arc::clone(&outbox));
                let since = Instant::now();
                let mut answered = false;
                let ended = serve(core, &mut link, &outbox, &mut answered).await;
                core.mon_closed();
                let Err(error) = ended else { return };
                tracing::info!(
                    monitor = label,
                    error = &error as &dyn std::error::Error,
                    "monitor session ended"
                );
                // One that accepts us and hangs up must not be asked in a busy loop; one that answers and whose
                // connections break is worth another try at once.
                let lived = since.elapsed();
                let broke = answered && matches!(error, MonError::Link(_));
                failures = match broke || lived > LONGEST_PAUSE {
                    false => failures + 1,
                    true => u32::from(lived < FIRST_PAUSE),
                };
                rejected = None;
                last = Some(Last { target, useless: error.is_silence() });
            }
            Err(failed) => {
                failures += 1;
                rejected = if is_identity_lost(core, &failed).await {
                    rejected.or_else(|| Some(Instant::now()))
                } else {
                    None
                };
                if rejected.is_some_and(|since| since.elapsed() >= REJECTED_FOR) {
                    tracing::error!(
                        "the monitors do not recognise this client instance any more; restart it"
                    );
                    return core.end(OpError::IdentityLost);
                }
                report(core, failed, failures);
            }
        }
        if failures > 0 {
            sleep(backoff(failures, FIRST_PAUSE, LONGEST_PAUSE)).await;
        }
    }
}

/// Where to look, in batches of which a later one is tried when the ones before failed. The monitors' own map
/// counts, once there is one; before that, the configuration. That is asked now and then later, too: all
/// monitors may have moved while nobody listened.
async fn batches(core: &Core, failures: u32, last: Option<&Last>) -> Vec<Vec<MonTarget>> {
    let known: Vec<Candidate> = core.state.lock().monc.monitors().iter().map(Candidate::known).collect();
    let usable = known.iter().any(|mon| mon.target.addr.is_some()) && failures % 4 != 3;
    let candidates = if usable {
        known
    } else {
        configured(core, failures).await.into_iter().map(Candidate::configured).collect()
    };
    let batches = hunting_order(candidates, &mut |bound| random_below(bound, &*core.options.system));
    match last {
        Some(last) => put_back(batches, last),
        None => batches,
    }
}

/// The monitors of the configuration. When they do not answer, names may stand for other addresses by now.
async fn configured(core: &Core, failures: u32) -> Vec<MonTarget> {
    let mut targets = core.options.monitors.clone();
    if failures > 0
        && let Ok(Ok(again)) = timeout(DIAL_LIMIT, options::resolve_monitors(&core.options.config)).await
    {
        targets.extend(again);
        let mut seen = BTreeSet::new();
        targets.retain(|target| seen.insert(target.label.clone()));
    }
    targets
}

/// Tries batch after batch; the first monitor that accepts us wins.
async fn hunt(core: &Core, batches: Vec<Vec<MonTarget>>) -> Result<(MonTarget, Link), Vec<MonFailure>> {
    let accepted = AtomicBool::new(false);
    let mut failures = Vec::new();
    for batch in batches {
        if let Some(won) = hunt_batch(core, batch, &accepted, &mut failures).await {
            return Ok(won);
        }
    }
    Err(failures)
}

/// Tries some monitors at a time, in their order, and one more whenever none has answered for a while.
async fn hunt_batch(
    core: &Core,
    batch: Vec<MonTarget>,
    accepted: &AtomicBool,
    failures: &mut Vec<MonFailure>,
) -> Option<(MonTarget, Link)> {
    let mut waiting = batch.into_iter();
    let mut running = FuturesUnordered::new();
    let mut at_a_time = PARALLEL;
    loop {
        while running.len() < at_a_time {
            let Some(target) = waiting.next() else { break };
            running.push(attempt(core, target, accepted));
        }
        match timeout(ONE_MORE, running.next()).await {
            Ok(None) => return None,
            Ok(Some(Ok(won))) => return Some(won),
            Ok(Some(Err(failure))) => failures.push(failure),
            Err(_) => at_a_time += 1,
        }
    }
}

async fn attempt(
    core: &Core,
    target: MonTarget,
    accepted: &AtomicBool,
) -> Result<(MonTarget, Link), MonFailure> {
    let Some(addr) = target.addr else {
        let cause = LinkError::from(MsgrError::Msgr1).into();
        return Err(MonFailure { label: target.label, addr: None, cause });
    };
    let modes = core.settings.borrow().mon_modes.clone();
    let proof = core.mon_proof(accepted);
    match dial(&core.dialer, EntityType::MON, addr, &modes, proof, DIAL_LIMIT).await {
        Ok(link) => Ok((target, link)),
        Err(cause) => Err(MonFailure { label: target.label, addr: Some(addr), cause }),
    }
}

fn random_below(bound: u64, system: &dyn System) -> u64 {
    let mut bytes = [0; 8];
    system.random(&mut bytes);
    u64::from_le_bytes(bytes) % bound.max(1)
}

/// Remembers why none answered; ends the wait for the first session where trying again is of no use.
fn report(core: &Core, failures: Vec<MonFailure>, round: u32) {
    // Before the first session whoever connects is told, once.
    let connecting = matches!(*core.progress.borrow(), Progress::Connecting(_));
    for MonFailure { label, cause, .. } in &failures {
        let error = cause as &dyn std::error::Error;
        // Less and less often.
        if !round.is_power_of_two() {
            tracing::debug!(monitor = label, error, "monitor failed");
        } else if connecting || cause.is_transient() {
            tracing::info!(monitor = label, error, "monitor failed");
        } else {
            tracing::warn!(monitor = label, error, "monitor failed; it will be tried again");
        }
    }
    // All monitors know the same users: one that says no speaks for all.
    let rejected = failures.iter().any(|f| matches!(&f.cause, DialError::Auth(e) if !e.is_transient()));
    let permanent = !failures.is_empty() && failures.iter().all(|f| !f.cause.is_transient());
    core.progress.send_if_modified(|progress| {
        if !matches!(progress, Progress::Connecting(_)) {
            return false;
        }
        let error = Arc::new(ConnectError::from_failures(failures));
        *progress =
            if rejected || permanent { Progress::Failed(error) } else { Progress::Connecting(Some(error)) };
        true
    });
}

/// Whether a monitor refuses this client instance, but not its user: then trying again is of no use, and
/// going on with another identity would give locks and watches away unnoticed. A user whose key was taken away
/// may get it back.
async fn is_identity_lost(core: &Core, failures: &[MonFailure]) -> bool {
    let refused = |f: &&MonFailure| {
        matches!(
            f.cause,
            DialError::Auth(AuthError::ReclaimRejected { .. } | AuthError::WrongGlobalId { .. })
        )
    };
    let (Some(MonFailure { addr: Some(addr), .. }), Some(key)) =
        (failures.iter().find(refused), &core.options.key)
    else {
        return false;
    };
    let stranger = Mutex::new(cephx::Client::new(core.options.name.clone(), key.clone()));
    let accepted = AtomicBool::new(false);
    let proof = Proof::key(&stranger, &accepted);
    let modes = core.settings.borrow().mon_modes.clone();
    dial(&core.dialer, EntityType::MON, *addr, &modes, proof, DIAL_LIMIT).await.is_ok()
}

/// Moves messages until the session fails (an error) or the client ends; `answered` says whether the monitor
/// sent any.
async fn serve(
    core: &Arc<Core>,
    link: &mut Link,
    outbox: &Outbox,
    answered: &mut bool,
) -> Result<(), MonError> {
    let mut last_keepalive = Instant::now();
    let mut next_check = Instant::now() + CHECK;
    loop {
        tokio::select! {
            biased;
            event = link.serve(outbox) => {
                let Some(event) = event? else { return Ok(()) };
                if let Event::Message(message) = event {
                    core.mon_message(message)?;
                    *answered = true;
                }
            }
            () = core.tickets_wanted.notified() => core.renew_tickets(),
            () = sleep_until(next_check) => {
                let now = Instant::now();
                next_check = now + CHECK;
                core.check_monitor()?;
                core.renew_tickets();
                let (interval, limit) = core.pings();
                if now >= last_keepalive + interval {
                    last_keepalive = now;
                    link.check_alive(limit, core.now_utime())?;
                }
            }
        }
    }
}
