//! Commands of `rbd`, typed to `rbd-nbd-rs`: the same output, the same effects, the same exit codes.

#![allow(clippy::unwrap_used, reason = "test")]

mod changing;
#[path = "../common/mod.rs"]
mod common;
mod mistakes;
mod pools;
mod progress;
mod reading;

use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Cluster, Output, json, program, run_within};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);

/// Whose program runs a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Ours,
    Theirs,
}

const BOTH: [Side; 2] = [Side::Ours, Side::Theirs];

impl Side {
    /// Runs a command of `rbd`, as client.qemu. Words are split at blanks; `%` stands for one inside a word.
    fn try_run(self, cluster: &Cluster, command: &str) -> Output {
        let words = command.split_whitespace().map(|word| word.replace('%', " "));
        let mut tool = match self {
            Self::Ours => program(),
            Self::Theirs => {
                let mut rbd = Command::new("rbd");
                rbd.stderr(Stdio::piped()).env_remove("CEPH_ARGS");
                rbd
            }
        };
        tool.args(words).args(["--id", "qemu", "--conf", &cluster.conf()]);
        run_within(LIMIT, &mut tool)
    }

    fn run(self, cluster: &Cluster, command: &str) -> String {
        self.try_run(cluster, command).success()
    }
}

/// Holds when both print the same, in plain text and as JSON, to the last byte.
fn assert_same(cluster: &Cluster, command: &str) -> Value {
    for format in ["plain", "json"] {
        let command = format!("{command} --format {format}");
        let [ours, theirs] = BOTH.map(|side| side.run(cluster, &command));
        assert_eq!(ours, theirs, "{command}");
    }
    json(&Side::Ours.run(cluster, &format!("{command} --format json")))
}

/// A namespace for each side, which are to become the same.
#[derive(Debug)]
struct Twins<'a> {
    cluster: &'a Cluster,
    name: &'static str,
}

impl<'a> Twins<'a> {
    fn new(cluster: &'a Cluster, name: &'static str) -> Self {
        let twins = Self { cluster, name };
        for side in BOTH {
            cluster.run(&format!("rbd namespace create {}", twins.place(side)));
        }
        twins
    }

    /// `POOL/NAMESPACE` of one side.
    fn place(&self, side: Side) -> String {
        let side = if side == Side::Ours { "ours" } else { "theirs" };
        format!("rbdpool/{}-{side}", self.name)
    }

    /// Does the same on both sides, with the program of each; `NS` is the side's pool and namespace. The exit codes
    /// are the same.
    fn run(&self, command: &str) {
        let outputs = BOTH.map(|side| self.run_on(side, command));
        let [ours, theirs] = &outputs;
        assert_eq!(ours.status.code(), theirs.status.code(), "{ours}\n{theirs}");
    }

    fn run_on(&self, side: Side, command: &str) -> Output {
        side.try_run(self.cluster, &command.replace("NS", &self.place(side)))
    }

    /// Holds when `rbd` shows the same on both sides, but for what differs between any two images.
    fn assert_same(&self, command: &str) -> Value {
        let [ours, theirs] = BOTH.map(|side| {
            let command = command.replace("NS", &self.place(side));
            let shown = json(&Side::Theirs.run(self.cluster, &format!("{command} --format json")));
            without_identity(shown, &self.place(side))
        });
        assert_eq!(ours, theirs, "{command}");
        ours
    }

    /// Id of an image in the trash of a side.
    fn trashed(&self, side: Side, name: &str) -> String {
        let list = Side::Theirs.run(self.cluster, &format!("trash ls {} --format json", self.place(side)));
        let list = json(&list);
        let entry = list.as_array().unwrap().iter().find(|entry| entry["name"] == name);
        entry.unwrap_or_else(|| panic!("{name} is not in the trash: {list}"))["id"]
            .as_str()
            .unwrap()
            .to_owned()
    }
}

/// Numbers and times of images, and the namespace of their side.
fn without_identity(value: Value, place: &str) -> Value {
    const IDENTITY: [&str; 9] = [
        "id",
        "snapshot_id",
        "block_name_prefix",
        "create_timestamp",
        "access_timestamp",
        "modify_timestamp",
        "timestamp",
        "deleted_at",
        "address",
    ];
    let (_, namespace) = place.rsplit_once('/').unwrap();
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .filter(|(name, _)| !IDENTITY.contains(&name.as_str()))
            .map(|(name, value)| (name, without_identity(value, place)))
            .collect(),
        Value::Array(values) => values.into_iter().map(|value| without_identity(value, place)).collect(),
        // The name of a snapshot in the trash.
        Value::String(text) if is_uuid(&text) => "UUID".into(),
        Value::String(text) => text.replace(namespace, "NS").into(),
        other => other,
    }
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36 && text.chars().all(|c| c.is_ascii_hexdigit() || c == '-')
}
