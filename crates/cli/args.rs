//! The command line.

use ceph_conf::Overrides;
use clap::{Parser, Subcommand};

use crate::cluster::ClusterArgs;
use crate::log::LogArgs;
use crate::report::Error;
use crate::serve::args::ServeArgs;
use crate::{diff, du, export, info, ls, serve, snap, status};

/// Serves Ceph RBD images over NBD, without any of Ceph's libraries.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES, propagate_version = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

const EXAMPLES: &str = "\
Examples:
  rbd-nbd-rs serve rbdpool/image --id qemu       serve an image as client.qemu; prints the line for QEMU
  rbd-nbd-rs serve rbdpool/image@monday          serve a snapshot, read-only
  rbd-nbd-rs serve 'rbd:rbdpool/image:id=qemu'   the same from an existing QEMU command line
  rbd-nbd-rs info rbdpool/image --format json
  rbd-nbd-rs ls rbdpool";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve images over NBD, until SIGTERM or SIGINT.
    Serve(ServeArgs),
    /// Show what changed in an image since a snapshot, or since it was made.
    Diff(diff::DiffArgs),
    /// Show how much images and their snapshots use.
    #[command(visible_alias = "disk-usage")]
    Du(du::DuArgs),
    /// Export an image to a file.
    Export(export::ExportArgs),
    /// Export what changed in an image to a file.
    ExportDiff(export::ExportDiffArgs),
    /// Show an image: size, features, parent and more.
    Info(info::InfoArgs),
    /// List the images of a pool.
    #[command(visible_alias = "list")]
    Ls(ls::LsArgs),
    /// Work on the snapshots of an image.
    #[command(subcommand)]
    Snap(snap::SnapCommand),
    /// Show who has an image open.
    Status(status::StatusArgs),
}

impl Command {
    pub(crate) fn run(&self, overrides: &Overrides) -> Result<(), Error> {
        match self {
            Self::Serve(args) => serve::run(args, overrides),
            Self::Diff(args) => block_on(diff::run(args, overrides)),
            Self::Du(args) => block_on(du::run(args, overrides)),
            Self::Export(args) => block_on(export::run(args, overrides)),
            Self::ExportDiff(args) => block_on(export::run_diff(args, overrides)),
            Self::Info(args) => block_on(info::run(args, overrides)),
            Self::Ls(args) => block_on(ls::run(args, overrides)),
            Self::Snap(command) => block_on(snap::run(command, overrides)),
            Self::Status(args) => block_on(status::run(args, overrides)),
        }
    }
}

/// Runs everything on this thread.
fn block_on<T>(future: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    serve::runtime()?.block_on(future)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn options_of_the_cluster_may_stand_on_either_side_of_the_command() {
        for line in ["x --id a -c f info p/i", "x info p/i --id a -c f"] {
            let args = Args::try_parse_from(line.split(' ')).unwrap();
            let overrides = args.cluster.overrides();
            assert_eq!((overrides.id.as_deref(), overrides.conf), (Some("a"), Some("f".into())), "{line}");
        }
    }
}
