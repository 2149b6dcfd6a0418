//! The lock, the watch and the in-memory cluster together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ceph_codec::{EntityAddr, EntityName, SnapId};
use parking_lot::Mutex;
use rados::{Errno, OpError, Operation, SnapContext};

use super::super::cls;
use super::super::{ExclusiveLock, LockError, LockHooks, LockOptions, Predecessors};
use crate::store::ObjectStore;
use crate::watcher::{AsyncRequestId, ClientId, Maintenance, NotifyOp, WatchHandler, Watcher};
use crate::{MemStore, NewImage, OpenOptions};

const HEADER: &str = "rbd_header.test";

/// An image as far as locks know it.
#[derive(Default)]
struct Image {
    lock: Mutex<Option<ExclusiveLock<MemStore>>>,
    acquired: AtomicU32,
    released: AtomicU32,
}

impl Image {
    fn lock(&self) -> ExclusiveLock<MemStore> {
        self.lock.lock().clone().unwrap()
    }
}

impl LockHooks for Image {
    async fn acquired(&self) -> Result<(), LockError> {
        self.acquired.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn releasing(&self) {
        self.released.fetch_add(1, Ordering::Relaxed);
    }
}

impl WatchHandler for Image {
    fn header_updated(&self) {}

    fn lock_acquired(&self, client: ClientId) {
        self.lock().acquired_by(client);
    }

    fn lock_released(&self, client: ClientId) {
        self.lock().released_by(client);
    }

    fn lock_requested(&self, client: ClientId, _force: bool) -> Option<i32> {
        self.lock().requested(client)
    }

    fn maintenance_requested(&self, _id: Option<AsyncRequestId>, request: Maintenance) -> Option<i32> {
        self.lock().refuse_maintenance(request.op())
    }

    fn unknown_requested(&self, op: NotifyOp) -> Option<i32> {
        self.lock().refuse_maintenance(op)
    }

    fn request_progressed(&self, _id: AsyncRequestId, _done: u64, _total: u64) {}

    fn request_completed(&self, _id: AsyncRequestId, _result: i32) {}

    fn watch_registered(&self, cookie: u64) {
        self.lock().watch_registered(cookie);
    }

    fn watch_lost(&self) {
        self.lock().watch_lost();
    }

    fn blocklisted(&self) {
        self.lock().blocklisted();
    }
}

struct Client {
    store: MemStore,
    image: Arc<Image>,
    lock: ExclusiveLock<MemStore>,
    watcher: Watcher<MemStore>,
}

impl Client {
    async fn open(store: MemStore) -> Self {
        Self::open_with(store, LockOptions::default()).await
    }

    async fn open_with(store: MemStore, options: LockOptions) -> Self {
        let image = Arc::new(Image::default());
        let lock = ExclusiveLock::new(store.clone(), HEADER.into(), options, &image);
        *image.lock.lock() = Some(lock.clone());
        let watcher = Watcher::register(store.clone(), HEADER.into(), &image).await.unwrap();
        lock.watch_registered(watcher.cookie());
        Self { store, image, lock, watcher }
    }

