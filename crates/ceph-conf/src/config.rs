//! What applies to one client, of all that is configured.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ceph_codec::EntityAuthName;
use thiserror::Error;

use crate::defaults::DEFAULTS;
use crate::entity::parse_entity;
use crate::meta::Meta;
use crate::options::{paths, words};
use crate::value::{parse_bool, parse_count, parse_duration, parse_size};
use crate::{
    ArgsError, ConfFile, EntityError, ExpandError, MonAddr, MonHostError, Options, Secret, ValueError, args,
    parse_mon_host,
};

/// What the command line says; goes before everything else.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `-c`, `--conf`: the configuration file, or a list of them separated by `,` or `;`, of which the first that
    /// exists is read.
    pub conf: Option<PathBuf>,
    /// `-n`, `--name`: `TYPE.ID`. Goes before `id`.
    pub name: Option<String>,
    /// `--id`: the user without `client.`.
    pub id: Option<String>,
    /// `--cluster`: the cluster's name, which is part of default paths.
    pub cluster: Option<String>,
    /// `-m`, `--mon-host`: see [`parse_mon_host`].
    pub mon_host: Option<String>,
    /// `-k`, `--keyring`: a keyring file, or a list of them as for `conf`.
    pub keyring: Option<PathBuf>,
    /// `-K`, `--keyfile`: a file with the bare key.
    pub keyfile: Option<PathBuf>,
    /// `--key`: the bare key.
    pub key: Option<Secret>,
    /// Any other option; those above go before them.
    pub options: Options,
}

/// What a client finds around it: environment variables and names for metavariables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// `CEPH_CONF`: list of paths separated by `,` or `;`.
    pub ceph_conf: Option<String>,
    /// `CEPH_ARGS`: command line options, `--key` perhaps among them.
    pub ceph_args: Option<Secret>,
    /// `CEPH_KEYRING`: list of paths.
    pub ceph_keyring: Option<String>,
    /// `HOME`, for `$home`.
    pub home: Option<String>,
    /// Short name of the host, for `$host`.
    pub host: String,
    /// Process id, for `$pid`.
    pub pid: u32,
    /// Number that tells clients of one process apart, for `$cctid`.
    pub cctid: u64,
}

