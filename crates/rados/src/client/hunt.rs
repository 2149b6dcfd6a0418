//! In which order monitors are tried. Ceph: `MonClient::_add_conns` in `src/mon/MonClient.cc`.

use std::collections::BTreeMap;

use crate::messages::mon::MonInfo;

use super::mon::MonTarget;

/// A monitor that could be tried.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub(super) target: MonTarget,
    /// Smaller is preferred.
    priority: u16,
    /// Chance among those of one priority; all 0 means equal chances.
    weight: u16,
}

impl Candidate {
    /// One that the monitors' map names.
    pub(super) fn known((name, mon): (&String, &MonInfo)) -> Self {
        let target = MonTarget { label: format!("mon.{name}"), addr: mon.addrs.msgr2() };
        Self { target, priority: mon.priority, weight: mon.weight }
    }

    pub(super) fn configured(target: MonTarget) -> Self {
        Self { target, priority: 0, weight: 0 }
    }
}

/// The monitor of the session before.
#[derive(Debug)]
pub(super) struct Last {
    pub(super) target: MonTarget,
    /// It does not answer, though it accepts us.
    pub(super) useless: bool,
}

/// Puts the monitor of the session before behind others: behind all of its priority, or if it is of no use behind
/// all there are.
pub(super) fn put_back(batches: Vec<Vec<MonTarget>>, last: &Last) -> Vec<Vec<MonTarget>> {
    let is_last = |target: &MonTarget| target.addr.is_some() && target.addr == last.target.addr;
    let mut order = Vec::with_capacity(batches.len() + 1);
    let mut useless = Vec::new();
    for batch in batches {
        let (again, others): (Vec<_>, Vec<_>) = batch.into_iter().partition(is_last);
        order.push(others);
        if last.useless {
            useless.extend(again);
        } else {
            order.push(again);
        }
    }
    order.push(useless);
    order.retain(|batch| !batch.is_empty());
    order
}

/// A batch for each priority, the preferred one first, in random order by weight. `random_below(n)` gives a number
/// below `n`, each with the same chance.
pub(super) fn hunting_order(
    candidates: Vec<Candidate>,
    random_below: &mut dyn FnMut(u64) -> u64,
) -> Vec<Vec<MonTarget>> {
    let mut priorities: BTreeMap<u16, Vec<Candidate>> = BTreeMap::new();
    for candidate in candidates {
        priorities.entry(candidate.priority).or_default().push(candidate);
    }
    priorities.into_values().map(|batch| shuffle(batch, random_below)).collect()
}

fn shuffle(mut batch: Vec<Candidate>, random_below: &mut dyn FnMut(u64) -> u64) -> Vec<MonTarget> {
    let mut order = Vec::with_capacity(batch.len());
    while !batch.is_empty() {
        let total: u64 = batch.iter().map(|candidate| u64::from(candidate.weight)).sum();
        let index = if total == 0 {
            usize::try_from(random_below(batch.len() as u64)).unwrap_or(0)
        } else {
            let mut ticket = random_below(total);
            let drawn = batch.iter().position(|candidate| {
                let weight = u64::from(candidate.weight);
                let won = ticket < weight;
                ticket = ticket.saturating_sub(weight);
                won
            });
            drawn.unwrap_or(0)
        };
        order.push(batch.swap_remove(index.min(batch.len() - 1)).target);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(name: &str, priority: u16, weight: u16) -> Candidate {
        Candidate { target: MonTarget { label: name.into(), addr: None }, priority, weight }
    }

    fn labels(batches: &[Vec<MonTarget>]) -> Vec<Vec<&str>> {
        batches.iter().map(|batch| batch.iter().map(|target| target.label.as_str()).collect()).collect()
    }

    #[test]
    fn a_worse_priority_is_tried_only_when_the_better_ones_failed() {
        let candidates = vec![candidate("far", 9, 0), candidate("near", 1, 0), candidate("nearer", 0, 0)];
        assert_eq!(labels(&hunting_order(candidates, &mut |_| 0)), [["nearer"], ["near"], ["far"]]);
    }

    #[test]
    fn the_last_monitor_is_tried_after_its_peers_and_a_useless_one_after_all() {
        let target = |number: u8| {
            let addr = std::net::SocketAddr::from(([10, 0, 0, number], 3300));
            let addr =
                ceph_codec::EntityAddr { kind: ceph_codec::AddrType::MSGR2, nonce: 0, addr: Some(addr) };
            MonTarget { label: number.to_string(), addr: Some(addr) }
        };
        let order = |useless| {
            let batches = vec![vec![target(1), target(2)], vec![target(3)]];
            let batches = put_back(batches, &Last { target: target(1), useless });
            labels(&batches).into_iter().map(|batch| batch.join(" ")).collect::<Vec<_>>()
        };
        assert_eq!(order(false), ["2", "1", "3"]);
        assert_eq!(order(true), ["2", "3", "1"]);
    }

    #[test]
    fn without_weights_each_is_first_as_often() {
        let candidates: Vec<_> = ["a", "b", "c"].map(|name| candidate(name, 0, 0)).into();
        let first = |n: u64| {
            let order = hunting_order(candidates.clone(), &mut |bound| n % bound);
            assert_eq!(order.concat().len(), 3);
            order[0][0].label.clone()
        };
        assert_eq!((0..3).map(first).collect::<Vec<_>>(), ["a", "b", "c"]);
    }

    #[test]
    fn the_chance_to_be_first_is_in_proportion_to_the_weight() {
        let candidates: Vec<_> = [("a", 1), ("b", 0), ("c", 3)].map(|(name, w)| candidate(name, 0, w)).into();
        let order =
            |n: u64| labels(&hunting_order(candidates.clone(), &mut |bound| n % bound)).concat().join("");
        assert_eq!((0..4).filter(|n| order(*n).starts_with('a')).count(), 1);
        assert_eq!((0..4).filter(|n| order(*n).starts_with('c')).count(), 3);
        assert!((0..4).all(|n| order(n).ends_with('b')), "no weight, no chance while others have some");
    }
}
