//! `namespace`: the namespaces of a pool.

use ceph_conf::Overrides;
use clap::{Args as ClapArgs, Subcommand};
use serde_json::json;

use crate::cluster::Cluster;
use crate::dry_run::DryRun;
use crate::output::FormatArgs;
use crate::report::Error;
use crate::spec::{PoolArgs, PoolNameArgs, PoolSpec, UsageError};
use crate::text;

#[derive(Debug, Subcommand)]
pub(crate) enum NamespaceCommand {
    /// Make a namespace.
    #[command(visible_alias = "add")]
    Create(NamespaceArgs),
    /// List the namespaces of a pool.
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Remove a namespace that has no images.
    #[command(visible_alias = "remove")]
    Rm(RmArgs),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct NamespaceArgs {
    #[command(flatten)]
    pool: PoolArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RmArgs {
    #[command(flatten)]
    pool: PoolArgs,
    #[command(flatten)]
    dry_run: DryRun,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct LsArgs {
    #[command(flatten)]
    pool: PoolNameArgs,
    #[command(flatten)]
    format: FormatArgs,
}

pub(crate) async fn run(command: &NamespaceCommand, overrides: &Overrides) -> Result<(), Error> {
    let cluster = Cluster::connect(overrides).await?;
    match command {
        NamespaceCommand::Create(args) => {
            let (PoolSpec { pool, .. }, namespace) = resolve(&args.pool)?;
            let store = cluster.pool_by_name(&pool, None).await?;
            rbd::create_namespace(&store, &namespace)
                .await
                .map_err(|source| cluster.failed("create namespace", format!("{pool}/{namespace}"), source))
        }
        NamespaceCommand::Ls(args) => ls(&cluster, args).await,
        NamespaceCommand::Rm(args) => rm(&cluster, args).await,
    }
}

async fn ls(cluster: &Cluster, args: &LsArgs) -> Result<(), Error> {
    let pool = args.pool.resolve()?;
    let store = cluster.pool_by_name(&pool, None).await?;
    let mut names = rbd::list_namespaces(&store)
        .await
        .map_err(|source| cluster.failed("list the namespaces of", &pool, source))?;
    names.sort();
    args.format.print(
        || names.iter().map(|name| json!({ "name": name })).collect(),
        || text::listing(["NAME"], names.iter().map(|name| [name.clone()])),
    )
}

async fn rm(cluster: &Cluster, args: &RmArgs) -> Result<(), Error> {
    let (PoolSpec { pool, .. }, namespace) = resolve(&args.pool)?;
    let store = cluster.pool_by_name(&pool, None).await?;
    let spec = format!("{pool}/{namespace}");
    let failed = |source| cluster.failed("remove namespace", &spec, source);
    if args.dry_run.dry_run {
        rbd::check_remove_namespace(&store, &namespace).await.map_err(failed)?;
        return args.dry_run.would(&format!("remove namespace {spec}"));
    }
    rbd::remove_namespace(&store, &namespace).await.map_err(failed)
}

/// A namespace, which has to be named.
fn resolve(args: &PoolArgs) -> Result<(PoolSpec, String), Error> {
    let spec = args.resolve()?;
    let namespace = spec.namespace.clone().ok_or(UsageError::Missing { what: "namespace name" })?;
    Ok((spec, namespace))
}
