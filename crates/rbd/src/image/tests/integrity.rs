//! Data and object map after many requests, other clients, and sudden death.

use super::*;
use futures::future::join_all;
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Request {
    Write { offset: u64, len: u64, seed: u8 },
    Discard { offset: u64, len: u64 },
    Zero { offset: u64, len: u64, may_unmap: bool },
    Snapshot,
}

const SIZE: u64 = 300 * KIB + 77;

fn request() -> impl Strategy<Value = Request> {
    let range = || {
        (0..SIZE, 0u64..3, 1u64..100 * KIB).prop_map(|(offset, align, len)| {
            // Whole objects and granules are more interesting than arbitrary places.
            let unit = [1, 4 * KIB, 16 * KIB][align as usize];
            let offset = offset - offset % unit;
            let len = len.next_multiple_of(unit).min(SIZE - offset);
            (offset, len)
        })
    };
    prop_oneof![
        4 => (range(), any::<u8>()).prop_map(|((offset, len), seed)| Request::Write { offset, len, seed }),
        2 => range().prop_map(|(offset, len)| Request::Discard { offset, len }),
        2 => (range(), any::<bool>())
            .prop_map(|((offset, len), may_unmap)| Request::Zero { offset, len, may_unmap }),
        1 => Just(Request::Snapshot),
    ]
}

fn image() -> impl Strategy<Value = NewImage> {
    let shapes = prop_oneof![
        Just((12, None)),
        Just((14, None)),
        Just((17, None)),
        Just((22, None)),
        Just((14, Some((4 * KIB, 3)))),
        Just((14, Some((512, 2)))),
        Just((16, Some((64 * KIB, 7)))),
    ];
    (shapes, prop_oneof![Just(61), Just(5), Just(1)]).prop_map(|((order, striping), features)| NewImage {
        order,
        striping,
        size: SIZE,
        ..small(features)
    })
}

