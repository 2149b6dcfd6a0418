//! `status`: who has an image open.

use ceph_conf::Overrides;
use serde_json::json;

use crate::cluster::Cluster;
use crate::report::Error;
use crate::spec::ShowArgs;
use crate::text;

pub(crate) async fn run(args: &ShowArgs, overrides: &Overrides) -> Result<(), Error> {
    let target = args.image.resolve(overrides)?;
    let watchers = Cluster::inspect(&target).await?.watchers;
    args.format.print(|| json!({ "watchers": text::watchers_json(&watchers) }), || text::watchers(&watchers))
}
