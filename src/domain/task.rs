//! The life of a task as a pure function. [`step`] is the whole of what may follow what; [`Task::apply`] carries an
//! [`Event`] out on a task. The engine only performs effects and reports them as events.
//!
//! ```text
//! Queued → Submitting → Waiting → Storing → Succeeded        Failed and Canceled end it from where the table says;
//!             └──→ Reconciling ──┘                           Submitting, Waiting, Reconciling → Queued: try again
//!                     Gathering → Storing                        for a task divided into parts
//! ```

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::clock::Millis;
use super::id::{AttemptId, TaskId};
use super::request::{GenerateRequest, Operation};
pub use super::state::{
    Candidate, Cost, Failure, Late, Output, ProviderWords, RouteTaken, Source, State, Stopping,
};

/// Where a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Accepted; no provider is at work on it.
    Queued,
    /// An attempt's intent is committed; its paid call may be under way.
    Submitting,
    /// The provider has accepted and is asked now and then.
    Waiting,
    /// A paid call left and its outcome is not known; it is looked for, never blindly repeated.
    Reconciling,
    /// Its parts, each a task of its own, are on their way.
    Gathering,
    /// The pictures exist at the provider and are being brought here.
    Storing,
    /// Pictures are here.
    Succeeded,
    /// It ended without a picture.
    Failed,
    /// The caller called it off.
    Canceled,
}

impl Phase {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Queued,
        Self::Submitting,
        Self::Waiting,
        Self::Reconciling,
        Self::Gathering,
        Self::Storing,
        Self::Succeeded,
        Self::Failed,
        Self::Canceled,
    ];

    /// Whether nothing can follow.
    pub const fn terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Canceled)
    }

    /// Its name in rows.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Submitting => "submitting",
            Self::Waiting => "waiting",
            Self::Reconciling => "reconciling",
            Self::Gathering => "gathering",
            Self::Storing => "storing",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
        }
    }

    /// The phase a row names; `None` for a word of a newer version.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.as_str() == name)
    }
}

/// Something that happened to a task.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// An attempt's intent is committed.
    Submit {
        /// The attempt.
        attempt: AttemptId,
        /// The route it takes.
        route: RouteTaken,
    },
    /// The provider accepted and named its handle.
    Accept,
    /// The provider's pictures are known, or more of them.
    Produce(Vec<Output>),
    /// It cannot be told whether the provider accepted.
    Lose,
    /// The attempt is over, proven unbilled or within the spend bound; another may follow.
    Retry,
    /// Nothing new, except perhaps how far it is (0 to 1).
    Stay(Option<f32>),
    /// The pictures are durable here; `partial` when fewer than asked for.
    Save {
        /// Fewer than asked for.
        partial: bool,
    },
    /// It ends without a picture.
    Fail(Failure),
    /// The caller called it off.
    Cancel,
    /// A result came after the end; the end stays what it was.
    Late(Late),
}

impl Event {
    /// A short name for logs and errors.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Submit { .. } => "submit",
            Self::Accept => "accept",
            Self::Produce(_) => "produce",
            Self::Lose => "lose",
            Self::Retry => "retry",
            Self::Stay(_) => "stay",
            Self::Save { .. } => "save",
            Self::Fail(_) => "fail",
            Self::Cancel => "cancel",
            Self::Late(_) => "late",
        }
    }
}

/// An event that may not follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a task that is {} cannot {event}", .phase.as_str())]
pub struct Illegal {
    /// Where the task stands.
    pub phase: Phase,
    /// What was reported.
    pub event: &'static str,
}

