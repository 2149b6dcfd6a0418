//! The configuration of block devices: that of the client, and what pools and images override of it.
//!
//! A pool's overrides are metadata of the object `rbd_info` of its default namespace, an image's are metadata of its
//! header; in both cases the key is `conf_` and the option's name.
//!
//! Ceph: `src/librbd/api/Config.cc`, `src/librbd/api/PoolMetadata.cc`.

mod options;

use std::collections::BTreeMap;

use ceph_codec::SnapId;
use rados::{Errno, OpError, Operation, SnapContext};
use thiserror::Error;
use tracing::{debug, warn};

use crate::cls;
use crate::names::POOL_INFO;
use crate::operations::failed;
use crate::{ObjectStore, OperationError};
use options::{KnownOption, OPTIONS};

/// Keys of metadata that override configuration.
const CONF_PREFIX: &str = "conf_";

/// Metadata pairs to ask for at once.
const PAGE: u64 = 64;

/// What options of block devices a client has, by its own configuration and that of the cluster. Those not set have
/// Ceph's defaults.
///
/// ```
/// let mut config = rbd::Config::default();
/// config.set("rbd_default_order", "23").unwrap();
/// assert!(config.set("rbd_default_order", "large").is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    values: BTreeMap<&'static str, String>,
    /// Not in the table: neither pools nor images can have values of their own.
    skip_validation: bool,
}

/// An option, its value, and who set it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigOption {
    /// Its name.
    pub name: &'static str,
    /// Its value.
    pub value: String,
    /// Where the value comes from.
    pub source: ConfigSource,
}

/// Where the value of an option comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigSource {
    /// The client's configuration, or Ceph's defaults.
    Config,
    /// The pool overrides the configuration.
    Pool,
    /// The image overrides the pool.
    Image,
}

impl ConfigSource {
    /// The word that `rbd config image ls` prints.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Pool => "pool",
            Self::Image => "image",
        }
    }
}

/// Why an option cannot be set.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// There is no such option, or it cannot be set there.
    #[error("{option} is not an option of {of}")]
    UnknownOption {
        /// Its name.
        option: String,
        /// "pools" or "images".
        of: &'static str,
    },
    /// The value is not what the option takes.
    #[error("{option} cannot be '{value}', only {expected}")]
    InvalidValue {
        /// Name of the option.
        option: &'static str,
        /// What it was to be.
        value: String,
        /// What it can be.
        expected: String,
    },
    /// The option has no value of its own there.
    #[error("{option} is not set")]
    NotSet {
        /// Its name.
        option: String,
    },
}

impl ConfigError {
    pub(crate) fn errno(&self) -> Errno {
        match self {
            Self::UnknownOption { .. } | Self::InvalidValue { .. } => Errno::EINVAL,
            Self::NotSet { .. } => Errno::ENOENT,
        }
    }
}

impl Config {
    /// Sets an option of the client. Options that block devices do not have are ignored.
    ///
    /// # Errors
    /// [`ConfigError::InvalidValue`]; nothing is changed then.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), ConfigError> {
        if name == "rbd_validate_pool" {
            self.skip_validation = options::Kind::Bool.normalize(value).as_deref() == Some("false");
        } else if let Some(option) = find(name) {
            self.values.insert(option.name, checked(option, value)?);
        }
        Ok(())
    }

    /// The value of an option; empty if there is no such option.
    pub(crate) fn get(&self, name: &str) -> &str {
        let default = || find(name).map_or("", |option| option.default);
        self.values.get(name).map_or_else(default, String::as_str)
    }

    /// The value of an option that is true or false.
    #[must_use]
    pub fn is_set(&self, name: &str) -> bool {
        self.get(name) == "true"
    }

    /// The value of an option that is a number.
    pub(crate) fn number(&self, name: &str) -> u64 {
        // All values were checked when they were set.
        self.get(name).parse().unwrap_or(0)
    }

    /// Whether pools are tried out before the first image is made in them.
    pub(crate) fn validates_pools(&self) -> bool {
        !self.skip_validation
    }

    /// This configuration with what is overridden of it. Values that make no sense are ignored.
    pub(crate) fn overridden(&self, overrides: &BTreeMap<String, String>) -> Self {
        let mut config = self.clone();
        for (name, value) in overrides {
            if let Err(error) = config.set(name, value) {
                debug!(%error, "an option is ignored");
            }
        }
        config
    }

    /// This configuration with what the pool overrides of it. Overrides that cannot be read, or make no sense, are
    /// ignored, as librbd does it.
    pub(crate) async fn of_pool<S: ObjectStore>(&self, store: &S) -> Self {
        self.overridden(&pool_overrides_or_none(store).await)
    }
}

