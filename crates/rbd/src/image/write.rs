//! Changing: writes, discards, zeroes.
//!
//! ```text
//!  write --> metadata fresh? --> lock held? --> for each object:
//!                                  object map says EXISTS? --no--> update it, wait
//!                                  submit the operation, with the current snapshot context
//!                                  (of a clone: only if the object exists; else copy it up first)
//!                                  (after a removal: object map NONEXISTENT)
//! ```
//! Ceph: `src/librbd/io/ImageRequest.cc`, `src/librbd/io/ObjectRequest.cc`.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use rados::{Errno, Operation};

use super::core::Core;
use super::timestamps::Touch;
use crate::header::Header;
use crate::layout::Extent;
use crate::object_map::{ObjectMap, ObjectState};
use crate::{ImageError, ObjectStore, names};

/// Objects of one request that are worked on at the same time.
pub(super) const OBJECTS_AT_ONCE: usize = 128;

/// Objects of one request that are filled with zeroes at the same time: each has all of its zeroes on the way.
const FILLED_AT_ONCE: usize = 8;

/// Requests to clear more than an object that are worked on at the same time, each with [`OBJECTS_AT_ONCE`]. They come
/// without payload, so nobody else bounds the memory that they take.
pub(super) const CLEARS_AT_ONCE: usize = 8;

/// What all requests for zeroes are written from.
static ZEROES: [u8; 256 << 10] = [0; 256 << 10];

/// How often a write starts again because its snapshot context was too old.
const SNAPC_RETRIES: usize = 5;

impl<S: ObjectStore> Core<S> {
    pub(super) async fn write(&self, offset: u64, data: Bytes) -> Result<(), ImageError> {
        let len = data.len() as u64;
        self.mutate(offset, len, async {
            match self.layout.extents(offset, len).next() {
                None => Ok(()),
                Some(extent) if extent.len == len => self.write_object(extent, &[data]).await,
                Some(_) => {
                    let objects = self.layout.object_extents(offset, len);
                    let data = &data;
                    each(objects, OBJECTS_AT_ONCE, |object| async move {
                        let pieces: Vec<Bytes> = object.pieces.iter().map(|p| slice(data, p)).collect();
                        self.write_object(object.extent, &pieces).await
                    })
                    .await
                }
            }
        })
        .await
    }

    pub(super) async fn discard(&self, offset: u64, len: u64) -> Result<(), ImageError> {
        self.mutate(offset, len, async {
            let granularity = self.options().discard_granularity.min(self.layout.object_size());
            self.clear(offset, len, granularity).await
        })
        .await
    }

    pub(super) async fn write_zeroes(
        &self,
        offset: u64,
        len: u64,
        may_unmap: bool,
    ) -> Result<(), ImageError> {
        self.mutate(offset, len, async {
            if may_unmap {
                return self.clear(offset, len, 1).await;
            }
            self.for_each_object(offset, len, FILLED_AT_ONCE, |extent| async move {
                let zeroes: Vec<Bytes> = zeroes(extent.len).collect();
                self.write_object(extent, &zeroes).await
            })
            .await
        })
        .await
    }

    /// Runs a change of a range with all that it takes to be allowed to.
    async fn mutate(
        &self,
        offset: u64,
        len: u64,
        change: impl Future<Output = Result<(), ImageError>>,
    ) -> Result<(), ImageError> {
        if self.read_only {
            return Err(ImageError::ReadOnly);
        }
        let _ticket = self.in_flight.begin().ok_or(ImageError::Closed)?;
        // The lock is not worth taking for a mistake.
        self.check_range(offset, len)?;
        let _mutation = self.begin_mutation().await?;
        self.check_range(offset, len)?;
        self.touch(Touch::Change);
        change.await
    }

    async fn write_object(&self, extent: Extent, pieces: &[Bytes]) -> Result<(), ImageError> {
        let whole = extent.len == self.layout.object_size();
        let append = |mut operation: Operation| match pieces {
            [all] if whole => operation.write_full(all.clone()),
            _ => {
                let mut offset = extent.offset;
                for piece in pieces {
                    operation = operation.write(offset, piece.clone());
                    offset += piece.len() as u64;
                }
                operation
            }
        };
        self.change_object(&Change { extent, kind: Kind::Write, append }).await
    }

