//! A connection to a cluster, and the pools behind image names.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::Bytes;
use ceph_conf::{Config, Environment, ImageSpec, Overrides};
use clap::Args as ClapArgs;
use rados::{Client, ConnectError, Errno, IoCtx, Options};
use rbd::{Image, ImageDetails, OpenOptions, OperationError};

use serde_json::Value;
use tracing::warn;

use crate::report::Error;
use crate::target::Target;

/// Which cluster, and as whom. What is not given comes from `ceph.conf`, `CEPH_CONF`, `CEPH_ARGS`, `CEPH_KEYRING`.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Cluster")]
pub(crate) struct ClusterArgs {
    /// Configuration file [default: /etc/ceph/CLUSTER.conf]
    #[arg(short, long, global = true, value_name = "FILE")]
    conf: Option<PathBuf>,
    /// User, without "client."
    #[arg(long, alias = "user", global = true, value_name = "ID", conflicts_with = "name")]
    id: Option<String>,
    /// User, as TYPE.ID [default: client.admin]
    #[arg(short, long, global = true, value_name = "TYPE.ID")]
    name: Option<String>,
    /// Name of the cluster, which is part of default paths [default: ceph]
    #[arg(long, global = true, value_name = "NAME")]
    cluster: Option<String>,
    /// Keyring with the user's key
    #[arg(short, long, global = true, value_name = "FILE")]
    keyring: Option<PathBuf>,
    /// File that holds nothing but the user's key
    #[arg(short = 'K', long, global = true, value_name = "FILE")]
    keyfile: Option<PathBuf>,
    /// Monitors, as mon_host in the configuration
    #[arg(short, long, global = true, value_name = "HOSTS")]
    mon_host: Option<String>,
}

impl ClusterArgs {
    pub(crate) fn overrides(&self) -> Overrides {
        Overrides {
            conf: self.conf.clone(),
            name: self.name.clone(),
            id: self.id.clone(),
            cluster: self.cluster.clone(),
            mon_host: self.mon_host.clone(),
            keyring: self.keyring.clone(),
            keyfile: self.keyfile.clone(),
            ..Overrides::default()
        }
    }
}

/// A client instance, and who it is.
#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    client: Client,
    /// As keyrings name it: `client.qemu`.
    user: String,
}

impl Cluster {
    pub(crate) async fn connect(overrides: &Overrides) -> Result<Self, Error> {
        let config = ceph_conf::load(&Environment::from_process()?, overrides)?;
        let user = config.entity().to_string();
        match connect(&config).await {
            Ok(client) => Ok(Self { client, user }),
            Err(source) => Err(Error::Connect { user, source: Box::new(source) }),
        }
    }

    /// Connects to the cluster of one image, opens the image to change it, does so and closes it. `doing` is what
    /// is done, as in "cannot resize".
    pub(crate) async fn change<T>(
        target: &Target,
        doing: &'static str,
        change: impl AsyncFnOnce(&Image<IoCtx>) -> Result<T, OperationError>,
    ) -> Result<T, Error> {
        Self::connect(&target.overrides).await?.change_image(target, doing, change).await
    }

    /// Opens an image of this cluster to change it, does so and closes it.
    pub(crate) async fn change_image<T>(
        &self,
        target: &Target,
        doing: &'static str,
        change: impl AsyncFnOnce(&Image<IoCtx>) -> Result<T, OperationError>,
    ) -> Result<T, Error> {
        let whole = target.whole_image();
        let image = self.open(&whole, whole.open_options(false)).await?;
        let outcome = change(&image).await;
        // Also after a failure: the lock is given back, and nobody waits for a watch that is gone.
        image.close().await;
        outcome.map_err(|source| self.failed(doing, &target.spec, source))
    }

    /// Connects to the cluster of one image or snapshot, opens it to read it, does so and closes it. `doing` is what
    /// is done, as in "cannot export".
    pub(crate) async fn read<T>(
        target: &Target,
        doing: &'static str,
        read: impl AsyncFnOnce(&Image<IoCtx>) -> Result<T, OperationError>,
    ) -> Result<T, Error> {
        let cluster = Self::connect(&target.overrides).await?;
        let image = cluster.open(target, target.open_options(true)).await?;
        let outcome = read(&image).await;
        image.close().await;
        outcome.map_err(|source| cluster.failed(doing, &target.spec, source))
    }

