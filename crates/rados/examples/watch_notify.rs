//! Watches an object and answers those who notify it, once:
//! `cargo run -p rados --example watch_notify -- POOL OBJECT`, or with a text as well, notifies its watchers.
//!
//! The cluster and the user come from `CEPH_CONF` and `CEPH_ARGS`, as for Ceph's own tools.

use std::error::Error;
use std::time::Duration;

use rados::{Client, IoCtx, Options, WatchEvent};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (pool, object, text) = match arguments.as_slice() {
        [pool, object] => (pool, object, None),
        [pool, object, text] => (pool, object, Some(text)),
        _ => return Err("usage: watch_notify POOL OBJECT [TEXT]".into()),
    };
    let config = ceph_conf::load(&ceph_conf::Environment::from_process()?, &ceph_conf::Overrides::default())?;
    let client = Client::connect(Options::from_config(&config).await?).await?;
    let pool = client.pool(pool).await?;
    let Some(text) = text else { return watch(&pool, object).await };

    let reply = pool.notify(object, text.clone().into(), Duration::from_secs(10)).await?;
    for (client, _, answer) in reply.acks {
        println!("client.{client} answers {answer:?}");
    }
    for (client, _) in reply.timeouts {
        println!("client.{client} does not answer");
    }
    Ok(())
}

async fn watch(pool: &IoCtx, object: &str) -> Result<(), Box<dyn Error>> {
    pool.object(object).create(false).await?;
    loop {
        let mut watch = pool.watch(object).await?;
        let event = watch.events.recv().await;
        if let Some(WatchEvent::Notify { notify_id, notifier, payload }) = &event {
            println!("client.{notifier} says {payload:?}");
            pool.acknowledge(object, watch.cookie, *notify_id, "heard".into()).await?;
        }
        pool.unwatch(watch.cookie).await?;
        match event {
            // Whatever was said meanwhile is missed: look at the object again, then watch again.
            Some(WatchEvent::Lost(errno)) => println!("watch lost: {errno}"),
            _ => return Ok(()),
        }
    }
}