/// What a discard clears is up to the image; what it leaves must be what was there.
fn apply_discard(model: &mut [u8], now: &[u8], offset: u64, len: u64) {
    for at in offset as usize..(offset + len) as usize {
        assert!(now[at] == 0 || now[at] == model[at], "a discard made up data at {at}");
        model[at] = now[at];
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn an_image_holds_what_was_written_and_its_map_is_right(
        image in image(), requests in prop::collection::vec(request(), 1..25),
    ) {
        let (store, id) = new_store(&image);
        run(async {
            let image = open(&store).await;
            let mut model = vec![0; SIZE as usize];
            let mut snapshots = Vec::new();
            for request in requests {
                match request {
                    Request::Write { offset, len, seed } => {
                        let data = bytes(len, seed);
                        model[offset as usize..(offset + len) as usize].copy_from_slice(&data);
                        image.write(offset, data).await.unwrap();
                    }
                    Request::Discard { offset, len } => {
                        image.discard(offset, len).await.unwrap();
                        apply_discard(&mut model, &read(&image, 0, SIZE).await, offset, len);
                    }
                    Request::Zero { offset, len, may_unmap } => {
                        model[offset as usize..(offset + len) as usize].fill(0);
                        image.write_zeroes(offset, len, may_unmap).await.unwrap();
                    }
                    // With an object map this takes the lock, which another test does.
                    Request::Snapshot if image.features().contains(Features::OBJECT_MAP) => {}
                    Request::Snapshot => {
                        snapshots.push((store.create_snapshot(&id, "s").unwrap(), model.clone()));
                        announce(&store, &id).await;
                    }
                }
            }
            assert!(read(&image, 0, SIZE).await == model);
            for (snap, contents) in snapshots {
                let options = OpenOptions::image("img").snapshot(SnapshotRef::Id(snap));
                let snapshot = Image::open(store.connect(), options).await.unwrap();
                assert!(read(&snapshot, 0, SIZE).await == contents);
            }
            let status = image.block_status(0, SIZE, usize::MAX).await.unwrap();
            let mut offset = 0;
            for extent in status {
                let part = &model[offset..offset + extent.len as usize];
                assert!(!extent.hole || part.iter().all(|byte| *byte == 0), "a hole with data at {offset}");
                offset += extent.len as usize;
            }
            assert_eq!(offset as u64, SIZE);
            image.close().await;
            if image.features().contains(Features::OBJECT_MAP) {
                check_map(&store, &id, true);
            }
        });
    }

    #[test]
    fn whenever_a_client_dies_the_map_misses_no_object(
        requests in prop::collection::vec(request(), 1..25), operations in 0u64..120, turns in 0u32..4,
        seed: u32,
    ) {
        let (store, id) = new_store(&NewImage { order: 14, size: SIZE, ..small(61) });
        run(async {
            let image = open(&store).await;
            store.set_jitter(turns, seed);
            store.kill_after(operations);
            // All at once, so that requests of the same object meet at every stage.
            join_all(requests.iter().map(|request| submit(&image, request))).await;
            store.lose_watches();
            check_map(&store, &id, false);
        });
    }

    #[test]
    fn requests_at_the_same_time_leave_a_map_that_misses_no_object(
        requests in prop::collection::vec(request(), 1..40), turns in 0u32..6, seed: u32,
    ) {
        let (store, id) = new_store(&NewImage { order: 14, size: SIZE, ..small(61) });
        run(async {
            let image = open(&store).await;
            store.set_jitter(turns, seed);
            join_all(requests.iter().map(|request| submit(&image, request))).await;
            check_map(&store, &id, false);
            // What is not overlapped by anything else later is exact, and all is after one more removal.
            image.write_zeroes(0, SIZE, true).await.unwrap();
            image.close().await;
            check_map(&store, &id, false);
        });
    }
}

async fn submit(image: &Image<MemStore>, request: &Request) {
    // A dead client's requests fail.
    let _ = match request {
        Request::Write { offset, len, seed } => image.write(*offset, bytes(*len, *seed)).await,
        Request::Discard { offset, len } => image.discard(*offset, *len).await,
        Request::Zero { offset, len, may_unmap } => image.write_zeroes(*offset, *len, *may_unmap).await,
        Request::Snapshot => Ok(()),
    };
}

#[test]
fn a_map_that_cannot_be_updated_is_marked_as_invalid_before_the_data_go_on() {
    let (store, id) = new_store(&small(61));
    run(async {
        let image = open(&store).await;
        image.write(0, bytes(10, 1)).await.unwrap();
        store.set_fault(|object, operation| {
            (object.starts_with("rbd_object_map") && operation.is_write())
                .then_some(rados::OpError::Errno(rados::Errno::EIO))
        });
        image.write(64 * KIB, bytes(10, 1)).await.unwrap();
        store.clear_fault();
        assert_eq!(store.object_map(&id).unwrap()[1], 0);
        let details = Image::inspect(&store, &OpenOptions::image("img")).await.unwrap();
        assert_eq!(details.info.flags.to_string(), "object map invalid, fast diff invalid");
        assert_eq!(read(&image, 64 * KIB, 10).await, bytes(10, 1), "the map is not believed any more");
        assert!(!image.block_status(64 * KIB, 10, 1).await.unwrap()[0].hole);
    });
}

#[test]
fn a_dead_owner_is_succeeded_and_its_late_writes_do_not_arrive() {
    let (store, id) = new_store(&small(61));
    run(async {
        let dead = open(&store).await;
        dead.write(0, bytes(10, 1)).await.unwrap();
        store.kill_after(0);
        store.lose_watches();
        let heir = open(&store.connect()).await;
        heir.write(64 * KIB, bytes(10, 2)).await.unwrap();
        assert!(dead.write(0, bytes(10, 9)).await.is_err());
        assert_eq!(read(&heir, 0, 10).await, bytes(10, 1));
        heir.close().await;
        check_map(&store, &id, true);
    });
}

#[test]
fn two_clients_that_write_all_the_time_lose_nothing() {
    let (store, id) = new_store(&small(61));
    run(async {
        let clients = [store.clone(), store.connect()];
        let images = [open(&clients[0]).await, open(&clients[1]).await];
        clients[0].set_jitter(3, 1);
        clients[1].set_jitter(3, 2);
        let writers = images.iter().enumerate().map(|(who, image)| async move {
            for round in 0..40u64 {
                let block = 2 * (round * 7 % 32) + who as u64;
                image.write(block * 4 * KIB, bytes(4 * KIB, (block * 3) as u8)).await.unwrap();
            }
        });
        join_all(writers).await;
        for block in (0..40u64).flat_map(|round| [2 * (round * 7 % 32), 2 * (round * 7 % 32) + 1]) {
            let expected = bytes(4 * KIB, (block * 3) as u8);
            assert_eq!(read(&images[0], block * 4 * KIB, 4 * KIB).await, expected);
        }
        for image in &images {
            image.close().await;
        }
        check_map(&store, &id, true);
    });
}
