//! Why no client came to be.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use ceph_codec::EntityAddr;
use cephx::{AuthError, EntityAuthName};
use thiserror::Error;

use crate::net::{DialError, LinkError};
use crate::objecter::MapError;

/// Why a connection to a cluster could not be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// An option has a value that cannot be.
    #[error(transparent)]
    Option(#[from] ceph_conf::ValueError),
    /// The list of monitors cannot be read.
    #[error(transparent)]
    MonHost(#[from] ceph_conf::MonHostError),
    /// Nobody said where the monitors are.
    #[error("no monitors are configured, and DNS has none under {query}")]
    NoMonitors {
        /// The SRV name asked for.
        query: String,
        /// What DNS said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The name of a monitor does not resolve.
    #[error("the monitor name {host} does not resolve")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver said.
        #[source]
        source: io::Error,
    },
    /// None of the keyrings exists.
    #[error("no keyring for {name}: none of {} exists", list(paths))]
    NoKeyring {
        /// The user.
        name: EntityAuthName,
        /// Where it was looked for.
        paths: Vec<PathBuf>,
    },
    /// A key file or keyring cannot be read.
    #[error("cannot read {}", path.display())]
    ReadKey {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A keyring is malformed.
    #[error("the keyring {} is malformed", path.display())]
    Keyring {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: cephx::KeyringError,
    },
    /// A key is malformed.
    #[error("the key of {name} is malformed")]
    Key {
        /// The user.
        name: EntityAuthName,
        /// What is wrong; never the key.
        #[source]
        source: cephx::KeyError,
    },
    /// A keyring has no key for the user.
    #[error("the keyring {} has no key for {name}", path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
        /// The user.
        name: EntityAuthName,
    },
    /// A monitor says no.
    #[error("{monitor}: {source}")]
    Rejected {
        /// Which.
        monitor: String,
        /// Why.
        source: AuthError,
    },
    /// No monitor can be used.
    #[error("no monitor answers: {}", failures(.0))]
    NoMonitor(Vec<MonFailure>),
    /// The monitors answer, but there is no cluster map.
    #[error("the monitors gave no OSDMap within {} seconds", .0.as_secs())]
    NoOsdMap(Duration),
    /// The cluster's map is of no use.
    #[error("the monitor gave an OSDMap that cannot be used")]
    BadOsdMap(#[source] MapError),
    /// The client was shut down while connecting.
    #[error("the client was shut down")]
    Shutdown,
    /// What another waiter for the same connection was told.
    #[error(transparent)]
    Shared(std::sync::Arc<Self>),
}

impl ConnectError {
    pub(super) fn from_failures(mut failures: Vec<MonFailure>) -> Self {
        let rejected =
            failures.iter().position(|f| matches!(&f.cause, DialError::Auth(error) if !error.is_transient()));
        if let Some(index) = rejected {
            let MonFailure { label, cause, .. } = failures.swap_remove(index);
            if let DialError::Auth(source) = cause {
                return Self::Rejected { monitor: label, source };
            }
        }
        Self::NoMonitor(failures)
    }

    /// What the user can do about it, if anything.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        Some(match self {
            Self::Rejected { source, .. } => return source.help(),
            Self::Shared(error) => return error.help(),
            Self::NoMonitors { .. } => "set mon_host in ceph.conf, or give it with --mon-host".into(),
            Self::Resolve { .. } => "check mon_host in ceph.conf, and DNS".into(),
            Self::NoKeyring { name, .. } => {
                format!("give the file with --keyring, or put the output of `ceph auth get {name}` there")
            }
            Self::ReadKey { .. } => "check its path and permissions".into(),
            Self::Keyring { .. } | Self::Key { .. } => {
                "compare it with what `ceph auth get` prints for the user".into()
            }
            Self::NoKey { name, .. } => {
                format!("choose the user with --id, or add what `ceph auth get {name}` prints")
            }
            Self::NoMonitor(failures) if failures.iter().any(MonFailure::is_msgr1) => {
                "give the address at which the monitor speaks messenger v2 (port 3300), or enable it with \
                 `ceph mon enable-msgr2`"
                    .into()
            }
            Self::NoMonitor(_) => "check mon_host, the network, and whether the monitors run".into(),
            Self::NoOsdMap(_) => "the monitors may have no quorum; see `ceph -s`".into(),
            Self::Option(_) | Self::MonHost(_) | Self::BadOsdMap(_) | Self::Shutdown => return None,
        })
    }
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn failures(failures: &[MonFailure]) -> String {
    failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Why one monitor could not be used.
#[derive(Debug)]
pub struct MonFailure {
    /// As configured, or its name.
    pub(super) label: String,
    pub(super) addr: Option<EntityAddr>,
    pub(super) cause: DialError,
}

impl MonFailure {
    fn is_msgr1(&self) -> bool {
        matches!(&self.cause, DialError::Link(LinkError::Messenger(ceph_msgr::MsgrError::Msgr1)))
    }
}

impl fmt::Display for MonFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.label, self.cause)?;
        let mut source = std::error::Error::source(&self.cause);
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}
