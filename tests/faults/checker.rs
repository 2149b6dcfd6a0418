//! Decides whether what was read could have been read from a disk.
//!
//! Each block is a register. A request takes effect at one moment between the time it was sent and the time it was
//! answered, or at any later time if it never was; a read returns what took effect last. Out of many requests at once this
//! leaves several answers that are right, but it rules out
//!
//! * an old value once a newer write was acknowledged (**lost** or **stale**),
//! * an old value once a newer one was read (**going back**), also of writes nobody acknowledged yet,
//! * bytes that nobody wrote, or not there, or not together (**garbage**, **misplaced**, **torn**).
//!
//! ```text
//!  write 1  |-----------|
//!  write 2        |------------|            both may be the last: reads return either, but never 1, then 2, then 1
//!  read             |----| |------| |---|
//! ```
//!
//! A trim takes effect like a write of zeroes, or never.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use crate::stamp::{BLOCK, Content};

/// A moment; every event has its own.
pub(crate) type Tick = u64;
/// Later than everything.
const NEVER: Tick = Tick::MAX;

/// What a request does to the blocks it covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Write,
    Zero,
    Trim,
}

/// A read under way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading(Tick);

/// What was wrong with a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) block: u64,
    pub(crate) kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Garbage,
    Torn,
    /// It was written to another block.
    Misplaced {
        from: u64,
    },
    /// Something newer had taken effect before the read began.
    Stale {
        found: Value,
        newer: Vec<Value>,
    },
    /// Blocks of a snapshot are of different times.
    NotOneMoment {
        older: u64,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "block {}: {:?}", self.block, self.kind)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value {
    Zeroes,
    /// By the write of this number.
    Written(u64),
}

/// A change that may still be the last one of its block.
#[derive(Debug, Clone)]
struct Candidate {
    sequence: u64,
    value: Value,
    /// It may have no effect at all.
    optional: bool,
    began: Tick,
    /// It takes no effect after this moment: it was acknowledged, or read.
    ended_by: Tick,
    /// It had taken effect at this moment.
    applied_by: Tick,
    /// What comes after it had taken effect at this moment: a read that begins later does not return it.
    dead_from: Tick,
}

/// The blocks of an image, all zeroes at first, and what became of them.
#[derive(Debug)]
pub(crate) struct Checker {
    now: Tick,
    next_sequence: u64,
    blocks: Vec<Vec<Candidate>>,
    /// Reads under way, by the moments at which they began.
    reading: BTreeMap<Tick, ()>,
    violations: Vec<Violation>,
    /// How many blocks were read.
    checked: u64,
}

/// What each block may hold in a snapshot that was taken meanwhile.
#[derive(Debug)]
pub(crate) struct SnapshotRule {
    between: Range<Tick>,
    blocks: Vec<Vec<Candidate>>,
}

impl Checker {
    pub(crate) fn new(blocks: u64) -> Self {
        let zeroes = Candidate {
            sequence: 0,
            value: Value::Zeroes,
            optional: false,
            began: 0,
            ended_by: 0,
            applied_by: 0,
            dead_from: NEVER,
        };
        Self {
            now: 0,
            next_sequence: 1,
            blocks: vec![vec![zeroes]; blocks as usize],
            reading: BTreeMap::new(),
            violations: Vec::new(),
            checked: 0,
        }
    }

    pub(crate) fn violations(&self) -> &[Violation] {
        &self.violations
    }

    pub(crate) fn checked(&self) -> u64 {
        self.checked
    }

    fn tick(&mut self) -> Tick {
        self.now += 1;
        self.now
    }

    /// A change of these blocks is about to be sent; returns its number.
    pub(crate) fn begin(&mut self, change: Change, blocks: Range<u64>) -> u64 {
        let began = self.tick();
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let value = if change == Change::Write { Value::Written(sequence) } else { Value::Zeroes };
        for block in blocks {
            self.blocks[block as usize].push(Candidate {
                sequence,
                value,
                optional: change == Change::Trim,
                began,
                ended_by: NEVER,
                applied_by: NEVER,
                dead_from: NEVER,
            });
        }
        sequence
    }

    /// A change was acknowledged. One that failed never is: it may take effect at any time.
    pub(crate) fn acknowledge(&mut self, sequence: u64, blocks: Range<u64>) {
        let now = self.tick();
        let oldest = self.oldest_read();
        for block in blocks {
            let candidates = &mut self.blocks[block as usize];
            // It is gone if something newer was seen already.
            let Some(index) = candidates.iter().position(|candidate| candidate.sequence == sequence) else {
                continue;
            };
            let candidate = &mut candidates[index];
            candidate.ended_by = candidate.ended_by.min(now);
            if !candidate.optional {
                candidate.applied_by = candidate.applied_by.min(now);
            }
            let Candidate { began, .. } = *candidate;
            supersede(candidates, index, began);
            forget(candidates, oldest);
        }
    }

