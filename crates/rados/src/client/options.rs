//! What a client needs to know before it can connect, and how that comes from a Ceph configuration.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ceph_codec::{AddrType, EntityAddr};
use ceph_conf::{AuthMethod, Config, ConnectionMode, Credentials, Host, MonAddr, ValueError};
use ceph_msgr::ConMode;
use cephx::{CryptoKey, EntityAuthName, Keyring};

use crate::net::{HostSystem, System};
use crate::objecter::Limits;

use super::mon::MonTarget;
use super::{ConnectError, dns};

/// Everything that a client instance is made from.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to look for monitors first; later their own map counts.
    pub monitors: Vec<MonTarget>,
    /// The user.
    pub name: EntityAuthName,
    /// The user's key; `None` connects without authentication, to clusters that allow it.
    pub key: Option<CryptoKey>,
    /// Modes for connections to OSDs, the preferred one first.
    pub client_modes: Vec<ConMode>,
    /// Modes for connections to monitors, the preferred one first.
    pub mon_modes: Vec<ConMode>,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long an operation may take; `None`, the default, is as long as the cluster needs.
    pub op_timeout: Option<Duration>,
    /// How long a question to the monitors may take; `None`, the default, is as long as they need.
    pub mon_op_timeout: Option<Duration>,
    /// Where connections, randomness and the date come from: the host, but in simulations.
    pub system: Arc<dyn System>,
    /// How much may be under way to OSDs at a time.
    pub limits: Limits,
    /// What is configured on this host. The monitors' configuration changes the options above, but not those
    /// that are set here.
    pub config: Config,
}

/// Without `client_mount_timeout` in the configuration. Ceph's default of 300 s keeps people waiting for an
/// answer that will not come.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

impl Options {
    /// Takes everything from a Ceph configuration: reads the keyring, resolves the names of monitors.
    ///
    /// # Errors
    /// [`ConnectError`] if something is missing or malformed.
    pub async fn from_config(config: &Config) -> Result<Self, ConnectError> {
        let name = config.entity().clone();
        let methods = config.auth_methods()?;
        // The first method counts: `cephx, none` must not be talked down by whoever answers.
        let key =
            if methods.first() == Some(&AuthMethod::Cephx) { Some(read_key(config, &name)?) } else { None };
        let connect_timeout = config.client_mount_timeout()?.unwrap_or(CONNECT_TIMEOUT);
        Ok(Self {
            monitors: monitors(config).await?,
            name,
            key,
            client_modes: modes(&config.client_modes()?),
            mon_modes: modes(&config.mon_client_modes()?),
            connect_timeout,
            op_timeout: config.rados_osd_op_timeout()?,
            system: Arc::new(HostSystem),
            mon_op_timeout: config.rados_mon_op_timeout()?,
            limits: limits(config)?,
            config: config.clone(),
        })
    }

    /// The defaults, for a user (without a key: no authentication) and where to look for monitors.
    #[must_use]
    pub fn new(monitors: Vec<MonTarget>, name: EntityAuthName, key: Option<CryptoKey>) -> Self {
        Self {
            monitors,
            name,
            key,
            client_modes: vec![ConMode::Crc, ConMode::Secure],
            mon_modes: vec![ConMode::Secure, ConMode::Crc],
            connect_timeout: CONNECT_TIMEOUT,
            op_timeout: None,
            mon_op_timeout: None,
            system: Arc::new(HostSystem),
            limits: Limits::default(),
            config: Config::default(),
        }
    }
}

pub(super) fn limits(config: &Config) -> Result<Limits, ValueError> {
    let unless_0 = |limit| if limit == 0 { u64::MAX } else { limit };
    let default = Limits::default();
    Ok(Limits {
        ops: config.objecter_inflight_ops()?.map_or(default.ops, unless_0),
        bytes: config.objecter_inflight_op_bytes()?.map_or(default.bytes, unless_0),
    })
}

pub(super) fn modes(modes: &[ConnectionMode]) -> Vec<ConMode> {
    modes
        .iter()
        .map(|mode| match mode {
            ConnectionMode::Crc => ConMode::Crc,
            ConnectionMode::Secure => ConMode::Secure,
        })
        .collect()
}

