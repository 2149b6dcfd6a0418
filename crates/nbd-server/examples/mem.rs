//! Serves a device in memory on a unix socket: `cargo run --example mem -- /tmp/mem.sock 1073741824`

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use nbd_server::{Budget, MemDevice, Shutdown, SingleExport, serve};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(socket), Some(size), None) = (args.next(), args.next(), args.next()) else {
        return Err("usage: mem SOCKET SIZE_IN_BYTES".into());
    };
    let exports = SingleExport::new("mem", Arc::new(MemDevice::new(size.parse()?)));
    let listener = UnixListener::bind(Path::new(&socket))?;
    println!("qemu-img info 'nbd+unix:///mem?socket={socket}'");

    let shutdown = Shutdown::new();
    let on_signal = shutdown.clone();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        on_signal.trigger();
    });
    serve(listener, Arc::new(exports), &Budget::default(), &shutdown).await;
    std::fs::remove_file(socket)?;
    Ok(())
}
