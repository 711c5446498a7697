//! imagepipeline's current jobs API: `POST /generate/image/v1`, `GET /generate/image/v1/status/{job_id}`.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, State};
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use super::{poll, told, unprocessable};
use crate::domain::clock::Millis;
use crate::simulator::connection::Switch;
use crate::simulator::dialect::{Dialect, json_answer};
use crate::simulator::faults::Endpoint;
use crate::simulator::fields::{Fields, Wrong};
use crate::simulator::files::{Commission, Format, Place};
use crate::simulator::hooks::{Callback, Letter};
use crate::simulator::intake::{Desk, Glance, Post, Refusal, Ticket};
use crate::simulator::jobs::{self, Ending, Job, Stage, Taken};
use crate::simulator::ledger::Provider;
use crate::simulator::world::World;

const PATH: &str = "/generate/image/v1";
const KNOWN: [&str; 11] = [
    "prompt",
    "width",
    "height",
    "steps",
    "guidance",
    "seed",
    "output_format",
    "enhance_prompt",
    "logo_url",
    "profile_id",
    "callback_url",
];
/// The reason codes, and whether the API calls them retryable. `CANCELLED` is not marked; taken as not.
const REASONS: [(&str, bool); 11] = [
    ("RATE_LIMIT_EXCEEDED", true),
    ("CONCURRENT_JOBS_EXCEEDED", true),
    ("INSUFFICIENT_CREDITS", false),
    ("CREDIT_CHARGE_FAILED", false),
    ("INPUT_INVALID", false),
    ("MODEL_ERROR", true),
    ("MODEL_UNAVAILABLE", true),
    ("STORAGE_ERROR", true),
    ("TIMEOUT", true),
    ("INTERNAL_ERROR", true),
    ("CANCELLED", false),
];

/// A legal job.
#[derive(Debug, Clone)]
pub struct Order {
    size: (u32, u32),
    format: Format,
    pub callback: Option<Callback>,
}

/// The counter of v1.
pub struct V1;

impl Desk for V1 {
    const ENDPOINT: Endpoint = Endpoint::PipelineSubmit;
    const PROVIDER: Provider = Provider::Pipeline;
    const DIALECT: Dialect = Dialect::Jobs;
    const CLOUDFLARE: bool = false;
    type Form = Value;
    type Order = Order;

    async fn read(post: &Post) -> Value {
        serde_json::from_slice(&post.body).unwrap_or(Value::Null)
    }

    fn glance(body: &Value) -> Glance {
        let text = |name: &str| body.get(name).and_then(Value::as_str).map(str::to_owned);
        Glance {
            prompt: text("prompt").unwrap_or_default(),
            correlation: text("callback_url"),
            n: 1,
            note: None,
        }
    }

    fn check(body: &Value) -> Result<Order, Refusal> {
        check(body).map_err(|wrong| unprocessable(&wrong).into())
    }

    async fn take(world: Arc<World>, ticket: Ticket, order: Order) -> Response {
        let job = world.begin(create(&world, ticket, order)).await;
        let status = job.faults.submit_status.as_ref().map_or("queued", |status| status.0.as_str());
        let mut body = json!({
            "job_id": job.id,
            "status": status,
            "endpoint": PATH,
            "estimated_time_seconds": 8,
            "queued_at": stamp(job.created),
        });
        if job.faults.no_task_id
            && let Some(fields) = body.as_object_mut()
        {
            fields.remove("job_id");
        }
        json_answer(StatusCode::OK, &body)
    }
}

fn stamp(at: Millis) -> String {
    jiff::Timestamp::from_millisecond(at.0).map_or_else(|_| String::new(), |at| format!("{at:.0}"))
}

fn check(body: &Value) -> Result<Order, Wrong> {
    let fields = Fields::of(body, "body")?;
    fields.only(&KNOWN)?;
    fields.needed("prompt")?;
    fields.integer("steps", 1..=i64::MAX)?;
    fields.number("guidance", |_| true, "")?;
    fields.integer("seed", -1..=i64::MAX)?;
    fields.flag("enhance_prompt")?;
    fields.text("logo_url")?;
    fields.text("profile_id")?;
    let format = fields.word("output_format", &["webp", "jpeg", "png"])?.and_then(Format::named);
    let side = |name| -> Result<u32, Wrong> {
        Ok(fields.integer(name, 1..=1024)?.and_then(|side| u32::try_from(side).ok()).unwrap_or(1024))
    };
    let callback = fields.text("callback_url")?.filter(|url| !url.is_empty());
    Ok(Order {
        size: (side("width")?, side("height")?),
        format: format.unwrap_or(Format::Webp),
        callback: callback.map(|url| Callback { url: url.to_owned(), secret: None }),
    })
}

