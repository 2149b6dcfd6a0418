//! The exports, by name.

use std::collections::HashSet;
use std::future::{self, Future};
use std::sync::Arc;

use futures::future::join_all;
use nbd_server::{BlockDevice, ExportError, ExportInfo, Exports, Opened};
use tracing::warn;

use super::shard::Shard;
use crate::cluster::Cluster;
use crate::device::Device;
use crate::predecessors::Predecessors;

/// An open image with the name by which clients know it.
#[derive(Debug)]
pub(super) struct Export {
    pub(super) name: String,
    pub(super) device: Arc<Device>,
    /// Where the image is; exports of one shard may share it.
    pub(super) cluster: Cluster,
    /// Where it is served.
    pub(super) shard: Shard,
    /// Kept as long as the client lives, whether or not the image ever has a lock.
    pub(super) _proof_of_life: Option<Arc<Predecessors>>,
}

impl Export {
    /// Closes the image.
    pub(super) async fn close(&self) {
        let device = Arc::clone(&self.device);
        self.shard.run(async move { device.close().await }).await;
    }
}

/// All exports, in the order of the command line.
#[derive(Debug, Default)]
pub(super) struct Registry(Vec<Arc<Export>>);

impl Registry {
    pub(super) fn new(exports: Vec<Export>) -> Self {
        Self(exports.into_iter().map(Arc::new).collect())
    }

    /// Each export's name, and whether it is read-only.
    pub(super) fn names(&self) -> impl Iterator<Item = (&str, bool)> {
        self.0.iter().map(|export| (export.name.as_str(), export.device.info().read_only))
    }

    /// Writes to the log what requests have not ended, and what each waits for.
    pub(super) fn tell_requests(&self) {
        let mut told = HashSet::new();
        for export in &self.0 {
            let client = export.cluster.client();
            if !told.insert(client.global_id()) {
                continue;
            }
            let requests = client.requests();
            warn!(
                client = client.global_id().0,
                epoch = client.epoch().0,
                "{} requests are under way",
                requests.len()
            );
            for request in requests {
                warn!("{request}");
            }
        }
    }

    /// Closes all images: gives exclusive locks back and stops watching.
    pub(super) async fn close(&self) {
        join_all(self.0.iter().map(|export| export.close())).await;
    }

    fn find(&self, name: &str) -> Option<&Arc<Export>> {
        match self.0.as_slice() {
            // An export may have the empty name itself; then it is the only one, or meant.
            [only] if name.is_empty() => Some(only),
            all => all.iter().find(|export| export.name == name),
        }
    }
}

impl Exports for Registry {
    type Export = Arc<Export>;

    async fn open(&self, name: &str) -> Result<Opened<Arc<Export>>, ExportError> {
        let export = self.find(name).ok_or_else(|| ExportError::Unknown { name: name.to_owned() })?;
        let device = Arc::clone(&export.device);
        export.shard.run(async move { device.refresh().await }).await;
        Ok(Opened { name: export.name.clone(), info: export.device.info(), export: Arc::clone(export) })
    }

    fn list(&self) -> impl Future<Output = Result<Vec<ExportInfo>, ExportError>> + Send {
        let info = |export: &Arc<Export>| ExportInfo {
            name: export.name.clone(),
            description: export.device.info().description,
        };
        future::ready(Ok(self.0.iter().map(info).collect()))
    }
}
