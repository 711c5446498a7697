//! A task as callers see it: the body of every answer, terminal event and webhook.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::attempt::{Billing, ProviderUnits};
use super::clock::Millis;
use super::code::Code;
use super::fit::Adjustment;
use super::id::TaskId;
use super::image::{ImageKind, MediaType, StoredImage};
use super::link::{Links, image_path};
use super::money::Usd;
use super::request::Operation;
use super::task::{Failure, Phase, ProviderWords, RouteTaken, Task};

/// Where a task stands, in three words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// No provider is at work on it.
    Queued,
    /// A provider is, or its pictures are being brought here.
    InProgress,
    /// Pictures are here.
    Succeeded,
    /// It ended without a picture.
    Failed,
    /// The caller called it off.
    Canceled,
}

impl Status {
    /// The phases it covers.
    pub const fn phases(self) -> &'static [Phase] {
        match self {
            Self::Queued => &[Phase::Queued],
            Self::InProgress => {
                &[Phase::Submitting, Phase::Waiting, Phase::Reconciling, Phase::Gathering, Phase::Storing]
            }
            Self::Succeeded => &[Phase::Succeeded],
            Self::Failed => &[Phase::Failed],
            Self::Canceled => &[Phase::Canceled],
        }
    }

    fn of(phase: Phase) -> Self {
        match phase {
            Phase::Queued => Self::Queued,
            Phase::Submitting | Phase::Waiting | Phase::Reconciling | Phase::Gathering | Phase::Storing => {
                Self::InProgress
            }
            Phase::Succeeded => Self::Succeeded,
            Phase::Failed => Self::Failed,
            Phase::Canceled => Self::Canceled,
        }
    }
}

/// A finer word for where a task that has not ended stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// For room at a provider.
    Waiting,
    /// A provider is being asked.
    Submitting,
    /// A provider is drawing.
    Generating,
    /// It is being found out whether a provider accepted.
    Reconciling,
    /// The pictures are being brought here.
    Saving,
}

impl Stage {
    fn of(phase: Phase) -> Option<Self> {
        match phase {
            Phase::Queued => Some(Self::Waiting),
            Phase::Submitting => Some(Self::Submitting),
            Phase::Waiting | Phase::Gathering => Some(Self::Generating),
            Phase::Reconciling => Some(Self::Reconciling),
            Phase::Storing => Some(Self::Saving),
            Phase::Succeeded | Phase::Failed | Phase::Canceled => None,
        }
    }
}

/// A task.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct TaskView {
    /// Its id; never a provider's.
    pub id: TaskId,
    /// `image.task`
    #[schema(example = "image.task")]
    pub object: &'static str,
    /// Where it stands.
    pub status: Status,
    /// A finer word; `null` once it has ended.
    pub phase: Option<Stage>,
    /// The kind of work.
    pub operation: Operation,
    /// The model that serves it.
    pub model: String,
    /// What was asked for.
    pub prompt: String,
    /// When it was accepted.
    pub created_at: Millis,
    /// When a provider was first asked.
    pub started_at: Option<Millis>,
    /// When it ended.
    pub finished_at: Option<Millis>,
    /// When it must have ended.
    pub deadline_at: Millis,
    /// When its pictures are deleted: the moment itself once they are here, before that the latest it can be; `null` when there
    /// are none or they are kept for ever.
    pub expires_at: Option<Millis>,
    /// When `DELETE /tasks/{id}` erased what was asked for and what came of it; what is left is for the books.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub erased_at: Option<Millis>,
    /// How far it is, 0 to 1, when the provider says.
    pub progress: Option<f32>,
    /// Its place in line and when to expect it; `null` once it has ended, in lists and in events.
    pub queue: Option<QueueView>,
    /// The route in hand.
    pub route: Option<RouteTaken>,
    /// The parameters as that route honours them.
    #[schema(value_type = Object)]
    pub effective: Value,
    /// What was not honoured as asked.
    pub adjustments: Vec<Adjustment>,
    /// The pictures; at least one once it has succeeded.
    pub images: Vec<ImageView>,
    /// What it costs.
    pub cost: CostView,
    /// Why it ended without a picture.
    pub error: Option<Problem>,
    /// Whether it can still be called off.
    pub cancelable: bool,
    /// Whether fewer pictures came than were asked for.
    pub partial: bool,
    /// What came after the task had ended; the status stays what it was.
    pub late_result: Option<LateView>,
    /// Where to go from here.
    pub urls: Urls,
    /// The caller's own labels.
    #[schema(value_type = Object)]
    pub metadata: BTreeMap<String, String>,
}

