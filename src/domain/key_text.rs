//! The text of a managed key: `easel_ID_SECRET`, where SECRET is 256 random bits in hex followed by a check sum. With the
//! check sum a slip of the pen is known without looking anything up, and scanners for leaked keys find few others.

use super::clock::Clock;
use super::id::KeyId;
use super::secret::{hmac_sha256, random_bytes, sha256_hex};

const PREFIX: &str = "easel_";
const SECRET: usize = 64;
const CHECK: usize = 8;

/// A new text for a key: shown once, and kept as an HMAC.
pub struct KeyText {
    /// The key it belongs to.
    pub id: KeyId,
    /// The text.
    pub text: String,
}

impl KeyText {
    /// A text for a new key.
    pub fn fresh(clock: &dyn Clock) -> Self {
        Self::fresh_for(KeyId::mint(clock))
    }

    /// Another text for a key that is there.
    pub fn fresh_for(id: KeyId) -> Self {
        let id_text = id.to_string();
        let bare = id_text.trim_start_matches("key_");
        let text = format!("{PREFIX}{bare}_{}", hex::encode(random_bytes::<{ SECRET / 2 }>()));
        let check = check(&text);
        Self { id, text: text + &check }
    }

    /// What is kept of the text under `pepper`, in hex.
    pub fn hash(&self, pepper: &[u8]) -> String {
        hash(pepper, &self.text)
    }
}

/// What is kept of a key's text under `pepper`, in hex.
pub fn hash(pepper: &[u8], text: &str) -> String {
    hex::encode(hmac_sha256(pepper, text.as_bytes()))
}

/// The id in a managed key's text; `None` when it is not one, or its check sum is wrong.
pub fn id_of(text: &str) -> Option<KeyId> {
    let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
    let plain = secret.len() == SECRET + CHECK && secret.is_ascii();
    let (body, given) = text.split_at_checked(text.len().checked_sub(CHECK)?)?;
    if !plain || check(body) != given {
        return None;
    }
    format!("key_{id}").parse().ok()
}

/// The first 32 bits of SHA-256, in hex.
fn check(text: &str) -> String {
    let mut digest = sha256_hex(text.as_bytes());
    digest.truncate(CHECK);
    digest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::clock::{Millis, TestClock};

    #[test]
    fn a_text_names_its_key_and_no_two_are_alike() {
        let clock = TestClock::at(Millis(1_790_000_000_000));
        let (one, other) = (KeyText::fresh(&clock), KeyText::fresh(&clock));
        assert_eq!(one.text.len(), 6 + 26 + 1 + 64 + 8);
        assert_eq!(id_of(&one.text), Some(one.id));
        assert_ne!(one.text, other.text);
        let again = KeyText::fresh_for(one.id);
        assert_eq!((again.id, id_of(&again.text)), (one.id, Some(one.id)));
        assert_ne!(one.hash(b"pepper"), again.hash(b"pepper"));
        assert_ne!(one.hash(b"pepper"), one.hash(b"salt"));
    }

    #[test]
    fn what_is_not_quite_a_key_is_none() {
        let text = KeyText::fresh(&TestClock::at(Millis(1))).text;
        let mut slip = text.clone().into_bytes();
        slip[40] = if slip[40] == b'0' { b'1' } else { b'0' };
        let slip = String::from_utf8(slip).unwrap();
        for wrong in
            [&slip, &text[1..], &text[..text.len() - 1], "easel_x_y", "", "easel_test_0123456789abcdef", "ä"]
        {
            assert_eq!(id_of(wrong), None, "{wrong}");
        }
    }
}
