//! Which parts of an image are holes.

use std::collections::BTreeMap;

use ceph_codec::SnapId;
use futures::StreamExt;
use futures::future::BoxFuture;
use rados::{Errno, Operation};

use super::core::Core;
use super::open::load_map;
use super::parent::Parent;
use super::write::OBJECTS_AT_ONCE;
use crate::object_map::ObjectState;
use crate::{ImageError, ObjectStore, names};

/// Without an object map each object has to be asked for, so no more than these at a time.
const MAX_STATS: u64 = 256;

/// How many runs of missing objects the parent is asked about for one request, each of which may take so many stats.
const MAX_QUESTIONS: usize = 64;

/// A run of bytes of an image with the same status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Bytes.
    pub len: u64,
    /// Whether it reads as zeroes and takes no space.
    pub hole: bool,
}

/// What an object map, or an object itself, says about a part of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Data,
    Hole,
    /// Whatever the parent has.
    Parent,
}

impl<S: ObjectStore> Core<S> {
    pub(super) async fn block_status(
        &self,
        offset: u64,
        len: u64,
        max: usize,
    ) -> Result<Vec<Extent>, ImageError> {
        self.ensure_fresh().await?;
        self.check_range(offset, len)?;
        let announced = self.announced();
        let parent = self.parent();
        let missing = if parent.is_some() { Status::Parent } else { Status::Hole };
        let runs = self.own_status(offset, len, max, missing).await?;
        let runs = self.with_parents_status(offset, runs, max, parent, announced).await;
        Ok(runs.into_iter().map(|(len, status)| Extent { len, hole: status == Status::Hole }).collect())
    }

    /// What this image's own objects say; `missing` are those that do not exist.
    async fn own_status(
        &self,
        offset: u64,
        len: u64,
        max: usize,
        missing: Status,
    ) -> Result<Vec<(u64, Status)>, ImageError> {
        // This client's own map, which is the truth as long as it holds the lock.
        if self.view().snapshot_map.is_some() || self.map().is_some_and(|map| !map.is_invalid()) {
            return Ok(self.by_map(offset, len, max, missing, |object| self.is_known_to_be_missing(object)));
        }
        // Somebody else may be writing: what was loaded earlier may be outdated, what is stored is not.
        if self.snap == SnapId::HEAD
            && let Some(map) = load_map(self, &self.header(), SnapId::HEAD).await
        {
            let is_missing = |object| map.get(object) == Some(ObjectState::Nonexistent);
            return Ok(self.by_map(offset, len, max, missing, is_missing));
        }
        self.by_stat(offset, len, max, missing).await
    }

    fn by_map(
        &self,
        offset: u64,
        len: u64,
        max: usize,
        missing: Status,
        is_missing: impl Fn(u64) -> bool,
    ) -> Vec<(u64, Status)> {
        let mut runs = Runs::new(max);
        for part in self.layout.extents(offset, len) {
            if !runs.push(part.len, if is_missing(part.object) { missing } else { Status::Data }) {
                break;
            }
        }
        runs.found
    }

    async fn by_stat(
        &self,
        offset: u64,
        len: u64,
        max: usize,
        missing: Status,
    ) -> Result<Vec<(u64, Status)>, ImageError> {
        let set_size = self.layout.object_size().saturating_mul(self.layout.stripe_count());
        let sets = (MAX_STATS / self.layout.stripe_count()).max(1);
        let end = (offset - offset % set_size).saturating_add(set_size.saturating_mul(sets));
        let len = len.min(end - offset);
        let objects = self.layout.object_extents(offset, len).into_iter().map(|o| o.extent.object);
        let mut stats = futures::stream::iter(objects.map(|object| self.stored_size(object)))
            .buffer_unordered(OBJECTS_AT_ONCE);
        let mut sizes = BTreeMap::new();
        while let Some(stat) = stats.next().await {
            let (object, size) = stat?;
            sizes.insert(object, size);
        }
        let mut runs = Runs::new(max);
        for part in self.layout.extents(offset, len) {
            let there = match sizes.get(&part.object) {
                Some(None) => {
                    if runs.push(part.len, missing) {
                        continue;
                    }
                    break;
                }
                Some(Some(size)) => size.saturating_sub(part.offset).min(part.len),
                None => part.len,
            };
            if !runs.push(there, Status::Data) || !runs.push(part.len - there, Status::Hole) {
                break;
            }
        }
        Ok(runs.found)
    }

    /// Number and size of an object; no size if there is none.
    pub(super) async fn stored_size(&self, object: u64) -> Result<(u64, Option<u64>), ImageError> {
        let name = names::data_object(&self.object_prefix, object);
        let reply = self.data.read(&name, Operation::new().stat(), self.snap).await;
        match reply.and_then(|reply| Ok(reply.outcome(0)?.stat()?.size)) {
            Ok(size) => Ok((object, Some(size))),
            Err(error) if error.refusal() == Some(Errno::ENOENT) => Ok((object, None)),
            Err(error) => Err(self.failed(name, error)),
        }
    }

    /// Asks the parent where it matters. What it does not tell counts as data: reading will find out.
    async fn with_parents_status(
        &self,
        offset: u64,
        own: Vec<(u64, Status)>,
        max: usize,
        parent: Option<Parent<S>>,
        announced: u64,
    ) -> Vec<(u64, Status)> {
        let Some(Parent { core: parent, overlap }) = parent else { return own };
        let (mut at, mut runs, mut asked) = (offset, Runs::new(max), 0);
        for (len, status) in own {
            let from_parent = if status == Status::Parent { overlap.saturating_sub(at).min(len) } else { 0 };
            if from_parent > 0 {
                asked += 1;
                if asked > MAX_QUESTIONS {
                    break;
                }
                let told = parent.boxed_status(at, from_parent, max).await.unwrap_or_default();
                // The parent may have gone since, after its data were given to the image itself.
                let told = if self.announced() == announced { told } else { Vec::new() };
                let covered: u64 = told.iter().map(|extent| extent.len).sum();
                let mut all = told.into_iter().all(|extent| {
                    runs.push(extent.len, if extent.hole { Status::Hole } else { Status::Data })
                });
                if covered == 0 {
                    all = runs.push(from_parent, Status::Data);
                }
                if !all || (covered > 0 && covered < from_parent) {
                    break;
                }
            }
            let rest = if status == Status::Parent { Status::Hole } else { status };
            if !runs.push(len - from_parent, rest) {
                break;
            }
            at += len;
        }
        runs.found
    }

    fn boxed_status(
        &self,
        offset: u64,
        len: u64,
        max: usize,
    ) -> BoxFuture<'_, Result<Vec<Extent>, ImageError>> {
        Box::pin(self.block_status(offset, len, max))
    }
}

/// At most so many runs, neighbours with the same status as one.
struct Runs {
    found: Vec<(u64, Status)>,
    max: usize,
}

impl Runs {
    fn new(max: usize) -> Self {
        Self { found: Vec::new(), max: max.max(1) }
    }

    /// Appends; `false` if there is no room.
    fn push(&mut self, len: u64, status: Status) -> bool {
        if len == 0 {
            return true;
        }
        let full = self.found.len() == self.max;
        match self.found.last_mut() {
            Some(last) if last.1 == status => last.0 += len,
            _ if full => return false,
            _ => self.found.push((len, status)),
        }
        true
    }
}
