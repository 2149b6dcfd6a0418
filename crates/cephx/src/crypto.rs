//! Sealing and opening the blobs of cephx, with either kind of key.
//!
//! ```text
//!  0            1               9
//! +------------+---------------+------------+
//! | version 1  | magic le64    | struct ... |   encrypted as a whole
//! +------------+---------------+------------+
//! ```
//! Ceph: `encode_encrypt_enc_bl`, `decode_decrypt_enc_bl` in `src/auth/cephx/CephxProtocol.h`.

use aes::Aes128;
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockDecryptMut, BlockEncryptMut, KeyIvInit};
use ceph_codec::{Encode, Reader, encode_bytes};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::aes256k::{self, CONFOUNDER};
use crate::{AuthError, CryptoKey, KeyKind, Random};

/// Ceph: `AUTH_ENC_MAGIC`.
const MAGIC: u64 = 0xff00_9cad_8826_aa55;
const VERSION: u8 = 1;
/// Length of version and magic.
const ENVELOPE: usize = 9;
/// Ceph: `CEPH_AES_IV` in `src/auth/Crypto.cc`.
const AES_IV: &[u8; 16] = b"cephsageyudagreg";

/// What a blob is for: it selects the derived keys of `aes256k`, and names the blob in errors.
///
/// Ceph: `CEPHX_KEY_USAGE_*` in `src/auth/cephx/CephxProtocol.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Usage {
    ConnectionSecret = 0x03,
    TicketSessionKey = 0x04,
    TicketBlob = 0x05,
    Authorize = 0x10,
    AuthorizeChallenge = 0x11,
    AuthorizeReply = 0x12,
}

impl Usage {
    pub(crate) const fn what(self) -> &'static str {
        match self {
            Self::ConnectionSecret => "connection secret",
            Self::TicketSessionKey => "session key of a ticket",
            Self::TicketBlob => "ticket",
            Self::Authorize => "authorizer",
            Self::AuthorizeChallenge => "challenge of a service",
            Self::AuthorizeReply => "authorizer reply",
        }
    }
}

impl CryptoKey {
    /// Encrypts what `fields` writes, in its envelope.
    pub(crate) fn seal(
        &self,
        usage: Usage,
        random: Random<'_>,
        fields: impl FnOnce(&mut Vec<u8>),
    ) -> Vec<u8> {
        let mut plain = Zeroizing::new(Vec::with_capacity(128));
        if self.kind() == KeyKind::Aes256k {
            plain.resize(CONFOUNDER, 0);
            random(&mut plain);
        }
        plain.push(VERSION);
        MAGIC.encode(&mut plain);
        fields(&mut plain);
        self.encrypt(usage as u32, &plain)
    }

    /// Decrypts, checks the envelope, and returns the struct in it.
    pub(crate) fn open(&self, usage: Usage, sealed: &[u8]) -> Result<Opened, AuthError> {
        let error = || AuthError::Undecryptable { what: usage.what() };
        let plain = self.decrypt(usage as u32, sealed).ok_or_else(error)?;
        let skip = if self.kind() == KeyKind::Aes256k { CONFOUNDER } else { 0 };
        let envelope = plain.get(skip..skip + ENVELOPE).ok_or_else(error)?;
        if envelope[0] != VERSION || envelope[1..] != MAGIC.to_le_bytes() {
            return Err(error());
        }
        Ok(Opened { plain, start: skip + ENVELOPE })
    }

    /// The proof that a client knows this key. Ceph: `cephx_calc_client_server_challenge`.
    pub(crate) fn challenge_proof(&self, server: u64, client: u64) -> u64 {
        let mut challenges = Vec::with_capacity(16);
        server.encode(&mut challenges);
        client.encode(&mut challenges);
        let mixed = match self.kind() {
            KeyKind::Aes => {
                let mut plain = vec![VERSION];
                MAGIC.encode(&mut plain);
                plain.extend_from_slice(&challenges);
                // The length in front takes part, and what does not fill a word at the end does not.
                let mut out = Vec::new();
                encode_bytes(&self.encrypt(0, &plain), &mut out);
                out
            }
            KeyKind::Aes256k => <Hmac<Sha256> as Mac>::new_from_slice(self.secret())
                .expect("HMAC takes keys of any length")
                .chain_update(&challenges)
                .finalize()
                .into_bytes()
                .to_vec(),
        };
        mixed.as_chunks::<8>().0.iter().fold(0, |proof, word| proof ^ u64::from_le_bytes(*word))
    }