/// Where `event` leads a task that stands at `phase`: the whole table, everything else is illegal.
pub fn step(phase: Phase, event: &Event) -> Result<Phase, Illegal> {
    use Phase::{Canceled, Failed, Gathering, Queued, Reconciling, Storing, Submitting, Succeeded, Waiting};
    Ok(match (phase, event) {
        (Queued, Event::Submit { .. }) => Submitting,
        (Submitting | Waiting | Reconciling, Event::Retry) => Queued,
        (Submitting | Reconciling, Event::Accept) => Waiting,
        // The first link is kept as it streams by; later ones are added to it. A queued task is ended by an earlier attempt
        // that gave its images after all.
        (Queued | Submitting | Waiting | Reconciling | Gathering | Storing, Event::Produce(_)) => Storing,
        (Submitting, Event::Lose) => Reconciling,
        (Queued | Submitting | Waiting | Reconciling | Gathering | Storing, Event::Stay(_))
        // What comes after the end does not change it.
        | (Succeeded | Failed | Canceled, Event::Late(_)) => phase,
        (Storing, Event::Save { .. }) => Succeeded,
        (Queued | Submitting | Waiting | Reconciling | Gathering | Storing, Event::Fail(_)) => Failed,
        // A running attempt is only called off once its provider has agreed.
        (Queued | Waiting | Gathering, Event::Cancel) => Canceled,
        _ => return Err(Illegal { phase, event: event.name() }),
    })
}

/// The place of a task whose place in line is still to be found.
pub const UNRANKED: i64 = -1;

/// One caller's request on its way.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// The public id.
    pub id: TaskId,
    /// The task it is a part of, when it is one of several upstream calls that together serve one request.
    pub parent: Option<TaskId>,
    /// Whose it is.
    pub tenant: String,
    /// The name of the key it came with.
    pub key: String,
    /// The caller's idempotency key.
    pub idempotency_key: Option<String>,
    /// What the caller's body said, as a digest.
    pub fingerprint: String,
    /// What was asked for.
    pub request: GenerateRequest,
    /// The model that serves it.
    pub model: String,
    /// The kind of work.
    pub operation: Operation,
    /// Where it stands.
    pub phase: Phase,
    /// The provider it waits for or is at: the lane whose capacity it uses.
    pub lane: String,
    /// Its place among those waiting for the lane; lower goes first. The store finds it when the task is taken in.
    pub rank: i64,
    /// How often it was written; a writer with an older number has lost it.
    pub version: i64,
    /// When it next owes work; `None` when it owes none.
    pub wake_at: Option<Millis>,
    /// When it was accepted.
    pub created_at: Millis,
    /// When a provider was first asked.
    pub started_at: Option<Millis>,
    /// When it ended.
    pub finished_at: Option<Millis>,
    /// When a provider must have been asked.
    pub start_by: Millis,
    /// When it must have ended.
    pub deadline_at: Millis,
    /// The rest.
    pub state: State,
}

/// One line of a task's history, as callers see it.
#[derive(Debug, Clone, PartialEq)]
pub struct Notice {
    /// Its number in the task, from 1.
    pub seq: i64,
    /// `task.attempt`, `task.saving`…
    pub name: &'static str,
    /// What there is to say.
    pub data: Value,
}

impl Task {
    /// Carries `event` out, or says that it may not follow. Answers with what callers are told about it.
    pub fn apply(&mut self, event: Event, now: Millis) -> Result<Option<Notice>, Illegal> {
        let from = self.phase;
        self.phase = step(from, &event)?;
        if self.phase != from {
            self.state.tries = 0;
            self.state.unanswered = 0;
            self.state.since = Some(now);
            self.state.slot_until.take_if(|_| self.phase != Phase::Reconciling);
        }
        let told = match event {
            Event::Submit { attempt, route } => {
                self.started_at.get_or_insert(now);
                self.state.attempts += 1;
                self.state.attempt = Some(attempt);
                self.state.booked = false;
                let told = json!({"attempt": self.state.attempts, "provider": route.provider, "provider_model": route.provider_model, "reason": route.reason});
                self.lane.clone_from(&route.provider);
                self.state.route = Some(route);
                if let Some(candidate) = self.state.in_hand_mut() {
                    candidate.sends += 1;
                }
                Some(("task.attempt", told))
            }
            Event::Produce(outputs) => {
                self.state.outputs = outputs;
                self.state.progress = None;
                (from != Phase::Storing).then(|| ("task.saving", json!({})))
            }
            Event::Stay(progress) => {
                let further = progress.filter(|now| self.state.progress.is_none_or(|before| *now > before));
                self.state.progress = further.or(self.state.progress);
                further.map(|progress| ("task.progress", json!({"progress": progress})))
            }
            Event::Save { partial } => {
                self.state.partial = partial;
                self.state.outputs.clear();
                self.keep_from(now);
                Some(("task.succeeded", Value::Null))
            }
            Event::Fail(failure) => {
                self.state.failure = Some(failure);
                Some(("task.failed", Value::Null))
            }
            Event::Cancel => Some(("task.canceled", Value::Null)),
            Event::Late(late) => {
                self.state.late.push(late);
                self.keep_from(now);
                Some(("task.late_result", Value::Null))
            }
            Event::Retry => {
                self.state.progress = None;
                None
            }
            Event::Accept | Event::Lose => None,
        };
        if self.phase.terminal() && self.phase != from {
            self.finished_at = Some(now);
            self.wake_at = None;
        }
        Ok(told.map(|(name, data)| self.tell(name, data)))
    }

