//! Who serves the image: the program under test, or QEMU over librbd to compare it with.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::common::{Cluster, Image, Server, run, wait_until};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Ours,
    /// `qemu-nbd` over librbd.
    Librbd,
}

#[derive(Debug)]
pub(crate) enum Backend {
    Ours(Server),
    Librbd { child: Child, socket: String },
}

impl Backend {
    /// Serves an image under its own name.
    pub(crate) fn serve(kind: Kind, cluster: &Cluster, image: &Image) -> Self {
        match kind {
            Kind::Ours => Self::Ours(Server::serve(cluster, &[&image.spec])),
            Kind::Librbd => {
                let socket = cluster.file(&format!("{}.sock", image.spec.replace('/', ".")));
                let mut command = Command::new("qemu-nbd");
                command.args(["-f", "raw", "-t", "-e", "16", "--discard=unmap", "--cache=none"]);
                command
                    .args(["-x", &image.spec, "-k", &socket])
                    .arg(format!("{}:id=qemu", cluster.qemu(&image.spec)));
                let child = command.stdin(Stdio::null()).spawn().expect("qemu-nbd is installed");
                wait_until("qemu-nbd listens", Duration::from_secs(30), || {
                    std::os::unix::net::UnixStream::connect(&socket).ok()
                });
                Self::Librbd { child, socket }
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
            Self::Librbd { child, .. } => child.id(),
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
            Self::Librbd { mut child, .. } => {
                run(&format!("kill -TERM {}", child.id()));
                child.wait().expect("a child can be waited for");
            }
        }
    }
}
