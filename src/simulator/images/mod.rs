//! PiAPI's Images API: a plain JSON answer, or a stream of events that ends in the picture.

mod check;
mod form;
mod stream;

use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{StatusCode, header};
use serde_json::{Map, Value, json};

use self::check::Order;
use self::form::Form;
use super::dialect::{Dialect, json_answer, openai};
use super::faults::{Endpoint, Faults, Form as Handed};
use super::files::{Commission, Place, contents};
use super::intake::{Desk, Glance, Post, Refusal, Ticket};
use super::jobs::{Ending, Failure};
use super::ledger::{Outcome, Provider};
use super::play;
use super::sse::cut_at_start;
use super::untidy::{Input, Role, What};
use super::world::World;

/// The counter for `/v1/images/generations`, or for `/v1/images/edits`.
pub struct Images<const EDIT: bool>;

impl<const EDIT: bool> Desk for Images<EDIT> {
    const ENDPOINT: Endpoint = if EDIT { Endpoint::ImagesEdits } else { Endpoint::ImagesGenerations };
    const PROVIDER: Provider = Provider::Images;
    const DIALECT: Dialect = Dialect::OpenAi;
    const CLOUDFLARE: bool = true;
    type Form = Form;
    type Order = Order;

    async fn read(post: &Post) -> Form {
        if EDIT { form::multipart(post).await } else { form::json(post) }
    }

    fn glance(form: &Form) -> Glance {
        let prompt = form.fields.get("prompt").and_then(Value::as_str).unwrap_or_default().to_owned();
        let n = form.fields.get("n").and_then(Value::as_u64).unwrap_or(1);
        Glance { prompt, n, correlation: None, note: None }
    }

    fn inputs(form: &Form) -> Vec<Input> {
        let image = |role| move |bytes: &Bytes| Input { role, what: What::Bytes(bytes.clone()) };
        form.images.iter().map(image(Role::Image)).chain(form.mask.iter().map(image(Role::Mask))).collect()
    }

    fn check(form: &Form) -> Result<Order, Refusal> {
        check::check(form)
    }

    async fn take(world: Arc<World>, ticket: Ticket, order: Order) -> Response {
        take(&world, ticket, order).await
    }
}

/// A picture in the making: its file, and its link if it has one.
struct Made {
    file: Bytes,
    link: Option<String>,
}

async fn take(world: &World, ticket: Ticket, order: Order) -> Response {
    let Ticket { seq, prompt, faults, switch, .. } = ticket;
    let ending = faults.ending("");
    if let Ending::Failed(failure) = &ending {
        let nanos = if faults.billed == Some(true) { order.price_nanos } else { 0 };
        let outcome = if failure.refused { Outcome::Rejected } else { Outcome::Failed };
        world.ledger.bill(seq, outcome, nanos, "failed");
        return failed(failure);
    }
    world.ledger.accept(seq, None, order.price_nanos);
    // An error inside an answer is an error: nothing was made.
    let denied = faults.error_event.is_some() && faults.billed != Some(true);
    let nanos = if denied || faults.billed == Some(false) { 0 } else { order.price_nanos };
    let outcome = match ending {
        Ending::NoImage if denied => Outcome::Rejected,
        Ending::NoImage => Outcome::NoImage,
        _ => Outcome::Completed,
    };
    world.ledger.bill(seq, outcome, nanos, "generated");
    let Ok(made) = make(world, seq, &prompt, &faults, &order, &ending).await else {
        return Dialect::OpenAi.error(StatusCode::INTERNAL_SERVER_ERROR, "the picture could not be drawn");
    };
    cut_at_start(&faults, &switch).await;
    let (low, high) = match order.quality.as_str() {
        "low" => (8.0, 12.0),
        "high" => (30.0, 60.0),
        _ => (15.0, 25.0),
    };
    let own = world.chance(seq, "images").seconds(low, high);
    let span = world.generation(&faults, own);
    let created = world.now().0 / 1000;
    if order.stream {
        let beats = stream::beats(&made, &order, &faults, span, created);
        let headers = [(header::CONTENT_TYPE, "text/event-stream; charset=utf-8")];
        return (StatusCode::OK, headers, play::body(beats, switch)).into_response();
    }
    tokio::time::sleep(span).await;
    json_answer(StatusCode::OK, &answer(&made.pictures, &order, &faults, &prompt, created))
}

