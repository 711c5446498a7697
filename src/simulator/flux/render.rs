//! The task object, as a poll, a submit answer or a webhook shows it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::Order;
use crate::domain::clock::Millis;
use crate::simulator::chance::Chance;
use crate::simulator::faults::{Base64, NoImage};
use crate::simulator::jobs::{Ending, Failure, Job, Stage};
use crate::simulator::world::World;

/// 10,000,000 units are one dollar, so a unit is 100 nano-dollars.
const UNIT: i64 = 100;
const NEVER: &str = "0001-01-01T00:00:00Z";
const INTERNAL: &str = "Internal error. Please try again later.";

/// What the object looks like, whatever its status word says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    Pending,
    Running,
    Done,
    Failed,
    Cancelled,
}

impl Look {
    /// The natural look and word at `now`.
    pub fn natural(job: &Job, now: Millis) -> (Self, &'static str) {
        match job.stage(now) {
            Stage::Pending => (Self::Pending, "pending"),
            Stage::Running => (Self::Running, "processing"),
            Stage::Ended if matches!(job.ending, Ending::Failed(_)) => (Self::Failed, "failed"),
            Stage::Ended => (Self::Done, "completed"),
            Stage::Cancelled => (Self::Cancelled, "canceled"),
        }
    }

    /// The look that goes with a word put there on purpose. A word nobody knows goes with a running task.
    pub fn of(word: &str) -> Self {
        match word.trim().to_ascii_lowercase().as_str() {
            "completed" | "complete" | "success" | "succeeded" => Self::Done,
            "failed" | "failure" | "error" | "rejected" => Self::Failed,
            "canceled" | "cancelled" => Self::Cancelled,
            "" | "pending" | "starting" | "staged" | "retry" => Self::Pending,
            _ => Self::Running,
        }
    }
}

/// What is shown of a task this time.
#[derive(Debug, Clone)]
pub struct View {
    pub look: Look,
    /// The status word, which may say something else.
    pub status: String,
    /// How often its links were handed out before.
    pub asked: usize,
}

/// The unified object.
pub async fn unified(world: &World, job: &Job, order: &Order, view: &View) -> Value {
    let failed = view.look == Look::Failed;
    let failure = match &job.ending {
        Ending::Failed(failure) => failure.clone(),
        _ => Failure { refused: false, code: None, message: None, reason: None },
    };
    let output =
        if view.look == Look::Done { output(world, job, order, view.asked).await } else { Value::Null };
    let mut input = order.input.clone();
    if let Some(other) = &job.faults.other_prompt {
        input["prompt"] = json!(other);
    }
    json!({
        "task_id": job.id,
        "model": order.model_name,
        "task_type": order.task_type,
        "status": view.status,
        "config": order.config,
        "input": input,
        "output": output,
        "meta": meta(job, order, view.look),
        "detail": null,
        "logs": if failed { logs(job, &failure) } else { json!([]) },
        "error": if failed { error(&failure) } else {
            json!({"code": 0, "raw_message": "", "message": "", "detail": null})
        },
    })
}

/// The schema that only the get-task page knows.
pub fn legacy(world: &World, job: &Job, order: &Order, view: &View) -> Value {
    let ended = matches!(view.look, Look::Done | Look::Failed | Look::Cancelled);
    let url = match (view.look, job.pictures.first()) {
        (Look::Done, Some(picture)) => world.link(picture, view.asked),
        _ => String::new(),
    };
    let stamp = |at: Millis| {
        jiff::Timestamp::from_millisecond(at.0).map_or_else(|_| String::new(), |at| format!("{at:.0}"))
    };
    let errors = match &job.ending {
        Ending::Failed(failure) if view.look == Look::Failed => logs(job, failure),
        _ => json!([]),
    };
    let image = order.input.get("image").and_then(Value::as_str).unwrap_or_default();
    json!({
        "task_id": job.id,
        "task_type": order.task_type,
        "status": view.status,
        "task_info": {
            "created_at": stamp(job.created),
            "started_at": if view.look == Look::Pending { String::new() } else { stamp(job.starts) },
            "completed_at": if ended { stamp(job.ended()) } else { String::new() },
            "frozen_credits": if ended { 0 } else { job.price_nanos / UNIT },
            "task_input": {"scale": 1, "image": image},
        },
        "task_result": {
            "used_credits": if ended { job.bill().1 / UNIT } else { 0 },
            "error_messages": errors,
            "task_output": {"image_base64": "", "image_url": url},
        },
    })
}

