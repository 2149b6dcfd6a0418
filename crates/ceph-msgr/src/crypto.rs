//! What protects a connection: AES-128-GCM over frames, HMAC-SHA256 over the handshake.

use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hmac;

use crate::error::{FrameError, MsgrError};

/// Bytes of the tag behind each sealed unit.
pub(crate) const TAG_LEN: usize = 16;
/// Bytes of an HMAC.
pub(crate) const SIGNATURE_LEN: usize = 32;

const KEY_LEN: usize = 16;
const NONCE_LEN: usize = 12;

/// Bytes of the connection secret that are used: key, nonce of the server, nonce of the client.
const SECRET_LEN: usize = KEY_LEN + 2 * NONCE_LEN;

/// The ciphers of both directions, client's view.
///
/// Ceph: `rxtx_t::create_handler_pair` in `src/msg/async/crypto_onwire.cc`.
pub(crate) fn ciphers(connection_secret: &[u8]) -> Result<(Cipher, Cipher), MsgrError> {
    let Some(secret) = connection_secret.first_chunk::<SECRET_LEN>() else {
        return Err(MsgrError::ShortSecret { have: connection_secret.len(), need: SECRET_LEN });
    };
    let (key, nonces) = secret.split_at(KEY_LEN);
    let (rx, tx) = nonces.split_at(NONCE_LEN);
    Ok((Cipher::new(key, rx), Cipher::new(key, tx)))
}

/// One direction of an encrypted connection.
///
/// Units are numbered: the last eight bytes of the nonce are a counter that goes up with each, so a unit that
/// is lost, repeated or moved does not open.
pub(crate) struct Cipher {
    key: LessSafeKey,
    fixed: [u8; 4],
    first: u64,
    /// Units sealed or opened so far.
    units: u64,
}

impl Cipher {
    fn new(key: &[u8], nonce: &[u8]) -> Self {
        let key = UnboundKey::new(&AES_128_GCM, key).expect("the key has the length of the algorithm");
        let (fixed, first) = nonce.split_at(4);
        Self {
            key: LessSafeKey::new(key),
            fixed: fixed.try_into().expect("split at 4"),
            first: u64::from_le_bytes(first.try_into().expect("8 of 12 bytes are left")),
            units: 0,
        }
    }

    fn next_nonce(&mut self) -> Nonce {
        let counter = self.first.wrapping_add(self.units);
        self.units = self.units.checked_add(1).expect("no connection lives for 2^64 units");
        let mut nonce = [0; NONCE_LEN];
        nonce[..4].copy_from_slice(&self.fixed);
        nonce[4..].copy_from_slice(&counter.to_le_bytes());
        Nonce::assume_unique_for_key(nonce)
    }

    /// Encrypts `unit` in place and returns its tag.
    pub(crate) fn seal(&mut self, unit: &mut [u8]) -> [u8; TAG_LEN] {
        let nonce = self.next_nonce();
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce, Aad::empty(), unit)
            .expect("a frame is far below the 64 GiB that AES-GCM can seal");
        tag.as_ref().try_into().expect("a tag of AES-GCM has 16 bytes")
    }

    /// Decrypts `unit`, whose last bytes are its tag, in place.
    pub(crate) fn open(&mut self, unit: &mut [u8]) -> Result<(), FrameError> {
        let nonce = self.next_nonce();
        self.key.open_in_place(nonce, Aad::empty(), unit).map(|_| ()).map_err(|_| FrameError::BadTag)
    }
}

/// The proof that its sender knows the session key and received exactly `transcript`.
///
/// Without a key (authentication method "none") it is all zeros.
pub(crate) fn signature(session_key: &[u8], transcript: &[u8]) -> [u8; SIGNATURE_LEN] {
    if session_key.is_empty() {
        return [0; SIGNATURE_LEN];
    }
    let key = hmac::Key::new(hmac::HMAC_SHA256, session_key);
    hmac::sign(&key, transcript).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both ends of one direction.
    fn pair() -> (Cipher, Cipher) {
        let mut secret = [9; 64];
        secret[20..28].fill(0xff); // the counter wraps after the first unit
        (ciphers(&secret).unwrap().0, ciphers(&secret).unwrap().0)
    }

    fn sealed(cipher: &mut Cipher, text: &[u8]) -> Vec<u8> {
        let mut unit = text.to_vec();
        let tag = cipher.seal(&mut unit);
        unit.extend(tag);
        unit
    }

    #[test]
    fn units_open_in_the_order_they_were_sealed() {
        let (mut tx, mut rx) = pair();
        for text in [b"one".as_slice(), b"two", b""] {
            let mut unit = sealed(&mut tx, text);
            rx.open(&mut unit).unwrap();
            assert_eq!(&unit[..text.len()], text);
        }
    }

    #[test]
    fn a_repeated_unit_does_not_open() {
        let (mut tx, mut rx) = pair();
        let mut unit = sealed(&mut tx, b"once");
        rx.open(&mut unit.clone()).unwrap();
        assert_eq!(rx.open(&mut unit), Err(FrameError::BadTag));
    }

    #[test]
    fn a_short_secret_is_refused() {
        assert!(matches!(ciphers(&[0; 39]), Err(MsgrError::ShortSecret { have: 39, need: 40 })));
    }

    #[test]
    fn no_key_means_a_signature_of_zeros() {
        assert_eq!(signature(&[], b"anything"), [0; 32]);
        assert_ne!(signature(&[1], b"anything"), signature(&[1], b"something"));
    }
}
