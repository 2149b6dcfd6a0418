//! What the OSDMap knows without asking anybody.

use ceph_codec::{OsdId, PoolId};

use super::Client;

/// How many OSDs there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OsdCounts {
    /// Members of the cluster.
    pub total: usize,
    /// Those that run.
    pub up: usize,
    /// Those that data is placed on.
    pub r#in: usize,
}

impl Client {
    /// Numbers and names of all pools.
    #[must_use]
    pub fn pools(&self) -> Vec<(PoolId, String)> {
        self.with_map(|map| map.pools().map(|pool| (pool.id, pool.name.clone())).collect())
    }

    /// The number of a pool, `None` if there is none of that name in the map here.
    #[must_use]
    pub fn pool_id(&self, name: &str) -> Option<PoolId> {
        self.with_map(|map| map.pool_by_name(name))
    }

    /// The name of a pool, `None` if there is none of that number in the map here.
    #[must_use]
    pub fn pool_name(&self, id: PoolId) -> Option<String> {
        self.with_map(|map| map.pool(id).map(|pool| pool.name.clone()))
    }

    /// How many OSDs there are, and in what state. What `ceph osd stat` shows.
    #[must_use]
    pub fn osd_counts(&self) -> OsdCounts {
        self.with_map(|map| {
            let ids = (0..map.max_osd()).filter_map(|id| i32::try_from(id).ok()).map(OsdId);
            let mut counts = OsdCounts::default();
            for osd in ids.filter(|osd| map.exists(*osd)) {
                counts.total += 1;
                counts.up += usize::from(map.is_up(osd));
                counts.r#in += usize::from(map.osd_weight(osd).is_some_and(|weight| weight > 0));
            }
            counts
        })
    }
}
