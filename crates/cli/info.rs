//! `info`: all about an image.

use std::fmt::Write as _;

use ceph_conf::Overrides;
use clap::Args as ClapArgs;
use rbd::{Features, ImageDetails, MirroringInfo, ParentInfo};
use serde_json::{Map, Value, json};

use crate::cluster::Cluster;
use crate::output::FormatArgs;
use crate::report::Error;
use crate::spec::{ImageIdOption, ImageOrSnapArgs};
use crate::text;

#[derive(Debug, ClapArgs)]
pub(crate) struct InfoArgs {
    #[command(flatten)]
    image: ImageOrSnapArgs,
    #[command(flatten)]
    id: ImageIdOption,
    #[command(flatten)]
    format: FormatArgs,
}

pub(crate) async fn run(args: &InfoArgs, overrides: &Overrides) -> Result<(), Error> {
    let target = args.image.resolve_or_id(&args.id, overrides)?;
    let details = Cluster::inspect(&target).await?;
    args.format.print(|| to_json(&details), || to_text(&details))
}

/// Ceph: `do_show_info` in `src/tools/rbd/action/Info.cc`.
fn to_json(details: &ImageDetails) -> Value {
    let info = &details.info;
    let mut fields = Map::new();
    let mut set = |name: &str, value: Value| fields.insert(name.to_owned(), value);
    if let Some(name) = &info.name {
        set("name", json!(name));
    }
    set("id", json!(info.id));
    set("size", json!(info.size));
    set("objects", json!(info.objects));
    set("order", json!(info.order));
    set("object_size", json!(info.object_size));
    set("snapshot_count", json!(info.snapshot_count));
    if let Some(pool) = &info.data_pool {
        set("data_pool", json!(pool));
    }
    set("block_name_prefix", json!(info.block_name_prefix));
    set("format", json!(info.format));
    // Format 1 knows none of these.
    if info.format > 1 {
        set("features", info.features.names().collect());
        set("op_features", info.op_features.names().collect());
        set("flags", info.flags.names().collect());
    }
    if let Some(group) = &info.group {
        set("group", json!(group));
    }
    if info.format > 1 {
        set("create_timestamp", json!(text::time(info.create_timestamp)));
        set("access_timestamp", json!(text::time(info.access_timestamp)));
        set("modify_timestamp", json!(text::time(info.modify_timestamp)));
    }
    if let Some(protected) = info.protected {
        set("protected", json!(protected.to_string()));
    }
    if let Some(limit) = info.snapshot_limit {
        set("snapshot_limit", json!(limit));
    }
    if let Some(parent) = &info.parent {
        set("parent", parent_json(parent));
    }
    if let (Some(unit), Some(count)) = (info.stripe_unit, info.stripe_count) {
        set("stripe_unit", json!(unit));
        set("stripe_count", json!(count));
    }
    if info.features.contains(Features::JOURNALING) {
        set("journal", json!(info.id));
    }
    if let Some(mirroring) = &details.mirroring {
        let MirroringInfo { mode, state, global_id, primary } = mirroring;
        let mut shown = json!({ "mode": mode, "state": state, "global_id": global_id });
        if let Some(primary) = primary {
            shown["primary"] = json!(primary);
        }
        set("mirroring", shown);
    } else if info.features.contains(Features::JOURNALING) {
        set("mirroring", json!({ "mode": "journal", "state": "disabled" }));
    }
    fields.into()
}

fn parent_json(parent: &ParentInfo) -> Value {
    json!({
        "pool": parent.pool,
        "pool_namespace": parent.pool_namespace,
        "image": parent.image,
        "id": parent.id,
        "snapshot": parent.snapshot,
        "trash": parent.trash,
        "overlap": parent.overlap,
    })
}

/// What lists of images show of a parent.
pub(crate) fn parent_spec_json(parent: &ParentInfo) -> Value {
    json!({
        "pool": parent.pool,
        "pool_namespace": parent.pool_namespace,
        "image": parent.image,
        "snapshot": parent.snapshot,
    })
}

/// `POOL/[NAMESPACE/]IMAGE@SNAPSHOT` of a parent.
pub(crate) fn parent_name(parent: &ParentInfo) -> String {
    let ParentInfo { pool, pool_namespace, image, snapshot, .. } = parent;
    let separator = if pool_namespace.is_empty() { "" } else { "/" };
    format!("{pool}/{pool_namespace}{separator}{image}@{snapshot}")
}

fn to_text(details: &ImageDetails) -> String {
    let info = &details.info;
    let mut lines = vec![
        format!("size {} in {} objects", text::bytes(info.size), info.objects),
        format!("order {} ({} objects)", info.order, text::bytes(info.object_size)),
        format!("snapshot_count: {}", info.snapshot_count),
    ];
    let of_format_2 = |lines: Vec<String>| if info.format > 1 { lines } else { Vec::new() };
    lines.extend(of_format_2(vec![format!("id: {}", info.id)]));
    lines.extend(info.data_pool.as_ref().map(|pool| format!("data_pool: {pool}")));
    lines.extend([
        format!("block_name_prefix: {}", info.block_name_prefix),
        format!("format: {}", info.format),
    ]);
    lines.extend(of_format_2(vec![
        format!("features: {}", info.features),
        format!("op_features: {}", info.op_features),
        format!("flags: {}", info.flags),
    ]));
    lines.extend(info.group.as_ref().map(|group| format!("group: {group}")));
    lines.extend(of_format_2(vec![
        format!("create_timestamp: {}", text::time(info.create_timestamp)),
        format!("access_timestamp: {}", text::time(info.access_timestamp)),
        format!("modify_timestamp: {}", text::time(info.modify_timestamp)),
    ]));
    if let Some(protected) = info.protected {
        lines.push(format!("protected: {}", if protected { "True" } else { "False" }));
    }
    lines.extend(info.snapshot_limit.map(|limit| format!("snapshot_limit: {limit}")));
    if let Some(parent) = &info.parent {
        let trash = if parent.trash { format!(" (trash {})", parent.id) } else { String::new() };
        lines.push(format!("parent: {}{trash}", parent_name(parent)));
        lines.push(format!("overlap: {}", text::bytes(parent.overlap)));
    }
    if let (Some(unit), Some(count)) = (info.stripe_unit, info.stripe_count) {
        lines.push(format!("stripe unit: {}", text::bytes(unit)));
        lines.push(format!("stripe count: {count}"));
    }
    if info.features.contains(Features::JOURNALING) {
        lines.push(format!("journal: {}", info.id));
    }
    if let Some(mirroring) = &details.mirroring {
        lines.push(format!("mirroring state: {}", mirroring.state));
        lines.push(format!("mirroring mode: {}", mirroring.mode));
        lines.push(format!("mirroring global id: {}", mirroring.global_id));
        lines.extend(mirroring.primary.map(|primary| format!("mirroring primary: {primary}")));
    } else if info.features.contains(Features::JOURNALING) {
        lines.push("mirroring state: disabled".to_owned());
    }

    let mut text = format!("rbd image '{}':\n", info.name.as_deref().unwrap_or_default());
    for line in lines {
        let _ = writeln!(text, "\t{}", line);
    }
    text
}
