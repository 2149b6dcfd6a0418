//! An image among other clients, from opening to closing.

use super::*;
use crate::ImageError;
use futures::FutureExt;
use rados::{Errno, OpError};

#[test]
fn images_go_to_any_thread() {
    fn check<T: Send + Sync + 'static>() {}
    check::<Image<MemStore>>();
}

#[test]
fn closing_leaves_nothing_behind() {
    let (store, _) = new_store(&small(61));
    run(async {
        let image = open(&store).await;
        image.write(0, bytes(10, 1)).await.unwrap();
        assert!(image.is_lock_held());
        image.close().await;
        let details = Image::inspect(&store, &OpenOptions::image("img")).await.unwrap();
        assert_eq!((details.watchers, details.locks.owners), (Vec::new(), Vec::new()));
        assert!(matches!(image.write(0, bytes(10, 1)).await, Err(ImageError::Closed)));
        image.close().await;
    });
}

#[test]
fn images_without_the_feature_take_no_lock() {
    let (store, _) = new_store(&small(1));
    run(async {
        let image = open(&store).await;
        image.write(0, bytes(10, 1)).await.unwrap();
        assert_eq!(image.lock_owner().await.unwrap(), None);
        image.close().await;
    });
}

#[test]
fn a_flush_waits_for_what_is_under_way() {
    let (store, _) = new_store(&small(61));
    run(async {
        let image = open(&store).await;
        image.write(0, bytes(10, 1)).await.unwrap();
        assert!(image.flush().now_or_never().is_some());
        store.hold();
        let mut write = Box::pin(image.write(0, bytes(10, 2)));
        assert!(write.as_mut().now_or_never().is_none());
        let mut flush = Box::pin(image.flush());
        assert!(flush.as_mut().now_or_never().is_none());
        store.resume();
        write.await.unwrap();
        assert!(flush.now_or_never().is_some());
    });
}

#[test]
fn a_write_that_nobody_waits_for_is_finished_before_the_lock_is_given_up() {
    let (store, _) = new_store(&small(61));
    run(async {
        let image = open(&store).await;
        image.write(0, bytes(10, 1)).await.unwrap();
        store.hold();
        let mut write = Box::pin(image.write(0, bytes(10, 2)));
        assert!(write.as_mut().now_or_never().is_none());
        drop(write);
        let closing = tokio::spawn({
            let image = image.clone();
            async move { image.close().await }
        });
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(!closing.is_finished());
        store.resume();
        closing.await.unwrap();
        let again = open(&store).await;
        assert_eq!(read(&again, 0, 10).await, bytes(10, 2));
    });
}

#[test]
fn a_snapshot_taken_by_another_client_holds_what_was_acknowledged_before() {
    // Without exclusive lock nobody stops writing for a snapshot: the notify is all there is.
    let (store, id) = new_store(&small(1));
    run(async {
        let image = open(&store).await;
        image.write(0, bytes(10, 1)).await.unwrap();
        let other = store.connect();
        other.create_snapshot(&id, "s").unwrap();
        announce(&other, &id).await;
        image.write(0, bytes(10, 2)).await.unwrap();
        let options = OpenOptions::image("img").snapshot(SnapshotRef::Name("s".into()));
        let snapshot = Image::open(other, options).await.unwrap();
        assert_eq!(read(&snapshot, 0, 10).await, bytes(10, 1));
        assert_eq!(image.snapshots()[0].name, "s");
    });
}

#[test]
fn a_write_with_an_old_snapshot_context_starts_again_with_a_new_one() {
    let (store, id) = new_store(&small(1));
    run(async {
        let image = open(&store).await;
        image.write(0, bytes(10, 1)).await.unwrap();
        store.create_snapshot(&id, "s").unwrap();
        let mut first = true;
        store.set_fault(move |object, _| {
            (object.starts_with("rbd_data") && std::mem::take(&mut first))
                .then_some(OpError::Errno(Errno::EOLDSNAPC))
        });
        image.write(0, bytes(10, 2)).await.unwrap();
        let options = OpenOptions::image("img").snapshot(SnapshotRef::Name("s".into()));
        let snapshot = Image::open(store.connect(), options).await.unwrap();
        assert_eq!(read(&snapshot, 0, 10).await, bytes(10, 1));
    });
}

