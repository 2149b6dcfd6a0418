//! The trash of a pool and namespace: images without a name, which can be had back until they are removed.
//!
//! ```text
//!            move_to_trash                  remove_from_trash
//! directory ---------------> rbd_trash ---------------------> nothing
//!            <--------------
//!            restore_from_trash
//! ```
//! Each way is marked in the entry of the trash before its first step, and can be gone on with after a crash.
//!
//! Ceph: `src/librbd/api/Trash.cc`, `src/librbd/trash/`.

use ceph_codec::Utime;
use rados::{Errno, OpError};

use crate::cls;
use crate::cls::trash::TrashRecord;
use crate::names::TRASH;
use crate::operations::failed;
use crate::{ObjectStore, OperationError, directory};

/// Entries to ask for at once.
const PAGE: u64 = 1024;

/// An image in the trash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrashEntry {
    /// Its id; it has no name any more.
    pub id: String,
    /// The name it had.
    pub name: String,
    /// Who moved it there.
    pub source: TrashSource,
    /// When it was moved there.
    pub deletion_time: Utime,
    /// Until when it is protected from removal.
    pub deferment_end: Utime,
    /// What is happening to it.
    pub state: TrashState,
}

/// Who moved an image to the trash. Ceph: `cls::rbd::TrashImageSource` in `src/cls/rbd/cls_rbd_types.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TrashSource {
    /// A user.
    User,
    /// Mirroring, because the image was removed in the other cluster.
    Mirroring,
    /// A migration, of which this is the old image.
    Migration,
    /// It is being removed, or was to be.
    Removing,
    /// It was removed while it had clones, and goes with the last of them.
    UserParent,
    /// Something that is not known here.
    Other(u8),
}

/// What is happening to an image in the trash. Ceph: `cls::rbd::TrashImageState`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TrashState {
    /// Nothing.
    Normal,
    /// It is on its way into the trash.
    Moving,
    /// It is being removed.
    Removing,
    /// It is on its way back.
    Restoring,
    /// Something that is not known here.
    Other(u8),
}

impl TrashSource {
    const KNOWN: [Self; 5] = [Self::User, Self::Mirroring, Self::Migration, Self::Removing, Self::UserParent];

    fn from_wire(number: u8) -> Self {
        Self::KNOWN.get(usize::from(number)).copied().unwrap_or(Self::Other(number))
    }

    #[allow(dead_code, reason = "removal to come")]
    pub(crate) fn to_wire(self) -> u8 {
        match self {
            Self::User => 0,
            Self::Mirroring => 1,
            Self::Migration => 2,
            Self::Removing => 3,
            Self::UserParent => 4,
            Self::Other(number) => number,
        }
    }

    /// The word that `rbd trash ls --long` prints; empty if the source is not known.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "USER",
            Self::Mirroring => "MIRRORING",
            Self::Migration => "MIGRATION",
            Self::Removing => "REMOVING",
            Self::UserParent => "USER_PARENT",
            Self::Other(_) => "",
        }
    }
}

impl TrashState {
    const KNOWN: [Self; 4] = [Self::Normal, Self::Moving, Self::Removing, Self::Restoring];

    fn from_wire(number: u8) -> Self {
        Self::KNOWN.get(usize::from(number)).copied().unwrap_or(Self::Other(number))
    }
}

impl TrashEntry {
    pub(crate) fn new(id: String, record: TrashRecord) -> Self {
        Self {
            id,
            name: record.name,
            source: TrashSource::from_wire(record.source),
            deletion_time: record.deletion_time,
            deferment_end: record.deferment_end,
            state: TrashState::from_wire(record.state),
        }
    }
}

/// Lists the images in the trash of a pool and namespace, by id: all of them, also those that are being removed.
///
/// # Errors
/// [`OperationError::Op`].
pub async fn list_trash<S: ObjectStore>(store: &S) -> Result<Vec<TrashEntry>, OperationError> {
    list(store).await.map_err(failed("list the trash"))
}

async fn list<S: ObjectStore>(store: &S) -> Result<Vec<TrashEntry>, OpError> {
    let mut entries: Vec<TrashEntry> = Vec::new();
    loop {
        let after = entries.last().map_or("", |entry| &entry.id);
        let page = match directory::call(store, TRASH, cls::trash::trash_list(after, PAGE)).await {
            Err(error) if error.is(Errno::ENOENT) => return Ok(entries),
            page => page?,
        };
        let last = (page.len() as u64) < PAGE;
        let known = entries.len();
        entries.extend(page.into_iter().map(|(id, record)| TrashEntry::new(id, record)));
        // A page of nothing new would go on for ever.
        if last || entries.len() == known {
            return Ok(entries);
        }
    }
}

/// The entry of one image; none if it is not in the trash.
#[allow(dead_code, reason = "removal to come")]
pub(crate) async fn entry<S: ObjectStore>(store: &S, id: &str) -> Result<Option<TrashEntry>, OpError> {
    match directory::call(store, TRASH, cls::trash::trash_get(id)).await {
        Err(error) if error.is(Errno::ENOENT) => Ok(None),
        record => Ok(Some(TrashEntry::new(id.to_owned(), record?))),
    }
}
