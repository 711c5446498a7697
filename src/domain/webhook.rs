//! Webhooks to callers by the Standard Webhooks specification: which events there are, what a request may name, and how a
//! letter is signed. Secrets are derived from one key of the gateway's, so that no row ever holds one.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::clock::Millis;
use super::secret::hmac_sha256;
use super::validate::{FieldCode, FieldError, MAX_URL};

/// The most endpoints a tenant may register.
pub const MAX_ENDPOINTS: usize = 20;
/// The largest body of a webhook, in bytes.
pub const MAX_BODY: usize = 20_000;

macro_rules! events {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// What callers can be told of a task.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
        pub enum EventName { $($(#[$doc])* #[serde(rename = $text)] $name,)* }

        impl EventName {
            /// All of them, in the order of a task's life.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its name in streams and letters.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

events! {
    /// It is taken in.
    Queued = "task.queued";
    /// A provider is being asked.
    Attempt = "task.attempt";
    /// It is further on.
    Progress = "task.progress";
    /// A preview is here.
    PartialImage = "task.partial_image";
    /// The provider is done; the pictures are being brought here.
    Saving = "task.saving";
    /// Pictures are here.
    Succeeded = "task.succeeded";
    /// It ended without a picture.
    Failed = "task.failed";
    /// It was called off.
    Canceled = "task.canceled";
    /// A picture came after the end.
    LateResult = "task.late_result";
}

impl EventName {
    /// What an endpoint hears of that does not say.
    pub const DEFAULT: &[Self] = &[Self::Succeeded, Self::Failed, Self::Canceled];

    /// The event of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|event| event.as_str() == name)
    }

    /// Whether it is a task's last word.
    pub const fn terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Canceled)
    }

    /// Whether an endpoint that chose `chosen` (nothing: the default) hears of this event.
    pub fn wanted(self, chosen: &[Self]) -> bool {
        let chosen = if chosen.is_empty() { Self::DEFAULT } else { chosen };
        chosen.contains(&self)
    }
}

/// Where the caller wants to hear of this one task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"url": "https://svc.example.com/hook", "events": ["task.succeeded", "task.failed"]}))]
pub struct WebhookTarget {
    /// An https address, without credentials and without a fragment.
    pub url: String,
    /// Which events; absent or empty: `task.succeeded`, `task.failed` and `task.canceled`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<EventName>,
}

impl WebhookTarget {
    /// What is wrong with it for anybody; whether the address may be reached is the network's matter.
    pub fn fault(&self, pointer: &str) -> Option<FieldError> {
        let pointer = format!("{pointer}/url");
        let invalid = |detail: &str| Some(FieldError::new(&pointer, FieldCode::InvalidValue, detail));
        if self.url.len() > MAX_URL {
            let detail = format!("at most {MAX_URL} bytes");
            return Some(FieldError::new(&pointer, FieldCode::TooLong, detail));
        }
        let http = self.url.starts_with("https://") || self.url.starts_with("http://");
        let Some(url) = url::Url::parse(&self.url).ok().filter(|_| http) else {
            return invalid("must be an http or https address");
        };
        if !url.username().is_empty() || url.password().is_some() {
            return invalid("must not carry credentials");
        }
        if url.fragment().is_some() { invalid("must not have a fragment") } else { None }
    }
}

/// A secret that letters are signed with; its text is `whsec_` and base64. Never shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    const PREFIX: &str = "whsec_";

    /// The secret of `owner` in its `generation`, from the gateway's own key.
    pub fn derive(key: &[u8], owner: &str, generation: i64) -> Self {
        Self(hmac_sha256(key, format!("webhook\n{owner}\n{generation}").as_bytes()).to_vec())
    }

    /// The secret as a receiver keeps it; `None` when the text is none.
    pub fn parse(text: &str) -> Option<Self> {
        STANDARD.decode(text.strip_prefix(Self::PREFIX)?).ok().map(Self)
    }

    /// The text a receiver is given.
    pub fn reveal(&self) -> String {
        format!("{}{}", Self::PREFIX, STANDARD.encode(&self.0))
    }

    /// The signature of one letter, with its version.
    pub fn sign(&self, id: &str, timestamp_s: i64, body: &str) -> String {
        let mac = hmac_sha256(&self.0, format!("{id}.{timestamp_s}.{body}").as_bytes());
        format!("v1,{}", STANDARD.encode(mac))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// How often a secret was exchanged, and until when the one before it counts too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rotation {
    /// How often.
    pub generation: i64,
    /// Until when letters are signed with the secret before, too.
    pub overlap_until: Option<Millis>,
}

impl Rotation {
    /// The secrets that count at `now`, the newest first.
    pub fn secrets(self, key: &[u8], owner: &str, now: Millis) -> Vec<Secret> {
        let mut secrets = vec![Secret::derive(key, owner, self.generation)];
        if self.generation > 0 && self.overlap_until.is_some_and(|until| now < until) {
            secrets.push(Secret::derive(key, owner, self.generation - 1));
        }
        secrets
    }
}

/// The signature header of a letter: one signature for each secret that counts, with a space between them.
pub fn signatures(secrets: &[Secret], id: &str, timestamp_s: i64, body: &str) -> String {
    let signed: Vec<_> = secrets.iter().map(|secret| secret.sign(id, timestamp_s, body)).collect();
    signed.join(" ")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::domain::secret::same;

    /// The vector that the specification's own libraries are tested with.
    #[test]
    fn the_published_vector_holds() {
        let secret = Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signed = secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, r#"{"test": 2432232314}"#);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn both_secrets_sign_until_the_overlap_ends() {
        let rotation = Rotation { generation: 1, overlap_until: Some(Millis(1_000)) };
        let (new, old) = (Secret::derive(b"key", "wh_1", 1), Secret::derive(b"key", "wh_1", 0));
        assert_eq!(rotation.secrets(b"key", "wh_1", Millis(999)), [new.clone(), old.clone()]);
        assert_eq!(rotation.secrets(b"key", "wh_1", Millis(1_000)), std::slice::from_ref(&new));
        assert_eq!(Rotation::default().secrets(b"key", "wh_1", Millis(0)), std::slice::from_ref(&old));
        let header = signatures(&[new.clone(), old.clone()], "evt_1", 5, "{}");
        assert_eq!(header, format!("{} {}", new.sign("evt_1", 5, "{}"), old.sign("evt_1", 5, "{}")));
        assert_ne!(Secret::derive(b"key", "wh_2", 0), old);
        assert_eq!(format!("{old:?}"), "[redacted]");
    }

    #[test]
    fn an_endpoint_that_does_not_choose_hears_of_the_end() {
        for event in EventName::ALL {
            assert_eq!(event.wanted(&[]), event.terminal());
            assert_eq!(event.wanted(&[EventName::Queued]), *event == EventName::Queued);
            assert_eq!(EventName::parse(event.as_str()), Some(*event));
            assert_eq!(serde_json::to_value(event).unwrap(), event.as_str());
        }
    }

    #[test]
    fn addresses_are_judged_as_addresses() {
        let fault = |url: &str| WebhookTarget { url: url.to_owned(), events: vec![] }.fault("/webhook");
        assert_eq!(fault("https://example.com/hook?a=1"), None);
        for wrong in ["", "ftp://x", "https://", "https://u:p@x/", "https://u@x/", "https://x/#a", "//x"] {
            assert_eq!(fault(wrong).unwrap().pointer, "/webhook/url", "{wrong}");
        }
        let long = format!("https://example.com/{}", "a".repeat(5_000));
        assert_eq!(fault(&long).unwrap().code, FieldCode::TooLong);
    }

    proptest! {
        /// A receiver that does as the specification says accepts every letter, and none that was changed.
        #[test]
        fn letters_verify_and_changed_ones_do_not(body in ".{0,200}", at in 0i64..4_000_000_000, flip in 0usize..200) {
            let secret = Secret::derive(b"key", "wh_1", 0);
            let kept = Secret::parse(&secret.reveal()).unwrap();
            let signed = secret.sign("evt_1", at, &body);
            prop_assert!(same(kept.sign("evt_1", at, &body).as_bytes(), signed.as_bytes()));
            let mut changed = body.clone();
            changed.insert(changed.char_indices().map(|(at, _)| at).nth(flip).unwrap_or(changed.len()), 'x');
            prop_assert_ne!(kept.sign("evt_1", at, &changed), signed.clone());
            prop_assert_ne!(kept.sign("evt_1", at + 1, &body), signed);
        }

        /// At every moment at least one secret counts, and never one of two generations ago.
        #[test]
        fn a_rotation_never_leaves_letters_unsigned(generation in 0i64..5, until in proptest::option::of(0i64..100), now in 0i64..100) {
            let rotation = Rotation { generation, overlap_until: until.map(Millis) };
            let secrets = rotation.secrets(b"key", "o", Millis(now) + Duration::ZERO);
            prop_assert_eq!(&secrets[0], &Secret::derive(b"key", "o", generation));
            prop_assert!(secrets.len() <= 2);
            prop_assert!(!secrets.contains(&Secret::derive(b"key", "o", generation - 2)));
        }
    }
}
