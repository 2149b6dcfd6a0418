//! Images that have a parent: opening, reading, and what goes away under them.

use super::*;
use crate::{Extent, ImageError, OpenError, SnapshotRef};
use ceph_codec::{PoolId, SnapId};
use proptest::prelude::*;
use rados::{Errno, OpError};

/// A clone of a snapshot of `parent`, which is named `golden`.
pub(super) struct Family {
    pub(super) parents: MemStore,
    pub(super) parent_id: String,
    pub(super) snap: SnapId,
    pub(super) store: MemStore,
    pub(super) id: String,
}

pub(super) fn golden() -> NewImage {
    NewImage { name: "golden".into(), ..small(61) }
}

/// Fills the parent with `contents`, and makes the clone in another pool.
pub(super) async fn family(parent: &NewImage, contents: &[u8], child: &NewImage, overlap: u64) -> Family {
    let parents = MemStore::new();
    let parent_id = parents.create_image(parent).unwrap();
    let image = Image::open(parents.clone(), OpenOptions::image(&parent.name)).await.unwrap();
    image.write(0, contents.to_vec().into()).await.unwrap();
    image.close().await;
    let snap = parents.create_snapshot(&parent_id, "base").unwrap();
    let store = parents.with_pool(parents.create_pool("vms"), "").unwrap();
    let id = store.create_clone(child, &parents, &parent_id, snap, overlap).unwrap();
    Family { parents, parent_id, snap, store, id }
}

async fn open_error(store: &MemStore) -> OpenError {
    Image::open(store.clone(), OpenOptions::image("img")).await.unwrap_err()
}

fn chain(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {}", chain(source)))
}

#[test]
fn what_a_clone_does_not_have_comes_from_its_parent() {
    run(async {
        let contents = bytes(200 * KIB, 1);
        let family = family(&golden(), &contents, &small(61), MIB).await;
        let image = open(&family.store).await;
        assert_eq!(read(&image, 0, 200 * KIB).await, contents);
        assert_eq!(read(&image, 199 * KIB, 3 * KIB).await[KIB as usize..], [0; 2048]);
        let expected = [Extent { len: 256 * KIB, hole: false }, Extent { len: 768 * KIB, hole: true }];
        assert_eq!(image.block_status(0, MIB, 10).await.unwrap(), expected);
        assert_eq!(image.block_status(MIB - 1, 1, 10).await.unwrap(), [Extent { len: 1, hole: true }]);
        let details = Image::inspect(&family.store, &OpenOptions::image("img")).await.unwrap();
        let parent = details.info.parent.unwrap();
        assert_eq!((parent.pool.as_str(), parent.image.as_str()), ("rbd", "golden"));
        assert_eq!((parent.snapshot.as_str(), parent.overlap, parent.trash), ("base", MIB, false));
        image.close().await;
        let details = Image::inspect(&family.parents, &OpenOptions::image("golden")).await.unwrap();
        assert_eq!(details.watchers, [], "the parent is closed with the clone");
    });
}

#[test]
fn what_lies_past_the_overlap_is_zero() {
    run(async {
        let contents = bytes(MIB, 1);
        let family = family(&golden(), &contents, &small(61), 100 * KIB + 5).await;
        let image = open(&family.store).await;
        let data = read(&image, 0, MIB).await;
        assert_eq!(data[..100 * KIB as usize + 5], contents[..100 * KIB as usize + 5]);
        assert!(data[100 * KIB as usize + 5..].iter().all(|byte| *byte == 0));
        let status = image.block_status(0, MIB, 10).await.unwrap();
        assert_eq!(status[0], Extent { len: 100 * KIB + 5, hole: false });
        assert_eq!(status[1], Extent { len: 924 * KIB - 5, hole: true });
    });
}

#[test]
fn a_parent_that_is_smaller_than_the_overlap_says_ends_where_it_ends() {
    run(async {
        let contents = bytes(MIB, 1);
        let child = NewImage { size: 2 * MIB, ..small(61) };
        let family = family(&golden(), &contents, &child, 2 * MIB).await;
        let image = open(&family.store).await;
        assert_eq!(read(&image, 0, 2 * MIB).await, [contents.to_vec(), vec![0; MIB as usize]].concat());
        let mut covered = 0;
        for extent in image.block_status(0, 2 * MIB, 10).await.unwrap() {
            covered += extent.len;
        }
        assert_eq!(covered, 2 * MIB);
    });
}