/// A task's place in line.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct QueueView {
    /// 1 is next; 0 once a provider is at work on it.
    pub position: i64,
    /// Seconds until its pictures can be expected, by what this provider usually takes.
    pub eta_s: u64,
}

/// A picture.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ImageView {
    /// Its place, from 0.
    pub index: u32,
    /// Opens without a key until `url_expires_at`; a fresh one comes with every GET.
    pub url: String,
    /// When `url` stops working.
    pub url_expires_at: Millis,
    /// Its type, read from the bytes.
    pub media_type: MediaType,
    /// Pixels across, read from the bytes.
    pub width: u32,
    /// Pixels down, read from the bytes.
    pub height: u32,
    /// Its length.
    pub bytes: u64,
    /// SHA-256 of its bytes, in hex.
    pub sha256: String,
    /// What it shows.
    pub kind: ImageKind,
    /// Its bytes, base64-encoded: with `output.delivery = "b64"`, in answers about the one task alone; never in lists, events
    /// or webhooks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub b64_json: Option<String>,
}

/// A result that came after its task had ended.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct LateView {
    /// When it was here.
    pub received_at: Millis,
    /// Provider id.
    pub provider: String,
    /// Its pictures.
    pub images: Vec<ImageView>,
}

/// What a task costs, in US dollars.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct CostView {
    /// By the catalogue; `null` when no price is known.
    pub estimated_usd: Option<Usd>,
    /// What is set aside for what it may yet spend; 0 once it has ended.
    pub reserved_usd: Option<Usd>,
    /// What was charged; `null` while that is not known.
    pub actual_usd: Option<Usd>,
    /// Whether a provider charged.
    pub billed: Billing,
    /// The most that may have been or be charged over all attempts; `null` when no price is known.
    pub max_possible_usd: Option<Usd>,
    /// In the provider's own units, when it says.
    pub provider_units: Option<ProviderUnits>,
}

/// Addresses of a task's parts.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Urls {
    /// The task.
    #[serde(rename = "self")]
    pub this: String,
    /// Server-sent events.
    pub events: String,
    /// POST here to call it off.
    pub cancel: String,
    /// Every try at a provider.
    pub attempts: String,
}

/// An RFC 9457 problem about a task, or about a request.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(example = json!({"type": "/errors/validation_failed", "title": "Request is not valid", "status": 422, "code": "validation_failed",
    "detail": "n: must be from 1 to 10", "retryable": false, "billed": "no", "request_id": "req_01k9zq5s4m8v2c6x0b3n7d1f5g",
    "errors": [{"pointer": "/n", "code": "out_of_range", "detail": "must be from 1 to 10"}]}))]
pub struct Problem {
    /// A page about the code, on this gateway.
    #[serde(rename = "type")]
    pub kind: String,
    /// What the code means.
    pub title: &'static str,
    /// HTTP status that belongs to the code.
    pub status: u16,
    /// What happened this time.
    pub detail: String,
    /// What it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// The code.
    pub code: Code,
    /// Whether the same request can succeed later.
    pub retryable: bool,
    /// Whether a provider charged.
    pub billed: Billing,
    /// The task.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task_id: Option<TaskId>,
    /// The request that met it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The provider's own words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<ProviderWords>,
    /// Every fault of the request, with a pointer to it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<super::validate::FieldError>,
}

