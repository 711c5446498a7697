//! Looks at a request's head before anything else does: sizes within their limits, exactly one `Host`, and that it is us who
//! are asked. What is refused here is refused without a look at the body, and its connection is closed.

use std::sync::Arc;

use axum::extract::Request;
use axum::http::header::{CONNECTION, HOST, HeaderValue};
use axum::http::uri::Authority;
use axum::http::{Method, Version};
use axum::response::{IntoResponse, Response};

use super::problem::ApiError;
use crate::domain::code::Code;

/// The longest path and query, in bytes.
const MAX_URI: usize = 8 * 1024;
/// The most bytes of names and values of all headers.
const MAX_HEADERS: usize = 32 * 1024;
/// Probes ask by whatever address they find us under.
const PROBED: [&str; 2] = ["/healthz", "/readyz"];

/// Who we are.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    /// Hosts that requests may name; empty: any.
    pub hosts: Arc<[String]>,
    /// Hosts, with their ports where they have one, that a whole address in the request line may name.
    pub own: Arc<[String]>,
}

impl Guard {
    /// The answer to a request that is not served.
    pub(super) fn turn_away(&self, request: &Request) -> Option<Response> {
        let mut response = self.refusal(request)?.into_response();
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        Some(response)
    }

    fn refusal(&self, request: &Request) -> Option<ApiError> {
        let uri = request.uri();
        let malformed = |detail: &str| Some(ApiError::new(Code::InvalidRequest, detail));
        let length = uri.path_and_query().map_or(0, |it| it.as_str().len());
        if length > MAX_URI {
            return Some(ApiError::new(Code::UriTooLong, format!("{length} bytes, at most {MAX_URI}")));
        }
        let size: usize =
            request.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        if size > MAX_HEADERS {
            return Some(ApiError::new(
                Code::HeadersTooLarge,
                format!("{size} bytes, at most {MAX_HEADERS}"),
            ));
        }
        if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
            let detail = format!("{} is not served: this is no proxy", request.method());
            return Some(ApiError::new(Code::MethodNotAllowed, detail));
        }
        let mut hosts = request.headers().get_all(HOST).iter();
        let host = match (hosts.next(), hosts.next()) {
            (_, Some(_)) => return malformed("more than one Host"),
            (None, None) if request.version() == Version::HTTP_10 => None,
            (None, None) => return malformed("Host is missing"),
            (Some(host), None) => match host.to_str().ok().and_then(authority) {
                Some(host) => Some(host),
                None => return malformed("Host does not name a host"),
            },
        };
        if let Some(asked) = uri.authority() {
            let same = host.as_ref().is_none_or(|host| host == asked);
            let named = |own: &String| asked.as_str().eq_ignore_ascii_case(own);
            if !same || asked.as_str().contains('@') || !self.own.iter().chain(&*self.hosts).any(named) {
                return malformed("the request line names another host; this is no proxy");
            }
        }
        let host = host.filter(|_| !self.hosts.is_empty() && !PROBED.contains(&uri.path()))?;
        let listed = |name: &String| {
            name.eq_ignore_ascii_case(host.host()) || name.eq_ignore_ascii_case(host.as_str())
        };
        if self.hosts.iter().any(listed) { None } else { malformed("Host is none of server.hosts") }
    }
}

/// A host with or without a port, and nothing more.
fn authority(text: &str) -> Option<Authority> {
    let authority: Authority = text.parse().ok()?;
    (!text.contains('@') && !authority.host().is_empty()).then_some(authority)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(uri: &str, hosts: &[&str], guard: &Guard) -> bool {
        let mut request = Request::builder().uri(uri);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        guard.refusal(&request.body(axum::body::Body::empty()).unwrap()).is_some()
    }

    #[test]
    fn a_request_has_one_host_and_it_is_ours() {
        let any = Guard { own: ["gw.example".to_owned()].into(), ..Guard::default() };
        for (uri, hosts, expected) in [
            ("/tasks", &["gw.example"][..], false),
            ("/tasks", &["10.0.0.1:8080"], false),
            ("/tasks", &["[::1]:8080"], false),
            ("/tasks", &[], true),
            ("/tasks", &["a", "b"], true),
            ("/tasks", &["a", "a"], true),
            ("/tasks", &[""], true),
            ("/tasks", &["user@a"], true),
            ("/tasks", &["a/b"], true),
            ("http://gw.example/tasks", &["gw.example"], false),
            ("http://GW.example/tasks", &["gw.example"], false),
            ("http://evil.example/tasks", &["gw.example"], true),
            ("http://evil.example/tasks", &["evil.example"], true),
            ("http://x@gw.example/tasks", &["gw.example"], true),
        ] {
            assert_eq!(refused(uri, hosts, &any), expected, "{uri} {hosts:?}");
        }
    }

    #[test]
    fn where_hosts_are_listed_no_other_is_served_but_probes() {
        let listed =
            Guard { hosts: ["gw.example".to_owned(), "[::1]".to_owned()].into(), ..Guard::default() };
        assert!(!refused("/tasks", &["gw.example"], &listed));
        assert!(!refused("/tasks", &["Gw.Example:8080"], &listed));
        assert!(!refused("/tasks", &["[::1]:80"], &listed));
        assert!(refused("/tasks", &["evil.example"], &listed));
        assert!(refused("/tasks", &["gw.example.evil.example"], &listed));
        assert!(!refused("/readyz", &["10.1.2.3:8080"], &listed));
    }
}
