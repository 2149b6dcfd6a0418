//! One connection, byte by byte: batching, limits, hostile clients, orderly ends.
#![allow(clippy::unwrap_used, reason = "test")]
#![allow(clippy::cast_possible_truncation, reason = "lengths in tests are small")]

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use nbd_server::{
    BlockDevice, Budget, DeviceError, DeviceInfo, End, MAX_PAYLOAD, MAX_REQUESTS_IN_FLIGHT, MemDevice,
    NegotiateError, ReadData, Session, Shutdown, SingleExport, TransmissionError, ZeroFlags, negotiate,
    serve_connection, serve_transmission,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;

const MIB: u64 = 1 << 20;
const SOON: Duration = Duration::from_secs(20);

const READ: u16 = 0;
const WRITE: u16 = 1;
const DISC: u16 = 2;
const FLUSH: u16 = 3;

fn request(command: u16, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    let mut bytes = 0x2560_9513u32.to_be_bytes().to_vec();
    bytes.extend([0, 0]);
    bytes.extend(command.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    bytes.extend(len.to_be_bytes());
    bytes
}

fn write(cookie: u64, offset: u64, data: &[u8]) -> Vec<u8> {
    [&request(WRITE, cookie, offset, data.len() as u32), data].concat()
}

/// A simple reply: cookie and error.
async fn reply(client: &mut DuplexStream) -> (u64, u32) {
    let mut header = [0; 16];
    timeout(SOON, client.read_exact(&mut header)).await.expect("a reply in time").unwrap();
    assert_eq!(header[..4], [0x67, 0x44, 0x66, 0x98]);
    let error = u32::from_be_bytes(header[4..8].try_into().unwrap());
    (u64::from_be_bytes(header[8..].try_into().unwrap()), error)
}

async fn read_reply(client: &mut DuplexStream, len: usize) -> (u64, Vec<u8>) {
    let (cookie, error) = reply(client).await;
    assert_eq!(error, 0);
    let mut data = vec![0; len];
    timeout(SOON, client.read_exact(&mut data)).await.expect("data in time").unwrap();
    (cookie, data)
}

async fn at_end(client: &mut DuplexStream) {
    let mut rest = Vec::new();
    timeout(SOON, client.read_to_end(&mut rest)).await.expect("the end in time").unwrap();
    assert_eq!(rest, b"");
}

struct Connection {
    client: DuplexStream,
    server: JoinHandle<Result<End, TransmissionError>>,
    shutdown: Shutdown,
}

/// The transmission phase with simple replies.
fn connect<D: BlockDevice>(device: Arc<D>, pipe: usize) -> Connection {
    connect_within(&Budget::default(), device, pipe)
}

fn connect_within<D: BlockDevice>(budget: &Budget, device: Arc<D>, pipe: usize) -> Connection {
    let (client, stream) = duplex(pipe);
    let session = Session::new(&device.info(), false, false);
    let share = budget.connect().expect("a share");
    let shutdown = Shutdown::new();
    let stop = shutdown.clone();
    let server = tokio::spawn(async move {
        serve_transmission(stream, device, session, BytesMut::new(), share, &stop).await
    });
    Connection { client, server, shutdown }
}

impl Connection {
    async fn end(self) -> Result<End, TransmissionError> {
        timeout(SOON, self.server).await.expect("the end in time").unwrap()
    }
}

/// A device that finishes nothing until it gets permits, and counts what was begun.
struct Gate {
    permits: Semaphore,
    begun: AtomicUsize,
    finished: AtomicUsize,
}

impl Gate {
    fn closed() -> Arc<Self> {
        Arc::new(Self { permits: Semaphore::new(0), begun: 0.into(), finished: 0.into() })
    }

    async fn pass(&self) -> Result<(), DeviceError> {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.permits.acquire().await.unwrap().forget();
        self.finished.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn begun(&self) -> usize {
        self.begun.load(Ordering::Relaxed)
    }

    /// Waits until so many requests have begun, and makes sure that it does not become more.
    async fn has_begun(&self, count: usize) {
        let begun = async {
            while self.begun() < count {
                tokio::task::yield_now().await;
            }
        };
        timeout(SOON, begun).await.expect("requests to begin in time");
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        assert_eq!(self.begun(), count);
    }
}

impl BlockDevice for Gate {
    fn info(&self) -> DeviceInfo {
        DeviceInfo::new(1 << 40)
    }
    async fn read(&self, _: u64, len: u32) -> Result<ReadData, DeviceError> {
        self.pass().await.map(|()| ReadData::hole(len.into()))
    }
    async fn write(&self, _: u64, _: Bytes, _: bool) -> Result<(), DeviceError> {
        self.pass().await
    }
    async fn flush(&self) -> Result<(), DeviceError> {
        // Overtakes everything.
        Ok(())
    }
    async fn trim(&self, _: u64, _: u64, _: bool) -> Result<(), DeviceError> {
        self.pass().await
    }
    async fn write_zeroes(&self, _: u64, _: u64, _: ZeroFlags) -> Result<(), DeviceError> {
        self.pass().await
    }
}

#[tokio::test]
async fn requests_that_arrive_together_run_together_and_replies_come_in_any_order() {
    let gate = Gate::closed();
    let mut c = connect(Arc::clone(&gate), 1 << 20);
    let mut bytes = Vec::new();
    for cookie in 0..50 {
        bytes.extend(write(cookie, cookie * 4096, &[1; 4096]));
    }
    bytes.extend(request(FLUSH, 99, 0, 0));
    c.client.write_all(&bytes).await.unwrap();
    assert_eq!(reply(&mut c.client).await, (99, 0), "overtakes the writes before it");
    gate.has_begun(50).await;
    gate.permits.add_permits(50);
    let mut replies = HashMap::new();
    for _ in 0..50 {
        let (cookie, error) = reply(&mut c.client).await;
        assert_eq!(replies.insert(cookie, error), None, "one reply for each");
    }
    assert!(replies.values().all(|error| *error == 0));
}

#[tokio::test]
async fn no_more_requests_are_read_than_may_be_in_flight() {
    let gate = Gate::closed();
    let mut c = connect(Arc::clone(&gate), 1 << 20);
    let total = MAX_REQUESTS_IN_FLIGHT + 100;
    for cookie in 0..total as u64 {
        c.client.write_all(&request(READ, cookie, 0, 512)).await.unwrap();
    }
    gate.has_begun(MAX_REQUESTS_IN_FLIGHT).await;
    gate.permits.add_permits(10);
    gate.has_begun(MAX_REQUESTS_IN_FLIGHT + 10).await;
    gate.permits.add_permits(total);
    for _ in 0..total {
        read_reply(&mut c.client, 512).await;
    }
}

#[tokio::test]
async fn no_more_bytes_are_asked_of_the_device_than_may_be_in_flight() {
    let gate = Gate::closed();
    let mut c = connect(Arc::clone(&gate), 1 << 20);
    for cookie in 0..10 {
        c.client.write_all(&request(READ, cookie, 0, MAX_PAYLOAD)).await.unwrap();
    }
    gate.has_begun(2).await;
    gate.permits.add_permits(10);
    // What is read but not taken by the client counts, too.
    gate.has_begun(2).await;
    assert_eq!(gate.finished.load(Ordering::Relaxed), 2);
    for _ in 0..10 {
        read_reply(&mut c.client, MAX_PAYLOAD as usize).await;
    }
}

#[tokio::test]
async fn a_client_that_writes_byte_by_byte_is_served() {
    let mut c = connect(Arc::new(MemDevice::new(MIB)), 1);
    let (mut receive, mut send) = tokio::io::split(c.client);
    let bytes = [write(1, 1000, b"some data"), request(READ, 2, 998, 13), request(DISC, 0, 0, 0)].concat();
    let sender = tokio::spawn(async move {
        for byte in bytes {
            send.write_all(&[byte]).await.unwrap();
        }
        send
    });
    let mut replies = Vec::new();
    timeout(SOON, receive.read_to_end(&mut replies)).await.unwrap().unwrap();
    assert_eq!(replies.len(), 16 + 16 + 13);
    assert_eq!(replies[32..], *b"\0\0some data\0\0");
    c.client = receive.unsplit(sender.await.unwrap());
    assert_eq!(c.end().await.unwrap(), End::Disconnect);
}

#[tokio::test]
async fn payloads_of_every_size_arrive_unharmed() {
    let mut c = connect(Arc::new(MemDevice::new(64 * MIB)), 200_000);
    for (cookie, len) in
        [1, 511, 8164, 8165, 32768, 32769, 131_072, 1_000_003, MAX_PAYLOAD].into_iter().enumerate()
    {
        let data: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
        let requests = [write(cookie as u64, 77, &data), request(FLUSH, 1000, 0, 0)].concat();
        let mut replies = [0; 32];
        let (mut receive, mut send) = tokio::io::split(&mut c.client);
        let (sent, received) = tokio::join!(send.write_all(&requests), receive.read_exact(&mut replies));
        sent.unwrap();
        received.unwrap();
        c.client.write_all(&request(READ, 5, 77, len)).await.unwrap();
        assert!(read_reply(&mut c.client, len as usize).await == (5, data), "{len} bytes");
    }
}

#[tokio::test]
async fn disconnect_waits_for_what_is_outstanding() {
    let gate = Gate::closed();
    let mut c = connect(Arc::clone(&gate), 1 << 20);
    let bytes =
        [write(1, 0, &[0; 100]), write(2, 0, &[0; 100]), request(DISC, 0, 0, 0), vec![1; 50]].concat();
    c.client.write_all(&bytes).await.unwrap();
    gate.has_begun(2).await;
    gate.permits.add_permits(2);
    reply(&mut c.client).await;
    reply(&mut c.client).await;
    at_end(&mut c.client).await;
    assert_eq!(c.end().await.unwrap(), End::Disconnect);
}

#[tokio::test]
async fn a_client_that_vanishes_leaves_nothing_half_done() {
    let gate = Gate::closed();
    let mut c = connect(Arc::clone(&gate), 1 << 20);
    let bytes = [write(1, 0, &[0; 100]), write(2, 0, &[0; 100]), request(WRITE, 3, 0, 100)].concat();
    c.client.write_all(&bytes).await.unwrap();
    gate.has_begun(2).await;
    drop(c.client);
    tokio::task::yield_now().await;
    gate.permits.add_permits(1);
    assert!(!c.server.is_finished());
    gate.permits.add_permits(1);
    assert!(matches!(timeout(SOON, c.server).await.unwrap().unwrap(), Err(TransmissionError::Io(_))));
    assert_eq!(gate.finished.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_protocol_error_ends_the_connection_after_what_was_begun() {
    let mut c = connect(Arc::new(MemDevice::new(MIB)), 1 << 20);
    c.client.write_all(&[write(1, 0, b"data"), vec![0; 28]].concat()).await.unwrap();
    assert_eq!(reply(&mut c.client).await, (1, 0));
    at_end(&mut c.client).await;
    drop(c.client);
    assert!(matches!(timeout(SOON, c.server).await.unwrap().unwrap(), Err(TransmissionError::Request(_))));
}

#[tokio::test]
async fn an_absurd_length_ends_the_connection_without_allocating_it() {
    let mut c = connect(Arc::new(MemDevice::new(MIB)), 1 << 20);
    c.client.write_all(&request(WRITE, 1, 0, u32::MAX)).await.unwrap();
    at_end(&mut c.client).await;
}

#[tokio::test]
async fn shutdown_answers_what_was_begun_and_nothing_else() {
    let gate = Gate::closed();
    let mut c = connect(Arc::clone(&gate), 1 << 20);
    c.client.write_all(&write(1, 0, &[0; 100])).await.unwrap();
    gate.has_begun(1).await;
    c.shutdown.trigger();
    tokio::task::yield_now().await;
    c.client.write_all(&write(2, 0, &[0; 100])).await.unwrap();
    gate.permits.add_permits(2);
    assert_eq!(reply(&mut c.client).await, (1, 0));
    at_end(&mut c.client).await;
    drop(c.client);
    assert_eq!(timeout(SOON, c.server).await.unwrap().unwrap().unwrap(), End::Shutdown);
    assert_eq!(gate.begun(), 1);
}

#[tokio::test]
async fn shutdown_ends_an_idle_connection() {
    let mut c = connect(Arc::new(MemDevice::new(MIB)), 1 << 20);
    tokio::task::yield_now().await;
    c.shutdown.trigger();
    at_end(&mut c.client).await;
}

fn exports() -> SingleExport<MemDevice> {
    SingleExport::new("disk", Arc::new(MemDevice::new(MIB)))
}

#[tokio::test]
async fn a_client_that_says_nothing_is_turned_away_in_time() {
    let (_client, mut stream) = duplex(1000);
    let limit = Duration::from_millis(50);
    let error = negotiate(&mut stream, &exports(), limit).await.unwrap_err();
    assert!(matches!(error, NegotiateError::TimedOut { limit: stated } if stated == limit));
}

#[tokio::test]
async fn negotiation_and_transmission_may_be_driven_apart() {
    let (mut client, mut stream) = duplex(1 << 16);
    let mut bytes = 3u32.to_be_bytes().to_vec();
    bytes.extend(b"IHAVEOPT\0\0\0\x07\0\0\0\x06\0\0\0\0\0\0");
    bytes.extend(write(1, 0, b"data"));
    client.write_all(&bytes).await.unwrap();
    let exports = exports();
    let negotiated = negotiate(&mut stream, &exports, SOON).await.unwrap().unwrap();
    assert_eq!((negotiated.export.name.as_str(), negotiated.session.size()), ("disk", MIB));
    assert_eq!(negotiated.leftover, write(1, 0, b"data"));
    let device = negotiated.export.export;
    let server = tokio::spawn(async move {
        let share = Budget::default().connect().expect("a share");
        let (session, leftover) = (negotiated.session, negotiated.leftover);
        serve_transmission(stream, device, session, leftover, share, &Shutdown::new()).await
    });
    let mut greeting = [0; 18 + 20 + 12 + 20];
    client.read_exact(&mut greeting).await.unwrap();
    assert_eq!(reply(&mut client).await, (1, 0));
    drop(client);
    assert_eq!(server.await.unwrap().unwrap(), End::Hangup);
}

#[tokio::test]
async fn a_client_may_leave_without_choosing() {
    for bytes in [&b""[..], b"\0\0\0\x03", b"\0\0\0\x03IHAVEOPT\0\0\0\x02\0\0\0\0", b"\0\0\0\x03IHAVE"] {
        let (mut client, mut stream) = duplex(1000);
        client.write_all(bytes).await.unwrap();
        client.shutdown().await.unwrap();
        assert!(negotiate(&mut stream, &exports(), SOON).await.unwrap().is_none(), "{bytes:?}");
    }
}

#[tokio::test]
async fn hostile_handshakes_end_and_the_server_lives() {
    let exports = exports();
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"\xff\xff\xff\xff",
        b"\0\0\0\x03IHAVEOPT\0\0\0\x07\xff\xff\xff\xff",
        b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\x04tape",
        b"\0\0\0\x03XXXXXXXXXXXXXXXX",
    ] {
        let (mut client, stream) = duplex(1000);
        client.write_all(bytes).await.unwrap();
        timeout(SOON, serve_connection(stream, &exports, &Budget::default(), &Shutdown::new()))
            .await
            .expect("an end in time");
        let mut greeting = Vec::new();
        client.read_to_end(&mut greeting).await.unwrap();
        assert_eq!(greeting.len(), 18, "nothing but the greeting was sent");
    }
}
