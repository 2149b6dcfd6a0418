//! `trash purge --threshold`: as many images as it takes until their pools are not that full any more.
//!
//! Ceph: `Trash<I>::purge` in `src/librbd/api/Trash.cc`.

use std::collections::BTreeMap;

use rados::IoCtx;
use rbd::{
    Image, ImageRef, ObjectStore as _, OpenError, OpenOptions, OperationError, TrashEntry, TrashSource,
};
use serde_json::{Value, json};
use tracing::warn;

use crate::cluster::Cluster;
use crate::report::{Error, sentence};
use crate::spec::UsageError;

/// How full a pool is, as `ceph df` tells.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Usage {
    /// 0 to 1.
    part: f64,
    /// What it holds and could hold more, in bytes.
    total: u64,
}

impl Usage {
    fn from_json(pool: &Value) -> Option<(String, Self)> {
        let stats = pool.get("stats")?;
        let total = stats.get("max_avail")?.as_u64()?.saturating_add(stats.get("bytes_used")?.as_u64()?);
        Some((
            pool.get("name")?.as_str()?.to_owned(),
            Self { part: stats.get("percent_used")?.as_f64()?, total },
        ))
    }

    /// How many bytes are too many.
    fn surplus(self, threshold: f64) -> f64 {
        self.total as f64 * (self.part - threshold)
    }
}

/// What to remove: nothing if no pool of data is that full; else what frees enough, soonest over first, and what
/// `expired`.
pub(super) async fn reach(
    cluster: &Cluster,
    pool: &IoCtx,
    threshold: f64,
    expired: Vec<TrashEntry>,
) -> Result<Vec<TrashEntry>, Error> {
    if !(0.0..=1.0).contains(&threshold) {
        return Err(UsageError::Threshold { threshold: threshold.to_string() }.into());
    }
    let report = cluster.ask("see how full pools are", &json!({ "prefix": "df", "format": "json" })).await?;
    let usages = report["pools"].as_array().into_iter().flatten().filter_map(Usage::from_json);
    let failed = |source| cluster.failed("list the trash of", pool.pool_name(), source);
    let mut left: BTreeMap<String, f64> = usages
        .filter(|(_, usage)| usage.part > threshold)
        .map(|(name, usage)| (name, usage.surplus(threshold)))
        .collect();

    let mut entries = rbd::list_trash(pool).await.map_err(failed)?;
    entries.retain(|entry| matches!(entry.source, TrashSource::User | TrashSource::UserParent));
    entries.sort_by_key(|entry| entry.deferment_end.sec);
    let mut chosen = Vec::new();
    let mut freed = 0;
    for entry in entries {
        match measure(pool, &entry.id, &mut left).await {
            Ok(Some(bytes)) => {
                freed += bytes;
                chosen.push(entry);
            }
            Ok(None) | Err(OperationError::Open(OpenError::NoImage { .. })) => {}
            Err(error) => warn!("cannot tell what image {} uses: {}", entry.id, sentence(&error)),
        }
    }
    if freed == 0 {
        return Ok(Vec::new());
    }
    let others: Vec<_> = expired.into_iter().filter(|entry| !chosen.contains(entry)).collect();
    chosen.extend(others);
    Ok(chosen)
}

/// How much an image takes of a pool that is too full, and takes that from what is `left` to free there. None if
/// nothing is left.
async fn measure(
    pool: &IoCtx,
    id: &str,
    left: &mut BTreeMap<String, f64>,
) -> Result<Option<u64>, OperationError> {
    let options = OpenOptions::new(ImageRef::Id(id.to_owned())).read_only().without_parent();
    let image = Image::open(pool.clone(), options).await?;
    let data_pool = image.info().data_pool.unwrap_or_else(|| pool.pool_name());
    let measured = match left.get_mut(&data_pool) {
        Some(left) if *left > 0.0 => image.disk_usage(None, false).await.map(|bytes| {
            *left -= bytes as f64;
            Some(bytes)
        }),
        _ => Ok(None),
    };
    image.close().await;
    measured
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_is_a_part_of_all_that_there_could_be() {
        let pool =
            json!({ "name": "p", "stats": { "percent_used": 0.5, "max_avail": 300, "bytes_used": 100 } });
        let (name, usage) = Usage::from_json(&pool).unwrap();
        assert_eq!((name.as_str(), usage), ("p", Usage { part: 0.5, total: 400 }));
        assert!((usage.surplus(0.25) - 100.0).abs() < 1e-9);
        assert_eq!(Usage::from_json(&json!({ "name": "p" })), None);
    }
}
