//! Lists the objects of a pool and where each is: `cargo run -p rados --example list -- POOL`.
//!
//! The cluster and the user come from `CEPH_CONF` and `CEPH_ARGS`, as for Ceph's own tools.

use std::error::Error;
use std::pin::pin;

use futures::TryStreamExt;
use rados::{ALL_NAMESPACES, Client, Options};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let pool = std::env::args().nth(1).ok_or("usage: list POOL")?;
    let config = ceph_conf::load(&ceph_conf::Environment::from_process()?, &ceph_conf::Overrides::default())?;
    let client = Client::connect(Options::from_config(&config).await?).await?;
    let pool = client.pool(&pool).await?;

    let mut objects = pin!(pool.with_namespace(ALL_NAMESPACES).objects());
    while let Some(object) = objects.try_next().await? {
        let location = pool.place_of(&object).locate(&object.name)?;
        let size = pool.place_of(&object).object(&object.name).stat().await?.size;
        let osds: Vec<i32> = location.placement.acting.iter().map(|osd| osd.0).collect();
        println!(
            "{}/{}: {size} bytes in {} on {osds:?}",
            object.namespace, object.name, location.placement.pg
        );
    }
    Ok(())
}
