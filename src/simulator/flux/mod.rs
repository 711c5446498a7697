//! PiAPI's task API with the Flux models: submit, poll, cancel.

mod check;
mod render;

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, State};
use axum::response::Response;
use http::{HeaderMap, StatusCode, header};
use serde_json::{Value, json};

pub use self::check::Order;
use self::render::{Look, View};
use super::connection::Switch;
use super::dialect::{Dialect, check_key, cloudflare_blocked, envelope, json_answer};
use super::faults::answer::Caller;
use super::faults::{Endpoint, Faults};
use super::fields::Wrong;
use super::files::{Commission, Format, Place};
use super::hooks::Letter;
use super::intake::{Desk, Glance, Post, Refusal, Ticket, with_faults};
use super::jobs::{self, Ending, Job, Taken};
use super::ledger::{KeyCheck, Provider};
use super::untidy::{self, Input, Role};
use super::world::World;

/// The counter for tasks.
pub struct Flux;

impl Desk for Flux {
    const ENDPOINT: Endpoint = Endpoint::FluxSubmit;
    const PROVIDER: Provider = Provider::Flux;
    const DIALECT: Dialect = Dialect::Envelope;
    const CLOUDFLARE: bool = true;
    type Form = Value;
    type Order = Order;

    async fn read(post: &Post) -> Value {
        serde_json::from_slice(&post.body).unwrap_or(Value::Null)
    }

    fn glance(body: &Value) -> Glance {
        let text = |path: &str| body.pointer(path).and_then(Value::as_str).map(str::to_owned);
        Glance {
            prompt: text("/input/prompt").unwrap_or_default(),
            correlation: text("/config/webhook_config/endpoint").filter(|endpoint| !endpoint.is_empty()),
            n: body.pointer("/input/batch_size").and_then(Value::as_u64).unwrap_or(1),
            note: None,
        }
    }

    fn inputs(body: &Value) -> Vec<Input> {
        let text = |path: &str, role| Some(Input::text(role, body.pointer(path)?.as_str()?));
        let control = "/input/control_net_settings/0/control_image";
        [text("/input/image", Role::Image), text(control, Role::Control)].into_iter().flatten().collect()
    }

    fn check(body: &Value) -> Result<Order, Refusal> {
        check::check(body).map_err(|Wrong { field, message, .. }| {
            envelope(StatusCode::BAD_REQUEST, &format!("invalid request: {field}: {message}")).into()
        })
    }

    async fn take(world: Arc<World>, ticket: Ticket, order: Order) -> Response {
        let job = world.begin(create(&world, ticket, order)).await;
        submitted(&world, &job).await
    }
}

fn create(world: &World, ticket: Ticket, order: Order) -> Job {
    let Ticket { seq, prompt, faults, weight, inputs, .. } = ticket;
    let mut chance = world.chance(seq, "flux");
    let (low, high) = order.model.seconds();
    let span = world.generation(&faults, chance.seconds(low, high));
    let uuid = chance.uuid();
    let id = match (&faults.task_id, faults.task_id_bytes) {
        (Some(verbatim), _) => verbatim.0.clone(),
        (None, Some(bytes)) => "t".repeat(bytes),
        (None, None) => Job::id_of(&faults, seq, uuid),
    };
    let ending = faults.ending("10000");
    let price_nanos = order.model.price_nanos() * i64::try_from(order.batch).unwrap_or(1);
    let caption = if order.task_type == "txt2img" { "" } else { &order.task_type };
    let count = order.batch.saturating_sub(faults.missing.unwrap_or(0));
    let wanted = if ending == Ending::Completed { count } else { 0 };
    let commission = Commission {
        seq,
        prompt: &prompt,
        caption,
        size: order.size,
        format: Format::Png,
        count: if order.preprocessed && wanted > 0 { wanted + 1 } else { wanted },
        ready: world.now() + span,
        faults: &faults,
        place: Place::Host("files"),
    };
    let pictures = world.commission(&commission);
    world.ledger.accept(seq, Some(&id), price_nanos);
    let taken = Taken { id, seq, prompt, faults, ending, price_nanos, pictures, weight, inputs };
    Job::new(taken, world.now(), span, jobs::Order::Flux(order))
}

fn order(job: &Job) -> Option<&Order> {
    match &job.order {
        jobs::Order::Flux(order) => Some(order),
        jobs::Order::V3(_) | jobs::Order::V1(_) => None,
    }
}

/// The answer to a submit: the task as pending, however quickly it is done.
async fn submitted(world: &World, job: &Job) -> Response {
    let Some(order) = order(job) else { return not_found() };
    let status = job.faults.submit_status.as_ref().map_or("pending", |status| status.0.as_str());
    let view = View { look: Look::of(status), status: status.to_owned(), asked: 0 };
    let mut data = render::unified(world, job, order, &view).await;
    if job.faults.no_task_id
        && let Some(fields) = data.as_object_mut()
    {
        fields.remove("task_id");
    }
    wrapped(&job.faults, data)
}

/// Puts the task into its envelope, or not.
fn wrapped(faults: &Faults, data: Value) -> Response {
    let code = faults.envelope_code.unwrap_or(200);
    let message = if code == 200 { "success" } else { "error" };
    let body =
        if faults.no_envelope { data } else { json!({"code": code, "data": data, "message": message}) };
    json_answer(StatusCode::OK, &body)
}

