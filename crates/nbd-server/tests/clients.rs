//! The server as real clients meet it: QEMU's, libnbd's (nbdinfo, nbdcopy, fio) and the `nbd` crate's.
//!
//! Needs the programs of `qemu-utils`, `libnbd-bin` and `fio`; a missing one fails the test.
#![allow(clippy::unwrap_used, reason = "test")]
#![allow(clippy::cast_possible_truncation, reason = "patterns and small sizes")]

use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nbd_server::{
    BlockDevice, Budget, DeviceError, DeviceInfo, ErrorKind, ExportError, ExportInfo, Exports, MemDevice,
    Opened, Shutdown, serve,
};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

/// Three exports: "disk", "disk@snap" (read-only), and "tiny", whose size is no multiple of anything.
struct Pool(Vec<(&'static str, Arc<MemDevice>)>);

impl Exports for Pool {
    type Export = Arc<MemDevice>;

    async fn open(&self, name: &str) -> Result<Opened<Self::Export>, ExportError> {
        let found = self.0.iter().find(|(known, _)| *known == name);
        let (name, device) = found.ok_or_else(|| ExportError::Unknown { name: name.to_owned() })?;
        Ok(Opened { export: Arc::clone(device), name: (*name).to_owned(), info: device.info() })
    }

    async fn list(&self) -> Result<Vec<ExportInfo>, ExportError> {
        let info = |(name, device): &(&str, Arc<MemDevice>)| ExportInfo {
            name: (*name).to_owned(),
            description: device.info().description,
        };
        Ok(self.0.iter().map(info).collect())
    }
}

/// A server in a thread of its own, on a unix socket and on TCP.
struct Server {
    dir: TempDir,
    disk: Arc<MemDevice>,
    port: u16,
    shutdown: Shutdown,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start() -> Self {
        let disk = Arc::new(MemDevice::new(256 * MIB));
        let mut server =
            Self { dir: TempDir::new().unwrap(), disk, port: 0, shutdown: Shutdown::new(), thread: None };
        server.resume();
        server
    }

    fn resume(&mut self) {
        let read_only = DeviceInfo { read_only: true, ..DeviceInfo::new(64 * MIB) };
        let pool = Arc::new(Pool(vec![
            ("disk", Arc::clone(&self.disk)),
            ("disk@snap", Arc::new(MemDevice::with_info(read_only))),
            ("tiny", Arc::new(MemDevice::new(1_000_003))),
        ]));
        self.shutdown = Shutdown::new();
        let (socket, stop) = (self.path("nbd.sock"), self.shutdown.clone());
        let (ready, is_ready) = std::sync::mpsc::channel();
        self.thread = Some(std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let unix = tokio::net::UnixListener::bind(&socket).unwrap();
                let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                ready.send(tcp.local_addr().unwrap().port()).unwrap();
                let budget = Budget::default();
                tokio::join!(
                    serve(unix, Arc::clone(&pool), &budget, &stop),
                    serve(tcp, pool, &budget, &stop)
                );
            });
            std::fs::remove_file(socket).unwrap();
        }));
        self.port = is_ready.recv().unwrap();
    }

    fn stop(&mut self) {
        self.shutdown.trigger();
        if let Some(thread) = self.thread.take() {
            let outcome = thread.join();
            assert!(std::thread::panicking() || outcome.is_ok(), "the server panicked");
        }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.path("nbd.sock").display())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Runs a program that must succeed; what it printed.
fn run(program: &str, args: &[&str]) -> String {
    let (success, output) = attempt(program, args);
    assert!(success, "{program} {args:?} failed:\n{output}");
    output
}

fn attempt(program: &str, args: &[&str]) -> (bool, String) {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|error| panic!("cannot run {program}, which this test needs: {error}"));
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

fn qemu_io(uri: &str, commands: &[&str]) -> String {
    let mut args = vec!["-f", "raw", "-d", "unmap"];
    for command in commands {
        args.extend(["-c", command]);
    }
    args.push(uri);
    let output = run("qemu-io", &args);
    assert!(!output.contains("failed"), "{commands:?}:\n{output}");
    output
}

/// `len` bytes that look random and differ everywhere.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn qemu_io_reads_what_it_wrote() {
    let server = Server::start();
    qemu_io(
        &server.uri("disk"),
        &[
            "write -P 1 0 4k",
            "write -P 2 4095 2",
            "read -P 1 0 4095",
            "read -P 2 4095 2",
            "write -f -P 3 1M 32M",
            "read -P 3 1M 32M",
            "write -P 4 40M 33M",
            "read -P 4 40M 33M",
            "aio_write -P 5 100M 1M",
            "aio_write -P 6 101M 64k",
            "aio_write -P 7 102M 512",
            "aio_flush",
            "read -P 5 100M 1M",
            "read -P 6 101M 64k",
            "read -P 7 102M 512",
            "flush",
        ],
    );
}

