//! What can be opened, and what is refused.

use super::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::{Config, OpenError, SnapshotRef, list_images, set_pool_config};
use ceph_codec::{PoolId, Utime};
use rados::{Errno, OpError, SnapContext};

async fn refused(store: &MemStore, options: OpenOptions) -> OpenError {
    let error = Image::open(store.clone(), options).await.unwrap_err();
    let details = Image::inspect(store, &OpenOptions::image("img")).await;
    assert!(details.is_ok_and(|details| details.watchers.is_empty()), "nothing is left behind");
    error
}

#[test]
fn info_says_what_rbd_info_says() {
    let (store, id) = new_store(&NewImage { size: 10 * MIB, order: 22, ..small(61) });
    run(async {
        let info = open(&store).await.info();
        assert_eq!(info.name.as_deref(), Some("img"));
        assert_eq!((info.size, info.objects, info.order, info.object_size), (10 * MIB, 3, 22, 4 * MIB));
        assert_eq!(info.block_name_prefix, format!("rbd_data.{id}"));
        assert_eq!(
            info.features.to_string(),
            "layering, exclusive-lock, object-map, fast-diff, deep-flatten"
        );
        assert_eq!((info.format, info.snapshot_count, info.data_pool, info.stripe_unit), (2, 0, None, None));
    });
}

#[test]
fn images_are_found_by_name_and_by_id() {
    let (store, id) = new_store(&small(61));
    store.create_image(&NewImage { name: "another".into(), ..small(61) }).unwrap();
    run(async {
        let by_id = Image::open(store.clone(), OpenOptions::new(ImageRef::Id(id.clone()))).await.unwrap();
        assert_eq!((by_id.id(), by_id.info().name.as_deref()), (id.as_str(), Some("img")));
        let names: Vec<_> = list_images(&store).await.unwrap().into_iter().map(|image| image.name).collect();
        assert_eq!(names, ["another", "img"]);
        let elsewhere = store.with_pool(PoolId(1), "ns").unwrap();
        assert_eq!(list_images(&elsewhere).await.unwrap(), []);
    });
}

#[test]
fn long_directories_are_read_page_by_page() {
    let store = MemStore::new();
    for number in 0..2500 {
        store.create_image(&NewImage { name: format!("image{number:04}"), ..small(1) }).unwrap();
    }
    let images = run(list_images(&store)).unwrap();
    assert_eq!((images.len(), images[2499].name.as_str()), (2500, "image2499"));
}

#[test]
fn what_is_not_there_is_named() {
    let (store, _) = new_store(&small(61));
    run(async {
        let error = refused(&store, OpenOptions::image("nope")).await;
        assert_eq!(error.to_string(), "image nope does not exist");
        let error = refused(&store, OpenOptions::new(ImageRef::Id("1234".into()))).await;
        assert_eq!(error.errno(), Errno::ENOENT);
        let options = OpenOptions::image("img").snapshot(SnapshotRef::Name("s".into()));
        assert_eq!(refused(&store, options).await.to_string(), "image img has no snapshot s");
        let options = OpenOptions::image("img").snapshot(SnapshotRef::Id(SnapId(9)));
        assert_eq!(refused(&store, options).await.to_string(), "image img has no snapshot 9");
    });
}

#[test]
fn format_1_is_refused_for_writing() {
    let (store, _) = new_store(&small(61));
    run(async {
        let header = rados::Operation::new().write_full("<<< Rados Block Device Image >>>\n");
        store.write("old.rbd", header, &SnapContext::default()).await.unwrap();
        let error = refused(&store, OpenOptions::image("old")).await;
        assert_eq!(error.to_string(), "image old has format 1, which can only be read");
        let help = error.help().unwrap();
        assert!(help.contains("read-only") && help.contains("rbd cp"), "{help}");
    });
}

#[test]
fn features_that_forbid_writing_allow_reading() {
    for (feature, name) in [(Features::JOURNALING, "journaling"), (Features::NON_PRIMARY, "non-primary")] {
        let (store, _) = new_store(&small(61 | feature.0));
        run(async {
            let error = refused(&store, OpenOptions::image("img")).await;
            assert!(error.to_string().contains(name), "{error}");
            assert!(error.help().is_some());
            let image = Image::open(store, OpenOptions::image("img").read_only()).await.unwrap();
            assert_eq!(read(&image, 0, 10).await, [0; 10]);
        });
    }
}

#[test]
fn features_that_forbid_reading_forbid_everything() {
    for (feature, name) in [(Features::MIGRATING, "migrating"), (Features::DIRTY_CACHE, "dirty-cache")] {
        let (store, _) = new_store(&small(61 | feature.0));
        run(async {
            for options in [OpenOptions::image("img"), OpenOptions::image("img").read_only()] {
                let error = refused(&store, options).await;
                assert!(error.to_string().contains(name) && error.help().is_some(), "{error}");
            }
        });
    }
}

#[test]
fn unknown_features_are_refused_where_the_osd_says_so() {
    let (store, _) = new_store(&small(61 | 1 << 20));
    run(async {
        let error = refused(&store, OpenOptions::image("img")).await;
        assert!(error.to_string().contains("0x100000"), "{error}");
        Image::open(store, OpenOptions::image("img").read_only()).await.unwrap();
    });
    let (store, _) = new_store(&small(61 | 1 << 40));
    run(async {
        let error = refused(&store, OpenOptions::image("img").read_only()).await;
        assert!(error.to_string().contains("0x10000000000"), "{error}");
    });
}

