//! Giving an image another name. Its id stays, and so do the names of its objects.
//!
//! Ceph: `src/librbd/operation/RenameRequest.cc`.

use rados::{Errno, OpError, Operation};
use tracing::{info, warn};

use super::{MaintenanceError, OperationError, Turn};
use crate::cls::directory::dir_rename_image;
use crate::names::{DIRECTORY, id_object};
use crate::{ObjectStore, directory};

pub(super) async fn run<S: ObjectStore>(turn: &Turn<'_, S>, name: &str) -> Result<(), OperationError> {
    let core = turn.core;
    let _right = turn.begin().await?;
    let failed = |source| core.operation_failed("rename the image", source);
    // Another client may have renamed it.
    let named = directory::name_of(&core.store, &core.id).await.map_err(failed)?;
    let Some((old, false)) = named else {
        return Err(MaintenanceError::NoName { id: core.id.clone() }.into());
    };
    match rename_steps(&core.store, &old, name, &core.id).await {
        Err(error) if error.refusal() == Some(Errno::EEXIST) => {
            return Err(MaintenanceError::NameTaken { name: name.to_owned() }.into());
        }
        renamed => renamed.map_err(failed)?,
    }
    core.set_name(name);
    info!(image = core.display_name(), name, "renamed the image");
    Ok(())
}

/// Makes the new name known, then the old one unknown. `EEXIST` if the new name is taken.
pub(crate) async fn rename_steps<S: ObjectStore>(
    store: &S,
    old: &str,
    new: &str,
    id: &str,
) -> Result<(), OpError> {
    let stored = store.read(&id_object(old), Operation::new().read(0, 0), ceph_codec::SnapId::HEAD).await?;
    let operation = Operation::new().create(true).write_full(stored.data(0));
    directory::change(store, &id_object(new), operation).await?;
    let renamed = dir_rename_image(Operation::new(), old, new, id);
    if let Err(error) = directory::change(store, DIRECTORY, renamed).await {
        if error.refusal().is_some() {
            directory::remove(store, &id_object(new)).await?;
        }
        return Err(error);
    }
    if let Err(error) = directory::remove(store, &id_object(old)).await {
        warn!(old, new, %error, "could not remove the old name of an image");
    }
    Ok(())
}
