//! Daemons that say what no daemon should.

use bytes::Bytes;
use ceph_codec::{Epoch, Tid, Uuid};

use crate::cluster::Daemon;
use crate::wire::{self, message};
use crate::world::World;

impl World {
    /// A daemon writes bytes to all its connections.
    pub fn say_bytes(&mut self, daemon: Daemon, bytes: &[u8]) {
        for conn in self.connections_to(daemon) {
            if let Some(server) = self.server(conn) {
                server.send_raw(bytes);
                self.flush(conn);
            }
        }
    }

    /// A daemon sends a message to all its clients: well framed, whatever is in it.
    pub fn say(&mut self, daemon: Daemon, kind: u16, version: u16, tid: u64, front: Vec<u8>, data: Bytes) {
        let mut message = message(kind, version, Tid(tid), front);
        message.data = data.into();
        for conn in self.connections_to(daemon) {
            self.send(conn, &message);
        }
    }

    /// A daemon sends maps to all its clients: incremental and full ones with the epochs that they are said to
    /// have.
    pub fn say_maps(
        &mut self,
        daemon: Daemon,
        fsid: Uuid,
        incrementals: &[(Epoch, Bytes)],
        full: &[(Epoch, Bytes)],
    ) {
        let newest = incrementals.iter().chain(full).map(|(epoch, _)| *epoch).max().unwrap_or(Epoch(0));
        let [incrementals, full] = [incrementals, full].map(|maps| maps.iter().cloned().collect());
        let message = wire::osd_maps(fsid, &incrementals, &full, Epoch(1), newest);
        for conn in self.connections_to(daemon) {
            self.send(conn, &message);
        }
    }

    /// The incremental that leads to an epoch, as monitors send it.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn incremental(&self, epoch: Epoch) -> Bytes {
        let info = self.cluster.info(epoch).expect("an epoch of this cluster");
        info.incremental.clone().expect("every epoch but the first has one")
    }

    /// Connections that were ever opened.
    #[must_use]
    pub fn connections_opened(&self) -> usize {
        self.net.opened()
    }
}
