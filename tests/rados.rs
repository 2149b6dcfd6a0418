//! The RADOS client by itself: what it does is what Ceph's own tools see, and the other way round.
//!
//! Each area is one function, and runs on Pacific and on Tentacle.

#![allow(clippy::unwrap_used, reason = "test")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use rados::{
    ALL_NAMESPACES, Advice, Client, Comparison, Errno, InvalidOperation, IoCtx, ListedObject, ObjectCursor,
    OpError, Operation, Options, SnapContext, SnapId, WatchEvent, XattrValue,
};

use common::{Cluster, Release, json, start};

/// A cluster with a client of it.
struct Site<'a> {
    cluster: &'a Cluster,
    client: Client,
}

impl Site<'_> {
    /// A pool that no other test uses; `options` are those of `ceph osd pool create`.
    async fn pool(&self, options: &str) -> IoCtx {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("pool{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.cluster.run(&format!("ceph osd pool create {name} {options}"));
        let pool = self.client.pool(&name).await.unwrap();
        // The first request waits for the placement groups.
        pool.object("first").write_full("").await.unwrap();
        pool.object("first").remove().await.unwrap();
        pool
    }

    fn name(&self, pool: &IoCtx) -> String {
        self.client.pool_name(pool.pool()).unwrap()
    }

    /// What Ceph's `rados` prints for a command on the pool.
    fn rados(&self, pool: &IoCtx, command: &str) -> String {
        self.cluster.run(&format!("rados -p {} {command}", self.name(pool)))
    }

    /// The same while the client goes on with its own work.
    async fn rados_meanwhile(&self, pool: &IoCtx, command: &str) -> String {
        let mut running = start(&self.background(pool, command));
        while running.is_running() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        running.finish().success()
    }

    fn background(&self, pool: &IoCtx, command: &str) -> String {
        let (dir, name) = (self.cluster.dir().display(), self.name(pool));
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/ceph-cluster");
        format!("exec {script} exec {dir} rados -p {name} {command}")
    }
}

fn three_osds() -> &'static Cluster {
    static SHARED: OnceLock<Cluster> = OnceLock::new();
    SHARED.get_or_init(|| Cluster::start(Release::Host, &["--osds", "3"]))
}

