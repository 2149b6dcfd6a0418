//! Copy-up: a clone gets an object of its own from its parent, before or with the first change of it.
//!
//! ```text
//!  no snapshots   copyup, change                   one operation
//!  snapshots      copyup      | exists?, change    two; the first without a snapshot context, as if the object had been
//!                                                  there since before the oldest snapshot, so that all of them have it
//! ```
//! `copyup` does nothing to an object that is there, so it does not matter who else has the same idea. Before it, the
//! object maps of the live image and of all snapshots are told.
//!
//! Ceph: `src/librbd/io/CopyupRequest.cc`, `AbstractObjectWriteRequest` in `src/librbd/io/ObjectRequest.cc`.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use bytes::Bytes;
use parking_lot::Mutex;
use rados::{Errno, Operation, SnapContext};
use tokio::sync::{Semaphore, SemaphorePermit, watch};

use super::core::Core;
use super::data::{ReadData, Segment};
use super::write::Change;
use crate::cls::parent::sparse_copyup;
use crate::header::Header;
use crate::layout::Extent;
use crate::object_map::{ObjectMap, ObjectState};
use crate::{ImageError, ObjectStore, names};

/// Bytes of parents that one image copies at the same time; many small writes may each need a whole object.
const BYTES_AT_ONCE: u32 = 128 << 20;

/// To compare with; parts of the parent that are all zeroes are not copied.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// The copy-ups under way: one of each object.
pub(crate) struct CopyUps {
    /// Who waits for the end of a copy-up is told by its sender being dropped.
    objects: Mutex<HashMap<u64, watch::Sender<()>>>,
    bytes: Semaphore,
}

impl Default for CopyUps {
    fn default() -> Self {
        Self { objects: Mutex::default(), bytes: Semaphore::new(BYTES_AT_ONCE as usize) }
    }
}

/// The right to copy an object up.
struct Turn<'a> {
    copy_ups: &'a CopyUps,
    object: u64,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.copy_ups.objects.lock().remove(&self.object);
    }
}

impl CopyUps {
    /// The right to copy an object up; none, some time later, if it was being done.
    async fn turn(&self, object: u64) -> Option<Turn<'_>> {
        let mut under_way = match self.objects.lock().entry(object) {
            Entry::Vacant(entry) => {
                entry.insert(watch::Sender::new(()));
                return Some(Turn { copy_ups: self, object });
            }
            Entry::Occupied(entry) => entry.get().subscribe(),
        };
        // An error is what is waited for.
        let _ = under_way.changed().await;
        None
    }

    async fn room(&self, len: u64) -> Option<SemaphorePermit<'_>> {
        let len = u32::try_from(len).unwrap_or(u32::MAX).min(BYTES_AT_ONCE);
        // It is never closed.
        self.bytes.acquire_many(len).await.ok()
    }
}

impl<S: ObjectStore> Core<S> {
    /// Gives an object that was found missing what the parent has, and applies the change; without a change nothing is
    /// done where the parent has only zeroes. `false` if things are not as they were: look again.
    pub(super) async fn copy_up<F: Fn(Operation) -> Operation + Sync>(
        &self,
        object: u64,
        change: Option<&Change<F>>,
    ) -> Result<bool, ImageError> {
        let Some(_turn) = self.copy_ups.turn(object).await else { return Ok(false) };
        let Some(origin) = self.origin(object) else { return Ok(false) };
        let _room = self.copy_ups.room(origin.len).await;
        let whole = Extent { object, offset: 0, len: origin.len };
        let Some(inherited) = self.read_origin(whole, &origin).await? else { return Ok(false) };
        let mut inherited = Inherited::new(inherited);
        if inherited.is_empty() && change.is_none() {
            return Ok(true);
        }
        let header = loop {
            let header = self.header();
            if let Some(map) = self.map() {
                let in_snapshots = !inherited.is_empty() && !header.snapc.snaps.is_empty();
                if in_snapshots {
                    let oldest_first = header.snapc.snaps.iter().rev().copied();
                    map.copied_up(object, oldest_first).await.map_err(ImageError::ObjectMap)?;
                }
                match change {
                    Some(change) => drop(self.mark(object, change.state()).await?),
                    None => self.mark_copy(&map, object, in_snapshots).await?,
                }
            }
            // No await from here to the submission.
            let now = self.header();
            if now.snapc == header.snapc {
                break now;
            }
        };
        // What was cut off the image meanwhile must not come back with it.
        inherited.truncate(self.origin(object).map_or(0, |origin| origin.len));
        self.submit_copy(object, &header, &inherited, change).await
    }

