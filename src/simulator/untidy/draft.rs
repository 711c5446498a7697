//! An answer taken apart: one JSON document, the events of a stream, or bytes that are neither.

use bytes::Bytes;
use http::HeaderValue;
use serde_json::{Map, Value, json};

use crate::simulator::faults::Endpoint;

/// One event of a stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub name: Option<String>,
    pub data: Data,
}

/// What an event carries.
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    Json(Value),
    /// `[DONE]`, or words.
    Text(String),
}

impl Event {
    /// An event without a name.
    pub fn json(value: Value) -> Self {
        Self { name: None, data: Data::Json(value) }
    }

    /// Its document, if it is one.
    pub fn value(&self) -> Option<&Value> {
        match &self.data {
            Data::Json(value) => Some(value),
            Data::Text(_) => None,
        }
    }

    /// Whether it says that a picture of the Images API is complete.
    pub fn completes(&self) -> bool {
        let kind = self.value().and_then(|value| value.get("type")?.as_str());
        kind.is_some_and(|kind| kind.ends_with(".completed"))
    }
}

/// What an answer holds.
#[derive(Debug, Clone)]
pub enum Content {
    Json(Value),
    Events(Vec<Event>),
    Raw(Bytes),
}

/// An answer in the making.
#[derive(Debug, Clone)]
pub struct Draft {
    pub endpoint: Endpoint,
    pub content: Content,
}

impl Draft {
    /// Takes a natural answer apart.
    pub fn read(endpoint: Endpoint, label: Option<&HeaderValue>, bytes: &Bytes) -> Self {
        let streams = label.is_some_and(|label| label.as_bytes().starts_with(b"text/event-stream"));
        let content = if streams {
            Content::Events(events(&String::from_utf8_lossy(bytes)))
        } else {
            serde_json::from_slice(bytes).map_or_else(|_| Content::Raw(bytes.clone()), Content::Json)
        };
        Self { endpoint, content }
    }

    /// Whether this answer is the thing that was bought, and not news of a job.
    pub fn is_bought(&self) -> bool {
        self.is_chat() || self.is_images()
    }

    /// Whether it is a chat's.
    pub fn is_chat(&self) -> bool {
        self.endpoint == Endpoint::Chat
    }

    /// Whether it is the Images API's.
    pub fn is_images(&self) -> bool {
        matches!(self.endpoint, Endpoint::ImagesGenerations | Endpoint::ImagesEdits)
    }

    /// The object that an upstream's own fields lie in: PiAPI's `data`, else the document itself.
    pub fn object(&mut self) -> Option<&mut Map<String, Value>> {
        let Content::Json(value) = &mut self.content else { return None };
        let inner = value.get("data").is_some_and(Value::is_object);
        if inner { value.get_mut("data")?.as_object_mut() } else { value.as_object_mut() }
    }

    /// Whether results may stand in it: always, but in news of a job that is not done.
    pub fn is_final(&mut self) -> bool {
        if self.is_bought() {
            return true;
        }
        let status = self.object().and_then(|object| object.get("status")?.as_str().map(str::to_lowercase));
        status
            .is_some_and(|status| matches!(status.trim(), "completed" | "complete" | "success" | "succeeded"))
    }

    /// Every document in it.
    pub fn documents(&mut self) -> Vec<&mut Value> {
        match &mut self.content {
            Content::Json(value) => vec![value],
            Content::Events(events) => events
                .iter_mut()
                .filter_map(|event| match &mut event.data {
                    Data::Json(value) => Some(value),
                    Data::Text(_) => None,
                })
                .collect(),
            Content::Raw(_) => Vec::new(),
        }
    }
}

/// Events as our own streams write them: lines end in LF, CR LF or CR.
fn events(text: &str) -> Vec<Event> {
    let text = text.trim_start_matches('\u{feff}').replace("\r\n", "\n").replace('\r', "\n");
    let blocks = text.split("\n\n").filter_map(|block| {
        let field = |name: &str| {
            let lines = block.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let lines: Vec<_> = lines.map(|value| value.strip_prefix(' ').unwrap_or(value)).collect();
            (!lines.is_empty()).then(|| lines.join("\n"))
        };
        let data = field("data")?;
        let data = serde_json::from_str(&data).map_or(Data::Text(data), Data::Json);
        Some(Event { name: field("event"), data })
    });
    blocks.collect()
}

/// A chunk of a chat like this one, with this delta.
pub fn chunk(like: Option<&Value>, delta: &Value, finish: Option<&str>) -> Event {
    let mut chunk = like.cloned().unwrap_or_else(|| {
        json!({"id": "chatcmpl-0", "object": "chat.completion.chunk", "model": "gpt-4o-image", "created": 0})
    });
    chunk["choices"] = json!([{"index": 0, "delta": delta, "finish_reason": finish}]);
    Event::json(chunk)
}
