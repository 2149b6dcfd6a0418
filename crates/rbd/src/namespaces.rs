//! Namespaces of a pool: each has images, a directory and a trash of its own.
//!
//! Ceph: `src/librbd/api/Namespace.cc`.

use rados::{Errno, OpError, Operation};
use thiserror::Error;
use tracing::warn;

use crate::cls::directory::{DirectoryState, dir_state_assert, dir_state_set};
use crate::cls::namespaces;
use crate::directory::{self, change, remove};
use crate::names::{CHILDREN, DIRECTORY, MIRRORING, NAMESPACES, POOL_INFO, TRASH};
use crate::operations::failed;
use crate::{ObjectStore, OperationError, list_images, list_trash};

/// Names to ask for at once.
const PAGE: u64 = 1024;

/// What a namespace has beside its images.
///
/// Ceph: `POOL_OBJECTS` in `src/librbd/api/Namespace.cc`.
const OBJECTS: [&str; 7] =
    [CHILDREN, "rbd_group_directory", POOL_INFO, MIRRORING, "rbd_task", TRASH, DIRECTORY];

/// Why a namespace cannot be made or removed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NamespaceError {
    /// The name is empty.
    #[error("a namespace needs a name")]
    NoName,
    /// There is one of that name.
    #[error("pool {pool} has a namespace {namespace} already")]
    Exists {
        /// Name of the pool.
        pool: String,
        /// Name of the namespace.
        namespace: String,
    },
    /// There is none of that name.
    #[error("pool {pool} has no namespace {namespace}")]
    Missing {
        /// Name of the pool.
        pool: String,
        /// Name of the namespace.
        namespace: String,
    },
    /// There are images in it.
    #[error("namespace {namespace} has images: {}", .images.join(", "))]
    HasImages {
        /// Name of the namespace.
        namespace: String,
        /// Names of its images.
        images: Vec<String>,
    },
    /// There are images in its trash.
    #[error("namespace {namespace} has images in its trash: {}", .images.join(", "))]
    HasTrash {
        /// Name of the namespace.
        namespace: String,
        /// Ids of the images.
        images: Vec<String>,
    },
}

impl NamespaceError {
    pub(crate) fn errno(&self) -> Errno {
        match self {
            Self::NoName => Errno::EINVAL,
            Self::Exists { .. } => Errno::EEXIST,
            Self::Missing { .. } => Errno::ENOENT,
            Self::HasImages { .. } | Self::HasTrash { .. } => Errno::EBUSY,
        }
    }

    pub(crate) fn help(&self) -> Option<String> {
        Some(match self {
            Self::HasImages { namespace, .. } => format!("remove them first: rbd rm POOL/{namespace}/IMAGE"),
            Self::HasTrash { namespace, .. } => {
                format!("remove them first: rbd trash purge POOL/{namespace}")
            }
            _ => return None,
        })
    }
}

/// Lists the namespaces of a pool, by name. The default one is not among them.
///
/// # Errors
/// [`OperationError::Op`].
pub async fn list_namespaces<S: ObjectStore>(store: &S) -> Result<Vec<String>, OperationError> {
    let doing = "list the namespaces";
    let store = in_namespace(store, "").map_err(failed(doing))?;
    let mut names: Vec<String> = Vec::new();
    loop {
        let after = names.last().map_or("", String::as_str);
        let page = match directory::call(&store, NAMESPACES, namespaces::namespace_list(after, PAGE)).await {
            Err(error) if error.is(Errno::ENOENT) => return Ok(names),
            page => page.map_err(failed(doing))?.0,
        };
        let last = (page.len() as u64) < PAGE;
        names.extend(page);
        if last {
            return Ok(names);
        }
    }
}

