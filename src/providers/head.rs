//! What is kept of the head of a provider's answer: its status, harmless headers, and how long it asks to be left alone.

use std::time::Duration;

use http::HeaderMap;
use http::header::{DATE, HeaderValue, RETRY_AFTER};

use crate::spool::Head;

/// The longest rest a provider can ask for.
const MAX_REST: Duration = Duration::from_mins(15);
/// Headers of an answer that are kept as evidence, and prefixes of such.
const KEPT_HEADERS: [&str; 12] = [
    "cf-mitigated",
    "cf-ray",
    "content-encoding",
    "content-length",
    "content-type",
    "date",
    "finish-reason",
    "retry-after",
    "server",
    "via",
    "x-request-id",
    "x-trace-id",
];
const KEPT_PREFIXES: [&str; 3] = ["openai-", "x-ratelimit-", "request-id"];

/// What is kept of an answer's head.
pub fn kept(status: u16, headers: &HeaderMap) -> Head {
    let names = headers.iter().filter(|(name, _)| {
        let name = name.as_str();
        KEPT_HEADERS.contains(&name) || KEPT_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
    });
    let lossy = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    Head {
        status,
        headers: names.map(|(name, value)| (name.as_str().to_owned(), lossy(value))).collect(),
        retry_after: retry_after(headers),
    }
}

/// Seconds, or a date measured against the answer's own `Date`; clamped to what is sensible.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Some(seconds) = text.parse::<f64>().ok().filter(|seconds| *seconds >= 0.0) {
        return Some(Duration::try_from_secs_f64(seconds).unwrap_or(MAX_REST).min(MAX_REST));
    }
    let until = httpdate::parse_http_date(text).ok()?;
    let sent = httpdate::parse_http_date(headers.get(DATE)?.to_str().ok()?).ok()?;
    Some(until.duration_since(sent).unwrap_or_default().min(MAX_REST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_are_clamped() {
        let parse = |value: &str, date: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, value.parse().unwrap());
            date.map(|date| headers.insert(DATE, date.parse().unwrap()));
            retry_after(&headers).map(|rest| rest.as_millis())
        };
        let now = "Sun, 22 Nov 2026 10:00:00 GMT";
        assert_eq!(parse("7", None), Some(7_000));
        assert_eq!(parse("0.25", None), Some(250));
        assert_eq!(parse("999999999", None), Some(900_000));
        assert_eq!(parse("inf", None), Some(900_000));
        assert_eq!(parse("-5", None), None);
        assert_eq!(parse("Sun, 22 Nov 2026 10:01:00 GMT", Some(now)), Some(60_000));
        assert_eq!(parse("Sun, 22 Nov 2020 10:01:00 GMT", Some(now)), Some(0));
        assert_eq!(parse("Fri, 31 Dec 9999 23:59:59 GMT", Some(now)), Some(900_000));
    }
}
