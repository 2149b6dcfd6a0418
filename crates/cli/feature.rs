//! `feature`: what an image can do.

use ceph_conf::Overrides;
use clap::{Args as ClapArgs, Subcommand};
use rbd::Features;

use crate::cluster::Cluster;
use crate::image_options::{self, JournalArgs};
use crate::report::Error;
use crate::spec::{ImageOptions, Positionals, UsageError};

#[derive(Debug, Subcommand)]
pub(crate) enum FeatureCommand {
    /// Enable features of an image.
    Enable(FeatureArgs),
    /// Disable features of an image.
    Disable(FeatureArgs),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct FeatureArgs {
    /// The image, and features: exclusive-lock, object-map, fast-diff; to disable also deep-flatten
    #[arg(value_names = ["IMAGE-SPEC", "FEATURE"], num_args = 0..)]
    names: Vec<String>,
    #[command(flatten)]
    image: ImageOptions,
    #[command(flatten)]
    journal: JournalArgs,
}

pub(crate) async fn run(command: &FeatureCommand, overrides: &Overrides) -> Result<(), Error> {
    let (args, enable) = match command {
        FeatureCommand::Enable(args) => (args, true),
        FeatureCommand::Disable(args) => (args, false),
    };
    let mut names = Positionals::new(&args.names);
    let target = args.image.resolve(&mut names, overrides)?;
    let mut features = Features::default();
    while let Some(name) = names.next() {
        // Separated by commas, too.
        for name in name.split(',') {
            let found = image_options::feature(name).map_err(|_| UsageError::Feature(name.to_owned()))?;
            features = features.union(found);
        }
    }
    if features.is_empty() {
        return Err(UsageError::Missing { what: "feature name" }.into());
    }
    let doing = if enable { "enable features of" } else { "disable features of" };
    Cluster::change(&target, doing, async |image| image.update_features(features, enable).await).await
}
