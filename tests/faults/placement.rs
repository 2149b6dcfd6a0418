//! Where the client thinks that objects are, compared with the monitors' own answers while the cluster is thrashed.

use ceph_codec::{OsdId, PgId};
use ceph_osdmap::OsdMap;
use futures::future::join_all;
use rados::{Client, Epoch, IoCtx};
use serde_json::{Value, json};

use crate::common::random::Rng;
use crate::common::{Cluster, Release};

#[path = "../../crates/ceph-osdmap/tests/common/mod.rs"]
mod osdmaptool;

const OSDS: u64 = 6;
/// Names in each of two pools.
const NAMES: usize = 500;
const CHANGES: usize = 24;

/// Connects to a cluster as its administrator.
pub(crate) async fn connect(cluster: &Cluster) -> Client {
    let overrides = ceph_conf::Overrides { conf: Some(cluster.conf().into()), ..Default::default() };
    let config = ceph_conf::load(&ceph_conf::Environment::default(), &overrides).unwrap();
    let options = rados::Options::from_config(&config).await.unwrap();
    Client::connect(options).await.unwrap()
}

/// What both sides have to say about an object.
#[derive(Debug, PartialEq)]
struct Answer {
    pg: PgId,
    up: Vec<OsdId>,
    up_primary: Option<OsdId>,
    acting: Vec<OsdId>,
    acting_primary: Option<OsdId>,
}

impl Answer {
    fn ours(map: &OsdMap, pool: &IoCtx, name: &str) -> Self {
        let pg = map.pool(pool.pool()).unwrap();
        let placement = map.placement(pg.raw_to_pg(pg.hash_object("", "", name)));
        Self {
            pg: placement.pg,
            up: placement.up,
            up_primary: placement.up_primary,
            acting: placement.acting,
            acting_primary: placement.acting_primary,
        }
    }

    /// The monitors' answer, and the epoch it is from.
    fn theirs(answer: &Value) -> (u64, Self) {
        let osds = |key: &str| -> Vec<OsdId> {
            let osds = answer[key].as_array().unwrap().iter();
            osds.map(|osd| OsdId(osd.as_i64().unwrap().try_into().unwrap())).collect()
        };
        let primary = |key: &str| {
            let osd = answer[key].as_i64().unwrap();
            (osd >= 0).then(|| OsdId(osd.try_into().unwrap()))
        };
        let answered = Self {
            pg: osdmaptool::parse_pg(answer["pgid"].as_str().unwrap()),
            up: osds("up"),
            up_primary: primary("up_primary"),
            acting: osds("acting"),
            acting_primary: primary("acting_primary"),
        };
        (answer["epoch"].as_u64().unwrap(), answered)
    }
}

/// Compares 1,000 names, all as of one epoch.
async fn compare(client: &Client, pools: &[(&str, IoCtx); 2], change: &str) -> Epoch {
    // The OSDs change the map as well, so it may take some attempts to ask about one and the same.
    for _ in 0..50 {
        client.wait_for_newest_map().await.unwrap();
        let names: Vec<(&str, &IoCtx, String)> = pools
            .iter()
            .flat_map(|(pool, ioctx)| (0..NAMES).map(move |n| (*pool, ioctx, format!("{change}/{n}"))))
            .collect();
        let (epoch, ours): (Epoch, Vec<Answer>) = client.with_map(|map| {
            (map.epoch(), names.iter().map(|(_, pool, name)| Answer::ours(map, pool, name)).collect())
        });
        let asked = join_all(names.iter().map(|(pool, _, name)| {
            let command = json!({"prefix": "osd map", "pool": pool, "object": name, "format": "json"});
            async move { client.mon_command(&command).await.unwrap().output }
        }));
        let answers: Vec<(u64, Answer)> = asked
            .await
            .iter()
            .map(|output| Answer::theirs(&serde_json::from_slice(output).unwrap()))
            .collect();
        if answers.iter().any(|(asked, _)| *asked != u64::from(epoch.0)) {
            continue;
        }
        for ((ours, (_, theirs)), (pool, _, name)) in ours.iter().zip(&answers).zip(&names) {
            assert_eq!(ours, theirs, "{pool}/{name} in epoch {epoch} after {change}");
        }
        return epoch;
    }
    panic!("the map does not settle after {change}");
}