    /// Makes a range read as zeroes and gives up its space. In each object only multiples of `granularity`.
    async fn clear(&self, offset: u64, len: u64, granularity: u64) -> Result<(), ImageError> {
        let object_size = self.layout.object_size();
        let _turn = if len > object_size { self.clears.acquire().await.ok() } else { None };
        self.for_each_object(offset, len, OBJECTS_AT_ONCE, |extent| async move {
            match aligned(extent, granularity, object_size) {
                Some(extent) => self.clear_object(extent).await,
                None => Ok(()),
            }
        })
        .await
    }

    /// Does something to what each object has of a range, to `at_once` objects at a time.
    async fn for_each_object<F>(
        &self,
        offset: u64,
        len: u64,
        at_once: usize,
        work: impl Fn(Extent) -> F,
    ) -> Result<(), ImageError>
    where
        F: Future<Output = Result<(), ImageError>>,
    {
        // Millions of objects may be meant: work on them as they come up. With stripes it takes whole object sets.
        let set_size = self.layout.object_size().saturating_mul(self.layout.stripe_count());
        let step = set_size.saturating_mul(at_once as u64 * 8);
        let end = offset + len;
        let mut start = offset;
        while start < end {
            let next = (start - start % set_size).saturating_add(step).min(end);
            let objects = self.layout.object_extents(start, next - start).into_iter();
            each(objects.map(|object| object.extent), at_once, &work).await?;
            start = next;
        }
        Ok(())
    }

    /// Makes a range past the new end of the image read as zeroes, and removes the objects that have nothing else: with
    /// stripes, those whose first byte is in it.
    pub(crate) async fn clear_past(&self, offset: u64, len: u64) -> Result<(), ImageError> {
        let object_size = self.layout.object_size();
        self.for_each_object(offset, len, OBJECTS_AT_ONCE, |extent| async move {
            match extent.offset {
                0 => self.cut_object(extent.object).await,
                _ => self.clear_object(Extent { len: object_size - extent.offset, ..extent }).await,
            }
        })
        .await
    }

    /// Gives an object the contents that it had at a snapshot; `existed` unless it is certain that it had none.
    pub(crate) async fn roll_back_object(
        &self,
        object: u64,
        snap: ceph_codec::SnapId,
        existed: bool,
    ) -> Result<(), ImageError> {
        let name = names::data_object(&self.object_prefix, object);
        self.mark(object, if existed { ObjectState::Exists } else { ObjectState::Pending }).await?;
        // What it had of the parent at the snapshot it has again as soon as it is gone.
        let rolled_back = self.data.write(&name, Operation::new().rollback(snap), &self.header().snapc).await;
        unless_missing(rolled_back.map(drop).map_err(|error| self.failed(name, error)))?;
        if !existed && let Some(map) = self.map() {
            mark_in(&map, object, ObjectState::Nonexistent).await?;
        }
        Ok(())
    }

    /// Removes objects that the image does not need any more.
    pub(crate) async fn remove_objects(&self, objects: Range<u64>, at_once: usize) -> Result<(), ImageError> {
        each(objects, at_once, |object| self.cut_object(object)).await
    }

    /// Removes an object that the image does not need any more. Its snapshots may, and later they will not get from the
    /// parent what is past the end of the live image.
    ///
    /// Ceph: `TrimRequest<I>::send_copyup_objects` in `src/librbd/operation/TrimRequest.cc`.
    async fn cut_object(&self, object: u64) -> Result<(), ImageError> {
        if !self.header().snapc.snaps.is_empty() && self.inherits(object) {
            self.copy_up_object(object).await?;
        }
        if self.is_known_to_be_missing(object) { Ok(()) } else { self.remove_object(object).await }
    }

    async fn clear_object(&self, extent: Extent) -> Result<(), ImageError> {
        let inherits = self.inherits(extent.object);
        if !inherits && self.is_known_to_be_missing(extent.object) {
            return Ok(());
        }
        let to_its_end = extent.offset + extent.len == self.layout.object_size();
        if to_its_end && extent.offset == 0 && !inherits {
            return self.remove_object(extent.object).await;
        }
        let append = |operation: Operation| {
            if to_its_end {
                operation.truncate(extent.offset)
            } else {
                operation.zero(extent.offset, extent.len)
            }
        };
        unless_missing(self.change_object(&Change { extent, kind: Kind::Clear, append }).await)
    }

