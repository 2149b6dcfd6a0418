//! Commands, with a limit of time for each.

use std::fmt;
use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// More than any command of the tests takes on a loaded machine, so that a hang is a failure and not a wait.
const LIMIT: Duration = Duration::from_secs(120);

/// What a command left behind.
#[derive(Debug)]
pub(crate) struct Output {
    command: String,
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
}

impl Output {
    /// The standard output of a command that was to succeed.
    pub(crate) fn success(self) -> String {
        assert!(self.status.success(), "failed: {self}");
        self.stdout
    }

    /// The standard error of a command that was to fail on its own account, not by a signal.
    pub(crate) fn failure(self) -> String {
        assert!(self.status.code().is_some_and(|code| code != 0), "did not fail: {self}");
        self.stderr
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { command, status, stdout, stderr, took } = self;
        write!(f, "{command}\n{status} after {took:.1?}\n--- stdout\n{stdout}\n--- stderr\n{stderr}\n---")
    }
}

/// Runs a shell command that has to succeed, and returns what it printed.
pub(crate) fn run(command: &str) -> String {
    run_within(LIMIT, &mut shell(command)).success()
}

/// Starts a shell command that goes on while the test does something else.
pub(crate) fn start(command: &str) -> Running {
    start_command(&mut shell(command))
}

/// Starts a command that goes on while the test does something else.
pub(crate) fn start_command(command: &mut Command) -> Running {
    Running::new(command)
}

/// Runs a command to its end, which must come within `limit`.
pub(crate) fn run_within(limit: Duration, command: &mut Command) -> Output {
    Running::new(command).finish_within(limit)
}

/// A command under way. Dropped before its end, it is killed.
pub(crate) struct Running {
    command: String,
    began: Instant,
    child: Child,
    outputs: Option<[thread::JoinHandle<String>; 2]>,
}

impl Running {
    fn new(command: &mut Command) -> Self {
        let text = format!("{command:?}");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {text}: {error}"));
        let stdout = collect(child.stdout.take().expect("piped"));
        let stderr = collect(child.stderr.take().expect("piped"));
        Self { command: text, began: Instant::now(), child, outputs: Some([stdout, stderr]) }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_none()
    }

    pub(crate) fn finish(self) -> Output {
        self.finish_within(LIMIT)
    }

    pub(crate) fn finish_within(mut self, limit: Duration) -> Output {
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                break Some(status);
            }
            if self.began.elapsed() > limit {
                self.child.kill().expect("an unreaped child can be killed");
                break None;
            }
            thread::sleep(Duration::from_millis(5));
        };
        let took = self.began.elapsed();
        // A grandchild that survives would keep the pipes open, so they are read only after an end of its own.
        let Some(status) = status else { panic!("not finished within {limit:?}: {}", self.command) };
        let [stdout, stderr] = self.outputs.take().expect("taken only here");
        Output {
            command: std::mem::take(&mut self.command),
            status,
            stdout: stdout.join().expect("reading does not panic"),
            stderr: stderr.join().expect("reading does not panic"),
            took,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already ended, if it was finished.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Tries until `done` gives a value; panics with `what` once `limit` has passed.
pub(crate) fn wait_until<T>(what: &str, limit: Duration, mut done: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(began.elapsed() < limit, "waited {limit:?} in vain: {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

fn shell(command: &str) -> Command {
    let mut shell = Command::new("bash");
    shell.args(["-euo", "pipefail", "-c", command]);
    shell
}

fn collect(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
