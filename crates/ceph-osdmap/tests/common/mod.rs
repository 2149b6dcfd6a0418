//! Reading what `osdmaptool --test-map-pgs-dump-all` prints, and comparing it.

use std::fmt::Write;

use ceph_codec::{OsdId, PgId, PoolId};
use ceph_osdmap::OsdMap;

/// One line of the dump.
#[derive(Debug, PartialEq)]
pub(crate) struct PgLine {
    pub(crate) pg: PgId,
    pub(crate) raw: Vec<OsdId>,
    pub(crate) up: Vec<OsdId>,
    pub(crate) up_primary: Option<OsdId>,
    pub(crate) acting: Vec<OsdId>,
    pub(crate) acting_primary: Option<OsdId>,
}

/// Reads lines like `1.6 raw ([2,9,8], p2) up ([9,2,8], p9) acting ([9,2,8], p9)`; others are statistics.
pub(crate) fn parse_dump(text: &str) -> Vec<PgLine> {
    text.lines().filter(|line| line.contains(" raw ([")).map(parse_line).collect()
}

fn parse_line(line: &str) -> PgLine {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [pg, "raw", raw, _, "up", up, up_primary, "acting", acting, acting_primary] = words[..] else {
        panic!("unexpected line {line:?}");
    };
    PgLine {
        pg: parse_pg(pg),
        raw: parse_osds(raw),
        up: parse_osds(up),
        up_primary: parse_primary(up_primary),
        acting: parse_osds(acting),
        acting_primary: parse_primary(acting_primary),
    }
}

pub(crate) fn parse_pg(pg: &str) -> PgId {
    let (pool, seed) = pg.split_once('.').unwrap();
    PgId { pool: PoolId(pool.parse().unwrap()), seed: u32::from_str_radix(seed, 16).unwrap() }
}

/// Reads lists like `([3,2147483647,8],`.
pub(crate) fn parse_osds(osds: &str) -> Vec<OsdId> {
    let numbers = osds.trim_matches(['(', '[', ']', ')', ',']);
    numbers.split(',').filter(|n| !n.is_empty()).map(|n| OsdId(n.parse().unwrap())).collect()
}

fn parse_primary(primary: &str) -> Option<OsdId> {
    let number = primary.trim_start_matches('p').trim_end_matches(')').parse().unwrap();
    (number >= 0).then_some(OsdId(number))
}

/// Fails unless `map` places every PG as the dump says, and the dump has every PG.
pub(crate) fn check_placements(what: &str, map: &OsdMap, dump: &str) {
    let expected = parse_dump(dump);
    let pgs: u32 = map.pools().map(|pool| pool.pg_num).sum();
    assert_eq!(expected.len(), pgs as usize, "{what}: every PG is in the dump");
    let mut wrong = String::new();
    for line in expected {
        let p = map.placement(line.pg);
        let ours = PgLine {
            pg: p.pg,
            raw: map.raw_placement(line.pg),
            up: p.up,
            up_primary: p.up_primary,
            acting: p.acting,
            acting_primary: p.acting_primary,
        };
        if ours != line {
            writeln!(wrong, "is  {ours:?}\nnot {line:?}").unwrap();
        }
    }
    assert!(wrong.is_empty(), "{what}:\n{wrong}");
}
