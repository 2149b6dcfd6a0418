//! What a read returns.

use bytes::Bytes;

/// A part of what was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// These bytes.
    Data(Bytes),
    /// This many bytes of zero, which no object holds.
    Hole(u64),
}

impl Segment {
    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Data(data) => data.len() as u64,
            Self::Hole(len) => *len,
        }
    }

    /// Whether it covers nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What was read: consecutive segments, as long together as was asked for.
#[derive(Debug, Clone, Default)]
pub struct ReadData(Segments);

// Nearly every read is one segment, which should not cost an allocation.
#[derive(Debug, Clone, Default)]
enum Segments {
    #[default]
    Empty,
    One(Segment),
    Many(Vec<Segment>),
}

impl ReadData {
    /// Zeroes only.
    pub(crate) fn hole(len: u64) -> Self {
        let mut data = Self::default();
        data.push(Segment::Hole(len));
        data
    }

    /// Appends a segment; adjacent holes become one.
    pub(crate) fn push(&mut self, segment: Segment) {
        if segment.is_empty() {
            return;
        }
        if let (Some(Segment::Hole(last)), Segment::Hole(len)) = (self.last_mut(), &segment) {
            *last += len;
            return;
        }
        self.0 = match std::mem::take(&mut self.0) {
            Segments::Empty => Segments::One(segment),
            Segments::One(first) => Segments::Many(vec![first, segment]),
            Segments::Many(mut all) => {
                all.push(segment);
                Segments::Many(all)
            }
        };
    }

    fn last_mut(&mut self) -> Option<&mut Segment> {
        match &mut self.0 {
            Segments::Empty => None,
            Segments::One(segment) => Some(segment),
            Segments::Many(all) => all.last_mut(),
        }
    }

    /// The segments in order.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        match &self.0 {
            Segments::Empty => &[],
            Segments::One(segment) => std::slice::from_ref(segment),
            Segments::Many(all) => all,
        }
    }

    /// Length in bytes of all segments.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.segments().iter().map(Segment::len).sum()
    }

    /// Whether nothing was asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.segments().is_empty()
    }

    /// All bytes in one buffer, holes as zeroes.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for segment in self.segments() {
            match segment {
                Segment::Data(data) => out.extend_from_slice(data),
                Segment::Hole(len) => {
                    let len = usize::try_from(*len).expect("asked for by someone who has memory for it");
                    out.resize(out.len() + len, 0);
                }
            }
        }
        out
    }
}

impl IntoIterator for ReadData {
    type Item = Segment;
    type IntoIter = SegmentIter;

    fn into_iter(self) -> SegmentIter {
        SegmentIter(match self.0 {
            Segments::Empty => Iter::One(None),
            Segments::One(segment) => Iter::One(Some(segment)),
            Segments::Many(all) => Iter::Many(all.into_iter()),
        })
    }
}

/// The segments of a [`ReadData`], by value.
#[derive(Debug)]
pub struct SegmentIter(Iter);

#[derive(Debug)]
enum Iter {
    One(Option<Segment>),
    Many(std::vec::IntoIter<Segment>),
}

impl Iterator for SegmentIter {
    type Item = Segment;

    fn next(&mut self) -> Option<Segment> {
        match &mut self.0 {
            Iter::One(segment) => segment.take(),
            Iter::Many(all) => all.next(),
        }
    }
}

/// Takes segments apart from the front, to put them together in another order.
pub(crate) struct Pieces {
    front: Option<Segment>,
    rest: SegmentIter,
}

impl Pieces {
    pub(crate) fn new(data: ReadData) -> Self {
        Self { front: None, rest: data.into_iter() }
    }

    /// Moves the next `len` bytes to `out`.
    pub(crate) fn take(&mut self, mut len: u64, out: &mut ReadData) {
        while len > 0 {
            let Some(segment) = self.front.take().or_else(|| self.rest.next()) else { return };
            let now = len.min(segment.len());
            len -= now;
            match segment {
                Segment::Hole(all) => {
                    out.push(Segment::Hole(now));
                    self.front = (all > now).then(|| Segment::Hole(all - now));
                }
                Segment::Data(mut data) => {
                    let rest = data.split_off(usize::try_from(now).expect("not more than the buffer has"));
                    out.push(Segment::Data(data));
                    self.front = (!rest.is_empty()).then_some(Segment::Data(rest));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adjacent_holes_are_one() {
        let mut data = ReadData::hole(3);
        data.push(Segment::Hole(4));
        data.push(Segment::Data(Bytes::new()));
        assert_eq!(data.segments(), [Segment::Hole(7)]);
        data.push(Segment::Data(Bytes::from_static(b"ab")));
        assert_eq!((data.len(), data.to_vec()), (9, b"\0\0\0\0\0\0\0ab".to_vec()));
    }

    #[test]
    fn pieces_are_cut_at_any_place() {
        let mut data = ReadData::hole(3);
        data.push(Segment::Data(Bytes::from_static(b"abcdef")));
        let mut pieces = Pieces::new(data);
        let (mut first, mut second) = (ReadData::default(), ReadData::default());
        pieces.take(5, &mut first);
        pieces.take(4, &mut second);
        assert_eq!(first.to_vec(), b"\0\0\0ab");
        assert_eq!(second.to_vec(), b"cdef");
    }
}
