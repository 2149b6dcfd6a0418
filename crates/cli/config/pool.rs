//! `config pool`: options that a pool has values of its own for.

use ceph_conf::Overrides;
use clap::{Args as ClapArgs, Subcommand};

use super::{to_json, to_table};
use crate::cluster::Cluster;
use crate::output::{self, FormatArgs};
use crate::report::Error;
use crate::spec::{Positionals, check_name};

#[derive(Debug, Subcommand)]
pub(crate) enum PoolConfigCommand {
    /// List all options, their values for the pool, and where these come from.
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Print the value that the pool has of its own.
    Get(KeyArgs),
    /// Give the pool a value of its own.
    Set(ValueArgs),
    /// Take the pool's own value away.
    #[command(visible_alias = "remove")]
    Rm(KeyArgs),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct LsArgs {
    /// The pool
    #[arg(value_name = "POOL")]
    pool: Option<String>,
    #[command(flatten)]
    format: FormatArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct KeyArgs {
    /// The pool, and the option
    #[arg(value_names = ["POOL", "KEY"], num_args = 0..=2)]
    arguments: Vec<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ValueArgs {
    /// The pool, the option, and its value
    #[arg(value_names = ["POOL", "KEY", "VALUE"], num_args = 0..=3)]
    arguments: Vec<String>,
}

pub(super) async fn run(command: &PoolConfigCommand, overrides: &Overrides) -> Result<(), Error> {
    match command {
        PoolConfigCommand::Ls(args) => ls(args, overrides).await,
        PoolConfigCommand::Get(args) => {
            let (pool, option) = args.resolve()?;
            let cluster = Cluster::connect(overrides).await?;
            let value = rbd::pool_config(&cluster.pool_by_name(pool, None).await?, option).await;
            output::write(&format!("{}\n", value.map_err(|e| cluster.failed("read an option of", pool, e))?))
        }
        PoolConfigCommand::Set(args) => {
            let (pool, option, value) = args.resolve()?;
            let cluster = Cluster::connect(overrides).await?;
            rbd::set_pool_config(&cluster.pool_by_name(pool, None).await?, option, value)
                .await
                .map_err(|source| cluster.failed("set an option of", pool, source))
        }
        PoolConfigCommand::Rm(args) => {
            let (pool, option) = args.resolve()?;
            let cluster = Cluster::connect(overrides).await?;
            rbd::remove_pool_config(&cluster.pool_by_name(pool, None).await?, option)
                .await
                .map_err(|source| cluster.failed("remove an option of", pool, source))
        }
    }
}

async fn ls(args: &LsArgs, overrides: &Overrides) -> Result<(), Error> {
    let pool = pool_name(&mut Positionals::new(args.pool.as_slice()))?;
    let cluster = Cluster::connect(overrides).await?;
    let store = cluster.pool_by_name(pool, None).await?;
    let options = rbd::list_pool_config(&store, &cluster.config())
        .await
        .map_err(|source| cluster.failed("list the options of", pool, source))?;
    args.format.print(|| options.iter().map(to_json).collect(), || to_table(&options))
}

impl KeyArgs {
    fn resolve(&self) -> Result<(&str, &str), Error> {
        let mut arguments = Positionals::new(&self.arguments);
        let (pool, option) = (pool_name(&mut arguments)?, arguments.required("key")?);
        arguments.end()?;
        rbd::check_pool_option(option)?;
        Ok((pool, option))
    }
}

impl ValueArgs {
    fn resolve(&self) -> Result<(&str, &str, &str), Error> {
        let mut arguments = Positionals::new(&self.arguments);
        let (pool, option) = (pool_name(&mut arguments)?, arguments.required("key")?);
        let value = arguments.required("value")?;
        arguments.end()?;
        rbd::check_pool_option(option)?;
        Ok((pool, option, value))
    }
}

/// There is no default where something is going to be changed for all images.
fn pool_name<'a>(arguments: &mut Positionals<'a>) -> Result<&'a str, Error> {
    let pool = arguments.required("pool name")?;
    check_name("pool", pool)?;
    Ok(pool)
}