fn find(name: &str) -> Option<&'static KnownOption> {
    OPTIONS.binary_search_by_key(&name, |option| option.name).ok().map(|index| &OPTIONS[index])
}

fn checked(option: &KnownOption, value: &str) -> Result<String, ConfigError> {
    option.kind.normalize(value).ok_or_else(|| ConfigError::InvalidValue {
        option: option.name,
        value: value.to_owned(),
        expected: option.kind.expected(),
    })
}

/// Checks an option that an image is to have a value of its own for; metadata `conf_<name>` override it then.
///
/// # Errors
/// [`ConfigError`] if an image cannot, or not this value.
pub fn check_image_option(name: &str, value: &str) -> Result<(), ConfigError> {
    check(name, value, true)
}

/// Checks that a pool can have a value of its own for an option.
///
/// # Errors
/// [`ConfigError::UnknownOption`].
pub fn check_pool_option(name: &str) -> Result<(), ConfigError> {
    let unknown = || ConfigError::UnknownOption { option: name.to_owned(), of: "pools" };
    find(name).map(drop).ok_or_else(unknown)
}

fn check(name: &str, value: &str, image: bool) -> Result<(), ConfigError> {
    let option = find(name).filter(|option| !image || option.for_images).ok_or_else(|| {
        ConfigError::UnknownOption { option: name.to_owned(), of: if image { "images" } else { "pools" } }
    })?;
    checked(option, value).map(drop)
}

/// All options that a pool can have values of its own for, by name, as `rbd config pool ls` of the cluster's release
/// shows them.
///
/// # Errors
/// [`OperationError::Op`].
pub async fn list_pool_config<S: ObjectStore>(
    store: &S,
    config: &Config,
) -> Result<Vec<ConfigOption>, OperationError> {
    let pool = pool_overrides(store).await.map_err(failed("read the pool's configuration"))?;
    Ok(effective(config, &pool, &BTreeMap::new(), |option| option.since <= store.release()))
}

/// All options that an image can have values of its own for, by name, as `rbd config image ls` of the cluster's release
/// shows them. `metadata` is that of the image.
///
/// # Errors
/// [`OperationError::Op`].
pub async fn list_image_config<S: ObjectStore>(
    store: &S,
    config: &Config,
    metadata: &BTreeMap<String, String>,
) -> Result<Vec<ConfigOption>, OperationError> {
    let pool = pool_overrides(store).await.map_err(failed("read the pool's configuration"))?;
    let is_listed = |option: &KnownOption| option.for_images && option.since <= store.release();
    Ok(effective(config, &pool, metadata, is_listed))
}

fn effective(
    config: &Config,
    pool: &BTreeMap<String, String>,
    image_metadata: &BTreeMap<String, String>,
    listed: impl Fn(&KnownOption) -> bool,
) -> Vec<ConfigOption> {
    let of = |option: &KnownOption| {
        let own = image_metadata.get(&format!("{CONF_PREFIX}{}", option.name));
        let (value, source) = match (own, pool.get(option.name)) {
            (Some(value), _) => (value.clone(), ConfigSource::Image),
            (None, Some(value)) => (value.clone(), ConfigSource::Pool),
            (None, None) => (config.get(option.name).to_owned(), ConfigSource::Config),
        };
        ConfigOption { name: option.name, value, source }
    };
    OPTIONS.iter().filter(|option| listed(option)).map(of).collect()
}

