//! Where the monitors are: the option `mon_host`.
//!
//! ```text
//! mon_host = monitor { (',' | ';' | blank) monitor }
//! monitor  = address | '[' address { ',' address } ']'       one monitor's addresses, one per messenger
//! address  = [ 'v1:' | 'v2:' | 'any:' ] host [ ':' port ] [ '/' nonce ]
//! host     = IPv4 | IPv6 | '[' ( IPv6 | IPv4 | name ) ']' | name
//! ```
//! Ceph first reads the whole list as addresses, then, if that fails, resolves it as a list of names. Here both are
//! one grammar, so addresses and names can stand side by side and names can have a messenger.
//!
//! Ceph: `parse_ip_port_vec` in `src/common/ceph_argparse.cc`, `entity_addr_t::parse` in `src/msg/msg_types.cc`,
//! `resolve_addrs` in `src/common/addr_parsing.c`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ceph_codec::AddrType;
use nom::branch::alt;
use nom::bytes::complete::{tag, take_while, take_while1};
use nom::character::complete::{char, digit0, one_of};
use nom::combinator::{cut, eof, map_opt, map_res, opt, peek, value};
use nom::multi::{many0_count, separated_list1};
use nom::sequence::{delimited, preceded, terminated};
use nom::{IResult, Parser};
use thiserror::Error;

/// Where messenger v2 of a monitor listens by default. Ceph: `CEPH_MON_PORT_IANA` in `src/include/msgr.h`.
const PORT_V2: u16 = 3300;
/// Where messenger v1 of a monitor listens by default. Ceph: `CEPH_MON_PORT_LEGACY`.
const PORT_V1: u16 = 6789;

/// Which messenger an address is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MonAddrKind {
    /// `v1:`, the legacy messenger.
    V1,
    /// `v2:`.
    V2,
    /// Not said; the port tells, or both are to be tried.
    Any,
}

/// A host, to be resolved if it is a name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// An address.
    Ip(IpAddr),
    /// A name for DNS or `/etc/hosts`.
    Name(String),
}

/// One address of a monitor, as written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MonAddr {
    /// Which messenger it is for.
    pub kind: MonAddrKind,
    /// The host.
    pub host: Host,
    /// The port; `None` means the default one of the messenger.
    pub port: Option<u16>,
    /// The nonce, 0 for all monitors there are.
    pub nonce: u32,
}

impl MonAddr {
    /// Messengers and ports to try at this host, the best first.
    ///
    /// An address without messenger is v2 at port 3300, v1 at port 6789, and either at any other port; without port
    /// it is v2 at 3300 or v1 at 6789. Ceph: `MonMap::_add_ambiguous_addr` in `src/mon/MonMap.cc`.
    #[must_use]
    pub fn endpoints(&self) -> Vec<(AddrType, u16)> {
        let (v1, v2) = (AddrType::LEGACY, AddrType::MSGR2);
        match (self.kind, self.port) {
            (MonAddrKind::V1, port) => vec![(v1, port.unwrap_or(PORT_V1))],
            (MonAddrKind::V2, port) => vec![(v2, port.unwrap_or(PORT_V2))],
            (MonAddrKind::Any, Some(PORT_V1)) => vec![(v1, PORT_V1)],
            (MonAddrKind::Any, Some(PORT_V2)) => vec![(v2, PORT_V2)],
            (MonAddrKind::Any, Some(port)) => vec![(v2, port), (v1, port)],
            (MonAddrKind::Any, None) => vec![(v2, PORT_V2), (v1, PORT_V1)],
        }
    }

    /// The port at which messenger v2 may listen; `None` if the address is one of the legacy messenger v1.
    #[must_use]
    pub fn msgr2_port(&self) -> Option<u16> {
        self.endpoints()
            .into_iter()
            .find(|(messenger, _)| *messenger == AddrType::MSGR2)
            .map(|(_, port)| port)
    }

    /// An address as the legacy option `mon addr` has it, which Ceph takes for one of messenger v1. A monitor at
    /// the default port is assumed to listen at the default port of v2, too.
    pub(crate) fn from_mon_addr(text: &str) -> Result<Self, MonHostError> {
        let (rest, mut addr) = terminated(address(MonAddrKind::V1), eof)
            .parse(text)
            .map_err(|_| MonHostError { value: text.to_owned(), column: 1 })?;
        debug_assert!(rest.is_empty());
        if addr.kind == MonAddrKind::V1 && addr.port.is_none_or(|port| port == PORT_V1) {
            (addr.kind, addr.port) = (MonAddrKind::Any, None);
        }
        Ok(addr)
    }
}

