//! The environment variable `CEPH_ARGS`: command line options for all of Ceph's programs.
//!
//! Ceph: `env_to_vec`, `ceph_argparse_early_args` in `src/common/ceph_argparse.cc` and `md_config_t::parse_argv`
//! in `src/common/config.cc`.

use ceph_codec::EntityAuthName;
use thiserror::Error;

use crate::entity::parse_entity;
use crate::{EntityError, Overrides};

/// `CEPH_ARGS` cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ArgsError {
    /// The last option lacks its value.
    #[error("option {option} in CEPH_ARGS has no value")]
    NoValue {
        /// The option.
        option: String,
    },
    /// The name of the user is malformed.
    #[error("CEPH_ARGS names no valid user")]
    Name(#[from] EntityError),
}

/// Parses `CEPH_ARGS`, which is split at blanks only: there are no quotes.
///
/// Ceph knows all its options and so which of them take a value. Here an option that is not known takes the next
/// word as its value unless that begins with a dash, and without a value it is `true`; `--no-NAME` is `false`.
/// What is no option is ignored, and so is everything behind `--`.
pub(crate) fn parse(args: &str) -> Result<Overrides, ArgsError> {
    let mut out = Overrides::default();
    let mut words = args.split(' ').filter(|word| !word.is_empty()).peekable();
    while let Some(word) = words.next() {
        if word == "--" {
            break;
        }
        if !word.starts_with('-') {
            continue;
        }
        let (option, inline) = match word.split_once('=') {
            Some((option, value)) => (option, Some(value)),
            None => (word, None),
        };
        let mut value = || {
            let value = inline.or_else(|| words.next()).map(str::to_owned);
            value.ok_or_else(|| ArgsError::NoValue { option: option.to_owned() })
        };
        match option.replace('_', "-").as_str() {
            "-c" | "--conf" => out.conf = Some(value()?.into()),
            "--cluster" => out.cluster = Some(value()?),
            "--id" | "--user" => {
                // What comes last counts, and an id keeps the type of a name before it.
                let kind = out.name.take().map(|name| parse_entity(&name)).transpose()?;
                let kind = kind.unwrap_or_default().kind;
                out.name = Some(EntityAuthName { kind, id: value()? }.to_string());
            }
            "-n" | "--name" => out.name = Some(value()?),
            "-m" | "--mon-host" => out.mon_host = Some(value()?),
            "-k" | "--keyring" => out.keyring = Some(value()?.into()),
            "-K" | "--keyfile" => out.keyfile = Some(value()?.into()),
            "--key" => out.key = Some(value()?.into()),
            "--no-config-file" => out.conf = Some("/dev/null".into()),
            "--mon-config" | "--no-mon-config" => {}
            name => {
                let Some(name) = name.strip_prefix("--") else { continue };
                let value = inline.or_else(|| words.next_if(|word| !word.starts_with('-')));
                match (value, name.strip_prefix("no-")) {
                    (Some(value), _) => out.options.set(name, value),
                    (None, Some(negated)) => out.options.set(negated, "false"),
                    (None, None) => out.options.set(name, "true"),
                }
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_options_of_all_ceph_programs_are_known() {
        let args = "--conf=/c --cluster east -n client.a  -m 10.0.0.1 --keyring /k -K /f --key=AQ==";
        let out = parse(args).unwrap();
        assert_eq!(out.conf.as_deref(), Some("/c".as_ref()));
        assert_eq!(out.cluster.as_deref(), Some("east"));
        assert_eq!(out.name.as_deref(), Some("client.a"));
        assert_eq!(out.mon_host.as_deref(), Some("10.0.0.1"));
        assert_eq!(out.keyring.as_deref(), Some("/k".as_ref()));
        assert_eq!(out.keyfile.as_deref(), Some("/f".as_ref()));
        assert_eq!(out.key.as_ref().map(|key| key.expose()), Some("AQ=="));
    }

    #[test]
    fn other_options_are_values_or_flags() {
        let out =
            parse("--rbd-cache false --ms_client_mode=secure --no-rbd_skip --debug --x=y word -- --z 1")
                .unwrap();
        let options: Vec<_> = out.options.iter().collect();
        let expected = [
            ("debug", "true"),
            ("ms_client_mode", "secure"),
            ("rbd_cache", "false"),
            ("rbd_skip", "false"),
            ("x", "y"),
        ];
        assert_eq!(options, expected);
    }

    #[test]
    fn the_last_identity_counts() {
        for (args, name) in [
            ("--id a", "client.a"),
            ("--id a -n client.b", "client.b"),
            ("-n osd.1 --id 2", "osd.2"),
            ("--id a --user b", "client.b"),
        ] {
            assert_eq!(parse(args).unwrap().name.as_deref(), Some(name), "{args}");
        }
    }

    #[test]
    fn a_missing_value_is_an_error() {
        assert_eq!(parse("-c").unwrap_err().to_string(), "option -c in CEPH_ARGS has no value");
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(args in "(-{0,2}[a-zK=. ]{0,4} ?){0,8}") {
            let _ = parse(&args);
        }
    }
}
