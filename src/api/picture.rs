//! Sends a picture's bytes: with a key or by a signed address, whole or in part, typed by what they are, and with nothing
//! a browser could run.

use axum::body::Body;
use axum::http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH, RANGE, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use object_store::GetRange;
use serde::Deserialize;
use utoipa::IntoParams;

use super::Api;
use super::problem::ApiError;
use crate::domain::clock::Millis;
use crate::domain::code::Code;
use crate::domain::image::MediaType;

/// How a picture is asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Access {
    /// `1`: as a file to save instead of one to show.
    download: Option<u8>,
    /// With `sig`: until when the address holds, in milliseconds since the epoch.
    expires: Option<i64>,
    /// The address's signature; with it no key is needed.
    sig: Option<String>,
}

impl Access {
    /// Whether the address is signed; an error when it is and the signature does not hold.
    pub fn check(&self, api: &Api, path: &str) -> Result<bool, ApiError> {
        let Some(sig) = &self.sig else { return Ok(false) };
        if api.links.holds(path, Millis(self.expires.unwrap_or(0)), sig, api.clock.now()) {
            Ok(true)
        } else {
            Err(ApiError::new(Code::Forbidden, "the address's signature does not hold, or has expired"))
        }
    }
}

/// Sends the picture kept under `sha256`, `bytes` long, to be saved under `name`.
pub(super) async fn send(
    api: &Api,
    sha256: &str,
    bytes: u64,
    media_type: MediaType,
    name: &str,
    access: &Access,
    asked: &HeaderMap,
) -> Result<Response, ApiError> {
    let etag = format!("\"{sha256}\"");
    let known = |value: &HeaderValue| value.to_str().is_ok_and(|value| value == "*" || value.contains(&etag));
    if asked.get_all(IF_NONE_MATCH).iter().any(known) {
        return Ok((StatusCode::NOT_MODIFIED, [(ETAG, etag)]).into_response());
    }
    let range = asked.get(RANGE).and_then(|value| value.to_str().ok()).and_then(|value| range(value, bytes));
    let part = match range {
        Some(Err(())) => {
            let error = ApiError::new(Code::RangeNotSatisfiable, format!("the picture has {bytes} bytes"));
            let mut response = error.into_response();
            response.headers_mut().insert(CONTENT_RANGE, text(&format!("bytes */{bytes}")));
            return Ok(response);
        }
        Some(Ok(part)) => Some(part),
        None => None,
    };
    let opened = api.blobs.get(sha256, part.clone()).await?;
    let mut response = Body::from_stream(opened.body).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, (opened.range.end - opened.range.start).into());
    if part.is_some() {
        let (first, last) = (opened.range.start, opened.range.end.saturating_sub(1));
        headers.insert(CONTENT_RANGE, text(&format!("bytes {first}-{last}/{}", opened.length)));
    }
    let how = if access.download == Some(1) { "attachment" } else { "inline" };
    let disposition = format!("{how}; filename=\"{name}.{}\"", media_type.extension());
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type.as_str()));
    headers.insert(CONTENT_DISPOSITION, text(&disposition));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, max-age=31536000, immutable"));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox; default-src 'none'"));
    headers.insert(ETAG, text(&etag));
    if part.is_some() {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response)
}

fn text(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).unwrap_or(HeaderValue::from_static(""))
}

/// One range of bytes. `None`: not one we serve in part, so the whole is sent; `Some(Err)`: outside the picture.
fn range(value: &str, length: u64) -> Option<Result<GetRange, ()>> {
    let (first, last) = value.strip_prefix("bytes=")?.split_once('-')?;
    let parsed = match (first, last) {
        ("", last) => GetRange::Suffix(last.parse().ok().filter(|count| *count > 0)?),
        (first, "") => GetRange::Offset(first.parse().ok()?),
        (first, last) => {
            let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
            if last < first {
                return None;
            }
            GetRange::Bounded(first..last.saturating_add(1))
        }
    };
    let outside = match &parsed {
        GetRange::Offset(first) => *first >= length,
        GetRange::Bounded(range) => range.start >= length,
        GetRange::Suffix(_) => false,
    };
    Some(if outside { Err(()) } else { Ok(parsed) })
}
