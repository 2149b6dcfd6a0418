//! Files by which a server proves, after a crash, that the server before it is dead.
//!
//! Each client instance has a file for itself, and an exclusive lock on it (`flock`) for as long as the process lives.
//! The file names the instance, as the cluster knows it, and itself. Whoever finds it later can tell:
//!
//! * The kernel is the same one (boot id), the file is the one that its contents name (device and inode), and nobody
//!   has it locked: the process has ended. While it lived, its open file kept device and inode from being used for
//!   anything else, so neither a copy nor another process with its PID could look like this. Containers share
//!   kernels and locks; a process that is merely stopped keeps its lock.
//! * The kernel is another one, on the same machine (machine id) with the same address in the network, and the file is
//!   not a copy (inode): the machine was started again, and the process ended with the old kernel.
//!
//! Everything else proves nothing: other hosts on a shared file system (only local ones are trusted with locks), clones
//! of virtual machines, copies, files of other users.

use std::env;
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ceph_codec::{AddrType, EntityAddr, EntityName, GlobalId};
use rados::Client;
use rustix::fs::{FlockOperation, OFlags, flock, fstatfs};
use serde_json::{Value, json};
use tracing::{debug, info, warn};

use crate::report::sentence;

/// Files of instances that have ended. Nobody can tell when they are of no use any more, so the oldest have to go.
const KEPT: usize = 100;
/// No file is longer.
const MAX_LEN: u64 = 4096;

/// The file of one client instance, from now to its end.
#[derive(Debug)]
pub(crate) struct Predecessors {
    directory: PathBuf,
    host: Host,
    cluster: String,
    /// Under which the cluster sees this host.
    ip: Option<IpAddr>,
    path: PathBuf,
    /// Locked.
    _file: File,
}

/// What tells a kernel, and a machine, from all others.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Host {
    boot_id: String,
    /// None if the machine, or the container, has none.
    machine_id: Option<String>,
}

impl Predecessors {
    /// Makes the file of a client instance, before it has any lock. None, and a line in the log, if that is not
    /// possible: everything works without, but a later server waits longer after a crash of this one.
    pub(crate) fn register(directory: &Path, client: &Client) -> Option<Self> {
        let registered = Host::this()
            .and_then(|host| Self::create(directory, host, client.fsid(), client.global_id(), client.addr()));
        match registered {
            Ok(registered) => Some(registered),
            Err(error) => {
                warn!(
                    directory = %directory.display(),
                    error = sentence(&error),
                    "cannot leave a proof of life, so a server that replaces this one after a crash has to wait half a minute"
                );
                None
            }
        }
    }

    fn create(
        directory: &Path,
        host: Host,
        cluster: impl fmt::Display,
        client: GlobalId,
        addr: EntityAddr,
    ) -> io::Result<Self> {
        let cluster = cluster.to_string();
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        forget_the_oldest(directory);
        let name = file_name(&cluster, client.0);
        let (path, draft) = (directory.join(&name), directory.join(format!("{name}.new")));
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(&draft)?;
        let written = write_record(&mut file, &host, &cluster, client, addr)
            .and_then(|()| fs::rename(&draft, &path))
            .and_then(|()| File::open(directory)?.sync_all());
        if let Err(error) = written {
            let _ = fs::remove_file(&draft);
            return Err(error);
        }
        let ip = addr.addr.map(|addr| addr.ip());
        Ok(Self { directory: directory.to_owned(), host, cluster, ip, path, _file: file })
    }

    /// What proves that a client instance has ended.
    fn proof(&self, client: EntityName, addr: EntityAddr) -> Result<Proof, Doubt> {
        self.prove(self.open(client)?, client, addr)
    }

    fn open(&self, client: EntityName) -> Result<File, Doubt> {
        let id = u64::try_from(client.num).map_err(|_| Doubt::NoRecord)?;
        OpenOptions::new()
            .read(true)
            .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
            .open(self.directory.join(file_name(&self.cluster, id)))
            .map_err(|_| Doubt::NoRecord)
    }

    fn prove(&self, mut file: File, client: EntityName, addr: EntityAddr) -> Result<Proof, Doubt> {
        let metadata = file.metadata().map_err(|_| Doubt::NoRecord)?;
        let mine = metadata.uid() == rustix::process::geteuid().as_raw();
        if !mine || !metadata.is_file() || metadata.len() > MAX_LEN || !is_local(&file) {
            return Err(Doubt::NotTrusted);
        }
        // Shared, so that two who ask at the same time do not take each other for the owner.
        flock(&file, FlockOperation::NonBlockingLockShared).map_err(|_| Doubt::Alive)?;
        if file.metadata().map_or(0, |metadata| metadata.nlink()) == 0 {
            // It was taken back, and not left, since it was opened.
            return Err(Doubt::NoRecord);
        }
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(|_| Doubt::NotTrusted)?;
        let record: Value = serde_json::from_str(&text).map_err(|_| Doubt::NotTrusted)?;
        self.judge(&record, &metadata, client, addr)
    }

