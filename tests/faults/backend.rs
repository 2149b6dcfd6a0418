//! Who serves the image: the program under test, or QEMU over librbd to compare it with.

use std::time::Duration;

use crate::common::{Cluster, Image, Running, Server, run, start, wait_until};

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
    /// Serves an image under its own name.
    pub(crate) fn serve(kind: Kind, cluster: &Cluster, image: &Image) -> Self {
        match kind {
            Kind::Ours => Self::Ours(Server::serve(cluster, &[&image.spec])),
            Kind::Librbd => {
                let socket = cluster.file(&format!("{}.sock", image.spec.replace('/', ".")));
                let qemu_nbd = start(&format!(
                    "exec qemu-nbd -f raw -t -e 16 --discard=unmap --cache=none -x {image} -k {socket} {}:id=qemu",
                    cluster.qemu(&image.spec)
                ));
                wait_until("qemu-nbd listens", LIMIT, || {
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
}
