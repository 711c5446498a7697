//! Addresses of our own that callers and providers are given: absolute where it is known how we are reached, signed and
//! expiring where they open without a key. No address is ever built from a request's `Host`.

use std::time::Duration;

use super::clock::Millis;
use super::id::{AttemptId, FileId, TaskId};
use super::secret::{hmac_sha256, same, sha256_hex};

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

    /// Whether others can be given an absolute address of ours.
    pub fn absolute(&self) -> bool {
        !self.base.is_empty()
    }

    /// Whether an address leads to this gateway itself.
    pub fn leads_here(&self, address: &str) -> bool {
        let place = |text: &str| {
            let url = url::Url::parse(text).ok()?;
            Some((url.host_str()?.trim_end_matches('.').to_owned(), url.port_or_known_default()?))
        };
        place(&self.base).is_some_and(|ours| place(address) == Some(ours))
    }

    /// What our own letters carry, so that one that comes home by another name is known.
    pub fn mark(&self) -> String {
        let mark = self.sign("via", Millis(0));
        format!("easel-{}", mark.get(..16).unwrap_or(&mark))
    }

    /// The signed address of a path, and when it expires.
    pub fn signed(&self, path: &str, now: Millis) -> (String, Millis) {
        let expires = now + self.lifetime;
        (format!("{}{path}?expires={}&sig={}", self.base, expires.0, self.sign(path, expires)), expires)
    }

    /// Whether a signed address holds.
    pub fn holds(&self, path: &str, expires: Millis, sig: &str, now: Millis) -> bool {
        same(self.sign(path, expires).as_bytes(), sig.as_bytes()) && now < expires
    }

    /// The address an attempt's provider rings at: its token cannot be guessed and is found again from the attempt's id.
    pub fn hook(&self, provider: &str, attempt: AttemptId) -> Hook {
        let token = hex::encode(hmac_sha256(&self.key, format!("hook\n{attempt}").as_bytes()));
        let url = format!("{}/hooks/{provider}/{token}", self.base);
        Hook { url, secret: self.hook_secret(&token), token_hash: sha256_hex(token.as_bytes()) }
    }

    /// The secret a provider repeats when it rings with this token.
    pub fn hook_secret(&self, token: &str) -> String {
        hex::encode(hmac_sha256(&self.key, format!("hook secret\n{token}").as_bytes()))
    }

    fn sign(&self, path: &str, expires: Millis) -> String {
        hex::encode(hmac_sha256(&self.key, format!("{path}\n{}", expires.0).as_bytes()))
    }
}

/// Where an attempt's provider rings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// The address.
    pub url: String,
    /// Repeated in a header by providers that can.
    pub secret: String,
    /// SHA-256 of the address's token, in hex: what is stored.
    pub token_hash: String,
}

/// Where a picture of a task is served.
pub fn image_path(task: TaskId, index: u32) -> String {
    format!("/tasks/{task}/images/{index}")
}

/// Where an input image is served.
pub fn file_path(file: FileId) -> String {
    format!("/files/{file}/content")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::clock::TestClock;

    #[test]
    fn it_knows_itself() {
        let links = Links::new("https://gw.example.com/", vec![], Duration::ZERO);
        assert!(
            links.leads_here("https://gw.example.com:443/hooks/a")
                && links.leads_here("https://GW.example.com./")
        );
        assert!(
            !links.leads_here("https://gw.example.com:8443/") && !links.leads_here("https://example.com/")
        );
        assert!(!Links::new("", vec![], Duration::ZERO).leads_here("https://gw.example.com/"));
    }

    #[test]
    fn a_signature_binds_path_and_time() {
        let links = Links::new("https://gw/", b"key".to_vec(), Duration::from_mins(1));
        let path = image_path(TaskId::mint(&TestClock::at(Millis(1))), 0);
        let (url, expires) = links.signed(&path, Millis(1_000));
        assert!(url.starts_with(&format!("https://gw{path}?expires=61000&sig=")));
        let sig = url.rsplit_once('=').unwrap().1;
        assert!(links.holds(&path, expires, sig, Millis(60_999)));
        assert!(!links.holds(&path, expires, sig, expires));
        assert!(!links.holds(&path.replace("images/0", "images/1"), expires, sig, Millis(1_000)));
        assert!(!links.holds(&path, Millis(99_000), sig, Millis(1_000)));
    }
}