/// The value that the pool has for an option of its own.
///
/// # Errors
/// [`ConfigError::NotSet`] in [`OperationError::Config`] if it has none.
pub async fn pool_config<S: ObjectStore>(store: &S, name: &str) -> Result<String, OperationError> {
    let mut overrides = pool_overrides(store).await.map_err(failed("read the pool's configuration"))?;
    overrides.remove(name).ok_or_else(|| ConfigError::NotSet { option: name.to_owned() }.into())
}

/// Gives the pool a value of its own for an option. Clients that run hear of it.
///
/// # Errors
/// [`ConfigError`] in [`OperationError::Config`] if it cannot have that, else [`OperationError::Op`].
pub async fn set_pool_config<S: ObjectStore>(
    store: &S,
    name: &str,
    value: &str,
) -> Result<(), OperationError> {
    check(name, value, false)?;
    let key = format!("{CONF_PREFIX}{name}");
    let operation = cls::header::metadata_set(Operation::new(), &key, value.as_bytes());
    change(store, operation).await
}

/// Takes the pool's own value of an option away. Clients that run hear of it.
///
/// # Errors
/// [`ConfigError::NotSet`] in [`OperationError::Config`] if it has none, else [`OperationError::Op`].
pub async fn remove_pool_config<S: ObjectStore>(store: &S, name: &str) -> Result<(), OperationError> {
    pool_config(store, name).await?;
    change(store, cls::header::metadata_remove(Operation::new(), &format!("{CONF_PREFIX}{name}"))).await
}

async fn change<S: ObjectStore>(store: &S, operation: Operation) -> Result<(), OperationError> {
    let doing = "change the pool's configuration";
    let store = store.with_pool(store.pool(), "").map_err(failed(doing))?;
    store.write(POOL_INFO, operation, &SnapContext::default()).await.map_err(failed(doing))?;
    if let Err(error) = store.announce_config_change().await {
        warn!(pool = store.pool_name(), %error, "clients that run do not hear of the pool's new configuration");
    }
    Ok(())
}

/// What the pool overrides, as far as that makes sense and can be read: librbd does without the rest, too.
pub(crate) async fn pool_overrides_or_none<S: ObjectStore>(store: &S) -> BTreeMap<String, String> {
    match pool_overrides(store).await {
        Ok(mut overrides) => {
            overrides.retain(|name, value| match Config::default().set(name, value) {
                Ok(()) => true,
                Err(error) => {
                    warn!(pool = store.pool_name(), %error, "an option of the pool is ignored");
                    false
                }
            });
            overrides
        }
        Err(error) => {
            warn!(pool = store.pool_name(), %error, "cannot read the pool's configuration");
            BTreeMap::new()
        }
    }
}

/// Those of `pool` and `image` that have no effect on how an image is served, although they ask for something else than
/// Ceph's default.
pub(crate) fn ignored(
    config: &Config,
    pool: &BTreeMap<String, String>,
    image: &BTreeMap<String, String>,
) -> Vec<ConfigOption> {
    let metadata =
        image.iter().map(|(name, value)| (format!("{CONF_PREFIX}{name}"), value.clone())).collect();
    let mut options = effective(config, pool, &metadata, |option| option.for_images && !option.is_honoured());
    options.retain(|option| {
        let default = find(option.name).map(|known| (known.default, known.kind.normalize(&option.value)));
        option.source != ConfigSource::Config
            && (option.name, option.value.as_str()) != ("rbd_cache", "false")
            && default.is_some_and(|(default, value)| value.as_deref() != Some(default))
    });
    options
}

/// Names and values, of options that are known or not.
async fn pool_overrides<S: ObjectStore>(store: &S) -> Result<BTreeMap<String, String>, OpError> {
    let store = store.with_pool(store.pool(), "")?;
    let mut overrides = BTreeMap::new();
    let mut after = CONF_PREFIX.to_owned();
    loop {
        let (operation, slot) = cls::metadata_list(&after, PAGE).alone();
        let page = match store.read(POOL_INFO, operation, SnapId::HEAD).await {
            Err(error) if error.is(Errno::ENOENT) => return Ok(overrides),
            reply => slot.get(&reply?)?,
        };
        let Some(last) = page.last_key_value().map(|(key, _)| key.clone()) else { return Ok(overrides) };
        let more = page.len() as u64 >= PAGE && last > after;
        for (key, value) in page {
            // Keys are in order: the first of another kind ends those of this kind.
            let Some(name) = key.strip_prefix(CONF_PREFIX) else { return Ok(overrides) };
            overrides.insert(name.to_owned(), String::from_utf8_lossy(&value).into_owned());
        }
        if !more {
            return Ok(overrides);
        }
        after = last;
    }
}

