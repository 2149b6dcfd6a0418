//! `rm`: the end of an image.

use ceph_conf::Overrides;
use clap::Args as ClapArgs;
use rbd::Removal;

use crate::cluster::Cluster;
use crate::dry_run::DryRun;
use crate::progress::ProgressArgs;
use crate::report::Error;
use crate::spec::ImageArgs;
use crate::text;

#[derive(Debug, ClapArgs)]
pub(crate) struct RmArgs {
    #[command(flatten)]
    image: ImageArgs,
    #[command(flatten)]
    dry_run: DryRun,
    #[command(flatten)]
    progress: ProgressArgs,
}

pub(crate) async fn run(args: &RmArgs, overrides: &Overrides) -> Result<(), Error> {
    let target = args.image.resolve(overrides)?;
    let cluster = Cluster::connect(&target.overrides).await?;
    let pool = cluster.pool(&target.spec).await?;
    let failed = |source| cluster.failed("remove", &target.spec, source);
    let name = &target.spec.image;
    if args.dry_run.dry_run {
        let found = rbd::check_remove_image(&pool, name).await.map_err(failed)?;
        return args.dry_run.would(&format!("remove {}", describe(&target.spec, &found)));
    }
    let progress = args.progress.start("Removing image");
    progress.finish(rbd::remove_image(&pool, &cluster.config(), name, &progress).await).map_err(failed)
}

/// What would be lost.
pub(crate) fn describe(name: impl std::fmt::Display, removal: &Removal) -> String {
    match removal.size {
        Some(size) => format!("image {name} (id {}, {})", removal.id, text::bytes(size)),
        None => format!("what is left of image {name} (id {})", removal.id),
    }
}
