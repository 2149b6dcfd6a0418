//! `ls`: the images of a pool.

use ceph_conf::{ImageSpec, Overrides};
use clap::Args as ClapArgs;
use futures::{StreamExt, stream};
use rados::IoCtx;
use rbd::{Image, ImageDetails, OpenError, OpenOptions};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::output::FormatArgs;
use crate::report::{self, Error};
use crate::spec::{PoolArgs, PoolSpec};
use crate::{info, text};

#[derive(Debug, ClapArgs)]
pub(crate) struct LsArgs {
    #[command(flatten)]
    pool: PoolArgs,
    /// Show size, parent, protection and lock of images and snapshots
    #[arg(short, long)]
    long: bool,
    #[command(flatten)]
    format: FormatArgs,
}

/// Images that are looked at at the same time.
const AT_ONCE: usize = 32;

pub(crate) async fn run(args: &LsArgs, overrides: &Overrides) -> Result<(), Error> {
    let spec = args.pool.resolve()?;
    let cluster = Cluster::connect(overrides).await?;
    let pool = cluster.pool_by_name(&spec.pool, spec.namespace.as_deref()).await?;
    let failed = |source| Error::List { pool: spec.pool.clone(), user: cluster.user().to_owned(), source };
    let images = rbd::list_all_images(&pool).await.map_err(failed)?;
    let names: Vec<_> = images.into_iter().map(|image| image.name).collect();
    if !args.long {
        return args.format.print(|| json!(names), || names.iter().map(|name| format!("{name}\n")).collect());
    }

    let found: Vec<_> =
        stream::iter(names).map(|name| inspect(&pool, name)).buffered(AT_ONCE).collect().await;
    let mut images = Vec::new();
    for image in found {
        match image {
            Ok(image) => images.extend(image),
            // One that cannot be read does not keep the others from being seen. Ceph: `do_list`.
            Err((image, source)) => {
                let PoolSpec { pool, namespace } = spec.clone();
                let image = ImageSpec { pool, namespace, image, snapshot: None };
                report::print(&cluster.open_error(&image, source));
            }
        }
    }
    let lines: Vec<Line<'_>> = images.iter().flat_map(lines).collect();
    args.format.print(|| lines.iter().map(Line::to_json).collect(), || table(&lines))
}

fn table(lines: &[Line<'_>]) -> String {
    text::listing(["NAME", ">SIZE", "PARENT", ">FMT", "PROT", "LOCK"], lines.iter().map(Line::to_row))
}

/// An image; none if it was removed after the list was made.
async fn inspect(pool: &IoCtx, name: String) -> Result<Option<ImageDetails>, (String, OpenError)> {
    match Image::inspect(pool, &OpenOptions::image(&name).read_only()).await {
        Ok(details) => Ok(Some(details)),
        Err(OpenError::NoImage { .. }) => Ok(None),
        Err(error) => Err((name, error)),
    }
}

/// An image or a snapshot.
struct Line<'a> {
    image: &'a ImageDetails,
    snapshot: Option<&'a rbd::Snapshot>,
}

/// Ceph: `do_list` in `src/tools/rbd/action/List.cc`: the image, then its snapshots from the oldest on.
fn lines(image: &ImageDetails) -> impl Iterator<Item = Line<'_>> {
    let snapshots = image.snapshots.iter().rev().filter(|s| s.namespace == rbd::SnapshotNamespace::User);
    std::iter::once(None).chain(snapshots.map(Some)).map(move |snapshot| Line { image, snapshot })
}

impl Line<'_> {
    fn name(&self) -> &str {
        self.image.info.name.as_deref().unwrap_or_default()
    }

    fn size(&self) -> u64 {
        self.snapshot.map_or(self.image.info.size, |snapshot| snapshot.size)
    }

    fn to_json(&self) -> Value {
        let info = &self.image.info;
        let mut line = json!({ "image": self.name(), "id": info.id });
        if let Some(snapshot) = self.snapshot {
            line["snapshot"] = json!(snapshot.name);
            line["snapshot_id"] = json!(snapshot.id.0);
        }
        line["size"] = json!(self.size());
        if let Some(parent) = &info.parent {
            line["parent"] = info::parent_spec_json(parent);
        }
        line["format"] = json!(info.format);
        if let Some(snapshot) = self.snapshot {
            line["protected"] = json!(snapshot.protected.to_string());
        } else if !self.image.locks.owners.is_empty() {
            line["lock_type"] = json!(if self.image.locks.exclusive { "exclusive" } else { "shared" });
        }
        line
    }

    fn to_row(&self) -> [String; 6] {
        let name = match self.snapshot {
            Some(snapshot) => format!("{}@{}", self.name(), snapshot.name),
            None => self.name().to_owned(),
        };
        let protected = self.snapshot.is_some_and(|snapshot| snapshot.protected);
        let lock = match &self.image.locks {
            locks if self.snapshot.is_some() || locks.owners.is_empty() => "",
            locks if locks.exclusive => "excl",
            _ => "shr",
        };
        [
            name,
            text::bytes(self.size()),
            self.image.info.parent.as_ref().map(info::parent_name).unwrap_or_default(),
            self.image.info.format.to_string(),
            if protected { "yes" } else { "" }.to_owned(),
            lock.to_owned(),
        ]
    }
}