async fn connect(cluster: &Cluster) -> Client {
    let conf = ceph_conf::Overrides { conf: Some(cluster.conf().into()), ..ceph_conf::Overrides::default() };
    let config = ceph_conf::load(&ceph_conf::Environment::default(), &conf).unwrap();
    Client::connect(Options::from_config(&config).await.unwrap()).await.unwrap()
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn on(cluster: &Cluster, test: impl AsyncFn(&Site<'_>)) {
    block_on(async {
        let site = Site { cluster, client: connect(cluster).await };
        tokio::time::timeout(LIMIT, test(&site)).await.expect("something never ended");
        site.client.shut_down();
    });
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, OpError>) -> Errno {
    result.unwrap_err().refusal().unwrap()
}

/// More than all areas take together on a loaded machine, so that a hang is a failure and not a wait.
const LIMIT: Duration = Duration::from_secs(600);

const EOVERFLOW: Errno = Errno(75);

async fn data(site: &Site<'_>) {
    let pool = site.pool("8 8").await;
    let object = pool.object("data");
    let contents = || site.rados(&pool, "get data -");
    assert_eq!(pool.required_alignment().unwrap(), None, "any place, any size");
    assert!(!object.exists().await.unwrap());
    assert_eq!(refused(object.read(0, 10).await), Errno::ENOENT);

    object.write_full("0123456789").await.unwrap();
    assert_eq!(contents(), "0123456789");
    object.write(4, "four").await.unwrap();
    assert_eq!(contents(), "0123four89");
    object.append("ab").await.unwrap();
    assert_eq!(contents(), "0123four89ab");
    object.zero(1, 2).await.unwrap();
    assert_eq!(contents(), "0\0\x003four89ab");
    object.truncate(3).await.unwrap();
    assert_eq!(contents(), "0\0\0");
    object.write_same(2, 6, "xyz").await.unwrap();
    assert_eq!(contents(), "0\0xyzxyz");
    assert_eq!(refused(object.write_same(0, 4, "xyz").await), Errno::EINVAL, "not a multiple");
    assert!(site.rados(&pool, "stat data").contains("size 8"));
    assert_eq!(object.stat().await.unwrap().size, 8);

    assert_eq!(object.read(2, 3).await.unwrap(), "xyz");
    assert_eq!(object.read(6, 100).await.unwrap(), "yz", "as far as there is something");
    assert_eq!(object.read(0, 0).await.unwrap().len(), 8, "everything");
    assert_eq!(object.compare(2, "xyz").await.unwrap(), None);
    assert_eq!(object.compare(2, "xyZ").await.unwrap(), Some(2));
    object.write(1 << 20, "far").await.unwrap();
    let sparse = object.read_sparse(0, 2 << 20).await.unwrap();
    assert_eq!(sparse.extents.iter().map(|(_, len)| len).sum::<u64>(), sparse.data.len() as u64);
    assert_eq!(&sparse.data[sparse.data.len() - 3..], b"far");

    assert_eq!(refused(object.create(true).await), Errno::EEXIST);
    object.create(false).await.unwrap();
    object.remove().await.unwrap();
    assert_eq!(refused(object.remove().await), Errno::ENOENT);
    object.create(true).await.unwrap();
    assert_eq!(contents(), "");

    site.cluster.run(&format!("printf written | rados -p {} put data -", site.name(&pool)));
    assert_eq!(object.read(0, 0).await.unwrap(), "written");
    // Hints change nothing but speed.
    let hinted = Operation::new().set_alloc_hint(4 << 20, 4096, 0).write_full("hinted");
    let hinted = hinted.advise(Advice::Sequential).advise(Advice::DontNeed);
    pool.write("data", hinted, &SnapContext::default()).await.unwrap();
    assert_eq!(contents(), "hinted");
    // An operation that would need a larger message than there are is not sent.
    let huge = Bytes::from(vec![0; (1 << 30) + 1]);
    let error = object.write_full(huge).await.unwrap_err();
    assert_eq!(error, OpError::Invalid(InvalidOperation::TooLarge((1 << 30) + 1)));
}

async fn xattrs(site: &Site<'_>) {
    let pool = site.pool("8 8").await;
    let object = pool.object("named");
    object.set_xattr("color", "red").await.unwrap();
    object.set_xattr("empty", "").await.unwrap();
    assert_eq!(site.rados(&pool, "listxattr named"), "color\nempty\n");
    assert_eq!(site.rados(&pool, "getxattr named color").trim(), "red");
    site.rados(&pool, "setxattr named count 10");
    let all = object.xattrs().await.unwrap();
    let expected = [("color", "red"), ("count", "10"), ("empty", "")];
    assert_eq!(all, expected.map(|(k, v)| (k.to_owned(), Bytes::from(v))).into());
    assert_eq!(object.xattr("count").await.unwrap(), "10");
    assert_eq!(refused(object.xattr("none").await), Errno::ENODATA);
    object.remove_xattr("empty").await.unwrap();
    assert_eq!(site.rados(&pool, "listxattr named"), "color\ncount\n");

    let holds = async |name: &str, comparison, value: XattrValue| {
        let operation = Operation::new().compare_xattr(name, comparison, value);
        match pool.read("named", operation, SnapId::HEAD).await {
            Ok(_) => Ok(true),
            Err(OpError::Op { errno: Errno::ECANCELED, index: 0, .. }) => Ok(false),
            Err(error) => Err(error.errno()),
        }
    };
    use Comparison::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual, NotEqual};
    // The stored value, 10, stands on the left.
    for (comparison, with_9, with_10, with_11) in [
        (Equal, false, true, false),
        (NotEqual, true, false, true),
        (Greater, true, false, false),
        (GreaterOrEqual, true, true, false),
        (Less, false, false, true),
        (LessOrEqual, false, true, true),
    ] {
        for (number, expected) in [(9, with_9), (10, with_10), (11, with_11)] {
            let result = holds("count", comparison, XattrValue::Number(number)).await;
            assert_eq!(result, Ok(expected), "10 {comparison:?} {number}");
        }
    }
    assert_eq!(holds("count", Greater, "9".into()).await, Ok(false), "as text");
    assert_eq!(holds("color", Less, "rose".into()).await, Ok(true));
    assert_eq!(holds("none", Equal, "".into()).await, Ok(true), "a missing one counts as empty");
}

async fn omap(site: &Site<'_>) {
    let pool = site.pool("8 8").await;
    let object = pool.object("map");
    let pairs = (0..50).map(|n| (format!("key{n:02}"), format!("value{n}")));
    object.omap_set(pairs).await.unwrap();
    let keys = site.rados(&pool, "listomapkeys map");
    assert_eq!((keys.lines().count(), keys.lines().next()), (50, Some("key00")));
    site.rados(&pool, "setomapval map other thing");
    object.omap_set_header("head").await.unwrap();
    assert_eq!(site.rados(&pool, "getomapheader map -"), "head");
    assert_eq!(object.omap_header().await.unwrap(), "head");

    let some = object.omap_get(["key07", "other", "none"]).await.unwrap();
    assert_eq!(some.len(), 2);
    assert_eq!(some["other"], "thing");
    let page = object.omap_page("key10", "key", 5).await.unwrap();
    assert_eq!(page.pairs.keys().next().unwrap(), "key11");
    assert_eq!((page.pairs.len(), page.more), (5, true));
    assert_eq!(page.pairs["key12"], "value12");
    let last = object.omap_page("key47", "key", 5).await.unwrap();
    assert_eq!((last.pairs.len(), last.more), (2, false), "what has another prefix is none of them");
    let (keys, more) = object.omap_keys("key48", 1).await.unwrap();
    assert_eq!((keys.as_slice(), more), (&["key49".to_owned()][..], true));

    object.omap_remove(["key00", "key01", "none"]).await.unwrap();
    object.omap_remove_range("key10", "key40").await.unwrap();
    let left = site.rados(&pool, "listomapkeys map");
    assert_eq!(left.lines().count(), 51 - 2 - 30);
    assert!(left.contains("key09") && left.contains("key40") && !left.contains("key39"));

    let compare = async |comparison, value: &'static str| {
        let operation = Operation::new().omap_compare("key05", comparison, value);
        pool.read("map", operation, SnapId::HEAD).await.map(drop).map_err(|error| error.errno())
    };
    assert_eq!(compare(Comparison::Equal, "value5").await, Ok(()));
    assert_eq!(compare(Comparison::Equal, "value6").await, Err(Errno::ECANCELED));
    assert_eq!(compare(Comparison::Less, "value6").await, Ok(()), "the stored one is less");
    assert_eq!(compare(Comparison::Greater, "value6").await, Err(Errno::ECANCELED));
    assert_eq!(compare(Comparison::NotEqual, "value6").await, Err(Errno::EINVAL));

    object.omap_clear().await.unwrap();
    assert_eq!(site.rados(&pool, "listomapvals map"), "");
    assert_eq!(object.omap_header().await.unwrap(), "");
    assert_eq!(refused(pool.object("none").omap_keys("", 1).await), Errno::ENOENT);
}