    async fn submit_copy<F: Fn(Operation) -> Operation + Sync>(
        &self,
        object: u64,
        header: &Header,
        inherited: &Inherited,
        change: Option<&Change<F>>,
    ) -> Result<bool, ImageError> {
        let name = names::data_object(&self.object_prefix, object);
        let copy = self.hint(sparse_copyup(Operation::new(), &inherited.0));
        let deep = !inherited.is_empty() && !header.snapc.snaps.is_empty();
        let (copied, changed) = match change {
            Some(change) if !deep => {
                (self.data.write(&name, (change.append)(copy), &header.snapc).await, Ok(()))
            }
            Some(change) => {
                let copied = self.data.write(&name, copy, &SnapContext::default());
                // In the order of their submission; the second does nothing if the first fails.
                let operation = (change.append)(Operation::new().assert_exists());
                let changed = self.data.write(&name, operation, &header.snapc);
                let (copied, changed) = futures::join!(copied, changed);
                (copied, changed.map(drop))
            }
            None if deep => (self.data.write(&name, copy, &SnapContext::default()).await, Ok(())),
            None => (self.data.write(&name, copy, &header.snapc).await, Ok(())),
        };
        match copied.map(|_| changed) {
            Ok(Ok(())) => Ok(true),
            Ok(Err(error)) if error.refusal() == Some(Errno::ENOENT) => Ok(false),
            Ok(Err(error)) | Err(error) if error.is(Errno::EOLDSNAPC) => {
                self.outdate();
                self.ensure_fresh().await?;
                Ok(false)
            }
            Ok(Err(error)) | Err(error) => Err(self.failed(name, error)),
        }
    }

    /// Notes in the object map of the live image that the object is about to exist. If its contents are those of a
    /// snapshot it has not changed since.
    async fn mark_copy(&self, map: &ObjectMap<S>, object: u64, in_snapshots: bool) -> Result<(), ImageError> {
        let clean = in_snapshots && self.has(crate::Features::FAST_DIFF);
        let state = if clean { ObjectState::ExistsClean } else { ObjectState::Exists };
        while map.state(object) == ObjectState::Nonexistent {
            map.update(object..object + 1, state, Some(ObjectState::Nonexistent))
                .await
                .map_err(ImageError::ObjectMap)?;
        }
        Ok(())
    }

    /// Gives an object what the parent has, if it does not exist. `false` if nothing of it comes from a parent (any
    /// more). The caller has the right to change the image.
    pub(crate) async fn copy_up_object(&self, object: u64) -> Result<bool, ImageError> {
        loop {
            if self.origin(object).is_none() {
                return Ok(false);
            }
            if !self.is_known_to_be_missing(object) && self.stored_size(object).await?.1.is_some() {
                return Ok(true);
            }
            if self.copy_up(object, None::<&Change<fn(Operation) -> Operation>>).await? {
                return Ok(true);
            }
        }
    }
}

/// What an object has from the parent: offsets in the object, and the bytes there; nothing where all is zero.
pub(super) struct Inherited(Vec<(u64, Bytes)>);

impl Inherited {
    fn new(data: ReadData) -> Self {
        let (mut pieces, mut at, mut zero) = (Vec::new(), 0, true);
        for segment in data {
            let len = segment.len();
            if let Segment::Data(bytes) = segment {
                zero = zero && is_zero(&bytes);
                pieces.push((at, bytes));
            }
            at += len;
        }
        Self(if zero { Vec::new() } else { pieces })
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn truncate(&mut self, len: u64) {
        self.0.retain(|(at, _)| *at < len);
        if let Some((at, bytes)) = self.0.last_mut() {
            bytes.truncate(usize::try_from(len - *at).unwrap_or(usize::MAX));
        }
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(ZEROES.len()).all(|chunk| *chunk == ZEROES[..chunk.len()])
}
