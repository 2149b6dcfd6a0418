//! A connection to a cluster, and the pools behind image names.

use ceph_conf::{Config, Environment, ImageSpec, Overrides};
use rados::{Client, ConnectError, Errno, IoCtx, Options};
use rbd::{Image, ImageDetails, OpenOptions};

use crate::report::Error;
use crate::target::Target;

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

    /// Connects to the cluster of one image, and shows that image.
    pub(crate) async fn inspect(target: &Target) -> Result<ImageDetails, Error> {
        let cluster = Self::connect(&target.overrides).await?;
        let pool = cluster.pool(&target.spec).await?;
        Image::inspect(&pool, &target.open_options(true))
            .await
            .map_err(|source| cluster.open_error(&target.spec, source))
    }

    pub(crate) async fn open(&self, target: &Target, read_only: bool) -> Result<Image<IoCtx>, Error> {
        let pool = self.pool(&target.spec).await?;
        let options: OpenOptions = target.open_options(read_only);
        Image::open(pool, options).await.map_err(|source| self.open_error(&target.spec, source))
    }

    async fn pool(&self, spec: &ImageSpec) -> Result<IoCtx, Error> {
        self.pool_by_name(&spec.pool, spec.namespace.as_deref()).await
    }

    pub(crate) async fn pool_by_name(&self, pool: &str, namespace: Option<&str>) -> Result<IoCtx, Error> {
        match self.client.pool(pool).await {
            Ok(found) => Ok(found.with_namespace(namespace.unwrap_or_default())),
            Err(error) if error.is(Errno::ENOENT) => Err(Error::NoPool { pool: pool.to_owned() }),
            Err(source) => Err(Error::Pool { pool: pool.to_owned(), source }),
        }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn user(&self) -> &str {
        &self.user
    }

    fn open_error(&self, spec: &ImageSpec, source: rbd::OpenError) -> Error {
        Error::Open { spec: Box::new(spec.clone()), user: self.user.clone(), source: Box::new(source) }
    }
}

async fn connect(config: &Config) -> Result<Client, ConnectError> {
    // What is wrong with the addresses matters more than a keyring that is missing, too.
    config.mon_hosts()?;
    Client::connect(Options::from_config(config).await?).await
}