async fn compound(site: &Site<'_>) {
    let pool = site.pool("8 8").await;
    let none = SnapContext::default();
    let create =
        Operation::new().create(true).write(0, "one").set_xattr("a", "1").omap_set_vals([("k", "v")]);
    let version = pool.write("o", create, &none).await.unwrap().version;
    assert_eq!(site.rados(&pool, "get o -"), "one");

    // All or nothing.
    let failing = Operation::new()
        .write_full("two")
        .compare_xattr("a", Comparison::Equal, "2")
        .omap_set_vals([("l", "w")]);
    let error = pool.write("o", failing, &none).await.unwrap_err();
    let OpError::Op { errno: Errno::ECANCELED, index: 1, outcomes } = &error else { panic!("{error:?}") };
    assert_eq!(outcomes.iter().map(|outcome| outcome.rval).collect::<Vec<_>>(), [0, -125, 0]);
    assert_eq!(site.rados(&pool, "get o -"), "one");
    assert_eq!(site.rados(&pool, "listomapkeys o"), "k\n");

    // An op that may fail leaves its errno behind.
    let lenient = Operation::new().create(true).fail_ok().write_full("three");
    let reply = pool.write("o", lenient, &none).await.unwrap();
    assert_eq!(reply.outcomes[0].errno(), Some(Errno::EEXIST));
    assert_eq!(reply.outcomes[1].errno(), None);
    assert_eq!(site.rados(&pool, "get o -"), "three");

    // Only on the version that was read.
    let read = Operation::new().assert_exists().read(0, 0).get_xattr("a").omap_get_keys("", 9);
    let reply = pool.read("o", read, SnapId::HEAD).await.unwrap();
    assert!(reply.version > version);
    assert_eq!((reply.data(1), reply.data(2)), (Bytes::from("three"), Bytes::from("1")));
    let only_on = |version| Operation::new().assert_version(version).append("!");
    assert_eq!(refused(pool.write("o", only_on(version), &none).await), Errno::ERANGE);
    assert_eq!(refused(pool.write("o", only_on(reply.version + 1), &none).await), EOVERFLOW);
    pool.write("o", only_on(reply.version), &none).await.unwrap();
    assert_eq!(site.rados(&pool, "get o -"), "three!");
    let exists = Operation::new().assert_exists().write_full("x");
    assert_eq!(refused(pool.write("none", exists, &none).await), Errno::ENOENT);
    assert!(!pool.object("none").exists().await.unwrap());

    // Methods of object classes.
    let said = pool.object("o").call("hello", "say_hello", "tests").await.unwrap();
    assert_eq!(said, "Hello, tests!");
    pool.object("o").call_mut("hello", "replay", "").await.unwrap();
    assert_eq!(refused(pool.object("o").call("hello", "no_such_method", "").await), Errno::EOPNOTSUPP);
    assert_eq!(refused(pool.object("o").call("no_such_class", "m", "").await), Errno::EPERM);
}

