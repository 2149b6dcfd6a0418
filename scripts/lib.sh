# What the scripts share. Sourced, not run.
# shellcheck shell=bash disable=SC2034

REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Prepared Ceph releases and the guest's kernel are kept here; safe to remove at any time.
CACHE=${RBD_NBD_RS_CACHE:-/var/cache/rbd-nbd-rs}

say() { echo "${0##*/}: $*" >&2; }
die() { say "$*"; exit 1; }

# usage: prints the comment at the top of the running script.
usage() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; }

need_root() { [ "$(id -u)" = 0 ] || die "must run as root${1:+ ($1)}"; }

need_command() {
    command -v "$1" >/dev/null || die "$1 is not installed; run scripts/install"
}

# wait_until SECONDS COMMAND...: tries COMMAND until it succeeds; fails after SECONDS.
wait_until() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $deadline ] || return 1
        sleep 0.2
    done
}

# ended PID...: whether none of these processes is left.
ended() { ! kill -0 "$@" 2>/dev/null; }

# The Debian mirror this machine itself uses.
debian_mirror() {
    local mirror
    mirror=$(sed -nE 's,^URIs: *(http[^ ]*/debian)/?( .*)?$,\1,p' /etc/apt/sources.list.d/*.sources 2>/dev/null | head -1)
    [ -n "$mirror" ] || mirror=$(sed -nE 's,^deb (\[[^]]*\] )?(http[^ ]*/debian)/? .*,\2,p' /etc/apt/sources.list 2>/dev/null | head -1)
    echo "${mirror:-http://deb.debian.org/debian}"
}

debian_codename() {
    # shellcheck source=/dev/null
    (. /etc/os-release && echo "${VERSION_CODENAME:-}")
}
