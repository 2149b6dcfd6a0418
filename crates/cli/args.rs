//! The command line.

use std::collections::HashSet;
use std::ffi::OsString;

use ceph_conf::Overrides;
use clap::{CommandFactory as _, Parser, Subcommand};

use crate::cluster::ClusterArgs;
use crate::log::LogArgs;
use crate::report::Error;
use crate::serve::args::ServeArgs;
use crate::spec::ShowArgs;
use crate::{
    bench, children, clone, config, create, diff, du, export, feature, flatten, image_meta, import, info,
    lock, ls, namespace, object_map, pool, rename, resize, rm, serve, snap, status, trash, watch,
};

/// Serves Ceph RBD images over NBD, and looks after them as `rbd` does, without any of Ceph's libraries.
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
  rbd-nbd-rs serve rbdpool/image --id qemu       serve an image as client.qemu
  rbd-nbd-rs serve rbdpool/image@monday          serve a snapshot, read-only
  rbd-nbd-rs serve 'rbd:rbdpool/image:id=qemu'   the same from a QEMU command line
  rbd-nbd-rs info rbdpool/image --format json
  rbd-nbd-rs -p rbdpool ls --long
  rbd-nbd-rs snap create rbdpool/golden@v1
  rbd-nbd-rs rm rbdpool/image --dry-run          what would be lost, or why not

Names, options, output and exit codes of the other commands than serve are those of rbd.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve images over NBD, until SIGTERM or SIGINT.
    Serve(ServeArgs),
    /// Make an empty image.
    Create(create::CreateArgs),
    /// Show what changed in an image since a snapshot, or since it was made.
    Diff(diff::DiffArgs),
    /// Show how much images and their snapshots use.
    #[command(visible_alias = "disk-usage")]
    Du(du::DuArgs),
    /// Export an image to a file.
    Export(export::ExportArgs),
    /// Export what changed in an image to a file.
    ExportDiff(export::ExportDiffArgs),
    /// Make an image from a file.
    Import(import::ImportArgs),
    /// Change an image as `export-diff` says.
    ImportDiff(import::ImportDiffArgs),
    /// Copy an image or a snapshot to a new image.
    #[command(name = "cp", visible_alias = "copy")]
    Copy(import::CopyArgs),
    /// Measure how fast an image is.
    Bench(bench::BenchArgs),
    /// Enable and disable features of an image.
    #[command(subcommand)]
    Feature(feature::FeatureCommand),
    /// Check and rebuild the object map of an image or a snapshot.
    #[command(subcommand)]
    ObjectMap(object_map::ObjectMapCommand),
    /// Show an image: size, features, parent and more.
    Info(info::InfoArgs),
    /// List the images of a pool.
    #[command(visible_alias = "list")]
    Ls(ls::LsArgs),
    /// Look after the snapshots of an image.
    #[command(subcommand)]
    Snap(snap::SnapCommand),
    /// Make an image larger or smaller.
    Resize(resize::ResizeArgs),
    /// Give an image another name.
    #[command(visible_alias = "mv")]
    Rename(rename::RenameArgs),
    /// Remove an image for good.
    #[command(visible_alias = "remove")]
    Rm(rm::RmArgs),
    /// Make an image that begins as a snapshot, without copying it.
    Clone(clone::CloneArgs),
    /// Give a clone all data of its parent, so that it needs it no more.
    Flatten(flatten::FlattenArgs),
    /// List the clones of an image or snapshot.
    Children(children::ChildrenArgs),
    /// Show who has an image open.
    Status(ShowArgs),
    /// Show, take and break the lock of an image.
    #[command(subcommand)]
    Lock(lock::LockCommand),
    /// Look after the images in the trash.
    #[command(subcommand)]
    Trash(trash::TrashCommand),
    /// Look after the pairs of keys and values that an image carries.
    #[command(subcommand)]
    ImageMeta(image_meta::ImageMetaCommand),
    /// Look after the options that an image has values of its own for.
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Look after the namespaces of a pool.
    #[command(subcommand)]
    Namespace(namespace::NamespaceCommand),
    /// Look after a pool for images.
    #[command(subcommand)]
    Pool(pool::PoolCommand),
    /// Print what clients tell each other about an image, until enter is pressed.
    Watch(watch::WatchArgs),
}

