//! Telling people, and systemd, that clients can connect.

use std::io::{self, Write};
use std::path::Path;

use sd_notify::NotifyState;
use tracing::warn;

use super::exports::Registry;
use super::listen::Listener;

/// Prints where clients connect and the lines for QEMU, and tells systemd.
pub(super) fn ready(listener: &Listener, registry: &Registry) {
    let mut text = format!("listening on {}\n", place(listener));
    for (name, read_only) in registry.names() {
        text.push_str(&format!("qemu: {}\n", qemu_line(&server(listener), name, read_only)));
    }
    let mut out = io::stdout();
    // Nobody has to read it.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    notify(NotifyState::Ready);
}

/// Tells systemd that the end has begun.
pub(super) fn stopping() {
    notify(NotifyState::Stopping);
}

fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(false, &[state]) {
        warn!(%error, "cannot notify systemd");
    }
}

fn place(listener: &Listener) -> String {
    match listener {
        Listener::Unix { path, .. } => path.display().to_string(),
        Listener::Tcp { address, .. } => address.to_string(),
    }
}

/// The server's part of a file name in QEMU's spelling.
fn server(listener: &Listener) -> String {
    match listener {
        Listener::Unix { path, .. } => format!("unix:{}", absolute(path).display()),
        Listener::Tcp { address, .. } if address.ip().is_unspecified() => {
            let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            format!("{}:{}", host.trim(), address.port())
        }
        Listener::Tcp { address, .. } => address.to_string(),
    }
}

fn absolute(path: &Path) -> std::path::PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// A drive for QEMU's command line, as one word or with quotes for a shell.
///
/// Without `reconnect-delay` QEMU would answer every request with an I/O error for ever after the server was restarted.
/// `discard` and `detect-zeroes` let the guest's fstrim free space.
fn qemu_line(server: &str, export: &str, read_only: bool) -> String {
    // QEMU ends a value at a comma, unless there are two.
    let file = format!("nbd:{server}:exportname={export}").replace(',', ",,");
    let access = if read_only { "read-only=on" } else { "discard=unmap,detect-zeroes=unmap" };
    let drive = format!("file={file},file.reconnect-delay=60,format=raw,if=virtio,cache=none,{access}");
    format!("-drive {}", quoted(&drive))
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.,:/=@+%[]".contains(c);
    if word.chars().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_for_qemu_can_be_pasted() {
        assert_eq!(
            qemu_line("unix:/run/rbd-nbd-rs/rbdpool.image.sock", "rbdpool/image", false),
            "-drive file=nbd:unix:/run/rbd-nbd-rs/rbdpool.image.sock:exportname=rbdpool/image,\
             file.reconnect-delay=60,format=raw,if=virtio,cache=none,discard=unmap,detect-zeroes=unmap"
        );
        assert_eq!(
            qemu_line("127.0.0.1:10809", "p/i@s", true),
            "-drive file=nbd:127.0.0.1:10809:exportname=p/i@s,file.reconnect-delay=60,format=raw,if=virtio,\
             cache=none,read-only=on"
        );
    }

    #[test]
    fn what_a_shell_or_qemu_would_take_apart_is_quoted() {
        let line = qemu_line("unix:/a b/s", "it's,one", false);
        assert!(line.starts_with(r"-drive 'file=nbd:unix:/a b/s:exportname=it'\''s,,one,file"), "{line}");
        assert!(line.ends_with('\''), "{line}");
    }
}
