//! What reads and changes do to objects.

use super::*;
use crate::{Config, ImageError, SnapshotRef};
use rados::{Errno, OpError};

#[test]
fn what_was_never_written_is_a_hole() {
    let (store, _) = new_store(&small(61));
    run(async {
        let image = open(&store).await;
        let data = image.read(0, MIB).await.unwrap();
        assert_eq!(data.segments(), [Segment::Hole(MIB)]);
        image.write(100, bytes(10, 1)).await.unwrap();
        let data = image.read(0, 70 * KIB).await.unwrap();
        assert_eq!(data.len(), 70 * KIB);
        assert_eq!(data.to_vec()[100..110], bytes(10, 1));
        assert_eq!(data.to_vec()[110..], vec![0; 70 * KIB as usize - 110]);
    });
}

#[test]
fn a_request_over_several_objects_is_one_to_the_user() {
    let (store, _) = new_store(&small(61));
    run(async {
        let image = open(&store).await;
        let data = bytes(200 * KIB, 7);
        image.write(60 * KIB, data.clone()).await.unwrap();
        assert_eq!(read(&image, 60 * KIB, 200 * KIB).await, data);
        assert_eq!(data_objects(&store), 5);
    });
}

#[test]
fn a_write_to_an_object_that_exists_is_one_operation() {
    let (store, _) = new_store(&small(61));
    run(async {
        let image = open(&store).await;
        image.write(0, bytes(4096, 1)).await.unwrap();
        let count = count_operations(&store);
        image.write(8192, bytes(4096, 2)).await.unwrap();
        assert_eq!(count.load(Ordering::Relaxed), 1);
        read(&image, 8192, 4096).await;
        assert_eq!(count.load(Ordering::Relaxed), 2);
    });
}

#[test]
fn a_whole_object_replaces_what_was_there() {
    let (store, _) = new_store(&small(61));
    run(async {
        let image = open(&store).await;
        image.write(0, bytes(64 * KIB, 1)).await.unwrap();
        image.write(0, bytes(64 * KIB, 2)).await.unwrap();
        assert_eq!(read(&image, 0, 64 * KIB).await, bytes(64 * KIB, 2));
    });
}

#[test]
fn a_range_past_the_end_is_refused_and_changes_nothing() {
    let (store, _) = new_store(&small(61));
    run(async {
        let image = open(&store).await;
        for (offset, len) in [(MIB, 1), (MIB - 1, 2), (u64::MAX, 2)] {
            assert!(matches!(image.read(offset, len).await, Err(ImageError::OutOfRange { .. })));
            assert!(matches!(image.discard(offset, len).await, Err(ImageError::OutOfRange { .. })));
        }
        let written = image.write(MIB - 1, bytes(2, 1)).await;
        assert!(matches!(
            written,
            Err(ImageError::OutOfRange { offset: 1_048_575, len: 2, size: 1_048_576 })
        ));
        assert!(!image.is_lock_held());
        assert_eq!(data_objects(&store), 0);
    });
}

#[test]
fn nothing_asked_for_is_nothing_done() {
    let (store, _) = new_store(&small(61));
    run(async {
        let image = open(&store).await;
        assert!(image.read(MIB, 0).await.unwrap().is_empty());
        image.write(MIB, Bytes::new()).await.unwrap();
        image.discard(MIB, 0).await.unwrap();
        image.write_zeroes(MIB, 0, false).await.unwrap();
        assert_eq!(image.block_status(MIB, 0, 10).await.unwrap(), []);
        assert_eq!(data_objects(&store), 0);
    });
}

