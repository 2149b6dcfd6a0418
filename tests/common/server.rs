//! The program, serving.

use std::fs::{self, File};
use std::process::{self, Child, Command, Stdio};
use std::time::Duration;

use super::cluster::{Cluster, unique};
use super::process::{run, wait_until};

const READY_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// A running `rbd-nbd-rs serve`. Dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    socket: String,
    log: String,
}

/// The program under test; `RBD_NBD_RS` names another build of it.
pub(crate) fn program() -> Command {
    let path = std::env::var_os("RBD_NBD_RS").unwrap_or_else(|| env!("CARGO_BIN_EXE_rbd-nbd-rs").into());
    let mut program = Command::new(path);
    // Nothing of the environment reaches a test that does not set it itself.
    for name in
        ["CEPH_CONF", "CEPH_ARGS", "CEPH_KEYRING", "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "NOTIFY_SOCKET"]
    {
        program.env_remove(name);
    }
    program
}

impl Server {
    /// Serves `specs` (and options) of the cluster as its least privileged user.
    pub(crate) fn serve(cluster: &Cluster, args: &[&str]) -> Self {
        Self::serve_with(
            cluster,
            program().args(["serve", "--id", "qemu", "--conf", &cluster.conf()]).args(args),
        )
    }

    /// Serves with a command of the test's own, which gets a `--socket`.
    pub(crate) fn serve_with(cluster: &Cluster, command: &mut Command) -> Self {
        let socket = cluster.file(&format!("server{}.{}.sock", process::id(), unique()));
        command.args(["--socket", &socket]);
        Self::spawn(cluster, command, Some(socket))
    }

    /// Starts the program, and returns once it has printed its QEMU line; the socket is the one named there.
    pub(crate) fn spawn(cluster: &Cluster, command: &mut Command, socket: Option<String>) -> Self {
        let log = cluster.file(&format!("server{}.{}.log", process::id(), unique()));
        let file = File::create(&log).expect("the cluster's folder is writable");
        command.stdin(Stdio::null()).stdout(file.try_clone().expect("a file can be shared")).stderr(file);
        command.env("STATE_DIRECTORY", cluster.file("state"));
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let mut server = Self { child, socket: String::new(), log };
        let printed = wait_until(&format!("ready: {command:?}"), READY_LIMIT, || {
            let printed = server.printed();
            let ended = server.child.try_wait().expect("a child can be waited for");
            assert!(ended.is_none(), "{command:?} ended with {ended:?} and printed:\n{printed}");
            printed.contains("file=nbd:").then_some(printed)
        });
        server.socket = socket.unwrap_or_else(|| {
            let after = printed.split("nbd:unix:").nth(1).expect("a unix socket is the default");
            after.split(":exportname=").next().unwrap_or_default().to_owned()
        });
        server
    }

    /// NBD URI of an export.
    pub(crate) fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.socket)
    }

    /// Value of QEMU's `-drive` for an export, as the server printed it.
    pub(crate) fn drive(&self, export: &str) -> String {
        let printed = self.printed();
        let line = printed.lines().find(|line| line.contains(&format!(":exportname={export},")));
        let drive = line.and_then(|line| line.split("-drive ").nth(1));
        drive.unwrap_or_else(|| panic!("no line for {export} in:\n{printed}")).trim().to_owned()
    }

    pub(crate) fn socket(&self) -> &str {
        &self.socket
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has printed so far.
    pub(crate) fn printed(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Runs `qemu-io` commands on an export, all of which have to succeed.
    pub(crate) fn qemu_io(&self, export: &str, commands: &[&str]) -> String {
        qemu_io(&self.uri(export), commands)
    }

    /// The same on an export that QEMU would not open for writing.
    pub(crate) fn qemu_io_read_only(&self, export: &str, commands: &[&str]) -> String {
        qemu_io_with("--read-only", &self.uri(export), commands)
    }

    /// Digest of everything in an export.
    pub(crate) fn digest(&self, export: &str) -> String {
        run(&format!("nbdcopy '{}' - | sha256sum", self.uri(export))).trim().to_owned()
    }

    /// Asks it to end as an operator does, and holds when it does so cleanly.
    pub(crate) fn stop(mut self) {
        run(&format!("kill -TERM {}", self.pid()));
        let status = wait_until("end after SIGTERM", STOP_LIMIT, || {
            self.child.try_wait().expect("a child can be waited for")
        });
        assert!(status.success(), "{status} after SIGTERM; it printed:\n{}", self.printed());
    }

    /// Ends it without a chance to tidy up.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("an unreaped child can be killed");
        self.child.wait().expect("a child can be waited for");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the server printed\n{}\n---", self.printed());
        }
        // Already ended, if it was stopped.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `qemu-io` commands, all of which have to succeed and find the patterns they ask for.
pub(crate) fn qemu_io(target: &str, commands: &[&str]) -> String {
    qemu_io_with("--discard=unmap", target, commands)
}

fn qemu_io_with(options: &str, target: &str, commands: &[&str]) -> String {
    let list: String = commands.iter().map(|command| format!(" -c '{command}'")).collect();
    let printed = run(&format!("qemu-io -f raw {options} '{target}'{list} 2>&1"));
    let bad = ["failed", "error", "Error", "Invalid", "No such"].iter().any(|word| printed.contains(word));
    assert!(!bad, "qemu-io {target}{list}:\n{printed}");
    printed
}
