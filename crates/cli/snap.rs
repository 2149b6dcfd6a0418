//! `snap`: the snapshots of an image.

use ceph_conf::{ImageSpec, Overrides};
use clap::{Args as ClapArgs, Subcommand};
use rados::{IoCtx, Release};
use rbd::{
    Image, MirrorSnapshot, ObjectStore as _, OperationError, Snapshot, SnapshotFlags, SnapshotNamespace,
    SnapshotRef,
};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::dry_run::DryRun;
use crate::output::{self, FormatArgs};
use crate::progress::ProgressArgs;
use crate::report::Error;
use crate::spec::{
    DestSnapOptions, ImageArgs, ImageIdOption, Positionals, Snap, SnapArgs, SnapIdOption, SnapOptions,
    UsageError, check_name,
};
use crate::target::Target;
use crate::text;

#[derive(Debug, Subcommand)]
pub(crate) enum SnapCommand {
    /// Take a snapshot of an image.
    #[command(visible_alias = "add")]
    Create(CreateArgs),
    /// List the snapshots of an image.
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Remove a snapshot.
    #[command(visible_alias = "remove")]
    Rm(RmArgs),
    /// Remove all snapshots of an image that are not protected.
    Purge(PurgeArgs),
    /// Make an image what it was when the snapshot was taken.
    #[command(visible_alias = "revert")]
    Rollback(RollbackArgs),
    /// Give a snapshot another name.
    Rename(RenameArgs),
    /// Protect a snapshot from removal, so that it can be cloned.
    Protect(ProtectArgs),
    /// Allow a snapshot to be removed again.
    Unprotect(UnprotectArgs),
    /// Limit how many snapshots an image may have.
    #[command(subcommand)]
    Limit(LimitCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum LimitCommand {
    /// Limit how many snapshots an image may have.
    Set(SetLimitArgs),
    /// Let an image have any number of snapshots.
    Clear(ClearLimitArgs),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RmArgs {
    #[command(flatten)]
    snapshot: SnapArgs,
    #[command(flatten)]
    id: ImageIdOption,
    #[command(flatten)]
    snap_id: SnapIdOption,
    /// Flatten its clones and unprotect it first, if need be
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    dry_run: DryRun,
    #[command(flatten)]
    progress: ProgressArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct PurgeArgs {
    #[command(flatten)]
    image: ImageArgs,
    #[command(flatten)]
    id: ImageIdOption,
    #[command(flatten)]
    dry_run: DryRun,
    #[command(flatten)]
    progress: ProgressArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RollbackArgs {
    #[command(flatten)]
    snapshot: SnapArgs,
    #[command(flatten)]
    dry_run: DryRun,
    #[command(flatten)]
    progress: ProgressArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RenameArgs {
    /// The snapshot, and its new name
    #[arg(value_names = ["SOURCE-SNAP-SPEC", "DEST-SNAP-SPEC"], num_args = 0..=2)]
    names: Vec<String>,
    #[command(flatten)]
    source: SnapOptions,
    #[command(flatten)]
    dest: DestSnapOptions,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ProtectArgs {
    #[command(flatten)]
    snapshot: SnapArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct UnprotectArgs {
    #[command(flatten)]
    snapshot: SnapArgs,
    #[command(flatten)]
    id: ImageIdOption,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct SetLimitArgs {
    #[command(flatten)]
    image: ImageArgs,
    /// How many snapshots it may have
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ClearLimitArgs {
    #[command(flatten)]
    image: ImageArgs,
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
        SnapCommand::Rm(args) => rm(args, overrides).await,
        SnapCommand::Purge(args) => purge(args, overrides).await,
        SnapCommand::Rollback(args) => rollback(args, overrides).await,
        SnapCommand::Rename(args) => rename(args, overrides).await,
        SnapCommand::Protect(args) => {
            let target = args.snapshot.resolve(overrides)?;
            let name = target.snapshot()?;
            Cluster::change(&target, "protect", async |image| image.protect_snapshot(name).await).await
        }
        SnapCommand::Unprotect(args) => {
            let target = args.snapshot.resolve_or_id(&args.id, Snap::Required, overrides)?;
            let name = target.snapshot()?;
            Cluster::change(&target, "unprotect", async |image| image.unprotect_snapshot(name).await).await
        }
        SnapCommand::Limit(LimitCommand::Set(args)) => {
            let target = args.image.resolve(overrides)?;
            let limit = args.limit.ok_or(UsageError::NoLimit)?;
            limit_snapshots(&target, Some(limit)).await
        }
        SnapCommand::Limit(LimitCommand::Clear(args)) => {
            limit_snapshots(&args.image.resolve(overrides)?, None).await
        }
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
    let cluster = Cluster::connect(&target.overrides).await?;
    let release = cluster.pool(&target.spec).await?.release();
    let mut snapshots = cluster.show(&target).await?.snapshots;
    snapshots.retain(|snapshot| args.all || snapshot.namespace == SnapshotNamespace::User);
    // The oldest first, as they were made.
    snapshots.reverse();
    args.format.print(
        || snapshots.iter().map(|snapshot| to_json(snapshot, args.all, release)).collect(),
        || to_table(&snapshots, args.all, release),
    )
}

async fn rm(args: &RmArgs, overrides: &Overrides) -> Result<(), Error> {
    let target = args.snapshot.resolve_or_id(&args.id, Snap::Permitted, overrides)?;
    let named = target.spec.snapshot.clone().map(SnapshotRef::Name);
    let snapshot = args.snap_id.or(named)?.ok_or(UsageError::Missing { what: "snapshot name" })?;
    let cluster = Cluster::connect(&target.overrides).await?;
    if args.force {
        set_free(&cluster, &target, &snapshot, args).await?;
    }
    if args.dry_run.dry_run {
        let check = async |image: &Image<IoCtx>| match find(image, &snapshot)? {
            // What is protected was to be set free.
            found if args.force || found.namespace != SnapshotNamespace::User => Ok(found),
            found => image.check_remove_snapshot(&found.name).await,
        };
        let found = cluster.change_image(&target, "remove snapshot", check).await?;
        return would_remove(args.dry_run, &target, &found);
    }
    cluster
        .change_image(&target, "remove snapshot", async |image| {
            let found = find(image, &snapshot)?;
            let progress = args.progress.start("Removing snap");
            progress.finish(image.remove_snapshot_in(found.namespace, &found.name).await)
        })
        .await
}

/// Flattens the clones of a snapshot, and ends its protection. Ceph: `snap_remove` with `RBD_SNAP_REMOVE_FORCE` in
/// `src/librbd/api/Snapshot.cc`.
async fn set_free(
    cluster: &Cluster,
    target: &Target,
    snapshot: &SnapshotRef,
    args: &RmArgs,
) -> Result<(), Error> {
    let pool = cluster.pool(&target.spec).await?;
    let clones = rbd::list_children(&pool, &target.image_ref(), Some(snapshot), false)
        .await
        .map_err(|source| cluster.failed("list the clones of", &target.spec, source))?;
    for clone in clones {
        if args.dry_run.dry_run {
            args.dry_run.would(&format!("flatten {clone}"))?;
            continue;
        }
        let spec = ImageSpec {
            pool: clone.pool,
            namespace: Some(clone.namespace).filter(|name| !name.is_empty()),
            image: clone.image_id,
            snapshot: None,
        };
        let clone = Target { name: clone.image, spec, by_id: true, overrides: target.overrides.clone() };
        cluster.change_image(&clone, "flatten", async |image| image.flatten(&()).await).await?;
    }
    if args.dry_run.dry_run {
        return Ok(());
    }
    cluster
        .change_image(target, "unprotect", async |image| match find(image, snapshot)? {
            found if found.protected => image.unprotect_snapshot(&found.name).await,
            _ => Ok(()),
        })
        .await
}

/// The snapshot of that name, which a user made, or of that number.
fn find(image: &Image<IoCtx>, wanted: &SnapshotRef) -> Result<Snapshot, OperationError> {
    let is_wanted = |snapshot: &Snapshot| match wanted {
        SnapshotRef::Id(id) => snapshot.id == *id,
        SnapshotRef::Name(name) => snapshot.namespace == SnapshotNamespace::User && snapshot.name == *name,
    };
    image.snapshots().into_iter().find(is_wanted).ok_or_else(|| OperationError::NoSnapshot {
        snapshot: match wanted {
            SnapshotRef::Id(id) => id.to_string(),
            SnapshotRef::Name(name) => name.clone(),
        },
    })
}

fn would_remove(dry_run: DryRun, target: &Target, snapshot: &Snapshot) -> Result<(), Error> {
    let image = &target.whole_image().spec;
    let (size, time) = (text::bytes(snapshot.size), text::time(snapshot.timestamp));
    dry_run.would(&format!("remove snapshot {image}@{} ({size}, of {time})", snapshot.name))
}

/// Ceph: `do_purge_snaps` in `src/tools/rbd/action/Snap.cc`.
async fn purge(args: &PurgeArgs, overrides: &Overrides) -> Result<(), Error> {
    const DOING: &str = "remove the snapshots of";
    let target = args.image.resolve_or_id(&args.id, overrides)?;
    let cluster = Cluster::connect(&target.overrides).await?;
    if args.dry_run.dry_run {
        let check =
            async |image: &Image<IoCtx>| Ok((image.check_purge_snapshots().await?, image.snapshots()));
        let ((removable, protected), snapshots) = cluster.change_image(&target, DOING, check).await?;
        for snapshot in snapshots.iter().filter(|snapshot| removable.contains(&snapshot.name)) {
            would_remove(args.dry_run, &target, snapshot)?;
        }
        return protected.iter().try_for_each(|name| {
            args.dry_run.would(&format!("keep snapshot {}@{name}: it is protected", target.spec))
        });
    }
    cluster
        .change_image(&target, DOING, async |image| {
            let (removable, protected) = image.check_purge_snapshots().await?;
            if removable.is_empty() && protected.is_empty() {
                return Ok(Vec::new());
            }
            let progress = args.progress.start("Removing all snapshots");
            match image.purge_snapshots(&progress).await {
                Ok(protected) if !protected.is_empty() => {
                    progress.fail();
                    Ok(protected)
                }
                purged => progress.finish(purged),
            }
        })
        .await
        .and_then(|protected| tell_protected(&protected))
}

/// Not an error for `rbd`, either.
fn tell_protected(names: &[String]) -> Result<(), Error> {
    let verb = match names {
        [] => return Ok(()),
        [_] => "is",
        _ => "are",
    };
    output::write(&format!(
        "rbd: error removing snapshot(s) '{}', which {verb} protected - these must be unprotected with `rbd snap \
         unprotect`.\n",
        names.join(",")
    ))
}

async fn rollback(args: &RollbackArgs, overrides: &Overrides) -> Result<(), Error> {
    const DOING: &str = "roll back to";
    let target = args.snapshot.resolve(overrides)?;
    let name = target.snapshot()?;
    let cluster = Cluster::connect(&target.overrides).await?;
    if args.dry_run.dry_run {
        let check = async |image: &Image<IoCtx>| image.check_roll_back(name).await;
        let found = cluster.change_image(&target, DOING, check).await?;
        let (image, size) = (target.whole_image().spec, text::bytes(found.size));
        let time = text::time(found.timestamp);
        return args.dry_run.would(&format!("make {image} what it was at {name}, with {size}, on {time}"));
    }
    cluster
        .change_image(&target, DOING, async |image| {
            let progress = args.progress.start("Rolling back to snapshot");
            progress.finish(image.roll_back(name, &progress).await)
        })
        .await
}

async fn rename(args: &RenameArgs, overrides: &Overrides) -> Result<(), Error> {
    let mut names = Positionals::new(&args.names);
    let source = args.source.resolve(&mut names, Snap::Required, overrides)?;
    let dest = args.dest.resolve_beside(&mut names, &source)?;
    names.end()?;
    if source.whole_image().spec != dest.whole_image().spec {
        return Err(UsageError::OtherPlace { what: "a snapshot", of: "its image" }.into());
    }
    let (old, new) = (source.snapshot()?, dest.snapshot()?);
    Cluster::change(&source, "rename snapshot", async |image| image.rename_snapshot(old, new).await).await
}

async fn limit_snapshots(target: &Target, limit: Option<u64>) -> Result<(), Error> {
    Cluster::change(target, "limit the snapshots of", async |image| image.set_snapshot_limit(limit).await)
        .await
}

/// As the `rbd` of that release prints it.
///
/// Ceph: `do_list_snaps` in `src/tools/rbd/action/Snap.cc`.
fn to_json(snapshot: &Snapshot, all: bool, release: Release) -> Value {
    let mut fields = json!({
        "id": snapshot.id.0,
        "name": snapshot.name,
        "size": snapshot.size,
        "protected": snapshot.protected.to_string(),
        "timestamp": taken_at(snapshot),
    });
    if all {
        let namespace = &mut fields["namespace"];
        namespace["type"] = json!(snapshot.namespace.name());
        match &snapshot.namespace {
            SnapshotNamespace::Trash { original_name, .. } => {
                if release >= Release::TENTACLE {
                    namespace["original_namespace_type"] = json!(snapshot.namespace.name_of_original());
                }
                namespace["original_name"] = json!(original_name)
            }
            SnapshotNamespace::Mirror(mirror) => {
                namespace["state"] = json!(mirror_state(mirror));
                namespace["mirror_peer_uuids"] = json!(mirror.peer_uuids);
                namespace["complete"] = json!(mirror.complete);
                if is_copy(mirror) {
                    namespace["primary_mirror_uuid"] = json!(mirror.primary_mirror_uuid);
                    namespace["primary_snap_id"] = json!(mirror.primary_snap.0);
                    namespace["last_copied_object_number"] = json!(mirror.last_copied_object);
                }
            }
            _ => {}
        }
    }
    fields
}

/// Ceph: `MirrorSnapshotState` in `src/cls/rbd/cls_rbd_types.h`.
fn mirror_state(mirror: &MirrorSnapshot) -> &'static str {
    match mirror.state {
        0 => "primary",
        1 | 3 => "demoted",
        2 => "non-primary",
        _ => "unknown",
    }
}

fn is_copy(mirror: &MirrorSnapshot) -> bool {
    matches!(mirror.state, 2 | 3)
}

fn to_table(snapshots: &[Snapshot], all: bool, release: Release) -> String {
    let row = |snapshot: &Snapshot| {
        [
            snapshot.id.to_string(),
            snapshot.name.clone(),
            text::bytes(snapshot.size),
            if snapshot.protected { "yes" } else { "" }.to_owned(),
            taken_at(snapshot),
        ]
    };
    const HEADINGS: [&str; 5] = [">SNAPID", "NAME", ">SIZE", "PROTECTED", ">TIMESTAMP"];
    if !all {
        return text::listing(HEADINGS, snapshots.iter().map(row));
    }
    let [id, name, size, protected, timestamp] = HEADINGS;
    let rows = snapshots.iter().map(|snapshot| {
        let [id, name, size, protected, timestamp] = row(snapshot);
        [id, name, size, protected, timestamp, namespace(snapshot, release)]
    });
    text::listing([id, name, size, protected, timestamp, "NAMESPACE"], rows)
}

fn namespace(snapshot: &Snapshot, release: Release) -> String {
    let name = snapshot.namespace.name();
    match &snapshot.namespace {
        SnapshotNamespace::Trash { original_name, .. } => match snapshot.namespace.name_of_original() {
            Some(original) if release >= Release::TENTACLE => format!("{name} ({original} {original_name})"),
            _ => format!("{name} ({original_name})"),
        },
        SnapshotNamespace::Mirror(mirror) => {
            let peers: Vec<_> = mirror.peer_uuids.iter().map(String::as_str).collect();
            let mut text = format!("{name} ({} peer_uuids:[{}]", mirror_state(mirror), peers.join(","));
            if is_copy(mirror) {
                let copied = if mirror.complete { "copied" } else { "not copied" };
                text += &format!(" {}:{} {copied}", mirror.primary_mirror_uuid, mirror.primary_snap);
            }
            text + ")"
        }
        _ => name.to_owned(),
    }
}

/// Nothing if nobody knows: in images of format 1.
fn taken_at(snapshot: &Snapshot) -> String {
    if snapshot.timestamp.sec == 0 { String::new() } else { text::time(snapshot.timestamp) }
}
