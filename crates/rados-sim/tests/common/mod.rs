//! A runtime on which time passes when nobody has anything to do.
//!
//! Here and not in the library, which is built along with the program: that must not get a clock that can be
//! paused.

#![allow(dead_code, reason = "each test uses what it needs")]

use std::future::Future;

use rados_sim::{Plan, Report, run};

pub(crate) fn paused<T>(future: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().expect("a runtime needs nothing");
    runtime.block_on(future)
}

pub(crate) fn simulate(seed: u64, plan: &Plan, recorded: bool) -> Report {
    paused(run(seed, plan, recorded))
}
