//! Who may come in. Every path needs a key but those in [`open`]; keys are read from headers only, kept as HMACs under a
//! server pepper, and found by their HMAC, so that no comparison tells how much of a guess was right.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::problem::ApiError;
use crate::domain::code::Code;
use crate::domain::key::{Key, Limits, Role};
use crate::domain::secret::hmac_sha256;
use crate::engine::Caller;

/// The keys that open the gateway.
#[derive(Clone)]
pub struct Keys {
    pepper: Arc<[u8]>,
    /// By HMAC. `None`: no key is asked for.
    known: Option<Arc<HashMap<[u8; 32], Key>>>,
}

impl Keys {
    /// Asks everybody for one of these keys.
    pub fn of(pepper: &[u8], keys: impl IntoIterator<Item = (String, Key)>) -> Self {
        let known = keys.into_iter().map(|(secret, key)| (hmac_sha256(pepper, secret.as_bytes()), key));
        Self { pepper: pepper.into(), known: Some(Arc::new(known.collect())) }
    }

    /// Asks nobody.
    pub fn none() -> Self {
        Self { pepper: Arc::from([]), known: None }
    }

    fn find(&self, headers: &HeaderMap) -> Option<Key> {
        let Some(known) = &self.known else {
            return Some(Key {
                name: "anonymous".into(),
                tenant: "default".into(),
                role: Role::Admin,
                limits: Arc::new(Limits::default()),
            });
        };
        let given = given(headers)?;
        known.get(&hmac_sha256(&self.pepper, given.as_bytes())).cloned()
    }
}

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

pub(super) async fn authenticate(State(keys): State<Keys>, mut request: Request, next: Next) -> Response {
    let (path, query) = (request.uri().path(), request.uri().query());
    match keys.find(request.headers()) {
        Some(key) => {
            request.extensions_mut().insert(Caller::from(&key));
            request.extensions_mut().insert(key);
            next.run(request).await
        }
        None if open(path) || signed(path, query) => next.run(request).await,
        None => {
            let in_url = query.is_some_and(|query| query.split('&').any(|pair| pair.contains("key=")));
            let hint = if in_url { "; keys are not taken from the URL" } else { "" };
            let detail = format!("send Authorization: Bearer <key> or X-API-Key: <key>{hint}");
            ApiError::new(Code::Unauthorized, detail).into_response()
        }
    }
}