impl Problem {
    /// A problem with nothing but its code and what happened.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let meaning = code.meaning();
        Self {
            kind: format!("/errors/{code}"),
            title: meaning.title,
            status: meaning.status,
            detail: detail.into(),
            instance: None,
            code,
            retryable: meaning.retryable,
            billed: Billing::No,
            task_id: None,
            request_id: None,
            provider: None,
            errors: Vec::new(),
        }
    }

    /// Why a task failed.
    fn of(task: TaskId, failure: &Failure) -> Self {
        Self {
            instance: Some(format!("/tasks/{task}")),
            billed: failure.billed,
            // What may have been paid for is not to be bought again on an SDK's own accord.
            retryable: failure.code.meaning().retryable && failure.billed == Billing::No,
            task_id: Some(task),
            provider: failure.provider.clone(),
            ..Self::new(failure.code, failure.detail.clone())
        }
    }
}

/// A task with its pictures, as seen at `now`.
pub fn view(task: &Task, images: &[StoredImage], links: &Links, now: Millis) -> TaskView {
    let (id, state) = (task.id, &task.state);
    let to = |rest: &str| links.to(&format!("/tasks/{id}{rest}"));
    let shown = |late: bool| {
        let images = images.iter().filter(|image| image.late == late);
        images.map(|image| picture(task, image, links, now)).collect()
    };
    let late_result = state.late.last().map(|late| LateView {
        received_at: late.at,
        provider: late.provider.clone(),
        images: shown(true),
    });
    TaskView {
        id,
        object: "image.task",
        status: Status::of(task.phase),
        phase: Stage::of(task.phase),
        operation: task.operation,
        model: task.model.clone(),
        prompt: task.request.prompt.clone(),
        created_at: task.created_at,
        started_at: task.started_at,
        finished_at: task.finished_at,
        deadline_at: task.deadline_at,
        expires_at: task.expires_at(),
        erased_at: state.erased_at,
        progress: state.progress,
        queue: None,
        route: state.route.clone(),
        effective: state.effective.clone(),
        adjustments: state.adjustments.clone(),
        images: shown(false),
        cost: cost(task),
        error: state.failure.as_ref().map(|failure| Problem::of(id, failure)),
        cancelable: matches!(task.phase, Phase::Queued | Phase::Gathering)
            || (task.phase == Phase::Waiting && state.cancels && state.stopping.is_none()),
        partial: state.partial,
        late_result,
        urls: Urls { this: to(""), events: to("/events"), cancel: to("/cancel"), attempts: to("/attempts") },
        metadata: task.request.metadata.clone(),
    }
}

fn picture(task: &Task, image: &StoredImage, links: &Links, now: Millis) -> ImageView {
    let (url, url_expires_at) = links.signed(&image_path(task.id, image.index), now);
    ImageView {
        index: image.index,
        url,
        url_expires_at,
        media_type: image.media_type,
        width: image.width,
        height: image.height,
        bytes: image.bytes,
        sha256: image.sha256.clone(),
        kind: image.kind,
        b64_json: None,
    }
}

fn cost(task: &Task) -> CostView {
    let cost = task.state.cost;
    let settled = task.phase.terminal() && task.billed() != Billing::Unknown && cost.unresolved == Usd::ZERO;
    CostView {
        estimated_usd: cost.estimated,
        reserved_usd: cost.bound.map(|_| cost.reserved),
        actual_usd: settled.then_some(cost.settled),
        // Until something is known, a task that was sent may have been charged for.
        billed: match (task.state.billed, task.phase) {
            (Some(billed), _) => billed,
            (None, Phase::Queued | Phase::Failed | Phase::Canceled) => Billing::No,
            (None, _) => Billing::Unknown,
        },
        max_possible_usd: cost.bound,
        provider_units: task.state.units.clone(),
    }
}
