//! What was done so far, to be printed if something is wrong.

use std::fmt::Write as _;
use std::ops::Range;

use crate::content::{Content, Difference, origin};
use crate::option;

/// So many operations are shown, unless `SHOW` says otherwise.
const SHOWN: u64 = 40;

#[derive(Debug)]
pub(crate) struct History {
    seed: u64,
    shape: String,
    entries: Vec<Entry>,
    /// Of the operation under way.
    pub(crate) number: u64,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    text: String,
    /// What it may have changed.
    changed: Option<Range<u64>>,
}

impl History {
    pub(crate) fn new(seed: u64, shape: String) -> Self {
        Self { seed, shape, entries: Vec::new(), number: 0 }
    }

    pub(crate) fn note(&mut self, text: impl Into<String>) {
        self.entries.push(Entry { number: self.number, text: text.into(), changed: None });
    }

    pub(crate) fn note_change(&mut self, text: impl Into<String>, changed: Range<u64>) {
        self.entries.push(Entry { number: self.number, text: text.into(), changed: Some(changed) });
    }

    /// # Panics
    /// If what was read at an offset is not what should be there; says all that is known about it.
    pub(crate) fn compare(&self, what: &str, expected: &Content, offset: u64, found: &[u8]) {
        if let Some(difference) = expected.difference(offset, found) {
            panic!("{what}: {}", self.explain(&difference));
        }
    }

    fn explain(&self, difference: &Difference) -> String {
        let Difference { range, expected, found, .. } = difference;
        let [expected, found] =
            [expected, found].map(|bytes| match origin(range.start, bytes, self.number) {
                Some(operation) => format!("operation {operation}"),
                None if bytes.iter().all(|byte| *byte == 0) => "zeroes".to_owned(),
                None => "unknown, or several operations".to_owned(),
            });
        let mut text = format!(
            "{difference}\nexpected what is of {expected}, found what is of {found}; changed there before:\n"
        );
        let there = |entry: &&Entry| {
            entry
                .changed
                .as_ref()
                .is_some_and(|changed| changed.start < range.end && range.start < changed.end)
        };
        let mut changes: Vec<_> = self.entries.iter().rev().filter(there).take(12).collect();
        changes.reverse();
        changes.iter().for_each(|Entry { number, text: entry, .. }| {
            let _ = writeln!(text, "{number:6} {entry}");
        });
        text
    }
}

impl Drop for History {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        eprintln!("--- SEED={} operation {}; {}", self.seed, self.number, self.shape);
        let first = self.number.saturating_sub(option("SHOW", SHOWN) - 1);
        for Entry { number, text, .. } in self.entries.iter().filter(|entry| entry.number >= first) {
            eprintln!("{number:6} {text}");
        }
        eprintln!("---");
    }
}
