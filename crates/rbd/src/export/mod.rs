//! Copying images out of the cluster and into it.
//!
//! ```text
//!  image --diff--> extents --read, some at a time--> segments --format--> Output     Image::export*
//!  image <--write, zero, snapshot-- records <--format-- Input                        Image::import*
//! ```
//! None of it keeps more in memory than some pieces of [`PIECE`] bytes, whatever the image or the stream.
//!
//! Ceph: `src/tools/rbd/action/Export.cc`, `src/tools/rbd/action/Import.cc`, `copy` in `src/librbd/internal.cc`.

mod format;
mod import;
mod sparse;
#[cfg(test)]
mod tests;
mod window;

use std::io;

use futures::stream::{self, StreamExt, TryStreamExt};

use rados::Release;

use crate::diff::{DiffExtent, DiffOptions};
use crate::{
    Image, ImageRef, ObjectStore, OpenOptions, OperationError, Progress, ReadData, Segment,
    SnapshotNamespace, SnapshotRef,
};
use format::Version;

pub use format::{FormatError, Part, Property, Record, StreamDecoder};
pub use import::{ImportOptions, ImportStream};
use sparse::is_zero;

/// Bytes that are read or written at once.
const PIECE: u64 = 4 << 20;

/// Where an export goes.
pub trait Output: Send {
    /// Takes what comes next. A hole stands for zeroes; a file may leave them out.
    ///
    /// # Errors
    /// Those of writing. The export ends then.
    fn write(&mut self, segment: Segment) -> impl Future<Output = io::Result<()>> + Send;
}

impl<S: ObjectStore> Image<S> {
    /// Writes the contents of what is open to `output`, from the first byte to the last.
    ///
    /// # Errors
    /// What the cluster reports, or [`OperationError::Output`].
    pub async fn export(
        &self,
        output: &mut impl Output,
        progress: &dyn Progress,
    ) -> Result<(), OperationError> {
        let size = self.size();
        let mut done = 0;
        let mut pieces = stream::iter(pieces(0, size))
            .map(|(offset, len)| self.read(offset, len))
            .buffered(self.0.management_ops());
        while let Some(piece) = pieces.try_next().await? {
            progress.update(done, size);
            done += piece.len();
            for segment in piece {
                let zero = is_zero(&segment);
                let segment = if zero { Segment::Hole(segment.len()) } else { segment };
                write(output, segment).await?;
            }
        }
        progress.update(size, size);
        Ok(())
    }

    /// Writes what changed up to the snapshot that is open, or the live image, to `output`: the same bytes as
    /// `rbd export-diff`. What a clone has from its parent counts as written, whatever `options` say.
    ///
    /// # Errors
    /// As for [`diff`](Self::diff), or [`OperationError::Output`].
    pub async fn export_diff(
        &self,
        options: &DiffOptions,
        output: &mut impl Output,
        progress: &dyn Progress,
    ) -> Result<(), OperationError> {
        self.write_diff(options, Version::One, output, progress).await
    }

    /// Writes the image with its properties, metadata and snapshots to `output`: the same bytes as
    /// `rbd export --export-format 2`. It is the image that is written, even if a snapshot of it is open.
    ///
    /// `progress` counts snapshots.
    ///
    /// # Errors
    /// As for [`export_diff`](Self::export_diff).
    pub async fn export_all(
        &self,
        output: &mut impl Output,
        progress: &dyn Progress,
    ) -> Result<(), OperationError> {
        let (layout, header) = (self.layout(), self.0.header());
        // As it is stored: a stripe over one object is none, but has a unit all the same.
        let (unit, count) = header.striping.unwrap_or_else(|| (layout.object_size(), 1));
        let mut properties = vec![
            Property::Order(layout.order().into()),
            Property::Features(header.features.0),
            Property::StripeUnit(unit),
            Property::StripeCount(count),
        ];
        let metadata = self.metadata().await?;
        properties.extend(metadata.into_iter().map(|(key, value)| Property::Metadata { key, value }));
        let snapshots: Vec<String> = self.user_snapshots().collect();
        let diffs = snapshots.len() as u64 + 1;
        write(output, Segment::Data(format::image_header(&properties, diffs).into())).await?;

        let version = match self.0.store.release() < Release::REEF {
            true => Version::TwoBeforeReef,
            false => Version::Two,
        };
        let mut options = DiffOptions::default();
        let ends = snapshots.into_iter().map(Some).chain([None]);
        for (done, end) in (0..).zip(ends) {
            progress.update(done, diffs);
            let image = self.at(end.clone()).await?;
            let written = image.write_diff(&options, version, output, &()).await;
            image.close().await;
            written?;
            options.from_snapshot = end;
        }
        progress.update(diffs, diffs);
        Ok(())
    }

    /// The names of the snapshots that users made, oldest first.
    fn user_snapshots(&self) -> impl Iterator<Item = String> {
        let snapshots = self.snapshots().into_iter().rev();
        snapshots
            .filter(|snapshot| snapshot.namespace == SnapshotNamespace::User)
            .map(|snapshot| snapshot.name)
    }

