//! Which parts of an image changed since a snapshot, or since it was made.
//!
//! ```text
//!             whole objects asked for, and object maps valid?
//!        yes /                                               \ no
//!   fast: object maps of all snapshots between     snap_set: what the OSDs keep of each object
//!            \                                               /
//!             `---> an image that is a clone, since the beginning of time:
//!                   where it has no object of its own, what the parent has
//! ```
//! Ceph: `src/librbd/api/DiffIterate.cc`, `ObjectListSnapsRequest` in `src/librbd/io/ObjectRequest.cc`.

mod fast;
mod snap_set;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use ceph_codec::SnapId;
use futures::future::BoxFuture;
use futures::stream::{self, Stream, StreamExt, TryStreamExt};
use rados::{Errno, Operation, Release};
use rangemap::{RangeMap, RangeSet};

use crate::image::core::Core;
use crate::layout::Extent;
use crate::{Image, ImageError, ObjectStore, OperationError, names};
use fast::{Change, Changes};
use snap_set::Counting;

/// What to compare, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiffOptions {
    /// Name of the snapshot to compare with; none for an empty image of the same size.
    pub from_snapshot: Option<String>,
    /// Whether a change of one byte counts for its whole object. Faster by far where the image has the feature
    /// `fast-diff`, and the maps that it needs are valid.
    pub whole_object: bool,
    /// Whether what a clone has from its parent counts as written. Only compared with an empty image.
    pub include_parent: bool,
}

/// A part of an image that may have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiffExtent {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// Whether there are data; else it reads as zeroes now.
    pub exists: bool,
}

/// What became of a part of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data,
    Zero,
}

/// From after a snapshot (0: the beginning of time) to a later one or the live image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    from: SnapId,
    to: SnapId,
}

impl<S: ObjectStore> Image<S> {
    /// Tells what changed up to the snapshot that is open, or to the live image as it is when the call begins.
    ///
    /// Extents come in ascending order and do not overlap; none is longer than a stripe period. What did not change
    /// may be among them. They are found as the stream is read, some objects at a time.
    ///
    /// # Errors
    /// [`OperationError::NoSnapshot`], [`OperationError::SnapshotOrder`], or what the cluster reports.
    pub async fn diff(
        &self,
        options: &DiffOptions,
    ) -> Result<impl Stream<Item = Result<DiffExtent, OperationError>> + Send + use<S>, OperationError> {
        let diff = Diff::prepare(&self.0, options).await?;
        Ok(diff.extents().map_err(OperationError::Image))
    }

    /// Bytes that the snapshot that is open, or the live image, uses since a snapshot or altogether. Without what a
    /// clone has from its parent.
    ///
    /// `exact` counts bytes, and has to ask for every object; without it whole objects count.
    ///
    /// # Errors
    /// As for [`diff`](Self::diff).
    ///
    /// Ceph: `get_image_disk_usage` in `src/tools/rbd/action/DiskUsage.cc`.
    pub async fn disk_usage(&self, from_snapshot: Option<&str>, exact: bool) -> Result<u64, OperationError> {
        let options = DiffOptions {
            from_snapshot: from_snapshot.map(str::to_owned),
            whole_object: !exact,
            include_parent: false,
        };
        let extents = self.diff(&options).await?;
        extents.try_fold(0, async |used, extent| Ok(used + if extent.exists { extent.len } else { 0 })).await
    }
}

/// A diff of the first bytes of an image.
struct Diff<S: ObjectStore> {
    core: Arc<Core<S>>,
    span: Span,
    /// Bytes of the image to look at.
    len: u64,
    whole_object: bool,
    include_parent: bool,
    /// Where the object maps tell all.
    fast: Option<Changes>,
    /// What the parent has of the objects that the image does not have; only with `fast`.
    parent: RangeSet<u64>,
}

