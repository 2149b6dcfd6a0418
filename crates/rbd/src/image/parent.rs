//! The snapshot that an image is a clone of.
//!
//! ```text
//! child    |##....##|####....|........|........|     # objects that exist    . objects that do not
//! parent   |ppppppppppppppppppppppp|
//!          `------- overlap -------´                 what a missing object reads as: the parent, then zeroes
//! ```
//! A parent is an image like any other, open at a snapshot for reading only, and may have a parent itself. The overlap
//! is the child's: it shrinks when the child does, and each snapshot of the child keeps the one that it was taken with.
//!
//! Ceph: `src/librbd/image/RefreshParentRequest.cc`, `read_parent` in `src/librbd/io/Utils.cc`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use rados::{Errno, OpError};
use tracing::warn;

use super::core::Core;
use super::data::{ReadData, Segment};
use super::open::{self, Access};
use super::{ImageRef, SnapshotRef};
use crate::cls::ParentSpec;
use crate::header::Header;
use crate::layout::Extent;
use crate::lock::LockOptions;
use crate::{ImageError, ObjectStore, OpenError};

/// The longest chain of parents. It takes a watch and some memory for each, and each makes a read of what is in none of
/// them take longer.
pub(super) const MAX_CHAIN: usize = 64;

/// Stripe units of one object that are read from the parent at the same time.
const UNITS_AT_ONCE: usize = 16;

/// How often to look whether a parent that is gone is needed any more, and in which intervals: 30 seconds.
const PATIENCE: u32 = 300;
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// After which round the log says so: 5 seconds.
const MENTION_ROUND: u32 = 50;

/// The snapshot that what is open is a clone of.
pub(crate) struct Parent<S: ObjectStore> {
    /// Open at the snapshot.
    pub(crate) core: Arc<Core<S>>,
    /// Bytes of what is open that may come from the parent, which has at least as many; not 0.
    pub(crate) overlap: u64,
}

/// Where a missing object has its contents from, as seen at some time.
pub(super) struct Origin<S: ObjectStore> {
    pub(super) parent: Arc<Core<S>>,
    /// Bytes at the beginning of the object that come from the parent; not 0.
    pub(super) len: u64,
    /// Updates of the child's header that were announced by then.
    announced: u64,
}

impl<S: ObjectStore> Core<S> {
    /// The parent, as last seen.
    pub(crate) fn parent(&self) -> Option<Parent<S>> {
        let (core, overlap) = {
            let view = self.view();
            (view.parent.clone()?, view.header.parent_overlap_at(self.snap))
        };
        // Without a size the snapshot is gone, and reading it will fail, which is better than zeroes.
        let overlap = overlap.min(core.size().unwrap_or(u64::MAX));
        (overlap > 0).then_some(Parent { core, overlap })
    }

    /// Where an object has its contents from if it does not exist; none if it would be empty.
    pub(super) fn origin(&self, object: u64) -> Option<Origin<S>> {
        // Looked at before the rest: what is announced later may be missed by it.
        let announced = self.announced();
        let Parent { core, overlap } = self.parent()?;
        let len = self.layout.len_within(object, overlap);
        (len > 0).then_some(Origin { parent: core, len, announced })
    }

    /// Whether an object has anything from the parent if it does not exist.
    pub(super) fn inherits(&self, object: u64) -> bool {
        self.view().parent.is_some() && self.origin(object).is_some()
    }

