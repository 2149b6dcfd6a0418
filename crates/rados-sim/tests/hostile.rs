//! Daemons that send garbage, lie about lengths, answer what nobody asked and spread wrong maps: at most a
//! connection is lost, never the client, and never its map.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "test")]

mod common;

use std::time::Duration;

use bytes::Bytes;
use ceph_codec::{Encode, EntityAddr, Epoch, Uuid, crc32c, versioned};
use common::paused;
use rados::{Client, IoCtx, Operation, SnapContext, SnapId};
use rados_sim::cluster::{Config, Daemon, POOL, osd_addr};
use rados_sim::map::ClusterMap;
use rados_sim::rng::Rng;
use rados_sim::store::{parse_contents, record};
use rados_sim::workload::options;
use rados_sim::world::{Sim, World};
use tokio::time::{sleep, timeout};

const OSD_MAP: u16 = 41;
const OSD_OP_REPLY: u16 = 43;
const WATCH_NOTIFY: u16 = 44;
const OSD_BACKOFF: u16 = 61;
/// With one placement group on both OSDs, one of them is the primary; these are all.
const DAEMONS: [Daemon; 3] = [Daemon::Mon(0), Daemon::Osd(0), Daemon::Osd(1)];

struct Case {
    sim: Sim,
    client: Client,
    pool: IoCtx,
    written: u64,
}

impl Case {
    async fn new() -> Self {
        let config = Config { osds: 2, mons: 1, pg_num: 1, ..Config::default() };
        let sim = Sim::new(1, config.clone());
        sim.with(World::heal);
        let client = Client::connect(options(&sim, 1, 0, &config)).await.unwrap();
        let pool = client.pool(POOL).await.unwrap();
        let mut case = Self { sim, client, pool, written: 0 };
        case.works().await;
        case
    }

    /// Whether the client still does its work.
    async fn works(&mut self) {
        self.written += 1;
        let append = Operation::new().call_mut("sim", "append", record(self.written, 10));
        let write = self.pool.write("object", append, &SnapContext::default());
        timeout(Duration::from_secs(60), write).await.expect("the write ends").unwrap();
        let read = self.pool.read("object", Operation::new().read(0, 1 << 20), SnapId::HEAD);
        let reply = timeout(Duration::from_secs(60), read).await.expect("the read ends").unwrap();
        assert_eq!(parse_contents(&reply.data(0)), (1..=self.written).collect::<Vec<_>>());
    }

    fn connections_opened(&self) -> usize {
        self.sim.with(|world| world.connections_opened())
    }

    /// Something is done to the client; then it works, has the cluster's map, and lost its connection or not.
    async fn survives(&mut self, what: &str, loses_connection: bool, evil: impl FnOnce(&mut World)) {
        let before = self.connections_opened();
        self.sim.with(evil);
        sleep(Duration::from_secs(15)).await;
        self.works().await;
        // A map that no daemon made has gone nowhere.
        self.sim.with(|world| world.new_epoch(|_| {}));
        sleep(Duration::from_secs(5)).await;
        let (epoch, fsid) = self.sim.with(|world| (world.cluster.map.epoch, world.cluster.map.fsid));
        assert_eq!(self.client.with_map(|map| (map.epoch(), map.fsid())), (epoch, fsid), "{what}");
        assert_eq!(self.connections_opened() > before, loses_connection, "{what}: connections");
        let violations = self.sim.with(|world| world.violations.clone());
        assert!(violations.is_empty(), "{what}: {violations:?}");
    }

    fn end(self) {
        self.client.shut_down();
        self.sim.end();
    }
}

/// A preamble with a right checksum, of a message with these lengths.
fn preamble(lens: [u32; 4]) -> Vec<u8> {
    let mut wire = vec![17u8, 4];
    for len in lens {
        len.encode(&mut wire);
        8u16.encode(&mut wire);
    }
    wire.resize(28, 0);
    let crc = crc32c(0, &wire);
    crc.encode(&mut wire);
    wire
}

#[test]
fn garbage_costs_a_connection() {
    paused(async {
        let mut case = Case::new().await;
        let mut rng = Rng::new(1, "garbage");
        for round in 0..20u64 {
            let mut garbage = vec![0; 32 + 40 * round as usize];
            rng.fill(&mut garbage);
            for daemon in DAEMONS {
                case.sim.with(|world| world.say_bytes(daemon, &garbage));
            }
            let what = format!("{} bytes of garbage", garbage.len());
            case.survives(&what, true, |_| {}).await;
        }
        case.end();
    });
}

#[test]
fn lies_about_lengths_cost_a_connection_and_no_memory() {
    paused(async {
        let mut case = Case::new().await;
        for lens in [
            [41, u32::MAX, 0, 0],
            [41, 0, u32::MAX, 0],
            [41, 0, 0, u32::MAX],
            [u32::MAX, 1, 1, 1],
            [41, u32::MAX, u32::MAX, u32::MAX],
        ] {
            case.survives(&format!("lengths {lens:?}"), true, |world| {
                DAEMONS.iter().for_each(|daemon| world.say_bytes(*daemon, &preamble(lens)));
            })
            .await;
        }
        case.end();
    });
}

