//! `pool`: a pool for images.

use ceph_conf::Overrides;
use clap::{Args as ClapArgs, Subcommand};
use rbd::PoolStats;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::output::FormatArgs;
use crate::report::Error;
use crate::spec::{PoolArgs, PoolNameArgs};
use crate::text;

#[derive(Debug, Subcommand)]
pub(crate) enum PoolCommand {
    /// Make a pool ready for images.
    Init(InitArgs),
    /// Count the images of a pool, and what they could hold.
    Stats(StatsArgs),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct InitArgs {
    #[command(flatten)]
    pool: PoolNameArgs,
    /// Also if the pool is used for something else
    #[arg(long)]
    force: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct StatsArgs {
    #[command(flatten)]
    pool: PoolArgs,
    #[command(flatten)]
    format: FormatArgs,
}

pub(crate) async fn run(command: &PoolCommand, overrides: &Overrides) -> Result<(), Error> {
    let cluster = Cluster::connect(overrides).await?;
    match command {
        PoolCommand::Init(args) => {
            let name = args.pool.resolve()?;
            let pool = cluster.pool_by_name(&name, None).await?;
            rbd::init_pool(&pool, &cluster.config(), args.force)
                .await
                .map_err(|source| cluster.failed("initialize pool", &name, source))
        }
        PoolCommand::Stats(args) => {
            let spec = args.pool.resolve()?;
            let pool = cluster.pool_by_name(&spec.pool, spec.namespace.as_deref()).await?;
            let stats = rbd::pool_stats(&pool, &cluster.config())
                .await
                .map_err(|source| cluster.failed("count the images of", spec.to_string(), source))?;
            args.format.print(|| stats_json(&stats), || stats_text(&stats))
        }
    }
}

/// Ceph: `execute_stats` in `src/tools/rbd/action/Pool.cc`.
fn stats_json(stats: &PoolStats) -> Value {
    let PoolStats { images, trash } = stats;
    json!({
        "images": {
            "count": images.count,
            "provisioned_bytes": images.max_provisioned_bytes,
            "snap_count": images.snapshots,
        },
        "trash": {
            "count": trash.count,
            "provisioned_bytes": trash.max_provisioned_bytes,
            "snap_count": trash.snapshots,
        },
    })
}

fn stats_text(stats: &PoolStats) -> String {
    let PoolStats { images, trash } = stats;
    let in_trash = |what: String| if trash.count > 0 { format!(" ({what} in trash)") } else { String::new() };
    [
        format!("Total Images: {}{}", images.count, in_trash(trash.count.to_string())),
        format!("Total Snapshots: {}{}", images.snapshots, in_trash(trash.snapshots.to_string())),
        format!(
            "Provisioned Size: {}{}",
            text::bytes(images.max_provisioned_bytes),
            in_trash(text::bytes(trash.max_provisioned_bytes))
        ),
    ]
    .map(|line| line + "\n")
    .concat()
}
