//! Where clients connect: a unix socket, or TCP.

use std::env;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, UnixListener};
use tracing::{debug, warn};

use super::args::ServeArgs;
use crate::report::Error;
use crate::target::Target;

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Unix {
        path: PathBuf,
        mode: u32,
        /// Whether the directory may have to be made.
        default: bool,
    },
    Tcp(SocketAddr),
}

impl Place {
    /// What the command line asks for, or the default for these images.
    pub(super) fn choose(args: &ServeArgs, targets: &[Target]) -> Result<Self, Error> {
        if let Some(text) = &args.listen {
            return tcp_address(text, args.insecure_listen).map(Self::Tcp);
        }
        let mode = args.socket_mode;
        match &args.socket {
            Some(path) => Ok(Self::Unix { path: path.clone(), mode, default: false }),
            None => {
                let directory =
                    runtime_directory(|name| env::var(name).ok(), rustix::process::geteuid().is_root())
                        .ok_or(Error::NoRuntimeDir)?;
                Ok(Self::Unix { path: directory.join(socket_name(targets)), mode, default: true })
            }
        }
    }
}

/// `ADDR:PORT`, if it is safe to listen there.
fn tcp_address(text: &str, insecure: bool) -> Result<SocketAddr, Error> {
    let malformed = |source| Error::Address { text: text.to_owned(), source };
    let mut addresses = text.to_socket_addrs().map_err(malformed)?;
    let address = addresses.next().ok_or_else(|| malformed(io::ErrorKind::AddrNotAvailable.into()))?;
    if address.ip().is_loopback() || insecure {
        Ok(address)
    } else {
        Err(Error::NotLoopback { text: text.to_owned() })
    }
}

/// The directory for sockets that were not named: of the service that systemd runs this as, of the user's session, or
/// of the system.
fn runtime_directory(env: impl Fn(&str) -> Option<String>, root: bool) -> Option<PathBuf> {
    let set = |name| env(name).filter(|value| !value.is_empty());
    if let Some(list) = set("RUNTIME_DIRECTORY") {
        return list.split(':').next().map(PathBuf::from);
    }
    if let Some(session) = set("XDG_RUNTIME_DIR") {
        return Some(Path::new(&session).join(PROGRAM));
    }
    root.then(|| Path::new("/run").join(PROGRAM))
}

const PROGRAM: &str = "rbd-nbd-rs";

/// `POOL.IMAGE.sock`, or a name for all if there are several.
fn socket_name(targets: &[Target]) -> String {
    let [Target { spec, .. }] = targets else { return format!("{PROGRAM}.sock") };
    let mut name = plain(&spec.pool);
    if let Some(namespace) = &spec.namespace {
        name = format!("{name}.{}", plain(namespace));
    }
    name = format!("{name}.{}", plain(&spec.image));
    if let Some(snapshot) = &spec.snapshot {
        name = format!("{name}@{}", plain(snapshot));
    }
    name + ".sock"
}

/// Replaces what would have a meaning in a path, for a shell or for QEMU.
fn plain(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' }).collect()
}

/// A socket that clients can connect to. A unix socket is removed when it is dropped.
#[derive(Debug)]
pub(super) enum Listener {
    Unix { socket: UnixListener, path: PathBuf },
    Tcp { socket: TcpListener, address: SocketAddr },
}

impl Listener {
    /// Starts to listen. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// [`Error::SocketBusy`] and others, each with the path or address.
    pub(super) fn bind(place: &Place) -> Result<Self, Error> {
        match place {
            Place::Unix { path, mode, default } => {
                if *default {
                    make_directory(path)?;
                }
                remove_stale(path)?;
                let failed = |source| Error::Listen { place: path.display().to_string(), source };
                let socket = bind_unix(path).map_err(failed)?;
                let listener = Self::Unix { socket, path: path.clone() };
                fs::set_permissions(path, Permissions::from_mode(*mode)).map_err(failed)?;
                Ok(listener)
            }
            Place::Tcp(address) => {
                let failed = |source| Error::Listen { place: address.to_string(), source };
                let socket = std::net::TcpListener::bind(address).map_err(failed)?;
                socket.set_nonblocking(true).map_err(failed)?;
                let socket = TcpListener::from_std(socket).map_err(failed)?;
                let address = socket.local_addr().map_err(failed)?;
                Ok(Self::Tcp { socket, address })
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix { path, .. } = self
            && let Err(error) = fs::remove_file(&*path)
        {
            warn!(path = %path.display(), %error, "cannot remove the socket");
        }
    }
}

/// Nobody can connect before the permissions are set: at first there are none.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o777));
    let socket = UnixListener::bind(path);
    rustix::process::umask(before);
    socket
}

fn make_directory(socket: &Path) -> Result<(), Error> {
    let Some(directory) = socket.parent() else { return Ok(()) };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|source| Error::RuntimeDir { path: directory.to_owned(), source })
}

