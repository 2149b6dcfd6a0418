//! Operations of open images on a [`MemStore`], by their owner and by others.

#![allow(clippy::cast_possible_truncation, reason = "test")]

use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::{Features, Image, MemStore, NewImage, ObjectStore, OpenOptions, SnapshotFlags, SnapshotRef};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

/// 64 KiB objects make small tests.
fn new_image(features: u64) -> NewImage {
    NewImage { name: "img".into(), size: MIB, order: 16, features: Features(features), ..NewImage::default() }
}

fn new_store(image: &NewImage) -> MemStore {
    let store = MemStore::new();
    store.create_image(image).unwrap();
    store
}

async fn open(store: &MemStore) -> Image<MemStore> {
    Image::open(store.clone(), OpenOptions::image("img")).await.unwrap()
}

fn bytes(len: u64, seed: u8) -> Bytes {
    (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed) | 1).collect()
}

async fn read_snapshot(store: &MemStore, name: &str, offset: u64, len: u64) -> Vec<u8> {
    let options = OpenOptions::image("img").snapshot(SnapshotRef::Name(name.into()));
    let image = Image::open(store.connect(), options).await.unwrap();
    let data = image.read(offset, len).await.unwrap().to_vec();
    image.close().await;
    data
}

#[test]
fn a_snapshot_has_what_was_written_before_it_and_nothing_else() {
    for features in [0, 4, 13, 61] {
        let store = new_store(&new_image(features));
        run(async {
            let image = open(&store).await;
            image.write(0, bytes(100 * KIB, 1)).await.unwrap();
            image.create_snapshot("s1", SnapshotFlags::default(), &()).await.unwrap();
            image.write(KIB, bytes(KIB, 2)).await.unwrap();
            image.create_snapshot("s2", SnapshotFlags::default(), &()).await.unwrap();
            image.write(0, bytes(100 * KIB, 3)).await.unwrap();
            assert_eq!(read_snapshot(&store, "s1", 0, 100 * KIB).await, bytes(100 * KIB, 1));
            let mut second = bytes(100 * KIB, 1).to_vec();
            second[KIB as usize..2 * KIB as usize].copy_from_slice(&bytes(KIB, 2));
            assert_eq!(read_snapshot(&store, "s2", 0, 100 * KIB).await, second, "features {features}");
            let names: Vec<_> = image.snapshots().into_iter().map(|snapshot| snapshot.name).collect();
            assert_eq!(names, ["s2", "s1"]);
        });
    }
}

#[test]
fn the_owner_takes_a_snapshot_for_another_client() {
    let store = new_store(&new_image(61));
    run(async {
        let owner = open(&store).await;
        let other = open(&store.connect()).await;
        owner.write(0, bytes(KIB, 1)).await.unwrap();
        other.create_snapshot("s1", SnapshotFlags::default(), &()).await.unwrap();
        assert!(owner.is_lock_held() && !other.is_lock_held());
        assert_eq!(other.snapshots().len(), 1, "known at once");
        owner.write(0, bytes(KIB, 2)).await.unwrap();
        assert_eq!(read_snapshot(&store, "s1", 0, KIB).await, bytes(KIB, 1));
        let error = other.create_snapshot("s1", SnapshotFlags::default(), &()).await.unwrap_err();
        assert!(
            matches!(error, OperationError::Maintenance(MaintenanceError::SnapshotExists { .. })),
            "{error}"
        );
    });
}

#[test]
fn an_owner_that_dies_is_succeeded_by_whoever_asked_it() {
    let store = new_store(&new_image(61));
    run(async {
        let dead = store.connect();
        let owner = open(&dead).await;
        let other = open(&store).await;
        owner.write(0, bytes(KIB, 1)).await.unwrap();
        dead.kill_after(0);
        let asked = other.create_snapshot("s1", SnapshotFlags::SKIP_QUIESCE, &());
        let die = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            dead.lose_watches();
        };
        let (created, ()) = tokio::join!(asked, die);
        created.unwrap();
        assert!(other.is_lock_held());
        assert_eq!(read_snapshot(&store, "s1", 0, KIB).await, bytes(KIB, 1));
    });
}