/// Parses a list of monitors. Each element is one monitor's addresses, or what is known of them; a name may
/// stand for several monitors. An empty list is none.
///
/// # Errors
/// [`MonHostError`] with the column of the monitor that is malformed.
pub fn parse_mon_host(text: &str) -> Result<Vec<Vec<MonAddr>>, MonHostError> {
    let separators = |i| many0_count(one_of::<_, _, Fault<'_>>(SEPARATORS)).parse(i);
    let mut monitors = Vec::new();
    let mut rest = text;
    loop {
        (rest, _) = separators(rest).expect("any number of separators is fine");
        if rest.is_empty() {
            return Ok(monitors);
        }
        let end = alt((value((), one_of(SEPARATORS)), value((), eof)));
        let (after, monitor) = terminated(monitor, peek(end)).parse(rest).map_err(|_| {
            let column = text[..text.len() - rest.len()].chars().count() + 1;
            MonHostError { value: text.to_owned(), column }
        })?;
        monitors.push(monitor);
        rest = after;
    }
}

const SEPARATORS: &str = ",; \t\r\n";

/// A list of monitors that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "no monitor address at column {column} of '{value}', expected forms such as 10.0.0.1, mon1.example:3300 or [v2:10.0.0.1:3300,v1:10.0.0.1:6789]"
)]
pub struct MonHostError {
    /// The list.
    pub value: String,
    /// Where the malformed monitor begins, in characters from 1.
    pub column: usize,
}

type Fault<'a> = nom::error::Error<&'a str>;

fn monitor(i: &str) -> IResult<&str, Vec<MonAddr>> {
    // `[::1]:3300` is one address, so that is tried first. Within a vector the default is v2, as for Ceph.
    let end = alt((value((), one_of(SEPARATORS)), value((), eof)));
    let one = terminated(address(MonAddrKind::Any), peek(end)).map(|addr| vec![addr]);
    let vector = delimited(char('['), separated_list1(char(','), address(MonAddrKind::V2)), char(']'));
    alt((one, vector)).parse(i)
}

fn address<'a>(default: MonAddrKind) -> impl Parser<&'a str, Output = MonAddr, Error = Fault<'a>> {
    let kind = alt((
        value(MonAddrKind::V1, tag("v1:")),
        value(MonAddrKind::V2, tag("v2:")),
        value(MonAddrKind::Any, tag("any:")),
    ));
    let port = map_opt(digit0, number::<u16>);
    let nonce = map_opt(digit0, number::<u32>);
    (opt(kind), host, opt(preceded(char(':'), cut(port))), opt(preceded(char('/'), cut(nonce)))).map(
        move |(kind, host, port, nonce)| MonAddr {
            kind: kind.unwrap_or(default),
            host,
            port: port.filter(|port| *port != 0),
            nonce: nonce.unwrap_or(0),
        },
    )
}

/// No digits are 0, as `atoi` has it.
fn number<T: std::str::FromStr + Default>(digits: &str) -> Option<T> {
    if digits.is_empty() { Some(T::default()) } else { digits.parse().ok() }
}

fn host(i: &str) -> IResult<&str, Host> {
    alt((bare_ip, delimited(char('['), alt((bare_ip, name)), char(']')), name)).parse(i)
}

fn bare_ip(i: &str) -> IResult<&str, Host> {
    let v6 =
        map_res(take_while1(|c: char| c.is_ascii_hexdigit() || ".:".contains(c)), str::parse::<Ipv6Addr>);
    // `10.0.0.1.example` is a name.
    let v4 = terminated(
        map_res(take_while1(|c: char| c.is_ascii_digit() || c == '.'), str::parse::<Ipv4Addr>),
        nom::combinator::not(nom::character::complete::satisfy(name_char)),
    );
    alt((v6.map(IpAddr::V6), v4.map(IpAddr::V4))).map(Host::Ip).parse(i)
}

fn name(i: &str) -> IResult<&str, Host> {
    let (rest, name) = take_while(name_char).parse(i)?;
    let plausible = name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && name.contains(|c: char| c.is_ascii_alphabetic());
    if !plausible {
        return Err(nom::Err::Error(Fault::new(i, nom::error::ErrorKind::Verify)));
    }
    Ok((rest, Host::Name(name.to_owned())))
}

fn name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-._".contains(c)
}

impl fmt::Display for MonAddrKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
            Self::Any => "any",
        })
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
            Self::Ip(IpAddr::V4(ip)) => ip.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// In a form that [`parse_mon_host`] reads; parts that were not given are left out.
impl fmt::Display for MonAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kind != MonAddrKind::Any {
            write!(f, "{}:", self.kind)?;
        }
        self.host.fmt(f)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        if self.nonce != 0 {
            write!(f, "/{}", self.nonce)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
