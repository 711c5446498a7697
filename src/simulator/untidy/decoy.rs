//! What looks like a result and is none: echoes of the request, inputs handed back, partial images, previews,
//! links to hosts that hold no results. None of it is in the ledger, and no caller should get it.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Redirect, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{StatusCode, header};
use serde_json::{Map, Value, json};

use super::draft::{Content, Data, Draft, chunk};
use super::results::Sent;
use super::{Input, Role, Scene, What, denial, seat};
use crate::simulator::faults::{Decoy, Faults, strip};
use crate::simulator::files::sketch;
use crate::simulator::lock::Lock;
use crate::simulator::world::World;

/// Files that are no results, by name.
pub type Decoys = Lock<HashMap<String, Handed>>;

/// What a decoy's link leads to.
#[derive(Debug, Clone)]
pub enum Handed {
    Bytes(Bytes),
    /// The input's own address.
    Address(String),
}

/// `GET /decoys/{name}`.
pub async fn file(State(world): State<Arc<World>>, Path(name): Path<String>) -> Response {
    let stem = name.rsplit_once('.').map_or(name.as_str(), |(stem, _)| stem);
    let handed = world.decoys.lock().get(stem).cloned();
    let bytes = match handed {
        Some(Handed::Address(address)) => return Redirect::temporary(&address).into_response(),
        Some(Handed::Bytes(bytes)) => bytes,
        None => drawn(&world, stem).await,
    };
    (StatusCode::OK, [(header::CONTENT_TYPE, "image/png")], bytes).into_response()
}

/// A small picture of nothing, the same for the same name.
pub async fn drawn(world: &World, name: &str) -> Bytes {
    sketch(world, name).await.unwrap_or_default()
}

/// A decoy with its link and its bytes, as far as they are known.
async fn sent(world: &World, name: &str) -> Sent {
    let link = Some(format!("{}/decoys/{name}.png", world.base));
    Sent { link, bytes: drawn(world, name).await, mime: "image/png" }
}

/// The first input in this role, as something to hand back.
fn input(scene: &Scene, role: Role) -> Option<&Input> {
    scene.inputs.iter().find(|input| input.role == role)
}

/// The bytes of an input that was sent as base64 or as a form's part.
fn bytes_of(input: &Input) -> Option<Bytes> {
    match &input.what {
        What::Bytes(bytes) => Some(bytes.clone()),
        What::Text(text) if text.starts_with("http") => None,
        What::Text(text) => {
            let packed = text.split_once(";base64,").map_or(text.as_str(), |(_, packed)| packed);
            STANDARD.decode(packed).ok().map(Bytes::from)
        }
    }
}

/// The input under a link of ours: its bytes, or a redirect to its own address.
fn rehosted(world: &World, scene: &Scene, role: Role) -> Option<Sent> {
    let input = input(scene, role)?;
    let name = format!("input-{}-{role:?}", scene.seq).to_lowercase();
    let bytes = bytes_of(input);
    let handed = match (&input.what, &bytes) {
        (_, Some(bytes)) | (What::Bytes(bytes), None) => Handed::Bytes(bytes.clone()),
        (What::Text(address), None) => Handed::Address(address.clone()),
    };
    world.decoys.lock().insert(name.clone(), handed);
    let link = Some(format!("{}/decoys/{name}.png", world.base));
    Some(Sent { link, bytes: bytes.unwrap_or_default(), mime: "image/png" })
}

