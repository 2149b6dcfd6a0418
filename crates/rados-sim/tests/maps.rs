//! What the simulated monitors encode is what Ceph encodes: Ceph's own tool reads it, and finds the same
//! placement in it as the client.

#![allow(clippy::unwrap_used, reason = "test")]

use std::process::Command;

use ceph_codec::{AddrType, EntityAddr, OsdId, PgId, PoolId, SnapId, Utime, Uuid};
use ceph_osdmap::{Incremental, OsdMap};
use rados_sim::map::{ClusterMap, flag, pool_flag};
use rados_sim::rng::Rng;

fn addr(osd: usize, generation: u16) -> EntityAddr {
    let socket = format!("10.0.1.{osd}:{}", 6800 + generation).parse().unwrap();
    EntityAddr { nonce: generation.into(), ..EntityAddr::msgr2(socket) }
}

fn cluster() -> ClusterMap {
    let mut map = ClusterMap::new(Uuid([7; 16]), 6, |osd| addr(osd, 0));
    map.add_pool("one", 3, 8);
    map.add_pool("two", 2, 12);
    map
}

/// Changes something, as monitors do.
fn change(map: &mut ClusterMap, rng: &mut Rng) {
    map.next_epoch(Utime { sec: 5, nsec: 1 });
    let osd = rng.index(map.osds.len());
    let id = OsdId(i32::try_from(osd).unwrap());
    let pool = rng.pick(&map.pools.keys().copied().collect::<Vec<_>>());
    let pg = PgId { pool, seed: u32::try_from(rng.range(0..8)).unwrap() };
    let generation = u16::try_from(map.epoch.0).unwrap();
    let client = |kind, nonce| EntityAddr { kind, nonce, addr: Some("10.9.0.0:0".parse().unwrap()) };
    match rng.range(0..16) {
        0 => map.osds[osd].up = false,
        1 => {
            map.osds[osd].up = true;
            map.osds[osd].addr = addr(osd, generation);
        }
        2 => map.osds[osd].weight = rng.pick(&[0, 0x8000, 0x1_0000]),
        3 => map.osds[osd].primary_affinity = rng.pick(&[0, 0x8000, 0x1_0000]),
        4 => drop(map.pg_temp.insert(pg, vec![id, OsdId(1)])),
        5 => drop(map.pg_temp.pop_first()),
        6 => drop(map.primary_temp.insert(pg, id)),
        7 => drop(map.primary_temp.pop_first()),
        8 => drop(map.pg_upmap_items.insert(pg, vec![(OsdId(0), id)])),
        9 => drop(map.pg_upmap_items.pop_first()),
        10 => map.crush_weights[osd] = rng.pick(&[0x4000, 0x1_0000, 0x2_0000]),
        11 => {
            map.blocklist.insert(client(AddrType::ANY, generation.into()), Utime { sec: 99, nsec: 0 });
            map.blocklist.pop_first();
            map.blocklist.insert(client(AddrType::ANY, 3), Utime { sec: 99, nsec: 0 });
            map.range_blocklist.insert(client(AddrType::CIDR, 24), Utime { sec: 99, nsec: 0 });
        }
        12 => map.flags ^= flag::PAUSE_WR,
        13 => {
            let epoch = map.epoch;
            let pool = map.pools.get_mut(&pool).unwrap();
            pool.pg_num += 1;
            pool.pg_num_pending = pool.pg_num;
            pool.last_force_op_resend = epoch;
            pool.last_change = epoch;
            pool.flags ^= pool_flag::FULL;
        }
        14 => {
            map.new_removed_snaps.insert(pool, vec![(SnapId(3), 2)]);
            let new = map.add_pool(&format!("pool{generation}"), 2, 4);
            assert!(map.pools.contains_key(&new));
        }
        _ => {
            if map.pools.len() > 1 {
                map.pools.pop_last();
            }
        }
    }
    if map.crush_weights.iter().sum::<u32>() == 0 {
        map.crush_weights[0] = 1;
    }
}

#[test]
fn incrementals_lead_to_the_full_map() {
    for seed in 0..20 {
        let mut rng = Rng::new(seed, "maps");
        let mut map = cluster();
        let mut followed = OsdMap::decode(&map.encode()).unwrap();
        for _ in 0..60 {
            let before = map.clone();
            change(&mut map, &mut rng);
            if map.crush_weights != before.crush_weights {
                map.crush_version += 1;
            }
            let changed: Vec<PoolId> = map
                .pools
                .iter()
                .filter(|(id, p)| before.pools.get(id) != Some(p))
                .map(|(id, _)| *id)
                .collect();
            for id in changed {
                map.pools.get_mut(&id).unwrap().last_change = map.epoch;
            }
            followed.apply(Incremental::decode(&map.encode_incremental(&before)).unwrap()).unwrap();
            assert_eq!(followed, OsdMap::decode(&map.encode()).unwrap(), "seed {seed} epoch {}", map.epoch);
        }
    }
}

#[test]
fn cephs_own_tool_reads_the_maps_and_places_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let mut rng = Rng::new(1, "tool");
    let mut map = cluster();
    for round in 0..12 {
        for _ in 0..4 {
            change(&mut map, &mut rng);
        }
        let path = dir.path().join(round.to_string());
        std::fs::write(&path, map.encode()).unwrap();
        let decoded = OsdMap::decode(&map.encode()).unwrap();
        let osdmaptool = |option: &str| {
            let output = Command::new("osdmaptool").arg(&path).arg(option).output().unwrap();
            assert!(output.status.success(), "{option}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        let printed = osdmaptool("--print");
        assert!(printed.contains(&format!("epoch {}", map.epoch)), "{printed}");
        assert!(printed.contains("fsid 07070707-0707-0707-0707-070707070707"), "{printed}");
        for pool in map.pools.values() {
            assert!(printed.contains(&format!("'{}' replicated size {}", pool.name, pool.size)), "{printed}");
        }
        let mut compared = 0;
        for line in osdmaptool("--test-map-pgs-dump-all").lines() {
            // 1.0 raw ([2,0], p2) up ([2,0], p2) acting ([2,0], p2)
            let Some((name, sets)) = line.split_once(" raw ") else { continue };
            let (pool, seed) = name.split_once('.').unwrap();
            let pg =
                PgId { pool: PoolId(pool.parse().unwrap()), seed: u32::from_str_radix(seed, 16).unwrap() };
            let placement = decoded.placement(pg);
            let set = |osds: &[OsdId], primary: Option<OsdId>| {
                let osds = osds.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
                format!("([{osds}], p{})", primary.map_or(-1, |osd| osd.0))
            };
            let up = set(&placement.up, placement.up_primary);
            let acting = set(&placement.acting, placement.acting_primary);
            assert!(sets.ends_with(&format!("up {up} acting {acting}")), "{line} is not {up} {acting}");
            compared += 1;
        }
        assert_eq!(compared, map.pools.values().map(|pool| pool.pg_num).sum::<u32>());
    }
}
