//! The messages that a client exchanges with monitors and OSDs: fields only, no behaviour.
//!
//! Each struct names the Ceph header that defines it, with the versions that are written and read here.
//! `front` is the encoded struct; payloads travel beside it and are never copied.

pub(crate) mod listing;
pub(crate) mod mon;
pub(crate) mod osd;
pub(crate) mod pool_op;
pub(crate) mod recorded;
pub(crate) mod watch;

/// Message types. Ceph: `CEPH_MSG_*` in `src/include/ceph_fs.h`, `MSG_*` in `src/msg/Message.h`.
pub(crate) mod kind {
    pub(crate) const MON_MAP: u16 = 4;
    pub(crate) const MON_SUBSCRIBE: u16 = 15;
    pub(crate) const AUTH: u16 = 17;
    pub(crate) const AUTH_REPLY: u16 = 18;
    pub(crate) const MON_GET_VERSION: u16 = 19;
    pub(crate) const MON_GET_VERSION_REPLY: u16 = 20;
    pub(crate) const OSD_MAP: u16 = 41;
    pub(crate) const OSD_OP: u16 = 42;
    pub(crate) const OSD_OP_REPLY: u16 = 43;
    pub(crate) const WATCH_NOTIFY: u16 = 44;
    pub(crate) const POOL_OP_REPLY: u16 = 48;
    pub(crate) const POOL_OP: u16 = 49;
    pub(crate) const MON_COMMAND: u16 = 50;
    pub(crate) const MON_COMMAND_ACK: u16 = 51;
    pub(crate) const OSD_BACKOFF: u16 = 61;
    pub(crate) const CONFIG: u16 = 62;
}
