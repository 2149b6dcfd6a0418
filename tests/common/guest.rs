//! A Linux guest in QEMU, through `scripts/guest`.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use super::process::run_within;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/guest");
/// An emulated guest boots in seconds, on a loaded machine in minutes.
const LIMIT: Duration = Duration::from_secs(400);

/// A guest that runs a script and then powers off. Dropped, it loses its power at once.
#[derive(Debug)]
pub(crate) struct Guest {
    qemu: Child,
    lines: Receiver<String>,
    printed: String,
}

impl Guest {
    /// Boots it on `drives` (values of QEMU's `-drive`), its /dev/vda and so on, with shell commands to run.
    pub(crate) fn boot(drives: &[String], script: &str) -> Self {
        Self::start(&["run", &format!("set -e\n{script}")], drives)
    }

    /// Boots what is on the first of `drives`, made by [`make_disk`](Self::make_disk).
    pub(crate) fn boot_disk(drives: &[String]) -> Self {
        Self::start(&["boot"], drives)
    }

    /// Makes a file with a disk that boots by itself and then runs a script.
    pub(crate) fn make_disk(file: &str, script: &str) {
        let mut make = Command::new(SCRIPT);
        run_within(LIMIT, make.args(["disk", file, &format!("set -e\n{script}")])).success();
    }

    fn start(args: &[&str], drives: &[String]) -> Self {
        let mut command = Command::new(SCRIPT);
        command.args(args);
        for drive in drives {
            command.args(["-drive", drive]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut qemu = command.spawn().expect("scripts/guest is there");
        let console = qemu.stdout.take().expect("piped");
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(console).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { qemu, lines, printed: String::new() }
    }

    /// Waits for a line of output that starts with `marker`, and returns it.
    pub(crate) fn wait_for(&mut self, marker: &str) -> String {
        let deadline = Instant::now() + LIMIT;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.printed.push_str(&line);
                    self.printed.push('\n');
                    if line.starts_with(marker) {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("no {marker:?} within {LIMIT:?}: {}", self.printed),
                Err(RecvTimeoutError::Disconnected) => panic!("ended without {marker:?}: {}", self.printed),
            }
        }
    }

    /// Waits for the end of the script, which must succeed, and returns all that the guest printed.
    pub(crate) fn finish(mut self) -> String {
        let end = self.wait_for("guest: exit");
        assert_eq!(end, "guest: exit 0", "{}", self.printed);
        std::mem::take(&mut self.printed)
    }

    /// Takes its power away.
    pub(crate) fn kill(mut self) {
        self.qemu.kill().expect("an unreaped child can be killed");
        self.qemu.wait().expect("a child can be waited for");
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Already ended, if it was killed or has powered off.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}