/// The options of a client contradict what they are for.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The user's name is malformed.
    #[error(transparent)]
    Name(#[from] EntityError),
    /// `CEPH_ARGS` is malformed.
    #[error(transparent)]
    Args(#[from] ArgsError),
    /// Metavariables grow without bound.
    #[error(transparent)]
    Expand(#[from] ExpandError),
}

/// Knows who the client is and where its configuration is, before that is read.
#[derive(Debug, Clone)]
pub struct ConfigBuilder {
    entity: EntityAuthName,
    cluster: Option<String>,
    conf: Option<String>,
    env: Environment,
    /// Sources that go before the file, the strongest last.
    stronger: Options,
}

const DEFAULT_CONF: &str = "/etc/ceph/$cluster.conf,$home/.ceph/$cluster.conf,$cluster.conf";

impl ConfigBuilder {
    /// Decides on identity and cluster name.
    ///
    /// # Errors
    /// [`ConfigError`] if the user's name or `CEPH_ARGS` is malformed.
    pub fn new(env: &Environment, overrides: &Overrides) -> Result<Self, ConfigError> {
        let args = args::parse(env.ceph_args.as_ref().map(Secret::expose).unwrap_or_default())?;

        let name = overrides.name.as_ref().map(|name| parse_entity(name));
        let id = overrides.id.as_deref().map(|id| Ok(EntityAuthName::client(id)));
        let from_args = args.name.as_ref().map(|name| parse_entity(name).map_err(ArgsError::Name));
        let entity = match (name.or(id), from_args) {
            (Some(entity), _) => entity?,
            (None, Some(entity)) => entity?,
            (None, None) => EntityAuthName::default(),
        };

        let mut stronger = Options::default();
        if let Some(keyring) = &env.ceph_keyring {
            stronger.set("keyring", keyring);
        }
        for source in [&args, overrides] {
            stronger.merge(&source.options);
            source.set_named(&mut stronger);
        }
        let conf = overrides.conf.as_ref().or(args.conf.as_ref());
        Ok(Self {
            entity,
            cluster: overrides.cluster.clone().or(args.cluster),
            conf: conf.map(|path| path.to_string_lossy().into_owned()),
            env: env.clone(),
            stronger,
        })
    }

    /// Where to look for the configuration file; the first that exists counts.
    ///
    /// # Errors
    /// [`ConfigError::Expand`] if metavariables in the paths grow without bound.
    pub fn conf_paths(&self) -> Result<Vec<PathBuf>, ConfigError> {
        let list = self.conf.as_deref().or(self.env.ceph_conf.as_deref()).unwrap_or(DEFAULT_CONF);
        let options = Options::default();
        let meta = self.meta(self.cluster.as_deref().unwrap_or(DEFAULT_CLUSTER), &options);
        paths(list).map(|path| Ok(meta.text("conf", path)?.as_str().into())).collect()
    }

    /// Whether somebody asked for the file, so that it must exist.
    #[must_use]
    pub fn conf_is_required(&self) -> bool {
        self.conf.is_some() || self.env.ceph_conf.is_some()
    }

    /// Combines all sources.
    ///
    /// Without `--cluster` the name of a file given with `--conf` is the cluster's name: `east` for `/x/east.conf`.
    ///
    /// # Errors
    /// [`ConfigError::Expand`] if metavariables grow without bound.
    pub fn build(&self, path: Option<&Path>, file: Option<&ConfFile>) -> Result<Config, ConfigError> {
        let cluster = self.cluster.clone().or_else(|| self.cluster_of(path?));
        let cluster = cluster.unwrap_or_else(|| DEFAULT_CLUSTER.to_owned());

        let (kind, name) = (self.entity.kind.to_string(), self.entity.to_string());
        let mut configured = Options::default();
        for section in ["global", &kind, &name].iter().filter_map(|name| file?.section(name)) {
            configured.merge(section);
        }
        configured.merge(&self.stronger);
        supersede_auth_supported(&mut configured);

        let mut raw: Options = DEFAULTS.iter().copied().collect();
        raw.merge(&configured);
        let meta = self.meta(&cluster, &raw);
        let mut options = Options::default();
        for (name, value) in raw.iter() {
            options.set(name, &meta.option(name, value)?);
        }

        let mut mon_addrs = Vec::new();
        if let Some(file) = file {
            for mon in file.sections().map(|(name, _)| name).filter(|name| is_mon_section(name)) {
                let value =
                    [mon, "mon", "global"].iter().find_map(|section| file.section(section)?.get("mon_addr"));
                if let Some(value) = value {
                    mon_addrs.push(meta.text("mon_addr", value)?.to_string());
                }
            }
        }
        Ok(Config {
            entity: self.entity.clone(),
            cluster,
            path: path.map(Path::to_owned),
            options,
            set_here: configured.iter().map(|(name, _)| name.to_owned()).collect(),
            set_by_monitors: BTreeSet::new(),
            mon_addrs,
        })
    }

    fn meta<'a>(&'a self, cluster: &'a str, options: &'a Options) -> Meta<'a> {
        Meta { entity: &self.entity, cluster, env: &self.env, options }
    }

    fn cluster_of(&self, path: &Path) -> Option<String> {
        self.conf.as_ref()?;
        let named = path.extension().is_some_and(|extension| extension == "conf");
        named.then(|| path.file_stem().map(|stem| stem.to_string_lossy().into_owned()))?
    }
}

const DEFAULT_CLUSTER: &str = "ceph";

impl Overrides {
    fn set_named(&self, options: &mut Options) {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.to_string_lossy().into_owned());
        if let Some(mon_host) = &self.mon_host {
            options.set("mon_host", mon_host);
        }
        if let Some(keyring) = path(&self.keyring) {
            options.set("keyring", &keyring);
        }
        if let Some(keyfile) = path(&self.keyfile) {
            options.set("keyfile", &keyfile);
        }
        if let Some(key) = &self.key {
            options.set("key", key.expose());
        }
    }
}

