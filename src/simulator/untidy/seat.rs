//! Puts images into an answer: in the upstream's own place, or in one that other vendors use.

use serde_json::{Map, Value, json};

use super::draft::{Content, Data, Draft, Event, chunk};
use super::results::Sent;
use super::spell;
use crate::simulator::faults::{Faults, Seat};

/// Whether images stand there as bytes or base64, even if they were handed out by link.
pub fn holds_bytes(seat: Seat) -> bool {
    matches!(seat, Seat::ResultImage | Seat::InlineData | Seat::ImageCall | Seat::OnlyBytes)
}

/// Puts them there; gives each as it is spelled.
pub fn put(draft: &mut Draft, faults: &Faults, sent: &[Sent]) -> Vec<String> {
    let Some(place) = faults.seat else { return own(draft, faults, sent) };
    let based = holds_bytes(place);
    let texts: Vec<_> = sent
        .iter()
        .map(|one| if based { spell::base64(one, faults) } else { spell::link(one, faults) })
        .collect();
    if place == Seat::OnlyLink {
        draft.content = Content::Raw(texts.join("\n").into());
        return texts;
    }
    if let (Seat::OnlyBytes, Some(first)) = (place, sent.first()) {
        draft.content = Content::Raw(first.bytes.clone());
        return Vec::new();
    }
    let chat = draft.is_chat();
    if let Content::Events(events) = &mut draft.content {
        let at = last(events);
        let like = events.first().and_then(|event| event.value().cloned());
        let mut event = if chat {
            chunk(like.as_ref(), &json!({}), None)
        } else {
            // The images leave their own events; the last of these carries them all.
            events.remove(at)
        };
        if let Data::Json(Value::Object(object)) = &mut event.data {
            fill(object, place, &texts, sent, if chat { "delta" } else { "message" });
        }
        events.insert(at, event);
    } else if let Some(object) = draft.object() {
        fill(object, place, &texts, sent, "message");
    }
    texts
}

/// Where the last word about images belongs: in the place of the last event of its kind, or before the end.
fn last(events: &[Event]) -> usize {
    if let Some(at) = events.iter().rposition(Event::completes) {
        return at;
    }
    let ends = events.iter().position(|event| {
        let reason = event.value().and_then(|value| value.pointer("/choices/0/finish_reason"));
        matches!(event.data, Data::Text(_)) || reason.is_some_and(|reason| !reason.is_null())
    });
    ends.unwrap_or(events.len())
}

/// The upstream's own place.
pub fn own(draft: &mut Draft, faults: &Faults, sent: &[Sent]) -> Vec<String> {
    let images = draft.is_images();
    let based = |one: &Sent| one.link.is_none() && !faults.inline;
    let texts: Vec<_> = sent
        .iter()
        .map(|one| if based(one) { spell::base64(one, faults) } else { spell::link(one, faults) })
        .collect();
    let entry = |(one, text): (&Sent, &String)| {
        let key = if based(one) { "b64_json" } else { "url" };
        json!({ key: text })
    };
    let entries: Vec<_> = sent.iter().zip(&texts).map(entry).collect();
    if draft.is_chat() {
        if let Content::Events(events) = &mut draft.content {
            let like = events.first().and_then(|event| event.value().cloned());
            let said = texts.iter().map(|text| format!("\n\n![gen_01]({text})")).collect::<Vec<_>>().concat();
            let at = last(events);
            events.insert(at, chunk(like.as_ref(), &json!({"content": said}), None));
        }
        return texts;
    }
    if images {
        match &mut draft.content {
            Content::Json(document) => document["data"] = json!(entries),
            Content::Events(events) => {
                let slots = events.iter_mut().filter(|event| event.completes());
                for (event, entry) in slots.zip(&entries) {
                    if let (Data::Json(Value::Object(object)), Some(entry)) =
                        (&mut event.data, entry.as_object())
                    {
                        object.extend(entry.clone());
                    }
                }
            }
            Content::Raw(_) => {}
        }
        return texts;
    }
    let Some(object) = draft.object() else { return texts };
    if object.contains_key("task_id") {
        let output = match (sent, texts.as_slice()) {
            ([one], [text]) if based(one) => json!({"image_url": "", "image_base64": text}),
            (_, [text]) => json!({"image_url": text, "image_base64": ""}),
            _ => json!({"image_url": "", "image_base64": "", "image_urls": texts}),
        };
        object.insert("output".to_owned(), output);
    } else if object.contains_key("job_id") {
        object.insert("result_url".to_owned(), json!(texts.first()));
    } else {
        object.insert("download_urls".to_owned(), json!(texts));
    }
    texts
}

/// The places of other vendors.
fn fill(object: &mut Map<String, Value>, place: Seat, texts: &[String], sent: &[Sent], holder: &str) {
    let urls = || texts.iter().map(|text| json!({"url": text, "content_type": "image/png"}));
    let parts = || texts.iter().map(|text| json!({"type": "image_url", "image_url": {"url": text}}));
    let mut put = |key: &str, value: Value| object.insert(key.to_owned(), value);
    let mut say = |message: Value| {
        let reason = if holder == "delta" { Value::Null } else { json!("stop") };
        put("choices", json!([{"index": 0, holder: message, "finish_reason": reason}]));
    };
    match place {
        Seat::Parts => {
            let words = json!({"type": "text", "text": "Here is your image."});
            let content: Vec<_> = std::iter::once(words).chain(parts()).collect();
            say(json!({"role": "assistant", "content": content}));
        }
        Seat::MessageImages => {
            let images: Vec<_> = parts().collect();
            say(json!({"role": "assistant", "content": "Here is your image.", "images": images}));
        }
        Seat::Markdown => {
            let text = texts
                .iter()
                .map(|text| format!("Here it is: ![image]({text})\n"))
                .collect::<Vec<_>>()
                .concat();
            say(json!({"role": "assistant", "content": text}));
        }
        Seat::Html => {
            let text = texts
                .iter()
                .map(|text| format!("<img src=\"{text}\" alt=\"image\">\n"))
                .collect::<Vec<_>>()
                .concat();
            say(json!({"role": "assistant", "content": text}));
        }
        Seat::Bare => {
            say(json!({"role": "assistant", "content": texts.join("\n")}));
        }
        Seat::Images => {
            put("images", urls().collect());
        }
        Seat::OutputList => {
            put("output", json!(texts));
        }
        Seat::OutputLink => {
            put("output", json!(texts.first()));
        }
        Seat::OutputImageUrls => {
            put("output", json!({"image_urls": texts}));
        }
        Seat::ResultImages => {
            put("result", json!({"images": urls().collect::<Vec<_>>()}));
        }
        Seat::UrlList => {
            let images: Vec<_> = texts.iter().map(|text| json!({"url": [text], "expires_at": 0})).collect();
            put("result", json!({"images": images}));
        }
        Seat::ResultImage => {
            put("result", json!({"image": texts.first()}));
            put("success", json!(true));
        }
        Seat::InlineData => {
            let parts: Vec<_> = texts
                .iter()
                .zip(sent)
                .map(|(text, one)| json!({"inlineData": {"mimeType": one.mime, "data": text}}))
                .collect();
            let content = json!({"role": "model", "parts": parts});
            put("candidates", json!([{"content": content, "finishReason": "STOP"}]));
        }
        Seat::ImageCall => {
            let calls: Vec<_> = texts
                .iter()
                .map(|text| json!({"type": "image_generation_call", "status": "completed", "result": text}))
                .collect();
            put("output", json!(calls));
        }
        // Not in JSON.
        Seat::OnlyLink | Seat::OnlyBytes => {}
    }
}
