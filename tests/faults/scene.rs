//! A cluster, images on it that are served and loaded, and faults that strike meanwhile.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use crate::common::random::Rng;
use crate::common::{Backend, Cluster, Image, Kind, MIB, Release, json, run, wait_until};
use crate::injector::{self, MONS, OSDS};
use crate::stalls::Waited;
use crate::workload::{Plan, Quiet, Workload};

/// A cluster that is well again, and whatever waited for it.
const LIMIT: Duration = Duration::from_secs(180);

/// Starts three OSDs, each object on two of them, and three monitors.
pub(crate) fn start_cluster(ticket_life: Duration, placement_groups: u64) -> Cluster {
    let (ttl, pgs) = (ticket_life.as_secs().to_string(), placement_groups.to_string());
    let mut options =
        vec!["--osds", "3", "--mons", "3", "--size", "2", "--mgr", "--store", "bluestore", "--bytes", "4G"];
    options.extend(["--ticket-ttl", &ttl, "--pgs", &pgs]);
    for conf in [
        // What is away is noticed as by the monitors of a cluster of many hosts, where any two may complain.
        "osd heartbeat interval = 1",
        "osd heartbeat grace = 6",
        "mon osd adjust heartbeat grace = false",
        "mon osd reporter subtree level = osd",
        // An OSD that is marked down ever so often is not ended for it.
        "osd max markdown count = 1000",
        "mon osd adjust down out interval = false",
        // Statistics, quotas and merges come from the manager, when it comes around to them.
        "mgr stats period = 1",
        "mgr tick period = 1",
        "target max misplaced ratio = 1",
    ] {
        options.extend(["--conf", conf]);
    }
    Cluster::start(Release::Pacific, &options)
}

/// The cluster that the short tests share, one at a time.
pub(crate) fn shared_cluster() -> (&'static Cluster, MutexGuard<'static, ()>) {
    static SHARED: OnceLock<Cluster> = OnceLock::new();
    static TURN: Mutex<()> = Mutex::new(());
    // Whoever panicked has healed its fault.
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    (SHARED.get_or_init(|| start_cluster(SHORT_TICKET_LIFE, 8)), turn)
}

/// Of the shared cluster.
pub(crate) const SHORT_TICKET_LIFE: Duration = Duration::from_secs(12);

pub(crate) struct Scene<'a> {
    pub(crate) cluster: &'a Cluster,
    /// How long a service ticket is good for.
    pub(crate) ticket_life: Duration,
    /// Of each image in bytes.
    pub(crate) size: u64,
    sides: Vec<Side>,
}

/// One image, who serves it, and who uses it.
pub(crate) struct Side {
    pub(crate) kind: Kind,
    pub(crate) image: Image,
    pub(crate) backend: Backend,
    workload: Option<Workload>,
}

impl Side {
    pub(crate) fn workload(&self) -> &Workload {
        self.workload.as_ref().expect("only the end takes it")
    }
}

impl<'a> Scene<'a> {
    /// Serves and loads an image by each of `kinds`, all with the same requests.
    pub(crate) fn new(cluster: &'a Cluster, ticket_life: Duration, kinds: &[Kind], seed: u64) -> Self {
        const SIZE: u64 = 64 * MIB;
        let mut scene = Self { cluster, ticket_life, size: SIZE, sides: Vec::new() };
        scene.wait_until_well();
        for &kind in kinds {
            // Many objects, so that all placement groups have some.
            let image = cluster.create(&format!("--size {}M --object-size 1M", SIZE / MIB));
            let backend = Backend::serve(kind, cluster, &image.spec);
            let workload = Workload::start(backend.socket(), &image.spec, &Plan::new(SIZE, seed));
            scene.sides.push(Side { kind, image, backend, workload: Some(workload) });
        }
        scene
    }

    pub(crate) fn sides(&self) -> &[Side] {
        &self.sides
    }