async fn pool_snapshots(site: &Site<'_>) {
    let pool = site.pool("8 8").await;
    let object = pool.object("o");
    object.write_full("before").await.unwrap();
    let first = pool.create_snapshot("first").await.unwrap();
    assert_eq!(refused(pool.create_snapshot("first").await), Errno::EEXIST);
    object.write_full("after!!").await.unwrap();
    site.rados(&pool, "mksnap second");
    site.client.wait_for_newest_map().await.unwrap();
    let names: Vec<String> = pool.snapshots().unwrap().into_iter().map(|snap| snap.name).collect();
    assert_eq!(names, ["first", "second"]);
    let listed = site.rados(&pool, "lssnap");
    assert!(listed.starts_with(&format!("{first}\tfirst\t")), "{listed}");

    assert_eq!(object.clone().at(first).read(0, 0).await.unwrap(), "before");
    assert_eq!(site.rados(&pool, "-s first get o -").lines().last(), Some("before"));
    let kept = object.snap_set().await.unwrap();
    assert_eq!(kept.seen_by(first).unwrap().size, 6);
    assert_eq!(kept.clones.last().unwrap().id, SnapId::HEAD);
    let shown = site.rados(&pool, "listsnaps o");
    assert!(shown.contains(&format!("\n{}\t{first}\t6\t[]", kept.clones[0].id)), "{shown}");

    object.rollback(first).await.unwrap();
    assert_eq!(site.rados(&pool, "get o -"), "before");
    pool.object("young").write_full("x").await.unwrap();
    pool.object("young").rollback(first).await.unwrap();
    assert!(!pool.object("young").exists().await.unwrap(), "it did not exist then");

    pool.remove_snapshot("first").await.unwrap();
    assert_eq!(refused(pool.remove_snapshot("first").await), Errno::ENOENT);
    assert_eq!(pool.snapshot("first").unwrap(), None);
    assert!(!site.rados(&pool, "lssnap").contains("first"));
    assert_eq!(refused(pool.create_self_managed_snapshot().await), Errno::EINVAL, "of the other kind");
}