impl<S: ObjectStore> Diff<S> {
    async fn prepare(core: &Arc<Core<S>>, options: &DiffOptions) -> Result<Self, OperationError> {
        // Our own changes have to be seen.
        core.in_flight.barrier().await;
        core.ensure_fresh().await?;
        let to = core.snap;
        let from = match &options.from_snapshot {
            None => SnapId(0),
            Some(name) => {
                let header = core.header();
                let found = header.snapshot_named(name).map(|snapshot| snapshot.id);
                found.ok_or_else(|| OperationError::NoSnapshot { snapshot: name.clone() })?
            }
        };
        if from > to {
            return Err(OperationError::SnapshotOrder { from, to });
        }
        let len = if from == to { 0 } else { core.size().ok_or(ImageError::SnapshotGone)? };
        let include_parent = options.include_parent && from.0 == 0;
        Ok(Self::of_range(core.clone(), Span { from, to }, len, options.whole_object, include_parent).await?)
    }

    async fn of_range(
        core: Arc<Core<S>>,
        span: Span,
        len: u64,
        whole_object: bool,
        include_parent: bool,
    ) -> Result<Self, ImageError> {
        let fast = match whole_object {
            true => Changes::load(&core, span, core.layout.object_count(len)).await,
            false => None,
        };
        let parent = match core.parent().filter(|_| fast.is_some() && include_parent) {
            Some(parent) => all_of(parent.core.clone(), parent.overlap.min(len)).await?,
            None => RangeSet::new(),
        };
        Ok(Self { core, span, len, whole_object, include_parent, fast, parent })
    }

    fn extents(self) -> impl Stream<Item = Result<DiffExtent, ImageError>> + Send + use<S> {
        let layout = self.core.layout;
        let period = layout.object_size().saturating_mul(layout.stripe_count());
        let (len, at_once) = (self.len, self.core.management_ops());
        let diff = Arc::new(self);
        let periods = std::iter::successors((len > 0).then_some(0), move |start: &u64| {
            start.checked_add(period).filter(|start| *start < len)
        });
        stream::iter(periods)
            .map(move |start| {
                let diff = diff.clone();
                async move { diff.period(start..start.saturating_add(period).min(diff.len)).await }
            })
            .buffered(at_once)
            .map_ok(|kinds| {
                stream::iter(kinds.into_iter().map(|(range, kind)| {
                    Ok(DiffExtent {
                        offset: range.start,
                        len: range.end - range.start,
                        exists: kind == Kind::Data,
                    })
                }))
            })
            .try_flatten()
    }

    async fn period(&self, range: Range<u64>) -> Result<RangeMap<u64, Kind>, ImageError> {
        // An image of nothing but holes is gone through without any operation that waits.
        tokio::task::coop::consume_budget().await;
        match &self.fast {
            Some(changes) => Ok(self.by_maps(changes, range)),
            None => {
                let how = Comparison {
                    counting: Counting {
                        whole_object: self.whole_object,
                        zeroes: true,
                        past_cuts: self.core.store.release() < Release::REEF,
                    },
                    include_parent: self.include_parent,
                };
                by_objects(self.core.clone(), self.span, snap_set::ranges(range), how).await
            }
        }
    }

    fn by_maps(&self, changes: &Changes, range: Range<u64>) -> RangeMap<u64, Kind> {
        let mut kinds = RangeMap::new();
        let mut start = range.start;
        for extent in self.core.layout.extents(range.start, range.end - range.start) {
            let part = start..start + extent.len;
            start = part.end;
            match changes.get(extent.object) {
                Change::Unchanged => {}
                Change::Written => kinds.insert(part, Kind::Data),
                Change::Removed => kinds.insert(part, Kind::Zero),
                Change::None => {
                    let inherited = snap_set::intersection(&self.parent, &snap_set::ranges(part));
                    kinds.extend(inherited.into_iter().map(|part| (part, Kind::Data)));
                }
            }
        }
        kinds
    }
}

