//! What changed between two snapshots, by the object maps of both and of all snapshots between them: whole objects.
//!
//! Ceph: `src/librbd/object_map/DiffRequest.cc`, as used by `DiffIterate`.

use ceph_codec::{Decode, SnapId};
use rados::{Errno, OpError, Operation};
use tracing::debug;

use super::Span;
use crate::cls;
use crate::image::core::Core;
use crate::object_map::{self, ObjectState, States};
use crate::{Features, Flags, ObjectStore, directory};

/// What happened to an object. Ceph: `DIFF_STATE_*` in `src/librbd/object_map/Types.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// There is none, and was none.
    None,
    /// It is there, unchanged.
    Unchanged,
    /// It was there, and is gone.
    Removed,
    /// It was written.
    Written,
}

/// What happened to each object.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes(Vec<Change>);

/// Where a map stands in the span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    /// It is that of the snapshot where the span starts.
    Start,
    Between,
    End,
}

impl Changes {
    /// What happened to objects `0..objects`; none if the object maps do not tell.
    pub(super) async fn load<S: ObjectStore>(core: &Core<S>, span: Span, objects: u64) -> Option<Self> {
        if !core.has(Features::FAST_DIFF) {
            return None;
        }
        let header = core.header();
        let mut changes = Self::default();
        // Since the beginning of time only the end matters.
        let between = header.snapshots.iter().rev().map(|snapshot| snapshot.id);
        let between = between.filter(|id| span.from.0 > 0 && *id >= span.from && *id < span.to);
        for snap in between.chain([span.to]) {
            let position = match snap {
                snap if snap == span.to => Position::End,
                snap if snap == span.from => Position::Start,
                _ => Position::Between,
            };
            let size = header.size_at(snap)?;
            match load_map(core, snap).await {
                Ok(Some(map)) => changes.advance(&map, core.layout.object_count(size), objects, position)?,
                // The changes of a snapshot that was removed meanwhile went to the next one.
                Err(error) if error.is(Errno::ENOENT) && position == Position::Between => {}
                Ok(None) => return None,
                Err(error) => {
                    debug!(image = core.display_name(), %snap, %error, "no object map, comparing objects");
                    return None;
                }
            }
        }
        Some(changes)
    }

    /// What happened to an object.
    pub(super) fn get(&self, object: u64) -> Change {
        usize::try_from(object).ok().and_then(|object| self.0.get(object).copied()).unwrap_or(Change::None)
    }

    /// Goes on to the next map, of a snapshot that has `existing` objects. None if the map is too small for it.
    fn advance(&mut self, map: &States, existing: u64, wanted: u64, position: Position) -> Option<()> {
        if map.len() < existing {
            return None;
        }
        let known = self.0.len();
        self.0.resize(usize::try_from(existing.min(wanted)).ok()?, Change::None);
        for (object, change) in self.0.iter_mut().enumerate() {
            let state = map.get(object as u64)?;
            let exists = state != ObjectState::Nonexistent;
            *change = if object < known {
                change.advance(state, position)
            } else if !exists {
                Change::None
            } else if position == Position::Start {
                // What is being removed will be missing, or not.
                if state == ObjectState::Pending { Change::Written } else { Change::Unchanged }
            } else if position == Position::End {
                Change::Written
            } else {
                Change::None
            };
        }
        Some(())
    }
}

impl Change {
    fn advance(self, state: ObjectState, position: Position) -> Self {
        match (self, state) {
            // What came and went again in between was never there.
            (Self::None, ObjectState::Nonexistent) => Self::None,
            (Self::None, _) if position == Position::End => Self::Written,
            (Self::None, _) => Self::None,
            (_, ObjectState::Nonexistent) => Self::Removed,
            (Self::Unchanged, ObjectState::ExistsClean) => Self::Unchanged,
            _ => Self::Written,
        }
    }
}

/// None if it is marked as invalid. The mark has to be read after the map: it is set before an object is created that
/// the map does not know of.
async fn load_map<S: ObjectStore>(core: &Core<S>, snap: SnapId) -> Result<Option<States>, OpError> {
    let object = object_map::object_name(&core.id, snap);
    let operation = Operation::new().call("rbd", "object_map_load", bytes::Bytes::new());
    let reply = core.store.read(&object, operation, SnapId::HEAD).await?;
    let map = States::decode_from(&reply.data(0))?;
    let flags = directory::call(&core.store, &core.header_object, cls::get_flags(snap)).await?;
    Ok((!flags.contains(Flags::FAST_DIFF_INVALID)).then_some(map))
}

#[cfg(test)]
mod tests {
    use super::*;
    use Change::{None as Nothing, Removed, Unchanged, Written};
    use ObjectState::{Exists, ExistsClean, Nonexistent, Pending};

    fn states(states: &[ObjectState]) -> States {
        let mut map = States::new(states.len() as u64, Nonexistent);
        for (object, state) in (0..).zip(states) {
            map.change(object..object + 1, *state, None);
        }
        map
    }

    /// What happened to one object, by its states in the maps from the start (if there is one) to the end.
    fn happened(start: Option<ObjectState>, later: &[ObjectState]) -> Change {
        let mut changes = Changes::default();
        if let Some(start) = start {
            changes.advance(&states(&[start]), 1, 1, Position::Start).unwrap();
        }
        for (at, state) in later.iter().enumerate() {
            let position = if at + 1 == later.len() { Position::End } else { Position::Between };
            changes.advance(&states(&[*state]), 1, 1, position).unwrap();
        }
        changes.get(0)
    }

    #[test]
    fn since_the_beginning_of_time_all_that_exists_was_written() {
        for (state, change) in
            [(Nonexistent, Nothing), (Exists, Written), (ExistsClean, Written), (Pending, Written)]
        {
            assert_eq!(happened(None, &[state]), change);
        }
    }

    #[test]
    fn an_object_that_is_clean_ever_since_has_not_changed() {
        assert_eq!(happened(Some(Exists), &[ExistsClean, ExistsClean]), Unchanged);
        assert_eq!(happened(Some(Exists), &[Exists, ExistsClean]), Written);
        assert_eq!(happened(Some(Pending), &[ExistsClean]), Written);
    }

    #[test]
    fn an_object_that_came_and_went_was_never_there() {
        assert_eq!(happened(Some(Nonexistent), &[Exists, Nonexistent]), Nothing);
        assert_eq!(happened(Some(Nonexistent), &[Exists, ExistsClean]), Written);
        assert_eq!(happened(Some(Exists), &[Nonexistent]), Removed);
        assert_eq!(happened(Some(Exists), &[Nonexistent, Exists]), Written);
    }

    #[test]
    fn objects_past_the_end_of_a_smaller_snapshot_are_new() {
        let mut changes = Changes::default();
        changes.advance(&states(&[Exists]), 1, 9, Position::Start).unwrap();
        changes.advance(&states(&[ExistsClean, ExistsClean, Nonexistent]), 3, 9, Position::End).unwrap();
        assert_eq!(changes.0, [Unchanged, Written, Nothing]);
        assert_eq!(changes.advance(&states(&[]), 1, 9, Position::End), None, "a map that is too small");
    }
}
