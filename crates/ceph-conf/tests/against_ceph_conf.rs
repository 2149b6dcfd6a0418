//! Ceph's own tools, `ceph-conf` and `monmaptool`, are asked what they make of the same files. They must be
//! installed (Debian: `ceph-common`, `ceph-base`).

#![allow(clippy::unwrap_used, reason = "test")]

use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ceph_conf::{Config, ConfigBuilder, Environment, MonAddr, MonAddrKind, Overrides, load, parse_mon_host};
use proptest::prelude::*;
use proptest::test_runner::{Config as Runs, TestRunner};
use tempfile::TempDir;

const HOME: &str = "/root";
const PID: u32 = 4711;
const NAME: &str = "client.x";

/// A configuration file that both sides read.
struct Conf {
    dir: TempDir,
}

impl Conf {
    fn new(text: &str) -> Self {
        let conf = Self { dir: tempfile::tempdir().unwrap() };
        conf.write(text);
        conf
    }

    fn write(&self, text: &str) {
        std::fs::write(self.path(), text).unwrap();
    }

    /// Not `ceph.conf`, so that the name of the cluster is seen to follow it.
    fn path(&self) -> PathBuf {
        self.dir.path().join("odd.conf")
    }

    fn tool(&self, program: &str, args: &[&str]) -> Output {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", HOME);
        command.arg("-c").arg(self.path()).args(args);
        command.output().unwrap_or_else(|error| panic!("{program} cannot be started: {error}"))
    }

    fn ceph_conf(&self, args: &[&str]) -> Output {
        self.tool("ceph-conf", &[&["--name", NAME, "--pid", &PID.to_string()], args].concat())
    }

    /// What Ceph makes of an option; `Err` if Ceph refuses the file.
    fn theirs(&self, option: &str) -> Result<Option<String>, String> {
        let output = self.ceph_conf(&["--lookup", option]);
        let stderr = String::from_utf8(output.stderr).unwrap();
        if stderr.contains("parse error") || output.status.code().is_none() {
            return Err(stderr);
        }
        let stdout = String::from_utf8(output.stdout).unwrap();
        Ok(output.status.success().then(|| stdout.strip_suffix('\n').unwrap().to_owned()))
    }

    fn ours(&self) -> Result<Config, ceph_conf::LoadError> {
        let env = Environment { home: Some(HOME.into()), pid: PID, ..Environment::from_process().unwrap() };
        let env = Environment { ceph_args: None, ceph_conf: None, ceph_keyring: None, ..env };
        load(&env, &Overrides { conf: Some(self.path()), name: Some(NAME.into()), ..Overrides::default() })
    }

    #[track_caller]
    fn agrees_on(&self, text: &str, option: &str) {
        let theirs = self.theirs(option).unwrap_or_else(|error| panic!("ceph-conf: {error}\n{text}"));
        let ours = self.ours().unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(ours.get(option), theirs.as_deref(), "{option} in\n{text}");
    }
}

#[test]
fn values_are_what_ceph_makes_of_them() {
    for body in [
        "a = 1",
        "a=1 # c",
        "a=1;c",
        "a = x = y",
        "a =",
        "a = # c",
        "\ta\t=\tx y\t",
        "a = \"x y\"  # c",
        "a = 'x \"y\"'",
        "a = \"x\\\"y\"",
        "a = \" x \"",
        "a = x \"y\"",
        "a = \"x \\# y\"",
        "a = x\\#y\\;z\\\\",
        "a = x\\\n  y # c\\",
        "a = \\\nx",
        "a = \\\n\"x\"",
        "a \\\n= x",
        "a = x\\\n\\\ny\n",
        "a = x\\\n# c",
        "a = x # c \\\nb = y",
        "a = 1\na = 2",
        "a = 1\n\n  # c\n\n; c\nb = 2",
        "a = 1\r\nb = 2\r",
        "a = x\\ty",
        "b = 1\n[client]\na = 2\n[client.x]\na = 3\n[global]\na = 4",
        "b = 1\n[client.y]\na = 2",
        "b = 1\n[client] # c\na = 2",
        "b = 1\n[ client ]\na = 2",
        "b = 1\n[cli\\\nent]\na = 2",
        "b = 1\n[client.\\x]\na = 2",
        "# \u{e9}\na = \"\u{e9}\"",
    ] {
        let text = format!("[global]\n{body}\n");
        Conf::new(&text).agrees_on(&text, "a");
    }
}

#[test]
fn names_are_matched_as_ceph_does() {
    for (written, asked) in [
        ("mon host", "mon_host"),
        ("mon_host", "mon host"),
        ("mon \t host", "mon_host"),
        (" mon host\t", "mon_host"),
        ("mon  host", "mon   host"),
        ("mon_ host", "mon_host"),
        ("mon__host", "mon_host"),
        ("Mon Host", "mon_host"),
        ("monhost", "mon_host"),
    ] {
        let text = format!("[global]\n{written} = 10.0.0.1\n");
        Conf::new(&text).agrees_on(&text, asked);
    }
}

