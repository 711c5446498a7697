//! One webhook owed to a caller: its letter, word for word, when it is tried, and what an answer means.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::clock::Millis;
use super::id::{EventId, TaskId, WebhookId};
use super::webhook::MAX_BODY;

/// The event of a letter that only tries an endpoint out.
pub const TEST_EVENT: &str = "webhook.test";
/// How many tries a delivery remembers.
const REMEMBERED: usize = 20;
/// The longest name that can be looked up (253 bytes, RFC 1035), a colon and a port.
const MAX_HOST: usize = 260;
/// The longest a receiver may ask us to stay away.
const LONGEST: Duration = Duration::from_hours(24);

/// What became of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// Owed.
    Pending,
    /// The receiver took it.
    Delivered,
    /// All tries were in vain, or the receiver said that it is gone.
    Dead,
    /// Not tried any more, because its endpoint is switched off or was removed.
    Disabled,
}

impl DeliveryState {
    /// Its name in rows.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
            Self::Disabled => "disabled",
        }
    }

    /// The state a row names.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Pending, Self::Delivered, Self::Dead, Self::Disabled]
            .into_iter()
            .find(|state| state.as_str() == name)
    }
}

/// One webhook owed.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    /// Its id, and the `webhook-id` of every try.
    pub id: EventId,
    /// Whose it is.
    pub tenant: String,
    /// The task it tells of; none for a test.
    pub task: Option<TaskId>,
    /// The registered endpoint it is for; none when the task's own request named the address.
    pub webhook: Option<WebhookId>,
    /// Where it goes.
    pub url: String,
    /// What it tells.
    pub event: String,
    /// The event's number in the task.
    pub seq: i64,
    /// The letter, word for word: every try sends these bytes.
    pub body: String,
    /// What became of it.
    pub state: DeliveryState,
    /// How often it was tried since it was last asked for.
    pub tries: u32,
    /// When it is due; the end of a lease while it is being tried.
    pub wake_at: Option<Millis>,
    /// When it was written.
    pub created_at: Millis,
    /// When it was closed.
    pub finished_at: Option<Millis>,
    /// Its last tries.
    pub log: Vec<Try>,
}

/// One try.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Try {
    /// When.
    pub at: Millis,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// The receiver's HTTP status.
    pub status: Option<u16>,
    /// Why there was none.
    pub error: Option<String>,
}

/// The pauses between tries: the first try is immediate, and after the last pause comes the last try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule(pub Vec<Duration>);

impl Schedule {
    /// The pause after `tries` tries in vain, within 10 % of what is written: `dice` from 0 to 1 says where. `None` when
    /// all tries are used up.
    pub fn pause(&self, tries: u32, dice: f64) -> Option<Duration> {
        let pause = self.0.get(usize::try_from(tries).ok()?.checked_sub(1)?)?;
        Some(pause.mul_f64(0.9 + 0.2 * dice.clamp(0.0, 1.0)))
    }
}

/// What follows from a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sequel {
    /// It is delivered.
    Delivered,
    /// It is tried again at this moment.
    Again(Millis),
    /// That was the last try.
    Dead,
    /// The receiver is gone and wants no letter any more.
    Gone,
}

impl Delivery {
    /// The line it stands in: of one line, a letter goes only when no earlier one is owed.
    pub fn line(&self) -> String {
        match (self.task, self.webhook) {
            (Some(task), Some(webhook)) => format!("{task}/{webhook}"),
            (Some(task), None) => format!("{task}/request"),
            (None, _) => self.id.to_string(),
        }
    }

    /// Host and port it goes to; of a name too long to be looked up, the beginning.
    pub fn host(&self) -> String {
        let url = url::Url::parse(&self.url).ok();
        let host = url.as_ref().and_then(|url| Some((url.host_str()?, url.port_or_known_default()?)));
        let mut host = host.map(|(host, port)| format!("{host}:{port}")).unwrap_or_default();
        host.truncate(MAX_HOST);
        host
    }

    /// Whose secret it is signed with: the endpoint's, or the tenant's where a request named the address.
    pub fn signer(&self) -> String {
        self.webhook.map_or_else(|| tenant_signer(&self.tenant), |id| id.to_string())
    }