/// What an image, which is the parent of another, and its own parents have in the first `len` bytes.
fn all_of<S: ObjectStore>(
    core: Arc<Core<S>>,
    len: u64,
) -> BoxFuture<'static, Result<RangeSet<u64>, ImageError>> {
    Box::pin(async move {
        if len == 0 {
            return Ok(RangeSet::new());
        }
        let span = Span { from: SnapId(0), to: core.snap };
        let diff = Diff::of_range(core, span, len, true, true).await?;
        let extents = diff.extents().try_filter(|extent| std::future::ready(extent.exists));
        extents.map_ok(|extent| extent.offset..extent.offset + extent.len).try_collect().await
    })
}

#[derive(Debug, Clone, Copy)]
struct Comparison {
    counting: Counting,
    include_parent: bool,
}

/// Compares what the OSDs keep of each object that has some of `wanted`, which is in bytes of the image.
fn by_objects<S: ObjectStore>(
    core: Arc<Core<S>>,
    span: Span,
    wanted: RangeSet<u64>,
    how: Comparison,
) -> BoxFuture<'static, Result<RangeMap<u64, Kind>, ImageError>> {
    Box::pin(async move {
        let mut objects: BTreeMap<u64, RangeSet<u64>> = BTreeMap::new();
        for range in wanted.iter() {
            for extent in core.layout.extents(range.start, range.end - range.start) {
                let parts = objects.entry(extent.object).or_default();
                parts.insert(extent.offset..extent.offset + extent.len);
            }
        }
        let at_once = core.management_ops();
        let mut compared = stream::iter(objects)
            .map(|(object, parts)| by_object(core.clone(), span, object, parts, how))
            .buffer_unordered(at_once);
        let mut kinds = RangeMap::new();
        while let Some(found) = compared.try_next().await? {
            kinds.extend(found);
        }
        Ok(kinds)
    })
}

async fn by_object<S: ObjectStore>(
    core: Arc<Core<S>>,
    span: Span,
    object: u64,
    wanted: RangeSet<u64>,
    how: Comparison,
) -> Result<RangeMap<u64, Kind>, ImageError> {
    let name = names::data_object(&core.object_prefix, object);
    let reply = core.data.read(&name, Operation::new().list_snaps(), SnapId::DIR).await;
    let found = match reply.and_then(|reply| Ok(reply.outcome(0)?.snap_set()?)) {
        Ok(set) => snap_set::changes(&set, span, &wanted, core.layout.object_size(), how.counting),
        Err(error) if error.refusal() == Some(Errno::ENOENT) => RangeMap::new(),
        Err(error) => return Err(core.failed(name, error)),
    };
    if found.is_empty() && span.from.0 == 0 && how.include_parent {
        return from_parent(&core, object, &wanted, how).await;
    }
    let mut kinds = RangeMap::new();
    for (range, kind) in found {
        for (offset, len) in core.layout.image_extents(part(object, &range)) {
            kinds.insert(offset..offset + len, kind);
        }
    }
    Ok(kinds)
}

fn part(object: u64, range: &Range<u64>) -> Extent {
    Extent { object, offset: range.start, len: range.end - range.start }
}

/// What the parent has for an object that the image does not have.
async fn from_parent<S: ObjectStore>(
    core: &Core<S>,
    object: u64,
    wanted: &RangeSet<u64>,
    how: Comparison,
) -> Result<RangeMap<u64, Kind>, ImageError> {
    let Some(parent) = core.parent() else { return Ok(RangeMap::new()) };
    let mut inherited = RangeSet::new();
    for range in wanted.iter() {
        for (offset, len) in core.layout.image_extents(part(object, range)) {
            snap_set::insert(&mut inherited, offset..(offset + len).min(parent.overlap));
        }
    }
    let span = Span { from: SnapId(0), to: parent.core.snap };
    let counting = Counting { zeroes: false, ..how.counting };
    by_objects(parent.core.clone(), span, inherited, Comparison { counting, ..how }).await
}
