//! What the handshake settled.

use crate::device::{BlockSize, DeviceInfo};
use crate::wire::transmission_flag as flag;

/// What a client and the server agreed upon; constant for the transmission phase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    size: u64,
    flags: u16,
    block_size: BlockSize,
    structured_replies: bool,
    base_allocation: bool,
}

impl Session {
    /// A session on a device that looks like `info`.
    ///
    /// `structured_replies`: reads are answered in chunks. `base_allocation`: that metadata context was selected,
    /// which takes structured replies.
    pub fn new(info: &DeviceInfo, structured_replies: bool, base_allocation: bool) -> Self {
        Self {
            size: info.size,
            flags: transmission_flags(info, structured_replies),
            block_size: info.block_size,
            structured_replies,
            base_allocation: structured_replies && base_allocation,
        }
    }

    /// Size of the export in bytes.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The transmission flags (`NBD_FLAG_*`) the client was told.
    pub const fn transmission_flags(&self) -> u16 {
        self.flags
    }

    /// Size constraints of the export.
    pub const fn block_size(&self) -> BlockSize {
        self.block_size
    }

    /// Whether the client negotiated structured replies.
    pub const fn structured_replies(&self) -> bool {
        self.structured_replies
    }

    /// Whether the client selected `base:allocation`.
    pub const fn base_allocation(&self) -> bool {
        self.base_allocation
    }

    pub(crate) const fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

fn transmission_flags(info: &DeviceInfo, structured_replies: bool) -> u16 {
    let mut flags = flag::HAS_FLAGS | flag::SEND_FLUSH | flag::SEND_FUA | flag::SEND_CACHE;
    let mut set = |condition: bool, flag: u16| {
        if condition {
            flags |= flag;
        }
    };
    set(info.read_only, flag::READ_ONLY);
    set(!info.read_only, flag::SEND_TRIM | flag::SEND_WRITE_ZEROES);
    set(!info.read_only && info.fast_zero, flag::SEND_FAST_ZERO);
    set(info.rotational, flag::ROTATIONAL);
    set(info.multi_conn, flag::CAN_MULTI_CONN);
    // "The server MUST leave this flag clear if structured replies have not been negotiated."
    set(structured_replies, flag::SEND_DF);
    flags
}
