use super::*;
use ceph_codec::SnapId;
use futures::FutureExt;
use rados::{Errno, WatchEvent};

const NO_SNAPS: fn() -> SnapContext = SnapContext::default;

fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("an operation in memory takes no time")
}

#[test]
fn an_operation_is_applied_as_a_whole_or_not_at_all() {
    let store = MemStore::new();
    let operation = Operation::new().write(0, "abc").create(true);
    let result = now(store.write("o", operation, &NO_SNAPS()));
    assert_eq!(result.unwrap_err().refusal(), Some(Errno::EEXIST));
    assert_eq!(store.objects(), Vec::<String>::new());
}

#[test]
fn pools_and_namespaces_are_apart() {
    let store = MemStore::new();
    let other = store.with_pool(PoolId(1), "ns").unwrap();
    now(other.write("o", Operation::new().create(true), &NO_SNAPS())).unwrap();
    assert_eq!((store.objects().len(), other.objects().len()), (0, 1));
    assert_eq!(store.with_pool(PoolId(2), "").unwrap_err(), OpError::NoPool(PoolId(2)));
}

#[test]
fn a_dead_client_changes_nothing() {
    let store = MemStore::new();
    store.kill_after(1);
    now(store.write("a", Operation::new().create(true), &NO_SNAPS())).unwrap();
    let late = now(store.write("b", Operation::new().create(true), &NO_SNAPS()));
    assert_eq!(late, Err(OpError::Shutdown));
    assert_eq!(store.connect().objects(), ["a"]);
}

#[test]
fn operations_that_are_held_go_in_order_when_resumed() {
    let store = MemStore::new();
    store.hold();
    let first = store.write("o", Operation::new().write_full("1"), &NO_SNAPS());
    let second = store.write("o", Operation::new().write_full("2"), &NO_SNAPS());
    drop(first); // does not withdraw it
    assert_eq!(store.objects(), Vec::<String>::new());
    store.resume();
    assert_eq!(now(second).unwrap().version, 2);
    let read = now(store.read("o", Operation::new().read(0, 9), SnapId::HEAD)).unwrap();
    assert_eq!(read.data(0), "2");
}

#[test]
fn a_blocklisted_client_is_told_so_and_loses_its_watches() {
    let store = MemStore::new();
    let other = store.connect();
    now(store.write("o", Operation::new().create(true), &NO_SNAPS())).unwrap();
    let mut watch = now(store.watch("o")).unwrap();
    now(other.blocklist(store.identity().1)).unwrap();
    assert!(store.is_blocklisted() && !other.is_blocklisted());
    assert_eq!(watch.events.try_recv(), Ok(WatchEvent::Lost(Errno::ENOTCONN)));
    let read = now(store.read("o", Operation::new().stat(), SnapId::HEAD));
    assert_eq!(read, Err(blocklisted()));
    let watchers = now(other.read("o", Operation::new().list_watchers(), SnapId::HEAD)).unwrap();
    assert_eq!(watchers.outcomes[0].watchers(), Ok(Vec::new()));
}

#[test]
fn a_notify_collects_answers_and_names_who_is_silent() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let store = MemStore::new();
        store.write("o", Operation::new().create(true), &NO_SNAPS()).await.unwrap();
        let mut watch = store.watch("o").await.unwrap();
        let silent = store.watch("o").await.unwrap();
        let notifier = store.connect();
        let notify = notifier.notify("o", "hello".into(), Duration::from_millis(20));
        let answer = async {
            let Some(WatchEvent::Notify { notify_id, payload, .. }) = watch.events.recv().await else {
                panic!("no notify");
            };
            assert_eq!(payload, "hello");
            store.acknowledge("o", watch.cookie, notify_id, "hi".into()).await.unwrap();
        };
        let (reply, ()) = futures::join!(notify, answer);
        let reply = reply.unwrap();
        let gid = store.identity().0;
        assert_eq!(reply.acks, [(gid, watch.cookie, Bytes::from_static(b"hi"))]);
        assert_eq!(reply.timeouts, [(gid, silent.cookie)]);
    });
}