#[test]
fn long_chains_are_read_through_and_longer_ones_refused() {
    run(async {
        let contents = bytes(MIB, 1);
        let family = family(&golden(), &contents, &NewImage { name: "1".into(), ..small(1) }, MIB).await;
        let (store, mut id) = (&family.store, family.id);
        for depth in 2..=parent::MAX_CHAIN + 1 {
            let snap = store.create_snapshot(&id, "base").unwrap();
            let image = NewImage { name: depth.to_string(), ..small(1) };
            id = store.create_clone(&image, store, &id, snap, MIB).unwrap();
        }
        let options = |depth: usize| OpenOptions::image(depth.to_string());
        let deep = Image::open(store.clone(), options(parent::MAX_CHAIN)).await.unwrap();
        assert_eq!(read(&deep, 0, MIB).await, contents);
        assert!(!deep.block_status(0, MIB, 1).await.unwrap()[0].hole);
        deep.close().await;
        let error = Image::open(store.clone(), options(parent::MAX_CHAIN + 1)).await.unwrap_err();
        assert!(chain(&error).ends_with("more than 64 parents one behind the other are not supported"));
        assert!(error.help().unwrap().contains("rbd flatten"));
    });
}

#[test]
fn a_parent_of_itself_is_refused() {
    run(async {
        let family = family(&golden(), &bytes(MIB, 1), &small(61), MIB).await;
        let snap = family.store.create_snapshot(&family.id, "s").unwrap();
        family.parents.set_parent(&family.parent_id, &family.store, &family.id, snap, MIB);
        // The snapshots were taken before: theirs is the overlap that counts.
        family.parents.create_snapshot(&family.parent_id, "later").unwrap();
        let later = family.parents.create_snapshot(&family.parent_id, "later").unwrap();
        family.store.set_parent(&family.id, &family.parents, &family.parent_id, later, MIB);
        let error = open_error(&family.store).await;
        assert!(chain(&error).ends_with(": it is a parent of itself"), "{}", chain(&error));
        let details = Image::inspect(&family.store, &OpenOptions::image("img")).await.unwrap();
        assert_eq!(details.watchers, [], "nothing is left behind");
    });
}

#[test]
fn a_parent_that_cannot_be_opened_is_named() {
    run(async {
        let family = family(&golden(), &bytes(MIB, 1), &small(61), MIB).await;
        let parents = format!("rbd_header.{}", family.parent_id);
        family.store.set_fault(move |object, _| (object == parents).then_some(OpError::Errno(Errno::EPERM)));
        let error = open_error(&family.store).await;
        assert!(
            chain(&error).starts_with(&format!(
                "cannot open rbd/{0}@{1}, the parent of image img: cannot read the header of image {0}",
                family.parent_id, family.snap
            )),
            "{}",
            chain(&error)
        );
        assert_eq!(error.errno(), Errno::EPERM);
        let help = error.help().unwrap();
        assert_eq!(help, "the user needs the cap osd 'profile rbd-read-only pool=rbd'");
        family.store.clear_fault();

        family.parents.remove_snapshot(&family.parent_id, family.snap);
        let error = open_error(&family.store).await;
        assert_eq!(
            chain(&error),
            format!(
                "cannot open rbd/golden@{0}, the parent of image img: image golden has no snapshot {0}",
                family.snap
            )
        );
        let elsewhere = family.parents.with_pool(PoolId(1), "ns").unwrap();
        family.store.set_parent(&family.id, &elsewhere, "nope", SnapId(9), MIB);
        let error = open_error(&family.store).await;
        assert_eq!(
            chain(&error),
            "cannot open rbd/ns/nope@9, the parent of image img: image nope does not exist"
        );
    });
}

#[test]
fn who_may_only_read_the_parent_goes_without_its_watch() {
    run(async {
        let contents = bytes(MIB, 1);
        let family = family(&golden(), &contents, &small(61), MIB).await;
        let parents = format!("rbd_header.{}", family.parent_id);
        // Only a watch is no operation.
        family.store.set_fault(move |object, operation| {
            (object == parents && operation.is_empty()).then_some(OpError::Errno(Errno::EPERM))
        });
        let image = open(&family.store).await;
        assert_eq!(read(&image, 0, MIB).await, contents);
    });
}

