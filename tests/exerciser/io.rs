//! What a guest does.

use std::ops::Range;

use crate::common::Kind;
use crate::common::nbd::{Command, Request};
use crate::content::{Content, pattern};
use crate::exerciser::Exerciser;

/// A request among others that are under way at the same time.
#[derive(Debug)]
struct Concurrent {
    party: usize,
    cookie: u64,
    request: Request,
    data: Vec<u8>,
}

fn range(request: &Request) -> Range<u64> {
    request.offset..request.offset + u64::from(request.length)
}

impl Exerciser<'_> {
    pub(crate) fn read(&mut self) {
        let (party, limit) = self.choose_party();
        let (offset, length) = self.choose_range(limit);
        self.history.note(format!("{} reads {offset:#x}+{length:#x}", self.parties[party].name));
        self.read_through(party, offset, length);
    }

    fn read_through(&mut self, party: usize, offset: u64, length: u64) {
        let data = self.parties[party].perform(Request::new(Command::Read, offset, length), &[]).data;
        let what = format!("{} reads {offset:#x}+{length:#x}", self.parties[party].name);
        self.history.compare(&what, &self.image.head, offset, &data);
    }

    pub(crate) fn write(&mut self) {
        let (party, limit) = self.choose_party();
        let (offset, length) = self.choose_range(limit);
        let request = self.choose_write(offset, length);
        let data = self.data_for(request);
        self.note(party, request);
        self.parties[party].perform(request, &data);
        self.image.head.write(offset, &data);
    }

    fn choose_write(&mut self, offset: u64, length: u64) -> Request {
        Request { fua: self.rng.one_in(8), ..Request::new(Command::Write, offset, length) }
    }

    /// What to write: now and then there are zeroes in it.
    fn data_for(&mut self, request: Request) -> Vec<u8> {
        let mut data = pattern(self.history.number, request.offset, u64::from(request.length));
        match self.rng.range(0..24) {
            0 => data.fill(0),
            1 => {
                let cut = self.rng.range(0..data.len() as u64 + 1) as usize;
                data[cut..].fill(0);
            }
            _ => {}
        }
        data
    }

    pub(crate) fn write_zeroes(&mut self) {
        let (party, limit) = self.choose_party();
        let (offset, length) = self.choose_range(limit);
        let request = self.choose_zeroes(offset, length);
        self.note(party, request);
        self.parties[party].perform(request, &[]);
        self.image.head.zero(range(&request));
    }

    fn choose_zeroes(&mut self, offset: u64, length: u64) -> Request {
        let request = Request::new(Command::WriteZeroes, offset, length);
        Request { no_hole: self.rng.one_in(2), fua: self.rng.one_in(8), ..request }
    }

    pub(crate) fn trim(&mut self) {
        let (party, limit) = self.choose_party();
        let (offset, length) = self.choose_range(limit);
        let request = Request::new(Command::Trim, offset, length);
        self.note(party, request);
        self.parties[party].perform(request, &[]);
        self.adopt_trim(party, range(&request));
    }

    pub(crate) fn flush(&mut self) {
        let (party, _) = self.choose_party();
        self.history.note(format!("{} flushes", self.parties[party].name));
        self.parties[party].perform(Request::new(Command::Flush, 0, 0), &[]);
    }

    pub(crate) fn block_status(&mut self) {
        let (party, limit) = self.choose_party();
        if !self.parties[party].knows_status() {
            return self.read();
        }
        let (offset, length) = self.choose_range(limit);
        let name = self.parties[party].name.clone();
        self.history.note(format!("{name} tells the status of {offset:#x}+{length:#x}"));
        let status =
            self.parties[party].perform(Request::new(Command::BlockStatus, offset, length), &[]).status;
        assert!(!status.is_empty(), "{name} tells no status");
        let mut at = offset;
        for piece in status {
            let end = (at + piece.length).min(limit);
            if piece.zero && at < end {
                self.history.compare("said to be zero", &self.image.head, at, &vec![0; (end - at) as usize]);
            }
            at = end;
        }
    }

    /// A few requests at once, through anybody, no two of them for the same bytes.
    pub(crate) fn many_at_once(&mut self) {
        self.batch(u64::MAX);
    }

    /// The same, of the first `limit` bytes.
    pub(crate) fn batch(&mut self, limit: u64) {
        let requests = self.submit_batch(None, limit);
        for Concurrent { party, cookie, request, data } in requests {
            let answer = self.parties[party].wait(cookie, request);
            match request.command {
                Command::Read => {
                    let what =
                        format!("{} reads {:x?} among others", self.parties[party].name, range(&request));
                    self.history.compare(&what, &self.image.head, request.offset, &answer.data);
                }
                Command::Write => self.image.head.write(request.offset, &data),
                Command::WriteZeroes => self.image.head.zero(range(&request)),
                _ => self.adopt_trim(party, range(&request)),
            }
        }
    }

    fn submit_batch(&mut self, party: Option<usize>, limit: u64) -> Vec<Concurrent> {
        let (mut taken, mut requests) = (Vec::<Range<u64>>::new(), Vec::new());
        for _ in 0..self.rng.range(2..9) {
            let (mut chosen, mut end) = self.choose_party();
            if let Some(party) = party {
                (chosen, end) = (party, self.parties[party].size().min(self.image.size()));
            }
            let end = end.min(limit);
            let (offset, length) = self.choose_range(end);
            // QEMU reads, changes and writes whole sectors.
            let offset = offset / 512 * 512;
            let length = length.next_multiple_of(512).min(end - offset).min(1 << 20);
            if taken.iter().any(|taken| taken.start < offset + length && offset < taken.end) {
                continue;
            }
            taken.push(offset..offset + length);
            let request = match self.rng.range(0..10) {
                0..3 => Request::new(Command::Read, offset, length),
                3..8 => self.choose_write(offset, length),
                8 => self.choose_zeroes(offset, length),
                _ => Request::new(Command::Trim, offset, length),
            };
            let data = if request.command == Command::Write { self.data_for(request) } else { Vec::new() };
            self.note(chosen, request);
            let cookie = self.parties[chosen].submit(request, &data);
            requests.push(Concurrent { party: chosen, cookie, request, data });
        }
        requests
    }

    fn note(&mut self, party: usize, request: Request) {
        let Request { command, fua, no_hole, offset, length } = request;
        let flags = [(fua, " FUA"), (no_hole, " no hole")];
        let flags: String = flags.iter().filter(|(is_set, _)| *is_set).map(|(_, name)| *name).collect();
        let text = format!("{} {command:?} {offset:#x}+{length:#x}{flags}", self.parties[party].name);
        match command {
            Command::Read => self.history.note(text),
            _ => self.history.note_change(text, range(&request)),
        }
    }

    /// A trim zeroes what it likes of its range. It has to zero the data of whole objects.
    fn adopt_trim(&mut self, party: usize, range: Range<u64>) {
        let mut zeroed = self.image.head.clone();
        zeroed.zero(range.clone());
        let before = self.image.head.clone();
        self.adopt(party, &range, &[&before, &zeroed]);
        let layout = &self.image.layout;
        if layout.striping.is_none() {
            let (first, last) = (range.start.div_ceil(layout.object_size), range.end / layout.object_size);
            if first < last {
                let objects = first * layout.object_size..last * layout.object_size;
                assert!(self.image.head.is_zero(objects), "whole objects were trimmed and are still there");
            }
        }
    }

    /// Reads a range, each byte of which may be as in any of `possible`, and goes on with what is there.
    fn adopt(&mut self, party: usize, range: &Range<u64>, possible: &[&Content]) {
        let request = Request::new(Command::Read, range.start, range.end - range.start);
        let found = self.parties[party].perform(request, &[]).data;
        let what = format!("{} reads what may have changed", self.parties[party].name);
        let mut nearest = possible[0].clone();
        let all: Vec<_> = possible.iter().map(|content| content.read(range.clone())).collect();
        let expected: Vec<u8> = (0..found.len())
            .map(|at| {
                all.iter().map(|content| content[at]).find(|byte| *byte == found[at]).unwrap_or(all[0][at])
            })
            .collect();
        nearest.write(range.start, &expected);
        self.history.compare(&what, &nearest, range.start, &found);
        self.image.head.write(range.start, &found);
    }

    pub(crate) fn reopen_one(&mut self) {
        let (party, _) = self.choose_party();
        self.history.note(format!("{} closes and opens", self.parties[party].name));
        self.parties[party].reopen(self.cluster);
    }

    /// Kills a server of ours amid its work. What was acknowledged is there; of the rest any byte may be.
    pub(crate) fn kill_one(&mut self) {
        let (party, _) = self.choose_party();
        if self.parties[party].kind != Kind::Ours {
            return self.reopen_one();
        }
        let requests = self.submit_batch(Some(party), u64::MAX);
        self.history.note(format!("{} is killed amid that, and started", self.parties[party].name));
        self.parties[party].kill();
        self.kills += 1;
        self.parties[party].reopen(self.cluster);
        if !self.image.features.exclusive_lock {
            // Nobody shuts the dead one out.
            std::thread::sleep(std::time::Duration::from_millis(300));
        }
        // The lock comes with the first write, and with it the certainty that nothing of the dead one's is under way.
        let first = self.choose_write(0, 1);
        let data = self.data_for(first);
        self.note(party, first);
        self.parties[party].perform(first, &data);
        self.image.head.write(0, &data);
        let newest = data;
        for Concurrent { request, data, .. } in requests {
            let before = self.image.head.clone();
            let mut after = before.clone();
            match request.command {
                Command::Read => continue,
                Command::Write => after.write(request.offset, &data),
                _ => after.zero(range(&request)),
            }
            after.write(0, &newest);
            self.adopt(party, &range(&request), &[&before, &after]);
        }
    }
}
