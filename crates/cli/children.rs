//! `children`: the clones of an image or snapshot.

use ceph_conf::Overrides;
use clap::Args as ClapArgs;
use rbd::{Child, SnapshotRef};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::output::FormatArgs;
use crate::report::Error;
use crate::spec::{ImageIdOption, ImageOrSnapArgs, SnapIdOption};

#[derive(Debug, ClapArgs)]
pub(crate) struct ChildrenArgs {
    #[command(flatten)]
    image: ImageOrSnapArgs,
    #[command(flatten)]
    id: ImageIdOption,
    #[command(flatten)]
    snap_id: SnapIdOption,
    /// Those in the trash, too
    #[arg(short, long)]
    all: bool,
    /// The clones of clones, too
    #[arg(long)]
    descendants: bool,
    #[command(flatten)]
    format: FormatArgs,
}

pub(crate) async fn run(args: &ChildrenArgs, overrides: &Overrides) -> Result<(), Error> {
    let target = args.image.resolve_or_id(&args.id, overrides)?;
    let named = target.spec.snapshot.clone().map(SnapshotRef::Name);
    let snapshot = args.snap_id.or(named)?;
    let cluster = Cluster::connect(&target.overrides).await?;
    let pool = cluster.pool(&target.spec).await?;
    let mut children = rbd::list_children(&pool, &target.image_ref(), snapshot.as_ref(), args.descendants)
        .await
        .map_err(|source| cluster.failed("list the clones of", &target.spec, source))?;
    children.retain(|child| args.all || !child.trash);
    args.format.print(
        || children.iter().map(|child| to_json(child, args.all)).collect(),
        || children.iter().map(|child| format!("{child}\n")).collect(),
    )
}

/// Ceph: `do_list_children` in `src/tools/rbd/action/Children.cc`.
fn to_json(child: &Child, all: bool) -> Value {
    let mut fields = json!({ "pool": child.pool, "pool_namespace": child.namespace, "image": child.image });
    if all {
        fields["id"] = json!(child.image_id);
        fields["trash"] = json!(child.trash);
    }
    fields
}
