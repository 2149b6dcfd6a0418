//! Object maps and features of open images on a [`MemStore`](crate::MemStore).

use bytes::Bytes;
use ceph_codec::SnapId;
use rados::{Errno, OpError};

use super::maintain::Turn;
use super::object_map::Scan;
use super::{MaintenanceError, OperationError};
use crate::{Features, Flags, Image, MemStore, NewImage, OpenOptions, SnapshotFlags};

const OBJECT: u64 = 64 << 10;
const LOCK: u64 = Features::LAYERING.0 | Features::EXCLUSIVE_LOCK.0;

/// As an object map has them.
const MISSING: u8 = 0;
const EXISTS: u8 = 1;
const CLEAN: u8 = 3;

fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

fn new_store(features: u64) -> (MemStore, String) {
    let store = MemStore::new();
    let features = Features(features);
    let image = NewImage { name: "img".into(), size: 4 * OBJECT, order: 16, features, ..NewImage::default() };
    let id = store.create_image(&image).unwrap();
    (store, id)
}

async fn open(store: &MemStore) -> Image<MemStore> {
    Image::open(store.clone(), OpenOptions::image("img")).await.unwrap()
}

async fn write(image: &Image<MemStore>, object: u64) {
    image.write(object * OBJECT, Bytes::from_static(b"data")).await.unwrap();
}

async fn snapshot(image: &Image<MemStore>, name: &str) {
    image.create_snapshot(name, SnapshotFlags::default(), &()).await.unwrap();
}

async fn check(image: &Image<MemStore>) -> u64 {
    image.check_object_map(None, &()).await.unwrap()
}

#[test]
fn a_map_is_rebuilt_as_it_would_be_and_is_valid_then() {
    run(async {
        let (store, id) = new_store(61);
        let image = open(&store).await;
        write(&image, 0).await;
        write(&image, 2).await;
        snapshot(&image, "a").await;
        write(&image, 2).await;
        write(&image, 3).await;
        assert_eq!(check(&image).await, 0);
        let right = store.object_map(&id).unwrap();
        assert_eq!(right, [CLEAN, MISSING, EXISTS, EXISTS]);
        image.close().await;

        // Somebody has mixed it up.
        store.set_object_map(&id, SnapId::HEAD, vec![MISSING, CLEAN, CLEAN, EXISTS]);
        let image = open(&store).await;
        assert_eq!(check(&image).await, 2, "what may exist need not");
        assert_eq!(image.info().flags, Flags(3));
        image.rebuild_object_map(None, &()).await.unwrap();
        assert_eq!(image.info().flags, Flags(0));
        assert_eq!(store.object_map(&id).unwrap(), right);
        assert_eq!(check(&image).await, 0);
        write(&image, 1).await;
        assert_eq!(store.object_map(&id).unwrap(), [CLEAN, EXISTS, EXISTS, EXISTS], "and it is kept");
    });
}

#[test]
fn the_map_of_a_snapshot_is_checked_and_rebuilt_by_itself() {
    run(async {
        let (store, id) = new_store(61);
        let image = open(&store).await;
        write(&image, 0).await;
        snapshot(&image, "a").await;
        write(&image, 1).await;
        snapshot(&image, "b").await;
        image.close().await;
        let snap = image.snapshots()[0].id;
        store.set_object_map(&id, snap, vec![EXISTS; 2]);
        let image = open(&store).await;
        assert_eq!(image.check_object_map(Some("b"), &()).await.unwrap(), 1, "object 0 is clean");
        assert_eq!(image.check_object_map(Some("a"), &()).await.unwrap(), 0);
        image.refresh().await.unwrap();
        assert_eq!(image.snapshots()[0].flags, Flags(3));
        image.rebuild_object_map(Some("b"), &()).await.unwrap();
        assert_eq!(image.snapshots()[0].flags, Flags(0));
        assert_eq!(image.check_object_map(Some("b"), &()).await.unwrap(), 0);
        let error = image.rebuild_object_map(Some("c"), &()).await.unwrap_err();
        assert!(matches!(error, OperationError::NoSnapshot { .. }), "{error}");
    });
}

#[test]
fn a_rebuilt_map_is_as_long_as_the_image() {
    run(async {
        let (store, id) = new_store(61);
        let image = open(&store).await;
        write(&image, 0).await;
        image.close().await;
        // A client died when it had made the image smaller, but not yet its map.
        store.set_object_map(&id, SnapId::HEAD, vec![EXISTS, MISSING, MISSING, MISSING, EXISTS, EXISTS]);
        let image = open(&store).await;
        image.rebuild_object_map(None, &()).await.unwrap();
        assert_eq!(store.object_map(&id).unwrap(), [EXISTS, MISSING, MISSING, MISSING]);
        image.resize(5 * OBJECT, false, &()).await.unwrap();
        assert_eq!(image.info().flags, Flags(0));
        assert_eq!(check(&image).await, 0);
    });
}

