//! The text of `ceph.conf`.
//!
//! ```text
//! file     = { option } { section }
//! section  = '[' name ']' end { option }
//! option   = name '=' ( '"' text '"' | "'" text "'" | text ) end
//! text     = { char | '\' char }         '#' and ';' need the backslash, also between quotes
//! end      = [ comment ] newline
//! comment  = ( '#' | ';' ) { char }
//! ```
//! A backslash at the end of a line joins it with the next one, except between quotes. A name that is set twice
//! has its last value, also when its section is split.
//!
//! More is taken than Ceph takes, where the meaning is clear: a last line without newline, indented section names,
//! lines of blanks, dashes in names of options, several options before the first section (they are global), a byte
//! order mark, and anything that is UTF-8 (Debian's Ceph 16 aborts on it outside quotes).
//!
//! Ceph: `IniGrammer` in `src/common/ConfUtils.cc`.

use std::collections::BTreeMap;

use nom::branch::alt;
use nom::bytes::complete::{tag, take_while};
use nom::character::complete::{char, none_of, one_of, space0};
use nom::combinator::{eof, not, recognize, value};
use nom::error::{ErrorKind, ParseError};
use nom::multi::{fold_many0, many0_count, many1_count};
use nom::sequence::preceded;
use nom::{Err, IResult, Parser};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::Options;

/// A parsed `ceph.conf`: its sections, nothing expanded yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfFile {
    sections: BTreeMap<String, Options>,
}

impl ConfFile {
    /// Parses the content of a file.
    ///
    /// # Errors
    /// [`SyntaxError`] with line and column. It shows nothing of the text, which may hold a key.
    pub fn parse(text: &[u8]) -> Result<Self, SyntaxError> {
        let utf8 = std::str::from_utf8(text).map_err(|error| {
            let valid = std::str::from_utf8(&text[..error.valid_up_to()]).expect("valid up to there");
            SyntaxError::at(valid, Expected::Utf8)
        })?;
        let mut conf = Self::default();
        let mut section = "global".to_owned();
        let mut rest = utf8.strip_prefix('\u{feff}').unwrap_or(utf8);
        while !rest.is_empty() {
            let (after, statement) = statement(rest).map_err(|error| match error {
                Err::Error(fault) | Err::Failure(fault) => {
                    SyntaxError::at(&utf8[..utf8.len() - fault.rest.len()], fault.expected)
                }
                Err::Incomplete(_) => SyntaxError::at(utf8, Expected::Statement),
            })?;
            match statement {
                Statement::Section(name) => section = name,
                Statement::Option(name, value) => {
                    conf.sections.entry(section.clone()).or_default().set(name, &value);
                }
                Statement::Empty => {}
            }
            rest = after;
        }
        Ok(conf)
    }

    /// A section's options, if the section has any.
    #[must_use]
    pub fn section(&self, name: &str) -> Option<&Options> {
        self.sections.get(name)
    }

    /// All sections that have options, by name.
    pub fn sections(&self) -> impl Iterator<Item = (&str, &Options)> {
        self.sections.iter().map(|(name, options)| (name.as_str(), options))
    }
}

/// What a `ceph.conf` lacks at some place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Expected {
    /// Any statement.
    #[error("`name = value` or `[section]`")]
    Statement,
    /// The `=` after an option's name.
    #[error("'=' after the option's name")]
    Equals,
    /// The end of a quoted value. Comment signs between quotes need a backslash.
    #[error("a closing {0} (put a backslash before '#' and ';' between quotes)")]
    ClosingQuote(char),
    /// The name of a section.
    #[error("the name of a section")]
    SectionName,
    /// The end of a section's name.
    #[error("']' after the section's name")]
    ClosingBracket,
    /// The end of the line, or a comment.
    #[error("the end of the line")]
    LineEnd,
    /// UTF-8.
    #[error("UTF-8 text")]
    Utf8,
}

/// Where and why a `ceph.conf` could not be parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("line {line}, column {column}: expected {expected}")]
pub struct SyntaxError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What should be there.
    pub expected: Expected,
}

impl SyntaxError {
    /// The error behind `before`, the text that is fine.
    fn at(before: &str, expected: Expected) -> Self {
        let (lines, last) = before
            .rsplit_once('\n')
            .map_or((0, before), |(lines, last)| (lines.matches('\n').count() + 1, last));
        Self { line: lines + 1, column: last.chars().count() + 1, expected }
    }
}