/// Options that are needed before there is a monitor to ask. Ceph: flag `no_mon_update` in
/// `src/common/options/*.yaml.in`.
const NOT_BY_MONITORS: &[&str] = &[
    "fsid",
    "host",
    "key",
    "keyfile",
    "keyring",
    "mon_host",
    "mon_host_override",
    "monmap",
    "no_config_file",
];

fn is_mon_section(name: &str) -> bool {
    name.strip_prefix("mon.").is_some_and(|id| !id.is_empty())
}

/// `auth_supported`, gone in Ceph 20, stands for the three options that replaced it, unless those are set.
fn supersede_auth_supported(options: &mut Options) {
    let methods = match options.get("auth_supported") {
        Some(methods) if !methods.is_empty() => methods.to_owned(),
        _ => return,
    };
    for name in ["auth_cluster_required", "auth_service_required", "auth_client_required"] {
        if options.get(name).is_none() {
            options.set(name, &methods);
        }
    }
}

/// The configuration of one client.
#[derive(Debug, Clone)]
pub struct Config {
    entity: EntityAuthName,
    cluster: String,
    path: Option<PathBuf>,
    options: Options,
    /// The options that file, environment or overrides set.
    set_here: BTreeSet<String>,
    /// The options whose value is the monitors'.
    set_by_monitors: BTreeSet<String>,
    mon_addrs: Vec<String>,
}

impl Default for Config {
    /// Nothing but defaults, for `client.admin`.
    fn default() -> Self {
        ConfigBuilder::new(&Environment::default(), &Overrides::default())
            .and_then(|builder| builder.build(None, None))
            .expect("nothing that could be malformed was given")
    }
}

/// A way to prove who one is. Ceph: `CEPH_AUTH_*` in `src/include/ceph_fs.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AuthMethod {
    /// Shared secret keys.
    Cephx,
    /// No proof at all.
    None,
}

/// How a messenger v2 connection is protected. Ceph: `CEPH_CON_MODE_*` in `src/include/msgr.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConnectionMode {
    /// Checksums, against accidents.
    Crc,
    /// Encryption, against attackers.
    Secure,
}

/// Where the client's key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// The key itself, in base64.
    Key(Secret),
    /// A file that holds nothing but the key in base64.
    Keyfile(PathBuf),
    /// Keyrings; the first that exists counts.
    Keyring(Vec<PathBuf>),
}

/// Where DNS knows the monitors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsSrv {
    /// The service, `ceph-mon` by default.
    pub service: String,
    /// The domain; `None` for the host's search domains.
    pub domain: Option<String>,
}

impl DnsSrv {
    /// The name whose SRV records name the monitors, such as `_ceph-mon._tcp.example.com`.
    #[must_use]
    pub fn query(&self) -> String {
        match &self.domain {
            Some(domain) => format!("_{}._tcp.{domain}", self.service),
            None => format!("_{}._tcp", self.service),
        }
    }
}

impl Config {
    /// Who the client is.
    #[must_use]
    pub fn entity(&self) -> &EntityAuthName {
        &self.entity
    }