    fn encrypt(&self, usage: u32, plain: &[u8]) -> Vec<u8> {
        match self.kind() {
            KeyKind::Aes => cbc::Encryptor::<Aes128>::new_from_slices(self.secret(), AES_IV)
                .expect("the length of the secret was checked when it was read")
                .encrypt_padded_vec_mut::<Pkcs7>(plain),
            KeyKind::Aes256k => aes256k::encrypt(self.secret(), usage, plain),
        }
    }

    fn decrypt(&self, usage: u32, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        match self.kind() {
            KeyKind::Aes => cbc::Decryptor::<Aes128>::new_from_slices(self.secret(), AES_IV)
                .expect("the length of the secret was checked when it was read")
                .decrypt_padded_vec_mut::<Pkcs7>(sealed)
                .ok()
                .map(Zeroizing::new),
            KeyKind::Aes256k => aes256k::decrypt(self.secret(), usage, sealed),
        }
    }
}

/// A decrypted struct. Wiped when dropped.
pub(crate) struct Opened {
    plain: Zeroizing<Vec<u8>>,
    start: usize,
}

impl Opened {
    pub(crate) fn reader(&self) -> Reader<'_> {
        Reader::new(&self.plain[self.start..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ceph_codec::Decode;
    use hex_literal::hex;
    use proptest::prelude::*;

    const SECRET: [u8; 32] = hex!("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f");

    fn aes() -> CryptoKey {
        CryptoKey::from_secret(KeyKind::Aes, &SECRET[..16])
    }

    fn aes256k() -> CryptoKey {
        CryptoKey::from_secret(KeyKind::Aes256k, &SECRET)
    }

    /// Computed with OpenSSL's AES-128-CBC, Ceph's IV and PKCS#7 padding.
    #[test]
    fn aes_blobs_are_cbc_with_cephs_iv_and_padding() {
        let cases: [(&[u8], [u8; 32]); 2] = [
            (b"0123456", hex!("c89a11182917c7a8c6c4bfa8c35e4761f49afbba3816417b67978a668f701746")),
            (b"01234567", hex!("c89a11182917c7a8c6c4bfa8c35e4761e0947408fecbefbf557b818e7b0951cc")),
        ];
        for (plain, sealed) in cases {
            let mut no_random = |_: &mut [u8]| panic!("aes takes no randomness");
            let out = aes().seal(Usage::Authorize, &mut no_random, |out| out.extend_from_slice(plain));
            assert_eq!(out, sealed);
            assert_eq!(aes().open(Usage::Authorize, &sealed).unwrap().reader().rest(), plain);
        }
    }

    /// Computed with Python's `cryptography` and `hmac`.
    #[test]
    fn proofs_are_folded_to_64_bits() {
        let (server, client) = (0x0102_0304_0506_0708, 0x1112_1314_1516_1718);
        assert_eq!(aes().challenge_proof(server, client), 0xe965_f059_2508_5d65);
        assert_eq!(aes256k().challenge_proof(server, client), 0x4ba2_5336_3bea_aff3);
    }

    #[test]
    fn an_envelope_with_the_wrong_magic_is_refused() {
        let mut plain = vec![VERSION];
        (MAGIC + 1).encode(&mut plain);
        let sealed = aes().encrypt(0, &plain);
        let opened = aes().open(Usage::TicketBlob, &sealed).map(drop);
        assert_eq!(opened, Err(AuthError::Undecryptable { what: "ticket" }));
    }

    proptest! {
        #[test]
        fn sealed_structs_open_with_the_same_key_only(value: u64, byte: u8) {
            for (key, other) in [(aes(), [7; 16].as_slice()), (aes256k(), &[7; 32])] {
                let sealed = key.seal(Usage::Authorize, &mut |b: &mut [u8]| b.fill(byte), |out| value.encode(out));
                let opened = key.open(Usage::Authorize, &sealed).unwrap();
                prop_assert_eq!(u64::decode(&mut opened.reader()), Ok(value));
                prop_assert!(CryptoKey::from_secret(key.kind(), other).open(Usage::Authorize, &sealed).is_err());
            }
        }

        #[test]
        fn hostile_blobs_do_not_open(sealed in prop::collection::vec(any::<u8>(), 0..100)) {
            for key in [aes(), aes256k()] {
                prop_assert!(key.open(Usage::TicketBlob, &sealed).is_err());
            }
        }
    }
}