enum Statement<'a> {
    Section(String),
    Option(&'a str, Zeroizing<String>),
    Empty,
}

struct Fault<'a> {
    rest: &'a str,
    expected: Expected,
}

impl<'a> ParseError<&'a str> for Fault<'a> {
    fn from_error_kind(rest: &'a str, _: ErrorKind) -> Self {
        Self { rest, expected: Expected::Statement }
    }

    fn append(_: &'a str, _: ErrorKind, other: Self) -> Self {
        other
    }
}

type Parsed<'a, T> = IResult<&'a str, T, Fault<'a>>;

fn statement(i: &str) -> Parsed<'_, Statement<'_>> {
    alt((end.map(|()| Statement::Empty), section.map(Statement::Section), option)).parse(i)
}

fn section(i: &str) -> Parsed<'_, String> {
    let (i, _) = (skip, space0, char('[')).parse(i)?;
    let (i, name) = text(i, |i| none_of("]").parse(i))?;
    if name.is_empty() {
        return fail(i, Expected::SectionName);
    }
    let (i, _) = must(char(']'), Expected::ClosingBracket).parse(i)?;
    let (i, ()) = must(end, Expected::LineEnd).parse(i)?;
    Ok((i, name.to_string()))
}

fn option(i: &str) -> Parsed<'_, Statement<'_>> {
    let (i, _) = (skip, space0, skip).parse(i)?;
    let (i, name) = recognize(many1_count(preceded((skip, not(one_of("=["))), text_char))).parse(i)?;
    let (i, _) = must(preceded((skip, space0), char('=')), Expected::Equals).parse(i)?;
    let (i, _) = (skip, space0, skip).parse(i)?;
    let (i, value) = match i.chars().next() {
        Some(quote @ ('"' | '\'')) => quoted(&i[1..], quote)?,
        _ => text(i, |i| none_of("").parse(i))?,
    };
    let (i, ()) = must(end, Expected::LineEnd).parse(i)?;
    Ok((i, Statement::Option(name, value)))
}

/// Text to the end of the line or to where `allowed` fails, without comments, lines joined.
fn text<'a>(
    i: &'a str,
    allowed: impl Fn(&'a str) -> Parsed<'a, char> + Copy,
) -> Parsed<'a, Zeroizing<String>> {
    let allowed = move |i| nom::combinator::peek(allowed).parse(i);
    fold_many0(preceded((skip, allowed), text_char), Zeroizing::<String>::default, push).parse(i)
}

fn quoted(i: &str, quote: char) -> Parsed<'_, Zeroizing<String>> {
    let (i, text) =
        fold_many0(preceded(not(char(quote)), text_char), Zeroizing::<String>::default, push).parse(i)?;
    let (i, _) = must(char(quote), Expected::ClosingQuote(quote)).parse(i)?;
    Ok((i, text))
}

fn push(mut text: Zeroizing<String>, c: char) -> Zeroizing<String> {
    text.push(c);
    text
}

/// One character of a name or value: any but the signs of a comment, which need a backslash.
fn text_char(i: &str) -> Parsed<'_, char> {
    alt((preceded(char('\\'), none_of("\r\n")), none_of("#;\r\n"))).parse(i)
}

/// The end of a statement: blanks, a comment, and a newline or the end of the file.
fn end(i: &str) -> Parsed<'_, ()> {
    value((), (skip, space0, alt((newline, eof)))).parse(i)
}

/// Comments and joints of lines, which may stand anywhere but between quotes.
fn skip(i: &str) -> Parsed<'_, usize> {
    let comment = recognize((space0, one_of("#;"), take_while(|c| c != '\n' && c != '\r')));
    let joint = recognize((char('\\'), newline));
    many0_count(alt((joint, comment))).parse(i)
}

fn newline(i: &str) -> Parsed<'_, &str> {
    alt((tag("\r\n"), tag("\n"), tag("\r"))).parse(i)
}

/// From here on no other way to read the text is tried.
fn must<'a, T>(
    mut parser: impl Parser<&'a str, Output = T, Error = Fault<'a>>,
    expected: Expected,
) -> impl Parser<&'a str, Output = T, Error = Fault<'a>> {
    move |i: &'a str| match parser.parse(i) {
        Err(Err::Error(_)) => fail(i.trim_start_matches([' ', '\t']), expected),
        other => other,
    }
}

fn fail<T>(rest: &str, expected: Expected) -> Parsed<'_, T> {
    Err(Err::Failure(Fault { rest, expected }))
}

#[cfg(test)]
mod tests;
