//! When the cluster is in trouble a disk waits; it does not lie and does not fail.
//!
//! ```text
//!  workload ---- NBD socket ---- rbd-nbd-rs ---- Ceph: 3 OSDs, 3 monitors <---- injector
//!     |                                                                            |
//!  checker: is this what was written?          stalls: how long did it take? ------+
//! ```
//!
//! Each test here strikes once with one fault. `scripts/torture` strikes for as long as one likes, in an order that a
//! seed repeats, and compares with librbd.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test")]

#[path = "../common/mod.rs"]
mod common;

mod appends;
mod checker;
mod injector;
mod liar;
mod placement;
mod scene;
mod stalls;
mod stamp;
mod torture;
mod workload;

use std::thread;
use std::time::Duration;

use common::Kind;
use common::random::Rng;
use scene::{SHORT_TICKET_LIFE, Scene, shared_cluster};

/// Repeats the same requests and the same faults in every run; `scripts/torture` takes others.
const SEED: u64 = 20;

/// Loads an image, lets the fault strike, and holds if nobody noticed but for the time it took. Returns what the server
/// printed.
fn survives(name: &str) -> String {
    let (cluster, _turn) = shared_cluster();
    let scene = Scene::new(cluster, SHORT_TICKET_LIFE, &[Kind::Ours], SEED);
    thread::sleep(Duration::from_secs(1));
    let waited = scene.strike(injector::named(name), &mut Rng::new(SEED));
    eprintln!("{name}: {}", waited[0]);
    let printed = scene.sides()[0].backend.printed();
    scene.finish();
    printed
}

#[test]
fn an_osd_that_is_killed_and_comes_back_loses_no_write() {
    survives("osd-killed");
}

#[test]
fn an_osd_that_is_frozen_delays_requests_and_the_log_names_it() {
    let printed = survives("osd-frozen");
    assert!(printed.contains("osd."), "no word about the stall: {printed}");
}

#[test]
fn an_osd_that_is_marked_down_wrongly_is_found_again() {
    survives("osd-marked-down");
}

#[test]
fn an_osd_may_leave_the_cluster_and_come_back() {
    survives("osd-out");
}

#[test]
fn placement_groups_may_split_and_merge() {
    survives("pg-num");
}

#[test]
fn placement_groups_may_be_moved_by_exceptions() {
    survives("upmap");
}

#[test]
fn weights_and_affinities_may_change() {
    survives("weights");
}

#[test]
fn the_pause_flag_holds_requests_back() {
    survives("pause");
}

#[test]
fn an_osd_that_may_not_come_up_is_done_without() {
    survives("noup");
}

#[test]
fn a_full_cluster_holds_writes_back_until_it_has_room() {
    survives("full");
}

#[test]
fn a_pool_at_its_quota_holds_writes_back_until_that_is_lifted() {
    survives("quota");
}

#[test]
fn the_leader_of_the_monitors_may_be_killed() {
    survives("mon-leader-killed");
}

#[test]
fn nobody_notices_when_the_monitor_in_use_is_killed() {
    survives("mon-in-use-killed");
}

#[test]
fn all_monitors_may_be_away_for_a_while() {
    survives("all-mons");
}

#[test]
fn connections_that_daemons_drop_at_random_lose_and_repeat_nothing() {
    survives("socket-failures");
}

#[test]
fn all_connections_may_be_destroyed_once_a_second() {
    survives("resets");
}

#[test]
fn five_generations_of_tickets_may_expire_with_all_connections() {
    survives("tickets");
}

#[test]
fn a_program_that_was_suspended_beyond_its_watch_and_tickets_goes_on() {
    survives("suspended");
}

#[test]
fn snapshots_are_of_one_moment_and_sizes_change_under_load() {
    survives("snapshots");
}
