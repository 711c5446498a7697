//! What all lists share: how many at a time, opaque cursors, and the link to the next page with every filter kept.

use std::fmt::Display;
use std::str::FromStr;

use axum::Json;
use axum::http::Uri;
use axum::http::header::{HeaderValue, LINK};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use url::form_urlencoded;

use super::problem::ApiError;
use crate::domain::code::Code;

/// How many are asked for: 50 unless said otherwise.
pub(super) fn limit(asked: Option<usize>) -> Result<usize, ApiError> {
    let limit = asked.unwrap_or(50);
    if (1..=200).contains(&limit) {
        Ok(limit)
    } else {
        Err(ApiError::new(Code::InvalidRequest, "limit: must be from 1 to 200"))
    }
}

/// Where a page that begins after `last` begins.
pub(super) fn cursor(last: impl Display) -> String {
    URL_SAFE_NO_PAD.encode(last.to_string())
}

/// The id a cursor stands for.
pub(super) fn read_cursor<T: FromStr>(cursor: &str) -> Result<T, ApiError> {
    let bad = || ApiError::new(Code::InvalidRequest, "cursor: not a cursor of this list");
    let text = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| bad())?;
    String::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or_else(bad)
}

/// A page as an answer; with a next one, a link to it.
pub(super) fn page<T: Serialize>(body: &T, uri: &Uri, next: Option<&str>) -> Response {
    let mut response = Json(body).into_response();
    if let Some(next) = next {
        let mut query = form_urlencoded::Serializer::new(String::new());
        let asked = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
        query.extend_pairs(asked.filter(|(name, _)| name != "cursor"));
        let query = query.append_pair("cursor", next).finish();
        let link = HeaderValue::from_str(&format!("<{}?{query}>; rel=\"next\"", uri.path()));
        if let Ok(link) = link {
            response.headers_mut().insert(LINK, link);
        }
    }
    response
}
