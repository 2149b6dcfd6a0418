//! The cipher of `aes256k` keys: aes256-cts-hmac-sha384-192 of RFC 8009.
//!
//! ```text
//!  AES-256-CBC-CTS(Ke, confounder | plaintext)           HMAC-SHA384(Ki, 0 | all that)
//! +--------------------------------------------------+ +-------------+
//! | 16 + plaintext length                            | | 24          |
//! +--------------------------------------------------+ +-------------+
//! ```
//! `Ke` and `Ki` are derived from the key for each use (RFC 8009 section 3), so that a blob made for one
//! purpose does not decrypt as another.
//!
//! Ceph: `CryptoAES256KRB5KeyHandler` in `src/auth/Crypto.cc`.

use aes::Aes256;
use aes::cipher::{Block, BlockDecrypt, BlockEncrypt, KeyInit};
use hmac::{Hmac, Mac};
use sha2::Sha384;
use zeroize::Zeroizing;

const BLOCK: usize = 16;
/// Length of the random bytes in front of the plaintext.
pub(crate) const CONFOUNDER: usize = BLOCK;
/// Length of the truncated HMAC, 192 bits.
const TAG: usize = 24;
/// The cipher state is always zero: every message starts anew.
const IV: [u8; BLOCK] = [0; BLOCK];

/// Encrypts `confounder_and_plain`, which starts with [`CONFOUNDER`] random bytes, under a key of 32 bytes.
pub(crate) fn encrypt(key: &[u8], usage: u32, confounder_and_plain: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(confounder_and_plain.len().next_multiple_of(BLOCK) + TAG);
    out.extend_from_slice(confounder_and_plain);
    let encryption_key = derive::<32>(key, usage, 0xaa);
    cts_encrypt(&Aes256::new((&*encryption_key).into()), &mut out);
    let tag = mac(key, usage, &out).finalize().into_bytes();
    out.extend_from_slice(&tag[..TAG]);
    out
}

/// Decrypts to confounder and plaintext, or to nothing if key, usage or bytes are wrong.
pub(crate) fn decrypt(key: &[u8], usage: u32, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (text, tag) = sealed.split_at_checked(sealed.len().checked_sub(TAG)?)?;
    if text.len() < CONFOUNDER {
        return None;
    }
    mac(key, usage, text).verify_truncated_left(tag).ok()?; // in constant time
    let encryption_key = derive::<32>(key, usage, 0xaa);
    let mut out = Zeroizing::new(text.to_vec());
    cts_decrypt(&Aes256::new((&*encryption_key).into()), &mut out);
    Some(out)
}

fn mac(key: &[u8], usage: u32, text: &[u8]) -> Hmac<Sha384> {
    let integrity_key = derive::<TAG>(key, usage, 0x55);
    hmac(&*integrity_key).chain_update(IV).chain_update(text)
}

/// KDF-HMAC-SHA2 of RFC 8009 section 3 with the label of RFC 3961 section 5.3: usage and purpose.
fn derive<const N: usize>(key: &[u8], usage: u32, purpose: u8) -> Zeroizing<[u8; N]> {
    let bits = u32::try_from(N * 8).expect("derived keys are short");
    let full = hmac(key)
        .chain_update(1u32.to_be_bytes())
        .chain_update(usage.to_be_bytes())
        .chain_update([purpose, 0])
        .chain_update(bits.to_be_bytes())
        .finalize()
        .into_bytes();
    let mut out = Zeroizing::new([0; N]);
    out.copy_from_slice(&full[..N]);
    out
}

fn hmac(key: &[u8]) -> Hmac<Sha384> {
    <Hmac<Sha384> as Mac>::new_from_slice(key).expect("HMAC takes keys of any length")
}

/// CBC with ciphertext stealing, variant CS3: the last two blocks are always swapped, the last one cut.
fn cts_encrypt(cipher: &Aes256, data: &mut Vec<u8>) {
    let len = data.len();
    data.resize(len.next_multiple_of(BLOCK), 0);
    let mut previous = IV;
    for block in data.chunks_exact_mut(BLOCK) {
        xor(block, &previous);
        cipher.encrypt_block(Block::<Aes256>::from_mut_slice(block));
        previous.copy_from_slice(block);
    }
    if len > BLOCK {
        let last = data.len() - BLOCK;
        let (head, tail) = data.split_at_mut(last);
        head[last - BLOCK..].swap_with_slice(tail);
    }
    data.truncate(len.max(BLOCK));
}

/// The reverse, in place; `data` has at least one block.
fn cts_decrypt(cipher: &Aes256, data: &mut [u8]) {
    let blocks = data.len().div_ceil(BLOCK);
    let (head, tail) = data.split_at_mut(blocks.saturating_sub(2) * BLOCK);
    let before_tail = head.last_chunk::<BLOCK>().copied().unwrap_or(IV);
    cbc_decrypt(cipher, head);
    if let Some((first, rest)) = tail.split_first_chunk_mut::<BLOCK>().filter(|(_, rest)| !rest.is_empty()) {
        // `first` is the last block of plain CBC; what it decrypts to has, behind the plaintext's end, the
        // part of the block before that was cut off on the wire.
        cipher.decrypt_block(first.into());
        let mut stolen = *first;
        stolen[..rest.len()].copy_from_slice(rest);
        xor(rest, &first[..]);
        cipher.decrypt_block((&mut stolen).into());
        xor(&mut stolen, &before_tail);
        *first = stolen;
    } else {
        cbc_decrypt(cipher, tail);
    }
}

