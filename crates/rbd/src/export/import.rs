//! Importing and copying.

use std::io;

use bytes::{Bytes, BytesMut};
use futures::stream::{self, Stream, StreamExt, TryStreamExt};

use super::format::{FormatError, Part, Property, Record, StreamDecoder};
use super::window::Window;
use super::{PIECE, pieces, sparse};
use crate::{Image, MaintenanceError, ObjectStore, OperationError, Progress, Segment, SnapshotFlags};

/// More bytes of properties than any image has. They are kept until the image is made.
const MAX_PROPERTIES: usize = 64 << 20;

/// How to import.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImportOptions {
    /// Bytes of zeroes that are worth a hole; 0 if all zeroes are to be written. At most 32 MiB count.
    pub sparse_size: u64,
}

impl Default for ImportOptions {
    /// 4 KiB.
    fn default() -> Self {
        Self { sparse_size: 4096 }
    }
}

impl ImportOptions {
    const MAX_SPARSE_SIZE: u64 = 32 << 20;

    fn sparse_size(self) -> usize {
        usize::try_from(self.sparse_size.min(Self::MAX_SPARSE_SIZE)).expect("32 MiB fit")
    }

    /// How much to look at together: whole multiples of the sparse size, so that it does not matter how data come.
    fn block(self) -> usize {
        let piece = usize::try_from(PIECE).expect("4 MiB fit");
        match self.sparse_size() {
            0 => piece,
            sparse => sparse * (piece / sparse).max(1),
        }
    }
}

/// A stream that is taken apart as it comes.
#[derive(Debug)]
pub struct ImportStream<I> {
    input: I,
    decoder: StreamDecoder,
    /// Bytes taken so far.
    taken: u64,
}

impl<I: Stream<Item = io::Result<Bytes>> + Send + Unpin> ImportStream<I> {
    /// What `rbd export-diff` writes.
    pub fn diff(input: I) -> Self {
        Self { input, decoder: StreamDecoder::diff(), taken: 0 }
    }

    /// What `rbd export --export-format 2` writes.
    pub fn image(input: I) -> Self {
        Self { input, decoder: StreamDecoder::image(), taken: 0 }
    }

    /// What an image says about itself, to make one like it. To be called once, before
    /// [`import_all`](Image::import_all).
    ///
    /// # Errors
    /// [`OperationError::Format`], [`OperationError::Input`].
    pub async fn properties(&mut self) -> Result<Vec<Property>, OperationError> {
        let mut properties = Vec::new();
        let mut size = 0;
        while let Part::Property(part) = self.next_part().await? {
            size += size_of::<Property>();
            if let Property::Metadata { key, value } = &part {
                size += key.len() + value.len();
            }
            if size > MAX_PROPERTIES {
                let (what, len) = ("the metadata of the image", size as u64);
                return Err(FormatError::TooLong { what, len, max: MAX_PROPERTIES }.into());
            }
            properties.push(part);
        }
        Ok(properties)
    }

    async fn next_part(&mut self) -> Result<Part, OperationError> {
        loop {
            if let Some(part) = self.decoder.next_part()? {
                return Ok(part);
            }
            match self.input.next().await {
                Some(Ok(bytes)) => {
                    self.taken += bytes.len() as u64;
                    self.decoder.push(&bytes);
                }
                Some(Err(error)) => return Err(OperationError::Input(error.into())),
                None => return Err(self.decoder.truncated().into()),
            }
        }
    }
}

