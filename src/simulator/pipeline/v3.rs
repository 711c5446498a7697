//! imagepipeline v3: `POST /generate/v3`, `GET /generate/v3/status/{id}`.
//!
//! Unknown in the fact sheet and decided here: submit answers 202; early links are in `queued_image_urls`;
//! the webhook carries the status object; a failure's text is in `error`.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, State};
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use super::{poll, told, unprocessable};
use crate::simulator::connection::Switch;
use crate::simulator::dialect::{Dialect, json_answer};
use crate::simulator::faults::Endpoint;
use crate::simulator::fields::{Fields, Wrong};
use crate::simulator::files::{Commission, Format, Place};
use crate::simulator::hooks::{Callback, Letter};
use crate::simulator::intake::{Desk, Glance, Post, Refusal, Ticket};
use crate::simulator::jobs::{self, Ending, Job, Stage, Taken};
use crate::simulator::ledger::Provider;
use crate::simulator::untidy::{Input, Role};
use crate::simulator::world::World;

/// The published default of `samples`: twice the work of one.
const SAMPLES: u64 = 2;
const KNOWN: [&str; 18] = [
    "prompt",
    "negative_prompt",
    "num_inference_steps",
    "samples",
    "width",
    "height",
    "seed",
    "direct_link",
    "server_id",
    "webhook",
    "batch_id",
    "file_prefix",
    "queued_image_urls",
    // Undocumented, sent by the first-party page.
    "enhance_prompt",
    "palette",
    "style",
    "init_image",
    "mask_image",
];
const STYLES: [&str; 10] =
    ["ghibli", "realistic", "anime", "cartoon", "indian", "logo", "book-cover", "pixar", "fashion", "nsfw"];

/// A legal generation.
#[derive(Debug, Clone)]
pub struct Order {
    samples: u64,
    size: (u32, u32),
    /// A friendly name for the file, begun with `file_prefix`.
    friendly: bool,
    early_links: bool,
    batch_id: Option<String>,
    file_prefix: Option<String>,
    inpaint: bool,
    pub callback: Option<Callback>,
}

/// The counter of v3.
pub struct V3;

impl Desk for V3 {
    const ENDPOINT: Endpoint = Endpoint::PipelineSubmit;
    const PROVIDER: Provider = Provider::Pipeline;
    const DIALECT: Dialect = Dialect::Detail;
    const CLOUDFLARE: bool = false;
    type Form = Value;
    type Order = Order;

    async fn read(post: &Post) -> Value {
        serde_json::from_slice(&post.body).unwrap_or(Value::Null)
    }

    fn glance(body: &Value) -> Glance {
        let text = |name: &str| body.get(name).and_then(Value::as_str).map(str::to_owned);
        let samples = body.get("samples").and_then(Value::as_u64);
        Glance {
            prompt: text("prompt").unwrap_or_default(),
            correlation: text("batch_id").or_else(|| text("webhook")),
            n: samples.unwrap_or(SAMPLES),
            note: samples.is_none().then(|| "samples absent: the default of 2 is twice the work".to_owned()),
        }
    }

    fn inputs(body: &Value) -> Vec<Input> {
        let text = |key: &str, role| Some(Input::text(role, body.get(key)?.as_str()?));
        [text("init_image", Role::Image), text("mask_image", Role::Mask)].into_iter().flatten().collect()
    }

    fn check(body: &Value) -> Result<Order, Refusal> {
        check(body).map_err(|wrong| unprocessable(&wrong).into())
    }

    async fn take(world: Arc<World>, ticket: Ticket, order: Order) -> Response {
        let job = world.begin(create(&world, ticket, order)).await;
        let at_once = job.faults.at_once;
        let code = if at_once { StatusCode::OK } else { StatusCode::ACCEPTED };
        let status = match &job.faults.submit_status {
            Some(status) => status.0.as_str(),
            None if at_once => natural(&job, world.now()),
            None => "PENDING",
        };
        let jobs::Order::V3(order) = &job.order else { return unknown() };
        let mut body = render(&world, &job, order, status, 0);
        if job.faults.no_task_id
            && let Some(fields) = body.as_object_mut()
        {
            fields.remove("id");
        }
        json_answer(code, &body)
    }
}

fn unknown() -> Response {
    Dialect::Detail.error(StatusCode::NOT_FOUND, "Not Found")
}

fn check(body: &Value) -> Result<Order, Wrong> {
    let fields = Fields::of(body, "body")?;
    fields.only(&KNOWN)?;
    fields.needed("prompt")?;
    for name in ["negative_prompt", "server_id", "init_image", "mask_image"] {
        fields.text(name)?;
    }
    fields.integer("num_inference_steps", 1..=i64::MAX)?;
    fields.integer("seed", -1..=i64::MAX)?;
    fields.flag("enhance_prompt")?;
    fields.list("palette")?;
    fields.word("style", &STYLES)?;
    let side = |name| -> Result<u32, Wrong> {
        Ok(fields.integer(name, 1..=1536)?.and_then(|side| u32::try_from(side).ok()).unwrap_or(1024))
    };
    let samples = fields.integer("samples", 1..=4)?.and_then(|n| u64::try_from(n).ok());
    let inpaint = fields.has("mask_image");
    if inpaint && !fields.has("init_image") {
        return Err(Wrong::value("init_image", "inpainting takes init_image and mask_image"));
    }
    let text = |name| Ok::<_, Wrong>(fields.text(name)?.filter(|text| !text.is_empty()).map(str::to_owned));
    Ok(Order {
        samples: samples.unwrap_or(SAMPLES),
        size: (side("width")?, side("height")?),
        friendly: fields.flag("direct_link")?.unwrap_or(false),
        early_links: fields.flag("queued_image_urls")?.unwrap_or(false),
        batch_id: text("batch_id")?,
        file_prefix: text("file_prefix")?,
        inpaint,
        callback: text("webhook")?.map(|url| Callback { url, secret: None }),
    })
}

