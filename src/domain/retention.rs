//! How long things are kept: what a caller may ask for, what the operator grants, and what is left of a task that was
//! erased. Deleting is the engine's work.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::attempt::Attempt;
use super::clock::Millis;
use super::request::GenerateRequest;
use super::task::{Failure, Task};
use super::validate::{FieldCode, FieldError};

/// The shortest time pictures can be asked to be kept, in seconds.
pub const LEAST_MEDIA_S: u32 = 60;

/// How long a request's results are to be kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(example = json!({"media_s": 86400}))]
pub struct Retention {
    /// Seconds for which the pictures are kept once they are here; at least 60, and no more than the operator allows. Default:
    /// as the operator has configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 60)]
    pub media_s: Option<u32>,
}

/// What the operator grants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keeping {
    /// How long pictures are kept when a request does not say; `None`: for ever.
    pub media: Option<Duration>,
    /// The longest a request may ask for; `None`: as long as it likes.
    pub media_most: Option<Duration>,
    /// How long input images are kept after they came or were last named by a task; `None`: for ever.
    pub files: Option<Duration>,
    /// How long what could not be turned into an image is kept.
    pub quarantine: Duration,
    /// How long the rows of an ended task are kept, its idempotency key among them; `None`: for ever.
    pub record: Option<Duration>,
}

impl Keeping {
    /// For how many seconds a request's pictures are kept; `None`: for ever.
    pub fn media_s(&self, asked: Retention) -> Option<u32> {
        let usual = || self.media.map(|media| u32::try_from(media.as_secs()).unwrap_or(u32::MAX));
        asked.media_s.or_else(usual)
    }

    /// What is wrong with a request's wish.
    pub fn fault(&self, asked: Retention) -> Option<FieldError> {
        let seconds = asked.media_s?;
        let most = self.media_most.map_or(u64::from(u32::MAX), |most| most.as_secs());
        let fits = (u64::from(LEAST_MEDIA_S)..=most).contains(&seconds.into());
        let detail = format!("must be from {LEAST_MEDIA_S} to {most}");
        (!fits).then(|| FieldError::new("/retention/media_s", FieldCode::OutOfRange, detail))
    }
}

impl Task {
    /// Pictures came at this moment: from now on they have their time.
    pub(super) fn keep_from(&mut self, now: Millis) {
        self.state.expires_at = self.state.keep_s.map(|keep| now + Duration::from_secs(keep.into()));
    }

    /// When its pictures go: the very moment once they are here; before that, the latest it can be.
    pub fn expires_at(&self) -> Option<Millis> {
        if self.phase.terminal() {
            return self.state.expires_at;
        }
        self.state.keep_s.map(|keep| self.deadline_at + Duration::from_secs(keep.into()))
    }

    /// Leaves of a task that has ended what the books need: whose it was, what it ran on, what it cost, how it ended. What
    /// was asked for and what came of it is gone. Its idempotency key and the body's digest stay, so that a retry finds it.
    pub fn erase(&mut self, now: Millis) {
        self.request = GenerateRequest { n: self.request.n, ..GenerateRequest::default() };
        let state = &mut self.state;
        state.effective = json!({});
        state.adjustments.clear();
        state.outputs.clear();
        state.fetched.clear();
        state.trace = None;
        state.expires_at = None;
        state.erased_at = Some(now);
        state.failure.iter_mut().for_each(forget_words);
    }
}

impl Attempt {
    /// Leaves of an attempt what the books need.
    pub fn erase(&mut self) {
        self.made.clear();
        self.sent.clear();
        self.failure.iter_mut().for_each(forget_words);
    }
}

/// A refusal may quote what it refuses.
fn forget_words(failure: &mut Failure) {
    "erased".clone_into(&mut failure.detail);
    failure.provider = None;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keeping(media: u64, most: Option<u64>) -> Keeping {
        Keeping {
            media: Some(Duration::from_secs(media)),
            media_most: most.map(Duration::from_secs),
            files: None,
            quarantine: Duration::from_secs(1),
            record: None,
        }
    }

    #[test]
    fn a_wish_wins_within_the_operators_bound() {
        let asked = |media_s| Retention { media_s };
        let keeping = keeping(3600, Some(7200));
        assert_eq!((keeping.media_s(asked(None)), keeping.media_s(asked(Some(90)))), (Some(3600), Some(90)));
        for (seconds, fits) in [(59, false), (60, true), (7200, true), (7201, false)] {
            assert_eq!(keeping.fault(asked(Some(seconds))).is_none(), fits, "{seconds}");
        }
        assert!(self::keeping(3600, None).fault(asked(Some(u32::MAX))).is_none());
        assert!(keeping.fault(asked(None)).is_none());
    }
}
