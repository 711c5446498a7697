//! Randomness and digests: unguessable tokens, HMAC-SHA-256, hex and constant-time comparison.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Fresh bytes from the operating system.
///
/// # Panics
/// When the operating system has no randomness to give: no id and no key could be trusted from then on.
#[expect(
    clippy::expect_used,
    reason = "no id or key can be made without randomness; stopping is the only safe answer"
)]
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system gives randomness");
    bytes
}

/// An unguessable token of 192 bits, URL-safe, without `.` or `-`.
pub fn token() -> String {
    hex::encode(random_bytes::<24>())
}

/// HMAC-SHA-256 of `message` under `key`.
#[expect(clippy::expect_used, clippy::missing_panics_doc, reason = "HMAC takes a key of any length")]
pub fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

/// SHA-256 of `bytes`, in lower-case hex.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Whether two secrets are equal, in time that does not tell where they differ.
pub fn same(left: &[u8], right: &[u8]) -> bool {
    left.ct_eq(right).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hmac_agrees_with_rfc_4231_case_2() {
        let mac = hmac_sha256(b"Jefe", b"what do ya want for nothing?");
        assert_eq!(hex::encode(mac), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }

    #[test]
    fn tokens_differ_and_compare() {
        let (one, two) = (token(), token());
        assert_ne!(one, two);
        assert_eq!(one.len(), 48);
        assert!(same(one.as_bytes(), one.as_bytes()) && !same(one.as_bytes(), two.as_bytes()));
    }
}