fn not_found() -> Response {
    envelope(StatusCode::NOT_FOUND, "task not found")
}

/// A GET or DELETE passes the same door as a POST, but an account without credit may still look.
fn door(headers: &HeaderMap) -> Option<Response> {
    if !headers.contains_key(header::USER_AGENT) {
        return Some(cloudflare_blocked());
    }
    let check = check_key(Dialect::Envelope.key(headers));
    let shut = matches!(check, KeyCheck::Missing | KeyCheck::Bad);
    if shut { Dialect::Envelope.refuse_key(check) } else { None }
}

/// `GET /api/v1/task/{id}`.
pub async fn poll(
    State(world): State<Arc<World>>,
    Path(id): Path<String>,
    Extension(switch): Extension<Switch>,
    headers: HeaderMap,
) -> Response {
    if let Some(shut) = door(&headers) {
        return shut;
    }
    world.settle();
    let job = world.jobs.get(&id);
    let prompt = job.as_ref().map_or("", |job| job.prompt.as_str());
    let key = Dialect::Envelope.key(&headers);
    let rule = world.rules.find(Endpoint::FluxPoll, key, prompt);
    let caller = Caller { switch: &switch, dialect: Dialect::Envelope, key };
    let natural = async {
        match &job {
            Some(job) => state(&world, job, rule.as_ref(), &switch).await,
            None => not_found(),
        }
    };
    with_faults(rule.as_ref(), caller, natural).await
}

/// The task as this poll sees it. What a rule says about polls goes before what the submit asked for.
async fn state(world: &World, job: &Job, rule: Option<&Faults>, switch: &Switch) -> Response {
    let Some(order) = order(job) else { return not_found() };
    let n = job.polled();
    let faults = &job.faults;
    if let Some(status) = faults.poll_status(n) {
        return envelope(status, "polled too often or too early");
    }
    if faults.poll_404 || rule.is_some_and(|rule| rule.poll_404) {
        return not_found();
    }
    let mut view = View::natural(job, world.now());
    let ruled = rule.and_then(|rule| rule.status.as_ref()?.at(0));
    if let Some(status) = ruled.or_else(|| faults.status.as_ref()?.at(n)) {
        view = View { look: Look::of(status), status: status.to_owned(), asked: 0 };
    }
    if view.look == Look::Done {
        view.asked = job.shown();
        if faults.flap && view.asked == 1 {
            view = View { look: Look::Failed, status: "failed".to_owned(), asked: 0 };
        }
    }
    let legacy = faults.legacy || rule.is_some_and(|rule| rule.legacy);
    let data = if legacy {
        render::legacy(world, job, order, &view)
    } else {
        render::unified(world, job, order, &view).await
    };
    let shape = rule.filter(|rule| rule.no_envelope || rule.envelope_code.is_some());
    let own = Faults { no_envelope: faults.no_envelope, ..Faults::default() };
    let answer = wrapped(shape.unwrap_or(&own), data);
    let scene = job.scene(Endpoint::FluxPoll, n);
    untidy::lay(world, job.untidy(rule), &scene, switch, answer).await
}

/// `DELETE /api/v1/task/{id}`. Undocumented for Flux; this is the answer documented for others.
pub async fn cancel(
    State(world): State<Arc<World>>,
    Path(id): Path<String>,
    Extension(switch): Extension<Switch>,
    headers: HeaderMap,
) -> Response {
    if let Some(shut) = door(&headers) {
        return shut;
    }
    world.settle();
    let job = world.jobs.get(&id);
    let prompt = job.as_ref().map_or("", |job| job.prompt.as_str());
    let key = Dialect::Envelope.key(&headers);
    let rule = world.rules.find(Endpoint::FluxCancel, key, prompt);
    let caller = Caller { switch: &switch, dialect: Dialect::Envelope, key };
    let natural = async {
        let Some(job) = job.filter(|job| order(job).is_some()) else { return not_found() };
        if world.jobs.cancel(&job, world.now()) {
            world.ledger.bill(job.seq, super::ledger::Outcome::Cancelled, 0, "cancelled while pending");
            let message = format!("task {id} canceled");
            return json_answer(StatusCode::OK, &json!({"code": 200, "message": message}));
        }
        envelope(StatusCode::BAD_REQUEST, "only a pending task can be canceled")
    };
    with_faults(rule.as_ref(), caller, natural).await
}

/// What a webhook says.
pub async fn letter(world: &World, job: &Job, order: &Order, letter: Letter) -> Value {
    let now = world.now();
    let view = match letter {
        Letter::Running => View { look: Look::Running, status: "processing".to_owned(), asked: 0 },
        Letter::Genuine | Letter::Forged => View::natural(job, now),
    };
    let mut data = render::unified(world, job, order, &view).await;
    if letter == Letter::Forged {
        data["status"] = json!("completed");
        data["output"] = json!({"image_base64": "", "image_url": "https://attacker.invalid/evil.png"});
    }
    json!({"timestamp": now.0 / 1000, "data": data})
}
