//! The NBD protocol, server side, for any block device.
//!
//! Implement [`BlockDevice`], name it in an [`Exports`] (or [`SingleExport`]), and [`serve`] it; QEMU, libnbd and the
//! Linux kernel can attach it. [`MemDevice`] is a device to begin with.
//!
//! ```text
//!  bytes --> handshake::Handshake ------------------> Session        no sockets, no clocks, no tasks
//!  bytes --> transmission::RequestReader --> Command --> BlockDevice
//!  bytes <-- transmission::ReplyQueue <----- Answer <------+
//!
//!  negotiate(), serve_transmission(), serve()                        the same, on tokio
//! ```
//!
//! Served: fixed newstyle handshake with `EXPORT_NAME`, `LIST`, `INFO`, `GO`; simple and structured replies, holes
//! in reads, `base:allocation`, all commands but the experimental `RESIZE`. Not served: TLS, extended headers.
//!
//! The protocol: `doc/proto.md` in <https://github.com/NetworkBlockDevice/nbd>.
//!
//! ```no_run
//! use std::sync::Arc;
//! use nbd_server::{Budget, MemDevice, Shutdown, SingleExport, serve};
//!
//! # async fn example() -> std::io::Result<()> {
//! let exports = SingleExport::new("scratch", Arc::new(MemDevice::new(1 << 30)));
//! let listener = tokio::net::UnixListener::bind("/tmp/scratch.sock")?;
//! // qemu-img info 'nbd+unix:///?socket=/tmp/scratch.sock'
//! serve(listener, Arc::new(exports), &Budget::default(), &Shutdown::new()).await;
//! # Ok(())
//! # }
//! ```

mod budget;
mod device;
mod export;
pub mod handshake;
mod mem;
mod server;
mod session;
pub mod transmission;
mod wire;

pub use budget::{
    Budget, Limits, MAX_BYTES_IN_FLIGHT, MAX_REQUESTS_IN_FLIGHT, OWN_BYTES, OWN_REQUESTS, Share,
};
pub use device::{
    BlockDevice, BlockSize, DeviceError, DeviceInfo, ErrorKind, Extent, ReadData, Segment, ZeroFlags,
};
pub use export::{ExportError, ExportInfo, Exports, Opened, SingleExport};
pub use mem::MemDevice;
pub use server::{
    End, HANDSHAKE_TIMEOUT, Listener, NegotiateError, Negotiated, Shutdown, TransmissionError, negotiate,
    serve, serve_connection, serve_transmission,
};
pub use session::Session;
pub use wire::{Errno, MAX_PAYLOAD};
