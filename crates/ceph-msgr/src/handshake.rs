//! The fields of the frames that come before the first message.
//!
//! Ceph: the `ControlFrame`s in `src/msg/async/frames_v2.h`.

use bytes::Bytes;
use ceph_codec::{
    Decode, DecodeError, Encode, EntityAddr, EntityAddrVec, EntityType, GlobalId, Reader, encode_bytes,
    encode_seq,
};

/// How a connection is protected once the handshake is over. Ceph: `CEPH_CON_MODE_*` in `src/include/msgr.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConMode {
    /// Checksums find accidents; who can change packets can change data.
    Crc = 1,
    /// AES-128-GCM.
    Secure = 2,
}

impl ConMode {
    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> u32 {
        self as u32
    }
}

impl std::fmt::Display for ConMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Crc => "crc",
            Self::Secure => "secure",
        })
    }
}

/// Each side's features of the messenger itself, in its banner. Ceph: `CEPH_MSGR2_FEATURE_*` in
/// `src/include/msgr.h`.
pub(crate) const REVISION_1: u64 = 1;

/// What both sides send first.
///
/// ```text
/// "ceph v2\n" | u16 length | u64 supported features | u64 required features
/// ```
pub(crate) struct Banner {
    pub(crate) supported: u64,
    pub(crate) required: u64,
}

impl Banner {
    pub(crate) const START: [u8; 8] = *b"ceph v2\n";
    /// How messenger v1 starts.
    pub(crate) const START_V1: [u8; 7] = *b"ceph v0";

    pub(crate) fn to_wire(&self) -> Vec<u8> {
        let mut out = Self::START.to_vec();
        16u16.encode(&mut out);
        self.supported.encode(&mut out);
        self.required.encode(&mut out);
        out
    }
}

/// `HELLO`: who I am, and at which address I see you.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) kind: EntityType,
    pub(crate) peer_addr: EntityAddr,
}

impl Encode for Hello {
    fn encode(&self, out: &mut Vec<u8>) {
        self.kind.encode(out);
        self.peer_addr.encode(out);
    }
}

impl Decode for Hello {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { kind: EntityType::decode(r)?, peer_addr: EntityAddr::decode(r)? })
    }
}

/// `AUTH_REQUEST`: a method, the modes in order of preference, and what the method wants to say.
#[derive(Debug)]
pub(crate) struct AuthRequest<'a> {
    pub(crate) method: u32,
    pub(crate) modes: &'a [ConMode],
    pub(crate) payload: &'a [u8],
}

impl Encode for AuthRequest<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        self.method.encode(out);
        let modes: Vec<u32> = self.modes.iter().map(|mode| mode.number()).collect();
        encode_seq(modes.iter(), out);
        encode_bytes(self.payload, out);
    }
}

/// `AUTH_BAD_METHOD`: why not, and what would do instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AuthBadMethod {
    pub(crate) method: u32,
    pub(crate) result: i32,
    pub(crate) allowed_methods: Vec<u32>,
    pub(crate) allowed_modes: Vec<u32>,
}

impl Decode for AuthBadMethod {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            method: u32::decode(r)?,
            result: i32::decode(r)?,
            allowed_methods: r.seq("allowed methods", u32::decode)?,
            allowed_modes: r.seq("allowed modes", u32::decode)?,
        })
    }
}

/// `AUTH_DONE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AuthDone {
    pub(crate) global_id: GlobalId,
    pub(crate) mode: u32,
    pub(crate) payload: Bytes,
}

impl Decode for AuthDone {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { global_id: GlobalId::decode(r)?, mode: u32::decode(r)?, payload: blob(r)? })
    }
}

/// The only field of `AUTH_REPLY_MORE`, and the last of `AUTH_DONE`. Small and rare, so a copy.
pub(crate) fn blob(r: &mut Reader<'_>) -> Result<Bytes, DecodeError> {
    r.bytes("authentication payload").map(Bytes::copy_from_slice)
}

/// Who a client says it is. The same for all connections of one client instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientIdent {
    /// The instance's address: kind [`ANY`](ceph_codec::AddrType::ANY), the IP that a monitor saw, port 0, and
    /// a nonce of its own. Watchers, locks and the blocklist know the client by it.
    pub addrs: EntityAddrVec,
    /// The number that a monitor gave to the instance; 0 while it has none.
    pub global_id: GlobalId,
    /// Goes up with every connection of the instance, whomever it is to.
    pub global_seq: u64,
}

/// `CLIENT_IDENT`.
#[derive(Debug)]
pub(crate) struct ClientIdentFrame<'a> {
    pub(crate) ident: &'a ClientIdent,
    pub(crate) target: EntityAddr,
    pub(crate) features_supported: u64,
    pub(crate) features_required: u64,
    pub(crate) flags: u64,
    pub(crate) cookie: u64,
}

/// The sender does not resume connections. Ceph: `CEPH_MSG_CONNECT_LOSSY` in `src/include/msgr.h`.
pub(crate) const LOSSY: u64 = 1;

impl Encode for ClientIdentFrame<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        self.ident.addrs.encode(out);
        self.target.encode(out);
        self.ident.global_id.encode(out);
        self.ident.global_seq.encode(out);
        self.features_supported.encode(out);
        self.features_required.encode(out);
        self.flags.encode(out);
        self.cookie.encode(out);
    }
}

/// Who the peer says it is: `SERVER_IDENT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerIdent {
    /// Its addresses; the one dialled is among them.
    pub addrs: EntityAddrVec,
    /// Its number: the id of an OSD, the rank of a monitor.
    pub global_id: GlobalId,
    /// Goes up with every connection that it makes.
    pub global_seq: u64,
    /// Features that it has; see [`features`](crate::features). What counts is what both sides have:
    /// [`Connection::features`](crate::Connection::features).
    pub features_supported: u64,
    /// Features that it requires; this side has them all.
    pub features_required: u64,
    /// Bit 0: connections are lossy.
    pub flags: u64,
    /// Of a session that could be resumed; 0 on lossy connections.
    pub cookie: u64,
}

impl Decode for ServerIdent {
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            addrs: EntityAddrVec::decode(r)?,
            global_id: GlobalId::decode(r)?,
            global_seq: u64::decode(r)?,
            features_supported: u64::decode(r)?,
            features_required: u64::decode(r)?,
            flags: u64::decode(r)?,
            cookie: u64::decode(r)?,
        })
    }
}
