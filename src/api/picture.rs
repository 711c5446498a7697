//! Sends a picture's bytes: with a key or by a signed address, whole, in part or made smaller, typed by what they are, and
//! with nothing a browser could run; or sends the caller to the bucket that has them.

use axum::body::Body;
use axum::http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH, LOCATION, RANGE,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use object_store::GetRange;
use serde::Deserialize;
use utoipa::IntoParams;

use super::Api;
use super::problem::ApiError;
use crate::blobs::{Form, WIDTHS};
use crate::domain::clock::Millis;
use crate::domain::code::Code;
use crate::domain::image::Header;

/// How a picture is asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Access {
    /// `1`: as a file to save instead of one to show.
    download: Option<u8>,
    /// Pixels across: 64, 128, 256, 512 or 1024. The picture made smaller, of the same type and shape, for lists and previews;
    /// one that is no wider, or that cannot be made smaller, comes as it is.
    #[param(example = 256)]
    width: Option<u32>,
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

    /// The form of a picture that is asked for, made if need be, and its length.
    async fn form<'a>(&self, api: &Api, sent: &Sent<'a>) -> Result<(Form<'a>, u64), ApiError> {
        let whole = (Form::from(sent.sha256), sent.bytes);
        let Some(width) = self.width else { return Ok(whole) };
        if !WIDTHS.contains(&width) {
            let detail = format!("width: must be one of {WIDTHS:?}");
            return Err(ApiError::new(Code::InvalidRequest, detail));
        }
        if width >= sent.header.width {
            return Ok(whole);
        }
        let form = Form { sha256: sent.sha256, width: Some(width) };
        Ok(api.blobs.make_smaller(form, sent.header).await?.map_or(whole, |length| (form, length)))
    }
}

/// A picture to be sent.
pub(super) struct Sent<'a> {
    /// SHA-256 of its bytes in hex.
    pub sha256: &'a str,
    /// Its length.
    pub bytes: u64,
    /// What its header says.
    pub header: Header,
    /// What it is saved as, without an ending.
    pub name: String,
    /// Whether the caller may be sent to the store instead.
    pub redirect: bool,
}

/// Sends a picture as it is asked for.
pub(super) async fn send(
    api: &Api,
    sent: Sent<'_>,
    access: &Access,
    asked: &HeaderMap,
) -> Result<Response, ApiError> {
    let (form, bytes) = access.form(api, &sent).await?;
    let etag = form.etag();
    let known = |value: &HeaderValue| value.to_str().is_ok_and(|value| value == "*" || value.contains(&etag));
    if asked.get_all(IF_NONE_MATCH).iter().any(known) {
        return Ok((StatusCode::NOT_MODIFIED, [(ETAG, etag)]).into_response());
    }
    let media_type = sent.header.media_type;
    let how = if access.download == Some(1) { "attachment" } else { "inline" };
    let disposition = format!("{how}; filename=\"{}.{}\"", sent.name, media_type.extension());
    if sent.redirect
        && let Some(url) = api.blobs.link(form, media_type, &disposition).await?
    {
        // Kept by nobody for longer than it opens.
        let headers = [(LOCATION, text(url.as_str())), (CACHE_CONTROL, text("private, max-age=240"))];
        return Ok((StatusCode::TEMPORARY_REDIRECT, headers).into_response());
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
    let opened = api.blobs.get(form, part.clone()).await?;
    let mut response = Body::from_stream(opened.body).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, (opened.range.end - opened.range.start).into());
    if part.is_some() {
        let (first, last) = (opened.range.start, opened.range.end.saturating_sub(1));
        headers.insert(CONTENT_RANGE, text(&format!("bytes {first}-{last}/{}", opened.length)));
    }
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
