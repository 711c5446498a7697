//! Spoiled answers: what comes instead of the natural one, and what is done to the natural one.

use std::io::Write;
use std::iter;
use std::time::Duration;

use axum::body::{Body as HttpBody, to_bytes};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderValue, StatusCode, header};
use serde_json::json;

use super::{Body, Faults, Or, Truncate};
use crate::simulator::connection::Switch;
use crate::simulator::dialect::{Dialect, cloudflare_blocked, json_answer};
use crate::simulator::play::{self, Beat};

/// How much of a natural answer can be spoiled; anything longer passes.
const ANSWER: usize = 64 << 20;
/// A truncated head ends after so many bytes, inside the status line.
const HALF_A_HEAD: u32 = 12;

/// The caller to whom the answer goes.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// Its connection.
    pub switch: &'a Switch,
    /// How this upstream talks to it.
    pub dialect: Dialect,
    /// The key it showed.
    pub key: Option<&'a str>,
}

/// Waits as told, then gives the answer that comes instead of the natural one, if any.
pub async fn instead(faults: &Faults, caller: Caller<'_>) -> Option<Response> {
    wait(faults.delay, caller.switch).await;
    match &faults.hang {
        Some(Or::Flag(true)) => caller.switch.gone().await,
        Some(Or::Value(seconds)) => wait(Some(*seconds), caller.switch).await,
        Some(Or::Flag(false)) | None => {}
    }
    if faults.reset || faults.reset_accepted {
        caller.switch.reset();
        caller.switch.gone().await;
    }
    let mut answer = if let Some(to) = &faults.redirect {
        (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, to.as_str())]).into_response()
    } else if let Some(status) = faults.http {
        error(faults, caller, status)
    } else if let (Some(code), false) = (faults.envelope_code, faults.envelope_data) {
        let message = faults.message.as_ref().map_or("invalid request", |text| text.0.as_str());
        json_answer(StatusCode::OK, &json!({"code": code, "data": null, "message": message}))
    } else if let Some(bytes) = &faults.huge {
        huge(bytes.or(u64::MAX)?, caller.switch)
    } else if let Some(depth) = faults.deep_json {
        let depth = usize::try_from(depth).unwrap_or(usize::MAX);
        json_text(format!("{}{}", "[".repeat(depth), "]".repeat(depth)))
    } else if let Some(bytes) = faults.gzip_bomb {
        gzip_bomb(bytes).await
    } else {
        return None;
    };
    stamp(faults, &mut answer);
    Some(answer)
}

/// What is done to the natural answer.
pub async fn spoil(faults: &Faults, switch: &Switch, mut answer: Response) -> Response {
    stamp(faults, &mut answer);
    if faults.truncate == Some(Truncate::Head) {
        switch.cut_after(HALF_A_HEAD);
        return answer;
    }
    let touched = faults.truncate.is_some() || faults.bad_json || faults.gzip || faults.duplicate_task_id;
    if !touched {
        return answer;
    }
    let (mut head, body) = answer.into_parts();
    let Ok(mut bytes) = to_bytes(body, ANSWER).await else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    head.headers.remove(header::CONTENT_LENGTH);
    if faults.duplicate_task_id {
        bytes = twice_the_id(&bytes);
    }
    if faults.bad_json {
        bytes.truncate(bytes.len() * 2 / 3);
    }
    if faults.gzip
        && let Ok(packed) = gzip(|to| to.write_all(&bytes))
    {
        head.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        bytes = packed;
    }
    if let Some(place) = faults.truncate {
        head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
        bytes.truncate(if place == Truncate::Tail { bytes.len() - 5 } else { bytes.len() / 2 });
        let beats = [Beat::Say(bytes), Beat::Close].into_iter();
        return Response::from_parts(head, play::body(beats, switch.clone()));
    }
    Response::from_parts(head, HttpBody::from(bytes))
}

async fn wait(seconds: Option<f64>, switch: &Switch) {
    let Some(span) = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()) else { return };
    tokio::select! {
        () = tokio::time::sleep(span) => {}
        () = switch.gone() => {}
    }
}