fn read_key(config: &Config, name: &EntityAuthName) -> Result<CryptoKey, ConnectError> {
    let malformed = |source| ConnectError::Key { name: name.clone(), source };
    match config.credentials() {
        Credentials::Key(key) => CryptoKey::from_base64(key.expose()).map_err(malformed),
        Credentials::Keyfile(path) => CryptoKey::from_key_file(&read(&path)?).map_err(malformed),
        Credentials::Keyring(paths) => {
            let Some(path) = paths.iter().find(|path| path.exists()) else {
                return Err(ConnectError::NoKeyring { name: name.clone(), paths });
            };
            warn_if_open(path);
            let keyring = Keyring::parse(&read(path)?)
                .map_err(|source| ConnectError::Keyring { path: path.clone(), source })?;
            match keyring.get(name) {
                Some(key) => Ok(key.clone()),
                None => Err(ConnectError::NoKey { path: path.clone(), name: name.clone() }),
            }
        }
    }
}

fn read(path: &Path) -> Result<zeroize::Zeroizing<Vec<u8>>, ConnectError> {
    std::fs::read(path)
        .map(Into::into)
        .map_err(|source| ConnectError::ReadKey { path: path.to_owned(), source })
}

#[cfg(unix)]
fn warn_if_open(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let readable = std::fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o004 != 0);
    if readable {
        tracing::warn!(keyring = %path.display(), "everybody on this host can read the keyring; chmod 600 it");
    }
}

#[cfg(not(unix))]
fn warn_if_open(_: &Path) {}

/// The monitors of `mon_host`, or of DNS where there is none.
async fn monitors(config: &Config) -> Result<Vec<MonTarget>, ConnectError> {
    let mut targets = resolve_monitors(config).await?;
    if targets.is_empty() {
        let srv = config.mon_dns_srv();
        targets =
            dns::srv(&srv).await.map_err(|source| ConnectError::NoMonitors { query: srv.query(), source })?;
    }
    Ok(targets)
}

/// The monitors of `mon_host`.
pub(super) async fn resolve_monitors(config: &Config) -> Result<Vec<MonTarget>, ConnectError> {
    let mut targets = Vec::new();
    for monitor in config.mon_hosts()? {
        targets.extend(resolve(&monitor).await?);
    }
    Ok(targets)
}

/// One monitor's addresses to something to try; a name may stand for several monitors.
async fn resolve(monitor: &[MonAddr]) -> Result<Vec<MonTarget>, ConnectError> {
    let mut targets = Vec::new();
    for addr in monitor {
        let Some(port) = addr.msgr2_port() else { continue };
        for ip in lookup(&addr.host).await? {
            let addr = EntityAddr {
                kind: AddrType::MSGR2,
                nonce: addr.nonce,
                addr: Some(SocketAddr::new(ip, port)),
            };
            targets.push(MonTarget { label: SocketAddr::new(ip, port).to_string(), addr: Some(addr) });
        }
    }
    if targets.is_empty() {
        // Tried all the same, so that the answer is "speaks only messenger v1" and not silence.
        for addr in monitor {
            let label = match (&addr.host, addr.port) {
                (Host::Ip(ip), port) => SocketAddr::new(*ip, port.unwrap_or(6789)).to_string(),
                (Host::Name(name), port) => format!("{name}:{}", port.unwrap_or(6789)),
            };
            targets.push(MonTarget { label: format!("v1:{label}"), addr: None });
        }
    }
    Ok(targets)
}

async fn lookup(host: &Host) -> Result<Vec<IpAddr>, ConnectError> {
    let name = match host {
        Host::Ip(ip) => return Ok(vec![*ip]),
        Host::Name(name) => name,
    };
    let failed = |source| ConnectError::Resolve { host: name.clone(), source };
    let mut ips: Vec<IpAddr> =
        tokio::net::lookup_host((name.as_str(), 0)).await.map_err(failed)?.map(|addr| addr.ip()).collect();
    ips.dedup();
    if ips.is_empty() {
        return Err(failed(io::ErrorKind::NotFound.into()));
    }
    Ok(ips)
}
