//! Diffs of images in memory.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use super::*;
use crate::{MemStore, NewImage, OpenOptions, SnapshotRef};

const KIB: u64 = 1 << 10;
const OBJECT: u64 = 64 * KIB;

struct Scene {
    store: MemStore,
    id: String,
    image: Image<MemStore>,
}

impl Scene {
    async fn new(image: NewImage) -> Self {
        let store = MemStore::new();
        let id = store.create_image(&NewImage { name: "disk".into(), order: 16, ..image }).unwrap();
        let image = Image::open(store.clone(), OpenOptions::image("disk")).await.unwrap();
        Self { store, id, image }
    }

    async fn write(&self, offset: u64, len: usize) {
        self.image.write(offset, Bytes::from(vec![7; len])).await.unwrap();
    }

    /// As another client would, while this one does not have the image open.
    async fn snapshot(&mut self, name: &str) {
        self.image.close().await;
        self.store.create_snapshot(&self.id, name).unwrap();
        self.image = Image::open(self.store.clone(), OpenOptions::image("disk")).await.unwrap();
    }

    async fn diff(&self, from: Option<&str>, to: Option<&str>, whole_object: bool) -> Vec<(u64, u64, bool)> {
        let image = match to {
            None => self.image.clone(),
            Some(name) => {
                let options = OpenOptions::image("disk").snapshot(SnapshotRef::Name(name.into()));
                Image::open(self.store.clone(), options).await.unwrap()
            }
        };
        let options = DiffOptions { from_snapshot: from.map(Into::into), whole_object, include_parent: true };
        let extents = image.diff(&options).await.unwrap();
        extents.map_ok(|e| (e.offset, e.len, e.exists)).try_collect().await.unwrap()
    }
}

fn runtime(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(test);
}

#[test]
fn bytes_or_whole_objects_since_a_snapshot() {
    runtime(async {
        let mut scene = Scene::new(NewImage { size: 8 * OBJECT, ..NewImage::default() }).await;
        scene.write(0, 8192).await;
        scene.write(2 * OBJECT, 65536).await;
        scene.snapshot("a").await;
        scene.write(5 * OBJECT + 4096, 4096).await;
        scene.image.write(4096, Bytes::from(vec![9; 4096])).await.unwrap();
        scene.image.discard(2 * OBJECT, OBJECT).await.unwrap();
        scene.snapshot("b").await;

        let start = [(0, 8192, true), (2 * OBJECT, OBJECT, true)];
        assert_eq!(scene.diff(None, Some("a"), false).await, start);
        let changed = [(4096, 4096, true), (2 * OBJECT, OBJECT, false), (5 * OBJECT, 8192, true)];
        assert_eq!(scene.diff(Some("a"), None, false).await, changed);
        assert_eq!(scene.diff(Some("a"), Some("b"), false).await, changed);
        let objects = [(0, OBJECT, true), (2 * OBJECT, OBJECT, false), (5 * OBJECT, OBJECT, true)];
        assert_eq!(scene.diff(Some("a"), None, true).await, objects);
        assert_eq!(scene.diff(Some("b"), None, true).await, []);
        assert_eq!(scene.image.disk_usage(None, false).await.unwrap(), 2 * OBJECT);
        assert_eq!(scene.image.disk_usage(None, true).await.unwrap(), 16384);
    });
}

#[test]
fn whole_objects_are_compared_one_by_one_where_the_maps_do_not_tell() {
    runtime(async {
        let image =
            NewImage { size: 8 * OBJECT, features: crate::Features::EXCLUSIVE_LOCK, ..NewImage::default() };
        let mut scene = Scene::new(image).await;
        scene.write(0, 8192).await;
        scene.snapshot("a").await;
        scene.write(5 * OBJECT + 4096, 4096).await;
        assert_eq!(scene.diff(Some("a"), None, true).await, [(5 * OBJECT, OBJECT, true)]);
    });
}

#[test]
fn extents_of_striped_objects_come_in_the_order_of_the_image() {
    runtime(async {
        let image = NewImage { size: 8 * OBJECT, striping: Some((16 * KIB, 2)), ..NewImage::default() };
        let scene = Scene::new(image).await;
        scene.write(16 * KIB, 48 * 1024).await;
        // Object 0 is written from its second stripe unit on, but is there from its start.
        assert_eq!(scene.diff(None, None, false).await, [(0, 64 * KIB, true)]);
        scene.write(5 * 32 * KIB, 4096).await;
        assert_eq!(
            scene.diff(None, None, true).await,
            [
                (0, 4 * 32 * KIB, true),
                (4 * 32 * KIB, 16 * KIB, true),
                (5 * 32 * KIB, 16 * KIB, true),
                (6 * 32 * KIB, 16 * KIB, true),
                (7 * 32 * KIB, 16 * KIB, true)
            ]
        );
    });
}

#[test]
fn a_diff_goes_forward_from_a_snapshot_that_exists() {
    runtime(async {
        let mut scene = Scene::new(NewImage { size: OBJECT, ..NewImage::default() }).await;
        scene.snapshot("a").await;
        scene.snapshot("b").await;
        let options = OpenOptions::image("disk").snapshot(SnapshotRef::Name("a".into()));
        let old = Image::open(scene.store.clone(), options).await.unwrap();
        let from = |name: &str| DiffOptions { from_snapshot: Some(name.into()), ..DiffOptions::default() };
        assert_eq!(old.diff(&from("a")).await.unwrap().count().await, 0);
        assert!(matches!(old.diff(&from("b")).await.err(), Some(OperationError::SnapshotOrder { .. })));
        assert!(matches!(old.diff(&from("c")).await.err(), Some(OperationError::NoSnapshot { .. })));
    });
}
