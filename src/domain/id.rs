//! Typed public ids: `task_01j9…`, `att_…`, `file_…`. A prefix names the kind, the rest is a ULID in lower case, so
//! ids sort by the moment they were minted and never equal a provider's id.

use std::fmt;
use std::str::FromStr;

use ulid::Ulid;

use super::clock::{Clock, Millis};
use super::secret::random_bytes;
use super::text::as_text;

/// The text is not an id of this kind.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a {0} id")]
pub struct BadId(&'static str);

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal, $example:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Ulid);

        impl $name {
            /// A new id, carrying the clock's present moment.
            pub fn mint(clock: &dyn Clock) -> Self {
                Self(mint(clock.now()))
            }

            /// The least id that could be minted at `moment`: a bound for ranges over ids.
            pub fn floor(moment: Millis) -> Self {
                Self(Ulid::from_parts(millis(moment), 0))
            }

            /// The moment the id was minted.
            pub fn minted_at(self) -> Millis {
                Millis(i64::try_from(self.0.timestamp_ms()).unwrap_or(i64::MAX))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut text = [0; ulid::ULID_LEN];
                let text = self.0.array_to_str(&mut text);
                text.make_ascii_lowercase();
                write!(f, concat!($prefix, "_{}"), text)
            }
        }

        impl FromStr for $name {
            type Err = BadId;
            fn from_str(text: &str) -> Result<Self, BadId> {
                parse(text, concat!($prefix, "_")).map(Self).ok_or(BadId($prefix))
            }
        }

        as_text! { $name { example: $example } }
    )*};
}

ids! {
    /// One caller's request, from the 202 to its end.
    TaskId = "task", "task_01k9zq5s4m8v2c6x0b3n7d1f5g";
    /// One try at one provider.
    AttemptId = "att", "att_01k9zq5s4m8v2c6x0b3n7d1f5g";
    /// An input image or mask in custody.
    FileId = "file", "file_01k9zq5s4m8v2c6x0b3n7d1f5g";
    /// A line of the ledger.
    EntryId = "led", "led_01k9zq5s4m8v2c6x0b3n7d1f5g";
    /// A managed API key.
    KeyId = "key", "key_01k9zq5s4m8v2c6x0b3n7d1f5g";
    /// An event, also the `webhook-id` under which it is delivered.
    EventId = "evt", "evt_01k9zq5s4m8v2c6x0b3n7d1f5g";
    /// A registered webhook endpoint.
    WebhookId = "wh", "wh_01k9zq5s4m8v2c6x0b3n7d1f5g";
    /// Something kept in quarantine.
    QuarantineId = "qua", "qua_01k9zq5s4m8v2c6x0b3n7d1f5g";
    /// An entry of the audit.
    AuditId = "aud", "aud_01k9zq5s4m8v2c6x0b3n7d1f5g";
}

fn millis(moment: Millis) -> u64 {
    u64::try_from(moment.0).unwrap_or(0)
}

fn mint(now: Millis) -> Ulid {
    Ulid::from_parts(millis(now), u128::from_be_bytes(random_bytes()))
}

/// Lower case only and in canonical form: one id has one spelling.
fn parse(text: &str, prefix: &str) -> Option<Ulid> {
    let body = text.strip_prefix(prefix)?;
    let canonical = body.len() == ulid::ULID_LEN && !body.bytes().any(|b| b.is_ascii_uppercase());
    let id = Ulid::from_string(body).ok().filter(|_| canonical)?;
    id.to_string().eq_ignore_ascii_case(body).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::clock::TestClock;

    #[test]
    fn an_id_has_one_spelling() {
        let id = TaskId::mint(&TestClock::at(Millis(1_790_000_000_000)));
        let text = id.to_string();
        assert!(text.starts_with("task_01") && text.len() == 31, "{text}");
        assert_eq!(text.parse::<TaskId>(), Ok(id));
        assert_eq!(id.minted_at(), Millis(1_790_000_000_000));
        for wrong in [text.to_uppercase(), text.replace("task_", "att_"), format!("{text}0"), "task_".into()]
        {
            assert_eq!(wrong.parse::<TaskId>(), Err(BadId("task")), "{wrong}");
        }
    }

    #[test]
    fn ids_sort_by_time() {
        let clock = TestClock::at(Millis(5_000));
        let first = TaskId::mint(&clock);
        clock.advance(std::time::Duration::from_millis(1));
        let second = TaskId::mint(&clock);
        assert!(first.to_string() < second.to_string());
        assert!(TaskId::floor(Millis(5_001)) <= second && first < TaskId::floor(Millis(5_001)));
    }
}
