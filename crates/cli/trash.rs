//! `trash`: images that can still be had back.

mod threshold;

use std::process::{Command, Stdio};
use std::time::Duration;

use ceph_codec::Utime;
use ceph_conf::Overrides;
use clap::{Args as ClapArgs, Subcommand};
use rados::IoCtx;
use rbd::{Image, ImageRef, ObjectStore as _, OpenError, OpenOptions, ParentInfo, TrashEntry, TrashSource};
use serde_json::{Value, json};
use tracing::warn;

use crate::cluster::Cluster;
use crate::dry_run::DryRun;
use crate::output::{self, FormatArgs};
use crate::progress::ProgressArgs;
use crate::report::{self, Error};
use crate::spec::{ImageArgs, PoolArgs, TrashedArgs, UsageError};
use crate::{info, rm, text};

#[derive(Debug, Subcommand)]
pub(crate) enum TrashCommand {
    /// Move an image to the trash.
    #[command(visible_alias = "move")]
    Mv(MvArgs),
    /// List the images in the trash.
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Have an image back.
    Restore(RestoreArgs),
    /// Remove an image for good.
    #[command(visible_alias = "remove")]
    Rm(RmArgs),
    /// Remove all images for good whose time is over.
    Purge(PurgeArgs),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct MvArgs {
    #[command(flatten)]
    image: ImageArgs,
    /// When it may be removed: any date that date(1) reads, as 2027-01-31 or "2 weeks"
    #[arg(long, value_name = "DATE", default_value = NOW)]
    expires_at: String,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RestoreArgs {
    #[command(flatten)]
    image: TrashedArgs,
    /// Call it so [default: as before]
    #[arg(long = "image", value_name = "IMAGE")]
    new_name: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RmArgs {
    #[command(flatten)]
    image: TrashedArgs,
    /// Also before its time is over
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
    pool: PoolArgs,
    /// Only those whose time was over then: any date that date(1) reads [default: now]
    #[arg(long, value_name = "DATE")]
    expired_before: Option<String>,
    /// As many as it takes until the pool is used to this part at most, 0 to 1, protected ones too; if it is used more,
    /// those whose time is over go as well
    #[arg(long, value_name = "PART")]
    threshold: Option<f64>,
    #[command(flatten)]
    dry_run: DryRun,
    #[command(flatten)]
    progress: ProgressArgs,
}

/// What needs no explanation where a date is expected.
const NOW: &str = "now";

#[derive(Debug, ClapArgs)]
pub(crate) struct LsArgs {
    #[command(flatten)]
    pool: PoolArgs,
    /// Those that no user moved there, too
    #[arg(short, long)]
    all: bool,
    /// Show where they come from, and when they may be removed
    #[arg(short, long)]
    long: bool,
    #[command(flatten)]
    format: FormatArgs,
}

pub(crate) async fn run(command: &TrashCommand, overrides: &Overrides) -> Result<(), Error> {
    match command {
        TrashCommand::Mv(args) => mv(args, overrides).await,
        TrashCommand::Ls(args) => ls(&Cluster::connect(overrides).await?, args).await,
        TrashCommand::Restore(args) => restore(args, overrides).await,
        TrashCommand::Rm(args) => rm(args, overrides).await,
        TrashCommand::Purge(args) => purge(&Cluster::connect(overrides).await?, args).await,
    }
}

async fn mv(args: &MvArgs, overrides: &Overrides) -> Result<(), Error> {
    let target = args.image.resolve(overrides)?;
    let expires = date(&args.expires_at)?;
    let cluster = Cluster::connect(&target.overrides).await?;
    let pool = cluster.pool(&target.spec).await?;
    let name = &target.spec.image;
    let delay = match expires.checked_sub(pool.now().sec) {
        Some(seconds) => Duration::from_secs(seconds.into()),
        None if args.expires_at == NOW => Duration::ZERO,
        None => return Err(UsageError::PastDate { text: args.expires_at.clone() }.into()),
    };
    rbd::move_to_trash(&pool, name, delay)
        .await
        .map_err(|source| cluster.failed("move to the trash", &target.spec, source))?;
    if args.expires_at == NOW {
        return Ok(());
    }
    output::write(&format!(
        "rbd: image {name} will expire at {}\n",
        text::iso_time(Utime { sec: expires, nsec: 0 })
    ))
}

async fn restore(args: &RestoreArgs, overrides: &Overrides) -> Result<(), Error> {
    let target = args.image.resolve(overrides)?;
    let cluster = Cluster::connect(&target.overrides).await?;
    let pool = cluster.pool(&target.spec).await?;
    let name = args.new_name.as_deref().filter(|name| !name.is_empty());
    rbd::restore_from_trash(&pool, &target.spec.image, name)
        .await
        .map_err(|source| cluster.failed("restore", &target.spec, source))
}

async fn rm(args: &RmArgs, overrides: &Overrides) -> Result<(), Error> {
    let target = args.image.resolve(overrides)?;
    let cluster = Cluster::connect(&target.overrides).await?;
    let pool = cluster.pool(&target.spec).await?;
    let failed = |source| cluster.failed("remove", &target.spec, source);
    let id = &target.spec.image;
    if args.dry_run.dry_run {
        let found = rbd::check_remove_from_trash(&pool, id, args.force).await.map_err(failed)?;
        return args.dry_run.would(&format!("remove {}", rm::describe(&found.name, &found)));
    }
    let progress = args.progress.start("Removing image");
    progress.finish(rbd::remove_from_trash(&pool, id, args.force, &progress).await).map_err(failed)
}

async fn purge(cluster: &Cluster, args: &PurgeArgs) -> Result<(), Error> {
    let spec = args.pool.resolve()?;
    let before = match &args.expired_before {
        Some(text) if args.threshold.is_none() => Some(Utime { sec: date(text)?, nsec: 0 }),
        _ => None,
    };
    let pool = cluster.pool_by_name(&spec.pool, spec.namespace.as_deref()).await?;
    let failed = |source| cluster.failed("purge the trash of", &spec, source);
    let mut entries = rbd::check_purge_trash(&pool, before).await.map_err(failed)?;
    if let Some(threshold) = args.threshold {
        entries = threshold::reach(cluster, &pool, threshold, entries).await?;
    }
    if args.dry_run.dry_run {
        for entry in entries {
            match rbd::check_remove_from_trash(&pool, &entry.id, true).await {
                Ok(found) => args.dry_run.would(&format!("remove {}", rm::describe(&found.name, &found)))?,
                Err(error) => {
                    args.dry_run.would(&format!("keep {}: {}", entry.name, report::sentence(&error)))?
                }
            }
        }
        return Ok(());
    }
    let progress = args.progress.start("Removing images");
    progress.finish(rbd::purge_trash(&pool, entries, &progress).await).map_err(failed)
}

/// Seconds since 1970, from a date as people write it. Ceph has it read by date(1), too: `utime_t::invoke_date` in
/// `src/include/utime.cc`.
fn date(text: &str) -> Result<u32, Error> {
    let unreadable = || UsageError::Date { text: text.to_owned() };
    let output = Command::new("date")
        .arg(format!("--date={text}"))
        .arg("+%s")
        .stderr(Stdio::null())
        .output()
        .map_err(|source| Error::DateProgram { source })?;
    let seconds = str::from_utf8(&output.stdout).ok().and_then(|seconds| seconds.trim().parse().ok());
    Ok(seconds.filter(|_| output.status.success()).ok_or_else(unreadable)?)
}

/// Ceph: `do_list` in `src/tools/rbd/action/Trash.cc`.
async fn ls(cluster: &Cluster, args: &LsArgs) -> Result<(), Error> {
    let spec = args.pool.resolve()?;
    let pool = cluster.pool_by_name(&spec.pool, spec.namespace.as_deref()).await?;
    let mut entries =
        rbd::list_trash(&pool).await.map_err(|source| cluster.failed("list the trash of", &spec, source))?;
    entries.retain(|entry| args.all || matches!(entry.source, TrashSource::User | TrashSource::UserParent));
    if !args.long {
        return args.format.print(
            || entries.iter().map(|entry| json!({ "id": entry.id, "name": entry.name })).collect(),
            || entries.iter().map(|entry| format!("{} {}\n", entry.id, entry.name)).collect(),
        );
    }
    let mut lines = Vec::new();
    for entry in &entries {
        if let Some(parent) = parent(&pool, &entry.id).await {
            lines.push(Line { entry, parent, now: pool.now() });
        }
    }
    args.format.print(
        || lines.iter().map(Line::to_json).collect(),
        || {
            let headings = ["ID", "NAME", "SOURCE", "DELETED_AT", "STATUS", "PARENT"];
            text::listing(headings, lines.iter().map(Line::to_row))
        },
    )
}

/// The parent of an image, if it has one; none if the image itself is gone or cannot be read.
async fn parent(pool: &IoCtx, id: &str) -> Option<Option<ParentInfo>> {
    let options = OpenOptions::new(ImageRef::Id(id.to_owned())).read_only();
    match Image::inspect(pool, &options).await {
        Ok(details) => Some(details.info.parent),
        Err(OpenError::NoImage { .. }) => None,
        Err(error) => {
            warn!("{}", report::sentence(&error));
            None
        }
    }
}

struct Line<'a> {
    entry: &'a TrashEntry,
    parent: Option<ParentInfo>,
    now: Utime,
}

impl Line<'_> {
    fn status(&self) -> String {
        let end = self.entry.deferment_end;
        let state = if self.now.sec < end.sec { "protected until" } else { "expired at" };
        format!("{state} {}", text::time(end))
    }

    fn to_json(&self) -> Value {
        let entry = self.entry;
        let mut fields = json!({
            "id": entry.id,
            "name": entry.name,
            "source": entry.source.name(),
            "deleted_at": text::time(entry.deletion_time),
            "status": self.status(),
        });
        if let Some(parent) = &self.parent {
            fields["parent"] = info::parent_spec_json(parent);
        }
        fields
    }

    fn to_row(&self) -> [String; 6] {
        let entry = self.entry;
        [
            entry.id.clone(),
            entry.name.clone(),
            entry.source.name().to_owned(),
            text::time(entry.deletion_time),
            self.status(),
            self.parent.as_ref().map(info::parent_name).unwrap_or_default(),
        ]
    }
}