async fn self_managed_snapshots(site: &Site<'_>) {
    let pool = site.pool("8 8").await;
    let object = pool.object("o");
    object.write_full("0123456789").await.unwrap();
    let first = pool.create_self_managed_snapshot().await.unwrap();
    let with = |snaps: &[SnapId]| object.clone().with_snap_context(SnapContext::of(snaps.iter().copied()));
    with(&[first]).write(0, "AB").await.unwrap();
    let second = pool.create_self_managed_snapshot().await.unwrap();
    assert!(second > first);
    with(&[first, second]).write(0, "XYZ").await.unwrap();

    assert_eq!(object.clone().at(first).read(0, 0).await.unwrap(), "0123456789");
    assert_eq!(object.clone().at(second).read(0, 0).await.unwrap(), "AB23456789");
    assert_eq!(object.read(0, 0).await.unwrap(), "XYZ3456789");
    let kept = object.snap_set().await.unwrap();
    assert_eq!(kept.seq, second);
    let snaps: Vec<_> = kept.clones.iter().map(|clone| clone.snaps.clone()).collect();
    assert_eq!(snaps, [vec![first], vec![second], vec![]]);
    assert_eq!(kept.clones[0].overlap, [(2, 8)], "what was not written over");
    let shown = site.rados(&pool, "listsnaps o");
    assert!(shown.contains(&format!("{first}\t{first}\t10\t[2~8]")), "{shown}");

    with(&[first, second]).rollback(first).await.unwrap();
    assert_eq!(site.rados(&pool, "get o -"), "0123456789");

    // What no OSD would take is not sent.
    for bad in [(first, [first, second]), (second, [first, second])] {
        let snapc = SnapContext { seq: bad.0, snaps: bad.1.into() };
        let error = object.clone().with_snap_context(snapc.clone()).append("x").await.unwrap_err();
        assert_eq!(error, OpError::Invalid(InvalidOperation::SnapContext(snapc)));
        assert_eq!(error.errno(), Errno::EINVAL);
    }
    pool.remove_self_managed_snapshot(first).await.unwrap();
    pool.remove_self_managed_snapshot(first).await.unwrap();
    let never = SnapId(second.0 + 1000);
    assert_eq!(refused(pool.remove_self_managed_snapshot(never).await), Errno::ENOENT);
    assert_eq!(refused(object.clone().at(first).read(0, 0).await), Errno::ENOENT, "removed");
    assert_eq!(refused(pool.create_snapshot("s").await), Errno::EINVAL, "of the other kind");
}

async fn listing(site: &Site<'_>) {
    let pool = site.pool("4 4").await;
    let empty = pool.list_objects(&ObjectCursor::begin(), 10).await.unwrap();
    assert!(empty.objects.is_empty() && empty.next.is_end());

    let mut expected = BTreeSet::new();
    let mut add = async |namespace: &str, key: &str, name: String| {
        let place = pool.with_namespace(namespace).with_key(key);
        place.object(&name).write_full("x").await.unwrap();
        expected.insert(ListedObject { namespace: namespace.to_owned(), name, key: key.to_owned() });
    };
    for n in 0..300 {
        add(["", "north", "south"][n % 3], "", format!("object{n}")).await;
    }
    for n in 0..20 {
        add("", "together", format!("keyed{n}")).await;
    }
    add("north", "", "with space, /, \t and ü".to_owned()).await;

    let everywhere = pool.with_namespace(ALL_NAMESPACES);
    let all: Vec<ListedObject> = everywhere.objects().try_collect().await.unwrap();
    assert_eq!(all.len(), expected.len(), "each once");
    assert_eq!(all.iter().cloned().collect::<BTreeSet<_>>(), expected);
    // The tool, too, and in the same order.
    let theirs = json(&site.rados(&pool, "ls --all --format json"));
    let theirs: Vec<_> = theirs.as_array().unwrap().iter().map(|object| &object["name"]).collect();
    assert_eq!(all.iter().map(|object| object.name.as_str()).collect::<Vec<_>>(), theirs);

    let north: Vec<ListedObject> = pool.with_namespace("north").objects().try_collect().await.unwrap();
    assert_eq!(north.len(), 101);
    assert!(north.iter().all(|object| object.namespace == "north"));
    let keyed = all.iter().find(|object| object.name == "keyed7").unwrap();
    assert_eq!(pool.place_of(keyed).object("keyed7").read(0, 0).await.unwrap(), "x");

    // Any page size, through the cursor's bytes.
    for size in [1, 7, 100, 1000] {
        let (mut cursor, mut found) = (ObjectCursor::begin(), Vec::new());
        while !cursor.is_end() {
            let page = everywhere.list_objects(&cursor, size).await.unwrap();
            assert!(page.objects.len() == size || page.next.is_end(), "{size}");
            found.extend(page.objects);
            cursor = ObjectCursor::from_bytes(&page.next.to_bytes()).unwrap();
        }
        assert_eq!(found, all, "{size} at a time");
    }

    // The placement groups split and merge while the listing is under way, and what comes and goes meanwhile does not
    // matter to the rest.
    let (mut cursor, mut found) = (ObjectCursor::begin(), Vec::new());
    for pg_num in [8, 13, 32, 31, 30] {
        let page = everywhere.list_objects(&cursor, 50).await.unwrap();
        found.extend(page.objects);
        cursor = page.next;
        set_pg_num(site, &pool, pg_num).await;
        pool.object(&format!("new{pg_num}")).write_full("").await.unwrap();
    }
    found.extend(everywhere.list_objects(&cursor, usize::MAX).await.unwrap().objects);
    found.retain(|object| !object.name.starts_with("new"));
    assert_eq!(found, all);
}