    /// Enters one try at `tried.at` and says what follows. `retry_after` is what the receiver asked for.
    pub fn tried(
        &mut self,
        tried: Try,
        retry_after: Option<Duration>,
        schedule: &Schedule,
        dice: f64,
        now: Millis,
    ) -> Sequel {
        self.tries += 1;
        let status = tried.status;
        self.log.push(tried);
        let forgotten = self.log.len().saturating_sub(REMEMBERED);
        self.log.drain(..forgotten);
        let pause = schedule.pause(self.tries, dice).filter(|_| self.event != TEST_EVENT);
        let sequel = match (status, pause) {
            (Some(200..=299), _) => Sequel::Delivered,
            (Some(410), _) => Sequel::Gone,
            (_, None) => Sequel::Dead,
            (status, Some(pause)) => {
                let asked = retry_after.filter(|_| matches!(status, Some(429 | 502 | 503 | 504)));
                Sequel::Again(now + pause.max(asked.unwrap_or_default().min(LONGEST)))
            }
        };
        (self.state, self.wake_at) = match sequel {
            Sequel::Delivered => (DeliveryState::Delivered, None),
            Sequel::Dead | Sequel::Gone => (DeliveryState::Dead, None),
            Sequel::Again(at) => (DeliveryState::Pending, Some(at)),
        };
        self.finished_at = (self.state != DeliveryState::Pending).then_some(now);
        sequel
    }
}

/// The name under which a tenant's own secret is kept: for addresses that requests name.
pub fn tenant_signer(tenant: &str) -> String {
    format!("tenant/{tenant}")
}

