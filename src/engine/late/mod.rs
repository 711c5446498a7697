//! Attempts that their task does not wait for: still at work when the deadline passed, found by a callback after they had
//! been given up, failed and perhaps about to change their mind, or with images that have not come yet. What they make is
//! brought here as a late result, or ends a task whose next attempt has not been sent; and the books are set right.

mod enter;

use std::time::Duration;

use super::Inner;
use super::bring::hopeless;
use super::pace::backoff;
use super::results::reason;
use super::retry::failure;
use crate::blobs::Saved;
use crate::domain::attempt::{Attempt, AttemptState, Billing, Verdict};
use crate::domain::clock::Millis;
use crate::domain::code::Code;
use crate::domain::image::ImageKind;
use crate::domain::quarantine::QuarantineKind;
use crate::domain::task::{Failure, Output, Phase, Source, Task};
use crate::providers::{Done, Kind, Progress, ProviderError};
use crate::spool::Evidence;
use crate::store::{StoreError, Straggler};

/// A job that outlived its task is asked about this often…
pub(super) const LOOK_AFTER: Duration = Duration::from_mins(1);
/// …one the provider denies knowing, this often…
pub(super) const LOOK_RARELY: Duration = Duration::from_hours(1);
/// …and for so long after it was sent.
const LOOK_FOR: Duration = Duration::from_hours(24);
/// While its task is at another attempt it is looked at this often.
const LOOK_MEANWHILE: Duration = Duration::from_secs(30);
/// When some of its pictures are here, the others are waited for no longer than this.
pub(super) const WAIT_FOR_OTHERS: Duration = Duration::from_mins(9);
/// When that is over, they are asked for once more, within this time.
pub(super) const LAST_CHANCE: Duration = Duration::from_mins(1);
/// A failure that cost nothing is believed when it is told again after this time.
pub(super) const BELIEVED_AFTER: Duration = Duration::from_secs(10);
/// Late pictures are numbered from here, by attempt, so that they never take the place of others.
const NUMBERED_FROM: u32 = 100;

/// What became of a look.
enum Found {
    /// Nothing yet; look again after this.
    Nothing(Duration),
    /// It is to be looked at again, and is to be written as it is.
    Lacking(Box<Attempt>),
    /// It has ended, with or without pictures; with when it is looked at once more, if it is.
    End(Box<Attempt>, Vec<(Saved, ImageKind)>),
}

impl Inner {
    /// Leaves what a provider said of an attempt with the attempt, when its task has gone on without it: the handle, the
    /// links or the bytes, to be looked after from now on. `false` when it named another attempt's job: then nothing it said is
    /// believed.
    pub(super) async fn leave_behind(&self, mut attempt: Attempt, made: Vec<Output>) -> bool {
        attempt.state = AttemptState::Lost;
        attempt.made = made;
        attempt.look_at = Some(self.clock.now());
        let mut tries = 0;
        loop {
            let left = match self.store.leave_behind(attempt.clone()).await {
                Err(StoreError::Bound) => self.job_taken(&attempt).await.map(|()| false),
                left => left.map(|()| true),
            };
            match left {
                Ok(believed) => return believed,
                Err(error) => {
                    tries += 1;
                    tracing::error!(attempt.id = %attempt.id, %error, tries, "cannot keep what a provider said; trying again");
                    tokio::time::sleep(backoff(Duration::from_millis(200), tries, Duration::from_secs(5)))
                        .await;
                }
            }
        }
    }

    /// Looks for a straggler, and saves what is found.
    pub(super) async fn look_for(&self, straggler: Straggler) {
        let (now, id) = (self.clock.now(), straggler.attempt.id);
        let again = |at| self.store.look_again(id, straggler.leased_until, at);
        let looked = match Box::pin(self.find_in_its_trace(&straggler)).await {
            Ok(Some(Found::End(attempt, pictures))) => {
                match Box::pin(self.enter_end(&straggler.attempt, *attempt, &pictures)).await {
                    // Its task is under way: what was found is entered when that has ended.
                    Ok(false) => again(Some(now + LOOK_MEANWHILE)).await,
                    entered => entered.map(drop),
                }
            }
            Ok(Some(Found::Nothing(pause))) if now.since(straggler.attempt.started_at) < LOOK_FOR => {
                again(Some(now + pause)).await
            }
            Ok(Some(Found::Lacking(attempt))) => self.store.leave_behind(*attempt).await,
            Ok(Some(Found::Nothing(_)) | None) => again(None).await,
            Err(error) => Err(error),
        };
        if let Err(error) = looked {
            tracing::error!(attempt.id = %id, %error, "cannot look for a late result; trying again when the lease ends");
        }
    }

