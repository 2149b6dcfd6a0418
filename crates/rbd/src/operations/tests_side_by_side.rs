//! Operations that run at the same time on a [`MemStore`](crate::MemStore), whose answers come late and out of order.

use bytes::Bytes;
use ceph_codec::SnapId;
use futures::join;

use crate::config::Config;
use crate::{
    CloneOptions, DiffOptions, Features, Image, ImageRef, MemStore, NewImage, OpenOptions, SnapshotFlags,
    SnapshotRef, clone_image,
};

const OBJECT: u64 = 64 << 10;
const OBJECTS: u64 = 6;
const MISSING: u8 = 0;
const SEEDS: u32 = 40;

fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

async fn open(store: &MemStore, name: &str) -> Image<MemStore> {
    Image::open(store.clone(), OpenOptions::image(name)).await.unwrap()
}

async fn image(store: &MemStore) -> Image<MemStore> {
    let size = OBJECTS * OBJECT;
    let image =
        NewImage { name: "img".into(), size, order: 16, features: Features(61), ..NewImage::default() };
    store.create_image(&image).unwrap();
    open(store, "img").await
}

/// A clone with all features of an image that is full of ones.
async fn clone(store: &MemStore) -> Image<MemStore> {
    let parent = image(store).await;
    for object in 0..OBJECTS {
        fill(&parent, object, 1).await;
    }
    snapshot(&parent, "s").await;
    parent.close().await;
    let (image, snapshot) = (ImageRef::Name("img".into()), SnapshotRef::Name("s".into()));
    let options = CloneOptions { format: Some(2), ..CloneOptions::default() };
    clone_image(store, &image, &snapshot, store, &Config::default(), "kid", &options).await.unwrap();
    open(store, "kid").await
}

async fn fill(image: &Image<MemStore>, object: u64, byte: u8) {
    image.write(object * OBJECT, Bytes::from([byte].repeat(1 << 16))).await.unwrap();
}

/// Writes a part of an object, which has to be copied up first.
async fn write(image: &Image<MemStore>, object: u64) {
    image.write(object * OBJECT + 512, Bytes::from(vec![2; 512])).await.unwrap();
}

async fn snapshot(image: &Image<MemStore>, name: &str) {
    image.create_snapshot(name, SnapshotFlags::default(), &()).await.unwrap();
}

async fn remove(image: &Image<MemStore>, name: &str) {
    image.remove_snapshot(name).await.unwrap();
}

/// Objects whose contents may have changed since a snapshot, by the object maps.
async fn changed_since(image: &Image<MemStore>, snapshot: &str) -> Vec<u64> {
    use futures::TryStreamExt;
    let options = DiffOptions {
        from_snapshot: Some(snapshot.to_owned()),
        whole_object: true,
        ..DiffOptions::default()
    };
    let extents: Vec<_> = image.diff(&options).await.unwrap().try_collect().await.unwrap();
    (0..OBJECTS)
        .filter(|object| {
            extents.iter().any(|extent| {
                extent.offset < (object + 1) * OBJECT && object * OBJECT < extent.offset + extent.len
            })
        })
        .collect()
}

fn snap_id(image: &Image<MemStore>, name: &str) -> SnapId {
    image.snapshots().iter().find(|snapshot| snapshot.name == name).unwrap().id
}

#[test]
fn copy_ups_are_not_lost_by_a_rebuild_of_a_map_that_a_snapshot_has_no_more() {
    for seed in 0..SEEDS {
        run(async {
            let store = MemStore::new();
            let image = clone(&store).await;
            write(&image, 0).await;
            snapshot(&image, "a").await;
            let (id, snap) = (image.id().to_owned(), snap_id(&image, "a"));
            let map = format!("rbd_object_map.{id}.{:016x}", snap.0);
            crate::directory::remove(&store, &map).await.unwrap();
            store.set_jitter(9, seed);
            let writes = async {
                for object in 1..OBJECTS {
                    write(&image, object).await;
                }
            };
            let (_, rebuilt) = join!(writes, image.rebuild_object_map(Some("a"), &()));
            rebuilt.unwrap();
            let states = store.snapshot_object_map(&id, snap).unwrap();
            assert!(!states.contains(&MISSING), "seed {seed}: all objects were copied up: {states:?}");
            assert_eq!(image.check_object_map(Some("a"), &()).await.unwrap(), 0, "seed {seed}");
            image.close().await;
        });
    }
}