#[test]
fn a_new_size_is_seen() {
    let (store, id) = new_store(&small(61));
    run(async {
        let image = open(&store).await;
        assert_eq!(image.size(), MIB);
        store.resize_image(&id, 2 * MIB).unwrap();
        announce(&store.connect(), &id).await;
        image.write(2 * MIB - 1, bytes(1, 1)).await.unwrap();
        assert_eq!(image.size(), 2 * MIB);
        image.close().await;
        store.resize_image(&id, MIB / 2).unwrap();
        let image = open(&store).await;
        assert!(matches!(image.read(MIB / 2, 1).await, Err(ImageError::OutOfRange { .. })));
    });
}

#[test]
fn a_snapshot_that_is_removed_while_open_is_an_error_and_no_hole() {
    let (store, id) = new_store(&small(61));
    run(async {
        let snap = store.create_snapshot(&id, "s").unwrap();
        let options = OpenOptions::image("img").snapshot(SnapshotRef::Id(snap));
        let image = Image::open(store.clone(), options).await.unwrap();
        store.remove_snapshot(&id, snap);
        announce(&store.connect(), &id).await;
        assert!(matches!(image.read(0, 1).await, Err(ImageError::SnapshotGone)));
        assert_eq!(image.size(), 0);
    });
}

#[test]
fn a_feature_that_forbids_writing_stops_an_open_image() {
    let (store, id) = new_store(&small(61));
    run(async {
        let image = open(&store).await;
        store.set_header_key(&id, "features", (61u64 | 64).to_le_bytes().to_vec());
        announce(&store.connect(), &id).await;
        let error = image.write(0, bytes(1, 1)).await.unwrap_err();
        assert!(matches!(&error, ImageError::Refresh(source) if source.to_string().contains("journaling")));
        assert_eq!(error.errno(), Errno::EROFS);
        store.set_header_key(&id, "features", 61u64.to_le_bytes().to_vec());
        image.write(0, bytes(1, 1)).await.unwrap();
    });
}

#[test]
fn two_clients_take_turns_and_see_each_others_data() {
    let (store, id) = new_store(&small(61));
    run(async {
        let first = open(&store).await;
        let second = open(&store.connect()).await;
        for round in 0..3 {
            first.write(0, bytes(10, round)).await.unwrap();
            assert_eq!(read(&second, 0, 10).await, bytes(10, round));
            second.write(u64::from(round) * 64 * KIB, bytes(10, round + 100)).await.unwrap();
            assert_eq!(read(&first, u64::from(round) * 64 * KIB, 10).await, bytes(10, round + 100));
            assert!(!first.is_lock_held() && second.is_lock_held());
        }
        first.close().await;
        second.close().await;
        check_map(&store, &id, true);
    });
}

#[test]
fn who_was_blocklisted_does_not_answer_from_memory() {
    let (store, _) = new_store(&small(61));
    run(async {
        let image = open(&store).await;
        image.write(0, bytes(10, 1)).await.unwrap();
        assert_eq!(read(&image, 64 * KIB, 10).await, [0; 10], "known from the object map");
        store.connect().blocklist(store.identity().1).await.unwrap();
        assert!(image.is_blocklisted());
        assert_eq!(image.read(64 * KIB, 10).await.unwrap_err().errno(), Errno::EBLOCKLISTED);
        assert_eq!(image.write(0, bytes(10, 1)).await.unwrap_err().errno(), Errno::EBLOCKLISTED);
        image.close().await;
    });
}