impl<S: ObjectStore> Image<S> {
    /// Writes a plain stream of bytes to the image, which must be empty: zeroes are left out. `len` is its length, if
    /// it is known; else the image is made larger as needed, and cut in the end.
    ///
    /// # Errors
    /// Those of writing and resizing, or [`OperationError::Input`].
    pub async fn import<I: Stream<Item = io::Result<Bytes>> + Send + Unpin>(
        &self,
        mut input: I,
        len: Option<u64>,
        options: ImportOptions,
        progress: &dyn Progress,
    ) -> Result<(), OperationError> {
        let mut window = Window::new(self.0.management_ops());
        let mut buffer = BytesMut::new();
        let mut done = 0;
        loop {
            let wanted = len.map_or(u64::MAX, |len| len - done).min(options.block() as u64);
            let wanted = usize::try_from(wanted).expect("a block");
            let ended = !fill(&mut buffer, &mut input, wanted).await?;
            let block = buffer.split_to(wanted.min(buffer.len())).freeze();
            let end = done + block.len() as u64;
            if len.is_none() && end > self.size() {
                // A resize waits for all changes under way, which go on only when they are asked to.
                window.finish().await?;
                let size = self.size().max(self.layout().object_size()).saturating_mul(2).max(end);
                self.resize(size, false, &()).await?;
            }
            let mut offset = done;
            for segment in sparse::segments(&block, options.sparse_size()) {
                let (at, len) = (offset, segment.len());
                offset += len;
                if let Segment::Data(data) = segment {
                    window.push(self.write(at, data)).await?;
                }
            }
            done = end;
            progress.update(done, len.unwrap_or(done));
            if ended || len == Some(done) {
                break;
            }
        }
        window.finish().await?;
        if len.is_none() && self.size() != done {
            self.resize(done, true, &()).await?;
        }
        Ok(())
    }

    /// Applies a diff, and makes the snapshot that it ends at, if it does. `len` is the length of the stream, if it is
    /// known, for `progress`.
    ///
    /// # Errors
    /// [`OperationError::NoSnapshot`] if it starts from one that the image does not have,
    /// [`MaintenanceError::SnapshotExists`] if there is one of the name that it ends at; [`OperationError::Format`],
    /// [`OperationError::Input`], and those of the changes. Part of it may be applied then.
    pub async fn import_diff<I: Stream<Item = io::Result<Bytes>> + Send + Unpin>(
        &self,
        stream: &mut ImportStream<I>,
        len: Option<u64>,
        options: ImportOptions,
        progress: &dyn Progress,
    ) -> Result<(), OperationError> {
        let mut diff = DiffImport::new(self, options);
        loop {
            let part = stream.next_part().await?;
            let ended = part == Part::Record(Record::End);
            diff.apply(part).await?;
            match len {
                Some(len) => progress.update(stream.taken.min(len), len),
                None => progress.update(diff.offset.min(self.size()), self.size()),
            }
            if ended {
                return Ok(());
            }
        }
    }

    /// Applies all diffs of an image whose [properties](ImportStream::properties) were read, to an image made for it.
    ///
    /// `progress` counts diffs.
    ///
    /// # Errors
    /// As for [`import_diff`](Self::import_diff).
    pub async fn import_all<I: Stream<Item = io::Result<Bytes>> + Send + Unpin>(
        &self,
        stream: &mut ImportStream<I>,
        options: ImportOptions,
        progress: &dyn Progress,
    ) -> Result<(), OperationError> {
        let mut diff = DiffImport::new(self, options);
        let mut done = 0;
        loop {
            match stream.next_part().await? {
                Part::End => return Ok(()),
                part => {
                    let ended = part == Part::Record(Record::End);
                    diff.apply(part).await?;
                    if ended {
                        done += 1;
                        diff = DiffImport::new(self, options);
                        progress.update(done, stream.decoder.diffs());
                    }
                }
            }
        }
    }

    /// Copies the contents of what is open, with those of its parents, and the metadata of the image to another one,
    /// which must be empty and no smaller. Zeroes are left out.
    ///
    /// # Errors
    /// Those of reading and writing.
    pub async fn copy_to<D: ObjectStore>(
        &self,
        destination: &Image<D>,
        options: ImportOptions,
        progress: &dyn Progress,
    ) -> Result<(), OperationError> {
        self.0.in_flight.barrier().await;
        for (key, value) in self.metadata().await? {
            destination.set_metadata(&key, value).await?;
        }
        let size = self.size();
        let at_once = self.0.management_ops();
        let mut reads = stream::iter(pieces(0, size))
            .map(|(offset, len)| async move { Ok((offset, self.read(offset, len).await?)) })
            .buffered(at_once);
        let mut window = Window::new(at_once);
        while let Some((offset, data)) = reads.try_next().await.map_err(OperationError::Image)? {
            progress.update(offset, size);
            let mut offset = offset;
            for segment in data {
                let len = segment.len();
                if let Segment::Data(data) = segment {
                    let mut at = offset;
                    for part in sparse::segments(&data, options.sparse_size()) {
                        let len = part.len();
                        if let Segment::Data(data) = part {
                            window.push(destination.write(at, data)).await?;
                        }
                        at += len;
                    }
                }
                offset += len;
            }
        }
        window.finish().await?;
        progress.update(size, size);
        Ok(())
    }
}