#[test]
fn metavariables_are_replaced_as_ceph_does() {
    for value in [
        "$cluster $type $id $num $name $host $pid",
        "${cluster}x ${name}.keyring",
        "$home/x",
        "$nosuch ${nosuch} $Name",
        "$ $$ $$id ${ $",
        "${name",
        "${name-x} ${} $-",
        "$mon_host/$log_file",
        "$err_to_syslog_facility",
        "$idx $id.x $id_x $id-x",
    ] {
        let text = format!("[global]\nmon host = [$log_file]\nlog_file = <$id>\na = {value}\n");
        Conf::new(&text).agrees_on(&text, "a");
    }
}

#[test]
fn loops_of_metavariables_are_broken_as_ceph_does() {
    let text = "[global]\nmon_host = a$log_file\nlog_file = b$mon_host\nkeyring = c$keyring\n";
    let conf = Conf::new(text);
    let ours = conf.ours().unwrap();
    for option in ["mon_host", "log_file", "keyring"] {
        let theirs = conf.ceph_conf(&["--show-config-value", option]);
        let theirs = String::from_utf8(theirs.stdout).unwrap();
        assert_eq!(ours.get(option), Some(theirs.trim_end()), "{option}");
    }
}

#[test]
fn what_ceph_refuses_is_refused() {
    for text in [
        "[global]\na\n",
        "[global]\na = \"x\n",
        "[global]\na = \"x # y\"\n",
        "[global]\na = 'x' y\n",
        "[global]\n= x\n",
        "[global]\na[0] = x\n",
        "[global\n",
        "[]\n",
        "[a] b = c\n",
        "[a # b]\n",
        "text\n",
        "\\x\n",
    ] {
        let conf = Conf::new(text);
        assert!(conf.theirs("a").is_err(), "ceph-conf takes\n{text}");
        assert!(conf.ours().is_err(), "we take\n{text}");
    }
}

/// Where the meaning is clear. Should Ceph take some of these one day, it must mean the same.
#[test]
fn what_only_ceph_refuses_means_the_obvious() {
    for text in [
        "[global]\na = 1",
        "  [global]\na = 1\n",
        "   \n[global]\na = 1\n",
        "[global]\na = 1\n   ",
        "a = 1\nb = 2\n",
        "\u{feff}[global]\na = 1\n",
        "[global]\nb = \u{e9}\na = 1\n",
    ] {
        let conf = Conf::new(text);
        assert_eq!(conf.ours().unwrap().get("a"), Some("1"), "{text:?}");
        if let Ok(theirs) = conf.theirs("a") {
            assert_eq!(theirs.as_deref(), Some("1"), "{text:?}");
        }
    }
}

const CASES: u32 = 200;

/// Files of the pieces that matter, in any order.
#[test]
fn whatever_ceph_takes_is_taken_and_means_the_same() {
    let piece = prop_oneof![
        4 => Just("\n"), 2 => Just("a = "), 2 => Just("b c="), 1 => Just("a"), 1 => Just("="), 1 => Just("x"),
        1 => Just(" "), 1 => Just("\t"), 1 => Just("\\"), 1 => Just("\\\n"), 1 => Just("#"), 1 => Just(";"),
        1 => Just("\""), 1 => Just("'"), 1 => Just("[client]\n"), 1 => Just("]"), 1 => Just("\r\n"),
        1 => Just("$id"), 1 => Just("${"), 1 => Just("}"),
    ];
    let body = proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat());
    let conf = Conf::new("");
    let taken = Cell::new(0);
    let mut runner = TestRunner::new(Runs { cases: CASES, failure_persistence: None, ..Runs::default() });
    let result = runner.run(&body, |body| {
        let text = format!("[global]\n{body}\n");
        conf.write(&text);
        if let Ok(a) = conf.theirs("a") {
            taken.set(taken.get() + 1);
            let ours = conf.ours().map_err(|error| TestCaseError::fail(format!("{error:?}\n{text}")))?;
            prop_assert_eq!(ours.get("a"), a.as_deref(), "a in\n{}", text);
            let b_c = conf.theirs("b c").expect("the same file was fine just before");
            prop_assert_eq!(ours.get("b c"), b_c.as_deref(), "b c in\n{}", text);
        }
        Ok(())
    });
    result.unwrap();
    assert!(taken.get() > 20, "Ceph took only {} of {CASES} files", taken.get());
}

#[test]
fn defaults_are_those_of_ceph() {
    let conf = Conf::new("");
    let ours = conf.ours().unwrap();
    let mut compared = 0;
    for (option, value) in ours.options() {
        let theirs = conf.ceph_conf(&["--show-config-value", option]);
        let theirs = String::from_utf8(theirs.stdout).unwrap();
        let theirs = theirs.trim_end().trim_end_matches(',');
        let number = |text: &str| text.parse::<f64>().ok();
        let same = value == theirs
            || ours
                .get_size(option)
                .is_ok_and(|size| size.map(|size| size.to_string()).as_deref() == Some(theirs))
            || (number(value).is_some() && number(value) == number(theirs));
        assert!(same, "{option} is {value}, for Ceph {theirs}");
        compared += 1;
    }
    assert!(compared > 40, "{compared}");
}

