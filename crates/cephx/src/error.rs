//! Why authentication failed, and what can be done about it.

use ceph_codec::{DecodeError, EntityType, GlobalId};
use thiserror::Error;

use crate::{EntityAuthName, KeyError, KeyKind};

const EPERM: i32 = 1;
const ENOENT: i32 = 2;
const EACCES: i32 = 13;
const EBUSY: i32 = 16;

/// Why authentication failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AuthError {
    /// The monitor knows another key for this user, or does not know the user, or does not allow the type of
    /// the key, or the user has no monitor capabilities. Which of these, it does not say.
    #[error("the monitor rejected the {kind} key of {name}")]
    KeyRejected {
        /// The user.
        name: EntityAuthName,
        /// Type of the key.
        kind: KeyKind,
    },
    /// The monitor does not know the user.
    #[error("the monitor does not know {name}")]
    UnknownUser {
        /// The user.
        name: EntityAuthName,
    },
    /// The monitor did not give the client its global id back: the ticket that proves who it was is too old,
    /// or the key was rejected ([`Client::forget_identity`](crate::Client::forget_identity) tells which).
    #[error("the monitor rejected {name} as the owner of global id {global_id}")]
    ReclaimRejected {
        /// The user.
        name: EntityAuthName,
        /// The id the client had.
        global_id: GlobalId,
    },
    /// The server wants another method than the one it was offered.
    #[error("the server does not allow method {method}, only {allowed:?} (1 is none, 2 is cephx, 4 is gss)")]
    MethodNotAllowed {
        /// The method offered.
        method: u32,
        /// The methods that the server allows.
        allowed: Vec<u32>,
    },
    /// The monitor can't authenticate anybody yet.
    #[error("the monitor is not ready to authenticate clients")]
    MonitorNotReady,
    /// The monitor refused for another reason.
    #[error("the monitor refused to authenticate {name}: error {status}")]
    Refused {
        /// The user.
        name: EntityAuthName,
        /// A negative errno, in Linux' numbering.
        status: i32,
    },
    /// A service refused the ticket. It may be of a time whose keys the service does not know (any more):
    /// [`invalidate`](crate::Client::invalidate) it, renew, and try again.
    #[error("{service} refused the ticket: error {status}")]
    TicketRefused {
        /// The kind of service.
        service: EntityType,
        /// A negative errno, in Linux' numbering.
        status: i32,
    },
    /// There is no ticket for this service.
    #[error("there is no ticket for {service}")]
    NoTicket {
        /// The kind of service.
        service: EntityType,
    },
    /// The monitor's reply has no ticket for itself.
    #[error("the reply of the monitor has no ticket")]
    NoAuthTicket,
    /// A blob does not decrypt: it is damaged, or whoever made it does not know the key.
    #[error("{what} does not decrypt")]
    Undecryptable {
        /// The blob.
        what: &'static str,
    },
    /// A decrypted or plain payload is not what it should be.
    #[error("{what} is malformed")]
    Malformed {
        /// The payload.
        what: &'static str,
        /// What is wrong with it.
        #[source]
        source: DecodeError,
    },
    /// A ticket came with a session key that can't be used.
    #[error("the session key for {service} is unusable")]
    BadSessionKey {
        /// The kind of service.
        service: EntityType,
        /// What is wrong with it.
        #[source]
        source: KeyError,
    },
    /// A payload came that this state of the exchange does not allow.
    #[error("{what} is out of turn")]
    OutOfTurn {
        /// The payload.
        what: &'static str,
    },
    /// The service answered the wrong nonce: it is an impostor, or the answer is an old one.
    #[error("{service} did not prove that it can read the ticket")]
    NotMutual {
        /// The kind of service.
        service: EntityType,
    },
    /// The monitor gave an impossible global id.
    #[error("the monitor gave global id {given}, the client's is {own}")]
    WrongGlobalId {
        /// The id in the reply.
        given: GlobalId,
        /// The id of the client, 0 if it had none.
        own: GlobalId,
    },
    /// Another handshake with a monitor gave this client its identity while this one was under way.
    #[error("another monitor authenticated the client first")]
    Superseded,
}

impl AuthError {
    /// From the result of a monitor, a negative errno.
    pub(crate) fn from_monitor(
        status: i32,
        name: &EntityAuthName,
        kind: KeyKind,
        reclaimed: Option<GlobalId>,
    ) -> Self {
        let name = name.clone();
        match (status.checked_neg(), reclaimed) {
            (Some(EACCES | EPERM), Some(global_id)) => Self::ReclaimRejected { name, global_id },
            (Some(EACCES | EPERM), None) => Self::KeyRejected { name, kind },
            (Some(ENOENT), _) => Self::UnknownUser { name },
            (Some(EBUSY), _) => Self::MonitorNotReady,
            _ => Self::Refused { name, status },
        }
    }

    /// What the user can do about it, if anything.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        Some(match self {
            Self::KeyRejected { name, kind } => format!(
                "compare the keyring with `ceph auth get {name}`; the user needs mon caps such as 'profile rbd', \
                 and `{kind}` must be among auth_allowed_ciphers of `ceph mon dump` where that is shown"
            ),
            Self::UnknownUser { name } => format!(
                "create the user with `ceph auth get-or-create {name} mon 'profile rbd' osd 'profile rbd pool=POOL'`"
            ),
            Self::ReclaimRejected { name, .. } => format!(
                "the client was away for longer than its ticket is good for, or `ceph auth get {name}` shows \
                 another key now"
            ),
            Self::MethodNotAllowed { .. } => {
                "compare auth_client_required of the client with auth_service_required of the cluster".into()
            }
            Self::NoTicket { service } | Self::TicketRefused { service, .. } => format!(
                "does the user have {service} caps, and do the clocks of monitors and {service}s agree?"
            ),
            Self::NotMutual { .. } => "is something else listening on the address of the daemon?".into(),
            Self::Undecryptable { .. } => "is the key the one that the cluster has for this user?".into(),
            Self::Refused { .. }
            | Self::MonitorNotReady
            | Self::NoAuthTicket
            | Self::Malformed { .. }
            | Self::BadSessionKey { .. }
            | Self::OutOfTurn { .. }
            | Self::WrongGlobalId { .. }
            | Self::Superseded => return None,
        })
    }

    /// Whether the same may work later, without anybody changing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::MonitorNotReady | Self::TicketRefused { .. } | Self::NoTicket { .. } | Self::Superseded
        )
    }
}