fn create(world: &World, ticket: Ticket, order: Order) -> Job {
    let Ticket { seq, prompt, faults, weight, inputs, .. } = ticket;
    let mut chance = world.chance(seq, "v3");
    let own: f64 = (0..order.samples).map(|_| chance.seconds(3.0, 5.0)).sum();
    let span = world.generation(&faults, own);
    let ending = faults.ending("INTERNAL_ERROR");
    let count = order.samples.saturating_sub(faults.missing.unwrap_or(0));
    // What a caller prefixes becomes part of a path.
    let prefix = order.file_prefix.as_deref().unwrap_or("image");
    let prefix: String =
        prefix.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' }).collect();
    let named = order.friendly || order.file_prefix.is_some();
    let pictures = world.commission(&Commission {
        seq,
        prompt: &prompt,
        caption: if order.inpaint { "inpaint" } else { "" },
        size: order.size,
        format: Format::Png,
        count: if ending == Ending::Completed { count } else { 0 },
        ready: world.now() + span,
        faults: &faults,
        place: if named { Place::Named(&prefix) } else { Place::Host("files") },
    });
    let uuid = chance.uuid();
    let id =
        faults.task_id.as_ref().map_or_else(|| Job::id_of(&faults, seq, uuid), |verbatim| verbatim.0.clone());
    world.ledger.accept(seq, Some(&id), 0);
    let taken = Taken { id, seq, prompt, faults, ending, price_nanos: 0, pictures, weight, inputs };
    Job::new(taken, world.now(), span, jobs::Order::V3(order))
}

fn natural(job: &Job, now: crate::domain::clock::Millis) -> &'static str {
    match job.stage(now) {
        Stage::Pending => "PENDING",
        Stage::Running => "PROCESSING",
        Stage::Ended if matches!(job.ending, Ending::Failed(_)) => "FAILURE",
        Stage::Ended => "SUCCESS",
        Stage::Cancelled => "FAILURE",
    }
}

/// The status object, which is the submit answer and the webhook's body as well.
fn render(world: &World, job: &Job, order: &Order, status: &str, asked: usize) -> Value {
    let mut body = json!({"id": job.id, "status": status});
    let links = || job.pictures.iter().map(|picture| world.link(picture, asked)).collect::<Vec<_>>();
    match status.trim().to_ascii_uppercase().as_str() {
        "SUCCESS" if matches!(job.ending, Ending::NoImage) => body["download_urls"] = json!([]),
        "SUCCESS" => body["download_urls"] = json!(links()),
        "FAILURE" => body["error"] = json!(failure(job)),
        "PROCESSING" => body["stage"] = json!("inference"),
        _ => {}
    }
    if order.early_links && body.get("download_urls").is_none() && body.get("error").is_none() {
        body["queued_image_urls"] = json!(links());
    }
    for (name, value) in [("batch_id", &order.batch_id), ("file_prefix", &order.file_prefix)] {
        if let Some(value) = value {
            body[name] = json!(value);
        }
    }
    body
}

fn failure(job: &Job) -> String {
    let Ending::Failed(failure) = &job.ending else { return "Image generation failed".to_owned() };
    let own = if failure.refused {
        "The prompt was blocked by the content filter."
    } else {
        "Image generation failed"
    };
    failure.reason.as_deref().or(failure.message.as_deref()).unwrap_or(own).to_owned()
}

/// `GET /generate/v3/status/{id}`.
pub async fn status(
    State(world): State<Arc<World>>,
    Path(id): Path<String>,
    Extension(switch): Extension<Switch>,
    headers: HeaderMap,
) -> Response {
    poll(world, Dialect::Detail, &id, &switch, &headers, |world, job, n, rule| {
        let jobs::Order::V3(order) = &job.order else { return None };
        let mut status = told(job, rule, n).unwrap_or_else(|| natural(job, world.now()));
        let success = status.trim().eq_ignore_ascii_case("SUCCESS");
        let asked = if success { job.shown() } else { 0 };
        if job.faults.flap && asked == 1 {
            status = "FAILURE";
        }
        Some(render(world, job, order, status, asked))
    })
    .await
}

/// What a webhook says.
pub fn letter(world: &World, job: &Job, order: &Order, letter: Letter) -> Value {
    match letter {
        Letter::Genuine => render(world, job, order, natural(job, world.now()), 0),
        Letter::Running => render(world, job, order, "PROCESSING", 0),
        Letter::Forged => {
            let links = ["https://attacker.invalid/evil.png"];
            json!({"id": job.id, "status": "SUCCESS", "download_urls": links})
        }
    }
}