#[test]
fn qemu_io_zeroes_and_discards() {
    let server = Server::start();
    qemu_io(
        &server.uri("disk"),
        &[
            "write -P 1 0 8M",
            "write -z 100k 1M",
            "read -P 1 0 100k",
            "read -P 0 100k 1M",
            "read -P 1 1124k 100k",
            "write -z -u 2M 1M",
            "read -P 0 2M 1M",
            "discard 4M 1M",
            "read -P 1 5M 1M",
        ],
    );
    assert_eq!(server.disk.allocated(), 6 * MIB, "unmap and discard free memory");
    qemu_io(&server.uri("disk"), &["write -z -n -u 128M 1M", "read -P 0 128M 1M"]);
}

#[test]
fn qemu_img_converts_there_and_back() {
    let server = Server::start();
    let (original, copy) = (server.path("original"), server.path("copy"));
    let mut contents = vec![0; 64 << 20];
    contents[1 << 20..5 << 20].copy_from_slice(&noise(4 << 20));
    contents[60 << 20..(60 << 20) + 12345].copy_from_slice(&noise(12345));
    std::fs::write(&original, &contents).unwrap();
    let uri = server.uri("disk");
    run("qemu-img", &["convert", "-n", "-W", "-f", "raw", "-O", "raw", text(&original), &uri]);
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", text(&original), &uri]);
    run("qemu-img", &["convert", "-f", "raw", "-O", "raw", &uri, text(&copy)]);
    assert!(std::fs::read(&copy).unwrap()[..64 << 20] == contents);
    let map = run("qemu-img", &["map", "--output=json", "-f", "raw", &uri]);
    let data: Vec<&str> = map.lines().filter(|line| line.contains("\"data\": true")).collect();
    assert_eq!(data.len(), 2, "{map}");
    assert!(data[0].contains("\"start\": 1048576, \"length\": 4194304"), "{map}");
    assert!(data[1].contains("\"start\": 62914560, \"length\": 65536"), "{map}");
}

#[test]
fn qemu_is_told_of_errors_and_goes_on() {
    let server = Server::start();
    let (_, output) = attempt(
        "qemu-io",
        &["-r", "-f", "raw", "-c", "write 0 4k", "-c", "read 0 4k", &server.uri("disk@snap")],
    );
    assert!(output.contains("read 4096/4096 bytes"), "{output}");
    server.disk.fail_after(0, DeviceError::new(ErrorKind::NoSpace, "pool is full"));
    let uri = server.uri("disk");
    let (_, output) = attempt("qemu-io", &["-f", "raw", "-c", "write 0 4k", "-c", "read 0 4k", &uri]);
    assert_eq!(output.matches("No space left on device").count(), 2, "{output}");
    server.disk.heal();
    qemu_io(&uri, &["write -P 1 0 4k", "read -P 1 0 4k"]);
}

#[test]
fn nbdinfo_shows_everything() {
    let server = Server::start();
    let info = run("nbdinfo", &[&server.uri("tiny")]);
    for line in [
        "protocol: newstyle-fixed without TLS, using structured packets",
        "export=\"tiny\":",
        "description: sparse memory",
        "export-size: 1000003",
        "base:allocation",
        "is_read_only: false",
        "can_cache: true",
        "can_df: true",
        "can_fast_zero: true",
        "can_flush: true",
        "can_fua: true",
        "can_multi_conn: true",
        "can_trim: true",
        "can_zero: true",
        "block_size_minimum: 1",
        "block_size_preferred: 4096",
        "block_size_maximum: 33554432",
    ] {
        assert!(info.contains(line), "{line} is missing in {info}");
    }
    let list = run("nbdinfo", &["--list", &server.uri("")]);
    for export in ["export=\"disk\":", "export=\"disk@snap\":", "export=\"tiny\":"] {
        assert!(list.contains(export), "{list}");
    }
    let (found, output) = attempt("nbdinfo", &[&server.uri("tape")]);
    assert!(!found && output.contains("tape"), "{output}");
    let list = run("qemu-nbd", &["-L", "-k", text(&server.path("nbd.sock"))]);
    assert!(list.contains("exports available: 3"), "{list}");
}

