//! `resize`: a larger or smaller image.

use ceph_conf::Overrides;
use clap::Args as ClapArgs;
use rbd::MaintenanceError;

use crate::cluster::Cluster;
use crate::dry_run::DryRun;
use crate::progress::ProgressArgs;
use crate::report::Error;
use crate::size::SizeArgs;
use crate::spec::ImageArgs;
use crate::text;

#[derive(Debug, ClapArgs)]
pub(crate) struct ResizeArgs {
    #[command(flatten)]
    image: ImageArgs,
    #[command(flatten)]
    size: SizeArgs,
    /// Also if data past the new end are lost
    #[arg(long)]
    allow_shrink: bool,
    #[command(flatten)]
    dry_run: DryRun,
    #[command(flatten)]
    progress: ProgressArgs,
}

pub(crate) async fn run(args: &ResizeArgs, overrides: &Overrides) -> Result<(), Error> {
    let target = args.image.resolve(overrides)?;
    let new_size = args.size.required()?;
    let cluster = Cluster::connect(&target.overrides).await?;
    let size = cluster.show(&target).await?.info.size;
    // Ceph: `execute` in `src/tools/rbd/action/Resize.cc`.
    if new_size == size {
        return Err(Error::SameSize { image: target.spec.to_string(), size });
    }
    if new_size < size && !args.allow_shrink {
        let image = target.spec.image.clone();
        let refused = MaintenanceError::ShrinkNotAllowed { image, size, new_size };
        return Err(cluster.failed("resize", &target.spec, refused));
    }
    if args.dry_run.dry_run {
        let what = if new_size < size { "shrink" } else { "enlarge" };
        let lost = if new_size < size { "; what is past the new end is lost" } else { "" };
        let (from, to) = (text::bytes(size), text::bytes(new_size));
        return args.dry_run.would(&format!("{what} image {} from {from} to {to}{lost}", target.spec));
    }
    cluster
        .change_image(&target, "resize", async |image| {
            let progress = args.progress.start("Resizing image");
            progress.finish(image.resize(new_size, args.allow_shrink, &progress).await)
        })
        .await
}
