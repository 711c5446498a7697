//! How a stream, or a 200, says no: the shapes that vendors use for an error inside an answer.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::draft::{Content, Data, Draft, Event, chunk};
use super::{Scene, decoy};
use crate::simulator::faults::{ErrorAfter, ErrorEvent, Faults};
use crate::simulator::world::World;

const MESSAGE: &str = "Your request was rejected by our safety system: it violates our content policy.";
const CODE: &str = "content_policy_violation";

/// Replaces the answer.
pub async fn say(world: &World, faults: &Faults, scene: &Scene, shape: ErrorEvent, draft: &mut Draft) {
    let message = faults.message.as_ref().map_or(MESSAGE, |text| text.0.as_str());
    let code = if faults.message.is_some() { "server_error" } else { CODE };
    let events = match &draft.content {
        Content::Events(events) => events.clone(),
        Content::Json(_) | Content::Raw(_) => {
            let error = document(shape, message, code, "message", None);
            draft.content = match error.data {
                Data::Json(value) => Content::Json(value),
                Data::Text(text) => Content::Raw(text.into()),
            };
            return;
        }
    };
    let chat = draft.is_chat();
    let first = events.iter().find_map(|event| event.value().cloned());
    let mut told = Vec::new();
    match faults.error_after.unwrap_or(ErrorAfter::Start) {
        ErrorAfter::Start => {}
        ErrorAfter::Text if chat => {
            for text in ["> Queuing.\n", "> Generating....\n"] {
                told.push(chunk(first.as_ref(), &json!({"content": text}), None));
            }
        }
        ErrorAfter::Text => {
            told.push(Event::json(json!({"type": "image_generation.in_progress", "created_at": 0})));
        }
        ErrorAfter::Partial => told.extend(partial(world, scene, chat).await),
    }
    told.push(document(shape, message, code, if chat { "delta" } else { "message" }, first.as_ref()));
    if chat && shape != ErrorEvent::EventText {
        told.push(Event { name: None, data: Data::Text("[DONE]".to_owned()) });
    }
    draft.content = Content::Events(told);
}

/// Two partial images, as the Images API sends them or in a delta.
pub async fn partial(world: &World, scene: &Scene, chat: bool) -> Vec<Event> {
    let mut told = Vec::new();
    for n in 0..2 {
        let file = decoy::drawn(world, &format!("partial-{}-{n}", scene.seq)).await;
        let packed = STANDARD.encode(file);
        told.push(if chat {
            let image =
                json!({"type": "image_url", "image_url": {"url": format!("data:image/png;base64,{packed}")}});
            chunk(None, &json!({"partial_images": [image], "partial_image_index": n}), None)
        } else {
            let kind = "image_generation.partial_image";
            let value = json!({"type": kind, "b64_json": packed, "partial_image_index": n});
            Event { name: Some(kind.to_owned()), data: Data::Json(value) }
        });
    }
    told
}

/// The error in this shape.
fn document(shape: ErrorEvent, message: &str, code: &str, holder: &str, like: Option<&Value>) -> Event {
    let error = json!({"message": message, "type": "image_generation_user_error", "code": code});
    let named = |data| Event { name: Some("error".to_owned()), data };
    let choice = |message: Value, reason: &str| {
        let mut event = chunk(like, &json!({}), None);
        if let Data::Json(value) = &mut event.data {
            value["choices"] = json!([{"index": 0, holder: message, "finish_reason": reason}]);
        }
        event
    };
    match shape {
        ErrorEvent::EventJson => named(Data::Json(json!({"error": error}))),
        ErrorEvent::EventText => named(Data::Text(message.to_owned())),
        ErrorEvent::Object => Event::json(json!({"error": error})),
        ErrorEvent::Text => Event::json(json!({"error": message})),
        ErrorEvent::Typed => Event::json(json!({"type": "error", "error": error})),
        ErrorEvent::TypedFlat => Event::json(json!({"type": "error", "code": code, "message": message})),
        ErrorEvent::ResponseFailed => {
            let response =
                json!({"id": "resp_0", "status": "failed", "error": {"code": code, "message": message}});
            Event::json(json!({"type": "response.failed", "response": response}))
        }
        ErrorEvent::GenerationFailed => {
            let name = "image_generation.failed";
            let data = Data::Json(json!({"type": name, "error": error}));
            Event { name: Some(name.to_owned()), data }
        }
        ErrorEvent::ObjectError => Event::json(
            json!({"object": "error", "message": message, "type": "invalid_request", "code": code}),
        ),
        ErrorEvent::Code => Event::json(json!({"code": code, "message": message})),
        ErrorEvent::Detail => Event::json(json!({"detail": message})),
        ErrorEvent::Errors => Event::json(
            json!({"success": false, "result": null, "errors": [{"code": 3030, "message": message}]}),
        ),
        ErrorEvent::FinishReason => choice(json!({"role": "assistant", "content": ""}), "content_filter"),
        ErrorEvent::Refusal => {
            choice(json!({"role": "assistant", "content": null, "refusal": message}), "stop")
        }
        ErrorEvent::BlockReason => {
            Event::json(json!({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}))
        }
    }
}
