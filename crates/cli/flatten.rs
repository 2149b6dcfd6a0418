//! `flatten`: a clone that needs its parent no more.

use ceph_conf::Overrides;
use clap::Args as ClapArgs;

use crate::cluster::Cluster;
use crate::progress::ProgressArgs;
use crate::report::Error;
use crate::spec::ImageArgs;

#[derive(Debug, ClapArgs)]
pub(crate) struct FlattenArgs {
    #[command(flatten)]
    image: ImageArgs,
    #[command(flatten)]
    progress: ProgressArgs,
}

pub(crate) async fn run(args: &FlattenArgs, overrides: &Overrides) -> Result<(), Error> {
    let target = args.image.resolve(overrides)?;
    Cluster::change(&target, "flatten", async |image| {
        let progress = args.progress.start("Image flatten");
        progress.finish(image.flatten(&progress).await)
    })
    .await
}
