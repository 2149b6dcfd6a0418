//! `object-map`: checking and rebuilding what an image knows of its objects.

use ceph_conf::Overrides;
use clap::{Args as ClapArgs, Subcommand};

use crate::cluster::Cluster;
use crate::progress::ProgressArgs;
use crate::report::Error;
use crate::spec::ImageOrSnapArgs;

#[derive(Debug, Subcommand)]
pub(crate) enum ObjectMapCommand {
    /// Compare the object map with the objects, and mark it as invalid if it is wrong.
    Check(ObjectMapArgs),
    /// Write the object map anew.
    Rebuild(ObjectMapArgs),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ObjectMapArgs {
    #[command(flatten)]
    image: ImageOrSnapArgs,
    #[command(flatten)]
    progress: ProgressArgs,
}

pub(crate) async fn run(command: &ObjectMapCommand, overrides: &Overrides) -> Result<(), Error> {
    match command {
        ObjectMapCommand::Check(args) => check(args, overrides).await,
        ObjectMapCommand::Rebuild(args) => rebuild(args, overrides).await,
    }
}

async fn check(args: &ObjectMapArgs, overrides: &Overrides) -> Result<(), Error> {
    let target = args.image.resolve(overrides)?;
    let snapshot = target.spec.snapshot.as_deref();
    let wrong = Cluster::change(&target, "check the object map of", async |image| {
        let progress = args.progress.start("Object Map Check");
        progress.finish(image.check_object_map(snapshot, &progress).await)
    })
    .await?;
    if wrong > 0 {
        // As with rbd, that is a result and no failure.
        eprintln!(
            "rbd-nbd-rs: {wrong} objects are not as the object map of {} says; it is invalid now",
            target.spec
        );
        eprintln!("help: rbd object-map rebuild {}", target.spec);
    }
    Ok(())
}

async fn rebuild(args: &ObjectMapArgs, overrides: &Overrides) -> Result<(), Error> {
    let target = args.image.resolve(overrides)?;
    let snapshot = target.spec.snapshot.as_deref();
    Cluster::change(&target, "rebuild the object map of", async |image| {
        let progress = args.progress.start("Object Map Rebuild");
        progress.finish(image.rebuild_object_map(snapshot, &progress).await)
    })
    .await
}
