//! From a draft to text: numbers, white space and escapes, what stands around the text, where it stops.

use serde_json::{Number, Value};

use super::draft::{Content, Draft};
use super::{echo, frame, needs_brace};
use crate::simulator::faults::{Faults, Stop, Wrap};

/// The whole text.
pub fn text(draft: &Draft, faults: &Faults) -> String {
    match &draft.content {
        Content::Json(value) => {
            let text = json(value, faults);
            if faults.wraps(Wrap::Event) { frame::one_event(&text) } else { text }
        }
        Content::Events(events) => frame::events(draft, events, faults),
        Content::Raw(_) => String::new(),
    }
}

/// One document.
pub fn json(value: &Value, faults: &Faults) -> String {
    let text = if faults.wraps(Wrap::Pretty) {
        serde_json::to_string_pretty(value).unwrap_or_default()
    } else {
        value.to_string()
    };
    escaped(echo::verbatim(text), faults)
}

/// Outside of strings JSON has neither slashes nor anything that must be escaped.
fn escaped(text: String, faults: &Faults) -> String {
    if faults.wraps(Wrap::Unicode) {
        return unicode(&text);
    }
    if faults.wraps(Wrap::Slashes) { text.replace('/', "\\/") } else { text }
}

fn unicode(text: &str) -> String {
    let (mut out, mut quoted, mut escape) = (String::with_capacity(text.len() * 6), false, false);
    for letter in text.chars() {
        match letter {
            _ if escape => {
                escape = false;
                out.push(letter);
            }
            '\\' if quoted => {
                escape = true;
                out.push(letter);
            }
            '"' => {
                quoted = !quoted;
                out.push(letter);
            }
            _ if quoted => {
                for unit in letter.encode_utf16(&mut [0; 2]) {
                    out.extend(["\\u".to_owned(), hex::encode(unit.to_be_bytes())]);
                }
            }
            _ => out.push(letter),
        }
    }
    out
}

/// Numbers as they should not be.
pub fn numbers(draft: &mut Draft, faults: &Faults) {
    let all = [Wrap::Floats, Wrap::NumberStrings, Wrap::StringCode, Wrap::NumberIds];
    if !all.iter().any(|word| faults.wraps(*word)) {
        return;
    }
    for document in draft.documents() {
        number("", document, faults);
    }
}

fn number(key: &str, value: &mut Value, faults: &Faults) {
    match value {
        Value::Object(fields) => fields.iter_mut().for_each(|(key, value)| number(key, value, faults)),
        Value::Array(many) => many.iter_mut().for_each(|one| number(key, one, faults)),
        Value::Number(figure) => {
            if faults.wraps(Wrap::NumberStrings) || (key == "code" && faults.wraps(Wrap::StringCode)) {
                *value = Value::String(figure.to_string());
            } else if faults.wraps(Wrap::Floats)
                && let Some(float) = figure.as_f64().and_then(Number::from_f64)
            {
                *value = Value::Number(float);
            }
        }
        Value::String(text) if matches!(key, "task_id" | "job_id" | "id") => {
            if faults.wraps(Wrap::NumberIds)
                && let Ok(digits) = text.parse::<u64>()
            {
                *value = digits.into();
            }
        }
        _ => {}
    }
}

/// What stands before and after the text.
pub fn around(bytes: &[u8], faults: &Faults) -> Vec<u8> {
    let mut all = Vec::with_capacity(bytes.len() + 256);
    let said = |word| faults.wraps(word);
    let mut put = |when: bool, text: &[u8]| {
        if when {
            all.extend_from_slice(text);
        }
    };
    put(said(Wrap::Bom), "\u{feff}".as_bytes());
    put(said(Wrap::Leading), b"\n \n\r\n\t  \n \n \n");
    put(said(Wrap::Guard), b")]}'\n");
    put(said(Wrap::Fence), b"```json\n");
    put(true, bytes);
    put(said(Wrap::Fence), b"\n```\n");
    put(said(Wrap::Newline), b"\n");
    put(said(Wrap::Nul), b"\0");
    put(said(Wrap::Comment), b"\n<!-- served by relay-7 in 12.4 s -->\n");
    put(said(Wrap::SecondDocument), b"\n{\"status\":\"ok\",\"took_ms\":12400}\n");
    all
}

/// Cuts the text after its last image; leaves one without an image whole.
pub fn stop(bytes: &mut Vec<u8>, draft: &Draft, faults: &Faults, shown: &[String], stop: Stop) {
    let (Some(last), Content::Json(_) | Content::Events(_)) = (shown.last(), &draft.content) else { return };
    let needle = json(&Value::String(last.clone()), faults);
    let needle = needle.trim_matches('"').as_bytes();
    let Some(at) = find_last(bytes, needle) else { return };
    let mut end = at + needle.len();
    let mut after = |mark: u8| {
        end = bytes[end..].iter().position(|byte| *byte == mark).map_or(bytes.len(), |more| end + more + 1);
    };
    if stop != Stop::Value {
        after(b'"');
    }
    if needs_brace(stop) {
        after(b'}');
    }
    bytes.truncate(end);
}

fn find_last(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    if needle.is_empty() || bytes.len() < needle.len() {
        return None;
    }
    (0..=bytes.len() - needle.len()).rev().find(|at| bytes[*at..].starts_with(needle))
}

/// The label that goes with what was made of the answer.
pub fn label(draft: &Draft, faults: &Faults) -> &'static str {
    match &draft.content {
        Content::Json(_) if faults.wraps(Wrap::Event) => "text/event-stream",
        Content::Json(_) => "application/json",
        Content::Events(_) if faults.wraps(Wrap::Ndjson) => "application/x-ndjson",
        Content::Events(_) if faults.wraps(Wrap::EventArray) || faults.wraps(Wrap::Document) => {
            "application/json"
        }
        Content::Events(_) => "text/event-stream; charset=utf-8",
        Content::Raw(raw) if raw.starts_with(b"\x89PNG") => "image/png",
        Content::Raw(raw) if raw.starts_with(b"\xff\xd8") => "image/jpeg",
        Content::Raw(_) => "text/plain; charset=utf-8",
    }
}