#[test]
fn a_discard_keeps_what_is_no_whole_granule() {
    let image = NewImage { order: 22, size: 16 * MIB, ..small(61) };
    let (store, id) = new_store(&image);
    run(async {
        let image = open(&store).await;
        let data = bytes(8 * MIB, 3);
        image.write(0, data.clone()).await.unwrap();
        image.discard(0, 4096).await.unwrap();
        assert_eq!(read(&image, 0, 4096).await, data[..4096], "too small to free anything");
        image.discard(100 * KIB, 200 * KIB).await.unwrap();
        let mut expected = data.to_vec();
        expected[128 * KIB as usize..256 * KIB as usize].fill(0);
        assert_eq!(read(&image, 0, 8 * MIB).await, expected, "only [128k, 256k) is cleared");
        image.discard(4 * MIB, 4 * MIB).await.unwrap();
        assert_eq!(data_objects(&store), 1, "a whole object is removed");
        assert_eq!(store.object_map(&id).unwrap(), [1, 0, 0, 0]);
        image.discard(0, 16 * MIB).await.unwrap();
        assert_eq!(data_objects(&store), 0);
        assert_eq!(store.object_map(&id).unwrap(), [0; 4]);
    });
}

#[test]
fn an_image_may_set_the_granularity_of_discards() {
    let (store, id) = new_store(&small(61));
    store.set_header_key(&id, "metadata_conf_rbd_discard_granularity_bytes", b"4096".to_vec());
    run(async {
        let image = open(&store).await;
        image.write(0, bytes(64 * KIB, 3)).await.unwrap();
        image.discard(0, 5000).await.unwrap();
        let data = read(&image, 0, 64 * KIB).await;
        assert!(data[..4096].iter().all(|byte| *byte == 0) && data[4096..5000].iter().all(|byte| *byte != 0));
    });
}

#[test]
fn the_host_sets_the_granularity_of_discards_where_the_image_does_not() {
    let cleared = |metadata: &[u8], skip_partial: &str, granularity: &str| {
        let (store, id) = new_store(&small(61));
        if !metadata.is_empty() {
            store.set_header_key(&id, "metadata_conf_rbd_discard_granularity_bytes", metadata.to_vec());
        }
        run(async {
            let image = open(&store).await;
            let mut config = Config::default();
            config.set("rbd_skip_partial_discard", skip_partial).unwrap();
            config.set("rbd_discard_granularity_bytes", granularity).unwrap();
            image.set_config(&config);
            image.write(0, bytes(64 * KIB, 3)).await.unwrap();
            image.discard(0, 9000).await.unwrap();
            read(&image, 0, 64 * KIB).await.iter().take_while(|byte| **byte == 0).count()
        })
    };
    assert_eq!(cleared(b"", "true", "65536"), 0);
    assert_eq!(cleared(b"", "true", "8192"), 8192);
    assert_eq!(cleared(b"4096", "true", "65536"), 8192);
    assert_eq!(cleared(b"", "false", "65536"), 9000);
    assert_eq!(cleared(b"4096", "false", "65536"), 9000);
    assert_eq!(cleared(b"many", "true", "8192"), 8192, "no number");
}

#[test]
fn zeroes_are_exact() {
    for may_unmap in [false, true] {
        let (store, _) = new_store(&small(61));
        run(async {
            let image = open(&store).await;
            let data = bytes(256 * KIB, 5);
            image.write(0, data.clone()).await.unwrap();
            image.write_zeroes(1000, 190 * KIB, may_unmap).await.unwrap();
            let mut expected = data.to_vec();
            expected[1000..1000 + 190 * KIB as usize].fill(0);
            assert_eq!(read(&image, 0, 256 * KIB).await, expected);
            assert_eq!(data_objects(&store), if may_unmap { 3 } else { 4 }, "objects 1 is given up or kept");
        });
    }
}

#[test]
fn zeroes_that_may_not_unmap_make_space() {
    let (store, id) = new_store(&small(61));
    run(async {
        let image = open(&store).await;
        image.write_zeroes(0, 128 * KIB, true).await.unwrap();
        assert_eq!(data_objects(&store), 0);
        image.write_zeroes(0, 128 * KIB, false).await.unwrap();
        assert_eq!(data_objects(&store), 2);
        assert_eq!(store.object_map(&id).unwrap()[..3], [1, 1, 0]);
    });
}

