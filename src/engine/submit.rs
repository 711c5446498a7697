//! The one paid call: chosen, bounded, written down, then made. The attempt's intent is committed before the first byte,
//! and what the provider says while it is still talking is committed as it comes.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::lane::{Way, outcome};
use super::options::is_unread;
use super::results::reason;
use super::retry::failure;
use super::route::Planned;
use super::save::Step;
use super::spend::may_spend;
use super::{Inner, Lane, Offered, spans};
use crate::chaos::crash;
use crate::domain::attempt::{Attempt, AttemptState, Billing, Verdict};
use crate::domain::clock::Millis;
use crate::domain::code::Code;
use crate::domain::fit::effective;
use crate::domain::id::AttemptId;
use crate::domain::image::ImageKind;
use crate::domain::lane::Outcome;
use crate::domain::quarantine::QuarantineKind;
use crate::domain::task::{Event, Failure, Output, Source, Task};
use crate::providers::{Answered, Callback, Job, Progress, ProviderError, Signal, sent};
use crate::store::Gate;

/// A task that finds no room looks again after no less than this.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// Progress is saved at most this often.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

impl Inner {
    /// Sends a queued task by its best remaining route, if it may still be sent.
    pub(super) async fn start(&self, mut task: Box<Task>) {
        let now = self.clock.now();
        if now >= task.start_by {
            let detail = "no provider could be asked before the deadline".to_owned();
            return self.fail(task, Code::DeadlineExceeded, detail).await;
        }
        if self.settings.hold_submissions {
            self.save(task, Step::new(Event::Stay(None), now + Duration::from_mins(1))).await;
            return;
        }
        // What could not be kept is not bought.
        if self.tight().is_some() || self.spool.full() {
            let until = (now + super::space::COME_BACK).min(task.start_by);
            self.save(task, Step::new(Event::Stay(None), until)).await;
            return;
        }
        // One look for the whole call: a configuration read meanwhile is for those that come after.
        let offered = self.offered.load_full();
        let (planned, lane) = match self.choose(&offered, &mut task) {
            Choice::Route(planned, lane) => (*planned, lane),
            Choice::Wait(until) => {
                let until = until.clamp(now + LOOK_AGAIN, task.start_by);
                self.save(task, Step::new(Event::Stay(None), until)).await;
                return;
            }
            Choice::Nothing => {
                let detail = "none of the task's routes is configured any more".to_owned();
                return self.fail(task, Code::Unservable, detail).await;
            }
        };
        if !may_spend(&task, planned.price) {
            let detail = "another attempt could cost more than the task may".to_owned();
            return self.fail(task, Code::MaxCostExceeded, detail).await;
        }
        let Some((mut task, inputs)) = self.made_ready(task, &planned).await else { return };
        let mut attempt = self.intent(&task, &planned);
        attempt.upstream = lane.provider.account().upstream();
        attempt.sent = sent(&inputs);
        let rings = offered.catalog.reachable && !lane.provider.pace().reconcile.is_zero();
        let hook = rings.then(|| self.links.hook(&attempt.provider, attempt.id));
        attempt.token_hash = hook.as_ref().map(|hook| hook.token_hash.clone());
        let callback = hook.map(|hook| Callback { url: hook.url, secret: hook.secret });
        task.state.effective = effective(&planned.request);
        task.state.adjustments.retain(is_unread);
        task.state.adjustments.extend(planned.adjustments.iter().cloned());
        task.state.cost.estimated = planned.price;
        let leased = Instant::now();
        let (provider, model) = (planned.taken.provider.clone(), planned.taken.provider_model.clone());
        let retry = task.state.candidates.iter().any(|one| one.sends > 0);
        let event = Event::Submit { attempt: attempt.id, route: planned.taken.clone() };
        let gate = Gate { lane: provider.clone(), model, configured: lane.in_flight };
        let step = Step::leased(event).with(attempt.clone()).through(gate);
        let Some(task) = self.save(task, step).await else { return };
        crash("intent.committed");
        self.observed.sent(&provider, retry, now);
        let options = planned.request.provider_options.get(&planned.taken.provider);
        let job = Job {
            attempt: attempt.id,
            request: &planned.request,
            provider_model: &planned.taken.provider_model,
            form: &planned.offer.form,
            options,
            inputs: &inputs,
            callback: callback.as_ref(),
            // A process that was stopped and thawed past its lease must not begin to send.
            not_after: leased + self.settings.lease,
        };
        let (task, answer) = self.call(&lane, &job, task, &attempt).await;
        crash("answer.received");
        self.answered(&lane, task, attempt, answer).await;
    }

    /// Makes the call and commits what is said before its answer is whole.
    async fn call(
        &self,
        lane: &Lane,
        job: &Job<'_>,
        mut task: Box<Task>,
        attempt: &Attempt,
    ) -> (Box<Task>, Answered) {
        let (signals, mut heard) = mpsc::channel(16);
        let span = Self::calling(&self.place(&task), "provider.submit", &attempt.provider);
        let mut calling = std::pin::pin!(span.around(lane.provider.submit(job, &signals)));
        let mut told = Instant::now();
        let answer = loop {
            let signal = tokio::select! {
                biased;
                Some(signal) = heard.recv() => signal,
                answer = &mut calling => break answer,
            };
            let step = match signal {
                Signal::Image(url) => {
                    let output = Output::new(Source::Url(url), ImageKind::Output);
                    let mut attempt = attempt.clone();
                    attempt.state = AttemptState::Accepted;
                    attempt.judge(Verdict::new(Billing::Yes, "a picture's link came"));
                    Step::leased(Event::Produce(vec![output])).with(attempt)
                }
                Signal::Progress(progress) if told.elapsed() >= PROGRESS_EVERY => {
                    told = Instant::now();
                    Step::leased(Event::Stay(Some(progress)))
                }
                Signal::Progress(_) => continue,
            };
            // Whatever became of the row, the call is heard to its end.
            crash("signal.received");
            let picture = matches!(step.event, Event::Produce(_));
            if picture {
                self.note(&attempt.provider, &attempt.provider_model, Outcome::Accepted).await;
            }
            if let Some(saved) = self.save(task.clone(), step).await {
                // How far it has got is nothing that a restart could go on from.
                if picture {
                    crash("signal.committed");
                }
                task = saved;
            }
        };
        spans::answered(&span, &answer.outcome);
        (task, answer)
    }

