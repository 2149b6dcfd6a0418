//! Writes an object and reads it back: `cargo run -p rados --example put_get -- POOL OBJECT TEXT`.
//!
//! The cluster and the user come from `CEPH_CONF` and `CEPH_ARGS`, as for Ceph's own tools.

use std::error::Error;

use rados::{Client, Operation, Options, SnapId};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [pool, object, text] = arguments.as_slice() else {
        return Err("usage: put_get POOL OBJECT TEXT".into());
    };
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let config = ceph_conf::load(&ceph_conf::Environment::from_process()?, &ceph_conf::Overrides::default())?;
    let client = Client::connect(Options::from_config(&config).await?).await?;
    println!("connected to {} as client.{} at {}", client.fsid(), client.global_id(), client.addr());

    let pool = client.pool(pool).await?;
    let version = pool.object(object).write_full(text.clone()).await?;
    println!("wrote version {version}");

    // Two ops at once see the same version.
    let reply = pool.read(object, Operation::new().read(0, 1 << 20).stat(), SnapId::HEAD).await?;
    println!("read {:?}, {} bytes", reply.data(0), reply.outcome(1)?.stat()?.size);
    Ok(())
}
