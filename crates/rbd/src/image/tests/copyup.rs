//! Changes of clones: what the live image and its snapshots hold, and what their object maps say.

use super::clones::{Family, family, golden, shape};
use super::*;
use crate::{ImageError, SnapshotFlags, SnapshotRef};
use ceph_codec::SnapId;
use futures::future::join_all;
use proptest::prelude::*;
use rados::{Errno, OpError};

const SIZE: u64 = 300 * KIB + 77;

#[derive(Debug, Clone)]
enum Request {
    Write { offset: u64, len: u64, seed: u8 },
    Discard { offset: u64, len: u64 },
    Zero { offset: u64, len: u64, may_unmap: bool },
    Snapshot,
    Resize { size: u64 },
    Flatten,
}

fn request() -> impl Strategy<Value = Request> {
    let range = || {
        (0..SIZE, 0u64..4, 1u64..100 * KIB).prop_map(|(offset, align, len)| {
            let unit = [1, 4 * KIB, 16 * KIB, 64 * KIB][align as usize];
            let offset = offset - offset % unit;
            (offset, len.next_multiple_of(unit).min(SIZE - offset))
        })
    };
    prop_oneof![
        4 => (range(), any::<u8>()).prop_map(|((offset, len), seed)| Request::Write { offset, len, seed }),
        2 => range().prop_map(|(offset, len)| Request::Discard { offset, len }),
        2 => (range(), any::<bool>())
            .prop_map(|((offset, len), may_unmap)| Request::Zero { offset, len, may_unmap }),
        2 => Just(Request::Snapshot),
        1 => (1..SIZE).prop_map(|size| Request::Resize { size }),
        1 => Just(Request::Flatten),
    ]
}

/// Data here and there, so that parts of objects and whole objects are zero.
fn patchy(written: u64, seed: u8) -> Vec<u8> {
    let mut contents = bytes(written, seed).to_vec();
    for (at, chunk) in contents.chunks_mut(20 * KIB as usize).enumerate() {
        if (at as u8).wrapping_mul(seed | 1).is_multiple_of(3) {
            chunk.fill(0);
        }
    }
    contents
}

/// What `rbd object-map check` would complain about.
async fn check_maps(family: &Family, features: Features, snaps: &[SnapId]) {
    let Family { store, id, .. } = family;
    let mut maps = vec![(SnapId::HEAD, store.object_map(id).unwrap())];
    maps.extend(snaps.iter().map(|snap| (*snap, store.snapshot_object_map(id, *snap).unwrap())));
    let next_valid = |from: u64| snaps.iter().copied().find(|snap| snap.0 >= from).unwrap_or(SnapId::HEAD);
    let objects = maps.iter().map(|(_, map)| map.len()).max().unwrap();
    for object in 0..objects {
        let name = names::data_object(&format!("rbd_data.{id}"), object as u64);
        let listed = store.read(&name, rados::Operation::new().list_snaps(), SnapId::DIR).await;
        let set = listed.ok().map(|reply| reply.outcome(0).unwrap().snap_set().unwrap());
        for (snap, map) in &maps {
            let mut expected = 0;
            for clone in set.iter().flat_map(|set| &set.clones) {
                let (from, to) = if clone.id == SnapId::HEAD {
                    (next_valid(set.as_ref().unwrap().seq.0 + 1), SnapId::HEAD)
                } else {
                    (next_valid(clone.snaps[0].0), *clone.snaps.last().unwrap())
                };
                if to >= *snap {
                    if from <= *snap {
                        let clean = features.contains(Features::FAST_DIFF) && from != *snap;
                        expected = if clean { 3 } else { 1 };
                    }
                    break;
                }
            }
            let Some(&found) = map.get(object) else {
                assert_eq!(expected, 0, "object {object} at {snap} is past the end");
                continue;
            };
            // What may exist need not.
            let fine = found == expected || (expected == 0 && found != 2);
            assert!(fine, "object {object} at {snap}: map says {found}, should be {expected}");
        }
    }
}

