//! Takes a request in: plans its routes, prices it, and stores it durably as a task. Everything after that belongs to the
//! worker loop.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::crowd::no_place;
use super::route::{NoRoute, Plan, verdict};
use super::spend::{keep_priced, reservation};
use super::{Engine, Inner};
use crate::chaos::{crash, planted};
use crate::domain::code::Code;
use crate::domain::fit::effective;
use crate::domain::id::{AttemptId, FileId, TaskId};
use crate::domain::key::{Key, Limits};
use crate::domain::money::Usd;
use crate::domain::request::GenerateRequest;
use crate::domain::task::{Candidate, Cost, Phase, State, Task};
use crate::domain::trace::Trace;
use crate::providers::{Inputs, Job, Shown};
use crate::store::{Accepted, StoreError};
use crate::trace;

/// Who asks.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Whose tasks these are.
    pub tenant: String,
    /// The name of the key.
    pub key: String,
    /// How much the key may do.
    pub limits: Arc<Limits>,
}

impl From<&Key> for Caller {
    fn from(key: &Key) -> Self {
        Self { tenant: key.tenant.clone(), key: key.name.clone(), limits: Arc::clone(&key.limits) }
    }
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
    /// Every route's circuit is open; the first closes at this moment.
    #[error("every provider that could serve this is failing at present")]
    AllOpen(Duration),
    /// As many tasks are open as may be.
    #[error("{0}")]
    Full(String, Duration),
    /// The key has a budget that does not cover it, or cannot be kept.
    #[error("{1}")]
    NoMoney(Code, String),
    /// The disks have too little room to keep what would come of it.
    #[error("there is too little free space to keep new pictures")]
    NoSpace(Duration),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Engine {
    /// Which routes would serve a request of this caller; stores and sends nothing.
    pub fn plan(&self, caller: &Caller, request: &GenerateRequest) -> Result<Plan, NoRoute> {
        self.inner.plan(&caller.limits, request)
    }

    /// What the first route of a plan would send: one request for each upstream call. Nothing is sent, fetched or stored.
    pub fn preview(&self, plan: &Plan) -> Vec<Shown> {
        let Some(first) = plan.planned.first() else { return Vec::new() };
        let Some(lane) = self.inner.lane(&first.taken.provider) else { return Vec::new() };
        let inputs = Inputs::sketch(&first.request, &first.offer);
        let shown = first.counts().into_iter().map(|count| {
            let mut request = first.request.clone();
            request.n = request.n.map(|_| count);
            let job = Job {
                attempt: AttemptId::floor(self.inner.clock.now()),
                request: &request,
                provider_model: &first.taken.provider_model,
                form: &first.offer.form,
                options: request.provider_options.get(&first.taken.provider),
                inputs: &inputs,
                callback: None,
                not_after: Instant::now(),
            };
            lane.provider.account().shown(&lane.provider.request(&job))
        });
        shown.collect()
    }

    /// The task an idempotency key belongs to already, when its body was the same.
    pub async fn replay(
        &self,
        tenant: &str,
        key: &str,
        fingerprint: &str,
    ) -> Result<Option<Acceptance>, Refusal> {
        match self.inner.store.task_by_key(tenant, key).await? {
            Some(task) if task.fingerprint == fingerprint => Ok(Some(Acceptance { task, replayed: true })),
            Some(task) => Err(Refusal::KeyReused(task.id)),
            None => Ok(None),
        }
    }

    /// Takes a well-formed request in; `fingerprint` is that of the body as the caller sent it, `came` are the files that
    /// stand for images inside it. Once this answers, the task is durable and will reach exactly one end.
    pub async fn accept(
        &self,
        caller: Caller,
        request: GenerateRequest,
        came: Vec<FileId>,
        idempotency_key: Option<String>,
        fingerprint: String,
    ) -> Result<Acceptance, Refusal> {
        let trace = trace::here().place();
        let key = Origin { caller, idempotency: idempotency_key, fingerprint, trace };
        let plan = match self.inner.plan_for(&key, &request) {
            Ok(plan) => plan,
            // What was taken in before is answered, however full the house is and whatever it would take in today.
            Err(refusal) => {
                let Some(idempotency) = &key.idempotency else { return Err(refusal) };
                let earlier = self.replay(&key.caller.tenant, idempotency, &key.fingerprint).await?;
                return earlier.ok_or(refusal);
            }
        };
        let (tenant, limits) = (key.caller.tenant.clone(), Arc::clone(&key.caller.limits));
        let most = limits.concurrent_tasks;
        let (task, parts) = self.inner.divide(key, plan)?;
        crash("accept.received");
        if planted("early_202") {
            let (store, early) = (self.inner.store.clone(), task.clone());
            self.inner.tracker.spawn(async move { store.accept(early, parts, limits, came).await });
            return Ok(Acceptance { task, replayed: false });
        }
        let span = trace::span("task.accept");
        let accepted = span.around(Box::pin(self.inner.store.accept(task, parts, limits, came))).await;
        crash("accept.committed");
        if let Ok(Accepted::Created(task) | Accepted::Replayed(task)) = &accepted {
            for span in [&trace::here(), &span] {
                span.set_with("task.id", || Some(task.id.to_string()));
            }
        }
        drop(span);
        let accepted = accepted.map_err(|error| match error {
            StoreError::OverBudget(short) => Refusal::NoMoney(Code::BudgetExceeded, short.to_string()),
            error => no_place(error, most),
        })?;
        match accepted {
            Accepted::Created(task) => {
                self.inner.crowd.entered(&tenant);
                metrics::counter!(crate::domain::meter::TASKS_ACCEPTED).increment(1);
                Ok(Acceptance { task: *task, replayed: false })
            }
            Accepted::Replayed(task) => Ok(Acceptance { task: *task, replayed: true }),
            Accepted::KeyReused(task) => Err(Refusal::KeyReused(task)),
        }
    }
}

/// Whose a new task is, and what it is known by.
pub(super) struct Origin {
    pub caller: Caller,
    idempotency: Option<String>,
    fingerprint: String,
    /// The place in the trace of the request it came with.
    trace: Option<Trace>,
}

impl Inner {
    /// Which routes would serve a request, in the order of its strategy and the accounts' health.
    fn plan(&self, limits: &Limits, request: &GenerateRequest) -> Result<Plan, NoRoute> {
        let now = self.clock.now();
        self.catalog().plan(request, limits, &|lane, model| self.standing(lane, model, now))
    }

