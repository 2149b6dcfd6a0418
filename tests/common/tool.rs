//! Maintenance, by `rbd` or by the program under test, in the same words.

use super::cluster::Cluster;
use super::process::{Output, Running, start_command};
use super::server::program;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tool {
    /// As client.admin.
    Rbd,
    /// As the least privileged user.
    Ours,
}

impl Tool {
    /// Starts a command like `snap create pool/image@snap`, words between single spaces.
    pub(crate) fn start(self, cluster: &Cluster, args: &str) -> Running {
        match self {
            Self::Rbd => cluster.start_command(&format!("rbd {args}")),
            Self::Ours => start_command(
                program().args(["--id", "qemu", "--conf", &cluster.conf()]).args(args.split(' ')),
            ),
        }
    }

    pub(crate) fn try_run(self, cluster: &Cluster, args: &str) -> Output {
        self.start(cluster, args).finish()
    }

    /// Runs a command that has to succeed, and returns what it printed.
    pub(crate) fn run(self, cluster: &Cluster, args: &str) -> String {
        self.try_run(cluster, args).success()
    }
}