/// Whether a pool has a namespace. The default one has no name, and always is.
///
/// # Errors
/// [`OperationError::Op`].
pub async fn namespace_exists<S: ObjectStore>(store: &S, name: &str) -> Result<bool, OperationError> {
    if name.is_empty() {
        return Ok(true);
    }
    let doing = "look for the namespace";
    let store = in_namespace(store, name).map_err(failed(doing))?;
    let operation = dir_state_assert(Operation::new(), DirectoryState::Ready);
    match store.read(DIRECTORY, operation, ceph_codec::SnapId::HEAD).await {
        Ok(_) => Ok(true),
        Err(error) if error.is(Errno::ENOENT) => Ok(false),
        Err(error) => Err(failed(doing)(error)),
    }
}

/// Makes a namespace in the pool.
///
/// # Errors
/// [`NamespaceError`] in [`OperationError::Namespace`], else [`OperationError::Op`].
///
/// Ceph: `Namespace<I>::create()`.
pub async fn create_namespace<S: ObjectStore>(store: &S, name: &str) -> Result<(), OperationError> {
    if name.is_empty() {
        return Err(NamespaceError::NoName.into());
    }
    let doing = "make the namespace";
    let pool = in_namespace(store, "").map_err(failed(doing))?;
    let namespace = in_namespace(store, name).map_err(failed(doing))?;
    match change(&pool, NAMESPACES, namespaces::namespace_add(Operation::new(), name)).await {
        Err(error) if error.is(Errno::EEXIST) => {
            let (pool, namespace) = (store.pool_name(), name.to_owned());
            return Err(NamespaceError::Exists { pool, namespace }.into());
        }
        result => result.map_err(failed(doing))?,
    }
    let filled = async {
        change(&namespace, TRASH, Operation::new().create(false)).await?;
        change(&namespace, DIRECTORY, dir_state_set(Operation::new(), DirectoryState::Ready)).await
    };
    let Err(error) = filled.await else { return Ok(()) };
    let undone = async {
        remove(&namespace, DIRECTORY).await?;
        remove(&namespace, TRASH).await?;
        change(&pool, NAMESPACES, namespaces::namespace_remove(Operation::new(), name)).await
    };
    if let Err(error) = undone.await {
        warn!(namespace = name, %error, "could not undo what there is of a namespace");
    }
    Err(failed(doing)(error))
}

/// Whether a namespace can be removed, without doing it.
///
/// # Errors
/// As [`remove_namespace`].
pub async fn check_remove_namespace<S: ObjectStore>(store: &S, name: &str) -> Result<(), OperationError> {
    if name.is_empty() {
        return Err(NamespaceError::NoName.into());
    }
    let doing = "look what is in the namespace";
    if !list_namespaces(store).await?.iter().any(|known| known == name) {
        let (pool, namespace) = (store.pool_name(), name.to_owned());
        return Err(NamespaceError::Missing { pool, namespace }.into());
    }
    let store = in_namespace(store, name).map_err(failed(doing))?;
    let images = list_images(&store).await.map_err(failed(doing))?;
    if !images.is_empty() {
        let images = images.into_iter().map(|image| image.name).collect();
        return Err(NamespaceError::HasImages { namespace: name.to_owned(), images }.into());
    }
    let trash = list_trash(&store).await?;
    if !trash.is_empty() {
        let images = trash.into_iter().map(|entry| entry.id).collect();
        return Err(NamespaceError::HasTrash { namespace: name.to_owned(), images }.into());
    }
    Ok(())
}

