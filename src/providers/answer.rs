//! An upstream's answer: read whole within limits, and the few things every adapter looks for in one.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use http::HeaderMap;
use http::header::{DATE, RETRY_AFTER};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::errors::Shape;

/// The longest rest a provider can ask for.
const MAX_REST: Duration = Duration::from_mins(15);
/// A whole answer, or as much of it as came.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// What the body is.
    pub shape: Shape,
    /// The body as JSON, when it is.
    pub json: Option<Value>,
    /// The body.
    pub body: Bytes,
    /// Whether all of it came.
    pub whole: bool,
    /// How long the provider asks to be left alone.
    pub retry_after: Option<Duration>,
}

/// An id that can be put into a path and a log: nothing else is believed to be one.
pub fn handle(text: &str) -> Option<String> {
    let legal = (1..=128).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    legal.then(|| text.to_owned())
}

/// Finds `"name": "value"` in a fragment of JSON.
pub fn salvage(fragment: &[u8], name: &str) -> Option<String> {
    let text = String::from_utf8_lossy(fragment);
    let (_, rest) = text.split_once(&format!("\"{name}\""))?;
    let rest = rest.trim_start().strip_prefix(':')?.trim_start().strip_prefix('"')?;
    let (value, _) = rest.split_once('"')?;
    handle(value)
}

/// Reads an answer until it ends, `most` bytes have come or `ends` has passed.
pub(super) async fn read<S>(
    status: u16,
    headers: &HeaderMap,
    mut body: S,
    ends: Instant,
    most: usize,
) -> Answer
where
    S: Stream<Item = Result<Bytes, String>> + Unpin,
{
    let mut bytes = BytesMut::new();
    let whole = loop {
        match timeout_at(ends, body.next()).await {
            Ok(Some(Ok(piece))) if bytes.len() + piece.len() <= most => bytes.extend_from_slice(&piece),
            Ok(None) => break true,
            Ok(Some(_)) | Err(_) => break false,
        }
    };
    let body = bytes.freeze();
    let json = if whole { serde_json::from_slice(&body).ok() } else { None };
    let shape = match (&json, body.trim_ascii_start()) {
        (Some(_), _) => Shape::Json,
        (None, []) => Shape::Empty,
        (None, [b'<', ..]) => Shape::Html,
        (None, _) => Shape::Text,
    };
    Answer { status, shape, json, body, whole, retry_after: retry_after(headers) }
}

/// Seconds, or a date measured against the answer's own `Date`; clamped to what is sensible.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds).min(MAX_REST));
    }
    let until = httpdate::parse_http_date(text).ok()?;
    let sent = httpdate::parse_http_date(headers.get(DATE)?.to_str().ok()?).ok()?;
    Some(until.duration_since(sent).unwrap_or_default().min(MAX_REST))
}

/// A provider's error code and message, wherever they stand in its answer.
pub fn words(answer: &Answer) -> (Option<String>, String) {
    let Some(json) = &answer.json else {
        return (None, String::from_utf8_lossy(&answer.body[..answer.body.len().min(2000)]).into_owned());
    };
    let text = |pointer: &str| match json.pointer(pointer)? {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let first = |pointers: &[&str]| pointers.iter().find_map(|pointer| text(pointer));
    let code = first(&["/error/code", "/error_code", "/failure_reason_code", "/code"]);
    let message =
        first(&["/error/message", "/error", "/message", "/detail/0/msg", "/detail"]).unwrap_or_default();
    (code, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_believed_only_when_plain() {
        assert_eq!(handle("0f647527-12bd").as_deref(), Some("0f647527-12bd"));
        for wrong in ["", "../etc", "a\nb", "a b", &"x".repeat(129)] {
            assert_eq!(handle(wrong), None, "{wrong:?}");
        }
        assert_eq!(
            salvage(br#"{"code":200,"data":{"task_id" : "abc-1","mod"#, "task_id").as_deref(),
            Some("abc-1")
        );
        assert_eq!(salvage(br#"{"code":200,"data":{"task_id":"abc-"#, "task_id"), None);
    }

    #[test]
    fn rests_are_clamped() {
        let parse = |value: &str, date: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, value.parse().unwrap());
            date.map(|date| headers.insert(DATE, date.parse().unwrap()));
            retry_after(&headers).map(|rest| rest.as_secs())
        };
        let now = "Sun, 22 Nov 2026 10:00:00 GMT";
        assert_eq!(parse("7", None), Some(7));
        assert_eq!(parse("999999999", None), Some(900));
        assert_eq!(parse("-5", None), None);
        assert_eq!(parse("Sun, 22 Nov 2026 10:01:00 GMT", Some(now)), Some(60));
        assert_eq!(parse("Sun, 22 Nov 2020 10:01:00 GMT", Some(now)), Some(0));
        assert_eq!(parse("Fri, 31 Dec 9999 23:59:59 GMT", Some(now)), Some(900));
    }
}
