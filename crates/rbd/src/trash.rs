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

use std::time::Duration;

use ceph_codec::{Encode, Utime, versioned};
use rados::{Errno, OpError, Operation};
use thiserror::Error;
use tracing::{debug, warn};

use crate::cls;
use crate::cls::trash::{STATE_MOVING, STATE_NORMAL, STATE_REMOVING, STATE_RESTORING, TrashRecord};
use crate::directory::{self, change};
use crate::header::{self, Header};
use crate::names::{self, DIRECTORY, TRASH};
use crate::operations::failed;
use crate::remove::{self, Removal};
use crate::{ObjectStore, OpenError, OperationError, Progress};

/// Entries to ask for at once.
const PAGE: u64 = 1024;

/// How long to wait for those who watch the trash. Ceph: `NOTIFY_TIMEOUT_MS` in `src/librbd/TrashWatcher.cc`.
const NOTIFY_TIMEOUT: Duration = Duration::from_secs(5);

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

/// Why something cannot be done to an image in the trash.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TrashError {
    /// There is no such image in the trash.
    #[error("there is no image with id {id} in the trash")]
    Missing {
        /// Its id.
        id: String,
    },
    /// It is protected from removal for some time.
    #[error("image {id} is protected from removal for another {seconds} s")]
    Protected {
        /// Its id.
        id: String,
        /// For how long, in seconds.
        seconds: u32,
    },
    /// It is still on its way into the trash.
    #[error("image {id} is not fully moved to the trash")]
    NotThereYet {
        /// Its id.
        id: String,
        /// The name that it may have still.
        name: String,
    },
    /// It is on its way back.
    #[error("image {id} is being restored")]
    BeingRestored {
        /// Its id.
        id: String,
    },
    /// It is being removed.
    #[error("image {id} is being removed")]
    BeingRemoved {
        /// Its id.
        id: String,
    },
    /// It was not a user who moved it there.
    #[error("image {id} was moved to the trash by {}, not by a user", .by.name().to_lowercase())]
    NotByUser {
        /// Its id.
        id: String,
        /// What did.
        by: TrashSource,
    },
    /// Another image has the name.
    #[error("image {id} cannot be restored as {name}: there is another image of that name")]
    NameTaken {
        /// Its id.
        id: String,
        /// The name.
        name: String,
    },
}

impl TrashError {
    pub(crate) fn errno(&self) -> Errno {
        match self {
            Self::Missing { .. } => Errno::ENOENT,
            Self::Protected { .. } => Errno::EPERM,
            Self::NotThereYet { .. } => Errno(117), // EUCLEAN
            Self::BeingRestored { .. } | Self::BeingRemoved { .. } => Errno::EBUSY,
            Self::NotByUser { .. } => Errno::EINVAL,
            Self::NameTaken { .. } => Errno::EEXIST,
        }
    }

    pub(crate) fn help(&self) -> Option<String> {
        Some(match self {
            Self::Protected { id, .. } => format!("remove it all the same: rbd trash rm --force {id}"),
            Self::NotThereYet { name, .. } => format!("finish that first: rbd trash mv {name}"),
            Self::BeingRestored { id } => format!("finish that first: rbd trash restore {id}"),
            Self::BeingRemoved { id } => format!("finish that: rbd trash rm {id}"),
            Self::NameTaken { id, .. } => format!("choose another name: rbd trash restore {id} --image NAME"),
            Self::Missing { .. } | Self::NotByUser { .. } => return None,
        })
    }
}

impl TrashSource {
    const KNOWN: [Self; 5] = [Self::User, Self::Mirroring, Self::Migration, Self::Removing, Self::UserParent];

    fn from_wire(number: u8) -> Self {
        Self::KNOWN.get(usize::from(number)).copied().unwrap_or(Self::Other(number))
    }

