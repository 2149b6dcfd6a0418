//! Clients that the cluster does not want any more.

#![allow(clippy::unwrap_used, reason = "test")]

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::paused;
use rados::{Client, IoCtx, OpError, Operation, SnapContext, SnapId};
use rados_sim::cluster::{Config, POOL};
use rados_sim::faults::Fault;
use rados_sim::net::Weather;
use rados_sim::rng::Rng;
use rados_sim::store::{parse_contents, record};
use rados_sim::workload::options;
use rados_sim::world::{Sim, World};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

const OBJECTS: u64 = 4;

fn append(
    pool: &IoCtx,
    object: u64,
    id: u64,
) -> impl Future<Output = Result<rados::OpReply, OpError>> + use<> {
    let operation = Operation::new().call_mut("sim", "append", record(id, 10));
    pool.write(&format!("object{object}"), operation, &SnapContext::default())
}

async fn contents(pool: &IoCtx, object: u64) -> Vec<u64> {
    let read = pool.read(&format!("object{object}"), Operation::new().read(0, 1 << 20), SnapId::HEAD);
    match timeout(Duration::from_secs(600), read).await.expect("the read ends") {
        Ok(reply) => parse_contents(&reply.data(0)),
        Err(error) => {
            assert!(error.is(rados::Errno::ENOENT), "{error}");
            Vec::new()
        }
    }
}

async fn connect(sim: &Sim, seed: u64, client: usize, config: &Config) -> IoCtx {
    let client = Client::connect(options(sim, seed, client, config)).await.unwrap();
    client.pool(POOL).await.unwrap()
}

/// One client writes as fast as it can; another one has it blocklisted and reads.
async fn blocklisted_under_faults(seed: u64) {
    let config = Config { ticket_secs: seed.is_multiple_of(2).then_some(30), ..Config::default() };
    let sim = Sim::new(seed, config.clone());
    let rng = &mut Rng::new(seed, "identity");
    let (victim, other) = (connect(&sim, seed, 0, &config).await, connect(&sim, seed, 1, &config).await);
    let weather = Weather { latency: 30, fates: 20, fate_range: 20_000, ..Weather::CALM };
    let faults =
        [Fault::KillOsd, Fault::ThereAndBack, Fault::Blink, Fault::Churn, Fault::ResetAll, Fault::KillMon];
    sim.with(|world| world.begin_faults(&faults, 800, 20_000, weather));
    let mut writes = JoinSet::new();
    for id in 0..200 {
        let write = append(&victim, id % OBJECTS, id);
        writes.spawn(async move { (id, write.await) });
        if rng.percent(20) {
            sleep(Duration::from_millis(rng.range(0..200))).await;
        }
        if id == 60 {
            let (other, addr) = (other.clone(), victim.client().addr());
            let seen = tokio::spawn(async move {
                other.client().blocklist(addr).await.unwrap();
                let mut seen = Vec::new();
                for object in 0..OBJECTS {
                    seen.push(contents(&other, object).await);
                }
                seen
            });
            writes.spawn(async move {
                drop(seen.await);
                (u64::MAX, Err(OpError::Shutdown))
            });
        }
    }
    sleep(Duration::from_secs(20)).await;
    sim.with(World::heal);
    // What the other one sees from now on is final.
    let mut seen = Vec::new();
    for object in 0..OBJECTS {
        seen.push(contents(&other, object).await);
    }
    let mut acknowledged = BTreeSet::new();
    let mut barred = 0;
    while let Some(ended) = timeout(Duration::from_secs(300), writes.join_next()).await.expect("all end") {
        match ended.unwrap() {
            (u64::MAX, _) => {}
            (id, Ok(_)) => drop(acknowledged.insert(id)),
            (_, Err(OpError::Blocklisted { .. })) => barred += 1,
            (id, Err(error)) => panic!("seed {seed}: write {id}: {error}"),
        }
    }
    assert!(barred > 0 && victim.client().is_blocklisted(), "seed {seed}");
    let late = append(&victim, 0, 999).await;
    assert!(matches!(late, Err(OpError::Blocklisted { .. })), "seed {seed}: it stays barred");
    sleep(Duration::from_secs(60)).await;
    for object in 0..OBJECTS {
        let records = contents(&other, object).await;
        assert_eq!(
            records,
            seen[usize::try_from(object).unwrap()],
            "seed {seed}: written after the blocklisting"
        );
        let unique: BTreeSet<u64> = records.iter().copied().collect();
        assert_eq!(unique.len(), records.len(), "seed {seed}: applied twice");
        let lost: Vec<_> =
            acknowledged.iter().filter(|id| **id % OBJECTS == object && !unique.contains(id)).collect();
        assert!(lost.is_empty(), "seed {seed}: acknowledged and lost: {lost:?}");
    }
    let violations = sim.with(|world| world.violations.clone());
    assert!(violations.is_empty(), "seed {seed}: {violations:?}");
    sim.end();
}

#[test]
fn a_blocklisted_client_stops_for_good_and_loses_nothing_it_was_told() {
    for seed in 0..if cfg!(debug_assertions) { 10 } else { 300 } {
        paused(blocklisted_under_faults(seed));
    }
}

#[test]
fn a_client_whose_tickets_are_worthless_ends_and_says_why() {
    paused(async {
        let config = Config { ticket_secs: Some(30), ..Config::default() };
        let sim = Sim::new(1, config.clone());
        let pool = connect(&sim, 1, 0, &config).await;
        append(&pool, 0, 1).await.unwrap();
        sim.with(|world| {
            world.forget_tickets();
            world.inflict(Fault::ResetAll);
        });
        let write = append(&pool, 0, 2);
        let error = timeout(Duration::from_secs(120), write).await.expect("it ends").unwrap_err();
        assert!(matches!(error, OpError::IdentityLost), "{error:?}");
        sim.end();
    });
}

#[test]
fn a_client_outlives_its_tickets_idle_and_under_load() {
    for secure in [false, true] {
        paused(async move {
            let config = Config { ticket_secs: Some(10), secure, ..Config::default() };
            let sim = Sim::new(1, config.clone());
            let (idle, busy) = (connect(&sim, 1, 0, &config).await, connect(&sim, 1, 1, &config).await);
            for id in 0..200 {
                append(&busy, id % OBJECTS, id).await.unwrap();
                if id % 10 == 0 {
                    // New connections need valid tickets.
                    sim.with(|world| world.inflict(Fault::ResetAll));
                }
                sleep(Duration::from_millis(700)).await;
            }
            let write = append(&idle, 0, 1000);
            timeout(Duration::from_secs(30), write).await.expect("it ends").unwrap();
            sim.end();
        });
    }
}
