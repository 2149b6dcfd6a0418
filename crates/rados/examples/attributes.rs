//! Counts in an object's omap and attributes, safe against others who do the same at the same time:
//! `cargo run -p rados --example attributes -- POOL OBJECT KEY`.
//!
//! The cluster and the user come from `CEPH_CONF` and `CEPH_ARGS`, as for Ceph's own tools.

use std::error::Error;

use rados::{Client, Errno, OpError, Operation, Options, SnapContext, SnapId};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [pool, name, key] = arguments.as_slice() else {
        return Err("usage: attributes POOL OBJECT KEY".into());
    };
    let config = ceph_conf::load(&ceph_conf::Environment::from_process()?, &ceph_conf::Overrides::default())?;
    let client = Client::connect(Options::from_config(&config).await?).await?;
    let pool = client.pool(pool).await?;
    let object = pool.object(name);
    object.create(false).await?;

    let count = loop {
        let read = Operation::new().assert_exists().omap_get_vals_by_keys(vec![key.clone()]);
        let reply = pool.read(name, read, SnapId::HEAD).await?;
        let counted = reply.outcome(1)?.omap()?;
        let count: u64 = match counted.get(key) {
            Some(value) => std::str::from_utf8(value)?.parse()?,
            None => 0,
        };
        // All of it happens, or nothing: the version is the one that was read, or somebody was faster.
        let write = Operation::new()
            .assert_version(reply.version)
            .omap_set_vals([(key.clone(), (count + 1).to_string())])
            .set_xattr("last", key.clone());
        match pool.write(name, write, &SnapContext::default()).await {
            Ok(_) => break count + 1,
            Err(OpError::Op { errno: Errno::ERANGE, index: 0, .. }) => {}
            Err(error) => return Err(error.into()),
        }
    };
    println!("{key} is now {count}; last counted: {:?}", object.xattr("last").await?);

    let mut after = String::new();
    loop {
        let page = object.omap_page(&after, "", 100).await?;
        for (key, value) in &page.pairs {
            println!("{key}: {}", String::from_utf8_lossy(value));
        }
        match page.pairs.into_iter().next_back() {
            Some((last, _)) if page.more => after = last,
            _ => return Ok(()),
        }
    }
}