#[test]
fn answers_that_nobody_asked_for_are_ignored() {
    paused(async {
        let mut case = Case::new().await;
        let mut reply = "object".encode_to_vec();
        ceph_codec::PgId { pool: ceph_codec::PoolId(1), seed: 0 }.encode(&mut reply);
        reply.extend_from_slice(&[0; 8 + 4 + 12 + 4 + 4]); // flags, result, version, epoch, ops
        (-1i32).encode(&mut reply); // retry attempt
        reply.extend_from_slice(&[0; 12 + 8 + 1]); // version, user version, no redirect
        for tid in [0, 1, 2, 3, 999, u64::MAX] {
            case.survives(&format!("reply to tid {tid}"), false, |world| {
                for daemon in [Daemon::Osd(0), Daemon::Osd(1)] {
                    world.say(daemon, OSD_OP_REPLY, 8, tid, reply.clone(), Bytes::new());
                }
            })
            .await;
        }
        let mut notify = (1u8, 1u8).encode_to_vec();
        (4711u64, 0u64).encode(&mut notify);
        (1u64, "payload").encode(&mut notify);
        (0i32, 5u64).encode(&mut notify);
        case.survives("a notify for no watch", false, |world| {
            for daemon in [Daemon::Osd(0), Daemon::Osd(1)] {
                world.say(daemon, WATCH_NOTIFY, 3, 0, notify.clone(), Bytes::new());
            }
        })
        .await;
        // A command's end and a version, by tid and by handle.
        case.survives("answers of a monitor", false, |world| {
            let mut ack = vec![0; 18];
            (0i32, "done").encode(&mut ack);
            world.say(Daemon::Mon(0), 51, 1, 77, ack, Bytes::new());
            let mut version = (77u64, u64::MAX).encode_to_vec();
            0u64.encode(&mut version);
            world.say(Daemon::Mon(0), 20, 2, 77, version, Bytes::new());
            world.say(Daemon::Mon(0), 9999, 1, 0, vec![1, 2, 3], Bytes::new());
        })
        .await;
        case.end();
    });
}

#[test]
fn malformed_messages_cost_a_connection() {
    paused(async {
        let mut case = Case::new().await;
        for kind in [OSD_MAP, OSD_OP_REPLY, WATCH_NOTIFY, OSD_BACKOFF] {
            for front in [vec![], vec![0xff; 64]] {
                case.survives(&format!("message {kind} with {front:?}"), true, |world| {
                    for daemon in [Daemon::Osd(0), Daemon::Osd(1)] {
                        world.say(daemon, kind, 8, 1, front.clone(), Bytes::new());
                    }
                })
                .await;
            }
        }
        for kind in [OSD_MAP, 4, 18, 20, 51] {
            case.survives(&format!("a monitor's message {kind}"), true, |world| {
                world.say(Daemon::Mon(0), kind, 1, 1, vec![0xff; 9], Bytes::new());
            })
            .await;
        }
        case.end();
    });
}

/// The next epoch of another cluster, which looks the same otherwise.
fn stranger(map: &ClusterMap) -> (Epoch, Bytes, Bytes) {
    let mut other = map.clone();
    other.fsid = Uuid([9; 16]);
    let before = other.clone();
    other.next_epoch(map.modified);
    other.osds[0].up = false;
    (other.epoch, other.encode_incremental(&before).into(), other.encode().into())
}

#[test]
fn maps_of_another_cluster_are_not_used() {
    paused(async {
        let mut case = Case::new().await;
        for daemon in DAEMONS {
            for claimed in [Uuid([9; 16]), case.client.fsid()] {
                let before = case.client.epoch();
                case.sim.with(|world| {
                    let (epoch, incremental, full) = stranger(&world.cluster.map);
                    world.say_maps(daemon, claimed, &[(epoch, incremental)], &[]);
                    world.say_maps(daemon, claimed, &[], &[(epoch, full.clone())]);
                    world.say_maps(daemon, claimed, &[], &[(Epoch(epoch.0 + 100), full)]);
                });
                sleep(Duration::from_secs(20)).await;
                assert_eq!(case.client.epoch(), before, "{daemon} says that it is of {claimed}");
                case.works().await;
            }
        }
        // What happens in the right cluster is still learned.
        case.sim.with(|world| world.new_epoch(|map| map.osds[1].primary_affinity = 0));
        sleep(Duration::from_secs(30)).await;
        assert_eq!(case.client.epoch(), case.sim.with(|world| world.cluster.epoch()));
        case.works().await;
        case.end();
    });
}

