//! Whatever happens, the client keeps its promises.
//!
//! `SEEDS=5000` runs more, `FIRST=1000` others; `SEED=1234` replays one and prints every event, with the
//! client's own log as far as `RUST_LOG` says.

#![allow(clippy::unwrap_used, reason = "test")]

mod common;

use std::io;

use common::simulate;
use rados_sim::Plan;
use tracing_subscriber::EnvFilter;

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|value| value.parse().unwrap_or_else(|_| panic!("{name}={value} is no number")))
}

#[test]
fn every_seed_ends_well() {
    if let Some(seed) = number("SEED") {
        return replay(seed);
    }
    let seeds = number("SEEDS").unwrap_or(200);
    let first = number("FIRST").unwrap_or(0);
    let mut failed = Vec::new();
    let (mut writes, mut reads, mut notifies, mut epochs) = (0, 0, 0, 0);
    for seed in first..first + seeds {
        let report = simulate(seed, &Plan::random(seed), false);
        writes += report.writes;
        reads += report.reads;
        notifies += report.notifies;
        epochs += report.epochs;
        if !report.violations.is_empty() {
            println!("seed {seed}: {:#?}", report.violations);
            println!("replay it with: SEED={seed} cargo test -p rados-sim --test seeds -- --nocapture");
            failed.push(seed);
        }
    }
    println!("{seeds} seeds: {writes} writes, {reads} reads, {notifies} notifies, {epochs} epochs");
    assert!(writes > 10 * usize::try_from(seeds).unwrap(), "hardly anything was written");
    assert!(failed.is_empty(), "{} of {seeds} seeds failed: {failed:?}", failed.len());
}

fn replay(seed: u64) {
    // Events go to the same place as the client's log, in the order in which they happen.
    tracing_subscriber::fmt().with_env_filter(EnvFilter::from_default_env()).with_writer(io::stdout).init();
    let plan = Plan::random(seed);
    println!("{plan:#?}");
    let report = simulate(seed, &Plan { print: true, ..plan }, false);
    assert!(report.violations.is_empty(), "seed {seed}: {:#?}", report.violations);
}