/// Removes the socket of a server that was killed.
fn remove_stale(path: &Path) -> Result<(), Error> {
    let kind = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        // Whatever else is wrong with the path, binding tells.
        Err(_) => return Ok(()),
    };
    if !kind.is_socket() {
        return Err(Error::NotASocket { path: path.to_owned() });
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            debug!(path = %path.display(), "removing the socket of a server that is gone");
            fs::remove_file(path)
                .map_err(|source| Error::Listen { place: path.display().to_string(), source })
        }
        _ => Err(Error::SocketBusy { path: path.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use ceph_conf::Overrides;

    use super::*;

    fn target(spec: &str) -> Target {
        Target::parse(spec, &Overrides::default()).unwrap()
    }

    #[test]
    fn a_socket_is_named_after_its_image() {
        for (spec, name) in [
            ("rbdpool/image", "rbdpool.image.sock"),
            ("image", "rbd.image.sock"),
            ("p/ns/i@s", "p.ns.i@s.sock"),
            ("p/a b,c:d", "p.a_b_c_d.sock"),
            (r"rbd:p/n\/i", "p.n_i.sock"),
        ] {
            assert_eq!(socket_name(&[target(spec)]), name, "{spec}");
        }
        assert_eq!(socket_name(&[target("a"), target("b")]), "rbd-nbd-rs.sock");
    }

    #[test]
    fn the_directory_is_the_services_the_sessions_or_the_systems() {
        let with = |vars: &'static [(&str, &str)], root| {
            let env = |name: &str| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
            runtime_directory(env, root)
        };
        let service = [("RUNTIME_DIRECTORY", "/run/a:/run/b"), ("XDG_RUNTIME_DIR", "/run/user/7")];
        assert_eq!(with(Box::leak(Box::new(service)), false), Some("/run/a".into()));
        assert_eq!(with(&[("XDG_RUNTIME_DIR", "/run/user/7")], true), Some("/run/user/7/rbd-nbd-rs".into()));
        assert_eq!(with(&[("XDG_RUNTIME_DIR", "")], true), Some("/run/rbd-nbd-rs".into()));
        assert_eq!(with(&[], false), None);
    }

    #[test]
    fn only_loopback_is_listened_on_without_being_insisted_on() {
        for text in ["127.0.0.1:10809", "127.9.9.9:0", "[::1]:10809"] {
            assert!(tcp_address(text, false).is_ok(), "{text}");
        }
        for text in ["0.0.0.0:10809", "[::]:10809", "192.0.2.1:10809"] {
            assert!(matches!(tcp_address(text, false), Err(Error::NotLoopback { .. })), "{text}");
            assert!(tcp_address(text, true).is_ok(), "{text}");
        }
        for text in ["10809", "127.0.0.1", "127.0.0.1:99999", ""] {
            assert!(matches!(tcp_address(text, true), Err(Error::Address { .. })), "{text}");
        }
    }

    /// The umask, which is changed for a moment, is the whole process's.
    static UMASK: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

    fn unix(path: PathBuf) -> Place {
        Place::Unix { path, mode: 0o600, default: true }
    }

    #[tokio::test]
    async fn a_socket_is_private_and_goes_with_its_listener() {
        let _alone = UMASK.lock().await;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/socket");
        let listener = Listener::bind(&unix(path.clone())).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        drop(listener);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn only_a_socket_that_nobody_listens_on_is_replaced() {
        let _alone = UMASK.lock().await;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let listener = Listener::bind(&unix(path.clone())).unwrap();
        assert!(matches!(Listener::bind(&unix(path.clone())), Err(Error::SocketBusy { .. })));
        drop(listener);
        fs::write(&path, "precious").unwrap();
        assert!(matches!(Listener::bind(&unix(path.clone())), Err(Error::NotASocket { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}
