//! Placements of the current map, computed once per placement group.

use std::collections::HashMap;

use ceph_codec::{OsdId, PgId, ShardId};
use ceph_osdmap::OsdMap;

/// What the objecter needs to know about a placement group.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Primary {
    pub(crate) primary: Option<OsdId>,
    pub(crate) primary_position: Option<usize>,
    pub(crate) acting_is_empty: bool,
    pub(crate) shard: ShardId,
}

/// Belongs to one epoch; [`clear`](Self::clear) it in the step that changes the map.
#[derive(Debug, Default)]
pub(crate) struct Placements {
    known: HashMap<PgId, Primary>,
}

impl Placements {
    pub(crate) fn clear(&mut self) {
        self.known.clear();
    }

    pub(crate) fn get(&mut self, map: &OsdMap, pg: PgId) -> Primary {
        *self.known.entry(pg).or_insert_with(|| {
            let placement = map.placement(pg);
            let primary = placement.acting_primary;
            Primary {
                primary,
                primary_position: placement.acting.iter().position(|osd| Some(*osd) == primary),
                acting_is_empty: placement.acting.is_empty(),
                shard: placement.primary_shard(),
            }
        })
    }
}
