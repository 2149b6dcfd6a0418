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
