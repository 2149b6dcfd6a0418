//! `snap`: the snapshots of an image.

use ceph_codec::Utime;
use ceph_conf::Overrides;
use clap::{Args as ClapArgs, Subcommand};
use rbd::{Snapshot, SnapshotFlags, SnapshotNamespace};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::output::FormatArgs;
use crate::progress::ProgressArgs;
use crate::report::Error;
use crate::spec::{ImageArgs, ImageIdOption, SnapArgs, check_name};
use crate::text;

#[derive(Debug, Subcommand)]
pub(crate) enum SnapCommand {
    /// Take a snapshot of an image.
    #[command(visible_alias = "add")]
    Create(CreateArgs),
    /// List the snapshots of an image.
    #[command(visible_alias = "list")]
    Ls(LsArgs),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    snapshot: SnapArgs,
    /// Do not ask those who have the image open to stop writing for a moment
    #[arg(long)]
    skip_quiesce: bool,
    /// Go on if they do not stop
    #[arg(long, conflicts_with = "skip_quiesce")]
    ignore_quiesce_error: bool,
    #[command(flatten)]
    progress: ProgressArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct LsArgs {
    #[command(flatten)]
    image: ImageArgs,
    #[command(flatten)]
    id: ImageIdOption,
    #[command(flatten)]
    format: FormatArgs,
    /// Those that no user made, too
    #[arg(short, long)]
    all: bool,
}

pub(crate) async fn run(command: &SnapCommand, overrides: &Overrides) -> Result<(), Error> {
    match command {
        SnapCommand::Create(args) => create(args, overrides).await,
        SnapCommand::Ls(args) => ls(args, overrides).await,
    }
}

async fn create(args: &CreateArgs, overrides: &Overrides) -> Result<(), Error> {
    let target = args.snapshot.resolve(overrides)?;
    let name = target.snapshot()?;
    check_name("a snapshot", name)?;
    let flags = match (args.skip_quiesce, args.ignore_quiesce_error) {
        (true, _) => SnapshotFlags::SKIP_QUIESCE,
        (false, true) => SnapshotFlags::IGNORE_QUIESCE_ERROR,
        (false, false) => SnapshotFlags::default(),
    };
    Cluster::change(&target, "create snapshot", async |image| {
        let progress = args.progress.start("Creating snap");
        progress.finish(image.create_snapshot(name, flags, &progress).await)
    })
    .await
}

async fn ls(args: &LsArgs, overrides: &Overrides) -> Result<(), Error> {
    let target = args.image.resolve_or_id(&args.id, overrides)?;
    let mut snapshots = Cluster::inspect(&target).await?.snapshots;
    snapshots.retain(|snapshot| args.all || snapshot.namespace == SnapshotNamespace::User);
    // The oldest first, as they were made.
    snapshots.reverse();
    args.format.print(
        || snapshots.iter().map(|snapshot| to_json(snapshot, args.all)).collect(),
        || to_table(&snapshots, args.all),
    )
}

/// Ceph: `do_list_snaps` in `src/tools/rbd/action/Snap.cc`.
fn to_json(snapshot: &Snapshot, all: bool) -> Value {
    let mut fields = json!({
        "id": snapshot.id.0,
        "name": snapshot.name,
        "size": snapshot.size,
        "protected": snapshot.protected.to_string(),
        "timestamp": timestamp(snapshot),
    });
    if all {
        let namespace = &mut fields["namespace"];
        namespace["type"] = json!(snapshot.namespace.name());
        if let SnapshotNamespace::Trash { original_name, .. } = &snapshot.namespace {
            namespace["original_name"] = json!(original_name);
        }
    }
    fields
}

fn to_table(snapshots: &[Snapshot], all: bool) -> String {
    let row = |snapshot: &Snapshot| {
        [
            snapshot.id.to_string(),
            snapshot.name.clone(),
            text::bytes(snapshot.size),
            if snapshot.protected { "yes" } else { "" }.to_owned(),
            timestamp(snapshot),
        ]
    };
    const HEADINGS: [&str; 5] = [">SNAPID", "NAME", ">SIZE", "PROTECTED", ">TIMESTAMP"];
    if !all {
        return text::listing(HEADINGS, snapshots.iter().map(row));
    }
    let [id, name, size, protected, timestamp] = HEADINGS;
    let rows = snapshots.iter().map(|snapshot| {
        let [id, name, size, protected, timestamp] = row(snapshot);
        [id, name, size, protected, timestamp, namespace(snapshot)]
    });
    text::listing([id, name, size, protected, timestamp, "NAMESPACE"], rows)
}

/// Snapshots of images of format 1 have none.
fn timestamp(snapshot: &Snapshot) -> String {
    if snapshot.timestamp == Utime::default() { String::new() } else { text::time(snapshot.timestamp) }
}

fn namespace(snapshot: &Snapshot) -> String {
    let name = snapshot.namespace.name();
    match &snapshot.namespace {
        SnapshotNamespace::Trash { original_name, .. } => format!("{name} ({original_name})"),
        _ => name.to_owned(),
    }
}
