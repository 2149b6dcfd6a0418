use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use ceph_codec::Decode;
use rados::Operation;

use super::*;
use crate::{MemStore, NewImage};
use ObjectState::{Exists, Nonexistent, Pending};

const OBJECTS: u64 = 64;

/// An image of 64 objects in a new cluster, and its ids.
fn image(store: &MemStore) -> MapOf {
    let size = OBJECTS << 22;
    let image_id =
        store.create_image(&NewImage { name: "disk".into(), size, ..NewImage::default() }).unwrap();
    MapOf {
        header_object: format!("rbd_header.{image_id}"),
        image_id,
        snap: SnapId::HEAD,
        objects: OBJECTS,
        invalid: false,
        fast_diff: true,
    }
}

async fn flags(store: &MemStore, of: &MapOf) -> u64 {
    let operation = Operation::new().call("rbd", "get_flags", SnapId::HEAD.encode_to_vec());
    let reply = store.read(&of.header_object, operation, SnapId::HEAD).await.unwrap();
    u64::decode_from(&reply.data(0)).unwrap()
}

async fn stored(store: &MemStore, of: &MapOf) -> States {
    let operation = Operation::new().call("rbd", "object_map_load", Bytes::new());
    let reply = store.read(&object_name(&of.image_id, of.snap), operation, SnapId::HEAD).await.unwrap();
    States::decode_from(&reply.data(0)).unwrap()
}

fn counting(store: &MemStore, of: &MapOf) -> Arc<AtomicU32> {
    let count = Arc::new(AtomicU32::new(0));
    let (counter, map) = (count.clone(), object_name(&of.image_id, of.snap));
    store.set_fault(move |object, operation| {
        counter.fetch_add(u32::from(object == map && operation.is_write()), Ordering::Relaxed);
        None
    });
    count
}

#[test]
fn snapshots_have_maps_of_their_own() {
    assert_eq!(object_name("1015", SnapId::HEAD), "rbd_object_map.1015");
    assert_eq!(object_name("1015", SnapId(0x1f)), "rbd_object_map.1015.000000000000001f");
}

#[tokio::test]
async fn updates_reach_the_stored_map() {
    let store = MemStore::new();
    let of = image(&store);
    let map = ObjectMap::load(store.clone(), of.clone()).await.unwrap();
    assert_eq!((map.len(), map.state(3), map.state(OBJECTS)), (OBJECTS, Nonexistent, Exists));
    assert!(map.needs_update(3, Exists) && !map.needs_update(3, Pending) && !map.may_exist(3));
    map.update(3..4, Exists, None).await.unwrap();
    assert!(!map.needs_update(3, Exists) && map.needs_update(3, Pending) && map.may_exist(3));
    map.update(3..4, Pending, Some(Exists)).await.unwrap();
    map.update(10..20, Exists, None).await.unwrap();
    map.update(3..4, Nonexistent, Some(Pending)).await.unwrap();
    let stored = stored(&store, &of).await;
    assert!((0..OBJECTS).all(|no| stored.get(no) == Some(map.state(no))));
    assert!((0..OBJECTS).all(|no| map.may_exist(no) == (10..20).contains(&no)));
    assert_eq!(flags(&store, &of).await, 0);
    map.close().await;
}

#[tokio::test]
async fn what_a_dead_owner_was_removing_counts_as_existing() {
    let store = MemStore::new();
    let of = image(&store);
    let dead = ObjectMap::load(store.connect(), of.clone()).await.unwrap();
    dead.update(3..6, Exists, None).await.unwrap();
    dead.update(4..5, Pending, None).await.unwrap();
    let map = ObjectMap::load(store.clone(), of.clone()).await.unwrap();
    let states = stored(&store, &of).await;
    for object in 0..OBJECTS {
        let state = if (3..6).contains(&object) { Exists } else { Nonexistent };
        assert_eq!((map.state(object), states.get(object)), (state, Some(state)), "object {object}");
    }
    assert_eq!(flags(&store, &of).await, 0);
}

