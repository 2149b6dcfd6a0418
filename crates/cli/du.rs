//! `du`: how much images and their snapshots use.

use ceph_conf::Overrides;
use clap::Args as ClapArgs;
use rados::{Errno, IoCtx};
use rbd::{Features, Flags, Image, OpenOptions, OperationError, Snapshot, SnapshotNamespace, SnapshotRef};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::output::FormatArgs;
use crate::report::{self, Error};
use crate::spec::ImageOrSnapArgs;
use crate::text;

#[derive(Debug, ClapArgs)]
pub(crate) struct DuArgs {
    #[command(flatten)]
    image: ImageOrSnapArgs,
    #[command(flatten)]
    format: FormatArgs,
    /// The snapshot to start from
    #[arg(long, value_name = "SNAP")]
    from_snap: Option<String>,
    /// Count bytes instead of objects, which takes long
    #[arg(long)]
    exact: bool,
    /// Count what the snapshots of an image use for the image
    #[arg(long)]
    merge_snapshots: bool,
}

/// What is used by an image, or by one of its snapshots since the one before.
struct Usage {
    image: String,
    id: String,
    snapshot: Option<Snapshot>,
    provisioned: u64,
    used: u64,
}

#[derive(Default)]
struct Report {
    lines: Vec<Usage>,
    /// Images and snapshots that were counted.
    count: usize,
    provisioned: u64,
    used: u64,
}

pub(crate) async fn run(args: &DuArgs, overrides: &Overrides) -> Result<(), Error> {
    let (pool_spec, target) = args.image.resolve_optional(args.from_snap.is_some(), overrides)?;
    let overrides = target.as_ref().map_or(overrides, |target| &target.overrides);
    let cluster = Cluster::connect(overrides).await?;
    let pool = cluster.pool_by_name(&pool_spec.pool, pool_spec.namespace.as_deref()).await?;
    let mut report = Report::default();
    match &target {
        Some(target) => {
            let whole = target.whole_image();
            let image = cluster.open(&whole, whole.open_options(true)).await?;
            let snap = target.spec.snapshot.as_deref();
            let counted = count(&image, &pool, &target.spec.image, snap, args, &mut report).await;
            image.close().await;
            counted.map_err(|source| cluster.failed("count what is used by", &target.spec, source))?;
        }
        None => {
            let failed = |source| Error::List {
                pool: pool_spec.pool.clone(),
                user: cluster.user().to_owned(),
                source,
            };
            let images = rbd::list_images(&pool).await.map_err(failed)?;
            if images.is_empty() {
                return args.format.print(|| to_json(&report, true), String::new);
            }
            for entry in images {
                count_one_of_many(&pool, &entry.name, args, &mut report).await;
            }
        }
    }
    args.format.print(|| to_json(&report, target.is_none()), || to_table(&report))
}

/// What cannot be counted is said, and does not keep the rest from being counted.
async fn count_one_of_many(pool: &IoCtx, name: &str, args: &DuArgs, report: &mut Report) {
    let counted = async {
        let image = Image::open(pool.clone(), OpenOptions::image(name).read_only()).await?;
        let counted = count(&image, pool, name, None, args, report).await;
        image.close().await;
        counted
    };
    match counted.await {
        Ok(()) => {}
        // It was removed since it was listed.
        Err(OperationError::Open(error)) if error.errno() == Errno::ENOENT => {}
        Err(error) => eprintln!("rbd-nbd-rs: cannot count what {name} uses: {}", report::sentence(&error)),
    }
}

