//! `trash`: images that can still be had back.

use ceph_codec::Utime;
use ceph_conf::Overrides;
use clap::{Args as ClapArgs, Subcommand};
use rados::IoCtx;
use rbd::{Image, ImageRef, ObjectStore as _, OpenError, OpenOptions, ParentInfo, TrashEntry, TrashSource};
use serde_json::{Value, json};
use tracing::warn;

use crate::cluster::Cluster;
use crate::info;
use crate::output::FormatArgs;
use crate::report::{self, Error};
use crate::spec::PoolArgs;
use crate::text;

#[derive(Debug, Subcommand)]
pub(crate) enum TrashCommand {
    /// List the images in the trash.
    #[command(visible_alias = "list")]
    Ls(LsArgs),
}

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
    let cluster = Cluster::connect(overrides).await?;
    match command {
        TrashCommand::Ls(args) => ls(&cluster, args).await,
    }
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
