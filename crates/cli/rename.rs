//! `rename`: another name for an image.

use ceph_conf::Overrides;
use clap::Args as ClapArgs;

use crate::cluster::Cluster;
use crate::report::Error;
use crate::spec::{DestOptions, ImageOptions, Positionals, UsageError};

#[derive(Debug, ClapArgs)]
pub(crate) struct RenameArgs {
    /// The image, and its new name
    #[arg(value_names = ["SOURCE-IMAGE-SPEC", "DEST-IMAGE-SPEC"], num_args = 0..=2)]
    names: Vec<String>,
    #[command(flatten)]
    source: ImageOptions,
    #[command(flatten)]
    dest: DestOptions,
}

pub(crate) async fn run(args: &RenameArgs, overrides: &Overrides) -> Result<(), Error> {
    let mut names = Positionals::new(&args.names);
    let source = args.source.resolve(&mut names, overrides)?;
    let dest = args.dest.resolve_beside(&mut names, &source)?;
    names.end()?;
    if (&source.spec.pool, &source.spec.namespace) != (&dest.spec.pool, &dest.spec.namespace) {
        return Err(UsageError::OtherPlace { what: "an image", of: "its pool and namespace" }.into());
    }
    Cluster::change(&source, "rename", async |image| image.rename(&dest.spec.image).await).await
}
