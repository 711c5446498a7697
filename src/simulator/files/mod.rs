//! The host that keeps the results: pictures drawn from the requests, served as a CDN would, or not.

mod draw;
mod encode;
mod gif;
mod letters;
mod odd;
mod outage;
mod shelf;
mod trailer;

use std::io;
use std::iter;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};

pub use self::encode::Format;
pub use self::shelf::{Commission, Picture, Place, Shelf, sketch};
use super::connection::Switch;
use super::dialect::Dialect;
use super::faults::answer::Caller;
use super::faults::{Bomb, Endpoint, Faults, FileWrap, Lie};
use super::intake::with_faults;
use super::play::{self, Beat};
use super::world::World;

/// What a `Content-Length` claims too much.
const CLAIMED: usize = 1 << 30;

/// `GET /files/{name}`, `/cdn/{name}`, `/cdn/download/{name}`.
pub async fn get(
    State(world): State<Arc<World>>,
    Path(name): Path<String>,
    Extension(switch): Extension<Switch>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let stem = name.rsplit_once('.').map_or(name.as_str(), |(stem, _)| stem);
    let (id, asked) = match stem.split_once('~') {
        Some((id, asked)) => (id, asked.parse::<usize>().ok()),
        None => (stem, None),
    };
    let Some(picture) = world.shelf.get(id) else { return not_found() };
    let rule = world.rules.find(Endpoint::Files, None, &picture.prompt);
    let caller = Caller { switch: &switch, dialect: Dialect::Detail, key: None };
    let faults = rule.as_ref().unwrap_or(&picture.faults);
    let natural = async {
        if let Some(instead) = outage::instead(&picture, faults, world.now(), &uri, &headers) {
            return instead;
        }
        serve(&world, &picture, faults, asked, &switch)
            .await
            .unwrap_or_else(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response())
    };
    with_faults(rule.as_ref(), caller, natural).await
}

fn not_found() -> Response {
    (StatusCode::NOT_FOUND, "404 page not found").into_response()
}

async fn serve(
    world: &World,
    picture: &Picture,
    faults: &Faults,
    asked: Option<usize>,
    switch: &Switch,
) -> io::Result<Response> {
    if world.now() < picture.ready {
        return Ok(not_found());
    }
    let dead = faults.file_expire.filter(|_| asked.is_none_or(|asked| asked == 0)).and_then(|by| by.or(403));
    if let Some(status) = dead.or(faults.file_http) {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        return Ok((status, "<Error><Code>AccessDenied</Code></Error>").into_response());
    }
    if let Some(to) = &faults.file_redirect {
        return Ok((StatusCode::FOUND, [(header::LOCATION, to.as_str())]).into_response());
    }
    let mut file = contents(world, picture, faults).await?;
    let labelled = faults.wraps_file(FileWrap::Gzip);
    if labelled || faults.wraps_file(FileWrap::GzipUnlabelled) {
        file = encode::gzip(&file)?.into();
    }
    let (length, body) = body(file, faults, switch);
    let mut answer = ([(header::CONTENT_LENGTH, HeaderValue::from(length))], body).into_response();
    let label = faults.file_label.as_ref().map_or(picture.format.mime(), |label| label.0.as_str());
    answer.headers_mut().remove(header::CONTENT_TYPE);
    if let Some(label) = HeaderValue::from_str(label).ok().filter(|label| label != "none") {
        answer.headers_mut().insert(header::CONTENT_TYPE, label);
    }
    if labelled {
        answer.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    Ok(answer)
}

/// What the file holds.
pub async fn contents(world: &World, picture: &Picture, faults: &Faults) -> io::Result<Bytes> {
    if faults.file_empty {
        return Ok(Bytes::new());
    }
    if let Some(kind) = faults.file_type {
        return Ok(Bytes::from_static(odd::not_a_picture(kind)));
    }
    if let Some(kind) = faults.file_bomb.and_then(|kind| kind.or(Bomb::Png)) {
        let bomb = tokio::task::spawn_blocking(move || odd::bomb(kind)).await.map_err(io::Error::other)?;
        return bomb.map(Bytes::from);
    }
    let mut file = world.file(picture).await?;
    if faults.file_truncated {
        file.truncate(file.len() / 2);
    }
    if let Some(bytes) = faults.file_trailing {
        let garbage = encode::noise(usize::try_from(bytes).unwrap_or(0));
        file = [file, Bytes::from(garbage)].concat().into();
    }
    if faults.file_wrap.is_some() {
        file = trailer::wrap(file, faults);
        world.note_sent(picture, &file);
    }
    Ok(file)
}

/// How it is sent: the claimed length, and the bytes.
fn body(mut file: Bytes, faults: &Faults, switch: &Switch) -> (usize, Body) {
    let length = file.len();
    let cut = |bytes: Bytes| {
        let beats = [Beat::Say(bytes), Beat::Wait(Duration::ZERO), Beat::Close].into_iter();
        play::body(beats, switch.clone())
    };
    match faults.file_length_lie.and_then(|lie| lie.or(Lie::Long)) {
        Some(Lie::Long) => return (length + CLAIMED, cut(file)),
        Some(Lie::Short) => {
            file.truncate(10);
            return (file.len(), Body::from(file));
        }
        None => {}
    }
    if faults.file_cut {
        return (length, cut(file.slice(..length / 2)));
    }
    if let Some(rate) = faults.file_slow.and_then(|rate| rate.or(1)) {
        let (mut left, second) = (file, Duration::from_secs(1));
        let rate = usize::try_from(rate.max(1)).unwrap_or(usize::MAX);
        let mut pause = false;
        let beats = iter::from_fn(move || {
            pause = !pause;
            if left.is_empty() {
                None
            } else if pause {
                Some(Beat::Say(left.split_to(rate.min(left.len()))))
            } else {
                Some(Beat::Wait(second))
            }
        });
        return (length, play::body(beats, switch.clone()));
    }
    (length, Body::from(file))
}
