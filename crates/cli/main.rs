//! `rbd-nbd-rs`: serves RBD images over NBD, and tells what they are.
//!
//! ```text
//!  args, target     what was asked for
//!  cluster          a connection to it, and what can go wrong on the way
//!  serve            exports, shards, sockets, signals    device   an image as a block device
//!  info, ls, status what `rbd` prints, too               text     sizes, dates, tables
//!  report           errors as one sentence and advice    log      the rest, to standard error
//! ```

mod args;
mod cluster;
mod device;
mod harden;
mod info;
mod log;
mod ls;
mod report;
mod serve;
mod status;
mod target;
mod text;

use std::future::Future;
use std::process::ExitCode;

use clap::Parser;

use args::{Args, Command};
use report::Error;

/// Large buffers come and go with every request. The allocator of glibc gives their pages back to the kernel each
/// time and faults them in again: a quarter more CPU per request of 1 MiB.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args = Args::parse();
    log::init(&args.log);
    harden::forbid_core_dumps();
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report::print(&error);
            error.exit_code()
        }
    }
}

fn run(args: Args) -> Result<(), Error> {
    let overrides = args.cluster.overrides();
    match args.command {
        Command::Serve(args) => serve::run(&args, &overrides),
        Command::Info(args) => block_on(info::run(&args, &overrides)),
        Command::Ls(args) => block_on(ls::run(&args, &overrides)),
        Command::Status(args) => block_on(status::run(&args, &overrides)),
    }
}

/// Runs everything on this thread.
fn block_on<T>(future: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    serve::runtime()?.block_on(future)
}