#[cfg(test)]
mod tests {
    use rados::Release;

    use super::*;
    use crate::MemStore;

    #[test]
    fn the_table_is_sorted_and_its_defaults_are_as_shown() {
        assert!(OPTIONS.is_sorted_by(|a, b| a.name < b.name));
        for option in OPTIONS {
            assert_eq!(
                option.kind.normalize(option.default).as_deref(),
                Some(option.default),
                "{}",
                option.name
            );
        }
    }

    #[test]
    fn values_are_shown_as_ceph_shows_them() {
        let mut config = Config::default();
        for (name, value, shown) in [
            ("rbd_cache_size", "64M", "67108864"),
            ("rbd_cache_size", "1KiB", ""),
            ("rbd_qos_iops_limit", "2K", "2000"),
            ("rbd_cache", "0", "false"),
            ("rbd_cache", "yes", ""),
            ("rbd_cache_max_dirty_age", "2", "2.000000"),
            ("rbd_default_clone_format", "3", ""),
            ("rbd_qos_exclude_ops", "read, discard", "5"),
            ("rbd_qos_exclude_ops", "16", "16"),
            ("rbd_qos_exclude_ops", "read,sleep", ""),
            ("rbd_qos_exclude_ops", "32", ""),
        ] {
            match config.set(name, value) {
                Ok(()) => assert_eq!(config.get(name), shown, "{name} {value}"),
                Err(error) => assert_eq!(shown, "", "{error}"),
            }
        }
    }

    #[tokio::test]
    async fn an_image_overrides_the_pool_which_overrides_the_client() {
        let store = MemStore::new();
        let mut config = Config::default();
        config.set("rbd_cache", "false").unwrap();
        set_pool_config(&store, "rbd_cache_size", "1M").await.unwrap();
        set_pool_config(&store, "rbd_qos_iops_limit", "5").await.unwrap();
        let metadata = BTreeMap::from([("conf_rbd_qos_iops_limit".to_owned(), "7".to_owned())]);
        let options = list_image_config(&store, &config, &metadata).await.unwrap();
        let of = |name: &str| options.iter().find(|option| option.name == name).unwrap();
        assert_eq!((of("rbd_cache").value.as_str(), of("rbd_cache").source), ("false", ConfigSource::Config));
        assert_eq!((of("rbd_cache_size").value.as_str(), of("rbd_cache_size").source.name()), ("1M", "pool"));
        assert_eq!(of("rbd_qos_iops_limit").value, "7");
        assert!(options.iter().all(|option| option.name != "rbd_default_order"), "not of images");
        assert_eq!(config.of_pool(&store).await.number("rbd_cache_size"), 1 << 20);
    }

    #[tokio::test]
    async fn options_are_listed_from_the_release_on_that_brought_them() {
        let store = MemStore::new();
        for (release, listed) in [(Release::PACIFIC, false), (Release::REEF, true)] {
            store.set_release(release);
            for options in [
                list_image_config(&store, &Config::default(), &BTreeMap::new()).await.unwrap(),
                list_pool_config(&store, &Config::default()).await.unwrap(),
            ] {
                let is_there = options.iter().any(|option| option.name == "rbd_qos_exclude_ops");
                assert_eq!(is_there, listed, "{release:?}");
            }
        }
    }

    #[tokio::test]
    async fn what_a_pool_cannot_have_is_refused() {
        let store = MemStore::new();
        for (name, value) in [("rbd_validate_pool", "false"), ("rbd_cache", "maybe")] {
            let error = set_pool_config(&store, name, value).await.unwrap_err();
            assert_eq!(error.errno(), Errno::EINVAL, "{error}");
        }
        assert_eq!(remove_pool_config(&store, "rbd_cache").await.unwrap_err().errno(), Errno::ENOENT);
    }
}
