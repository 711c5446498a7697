//! What follows an attempt that ended without a picture: the same route again, another route, or the end of the task. The
//! only layer that retries; it does so only when the attempt is proven unbilled.

use std::time::Duration;

use super::Inner;
use super::lane::{PATIENCE, outcome};
use super::pace::backoff;
use super::save::Step;
use crate::domain::attempt::{Attempt, AttemptState, Billing, Verdict};
use crate::domain::clock::Millis;
use crate::domain::task::{Event, Failure, Task};
use crate::providers::{Follow, ProviderError};

/// How often a task is sent by one route…
const SENDS_EACH: u32 = 3;
/// …and by all of them. Being turned away for lack of room counts towards this one alone.
pub(super) const SENDS_IN_ALL: u32 = 5;

impl Inner {
    /// The attempt is over without a picture: another may follow if this one cost nothing.
    pub(super) async fn over(
        &self,
        mut task: Box<Task>,
        mut attempt: Attempt,
        state: AttemptState,
        error: ProviderError,
    ) {
        let now = self.clock.now();
        self.observed.failed(&attempt.provider, error.kind);
        attempt.failure = Some(failure(&error));
        attempt.handle = attempt.handle.or_else(|| error.job_id.clone());
        Self::note_absurd(&attempt, &error.verdict);
        attempt.close(state, error.verdict.clone(), now);
        // A provider that named a job by its callback has not refused it, whatever its answer says.
        let refused = matches!(state, AttemptState::Rejected | AttemptState::NotSent);
        if refused && self.rung(&attempt).await {
            let verdict = Verdict::new(Billing::Unknown, "refused, but a callback names a job");
            return self.unclear(task, attempt, &ProviderError { verdict, ..error }).await;
        }
        let sends = task.state.in_hand().map_or(1, |candidate| candidate.sends);
        let (says, pause) = outcome(&error, sends);
        self.note(&attempt.provider, &attempt.provider_model, says).await;
        let next = match attempt.billed {
            Billing::No => self.follow(&mut task, &error, pause),
            Billing::Yes | Billing::Unknown => None,
        };
        tracing::info!(
            task.id = %task.id, provider.id = attempt.provider, attempt.n = attempt.number, error.kind = ?error.kind,
            http.status = error.words.http_status, billed = attempt.billed.as_str(), again = next.is_some(),
            "an attempt ended without a picture"
        );
        // A provider's words can hold the prompt.
        tracing::debug!(task.id = %task.id, detail = error.detail, "its words");
        let event = match next {
            Some(_) => Event::Retry,
            None => Event::Fail(failure(&error)),
        };
        self.save(task, Step::new(event, next.unwrap_or(now)).closing(attempt).certain()).await;
    }

    /// Whether a callback has named a job for an attempt. The store is asked until it answers: another call depends on it.
    async fn rung(&self, attempt: &Attempt) -> bool {
        let mut tries = 0;
        loop {
            match self.store.hint(attempt.id).await {
                Ok(hint) => return hint.is_some(),
                Err(error) => {
                    tries += 1;
                    tracing::error!(attempt.id = %attempt.id, %error, tries, "cannot read what a callback said; trying again");
                    tokio::time::sleep(backoff(Duration::from_millis(200), tries, Duration::from_secs(5)))
                        .await;
                }
            }
        }
    }

    /// When the task may be sent again, and by which route; `None` when it may not.
    fn follow(&self, task: &mut Task, error: &ProviderError, pause: Duration) -> Option<Millis> {
        let now = self.clock.now();
        let sends_in_all: u32 = task.state.candidates.iter().map(|one| one.sends).sum();
        let others = task.state.candidates.iter().filter(|one| !one.out).count() > 1;
        let start_by = task.start_by;
        let current = task.state.in_hand_mut()?;
        let mut again = now + pause;
        current.out = match error.kind.follow() {
            Follow::Stop => return None,
            Follow::Next => true,
            Follow::NextOrRest => others || current.sends >= SENDS_EACH,
            Follow::Rest => {
                if others && pause > PATIENCE {
                    // Looked at again at once, to find that this route is closed for long and another is not.
                    again = now;
                }
                current.sends >= SENDS_IN_ALL || (others && now + pause >= start_by)
            }
            Follow::Again(most) => {
                let budget = self.observed.may_retry(&current.route.provider, now);
                again = again.max(budget);
                current.sends >= most.min(SENDS_EACH) || (others && budget > now)
            }
        };
        let (lane, out) = (current.route.provider.clone(), current.out);
        if sends_in_all >= SENDS_IN_ALL {
            return None;
        }
        let next = task.state.candidates.iter_mut().find(|one| !one.out)?;
        let again = if out { now } else { again };
        let why = if out { "next in order" } else { "tried again" };
        next.route.reason = format!("{why} after {} at {lane}", error.kind.code().as_str());
        let lane = next.route.provider.clone();
        task.enter_line(lane);
        (again < start_by).then_some(again)
    }
}

/// A provider's refusal or failure as callers see it.
pub(super) fn failure(error: &ProviderError) -> Failure {
    Failure {
        code: error.kind.code(),
        detail: error.detail.clone(),
        billed: error.verdict.billed,
        provider: Some(error.words.clone()).filter(|words| !words.name.is_empty()),
    }
}