    /// Nobody has the file locked.
    fn judge(
        &self,
        record: &Value,
        metadata: &fs::Metadata,
        client: EntityName,
        addr: EntityAddr,
    ) -> Result<Proof, Doubt> {
        let named = record["cluster"] == self.cluster.as_str()
            && record["client"] == client.num
            && record["address"] == shown(addr).as_str();
        if !named {
            return Err(Doubt::AnotherInstance);
        }
        if record["inode"] != metadata.ino() {
            return Err(Doubt::Copy);
        }
        if record["boot_id"] == self.host.boot_id.as_str() {
            return if record["device"] == metadata.dev() { Ok(Proof::Unlocked) } else { Err(Doubt::Copy) };
        }
        let same_machine = self.host.machine_id.as_deref().is_some_and(|id| record["machine_id"] == id);
        let same_address = self.ip.is_some() && addr.addr.map(|addr| addr.ip()) == self.ip;
        if same_machine && same_address { Ok(Proof::Rebooted) } else { Err(Doubt::AnotherHost) }
    }
}

impl rbd::Predecessors for Predecessors {
    fn has_ended(&self, client: EntityName, addr: EntityAddr) -> bool {
        match self.proof(client, addr) {
            Ok(proof) => {
                info!(%client, %addr, ?proof, "this client was a server of this host, and has ended");
                true
            }
            Err(doubt) => {
                debug!(%client, %addr, ?doubt, "this client may be alive");
                false
            }
        }
    }
}

impl Drop for Predecessors {
    /// An orderly end leaves no locks behind.
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            debug!(path = %self.path.display(), %error, "cannot remove the proof of life");
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Proof {
    /// It has given its file up, on this kernel.
    Unlocked,
    /// Its kernel has ended.
    Rebooted,
}

#[derive(Debug, PartialEq, Eq)]
enum Doubt {
    NoRecord,
    /// Somebody else's file, or one on a file system whose locks other hosts may not see.
    NotTrusted,
    Alive,
    AnotherInstance,
    Copy,
    AnotherHost,
}

impl Host {
    fn this() -> io::Result<Self> {
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        let machine_id = fs::read_to_string("/etc/machine-id").map(|id| id.trim().to_owned());
        Ok(Self { boot_id, machine_id: machine_id.ok().filter(|id| !id.is_empty()) })
    }
}

/// The directory for what outlives a process: of the service that systemd runs this as, of the user, or of the system.
pub(crate) fn state_directory() -> Option<PathBuf> {
    choose_directory(|name| env::var(name).ok(), rustix::process::geteuid().is_root())
}

fn choose_directory(env: impl Fn(&str) -> Option<String>, root: bool) -> Option<PathBuf> {
    let set = |name| env(name).filter(|value| !value.is_empty());
    let of_service = |name| set(name).and_then(|list| list.split(':').next().map(PathBuf::from));
    of_service("STATE_DIRECTORY")
        .or_else(|| of_service("RUNTIME_DIRECTORY"))
        .or_else(|| set("XDG_STATE_HOME").map(|home| Path::new(&home).join(PROGRAM)))
        .or_else(|| root.then(|| Path::new("/var/lib").join(PROGRAM)))
        .or_else(|| set("HOME").map(|home| Path::new(&home).join(".local/state").join(PROGRAM)))
}

const PROGRAM: &str = "rbd-nbd-rs";

fn file_name(cluster: &str, client: u64) -> String {
    format!("{cluster}.client.{client}")
}

/// As locks and watchers show it, whatever messenger it speaks.
fn shown(addr: EntityAddr) -> String {
    EntityAddr { kind: AddrType::ANY, ..addr }.to_string()
}

/// Locks the file and makes it last.
fn write_record(
    file: &mut File,
    host: &Host,
    cluster: &str,
    client: GlobalId,
    addr: EntityAddr,
) -> io::Result<()> {
    if !is_local(file) {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "the directory is not on a local file system",
        ));
    }
    // Who looks for what can go has it for a moment at most.
    flock(&*file, FlockOperation::LockExclusive)?;
    let metadata = file.metadata()?;
    let record = json!({
        "cluster": cluster,
        "client": client.0,
        "address": shown(addr),
        "boot_id": host.boot_id,
        "machine_id": host.machine_id,
        "device": metadata.dev(),
        "inode": metadata.ino(),
        "process": std::process::id(),
    });
    writeln!(file, "{record}")?;
    file.sync_all()
}

