//! Events on the wire: as server-sent events in every manner of lines, as JSON lines, as one array, or as the
//! one document that a stream adds up to.

use serde_json::{Value, json};

use super::draft::{Data, Draft, Event};
use super::write;
use crate::simulator::faults::{Faults, Wrap};

/// A document as the only event of a stream.
pub fn one_event(text: &str) -> String {
    let data: Vec<_> = text.lines().map(|line| format!("data: {line}\n")).collect();
    format!("{}\ndata: [DONE]\n\n", data.concat())
}

/// A stream, or what it became.
pub fn events(draft: &Draft, events: &[Event], faults: &Faults) -> String {
    let documents = || events.iter().filter_map(Event::value);
    if faults.wraps(Wrap::Ndjson) {
        return documents().map(|value| write::json(value, faults).replace('\n', " ") + "\n").collect();
    }
    if faults.wraps(Wrap::EventArray) {
        return write::json(&documents().cloned().collect(), faults);
    }
    if faults.wraps(Wrap::Document) {
        let whole = if draft.is_chat() { completion(events) } else { answer(events) };
        return write::json(&whole, faults);
    }
    lines(events, faults)
}

/// The chat completion that the chunks add up to.
fn completion(events: &[Event]) -> Value {
    let mut message = json!({"role": "assistant", "content": ""});
    let mut text = String::new();
    let mut whole = json!({});
    for value in events.iter().filter_map(Event::value) {
        if whole.as_object().is_some_and(serde_json::Map::is_empty) {
            whole = value.clone();
        }
        let delta = value.pointer("/choices/0/delta").and_then(Value::as_object);
        for (key, part) in delta.into_iter().flatten() {
            match (key.as_str(), part) {
                ("content", Value::String(piece)) => text.push_str(piece),
                ("role", _) => {}
                (key, part) => message[key] = part.clone(),
            }
        }
    }
    if message["content"].is_string() {
        message["content"] = json!(text);
    }
    whole["object"] = json!("chat.completion");
    whole["choices"] = json!([{"index": 0, "message": message, "finish_reason": "stop"}]);
    whole
}

/// The Images API's plain answer.
fn answer(events: &[Event]) -> Value {
    let completed = events.iter().filter(|event| event.completes()).filter_map(Event::value);
    let data: Vec<_> = completed
        .map(|value| {
            let held = ["url", "b64_json"].iter().filter_map(|key| Some((*key, value.get(*key)?.clone())));
            held.map(|(key, value)| (key.to_owned(), value)).collect::<Value>()
        })
        .collect();
    json!({"created": 1_790_000_000, "data": data})
}

fn lines(events: &[Event], faults: &Faults) -> String {
    let end = match (faults.wraps(Wrap::SseCr), faults.wraps(Wrap::SseCrlf)) {
        (true, _) => "\r",
        (_, true) => "\r\n",
        _ => "\n",
    };
    let field = if faults.wraps(Wrap::SseTight) { "data:" } else { "data: " };
    let last = events.iter().rposition(Event::completes);
    let longest = (0..events.len()).max_by_key(|at| events[*at].value().map(|value| value.to_string().len()));
    let mut wire: Vec<String> = Vec::new();
    for (n, event) in events.iter().enumerate() {
        let ends = matches!(event.data, Data::Text(_))
            || event
                .value()
                .and_then(|v| v.pointer("/choices/0/finish_reason"))
                .is_some_and(|r| !r.is_null());
        if faults.wraps(Wrap::SseUnended) && ends && Some(n) != last {
            continue;
        }
        if faults.wraps(Wrap::SseComments) {
            wire.push(format!(": ping {n}{end}{end}:{end}{end}{end}"));
        }
        if faults.wraps(Wrap::SseIds) {
            wire.push(format!("id: {n}{end}retry: 3000{end}"));
        }
        match &event.name {
            Some(name) => wire.push(format!("event: {name}{end}")),
            None if faults.wraps(Wrap::SseNames) => wire.push(format!("event: message{end}")),
            None => {}
        }
        let data = match &event.data {
            Data::Json(value) if faults.wraps(Wrap::SseMultiline) => {
                serde_json::to_string_pretty(value).unwrap_or_default()
            }
            Data::Json(value) => write::json(value, faults),
            Data::Text(text) => text.clone(),
        };
        if faults.wraps(Wrap::SseTorn) && Some(n) == longest {
            // As a relay does that writes its keep-alive past its own buffer.
            let middle = (data.len() / 2..data.len()).find(|at| data.is_char_boundary(*at)).unwrap_or(0);
            let (before, after) = data.split_at(middle);
            wire.push(format!("{field}{before}: keepalive{end}{end}{after}{end}{end}"));
            continue;
        }
        for line in data.lines() {
            wire.push(format!("{field}{line}{end}"));
        }
        wire.push(end.to_owned());
    }
    wire.concat()
}
