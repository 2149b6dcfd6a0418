//! `create`: a new, empty image.

use ceph_conf::Overrides;
use clap::Args as ClapArgs;

use crate::cluster::Cluster;
use crate::image_options::{ImageFormatArgs, NewImageArgs};
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
    #[arg(long, hide = true)]
    no_progress: bool,
}

pub(crate) async fn run(args: &CreateArgs, overrides: &Overrides) -> Result<(), Error> {
    let target = args.image.resolve(overrides)?.checked()?;
    let (size, options) = (args.size.required()?, args.options.to_options());
    let cluster = Cluster::connect(&target.overrides).await?;
    let pool = cluster.pool(&target.spec).await?;
    rbd::create_image(&pool, &cluster.config(), &target.spec.image, size, &options)
        .await
        .map_err(|source| cluster.failed("create", &target.spec, source))?;
    Ok(())
}
