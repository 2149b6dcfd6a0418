//! Shows an image and prints its first bytes: `cargo run -p rbd --example read_image -- POOL IMAGE`.
//!
//! The cluster and the user come from `CEPH_CONF` and `CEPH_ARGS`, as for Ceph's own tools.

use std::error::Error;

use rados::{Client, Options};
use rbd::{Image, OpenOptions};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [pool, image] = arguments.as_slice() else {
        return Err("usage: read_image POOL IMAGE".into());
    };
    let config = ceph_conf::load(&ceph_conf::Environment::from_process()?, &ceph_conf::Overrides::default())?;
    let client = Client::connect(Options::from_config(&config).await?).await?;

    let image = Image::open(client.pool(pool).await?, OpenOptions::image(image).read_only()).await?;
    println!("{} has {} bytes and the features {}", image.id(), image.size(), image.features());
    let len = image.size().min(64);
    println!("{:?}", image.read(0, len).await?.to_vec());
    image.close().await;
    Ok(())
}
