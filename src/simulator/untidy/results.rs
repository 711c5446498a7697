//! Finds the images of a right answer where its upstream puts them, and takes them out.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Value, json};

use super::draft::{Content, Data, Draft, Event, chunk};
use crate::simulator::faults::Faults;
use crate::simulator::files::{Format, contents};
use crate::simulator::world::World;

/// An image as an answer held it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    Link(String),
    Base64(String),
}

/// An image with its bytes.
#[derive(Debug, Clone)]
pub struct Sent {
    /// The link it was handed out by, if it was.
    pub link: Option<String>,
    pub bytes: Bytes,
    pub mime: &'static str,
}

impl Sent {
    /// The bytes behind what was found. A link to a file that cannot be drawn has none.
    pub async fn of(world: &World, faults: &Faults, found: Found) -> Self {
        match found {
            Found::Base64(text) => {
                let bytes = Bytes::from(STANDARD.decode(text).unwrap_or_default());
                let mime = if bytes.starts_with(b"\xff\xd8") { "image/jpeg" } else { "image/png" };
                Self { link: None, bytes, mime }
            }
            Found::Link(link) => {
                let picture = world.shelf.get(stem(&link));
                let bytes = match &picture {
                    // Bytes are needed only where they take the link's place.
                    Some(picture) if faults.inline || faults.seat.is_some_and(super::seat::holds_bytes) => {
                        contents(world, picture, faults).await.unwrap_or_default()
                    }
                    _ => Bytes::new(),
                };
                let mime = picture.map_or("image/png", |picture| Format::mime(picture.format));
                Self { link: Some(link), bytes, mime }
            }
        }
    }
}

/// The id in a link of ours.
fn stem(link: &str) -> &str {
    let path = link.split(['?', '#']).next().unwrap_or(link);
    let name = path.rsplit('/').next().unwrap_or(path);
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    stem.split('~').next().unwrap_or(stem)
}

/// Takes every image out of its place, each once.
pub fn take(draft: &mut Draft, base: &str) -> Vec<Found> {
    let chat = draft.is_chat();
    let mut found = match &mut draft.content {
        Content::Events(events) if chat => from_chat(events, base),
        Content::Events(events) => from_stream(events),
        Content::Json(_) => from_document(draft),
        Content::Raw(_) => Vec::new(),
    };
    let mut seen = Vec::new();
    found.retain(|one| {
        let id = match one {
            Found::Link(link) => stem(link).to_owned(),
            Found::Base64(_) => return true,
        };
        let new = !seen.contains(&id);
        seen.push(id);
        new
    });
    found
}

/// Flux, the Images API and imagepipeline, each in its own keys.
fn from_document(draft: &mut Draft) -> Vec<Found> {
    let mut found = Vec::new();
    let mut links = |value: &Value| match value {
        Value::String(link) if !link.is_empty() => found.push(Found::Link(link.clone())),
        Value::Array(many) => {
            found.extend(many.iter().filter_map(|one| Some(Found::Link(one.as_str()?.to_owned()))));
        }
        _ => {}
    };
    let Content::Json(document) = &draft.content else { return found };
    let data = document.get("data").filter(|data| data.is_object()).unwrap_or(document);
    for key in ["image_url", "image_urls"] {
        links(data.pointer(&format!("/output/{key}")).unwrap_or(&Value::Null));
    }
    for key in ["download_urls", "result_url"] {
        links(data.get(key).unwrap_or(&Value::Null));
    }
    if let Some(text) = data.pointer("/output/image_base64").and_then(Value::as_str)
        && !text.is_empty()
    {
        found.push(Found::Base64(text.to_owned()));
    }
    for one in document.get("data").and_then(Value::as_array).into_iter().flatten() {
        found.extend(held(one));
    }
    if !found.is_empty() {
        if let Content::Json(document) = &mut draft.content
            && document.get("data").is_some_and(Value::is_array)
        {
            document["data"] = json!([]);
        }
        if let Some(object) = draft.object() {
            if object.contains_key("output") {
                object.insert("output".to_owned(), Value::Null);
            }
            object.remove("download_urls");
            object.remove("result_url");
        }
    }
    found
}

fn held(one: &Value) -> Option<Found> {
    let text = |key: &str| one.get(key).and_then(Value::as_str).map(str::to_owned);
    text("url").map(Found::Link).or_else(|| text("b64_json").map(Found::Base64))
}

/// The Images API's stream: what its last events carry.
fn from_stream(events: &mut [Event]) -> Vec<Found> {
    let mut found = Vec::new();
    for event in events.iter_mut().filter(|event| event.completes()) {
        found.extend(event.value().and_then(held));
        if let Data::Json(Value::Object(object)) = &mut event.data {
            object.remove("url");
            object.remove("b64_json");
        }
    }
    found
}

/// A chat's: the Markdown links to our own host. Its text is said again without them, in one delta.
fn from_chat(events: &mut Vec<Event>, base: &str) -> Vec<Found> {
    let part = |event: &Event, path: &str| event.value().and_then(|value| value.pointer(path).cloned());
    let mut text = String::new();
    for event in events.iter() {
        if let Some(Value::String(piece)) = part(event, "/choices/0/delta/content") {
            text.push_str(&piece);
        }
    }
    let (mut found, mut rest, mut kept) = (Vec::new(), text.as_str(), String::new());
    let mark = format!("]({base}/");
    while let Some(at) = rest.find(&mark) {
        let start = rest[..at].rfind('[').unwrap_or(at);
        let start = if rest[..start].ends_with('!') { start - 1 } else { start };
        let link = &rest[at + 2..];
        let end = link.find(")\n").or_else(|| link.find(')')).unwrap_or(link.len());
        kept.push_str(&rest[..start]);
        found.push(Found::Link(link[..end].to_owned()));
        rest = link.get(end + 1..).unwrap_or_default();
    }
    kept.push_str(rest);
    let first = events.iter().find_map(|event| event.value().cloned());
    let finish = events
        .iter()
        .find(|event| part(event, "/choices/0/finish_reason").is_some_and(|reason| !reason.is_null()));
    let done = events.iter().find(|event| matches!(event.data, Data::Text(_)));
    let mut told = vec![
        chunk(first.as_ref(), &json!({"role": "assistant", "content": ""}), None),
        chunk(first.as_ref(), &json!({"content": kept.trim_end()}), None),
    ];
    told.extend([finish, done].into_iter().flatten().cloned());
    *events = told;
    found
}
