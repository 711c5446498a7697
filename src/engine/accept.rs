//! Takes a request in: plans its routes, prices it, and stores it durably as a task. Everything after that belongs to the
//! worker loop.

use std::time::Duration;

use super::route::{NoRoute, Plan};
use super::{Engine, Inner};
use crate::domain::code::Code;
use crate::domain::fit::effective;
use crate::domain::id::TaskId;
use crate::domain::request::GenerateRequest;
use crate::domain::task::{Candidate, Cost, Event, Phase, State, Task};
use crate::store::{Accepted, Change, StoreError};

/// Who asks.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Whose tasks these are.
    pub tenant: String,
    /// The name of the key.
    pub key: String,
}

/// A task that was taken in, now or earlier.
#[derive(Debug)]
pub struct Acceptance {
    /// The task.
    pub task: Task,
    /// Whether it was there already, under the same idempotency key and with the same body.
    pub replayed: bool,
}

/// Why a request was not taken in, or a task not called off.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// No route can serve it.
    #[error("{}", .0.detail)]
    NoRoute(NoRoute),
    /// Its idempotency key belongs to this other task.
    #[error("the idempotency key belongs to {0}, which was asked for with another body")]
    KeyReused(TaskId),
    /// There is no such task.
    #[error("no such task")]
    NotFound,
    /// The task stands where this cannot be done any more.
    #[error("{1}")]
    TooLate(Code, String),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Engine {
    /// Which routes would serve a request; stores and sends nothing.
    pub fn plan(&self, request: &GenerateRequest) -> Result<Plan, NoRoute> {
        self.inner.catalog.plan(request)
    }

    /// Takes a well-formed request in. Once this answers, the task is durable and will reach exactly one end.
    pub async fn accept(
        &self,
        caller: Caller,
        request: GenerateRequest,
        idempotency_key: Option<String>,
    ) -> Result<Acceptance, Refusal> {
        let plan = self.plan(&request).map_err(Refusal::NoRoute)?;
        let fingerprint = request.fingerprint();
        let task = self.inner.new_task(caller, plan, idempotency_key, fingerprint);
        match self.inner.store.accept(task).await? {
            Accepted::Created(task) => Ok(Acceptance { task: *task, replayed: false }),
            Accepted::Replayed(task) => Ok(Acceptance { task: *task, replayed: true }),
            Accepted::KeyReused(task) => Err(Refusal::KeyReused(task)),
        }
    }

    /// Calls a task off for its tenant. Only what has not been sent can be.
    pub async fn cancel(&self, tenant: &str, id: TaskId) -> Result<Task, Refusal> {
        // A worker may be claiming the task at this very moment: then its next phase decides.
        for _ in 0..5 {
            let task = self.inner.store.task(id).await?.filter(|task| task.tenant == tenant);
            let mut task = task.ok_or(Refusal::NotFound)?;
            match task.phase {
                Phase::Queued => {}
                phase if phase.terminal() => {
                    return Err(Refusal::TooLate(
                        Code::AlreadyFinished,
                        format!("{id} is {}", phase.as_str()),
                    ));
                }
                _ => {
                    let detail = format!("{id} is already at a provider, which offers no way back");
                    return Err(Refusal::TooLate(Code::NotCancelable, detail));
                }
            }
            let told = task.apply(Event::Cancel, self.inner.clock.now());
            let told = told.map_err(|illegal| Refusal::TooLate(Code::NotCancelable, illegal.to_string()))?;
            match self
                .inner
                .store
                .save(Change { notices: told.into_iter().collect(), ..Change::of(Box::new(task)) })
                .await
            {
                Err(StoreError::Stale) => {}
                saved => return Ok(*saved?),
            }
        }
        Err(Refusal::TooLate(Code::NotCancelable, format!("{id} is just being sent to a provider")))
    }
}

impl Inner {
    fn new_task(
        &self,
        caller: Caller,
        plan: Plan,
        idempotency_key: Option<String>,
        fingerprint: String,
    ) -> Task {
        let now = self.clock.now();
        let request = plan.request;
        let seconds = |seconds: Option<u32>| seconds.map(|seconds| Duration::from_secs(seconds.into()));
        let deadline_at = now + seconds(request.deadline_s).unwrap_or(self.settings.deadline);
        let start_by =
            seconds(request.start_within_s).map_or(deadline_at, |within| (now + within).min(deadline_at));
        let first = &plan.planned[0];
        let state = State {
            effective: effective(&first.request),
            adjustments: first.adjustments.clone(),
            cost: Cost {
                estimated: first.price,
                bound: request.routing.max_cost_usd.or(first.price),
                ..Cost::default()
            },
            candidates: plan
                .planned
                .iter()
                .map(|one| Candidate { route: one.taken.clone(), sends: 0, out: false })
                .collect(),
            route: Some(first.taken.clone()),
            // task.queued is implied by the task's row.
            events: 1,
            ..State::default()
        };
        Task {
            id: TaskId::mint(self.clock.as_ref()),
            tenant: caller.tenant,
            key: caller.key,
            idempotency_key,
            fingerprint,
            model: first.model.clone(),
            operation: first.operation,
            phase: Phase::Queued,
            lane: first.taken.provider.clone(),
            rank: now.0,
            version: 1,
            wake_at: Some(now),
            created_at: now,
            started_at: None,
            finished_at: None,
            start_by,
            deadline_at,
            request,
            state,
        }
    }
}