#[test]
fn a_map_that_is_taken_away_and_made_anew_during_its_rebuild_is_not_overwritten() {
    run(async {
        let (store, _) = new_store(61);
        let image = open(&store).await;
        write(&image, 0).await;
        let scan = Scan::begin(&Turn::new(&image.0)).await.unwrap();
        assert!(scan.is_current(&image.0).unwrap());
        let map = Features::OBJECT_MAP.union(Features::FAST_DIFF);
        image.update_features(map, false).await.unwrap();
        image.update_features(map, true).await.unwrap();
        assert!(!scan.is_current(&image.0).unwrap(), "it does not know what was written since");
    });
}

/// Objects are written and removed all the time while the map is rebuilt.
#[test]
fn changes_during_a_rebuild_are_not_lost() {
    for seed in 0..20 {
        run(async {
            let (store, id) = new_store(61);
            let image = open(&store).await;
            write(&image, 0).await;
            write(&image, 1).await;
            store.set_jitter(9, seed);
            let changes = async {
                for round in 0..30u64 {
                    let object = round * 7 % 4;
                    match round % 3 {
                        0 => image.discard(object * OBJECT, OBJECT).await.unwrap(),
                        _ => write(&image, object).await,
                    }
                }
            };
            let rebuilds = async {
                for _ in 0..4 {
                    image.rebuild_object_map(None, &()).await.unwrap();
                    assert_eq!(check(&image).await, 0, "seed {seed}");
                }
            };
            futures::join!(changes, rebuilds);
            assert_eq!(check(&image).await, 0, "seed {seed}");
            let there: Vec<bool> =
                store.object_map(&id).unwrap().iter().map(|state| *state != MISSING).collect();
            image.close().await;
            for (object, there) in there.into_iter().enumerate() {
                let name = format!("rbd_data.{id}.{object:016x}");
                assert!(there || !store.objects().contains(&name), "seed {seed}: {name} is not in the map");
            }
        });
    }
}

#[test]
fn an_object_map_is_made_invalid_and_removed_with_all_of_its_snapshots() {
    run(async {
        let (store, id) = new_store(LOCK);
        let image = open(&store).await;
        write(&image, 0).await;
        snapshot(&image, "a").await;
        image.update_features(Features::FAST_DIFF, true).await.unwrap();
        assert_eq!(image.features(), Features(LOCK | Features::OBJECT_MAP.0 | Features::FAST_DIFF.0));
        assert_eq!((image.info().flags, image.snapshots()[0].flags), (Flags(3), Flags(3)));
        write(&image, 1).await;
        assert_eq!(store.object_map(&id).unwrap(), [MISSING, EXISTS, MISSING, MISSING], "it is kept at once");
        assert_eq!(image.read(0, 4).await.unwrap().to_vec(), b"data", "and not trusted");
        image.rebuild_object_map(None, &()).await.unwrap();
        image.rebuild_object_map(Some("a"), &()).await.unwrap();
        assert_eq!(store.object_map(&id).unwrap(), [CLEAN, EXISTS, MISSING, MISSING]);

        image.update_features(Features::OBJECT_MAP, false).await.unwrap();
        assert_eq!(image.features(), Features(LOCK));
        assert_eq!((image.info().flags, image.snapshots()[0].flags), (Flags(0), Flags(0)));
        assert!(!store.objects().iter().any(|name| name.starts_with("rbd_object_map")));
        write(&image, 2).await;
        assert!(!store.objects().iter().any(|name| name.starts_with("rbd_object_map")));
        let error = image.check_object_map(None, &()).await.unwrap_err();
        assert!(
            matches!(error, OperationError::Maintenance(MaintenanceError::NoObjectMap { .. })),
            "{error}"
        );
    });
}

#[test]
fn an_image_goes_on_without_the_lock_when_its_feature_is_gone() {
    run(async {
        let (store, _) = new_store(61);
        let image = open(&store).await;
        write(&image, 0).await;
        let error = image.update_features(Features::EXCLUSIVE_LOCK, false).await.unwrap_err();
        assert_eq!(error.errno(), Errno::EINVAL, "{error}");
        let all = Features(Features::EXCLUSIVE_LOCK.0 | Features::OBJECT_MAP.0 | Features::FAST_DIFF.0);
        image.update_features(all, false).await.unwrap();
        assert!(!image.is_lock_held());
        assert_eq!(image.lock_owner().await.unwrap(), None);
        write(&image, 1).await;
        assert!(!image.is_lock_held());
        image.update_features(all, true).await.unwrap();
        write(&image, 2).await;
        assert!(image.is_lock_held());
        image.rebuild_object_map(None, &()).await.unwrap();
        assert_eq!(check(&image).await, 0);
    });
}

#[test]
fn a_map_that_cannot_be_removed_is_opened_again() {
    run(async {
        let (store, id) = new_store(61);
        let image = open(&store).await;
        write(&image, 0).await;
        store.set_fault(|object, operation| {
            let map = object.starts_with("rbd_object_map") && operation.ops().len() == 1;
            let delete = operation.ops().iter().any(|op| matches!(op.kind, rados::OpKind::Delete));
            (map && delete).then_some(OpError::Errno(Errno::EIO))
        });
        assert!(image.update_features(Features::OBJECT_MAP, false).await.is_err());
        store.clear_fault();
        assert!(image.features().contains(Features::OBJECT_MAP));
        write(&image, 1).await;
        assert_eq!(store.object_map(&id).unwrap(), [EXISTS, EXISTS, MISSING, MISSING]);
    });
}
