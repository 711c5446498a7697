//! What callers ask for: one order for each provider, small and quick, each known by a token of its own in the prompt,
//! some with faults that the simulator is asked for, some with right answers that it wraps untidily.

use serde_json::{Value, json};
use ulid::Ulid;

use crate::untidy::{self, Wrapping};

/// One request of a caller's.
#[derive(Debug, Clone)]
pub struct Order {
    /// The token in its prompt.
    pub token: String,
    /// The idempotency key.
    pub key: String,
    /// The body.
    pub body: Value,
    /// Whether its answers are wrapped untidily.
    pub untidy: bool,
}

/// What goes wrong upstream, now and then, in words the simulator knows. All of them are in the retry table.
const FAULTS: [&str; 11] = [
    "fail",
    "refuse",
    "http=503",
    "http=429 retry_after=1 times=1",
    "http=502",
    "http=504 accepted=true",
    "reset",
    "reset_accepted",
    "truncate=tail",
    "bad_json",
    "no_image",
];

impl Order {
    /// An order for this provider, done after about `seconds`; `fault` is put into the simulator's directive.
    pub fn new(provider: &str, seconds: f64, fault: &str) -> Self {
        let token = format!("t-{}", fresh_id());
        let prompt = format!("{token} [[sim: picture=64x64 time={seconds} {fault}]] a little cat");
        let mut body = json!({"prompt": prompt, "routing": {"only": [provider]}});
        match provider {
            "gpt_4o_image" => body["model"] = json!("gpt-4o-image"),
            "gpt_image" => {
                body["model"] = json!("gpt-image-1");
                body["size"] = json!("1024x1024");
                body["quality"] = json!("low");
            }
            _ => {
                body["model"] = json!("flux-schnell");
                body["size"] = json!("64x64");
            }
        }
        Self { key: format!("key-{token}"), token, body, untidy: false }
    }

    /// The same with right answers that are wrapped so.
    pub fn wrapped(provider: &str, seconds: f64, wrapping: &Wrapping) -> Self {
        let mut order = Self::new(provider, seconds, &wrapping.words);
        order.untidy = true;
        if wrapping.streams {
            order.body["provider_options"] = json!({provider: {"stream": true}});
        }
        order
    }

    /// The same as two upstream calls.
    fn in_parts(mut self) -> Self {
        self.body["model"] = json!("flux-dev");
        self.body["n"] = json!(2);
        self
    }

    /// One of the many: any provider, one in seven with a fault, `untidy` in a hundred with right answers that are wrapped
    /// untidily.
    pub fn any(untidy: u8) -> Self {
        let seconds = fastrand::f64().mul_add(0.6, 0.05);
        let provider = crate::fleet::PROVIDERS[fastrand::usize(..crate::fleet::PROVIDERS.len())];
        let fault = || FAULTS[fastrand::usize(..FAULTS.len())];
        // Of those with right answers, so many more.
        let wrapped = fastrand::u32(..100) < u32::from(untidy) * 7 / 6;
        let right = |provider: &str| {
            if wrapped {
                Self::wrapped(provider, seconds, &untidy::any(provider))
            } else {
                Self::new(provider, seconds, "")
            }
        };
        match fastrand::u8(..14) {
            0 => right("piapi_flux").in_parts(),
            1 | 2 => Self::new(provider, seconds, fault()),
            _ => right(provider),
        }
    }

    /// The same with a webhook of the caller's.
    pub fn announced_at(mut self, url: &str) -> Self {
        self.body["webhook"] = json!({"url": url});
        self
    }
}

/// An id nobody else has.
fn fresh_id() -> String {
    Ulid::from_parts(0, u128::from(fastrand::u64(..)) << 64 | u128::from(fastrand::u64(..)))
        .to_string()
        .to_lowercase()
}