/// One link in `image_url`, several in `image_urls` beside an empty `image_url`. The preprocessed control
/// image, when asked for, is the second of several: where it goes is not published.
async fn output(world: &World, job: &Job, order: &Order, asked: usize) -> Value {
    if let Some(variant) = job.faults.no_image.and_then(|variant| variant.or(NoImage::Null)) {
        return match variant {
            NoImage::Null => Value::Null,
            NoImage::Object => json!({}),
            NoImage::String => json!(""),
            NoImage::Array => json!([]),
            NoImage::EmptyUrls => json!({"image_base64": "", "image_url": "", "image_urls": []}),
        };
    }
    let links: Vec<_> = job.pictures.iter().map(|picture| world.link(picture, asked)).collect();
    let mut output = match links.as_slice() {
        links if job.faults.both_urls => {
            json!({"image_base64": "", "image_url": links.first(), "image_urls": links})
        }
        [link] if order.batch == 1 => json!({"image_base64": "", "image_url": link}),
        links => json!({"image_base64": "", "image_url": "", "image_urls": links}),
    };
    let packed = job.faults.base64.and_then(|packed| packed.or(Base64::Only));
    if let (Some(packed), Some(picture)) = (packed, job.pictures.first()) {
        output["image_base64"] = json!(STANDARD.encode(world.file(picture).await.unwrap_or_default()));
        if packed == Base64::Only {
            output["image_url"] = json!("");
        }
    }
    output
}

fn meta(job: &Job, order: &Order, look: Look) -> Value {
    let units = job.price_nanos / UNIT;
    // As recorded: a pending task shows its price as consumed already, a running one as frozen.
    let (frozen, consume) = match look {
        Look::Pending => (0, units),
        Look::Running => (units, 0),
        Look::Done | Look::Failed => (0, job.bill().1 / UNIT),
        Look::Cancelled => (0, 0),
    };
    let stamp = |at: Millis, purpose: &str| {
        let nanos = i128::from(Chance::new(0, job.seq, purpose).between(0, 999_999));
        jiff::Timestamp::from_nanosecond(i128::from(at.0) * 1_000_000 + nanos)
            .map_or_else(|_| NEVER.to_owned(), |at| format!("{at:.9}"))
    };
    let started = look != Look::Pending && look != Look::Cancelled;
    let ended = matches!(look, Look::Done | Look::Failed | Look::Cancelled);
    json!({
        "created_at": stamp(job.created, "created"),
        "started_at": if started { stamp(job.starts, "started") } else { NEVER.to_owned() },
        "ended_at": if ended { stamp(job.ended(), "ended") } else { NEVER.to_owned() },
        "usage": {
            "type": if order.task_type == "kontext" { "llm" } else { "quota" },
            "frozen": frozen,
            "consume": consume,
        },
        "is_using_private_pool": false,
    })
}

/// Code 10000 says nothing and leaves the reason to the logs; 10003 is a refusal for content.
fn error(failure: &Failure) -> Value {
    let (code, message) = if failure.refused {
        ("10003", "Your content violated community guidelines.")
    } else {
        ("10000", INTERNAL)
    };
    let code = failure.code.as_deref().unwrap_or(code);
    let code = code.parse::<i64>().map_or_else(|_| json!(code), Value::from);
    let message = failure.message.as_deref().unwrap_or(message);
    json!({"code": code, "raw_message": "", "message": message, "detail": null})
}

fn logs(job: &Job, failure: &Failure) -> Value {
    let reason =
        if failure.refused { "The request was rejected due to copyright restrictions." } else { INTERNAL };
    let mut logs = vec![failure.reason.as_deref().unwrap_or(reason)];
    if job.faults.restored.unwrap_or(job.bill().1 == 0) {
        logs.push("restored frozen points");
    }
    logs.push(failure.message.as_deref().unwrap_or(INTERNAL));
    json!(logs)
}

impl View {
    /// The task as it is.
    pub fn natural(job: &Job, now: Millis) -> Self {
        let (look, status) = Look::natural(job, now);
        Self { look, status: status.to_owned(), asked: 0 }
    }
}
