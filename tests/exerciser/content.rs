//! What an image should hold, byte by byte. A copy costs next to nothing until it changes, so that every snapshot has one.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::common::random::mix;

const PAGE: u64 = 4096;
static ZEROES: [u8; PAGE as usize] = [0; PAGE as usize];

#[derive(Debug, Clone)]
pub(crate) struct Content {
    size: u64,
    /// `None` is all zeroes. Beyond `size` there is nothing but zeroes.
    pages: Vec<Option<Arc<[u8; PAGE as usize]>>>,
}

/// Where something else was found than there should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Difference {
    /// From the first to the last wrong byte.
    pub(crate) range: Range<u64>,
    pub(crate) wrong: u64,
    /// From the first wrong byte on.
    pub(crate) expected: Vec<u8>,
    pub(crate) found: Vec<u8>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { range, wrong, expected, found } = self;
        let Range { start, end } = range;
        write!(
            f,
            "{wrong} bytes are wrong in {start:#x}..{end:#x}: expected {expected:02x?}, found {found:02x?}"
        )
    }
}

impl Content {
    /// All zeroes.
    pub(crate) fn new(size: u64) -> Self {
        Self { size, pages: vec![None; size.div_ceil(PAGE) as usize] }
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn resize(&mut self, size: u64) {
        if size < self.size {
            self.zero(size..self.size);
        }
        self.pages.resize(size.div_ceil(PAGE) as usize, None);
        self.size = size;
    }

    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) {
        self.assert_inside(&(offset..offset + data.len() as u64));
        let mut rest = data;
        for (page, within) in pages(offset..offset + data.len() as u64) {
            let (piece, after) = rest.split_at(within.len());
            let bytes = self.pages[page].get_or_insert_with(|| Arc::new(ZEROES));
            Arc::make_mut(bytes)[within].copy_from_slice(piece);
            rest = after;
        }
    }

    pub(crate) fn zero(&mut self, range: Range<u64>) {
        self.assert_inside(&range);
        for (page, within) in pages(range) {
            if within.len() as u64 == PAGE {
                self.pages[page] = None;
            } else if let Some(bytes) = &mut self.pages[page] {
                Arc::make_mut(bytes)[within].fill(0);
            }
        }
    }

    pub(crate) fn read(&self, range: Range<u64>) -> Vec<u8> {
        self.assert_inside(&range);
        let mut data = Vec::with_capacity((range.end - range.start) as usize);
        pages(range).for_each(|(page, within)| data.extend_from_slice(&self.page(page)[within]));
        data
    }

    pub(crate) fn is_zero(&self, range: Range<u64>) -> bool {
        self.assert_inside(&range);
        pages(range).all(|(page, within)| self.pages[page].is_none() || is_zero(&self.page(page)[within]))
    }

    /// Whether both hold the same in a range; beyond the end of either there are zeroes.
    pub(crate) fn same(&self, other: &Self, range: Range<u64>) -> bool {
        pages(range).all(|(page, within)| {
            let [one, other] = [self, other].map(|content| content.pages.get(page).and_then(Option::as_ref));
            let same = matches!((one, other), (Some(one), Some(other)) if Arc::ptr_eq(one, other));
            let [one, other] = [one, other].map(|page| page.map_or(&ZEROES, |page| &**page));
            same || one[within.clone()] == other[within]
        })
    }

    /// Compares with what was read at an offset.
    pub(crate) fn difference(&self, offset: u64, found: &[u8]) -> Option<Difference> {
        self.assert_inside(&(offset..offset + found.len() as u64));
        let (mut rest, mut at) = (found, offset);
        let (mut first, mut last, mut wrong) = (None, 0, 0);
        for (page, within) in pages(offset..offset + found.len() as u64) {
            let (piece, after) = rest.split_at(within.len());
            let expected = &self.page(page)[within];
            if piece != expected {
                for (n, _) in
                    piece.iter().zip(expected).enumerate().filter(|(_, (found, expected))| found != expected)
                {
                    first.get_or_insert(at + n as u64);
                    last = at + n as u64;
                    wrong += 1;
                }
            }
            at += piece.len() as u64;
            rest = after;
        }
        let first = first?;
        let shown = first..(first + 24).min(offset + found.len() as u64);
        let found = found[(shown.start - offset) as usize..(shown.end - offset) as usize].to_vec();
        Some(Difference { range: first..last + 1, wrong, expected: self.read(shown), found })
    }

