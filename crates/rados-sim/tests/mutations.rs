//! The checker finds what it is there for: clusters that do not keep their promises.

mod common;

use common::simulate;
use rados_sim::Plan;
use rados_sim::cluster::{Config, Mutation};

/// How many of some seeds are found to be wrong, and with which words.
fn found(mutation: Mutation, words: &str) -> usize {
    let seeds = 0..25;
    let wrong = seeds.filter(|seed| {
        let plan = Plan::random(*seed);
        let plan = Plan { cluster: Config { mutation: Some(mutation), ..plan.cluster }, ..plan };
        let report = simulate(*seed, &plan, false);
        report.violations.iter().any(|violation| violation.contains(words))
    });
    wrong.count()
}

fn assert_found(mutation: Mutation, words: &str) {
    let found = found(mutation, words);
    println!("{mutation:?}: found in {found} of 25 seeds");
    assert!(found > 0, "{mutation:?} is not found");
}

#[test]
fn a_cluster_that_applies_writes_twice_is_found() {
    assert_found(Mutation::ForgetsRequests, "was applied twice");
}

#[test]
fn a_cluster_that_loses_writes_is_found() {
    assert_found(Mutation::LosesWrites, "acknowledged and is lost");
}

#[test]
fn a_cluster_that_reorders_writes_is_found() {
    assert_found(Mutation::ReordersWrites, "out of order");
}

#[test]
fn a_cluster_that_serves_old_contents_is_found() {
    assert_found(Mutation::ServesStaleReads, "missed acknowledged records");
}

#[test]
fn a_cluster_that_leaves_requests_unanswered_is_found() {
    assert_found(Mutation::SwallowsRequests, "stuck");
}
