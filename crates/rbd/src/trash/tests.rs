//! Images in the trash of a store in memory.

use super::*;
use crate::{Config, CreateOptions, Image, MemStore, OpenOptions, create_image, list_images};

const HOUR: Duration = Duration::from_secs(3600);

async fn image(store: &MemStore, name: &str) -> String {
    create_image(store, &Config::default(), name, 10 << 20, &CreateOptions::default()).await.unwrap()
}

async fn names(store: &MemStore) -> Vec<String> {
    list_images(store).await.unwrap().into_iter().map(|image| image.name).collect()
}

fn later(store: &MemStore, duration: Duration) {
    let now = store.now();
    store.set_now(Utime { sec: now.sec + u32::try_from(duration.as_secs()).unwrap(), ..now });
}

#[tokio::test]
async fn an_image_can_be_had_back_under_its_name_or_another() {
    let store = MemStore::new();
    let id = image(&store, "disk").await;
    let objects = store.objects();
    assert_eq!(move_to_trash(&store, "disk", Duration::ZERO).await.unwrap(), id);
    assert_eq!(names(&store).await, Vec::<String>::new());
    let entry = &list_trash(&store).await.unwrap()[0];
    assert_eq!(
        (entry.name.as_str(), entry.source, entry.state),
        ("disk", TrashSource::User, TrashState::Normal)
    );
    restore_from_trash(&store, &id, None).await.unwrap();
    assert_eq!((names(&store).await, list_trash(&store).await.unwrap()), (vec!["disk".into()], vec![]));
    assert_eq!(store.objects(), [&objects[..], &["rbd_trash".to_owned()]].concat());
    move_to_trash(&store, "disk", Duration::ZERO).await.unwrap();
    restore_from_trash(&store, &id, Some("new")).await.unwrap();
    assert_eq!(names(&store).await, ["new"]);
    Image::open(store.clone(), OpenOptions::image("new")).await.unwrap().close().await;
}

#[tokio::test]
async fn a_name_that_is_taken_meanwhile_is_not_given_twice() {
    let store = MemStore::new();
    let id = image(&store, "disk").await;
    move_to_trash(&store, "disk", Duration::ZERO).await.unwrap();
    let second = image(&store, "disk").await;
    let error = restore_from_trash(&store, &id, None).await.unwrap_err();
    assert_eq!(error.errno(), Errno::EEXIST, "{error}");
    assert_eq!(directory::id_of(&store, "disk").await.unwrap(), second);
    assert_eq!(list_trash(&store).await.unwrap()[0].state, TrashState::Normal);
    restore_from_trash(&store, &id, Some("old")).await.unwrap();
}

#[tokio::test]
async fn an_image_is_protected_until_its_time_comes() {
    let store = MemStore::new();
    let id = image(&store, "disk").await;
    move_to_trash(&store, "disk", HOUR).await.unwrap();
    let error = remove_from_trash(&store, &id, false, &()).await.unwrap_err();
    assert_eq!(error.to_string(), format!("image {id} is protected from removal for another 3600 s"));
    assert_eq!(error.errno(), Errno::EPERM);
    assert_eq!(check_remove_from_trash(&store, &id, true).await.unwrap().name, "disk");
    later(&store, HOUR);
    remove_from_trash(&store, &id, false, &()).await.unwrap();
    assert_eq!(store.objects(), ["rbd_directory", "rbd_info", "rbd_trash"]);
    assert_eq!(remove_from_trash(&store, &id, false, &()).await.unwrap_err().errno(), Errno::ENOENT);
}

#[tokio::test]
async fn force_removes_what_is_protected() {
    let store = MemStore::new();
    let id = image(&store, "disk").await;
    move_to_trash(&store, "disk", HOUR).await.unwrap();
    remove_from_trash(&store, &id, true, &()).await.unwrap();
    assert_eq!(list_trash(&store).await.unwrap(), []);
}

#[tokio::test]
async fn a_purge_removes_what_has_expired() {
    let store = MemStore::new();
    let (old, new) = (image(&store, "old").await, image(&store, "new").await);
    move_to_trash(&store, "old", Duration::ZERO).await.unwrap();
    move_to_trash(&store, "new", HOUR).await.unwrap();
    let ids = |entries: &[TrashEntry]| entries.iter().map(|entry| entry.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&check_purge_trash(&store, None).await.unwrap()), [old]);
    let purge = async |before| {
        let entries = check_purge_trash(&store, before).await.unwrap();
        purge_trash(&store, entries, &()).await
    };
    purge(None).await.unwrap();
    assert_eq!(ids(&list_trash(&store).await.unwrap()), [new]);
    purge(Some(Utime { sec: store.now().sec + 3600, nsec: 0 })).await.unwrap();
    assert_eq!(list_trash(&store).await.unwrap(), []);
}

#[tokio::test]
async fn a_purge_goes_on_after_an_image_that_must_stay_and_tells_of_it() {
    let store = MemStore::new();
    let (kept, gone) = (image(&store, "kept").await, image(&store, "gone").await);
    store.create_snapshot(&kept, "s").unwrap();
    for name in ["kept", "gone"] {
        move_to_trash(&store, name, Duration::ZERO).await.unwrap();
    }
    let error = purge_trash(&store, check_purge_trash(&store, None).await.unwrap(), &()).await.unwrap_err();
    assert_eq!(error.errno(), Errno(39), "{error}");
    let left = list_trash(&store).await.unwrap();
    assert_eq!((left.len(), &left[0].id, left[0].state), (1, &kept, TrashState::Normal), "{gone}");
}

#[tokio::test]
async fn every_way_that_was_interrupted_can_be_gone_on_with() {
    for crash in 0.. {
        let store = MemStore::new();
        let id = image(&store, "disk").await;
        let doomed = store.connect();
        doomed.kill_after(crash);
        let moved = move_to_trash(&doomed, "disk", HOUR).await.is_ok();
        let restored = moved && restore_from_trash(&doomed, &id, None).await.is_ok();
        let complete = restored && list_images(&doomed).await.is_ok();
        doomed.lose_watches();
        if !moved {
            move_to_trash(&store, "disk", HOUR).await.unwrap();
        }
        let entries = list_trash(&store).await.unwrap();
        if let [entry] = &entries[..] {
            assert_eq!((entry.id.as_str(), entry.name.as_str()), (id.as_str(), "disk"), "after {crash}");
            restore_from_trash(&store, &id, None).await.unwrap();
        }
        assert_eq!((names(&store).await, list_trash(&store).await.unwrap()), (vec!["disk".into()], vec![]));
        Image::open(store.clone(), OpenOptions::image("disk")).await.unwrap().close().await;
        if complete {
            break;
        }
    }
}

#[test]
fn notices_are_encoded_as_ceph_declares_them() {
    assert_eq!(Notice::Removed("id").encode_to_vec(), b"\x01\x01\x0a\0\0\0\x01\0\0\0\x02\0\0\0id");
}
