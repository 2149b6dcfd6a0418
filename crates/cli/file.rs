//! Files to export to and to import from, `-` for standard output and input.
//!
//! Files block, so each is read or written by a thread of its own, not more than some pieces ahead of the rest.

use std::fs::File;
use std::io::{self, BufWriter, Seek as _, SeekFrom, Write as _};
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::Stream;
use rbd::Segment;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::report::Error;

/// Segments that wait to be written, and pieces that were read ahead.
const AHEAD: usize = 4;

/// What zeroes are written from.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

const WRITE_BUFFER: usize = 256 << 10;

/// Where an export goes. It is whole when [`finish`](Self::finish) has returned.
#[derive(Debug)]
pub(crate) struct FileOutput {
    segments: mpsc::Sender<Segment>,
    writer: Option<JoinHandle<io::Result<()>>>,
    /// None for standard output.
    path: Option<PathBuf>,
}

impl FileOutput {
    /// Creates a file, which must not be there yet.
    pub(crate) fn create(path: &str) -> Result<Self, Error> {
        let (segments, mut waiting) = mpsc::channel::<Segment>(AHEAD);
        if path == "-" {
            let writer = tokio::task::spawn_blocking(move || {
                let mut out = BufWriter::with_capacity(WRITE_BUFFER, io::stdout().lock());
                while let Some(segment) = waiting.blocking_recv() {
                    write_all(&mut out, &segment)?;
                }
                out.flush()
            });
            return Ok(Self { segments, writer: Some(writer), path: None });
        }
        let path = PathBuf::from(path);
        let file = File::create_new(&path).map_err(|source| Error::File {
            doing: "create",
            path: path.clone(),
            source,
        })?;
        let writer = tokio::task::spawn_blocking(move || {
            let mut out = BufWriter::with_capacity(WRITE_BUFFER, file);
            while let Some(segment) = waiting.blocking_recv() {
                match segment {
                    Segment::Data(data) => out.write_all(&data)?,
                    Segment::Hole(len) => skip(&mut out, len)?,
                }
            }
            // A hole at the end has no bytes of its own.
            let len = out.stream_position()?;
            out.flush()?;
            out.get_ref().set_len(len)
        });
        Ok(Self { segments, writer: Some(writer), path: Some(path) })
    }

    /// Waits until all is written. What was exported only in part is removed.
    pub(crate) async fn finish(self, exported: Result<(), Error>) -> Result<(), Error> {
        let Self { segments, writer, path } = self;
        drop(segments);
        let written = match writer {
            Some(writer) => joined(writer.await),
            None => Ok(()),
        };
        if let Some(path) = path.as_ref().filter(|_| exported.is_err() || written.is_err()) {
            // That it cannot be removed is not what went wrong.
            let _ = std::fs::remove_file(path);
        }
        exported?;
        written.map_err(|source| match path {
            Some(path) => Error::File { doing: "write", path, source },
            None => Error::Output(source),
        })
    }
}

impl rbd::Output for FileOutput {
    async fn write(&mut self, segment: Segment) -> io::Result<()> {
        if self.segments.send(segment).await.is_ok() {
            return Ok(());
        }
        // The writer has ended, and knows why.
        if let Some(writer) = self.writer.take() {
            joined(writer.await)?;
        }
        Err(io::ErrorKind::BrokenPipe.into())
    }
}

fn joined<T>(result: Result<io::Result<T>, tokio::task::JoinError>) -> io::Result<T> {
    result.unwrap_or_else(|error| Err(io::Error::other(error)))
}

fn write_all(out: &mut impl io::Write, segment: &Segment) -> io::Result<()> {
    match segment {
        Segment::Data(data) => out.write_all(data),
        Segment::Hole(len) => {
            let mut left = *len;
            while left > 0 {
                let now = left.min(ZEROES.len() as u64);
                out.write_all(&ZEROES[..usize::try_from(now).expect("not more than there are")])?;
                left -= now;
            }
            Ok(())
        }
    }
}

fn skip(out: &mut BufWriter<File>, len: u64) -> io::Result<()> {
    // Small ones are written: it costs less than to go somewhere else.
    if len < 4096 {
        return write_all(out, &Segment::Hole(len));
    }
    let len = i64::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
    out.seek(SeekFrom::Current(len)).map(drop)
}

/// Bytes that are read at once.
const READ_SIZE: usize = 1 << 20;

/// What to import.
#[derive(Debug)]
pub(crate) struct FileInput {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    len: Option<u64>,
}

impl FileInput {
    pub(crate) fn open(path: &str) -> Result<Self, Error> {
        if path == "-" {
            return Ok(Self { pieces: read_ahead(io::stdin()), len: None });
        }
        let failed = |source| Error::File { doing: "read", path: path.into(), source };
        let mut file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if metadata.is_dir() {
            return Err(failed(io::ErrorKind::IsADirectory.into()));
        }
        // A block device has no size, but an end.
        let end = file.seek(SeekFrom::End(0)).and_then(|end| file.rewind().map(|()| end));
        let len = if metadata.is_file() { Some(metadata.len()) } else { end.ok() };
        Ok(Self { pieces: read_ahead(file), len })
    }

    /// Bytes of it, if that is known before it is read.
    pub(crate) fn len(&self) -> Option<u64> {
        self.len
    }
}

impl Stream for FileInput {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.pieces.poll_recv(cx)
    }
}

fn read_ahead(mut file: impl io::Read + Send + 'static) -> mpsc::Receiver<io::Result<Bytes>> {
    let (sender, pieces) = mpsc::channel(AHEAD);
    // Not a task that the runtime waits for: standard input may never end.
    std::thread::spawn(move || {
        loop {
            let mut piece = vec![0; READ_SIZE];
            let read = match file.read(&mut piece) {
                Ok(0) => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read,
            };
            let ended = read.is_err();
            let piece = read.map(|len| {
                piece.truncate(len);
                Bytes::from(piece)
            });
            if sender.blocking_send(piece).is_err() || ended {
                return;
            }
        }
    });
    pieces
}
