//! `config global`: options of block devices that the monitors keep for all clients, or for one.

use std::collections::BTreeMap;

use ceph_conf::Overrides;
use clap::{Args as ClapArgs, Subcommand};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::output::{self, FormatArgs};
use crate::report::Error;
use crate::spec::{Positionals, UsageError};
use crate::text;

#[derive(Debug, Subcommand)]
pub(crate) enum GlobalConfigCommand {
    /// List the options that are set for everybody, for clients, or for one client.
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Print the value that is set for exactly these.
    Get(KeyArgs),
    /// Set an option.
    Set(ValueArgs),
    /// Have the default of an option again.
    #[command(visible_alias = "remove")]
    Rm(KeyArgs),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct LsArgs {
    /// For whom: global, client or client.ID
    #[arg(value_name = "ENTITY")]
    entity: Option<String>,
    #[command(flatten)]
    format: FormatArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct KeyArgs {
    /// For whom (global, client or client.ID), and the option
    #[arg(value_names = ["ENTITY", "KEY"], num_args = 0..=2)]
    arguments: Vec<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ValueArgs {
    /// For whom (global, client or client.ID), the option, and its value
    #[arg(value_names = ["ENTITY", "KEY", "VALUE"], num_args = 0..=3)]
    arguments: Vec<String>,
}

pub(super) async fn run(command: &GlobalConfigCommand, overrides: &Overrides) -> Result<(), Error> {
    match command {
        GlobalConfigCommand::Ls(args) => ls(args, overrides).await,
        GlobalConfigCommand::Get(args) => {
            let (entity, option) = args.resolve()?;
            match list(&Cluster::connect(overrides).await?, entity).await?.get(option) {
                Some(found) if found.section == entity => output::write(&format!("{}\n", found.value)),
                _ => Err(Error::NoGlobalConfig { entity: entity.to_owned(), option: option.to_owned() }),
            }
        }
        GlobalConfigCommand::Set(args) => {
            let mut arguments = Positionals::new(&args.arguments);
            let (entity, option) = entity_and_option(&mut arguments)?;
            // The monitors know what an option takes, and that an empty value is none.
            let value = arguments.next().unwrap_or_default();
            arguments.end()?;
            let command = json!({ "prefix": "config set", "who": entity, "name": option, "value": value });
            Cluster::connect(overrides).await?.command("set an option", &command).await.map(drop)
        }
        GlobalConfigCommand::Rm(args) => {
            let (entity, option) = args.resolve()?;
            let command = json!({ "prefix": "config rm", "who": entity, "name": option });
            Cluster::connect(overrides).await?.command("remove an option", &command).await.map(drop)
        }
    }
}

async fn ls(args: &LsArgs, overrides: &Overrides) -> Result<(), Error> {
    let entity = entity(&mut Positionals::new(args.entity.as_slice()))?;
    let options = list(&Cluster::connect(overrides).await?, entity).await?;
    args.format.print(|| options.values().map(Entry::to_json).collect(), || to_table(&options))
}

/// What `ceph config dump` tells of an option.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    section: String,
    name: String,
    value: String,
}

impl Entry {
    fn from_json(json: &Value) -> Option<Self> {
        let field = |name: &str| Some(json.get(name)?.as_str()?.to_owned());
        Some(Self { section: field("section")?, name: field("name")?, value: field("value")? })
    }

    fn to_json(&self) -> Value {
        json!({ "name": self.name, "value": self.value, "section": self.section })
    }
}

/// Nothing at all if there are none, as with `rbd`.
fn to_table(options: &BTreeMap<String, Entry>) -> String {
    if options.is_empty() {
        return String::new();
    }
    let rows = options.values().map(|entry| [entry.name.clone(), entry.value.clone(), entry.section.clone()]);
    text::listing(["Name", "Value", "Section"], rows)
}

async fn list(cluster: &Cluster, entity: &str) -> Result<BTreeMap<String, Entry>, Error> {
    let dump = cluster.ask("list the options", &json!({ "prefix": "config dump", "format": "json" })).await?;
    let entries = dump.as_array().into_iter().flatten().filter_map(Entry::from_json);
    Ok(effective(entries.collect(), entity))
}

/// The options of block devices that an entity has, each from the section that is closest to it.
///
/// Ceph: `config_global_list` in `src/tools/rbd/action/Config.cc`.
fn effective(entries: Vec<Entry>, entity: &str) -> BTreeMap<String, Entry> {
    let rank = |section: &str| match section {
        "global" => Some(0),
        "client" if entity != "global" => Some(1),
        _ if entity.starts_with("client.") && section == entity => Some(2),
        _ => None,
    };
    let mut options: BTreeMap<String, Entry> = BTreeMap::new();
    for entry in entries.into_iter().filter(|entry| entry.name.starts_with(PREFIX)) {
        let known = options.get(&entry.name).and_then(|known| rank(&known.section));
        if rank(&entry.section) > known {
            options.insert(entry.name.clone(), entry);
        }
    }
    options
}

const PREFIX: &str = "rbd_";

impl KeyArgs {
    fn resolve(&self) -> Result<(&str, &str), Error> {
        let mut arguments = Positionals::new(&self.arguments);
        let found = entity_and_option(&mut arguments)?;
        arguments.end()?;
        Ok(found)
    }
}

fn entity_and_option<'a>(arguments: &mut Positionals<'a>) -> Result<(&'a str, &'a str), Error> {
    let entity = entity(arguments)?;
    let option = arguments.required("key")?;
    // Options of the whole client count as well, not only those that pools can have: the monitors know them all.
    if !option.starts_with(PREFIX) {
        return Err(UsageError::NoRbdOption { option: option.to_owned() }.into());
    }
    Ok((entity, option))
}

fn entity<'a>(arguments: &mut Positionals<'a>) -> Result<&'a str, Error> {
    let entity = arguments.required("config entity")?;
    if entity != "global" && entity != "client" && !entity.starts_with("client.") {
        return Err(UsageError::ConfigEntity { entity: entity.to_owned() }.into());
    }
    Ok(entity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_section_counts() {
        let entry = |section: &str, name: &str, value: &str| Entry {
            section: section.to_owned(),
            name: name.to_owned(),
            value: value.to_owned(),
        };
        let dump = vec![
            entry("client.a", "rbd_cache", "a"),
            entry("global", "rbd_cache", "all"),
            entry("client", "rbd_cache", "clients"),
            entry("client", "rbd_plugins", "x"),
            entry("global", "mon_host", "y"),
            entry("osd", "rbd_cache", "osd"),
        ];
        let of = |entity: &str| {
            let options = effective(dump.clone(), entity);
            (options.get("rbd_cache").map(|entry| entry.value.clone()).unwrap_or_default(), options.len())
        };
        assert_eq!(of("global"), ("all".to_owned(), 1));
        assert_eq!(of("client"), ("clients".to_owned(), 2));
        assert_eq!(of("client.a"), ("a".to_owned(), 2));
        assert_eq!(of("client.b"), ("clients".to_owned(), 2));
    }
}
