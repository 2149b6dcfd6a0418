//! `status`: who has an image open.

use ceph_conf::Overrides;
use clap::Args as ClapArgs;
use serde_json::json;

use crate::cluster::Cluster;
use crate::output::FormatArgs;
use crate::report::Error;
use crate::spec::ImageArgs;
use crate::text;

#[derive(Debug, ClapArgs)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    image: ImageArgs,
    #[command(flatten)]
    format: FormatArgs,
}

pub(crate) async fn run(args: &StatusArgs, overrides: &Overrides) -> Result<(), Error> {
    let target = args.image.resolve(overrides)?;
    let watchers = Cluster::inspect(&target).await?.watchers;
    args.format.print(|| json!({ "watchers": text::watchers_json(&watchers) }), || text::watchers(&watchers))
}