fn cbc_decrypt(cipher: &Aes256, data: &mut [u8]) {
    let mut previous = IV;
    for block in data.chunks_exact_mut(BLOCK) {
        let mut sealed = IV;
        sealed.copy_from_slice(block);
        cipher.decrypt_block(Block::<Aes256>::from_mut_slice(block));
        xor(block, &previous);
        previous = sealed;
    }
}

fn xor(into: &mut [u8], with: &[u8]) {
    for (a, b) in into.iter_mut().zip(with) {
        *a ^= b;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hex_literal::hex;
    use proptest::prelude::*;

    /// The key and usage number of RFC 8009, appendix A.
    const KEY: [u8; 32] = hex!("6D404D37FAF79F9DF0D33568D320669800EB4836472EA8A026D16B7182460C52");
    const USAGE: u32 = 2;

    #[test]
    fn keys_are_derived_as_in_rfc_8009() {
        let encryption = hex!("56AB22BEE63D82D7BC5227F6773F8EA7A5EB1C825160C38312980C442E5C7E49");
        let integrity = hex!("69B16514E3CD8E56B82010D5C73012B622C4D00FFC23ED1F");
        let checksum = hex!("EF5718BE86CC84963D8BBB5031E9F5C4BA41F28FAF69E73D");
        assert_eq!(*derive::<32>(&KEY, USAGE, 0xaa), encryption);
        assert_eq!(*derive::<24>(&KEY, USAGE, 0x55), integrity);
        assert_eq!(*derive::<24>(&KEY, USAGE, 0x99), checksum);
    }

    #[test]
    fn messages_are_encrypted_as_in_rfc_8009() {
        let cases: [(&[u8], [u8; 16], &[u8]); 4] = [
            (
                &[],
                hex!("F764E9FA15C276478B2C7D0C4E5F58E4"),
                &hex!("41F53FA5BFE7026D91FAF9BE959195A058707273A96A40F0A01960621AC612748B9BBFBE7EB4CE3C"),
            ),
            (
                &hex!("000102030405"),
                hex!("B80D3251C1F6471494256FFE712D0B9A"),
                &hex!(
                    "4ED7B37C2BCAC8F74F23C1CF07E62BC7B75FB3F637B9F559C7F664F69EAB7B60"
                    "92237526EA0D1F61CB20D69D10F2"
                ),
            ),
            (
                &hex!("000102030405060708090A0B0C0D0E0F"),
                hex!("53BF8A0D105265D4E276428624CE5E63"),
                &hex!(
                    "BC47FFEC7998EB91E8115CF8D19DAC4BBBE2E163E87DD37F49BECA92027764F6"
                    "8CF51F14D798C2273F35DF574D1F932E40C4FF255B36A266"
                ),
            ),
            (
                &hex!("000102030405060708090A0B0C0D0E0F1011121314"),
                hex!("763E65367E864F02F55153C7E3B58AF1"),
                &hex!(
                    "40013E2DF58E8751957D2878BCD2D6FE101CCFD556CB1EAE79DB3C3EE86429F2"
                    "B2A602AC86FEF6ECB647D6295FAE077A1FEB517508D2C16B4192E01F62"
                ),
            ),
        ];
        for (plain, confounder, sealed) in cases {
            let plain = [&confounder, plain].concat();
            assert_eq!(encrypt(&KEY, USAGE, &plain), sealed);
            assert_eq!(decrypt(&KEY, USAGE, sealed).unwrap().as_slice(), plain);
        }
    }

    proptest! {
        #[test]
        fn what_is_encrypted_decrypts_for_the_same_usage_only(
            key: [u8; 32], usage: u32, plain in prop::collection::vec(any::<u8>(), CONFOUNDER..200),
        ) {
            let sealed = encrypt(&key, usage, &plain);
            prop_assert_eq!(sealed.len(), plain.len() + TAG);
            let opened = decrypt(&key, usage, &sealed);
            prop_assert_eq!(opened.as_ref().map(|plain| plain.as_slice()), Some(&plain[..]));
            prop_assert!(decrypt(&key, !usage, &sealed).is_none());
        }

        #[test]
        fn a_changed_bit_is_noticed(
            key: [u8; 32], plain in prop::collection::vec(any::<u8>(), CONFOUNDER..100), at: prop::sample::Index,
        ) {
            let mut sealed = encrypt(&key, USAGE, &plain);
            let at = at.index(sealed.len() * 8);
            sealed[at / 8] ^= 1 << (at % 8);
            prop_assert!(decrypt(&key, USAGE, &sealed).is_none());
        }

        #[test]
        fn hostile_bytes_do_not_decrypt(key: [u8; 32], sealed in prop::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(decrypt(&key, USAGE, &sealed).is_none());
        }
    }
}
