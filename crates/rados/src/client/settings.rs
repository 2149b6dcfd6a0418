//! Options that may change while a client runs, because the monitors say so (`ceph config set`).

use std::collections::BTreeMap;
use std::time::Duration;

use ceph_conf::{Config, ValueError};
use ceph_msgr::ConMode;

use crate::objecter::Limits;

use super::Options;
use super::options::{limits, modes};

/// What applies now. Values that somebody set on this host go before the monitors'.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) op_timeout: Option<Duration>,
    pub(crate) mon_op_timeout: Option<Duration>,
    pub(crate) limits: Limits,
    /// For connections to come, as is the next.
    pub(crate) client_modes: Vec<ConMode>,
    pub(crate) mon_modes: Vec<ConMode>,
    pub(crate) ping_interval: Duration,
    /// `None` is for ever.
    pub(crate) ping_timeout: Option<Duration>,
}

/// Sets the field that an option is about.
type Set = fn(&mut Settings, &Config) -> Result<(), ValueError>;

/// The options that are followed.
const FOLLOWED: &[(&str, Set)] = &[
    ("rados_osd_op_timeout", |settings, config| {
        settings.op_timeout = config.rados_osd_op_timeout()?;
        Ok(())
    }),
    ("rados_mon_op_timeout", |settings, config| {
        settings.mon_op_timeout = config.rados_mon_op_timeout()?;
        Ok(())
    }),
    ("objecter_inflight_ops", |settings, config| {
        settings.limits.ops = limits(config)?.ops;
        Ok(())
    }),
    ("objecter_inflight_op_bytes", |settings, config| {
        settings.limits.bytes = limits(config)?.bytes;
        Ok(())
    }),
    ("ms_client_mode", |settings, config| {
        settings.client_modes = modes(&config.client_modes()?);
        Ok(())
    }),
    ("ms_mon_client_mode", |settings, config| {
        settings.mon_modes = modes(&config.mon_client_modes()?);
        Ok(())
    }),
    ("mon_client_ping_interval", |settings, config| {
        settings.ping_interval = config.mon_client_ping_interval()?.unwrap_or(PING_INTERVAL);
        Ok(())
    }),
    ("mon_client_ping_timeout", |settings, config| {
        settings.ping_timeout = config.mon_client_ping_timeout()?;
        Ok(())
    }),
];

const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(30);

impl Settings {
    /// What applies as long as no monitor says otherwise.
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            op_timeout: options.op_timeout,
            mon_op_timeout: options.mon_op_timeout,
            limits: options.limits,
            client_modes: options.client_modes.clone(),
            mon_modes: options.mon_modes.clone(),
            // Whatever else is there was looked at when the options were made.
            ping_interval: options.config.mon_client_ping_interval().ok().flatten().unwrap_or(PING_INTERVAL),
            ping_timeout: options.config.mon_client_ping_timeout().unwrap_or(Some(PING_TIMEOUT)),
        }
    }

    /// What applies with `merged`, the options' configuration with the monitors' values in it.
    pub(crate) fn merged(options: &Options, merged: &Config) -> Self {
        let mut settings = Self::new(options);
        for (name, set) in FOLLOWED.iter().filter(|(name, _)| merged.is_set_by_monitors(name)) {
            if let Err(error) = set(&mut settings, merged) {
                tracing::warn!(
                    option = name,
                    error = &error as &dyn std::error::Error,
                    "ignored what the monitors say"
                );
            }
        }
        settings
    }
}

/// Says what changed, between two configurations with the monitors' values in them.
pub(super) fn log_changes(
    here: &Config,
    before: &BTreeMap<String, String>,
    after: &BTreeMap<String, String>,
) {
    let mut names: Vec<&String> = before.keys().chain(after.keys()).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let (old, new) = (before.get(name), after.get(name));
        if old == new {
            continue;
        }
        let value = new.map_or("its default again", String::as_str);
        if !FOLLOWED.iter().any(|(followed, _)| followed == name) {
            tracing::debug!(
                option = name,
                value,
                "the monitors set an option that is not this client's business"
            );
        } else if here.is_set_here(name) {
            tracing::info!(
                option = name,
                value,
                "the monitors set an option that is set on this host, too; nothing changes"
            );
        } else {
            tracing::info!(option = name, value, "the monitors set an option");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ceph_conf::{ConfigBuilder, Environment, Overrides};

    fn options(here: &[(&str, &str)]) -> Options {
        let overrides = Overrides { options: here.iter().copied().collect(), ..Overrides::default() };
        let config =
            ConfigBuilder::new(&Environment::default(), &overrides).unwrap().build(None, None).unwrap();
        Options { config, ..Options::new(Vec::new(), ceph_conf_name(), None) }
    }

    fn ceph_conf_name() -> cephx::EntityAuthName {
        cephx::EntityAuthName::client("qemu")
    }

    fn with(options: &Options, monitors: &[(&str, &str)]) -> Settings {
        Settings::merged(options, &options.config.with_monitors(monitors.iter().copied()))
    }

    #[test]
    fn every_option_that_is_followed_has_an_effect_and_loses_it() {
        let options = options(&[]);
        for (name, _) in FOLLOWED {
            let value = if name.ends_with("_mode") { "secure" } else { "7" };
            assert_ne!(with(&options, &[(name, value)]), Settings::new(&options), "{name}");
        }
        assert_eq!(with(&options, &[]), Settings::new(&options));
    }

    #[test]
    fn a_value_set_on_this_host_stays() {
        let mut options = options(&[("rados_osd_op_timeout", "3")]);
        options.op_timeout = Some(Duration::from_secs(3));
        assert_eq!(with(&options, &[("rados_osd_op_timeout", "9")]).op_timeout, options.op_timeout);
    }

    #[test]
    fn a_value_that_makes_no_sense_changes_nothing() {
        let options = options(&[]);
        let nonsense =
            [("rados_osd_op_timeout", "soon"), ("objecter_inflight_ops", "-1"), ("ms_client_mode", "x")];
        assert_eq!(with(&options, &nonsense), Settings::new(&options));
        assert_eq!(with(&options, &[("objecter_inflight_ops", "0")]).limits.ops, u64::MAX, "no limit");
    }
}
