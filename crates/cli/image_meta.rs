//! `image-meta`: pairs of keys and values that an image carries.

use ceph_conf::Overrides;
use clap::{Args as ClapArgs, Subcommand};
use rbd::MaintenanceError;
use serde_json::{Map, Value};

use crate::cluster::Cluster;
use crate::output;
use crate::report::Error;
use crate::spec::{ImageOptions, Positionals, ShowArgs};
use crate::target::Target;
use crate::text;

#[derive(Debug, Subcommand)]
pub(crate) enum ImageMetaCommand {
    /// List keys and values.
    #[command(visible_alias = "list")]
    Ls(ShowArgs),
    /// Print the value of a key.
    Get(KeyArgs),
    /// Give a key a value.
    Set(ValueArgs),
    /// Take a key and its value away.
    #[command(visible_alias = "remove")]
    Rm(KeyArgs),
}

/// An image and a key.
#[derive(Debug, ClapArgs)]
pub(crate) struct KeyArgs {
    /// The image, and the key
    #[arg(value_names = ["IMAGE-SPEC", "KEY"], num_args = 0..=2)]
    arguments: Vec<String>,
    #[command(flatten)]
    image: ImageOptions,
}

impl KeyArgs {
    pub(crate) fn resolve(&self, overrides: &Overrides) -> Result<(Target, &str), Error> {
        let mut arguments = Positionals::new(&self.arguments);
        let target = self.image.resolve(&mut arguments, overrides)?;
        let key = arguments.required("key")?;
        arguments.end()?;
        Ok((target, key))
    }
}

/// An image, a key and its value.
#[derive(Debug, ClapArgs)]
pub(crate) struct ValueArgs {
    /// The image, the key, and its value
    #[arg(value_names = ["IMAGE-SPEC", "KEY", "VALUE"], num_args = 0..=3)]
    arguments: Vec<String>,
    #[command(flatten)]
    image: ImageOptions,
}

impl ValueArgs {
    pub(crate) fn resolve(&self, overrides: &Overrides) -> Result<(Target, &str, &str), Error> {
        let mut arguments = Positionals::new(&self.arguments);
        let target = self.image.resolve(&mut arguments, overrides)?;
        let key = arguments.required("key")?;
        let value = arguments.required("value")?;
        arguments.end()?;
        Ok((target, key, value))
    }
}

pub(crate) async fn run(command: &ImageMetaCommand, overrides: &Overrides) -> Result<(), Error> {
    match command {
        ImageMetaCommand::Ls(args) => ls(args, overrides).await,
        ImageMetaCommand::Get(args) => get(args, overrides).await,
        ImageMetaCommand::Set(args) => {
            let (target, key, value) = args.resolve(overrides)?;
            set(&target, key, value).await
        }
        ImageMetaCommand::Rm(args) => {
            let (target, key) = args.resolve(overrides)?;
            Cluster::change(&target, "remove metadata of", async |image| image.remove_metadata(key).await)
                .await
        }
    }
}

async fn get(args: &KeyArgs, overrides: &Overrides) -> Result<(), Error> {
    let (target, key) = args.resolve(overrides)?;
    let cluster = Cluster::connect(&target.overrides).await?;
    match cluster.metadata(&target).await?.get(key) {
        Some(value) => output::write(&format!("{}\n", String::from_utf8_lossy(value))),
        None => {
            let missing = MaintenanceError::NoMetadata { key: key.to_owned() };
            Err(cluster.failed("read the metadata of", &target.spec, missing))
        }
    }
}

async fn set(target: &Target, key: &str, value: &str) -> Result<(), Error> {
    // Keys that begin like this are options, and librbd does not open images with options that make no sense.
    if let Some(option) = key.strip_prefix(CONFIG_PREFIX) {
        rbd::check_image_option(option, value)?;
    }
    Cluster::change(target, "set metadata of", async |image| image.set_metadata(key, value).await).await
}

/// What the keys of an image's options begin with. Ceph: `METADATA_CONF_PREFIX` in `src/tools/rbd/action/Config.cc`.
pub(crate) const CONFIG_PREFIX: &str = "conf_";

async fn ls(args: &ShowArgs, overrides: &Overrides) -> Result<(), Error> {
    let target = args.image.resolve(overrides)?;
    let metadata = Cluster::connect(&target.overrides).await?.metadata(&target).await?;
    let pairs: Vec<(String, String)> = metadata
        .into_iter()
        .map(|(key, value)| (key, String::from_utf8_lossy(&value).into_owned()))
        .collect();
    args.format.print(
        || {
            pairs
                .iter()
                .map(|(key, value)| (key.clone(), Value::from(value.as_str())))
                .collect::<Map<_, _>>()
                .into()
        },
        || to_text(&pairs),
    )
}

/// Ceph: `do_metadata_list` in `src/tools/rbd/action/ImageMeta.cc`.
fn to_text(pairs: &[(String, String)]) -> String {
    match pairs {
        [] => "There are 0 metadata on this image.\n".to_owned(),
        pairs => {
            let title = match pairs.len() {
                1 => "There is 1 metadatum on this image:".to_owned(),
                count => format!("There are {count} metadata on this image:"),
            };
            let rows = pairs.iter().map(|(key, value)| [key.clone(), value.clone()]);
            format!("{title}\n\n{}", text::listing(["Key", "Value"], rows))
        }
    }
}