#[test]
fn a_check_of_a_snapshots_map_finds_no_fault_with_copy_ups() {
    for seed in 0..SEEDS {
        run(async {
            let store = MemStore::new();
            let image = clone(&store).await;
            write(&image, 0).await;
            snapshot(&image, "a").await;
            store.set_jitter(9, seed);
            let writes = async {
                for object in 1..OBJECTS {
                    write(&image, object).await;
                }
            };
            let (_, wrong) = join!(writes, image.check_object_map(Some("a"), &()));
            assert_eq!(wrong.unwrap(), 0, "seed {seed}");
            image.close().await;
        });
    }
}

#[test]
fn writes_go_on_when_the_lock_is_wanted_and_its_feature_goes_at_the_same_time() {
    for seed in 0..SEEDS {
        run(async {
            let store = MemStore::new();
            let ours = image(&store).await;
            let other_store = store.connect();
            let theirs = open(&other_store, "img").await;
            fill(&ours, 0, 1).await;
            store.set_jitter(9, seed);
            other_store.set_jitter(9, seed + 1);
            let features = Features::EXCLUSIVE_LOCK.union(Features::OBJECT_MAP).union(Features::FAST_DIFF);
            let ours_writes = async {
                for _ in 0..20 {
                    fill(&ours, 1, 2).await;
                }
            };
            let theirs_writes = async {
                for _ in 0..3 {
                    fill(&theirs, 2, 3).await;
                }
            };
            let (_, _, disabled) = join!(ours_writes, theirs_writes, ours.update_features(features, false));
            disabled.unwrap();
            fill(&ours, 3, 4).await;
            fill(&theirs, 4, 4).await;
            theirs.close().await;
            ours.close().await;
        });
    }
}

#[test]
fn what_is_cut_off_during_a_flatten_does_not_come_back() {
    for seed in 0..SEEDS {
        run(async {
            let store = MemStore::new();
            let image = clone(&store).await;
            write(&image, 0).await;
            store.set_jitter(9, seed);
            let (cut, flattened) = join!(image.resize(2 * OBJECT, true, &()), image.flatten(&()));
            cut.unwrap();
            flattened.unwrap();
            let data = format!("rbd_data.{}", image.id());
            let objects = store.objects().iter().filter(|name| name.starts_with(&data)).count();
            assert_eq!(objects, 2, "seed {seed}");
            image.resize(OBJECTS * OBJECT, false, &()).await.unwrap();
            let end = image.read(2 * OBJECT, (OBJECTS - 2) * OBJECT).await.unwrap().to_vec();
            assert!(end.iter().all(|byte| *byte == 0), "seed {seed}");
            assert_eq!(image.check_object_map(None, &()).await.unwrap(), 0, "seed {seed}");
            image.close().await;
        });
    }
}

#[test]
fn snapshots_that_go_at_the_same_time_take_no_changes_along() {
    for seed in 0..SEEDS {
        run(async {
            let store = MemStore::new();
            let image = image(&store).await;
            fill(&image, 0, 1).await;
            for (object, name) in (0..).zip(["old", "a", "b", "c"]) {
                snapshot(&image, name).await;
                fill(&image, object, 2).await;
            }
            store.set_jitter(9, seed);
            join!(remove(&image, "a"), remove(&image, "b"), remove(&image, "c"));
            assert_eq!(changed_since(&image, "old").await, [0, 1, 2, 3], "seed {seed}");
            image.close().await;
        });
    }
}

#[test]
fn a_snapshot_that_goes_while_another_is_taken_leaves_its_changes_to_that() {
    for seed in 0..SEEDS {
        run(async {
            let store = MemStore::new();
            let image = image(&store).await;
            snapshot(&image, "old").await;
            fill(&image, 0, 1).await;
            snapshot(&image, "a").await;
            store.set_jitter(9, seed);
            join!(remove(&image, "a"), snapshot(&image, "b"));
            fill(&image, 1, 1).await;
            let at_b =
                OpenOptions { snapshot: Some(SnapshotRef::Name("b".into())), ..OpenOptions::image("img") };
            let at_b = Image::open(store.clone(), at_b).await.unwrap();
            assert_eq!(changed_since(&at_b, "old").await, [0], "seed {seed}");
            assert_eq!(changed_since(&image, "old").await, [0, 1], "seed {seed}");
            at_b.close().await;
            image.close().await;
        });
    }
}
