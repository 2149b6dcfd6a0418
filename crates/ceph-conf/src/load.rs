//! The only place where files and the process environment are read.

use std::env::VarError;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use thiserror::Error;
use zeroize::Zeroizing;

use crate::{ConfFile, Config, ConfigBuilder, ConfigError, Environment, Overrides, SyntaxError};

/// Larger files are no configuration.
const MAX_FILE: u64 = 16 << 20;

/// Why there is no configuration.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The file that was asked for does not exist, in none of the places that were asked for.
    #[error("configuration file {} does not exist", joined(.paths))]
    NotFound {
        /// The places.
        paths: Vec<PathBuf>,
    },
    /// A file cannot be read.
    #[error("configuration file {} cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is malformed.
    #[error("configuration file {} is malformed", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: SyntaxError,
    },
    /// An environment variable is not UTF-8.
    #[error("environment variable {name} is not UTF-8")]
    NotUtf8 {
        /// The variable.
        name: &'static str,
    },
    /// The options contradict what they are for.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

fn joined(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" or ")
}

impl Environment {
    /// The environment of this process: `CEPH_CONF`, `CEPH_ARGS`, `CEPH_KEYRING`, `HOME`, and the short host name
    /// (`NODE_NAME` in a container, as for Ceph).
    ///
    /// # Errors
    /// [`LoadError::NotUtf8`] if one of the variables is not UTF-8.
    pub fn from_process() -> Result<Self, LoadError> {
        let host = match var("NODE_NAME")? {
            Some(name) => name,
            // No host name is no reason to fail: hardly any configuration asks for it.
            None => std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default(),
        };
        Ok(Self {
            ceph_conf: var("CEPH_CONF")?,
            ceph_args: var("CEPH_ARGS")?.map(Into::into),
            ceph_keyring: var("CEPH_KEYRING")?,
            home: var("HOME")?,
            host: host.trim().split('.').next().unwrap_or_default().to_owned(),
            pid: std::process::id(),
            cctid: 0,
        })
    }
}

fn var(name: &'static str) -> Result<Option<String>, LoadError> {
    match std::env::var(name) {
        Ok(value) => Ok(Some(value)),
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(_)) => Err(LoadError::NotUtf8 { name }),
    }
}

/// Reads the first configuration file there is and combines it with environment and overrides.
///
/// The places are those of `overrides.conf`, or of `-c` in `CEPH_ARGS`, or of `CEPH_CONF`, or else
/// `/etc/ceph/$cluster.conf`, `$home/.ceph/$cluster.conf` and `$cluster.conf`. A file that nobody asked for may be
/// missing.
///
/// # Errors
/// [`LoadError`] if a file that was asked for does not exist, if the file is unreadable or malformed, or if
/// identity or options are malformed.
pub fn load(env: &Environment, overrides: &Overrides) -> Result<Config, LoadError> {
    let builder = ConfigBuilder::new(env, overrides)?;
    let paths = builder.conf_paths()?;
    let mut unreadable = None;
    for path in &paths {
        match read(path) {
            Ok(text) => {
                let file = ConfFile::parse(&text)
                    .map_err(|source| LoadError::Malformed { path: path.clone(), source })?;
                return Ok(builder.build(Some(path), Some(&file))?);
            }
            Err(source) if source.kind() == io::ErrorKind::NotFound => {}
            Err(source) => {
                // A later one may still do, as for Ceph.
                unreadable.get_or_insert_with(|| LoadError::Unreadable { path: path.clone(), source });
            }
        }
    }
    match unreadable {
        Some(error) => Err(error),
        None if builder.conf_is_required() => Err(LoadError::NotFound { paths }),
        None => Ok(builder.build(None, None)?),
    }
}

fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let file = File::open(path)?;
    // Allocated at once: a buffer that grows would leave copies of keys behind.
    let size = file.metadata()?.len().min(MAX_FILE);
    let mut text = Zeroizing::new(Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1));
    file.take(MAX_FILE + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it has more than 16 MiB"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