#[test]
fn an_image_grows_and_shrinks_and_what_was_cut_off_does_not_come_back() {
    for (features, striping) in [(0, None), (4, None), (61, None), (61, Some((16 * KIB, 3)))] {
        let store = new_store(&NewImage { striping, ..new_image(features) });
        run(async {
            let image = open(&store).await;
            image.write(0, bytes(MIB, 1)).await.unwrap();
            image.resize(2 * MIB, false, &()).await.unwrap();
            assert_eq!(image.size(), 2 * MIB);
            image.write(MIB, bytes(MIB, 2)).await.unwrap();
            let error = image.resize(200_000, false, &()).await.unwrap_err();
            assert_eq!((error.errno(), image.size()), (rados::Errno::EINVAL, 2 * MIB));
            image.resize(200_000, true, &()).await.unwrap();
            assert!(
                image.write(200_000, bytes(1, 1)).await.is_err() && image.read(199_999, 2).await.is_err()
            );
            image.resize(MIB, false, &()).await.unwrap();
            let data = image.read(0, MIB).await.unwrap().to_vec();
            assert_eq!(data[..200_000], bytes(MIB, 1)[..200_000], "features {features}");
            assert!(data[200_000..].iter().all(|byte| *byte == 0), "features {features}");
        });
    }
}

#[test]
fn metadata_pairs_are_configuration_at_once() {
    let store = new_store(&new_image(61));
    run(async {
        let owner = open(&store).await;
        let other = open(&store.connect()).await;
        owner.write(0, bytes(KIB, 1)).await.unwrap();
        other.set_metadata("conf_rbd_skip_partial_discard", "false").await.unwrap();
        assert_eq!(owner.0.header().config["rbd_skip_partial_discard"], "false");
        owner.discard(0, KIB).await.unwrap();
        assert_eq!(owner.read(0, KIB).await.unwrap().to_vec(), [0; 1024]);
        other.remove_metadata("conf_rbd_skip_partial_discard").await.unwrap();
        assert!(!owner.metadata().await.unwrap().contains_key("conf_rbd_skip_partial_discard"));
        assert!(owner.is_lock_held());
        assert!(other.remove_metadata("nope").await.is_err());
    });
}

#[test]
fn snapshots_are_removed_with_all_that_only_they_need() {
    for features in [0, 4, 13, 61] {
        let store = new_store(&new_image(features));
        run(async {
            let image = open(&store).await;
            for (seed, name) in [(1, "s1"), (2, "s2"), (3, "s3")] {
                image.write(u64::from(seed) * 64 * KIB, bytes(64 * KIB, seed)).await.unwrap();
                image.create_snapshot(name, SnapshotFlags::default(), &()).await.unwrap();
            }
            image.remove_snapshot("s2").await.unwrap();
            let names: Vec<_> = image.snapshots().into_iter().map(|snapshot| snapshot.name).collect();
            assert_eq!(names, ["s3", "s1"]);
            assert_eq!(read_snapshot(&store, "s3", 128 * KIB, 64 * KIB).await, bytes(64 * KIB, 2));
            assert_eq!(read_snapshot(&store, "s1", 128 * KIB, 64 * KIB).await, [0; 64 << 10]);
            let error = image.remove_snapshot("s2").await.unwrap_err();
            assert!(matches!(error, OperationError::NoSnapshot { .. }), "{error}");
            assert_eq!(image.purge_snapshots(&()).await.unwrap(), Vec::<String>::new());
            assert_eq!(image.snapshots(), []);
            let left: Vec<_> =
                store.objects().into_iter().filter(|name| name.starts_with("rbd_object_map.")).collect();
            assert_eq!(left.len(), usize::from(features & 8 != 0), "{left:?}");
        });
    }
}

#[test]
fn after_a_removal_the_object_map_still_tells_what_changed_since_the_snapshot_before() {
    let store = new_store(&new_image(61));
    run(async {
        let image = open(&store).await;
        image.write(0, bytes(192 * KIB, 1)).await.unwrap();
        image.create_snapshot("s1", SnapshotFlags::default(), &()).await.unwrap();
        image.write(64 * KIB, bytes(KIB, 2)).await.unwrap();
        image.create_snapshot("s2", SnapshotFlags::default(), &()).await.unwrap();
        assert_eq!(store.object_map(image.id()).unwrap()[..4], [3, 3, 3, 0]);
        image.remove_snapshot("s2").await.unwrap();
        assert_eq!(
            store.object_map(image.id()).unwrap()[..4],
            [3, 1, 3, 0],
            "the second has changed since s1"
        );
    });
}

