//! `status`: who has an image open.

use ceph_conf::Overrides;
use serde_json::json;

use crate::args::{Format, ImageArgs};
use crate::cluster::Cluster;
use crate::report::Error;
use crate::target::Target;
use crate::{info, text};

pub(crate) async fn run(args: &ImageArgs, overrides: &Overrides) -> Result<(), Error> {
    let target = Target::parse(&args.spec, overrides)?;
    let details = Cluster::inspect(&target).await?;
    let owner = details.lock_owner.as_ref();
    info::write(&match args.format {
        Format::Json => {
            let status =
                json!({ "watchers": text::watchers_json(&details.watchers), "lock": text::lock_json(owner) });
            format!("{status}\n")
        }
        Format::Text => text::watchers(&details.watchers) + &text::lock(owner),
    })
}