/// Adds one to an answer.
pub async fn add(world: &World, scene: &Scene, decoy: Decoy, draft: &mut Draft) {
    let some = sent(world, &format!("some-{}", scene.seq)).await;
    let link = some.link.clone().unwrap_or_default();
    let echoed = match input(scene, Role::Image).map(|input| &input.what) {
        Some(What::Text(text)) => text.clone(),
        Some(What::Bytes(bytes)) => format!("data:image/png;base64,{}", STANDARD.encode(bytes)),
        None => link.clone(),
    };
    let echo =
        json!({"image": echoed, "image_url": echoed, "images": [{"url": echoed}], "prompt": scene.prompt});
    match decoy {
        Decoy::EchoInput => merge(draft, &["input"], &echo),
        Decoy::EchoMetaInput => merge(draft, &["meta", "input"], &echo),
        Decoy::EchoConfig => merge(draft, &["config"], &echo),
        Decoy::EchoRequest => {
            let part = json!({"type": "image_url", "image_url": {"url": echoed}});
            let messages = json!([{"role": "user", "content": [part]}]);
            merge(draft, &["request"], &json!({"body": echo, "messages": messages}));
        }
        Decoy::InputLink => {
            let own = input(scene, Role::Image).map(|input| &input.what);
            let own = match own {
                Some(What::Text(text)) if text.starts_with("http") => {
                    Some(Sent { link: Some(text.clone()), bytes: Bytes::new(), mime: "image/png" })
                }
                _ => rehosted(world, scene, Role::Image),
            };
            place(draft, own);
        }
        Decoy::InputBytes => place(draft, rehosted(world, scene, Role::Image)),
        Decoy::Mask => place(draft, rehosted(world, scene, Role::Mask)),
        Decoy::Control => place(draft, rehosted(world, scene, Role::Control)),
        Decoy::PromptLink => {
            let prompt = strip(&scene.prompt).into_owned();
            let at = prompt.find("http");
            let found = at.map(|at| prompt[at..].split([' ', ')', ',', '"']).next().unwrap_or_default());
            let own =
                |link: &str| Sent { link: Some(link.to_owned()), bytes: Bytes::new(), mime: "image/png" };
            place(draft, found.map(own));
        }
        Decoy::DecoyHost => {
            let link = "https://videos.openai.com/az/vg-assets/task_0%2Fimg_0.webp?se=2026&sig=REDACTED";
            place(draft, Some(Sent { link: Some(link.to_owned()), bytes: Bytes::new(), mime: "image/webp" }));
        }
        Decoy::Partial if matches!(draft.content, Content::Events(_)) => {
            let told = denial::partial(world, scene, draft.is_chat()).await;
            if let Content::Events(events) = &mut draft.content {
                events.splice(0..0, told);
            }
        }
        Decoy::Partial => merge(draft, &[], &json!({"partial_images": [link], "partial_image": link})),
        Decoy::Thumbnail => {
            merge(draft, &[], &json!({"thumbnail_url": link, "thumbnails": [{"url": link}], "thumb": link}));
        }
        Decoy::Preview => merge(draft, &[], &json!({"preview_url": link, "preview": {"image_url": link}})),
        Decoy::Progress => {
            said(draft, &format!("> Progress 50..[100]({link})\n"));
            merge(
                draft,
                &[],
                &json!({"progress": {"percent": 50, "image_url": link}, "progress_image_url": link}),
            );
        }
        Decoy::UnknownKey => merge(draft, &[], &json!({"artifact_ref": {"x_data": link}})),
    }
}

/// Puts it where the upstream's results belong; not in news of a job that is not done.
fn place(draft: &mut Draft, sent: Option<Sent>) {
    let Some(sent) = sent.filter(|_| draft.is_final()) else { return };
    let based = draft.is_images() && !sent.bytes.is_empty();
    let sent = if based { Sent { link: None, ..sent } } else { sent };
    seat::own(draft, &Faults::default(), &[sent]);
}

/// Merges fields into the object at this path of the answer; in a stream, of its first and its last document.
fn merge(draft: &mut Draft, path: &[&str], fields: &Value) {
    if let Content::Events(events) = &mut draft.content {
        let mut documents: Vec<_> = events
            .iter_mut()
            .filter_map(|event| match &mut event.data {
                Data::Json(Value::Object(object)) => Some(object),
                _ => None,
            })
            .collect();
        if let Some(first) = documents.first_mut() {
            into(first, path, fields);
        }
        if let Some(last) = documents.last_mut() {
            into(last, path, fields);
        }
    } else if let Some(object) = draft.object() {
        into(object, path, fields);
    }
}

fn into(object: &mut Map<String, Value>, path: &[&str], fields: &Value) {
    let Some((first, rest)) = path.split_first() else {
        object.extend(fields.as_object().cloned().unwrap_or_default());
        return;
    };
    let inner = object.entry(*first).or_insert_with(|| json!({}));
    if !inner.is_object() {
        *inner = json!({});
    }
    if let Some(inner) = inner.as_object_mut() {
        into(inner, rest, fields);
    }
}

/// Says it in a chat, before its end.
fn said(draft: &mut Draft, text: &str) {
    if !draft.is_chat() {
        return;
    }
    if let Content::Events(events) = &mut draft.content {
        let like = events.first().and_then(|event| event.value().cloned());
        let at = events.len().min(1);
        events.insert(at, chunk(like.as_ref(), &json!({"content": text}), None));
    }
}