/// Removes a namespace from the pool. It has to be empty.
///
/// # Errors
/// [`NamespaceError`] in [`OperationError::Namespace`], else [`OperationError::Op`].
///
/// Ceph: `Namespace<I>::remove()`.
pub async fn remove_namespace<S: ObjectStore>(store: &S, name: &str) -> Result<(), OperationError> {
    check_remove_namespace(store, name).await?;
    let doing = "remove the namespace";
    let namespace = in_namespace(store, name).map_err(failed(doing))?;
    // From now on nobody makes an image in it.
    let operation = dir_state_set(Operation::new(), DirectoryState::AddDisabled).delete();
    let closed = match change(&namespace, DIRECTORY, operation).await {
        Err(error) if error.is(Errno::ENOENT) => Ok(()),
        result => result,
    };
    let busy = closed.as_ref().is_err_and(|error| error.is(Errno::EBUSY));
    if !busy {
        closed.map_err(failed(doing))?;
    }
    // An image may have come after the first look.
    if let Err(refused) = check_remove_namespace(store, name).await {
        let operation = dir_state_set(Operation::new(), DirectoryState::Ready);
        if let Err(error) = change(&namespace, DIRECTORY, operation).await {
            warn!(namespace = name, %error, "could not open the namespace again");
        }
        return Err(refused);
    }
    for object in OBJECTS {
        remove(&namespace, object).await.map_err(failed(doing))?;
    }
    let pool = in_namespace(store, "").map_err(failed(doing))?;
    let operation = namespaces::namespace_remove(Operation::new(), name);
    change(&pool, NAMESPACES, operation).await.map_err(failed(doing))
}

fn in_namespace<S: ObjectStore>(store: &S, name: &str) -> Result<S, OpError> {
    store.with_pool(store.pool(), name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, CreateOptions, MemStore, create_image};

    #[tokio::test]
    async fn a_namespace_that_is_removed_leaves_nothing() {
        let store = MemStore::new();
        let before = store.objects();
        create_namespace(&store, "ns").await.unwrap();
        assert_eq!(list_namespaces(&store).await.unwrap(), ["ns"]);
        assert!(namespace_exists(&store, "ns").await.unwrap());
        assert_eq!(create_namespace(&store, "ns").await.unwrap_err().errno(), Errno::EEXIST);
        remove_namespace(&store, "ns").await.unwrap();
        assert!(!namespace_exists(&store, "ns").await.unwrap());
        assert_eq!(list_namespaces(&store).await.unwrap(), Vec::<String>::new());
        let inside = store.with_pool(store.pool(), "ns").unwrap();
        assert_eq!(inside.objects(), Vec::<String>::new());
        assert_eq!(store.objects(), [&before[..], &[NAMESPACES.to_owned()]].concat());
        assert_eq!(remove_namespace(&store, "ns").await.unwrap_err().errno(), Errno::ENOENT);
    }

    #[tokio::test]
    async fn a_namespace_with_images_stays_and_says_which() {
        let store = MemStore::new();
        create_namespace(&store, "ns").await.unwrap();
        let inside = store.with_pool(store.pool(), "ns").unwrap();
        let options = CreateOptions::default();
        create_image(&inside, &Config::default(), "disk", 1 << 20, &options).await.unwrap();
        let error = remove_namespace(&store, "ns").await.unwrap_err();
        assert_eq!(
            (error.errno(), error.to_string().as_str()),
            (Errno::EBUSY, "namespace ns has images: disk")
        );
        create_image(&inside, &Config::default(), "disk2", 1 << 20, &options).await.unwrap();
    }

    #[tokio::test]
    async fn no_image_is_made_in_a_namespace_that_does_not_exist() {
        let store = MemStore::new().with_pool(ceph_codec::PoolId(1), "ns").unwrap();
        let made = create_image(&store, &Config::default(), "disk", 1 << 20, &CreateOptions::default()).await;
        assert_eq!(made.unwrap_err().to_string(), "pool rbd has no namespace ns");
        assert_eq!(store.objects(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn a_removal_that_was_interrupted_can_be_repeated() {
        for crash in 0.. {
            let store = MemStore::new();
            create_namespace(&store, "ns").await.unwrap();
            let doomed = store.connect();
            doomed.kill_after(crash);
            if remove_namespace(&doomed, "ns").await.is_ok() {
                break;
            }
            match remove_namespace(&store, "ns").await {
                Ok(()) => {}
                Err(error) => assert_eq!(error.errno(), Errno::ENOENT, "after {crash} operations"),
            }
            assert_eq!(list_namespaces(&store).await.unwrap(), Vec::<String>::new());
        }
    }
}
