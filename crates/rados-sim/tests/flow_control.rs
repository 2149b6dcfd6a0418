//! What a client has under way is bounded, whatever is asked of it.

#![allow(clippy::unwrap_used, reason = "test")]

mod common;

use std::time::Duration;

use common::paused;
use rados::{Client, Operation, SnapContext};
use rados_sim::cluster::{Config, POOL};
use rados_sim::faults::Fault;
use rados_sim::store::record;
use rados_sim::workload::{Held, options};
use rados_sim::world::{Sim, World};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

#[test]
fn no_more_requests_and_bytes_are_with_the_osds_than_the_limits_allow() {
    paused(async {
        let config = Config::default();
        let sim = Sim::new(1, config.clone());
        // Backoffs hand back what is under way.
        sim.with(World::heal);
        let mut options = options(&sim, 1, 0, &config);
        (options.limits.ops, options.limits.bytes) = (6, 40_000);
        sleep(Duration::from_secs(5)).await;
        let client = Client::connect(options).await.unwrap();
        let pool = client.pool(POOL).await.unwrap();
        let held = Held::default();
        let mut writes = JoinSet::new();
        for id in 0..600 {
            let length = if id % 7 == 0 { 30_000 } else { 500 };
            let operation = Operation::new().call_mut("sim", "append", held.count(record(id, length)));
            writes.spawn(pool.write(&format!("object{}", id % 5), operation, &SnapContext::default()));
        }
        let mut most = (0, 0);
        while !writes.is_empty() {
            sleep(Duration::from_millis(1)).await;
            let (requests, bytes) = sim.with(|world| world.under_way());
            most = (most.0.max(requests), most.1.max(bytes));
            while let Some(ended) = writes.try_join_next() {
                ended.unwrap().unwrap();
            }
        }
        assert!(most.0 <= 6 && most.1 <= 41_000, "{most:?}");
        assert!(most.0 > 3, "they were sent one by one: {most:?}");
        assert_eq!(held.bytes(), 0, "payloads are let go of");
        sim.end();
    });
}

#[test]
fn a_paused_cluster_holds_up_those_who_wait_for_it_and_no_others() {
    paused(async {
        let config = Config { max_ops: Some(4), ..Config::default() };
        let sim = Sim::new(1, config.clone());
        let client = Client::connect(options(&sim, 1, 0, &config)).await.unwrap();
        let pool = client.pool(POOL).await.unwrap();
        sim.with(|world| world.inflict(Fault::Full));
        sleep(Duration::from_secs(1)).await;
        let append = |id| Operation::new().call_mut("sim", "append", record(id, 10));
        let mut writes = JoinSet::new();
        for id in 0..50 {
            writes.spawn(pool.write("object", append(id), &SnapContext::default()));
        }
        let read = pool.read("other", Operation::new().stat(), rados::SnapId::HEAD);
        let read = timeout(Duration::from_secs(5), read).await.expect("reads go on while the pool is full");
        assert!(read.is_err_and(|error| error.is(rados::Errno::ENOENT)));
        sim.with(World::heal);
        while let Some(ended) = timeout(Duration::from_secs(30), writes.join_next()).await.expect("all end") {
            ended.unwrap().unwrap();
        }
        sim.end();
    });
}
