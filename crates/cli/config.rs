//! `config`: options that an image, a pool or a client has values of its own for.

mod global;
mod pool;

use ceph_conf::Overrides;
use clap::Subcommand;
use rbd::{ConfigError, ConfigOption, MaintenanceError, OperationError};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::image_meta::{CONFIG_PREFIX, KeyArgs, ValueArgs};
use crate::output;
use crate::report::Error;
use crate::spec::ShowArgs;
use crate::text;
use global::GlobalConfigCommand;
use pool::PoolConfigCommand;

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Options of an image.
    #[command(subcommand)]
    Image(ImageConfigCommand),
    /// Options of a pool, for all images in it that have no value of their own.
    #[command(subcommand)]
    Pool(PoolConfigCommand),
    /// Options of all clients, or of one.
    #[command(subcommand)]
    Global(GlobalConfigCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageConfigCommand {
    /// List all options, their values for the image, and where these come from.
    #[command(visible_alias = "list")]
    Ls(ShowArgs),
    /// Print the value that the image has of its own.
    Get(KeyArgs),
    /// Give the image a value of its own.
    Set(ValueArgs),
    /// Take the image's own value away.
    #[command(visible_alias = "remove")]
    Rm(KeyArgs),
}

pub(crate) async fn run(command: &ConfigCommand, overrides: &Overrides) -> Result<(), Error> {
    match command {
        ConfigCommand::Image(command) => run_image(command, overrides).await,
        ConfigCommand::Pool(command) => pool::run(command, overrides).await,
        ConfigCommand::Global(command) => global::run(command, overrides).await,
    }
}

async fn run_image(command: &ImageConfigCommand, overrides: &Overrides) -> Result<(), Error> {
    match command {
        ImageConfigCommand::Ls(args) => ls(args, overrides).await,
        ImageConfigCommand::Get(args) => get(args, overrides).await,
        ImageConfigCommand::Set(args) => {
            let (target, option, value) = args.resolve(overrides)?;
            rbd::check_image_option(option, value)?;
            let key = format!("{CONFIG_PREFIX}{option}");
            Cluster::change(&target, "set an option of", async |image| image.set_metadata(&key, value).await)
                .await
        }
        ImageConfigCommand::Rm(args) => rm(args, overrides).await,
    }
}

async fn ls(args: &ShowArgs, overrides: &Overrides) -> Result<(), Error> {
    let target = args.image.resolve(overrides)?;
    let cluster = Cluster::connect(&target.overrides).await?;
    let metadata = cluster
        .metadata(&target)
        .await?
        .into_iter()
        .map(|(key, value)| (key, String::from_utf8_lossy(&value).into_owned()))
        .collect();
    let pool = cluster.pool(&target.spec).await?;
    let options = rbd::list_image_config(&pool, &cluster.config(), &metadata)
        .await
        .map_err(|source| cluster.failed("list the options of", &target.spec, source))?;
    args.format.print(|| options.iter().map(to_json).collect(), || to_text(&options))
}

async fn get(args: &KeyArgs, overrides: &Overrides) -> Result<(), Error> {
    let (target, key) = args.resolve(overrides)?;
    check_key(key)?;
    let cluster = Cluster::connect(&target.overrides).await?;
    match cluster.metadata(&target).await?.get(&format!("{CONFIG_PREFIX}{key}")) {
        Some(value) => output::write(&format!("{}\n", String::from_utf8_lossy(value))),
        None => {
            let unset = ConfigError::NotSet { option: key.to_owned() };
            Err(cluster.failed("read an option of", &target.spec, unset))
        }
    }
}

async fn rm(args: &KeyArgs, overrides: &Overrides) -> Result<(), Error> {
    let (target, option) = args.resolve(overrides)?;
    check_key(option)?;
    let key = format!("{CONFIG_PREFIX}{option}");
    Cluster::change(&target, "remove an option of", async |image| {
        image.remove_metadata(&key).await.map_err(|error| match error {
            OperationError::Maintenance(MaintenanceError::NoMetadata { .. }) => {
                ConfigError::NotSet { option: option.to_owned() }.into()
            }
            other => other,
        })
    })
    .await
}

/// Refuses what is no option of images.
fn check_key(key: &str) -> Result<(), Error> {
    match rbd::check_image_option(key, "") {
        Err(error @ ConfigError::UnknownOption { .. }) => Err(Error::Option(error)),
        _ => Ok(()),
    }
}

/// Ceph: `execute_image_list` in `src/tools/rbd/action/Config.cc`.
fn to_json(option: &ConfigOption) -> Value {
    json!({ "name": option.name, "value": option.value, "source": option.source.name() })
}

fn to_text(options: &[ConfigOption]) -> String {
    let title = match options.len() {
        1 => "There is 1 value:".to_owned(),
        count => format!("There are {count} values:"),
    };
    format!("{title}\n{}", to_table(options))
}

fn to_table(options: &[ConfigOption]) -> String {
    let rows = options
        .iter()
        .map(|option| [option.name.to_owned(), option.value.clone(), option.source.name().to_owned()]);
    text::listing(["Name", "Value", "Source"], rows)
}