#[test]
fn a_snapshot_of_a_clone_has_an_overlap_of_its_own() {
    run(async {
        let contents = bytes(MIB, 1);
        let family = family(&golden(), &contents, &small(61), MIB).await;
        let Family { store, id, parents, parent_id, snap, .. } = &family;
        store.create_snapshot(id, "all").unwrap();
        store.set_parent(id, parents, parent_id, *snap, 64 * KIB);
        store.create_snapshot(id, "some").unwrap();
        store.set_parent(id, parents, parent_id, *snap, 0);
        for (name, overlap) in [("all", MIB), ("some", 64 * KIB)] {
            let options = OpenOptions::image("img").snapshot(SnapshotRef::Name(name.into()));
            let snapshot = Image::open(store.clone(), options).await.unwrap();
            let mut expected = contents.to_vec();
            expected[overlap as usize..].fill(0);
            assert!(read(&snapshot, 0, MIB).await == expected, "{name}");
        }
        assert_eq!(read(&open(store).await, 0, MIB).await, vec![0; MIB as usize]);
    });
}

#[test]
fn a_parent_that_goes_away_is_followed() {
    run(async {
        let contents = bytes(MIB, 1);
        let family = family(&golden(), &contents, &small(61), MIB).await;
        let Family { store, id, parents, parent_id, snap } = &family;
        let image = open(store).await;
        assert_eq!(read(&image, 0, MIB).await, contents);
        // Another client flattens it, and the parent is removed.
        let copy = bytes(64 * KIB, 9);
        let object = names::data_object(&format!("rbd_data.{id}"), 1);
        let write = rados::Operation::new().write_full(copy.clone());
        store.connect().write(&object, write, &rados::SnapContext::default()).await.unwrap();
        store.set_parent(id, parents, parent_id, *snap, 0);
        parents.remove_snapshot(parent_id, *snap);
        announce(store, id).await;
        let mut expected = vec![0; MIB as usize];
        expected[64 * KIB as usize..128 * KIB as usize].copy_from_slice(&copy);
        assert!(read(&image, 0, MIB).await == expected);
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        let details = Image::inspect(parents, &OpenOptions::image("golden")).await.unwrap();
        assert_eq!(details.watchers, [], "nobody needs it any more");
    });
}

#[test]
fn a_parent_that_goes_away_during_a_read_is_not_missed() {
    // With and without a watch, which tells of it.
    for may_watch in [true, false] {
        run(async {
            let family = family(&golden(), &bytes(MIB, 1), &small(61), MIB).await;
            let Family { store, id, parents, parent_id, snap } = &family;
            let header = format!("rbd_header.{id}");
            if !may_watch {
                store.set_fault(move |object, operation| {
                    (object == header && operation.is_empty()).then_some(OpError::Errno(Errno::EPERM))
                });
            }
            let options = OpenOptions::image("img").read_only();
            let image = Image::open(store.clone(), options).await.unwrap();
            store.clear_fault();
            // The clone's object is found missing, and then there is much to do before the parent is asked.
            let copy = bytes(64 * KIB, 9);
            let object = names::data_object(&format!("rbd_data.{id}"), 1);
            let other = store.connect();
            let golden = format!("rbd_data.{parent_id}");
            let (mut flattened, done) = (Some((copy.clone(), other.clone())), Arc::new(AtomicU64::new(0)));
            let seen = done.clone();
            let (flattening, of) =
                (store.connect(), (id.clone(), parents.connect(), parent_id.clone(), *snap));
            store.set_fault(move |name, _| {
                if name.starts_with(&golden)
                    && let Some((copy, other)) = flattened.take()
                {
                    let write = rados::Operation::new().write_full(copy);
                    drop(other.write(&object, write, &rados::SnapContext::default()));
                    let (id, parents, parent_id, snap) = &of;
                    flattening.set_parent(id, parents, parent_id, *snap, 0);
                    parents.remove_snapshot(parent_id, *snap);
                    let (flattening, id) = (flattening.clone(), id.clone());
                    if may_watch {
                        tokio::spawn(async move { announce(&flattening, &id).await });
                    }
                    seen.fetch_add(1, Ordering::Relaxed);
                    return Some(OpError::Errno(Errno::ENOENT));
                }
                None
            });
            store.set_jitter(8, 7);
            let first = image.read(64 * KIB, 64 * KIB).await;
            assert_eq!(done.load(Ordering::Relaxed), 1);
            if may_watch {
                assert_eq!(first.unwrap().to_vec(), copy);
            }
            assert_eq!(read(&image, 64 * KIB, 64 * KIB).await, copy);
        });
    }
}

