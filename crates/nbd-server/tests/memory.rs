//! Many connections push requests at a device that does not answer: what the server holds is bounded, and all of it comes
//! to its end once the device answers.
#![allow(clippy::unwrap_used, reason = "test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use nbd_server::{
    BlockDevice, Budget, DeviceError, DeviceInfo, Limits, OWN_BYTES, OWN_REQUESTS, ReadData, Shutdown,
    SingleExport, ZeroFlags, serve,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const SOON: Duration = Duration::from_secs(60);
const CONNECTIONS: usize = 64;

const READ: u16 = 0;
const WRITE: u16 = 1;
const FLUSH: u16 = 3;
const TRIM: u16 = 4;

/// Answers nothing but flushes until it is opened, and knows what it was given meanwhile.
struct Blocked {
    open: watch::Sender<bool>,
    requests: Level,
    bytes: Level,
}

#[derive(Default)]
struct Level {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Level {
    fn rise(&self, by: usize) {
        let now = self.now.fetch_add(by, Ordering::Relaxed) + by;
        self.most.fetch_max(now, Ordering::Relaxed);
    }

    fn fall(&self, by: usize) {
        self.now.fetch_sub(by, Ordering::Relaxed);
    }
}

impl Blocked {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            open: watch::Sender::new(false),
            requests: Level::default(),
            bytes: Level::default(),
        })
    }

    async fn wait(&self, bytes: usize) -> Result<(), DeviceError> {
        self.requests.rise(1);
        self.bytes.rise(bytes);
        self.open.subscribe().wait_for(|open| *open).await.unwrap();
        // Not all at once, as nothing is in a cluster.
        tokio::task::yield_now().await;
        self.requests.fall(1);
        self.bytes.fall(bytes);
        Ok(())
    }

    /// Waits until nothing more comes, for as long as it takes to believe it.
    async fn is_full(&self) {
        let mut before = usize::MAX;
        loop {
            let now = self.requests.now.load(Ordering::Relaxed);
            if now == before {
                return;
            }
            before = now;
            sleep(Duration::from_millis(500)).await;
        }
    }
}

impl BlockDevice for Blocked {
    fn info(&self) -> DeviceInfo {
        DeviceInfo::new(1 << 40)
    }
    async fn read(&self, _: u64, len: u32) -> Result<ReadData, DeviceError> {
        self.wait(len as usize).await.map(|()| ReadData::data(vec![1; len as usize]))
    }
    async fn write(&self, _: u64, data: Bytes, _: bool) -> Result<(), DeviceError> {
        self.wait(data.len()).await
    }
    async fn flush(&self) -> Result<(), DeviceError> {
        Ok(())
    }
    async fn trim(&self, _: u64, _: u64, _: bool) -> Result<(), DeviceError> {
        self.wait(0).await
    }
    async fn write_zeroes(&self, _: u64, _: u64, _: ZeroFlags) -> Result<(), DeviceError> {
        self.wait(0).await
    }
}

struct Server {
    dir: TempDir,
    device: Arc<Blocked>,
    shutdown: Shutdown,
    task: JoinHandle<()>,
}

impl Server {
    fn start(limits: Limits) -> Self {
        let (dir, device, shutdown) = (TempDir::new().unwrap(), Blocked::new(), Shutdown::new());
        let listener = UnixListener::bind(dir.path().join("nbd.sock")).unwrap();
        let (exports, stop) = (Arc::new(SingleExport::new("disk", Arc::clone(&device))), shutdown.clone());
        let task = tokio::spawn(async move { serve(listener, exports, &Budget::new(limits), &stop).await });
        Self { dir, device, shutdown, task }
    }

