//! Who serves an image: the program under test, or QEMU over librbd to compare it with.

use std::time::Duration;

use super::cluster::{Cluster, unique};
use super::process::{Running, run, start, wait_until};
use super::server::Server;

const LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Ours,
    /// `qemu-nbd` over librbd.
    Librbd,
}

pub(crate) enum Backend {
    Ours(Server),
    Librbd { qemu_nbd: Running, socket: String },
}

impl Backend {
    /// Serves an image, given by its spec, under that name, as the least privileged user.
    pub(crate) fn serve(kind: Kind, cluster: &Cluster, image: &str) -> Self {
        match kind {
            Kind::Ours => Self::Ours(Server::serve(cluster, &[image])),
            Kind::Librbd => {
                let socket = cluster.file(&format!("qemu-nbd{}.{}.sock", std::process::id(), unique()));
                let mut qemu_nbd = start(&format!(
                    "exec qemu-nbd -f raw -t -e 16 --discard=unmap --cache=none -x {image} -k {socket} {}:id=qemu",
                    cluster.qemu(image)
                ));
                wait_until("qemu-nbd listens", LIMIT, || {
                    assert!(qemu_nbd.is_running(), "qemu-nbd could not open {image}");
                    std::os::unix::net::UnixStream::connect(&socket).ok()
                });
                Self::Librbd { qemu_nbd, socket }
            }
        }
    }

    pub(crate) fn socket(&self) -> &str {
        match self {
            Self::Ours(server) => server.socket(),
            Self::Librbd { socket, .. } => socket,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        match self {
            Self::Ours(server) => server.pid(),
            Self::Librbd { qemu_nbd, .. } => qemu_nbd.pid(),
        }
    }

    /// What it wrote to its log so far.
    pub(crate) fn printed(&self) -> String {
        match self {
            Self::Ours(server) => server.printed(),
            Self::Librbd { .. } => String::new(),
        }
    }

    /// Ends it, as an operator does.
    pub(crate) fn stop(self) {
        match self {
            Self::Ours(server) => server.stop(),
            Self::Librbd { mut qemu_nbd, .. } => {
                run(&format!("kill -TERM {}", qemu_nbd.pid()));
                wait_until("qemu-nbd ends", LIMIT, || (!qemu_nbd.is_running()).then_some(()));
            }
        }
    }

    /// Ends it without a chance to tidy up.
    pub(crate) fn kill(self) {
        match self {
            Self::Ours(server) => server.kill(),
            Self::Librbd { qemu_nbd, .. } => drop(qemu_nbd),
        }
    }
}