#[test]
fn a_missing_data_pool_is_named() {
    let (store, _) = new_store(&NewImage { data_pool: Some(PoolId(7)), ..small(61) });
    run(async {
        let error = refused(&store, OpenOptions::image("img")).await;
        assert_eq!(error.to_string(), "image img has its data in pool 7, which does not exist");
    });
}

#[test]
fn who_may_only_read_opens_without_a_watch() {
    let (store, id) = new_store(&small(61));
    run(async {
        // The class methods that read are allowed, a watch is a write.
        let header = names::header_object(&id);
        store.set_fault(move |object, operation| {
            (object == header && operation.is_empty()).then_some(OpError::Errno(Errno::EPERM))
        });
        let image = Image::open(store.clone(), OpenOptions::image("img").read_only()).await.unwrap();
        assert_eq!(read(&image, 0, 10).await, [0; 10]);
        let error = Image::open(store.clone(), OpenOptions::image("img")).await.unwrap_err();
        assert_eq!(error.to_string(), "cannot watch the header of image img");
        assert!(error.help().unwrap().contains("profile rbd"));
        image.close().await;
    });
}

#[test]
fn watchers_and_lock_owner_are_those_of_this_client() {
    let (store, _) = new_store(&small(61));
    run(async {
        let image = open(&store).await;
        assert_eq!(image.lock_owner().await.unwrap(), None);
        image.write(0, bytes(1, 1)).await.unwrap();
        let watchers = image.watchers().await.unwrap();
        let owner = image.lock_owner().await.unwrap().unwrap();
        assert_eq!(watchers.len(), 1);
        assert_eq!(owner.name, watchers[0].name);
        assert_eq!(owner.cookie, format!("auto {}", watchers[0].cookie));
        let details = Image::inspect(&store, &OpenOptions::image("img")).await.unwrap();
        assert_eq!((details.locks.owners, details.watchers), (vec![owner], watchers));
    });
}

#[test]
fn the_header_tells_when_an_image_was_last_read_and_changed_but_not_every_time() {
    let (store, _) = new_store(&small(61));
    let at = |sec| store.set_now(Utime { sec, nsec: 0 });
    let times = async || {
        // What is written beside the requests.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        let info = Image::inspect(&store, &OpenOptions::image("img")).await.unwrap().info;
        (info.access_timestamp.sec, info.modify_timestamp.sec)
    };
    run(async {
        let (made, _) = times().await;
        let image = open(&store).await;
        at(made + 59);
        image.write(0, bytes(1, 1)).await.unwrap();
        read(&image, 0, 1).await;
        assert_eq!(times().await, (made, made), "within the minute");
        at(made + 60);
        image.discard(0, 1).await.unwrap();
        assert_eq!(times().await, (made, made + 60));
        at(made + 61);
        read(&image, 0, 1).await;
        image.write(0, bytes(1, 1)).await.unwrap();
        assert_eq!(times().await, (made + 61, made + 60));

        let mut config = Config::default();
        config.set("rbd_mtime_update_interval", "0").unwrap();
        image.set_config(&config);
        at(made + 1000);
        image.write(0, bytes(1, 1)).await.unwrap();
        assert_eq!(times().await, (made + 61, made + 60), "not at all");

        let reader = Image::open(store.clone(), OpenOptions::image("img").read_only()).await.unwrap();
        read(&reader, 0, 1).await;
        assert_eq!(times().await, (made + 61, made + 60), "who opened it for reading only leaves no trace");
    });
}

#[test]
fn a_header_that_cannot_be_written_keeps_no_request_waiting_and_is_not_tried_again() {
    let (store, id) = new_store(&small(1));
    let header = names::header_object(&id);
    let attempts = Arc::new(AtomicUsize::new(0));
    let seen = attempts.clone();
    store.set_fault(move |object, operation| {
        let touched = object == header && format!("{operation:?}").contains("set_modify_timestamp");
        touched.then(|| {
            seen.fetch_add(1, Ordering::Relaxed);
            OpError::Errno(Errno::EPERM)
        })
    });
    run(async {
        let image = open(&store).await;
        for minute in 1..4 {
            store.set_now(Utime { sec: 2_000_000_000 + 60 * minute, nsec: 0 });
            image.write(0, bytes(1, 1)).await.unwrap();
            tokio::task::yield_now().await;
        }
        assert_eq!(attempts.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn a_pool_overrides_the_client_and_what_has_no_effect_is_told() {
    let (store, id) = new_store(&small(61));
    store.set_header_key(&id, "metadata_conf_rbd_qos_iops_limit", b"100".to_vec());
    store.set_header_key(&id, "metadata_conf_rbd_cache", b"false".to_vec());
    run(async {
        set_pool_config(&store, "rbd_discard_granularity_bytes", "4096").await.unwrap();
        set_pool_config(&store, "rbd_qos_bps_limit", "0").await.unwrap();
        set_pool_config(&store, "rbd_clone_copy_on_read", "true").await.unwrap();
        let options = OpenOptions::image("img").config(Config::default());
        let image = Image::open(store.clone(), options).await.unwrap();
        let ignored = image.ignored_options();
        let ignored: Vec<_> = ignored.iter().map(|o| (o.name, o.value.as_str(), o.source.name())).collect();
        let copied = ("rbd_clone_copy_on_read", "true", "pool");
        assert_eq!(ignored, [copied, ("rbd_qos_iops_limit", "100", "image")]);
        image.write(0, bytes(64 * KIB, 3)).await.unwrap();
        image.discard(0, 5000).await.unwrap();
        assert_eq!(read(&image, 0, 8192).await.iter().filter(|byte| **byte == 0).count(), 4096);
    });
}
