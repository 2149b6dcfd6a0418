//! Keeps what an object held before it is overwritten: `cargo run -p rados --example snapshots -- POOL OBJECT`.
//!
//! The pool must not have snapshots of the whole (`ceph osd pool mksnap`). The cluster and the user come from
//! `CEPH_CONF` and `CEPH_ARGS`, as for Ceph's own tools.

use std::error::Error;

use rados::{Client, Options, SnapContext};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [pool, name] = arguments.as_slice() else {
        return Err("usage: snapshots POOL OBJECT".into());
    };
    let config = ceph_conf::load(&ceph_conf::Environment::from_process()?, &ceph_conf::Overrides::default())?;
    let client = Client::connect(Options::from_config(&config).await?).await?;
    let pool = client.pool(pool).await?;

    pool.object(name).write_full("before").await?;
    let snap = pool.create_self_managed_snapshot().await?;
    // From now on everybody who writes has to name the snapshot.
    let object = pool.object(name).with_snap_context(SnapContext::of([snap]));
    object.write_full("after").await?;
    println!("now: {:?}", object.read(0, 0).await?);
    println!("at snapshot {snap}: {:?}", pool.object(name).at(snap).read(0, 0).await?);
    for clone in object.snap_set().await?.clones {
        println!("{} bytes are kept for {:?}", clone.size, clone.snaps);
    }

    object.rollback(snap).await?;
    println!("rolled back: {:?}", object.read(0, 0).await?);
    pool.remove_self_managed_snapshot(snap).await?;
    Ok(())
}