    /// What the answer comes to. Its bytes are let go of once that is durable, and they are in quarantine where they belong
    /// there; whatever happens in between, they are found in the spool.
    pub(super) async fn answered(&self, lane: &Lane, task: Box<Task>, attempt: Attempt, answered: Answered) {
        let (about, reason) = ((task.clone(), attempt.clone()), reason(&answered));
        let all = self.act_on(lane, task, attempt, answered.outcome).await;
        let reason = reason.or_else(|| (!all).then(|| "its images could not be taken".to_owned()));
        let Some(evidence) = answered.evidence else { return };
        let kept = match reason {
            Some(reason) => {
                let (task, attempt) = &about;
                self.quarantine(task, attempt, QuarantineKind::Answer, &reason, Some(&evidence)).await
            }
            None => true,
        };
        if kept {
            evidence.body.acted_on();
        }
    }

    /// Does what the answer asks for; whether all of it could be read.
    async fn act_on(
        &self,
        lane: &Lane,
        mut task: Box<Task>,
        mut attempt: Attempt,
        answer: Result<Progress, ProviderError>,
    ) -> bool {
        let now = self.clock.now();
        match answer {
            Ok(Progress::Done(done)) => return self.produce(task, attempt, done).await,
            Ok(Progress::Pending(pending)) => {
                attempt.state = AttemptState::Accepted;
                attempt.handle = Some(pending.handle);
                attempt.judge(Verdict::new(Billing::Unknown, "accepted; what it costs is known at the end"));
                // Whoever takes tasks on is well enough to be sent more, however long this one takes.
                self.note(&attempt.provider, &attempt.provider_model, Outcome::Accepted).await;
                let pace = lane.provider.pace();
                task.state.cancels = pace.cancels;
                let wake = (now + pace.poll_after).min(task.deadline_at);
                self.save(task, Step::new(Event::Accept, wake).with(attempt)).await;
                crash("handle.committed");
            }
            Ok(Progress::Failed(error)) => self.over(task, attempt, AttemptState::Failed, error).await,
            Err(error) if error.verdict.billed == Billing::Unknown => {
                attempt.failure = Some(failure(&error));
                self.observed.failed(&attempt.provider, error.kind);
                let (says, _) = outcome(&error, 1);
                self.note(&attempt.provider, &attempt.provider_model, says).await;
                self.unclear(task, attempt, &error).await;
            }
            Err(error) => {
                let sent = error.words.http_status.is_some();
                let state = if sent { AttemptState::Rejected } else { AttemptState::NotSent };
                self.over(task, attempt, state, error).await;
            }
        }
        true
    }

    /// The first of the task's routes that is still in question, still configured and open just now, planned anew.
    fn choose(&self, offered: &Offered, task: &mut Task) -> Choice {
        let now = self.clock.now();
        let mut opens: Option<Millis> = None;
        for candidate in task.state.candidates.iter_mut().filter(|one| !one.out) {
            let (provider, model) = (&candidate.route.provider, &candidate.route.provider_model);
            let planned = offered.catalog.replan(&task.request, &candidate.route);
            let Some((planned, lane)) = planned.zip(offered.lanes.get(provider)) else {
                tracing::warn!(task.id = %task.id, provider.id = provider, model, "a planned route is gone");
                candidate.out = true;
                continue;
            };
            match self.way(provider, model, now) {
                Way::Open => return Choice::Route(Box::new(planned), lane.clone()),
                Way::Soon(until) if until < task.start_by => return Choice::Wait(until),
                Way::Soon(until) | Way::Closed(until) => {
                    opens = Some(opens.map_or(until, |first| first.min(until)));
                }
            }
        }
        opens.map_or(Choice::Nothing, Choice::Wait)
    }

    fn intent(&self, task: &Task, planned: &Planned) -> Attempt {
        Attempt {
            id: AttemptId::mint(self.clock.as_ref()),
            task: task.id,
            number: task.state.attempts + 1,
            provider: planned.taken.provider.clone(),
            provider_model: planned.taken.provider_model.clone(),
            reason: planned.taken.reason.clone(),
            state: AttemptState::Intent,
            billed: Billing::Unknown,
            evidence: "about to be sent".to_owned(),
            possible_charge: planned.price,
            charged: None,
            units: None,
            handle: None,
            upstream: String::new(),
            sent: Vec::new(),
            failed_since: None,
            failure: None,
            token_hash: None,
            made: Vec::new(),
            made_verdict: None,
            lacking_since: None,
            look_at: None,
            started_at: self.clock.now(),
            finished_at: None,
        }
    }

    pub(super) async fn fail(&self, task: Box<Task>, code: Code, detail: String) {
        let failure = Failure { code, detail, billed: task.billed(), provider: None };
        let now = self.clock.now();
        self.save(task, Step::new(Event::Fail(failure), now)).await;
    }
}

/// Where a queued task goes.
enum Choice {
    /// By this route.
    Route(Box<Planned>, Lane),
    /// Nowhere before this moment.
    Wait(Millis),
    /// Nowhere.
    Nothing,
}