    /// The same image at another snapshot, or live; for reading.
    async fn at(&self, snapshot: Option<String>) -> Result<Self, OperationError> {
        let core = &self.0;
        let options = OpenOptions::new(ImageRef::Id(core.id.clone())).read_only();
        let options = match snapshot {
            Some(name) => options.snapshot(SnapshotRef::Name(name)),
            None => options,
        };
        Ok(Self::open(core.store.clone(), options).await?)
    }

    async fn write_diff(
        &self,
        options: &DiffOptions,
        version: Version,
        output: &mut impl Output,
        progress: &dyn Progress,
    ) -> Result<(), OperationError> {
        let size = self.size();
        let extents = self.diff(&DiffOptions { include_parent: true, ..options.clone() }).await?;
        let mut records: Vec<Record> =
            options.from_snapshot.clone().map(Record::FromSnapshot).into_iter().collect();
        if let Some(end) = self.0.header().snapshot(self.0.snap) {
            records.push(Record::ToSnapshot(end.name.clone()));
            records.extend((version != Version::One).then_some(Record::Protected(end.protected)));
        }
        records.push(Record::Size(size));
        write(output, Segment::Data(format::diff_header(&records, version).into())).await?;

        let pieces = extents
            .map_ok(|extent| stream::iter(Piece::of(extent).map(Ok::<_, OperationError>)))
            .try_flatten();
        let contents = pieces.map_ok(|piece| async move {
            let data = match piece.extent.exists {
                true => self.read(piece.extent.offset + piece.at, piece.len).await?,
                false => ReadData::default(),
            };
            Ok((piece, data))
        });
        let mut contents = Box::pin(contents.try_buffered(self.0.management_ops()));
        let mut writer = DiffWriter { version, zeroes: 0, announced: false };
        while let Some((piece, data)) = contents.try_next().await? {
            writer.write(piece, data, output).await?;
            progress.update(piece.extent.offset, size);
        }
        let mut end = Vec::new();
        Record::End.encode(version, &mut end);
        write(output, Segment::Data(end.into())).await?;
        progress.update(size, size);
        Ok(())
    }
}

/// Offsets and lengths of the pieces of a range.
fn pieces(offset: u64, len: u64) -> impl Iterator<Item = (u64, u64)> {
    let count = len.div_ceil(PIECE);
    (0..count).map(move |piece| (offset + piece * PIECE, PIECE.min(len - piece * PIECE)))
}

/// A part of an extent that is small enough to be kept in memory.
#[derive(Debug, Clone, Copy)]
struct Piece {
    extent: DiffExtent,
    /// First byte, from the start of the extent.
    at: u64,
    /// Bytes.
    len: u64,
}

impl Piece {
    fn of(extent: DiffExtent) -> impl Iterator<Item = Self> {
        // Where there are no data there is nothing to read.
        let parts = if extent.exists { extent.len } else { 0 };
        let whole = (!extent.exists).then_some(Self { extent, at: 0, len: extent.len });
        pieces(0, parts).map(move |(at, len)| Self { extent, at, len }).chain(whole)
    }

    fn is_last(&self) -> bool {
        self.at + self.len == self.extent.len
    }
}

/// Writes extents piece by piece. An extent of nothing but zeroes becomes a record of its own kind, so its data are not
/// announced before some other byte is seen.
struct DiffWriter {
    version: Version,
    /// Bytes of zero at the beginning of the extent, not written yet.
    zeroes: u64,
    /// Whether the data of the extent are announced.
    announced: bool,
}

impl DiffWriter {
    async fn write(
        &mut self,
        piece: Piece,
        data: ReadData,
        output: &mut impl Output,
    ) -> Result<(), OperationError> {
        let DiffExtent { offset, len, exists } = piece.extent;
        if piece.at == 0 {
            (self.zeroes, self.announced) = (0, false);
        }
        for segment in data {
            if !self.announced && is_zero(&segment) {
                self.zeroes += segment.len();
                continue;
            }
            if !self.announced {
                self.announced = true;
                self.record(&Record::Data { offset, len }, output).await?;
                write(output, Segment::Hole(self.zeroes)).await?;
            }
            write(output, segment).await?;
        }
        if piece.is_last() && !(exists && self.announced) {
            self.record(&Record::Zeroes { offset, len }, output).await?;
        }
        Ok(())
    }

    async fn record(&self, record: &Record, output: &mut impl Output) -> Result<(), OperationError> {
        let mut bytes = Vec::with_capacity(32);
        record.encode(self.version, &mut bytes);
        write(output, Segment::Data(bytes.into())).await
    }
}

async fn write(output: &mut impl Output, segment: Segment) -> Result<(), OperationError> {
    if segment.is_empty() {
        return Ok(());
    }
    output.write(segment).await.map_err(|error| OperationError::Output(error.into()))
}