#[test]
fn a_protected_snapshot_is_not_removed() {
    let store = new_store(&new_image(61));
    run(async {
        let image = open(&store).await;
        image.create_snapshot("s1", SnapshotFlags::default(), &()).await.unwrap();
        image.protect_snapshot("s1").await.unwrap();
        let is = |error: OperationError, text: &str| assert_eq!(error.to_string(), text);
        is(image.remove_snapshot("s1").await.unwrap_err(), "snapshot s1 of image img is protected");
        is(image.protect_snapshot("s1").await.unwrap_err(), "snapshot s1 of image img is protected");
        assert_eq!(image.purge_snapshots(&()).await.unwrap(), ["s1"]);
        image.unprotect_snapshot("s1").await.unwrap();
        is(image.unprotect_snapshot("s1").await.unwrap_err(), "snapshot s1 of image img is not protected");
        image.rename_snapshot("s1", "s2").await.unwrap();
        image.create_snapshot("s1", SnapshotFlags::default(), &()).await.unwrap();
        is(image.rename_snapshot("s1", "s2").await.unwrap_err(), "image img already has a snapshot s2");
        image.remove_snapshot("s2").await.unwrap();
    });
}

#[test]
fn snapshots_are_limited() {
    let store = new_store(&new_image(61));
    run(async {
        let image = open(&store).await;
        image.set_snapshot_limit(Some(2)).await.unwrap();
        for name in ["s1", "s2"] {
            image.create_snapshot(name, SnapshotFlags::default(), &()).await.unwrap();
        }
        let error = image.create_snapshot("s3", SnapshotFlags::default(), &()).await.unwrap_err();
        assert_eq!(error.errno(), rados::Errno::EDQUOT, "{error}");
        assert_eq!(image.set_snapshot_limit(Some(1)).await.unwrap_err().errno(), rados::Errno::ERANGE);
        image.set_snapshot_limit(None).await.unwrap();
        image.create_snapshot("s3", SnapshotFlags::default(), &()).await.unwrap();
    });
}

#[test]
fn an_image_is_rolled_back_to_contents_and_size_of_a_snapshot() {
    for features in [0, 4, 13, 61] {
        let store = new_store(&new_image(features));
        run(async {
            let image = open(&store).await;
            image.write(0, bytes(300 * KIB, 1)).await.unwrap();
            image.create_snapshot("s1", SnapshotFlags::default(), &()).await.unwrap();
            image.write(100 * KIB, bytes(300 * KIB, 2)).await.unwrap();
            image.discard(0, 64 * KIB).await.unwrap();
            image.create_snapshot("s2", SnapshotFlags::default(), &()).await.unwrap();
            image.resize(150 * KIB, true, &()).await.unwrap();
            image.roll_back("s1", &()).await.unwrap();
            assert_eq!(image.size(), MIB);
            let mut first = bytes(300 * KIB, 1).to_vec();
            first.resize(MIB as usize, 0);
            assert_eq!(image.read(0, MIB).await.unwrap().to_vec(), first, "features {features}");
            image.roll_back("s2", &()).await.unwrap();
            let mut second = first.clone();
            second[..64 << 10].fill(0);
            second[100 << 10..400 << 10].copy_from_slice(&bytes(300 * KIB, 2));
            assert_eq!(image.read(0, MIB).await.unwrap().to_vec(), second, "features {features}");
            assert_eq!(read_snapshot(&store, "s1", 0, MIB).await, first);
            if features & 8 != 0 {
                let map = store.object_map(image.id()).unwrap();
                assert_eq!(map.iter().filter(|state| **state != 0).count(), 6, "{map:?}");
            }
        });
    }
}

#[test]
fn an_image_gets_another_name() {
    let store = new_store(&new_image(61));
    run(async {
        let owner = open(&store).await;
        let other = open(&store.connect()).await;
        owner.write(0, bytes(KIB, 1)).await.unwrap();
        other.rename("new").await.unwrap();
        assert!(Image::open(store.clone(), OpenOptions::image("img")).await.is_err());
        let renamed = Image::open(store.clone(), OpenOptions::image("new")).await.unwrap();
        assert_eq!(renamed.id(), owner.id());
        assert_eq!((owner.info().name.as_deref(), other.info().name.as_deref()), (Some("new"), Some("new")));
        store.create_image(&new_image(61)).unwrap();
        let error = owner.rename("img").await.unwrap_err();
        assert_eq!(error.to_string(), "there is an image img already");
        owner.rename("third").await.unwrap();
    });
}

