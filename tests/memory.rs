//! What the server holds while the cluster takes nothing.

#![allow(clippy::unwrap_used, reason = "test")]

mod common;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use common::{Cluster, Server, wait_until};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

const CONNECTIONS: usize = 64;
/// What each connection writes, one after the other and without waiting for replies: 10 MiB, so 640 MiB in all.
const WRITES: [usize; 34] = {
    let mut writes = [64 * KIB; 34];
    writes[0] = 4 * MIB;
    writes[17] = 4 * MIB;
    writes
};
const REGION: usize = 2 * 4 * MIB + 32 * 64 * KIB;

const READ: u16 = 0;
const WRITE: u16 = 1;

/// An NBD client in its transmission phase, with simple replies.
struct Client(UnixStream);

impl Client {
    fn connect(server: &Server, export: &str) -> Self {
        let mut socket = UnixStream::connect(server.socket()).unwrap();
        let mut hello = b"\0\0\0\x03IHAVEOPT\0\0\0\x01".to_vec();
        hello.extend(u32::try_from(export.len()).unwrap().to_be_bytes());
        hello.extend(export.as_bytes());
        socket.write_all(&hello).unwrap();
        socket.read_exact(&mut [0; 18 + 10]).unwrap();
        Self(socket)
    }

    fn send(&mut self, command: u16, offset: usize, len: usize, payload: &[u8]) {
        let mut request = vec![0x25, 0x60, 0x95, 0x13, 0, 0];
        request.extend(command.to_be_bytes());
        request.extend([0; 8]);
        request.extend((offset as u64).to_be_bytes());
        request.extend(u32::try_from(len).unwrap().to_be_bytes());
        self.0.write_all(&request).unwrap();
        self.0.write_all(payload).unwrap();
    }

    fn reply(&mut self, payload: &mut [u8]) {
        let mut reply = [0; 16];
        self.0.read_exact(&mut reply).unwrap();
        assert_eq!(reply[..8], [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0], "an error was answered");
        self.0.read_exact(payload).unwrap();
    }
}

/// What belongs into a region of the image: blocks that tell where they are.
fn content(region: usize) -> Vec<u8> {
    let mut content = vec![0; REGION];
    for (number, block) in content.chunks_mut(4 * KIB).enumerate() {
        let place = (region * REGION / (4 * KIB) + number).to_be_bytes();
        block.fill(!place[place.len() - 1]);
        block[..place.len()].copy_from_slice(&place);
    }
    content
}

/// Bytes of the server's memory.
fn resident(server: &Server) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * KIB
}

#[test]
fn memory_stays_bounded_while_64_connections_write_to_a_paused_cluster() {
    let cluster = Cluster::shared();
    let image = cluster.create("--size 1G");
    let server = Server::serve(cluster, &[&image.spec]);
    let mut clients: Vec<Client> = (0..CONNECTIONS).map(|_| Client::connect(&server, &image.spec)).collect();
    // The exclusive lock and the object map are part of what is there before.
    server.qemu_io(&image.spec, &["write -P 1 0 4k"]);
    let before = resident(&server);

    cluster.run("ceph osd pause 2>&1");
    let answered = Arc::new(AtomicUsize::new(0));
    let mut pushing = Vec::new();
    for (region, client) in clients.iter().enumerate() {
        let mut send = Client(client.0.try_clone().unwrap());
        let mut receive = Client(client.0.try_clone().unwrap());
        let answered = Arc::clone(&answered);
        pushing.push(thread::spawn(move || {
            let content = content(region);
            let mut at = 0;
            for len in WRITES {
                send.send(WRITE, region * REGION + at, len, &content[at..at + len]);
                at += len;
            }
        }));
        pushing.push(thread::spawn(move || {
            for _ in WRITES {
                receive.reply(&mut []);
                answered.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }

    // Payloads in flight: 256 MiB for all, 128 KiB for each. Beside that what a connection reads ahead, and what goes with
    // each of up to 4096 writes of 64 KiB through all layers, for which an eighth of the payloads is plenty. All that is
    // pushed would be 640 MiB.
    let payloads = 256 * MIB + CONNECTIONS * 128 * KIB;
    let bound = before + payloads + payloads / 8 + CONNECTIONS * 256 * KIB;
    let full = wait_until("payloads of half the budget", Duration::from_secs(60), || {
        let now = resident(&server);
        thread::sleep(Duration::from_secs(2));
        (now > before + payloads / 2 && resident(&server) < now + MIB).then_some(now)
    });
    let mut most = full;
    for _ in 0..20 {
        thread::sleep(Duration::from_secs(1));
        most = most.max(resident(&server));
    }
    assert!(most < bound, "{most} bytes, and {before} before");
    assert!(most < full + 8 * MIB, "it grew from {full} to {most} bytes in 20 s");
    assert_eq!(answered.load(Ordering::Relaxed), 0, "the cluster is not paused");

    cluster.run("ceph osd unpause 2>&1");
    wait_until("all writes", Duration::from_secs(120), || {
        (answered.load(Ordering::Relaxed) == CONNECTIONS * WRITES.len()).then_some(())
    });
    pushing.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(resident(&server) < bound, "while writing");
    for (region, client) in clients.iter_mut().enumerate() {
        client.send(READ, region * REGION, REGION, &[]);
        let mut data = vec![0; REGION];
        client.reply(&mut data);
        assert!(data == content(region), "region {region}");
    }
    drop(clients);
    let digest = server.digest(&image.spec);
    server.stop();
    assert_eq!(cluster.librbd_digest(&image.spec), digest);
    cluster.assert_object_map_is_correct(&image.spec);
}