/// Everything that goes into an answer.
struct Work {
    pictures: Vec<Made>,
    previews: Vec<Bytes>,
}

async fn make(
    world: &World,
    seq: u64,
    prompt: &str,
    faults: &Arc<Faults>,
    order: &Order,
    ending: &Ending,
) -> std::io::Result<Work> {
    let links = faults.form.map_or(order.links, |form| form == Handed::Url);
    let count = order.n.saturating_sub(faults.missing.unwrap_or(0));
    let commissioned = world.commission(&Commission {
        seq,
        prompt,
        caption: if order.edit { "edit" } else { "" },
        size: order.size,
        format: order.format,
        count: if *ending == Ending::Completed { count } else { 0 },
        ready: world.now(),
        faults,
        place: if links { Place::Host("files") } else { Place::Inline },
    });
    let mut work = Work { pictures: Vec::new(), previews: Vec::new() };
    for picture in &commissioned {
        world.ledger.result(seq, &picture.url, None);
        let link = links.then(|| world.link(picture, 0));
        // Behind a link it is drawn when somebody looks.
        let file = if links { Bytes::new() } else { contents(world, picture, faults).await? };
        work.pictures.push(Made { file, link });
    }
    if let Some(first) = commissioned.first().filter(|_| order.stream) {
        for n in 0..order.partial_images {
            work.previews.push(world.preview(first, n).await?);
        }
    }
    Ok(work)
}

/// Refused for its content as recorded; any other failure is a 500 whose type says nothing.
fn failed(failure: &Failure) -> Response {
    let said = failure.message.as_deref();
    if failure.refused {
        let message = "Your request was rejected by the safety system. safety_violations=[violence].";
        let (kind, code) = ("image_generation_user_error", Some("moderation_blocked"));
        return openai(StatusCode::BAD_REQUEST, said.unwrap_or(message), kind, Some(""), code);
    }
    let message = "An error occurred while processing your request. You can retry your request.";
    let code = failure.code.as_deref().filter(|code| !code.is_empty());
    let error = json!({
        "message": said.unwrap_or(message),
        "type": "invalid_request_error",
        "param": "",
        "code": code,
    });
    json_answer(StatusCode::INTERNAL_SERVER_ERROR, &json!({"error": error, "status_code": 500}))
}

fn answer(pictures: &[Made], order: &Order, faults: &Faults, prompt: &str, created: i64) -> Value {
    let data = pictures.iter().enumerate().map(|(n, made)| {
        let mut one = Map::new();
        match &made.link {
            Some(link) => one.insert("url".to_owned(), json!(link)),
            None => one.insert("b64_json".to_owned(), json!(STANDARD.encode(&made.file))),
        };
        // Recorded on one picture of two.
        if n == 0 && pictures.len() > 1 {
            one.insert("revised_prompt".to_owned(), json!(prompt));
        }
        Value::Object(one)
    });
    let mut body = Map::new();
    body.insert("created".to_owned(), json!(created));
    body.insert("data".to_owned(), data.collect());
    echo(&mut body, order, faults);
    Value::Object(body)
}

/// What the contract lists and recorded answers often lack.
fn echo(body: &mut Map<String, Value>, order: &Order, faults: &Faults) {
    if faults.echo != Some(false) {
        let (width, height) = order.size;
        body.insert("background".to_owned(), json!(order.background));
        body.insert("output_format".to_owned(), json!(order.format.name()));
        body.insert("quality".to_owned(), json!(order.quality));
        body.insert("size".to_owned(), json!(format!("{width}x{height}")));
    }
    if faults.usage != Some(false) {
        let image = if order.edit { 323 } else { 0 };
        let usage = json!({
            "total_tokens": 1_070 + image,
            "input_tokens": 14 + image,
            "output_tokens": 1_056,
            "input_tokens_details": {"text_tokens": 14, "image_tokens": image},
        });
        body.insert("usage".to_owned(), usage);
    }
}
