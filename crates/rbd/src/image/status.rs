//! Which parts of an image are holes.

use std::collections::BTreeMap;

use ceph_codec::SnapId;
use futures::StreamExt;
use rados::{Errno, Operation};

use super::core::Core;
use super::open::load_map;
use super::write::OBJECTS_AT_ONCE;
use crate::object_map::ObjectState;
use crate::{ImageError, ObjectStore, names};

/// Without an object map each object has to be asked for, so no more than these at a time.
const MAX_STATS: u64 = 256;

/// A run of bytes of an image with the same status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Bytes.
    pub len: u64,
    /// Whether it reads as zeroes and takes no space.
    pub hole: bool,
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
        // This client's own map, which is the truth as long as it holds the lock.
        if self.snapshot_map.get().is_some() || self.map().is_some_and(|map| !map.is_invalid()) {
            return Ok(self.by_map(offset, len, max, |object| self.is_known_to_be_missing(object)));
        }
        // Somebody else may be writing: what was loaded earlier may be outdated, what is stored is not.
        if self.snap == SnapId::HEAD
            && let Some(map) = load_map(self, SnapId::HEAD).await
        {
            let missing = |object| map.get(object) == Some(ObjectState::Nonexistent);
            return Ok(self.by_map(offset, len, max, missing));
        }
        self.by_stat(offset, len, max).await
    }

    fn by_map(&self, offset: u64, len: u64, max: usize, missing: impl Fn(u64) -> bool) -> Vec<Extent> {
        let mut extents = Extents::new(max);
        for part in self.layout.extents(offset, len) {
            if !extents.push(part.len, missing(part.object)) {
                break;
            }
        }
        extents.found
    }

    async fn by_stat(&self, offset: u64, len: u64, max: usize) -> Result<Vec<Extent>, ImageError> {
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
        let mut extents = Extents::new(max);
        for part in self.layout.extents(offset, len) {
            let size = sizes.get(&part.object).copied().unwrap_or(u64::MAX);
            let data = size.saturating_sub(part.offset).min(part.len);
            if !extents.push(data, false) || !extents.push(part.len - data, true) {
                break;
            }
        }
        Ok(extents.found)
    }

    /// Number and size of an object; 0 if there is none.
    async fn stored_size(&self, object: u64) -> Result<(u64, u64), ImageError> {
        let name = names::data_object(&self.object_prefix, object);
        let reply = self.data.read(&name, Operation::new().stat(), self.snap).await;
        match reply.and_then(|reply| Ok(reply.outcome(0)?.stat()?.size)) {
            Ok(size) => Ok((object, size)),
            Err(error) if error.refusal() == Some(Errno::ENOENT) => Ok((object, 0)),
            Err(error) => Err(self.failed(name, error)),
        }
    }
}

/// At most so many extents, neighbours with the same status as one.
struct Extents {
    found: Vec<Extent>,
    max: usize,
}

impl Extents {
    fn new(max: usize) -> Self {
        Self { found: Vec::new(), max: max.max(1) }
    }

    /// Appends; `false` if there is no room.
    fn push(&mut self, len: u64, hole: bool) -> bool {
        if len == 0 {
            return true;
        }
        let full = self.found.len() == self.max;
        match self.found.last_mut() {
            Some(last) if last.hole == hole => last.len += len,
            _ if full => return false,
            _ => self.found.push(Extent { len, hole }),
        }
        true
    }
}
