//! `watch`: what clients tell each other about an image.

use std::io::Read as _;
use std::{io, thread};

use bytes::Bytes;
use ceph_codec::{Decode as _, Reader};
use ceph_conf::Overrides;
use clap::Args as ClapArgs;
use rados::{OpError, WatchEvent};
use rbd::{NotifyOp, OperationError};
use tokio::sync::oneshot;

use crate::cluster::Cluster;
use crate::output;
use crate::report::Error;
use crate::spec::ImageArgs;

#[derive(Debug, ClapArgs)]
pub(crate) struct WatchArgs {
    #[command(flatten)]
    image: ImageArgs,
}

pub(crate) async fn run(args: &WatchArgs, overrides: &Overrides) -> Result<(), Error> {
    let target = args.image.resolve(overrides)?;
    let cluster = Cluster::connect(&target.overrides).await?;
    let pool = cluster.pool(&target.spec).await?;
    let header = format!("rbd_header.{}", cluster.show(&target).await?.info.id);
    let (cluster, spec) = (&cluster, &target.spec);
    let failed = |doing| move |source| cluster.failed("watch", spec, OperationError::Op { doing, source });
    let mut watch = pool.watch(&header).await.map_err(failed("watch the header"))?;
    let mut enter = enter();
    output::write("press enter to exit...\n")?;
    loop {
        let event = tokio::select! {
            event = watch.events.recv() => event,
            _ = &mut enter => break,
        };
        match event {
            Some(WatchEvent::Notify { notify_id, notifier, payload }) => {
                // First of all: who sent it waits for the answers of all.
                let acknowledged = pool.acknowledge(&header, watch.cookie, notify_id, Bytes::new()).await;
                let (name, cookie, length) = (&spec.image, watch.cookie, payload.len());
                output::write(&format!(
                    "{name} received notification: notify_id={notify_id}, cookie={cookie}, notifier_id={notifier}, \
                     bl.length={length}, notify_op={}\n",
                    operation(&payload),
                ))?;
                acknowledged.map_err(failed("acknowledge a notify"))?;
            }
            Some(WatchEvent::Lost(errno)) => {
                return Err(failed("keep the watch of the header")(OpError::Errno(errno)));
            }
            None => break,
        }
    }
    pool.unwatch(watch.cookie).await.map_err(failed("end the watch of the header"))
}

/// Comes when a line was typed, or the input has ended.
fn enter() -> oneshot::Receiver<()> {
    let (typed, enter) = oneshot::channel();
    thread::spawn(move || {
        let _ = io::stdin().read(&mut [0]);
        let _ = typed.send(());
    });
    enter
}

/// The name of what a notify is about. Ceph: `operator<<` for `NotifyOp` in `src/librbd/WatchNotifyTypes.cc`.
fn operation(payload: &[u8]) -> String {
    if payload.is_empty() {
        return "HeaderUpdate".to_owned();
    }
    let op = Reader::new(payload).versioned("NotifyMessage", 1, |r, _| u32::decode(r)).map(NotifyOp);
    let name = match op {
        Ok(NotifyOp::ACQUIRED_LOCK) => "AcquiredLock",
        Ok(NotifyOp::RELEASED_LOCK) => "ReleasedLock",
        Ok(NotifyOp::REQUEST_LOCK) => "RequestLock",
        Ok(NotifyOp::HEADER_UPDATE) => "HeaderUpdate",
        Ok(NotifyOp::ASYNC_PROGRESS) => "AsyncProgress",
        Ok(NotifyOp::ASYNC_COMPLETE) => "AsyncComplete",
        Ok(NotifyOp::FLATTEN) => "Flatten",
        Ok(NotifyOp::RESIZE) => "Resize",
        Ok(NotifyOp::SNAP_CREATE) => "SnapCreate",
        Ok(NotifyOp::SNAP_REMOVE) => "SnapRemove",
        Ok(NotifyOp::SNAP_RENAME) => "SnapRename",
        Ok(NotifyOp::SNAP_PROTECT) => "SnapProtect",
        Ok(NotifyOp::SNAP_UNPROTECT) => "SnapUnprotect",
        Ok(NotifyOp::REBUILD_OBJECT_MAP) => "RebuildObjectMap",
        Ok(NotifyOp::RENAME) => "Rename",
        Ok(NotifyOp::UPDATE_FEATURES) => "UpdateFeatures",
        Ok(NotifyOp::MIGRATE) => "Migrate",
        Ok(NotifyOp::SPARSIFY) => "Sparsify",
        Ok(NotifyOp::QUIESCE) => "Quiesce",
        Ok(NotifyOp::UNQUIESCE) => "Unquiesce",
        Ok(NotifyOp::METADATA_UPDATE) => "MetadataUpdate",
        Ok(NotifyOp(other)) => return format!("Unknown ({other})"),
        Err(_) => "malformed",
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notifies_are_named_as_by_rbd_watch() {
        assert_eq!(operation(&[]), "HeaderUpdate");
        assert_eq!(operation(&[7, 1, 4, 0, 0, 0, 8, 0, 0, 0]), "SnapCreate");
        assert_eq!(operation(&[9, 1, 4, 0, 0, 0, 99, 0, 0, 0]), "Unknown (99)");
        assert_eq!(operation(&[1]), "malformed");
    }
}