#[test]
fn an_image_is_not_rolled_back_under_another_client() {
    let store = new_store(&new_image(61));
    run(async {
        let owner = open(&store).await;
        owner.write(0, bytes(KIB, 1)).await.unwrap();
        owner.create_snapshot("s1", SnapshotFlags::default(), &()).await.unwrap();
        owner.write(0, bytes(KIB, 2)).await.unwrap();
        let other = open(&store.connect()).await;
        let error = other.roll_back("s1", &()).await.unwrap_err();
        assert_eq!((error.errno(), owner.is_lock_held()), (rados::Errno::EROFS, true), "{error}");
        owner.close().await;
        other.roll_back("s1", &()).await.unwrap();
        assert_eq!(other.read(0, KIB).await.unwrap().to_vec(), bytes(KIB, 1));
    });
}

/// As after librbd's own rollback, which copies the object map of the snapshot.
#[test]
fn a_rollback_does_not_trust_what_the_object_map_says_of_changes() {
    let store = new_store(&new_image(61));
    run(async {
        let image = open(&store).await;
        image.write(0, bytes(64 * KIB, 1)).await.unwrap();
        image.create_snapshot("s1", SnapshotFlags::default(), &()).await.unwrap();
        image.write(0, bytes(64 * KIB, 2)).await.unwrap();
        let map = image.0.map().unwrap();
        map.update(0..1, crate::object_map::ObjectState::ExistsClean, None).await.unwrap();
        image.roll_back("s1", &()).await.unwrap();
        assert_eq!(image.read(0, 64 * KIB).await.unwrap().to_vec(), bytes(64 * KIB, 1));
        assert_eq!(store.object_map(image.id()).unwrap()[0], 1);
    });
}

#[test]
fn what_the_first_attempt_did_is_no_error_of_the_second() {
    let store = new_store(&new_image(61));
    run(async {
        let dead = store.connect();
        let owner = open(&dead).await;
        let other = open(&store).await;
        owner.write(0, bytes(KIB, 1)).await.unwrap();
        // The owner takes the snapshot, and dies before it can say so.
        dead.set_fault(|_, operation| {
            let is_answer = operation.ops().is_empty();
            is_answer.then_some(rados::OpError::TimedOut)
        });
        let asked = other.create_snapshot("s1", SnapshotFlags::SKIP_QUIESCE, &());
        let die = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            store.create_snapshot(owner.id(), "s1").unwrap();
            dead.kill_after(0);
            dead.lose_watches();
        };
        let (created, ()) = tokio::join!(asked, die);
        created.unwrap();
        assert_eq!(other.snapshots().len(), 1);
    });
}

#[test]
fn a_snapshot_whose_unprotecting_was_interrupted_can_be_unprotected() {
    let store = new_store(&new_image(61));
    run(async {
        let image = open(&store).await;
        image.create_snapshot("s1", SnapshotFlags::default(), &()).await.unwrap();
        image.protect_snapshot("s1").await.unwrap();
        let mut changes = 0;
        store.set_fault(move |object, operation| {
            let protects = operation
                .ops()
                .iter()
                .any(|op| matches!(&op.kind, rados::OpKind::Call { method: "set_protection_status", .. }));
            changes += u32::from(protects && object.starts_with("rbd_header."));
            (protects && changes > 1).then_some(rados::OpError::TimedOut)
        });
        image.unprotect_snapshot("s1").await.unwrap_err();
        store.clear_fault();
        assert!(image.remove_snapshot("s1").await.is_err(), "it may have clones");
        image.unprotect_snapshot("s1").await.unwrap();
        image.remove_snapshot("s1").await.unwrap();
    });
}

#[test]
fn a_clone_of_version_1_in_a_namespace_keeps_its_parent_protected() {
    let store = MemStore::new().with_pool(ceph_codec::PoolId(1), "ns").unwrap();
    let id = store.create_image(&new_image(61)).unwrap();
    run(async {
        let image = open(&store).await;
        image.create_snapshot("s1", SnapshotFlags::default(), &()).await.unwrap();
        image.protect_snapshot("s1").await.unwrap();
        let snap = image.snapshots()[0].id;
        let parent =
            crate::cls::ParentSpec { pool: store.pool(), namespace: "ns".into(), image_id: id, snap };
        let add = crate::cls::children::add_child(rados::Operation::new(), &parent, "1234");
        crate::directory::change(&store, crate::names::CHILDREN, add).await.unwrap();
        let error = image.unprotect_snapshot("s1").await.unwrap_err();
        assert_eq!(
            (error.errno(), error.to_string().contains("rbd/1234")),
            (rados::Errno::EBUSY, true),
            "{error}"
        );
    });
}