/// Compares all placement groups of an epoch.
fn compare_with_osdmaptool(cluster: &Cluster, client: &Client, change: &str) {
    for _ in 0..50 {
        let (epoch, map) = client.with_map(|map| (map.epoch(), map.clone()));
        let file = cluster.file("osdmap");
        if cluster.try_run(&format!("ceph osd getmap {epoch} -o {file}")).status.success() {
            let dump = cluster.run(&format!("osdmaptool {file} --test-map-pgs-dump-all"));
            osdmaptool::check_placements(&format!("epoch {epoch} after {change}"), &map, &dump);
            return;
        }
    }
    panic!("the monitors do not tell an epoch that they sent");
}

/// One change of the map.
fn change(rng: &mut Rng, pools: &[(&str, IoCtx); 2]) -> Value {
    let osd = rng.range(0..OSDS);
    let other = (osd + rng.range(1..OSDS)) % OSDS;
    let percent = rng.range(1..101) as f64 / 100.0;
    let (name, pool) = rng.pick(pools);
    let pgid = format!("{}.{:x}", pool.pool(), rng.range(0..8));
    match rng.range(0..12) {
        0 | 1 => json!({"prefix": "osd pg-upmap-items", "pgid": pgid, "id": [osd, other]}),
        2 => json!({"prefix": "osd rm-pg-upmap-items", "pgid": pgid}),
        3 | 4 => json!({"prefix": "osd pg-temp", "pgid": pgid, "id": [osd, other]}),
        5 => json!({"prefix": "osd primary-temp", "pgid": pgid, "id": osd.to_string()}),
        6 => json!({"prefix": "osd crush reweight", "name": format!("osd.{osd}"), "weight": percent}),
        7 => json!({"prefix": "osd reweight", "id": osd, "weight": percent}),
        8 => json!({"prefix": "osd primary-affinity", "id": osd.to_string(), "weight": percent}),
        9 => json!({"prefix": "osd out", "ids": [osd.to_string()]}),
        10 => json!({"prefix": "osd in", "ids": [osd.to_string()]}),
        _ => {
            json!({"prefix": "osd pool set", "pool": name, "var": "pg_num", "val": rng.range(8..24).to_string()})
        }
    }
}

#[test]
fn objects_are_where_the_monitors_say_after_each_change_of_the_map() {
    let options =
        ["--osds", &OSDS.to_string(), "--size", "3", "--mgr", "--pgs", "8", "--conf", "mgr tick period = 1"];
    let cluster = Cluster::start(Release::Pacific, &options);
    cluster.run(
        "ceph osd set-require-min-compat-client luminous
         ceph osd erasure-code-profile set few k=2 m=1 crush-failure-domain=osd
         ceph osd pool create coded 8 8 erasure few",
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = connect(&cluster).await;
        let pools = [
            ("rbdpool", client.pool("rbdpool").await.unwrap()),
            ("coded", client.pool("coded").await.unwrap()),
        ];
        let mut rng = Rng::new(crate::SEED);
        let (mut made, mut epoch) = (0, Epoch(0));
        while made < CHANGES {
            let command = change(&mut rng, &pools);
            // Some make no sense as things are.
            let Ok(_) = client.mon_command(&command).await else { continue };
            let text = command.to_string();
            let now = compare(&client, &pools, &text).await;
            if now > epoch {
                made += 1;
            }
            epoch = now;
            if made % 6 == 0 {
                compare_with_osdmaptool(&cluster, &client, &text);
            }
        }
    });
}