#[test]
fn large_objects_are_filled_with_zeroes_to_their_end() {
    let (store, _) = new_store(&NewImage { order: 24, size: 48 * MIB, ..small(61) });
    run(async {
        let image = open(&store).await;
        image.write(0, bytes(48 * MIB, 5)).await.unwrap();
        image.write_zeroes(10, 33 * MIB, false).await.unwrap();
        let data = read(&image, 0, 48 * MIB).await;
        let zero = |byte: &u8| *byte == 0;
        assert!(!data[..10].iter().any(zero));
        assert!(data[10..10 + 33 * MIB as usize].iter().all(zero));
        assert!(!data[10 + 33 * MIB as usize..].iter().any(zero));
    });
}

#[test]
fn all_requests_that_clear_many_objects_get_their_turn() {
    let (store, _) = new_store(&small(61));
    run(async {
        let image = open(&store).await;
        image.write(0, bytes(MIB, 1)).await.unwrap();
        let clears = (0..50).map(|_| image.write_zeroes(0, MIB, true));
        futures::future::try_join_all(clears).await.unwrap();
        assert_eq!(data_objects(&store), 0);
    });
}

#[test]
fn the_status_comes_from_the_map_of_whoever_keeps_it() {
    let (store, _) = new_store(&small(61));
    run(async {
        let image = open(&store).await;
        let other = Image::open(store.connect(), OpenOptions::image("img").read_only()).await.unwrap();
        image.write(64 * KIB, bytes(10, 1)).await.unwrap();
        let expected = [
            Extent { len: 64 * KIB, hole: true },
            Extent { len: 64 * KIB, hole: false },
            Extent { len: 896 * KIB, hole: true },
        ];
        assert_eq!(image.block_status(0, MIB, 10).await.unwrap(), expected);
        assert_eq!(other.block_status(0, MIB, 10).await.unwrap(), expected);
        image.write(MIB - 1, bytes(1, 1)).await.unwrap();
        assert_eq!(other.block_status(900 * KIB, 124 * KIB, 10).await.unwrap().len(), 2, "never outdated");
        assert_eq!(image.block_status(0, MIB, 2).await.unwrap(), expected[..2], "no more than asked for");
        assert_eq!(image.block_status(100, 10, 1).await.unwrap(), [Extent { len: 10, hole: true }]);
    });
}

#[test]
fn the_status_comes_from_the_objects_where_no_map_can_be_trusted() {
    for (features, flags) in [(1, 0u64), (61, 1)] {
        let (store, id) = new_store(&small(features));
        store.set_header_key(&id, "flags", flags.to_le_bytes().to_vec());
        run(async {
            let image = open(&store).await;
            image.write(64 * KIB, bytes(10, 1)).await.unwrap();
            let expected = [
                Extent { len: 64 * KIB, hole: true },
                Extent { len: 10, hole: false },
                Extent { len: 960 * KIB - 10, hole: true },
            ];
            assert_eq!(image.block_status(0, MIB, 10).await.unwrap(), expected);
        });
    }
}

#[test]
fn a_read_that_the_cluster_refuses_is_no_hole() {
    let (store, _) = new_store(&small(61));
    run(async {
        let image = open(&store).await;
        image.write(0, bytes(10, 1)).await.unwrap();
        store.set_fault(|object, _| object.starts_with("rbd_data").then_some(OpError::Errno(Errno::EIO)));
        assert_eq!(image.read(0, 10).await.unwrap_err().errno(), Errno::EIO);
        assert_eq!(image.write(0, bytes(10, 1)).await.unwrap_err().errno(), Errno::EIO);
        store.clear_fault();
        assert_eq!(read(&image, 0, 10).await, bytes(10, 1));
    });
}