    /// Which routes a caller's task may take, if there is room for it.
    fn plan_for(&self, key: &Origin, request: &GenerateRequest) -> Result<Plan, Refusal> {
        let limits = &key.caller.limits;
        let mut plan = self.plan(limits, request).map_err(Refusal::NoRoute)?;
        if limits.budgeted() {
            keep_priced(&mut plan).map_or(Ok(()), Err)?;
            plan.report_unread(request);
            if plan.planned.is_empty() {
                return Err(Refusal::NoRoute(verdict(&plan.rejected)));
            }
        }
        self.no_room(key, &plan).map_or(Ok(plan), Err)
    }

    /// The task for a plan. Where one upstream call cannot make all pictures, the work is divided into parts, each a task
    /// of its own with its own routes and attempts; the task itself then only waits for them.
    fn divide(&self, key: Origin, plan: Plan) -> Result<(Task, Vec<Task>), Refusal> {
        let first = &plan.planned[0];
        let (wanted, counts) = (first.request.count(), first.counts());
        if first.calls == 1 {
            return Ok((self.new_task(key, plan), Vec::new()));
        }
        let caller = key.caller.clone();
        let trace = key.trace.clone();
        let mut whole = self.new_task(key, plan);
        let mut parts = Vec::with_capacity(counts.len());
        for count in counts {
            let mut request = whole.request.clone();
            request.n = Some(count);
            let share = |most: Usd| Usd::from_nanos(most.nanos() / i64::from(wanted) * i64::from(count));
            request.routing.max_cost_usd = request.routing.max_cost_usd.map(share);
            // Asking for fewer pictures can only open routes, never close the one that was found.
            let mut plan = self.plan(&caller.limits, &request).map_err(Refusal::NoRoute)?;
            if caller.limits.budgeted() {
                keep_priced(&mut plan).map_or(Ok(()), Err)?;
            }
            let trace = self.traces.beneath(trace.as_ref(), &whole.id.to_string()).place();
            let key = Origin { caller: caller.clone(), idempotency: None, fingerprint: String::new(), trace };
            let mut part = self.new_task(key, plan);
            part.parent = Some(whole.id);
            part.created_at = whole.created_at;
            parts.push(part);
        }
        whole.state.cost.reserved = parts.iter().map(|part| part.state.cost.reserved).sum();
        whole.phase = Phase::Gathering;
        whole.wake_at = None;
        whole.state.parts = u32::try_from(parts.len()).unwrap_or(u32::MAX);
        Ok((whole, parts))
    }

    fn new_task(&self, key: Origin, plan: Plan) -> Task {
        let Origin { caller, idempotency, fingerprint, trace } = key;
        let now = self.clock.now();
        let reserved = reservation(&plan);
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
                bound: request.routing.max_cost_usd.or(reserved),
                reserved: reserved.unwrap_or_default(),
                budgeted: caller.limits.budgeted(),
                ..Cost::default()
            },
            candidates: plan
                .planned
                .iter()
                .map(|one| Candidate { route: one.taken.clone(), sends: 0, out: false })
                .collect(),
            route: Some(first.taken.clone()),
            keep_s: self.settings.keeping.media_s(request.retention),
            // task.queued is implied by the task's row.
            events: 1,
            trace,
            ..State::default()
        };
        Task {
            id: TaskId::mint(self.clock.as_ref()),
            tenant: caller.tenant,
            key: caller.key,
            parent: None,
            idempotency_key: idempotency,
            fingerprint,
            model: first.model.clone(),
            operation: first.offer.operation,
            phase: Phase::Queued,
            lane: first.taken.provider.clone(),
            rank: 0,
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
