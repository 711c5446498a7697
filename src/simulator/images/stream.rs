//! The Images API as a stream: previews, then the picture, each in a named event; or as other relays do it.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::{Work, echo};
use crate::simulator::faults::{Cut, Faults, Sse, Style};
use crate::simulator::images::check::Order;
use crate::simulator::play::Beat;
use crate::simulator::sse::{BIG, Beats, bad_utf8, cut_off, endless};

struct Framing {
    named: bool,
    created: &'static str,
    line_end: &'static str,
    done: bool,
}

impl Framing {
    fn of(faults: &Faults) -> Self {
        let relay = faults.style == Some(Style::Openrouter);
        let line_end = match (faults.style, faults.sse) {
            (_, Some(Sse::CrOnly)) => "\r",
            (Some(Style::Crlf), _) => "\r\n",
            _ => "\n",
        };
        Self {
            named: !relay && faults.style != Some(Style::Bare),
            created: if relay { "created" } else { "created_at" },
            line_end,
            done: relay,
        }
    }

    fn event(&self, name: &str, body: &Value) -> String {
        let end = self.line_end;
        let name = if self.named { format!("event: {name}{end}") } else { String::new() };
        format!("{name}data: {body}{end}{end}")
    }
}

/// The stream, beat by beat. The previews share the generation time; the pictures come at its end.
pub fn beats(work: &Work, order: &Order, faults: &Faults, span: Duration, created: i64) -> Beats {
    let framing = Framing::of(faults);
    let kind = if order.edit { "image_edit" } else { "image_generation" };
    let object = |name: &str, more: Value, usage: bool| {
        let mut body = Map::new();
        body.insert("type".to_owned(), json!(format!("{kind}.{name}")));
        body.insert(framing.created.to_owned(), json!(created));
        echo(&mut body, order, faults);
        if !usage {
            body.remove("usage");
        }
        body.extend(more.as_object().cloned().unwrap_or_default());
        framing.event(&format!("{kind}.{name}"), &Value::Object(body))
    };
    let mut beats = Vec::new();
    if faults.cut == Some(Cut::Head) {
        return cut_off(beats, faults.cut_by);
    }
    if faults.sse == Some(Sse::Bom) {
        beats.push(Beat::say("\u{feff}"));
    }
    if let Some(endless) = endless(faults.sse, Beat::say(object("progress", json!({}), false))) {
        return endless;
    }
    if faults.sse == Some(Sse::BigEvent) {
        beats.push(Beat::say(object("progress", json!({"padding": " ".repeat(BIG)}), false)));
    }
    if faults.sse == Some(Sse::BadUtf8) {
        beats.push(bad_utf8(&object("progress", json!({"note": "?"}), false)));
    }
    let parts = u32::try_from(work.previews.len()).unwrap_or(0) + 1;
    for (n, preview) in work.previews.iter().enumerate() {
        beats.push(Beat::Wait(span / parts));
        let more = json!({"b64_json": STANDARD.encode(preview), "partial_image_index": n});
        beats.push(Beat::say(object("partial_image", more, false)));
    }
    beats.push(Beat::Wait(span / parts));
    if faults.sse == Some(Sse::ErrorEvent) {
        let error =
            json!({"type": "error", "error": {"message": "The server had an error", "type": "server_error"}});
        beats.push(Beat::say(framing.event("error", &error)));
        return Box::new(beats.into_iter());
    }
    for made in &work.pictures {
        if faults.cut == Some(Cut::BeforeImage) {
            return cut_off(beats, faults.cut_by);
        }
        let picture = match &made.link {
            Some(link) => json!({"url": link}),
            None => json!({"b64_json": STANDARD.encode(&made.file)}),
        };
        let event = object("completed", picture, true);
        if faults.cut == Some(Cut::MidUrl) {
            // Everything in it is ASCII but perhaps nothing: half of the bytes is half of the event.
            beats.push(Beat::say(event.as_bytes()[..event.len() / 2].to_vec()));
            return cut_off(beats, faults.cut_by);
        }
        beats.push(Beat::say(event));
        if faults.cut == Some(Cut::AfterImage) {
            return cut_off(beats, faults.cut_by);
        }
    }
    if faults.cut.is_some() {
        return cut_off(beats, faults.cut_by);
    }
    if framing.done || faults.sse == Some(Sse::DoneTwice) {
        beats.push(Beat::say(format!("data: [DONE]{0}{0}", framing.line_end)));
    }
    if faults.sse == Some(Sse::DoneTwice) {
        beats.push(Beat::say(object("progress", json!({}), false)));
        beats.push(Beat::say(format!("data: [DONE]{0}{0}", framing.line_end)));
    }
    Box::new(beats.into_iter())
}
