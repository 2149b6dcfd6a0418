//! `serve`: from the command line to the last request.
//!
//! ```text
//!                      +-- shard: exports, their client instance, its connections to OSDs
//!  acceptor: handshake +-- shard
//!                      +-- shard
//! ```
//! The main thread accepts connections and conducts handshakes; a connection then moves to the shard of the export
//! that the client chose, and each of its requests begins and ends there. With a single shard, the default for a
//! single export, all of it is the main thread, and there is no other.

mod accept;
mod announce;
pub(crate) mod args;
mod exports;
mod listen;
mod shard;
mod signals;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use ceph_conf::Overrides;
use nbd_server::Shutdown;
use tokio::runtime::{Builder, Runtime};
use tracing::{info, warn};

use crate::report::Error;
use crate::target::Target;
use args::ServeArgs;
use exports::Registry;
use listen::{Listener, Place};
use shard::{OpenMode, Shards};
use signals::Signals;

/// Serves until told to stop.
pub(crate) fn run(args: &ServeArgs, overrides: &Overrides) -> Result<(), Error> {
    let targets = targets(args, overrides)?;
    let place = Place::choose(args, &targets)?;
    runtime()?.block_on(serve(args, targets, place))
}

/// An event loop for this thread.
pub(crate) fn runtime() -> Result<Runtime, Error> {
    Builder::new_current_thread().enable_all().build().map_err(Error::Runtime)
}

fn targets(args: &ServeArgs, overrides: &Overrides) -> Result<Vec<Target>, Error> {
    let mut targets: Vec<_> =
        args.specs.iter().map(|spec| Target::parse(spec, overrides)).collect::<Result<_, _>>()?;
    match (&args.export_name, targets.as_mut_slice()) {
        (None, _) => {}
        (Some(name), [only]) => only.name.clone_from(name),
        (Some(_), many) => return Err(Error::OneNameForMany { count: many.len() }),
    }
    let mut names = HashSet::new();
    match targets.iter().find(|target| !names.insert(&target.name)) {
        Some(target) => Err(Error::SameName { name: target.name.clone() }),
        None => Ok(targets),
    }
}

async fn serve(args: &ServeArgs, targets: Vec<Target>, place: Place) -> Result<(), Error> {
    let mut signals = Signals::new()?;
    // First of all, so that a place that is taken costs the cluster nothing.
    let listener = Listener::bind(&place)?;
    let shards = Shards::start(args.shards.map(usize::from), targets.len())?;
    let exports = tokio::select! {
        exports = shards.open(targets, OpenMode::of(args)) => exports?,
        // Nothing was written yet, and the cluster notices within half a minute that nobody watches any more.
        () = signals.next() => return Ok(()),
    };
    let registry = Arc::new(Registry::new(exports));
    signals::tell_requests_on_usr1(Arc::clone(&registry))?;
    announce::ready(&listener, &registry);

    let shutdown = Shutdown::new();
    let connections = accept::until(signals.next(), listener, &registry, &shutdown).await;
    announce::stopping();
    info!(connections = connections.len(), "stopping");
    shutdown.trigger();
    let finish = async {
        connections.join_all().await;
        registry.close().await;
    };
    tokio::select! {
        () = finish => {}
        () = tell_what_it_waits_for() => {}
        () = signals.next() => {
            warn!("a second signal: requests under way are abandoned, the exclusive lock is not given back");
            std::process::exit(1);
        }
    }
    drop(shards);
    Ok(())
}

/// Never resolves.
async fn tell_what_it_waits_for() {
    loop {
        tokio::time::sleep(Duration::from_secs(5)).await;
        warn!("waiting for the cluster to finish requests under way; another signal abandons them");
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Args, Command};

    fn names(line: &str) -> Result<Vec<String>, Error> {
        let Command::Serve(args) = Args::try_parse_from(line.split(' ')).unwrap().command else {
            unreachable!()
        };
        Ok(targets(&args, &Overrides::default())?.into_iter().map(|target| target.name).collect())
    }

    #[test]
    fn exports_are_called_as_given() {
        assert_eq!(names("x serve p/i i p/n/i@s rbd:p/j:id=a").unwrap(), ["p/i", "i", "p/n/i@s", "p/j"]);
        assert_eq!(names("x serve p/i --export-name disk").unwrap(), ["disk"]);
    }

    #[test]
    fn names_are_unambiguous() {
        assert!(matches!(names("x serve p/i rbd:p/i"), Err(Error::SameName { .. })));
        assert!(matches!(names("x serve p/i p/j --export-name d"), Err(Error::OneNameForMany { count: 2 })));
    }
}
