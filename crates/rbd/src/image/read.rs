//! Reading.

use ceph_codec::SnapId;
use futures::StreamExt;
use rados::{Errno, OpError, OpReply, Operation, SparseExtents};

use super::core::Core;
use super::data::{Pieces, ReadData, Segment};
use super::timestamps::Touch;
use super::write::OBJECTS_AT_ONCE;
use crate::layout::Extent;
use crate::object_map::ObjectState;
use crate::{ImageError, ObjectStore, names};

impl<S: ObjectStore> Core<S> {
    pub(super) async fn read(&self, offset: u64, len: u64) -> Result<ReadData, ImageError> {
        self.ensure_fresh().await?;
        self.check_range(offset, len)?;
        self.touch(Touch::Read);
        match self.layout.extents(offset, len).next() {
            None => Ok(ReadData::default()),
            Some(extent) if extent.len == len => self.read_object(extent).await,
            Some(_) => self.read_objects(offset, len).await,
        }
    }

    async fn read_objects(&self, offset: u64, len: u64) -> Result<ReadData, ImageError> {
        let objects = self.layout.object_extents(offset, len);
        let numbers: Vec<u64> = objects.iter().map(|object| object.extent.object).collect();
        let mut reads = futures::stream::iter(objects.into_iter().map(|o| self.read_object(o.extent)))
            .buffered(OBJECTS_AT_ONCE);
        let mut contents = Vec::with_capacity(numbers.len());
        while let Some(read) = reads.next().await {
            contents.push(Pieces::new(read?));
        }
        let mut data = ReadData::default();
        for extent in self.layout.extents(offset, len) {
            if let Ok(place) = numbers.binary_search(&extent.object) {
                contents[place].take(extent.len, &mut data);
            }
        }
        Ok(data)
    }

    /// Reads a part of one object; what is not there comes from the parent, or is a hole.
    pub(super) async fn read_object(&self, extent: Extent) -> Result<ReadData, ImageError> {
        // Looked up before the object: it may get what comes from the parent, and the parent go, at any time.
        let origin = self.origin(extent.object);
        if self.is_known_to_be_missing(extent.object) {
            return match origin {
                Some(origin) => self.read_missing(extent, origin).await,
                None => Ok(ReadData::hole(extent.len)),
            };
        }
        let name = names::data_object(&self.object_prefix, extent.object);
        let sparse = extent.len >= self.options().sparse_read_threshold;
        let operation = if sparse {
            Operation::new().sparse_read(extent.offset, extent.len)
        } else {
            Operation::new().read(extent.offset, extent.len)
        };
        match self
            .data
            .read(&name, operation, self.snap)
            .await
            .and_then(|reply| contents(&reply, extent, sparse))
        {
            Ok(data) => Ok(data),
            Err(error) if error.refusal() == Some(Errno::ENOENT) => match origin {
                Some(origin) => self.read_missing(extent, origin).await,
                None => Ok(ReadData::hole(extent.len)),
            },
            Err(error) => Err(self.failed(name, error)),
        }
    }

    /// Whether an object map that cannot be outdated says so.
    pub(crate) fn is_known_to_be_missing(&self, object: u64) -> bool {
        if self.snap != SnapId::HEAD {
            let view = self.view();
            return view.snapshot_map.as_ref().and_then(|map| map.get(object))
                == Some(ObjectState::Nonexistent);
        }
        // A client that was taken for dead must not answer from memory what its successor has overwritten.
        self.map().is_some_and(|map| !map.may_exist(object)) && !self.store.is_blocklisted()
    }
}

fn contents(reply: &OpReply, extent: Extent, sparse: bool) -> Result<ReadData, OpError> {
    let outcome = reply.outcome(0)?;
    let mut data = ReadData::default();
    if sparse {
        fill_from_sparse(&outcome.sparse()?, extent, &mut data);
    } else {
        let mut bytes = outcome.data.clone();
        bytes.truncate(usize::try_from(extent.len).unwrap_or(usize::MAX));
        data.push(Segment::Data(bytes));
    }
    let missing = extent.len - data.len();
    data.push(Segment::Hole(missing));
    Ok(data)
}

/// Never longer than the extent, whatever the OSD returned.
fn fill_from_sparse(sparse: &SparseExtents, extent: Extent, data: &mut ReadData) {
    let mut bytes = sparse.data.clone();
    let (mut at, end) = (extent.offset, extent.offset + extent.len);
    for &(offset, len) in &sparse.extents {
        let mut part = bytes.split_to(usize::try_from(len).unwrap_or(usize::MAX).min(bytes.len()));
        if offset < at || offset >= end {
            continue;
        }
        part.truncate(usize::try_from(end - offset).unwrap_or(usize::MAX));
        data.push(Segment::Hole(offset - at));
        at = offset + part.len() as u64;
        data.push(Segment::Data(part));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    const EXTENT: Extent = Extent { object: 0, offset: 100, len: 50 };

    fn filled(extents: &[(u64, u64)], data: &'static [u8]) -> ReadData {
        let sparse = SparseExtents { extents: extents.to_vec(), data: Bytes::from_static(data) };
        let mut data = ReadData::default();
        fill_from_sparse(&sparse, EXTENT, &mut data);
        data
    }

    #[test]
    fn gaps_of_a_sparse_read_are_holes() {
        let data = filled(&[(110, 2), (120, 1)], b"abc");
        assert_eq!(
            data.segments(),
            [
                Segment::Hole(10),
                Segment::Data(Bytes::from_static(b"ab")),
                Segment::Hole(8),
                Segment::Data(Bytes::from_static(b"c"))
            ]
        );
    }

    #[test]
    fn an_osd_that_returns_more_than_was_asked_for_is_cut_short() {
        assert_eq!(filled(&[(148, 4)], b"abcd").len(), 50);
        assert_eq!(filled(&[(0, 4), (200, 1)], b"abcde").len(), 0);
    }
}