async fn check_snapshots(family: &Family, snapshots: &[(SnapId, Vec<u8>)]) {
    for (snap, contents) in snapshots {
        let options = OpenOptions::image("img").snapshot(SnapshotRef::Id(*snap));
        let snapshot = Image::open(family.store.connect(), options).await.unwrap();
        let found = read(&snapshot, 0, contents.len() as u64).await;
        let wrong = found.iter().zip(contents).position(|(a, b)| a != b);
        assert_eq!(wrong, None, "snapshot {snap}");
        snapshot.close().await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_clone_and_its_snapshots_hold_what_was_written_and_their_maps_are_right(
        of_parent in shape(), of_child in shape(),
        features in prop_oneof![Just(61), Just(29), Just(13), Just(5), Just(33), Just(1)],
        overlap in 1..SIZE, written in 1..SIZE, seed: u8, requests in prop::collection::vec(request(), 1..25),
    ) {
        run(async {
            let shaped = |name: &str, (order, striping), features| NewImage {
                name: name.into(), size: SIZE, order, striping, ..small(features)
            };
            let contents = patchy(written, seed);
            let child = shaped("img", of_child, features);
            let family = family(&shaped("golden", of_parent, 61), &contents, &child, overlap).await;
            let mut model = vec![0; SIZE as usize];
            let shared = written.min(overlap) as usize;
            model[..shared].copy_from_slice(&contents[..shared]);
            let image = open(&family.store).await;
            let mut snapshots = Vec::new();
            let mut flattened = false;
            for request in requests {
                let size = model.len() as u64;
                let clip = |offset: u64, len: u64| (offset.min(size), len.min(size - offset.min(size)));
                match request {
                    Request::Write { offset, len, seed } => {
                        let (offset, len) = clip(offset, len);
                        let data = bytes(len, seed);
                        model[offset as usize..(offset + len) as usize].copy_from_slice(&data);
                        image.write(offset, data).await.unwrap();
                    }
                    Request::Discard { offset, len } => {
                        let (offset, len) = clip(offset, len);
                        image.discard(offset, len).await.unwrap();
                        let now = read(&image, 0, size).await;
                        for at in offset as usize..(offset + len) as usize {
                            assert!(now[at] == 0 || now[at] == model[at], "a discard made up data at {at}");
                            model[at] = now[at];
                        }
                    }
                    Request::Zero { offset, len, may_unmap } => {
                        let (offset, len) = clip(offset, len);
                        model[offset as usize..(offset + len) as usize].fill(0);
                        image.write_zeroes(offset, len, may_unmap).await.unwrap();
                    }
                    Request::Snapshot => {
                        let name = format!("s{}", snapshots.len());
                        image.create_snapshot(&name, SnapshotFlags::default(), &()).await.unwrap();
                        snapshots.push((image.snapshots()[0].id, model.clone()));
                    }
                    Request::Resize { size } => {
                        image.resize(size, true, &()).await.unwrap();
                        model.resize(size as usize, 0);
                    }
                    Request::Flatten => {
                        flattened = image.flatten(&()).await.is_ok() || flattened;
                        assert!(flattened && image.0.parent().is_none());
                    }
                }
            }
            let deep = flattened && (features & 32 != 0 || snapshots.is_empty());
            if flattened {
                let header = format!("rbd_header.{}", family.parent_id);
                let children = crate::cls::children::children_list(family.snap).alone().0;
                let children = family.parents.read(&header, children, SnapId::HEAD).await;
                assert!(!deep || children.is_err_and(|error| error.is(Errno::ENOENT)));
                // The parent is not needed any more.
                let golden = format!("rbd_data.{}", family.parent_id);
                family.store.set_fault(move |object, _| {
                    object.starts_with(&golden).then_some(OpError::Errno(Errno::EIO))
                });
            }
            let size = model.len() as u64;
            let found = read(&image, 0, size).await;
            assert_eq!(found.iter().zip(&model).position(|(a, b)| a != b), None);
            if !deep {
                family.store.clear_fault();
            }
            check_snapshots(&family, &snapshots).await;
            let mut offset = 0;
            for extent in image.block_status(0, size, usize::MAX).await.unwrap() {
                let part = &model[offset..offset + extent.len as usize];
                assert!(!extent.hole || part.iter().all(|byte| *byte == 0), "a hole with data at {offset}");
                offset += extent.len as usize;
            }
            let features = image.features();
            image.close().await;
            if features.contains(Features::OBJECT_MAP) {
                let snaps: Vec<_> = snapshots.iter().map(|(snap, _)| *snap).collect();
                check_maps(&family, features, &snaps).await;
            }
        });
    }

    #[test]
    fn changes_of_one_object_at_the_same_time_lose_nothing(
        features in prop_oneof![Just(61), Just(1)], snaps in 0..3, turns in 0u32..6, seed: u32,
        kinds in prop::collection::vec(0u8..4, 64), die_after in prop::option::of(0u64..150),
    ) {
        run(async {
            // Four objects of 16 blocks.
            let contents = patchy(256 * KIB, seed as u8);
            let child = NewImage { size: 256 * KIB, ..small(features) };
            let family = family(&golden(), &contents, &child, 250 * KIB).await;
            let mut before = contents.clone();
            before[250 * KIB as usize..].fill(0);
            let snapshots: Vec<_> = (0..snaps)
                .map(|_| (family.store.create_snapshot(&family.id, "s").unwrap(), before.clone()))
                .collect();
            let image = open(&family.store).await;
            let mut config = Config::default();
            config.set("rbd_discard_granularity_bytes", "4096").unwrap();
            image.set_config(&config);
            family.store.set_jitter(turns, seed);
            if let Some(operations) = die_after {
                family.store.kill_after(operations);
            }
            let mut after = before.clone();
            let changes = kinds.iter().enumerate().map(|(block, kind)| {
                let at = block as u64 * 4 * KIB;
                let range = at as usize..(at + 4 * KIB) as usize;
                let data = bytes(4 * KIB, *kind + block as u8);
                match kind {
                    0 => {}
                    1 => after[range].copy_from_slice(&data),
                    _ => after[range].fill(0),
                }
                let image = &image;
                async move {
                    // A dead client's requests fail.
                    let _ = match kind {
                        0 => Ok(()),
                        1 => image.write(at, data).await,
                        2 => image.discard(at, 4 * KIB).await,
                        _ => image.write_zeroes(at, 4 * KIB, true).await,
                    };
                }
            });
            join_all(changes).await;
            let image = if die_after.is_some() {
                family.store.lose_watches();
                let options = OpenOptions::image("img").read_only();
                Image::open(family.store.connect(), options).await.unwrap()
            } else {
                image
            };
            let found = read(&image, 0, 256 * KIB).await;
            for (block, found) in found.chunks(4096).enumerate() {
                let range = block * 4096..(block + 1) * 4096;
                let (old, new) = (&before[range.clone()], &after[range]);
                assert!(found == new || (die_after.is_some() && found == old), "block {block}");
            }
            check_snapshots(&family, &snapshots).await;
            if features == 61 && die_after.is_none() {
                image.close().await;
                let snaps: Vec<_> = snapshots.iter().map(|(snap, _)| *snap).collect();
                check_maps(&family, image.features(), &snaps).await;
            }
        });
    }
}

#[test]
fn a_partial_write_takes_the_rest_from_the_parent() {
    run(async {
        let contents = bytes(MIB, 1);
        let family = family(&golden(), &contents, &small(61), MIB).await;
        let image = open(&family.store).await;
        image.write(70 * KIB, bytes(100, 2)).await.unwrap();
        let mut expected = contents.to_vec();
        expected[70 * KIB as usize..70 * KIB as usize + 100].copy_from_slice(&bytes(100, 2));
        assert_eq!(read(&image, 0, MIB).await, expected);
        assert_eq!(family.store.objects().iter().filter(|name| name.starts_with("rbd_data")).count(), 1);
    });
}

#[test]
fn a_write_that_replaces_all_of_the_parent_does_not_read_it() {
    run(async {
        let family = family(&golden(), &bytes(MIB, 1), &small(61), 100 * KIB).await;
        let image = open(&family.store).await;
        let golden = format!("rbd_data.{}", family.parent_id);
        family
            .store
            .set_fault(move |object, _| object.starts_with(&golden).then_some(OpError::Errno(Errno::EIO)));
        image.write(0, bytes(64 * KIB, 2)).await.unwrap();
        // The second object shares only its first 36 KiB.
        image.write_zeroes(64 * KIB, 36 * KIB, true).await.unwrap();
        let error = image.write(0, bytes(10, 2)).await;
        assert!(error.is_ok(), "the object is there now");
        image.write_zeroes(0, MIB, true).await.unwrap();
        assert_eq!(read(&image, 0, MIB).await, vec![0; MIB as usize], "and nothing shines through");
    });
}

#[test]
fn where_the_parent_has_only_zeroes_snapshots_get_no_objects() {
    run(async {
        let mut contents = bytes(128 * KIB, 1).to_vec();
        contents[..64 * KIB as usize].fill(0);
        let family = family(&golden(), &contents, &small(61), MIB).await;
        let snap = family.store.create_snapshot(&family.id, "s").unwrap();
        let image = open(&family.store).await;
        image.write(10, bytes(10, 2)).await.unwrap();
        image.write(64 * KIB + 10, bytes(10, 2)).await.unwrap();
        assert_eq!(family.store.snapshot_object_map(&family.id, snap).unwrap()[..3], [0, 1, 0]);
        assert_eq!(family.store.object_map(&family.id).unwrap()[..3], [1, 1, 0]);
        check_snapshots(&family, &[(snap, contents)]).await;
    });
}

#[test]
fn a_parent_that_cannot_be_read_fails_the_write_and_nothing_else() {
    run(async {
        let family = family(&golden(), &bytes(MIB, 1), &small(61), MIB).await;
        let image = open(&family.store).await;
        let golden = format!("rbd_data.{}", family.parent_id);
        family
            .store
            .set_fault(move |object, _| object.starts_with(&golden).then_some(OpError::Errno(Errno::EIO)));
        let error = image.write(10, bytes(10, 2)).await.unwrap_err();
        assert!(matches!(error, ImageError::Op { .. }) && error.errno() == Errno::EIO);
        family.store.clear_fault();
        image.write(10, bytes(10, 2)).await.unwrap();
        let mut expected = bytes(64 * KIB, 1).to_vec();
        expected[10..20].copy_from_slice(&bytes(10, 2));
        assert_eq!(read(&image, 0, 64 * KIB).await, expected);
    });
}

#[test]
fn a_map_of_a_snapshot_that_cannot_be_told_is_marked_as_invalid_first() {
    run(async {
        let family = family(&golden(), &bytes(MIB, 1), &small(61), MIB).await;
        let snap = family.store.create_snapshot(&family.id, "s").unwrap();
        let image = open(&family.store).await;
        let map = format!("rbd_object_map.{}.{:016x}", family.id, snap.0);
        family.store.set_fault(move |object, operation| {
            (object == map && operation.is_write()).then_some(OpError::Errno(Errno::EIO))
        });
        image.write(10, bytes(10, 2)).await.unwrap();
        family.store.clear_fault();
        let details = Image::inspect(&family.store, &OpenOptions::image("img")).await.unwrap();
        assert_eq!(details.snapshots[0].flags.to_string(), "object map invalid, fast diff invalid");
        assert_eq!(details.info.flags, crate::Flags::default());
        check_snapshots(&family, &[(snap, bytes(MIB, 1).to_vec())]).await;
    });
}

#[test]
fn writes_to_one_object_share_a_copy_up() {
    run(async {
        let family = family(&golden(), &bytes(MIB, 1), &small(61), MIB).await;
        let image = open(&family.store).await;
        let reads = Arc::new(AtomicU64::new(0));
        let (counter, golden) = (reads.clone(), format!("rbd_data.{}", family.parent_id));
        family.store.set_fault(move |object, _| {
            counter.fetch_add(u64::from(object.starts_with(&golden)), Ordering::Relaxed);
            None
        });
        family.store.set_jitter(5, 3);
        join_all((0..16).map(|block| image.write(block * 4 * KIB, bytes(100, 7)))).await;
        assert_eq!(reads.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn a_clone_is_flattened_while_it_is_written_to() {
    for features in [61, 1] {
        run(async {
            let contents = bytes(MIB, 1);
            let family = family(&golden(), &contents, &small(features), MIB).await;
            let image = open(&family.store).await;
            image.create_snapshot("before", SnapshotFlags::default(), &()).await.unwrap();
            let snapshots = [(image.snapshots()[0].id, contents.to_vec())];
            family.store.set_jitter(4, 1);
            let progress = tokio::sync::watch::Sender::new((0, 0));
            let writes = join_all((0..64).map(|at| image.write(at * 16 * KIB + 100, bytes(1000, 2))));
            let (flattened, written) = futures::join!(image.flatten(&progress), writes);
            flattened.unwrap();
            assert!(written.iter().all(Result::is_ok));
            assert_eq!(*progress.borrow(), (16, 16));
            assert!(image.info().parent.is_none() && image.0.parent().is_none());
            let golden = format!("rbd_data.{}", family.parent_id);
            family.store.set_fault(move |object, _| {
                object.starts_with(&golden).then_some(OpError::Errno(Errno::EIO))
            });
            let mut expected = contents.to_vec();
            for at in 0..64 {
                let at = at * 16 * KIB as usize + 100;
                expected[at..at + 1000].copy_from_slice(&bytes(1000, 2));
            }
            assert!(read(&image, 0, MIB).await == expected);
            if features == 61 {
                check_snapshots(&family, &snapshots).await;
                image.close().await;
                check_maps(&family, Features(61), &[snapshots[0].0]).await;
            }
        });
    }
}

#[test]
fn an_image_without_parent_cannot_be_flattened() {
    let (store, _) = new_store(&small(61));
    run(async {
        let error = open(&store).await.flatten(&()).await.unwrap_err();
        assert_eq!((error.to_string().as_str(), error.errno()), ("image img has no parent", Errno::EINVAL));
    });
}

#[test]
fn a_flatten_that_fails_leaves_the_parent() {
    run(async {
        let contents = bytes(MIB, 1);
        let family = family(&golden(), &contents, &small(61), MIB).await;
        let image = open(&family.store).await;
        let golden = format!("rbd_data.{}.000000000000000b", family.parent_id);
        family.store.set_fault(move |object, _| (object == golden).then_some(OpError::Errno(Errno::EIO)));
        assert_eq!(image.flatten(&()).await.unwrap_err().errno(), Errno::EIO);
        family.store.clear_fault();
        assert_eq!(read(&image, 0, MIB).await, contents);
        image.flatten(&()).await.unwrap();
        assert_eq!(read(&image, 0, MIB).await, contents);
    });
}