    /// Reads a part of an object that was found missing after `origin` was looked up.
    pub(super) fn read_missing(
        &self,
        extent: Extent,
        origin: Origin<S>,
    ) -> BoxFuture<'_, Result<ReadData, ImageError>> {
        Box::pin(async move {
            match self.read_origin(extent, &origin).await? {
                Some(data) => Ok(data),
                None => self.read_object(extent).await,
            }
        })
    }

    /// Reads what an object has that is missing. None if that is not so any more: the parent may have gone, after all
    /// that came from it was given to the image itself.
    pub(super) async fn read_origin(
        &self,
        extent: Extent,
        origin: &Origin<S>,
    ) -> Result<Option<ReadData>, ImageError> {
        let data = self.read_parent(extent, origin).await;
        let gone = data.as_ref().is_err_and(|error| error.errno() == Errno::ENOENT);
        if !gone && self.announced() == origin.announced {
            return data.map(Some);
        }
        for round in 0..PATIENCE {
            // Those who may not watch the header learn of it in this way only.
            if gone && round % 10 == 0 {
                self.outdate();
            }
            self.ensure_fresh().await?;
            let now = self.origin(extent.object);
            if !now.is_some_and(|now| now.is_same(origin)) {
                return Ok(None);
            }
            if !gone {
                break;
            }
            if round == MENTION_ROUND {
                warn!(
                    image = self.display_name(),
                    parent = origin.parent.display_name(),
                    "the parent is gone, but the image is still its clone; waiting until that is known to be so for good"
                );
            }
            // librbd removes the parent's snapshot some time before a flattened clone is said to be one no more.
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        data.map(Some)
    }

    /// Reads what a missing object has of the parent, and zeroes after it.
    async fn read_parent(&self, extent: Extent, origin: &Origin<S>) -> Result<ReadData, ImageError> {
        let shared = origin.len.saturating_sub(extent.offset).min(extent.len);
        let mut data = if shared == 0 {
            ReadData::default()
        } else if self.layout.stripe_count() == 1 {
            origin.parent.read(self.layout.image_offset(extent.object, extent.offset), shared).await?
        } else {
            let parts = self.layout.image_extents(Extent { len: shared, ..extent });
            let mut reads = futures::stream::iter(parts.map(|(at, len)| origin.parent.read(at, len)))
                .buffered(UNITS_AT_ONCE);
            let mut data = ReadData::default();
            while let Some(part) = reads.next().await {
                part?.into_iter().for_each(|segment| data.push(segment));
            }
            data
        };
        data.push(Segment::Hole(extent.len - shared));
        Ok(data)
    }

    /// The parent that goes with a header: the one that is open, if that is still right.
    pub(super) async fn parent_of(&self, header: &Header) -> Result<Option<Arc<Self>>, OpenError> {
        if self.without_parent {
            return Ok(None);
        }
        let Some(spec) = header.parent.as_ref().filter(|_| header.parent_overlap_at(self.snap) > 0) else {
            return Ok(None);
        };
        let open = self.view().parent.clone();
        match open.filter(|parent| parent.is(spec)) {
            Some(open) => Ok(Some(open)),
            // In a task of its own, or a long chain would need a large stack.
            None => match tokio::spawn(open_parent(self, spec.clone())).await {
                Ok(parent) => parent.map(Some),
                Err(_) => Err(OpenError::Op {
                    image: self.display_name().to_owned(),
                    action: "open the parent",
                    source: OpError::Shutdown,
                }),
            },
        }
    }

    fn is(&self, spec: &ParentSpec) -> bool {
        (self.store.pool(), self.store.namespace(), self.id.as_str(), self.snap)
            == (spec.pool, &spec.namespace, &spec.image_id, spec.snap)
    }
}

impl<S: ObjectStore> Origin<S> {
    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.parent, &other.parent) && self.len == other.len
    }
}

fn open_parent<S: ObjectStore>(
    child: &Core<S>,
    spec: ParentSpec,
) -> BoxFuture<'static, Result<Arc<Core<S>>, OpenError>> {
    let store = child.store.clone();
    let image = child.display_name().to_owned();
    let mut chain = child.chain.clone();
    let config = child.config();
    Box::pin(async move {
        let mut shown = Shown {
            pool: spec.pool.to_string(),
            image: spec.image_id.clone(),
            snapshot: spec.snap.to_string(),
        };
        let result = async {
            if chain.contains(&spec) {
                return Err(OpenError::ParentCycle);
            }
            if chain.len() >= MAX_CHAIN {
                return Err(OpenError::TooManyParents { max: MAX_CHAIN });
            }
            chain.push(spec.clone());
            let store = store
                .with_pool(spec.pool, &spec.namespace)
                .map_err(|_| OpenError::NoPool { pool: spec.pool })?;
            shown.pool = store.pool_name();
            let found = open::find(&store, &ImageRef::Id(spec.image_id.clone()), true).await?;
            shown.image = found.name.clone().unwrap_or_else(|| spec.image_id.clone());
            let snapshot = SnapshotRef::Id(spec.snap);
            let snap = open::find_snapshot(&shown.image, &found.header, Some(&snapshot))?;
            if let Some(snapshot) = found.header.snapshot(snap) {
                shown.snapshot.clone_from(&snapshot.name);
            }
            let access = Access {
                read_only: true,
                without_parent: false,
                chain,
                lock: LockOptions::default(),
                config,
                pool_config: BTreeMap::new(),
            };
            open::open_found(store, found, snap, access).await
        };
        result.await.map_err(|source| OpenError::Parent {
            image,
            parent: shown.spec(&spec),
            pool: shown.pool,
            namespace: spec.namespace,
            source: Box::new(source),
        })
    })
}

/// What is known of a parent's name: at least numbers.
struct Shown {
    pool: String,
    image: String,
    snapshot: String,
}

impl Shown {
    fn spec(&self, spec: &ParentSpec) -> String {
        let Self { pool, image, snapshot } = self;
        let namespace = if spec.namespace.is_empty() { "" } else { "/" };
        format!("{pool}/{}{namespace}{image}@{snapshot}", spec.namespace)
    }
}

/// What a user needs to read a parent.
pub(crate) fn parent_cap(pool: &str, namespace: &str) -> String {
    let namespace = if namespace.is_empty() { String::new() } else { format!(" namespace={namespace}") };
    format!("osd 'profile rbd-read-only pool={pool}{namespace}'")
}