    /// Removes an object. The object map says so only if no other removal is under way: that one may be of an
    /// object that was written again meanwhile.
    async fn remove_object(&self, object: u64) -> Result<(), ImageError> {
        *self.removing.lock().entry(object).or_default() += 1;
        let extent = Extent { object, offset: 0, len: self.layout.object_size() };
        let removal = Change { extent, kind: Kind::Remove, append: Operation::delete };
        let result = unless_missing(self.change_object(&removal).await);
        let last = {
            let mut removing = self.removing.lock();
            let count = removing.entry(object).or_default();
            *count = count.saturating_sub(1);
            let last = *count == 0;
            if last {
                removing.remove(&object);
            }
            last
        };
        result?;
        match self.map() {
            Some(map) if last => map
                .update(object..object + 1, ObjectState::Nonexistent, Some(ObjectState::Pending))
                .await
                .map_err(ImageError::ObjectMap),
            _ => Ok(()),
        }
    }

    /// Applies a change to a data object, once the object map has the state that it will cause.
    async fn change_object<F: Fn(Operation) -> Operation + Sync>(
        &self,
        change: &Change<F>,
    ) -> Result<(), ImageError> {
        let object = change.extent.object;
        let name = names::data_object(&self.object_prefix, object);
        let mut retries = 0;
        loop {
            if self.view().parent.is_some()
                && self.guard(change).1 == Guard::Exists
                && self.is_known_to_be_missing(object)
            {
                if Box::pin(self.copy_up(object, Some(change))).await? {
                    return Ok(());
                }
                continue;
            }
            let may_exist = self.mark(object, change.state()).await?;
            // No await from here to the submission: the mark would not be sure to be still there.
            let (header, guard) = self.guard(change);
            let mut operation = match guard {
                Guard::None => Operation::new(),
                Guard::Create => Operation::new().create(false),
                Guard::Exists => Operation::new().assert_exists(),
            };
            if change.kind == Kind::Write && !may_exist {
                operation = self.hint(operation);
            }
            let submitted = self.data.write(&name, (change.append)(operation), &header.snapc);
            match submitted.await {
                Ok(_) => return Ok(()),
                Err(error) if guard == Guard::Exists && error.refusal() == Some(Errno::ENOENT) => {
                    if Box::pin(self.copy_up(object, Some(change))).await? {
                        return Ok(());
                    }
                }
                Err(error) if error.is(Errno::EOLDSNAPC) && retries < SNAPC_RETRIES => {
                    retries += 1;
                    self.outdate();
                    self.ensure_fresh().await?;
                }
                Err(error) => return Err(self.failed(name, error)),
            }
        }
    }

    /// Appends telling the OSD what a new object is going to be like.
    pub(super) fn hint(&self, operation: Operation) -> Operation {
        let object_size = self.layout.object_size();
        match self.options().alloc_hint {
            Some(hint) => operation.set_alloc_hint(object_size, object_size, hint),
            None => operation,
        }
    }

    /// What a change has to see to in a clone, and the metadata by which that is so.
    fn guard<F>(&self, change: &Change<F>) -> (Arc<Header>, Guard) {
        let header = self.header();
        if change.kind == Kind::Remove {
            return (header, Guard::None);
        }
        let Some(origin) = self.origin(change.extent.object) else { return (header, Guard::None) };
        // Snapshots need what is overwritten. (They would have it from the parent, too, but only as long as that is
        // there.)
        let replaces = change.extent.offset == 0 && change.extent.len >= origin.len;
        let guard = match change.kind {
            _ if !replaces || !header.snapc.snaps.is_empty() => Guard::Exists,
            Kind::Clear => Guard::Create,
            _ => Guard::None,
        };
        (header, guard)
    }

    /// Gives the object a state in the object map, if there is one. Returns whether the object may have existed
    /// before, as far as the store needs to know: without a map it has to be told every time.
    pub(super) async fn mark(&self, object: u64, state: ObjectState) -> Result<bool, ImageError> {
        let Some(map) = self.map() else { return Ok(false) };
        let may_exist = map.may_exist(object);
        if map.needs_update(object, state) {
            mark_in(&map, object, state).await?;
        }
        Ok(may_exist)
    }
}

/// What a request does to one object.
pub(super) struct Change<F> {
    /// All that it overwrites.
    pub(super) extent: Extent,
    pub(super) kind: Kind,
    /// Appends the change to an operation.
    pub(super) append: F,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Write,
    /// Makes the extent read as zeroes. In a clone the object stays, and hides that of the parent.
    Clear,
    /// Removes the object, whatever the parent has.
    Remove,
}

