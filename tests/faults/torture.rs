//! The long version, which `scripts/torture` runs.

use std::env;
use std::time::{Duration, Instant};

use crate::common::Kind;
use crate::common::random::Rng;
use crate::injector::{self, FAULTS};
use crate::scene::{Scene, start_cluster};
use crate::stalls::Waited;

/// Reads an option of `scripts/torture`.
fn option<T: std::str::FromStr>(name: &str, default: T) -> T {
    let Ok(text) = env::var(format!("TORTURE_{name}")) else { return default };
    text.parse().unwrap_or_else(|_| panic!("--{} cannot be {text:?}", name.to_lowercase()))
}

#[test]
#[ignore = "runs for hours; scripts/torture starts it"]
fn torture() {
    let seed: u64 = option("SEED", 1);
    let time = Duration::from_secs(option("SECONDS", 600));
    let ticket_life = Duration::from_secs(option("TICKET_LIFE", 60));
    let peer: String = option("PEER", String::new());
    let faults: String = option("FAULT", String::new());
    let kinds = match peer.as_str() {
        "" => &[Kind::Ours][..],
        "librbd" => &[Kind::Ours, Kind::Librbd][..],
        other => panic!("--peer cannot be {other:?}, only librbd"),
    };
    // One after another, and finally all of them in any order.
    let mut rounds: Vec<(&str, Vec<injector::Kind>)> =
        FAULTS.iter().map(|kind| (kind.name, vec![*kind])).collect();
    rounds.push(("all", FAULTS.to_vec()));
    if !faults.is_empty() {
        rounds.retain(|(name, _)| faults.split(',').any(|fault| fault == *name));
        assert!(!rounds.is_empty(), "--fault cannot be {faults:?}");
    }

    let cluster = start_cluster(ticket_life, option("PGS", 16));
    println!(
        "seed {seed}, {time:?} each: how many strikes; for each of {kinds:?}, how many requests, the longest"
    );
    println!("time that one took, and the longest time in which none was answered");
    for (name, faults) in rounds {
        let mut rng = Rng::new(seed);
        let scene = Scene::new(&cluster, ticket_life, kinds, rng.next());
        let mut worst = vec![Waited::default(); kinds.len()];
        let (began, mut strikes) = (Instant::now(), 0_u32);
        while began.elapsed() < time {
            let kind = *rng.pick(&faults);
            eprintln!("strike {strikes}: {}", kind.name);
            for (worst, waited) in worst.iter_mut().zip(scene.strike(kind, &mut rng)) {
                eprintln!("  {waited}");
                worst.add(waited);
            }
            strikes += 1;
        }
        scene.finish();
        let columns: Vec<_> = worst.iter().map(Waited::columns).collect();
        println!("{name:18} {strikes:4}   {}", columns.join("   "));
    }
}
