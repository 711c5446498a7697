//! What the engine tells of itself in traces. A task's life and each attempt are spans of their own, told of when they are
//! over; steps, calls and letters are beneath them wherever and whenever they happen: their ids follow from the task's and
//! the attempt's, and the trace is kept with the task.

use opentelemetry::KeyValue;

use super::Inner;
use crate::domain::attempt::{Attempt, AttemptState};
use crate::domain::task::{Phase, Task};
use crate::providers::{Progress, ProviderError};
use crate::trace::{Past, Span};

impl Inner {
    /// Where in its trace a task stands: beneath the attempt in hand, or beneath the task itself.
    pub(super) fn place(&self, task: &Task) -> Span {
        let attempt = task.state.attempt.filter(|_| task.phase != Phase::Queued);
        let of = attempt.map_or_else(|| task.id.to_string(), |attempt| attempt.to_string());
        self.traces.beneath(task.state.trace.as_ref(), &of)
    }

    /// The span of the step that a task's phase calls for.
    pub(super) fn step(&self, task: &Task) -> Span {
        let name = match task.phase {
            Phase::Queued => "task.submit",
            Phase::Submitting => "task.lost",
            Phase::Waiting => "task.poll",
            Phase::Reconciling => "task.reconcile",
            Phase::Gathering => "task.gather",
            Phase::Storing | Phase::Succeeded | Phase::Failed | Phase::Canceled => "task.save",
        };
        let span = self.place(task).span(name);
        span.set_with("task.id", || Some(task.id.to_string()));
        span
    }

    /// A task is over.
    pub(super) fn tell_task(&self, task: &Task) {
        let above = self.traces.kept(task.state.trace.as_ref());
        if !above.recorded() {
            return;
        }
        let mut says = vec![
            KeyValue::new("task.id", task.id.to_string()),
            KeyValue::new("task.status", task.phase.as_str()),
            KeyValue::new("task.model", task.model.clone()),
            KeyValue::new("task.operation", task.operation.as_str()),
            KeyValue::new("task.attempts", i64::from(task.state.attempts)),
            KeyValue::new("task.billed", task.billed().as_str()),
            KeyValue::new("tenant", task.tenant.clone()),
        ];
        says.extend(task.parent.map(|whole| KeyValue::new("task.part_of", whole.to_string())));
        let failed = task.state.failure.as_ref().map(|failure| failure.code.as_str().to_owned());
        let (from, now) = (task.created_at, self.clock.now());
        let to = task.finished_at.unwrap_or(now);
        self.traces.tell(&above, Past { name: "task", of: task.id.to_string(), from, to, says, failed });
    }

    /// An attempt is over.
    pub(super) fn tell_attempt(&self, task: &Task, attempt: &Attempt) {
        let above = self.traces.beneath(task.state.trace.as_ref(), &task.id.to_string());
        if !above.recorded() {
            return;
        }
        let says = vec![
            KeyValue::new("attempt.id", attempt.id.to_string()),
            KeyValue::new("attempt.n", i64::from(attempt.number)),
            KeyValue::new("attempt.state", attempt.state.as_str()),
            KeyValue::new("attempt.billed", attempt.billed.as_str()),
            KeyValue::new("provider.id", attempt.provider.clone()),
            KeyValue::new("provider.model", attempt.provider_model.clone()),
        ];
        let failure = attempt.failure.as_ref().filter(|_| attempt.state != AttemptState::Succeeded);
        let failed = failure.map(|failure| failure.code.as_str().to_owned());
        let (from, now) = (attempt.started_at, self.clock.now());
        let to = attempt.finished_at.unwrap_or(now);
        self.traces
            .tell(&above, Past { name: "attempt", of: attempt.id.to_string(), from, to, says, failed });
    }

    /// The span of a call to a provider beneath `place`.
    pub(super) fn calling(place: &Span, name: &'static str, provider: &str) -> Span {
        let span = place.call(name);
        span.set_with("provider.id", || Some(provider.to_owned()));
        span
    }
}

/// What a provider answered. Its words can hold the prompt: the kind of trouble is told, and the status.
pub(super) fn answered(span: &Span, answer: &Result<Progress, ProviderError>) {
    if !span.recorded() {
        return;
    }
    let (word, error) = match answer {
        Ok(Progress::Pending(_)) => ("pending", None),
        Ok(Progress::Done(_)) => ("done", None),
        Ok(Progress::Failed(error)) => ("failed", Some(error)),
        Err(error) => ("error", Some(error)),
    };
    span.set("provider.answer", word);
    if let Some(error) = error {
        refused(span, error);
    }
}

/// Why a provider did not do as it was asked.
pub(super) fn refused(span: &Span, error: &ProviderError) {
    span.fail(error.kind.code().as_str());
    if let Some(status) = error.words.http_status {
        span.set("http.response.status_code", i64::from(status));
    }
}
