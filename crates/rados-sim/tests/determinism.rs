//! The same seed gives the same simulation, event by event: a failing seed can be replayed.

mod common;

use common::simulate;
use rados_sim::Plan;

#[test]
fn two_runs_of_a_seed_are_the_same_to_the_last_event() {
    for seed in [1, 2, 3, 4, 5, 6, 7, 8] {
        let [first, second] = [0, 1].map(|_| simulate(seed, &Plan::random(seed), true).trace);
        assert!(first.len() > 100, "seed {seed}: only {} events", first.len());
        for (i, (one, other)) in first.iter().zip(&second).enumerate() {
            assert_eq!(one, other, "seed {seed}: event {i} differs");
        }
        assert_eq!(first.len(), second.len(), "seed {seed}");
    }
}

#[test]
fn other_seeds_give_other_simulations() {
    let plan = Plan::random(1);
    assert_ne!(simulate(1, &plan, true).trace, simulate(2, &plan, true).trace);
}
