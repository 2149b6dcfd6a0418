//! Metavariables: `$cluster`, `$name`, or any option, in the values of options.
//!
//! Ceph: `md_config_t::_expand_meta` in `src/common/config.cc`.

use std::borrow::Cow;

use ceph_codec::EntityAuthName;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::{Environment, Options};

/// A value of an option that grows without bound when its metavariables are replaced.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("option {option} refers to other options too deeply or too often")]
pub struct ExpandError {
    /// The option.
    pub option: String,
}

/// Options refer to options; deeper than this is a mistake.
const MAX_DEPTH: usize = 32;
/// Replacements in one value, those of the options it refers to included.
const MAX_STEPS: usize = 1000;
/// Bytes of one value that has metavariables.
const MAX_LEN: usize = 64 << 10;

/// What metavariables stand for.
pub(crate) struct Meta<'a> {
    pub(crate) entity: &'a EntityAuthName,
    pub(crate) cluster: &'a str,
    pub(crate) env: &'a Environment,
    pub(crate) options: &'a Options,
}

impl<'a> Meta<'a> {
    /// The value of the option `name`, all metavariables replaced.
    pub(crate) fn option(&self, name: &'a str, raw: &'a str) -> Result<Zeroizing<String>, ExpandError> {
        let mut run = Run { meta: self, stack: Vec::new(), steps: 0 };
        run.option(name, raw).map_err(|TooMuch| ExpandError { option: name.to_owned() })
    }

    /// A text that is no option's value, such as a path to search.
    pub(crate) fn text(&self, what: &str, raw: &'a str) -> Result<Zeroizing<String>, ExpandError> {
        let mut run = Run { meta: self, stack: Vec::new(), steps: 0 };
        run.text(raw).map_err(|TooMuch| ExpandError { option: what.to_owned() })
    }

    fn special(&self, variable: &str) -> Option<Cow<'a, str>> {
        Some(match variable {
            "type" => self.entity.kind.to_string().into(),
            "id" | "num" => self.entity.id.as_str().into(),
            "name" => self.entity.to_string().into(),
            "cluster" => self.cluster.into(),
            "host" => match self.options.get("host") {
                Some(host) if !host.is_empty() => host.into(),
                _ => self.env.host.as_str().into(),
            },
            "pid" => self.env.pid.to_string().into(),
            "cctid" => self.env.cctid.to_string().into(),
            "home" => self.env.home.as_deref().unwrap_or_default().into(),
            _ => return None,
        })
    }
}

struct TooMuch;

struct Run<'m, 'a> {
    meta: &'m Meta<'a>,
    /// Options being expanded, the outermost first.
    stack: Vec<&'a str>,
    steps: usize,
}

impl<'a> Run<'_, 'a> {
    fn option(&mut self, name: &'a str, raw: &'a str) -> Result<Zeroizing<String>, TooMuch> {
        if self.stack.len() >= MAX_DEPTH {
            return Err(TooMuch);
        }
        self.stack.push(name);
        let value = self.text(raw);
        self.stack.pop();
        value
    }

    fn text(&mut self, raw: &'a str) -> Result<Zeroizing<String>, TooMuch> {
        let mut out = Zeroizing::new(String::with_capacity(raw.len()));
        let mut rest = raw;
        while let Some((before, after)) = rest.split_once('$') {
            out.push_str(before);
            let (variable, written, after) = split_variable(after);
            rest = after;
            self.steps += 1;
            if self.steps > MAX_STEPS || out.len() > MAX_LEN {
                return Err(TooMuch);
            }
            if variable.is_empty() {
                out.push('$');
            } else if let Some(text) = self.meta.special(variable) {
                out.push_str(&text);
            } else if self.stack.contains(&variable) {
                // Ceph breaks the loop like this: the whole value becomes the name that closed it.
                return Ok(Zeroizing::new(format!("${variable}")));
            } else if let Some(raw) = self.meta.options.get(variable) {
                out.push_str(&self.option(variable, raw)?);
            } else {
                out.push('$');
                out.push_str(written);
            }
        }
        out.push_str(rest);
        Ok(out)
    }
}

/// Splits what follows a `$` into the variable's name, the name as written, and the rest. An unfinished `${name`
/// is dropped, as by Ceph.
fn split_variable(text: &str) -> (&str, &str, &str) {
    let name_end =
        |text: &str| text.find(|c: char| !c.is_ascii_lowercase() && c != '_').unwrap_or(text.len());
    let Some(braced) = text.strip_prefix('{') else {
        let (name, rest) = text.split_at(name_end(text));
        return (name, name, rest);
    };
    let (name, rest) = braced.split_at(name_end(braced));
    match rest.strip_prefix('}') {
        Some(after) => (name, &text[..name.len() + 2], after),
        None => ("", "", rest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(options: &[(&str, &str)], raw: &str) -> Result<String, ExpandError> {
        let env = Environment {
            home: Some("/root".into()),
            host: "node1".into(),
            pid: 7,
            ..Environment::default()
        };
        let options = options.iter().copied().collect();
        let meta =
            Meta { entity: &EntityAuthName::client("x"), cluster: "ceph", env: &env, options: &options };
        meta.option("probe", raw).map(|value| value.to_string())
    }

    #[test]
    fn special_names_are_replaced() {
        assert_eq!(
            expand(&[], "$cluster.$name.$type/$id $num ${pid}x $home $host").unwrap(),
            "ceph.client.x.client/x x 7x /root node1"
        );
        assert_eq!(expand(&[("host", "other")], "$host").unwrap(), "other");
    }

    #[test]
    fn options_are_replaced_deeply_and_unknown_names_stay() {
        let options = [("a", "1${b}"), ("b", "2$c"), ("c", "3$nosuch")];
        assert_eq!(expand(&options, "$a ${nosuch}").unwrap(), "123$nosuch ${nosuch}");
    }

    /// `ceph-conf` 16.2.15 prints these.
    #[test]
    fn what_is_no_variable_stays_or_is_dropped() {
        for (raw, value) in [("$ $$", "$ $$"), ("${ $MON", "$ $MON"), ("${name", "$"), ("${name-x}", "$-x}")]
        {
            assert_eq!(expand(&[], raw).unwrap(), value, "{raw}");
        }
    }

    #[test]
    fn a_loop_is_broken_where_it_closes() {
        assert_eq!(expand(&[("probe", "$a"), ("a", "x$probe")], "$a").unwrap(), "$probe");
        assert_eq!(expand(&[("probe", "")], "y$probe").unwrap(), "$probe");
    }

    #[test]
    fn growth_is_bounded() {
        let names: Vec<String> =
            ('a'..='z').flat_map(|x| ('a'..='z').map(move |y| format!("{x}{y}"))).collect();
        let doubled: Vec<(String, String)> =
            names.windows(2).map(|pair| (pair[0].clone(), format!("${0}_${0}", pair[1]))).collect();
        let doubled: Vec<(&str, &str)> = doubled.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(expand(&doubled, "$aa").unwrap_err().option, "probe");

        let long = "x".repeat(MAX_LEN / 2);
        assert!(expand(&[("a", &long)], "$a$a$a$a").is_err());
    }
}