/// The letter about one event: the task as callers see it beside what the event itself has to say. What would make it larger
/// than 20 KB is left out and named in `truncated`; the task's own address gives the whole.
pub fn letter(event: &str, at: Millis, task: Option<Value>, said: &Value) -> String {
    const SPARE: [&str; 8] =
        ["prompt", "effective", "adjustments", "metadata", "error", "route", "cost", "images"];
    let mut data: Map<String, Value> = said.as_object().cloned().unwrap_or_default();
    let mut left_out = Vec::new();
    data.extend(task.map(|task| ("task".to_owned(), task)));
    let written =
        |data: &Map<String, Value>| json!({"type": event, "timestamp": at, "data": data}).to_string();
    let mut text = written(&data);
    for name in SPARE {
        if text.len() <= MAX_BODY {
            break;
        }
        if let Some(Value::Object(task)) = data.get_mut("task")
            && task.remove(name).is_some()
        {
            left_out.push(name);
            data.insert("truncated".to_owned(), json!(left_out));
            text = written(&data);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::clock::TestClock;

    fn schedule() -> Schedule {
        let hours = |hours| Duration::from_hours(hours);
        let (minutes, seconds) = (Duration::from_mins(5), Duration::from_secs(5));
        Schedule(vec![
            seconds,
            minutes,
            minutes * 6,
            hours(2),
            hours(5),
            hours(10),
            hours(14),
            hours(20),
            hours(24),
        ])
    }

    fn owed(event: &str) -> Delivery {
        let clock = TestClock::at(Millis(1_000));
        Delivery {
            id: EventId::mint(&clock),
            tenant: "t".into(),
            task: Some(TaskId::mint(&clock)),
            webhook: None,
            url: "https://Example.com/hook".into(),
            event: event.into(),
            seq: 5,
            body: "{}".into(),
            state: DeliveryState::Pending,
            tries: 0,
            wake_at: Some(Millis(1_000)),
            created_at: Millis(1_000),
            finished_at: None,
            log: vec![],
        }
    }

    fn tried(status: Option<u16>) -> Try {
        Try { at: Millis(1_000), duration_ms: 3, status, error: None }
    }

    #[test]
    fn an_answer_means_what_the_specification_says() {
        let first = |status, retry_after: Option<u64>| {
            let after = retry_after.map(Duration::from_secs);
            owed("task.failed").tried(tried(status), after, &schedule(), 0.5, Millis(1_000))
        };
        assert_eq!(first(Some(200), None), Sequel::Delivered);
        assert_eq!(first(Some(204), None), Sequel::Delivered);
        assert_eq!(first(Some(410), None), Sequel::Gone);
        for status in [None, Some(301), Some(307), Some(400), Some(404), Some(500), Some(199)] {
            assert_eq!(first(status, Some(60)), Sequel::Again(Millis(6_000)), "{status:?}");
        }
        for status in [429, 502, 503, 504] {
            assert_eq!(first(Some(status), Some(60)), Sequel::Again(Millis(61_000)), "{status}");
            assert_eq!(
                first(Some(status), Some(1)),
                Sequel::Again(Millis(6_000)),
                "never sooner than planned"
            );
            let day = Millis(1_000) + Duration::from_hours(24);
            assert_eq!(first(Some(status), Some(u64::MAX)), Sequel::Again(day));
        }
    }

    #[test]
    fn ten_tries_in_75_hours_and_35_minutes_then_none() {
        let mut delivery = owed("task.failed");
        let mut now = Millis(1_000);
        for _ in 0..9 {
            match delivery.tried(tried(Some(500)), None, &schedule(), 0.5, now) {
                Sequel::Again(at) => now = at,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(now.since(Millis(1_000)), Duration::from_secs(75 * 3600 + 35 * 60 + 5));
        assert_eq!(delivery.tried(tried(Some(500)), None, &schedule(), 0.5, now), Sequel::Dead);
        assert_eq!((delivery.state, delivery.wake_at), (DeliveryState::Dead, None));
        assert_eq!(delivery.finished_at, Some(now));
        assert_eq!(delivery.log.len(), 10);
    }

    #[test]
    fn a_test_is_tried_once() {
        let mut delivery = owed(TEST_EVENT);
        let sequel = delivery.tried(tried(Some(500)), None, &schedule(), 0.5, Millis(1));
        assert_eq!(sequel, Sequel::Dead);
    }

    #[test]
    fn a_line_is_a_task_at_an_endpoint() {
        let delivery = owed("task.failed");
        assert_eq!(delivery.line(), format!("{}/request", delivery.task.unwrap()));
        assert_eq!((delivery.host().as_str(), delivery.signer().as_str()), ("example.com:443", "tenant/t"));
        let test = Delivery { task: None, ..delivery };
        assert_eq!(test.line(), test.id.to_string());
    }

    #[test]
    fn a_large_letter_is_cut_to_what_can_be_asked_for_again() {
        let task = json!({"id": "task_1", "prompt": "\u{1}é".repeat(30_000), "metadata": {"a": "b"}});
        let text = letter("task.failed", Millis(0), Some(task), &Value::Null);
        let value: Value = serde_json::from_str(&text).unwrap();
        assert!(text.len() <= MAX_BODY);
        assert_eq!(value["data"]["truncated"], json!(["prompt"]));
        assert_eq!(value["data"]["task"]["metadata"]["a"], "b");
        let small = letter("task.attempt", Millis(0), Some(json!({"id": "t"})), &json!({"attempt": 1}));
        let value: Value = serde_json::from_str(&small).unwrap();
        let expected = json!({"type": "task.attempt", "timestamp": "1970-01-01T00:00:00.000Z",
            "data": {"attempt": 1, "task": {"id": "t"}}});
        assert_eq!(value, expected);
    }

    proptest! {
        /// Whatever receivers answer, a delivery ends, and its pauses never fall short of the schedule by more than a tenth.
        #[test]
        fn every_delivery_ends(answers in proptest::collection::vec((proptest::option::of(100u16..600), 0u64..100_000, 0.0f64..=1.0), 10..12)) {
            let (schedule, mut delivery, mut now) = (schedule(), owed("task.failed"), Millis(0));
            let mut ended = false;
            for (n, (status, after, dice)) in answers.into_iter().enumerate() {
                let sequel = delivery.tried(tried(status), Some(Duration::from_secs(after)), &schedule, dice, now);
                let Sequel::Again(at) = sequel else {
                    ended = true;
                    break;
                };
                let (gap, planned) = (at.since(now), schedule.0[n]);
                prop_assert!(gap >= planned.mul_f64(0.899) && gap <= Duration::from_hours(27));
                prop_assert_eq!(delivery.state, DeliveryState::Pending);
                now = at;
            }
            prop_assert!(ended && delivery.wake_at.is_none() && delivery.finished_at.is_some());
        }

        #[test]
        fn no_letter_is_too_large(prompt in 0usize..200_000, negative in 0usize..100_000, key in "[a-z\u{1}\"]{0,4000}") {
            let task = json!({"id": "task_1", "status": "failed", "prompt": "\u{1f600}".repeat(prompt / 4),
                "effective": {"negative_prompt": "\"".repeat(negative)}, "metadata": {key: "v"}});
            prop_assert!(letter("task.failed", Millis(0), Some(task), &Value::Null).len() <= MAX_BODY);
        }
    }
}