    /// Connects to the cluster of one image, and shows that image.
    pub(crate) async fn inspect(target: &Target) -> Result<ImageDetails, Error> {
        Self::connect(&target.overrides).await?.show(target).await
    }

    /// Shows an image.
    pub(crate) async fn show(&self, target: &Target) -> Result<ImageDetails, Error> {
        let pool = self.pool(&target.spec).await?;
        Image::inspect(&pool, &target.open_options(true))
            .await
            .map_err(|source| self.open_error(&target.spec, source))
    }

    pub(crate) async fn open(&self, target: &Target, options: OpenOptions) -> Result<Image<IoCtx>, Error> {
        let pool = self.pool(&target.spec).await?;
        Image::open(pool, options.config(self.config()))
            .await
            .map_err(|source| self.open_error(&target.spec, source))
    }

    pub(crate) async fn pool(&self, spec: &ImageSpec) -> Result<IoCtx, Error> {
        self.pool_by_name(&spec.pool, spec.namespace.as_deref()).await
    }

    pub(crate) async fn pool_by_name(&self, pool: &str, namespace: Option<&str>) -> Result<IoCtx, Error> {
        let found = match self.client.pool(pool).await {
            Err(error) if error.is(Errno::ENOENT) => return Err(Error::NoPool { pool: pool.to_owned() }),
            found => found.map_err(|source| Error::Pool { pool: pool.to_owned(), source })?,
        };
        let Some(namespace) = namespace else { return Ok(found) };
        let found = found.with_namespace(namespace);
        match rbd::namespace_exists(&found, namespace).await {
            Ok(true) => Ok(found),
            Ok(false) => Err(Error::NoNamespace { pool: pool.to_owned(), namespace: namespace.to_owned() }),
            Err(source) => Err(self.failed("look into", format!("{pool}/{namespace}"), source)),
        }
    }

    /// The options of block devices, from the configuration and the monitors.
    pub(crate) fn config(&self) -> rbd::Config {
        block_device_config(&self.client.config().borrow())
    }

    /// What the monitors answer to a command. `doing` is what it does, as in "cannot set an option".
    pub(crate) async fn command(&self, doing: &'static str, command: &Value) -> Result<Bytes, Error> {
        match self.client.mon_command(command).await {
            Ok(reply) => Ok(reply.output),
            Err(source) => Err(Error::Command { doing, user: self.user.clone(), source }),
        }
    }

    /// The same, of a command that answers in JSON.
    pub(crate) async fn ask(&self, doing: &'static str, command: &Value) -> Result<Value, Error> {
        let output = self.command(doing, command).await?;
        serde_json::from_slice(&output).map_err(|source| Error::CommandOutput { doing, source })
    }

    /// All metadata pairs of an image.
    pub(crate) async fn metadata(&self, target: &Target) -> Result<BTreeMap<String, Vec<u8>>, Error> {
        let pool = self.pool(&target.spec).await?;
        rbd::list_metadata(&pool, &target.image_ref())
            .await
            .map_err(|source| self.open_error(&target.spec, source))
    }

    /// What did not work, on what, and why.
    pub(crate) fn failed(
        &self,
        doing: &'static str,
        what: impl ToString,
        source: impl Into<OperationError>,
    ) -> Error {
        let source = Box::new(source.into());
        Error::Operation { doing, what: what.to_string(), user: self.user.clone(), source }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn user(&self) -> &str {
        &self.user
    }

    /// What did not work when an image was opened.
    pub(crate) fn open_error(&self, spec: &ImageSpec, source: rbd::OpenError) -> Error {
        Error::Open { spec: Box::new(spec.clone()), user: self.user.clone(), source: Box::new(source) }
    }
}

/// The options of block devices. Values that make no sense are ignored, as by librbd.
pub(crate) fn block_device_config(config: &Config) -> rbd::Config {
    let mut found = rbd::Config::default();
    for (name, value) in config.options() {
        if let Err(error) = found.set(name, value) {
            warn!(%error, "an option is ignored");
        }
    }
    found
}

async fn connect(config: &Config) -> Result<Client, ConnectError> {
    // What is wrong with the addresses matters more than a keyring that is missing, too.
    config.mon_hosts()?;
    Client::connect(Options::from_config(config).await?).await
}