/// As the manager does it.
async fn set_pg_num(site: &Site<'_>, pool: &IoCtx, pg_num: u32) {
    let set = serde_json::json!({
        "prefix": "osd pool set", "pool": site.name(pool), "var": "pg_num_actual", "val": pg_num.to_string(),
    });
    let deadline = Instant::now() + Duration::from_secs(120);
    // Refused while the first placement groups are made; those to be merged have to be ready for it.
    while site.client.mon_command(&set).await.is_err() || pool.info().unwrap().pg_num != pg_num {
        assert!(Instant::now() < deadline, "{:?}", pool.info());
        tokio::time::sleep(Duration::from_millis(100)).await;
        site.client.wait_for_newest_map().await.unwrap();
    }
}

async fn lookups(site: &Site<'_>) {
    let pool = site.pool("16 16").await;
    let name = site.name(&pool);
    site.client.wait_for_newest_map().await.unwrap();
    assert_eq!(site.cluster.run("ceph fsid").trim(), site.client.fsid().to_string());
    let theirs = json(&site.cluster.run("ceph osd lspools --format json"));
    let theirs: Vec<_> = theirs.as_array().unwrap().iter().map(|p| p["poolname"].as_str().unwrap()).collect();
    let ours = site.client.pools();
    assert_eq!(ours.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>(), theirs);
    assert_eq!(site.client.pool_id(&name), Some(pool.pool()));
    assert_eq!(site.client.pool_id("none"), None);
    assert_eq!(site.client.pool("none").await.unwrap_err().refusal(), Some(Errno::ENOENT));

    let info = pool.info().unwrap();
    assert_eq!((info.name.as_str(), info.pg_num), (name.as_str(), 16));
    let stat = json(&site.cluster.run("ceph osd stat --format json"));
    let counts = site.client.osd_counts();
    assert_eq!((counts.total, counts.up, counts.r#in), (3, 3, 3));
    assert_eq!((&stat["num_osds"], &stat["num_up_osds"]), (&3.into(), &3.into()));

    for (namespace, object) in [("", "a"), ("", "rbd_data.1"), ("north", "a"), ("north", "ü")] {
        // New maps come now and then, for whatever reason.
        let (ours, theirs) = loop {
            let theirs =
                site.cluster.run(&format!("ceph osd map {name} {object} '{namespace}' --format json"));
            site.client.wait_for_newest_map().await.unwrap();
            let (ours, theirs) = (pool.with_namespace(namespace).locate(object).unwrap(), json(&theirs));
            if theirs["epoch"] == ours.epoch.0 {
                break (ours, theirs);
            }
        };
        assert_eq!(theirs["raw_pgid"], format!("{}.{:x}", pool.pool(), ours.hash), "{theirs}");
        let ours = ours.placement;
        let ids = |osds: &[rados::OsdId]| serde_json::json!(osds.iter().map(|osd| osd.0).collect::<Vec<_>>());
        assert_eq!(theirs["pgid"], ours.pg.to_string(), "{theirs}");
        assert_eq!((&theirs["up"], &theirs["acting"]), (&ids(&ours.up), &ids(&ours.acting)), "{theirs}");
        assert_eq!(theirs["acting_primary"], ours.acting_primary.unwrap().0, "{theirs}");
    }
    let gone = site.client.pool_by_id(rados::PoolId(9999));
    assert_eq!(gone.locate("a").unwrap_err(), OpError::NoPool(rados::PoolId(9999)));
}

async fn commands(site: &Site<'_>) {
    let put = serde_json::json!({"prefix": "config-key set", "key": "tests/rados"});
    site.client.mon_command_with_input(&put, Bytes::from("from a buffer")).await.unwrap();
    assert_eq!(site.cluster.run("ceph config-key get tests/rados").trim(), "from a buffer");
    let get = serde_json::json!({"prefix": "config-key get", "key": "tests/rados"});
    assert_eq!(site.client.mon_command(&get).await.unwrap().output, "from a buffer");
    let nonsense = serde_json::json!({"prefix": "no such command"});
    let error = site.client.mon_command(&nonsense).await.unwrap_err();
    assert!(error.to_string().contains("command not known"), "{error}");
}

async fn watch_and_notify(site: &Site<'_>) {
    let pool = site.pool("8 8").await;
    let object = pool.object("header");
    assert_eq!(refused(pool.watch("header").await), Errno::ENOENT);
    object.create(true).await.unwrap();
    let mut watch = pool.watch("header").await.unwrap();
    let cookie = watch.cookie;
    let listed = site.rados(&pool, "listwatchers header");
    assert!(listed.contains(&format!("client.{} cookie={cookie}", site.client.global_id())), "{listed}");
    let [watcher] = &object.watchers().await.unwrap()[..] else { panic!() };
    assert_eq!((watcher.cookie, watcher.addr.addr), (cookie, site.client.addr().addr));
    assert!(pool.watch_check(cookie).unwrap() < Duration::from_secs(60));

    // The tool notifies us.
    let acknowledge = async {
        match watch.events.recv().await.unwrap() {
            WatchEvent::Notify { notify_id, payload, .. } => {
                pool.acknowledge("header", cookie, notify_id, "heard".into()).await.unwrap();
                payload
            }
            lost => panic!("{lost:?}"),
        }
    };
    let (told, payload) = tokio::join!(site.rados_meanwhile(&pool, "notify header hello"), acknowledge);
    // As `rados` encodes it: length and text.
    assert_eq!(&payload[4..], b"hello");
    assert!(told.contains("heard"), "{told}");

    // And we notify the tool.
    pool.unwatch(cookie).await.unwrap();
    assert_eq!(refused(pool.watch_check(cookie).map(drop)), Errno::ENOTCONN);
    // The tool watches until it has something to read.
    let enough = site.cluster.file(&format!("enough-{}", site.name(&pool)));
    let wait = format!("while [ ! -e {enough} ]; do sleep 0.1; done");
    let mut tool = start(&format!("{} < <({wait})", site.background(&pool, "watch header")));
    while object.watchers().await.unwrap().is_empty() {
        assert!(tool.is_running());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let reply = pool.notify("header", Bytes::from("to all"), Duration::from_secs(10)).await.unwrap();
    assert_eq!((reply.acks.len(), reply.timeouts.len()), (1, 0), "{reply:?}");
    std::fs::write(&enough, "").unwrap();
    tool.finish().success();
}

async fn erasure_coded(site: &Site<'_>) {
    let profile = "ceph osd erasure-code-profile set two k=2 m=1 crush-failure-domain=osd stripe_unit=4096";
    site.cluster.run(profile);
    let pool = site.pool("8 8 erasure two").await;
    let object = pool.object("o");
    let unit = pool.required_alignment().unwrap().unwrap();
    assert_eq!(unit, 8192);
    let piece = |byte: u8, len: u32| Bytes::from(vec![byte; len as usize]);
    object.append(piece(b'a', unit)).await.unwrap();
    object.append(piece(b'b', unit / 2)).await.unwrap();
    assert_eq!(refused(object.append("c").await), Errno::EOPNOTSUPP, "the end is not aligned any more");
    assert_eq!(object.stat().await.unwrap().size, u64::from(unit / 2 * 3));
    let contents = site.rados(&pool, "get o -");
    assert_eq!(contents.len(), unit as usize / 2 * 3);
    assert_eq!(object.read(u64::from(unit) - 1, 2).await.unwrap(), "ab");
    assert_eq!(refused(object.write(0, "x").await), Errno::EOPNOTSUPP);
    assert_eq!(refused(object.zero(0, 1).await), Errno::EOPNOTSUPP);
    object.write_full("anything").await.unwrap();
    object.set_xattr("a", "1").await.unwrap();
    assert_eq!(site.rados(&pool, "listxattr o"), "a\n");
    assert_eq!(refused(object.omap_set([("k", "v")]).await), Errno::EOPNOTSUPP);
    assert_eq!(object.omap_keys("", 10).await.unwrap(), (vec![], false), "it reads as empty");

    let snap = pool.create_self_managed_snapshot().await.unwrap();
    let with_snap = object.clone().with_snap_context(SnapContext::of([snap]));
    with_snap.write_full("something else").await.unwrap();
    assert_eq!(object.clone().at(snap).read(0, 0).await.unwrap(), "anything");
    let names: Vec<ListedObject> = pool.objects().try_collect().await.unwrap();
    assert_eq!(names.len(), 1, "a clone is no object of its own: {names:?}");
}

#[test]
fn what_is_written_to_an_object_is_what_the_rados_tool_reads() {
    on(three_osds(), data);
}

#[test]
fn extended_attributes_are_those_of_the_rados_tool_and_compare_as_text_and_as_numbers() {
    on(three_osds(), xattrs);
}

#[test]
fn the_omap_is_that_of_the_rados_tool() {
    on(three_osds(), omap);
}

#[test]
fn an_operation_of_several_ops_happens_as_a_whole_or_says_which_op_failed() {
    on(three_osds(), compound);
}

#[test]
fn snapshots_of_a_pool_have_names_and_are_read_and_rolled_back_to() {
    on(three_osds(), pool_snapshots);
}

#[test]
fn snapshots_that_a_client_manages_keep_what_was_there_when_they_were_made() {
    on(three_osds(), self_managed_snapshots);
}

#[test]
fn a_listing_finds_each_object_once_even_while_placement_groups_split() {
    on(three_osds(), listing);
}

#[test]
fn pools_osds_and_places_of_objects_are_those_that_ceph_shows() {
    on(three_osds(), lookups);
}

#[test]
fn commands_to_the_monitors_take_input_and_give_output() {
    on(three_osds(), commands);
}

#[test]
fn watchers_and_notifiers_meet_those_of_the_rados_tool() {
    on(three_osds(), watch_and_notify);
}

#[test]
fn an_erasure_coded_pool_takes_aligned_appends_and_has_no_omap() {
    on(three_osds(), erasure_coded);
}

#[test]
fn tentacle_does_all_of_the_same() {
    let cluster = Cluster::start(Release::Tentacle, &["--osds", "3"]);
    on(&cluster, async |site| {
        data(site).await;
        xattrs(site).await;
        omap(site).await;
        compound(site).await;
        pool_snapshots(site).await;
        self_managed_snapshots(site).await;
        listing(site).await;
        lookups(site).await;
        commands(site).await;
        watch_and_notify(site).await;
        erasure_coded(site).await;
    });
}

#[test]
fn numbers_of_snapshots_are_given_out_once_whatever_monitor_fails() {
    let cluster = Cluster::start(Release::Host, &["--mons", "3"]);
    on(&cluster, async |site| {
        let pool = site.pool("1 1").await;
        let mut ids = BTreeMap::new();
        for failing in ["mon.a", "mon.b", "mon.c"] {
            let asked: Vec<_> = (0..4).map(|_| pool.create_self_managed_snapshot()).collect();
            let asked = futures::future::try_join_all(asked);
            let fail = async {
                site.cluster.signal(failing, "KILL");
                tokio::time::sleep(Duration::from_secs(1)).await;
                site.cluster.revive(failing);
            };
            let (given, ()) = tokio::join!(asked, fail);
            for id in given.unwrap() {
                assert_eq!(ids.insert(id, failing), None, "given out twice");
                assert!(pool.info().unwrap().snap_seq >= id, "the map here shows it");
            }
        }
        assert_eq!(ids.len(), 12);
    });
}

/// A client that sends again under a new number duplicates about one in 75 of these.
#[test]
fn an_append_happens_once_however_often_connections_break() {
    const OBJECTS: usize = 16;
    const APPENDS: usize = 625;
    let cluster =
        Cluster::start(Release::Host, &["--osds", "3", "--conf", "ms inject socket failures = 100"]);
    on(&cluster, async |site| {
        let pool = site.pool("16 16").await;
        let names: Vec<String> = (0..OBJECTS).map(|n| format!("log{n}")).collect();
        // Each is submitted when its future is made: in this order, 64 at a time.
        let order = (0..APPENDS).flat_map(|n| names.iter().map(move |name| (n, name)));
        let appends = order.map(|(n, name)| {
            let record = Operation::new().append(format!("{n:07}\n"));
            pool.write(name, record, &SnapContext::default())
        });
        stream::iter(appends).buffered(64).try_for_each(|_| async { Ok(()) }).await.unwrap();
        let expected: String = (0..APPENDS).map(|n| format!("{n:07}\n")).collect();
        for name in &names {
            let found = pool.object(name).read(0, 0).await.unwrap();
            assert!(found == expected, "{name}: {}", String::from_utf8_lossy(&found));
        }
        let log = std::fs::read_to_string(cluster.file("log/osd.0.log")).unwrap();
        assert!(log.contains("injecting socket failure"), "no connection ever broke");
    });
}
