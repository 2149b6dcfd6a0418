//! `export` and `export-diff`: images and what changed in them, to files.

use ceph_conf::Overrides;
use clap::Args as ClapArgs;

use crate::cluster::Cluster;
use crate::diff::SinceArgs;
use crate::file::FileOutput;
use crate::progress::ProgressArgs;
use crate::report::Error;
use crate::spec::{Positionals, Snap, SnapOptions};
use crate::target::Target;

#[derive(Debug, ClapArgs)]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    what: SourceArgs,
    #[command(flatten)]
    progress: ProgressArgs,
    /// 1 for the plain contents; 2 for the image with its properties, metadata and snapshots
    #[arg(long, value_name = "1|2", default_value = "1", value_parser = clap::value_parser!(u8).range(1..=2))]
    export_format: u8,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ExportDiffArgs {
    #[command(flatten)]
    what: SourceArgs,
    #[command(flatten)]
    since: SinceArgs,
    #[command(flatten)]
    progress: ProgressArgs,
}

/// What to export, and where to.
#[derive(Debug, ClapArgs)]
struct SourceArgs {
    /// The image or snapshot, and the file, or - for standard output
    #[arg(value_names = ["IMAGE-OR-SNAP-SPEC", "PATH"], num_args = 0..=2)]
    names: Vec<String>,
    #[command(flatten)]
    options: SnapOptions,
    /// The file
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
}

impl SourceArgs {
    fn resolve(&self, overrides: &Overrides) -> Result<(Target, String), Error> {
        let mut names = Positionals::new(&self.names);
        let target = self.options.resolve(&mut names, Snap::Permitted, overrides)?;
        let path = match &self.path {
            Some(path) => path,
            None => names.required("path")?,
        };
        names.end()?;
        Ok((target, path.to_owned()))
    }
}

pub(crate) async fn run(args: &ExportArgs, overrides: &Overrides) -> Result<(), Error> {
    let (target, path) = args.what.resolve(overrides)?;
    let mut output = FileOutput::create(&path)?;
    let progress = args.progress.start("Exporting image");
    let exported = Cluster::read(&target, "export", async |image| match args.export_format {
        1 => image.export(&mut output, &progress).await,
        _ => image.export_all(&mut output, &progress).await,
    })
    .await;
    progress.finish(output.finish(exported).await)
}

pub(crate) async fn run_diff(args: &ExportDiffArgs, overrides: &Overrides) -> Result<(), Error> {
    let (target, path) = args.what.resolve(overrides)?;
    let mut output = FileOutput::create(&path)?;
    let options = args.since.options();
    let progress = args.progress.start("Exporting image");
    let exported = Cluster::read(&target, "export", async |image| {
        image.export_diff(&options, &mut output, &progress).await
    })
    .await;
    progress.finish(output.finish(exported).await)
}