    /// A client in the transmission phase, with simple replies.
    async fn connect(&self) -> UnixStream {
        let mut client = UnixStream::connect(self.dir.path().join("nbd.sock")).await.unwrap();
        client.write_all(b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\0").await.unwrap();
        let mut greeting = [0; 18 + 10];
        timeout(SOON, client.read_exact(&mut greeting)).await.unwrap().unwrap();
        client
    }

    async fn stop(self) {
        self.shutdown.trigger();
        timeout(SOON, self.task).await.expect("an end in time").unwrap();
    }
}

fn request(command: u16, len: usize) -> Vec<u8> {
    let mut bytes = 0x2560_9513u32.to_be_bytes().to_vec();
    bytes.extend([0, 0]);
    bytes.extend(command.to_be_bytes());
    bytes.extend([0; 16]);
    bytes.extend(u32::try_from(len).unwrap().to_be_bytes());
    bytes
}

/// Sends all of it as fast as the server takes it, and reads the replies, `len` bytes in all.
fn push(client: UnixStream, requests: Vec<(u16, usize)>) -> JoinHandle<()> {
    let payload = |command, len| if command == WRITE { len } else { 0 };
    let replies: usize =
        requests.iter().map(|(command, len)| 16 + if *command == READ { *len } else { 0 }).sum();
    tokio::spawn(async move {
        let (mut receive, mut send) = client.into_split();
        let sending = tokio::spawn(async move {
            let zeroes = vec![0; 64 * KIB];
            for (command, len) in requests {
                send.write_all(&request(command, len)).await.unwrap();
                let mut left = payload(command, len);
                while left > 0 {
                    let part = left.min(zeroes.len());
                    send.write_all(&zeroes[..part]).await.unwrap();
                    left -= part;
                }
            }
            send
        });
        let mut buffer = vec![0; 64 * KIB];
        let mut left = replies;
        while left > 0 {
            let part = left.min(buffer.len());
            receive.read_exact(&mut buffer[..part]).await.unwrap();
            left -= part;
        }
        sending.await.unwrap();
    })
}

async fn finish(clients: Vec<JoinHandle<()>>) {
    for client in clients {
        timeout(SOON, client).await.expect("all requests to finish in time").unwrap();
    }
}

#[tokio::test]
async fn payloads_of_many_connections_do_not_add_up() {
    let limits = Limits { bytes: 24 * MIB, ..Limits::default() };
    let server = Server::start(limits);
    let mut clients = Vec::new();
    for number in 0..CONNECTIONS {
        let kind = if number % 4 == 0 { READ } else { WRITE };
        let mut requests = vec![(kind, 4 * MIB); 2];
        requests.extend([(kind, 64 * KIB); 32]);
        requests.rotate_left(number % 34);
        clients.push(push(server.connect().await, requests));
    }
    let bound = limits.bytes + CONNECTIONS * OWN_BYTES;
    server.device.is_full().await;
    let held = server.device.bytes.now.load(Ordering::Relaxed);
    assert!((bound / 2..=bound).contains(&held), "{held} bytes held");
    server.device.open.send_replace(true);
    finish(clients).await;
    let most = server.device.bytes.most.load(Ordering::Relaxed);
    assert!(most <= bound, "{most} bytes held");
    server.stop().await;
}

#[tokio::test]
async fn requests_without_payload_do_not_add_up() {
    let limits = Limits { requests: 1000, ..Limits::default() };
    let server = Server::start(limits);
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(push(server.connect().await, vec![(TRIM, 4096); 300]));
    }
    let bound = limits.requests + CONNECTIONS * OWN_REQUESTS;
    server.device.is_full().await;
    let held = server.device.requests.now.load(Ordering::Relaxed);
    assert!((bound / 2..=bound).contains(&held), "{held} requests held");
    server.device.open.send_replace(true);
    finish(clients).await;
    let most = server.device.requests.most.load(Ordering::Relaxed);
    assert!(most <= bound, "{most} requests held");
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_take_its_replies_is_not_read_for_ever() {
    let server = Server::start(Limits::default());
    let mut client = server.connect().await;
    let flushes = request(FLUSH, 0).repeat(1000);
    let mut sent = 0;
    while let Ok(written) = timeout(Duration::from_secs(1), client.write(&flushes)).await {
        sent += written.unwrap();
        assert!(sent < 64 * MIB, "the server takes anything");
    }
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn clients_that_stop_in_the_middle_of_a_payload_leave_room_for_others() {
    let server = Server::start(Limits { bytes: 32 * MIB, ..Limits::default() });
    server.device.open.send_replace(true);
    let mut stalled = Vec::new();
    for _ in 0..4 {
        let mut client = server.connect().await;
        client.write_all(&request(WRITE, 6 * MIB)).await.unwrap();
        client.write_all(&vec![0; MIB]).await.unwrap();
        stalled.push(client);
    }
    let busy = push(server.connect().await, vec![(WRITE, 4 * MIB); 10]);
    finish(vec![busy]).await;
    drop(stalled);
    // All of what they had is there again.
    finish(vec![push(server.connect().await, vec![(READ, 32 * MIB)])]).await;
    server.stop().await;
}

#[tokio::test]
async fn one_connection_too_many_is_closed_and_makes_way_when_another_ends() {
    let server = Server::start(Limits { connections: 2, ..Limits::default() });
    let first = server.connect().await;
    let _second = server.connect().await;
    let mut third = UnixStream::connect(server.dir.path().join("nbd.sock")).await.unwrap();
    let mut greeting = Vec::new();
    timeout(SOON, third.read_to_end(&mut greeting)).await.unwrap().unwrap();
    assert_eq!(greeting, b"");
    drop(first);
    let again = async {
        loop {
            let mut client = UnixStream::connect(server.dir.path().join("nbd.sock")).await.unwrap();
            if client.read_exact(&mut [0; 18]).await.is_ok() {
                return;
            }
        }
    };
    timeout(SOON, again).await.expect("room in time");
    server.stop().await;
}