impl<F> Change<F> {
    /// What the object map has to say before.
    pub(super) fn state(&self) -> ObjectState {
        match self.kind {
            Kind::Write | Kind::Clear => ObjectState::Exists,
            Kind::Remove => ObjectState::Pending,
        }
    }
}

/// What comes before a change in the same operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Guard {
    None,
    /// The object is made: the change replaces all that it has from the parent.
    Create,
    /// The operation fails if the object does not exist.
    Exists,
}

/// Updates the map. `EXISTS` must still be there when the future resolves: if a removal came between, the object
/// would be written after it, and the map go on to say that it is gone.
///
/// The other states need no second look: whatever came between, the map says that the object may exist.
async fn mark_in<S: ObjectStore>(
    map: &ObjectMap<S>,
    object: u64,
    state: ObjectState,
) -> Result<(), ImageError> {
    loop {
        map.update(object..object + 1, state, None).await.map_err(ImageError::ObjectMap)?;
        if state != ObjectState::Exists || map.state(object) == state {
            return Ok(());
        }
    }
}

/// An object that is not there needs no clearing. (A pool that is gone is something else, of the same errno.)
fn unless_missing(cleared: Result<(), ImageError>) -> Result<(), ImageError> {
    match cleared {
        Err(ImageError::Op { source, .. }) if source.refusal() == Some(Errno::ENOENT) => Ok(()),
        cleared => cleared,
    }
}

/// What a discard may clear of an extent. The last object of an image may be cut at any multiple.
///
/// Ceph: `ImageDiscardRequest::prune_object_extents` in `src/librbd/io/ImageRequest.cc`.
fn aligned(extent: Extent, granularity: u64, object_size: u64) -> Option<Extent> {
    let end = extent.offset + extent.len;
    if granularity >= object_size && end >= object_size {
        return Some(extent);
    }
    let offset = extent.offset.next_multiple_of(granularity);
    let end = end - end % granularity;
    (offset < end).then(|| Extent { offset, len: end - offset, ..extent })
}

/// Runs `work` on all items, some at a time. All are finished even if one fails: what was sent cannot be
/// withdrawn, and must not be under way when the lock is given up.
async fn each<T, F>(
    items: impl IntoIterator<Item = T>,
    at_once: usize,
    work: impl Fn(T) -> F,
) -> Result<(), ImageError>
where
    F: Future<Output = Result<(), ImageError>>,
{
    let mut running = futures::stream::iter(items.into_iter().map(work)).buffer_unordered(at_once);
    let mut result = Ok(());
    while let Some(done) = running.next().await {
        result = result.and(done);
    }
    result
}

/// `len` bytes of zeroes, in few pieces.
fn zeroes(len: u64) -> impl Iterator<Item = Bytes> {
    let pieces = (0..len).step_by(ZEROES.len());
    pieces.map(move |at| Bytes::from_static(&ZEROES[..usize_of((len - at).min(ZEROES.len() as u64))]))
}

fn slice(data: &Bytes, range: &Range<u64>) -> Bytes {
    data.slice(usize_of(range.start)..usize_of(range.end))
}

fn usize_of(len: u64) -> usize {
    usize::try_from(len).expect("a part of a buffer, or at most an object")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cleared(offset: u64, len: u64) -> Option<(u64, u64)> {
        aligned(Extent { object: 0, offset, len }, 65536, 4 << 20).map(|e| (e.offset, e.len))
    }

    #[test]
    fn a_discard_clears_only_whole_granules() {
        assert_eq!(cleared(0, 4096), None);
        assert_eq!(cleared(65536, 65536), Some((65536, 65536)));
        assert_eq!(cleared(100 << 10, 200 << 10), Some((128 << 10, 128 << 10)), "as measured with librbd");
        assert_eq!(cleared(4096, (4 << 20) - 4096), Some((65536, (4 << 20) - 65536)));
    }

    #[test]
    fn objects_smaller_than_a_granule_are_cleared_from_any_place_to_their_end() {
        let clear =
            |offset, len| aligned(Extent { object: 0, offset, len }, 4096, 4096).map(|e| (e.offset, e.len));
        assert_eq!(clear(100, 3996), Some((100, 3996)));
        assert_eq!(clear(0, 4095), None);
    }
}