impl Command {
    pub(crate) fn run(&self, overrides: &Overrides) -> Result<(), Error> {
        match self {
            Self::Serve(args) => serve::run(args, overrides),
            Self::Create(args) => block_on(create::run(args, overrides)),
            Self::Diff(args) => block_on(diff::run(args, overrides)),
            Self::Du(args) => block_on(du::run(args, overrides)),
            Self::Export(args) => block_on(export::run(args, overrides)),
            Self::ExportDiff(args) => block_on(export::run_diff(args, overrides)),
            Self::Import(args) => block_on(import::run(args, overrides)),
            Self::ImportDiff(args) => block_on(import::run_diff(args, overrides)),
            Self::Copy(args) => block_on(import::run_copy(args, overrides)),
            Self::Bench(args) => block_on(bench::run(args, overrides)),
            Self::Feature(command) => block_on(feature::run(command, overrides)),
            Self::ObjectMap(command) => block_on(object_map::run(command, overrides)),
            Self::Info(args) => block_on(info::run(args, overrides)),
            Self::Ls(args) => block_on(ls::run(args, overrides)),
            Self::Snap(command) => block_on(snap::run(command, overrides)),
            Self::Resize(args) => block_on(resize::run(args, overrides)),
            Self::Rename(args) => block_on(rename::run(args, overrides)),
            Self::Rm(args) => block_on(rm::run(args, overrides)),
            Self::Clone(args) => block_on(clone::run(args, overrides)),
            Self::Flatten(args) => block_on(flatten::run(args, overrides)),
            Self::Children(args) => block_on(children::run(args, overrides)),
            Self::Status(args) => block_on(status::run(args, overrides)),
            Self::Lock(command) => block_on(lock::run(command, overrides)),
            Self::Trash(command) => block_on(trash::run(command, overrides)),
            Self::ImageMeta(command) => block_on(image_meta::run(command, overrides)),
            Self::Config(command) => block_on(config::run(command, overrides)),
            Self::Namespace(command) => block_on(namespace::run(command, overrides)),
            Self::Pool(command) => block_on(pool::run(command, overrides)),
            Self::Watch(args) => block_on(watch::run(args, overrides)),
        }
    }
}

impl Args {
    /// The command line of this process.
    pub(crate) fn from_process() -> Result<Self, clap::Error> {
        Self::try_parse_from(command_first(std::env::args_os().collect()))
    }
}

/// Moves options that stand before or between the words of the command behind them: `rbd -p POOL ls` is as good as
/// `rbd ls -p POOL`.
fn command_first(arguments: Vec<OsString>) -> Vec<OsString> {
    let mut command = &Args::command();
    let with_value = options_with_value(command);
    let mut arguments = arguments.into_iter().peekable();
    let mut words: Vec<_> = arguments.next().into_iter().collect();
    let mut options = Vec::new();
    while let Some(next) = arguments.next_if(|next| next != "--") {
        let text = next.to_string_lossy().into_owned();
        if text.starts_with('-') && text.len() > 1 {
            options.push(next);
            if with_value.contains(&text) {
                options.extend(arguments.next());
            }
        } else {
            words.push(next);
            match command.find_subcommand(&text) {
                Some(found) if found.has_subcommands() => command = found,
                _ => break,
            }
        }
    }
    words.into_iter().chain(options).chain(arguments).collect()
}

/// How options are spelled that have a value behind them, those of all commands.
fn options_with_value(command: &clap::Command) -> HashSet<String> {
    let mut found: HashSet<String> = command.get_subcommands().flat_map(options_with_value).collect();
    for option in command.get_arguments().filter(|option| option.get_action().takes_values()) {
        found.extend(option.get_short().map(|name| format!("-{name}")));
        found.extend(
            option.get_long_and_visible_aliases().into_iter().flatten().map(|name| format!("--{name}")),
        );
    }
    found
}

/// Runs everything on this thread.
fn block_on<T>(future: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    serve::runtime()?.block_on(future)
}

#[cfg(test)]
mod tests {
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

    /// What clap does not notice by itself: an option of a command would take the place of one of the cluster's.
    #[test]
    fn no_command_has_an_option_that_the_cluster_has() {
        fn check(command: &clap::Command, taken: &HashSet<String>) {
            for argument in command.get_arguments() {
                assert!(
                    !taken.contains(argument.get_id().as_str()),
                    "{} of {}",
                    argument.get_id(),
                    command.get_name()
                );
            }
            command.get_subcommands().for_each(|command| check(command, taken));
        }
        let program = Args::command();
        let taken = program.get_arguments().map(|argument| argument.get_id().to_string()).collect();
        program.get_subcommands().for_each(|command| check(command, &taken));
    }

    #[test]
    fn options_may_stand_before_the_words_of_the_command() {
        for (typed, moved) in [
            ("x -p pool ls", "x ls -p pool"),
            ("x ls -p pool", "x ls -p pool"),
            ("x --pool pool snap --image i ls --all", "x snap ls --pool pool --image i --all"),
            ("x --format=json -l ls pool", "x ls --format=json -l pool"),
            ("x -ppool ls pool", "x ls -ppool pool"),
            ("x info -- -p", "x info -- -p"),
            ("x --help", "x --help"),
            ("x what -p ls", "x what -p ls"),
        ] {
            let arguments = command_first(typed.split(' ').map(OsString::from).collect());
            assert_eq!(arguments, moved.split(' ').map(OsString::from).collect::<Vec<_>>(), "{typed}");
        }
    }
}