#[tokio::test]
async fn many_who_wait_for_the_same_update_cost_one() {
    let store = MemStore::new();
    let of = image(&store);
    let map = ObjectMap::load(store.clone(), of.clone()).await.unwrap();
    let count = counting(&store, &of);
    store.hold();
    let updates = futures::future::join_all((0..40).map(|_| map.update(5..6, Exists, None)));
    let (done, ()) = futures::join!(updates, async {
        tokio::task::yield_now().await;
        store.resume();
    });
    assert!(done.iter().all(Result::is_ok));
    assert_eq!(count.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn neighbours_beyond_the_limit_cost_one() {
    let store = MemStore::new();
    let of = image(&store);
    let map = ObjectMap::load(store.clone(), of.clone()).await.unwrap();
    let count = counting(&store, &of);
    store.hold();
    let updates = futures::future::join_all((0..OBJECTS).map(|no| map.update(no..no + 1, Exists, None)));
    let (done, ()) = futures::join!(updates, async {
        tokio::task::yield_now().await;
        store.resume();
    });
    assert!(done.iter().all(Result::is_ok));
    let writes = count.load(Ordering::Relaxed);
    assert!((8..=10).contains(&writes), "{writes} operations for {OBJECTS} objects");
    assert!((0..OBJECTS).all(|no| map.state(no) == Exists));
}

#[tokio::test]
async fn an_object_with_an_update_under_way_is_not_passed_over() {
    let store = MemStore::new();
    let map = ObjectMap::load(store.clone(), image(&store)).await.unwrap();
    map.update(5..6, Exists, None).await.unwrap();
    store.hold();
    let removing = map.clone();
    let removal = tokio::spawn(async move { removing.update(5..6, Pending, Some(Exists)).await });
    tokio::task::yield_now().await;
    assert!(map.needs_update(5, Exists), "it is about to be pending");
    store.resume();
    removal.await.unwrap().unwrap();
    map.update(5..6, Exists, None).await.unwrap();
    assert_eq!(map.state(5), Exists);
}

#[tokio::test]
async fn a_failed_update_marks_the_map_as_invalid_and_lets_the_write_go_on() {
    let store = MemStore::new();
    let of = image(&store);
    let map = ObjectMap::load(store.clone(), of.clone()).await.unwrap();
    let name = object_name(&of.image_id, of.snap);
    store.set_fault(move |object, _| (object == name).then_some(OpError::Errno(Errno::EIO)));
    map.update(3..4, Exists, None).await.unwrap();
    assert!(map.is_invalid() && map.may_exist(60));
    store.clear_fault();
    assert_eq!(flags(&store, &of).await, FLAG_OBJECT_MAP_INVALID | FLAG_FAST_DIFF_INVALID);
}

#[tokio::test]
async fn a_map_that_cannot_even_be_marked_forbids_the_write() {
    let store = MemStore::new();
    let map = ObjectMap::load(store.clone(), image(&store)).await.unwrap();
    store.set_fault(|_, _| Some(OpError::Errno(Errno::EIO)));
    let failed = Err(ObjectMapError::Invalidate(OpError::Errno(Errno::EIO)));
    assert_eq!(map.update(3..4, Exists, None).await, failed);
    assert_eq!(map.state(3), Nonexistent, "so the next write tries again");
    assert_eq!(map.update(3..4, Exists, None).await, failed);
    store.clear_fault();
    map.update(3..4, Exists, None).await.unwrap();
}

#[tokio::test]
async fn a_predecessors_lock_of_the_map_is_broken_and_its_updates_fail() {
    let store = MemStore::new();
    let of = image(&store);
    let predecessor = ObjectMap::load(store.connect(), of.clone()).await.unwrap();
    let map = ObjectMap::load(store.clone(), of.clone()).await.unwrap();
    map.update(3..4, Exists, None).await.unwrap();
    assert!(!map.is_invalid());
    predecessor.update(4..5, Exists, None).await.unwrap();
    assert!(predecessor.is_invalid());
    assert_eq!(stored(&store, &of).await.get(4), Some(Nonexistent));
}

#[tokio::test]
async fn a_map_that_is_gone_is_invalid_and_says_that_everything_exists() {
    let store = MemStore::new();
    let of = image(&store);
    let name = object_name(&of.image_id, of.snap);
    store.write(&name, Operation::new().delete(), &SnapContext::default()).await.unwrap();
    let map = ObjectMap::load(store.clone(), of.clone()).await.unwrap();
    assert!(map.is_invalid() && map.state(9) == Exists);
    assert_ne!(flags(&store, &of).await, 0);
}

#[tokio::test]
async fn a_damaged_map_is_replaced_and_invalid() {
    let store = MemStore::new();
    let of = image(&store);
    let name = object_name(&of.image_id, of.snap);
    store.write(&name, Operation::new().write(18, "damage"), &SnapContext::default()).await.unwrap();
    let map = ObjectMap::load(store.clone(), of.clone()).await.unwrap();
    assert!(map.is_invalid() && map.state(9) == Exists);
    assert_eq!(stored(&store, &of).await.len(), OBJECTS);
}

#[tokio::test]
async fn a_map_that_is_too_small_grows() {
    let store = MemStore::new();
    let of = MapOf { objects: 2 * OBJECTS, ..image(&store) };
    let map = ObjectMap::load(store.clone(), of.clone()).await.unwrap();
    assert!(map.is_invalid());
    assert_eq!((map.len(), stored(&store, &of).await.len()), (2 * OBJECTS, 2 * OBJECTS));
}

#[tokio::test]
async fn an_image_may_be_too_large_for_a_map() {
    let store = MemStore::new();
    let of = MapOf { objects: MAX_OBJECTS + 1, ..image(&store) };
    let refused = ObjectMap::load(store.clone(), of.clone()).await.err();
    assert_eq!(refused, Some(ObjectMapError::TooLarge { objects: MAX_OBJECTS + 1 }));
}

#[tokio::test]
async fn a_dead_client_cannot_go_on() {
    let store = MemStore::new();
    let map = ObjectMap::load(store.clone(), image(&store)).await.unwrap();
    store.set_fault(|_, _| Some(crate::mem_store::blocklisted()));
    assert_eq!(
        map.update(3..4, Exists, None).await,
        Err(ObjectMapError::Store(crate::mem_store::blocklisted()))
    );
}
