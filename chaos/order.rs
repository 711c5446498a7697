//! What callers ask for: one order for each provider, small and quick, each known by a token of its own in the prompt,
//! some with faults that the simulator is asked for.

use serde_json::{Value, json};
use ulid::Ulid;

/// One request of a caller's.
#[derive(Debug, Clone)]
pub struct Order {
    /// The token in its prompt.
    pub token: String,
    /// The idempotency key.
    pub key: String,
    /// The body.
    pub body: Value,
}

/// What goes wrong upstream, now and then, in words the simulator knows. All of them are in the retry table.
const FAULTS: [&str; 10] = [
    "fail",
    "refuse",
    "http=503",
    "http=429 retry_after=1 times=1",
    "http=502",
    "http=504 accepted=true",
    "reset",
    "reset_accepted",
    "truncate=tail",
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
        Self { key: format!("key-{token}"), token, body }
    }

    /// An order that takes two upstream calls.
    pub fn in_parts(seconds: f64) -> Self {
        let mut order = Self::new("piapi_flux", seconds, "");
        order.body["model"] = json!("flux-dev");
        order.body["n"] = json!(2);
        order
    }

    /// One of the many: any provider, one in seven with a fault.
    pub fn any() -> Self {
        let seconds = fastrand::f64().mul_add(0.6, 0.05);
        let provider = crate::fleet::PROVIDERS[fastrand::usize(..crate::fleet::PROVIDERS.len())];
        match fastrand::u8(..14) {
            0 => Self::in_parts(seconds),
            1 | 2 => Self::new(provider, seconds, FAULTS[fastrand::usize(..FAULTS.len())]),
            _ => Self::new(provider, seconds, ""),
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
