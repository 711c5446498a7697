//! Who may come in. Every path needs a key but those in [`open`]; keys are read from headers only. What a key may do at all
//! (its requests a minute, the admin's paths) is decided here, before any handler; and what it tried in vain is told to the
//! audit from here, so that no new endpoint can forget it. What it did is written with the deed.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{ConnectInfo, Request};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::time::Duration;

use super::keyring::{Found, Keys};
use super::problem::ApiError;
use super::tries::Try;
use crate::domain::code::Code;
use crate::domain::id::KeyId;
use crate::domain::key::{Key, Role};
use crate::engine::Caller;
use crate::store::Store;

/// The one key a request gives, from either header.
fn given(headers: &HeaderMap) -> Option<&str> {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|value| {
        let (scheme, key) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    let key = bearer.or_else(|| headers.get("x-api-key")?.to_str().ok())?;
    (1..=512).contains(&key.len()).then_some(key)
}

/// Paths that need no key: what looks after the process, the documentation, providers' callbacks with tokens of their own,
/// and nothing else.
fn open(path: &str) -> bool {
    const EXACT: [&str; 5] = ["/", "/healthz", "/readyz", "/openapi.json", "/docs"];
    const BELOW: [&str; 3] = ["/docs/", "/errors/", "/hooks/"];
    EXACT.contains(&path) || BELOW.iter().any(|prefix| path.starts_with(prefix))
}

/// A picture's address that carries its own signature; its handler checks it.
fn signed(path: &str, query: Option<&str>) -> bool {
    let picture = (path.starts_with("/tasks/") && path.contains("/images/"))
        || (path.starts_with("/files/") && path.ends_with("/content"));
    picture && query.is_some_and(|query| query.split('&').any(|pair| pair.starts_with("sig=")))
}

/// Paths that only an admin's key opens, whether anything is there or not.
fn admins(path: &str) -> bool {
    path == "/admin" || path.starts_with("/admin/")
}

pub(super) async fn authenticate(keys: &Keys, request: Request, next: Next) -> Response {
    let (path, query) = (request.uri().path(), request.uri().query());
    if open(path) || signed(path, query) {
        return next.run(request).await;
    }
    let from = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip());
    let (key, rpm) = match enter(keys, request.headers(), query, from).await {
        Ok(entered) => entered,
        Err(error) => return error.into_response(),
    };
    let allowance = match rpm {
        Some(rpm) => Some(keys.ring.allowances.spend(&key, rpm).await),
        None => None,
    };
    let refusal = match allowance {
        Some(allowance) if !allowance.granted => {
            let detail = format!("this key may make {} requests a minute", allowance.limit);
            Some(ApiError::later(Code::RateLimited, detail, Duration::from_secs(allowance.resets_s.into())))
        }
        _ if admins(path) && key.role != Role::Admin => {
            keys.ring.tries.note(tried(&key, &request, None));
            Some(ApiError::new(Code::Forbidden, "this needs a key with the role \"admin\""))
        }
        _ => None,
    };
    let mut response = match refusal {
        Some(refusal) => refusal.into_response(),
        None => admit(keys, &key, request, next).await,
    };
    if let Some(allowance) = allowance {
        allowance.tell(response.headers_mut());
    }
    response
}

/// Lets a request in, and tells the audit what it tried in vain.
async fn admit(keys: &Keys, key: &Key, mut request: Request, next: Next) -> Response {
    request.extensions_mut().insert(Caller::from(key));
    request.extensions_mut().insert(key.clone());
    let trying = owned(request.uri().path()).map(|id| tried(key, &request, Some(id)));
    let response = next.run(request).await;
    if let Some(trying) = trying.filter(|_| response.status() == StatusCode::NOT_FOUND) {
        keys.ring.tries.note(trying);
    }
    response
}

/// The key a request comes in with, and its requests a minute.
async fn enter(
    keys: &Keys,
    headers: &HeaderMap,
    query: Option<&str>,
    from: Option<IpAddr>,
) -> Result<(Key, Option<u32>), ApiError> {
    if let Some(anybody) = keys.anybody() {
        return Ok((anybody, None));
    }
    let Some(text) = given(headers) else { return Err(without_key(query)) };
    match keys.find(text).await? {
        Found::Key(key, rpm) => Ok((key, rpm)),
        Found::Over(why) => Err(ApiError::new(Code::Unauthorized, why)),
        Found::Wrong(id) => Err(wrong(keys, query, from, id)),
    }
}

fn wrong(keys: &Keys, query: Option<&str>, from: Option<IpAddr>, id: Option<KeyId>) -> ApiError {
    tracing::debug!(client.address = ?from, key.id = ?id.map(|id| id.to_string()), "a key that opens nothing");
    match keys.ring.guesses.count(from, id) {
        Some(rest) => {
            ApiError::later(Code::RateLimited, "too many wrong keys; wait before the next try", rest)
        }
        None => without_key(query),
    }
}

/// The same for no key, an empty one and a wrong one.
fn without_key(query: Option<&str>) -> ApiError {
    let in_url = query.is_some_and(|query| query.split('&').any(|pair| pair.contains("key=")));
    let hint = if in_url { "; keys are not taken from the URL" } else { "" };
    let detail = format!("send Authorization: Bearer <key> or X-API-Key: <key>{hint}");
    ApiError::new(Code::Unauthorized, detail)
}

/// The last part of a path that could be the id of something a tenant owns.
fn owned(path: &str) -> Option<String> {
    path.rsplit('/').find(|part| Store::could_be_owned(part)).map(str::to_owned)
}

fn tried(key: &Key, request: &Request, id: Option<String>) -> Try {
    let path: String = request.uri().path().chars().take(200).collect();
    let request = format!("{} {path}", request.method());
    Try { key: key.name.clone(), tenant: key.tenant.clone(), request, id }
}