    /// The servers' processes.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.sides.iter().map(|side| side.backend.pid()).collect()
    }

    /// Lets one fault strike and heals it; returns how long the users of each side waited meanwhile.
    ///
    /// # Panics
    /// Unless everything is answered once the cluster is well again.
    pub(crate) fn strike(&self, kind: injector::Kind, rng: &mut Rng) -> Vec<Waited> {
        let mut fault = (kind.new)();
        self.waited();
        let begun = catch_unwind(AssertUnwindSafe(|| {
            fault.begin(self, rng);
            thread::sleep(fault.lasts());
        }));
        // Other tests need the cluster, too.
        fault.heal(self);
        begun.unwrap_or_else(|panic| resume_unwind(panic));
        self.wait_until_well();
        self.sides.iter().for_each(|side| side.workload().wait_for_answers(LIMIT));
        self.waited()
    }

    pub(crate) fn waited(&self) -> Vec<Waited> {
        self.sides.iter().map(|side| side.workload().waited()).collect()
    }

    /// Ends the load and compares all that is in the images with all that was written: through NBD, and as librbd
    /// exports it.
    ///
    /// # Panics
    /// If anything is missing, wrong, or failed.
    pub(crate) fn finish(self) {
        let Self { cluster, size, sides, .. } = self;
        for mut side in sides {
            let mut quiet: Quiet = side.workload.take().expect("only the end takes it").stop(LIMIT);
            let served = quiet.read_all();
            side.backend.stop();
            let exported = export(cluster, &side.image.spec);
            assert_eq!(exported.len() as u64, size, "{} has changed its size", side.image);
            quiet.check_all(&exported);
            eprintln!("{:?}: {}", side.kind, quiet.summary());
            quiet.assert_right();
            assert!(served == exported, "librbd reads something else");
            if side.kind == Kind::Ours {
                cluster.assert_object_map_is_correct(&side.image.spec);
            }
            cluster.run(&format!("rbd rm --no-progress {}", side.image));
        }
    }

    pub(crate) fn wait_until_well(&self) {
        wait_until("the cluster is well", LIMIT, || is_well(self.cluster).then_some(()));
    }

    /// What librbd reads from an image or a snapshot.
    pub(crate) fn export(&self, spec: &str) -> Vec<u8> {
        export(self.cluster, spec)
    }

    /// Destroys all TCP connections of the servers, without a word to either end of them.
    pub(crate) fn destroy_connections(&self) {
        for pid in self.pids() {
            let ports = run(&format!(
                "ss -Htnp state established | grep 'pid={pid},' | awk '{{ print $3 }}' || true"
            ));
            let ports: Vec<_> = ports.lines().filter_map(|addr| addr.rsplit(':').next()).collect();
            if ports.is_empty() {
                continue;
            }
            let filter: Vec<_> = ports.iter().map(|port| format!("sport = :{port}")).collect();
            let destroyed = run(&format!("ss -HKtn state established '( {} )'", filter.join(" or ")));
            // Without CONFIG_INET_DIAG_DESTROY the kernel ignores the request.
            if destroyed.trim().is_empty() {
                disconnect(pid);
            }
        }
    }
}

/// Disconnects the TCP sockets of a process through copies of its file descriptors: the peers get a reset.
fn disconnect(pid: u32) {
    use rustix::net::{SocketType, connect_unspec, getpeername, sockopt};
    use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

    let pid = Pid::from_raw(i32::try_from(pid).expect("a process id")).expect("not 0");
    let process = pidfd_open(pid, PidfdFlags::empty()).expect("the process lives");
    for entry in fs::read_dir(format!("/proc/{}/fd", pid.as_raw_pid())).expect("the process lives") {
        let name = entry.expect("readable").file_name();
        let number = name.to_str().and_then(|name| name.parse().ok()).expect("a number");
        // It may have been closed meanwhile.
        let Ok(fd) = pidfd_getfd(&process, number, PidfdGetfdFlags::empty()) else { continue };
        let peer = getpeername(&fd).ok().flatten();
        let is_inet = peer.is_some_and(|peer| std::net::SocketAddr::try_from(peer).is_ok());
        if is_inet && sockopt::socket_type(&fd) == Ok(SocketType::STREAM) {
            connect_unspec(&fd).expect("a connection can be given up");
        }
    }
}

fn export(cluster: &Cluster, spec: &str) -> Vec<u8> {
    let file = cluster.file("exported");
    cluster.run(&format!("rbd export --no-progress {spec} {file}"));
    let data = fs::read(&file).expect("rbd has written it");
    fs::remove_file(&file).expect("it is ours");
    data
}

fn is_well(cluster: &Cluster) -> bool {
    let output = cluster.try_run("timeout 20 ceph status --format json 2>/dev/null");
    if !output.status.success() {
        return false;
    }
    let status = json(&output.stdout);
    let clean = status["pgmap"]["pgs_by_state"].as_array().is_some_and(|states| {
        let is_clean = |state: &serde_json::Value| {
            state["state_name"].as_str().is_some_and(|name| name.starts_with("active+clean"))
        };
        !states.is_empty() && states.iter().all(is_clean)
    });
    clean
        && status["quorum"].as_array().is_some_and(|quorum| quorum.len() == MONS.len())
        && status["osdmap"]["num_up_osds"] == OSDS
        && status["osdmap"]["num_in_osds"] == OSDS
}

#[test]
fn connections_can_be_reset_without_the_help_of_ss() {
    use std::io::Read;

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut client = std::process::Command::new("bash")
        .args(["-c", &format!("exec 3<>/dev/tcp/127.0.0.1/{port}; read -r <&3; exec sleep 60")])
        .spawn()
        .unwrap();
    let (mut accepted, _) = listener.accept().unwrap();
    accepted.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    // The connection is there before its file descriptor has its number.
    thread::sleep(Duration::from_millis(200));
    disconnect(client.id());
    let error = accepted.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    client.kill().unwrap();
    client.wait().unwrap();
}