    async fn find_in_its_trace(&self, straggler: &Straggler) -> Result<Option<Found>, StoreError> {
        let Some(task) = self.store.task(straggler.attempt.task).await? else { return Ok(None) };
        let place = self.traces.beneath(task.state.trace.as_ref(), &straggler.attempt.id.to_string());
        place.span("task.late").around(self.find(straggler, task)).await
    }

    /// `None`: there is nothing to look for.
    async fn find(&self, straggler: &Straggler, task: Task) -> Result<Option<Found>, StoreError> {
        let attempt = &straggler.attempt;
        if task.state.erased_at.is_some() {
            return Ok(None);
        }
        if !attempt.made.is_empty() {
            let ready = task.phase.terminal() || adoptable(&task);
            return Ok(Some(if ready {
                self.made_behind(&task, attempt.clone()).await
            } else {
                Found::Nothing(LOOK_MEANWHILE)
            }));
        }
        // One that succeeded has nothing more to give; one that failed may yet change its mind.
        if attempt.state == AttemptState::Succeeded || (attempt.state.told() && attempt.handle.is_none()) {
            return Ok(None);
        }
        if !task.phase.terminal() && task.state.attempt == Some(attempt.id) && !attempt.state.told() {
            // Its task looks itself.
            let waits = attempt.state == AttemptState::Accepted;
            return Ok((!waits).then_some(Found::Nothing(Duration::from_secs(5))));
        }
        let hint = self.unless_taken(attempt, straggler.hint.clone()).await?;
        let handle = attempt.handle.clone().or(hint);
        let Some(handle) = handle else { return Ok(None) };
        // Its provider is not configured at present, and may be again.
        let Some(lane) = self.lane(&attempt.provider) else { return Ok(Some(Found::Nothing(LOOK_RARELY))) };
        let mut attempt = attempt.clone();
        let answered = self.check(&lane, &attempt, &handle, &task.request).await;
        let kept = reason(&answered).zip(answered.evidence.clone());
        let found = match answered.outcome {
            Ok(Progress::Done(done)) => {
                attempt.handle = Some(handle);
                self.keep_evidence(&task, &attempt, kept).await;
                self.late_pictures(&task, attempt, done).await
            }
            Ok(Progress::Failed(error)) if error.kind == Kind::Contract => return Ok(None),
            Ok(Progress::Failed(error)) => {
                self.keep_evidence(&task, &attempt, kept).await;
                self.late_failure(attempt, handle, &error)
            }
            Err(error) if error.kind == Kind::Missing => Found::Nothing(LOOK_RARELY),
            Ok(Progress::Pending(_)) | Err(_) => Found::Nothing(self.rarer(&attempt)),
        };
        Ok(Some(found))
    }

    /// The longer ago an attempt was made, the rarer it is looked at.
    fn rarer(&self, attempt: &Attempt) -> Duration {
        if attempt.state.told() {
            (self.clock.now().since(attempt.started_at) / 2).clamp(LOOK_AFTER, LOOK_RARELY)
        } else {
            LOOK_AFTER
        }
    }

    /// Its provider says that it failed. What is known already changes nothing; what costs nothing is believed when it is
    /// told twice.
    fn late_failure(&self, mut attempt: Attempt, handle: String, error: &ProviderError) -> Found {
        let now = self.clock.now();
        if attempt.state.told() && (attempt.billed == error.verdict.billed || !error.settled) {
            return Found::Nothing(self.rarer(&attempt));
        }
        attempt.handle = Some(handle);
        if !error.settled && !given_up(&attempt, now) {
            let free = error.verdict.billed == Billing::No;
            let since = attempt.failed_since.filter(|_| free);
            attempt.failed_since = free.then(|| since.unwrap_or(now));
            if since.is_none_or(|since| now.since(since) < BELIEVED_AFTER) {
                attempt.look_at = Some(now + if free { BELIEVED_AFTER } else { self.rarer(&attempt) });
                return Found::Lacking(Box::new(attempt));
            }
        }
        attempt.failure = Some(failure(error));
        attempt.close(AttemptState::Failed, error.verdict.clone(), now);
        attempt.look_at = Some(now + self.rarer(&attempt));
        Found::End(Box::new(attempt), Vec::new())
    }

    pub(super) async fn keep_evidence(
        &self,
        task: &Task,
        attempt: &Attempt,
        kept: Option<(String, Evidence)>,
    ) {
        if let Some((reason, evidence)) = kept {
            self.quarantine(task, attempt, QuarantineKind::Answer, &reason, Some(&evidence)).await;
        }
    }

