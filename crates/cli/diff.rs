//! `diff`: what changed since a snapshot, or since an image was made.

use ceph_conf::Overrides;
use clap::Args as ClapArgs;
use futures::TryStreamExt;
use rbd::{DiffExtent, DiffOptions};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::output::FormatArgs;
use crate::report::Error;
use crate::spec::ImageOrSnapArgs;
use crate::text;

#[derive(Debug, ClapArgs)]
pub(crate) struct DiffArgs {
    #[command(flatten)]
    image: ImageOrSnapArgs,
    #[command(flatten)]
    since: SinceArgs,
    #[command(flatten)]
    format: FormatArgs,
}

/// What to compare with.
#[derive(Debug, ClapArgs)]
pub(crate) struct SinceArgs {
    /// The snapshot to compare with [default: an empty image]
    #[arg(long, value_name = "SNAP")]
    from_snap: Option<String>,
    /// Let a change of any byte count for its whole object; much faster with the feature fast-diff
    #[arg(long)]
    whole_object: bool,
}

impl SinceArgs {
    pub(crate) fn options(&self) -> DiffOptions {
        DiffOptions {
            from_snapshot: self.from_snap.clone(),
            whole_object: self.whole_object,
            include_parent: true,
        }
    }
}

pub(crate) async fn run(args: &DiffArgs, overrides: &Overrides) -> Result<(), Error> {
    let target = args.image.resolve(overrides)?;
    let options = args.since.options();
    let extents: Vec<DiffExtent> = Cluster::read(&target, "compare", async |image| {
        let extents = image.diff(&options).await?;
        extents.try_collect().await
    })
    .await?;
    args.format.print(|| extents.iter().map(to_json).collect(), || to_table(&extents))
}

/// Ceph: `diff_cb` in `src/tools/rbd/action/Diff.cc`.
fn to_json(extent: &DiffExtent) -> Value {
    json!({ "offset": extent.offset, "length": extent.len, "exists": extent.exists.to_string() })
}

fn to_table(extents: &[DiffExtent]) -> String {
    if extents.is_empty() {
        return String::new();
    }
    let rows = extents.iter().map(|extent| {
        let kind = if extent.exists { "data" } else { "zero" };
        [extent.offset.to_string(), extent.len.to_string(), kind.to_owned()]
    });
    text::table(["Offset", "Length", "Type"], &rows.collect::<Vec<_>>())
}
