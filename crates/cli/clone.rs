//! `clone`: an image that begins as a snapshot.

use ceph_conf::Overrides;
use clap::Args as ClapArgs;
use rbd::{CloneOptions, SnapshotRef};

use crate::cluster::Cluster;
use crate::image_options::NewImageArgs;
use crate::report::Error;
use crate::spec::{DestOptions, Positionals, Snap, SnapOptions};

#[derive(Debug, ClapArgs)]
pub(crate) struct CloneArgs {
    /// The snapshot, and the image to make
    #[arg(value_names = ["SOURCE-SNAP-SPEC", "DEST-IMAGE-SPEC"], num_args = 0..=2)]
    names: Vec<String>,
    #[command(flatten)]
    source: SnapOptions,
    #[command(flatten)]
    dest: DestOptions,
    #[command(flatten)]
    options: NewImageArgs,
    /// 1 needs a protected snapshot, 2 does not [default: what the configuration says]
    #[arg(long, value_name = "FORMAT", value_parser = clap::value_parser!(u8).range(1..=2))]
    rbd_default_clone_format: Option<u8>,
}

pub(crate) async fn run(args: &CloneArgs, overrides: &Overrides) -> Result<(), Error> {
    let mut names = Positionals::new(&args.names);
    let source = args.source.resolve(&mut names, Snap::Required, overrides)?;
    let dest = args.dest.resolve(&mut names, &source.overrides)?;
    names.end()?;
    let options = CloneOptions { create: args.options.to_options(), format: args.rbd_default_clone_format };
    let snapshot = SnapshotRef::Name(source.spec.snapshot.clone().unwrap_or_default());

    let cluster = Cluster::connect(&source.overrides).await?;
    let (parents, pool) = (cluster.pool(&source.spec).await?, cluster.pool(&dest.spec).await?);
    let (image, name, config) = (source.image_ref(), &dest.spec.image, cluster.config());
    rbd::clone_image(&parents, &image, &snapshot, &pool, &config, name, &options)
        .await
        .map_err(|source| cluster.failed("clone to", &dest.spec, source))?;
    Ok(())
}
