//! Real clusters, through `scripts/ceph-cluster`.

use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::process::{Output, Running, run_within, start_command};

/// Installing a release that is not there yet is part of the first start.
const START_LIMIT: Duration = Duration::from_secs(900);
const COMMAND_LIMIT: Duration = Duration::from_secs(120);

#[derive(Debug, Clone, Copy)]
pub(crate) enum Release {
    /// That of this machine's own tools, which a test compares with: another one when the test runs in another
    /// (`scripts/ceph-release`).
    Host,
    /// 16.2: keys of type `aes` only.
    Pacific,
    /// 20.2: by default keys of type `aes256k` only.
    Tentacle,
}

/// A cluster of its own; it stops when dropped, and when the test process ends in any other way.
#[derive(Debug)]
pub(crate) struct Cluster {
    dir: PathBuf,
    /// Somebody else's, who stops it.
    lent: bool,
}

/// An image that no other test uses. It is left to the end of its cluster.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    /// `rbdpool/NAME`
    pub(crate) spec: String,
}

impl std::fmt::Display for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.spec)
    }
}

impl Cluster {
    /// The cluster that the tests of one file share: of this machine's release, one OSD.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(Release::Host, &[]))
    }

    /// Starts a cluster; `options` are those of `scripts/ceph-cluster start`.
    pub(crate) fn start(release: Release, options: &[&str]) -> Self {
        let dir = PathBuf::from(format!("/tmp/rbd-nbd-rs-test.{}.{}", process::id(), unique()));
        let release = match release {
            Release::Host => "host",
            Release::Pacific => "pacific",
            Release::Tentacle => "tentacle",
        };
        let mut start = script();
        start.args(["start", release]).arg(&dir).args(["--while", &process::id().to_string()]).args(options);
        run_within(START_LIMIT, &mut start).success();
        Self { dir, lent: false }
    }

    /// A cluster that `scripts/ceph-cluster` started by hand, which stays when this is dropped: what a failed test left
    /// there can be looked at.
    pub(crate) fn attach(dir: &str) -> Self {
        Self { dir: dir.into(), lent: true }
    }

    /// Whether others may use it at the same time.
    pub(crate) fn is_lent(&self) -> bool {
        self.lent
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn conf(&self) -> String {
        self.file("ceph.conf")
    }

    /// A path inside the cluster's folder, which its own tools see under the same name.
    pub(crate) fn file(&self, name: &str) -> String {
        self.dir.join(name).to_str().expect("made from ASCII").to_owned()
    }

    /// Runs a shell command with the cluster's own `ceph`, `rbd` and `rados`, as client.admin; it has to succeed.
    pub(crate) fn run(&self, command: &str) -> String {
        self.try_run(command).success()
    }

    pub(crate) fn try_run(&self, command: &str) -> Output {
        self.start_command(command).finish_within(COMMAND_LIMIT)
    }

    /// Starts such a command, which goes on while the test does something else.
    pub(crate) fn start_command(&self, command: &str) -> Running {
        let mut exec = script();
        start_command(exec.arg("exec").arg(&self.dir).args(["bash", "-euo", "pipefail", "-c", command]))
    }

    /// Ends a daemon (`osd.0`, `mon.a`) and waits until it is gone. A memstore OSD keeps its data for [`revive`](Self::revive).
    pub(crate) fn stop_daemon(&self, name: &str) {
        self.signal(name, "TERM");
    }

    /// Sends a signal to a daemon: `STOP`, `CONT`, `KILL`.
    pub(crate) fn signal(&self, name: &str, signal: &str) {
        run_within(COMMAND_LIMIT, script().arg("kill").arg(&self.dir).args([name, signal])).success();
    }

    pub(crate) fn revive(&self, name: &str) {
        run_within(COMMAND_LIMIT, script().arg("revive").arg(&self.dir).arg(name)).success();
    }

    /// Adds a monitor at an address of its own.
    pub(crate) fn add_mon(&self, name: &str) {
        run_within(COMMAND_LIMIT, script().arg("add-mon").arg(&self.dir).arg(name)).success();
    }

    /// Takes a monitor out of the cluster. Who starts after that finds the others in the cluster's ceph.conf.
    pub(crate) fn remove_mon(&self, name: &str) {
        run_within(COMMAND_LIMIT, script().arg("remove-mon").arg(&self.dir).arg(name)).success();
    }

    /// Makes an image with `rbd create`; `options` are its options, the size among them.
    pub(crate) fn create(&self, options: &str) -> Image {
        let image = Image { spec: format!("rbdpool/disk{}", unique()) };
        self.run(&format!("rbd create {image} {options}"));
        image
    }

    /// Makes a pool that keeps the data of images as erasure codes, two parts and one for parity. It needs three OSDs
    /// with bluestore.
    pub(crate) fn create_erasure_coded_pool(&self, name: &str) {
        self.run(&format!(
            "ceph osd erasure-code-profile set {name} k=2 m=1 crush-failure-domain=osd && \
             ceph osd pool create {name} 8 8 erasure {name} && ceph osd pool set {name} allow_ec_overwrites true && \
             ceph osd pool application enable {name} rbd"
        ));
    }

    /// Digest of everything in the image, or snapshot, as librbd reads it.
    pub(crate) fn librbd_digest(&self, spec: &str) -> String {
        self.run(&format!("rbd export --no-progress {spec} - | sha256sum")).trim().to_owned()
    }

    /// Holds when what librbd's maintenance knows of the image is true: the object map agrees with the objects.
    pub(crate) fn assert_object_map_is_correct(&self, spec: &str) {
        let check = self.try_run(&format!("rbd object-map check --no-progress {spec}"));
        assert!(check.status.success() && !check.stderr.contains("object map error"), "{check}");
        let flags = super::json(&self.run(&format!("rbd info {spec} --format json")))["flags"].clone();
        assert_eq!(flags, serde_json::json!([]), "{spec} was marked invalid; {check}");
    }

    /// How many data objects the pool has that belong to the image.
    pub(crate) fn object_count(&self, image: &Image) -> usize {
        let info = super::json(&self.run(&format!("rbd info {image} --format json")));
        let prefix = info["block_name_prefix"].as_str().expect("rbd prints it").to_owned();
        let pool = info["data_pool"].as_str().unwrap_or("rbdpool").to_owned();
        self.run(&format!("rados -p {pool} ls")).lines().filter(|name| name.starts_with(&prefix)).count()
    }

    /// QEMU's name of the image for its own driver, which is librbd.
    pub(crate) fn qemu(&self, spec: &str) -> String {
        format!("rbd:{spec}:conf={}", self.conf())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.lent {
            return;
        }
        // A panic here would hide the one of the test.
        let stopped = script().arg("stop").arg(&self.dir).status();
        if !std::thread::panicking() && stopped.is_ok_and(|status| status.success()) {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

fn script() -> Command {
    Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/ceph-cluster"))
}

pub(super) fn unique() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