/// `NoPool` has the errno of a missing object.
#[test]
fn in_a_pool_that_is_gone_nothing_is_a_hole_and_nothing_succeeds() {
    for features in [1, 61] {
        let (store, _) = new_store(&small(features));
        run(async {
            let image = open(&store).await;
            image.write(0, bytes(MIB, 1)).await.unwrap();
            let pool = ceph_codec::PoolId(1);
            store.set_fault(move |object, _| object.starts_with("rbd_data").then_some(OpError::NoPool(pool)));
            let no_pool = |result: Result<(), ImageError>| match result.unwrap_err() {
                ImageError::Op { source, .. } => assert_eq!(source, OpError::NoPool(pool)),
                other => panic!("{other}"),
            };
            no_pool(image.read(0, 10).await.map(drop));
            no_pool(image.write(0, bytes(10, 2)).await);
            no_pool(image.write(0, bytes(64 * KIB, 2)).await);
            no_pool(image.discard(0, MIB).await);
            no_pool(image.write_zeroes(0, 10, true).await);
            no_pool(image.write_zeroes(0, 10, false).await);
        });
    }
}

#[test]
fn striped_images_of_any_shape_hold_what_was_written() {
    for (unit, count) in [(4 * KIB, 3), (64 * KIB, 5), (16 * KIB, 16)] {
        let (store, _) = new_store(&NewImage { striping: Some((unit, count)), ..small(61) });
        run(async {
            let image = open(&store).await;
            let data = bytes(700 * KIB, 9);
            image.write(33 * KIB + 5, data.clone()).await.unwrap();
            assert_eq!(read(&image, 33 * KIB + 5, 700 * KIB).await, data);
            assert_eq!(image.info().stripe_count, Some(count));
        });
    }
}

#[test]
fn data_go_to_the_data_pool() {
    let store = MemStore::new();
    let pool = store.create_pool("data");
    let id = store.create_image(&NewImage { data_pool: Some(pool), ..small(61) }).unwrap();
    run(async {
        let image = open(&store).await;
        image.write(0, bytes(10, 1)).await.unwrap();
        assert_eq!(data_objects(&store), 0);
        let data = store.with_pool(pool, "").unwrap();
        assert_eq!(data.objects(), [format!("rbd_data.1.{id}.0000000000000000")]);
        assert_eq!(image.info().data_pool.as_deref(), Some("data"));
        assert_eq!(read(&image, 0, 10).await, bytes(10, 1));
    });
}

#[test]
fn a_snapshot_keeps_what_was_there() {
    let (store, id) = new_store(&small(61));
    run(async {
        let image = open(&store).await;
        image.write(0, bytes(64 * KIB, 1)).await.unwrap();
        image.write(128 * KIB, bytes(64 * KIB, 1)).await.unwrap();
        image.close().await;
        let snap = store.create_snapshot(&id, "before").unwrap();
        let image = open(&store).await;
        image.write(100, bytes(1000, 2)).await.unwrap();
        image.write(64 * KIB, bytes(1000, 2)).await.unwrap();
        image.discard(128 * KIB, 64 * KIB).await.unwrap();
        for snapshot in [SnapshotRef::Name("before".into()), SnapshotRef::Id(snap)] {
            let options = OpenOptions::image("img").snapshot(snapshot);
            let snapshot = Image::open(store.connect(), options).await.unwrap();
            assert!(snapshot.is_read_only());
            assert_eq!(read(&snapshot, 0, 64 * KIB).await, bytes(64 * KIB, 1));
            assert_eq!(read(&snapshot, 64 * KIB, 64 * KIB).await, vec![0; 64 * KIB as usize]);
            assert_eq!(read(&snapshot, 128 * KIB, 64 * KIB).await, bytes(64 * KIB, 1));
            let status = snapshot.block_status(0, 192 * KIB, 9).await.unwrap();
            assert_eq!(status.iter().map(|e| e.hole).collect::<Vec<_>>(), [false, true, false]);
            assert!(matches!(snapshot.write(0, bytes(1, 1)).await, Err(ImageError::ReadOnly)));
        }
        assert_eq!(store.object_map(&id).unwrap()[..3], [1, 1, 0]);
    });
}
