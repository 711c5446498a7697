//! A host that has no files for a while: what it answers, and until when. And what it asks for at all times:
//! a signature, or a name and a password, where its links have them.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, Uri, header};

use super::Picture;
use crate::domain::clock::Millis;
use crate::simulator::faults::{Faults, LinkForm, Outage};

/// What the links' name and password are, as the header has them: `relay:p@ss:word`.
const BASIC: &str = "Basic cmVsYXk6cEBzczp3b3Jk";
/// The same in a link.
pub const USERINFO: &str = "relay:p%40ss%3Aword@";
/// The query of a signed link; the host looks at the signature.
pub const QUERY: &str = "se=2026-12-01T00%3A00%3A00Z&sp=r&sig=aB%2Bc%2Fd%3D&rscd=inline";

const PAGE: &str = "<!DOCTYPE html>\n<html><head><title>Down for maintenance</title></head>\
    <body><h1>We will be back soon.</h1></body></html>\n";

/// The answer instead of the file, if there is one now.
pub fn instead(
    picture: &Picture,
    faults: &Faults,
    now: Millis,
    uri: &Uri,
    headers: &HeaderMap,
) -> Option<Response> {
    if faults.links(LinkForm::Query) && !uri.query().is_some_and(|query| query.starts_with(QUERY)) {
        return Some(
            (StatusCode::FORBIDDEN, "<Error><Code>SignatureDoesNotMatch</Code></Error>").into_response(),
        );
    }
    if faults.links(LinkForm::Userinfo) {
        let shown = headers.get(header::AUTHORIZATION).is_some_and(|shown| shown == BASIC);
        if !shown {
            let challenge = [(header::WWW_AUTHENTICATE, "Basic realm=\"results\"")];
            return Some((StatusCode::UNAUTHORIZED, challenge, "name and password, please").into_response());
        }
    }
    let outage = faults.outage.filter(|_| faults.outage_of.is_none_or(|of| of == picture.index))?;
    let visits = picture.visited();
    let span = faults.outage_s.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let over = faults.outage_gets.is_some_and(|gets| visits >= gets)
        || span.is_some_and(|span| now >= picture.ready + span);
    if over {
        return None;
    }
    let html = [(header::CONTENT_TYPE, "text/html; charset=utf-8")];
    Some(match outage {
        Outage::Forbidden => {
            (StatusCode::FORBIDDEN, "<Error><Code>AccessDenied</Code></Error>").into_response()
        }
        Outage::Missing => (StatusCode::NOT_FOUND, "404 page not found").into_response(),
        Outage::Broken => (StatusCode::INTERNAL_SERVER_ERROR, "upstream connect error").into_response(),
        Outage::Html => (StatusCode::OK, html, PAGE).into_response(),
        Outage::Empty => (StatusCode::OK, [(header::CONTENT_TYPE, picture.format.mime())]).into_response(),
        Outage::Maintenance => {
            let mut answer = (StatusCode::SERVICE_UNAVAILABLE, html, PAGE).into_response();
            answer.headers_mut().insert(header::RETRY_AFTER, 120.into());
            answer
        }
    })
}
