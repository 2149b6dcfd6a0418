//! How far long work has come, to standard error, in the words of `rbd`.

use std::io::{self, IsTerminal, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Args as ClapArgs;

#[derive(Debug, Clone, Copy, Default, ClapArgs)]
pub(crate) struct ProgressArgs {
    /// Do not show how far it has come
    #[arg(long)]
    no_progress: bool,
}

/// Shows the progress of one piece of work; its end is told by [`finish`](Self::finish).
///
/// Ceph: `ProgressContext` in `src/tools/rbd/Utils.cc`. On a terminal there are a bar and the time left, too.
#[derive(Debug)]
pub(crate) struct ProgressLine {
    /// What is done: `Removing image`.
    doing: String,
    shown: bool,
    began: Instant,
    /// What was shown last.
    percent: AtomicU64,
}

impl ProgressArgs {
    pub(crate) fn start(self, doing: impl Into<String>) -> ProgressLine {
        let shown = !self.no_progress;
        ProgressLine { doing: doing.into(), shown, began: Instant::now(), percent: AtomicU64::new(0) }
    }
}

impl ProgressLine {
    /// Says how the work ended, and passes the outcome on.
    pub(crate) fn finish<T, E>(&self, outcome: Result<T, E>) -> Result<T, E> {
        match outcome {
            Ok(_) => self.print(100, "done.", "\n"),
            Err(_) => self.fail(),
        }
        outcome
    }

    /// Says that the work was not done, or not all of it.
    pub(crate) fn fail(&self) {
        self.print(self.percent.load(Ordering::Relaxed), "failed.", "\n");
    }

    fn print(&self, percent: u64, how: &str, end: &str) {
        if !self.shown {
            return;
        }
        let mut line = format!("\r{}: {percent}% complete...{how}", self.doing);
        if io::stderr().is_terminal() {
            if end.is_empty() {
                line += &format!(" {}", bar(percent, self.began.elapsed()));
            }
            line += ERASE_REST;
        }
        // That nobody sees it is no reason to stop.
        let _ = io::stderr().write_all((line + end).as_bytes());
    }
}

/// Terminals erase from the cursor to the end of the line.
const ERASE_REST: &str = "\x1b[K";

impl rbd::Progress for ProgressLine {
    fn update(&self, done: u64, total: u64) {
        let percent = percentage(done, total);
        if self.percent.fetch_max(percent, Ordering::Relaxed) < percent {
            self.print(percent, "", "");
        }
    }
}

fn percentage(done: u64, total: u64) -> u64 {
    let percent = u128::from(done) * 100 / u128::from(total.max(1));
    u64::try_from(percent).unwrap_or(100).min(100)
}

/// `[#####---------------] 1:23 left`
fn bar(percent: u64, elapsed: Duration) -> String {
    let full = usize::try_from(percent / 5).unwrap_or(20).min(20);
    let left = elapsed.as_secs() * (100 - percent.min(100)) / percent.max(1);
    format!("[{}{}] {}:{:02} left", "#".repeat(full), "-".repeat(20 - full), left / 60, left % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentage_is_at_most_100_whatever_the_numbers() {
        for (done, total, percent) in
            [(0, 10, 0), (1, 3, 33), (10, 10, 100), (0, 0, 0), (11, 10, 100), (u64::MAX, u64::MAX, 100)]
        {
            assert_eq!(percentage(done, total), percent, "{done} of {total}");
        }
    }

    #[test]
    fn the_bar_tells_the_time_left() {
        assert_eq!(bar(25, Duration::from_secs(30)), "[#####---------------] 1:30 left");
        assert_eq!(bar(100, Duration::from_secs(30)), "[####################] 0:00 left");
    }
}
