//! The command line of `serve`.

use std::path::PathBuf;

use clap::Args as ClapArgs;

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

    /// Take the exclusive lock at once and hand it over to nobody, as `rbd device map --exclusive`; fails if another
    /// client has it and keeps it. Without, the lock goes to whoever asks for it. Snapshots need no lock.
    #[arg(long, conflicts_with = "read_only")]
    pub(crate) exclusive: bool,

    /// Leave here what lets the next server, after a crash of this one, take over the exclusive lock at once instead of
    /// after half a minute. On a local file system [default: $STATE_DIRECTORY, $RUNTIME_DIRECTORY,
    /// $XDG_STATE_HOME/rbd-nbd-rs, for root /var/lib/rbd-nbd-rs, else ~/.local/state/rbd-nbd-rs]
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,

    /// Threads to spread the exports over [default: the smaller of the numbers of CPUs and exports]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) shards: Option<u16>,
}

const SERVE_NOTES: &str = "\
The last line on standard output is for QEMU. SIGTERM or SIGINT finish the requests under way, give the exclusive \
lock back and exit with 0; a second one exits at once.";

fn parse_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("expected three octal digits such as 660".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::Args;

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
