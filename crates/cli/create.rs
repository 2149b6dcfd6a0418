//! `create`: a new, empty image.

use ceph_conf::Overrides;
use clap::Args as ClapArgs;
use futures::{StreamExt, stream};
use rados::IoCtx;
use rbd::{Image, OperationError, Progress};

use crate::cluster::Cluster;
use crate::image_options::{ImageFormatArgs, NewImageArgs};
use crate::progress::ProgressArgs;
use crate::report::Error;
use crate::size::SizeArgs;
use crate::spec::ImageArgs;

#[derive(Debug, ClapArgs)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    image: ImageArgs,
    #[command(flatten)]
    size: SizeArgs,
    #[command(flatten)]
    options: NewImageArgs,
    #[command(flatten)]
    format: ImageFormatArgs,
    /// Take the space for all of it at once, by writing zeroes
    #[arg(long)]
    thick_provision: bool,
    #[command(flatten)]
    progress: ProgressArgs,
}

pub(crate) async fn run(args: &CreateArgs, overrides: &Overrides) -> Result<(), Error> {
    let target = args.image.resolve(overrides)?.checked()?;
    let (size, options) = (args.size.required()?, args.options.to_options());
    let cluster = Cluster::connect(&target.overrides).await?;
    let pool = cluster.pool(&target.spec).await?;
    rbd::create_image(&pool, &cluster.config(), &target.spec.image, size, &options)
        .await
        .map_err(|source| cluster.failed("create", &target.spec, source))?;
    if args.thick_provision {
        let fill = async |image: &Image<IoCtx>| {
            let progress = args.progress.start("Thick provisioning");
            progress.finish(fill(image, &progress).await)
        };
        cluster.change_image(&target, "take all the space of", fill).await?;
    }
    Ok(())
}

/// Objects that are filled at the same time.
const AT_ONCE: usize = 10;

/// Ceph: `write_data` in `src/tools/rbd/action/Create.cc`.
async fn fill(image: &Image<IoCtx>, progress: &dyn Progress) -> Result<(), OperationError> {
    let (size, step) = (image.size(), image.layout().object_size());
    let parts = (0..size.div_ceil(step)).map(|part| part * step);
    let mut filled = stream::iter(parts)
        .map(|at| image.write_zeroes(at, step.min(size - at), false))
        .buffered(AT_ONCE)
        .enumerate();
    while let Some((part, written)) = filled.next().await {
        written?;
        progress.update(size.min((part as u64 + 1) * step), size);
    }
    Ok(())
}