    fn to_wire(self) -> u8 {
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

    fn to_wire(self) -> u8 {
        match self {
            Self::Normal => STATE_NORMAL,
            Self::Moving => STATE_MOVING,
            Self::Removing => STATE_REMOVING,
            Self::Restoring => STATE_RESTORING,
            Self::Other(number) => number,
        }
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

    fn record(&self) -> TrashRecord {
        TrashRecord {
            source: self.source.to_wire(),
            name: self.name.clone(),
            deletion_time: self.deletion_time,
            deferment_end: self.deferment_end,
            state: self.state.to_wire(),
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

pub(crate) async fn list<S: ObjectStore>(store: &S) -> Result<Vec<TrashEntry>, OpError> {
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

/// Moves an image to the trash, where nothing removes it for `delay`. Its clones, snapshots and data stay. Returns its
/// id.
///
/// # Errors
/// [`OpenError::NoImage`], [`OpenError::FormatV1`] in [`OperationError::Open`]; [`RemoveError::NoLock`](crate::RemoveError::NoLock) in
/// [`OperationError::Remove`] if another client does not give the image up; else what the cluster reports.
///
/// Ceph: `Trash<I>::move()`.
pub async fn move_to_trash<S: ObjectStore>(
    store: &S,
    name: &str,
    delay: Duration,
) -> Result<String, OperationError> {
    let id = match directory::call(store, DIRECTORY, cls::dir_get_id(name)).await {
        Err(error) if error.is(Errno::ENOENT) => interrupted_move(store, name).await?,
        id => id.map_err(failed("look up the image's id"))?,
    };
    move_image(store, name, &id, TrashSource::User, delay.as_secs()).await?;
    Ok(id)
}

/// The id of an image that was on its way to the trash.
async fn interrupted_move<S: ObjectStore>(store: &S, name: &str) -> Result<String, OperationError> {
    let image = name.to_owned();
    let v1 = header::exists(store, &names::v1_header_object(name)).await;
    if v1.map_err(failed("look for the image"))? {
        return Err(OpenError::FormatV1 { image }.into());
    }
    let moving = |entry: &TrashEntry| {
        entry.source == TrashSource::User && entry.state == TrashState::Moving && entry.name == name
    };
    let entry = list_trash(store).await?.into_iter().find(moving);
    entry.map(|entry| entry.id).ok_or_else(|| OpenError::NoImage { image }.into())
}

/// Moves an image to the trash. Whoever uses it has to give its lock up before.
pub(crate) async fn move_image<S: ObjectStore>(
    store: &S,
    name: &str,
    id: &str,
    source: TrashSource,
    delay: u64,
) -> Result<(), OperationError> {
    remove::refuse_mirrored(store, name, id).await?;
    let image = match Header::load(store, &names::header_object(id), true).await {
        Err(error) if error.is(Errno::ENOENT) => None,
        header => {
            let header = header.map_err(failed("read the image's header"))?;
            remove::open_alone(store, id, name, &header).await?
        }
    };
    let added = add(store, name, id, source, delay).await;
    if let Some(image) = image {
        image.close().await;
    }
    added
}

/// Adds an image to the trash and takes its name away. What was begun before is gone on with.
///
/// Ceph: `src/librbd/trash/MoveRequest.cc`.
pub(crate) async fn add<S: ObjectStore>(
    store: &S,
    name: &str,
    id: &str,
    source: TrashSource,
    delay: u64,
) -> Result<(), OperationError> {
    let deletion_time = store.now();
    // Dates are stored with 32 bits.
    let end = u64::from(deletion_time.sec).saturating_add(delay);
    let deferment_end = Utime { sec: u32::try_from(end).unwrap_or(u32::MAX), nsec: deletion_time.nsec };
    let state = TrashState::Moving.to_wire();
    let record =
        TrashRecord { source: source.to_wire(), name: name.to_owned(), deletion_time, deferment_end, state };
    match change(store, TRASH, cls::trash::trash_add(Operation::new(), id, &record)).await {
        Err(error) if error.is(Errno::EEXIST) => debug!(name, id, "the image is in the trash already"),
        result => result.map_err(failed("add the image to the trash"))?,
    }
    take_name(store, &TrashEntry::new(id.to_owned(), record)).await
}

/// Ends a move to the trash: the image loses its name.
pub(crate) async fn take_name<S: ObjectStore>(store: &S, entry: &TrashEntry) -> Result<(), OperationError> {
    let (name, id) = (&entry.name, &entry.id);
    // The name may be another image's by now.
    match directory::id_of(store, name).await {
        Ok(owner) if owner != *id => {}
        Err(error) if error.is(Errno::ENOENT) => {}
        Err(error) => return Err(failed("look up the image's id")(error)),
        Ok(_) => {
            let removed = directory::remove(store, &names::id_object(name)).await;
            removed.map_err(failed("remove the image's id"))?;
        }
    }
    match change(store, DIRECTORY, cls::directory::dir_remove_image(Operation::new(), name, id)).await {
        // It was removed before.
        Err(error) if error.is(Errno::ENOENT) => {}
        result => result.map_err(failed("remove the image from the directory"))?,
    }
    set_state(store, id, TrashState::Normal, TrashState::Moving).await?;
    announce(store, &Notice::Added(entry)).await;
    debug!(name, id, "image moved to the trash");
    Ok(())
}

/// Gives an image in the trash its name back, or a new one.
///
/// # Errors
/// [`TrashError`] in [`OperationError::Trash`] if it cannot be had back (so), else [`OperationError::Op`].
///
/// Ceph: `Trash<I>::restore()`.
pub async fn restore_from_trash<S: ObjectStore>(
    store: &S,
    id: &str,
    new_name: Option<&str>,
) -> Result<(), OperationError> {
    let sources = [TrashSource::User, TrashSource::Mirroring, TrashSource::UserParent];
    restore(store, id, new_name, &sources).await
}

/// Gives an image its name back, if it was moved to the trash by one of those.
pub(crate) async fn restore<S: ObjectStore>(
    store: &S,
    id: &str,
    new_name: Option<&str>,
    sources: &[TrashSource],
) -> Result<(), OperationError> {
    let entry = find(store, id).await?;
    if !sources.contains(&entry.source) {
        return Err(TrashError::NotByUser { id: id.to_owned(), by: entry.source }.into());
    }
    if !matches!(entry.state, TrashState::Normal | TrashState::Restoring) {
        return Err(TrashError::BeingRemoved { id: id.to_owned() }.into());
    }
    set_state(store, id, TrashState::Restoring, TrashState::Normal).await?;
    let name = new_name.unwrap_or(&entry.name);
    let named = give_name(store, id, name).await;
    if let Err(OperationError::Trash(_)) = &named {
        set_state(store, id, TrashState::Normal, TrashState::Restoring).await?;
    }
    named?;
    forget(store, id).await;
    debug!(name, id, "image restored from the trash");
    Ok(())
}

async fn give_name<S: ObjectStore>(store: &S, id: &str, name: &str) -> Result<(), OperationError> {
    let taken = || TrashError::NameTaken { id: id.to_owned(), name: name.to_owned() };
    match directory::id_of(store, name).await {
        // It was restored halfway before.
        Ok(owner) if owner == id => {}
        Ok(_) => return Err(taken().into()),
        Err(error) if error.is(Errno::ENOENT) => {
            let operation = cls::directory::set_id(Operation::new().create(true), id);
            let made = change(store, &names::id_object(name), operation).await;
            made.map_err(failed("make the image's id"))?;
        }
        Err(error) => return Err(failed("look whether there is an image of that name")(error)),
    }
    match change(store, DIRECTORY, cls::directory::dir_add_image(Operation::new(), name, id)).await {
        Err(error) if error.is(Errno::EEXIST) => Ok(()),
        result => result.map_err(failed("add the image to the directory")),
    }
}

/// Whether an image in the trash can be removed, without doing it.
///
/// # Errors
/// As [`remove_from_trash`].
pub async fn check_remove_from_trash<S: ObjectStore>(
    store: &S,
    id: &str,
    force: bool,
) -> Result<Removal, OperationError> {
    let entry = check_removable(store, id, force).await?;
    remove::check(store, &entry.name, id).await
}

/// Removes an image in the trash with all that belongs to it; `force`, although it is protected still. The progress is
/// in objects.
///
/// # Errors
/// [`TrashError`] in [`OperationError::Trash`], else as [`remove_image`](crate::remove_image).
///
/// Ceph: `Trash<I>::remove()`.
pub async fn remove_from_trash<S: ObjectStore>(
    store: &S,
    id: &str,
    force: bool,
    progress: &dyn Progress,
) -> Result<(), OperationError> {
    check_removable(store, id, force).await?;
    remove::remove_entry(store, id, id, None, progress).await
}

async fn check_removable<S: ObjectStore>(
    store: &S,
    id: &str,
    force: bool,
) -> Result<TrashEntry, OperationError> {
    let entry = find(store, id).await?;
    let now = store.now();
    if now < entry.deferment_end && !force {
        let seconds = (entry.deferment_end.sec - now.sec).max(1);
        return Err(TrashError::Protected { id: id.to_owned(), seconds }.into());
    }
    match entry.state {
        TrashState::Normal | TrashState::Removing => Ok(entry),
        TrashState::Moving => Err(TrashError::NotThereYet { id: id.to_owned(), name: entry.name }.into()),
        TrashState::Restoring | TrashState::Other(_) => {
            Err(TrashError::BeingRestored { id: id.to_owned() }.into())
        }
    }
}

/// What there is for [`purge_trash`], by id: those images that users have moved to the trash and that are protected no
/// longer. Some may be kept by clones.
///
/// # Errors
/// [`OperationError::Op`].
pub async fn check_purge_trash<S: ObjectStore>(
    store: &S,
    expired_before: Option<Utime>,
) -> Result<Vec<TrashEntry>, OperationError> {
    let date = expired_before.unwrap_or_else(|| store.now());
    let mut entries = list_trash(store).await?;
    entries.retain(|entry| {
        matches!(entry.source, TrashSource::User | TrashSource::UserParent)
            && entry.deferment_end.sec <= date.sec
    });
    Ok(entries)
}

/// Removes those images in the trash, although they may be protected still. The progress is in images.
///
/// # Errors
/// Those of the removal of an image that cannot be removed, after all that could be were removed.
///
/// Ceph: `Trash<I>::purge()`.
pub async fn purge_trash<S: ObjectStore>(
    store: &S,
    mut entries: Vec<TrashEntry>,
    progress: &dyn Progress,
) -> Result<(), OperationError> {
    let total = entries.len() as u64;
    let mut done = 0;
    // A clone may keep its parent, so there is another round as long as one has removed something.
    loop {
        let (mut kept, mut refused) = (Vec::new(), None);
        for entry in &entries {
            match remove_from_trash(store, &entry.id, true, &()).await {
                Ok(()) | Err(OperationError::Trash(TrashError::Missing { .. })) => {
                    done += 1;
                    progress.update(done, total);
                }
                Err(error @ (OperationError::Remove(_) | OperationError::Trash(_))) => {
                    refused.get_or_insert(error);
                    kept.push(entry.clone());
                }
                Err(error) => return Err(error),
            }
        }
        match refused {
            None => return Ok(()),
            Some(error) if kept.len() == entries.len() => return Err(error),
            Some(_) => entries = kept,
        }
    }
}

/// The entry of one image; none if it is not in the trash.
pub(crate) async fn entry<S: ObjectStore>(store: &S, id: &str) -> Result<Option<TrashEntry>, OpError> {
    match directory::call(store, TRASH, cls::trash::trash_get(id)).await {
        Err(error) if error.is(Errno::ENOENT) => Ok(None),
        record => Ok(Some(TrashEntry::new(id.to_owned(), record?))),
    }
}

async fn find<S: ObjectStore>(store: &S, id: &str) -> Result<TrashEntry, OperationError> {
    let entry = entry(store, id).await.map_err(failed("look into the trash"))?;
    entry.ok_or_else(|| TrashError::Missing { id: id.to_owned() }.into())
}

pub(crate) async fn set_state<S: ObjectStore>(
    store: &S,
    id: &str,
    new: TrashState,
    expected: TrashState,
) -> Result<(), OperationError> {
    let operation = cls::trash::trash_state_set(Operation::new(), id, new.to_wire(), expected.to_wire());
    match change(store, TRASH, operation).await {
        // OSDs before Ceph 14 know no states.
        Err(error) if error.is(Errno::EOPNOTSUPP) => Ok(()),
        result => result.map_err(failed("mark the image's entry in the trash")),
    }
}

/// Removes the entry of an image that is not in the trash any more. If that fails nothing is lost: it can be repeated.
pub(crate) async fn forget<S: ObjectStore>(store: &S, id: &str) {
    match change(store, TRASH, cls::trash::trash_remove(Operation::new(), id)).await {
        Err(error) if !error.is(Errno::ENOENT) => {
            warn!(id, %error, "could not remove the image's entry from the trash");
        }
        _ => announce(store, &Notice::Removed(id)).await,
    }
}

/// What those who watch the trash hear. Ceph: `src/librbd/trash_watcher/Types.cc`.
enum Notice<'a> {
    Added(&'a TrashEntry),
    Removed(&'a str),
}

impl Encode for Notice<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        versioned(out, 1, 1, |out| match self {
            Self::Added(entry) => {
                0u32.encode(out);
                (&entry.id, &entry.record()).encode(out);
            }
            Self::Removed(id) => (1u32, *id).encode(out),
        });
    }
}

async fn announce<S: ObjectStore>(store: &S, notice: &Notice<'_>) {
    if let Err(error) = store.notify(TRASH, notice.encode_to_vec().into(), NOTIFY_TIMEOUT).await {
        debug!(%error, "could not tell those who watch the trash");
    }
}

#[cfg(test)]
mod tests;
