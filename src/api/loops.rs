//! Refuses the gateway's own webhooks when they come home: an endpoint by another name, or a proxy in between, can lead here
//! although its address does not say so.

use axum::body::Body;
use axum::extract::State;
use axum::http::header::VIA;
use axum::http::{HeaderMap, Request};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::problem::ApiError;
use crate::domain::code::Code;
use crate::domain::link::Links;

/// Lets everything through but what carries our own mark.
pub(super) async fn refuse(State(links): State<Links>, request: Request<Body>, next: Next) -> Response {
    if comes_home(request.headers(), &links) {
        return ApiError::new(Code::InvalidRequest, "this is a webhook of the gateway's own").into_response();
    }
    next.run(request).await
}

fn comes_home(headers: &HeaderMap, links: &Links) -> bool {
    // Hardly any request has been through anything.
    headers.contains_key(VIA) && {
        let mark = links.mark();
        let mut via = headers.get_all(VIA).iter().filter_map(|via| via.to_str().ok());
        via.any(|via| via.split(',').any(|hop| hop.trim().ends_with(&mark)))
    }
}
