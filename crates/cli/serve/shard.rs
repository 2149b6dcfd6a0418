//! Shards: event loops that share nothing, each with exports, a client instance and connections to OSDs of its own.

use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use ceph_conf::Overrides;
use futures::StreamExt;
use futures::future::join_all;
use futures::stream;
use rbd::OpenOptions;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tracing::warn;

use super::ServeArgs;
use super::exports::Export;
use super::runtime;
use crate::cluster::Cluster;
use crate::device::Device;
use crate::predecessors::{self, Predecessors};
use crate::report::Error;
use crate::target::Target;

/// Images that are opened at the same time, on each shard.
const AT_ONCE: usize = 16;

/// One event loop. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Shard(Handle);

impl Shard {
    /// Runs a future on the shard, and waits for its result.
    pub(super) async fn run<F>(&self, future: F) -> F::Output
    where
        F: Future<Output: Send> + Send + 'static,
    {
        match self.0.spawn(future).await {
            Ok(output) => output,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => unreachable!("a shard ends after all that runs on it"),
        }
    }
}

/// All shards. When this is dropped they end.
#[derive(Debug)]
pub(super) struct Shards {
    shards: Vec<Shard>,
    threads: Vec<Thread>,
}

#[derive(Debug)]
struct Thread {
    stop: Option<oneshot::Sender<()>>,
    join: Option<JoinHandle<()>>,
}

impl Shards {
    /// Starts as many as were asked for, or else as there are CPUs for the exports. A single one is the caller's own
    /// event loop.
    pub(super) fn start(wanted: Option<usize>, exports: usize) -> Result<Self, Error> {
        let cpus = thread::available_parallelism().map_or(1, NonZero::get);
        let count = wanted.unwrap_or(cpus).min(exports);
        let mut started = Self { shards: Vec::new(), threads: Vec::new() };
        if count <= 1 {
            started.shards.push(Shard(Handle::current()));
            return Ok(started);
        }
        for number in 0..count {
            let (handle, thread) = start_thread(number)?;
            started.shards.push(Shard(handle));
            started.threads.push(thread);
        }
        Ok(started)
    }

    /// Opens all images, spread over the shards. Either all are open afterwards, or none is.
    pub(super) async fn open(&self, targets: Vec<Target>, mode: OpenMode) -> Result<Vec<Export>, Error> {
        let mut by_shard: Vec<Vec<(usize, Target)>> = vec![Vec::new(); self.shards.len()];
        for (number, target) in targets.into_iter().enumerate() {
            by_shard[number % self.shards.len()].push((number, target));
        }
        let mode = &mode;
        let opening = self.shards.iter().zip(by_shard).map(|(shard, targets)| async move {
            let opened = shard.run(open_all(targets, mode.clone())).await;
            opened.into_iter().map(|result| {
                let (number, name, device, (cluster, proof_of_life)) = result?;
                let (device, shard) = (Arc::new(device), shard.clone());
                Ok((number, Export { name, device, cluster, shard, _proof_of_life: proof_of_life }))
            })
        });
        let (mut opened, mut failed) = (Vec::new(), None);
        for result in join_all(opening).await.into_iter().flatten() {
            match result {
                Ok(export) => opened.push(export),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        if let Some(error) = failed {
            join_all(opened.iter().map(|(_, export)| export.close())).await;
            return Err(error);
        }
        opened.sort_by_key(|(number, _)| *number);
        Ok(opened.into_iter().map(|(_, export)| export).collect())
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(Err(panic)) = self.join.take().map(JoinHandle::join) {
            std::panic::resume_unwind(panic);
        }
    }
}

fn start_thread(number: usize) -> Result<(Handle, Thread), Error> {
    let runtime = runtime()?;
    let handle = runtime.handle().clone();
    let (stop, stopped) = oneshot::channel::<()>();
    let run = move || {
        // Dropping the sender is the sign.
        let _ = runtime.block_on(stopped);
    };
    let join = thread::Builder::new().name(format!("shard {number}")).spawn(run).map_err(Error::Runtime)?;
    Ok((handle, Thread { stop: Some(stop), join: Some(join) }))
}

/// A client instance, and its proof of life if it may ever have a lock. Who finds that let go takes it for dead.
type Connected = (Cluster, Option<Arc<Predecessors>>);

/// How the images are opened.
#[derive(Debug, Clone)]
pub(super) struct OpenMode {
    read_only: bool,
    exclusive: bool,
    /// Where servers leave proofs of life.
    state_directory: Option<PathBuf>,
}

impl OpenMode {
    pub(super) fn of(args: &ServeArgs) -> Self {
        let state_directory = args.state_dir.clone().or_else(predecessors::state_directory);
        Self { read_only: args.read_only, exclusive: args.exclusive, state_directory }
    }

    fn options(&self, target: &Target, predecessors: Option<Arc<Predecessors>>) -> OpenOptions {
        let mut options = target.open_options(self.read_only);
        if self.exclusive && target.spec.snapshot.is_none() {
            options = options.exclusive();
        }
        match predecessors {
            Some(predecessors) => options.predecessors(predecessors),
            None => options,
        }
    }

    async fn connect(&self, overrides: &Overrides) -> Result<Connected, Error> {
        let cluster = Cluster::connect(overrides).await?;
        let directory = self.state_directory.as_deref().filter(|_| !self.read_only);
        let predecessors =
            directory.and_then(|directory| Predecessors::register(directory, cluster.client()));
        Ok((cluster, predecessors.map(Arc::new)))
    }
}

/// Opens images, with one client instance for each cluster and user. Must run on the shard.
async fn open_all(
    targets: Vec<(usize, Target)>,
    mode: OpenMode,
) -> Vec<Result<(usize, String, Device, Connected), Error>> {
    let mut clusters = Vec::new();
    let mut opening = Vec::new();
    for (number, target) in targets {
        let (cluster, predecessors) = match clusters.iter().find(|(of, _)| *of == target.overrides) {
            Some((_, connected)) => Clone::clone(connected),
            None => match mode.connect(&target.overrides).await {
                Ok(connected) => {
                    clusters.push((target.overrides.clone(), connected.clone()));
                    connected
                }
                Err(error) => return vec![Err(error)],
            },
        };
        let options = mode.options(&target, predecessors.clone());
        opening.push(async move {
            let image = cluster.open(&target, options).await?;
            let ignored = image.ignored_options();
            if !ignored.is_empty() {
                let options: Vec<_> =
                    ignored.iter().map(|option| format!("{}={}", option.name, option.value)).collect();
                warn!(
                    image = target.spec.to_string(),
                    options = options.join(", "),
                    "options of the image or its pool that have no effect here"
                );
            }
            let device = Device::new(image, &target, cluster.client().config());
            Ok((number, target.name, device, (cluster, predecessors)))
        });
    }
    stream::iter(opening).buffered(AT_ONCE).collect().await
}