/// One diff being applied.
struct DiffImport<'a, S: ObjectStore> {
    image: &'a Image<S>,
    options: ImportOptions,
    window: Window<'a>,
    to_snapshot: Option<String>,
    protect: bool,
    /// Where the next data go.
    offset: u64,
    /// Bytes of the extent that are not there yet.
    left: u64,
    /// The beginning of a block of the extent.
    block: BytesMut,
}

impl<'a, S: ObjectStore> DiffImport<'a, S> {
    fn new(image: &'a Image<S>, options: ImportOptions) -> Self {
        Self {
            image,
            options,
            window: Window::new(image.0.management_ops()),
            to_snapshot: None,
            protect: false,
            offset: 0,
            left: 0,
            block: BytesMut::new(),
        }
    }

    async fn apply(&mut self, part: Part) -> Result<(), OperationError> {
        match part {
            Part::Record(record) => self.record(record).await,
            Part::Data(data) => self.data(&data).await,
            Part::Property(_) | Part::Diffs(_) | Part::End => Ok(()),
        }
    }

    async fn record(&mut self, record: Record) -> Result<(), OperationError> {
        let image = self.image;
        match record {
            Record::FromSnapshot(snapshot) => {
                if !self.has_snapshot(&snapshot) {
                    return Err(OperationError::NoStartSnapshot { snapshot });
                }
            }
            Record::ToSnapshot(snapshot) => {
                if self.has_snapshot(&snapshot) {
                    let image = image.0.display_name().to_owned();
                    return Err(MaintenanceError::SnapshotExists { image, snapshot }.into());
                }
                self.to_snapshot = Some(snapshot);
            }
            Record::Protected(protect) => self.protect = protect,
            Record::Size(size) => {
                self.window.finish().await?;
                if image.size() != size {
                    image.resize(size, true, &()).await?;
                }
            }
            Record::Data { offset, len } => (self.offset, self.left) = (offset, len),
            Record::Zeroes { offset, len } => {
                self.offset = offset;
                self.window.push(image.write_zeroes(offset, len, true)).await?;
            }
            Record::End => {
                self.window.finish().await?;
                if let Some(snapshot) = self.to_snapshot.take().filter(|name| !name.is_empty()) {
                    image.create_snapshot(&snapshot, SnapshotFlags::default(), &()).await?;
                    if self.protect {
                        image.protect_snapshot(&snapshot).await?;
                    }
                }
            }
        }
        Ok(())
    }

    fn has_snapshot(&self, name: &str) -> bool {
        self.image.0.header().snapshot_named(name).is_some()
    }

    async fn data(&mut self, data: &Bytes) -> Result<(), OperationError> {
        let mut rest = &data[..];
        while !rest.is_empty() {
            let room = self.options.block() - self.block.len();
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.block.extend_from_slice(now);
            rest = later;
            self.left = self.left.saturating_sub(now.len() as u64);
            if self.left == 0 || self.block.len() == self.options.block() {
                self.write_block().await?;
            }
        }
        Ok(())
    }

    async fn write_block(&mut self) -> Result<(), OperationError> {
        let (image, block) = (self.image, self.block.split().freeze());
        for segment in sparse::segments(&block, self.options.sparse_size()) {
            let (offset, len) = (self.offset, segment.len());
            self.offset += len;
            match segment {
                Segment::Data(data) => self.window.push(image.write(offset, data)).await?,
                Segment::Hole(len) => self.window.push(image.write_zeroes(offset, len, true)).await?,
            }
        }
        Ok(())
    }
}

/// Reads until the buffer has `wanted` bytes. Returns whether the input goes on.
async fn fill(
    buffer: &mut BytesMut,
    input: &mut (impl Stream<Item = io::Result<Bytes>> + Unpin),
    wanted: usize,
) -> Result<bool, OperationError> {
    while buffer.len() < wanted {
        match input.next().await {
            Some(Ok(bytes)) => buffer.extend_from_slice(&bytes),
            Some(Err(error)) => return Err(OperationError::Input(error.into())),
            None => return Ok(false),
        }
    }
    Ok(true)
}