    /// Waits for `lane` from now on, in a place the store finds.
    pub fn enter_line(&mut self, lane: String) {
        if self.lane != lane {
            self.lane = lane;
            self.rank = UNRANKED;
        }
    }

    /// The next line of the history.
    pub fn tell(&mut self, name: &'static str, data: Value) -> Notice {
        self.state.events += 1;
        Notice { seq: self.state.events, name, data }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::attempt::Billing;
    use crate::domain::code::Code;

    fn events() -> Vec<Event> {
        let clock = super::super::clock::TestClock::at(Millis(1));
        let route = RouteTaken { provider: "p".into(), provider_model: "m".into(), reason: "r".into() };
        let failure = Failure {
            code: Code::ProviderFailed,
            detail: String::new(),
            billed: Billing::No,
            provider: None,
        };
        vec![
            Event::Submit { attempt: AttemptId::mint(&clock), route },
            Event::Accept,
            Event::Produce(vec![]),
            Event::Lose,
            Event::Retry,
            Event::Stay(None),
            Event::Save { partial: false },
            Event::Fail(failure),
            Event::Cancel,
            Event::Late(Late {
                attempt: AttemptId::mint(&clock),
                provider: "p".into(),
                at: Millis(2),
                images: 1,
            }),
        ]
    }

    /// Every pair of phase and event, written out: a change to the table must be made twice.
    #[test]
    fn every_pair_is_decided() {
        #[rustfmt::skip]
        let expected = [
            //              submit     accept  produce lose        retry  stay        save      fail   cancel late
            ("queued",      "submitting -      storing -           -      queued      -         failed canceled -"),
            ("submitting",  "-         waiting storing reconciling queued submitting  -         failed - -"),
            ("waiting",     "-         -       storing -           queued waiting     -         failed canceled -"),
            ("reconciling", "-         waiting storing -           queued reconciling -         failed - -"),
            ("gathering",   "-         -       storing -           -      gathering   -         failed canceled -"),
            ("storing",     "-         -       storing -           -      storing     succeeded failed - -"),
            ("succeeded",   "-         -       -       -           -      -           -         -      - succeeded"),
            ("failed",      "-         -       -       -           -      -           -         -      - failed"),
            ("canceled",    "-         -       -       -           -      -           -         -      - canceled"),
        ];
        for (phase, (name, row)) in Phase::ALL.into_iter().zip(expected) {
            assert_eq!(phase.as_str(), name);
            let led: Vec<_> =
                events().iter().map(|event| step(phase, event).map_or("-", Phase::as_str)).collect();
            assert_eq!(led, row.split_whitespace().collect::<Vec<_>>(), "{name}");
        }
    }

    #[test]
    fn a_row_of_a_newer_version_is_not_understood() {
        assert_eq!(Phase::parse("storing"), Some(Phase::Storing));
        assert_eq!(Phase::parse("dreaming"), None);
    }
}
