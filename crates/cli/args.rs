//! The command line.

use std::path::PathBuf;

use ceph_conf::Overrides;
use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

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
    /// Show an image: size, features, parent, snapshots, watchers, owner of the exclusive lock.
    Info(ImageArgs),
    /// List the images of a pool.
    Ls(LsArgs),
    /// Show who has an image open, and who owns its exclusive lock.
    Status(ImageArgs),
}

const SPEC_HELP: &str = "\
The image, as [POOL/[NAMESPACE/]]IMAGE[@SNAPSHOT] (the pool is \"rbd\" if there is none), or as QEMU spells it: \
rbd:POOL/IMAGE:id=USER:conf=FILE:...";

#[derive(Debug, ClapArgs)]
#[command(after_help = SERVE_NOTES)]
pub(crate) struct ServeArgs {
    #[arg(value_name = "SPEC", required = true, help = "Images to serve, each an export of its own", long_help = SPEC_HELP)]
    pub(crate) specs: Vec<String>,

    /// Listen on this unix socket [default: POOL.IMAGE.sock in $RUNTIME_DIRECTORY, $XDG_RUNTIME_DIR/rbd-nbd-rs or, for
    /// root, /run/rbd-nbd-rs]
    #[arg(long, value_name = "PATH", conflicts_with = "listen")]
    pub(crate) socket: Option<PathBuf>,

    /// Permissions of the unix socket. QEMU has to be able to write to it to connect.
    #[arg(long, value_name = "OCTAL", default_value = "0600", value_parser = parse_mode, conflicts_with = "listen")]
    pub(crate) socket_mode: u32,

    /// Listen on TCP instead. Without TLS, which is not supported yet, only loopback addresses are accepted.
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) listen: Option<String>,

    /// Let --listen take an address that other hosts reach. Whoever reaches it can read and write the images, and
    /// all data go in plain text.
    #[arg(long, requires = "listen")]
    pub(crate) insecure_listen: bool,

    /// Name of the export, if there is only one [default: SPEC as given]. The empty name reaches a single export, too.
    #[arg(long, value_name = "NAME")]
    pub(crate) export_name: Option<String>,

    /// Refuse to write. Works for users with no more than the caps 'profile rbd-read-only'.
    #[arg(short = 'r', long)]
    pub(crate) read_only: bool,

    /// Threads to spread the exports over [default: the smaller of the numbers of CPUs and exports]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) shards: Option<u16>,
}

const SERVE_NOTES: &str = "\
The last line on standard output is for QEMU. SIGTERM or SIGINT finish the requests under way, give the exclusive \
lock back and exit with 0; a second one exits at once.";

#[derive(Debug, ClapArgs)]
pub(crate) struct ImageArgs {
    #[arg(value_name = "SPEC", help = "The image", long_help = SPEC_HELP)]
    pub(crate) spec: String,
    /// How to print it.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct LsArgs {
    /// The pool, and a namespace in it
    #[arg(value_name = "POOL[/NAMESPACE]", default_value = "rbd")]
    pub(crate) pool: String,
    /// Show size, parent, protection and lock of images and snapshots.
    #[arg(short, long)]
    pub(crate) long: bool,
    /// How to print it.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs, with the names of fields that `rbd` uses.
    Json,
}

/// Which cluster, and as whom. What is not given comes from `ceph.conf`, `CEPH_CONF`, `CEPH_ARGS`, `CEPH_KEYRING`.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Cluster")]
pub(crate) struct ClusterArgs {
    /// Configuration file [default: /etc/ceph/CLUSTER.conf]
    #[arg(short, long, global = true, value_name = "FILE")]
    conf: Option<PathBuf>,
    /// User, without "client."
    #[arg(long, alias = "user", global = true, value_name = "ID", conflicts_with = "name")]
    id: Option<String>,
    /// User, as TYPE.ID [default: client.admin]
    #[arg(short, long, global = true, value_name = "TYPE.ID")]
    name: Option<String>,
    /// Name of the cluster, which is part of default paths [default: ceph]
    #[arg(long, global = true, value_name = "NAME")]
    cluster: Option<String>,
    /// Keyring with the user's key
    #[arg(short, long, global = true, value_name = "FILE")]
    keyring: Option<PathBuf>,
    /// File that holds nothing but the user's key
    #[arg(short = 'K', long, global = true, value_name = "FILE")]
    keyfile: Option<PathBuf>,
    /// Monitors, as mon_host in the configuration
    #[arg(short, long, global = true, value_name = "HOSTS")]
    mon_host: Option<String>,
}

impl ClusterArgs {
    pub(crate) fn overrides(&self) -> Overrides {
        Overrides {
            conf: self.conf.clone(),
            name: self.name.clone(),
            id: self.id.clone(),
            cluster: self.cluster.clone(),
            mon_host: self.mon_host.clone(),
            keyring: self.keyring.clone(),
            keyfile: self.keyfile.clone(),
            ..Overrides::default()
        }
    }
}

/// What to log, to standard error.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Log")]
pub(crate) struct LogArgs {
    /// Log more: -v what happens, -vv details, -vvv everything. $RUST_LOG goes before it.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// How to log
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) log_format: LogFormat,
}

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum LogFormat {
    /// A line for people.
    #[default]
    Text,
    /// A JSON object in each line.
    Json,
}

fn parse_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("expected three octal digits such as 660".to_owned()),
    }
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

    #[test]
    fn a_socket_is_on_a_path_or_on_tcp() {
        assert!(Args::try_parse_from("x serve i --socket s --listen 127.0.0.1:1".split(' ')).is_err());
        assert!(Args::try_parse_from("x serve i --insecure-listen".split(' ')).is_err());
        assert!(Args::try_parse_from(["x", "serve"]).is_err());
    }

    #[test]
    fn modes_are_octal() {
        assert_eq!(parse_mode("0660"), Ok(0o660));
        for text in ["9", "rw", "1777", ""] {
            assert!(parse_mode(text).is_err(), "{text}");
        }
    }
}
