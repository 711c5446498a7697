//! Refuses the gateway's own webhooks when they come home: an endpoint by another name, or a proxy in between, can lead here
//! although its address does not say so.

use axum::extract::Request;
use axum::http::HeaderMap;
use axum::http::header::VIA;
use axum::response::{IntoResponse, Response};

use super::problem::ApiError;
use crate::domain::code::Code;
use crate::domain::link::Links;

/// The answer to what carries our own mark.
pub(super) fn turn_away(links: &Links, request: &Request) -> Option<Response> {
    comes_home(request.headers(), links).then(|| {
        ApiError::new(Code::InvalidRequest, "this is a webhook of the gateway's own").into_response()
    })
}

fn comes_home(headers: &HeaderMap, links: &Links) -> bool {
    // Hardly any request has been through anything.
    headers.contains_key(VIA) && {
        let mark = links.mark();
        let mut via = headers.get_all(VIA).iter().filter_map(|via| via.to_str().ok());
        via.any(|via| via.split(',').any(|hop| hop.trim().ends_with(&mark)))
    }
}
