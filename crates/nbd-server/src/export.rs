//! Exports: devices by name.

use std::future::{self, Future};
use std::sync::Arc;

use thiserror::Error;

use crate::device::{BlockDevice, DeviceInfo};

/// The exports of a server, opened by name when a client asks for one.
pub trait Exports: Send + Sync + 'static {
    /// What [`open`](Self::open) returns: an `Arc` of a [`BlockDevice`], or a handle through which the caller of
    /// [`negotiate`](crate::negotiate) finds it, perhaps on another thread.
    type Export: Send;

    /// Opens the export called `name`.
    ///
    /// The empty name asks for the default export; by convention that is the only one, if there is only one.
    /// Called for each option of a client that names an export, whether it is then used or only asked about: what
    /// is returned for all but the last is dropped, and its size is what the client is told.
    fn open(&self, name: &str) -> impl Future<Output = Result<Opened<Self::Export>, ExportError>> + Send;

    /// All exports that clients may know of.
    fn list(&self) -> impl Future<Output = Result<Vec<ExportInfo>, ExportError>> + Send;
}

/// An export that was opened.
#[derive(Debug, Clone)]
pub struct Opened<E> {
    /// The export.
    pub export: E,
    /// Its canonical name, the one [`Exports::list`] tells; at most 4096 bytes.
    pub name: String,
    /// What clients are told of it.
    pub info: DeviceInfo,
}

/// A line of the list of exports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportInfo {
    /// Name to open it by; at most 4096 bytes.
    pub name: String,
    /// For people; may be empty.
    pub description: String,
}

/// Why there is no export for a client. The messages are sent to it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ExportError {
    /// No export has that name.
    #[error("no export is called \"{name}\"")]
    Unknown {
        /// The name asked for.
        name: String,
    },
    /// The server does not allow it.
    #[error("{reason}")]
    Refused {
        /// Why, for people.
        reason: String,
    },
    /// The server is being shut down.
    #[error("the server is shutting down")]
    Shutdown,
}

/// One device under one name, which the empty name reaches too.
#[derive(Debug)]
pub struct SingleExport<D> {
    name: String,
    device: Arc<D>,
}

impl<D: BlockDevice> SingleExport<D> {
    /// Exports `device` as `name`.
    pub fn new(name: impl Into<String>, device: Arc<D>) -> Self {
        Self { name: name.into(), device }
    }
}

impl<D: BlockDevice> Exports for SingleExport<D> {
    type Export = Arc<D>;

    fn open(&self, name: &str) -> impl Future<Output = Result<Opened<Arc<D>>, ExportError>> + Send {
        future::ready(if name.is_empty() || name == self.name {
            let device = Arc::clone(&self.device);
            Ok(Opened { info: device.info(), name: self.name.clone(), export: device })
        } else {
            Err(ExportError::Unknown { name: name.to_owned() })
        })
    }

    fn list(&self) -> impl Future<Output = Result<Vec<ExportInfo>, ExportError>> + Send {
        let description = self.device.info().description;
        future::ready(Ok(vec![ExportInfo { name: self.name.clone(), description }]))
    }
}
