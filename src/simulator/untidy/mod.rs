//! A right answer, made untidy: whatever an upstream says is taken apart, its images are moved and spelled
//! otherwise, and it is written, framed, encoded and labelled as the words of a fault ask. The layer lies
//! over every right answer of every upstream; it knows what was sent, not what the gateway makes of it.

mod decoy;
mod denial;
mod draft;
mod echo;
mod encode;
mod frame;
mod results;
mod seat;
mod spell;
mod write;

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::response::Parts;
use http::{HeaderValue, StatusCode, header};

pub use self::decoy::{Decoys, file as decoy_file};
use self::draft::{Content, Draft};
pub use self::encode::gzip;
use self::results::Sent;
use super::connection::Switch;
use super::faults::{Endpoint, Faults, Stop, StopBy, Wrap};
use super::play::{self, Beat};
use super::world::World;

/// How much of a natural answer can be taken apart.
const ANSWER: usize = 256 << 20;

/// An image that came with an order, and what for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    pub role: Role,
    pub what: What,
}

/// What an input is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Image,
    Mask,
    Control,
}

/// An input as it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A link, a `data:` URI or base64.
    Text(String),
    /// A part of a form.
    Bytes(Bytes),
}

impl Input {
    /// An input that was sent as text.
    pub fn text(role: Role, text: &str) -> Self {
        Self { role, what: What::Text(text.to_owned()) }
    }
}

/// What the layer knows of the request.
#[derive(Debug, Clone)]
pub struct Scene {
    pub endpoint: Endpoint,
    pub seq: u64,
    pub prompt: String,
    pub inputs: Arc<[Input]>,
    /// How many polls came before this one, if it is one.
    pub poll: usize,
}

/// Makes a right answer untidy; leaves errors, and what it cannot take apart, alone.
pub async fn lay(
    world: &World,
    faults: &Faults,
    scene: &Scene,
    switch: &Switch,
    answer: Response,
) -> Response {
    if !faults.is_untidy() || !answer.status().is_success() {
        return answer;
    }
    let (mut head, body) = answer.into_parts();
    let read = tokio::select! {
        read = to_bytes(body, ANSWER) => read,
        // It was cut on purpose: there is nobody left to answer.
        () = switch.gone() => return StatusCode::OK.into_response(),
    };
    let Ok(bytes) = read else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
    head.headers.remove(header::CONTENT_LENGTH);
    let mut draft = Draft::read(scene.endpoint, head.headers.get(header::CONTENT_TYPE), &bytes);
    let shown = compose(world, faults, scene, &mut draft).await;
    let text = write::text(&draft, faults);
    finish(head, &draft, text, &shown, faults, switch)
}

/// What the answer says. Gives the images as they are spelled in it.
async fn compose(world: &World, faults: &Faults, scene: &Scene, draft: &mut Draft) -> Vec<String> {
    if let Some(shape) = faults.error_event
        && draft.is_bought()
    {
        denial::say(world, faults, scene, shape, draft).await;
        return Vec::new();
    }
    echo::figures(draft, faults, scene.poll);
    if let Some(form) = faults.prompt_as {
        echo::prompt(draft, &scene.prompt, form);
    }
    let mut shown = Vec::new();
    if faults.moves_images() {
        let mut sent = Vec::new();
        for found in results::take(draft, &world.base) {
            sent.push(Sent::of(world, faults, found).await);
        }
        if !sent.is_empty() {
            shown = seat::put(draft, faults, &sent);
        }
    }
    if let Some(decoys) = &faults.decoy {
        for decoy in &decoys.0 {
            decoy::add(world, scene, *decoy, draft).await;
        }
    }
    write::numbers(draft, faults);
    shown
}

/// Bytes, headers and the end of the connection.
fn finish(
    mut head: Parts,
    draft: &Draft,
    text: String,
    shown: &[String],
    faults: &Faults,
    switch: &Switch,
) -> Response {
    let mut bytes = match &draft.content {
        Content::Raw(raw) => raw.to_vec(),
        _ => text.into_bytes(),
    };
    let whole = bytes.len();
    if let Some(stop) = faults.stop {
        write::stop(&mut bytes, draft, faults, shown, stop);
    }
    let lost = whole.saturating_sub(bytes.len());
    let stops = faults.stop.is_some() && lost > 0;
    if !matches!(draft.content, Content::Raw(_)) && !stops {
        bytes = write::around(&bytes, faults);
    }
    let mut label = write::label(draft, faults).to_owned();
    if faults.wraps(Wrap::Utf16) {
        bytes = encode::utf16(&bytes);
        "application/json; charset=utf-16".clone_into(&mut label);
    }
    let (bytes, encoding) = encode::encode(bytes, faults);
    if let Some(encoding) = encoding {
        head.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
    }
    let label = faults.label.as_ref().map_or(label, |label| label.0.clone());
    head.headers.remove(header::CONTENT_TYPE);
    if let Some(label) = HeaderValue::from_str(&label).ok().filter(|label| label != "none") {
        head.headers.insert(header::CONTENT_TYPE, label);
    }
    let by = faults.stop_by.filter(|by| stops && *by != StopBy::Frame);
    let body = if let Some(by) = by {
        head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.len() + lost));
        let end = if by == StopBy::Reset { Beat::Reset } else { Beat::Close };
        let beats = [Beat::say(bytes), Beat::Wait(std::time::Duration::ZERO), end];
        play::body(beats.into_iter(), switch.clone())
    } else if faults.wraps(Wrap::Crumbs) {
        let bytes = Bytes::from(bytes);
        let crumbs = (0..bytes.len()).map(move |at| Beat::Say(bytes.slice(at..=at)));
        play::body(crumbs, switch.clone())
    } else {
        Body::from(bytes)
    };
    Response::from_parts(head, body)
}

/// Whether this stop needs the whole object.
fn needs_brace(stop: Stop) -> bool {
    stop == Stop::Object
}