    /// A read is about to be sent.
    pub(crate) fn begin_read(&mut self) -> Reading {
        let now = self.tick();
        self.reading.insert(now, ());
        Reading(now)
    }

    /// A read failed.
    pub(crate) fn abandon(&mut self, reading: Reading) {
        self.reading.remove(&reading.0);
    }

    /// A read returned `data`, whole blocks from `first` on.
    pub(crate) fn finish_read(&mut self, reading: Reading, first: u64, data: &[u8]) {
        let now = self.tick();
        self.reading.remove(&reading.0);
        let oldest = self.oldest_read();
        for (block, data) in (first..).zip(data.chunks_exact(BLOCK)) {
            self.checked += 1;
            let candidates = &mut self.blocks[block as usize];
            let verdict = identify(block, data).and_then(|value| see(candidates, value, reading.0, now));
            if let Err(kind) = verdict {
                self.violations.push(Violation { block, kind });
            }
            forget(candidates, oldest);
        }
    }

    /// The snapshot was taken after `reading` began and before now; what it may hold.
    pub(crate) fn snapshot_taken(&mut self, reading: Reading) -> SnapshotRule {
        let now = self.tick();
        self.reading.remove(&reading.0);
        SnapshotRule { between: reading.0..now, blocks: self.blocks.clone() }
    }

    fn oldest_read(&self) -> Tick {
        self.reading.first_key_value().map_or(self.now, |(began, ())| *began)
    }
}

impl SnapshotRule {
    /// Compares the whole snapshot with one moment of the image: what was acknowledged before it is there, what was
    /// sent after it is not.
    pub(crate) fn check(&self, data: &[u8]) -> Vec<Violation> {
        let mut violations = Vec::new();
        // The moment lies between the beginning of the youngest and the end of the oldest value.
        let (mut from, mut until, mut oldest) = (self.between.start, self.between.end, 0);
        assert_eq!(data.len(), self.blocks.len() * BLOCK, "a snapshot of the whole image");
        for (block, (candidates, data)) in (0..).zip(self.blocks.iter().zip(data.chunks_exact(BLOCK))) {
            let possible = |value| {
                let alive = candidates.iter().filter(move |candidate| {
                    candidate.value == value && candidate.dead_from > self.between.start
                });
                alive
                    .map(|candidate| (candidate.began, candidate.dead_from))
                    .reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
                    .ok_or_else(|| stale(candidates, value))
            };
            match identify(block, data).and_then(possible) {
                Err(kind) => violations.push(Violation { block, kind }),
                Ok((began, dead)) => {
                    from = from.max(began);
                    if dead < until {
                        (until, oldest) = (dead, block);
                    }
                    if from > until {
                        violations.push(Violation { block, kind: Kind::NotOneMoment { older: oldest } });
                        return violations;
                    }
                }
            }
        }
        violations
    }
}

fn identify(block: u64, data: &[u8]) -> Result<Value, Kind> {
    match Content::of(data) {
        Content::Zeroes => Ok(Value::Zeroes),
        Content::Stamped(stamp) if stamp.block != block => Err(Kind::Misplaced { from: stamp.block }),
        Content::Stamped(stamp) => Ok(Value::Written(stamp.sequence)),
        Content::Torn => Err(Kind::Torn),
        Content::Garbage => Err(Kind::Garbage),
    }
}

/// Draws the conclusions from a read that returned `value`.
fn see(candidates: &mut [Candidate], value: Value, began: Tick, now: Tick) -> Result<(), Kind> {
    let mut possible = (0..candidates.len())
        .filter(|&index| candidates[index].value == value && candidates[index].dead_from > began);
    let (first, second) = (possible.next(), possible.next());
    let Some(index) = first else { return Err(stale(candidates, value)) };
    if second.is_some() {
        // Zeroes, and it cannot be told which of them.
        return Ok(());
    }
    let seen = &mut candidates[index];
    seen.ended_by = seen.ended_by.min(now);
    seen.applied_by = seen.applied_by.min(now);
    // Whatever had ended when the read began came before what it returned.
    supersede(candidates, index, began);
    Ok(())
}

/// Everything that had ended before `moment` came before the candidate at `index`, and so did what had ended before the
/// latter began.
fn supersede(candidates: &mut [Candidate], index: usize, moment: Tick) {
    let Candidate { began, applied_by, .. } = candidates[index];
    for (other, candidate) in candidates.iter_mut().enumerate() {
        if other != index && candidate.ended_by < moment.max(began) {
            candidate.dead_from = candidate.dead_from.min(applied_by);
        }
    }
}