/// Whether all who can see the file are on this kernel. Magic numbers: `include/uapi/linux/magic.h`.
fn is_local(file: &File) -> bool {
    const LOCAL: [u64; 9] = [
        0xef53,      // ext2, ext3, ext4
        0x5846_5342, // xfs
        0x9123_683e, // btrfs
        0x0102_1994, // tmpfs
        0x8584_58f6, // ramfs
        0xf2f5_2010, // f2fs
        0x2fc1_2fc1, // zfs
        0xca45_1a4e, // bcachefs
        0x794c_7630, // overlayfs
    ];
    // The kernel's type of this number is signed on some architectures.
    fstatfs(file).is_ok_and(|fs| LOCAL.iter().any(|magic| i128::from(fs.f_type) == i128::from(*magic)))
}

/// Removes files of instances that have ended, all but the youngest.
fn forget_the_oldest(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    let mut ended: Vec<(SystemTime, PathBuf)> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().contains(".client."))
        .filter_map(|entry| {
            let file = File::open(entry.path()).ok()?;
            flock(&file, FlockOperation::NonBlockingLockShared).ok()?;
            Some((file.metadata().ok()?.modified().ok()?, entry.path()))
        })
        .collect();
    ended.sort();
    for (_, path) in ended.iter().take(ended.len().saturating_sub(KEPT)) {
        // Another server may do the same.
        let _ = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use ceph_codec::EntityType;

    use super::*;

    const CLUSTER: &str = "11111111-2222-3333-4444-555555555555";

    fn addr(ip: &str, nonce: u32) -> EntityAddr {
        EntityAddr { kind: AddrType::MSGR2, nonce, addr: Some(format!("{ip}:0").parse().unwrap()) }
    }

    /// As an OSD tells it.
    fn owner(client: i64, ip: &str, nonce: u32) -> (EntityName, EntityAddr) {
        let name = EntityName { kind: EntityType::CLIENT, num: client };
        (name, EntityAddr { kind: AddrType::LEGACY, ..addr(ip, nonce) })
    }

    impl Predecessors {
        fn proof_of(&self, (client, addr): (EntityName, EntityAddr)) -> Result<Proof, Doubt> {
            self.proof(client, addr)
        }
    }

    fn host(boot: &str, machine: Option<&str>) -> Host {
        Host { boot_id: boot.into(), machine_id: machine.map(Into::into) }
    }

    fn create(directory: &Path, host: Host, client: u64, ip: &str, nonce: u32) -> Predecessors {
        Predecessors::create(directory, host, CLUSTER, GlobalId(client), addr(ip, nonce)).unwrap()
    }

    /// As if the process was killed: its files are closed and remain.
    fn kill(instance: Predecessors) -> PathBuf {
        let path = instance.path.clone();
        let contents = fs::metadata(&path).unwrap();
        let saved = path.with_extension("saved");
        fs::hard_link(&path, &saved).unwrap();
        drop(instance);
        fs::rename(&saved, &path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().ino(), contents.ino());
        path
    }

    #[test]
    fn an_instance_is_dead_when_its_file_is_not_locked_any_more() {
        let directory = tempfile::tempdir().unwrap();
        let this = host("boot", Some("machine"));
        let old = create(directory.path(), this.clone(), 7, "192.0.2.1", 70);
        let new = create(directory.path(), this, 8, "192.0.2.1", 80);
        assert_eq!(
            new.proof_of(owner(7, "192.0.2.1", 70)),
            Err(Doubt::Alive),
            "and stopped ones count as alive"
        );
        assert_eq!(new.proof_of(owner(8, "192.0.2.1", 80)), Err(Doubt::Alive), "itself");
        kill(old);
        assert_eq!(new.proof_of(owner(7, "192.0.2.1", 70)), Ok(Proof::Unlocked));
        assert_eq!(new.proof_of(owner(7, "192.0.2.1", 71)), Err(Doubt::AnotherInstance), "nonce");
        assert_eq!(new.proof_of(owner(7, "192.0.2.2", 70)), Err(Doubt::AnotherInstance), "address");
        assert_eq!(new.proof_of(owner(9, "192.0.2.1", 70)), Err(Doubt::NoRecord), "number");
    }

    #[test]
    fn two_may_ask_at_the_same_time() {
        let directory = tempfile::tempdir().unwrap();
        let this = host("boot", None);
        let path = kill(create(directory.path(), this.clone(), 7, "192.0.2.1", 70));
        let new = create(directory.path(), this, 8, "192.0.2.1", 80);
        let asking = File::open(path).unwrap();
        flock(&asking, FlockOperation::NonBlockingLockShared).unwrap();
        assert_eq!(new.proof_of(owner(7, "192.0.2.1", 70)), Ok(Proof::Unlocked));
    }

    #[test]
    fn a_copy_proves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let this = host("boot", Some("machine"));
        let old = create(directory.path(), this, 7, "192.0.2.1", 70);
        fs::copy(&old.path, elsewhere.path().join(old.path.file_name().unwrap())).unwrap();
        for boot in ["boot", "another boot"] {
            let new = create(elsewhere.path(), host(boot, Some("machine")), 8, "192.0.2.1", 80);
            assert_eq!(new.proof_of(owner(7, "192.0.2.1", 70)), Err(Doubt::Copy));
        }
    }

    #[test]
    fn a_restart_of_the_same_machine_ended_all_that_ran_before() {
        let directory = tempfile::tempdir().unwrap();
        kill(create(directory.path(), host("boot", Some("machine")), 7, "192.0.2.1", 70));
        kill(create(directory.path(), host("boot", None), 6, "192.0.2.1", 60));
        let dead = owner(7, "192.0.2.1", 70);
        let proof = |host, ip: &str, dead| create(directory.path(), host, 8, ip, 80).proof_of(dead);
        let again = host("another boot", Some("machine"));
        assert_eq!(proof(again.clone(), "192.0.2.1", dead), Ok(Proof::Rebooted));
        assert_eq!(proof(again, "192.0.2.9", dead), Err(Doubt::AnotherHost), "a clone of the machine");
        assert_eq!(
            proof(host("another boot", Some("other machine")), "192.0.2.1", dead),
            Err(Doubt::AnotherHost)
        );
        assert_eq!(proof(host("another boot", None), "192.0.2.1", dead), Err(Doubt::AnotherHost));
        let nameless = owner(6, "192.0.2.1", 60);
        assert_eq!(proof(host("another boot", None), "192.0.2.1", nameless), Err(Doubt::AnotherHost));
    }

    #[test]
    fn files_that_are_not_what_they_should_be_prove_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let new = create(directory.path(), host("boot", None), 8, "192.0.2.1", 80);
        let path = directory.path().join(file_name(CLUSTER, 7));
        let dead = owner(7, "192.0.2.1", 70);
        for contents in ["", "{}", "null", "{\"client\": 7}", &"x".repeat(5000)] {
            fs::write(&path, contents).unwrap();
            assert!(new.proof_of(dead).is_err(), "{contents}");
        }
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&new.path, &path).unwrap();
        assert_eq!(new.proof_of(dead), Err(Doubt::NoRecord));
    }

    #[test]
    fn a_file_that_was_taken_back_proves_nothing_to_whoever_has_it_open() {
        let dir = tempfile::tempdir().unwrap();
        let living = create(dir.path(), host("boot", None), 1, "10.0.0.1", 7);
        let asking = create(dir.path(), host("boot", None), 2, "10.0.0.1", 8);
        let (client, addr) = owner(1, "10.0.0.1", 7);
        let file = asking.open(client).unwrap();
        drop(living);
        assert_eq!(asking.prove(file, client, addr), Err(Doubt::NoRecord));
    }

    #[test]
    fn an_orderly_end_leaves_nothing_and_crashes_leave_not_too_much() {
        let directory = tempfile::tempdir().unwrap();
        let count = || fs::read_dir(directory.path()).unwrap().count();
        let this = host("boot", None);
        drop(create(directory.path(), this.clone(), 1, "192.0.2.1", 1));
        assert_eq!(count(), 0);
        let alive = create(directory.path(), this.clone(), 1, "192.0.2.1", 1);
        for client in 2..KEPT as u64 + 30 {
            kill(create(directory.path(), this.clone(), client, "192.0.2.1", 1));
        }
        assert!((KEPT..KEPT + 3).contains(&count()), "{}", count());
        assert!(alive.path.exists());
        let youngest = create(directory.path(), this, 9999, "192.0.2.1", 1);
        let last = i64::try_from(KEPT).unwrap() + 29;
        assert_eq!(youngest.proof_of(owner(last, "192.0.2.1", 1)), Ok(Proof::Unlocked));
    }

    #[test]
    fn the_directory_is_the_services_the_users_or_the_systems() {
        let with = |vars: &'static [(&str, &str)], root| {
            let env = |name: &str| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
            choose_directory(env, root)
        };
        let both = &[("RUNTIME_DIRECTORY", "/run/a"), ("STATE_DIRECTORY", "/var/lib/a:/var/lib/b")];
        assert_eq!(with(both, true), Some("/var/lib/a".into()));
        assert_eq!(with(&[("RUNTIME_DIRECTORY", "/run/a")], true), Some("/run/a".into()));
        assert_eq!(with(&[("HOME", "/root")], true), Some("/var/lib/rbd-nbd-rs".into()));
        assert_eq!(with(&[("HOME", "/h")], false), Some("/h/.local/state/rbd-nbd-rs".into()));
        assert_eq!(with(&[("XDG_STATE_HOME", "/s"), ("HOME", "/h")], false), Some("/s/rbd-nbd-rs".into()));
        assert_eq!(with(&[], false), None);
    }
}
