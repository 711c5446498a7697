//! Addresses of our own that callers and providers are given: absolute where it is known how we are reached, signed and
//! expiring where they open without a key. No address is ever built from a request's `Host`.

use std::time::Duration;

use super::clock::Millis;
use super::id::TaskId;
use super::secret::{hmac_sha256, same};

/// Makes and checks addresses of our own.
#[derive(Clone)]
pub struct Links {
    base: String,
    key: Vec<u8>,
    lifetime: Duration,
}

impl Links {
    /// `base` is how callers reach us (empty: addresses stay relative); `key` signs; signed addresses live for `lifetime`.
    pub fn new(base: &str, key: Vec<u8>, lifetime: Duration) -> Self {
        Self { base: base.trim_end_matches('/').to_owned(), key, lifetime }
    }

    /// An address that needs a key.
    pub fn to(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// The signed address of a picture, and when it expires.
    pub fn image(&self, task: TaskId, index: u32, now: Millis) -> (String, Millis) {
        let expires = now + self.lifetime;
        let sig = self.sign(task, index, expires);
        (format!("{}/tasks/{task}/images/{index}?expires={}&sig={sig}", self.base, expires.0), expires)
    }

    /// Whether a signed address holds.
    pub fn holds(&self, task: TaskId, index: u32, expires: Millis, sig: &str, now: Millis) -> bool {
        same(self.sign(task, index, expires).as_bytes(), sig.as_bytes()) && now < expires
    }

    fn sign(&self, task: TaskId, index: u32, expires: Millis) -> String {
        hex::encode(hmac_sha256(&self.key, format!("image\n{task}\n{index}\n{}", expires.0).as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::clock::TestClock;

    #[test]
    fn a_signature_binds_task_picture_and_time() {
        let links = Links::new("https://gw/", b"key".to_vec(), Duration::from_mins(1));
        let (task, other) =
            (TaskId::mint(&TestClock::at(Millis(1))), TaskId::mint(&TestClock::at(Millis(1))));
        let (url, expires) = links.image(task, 0, Millis(1_000));
        assert!(url.starts_with(&format!("https://gw/tasks/{task}/images/0?expires=61000&sig=")));
        let sig = url.rsplit_once('=').unwrap().1;
        assert!(links.holds(task, 0, expires, sig, Millis(60_999)));
        assert!(!links.holds(task, 0, expires, sig, expires));
        assert!(!links.holds(task, 1, expires, sig, Millis(1_000)));
        assert!(!links.holds(other, 0, expires, sig, Millis(1_000)));
        assert!(!links.holds(task, 0, Millis(99_000), sig, Millis(1_000)));
    }
}
