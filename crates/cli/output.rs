//! Results, to standard output.

use std::io::{self, Write as _};

use clap::Args as ClapArgs;
use serde_json::Value;

use crate::report::Error;

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Format {
    /// For people.
    #[default]
    Plain,
    /// For programs, with the fields of `rbd`.
    Json,
}

#[derive(Debug, Default, ClapArgs)]
pub(crate) struct FormatArgs {
    /// How to print it: plain or json
    #[arg(long, value_name = "FORMAT", value_parser = parse, default_value = "plain", hide_default_value = true)]
    format: Format,
    /// With --format json: indented, in lines
    #[arg(long)]
    pretty_format: bool,
}

impl FormatArgs {
    /// Prints a result in the form that was asked for.
    pub(crate) fn print(
        &self,
        json: impl FnOnce() -> Value,
        plain: impl FnOnce() -> String,
    ) -> Result<(), Error> {
        self.check()?;
        write(&match (self.format, self.pretty_format) {
            (Format::Plain, _) => plain(),
            (Format::Json, false) => format!("{}\n", json()),
            (Format::Json, true) => format!("{:#}\n", json()),
        })
    }

    /// Whether what was asked for goes together. [`print`](Self::print) does it too, but later.
    fn check(&self) -> Result<(), Error> {
        if self.pretty_format && self.format == Format::Plain { Err(Error::PrettyPlain) } else { Ok(()) }
    }
}

fn parse(text: &str) -> Result<Format, String> {
    match text {
        "plain" | "text" => Ok(Format::Plain),
        "json" => Ok(Format::Json),
        "xml" => Err("XML is not written here; JSON has the same fields".to_owned()),
        _ => Err("expected plain or json".to_owned()),
    }
}

/// Prints a result. That nobody reads it (any more) is no failure.
pub(crate) fn write(result: &str) -> Result<(), Error> {
    match io::stdout().write_all(result.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(Error::Output),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xml_is_refused_in_a_sentence() {
        assert_eq!(parse("json"), Ok(Format::Json));
        assert!(parse("xml").unwrap_err().contains("JSON"));
        assert!(parse("yaml").is_err());
    }

    #[test]
    fn only_json_can_be_pretty() {
        let args = FormatArgs { format: Format::Plain, pretty_format: true };
        assert!(matches!(args.check(), Err(Error::PrettyPlain)));
        assert!(FormatArgs { format: Format::Json, ..args }.check().is_ok());
    }
}
