//! `rbd-nbd-rs`: serves RBD images over NBD, and tells what they are.
//!
//! ```text
//!  args, spec, target   what was asked for
//!  cluster              a connection to it, and what can go wrong on the way
//!  serve                exports, shards, sockets, signals     device    an image as a block device
//!  info, ls, snap, ...  the commands of `rbd`, one file each  text      sizes, dates, tables
//!  output, progress     results; how far long work has come   report    errors as one sentence and advice
//!  predecessors         proof that a server is dead           log       the rest, to standard error
//! ```

mod args;
mod bench;
mod children;
mod clone;
mod cluster;
mod config;
mod create;
mod device;
mod diff;
mod dry_run;
mod du;
mod export;
mod feature;
mod file;
mod flatten;
mod harden;
mod image_meta;
mod image_options;
mod import;
mod info;
mod lock;
mod log;
mod ls;
mod namespace;
mod object_map;
mod output;
mod pool;
mod predecessors;
mod progress;
mod rename;
mod report;
mod resize;
mod rm;
mod serve;
mod size;
mod snap;
mod spec;
mod status;
mod target;
mod text;
mod trash;
mod watch;

use std::process::ExitCode;

use args::Args;

/// Large buffers come and go with every request. The allocator of glibc gives their pages back to the kernel each
/// time and faults them in again: a quarter more CPU per request of 1 MiB.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args = match Args::from_process() {
        Ok(args) => args,
        Err(error) => {
            // Help and version are errors of the parser, too.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    log::init(&args.log);
    harden::forbid_core_dumps();
    match args.command.run(&args.cluster.overrides()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report::print(&error);
            error.exit_code()
        }
    }
}