#[test]
fn nbdinfo_maps_what_is_allocated() {
    let server = Server::start();
    qemu_io(&server.uri("disk"), &["write 1M 1M", "write 4M 64k"]);
    let map = run("nbdinfo", &["--map", &server.uri("disk")]);
    let lines: Vec<Vec<&str>> = map.lines().map(|line| line.split_whitespace().collect()).collect();
    let expected = [
        ["0", "1048576", "3", "hole,zero"],
        ["1048576", "1048576", "0", "data"],
        ["2097152", "2097152", "3", "hole,zero"],
        ["4194304", "65536", "0", "data"],
        ["4259840", "264175616", "3", "hole,zero"],
    ];
    assert_eq!(lines, expected);
}

#[test]
fn nbdcopy_copies_over_several_connections() {
    let server = Server::start();
    let (original, copy) = (server.path("original"), server.path("copy"));
    let mut contents = noise(256 << 20 >> 3);
    contents.resize(256 << 20, 0);
    std::fs::write(&original, &contents).unwrap();
    let uri = server.uri("disk");
    run("nbdcopy", &["--connections=4", "--requests=32", "--flush", text(&original), &uri]);
    run("nbdcopy", &["--connections=4", "--requests=32", &uri, text(&copy)]);
    assert!(std::fs::read(&copy).unwrap() == contents);
}

#[test]
fn fio_verifies_random_requests_in_great_number() {
    let server = Server::start();
    let uri = format!("--uri={}", server.uri("disk"));
    let args = [
        "--name=verify",
        "--ioengine=nbd",
        &uri,
        "--rw=randwrite",
        "--bsrange=512-128k",
        "--bs_unaligned",
        "--iodepth=32",
        "--size=64m",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--do_verify=1",
    ];
    run("fio", &args);
}

#[test]
fn the_nbd_crate_is_served_in_the_old_manner() {
    let server = Server::start();
    let mut stream = UnixStream::connect(server.path("nbd.sock")).unwrap();
    let export = nbd::client::handshake(&mut stream, b"disk").unwrap();
    assert_eq!((export.size, export.readonly, export.send_flush), (256 * MIB, false, true));
    let mut client = nbd::client::NbdClient::new(stream, &export);
    let data = noise(100_000);
    client.seek(SeekFrom::Start(12345)).unwrap();
    client.write_all(&data).unwrap();
    client.flush().unwrap();
    client.seek(SeekFrom::Start(12345)).unwrap();
    let mut read = vec![0; data.len() + 1000];
    client.read_exact(&mut read).unwrap();
    assert!(read[..data.len()] == data && read[data.len()..] == [0; 1000]);
}

#[test]
fn what_one_connection_wrote_another_reads() {
    let server = Server::start();
    let clients: Vec<_> = (1..5)
        .map(|number: u64| {
            let uri = server.uri("disk");
            std::thread::spawn(move || {
                qemu_io(&uri, &[&format!("write -P {number} {number}M 1M"), "flush"]);
            })
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
    qemu_io(
        &server.uri("disk"),
        &["read -P 1 1M 1M", "read -P 2 2M 1M", "read -P 3 3M 1M", "read -P 4 4M 1M"],
    );
}

#[test]
fn tcp_is_served_too() {
    let server = Server::start();
    let uri = format!("nbd://127.0.0.1:{}/disk", server.port);
    qemu_io(
        &uri,
        &["write -P 1 0 32M", "aio_write -P 2 32M 1M", "aio_flush", "read -P 1 0 32M", "read -P 2 32M 1M"],
    );
    let list = run("nbdinfo", &["--list", &format!("nbd://127.0.0.1:{}", server.port)]);
    assert!(list.contains("export=\"disk@snap\":"), "{list}");
}

#[test]
fn qemu_with_a_reconnect_delay_does_not_notice_a_restart() {
    let mut server = Server::start();
    let node = format!(
        "driver=nbd,server.type=unix,server.path={},export=disk,reconnect-delay=60",
        server.path("nbd.sock").display()
    );
    let mut client = Command::new("qemu-io")
        .args(["--image-opts", &node])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("qemu-io, which this test needs, runs");
    let mut commands = client.stdin.take().unwrap();
    // One line at a time: qemu-io loses sight of lines that come together.
    writeln!(commands, "write -P 5 0 1M").unwrap();
    wait_until(|| server.disk.allocated() == MIB);
    server.stop();
    writeln!(commands, "write -P 6 1M 1M").unwrap();
    server.resume();
    wait_until(|| server.disk.allocated() == 2 * MIB);
    drop(commands);
    let output = client.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text.matches("wrote 1048576/1048576").count(), 2, "{text}");
}

fn wait_until(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "the client does not do what it was told");
        std::thread::sleep(Duration::from_millis(10));
    }
}
