//! How a Ceph client is configured: `ceph.conf`, environment, monitor addresses, image specs, QEMU's `rbd:` names.
//!
//! ```text
//!  defaults < ceph.conf [global] < [client] < [client.ID] < CEPH_KEYRING < CEPH_ARGS < Overrides
//!               |  ConfFile (file)                             (args)                 (config)
//!               v
//!          ConfigBuilder: who am I, which files     no file is read here
//!               |
//!          load(): the only function that reads files and the process environment
//!               v
//!            Config: metavariables expanded, typed getters, MonAddr lists, Credentials
//! ```
//! Everything but [`load`] and [`Environment::from_process`] is a pure function of its arguments. Names of hosts
//! come out as they were written; resolving them is up to the caller.
//!
//! ```
//! use ceph_conf::{ConfFile, ConfigBuilder, Environment, Overrides};
//!
//! let file = ConfFile::parse(b"[global]\nmon host = 10.0.0.1, mon2.example\n")?;
//! let overrides = Overrides { id: Some("qemu".into()), ..Overrides::default() };
//! let config = ConfigBuilder::new(&Environment::default(), &overrides)?.build(None, Some(&file))?;
//! assert_eq!(config.entity().to_string(), "client.qemu");
//! assert_eq!(config.mon_hosts()?.len(), 2);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Ceph: `src/common/ConfUtils.cc`, `src/common/config.cc`, `src/common/ceph_argparse.cc`, `src/mon/MonMap.cc`.

mod args;
mod config;
mod defaults;
mod entity;
mod file;
mod image_spec;
mod load;
mod meta;
mod mon_host;
mod options;
mod qemu;
mod value;

pub use args::ArgsError;
pub use config::{
    AuthMethod, Config, ConfigBuilder, ConfigError, ConnectionMode, Credentials, DnsSrv, Environment,
    Overrides,
};
pub use entity::EntityError;
pub use file::{ConfFile, Expected, SyntaxError};
pub use image_spec::{ImageSpec, SpecError};
pub use load::{LoadError, load};
pub use meta::ExpandError;
pub use mon_host::{Host, MonAddr, MonAddrKind, MonHostError, parse_mon_host};
pub use options::{Options, Secret};
pub use qemu::{QemuError, QemuRbd};
pub use value::{ValueError, parse_size};