/// An incremental with a right checksum that cannot be applied: it changes an OSD that does not exist.
fn inapplicable(map: &ClusterMap) -> Bytes {
    let mut before = map.clone();
    for i in 0..30 {
        before.osds.push(before.osds[0]);
        before.osds.last_mut().unwrap().addr = osd_addr(100 + i, 0);
        before.crush_weights.push(0);
    }
    let mut after = before.clone();
    after.next_epoch(map.modified);
    after.osds[20].weight = 7;
    after.encode_incremental(&before).into()
}

#[test]
fn incrementals_that_are_damaged_or_do_not_fit_make_the_client_ask_for_a_full_map() {
    paused(async {
        let mut case = Case::new().await;
        let mut rng = Rng::new(1, "damage");
        for round in 0..30 {
            let daemon = DAEMONS[round % 3];
            case.sim.with(|world| {
                let fsid = world.cluster.map.fsid;
                let mut next = world.cluster.map.clone();
                let before = next.clone();
                next.next_epoch(before.modified);
                let good: Bytes = next.encode_incremental(&before).into();
                let (epoch, evil): (Epoch, Bytes) = match round % 5 {
                    0 => {
                        let mut bytes = good.to_vec();
                        let at = rng.index(bytes.len());
                        bytes[at] ^= 1 << rng.index(8);
                        (next.epoch, bytes.into())
                    }
                    1 => (next.epoch, good.slice(..rng.index(good.len()))),
                    2 => (next.epoch, inapplicable(&before)),
                    // It says that it leads somewhere else.
                    3 => (next.epoch.next(), good),
                    _ => (Epoch(next.epoch.0 + 5), good),
                };
                world.say_maps(daemon, fsid, &[(epoch, evil)], &[]);
            });
            sleep(Duration::from_secs(20)).await;
            case.works().await;
            case.sim.with(|world| world.new_epoch(|map| map.osds[0].primary_affinity ^= 1));
            sleep(Duration::from_secs(20)).await;
            let (epoch, full) = case.sim.with(|world| (world.cluster.epoch(), world.cluster.map.encode()));
            let truth = ceph_osdmap::OsdMap::decode(&full).unwrap();
            assert_eq!(case.client.epoch(), epoch, "round {round}, {daemon}");
            assert!(
                case.client.with_map(|map| *map == truth),
                "round {round}, {daemon}: another map is used"
            );
        }
        case.end();
    });
}

#[test]
fn a_backoff_of_everything_ends_with_its_connection() {
    paused(async {
        let mut case = Case::new().await;
        let pg = ceph_codec::PgId { pool: ceph_codec::PoolId(1), seed: 0 };
        let mut front = Vec::new();
        versioned(&mut front, 1, 1, |out| {
            pg.encode(out);
            (-1i8).encode(out);
        });
        (1u32, 1u8).encode(&mut front);
        7u64.encode(&mut front);
        for max in [false, true] {
            ceph_codec::HObject {
                key: Vec::new(),
                name: Vec::new(),
                snap: SnapId(0),
                hash: 0,
                max,
                namespace: Vec::new(),
                pool: ceph_codec::PoolId(0),
            }
            .encode(&mut front);
        }
        for daemon in [Daemon::Osd(0), Daemon::Osd(1)] {
            case.sim.with(|world| world.say(daemon, OSD_BACKOFF, 1, 0, front.clone(), Bytes::new()));
        }
        sleep(Duration::from_secs(1)).await;
        case.written += 1;
        let append = Operation::new().call_mut("sim", "append", record(case.written, 0));
        let write = tokio::spawn(case.pool.write("object", append, &SnapContext::default()));
        sleep(Duration::from_secs(30)).await;
        assert!(!write.is_finished(), "it was asked to wait");
        case.sim.with(|world| world.inflict(rados_sim::faults::Fault::ResetAll));
        timeout(Duration::from_secs(30), write)
            .await
            .expect("nothing is in the way any more")
            .unwrap()
            .unwrap();
        case.works().await;
        case.end();
    });
}

#[test]
fn addresses_in_a_map_that_lead_nowhere_delay_and_no_more() {
    paused(async {
        let mut case = Case::new().await;
        let nowhere = EntityAddr { addr: Some("10.66.0.1:1".parse().unwrap()), ..osd_addr(0, 0) };
        let right =
            case.sim.with(|world| world.cluster.map.osds.iter().map(|osd| osd.addr).collect::<Vec<_>>());
        case.sim.with(|world| {
            world.new_epoch(|map| map.osds.iter_mut().for_each(|osd| osd.addr = nowhere));
        });
        case.written += 1;
        let append = Operation::new().call_mut("sim", "append", record(case.written, 0));
        let write = tokio::spawn(case.pool.write("object", append, &SnapContext::default()));
        sleep(Duration::from_secs(60)).await;
        assert!(!write.is_finished());
        case.sim.with(|world| {
            world.new_epoch(|map| map.osds.iter_mut().zip(right).for_each(|(osd, addr)| osd.addr = addr));
        });
        timeout(Duration::from_secs(30), write).await.expect("the OSDs are back").unwrap().unwrap();
        case.works().await;
        case.end();
    });
}
