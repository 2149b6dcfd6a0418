//! A short conversation, in which something happens behind every single byte, in both directions, of every
//! connection: it goes on, and ends as it would have. `STEP=1` takes every byte, without it a part of them.

#![allow(clippy::unwrap_used, reason = "test")]

mod common;

use common::simulate;
use rados_sim::Plan;
use rados_sim::cluster::Config;
use rados_sim::net::{Direction, Fate, Weather};

/// One client that writes, reads, watches, notifies itself, and leaves.
fn conversation(ticket_secs: Option<u32>, secure: bool) -> Plan {
    Plan {
        cluster: Config { osds: 2, mons: 1, pg_num: 1, ticket_secs, secure, ..Config::default() },
        faults: Vec::new(),
        pause: 1,
        length: 100,
        weather: Weather::CALM,
        clients: 1,
        objects: 1,
        records: 3,
        padding: 20,
        notifies: true,
        print: false,
        script: None,
    }
}

/// One byte of so many is tried. All of them are about 100,000 simulations: three minutes with optimization.
fn step() -> usize {
    let default = if cfg!(debug_assertions) { 397 } else { 7 };
    std::env::var("STEP").map_or(default, |step| step.parse().unwrap())
}

fn every_byte(fate: Fate, ticket_secs: Option<u32>, secure: bool) {
    let plan = conversation(ticket_secs, secure);
    let calm = simulate(1, &plan, false);
    assert!(calm.violations.is_empty(), "{:#?}", calm.violations);
    let mut runs = 0;
    for (conn, carried) in &calm.carried {
        for (direction, bytes) in [Direction::ToServer, Direction::ToClient].into_iter().zip(carried) {
            // Nothing protects the banner of the only monitor from becoming that of another protocol.
            let first = if fate == Fate::Corrupt { 26 } else { 0 };
            for at in (first..*bytes).step_by(step()) {
                let script = Some((*conn, direction, at, fate));
                let report = simulate(1, &Plan { script, ..plan.clone() }, false);
                assert!(report.violations.is_empty(), "{script:?}: {:#?}", report.violations);
                runs += 1;
            }
        }
    }
    println!("{fate:?}, tickets {ticket_secs:?}, secure {secure}: {runs} runs");
    assert!(runs * step() > 4000, "the conversation has {runs} bytes only");
}

#[test]
fn a_reset_behind_any_byte_is_survived() {
    every_byte(Fate::Reset, None, false);
}

#[test]
fn an_end_behind_any_byte_is_survived() {
    every_byte(Fate::HalfClose, None, false);
}

#[test]
fn silence_behind_any_byte_is_survived() {
    every_byte(Fate::BlackHole, None, false);
}

#[test]
fn any_byte_may_change() {
    every_byte(Fate::Corrupt, None, false);
}

#[test]
fn a_reset_behind_any_byte_of_an_authenticated_conversation_is_survived() {
    every_byte(Fate::Reset, Some(60), false);
}

#[test]
fn any_byte_of_an_encrypted_conversation_may_change() {
    every_byte(Fate::Corrupt, Some(60), true);
}