    async fn late_pictures(&self, task: &Task, mut attempt: Attempt, done: Done) -> Found {
        attempt.made_verdict = Some(done.verdict.clone());
        let mut held = Vec::new();
        attempt.made = match self.outputs_of(done, &mut held).await {
            Ok(outputs) => outputs,
            Err(error) => {
                tracing::error!(attempt.id = %attempt.id, %error, "a late picture could not be kept; asking again");
                return Found::Nothing(LOOK_AFTER);
            }
        };
        self.made_behind(task, attempt).await
    }

    /// Brings what is left with an attempt. Links may heal or be renewed, so those that do not come are waited for a while; then
    /// the others are delivered without them. When the time to look is over, what it cost is entered with or without pictures.
    async fn made_behind(&self, task: &Task, mut attempt: Attempt) -> Found {
        let now = self.clock.now();
        let (mut here, mut hope, mut lacking, mut why) = (Vec::new(), false, Vec::new(), None);
        let mut outputs = std::mem::take(&mut attempt.made);
        let waited = now.since(attempt.lacking_since.unwrap_or(now));
        let rest = WAIT_FOR_OTHERS.saturating_sub(waited).max(LAST_CHANCE);
        let brought = self.bring_here(&outputs, Some(&attempt), rest).await;
        for (at, (output, brought)) in outputs.iter_mut().zip(brought).enumerate() {
            match brought {
                Ok(saved) => {
                    output.source = Source::Blob(saved.sha256.clone());
                    here.push((saved, output.kind));
                }
                Err(not_here) => {
                    hope |= not_here.later.is_some();
                    self.keep_oddity(task, &attempt, &not_here).await;
                    let error = not_here.error;
                    tracing::warn!(attempt.id = %attempt.id, at, %error, "a late picture has not come");
                    hope |= !hopeless(&error);
                    lacking.push(Output { place: output.place.or(Some(at)), ..output.clone() });
                    why.get_or_insert(error);
                }
            }
        }
        let verdict = attempt.made_verdict.clone().unwrap_or_else(|| match attempt.state {
            // The books have it; these are images that its task could not wait for.
            AttemptState::Succeeded => attempt.verdict(),
            _ => Verdict::new(Billing::Yes, "its pictures came when its task had gone on without it"),
        });
        let Some(error) = why else {
            (attempt.look_at, attempt.lacking_since) = (None, None);
            self.close_late(&mut attempt, verdict);
            return Found::End(Box::new(attempt), here);
        };
        let since = *attempt.lacking_since.get_or_insert(now);
        let patience = if here.is_empty() { LOOK_FOR } else { WAIT_FOR_OTHERS };
        let over = given_up(&attempt, now);
        let detail = format!("the provider made a picture that could not be kept: {error}");
        if hope && !over && now.since(since) < patience {
            // Those that are here stay; the links of the others may be renewed.
            self.renew(&attempt, &mut outputs, task).await;
            attempt.made = outputs;
            attempt.made_verdict = Some(verdict);
            attempt.look_at = Some(now + LOOK_AFTER);
            return Found::Lacking(Box::new(attempt));
        }
        attempt.made = lacking;
        attempt.look_at = (!over && hope).then(|| now + LOOK_AFTER);
        if here.is_empty() {
            self.quarantine(task, &attempt, QuarantineKind::Download, &detail, None).await;
            let billed = verdict.billed;
            attempt.failure = Some(Failure { code: Code::AssetUnavailable, detail, billed, provider: None });
        }
        self.close_late(&mut attempt, verdict);
        Found::End(Box::new(attempt), here)
    }

    /// One whose end was told before has its books already.
    fn close_late(&self, attempt: &mut Attempt, verdict: Verdict) {
        if attempt.state == AttemptState::Succeeded && attempt.billed == verdict.billed {
            return;
        }
        Self::note_absurd(attempt, &verdict);
        attempt.close(AttemptState::Succeeded, verdict, self.clock.now());
    }
}

/// Whether the time to look for what an attempt made is over.
pub(super) fn given_up(attempt: &Attempt, now: Millis) -> bool {
    now.since(attempt.started_at) + LOOK_AFTER >= LOOK_FOR
}

/// Whether an earlier attempt's pictures may end the task: none is under way that could bring others.
fn adoptable(task: &Task) -> bool {
    matches!(task.phase, Phase::Queued | Phase::Reconciling)
}