fn create(world: &World, ticket: Ticket, order: Order) -> Job {
    let Ticket { seq, prompt, faults, weight, inputs, .. } = ticket;
    let mut chance = world.chance(seq, "v1");
    let span = world.generation(&faults, chance.seconds(5.0, 9.0));
    let ending = faults.ending("INTERNAL_ERROR");
    let count = 1_u64.saturating_sub(faults.missing.unwrap_or(0));
    let pictures = world.commission(&Commission {
        seq,
        prompt: &prompt,
        caption: "",
        size: order.size,
        format: order.format,
        count: if ending == Ending::Completed { count } else { 0 },
        ready: world.now() + span,
        faults: &faults,
        place: Place::Host("files"),
    });
    let letters = chance.text("0123456789abcdef", 12);
    let id = faults
        .task_id
        .as_ref()
        .map_or_else(|| Job::id_of(&faults, seq, format!("job_{letters}")), |verbatim| verbatim.0.clone());
    world.ledger.accept(seq, Some(&id), 0);
    let taken = Taken { id, seq, prompt, faults, ending, price_nanos: 0, pictures, weight, inputs };
    Job::new(taken, world.now(), span, jobs::Order::V1(order))
}

fn natural(job: &Job, now: Millis) -> &'static str {
    match job.stage(now) {
        Stage::Pending => "queued",
        Stage::Running => "processing",
        Stage::Ended if matches!(job.ending, Ending::Failed(_)) => "failed",
        Stage::Ended => "completed",
        Stage::Cancelled => "cancelled",
    }
}

fn render(world: &World, job: &Job, order: &Order, status: &str, asked: usize) -> Value {
    let mut body = json!({"job_id": job.id, "status": status});
    match status.trim().to_ascii_lowercase().as_str() {
        "completed" => {
            let (wait, work) = (job.starts.since(job.created), job.ends.since(job.starts));
            body["progress"] = json!(100);
            if let Some(picture) = job.pictures.first() {
                body["result_url"] = json!(world.link(picture, asked));
                body["result_mime_type"] = json!(order.format.mime());
            }
            body["queue_wait_seconds"] = json!(wait.as_secs_f64());
            body["inference_time_seconds"] = json!(work.as_secs_f64());
            body["total_elapsed_seconds"] = json!((wait + work).as_secs_f64());
            body["credits_charged"] = json!(true);
            body["credits_amount"] = json!(1);
        }
        "failed" => {
            let (code, error) = failure(job);
            let retryable = REASONS.iter().any(|(known, retryable)| *known == code && *retryable);
            body["error"] = json!(error);
            body["failure_reason_code"] = json!(code);
            body["retryable"] = json!(retryable);
        }
        "processing" => body["progress"] = json!(50),
        _ => {}
    }
    body
}

fn failure(job: &Job) -> (String, String) {
    let Ending::Failed(failure) = &job.ending else {
        return ("MODEL_ERROR".to_owned(), "Image generation failed".to_owned());
    };
    let (code, error) = if failure.refused {
        ("INPUT_INVALID", "The prompt was blocked by the content filter.")
    } else {
        ("INTERNAL_ERROR", "Image generation failed")
    };
    let said = failure.reason.as_deref().or(failure.message.as_deref());
    (failure.code.as_deref().unwrap_or(code).to_owned(), said.unwrap_or(error).to_owned())
}

/// `GET /generate/image/v1/status/{job_id}`.
pub async fn status(
    State(world): State<Arc<World>>,
    Path(id): Path<String>,
    Extension(switch): Extension<Switch>,
    headers: HeaderMap,
) -> Response {
    poll(world, Dialect::Jobs, &id, &switch, &headers, |world, job, n, rule| {
        let jobs::Order::V1(order) = &job.order else { return None };
        let mut status = told(job, rule, n).unwrap_or_else(|| natural(job, world.now()));
        let asked = if status.trim().eq_ignore_ascii_case("completed") { job.shown() } else { 0 };
        if job.faults.flap && asked == 1 {
            status = "failed";
        }
        Some(render(world, job, order, status, asked))
    })
    .await
}

/// What a webhook says; its shape is documented.
pub async fn letter(world: &World, job: &Job, order: &Order, letter: Letter) -> Value {
    let now = world.now();
    let mut body = json!({
        "job_id": job.id,
        "user_id": "usr_123",
        "status": if letter == Letter::Running { "processing" } else { natural(job, now) },
        "timestamp": now.0 / 1000,
    });
    if letter == Letter::Forged {
        body["status"] = json!("completed");
        body["result_url"] = json!("https://attacker.invalid/evil.png");
    } else if letter == Letter::Genuine
        && job.stage(now) == Stage::Ended
        && let Some(picture) = job.pictures.first()
    {
        let file = world.file(picture).await.unwrap_or_default();
        body["result_url"] = json!(world.link(picture, 0));
        body["result_mime_type"] = json!(order.format.mime());
        body["result_size_bytes"] = json!(file.len());
    }
    body
}