/// Ceph: `do_disk_usage` in `src/tools/rbd/action/DiskUsage.cc`.
async fn count(
    image: &Image<IoCtx>,
    pool: &IoCtx,
    name: &str,
    end: Option<&str>,
    args: &DuArgs,
    report: &mut Report,
) -> Result<(), OperationError> {
    if !image.features().contains(Features::FAST_DIFF) {
        eprintln!("warning: fast-diff map is not enabled for {name}. operation may be slow.");
    }
    let mut snapshots = image.snapshots();
    snapshots.retain(|snapshot| snapshot.namespace == SnapshotNamespace::User);
    snapshots.reverse();
    let find = |name: &str| {
        let found = snapshots.iter().position(|snapshot| snapshot.name == name);
        found.ok_or_else(|| OperationError::NoSnapshot { snapshot: name.to_owned() })
    };
    let from = args.from_snap.as_deref().map(find).transpose()?;
    let end = end.map(find).transpose()?;
    if let (Some(from), Some(end)) = (from, end) {
        if from == end {
            return Ok(());
        }
        if from > end {
            let (from, to) = (snapshots[from].id, snapshots[end].id);
            return Err(OperationError::SnapshotOrder { from, to });
        }
    }
    let mut before = from.map(|from| snapshots[from].name.clone());
    let first = from.map_or(0, |from| from + 1);
    let after_last = end.map_or(snapshots.len(), |end| end + 1);
    let mut used_by_all = 0;
    for snapshot in &snapshots[first..after_last] {
        let options = OpenOptions::image(name).snapshot(SnapshotRef::Name(snapshot.name.clone()));
        let opened = Image::open(pool.clone(), options).await?;
        warn_of_invalid_map(snapshot.flags, &format!("{name}@{}", snapshot.name));
        let used = opened.disk_usage(before.as_deref(), args.exact).await;
        opened.close().await;
        let used = used?;
        if !args.merge_snapshots {
            report.lines.push(Usage {
                image: name.to_owned(),
                id: image.id().to_owned(),
                snapshot: Some(snapshot.clone()),
                provisioned: snapshot.size,
                used,
            });
        }
        if end.is_some() {
            report.provisioned += snapshot.size;
        }
        report.used += used;
        report.count += 1;
        used_by_all += used;
        before = Some(snapshot.name.clone());
    }
    if end.is_some() {
        return Ok(());
    }
    let provisioned = image.size();
    warn_of_invalid_map(image.info().flags, name);
    let used = image.disk_usage(before.as_deref(), args.exact).await?;
    let shown = if args.merge_snapshots { used_by_all + used } else { used };
    let (image, id) = (name.to_owned(), image.id().to_owned());
    report.lines.push(Usage { image, id, snapshot: None, provisioned, used: shown });
    report.provisioned += provisioned;
    report.used += used;
    report.count += 1;
    Ok(())
}

fn warn_of_invalid_map(flags: Flags, name: &str) {
    if flags.contains(Flags::FAST_DIFF_INVALID) {
        eprintln!("warning: fast-diff map is invalid for {name}. operation may be slow.");
    }
}

fn to_json(report: &Report, with_total: bool) -> Value {
    let image = |usage: &Usage| {
        let mut fields = json!({ "name": usage.image, "id": usage.id });
        if let Some(snapshot) = &usage.snapshot {
            fields["snapshot"] = json!(snapshot.name);
            fields["snapshot_id"] = json!(snapshot.id.0);
        }
        fields["provisioned_size"] = json!(usage.provisioned);
        fields["used_size"] = json!(usage.used);
        fields
    };
    let mut fields = json!({ "images": report.lines.iter().map(image).collect::<Vec<_>>() });
    if with_total {
        fields["total_provisioned_size"] = json!(report.provisioned);
        fields["total_used_size"] = json!(report.used);
    }
    fields
}

fn to_table(report: &Report) -> String {
    let row = |usage: &Usage| {
        let name = match &usage.snapshot {
            Some(snapshot) => format!("{}@{}", usage.image, snapshot.name),
            None => usage.image.clone(),
        };
        [name, text::bytes(usage.provisioned), text::bytes(usage.used)]
    };
    let mut rows: Vec<_> = report.lines.iter().map(row).collect();
    if report.count > 1 {
        rows.push(["<TOTAL>".to_owned(), text::bytes(report.provisioned), text::bytes(report.used)]);
    }
    text::table(["NAME", ">PROVISIONED", ">USED"], &rows)
}