    async fn begin(&self) -> Result<super::super::Mutation, LockError> {
        tokio::time::timeout(Duration::from_secs(20), self.lock.begin())
            .await
            .expect("nobody may wait for ever")
    }
}

async fn cluster() -> MemStore {
    let store = MemStore::new();
    store.create_image(&NewImage { name: "unused".into(), size: 1 << 20, ..NewImage::default() }).unwrap();
    store.write(HEADER, Operation::new().create(true), &SnapContext::default()).await.unwrap();
    store
}

async fn owner(store: &MemStore) -> Option<String> {
    use ceph_codec::Decode;
    let reply = store.read(HEADER, cls::get_info(Operation::new()), SnapId::HEAD).await.unwrap();
    let info = cls::LockInfo::decode_from(&reply.data(0)).unwrap();
    info.lockers.first().map(|locker| locker.cookie.clone())
}

#[tokio::test]
async fn the_lock_is_taken_once_for_all_who_begin_together() {
    let client = Client::open(cluster().await).await;
    assert!(client.lock.try_begin().is_none());
    let began = futures::future::join_all((0..50).map(|_| client.begin())).await;
    assert!(began.iter().all(Result::is_ok));
    assert_eq!(client.image.acquired.load(Ordering::Relaxed), 1);
    assert!(client.lock.try_begin().is_some());
    assert_eq!(owner(&client.store).await, Some(format!("auto {}", client.watcher.cookie())));
    drop(began);
    client.lock.release().await.unwrap();
    assert_eq!(owner(&client.store).await, None);
    assert_eq!(client.image.released.load(Ordering::Relaxed), 1);
    client.watcher.unregister().await.unwrap();
}

#[tokio::test]
async fn the_lock_moves_between_clients_after_their_mutations_are_done() {
    let store = cluster().await;
    let (a, b) = (Client::open(store.connect()).await, Client::open(store.connect()).await);
    let under_way = a.begin().await.unwrap();
    let begin = b.begin();
    tokio::pin!(begin);
    let early = tokio::time::timeout(Duration::from_millis(100), &mut begin).await;
    assert!(early.is_err(), "a mutation of the owner is under way");
    assert!(a.lock.try_begin().is_none(), "the owner begins nothing new");
    drop(under_way);
    drop(begin.await.unwrap());
    for _ in 0..10 {
        drop(a.begin().await.unwrap());
        drop(b.begin().await.unwrap());
    }
    assert!(!store.is_blocklisted() && !a.lock.is_lost() && !b.lock.is_lost());
}

#[tokio::test]
async fn a_client_whose_watch_is_gone_is_succeeded_and_barred() {
    let store = cluster().await;
    let (a, b) = (Client::open(store.connect()).await, Client::open(store.connect()).await);
    drop(a.begin().await.unwrap());
    a.store.kill_after(0);
    a.store.lose_watches();
    drop(b.begin().await.unwrap());
    assert_eq!(owner(&store).await, Some(format!("auto {}", b.watcher.cookie())));
}

#[tokio::test]
async fn a_barred_client_learns_it_and_begins_nothing_any_more() {
    let store = cluster().await;
    let client = Client::open(store.connect()).await;
    drop(client.begin().await.unwrap());
    store.blocklist(client.store.identity().1).await.unwrap();
    client.store.lose_watches();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !client.lock.is_lost() && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(client.lock.try_begin().is_none());
    assert_eq!(client.begin().await.err(), Some(LockError::Blocklisted));
    assert_eq!(client.lock.release().await, Err(LockError::Blocklisted));
}

#[tokio::test]
async fn the_owner_of_a_lost_watch_keeps_the_lock_under_the_new_one() {
    let store = cluster().await;
    let client = Client::open(store.connect()).await;
    drop(client.begin().await.unwrap());
    let old = client.watcher.cookie();
    client.store.lose_watches();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while owner(&store).await == Some(format!("auto {old}")) && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_ne!(client.watcher.cookie(), old);
    assert_eq!(owner(&store).await, Some(format!("auto {}", client.watcher.cookie())));
    assert!(client.lock.try_begin().is_some());
}

#[tokio::test]
async fn a_lock_taken_by_hand_is_an_error_that_names_its_owner() {
    let store = cluster().await;
    let user = store.connect();
    user.write(HEADER, cls::lock(Operation::new(), "mine", ""), &SnapContext::default()).await.unwrap();
    let client = Client::open(store.connect()).await;
    let error = client.begin().await.unwrap_err();
    assert!(matches!(&error, LockError::LockedByHand { owner } if owner.cookie == "mine"), "{error}");
}

#[tokio::test]
async fn a_user_without_the_right_to_blocklist_is_told_so() {
    let store = cluster().await;
    let (a, b) = (Client::open(store.connect()).await, Client::open(store.connect()).await);
    drop(a.begin().await.unwrap());
    a.store.kill_after(0);
    a.store.lose_watches();
    b.store.set_fault(|object, operation| {
        (object.is_empty() && operation.is_empty()).then_some(OpError::Errno(Errno::EACCES))
    });
    let error = b.begin().await.unwrap_err();
    assert!(matches!(error, LockError::MayNotBlocklist { .. }), "{error}");
}

#[tokio::test]
async fn only_the_owner_answers_requests() {
    let store = cluster().await;
    let client = Client::open(store.connect()).await;
    let other = ClientId { gid: store.identity().0, handle: 1 };
    let me = ClientId { gid: client.store.identity().0, handle: client.watcher.cookie() };
    assert_eq!(client.lock.refuse_maintenance(NotifyOp::RESIZE), None);
    assert_eq!(client.lock.requested(other), None);
    drop(client.begin().await.unwrap());
    assert_eq!(client.lock.refuse_maintenance(NotifyOp::RESIZE), Some(-95));
    assert_eq!(client.lock.requested(me), None);
    assert_eq!(client.lock.requested(other), Some(0));
    client.lock.release().await.unwrap();
    assert_eq!(owner(&store).await, None);
}

#[tokio::test]
async fn an_owner_that_wants_the_image_for_itself_refuses_and_goes_on() {
    let store = cluster().await;
    let exclusive = LockOptions { exclusive: true, ..LockOptions::default() };
    let a = Client::open_with(store.connect(), exclusive).await;
    let b = Client::open(store.connect()).await;
    drop(b.begin().await.unwrap());
    drop(a.begin().await.unwrap());
    let error = b.begin().await.unwrap_err();
    let LockError::Refused { owner } = &error else { panic!("{error}") };
    assert_eq!(owner.cookie, format!("auto {}", a.watcher.cookie()));
    assert_eq!(owner.name.num.unsigned_abs(), a.store.identity().0.0);
    let help = error.help("pool/image").unwrap();
    let command =
        format!("`rbd lock rm pool/image \"auto {}\" client.{}`", a.watcher.cookie(), owner.name.num);
    assert!(help.contains(&command), "{help}");
    assert!(a.lock.try_begin().is_some(), "the owner was not disturbed");
    a.lock.release().await.unwrap();
    drop(b.begin().await.unwrap());
}

/// Knows that some client instances have ended.
#[derive(Debug)]
struct Ended(Vec<u64>);

impl Predecessors for Ended {
    fn has_ended(&self, client: EntityName, _: EntityAddr) -> bool {
        self.0.contains(&client.num.unsigned_abs())
    }
}

#[tokio::test]
async fn an_owner_known_to_have_ended_is_barred_and_succeeded_while_its_watch_is_still_there() {
    let store = cluster().await;
    let (dead, alive) = (Client::open(store.connect()).await, Client::open(store.connect()).await);
    let ended = Ended(vec![dead.store.identity().0.0]);
    let options = LockOptions { predecessors: Some(Arc::new(ended)), ..LockOptions::default() };
    let client = Client::open_with(store.connect(), options).await;
    drop(dead.begin().await.unwrap());
    dead.store.hold();
    let began = tokio::time::Instant::now();
    drop(client.begin().await.unwrap());
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert!(dead.store.is_blocklisted());

    // Others are asked, as ever.
    drop(alive.begin().await.unwrap());
    drop(client.begin().await.unwrap());
    assert!(!alive.store.is_blocklisted());
}

#[tokio::test]
async fn a_watcher_known_to_have_ended_is_barred_when_the_image_is_opened() {
    let store = MemStore::new();
    store.create_image(&NewImage { name: "disk".into(), size: 1 << 20, ..NewImage::default() }).unwrap();
    let open =
        async |store: MemStore, options: OpenOptions| crate::Image::open(store, options).await.unwrap();
    let (dead, alive) = (store.connect(), store.connect());
    let _dead = open(dead.clone(), OpenOptions::image("disk")).await;
    let _alive = open(alive.clone(), OpenOptions::image("disk")).await;
    let ended = Arc::new(Ended(vec![dead.identity().0.0]));
    let image = open(store.connect(), OpenOptions::image("disk").predecessors(ended)).await;
    assert!(dead.is_blocklisted() && !alive.is_blocklisted());
    assert_eq!(image.watchers().await.unwrap().len(), 2);
}

#[tokio::test]
async fn handles_that_are_dropped_leave_no_task_behind() {
    let client = Client::open(cluster().await).await;
    let shared = Arc::downgrade(&client.lock.shared);
    drop(client);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(shared.upgrade().is_none());
}