/// Forgets what no read can return any more.
fn forget(candidates: &mut Vec<Candidate>, oldest_read: Tick) {
    candidates.retain(|candidate| candidate.dead_from > oldest_read);
}

fn stale(candidates: &[Candidate], found: Value) -> Kind {
    Kind::Stale { found, newer: candidates.iter().map(|candidate| candidate.value).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stamp::Stamp;

    /// A disk of one block, and what is told about it.
    struct Disk(Checker);

    impl Disk {
        fn new() -> Self {
            Self(Checker::new(4))
        }

        fn begin(&mut self, change: Change) -> u64 {
            self.0.begin(change, 1..2)
        }

        fn acknowledge(&mut self, sequence: u64) {
            self.0.acknowledge(sequence, 1..2);
        }

        fn done(&mut self, change: Change) -> u64 {
            let sequence = self.begin(change);
            self.acknowledge(sequence);
            sequence
        }

        fn begin_read(&mut self) -> Reading {
            self.0.begin_read()
        }

        /// Ends a read that returned what `sequence` wrote, zeroes if 0; holds when that is right.
        fn ends_with(&mut self, reading: Reading, sequence: u64) -> bool {
            let mut data = vec![0; BLOCK];
            if sequence != 0 {
                Stamp { block: 1, writer: 0, sequence }.fill(&mut data);
            }
            self.returns(reading, &data)
        }

        fn returns(&mut self, reading: Reading, data: &[u8]) -> bool {
            let before = self.0.violations.len();
            self.0.finish_read(reading, 1, data);
            self.0.violations.len() == before
        }

        fn reads(&mut self, sequence: u64) -> bool {
            let reading = self.begin_read();
            self.ends_with(reading, sequence)
        }
    }

    #[test]
    fn the_last_acknowledged_write_is_read() {
        let mut disk = Disk::new();
        assert!(disk.reads(0));
        let first = disk.done(Change::Write);
        assert!(disk.reads(first));
        let second = disk.done(Change::Write);
        assert!(disk.reads(second));
    }

    #[test]
    fn a_lost_write_is_found() {
        let mut disk = Disk::new();
        disk.done(Change::Write);
        assert!(!disk.reads(0));
    }

    #[test]
    fn a_stale_read_is_found() {
        let mut disk = Disk::new();
        let first = disk.done(Change::Write);
        disk.done(Change::Write);
        assert!(!disk.reads(first));
    }

    #[test]
    fn a_write_in_flight_may_be_read_or_not() {
        let mut disk = Disk::new();
        let first = disk.done(Change::Write);
        let second = disk.begin(Change::Write);
        assert!(disk.reads(first));
        assert!(disk.reads(second));
    }

    #[test]
    fn no_read_goes_back_behind_one_that_ended_before() {
        let mut disk = Disk::new();
        let first = disk.done(Change::Write);
        let second = disk.begin(Change::Write);
        assert!(disk.reads(second));
        assert!(!disk.reads(first), "although nobody acknowledged the second");
    }

    #[test]
    fn reads_at_the_same_time_may_differ() {
        let mut disk = Disk::new();
        let first = disk.done(Change::Write);
        let second = disk.begin(Change::Write);
        let (one, other) = (disk.begin_read(), disk.begin_read());
        assert!(disk.ends_with(one, second));
        assert!(disk.ends_with(other, first));
        assert!(!disk.reads(first));
    }

    #[test]
    fn of_writes_at_the_same_time_either_may_be_last_but_it_stays() {
        let mut disk = Disk::new();
        let (one, other) = (disk.begin(Change::Write), disk.begin(Change::Write));
        disk.acknowledge(other);
        disk.acknowledge(one);
        assert!(disk.reads(other));
        assert!(disk.reads(other));
        assert!(!disk.reads(one), "a write took effect a second time");
    }

    #[test]
    fn a_write_that_is_sent_again_late_is_found() {
        let mut disk = Disk::new();
        let (one, other) = (disk.begin(Change::Write), disk.begin(Change::Write));
        assert!(disk.reads(one));
        assert!(disk.reads(other));
        assert!(!disk.reads(one));
        disk.acknowledge(one);
        disk.acknowledge(other);
        assert!(!disk.reads(one));
        assert!(disk.reads(other));
    }

    #[test]
    fn a_write_that_failed_may_still_happen_but_not_twice() {
        let mut disk = Disk::new();
        let failed = disk.begin(Change::Write);
        let next = disk.done(Change::Write);
        assert!(disk.reads(next));
        assert!(disk.reads(failed));
        assert!(!disk.reads(next));
    }

    #[test]
    fn zeroes_are_as_good_as_a_write() {
        let mut disk = Disk::new();
        let first = disk.done(Change::Write);
        disk.done(Change::Zero);
        assert!(disk.reads(0));
        assert!(!disk.reads(first));
    }

    #[test]
    fn a_trim_zeroes_or_does_nothing_and_does_not_change_its_mind() {
        let mut disk = Disk::new();
        let first = disk.done(Change::Write);
        disk.done(Change::Trim);
        assert!(disk.reads(first));
        assert!(!disk.reads(0));

        let mut disk = Disk::new();
        let first = disk.done(Change::Write);
        disk.done(Change::Trim);
        assert!(disk.reads(0));
        assert!(!disk.reads(first));
    }

    #[test]
    fn a_trim_does_not_undo_the_next_write() {
        let mut disk = Disk::new();
        disk.done(Change::Write);
        disk.done(Change::Trim);
        let second = disk.done(Change::Write);
        assert!(!disk.reads(0));
        assert!(disk.reads(second));
    }

    #[test]
    fn bytes_of_another_block_or_of_nobody_are_found() {
        let mut disk = Disk::new();
        let sequence = disk.done(Change::Write);
        let mut data = vec![0; BLOCK];
        Stamp { block: 2, writer: 0, sequence }.fill(&mut data);
        let reading = disk.begin_read();
        assert!(!disk.returns(reading, &data));
        Stamp { block: 1, writer: 0, sequence }.fill(&mut data);
        data[512..].fill(0);
        let reading = disk.begin_read();
        assert!(!disk.returns(reading, &data));
        data[511] ^= 1;
        let reading = disk.begin_read();
        assert!(!disk.returns(reading, &data));
        assert!(!disk.reads(sequence + 1), "a number that was not used yet");
        let kinds: Vec<_> = disk.0.violations.into_iter().map(|violation| violation.kind).collect();
        assert_eq!(kinds[..3], [Kind::Misplaced { from: 2 }, Kind::Torn, Kind::Garbage]);
    }

    #[test]
    fn nothing_is_remembered_that_no_read_can_return() {
        let mut disk = Disk::new();
        for _ in 0..100 {
            let sequence = disk.done(Change::Write);
            assert!(disk.reads(sequence));
        }
        assert!(disk.0.blocks[1].len() <= 2, "{:?}", disk.0.blocks[1]);
    }

    /// Contents of a snapshot of four blocks.
    fn blocks(sequences: [u64; 4]) -> Vec<u8> {
        let mut data = vec![0; 4 * BLOCK];
        for ((block, data), sequence) in (0..).zip(data.chunks_exact_mut(BLOCK)).zip(sequences) {
            if sequence != 0 {
                Stamp { block, writer: 0, sequence }.fill(data);
            }
        }
        data
    }

    #[test]
    fn a_snapshot_holds_what_was_acknowledged_before_and_nothing_sent_afterwards() {
        let mut checker = Checker::new(4);
        let before = checker.begin(Change::Write, 0..4);
        checker.acknowledge(before, 0..4);
        let taking = checker.begin_read();
        let during = checker.begin(Change::Write, 0..2);
        checker.acknowledge(during, 0..2);
        let rule = checker.snapshot_taken(taking);
        let after = checker.begin(Change::Write, 0..1);
        checker.acknowledge(after, 0..1);
        assert_eq!(rule.check(&blocks([before, before, before, before])), []);
        assert_eq!(rule.check(&blocks([during, during, before, before])), []);
        assert_eq!(rule.check(&blocks([before, before, before, 0])).len(), 1);
        assert_eq!(rule.check(&blocks([after, before, before, before])).len(), 1);
    }

    #[test]
    fn a_snapshot_is_of_one_moment() {
        let mut checker = Checker::new(4);
        let taking = checker.begin_read();
        let first = checker.begin(Change::Write, 0..1);
        checker.acknowledge(first, 0..1);
        let second = checker.begin(Change::Write, 1..2);
        checker.acknowledge(second, 1..2);
        let third = checker.begin(Change::Write, 2..3);
        let rule = checker.snapshot_taken(taking);
        assert_eq!(rule.check(&blocks([first, 0, 0, 0])), []);
        assert_eq!(rule.check(&blocks([first, 0, third, 0])).len(), 1);
        assert_eq!(rule.check(&blocks([first, second, third, 0])), []);
        assert_eq!(
            rule.check(&blocks([0, second, 0, 0])),
            [Violation { block: 1, kind: Kind::NotOneMoment { older: 0 } }]
        );
    }
}