    /// The cluster's name.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The file that was read.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The value of any option: as configured, metavariables replaced, or the default if this crate knows one.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.options.get(name)
    }

    /// The same configuration, and in it what the monitors say (`ceph config set`): above the defaults, below
    /// whatever is set on this host. Their values are taken as they are, without metavariables.
    ///
    /// Where the cluster is and who the client is monitors cannot say.
    ///
    /// Ceph: `md_config_t::set_mon_vals` and `CONF_MON` in `src/common/config.cc`.
    #[must_use]
    pub fn with_monitors<'a>(&self, values: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut merged = self.clone();
        for (name, value) in values {
            if !self.set_here.contains(name) && !NOT_BY_MONITORS.contains(&name) {
                merged.options.set(name, value);
                merged.set_by_monitors.insert(name.to_owned());
            }
        }
        merged
    }

    /// Whether file, environment or overrides set an option.
    #[must_use]
    pub fn is_set_here(&self, name: &str) -> bool {
        self.set_here.contains(name)
    }

    /// Whether the value of an option is the monitors'.
    #[must_use]
    pub fn is_set_by_monitors(&self, name: &str) -> bool {
        self.set_by_monitors.contains(name)
    }

    /// All options that are configured or have a known default, by name.
    pub fn options(&self) -> impl Iterator<Item = (&str, &str)> {
        self.options.iter()
    }

    /// A boolean option.
    ///
    /// # Errors
    /// [`ValueError`] if the value is none.
    pub fn get_bool(&self, name: &str) -> Result<Option<bool>, ValueError> {
        self.parsed(name, "a boolean such as true or false", parse_bool)
    }

    /// An option in bytes; `64K` is 65536.
    ///
    /// # Errors
    /// [`ValueError`] if the value is none.
    pub fn get_size(&self, name: &str) -> Result<Option<u64>, ValueError> {
        self.parsed(name, "a number of bytes such as 65536, 64K or 4M", parse_size)
    }

    /// An option that counts something; `64K` is 64000.
    ///
    /// # Errors
    /// [`ValueError`] if the value is none.
    pub fn get_count(&self, name: &str) -> Result<Option<u64>, ValueError> {
        self.parsed(name, "a number such as 1024", parse_count)
    }

    /// An option that is a time; `300` is seconds, as is `5 min`.
    ///
    /// # Errors
    /// [`ValueError`] if the value is none.
    pub fn get_duration(&self, name: &str) -> Result<Option<Duration>, ValueError> {
        self.parsed(name, "a time such as 30 or 5 min", parse_duration)
    }

    /// The monitors, from `mon_host` or else from the legacy `mon addr` in `[mon.X]` sections. None at all means
    /// that DNS is to be asked, see [`mon_dns_srv`](Self::mon_dns_srv).
    ///
    /// # Errors
    /// [`MonHostError`] if one of the addresses is malformed.
    pub fn mon_hosts(&self) -> Result<Vec<Vec<MonAddr>>, MonHostError> {
        let monitors = parse_mon_host(self.get("mon_host").unwrap_or_default())?;
        if monitors.is_empty() {
            return self.mon_addrs.iter().map(|text| Ok(vec![MonAddr::from_mon_addr(text)?])).collect();
        }
        Ok(monitors)
    }

    /// Where to ask DNS when no monitor is configured: `mon_dns_srv_name`, which may have the form
    /// `SERVICE_DOMAIN`. Ceph: `MonMap::init_with_dns_srv`.
    #[must_use]
    pub fn mon_dns_srv(&self) -> DnsSrv {
        let name = self.get("mon_dns_srv_name").unwrap_or_default();
        match name.split_once('_') {
            Some((service, domain)) => {
                DnsSrv { service: service.to_owned(), domain: Some(domain.to_owned()) }
            }
            None => DnsSrv { service: name.to_owned(), domain: None },
        }
    }

    /// Where the key is. A key goes before a key file, and that before keyrings, whichever source they come from.
    /// Ceph: `KeyRing::from_ceph_context` in `src/auth/KeyRing.cc`.
    #[must_use]
    pub fn credentials(&self) -> Credentials {
        let set = |name| self.get(name).filter(|value| !value.is_empty());
        if let Some(key) = set("key") {
            Credentials::Key(key.into())
        } else if let Some(path) = set("keyfile") {
            Credentials::Keyfile(path.into())
        } else {
            Credentials::Keyring(paths(self.get("keyring").unwrap_or_default()).map(Into::into).collect())
        }
    }

    /// The methods by which the client may authenticate: `auth_client_required`.
    ///
    /// The default is cephx alone. Ceph's is `cephx, none`, by which whoever answers in a monitor's place can talk
    /// the client out of authentication; here `none` must be configured. Methods that are not known are passed
    /// over.
    ///
    /// # Errors
    /// [`ValueError`] if no method is left.
    pub fn auth_methods(&self) -> Result<Vec<AuthMethod>, ValueError> {
        if self.get("auth_client_required").is_none_or(str::is_empty) {
            return Ok(vec![AuthMethod::Cephx]);
        }
        self.list("auth_client_required", "a list of cephx and none", |word| match word {
            "cephx" => Some(AuthMethod::Cephx),
            "none" => Some(AuthMethod::None),
            _ => None,
        })
    }

    /// The modes for connections to all but monitors, the best first: `ms_client_mode`.
    ///
    /// # Errors
    /// [`ValueError`] if no known mode is in the list.
    pub fn client_modes(&self) -> Result<Vec<ConnectionMode>, ValueError> {
        self.modes("ms_client_mode")
    }

    /// The modes for connections to monitors, the best first: `ms_mon_client_mode`.
    ///
    /// # Errors
    /// [`ValueError`] if no known mode is in the list.
    pub fn mon_client_modes(&self) -> Result<Vec<ConnectionMode>, ValueError> {
        self.modes("ms_mon_client_mode")
    }

    /// How long to try to connect: `client_mount_timeout`; `None` if nobody said. Ceph's default is 300 s.
    ///
    /// # Errors
    /// [`ValueError`] if it is no time.
    pub fn client_mount_timeout(&self) -> Result<Option<Duration>, ValueError> {
        Ok(self.get_duration("client_mount_timeout")?.filter(|timeout| !timeout.is_zero()))
    }

    /// How long an operation may wait for an OSD; `None` is for ever: `rados_osd_op_timeout`.
    ///
    /// # Errors
    /// [`ValueError`] if it is no time.
    pub fn rados_osd_op_timeout(&self) -> Result<Option<Duration>, ValueError> {
        Ok(self.get_duration("rados_osd_op_timeout")?.filter(|timeout| !timeout.is_zero()))
    }

    /// How many operations may be under way to OSDs: `objecter_inflight_ops`. 0 is no limit.
    ///
    /// # Errors
    /// [`ValueError`] if it is no number.
    pub fn objecter_inflight_ops(&self) -> Result<Option<u64>, ValueError> {
        self.get_count("objecter_inflight_ops")
    }

    /// How many bytes they may write or read together: `objecter_inflight_op_bytes`. 0 is no limit.
    ///
    /// # Errors
    /// [`ValueError`] if it is no number of bytes.
    pub fn objecter_inflight_op_bytes(&self) -> Result<Option<u64>, ValueError> {
        self.get_size("objecter_inflight_op_bytes")
    }

    /// How long a command may wait for a monitor; `None` is for ever: `rados_mon_op_timeout`.
    ///
    /// # Errors
    /// [`ValueError`] if it is no time.
    pub fn rados_mon_op_timeout(&self) -> Result<Option<Duration>, ValueError> {
        Ok(self.get_duration("rados_mon_op_timeout")?.filter(|timeout| !timeout.is_zero()))
    }

    /// How often to ask the monitor for a sign of life: `mon_client_ping_interval`, at least a second.
    ///
    /// # Errors
    /// [`ValueError`] if it is no time.
    pub fn mon_client_ping_interval(&self) -> Result<Option<Duration>, ValueError> {
        let interval = self.get_duration("mon_client_ping_interval")?;
        Ok(interval.map(|interval| interval.max(Duration::from_secs(1))))
    }

    /// How long a monitor may be silent: `mon_client_ping_timeout`; `None` is for ever.
    ///
    /// # Errors
    /// [`ValueError`] if it is no time.
    pub fn mon_client_ping_timeout(&self) -> Result<Option<Duration>, ValueError> {
        Ok(self.get_duration("mon_client_ping_timeout")?.filter(|timeout| !timeout.is_zero()))
    }

    fn modes(&self, name: &str) -> Result<Vec<ConnectionMode>, ValueError> {
        self.list(name, "a list of crc and secure", |word| match word {
            "crc" => Some(ConnectionMode::Crc),
            "secure" => Some(ConnectionMode::Secure),
            _ => None,
        })
    }

    fn list<T>(
        &self,
        name: &str,
        expected: &'static str,
        parse: fn(&str) -> Option<T>,
    ) -> Result<Vec<T>, ValueError> {
        let text = self.get(name).unwrap_or_default();
        let list: Vec<T> = words(text).filter_map(parse).collect();
        if list.is_empty() { Err(ValueError::new(name, text, expected)) } else { Ok(list) }
    }

    fn parsed<T>(
        &self,
        name: &str,
        expected: &'static str,
        parse: fn(&str) -> Option<T>,
    ) -> Result<Option<T>, ValueError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        parse(text).map(Some).ok_or_else(|| ValueError::new(name, text, expected))
    }
}

#[cfg(test)]
mod tests;