#[test]
fn the_map_of_a_snapshot_of_a_clone_is_read_again_when_its_parent_goes() {
    run(async {
        let family = family(&golden(), &bytes(MIB, 1), &small(61), MIB).await;
        let Family { store, id, parents, parent_id, snap } = &family;
        let own = store.create_snapshot(id, "s").unwrap();
        let options = OpenOptions::image("img").snapshot(SnapshotRef::Id(own));
        let snapshot = Image::open(store.clone(), options).await.unwrap();
        assert_eq!(read(&snapshot, 0, MIB).await, bytes(MIB, 1));
        // A deep flatten: the object appears in the snapshot as well, and in its map.
        let copy = bytes(64 * KIB, 9);
        let object = names::data_object(&format!("rbd_data.{id}"), 1);
        let write = rados::Operation::new().write_full(copy.clone());
        let other = store.connect();
        other.write(&object, write, &rados::SnapContext::default()).await.unwrap();
        let map = format!("rbd_object_map.{id}.{:016x}", own.0);
        let mut input = Vec::new();
        ceph_codec::Encode::encode(&((1u64, 2u64), (1u8, None::<u8>)), &mut input);
        let update = rados::Operation::new().call_mut("rbd", "object_map_update", input);
        other.write(&map, update, &rados::SnapContext::default()).await.unwrap();
        store.set_header_key(id, &format!("snapshot_{:016x}", own.0), snapshot_record(own));
        store.set_parent(id, parents, parent_id, *snap, 0);
        announce(store, id).await;
        let mut expected = vec![0; MIB as usize];
        expected[64 * KIB as usize..128 * KIB as usize].copy_from_slice(&copy);
        assert!(read(&snapshot, 0, MIB).await == expected);
    });
}

/// A snapshot without parent, as headers keep it.
fn snapshot_record(id: SnapId) -> Vec<u8> {
    use ceph_codec::{Encode, Utime, versioned};
    let mut out = Vec::new();
    versioned(&mut out, 8, 8, |out| {
        id.encode(out);
        ("s", MIB).encode(out);
        (0u8, 0u64).encode(out);
        versioned(out, 1, 1, |out| 0u32.encode(out));
        Utime::default().encode(out);
        0u32.encode(out);
        None::<u64>.encode(out);
    });
    out
}

#[test]
fn an_error_of_the_parent_is_no_hole() {
    run(async {
        let family = family(&golden(), &bytes(MIB, 1), &small(61), MIB).await;
        let image = open(&family.store).await;
        let golden = format!("rbd_data.{}", family.parent_id);
        family
            .store
            .set_fault(move |object, _| object.starts_with(&golden).then_some(OpError::Errno(Errno::EIO)));
        assert!(matches!(image.read(0, 10).await, Err(ImageError::Op { .. })));
        family.store.clear_fault();
        assert_eq!(read(&image, 0, 10).await, bytes(10, 1));
    });
}

pub(super) fn shape() -> impl Strategy<Value = (u8, Option<(u64, u64)>)> {
    prop_oneof![
        Just((12, None)),
        Just((14, None)),
        Just((17, None)),
        Just((14, Some((4 * KIB, 3)))),
        Just((14, Some((512, 2)))),
        Just((16, Some((64 * KIB, 7)))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn parents_of_any_layout_are_read_from_anywhere(
        of_parent in shape(), of_child in shape(), overlap in 1..300 * KIB, written in 1..300 * KIB,
        ranges in prop::collection::vec((0..320 * KIB, 1..100 * KIB), 1..8),
    ) {
        run(async {
            let size = 320 * KIB;
            let shaped = |name: &str, (order, striping)| NewImage { name: name.into(), size, order, striping, ..small(61) };
            let contents = bytes(written, 3);
            let family = family(&shaped("golden", of_parent), &contents, &shaped("img", of_child), overlap).await;
            let mut expected = vec![0; size as usize];
            let shared = written.min(overlap) as usize;
            expected[..shared].copy_from_slice(&contents[..shared]);
            let image = open(&family.store).await;
            for (offset, len) in ranges {
                let len = len.min(size - offset);
                let data = read(&image, offset, len).await;
                assert!(data == expected[offset as usize..(offset + len) as usize], "{len} bytes at {offset}");
                let (mut at, mut covered) = (offset as usize, 0);
                for extent in image.block_status(offset, len, 1000).await.unwrap() {
                    let part = &expected[at..at + extent.len as usize];
                    assert!(!extent.hole || part.iter().all(|byte| *byte == 0), "a hole with data at {at}");
                    at += extent.len as usize;
                    covered += extent.len;
                }
                assert_eq!(covered, len);
            }
        });
    }
}