/// The addresses `monmaptool` makes of a list of monitors.
fn their_monitors(list: &str) -> Option<BTreeSet<String>> {
    let conf = Conf::new(&format!("[global]\nmon_host = {}\n", list.replace(';', "\\;")));
    let map = conf.dir.path().join("monmap");
    let made = conf.tool("monmaptool", &["--create", "--generate", map.to_str().unwrap()]);
    made.status.success().then(|| printed_addresses(&conf, &map))
}

fn printed_addresses(conf: &Conf, map: &Path) -> BTreeSet<String> {
    let printed = conf.tool("monmaptool", &["--print", map.to_str().unwrap()]);
    let printed = String::from_utf8(printed.stdout).unwrap();
    let mut addresses = BTreeSet::new();
    for line in printed.lines().filter(|line| line.contains(" mon.")) {
        let vector = line.split(' ').nth(1).unwrap();
        // `[v2:..,v1:..]`, or one address, which for IPv6 has brackets inside.
        let vector = vector.strip_prefix('[').and_then(|vector| vector.strip_suffix(']')).unwrap_or(vector);
        addresses.extend(vector.split(',').map(str::to_owned));
    }
    addresses
}

fn our_monitors(list: &str) -> BTreeSet<String> {
    let addresses = |addr: MonAddr| {
        // monmaptool makes a map to be used by monitors, who use v2 where clients try both.
        let tried = if addr.kind == MonAddrKind::Any && addr.port.is_some() { 1 } else { 2 };
        let endpoints = addr.endpoints().into_iter().take(tried);
        let text = |(kind, port)| format!("{kind}:{}:{port}/{}", addr.host, addr.nonce);
        endpoints.map(text).collect::<Vec<_>>()
    };
    parse_mon_host(list)
        .unwrap_or_else(|error| panic!("{error}"))
        .into_iter()
        .flatten()
        .flat_map(addresses)
        .collect()
}

#[test]
fn monitors_are_those_ceph_finds() {
    for list in [
        "10.0.0.1",
        "10.0.0.1:3300",
        "10.0.0.1:6789",
        "10.0.0.1:40000",
        "10.0.0.1:0/0",
        "10.0.0.1/5",
        "v2:10.0.0.1",
        "v1:10.0.0.1",
        "v2:10.0.0.1:3300/0",
        "v1:10.0.0.1:3300",
        "any:10.0.0.1:6789",
        "[v2:10.0.0.1:3300,v1:10.0.0.1:6789]",
        "[v2:10.0.0.1:3300/0,v1:10.0.0.1:6789/0],[v2:10.0.0.2:3300/0,v1:10.0.0.2:6789/0]",
        "[10.0.0.1:3300]",
        "[10.0.0.1]:40000",
        "[v2:10.0.0.1:3300]",
        "::1",
        "[::1]",
        "[::1]:40000",
        "v2:[fd00::1]:3300",
        "fd00::1,fd00::2",
        "[v2:[fd00::1]:3300,v1:[fd00::1]:6789]",
        "10.0.0.1,10.0.0.2;10.0.0.3 10.0.0.4:6789",
        " 10.0.0.1 , 10.0.0.2 ;; ",
    ] {
        let theirs = their_monitors(list).unwrap_or_else(|| panic!("monmaptool refuses {list}"));
        assert_eq!(our_monitors(list), theirs, "{list}");
    }
}

#[test]
fn names_are_resolved_by_ceph_where_we_leave_them() {
    let theirs = their_monitors("localhost:13420").expect("localhost has an address");
    let addr = parse_mon_host("localhost:13420").unwrap().remove(0).remove(0);
    assert_eq!(addr.host, ceph_conf::Host::Name("localhost".into()));
    assert!(theirs.iter().all(|address| address.ends_with(":13420/0")), "{theirs:?}");
}

#[test]
fn monitors_that_ceph_refuses_are_refused() {
    for list in ["v2:", "[v2:10.0.0.1:3300", "10.0.0.1:x", "10.0.0.1]x", "[]"] {
        assert_eq!(their_monitors(list), None, "{list}");
        assert!(parse_mon_host(list).is_err(), "{list}");
    }
}

#[test]
fn a_name_without_type_is_refused_by_both() {
    let conf = Conf::new("");
    let output = conf.tool("ceph-conf", &["--name", "qemu", "--lookup", "a"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("expected string of the form TYPE.ID"));
    let overrides = Overrides { name: Some("qemu".into()), ..Overrides::default() };
    assert!(ConfigBuilder::new(&Environment::default(), &overrides).is_err());
}