/// Puts the headers on that any answer may carry.
fn stamp(faults: &Faults, answer: &mut Response) {
    let filler = faults.head_bytes.and_then(|bytes| HeaderValue::from_str(&"x".repeat(bytes)).ok());
    if let Some(filler) = filler {
        answer.headers_mut().insert("x-filler", filler);
    }
    let value = faults.retry_after.as_ref().and_then(|after| HeaderValue::from_str(&after.0).ok());
    if let Some(value) = value {
        answer.headers_mut().insert(header::RETRY_AFTER, value);
    }
}

fn error(faults: &Faults, caller: Caller<'_>, status: u16) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let name = status.canonical_reason().unwrap_or("Unknown");
    let message = faults.message.as_ref().map_or(name, |text| text.0.as_str());
    let message = message.replace("{key}", caller.key.unwrap_or_default());
    let html = |title: &str| {
        let page = format!(
            "<!DOCTYPE html>\n<html><head><title>{title}</title></head>\n<body><h1>{title}</h1>\n\
             <p>{message}</p></body></html>\n"
        );
        (status, [(header::CONTENT_TYPE, "text/html; charset=UTF-8")], page).into_response()
    };
    match faults.body {
        None => caller.dialect.error(status, &message),
        Some(Body::Envelope) => Dialect::Envelope.error(status, &message),
        Some(Body::Openai) => Dialect::OpenAi.error(status, &message),
        Some(Body::Fastapi) => Dialect::Detail.error(status, &message),
        Some(Body::Html) => html(&format!("{} {name}", status.as_u16())),
        Some(Body::Text) => (status, message).into_response(),
        Some(Body::Empty) => status.into_response(),
        Some(Body::Cloudflare) if status == StatusCode::FORBIDDEN => cloudflare_blocked(),
        Some(Body::Cloudflare) => {
            let mut answer = html(&format!("api.piapi.ai | {}: {name}", status.as_u16()));
            answer.headers_mut().insert(header::SERVER, HeaderValue::from_static("cloudflare"));
            answer
        }
    }
}

fn json_text(text: impl Into<HttpBody>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], text.into()).into_response()
}

/// A body that starts like an answer and goes on for `bytes` bytes, chunked.
fn huge(bytes: u64, switch: &Switch) -> Response {
    const CHUNK: u64 = 64 << 10;
    let start = Bytes::from_static(b"{\"code\":200,\"message\":\"");
    let filler = Bytes::from(vec![b'x'; 64 << 10]);
    let mut left = bytes;
    let body = iter::from_fn(move || {
        let next = left.min(CHUNK);
        left -= next;
        let next = usize::try_from(next).ok().filter(|next| *next > 0)?;
        Some(Beat::Say(filler.slice(..next)))
    });
    let beats = iter::once(Beat::Say(start)).chain(body).chain(iter::once(Beat::say("\"}")));
    json_text(play::body(beats, switch.clone()))
}

fn gzip(fill: impl FnOnce(&mut GzEncoder<Vec<u8>>) -> std::io::Result<()>) -> std::io::Result<Bytes> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    fill(&mut packer)?;
    packer.finish().map(Bytes::from)
}

async fn gzip_bomb(bytes: u64) -> Response {
    let packed = tokio::task::spawn_blocking(move || {
        gzip(|to| {
            to.write_all(b"{\"code\":200,\"message\":\"")?;
            std::io::copy(&mut std::io::Read::take(std::io::repeat(b'x'), bytes), to)?;
            to.write_all(b"\"}")
        })
    });
    let Ok(Ok(packed)) = packed.await else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
    let mut answer = json_text(packed);
    answer.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    answer
}

fn twice_the_id(bytes: &Bytes) -> Bytes {
    let text = String::from_utf8_lossy(bytes);
    let twice = "\"task_id\":\"00000000-0000-4000-8000-00000000dddd\",\"task_id\":";
    Bytes::from(text.replacen("\"task_id\":", twice, 1))
}