    fn page(&self, page: usize) -> &[u8; PAGE as usize] {
        self.pages[page].as_deref().unwrap_or(&ZEROES)
    }

    fn assert_inside(&self, range: &Range<u64>) {
        assert!(range.end <= self.size, "{range:x?} is not within {:#x} bytes", self.size);
    }
}

/// The pages of a range, and which of their bytes.
fn pages(range: Range<u64>) -> impl Iterator<Item = (usize, Range<usize>)> {
    (range.start / PAGE..range.end.div_ceil(PAGE).max(range.start / PAGE)).map(move |page| {
        let start = range.start.max(page * PAGE) - page * PAGE;
        let end = range.end.min((page + 1) * PAGE) - page * PAGE;
        (page as usize, start as usize..end as usize)
    })
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// What an operation writes at an offset: other bytes at every place, and none that are zero.
pub(crate) fn pattern(operation: u64, offset: u64, length: u64) -> Vec<u8> {
    let mut data = Vec::with_capacity(length as usize + 16);
    for word in offset / 8..(offset + length).div_ceil(8) {
        data.extend((mix(operation << 40 ^ word) | 0x0101_0101_0101_0101).to_le_bytes());
    }
    let skip = (offset % 8) as usize;
    data[skip..skip + length as usize].to_vec()
}

/// The operation, of those up to `last`, that wrote what was found at an offset.
pub(crate) fn origin(offset: u64, found: &[u8], last: u64) -> Option<u64> {
    let found = &found[..found.len().min(16)];
    (found.len() >= 4).then_some(())?;
    (1..=last).find(|operation| pattern(*operation, offset, found.len() as u64) == found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_there_and_in_no_older_copy() {
        let mut content = Content::new(3 * PAGE + 100);
        let data = pattern(7, PAGE - 5, PAGE + 10);
        let before = content.clone();
        content.write(PAGE - 5, &data);
        assert_eq!(content.read(PAGE - 5..2 * PAGE + 5), data);
        assert_eq!(content.difference(PAGE - 5, &data), None);
        assert!(content.is_zero(0..PAGE - 5) && content.is_zero(2 * PAGE + 5..3 * PAGE + 100));
        assert!(before.is_zero(0..before.size()));
        assert!(!content.same(&before, 0..PAGE) && content.same(&before, 0..PAGE - 5));
        content.zero(PAGE..2 * PAGE);
        assert_eq!(content.read(PAGE - 5..PAGE), data[..5]);
        assert!(content.is_zero(PAGE..2 * PAGE));
    }

    #[test]
    fn what_is_cut_off_comes_back_as_zeroes() {
        let mut content = Content::new(2 * PAGE);
        content.write(0, &pattern(1, 0, 2 * PAGE));
        content.resize(100);
        content.resize(2 * PAGE);
        assert_eq!(content.read(0..100), pattern(1, 0, 100));
        assert!(content.is_zero(100..2 * PAGE));
    }

    #[test]
    fn any_wrong_byte_is_found_and_named() {
        let mut content = Content::new(4 * PAGE);
        content.write(1000, &pattern(3, 1000, 2 * PAGE));
        let right = content.read(900..3 * PAGE);
        assert_eq!(content.difference(900, &right), None);
        for at in (0..right.len()).step_by(37) {
            let mut wrong = right.clone();
            wrong[at] ^= 1;
            let found = content.difference(900, &wrong).expect("a wrong byte");
            assert_eq!((found.range, found.wrong), (900 + at as u64..901 + at as u64, 1));
            assert_ne!(found.expected, found.found);
        }
    }

    #[test]
    fn bytes_tell_which_operation_wrote_them() {
        assert_eq!(origin(12345, &pattern(17, 12345, 24), 40), Some(17));
        assert_eq!(origin(12345, &pattern(17, 12346, 24), 40), None);
        assert_eq!(origin(0, &[0; 24], 40), None);
    }
}
