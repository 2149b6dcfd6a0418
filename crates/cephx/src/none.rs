//! The method that proves nothing, for clusters that run with `auth_client_required = none`.
//!
//! `AUTH_DONE` then has an empty payload, there are no tickets to renew and no session secrets, so no secure
//! mode. Whoever uses it must have been asked to: a server that offers it must not talk a client out of cephx.
//!
//! Ceph: `src/auth/none/`.

use ceph_codec::{Encode, GlobalId};

use crate::{EntityAuthName, MODE_AUTHORIZER, MODE_MON};

/// Number of the method in `AUTH_REQUEST`. Ceph: `CEPH_AUTH_NONE` in `src/include/ceph_fs.h`.
pub const METHOD: u32 = 1;

/// Payload of `AUTH_REQUEST` to a monitor; a `global_id` of 0 asks for a new one.
#[must_use]
pub fn mon_request(name: &EntityAuthName, global_id: GlobalId) -> Vec<u8> {
    request(MODE_MON, name, global_id)
}

/// Payload of `AUTH_REQUEST` to a service, with the global id that a monitor gave.
///
/// Ceph: `AuthNoneAuthorizer::build_authorizer`.
#[must_use]
pub fn authorizer(name: &EntityAuthName, global_id: GlobalId) -> Vec<u8> {
    request(MODE_AUTHORIZER, name, global_id)
}

pub(crate) fn request(mode: u8, name: &EntityAuthName, global_id: GlobalId) -> Vec<u8> {
    let mut out = vec![mode];
    name.encode(&mut out);
    global_id.encode(&mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use hex_literal::hex;

    #[test]
    fn requests_carry_mode_name_and_global_id() {
        let name = EntityAuthName::client("ab");
        let tail = hex!("08000000 02000000 6162 0700000000000000");
        assert_eq!(mon_request(&name, GlobalId(7)), [&[10][..], &tail].concat());
        assert_eq!(authorizer(&name, GlobalId(7)), [&[1][..], &tail].concat());
    }
}
