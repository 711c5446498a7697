//! Bodies and queries, read strictly: the right content type, whole, within their limit, JSON without duplicate keys or
//! deep nesting, and every fault with a pointer to it.

use std::fmt;
use std::time::Duration;

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::request::Parts;
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::{DeserializeOwned, DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use serde_path_to_error::Segment;

use super::Api;
use super::named::Named;
use super::problem::ApiError;
use crate::domain::code::Code;
use crate::domain::validate::{FieldCode, FieldError};

const MAX_DEPTH: u8 = 64;

/// A JSON body.
pub struct StrictJson<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Api> for StrictJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Api) -> Result<Self, ApiError> {
        is_json(request.headers())?;
        read(&whole(request, api.max_json, api.body_within).await?).map(Self)
    }
}

/// A body of whatever kind, of at most so many bytes.
pub(super) struct Capped<const MOST: usize>(pub Bytes);

impl<const MOST: usize> FromRequest<Api> for Capped<MOST> {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Api) -> Result<Self, ApiError> {
        whole(request, MOST, api.body_within).await.map(Self)
    }
}

/// The whole body, within its limit and in time.
async fn whole(request: Request, most: usize, within: Duration) -> Result<Bytes, ApiError> {
    let too_large = || ApiError::new(Code::PayloadTooLarge, format!("at most {most} bytes"));
    if content_length(request.headers()).is_some_and(|length| length > most as u64) {
        return Err(too_large());
    }
    let body = Limited::new(request.into_body(), most).collect();
    match tokio::time::timeout(within, body).await {
        Err(_) => {
            let detail = format!("the body did not arrive within {} s", within.as_secs());
            Err(ApiError::new(Code::RequestTimeout, detail))
        }
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.downcast_ref::<LengthLimitError>().is_some() => Err(too_large()),
        Ok(Err(_)) => Err(ApiError::new(Code::InvalidJson, "the body broke off")),
    }
}

/// What the caller says its body's length is.
pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn is_json(headers: &HeaderMap) -> Result<(), ApiError> {
    let wrong = |detail: String| Err(ApiError::new(Code::UnsupportedMediaType, detail));
    if let Some(encoding) = headers.get(CONTENT_ENCODING) {
        return wrong(format!("content encoding {encoding:?} is not taken"));
    }
    let Some(kind) = headers.get(CONTENT_TYPE) else { return wrong("Content-Type is missing".into()) };
    let text = kind.to_str().unwrap_or_default().to_ascii_lowercase();
    let mut parts = text.split(';').map(str::trim);
    let json = parts.next().is_some_and(|kind| kind == "application/json");
    let utf8 =
        parts.all(|part| part.strip_prefix("charset=").is_none_or(|set| set.trim_matches('"') == "utf-8"));
    if json && utf8 { Ok(()) } else { wrong(format!("expected application/json in UTF-8, got {kind:?}")) }
}

/// Reads a document strictly.
pub(super) fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = Strict { depth: 0 }.deserialize(&mut reader).and_then(|value| reader.end().map(|()| value));
    let value = value.map_err(|error| ApiError::new(Code::InvalidJson, error.to_string()))?;
    if let Some(pointer) = nul(&value) {
        let fault =
            FieldError::new(pointer, FieldCode::InvalidValue, "must not contain the character U+0000");
        return Err(ApiError::fields(Code::ValidationFailed, vec![fault]));
    }
    serde_path_to_error::deserialize(Named(value))
        .map_err(|error| ApiError::fields(Code::ValidationFailed, vec![field_error(&error)]))
}

/// A type error as a fault of a field.
fn field_error(error: &serde_path_to_error::Error<serde_json::Error>) -> FieldError {
    let steps = error.path().iter().map(|segment| match segment {
        Segment::Seq { index } => format!("/{index}"),
        Segment::Map { key: name } | Segment::Enum { variant: name } => format!("/{}", escaped(name)),
        Segment::Unknown => String::new(),
    });
    let pointer: String = steps.collect();
    let text = error.inner().to_string();
    let quoted = |prefix: &str| text.strip_prefix(prefix).and_then(|rest| rest.split('`').next());
    if let Some(field) = quoted("unknown field `") {
        let field = escaped(field);
        let pointer =
            if pointer.ends_with(&format!("/{field}")) { pointer } else { format!("{pointer}/{field}") };
        return FieldError::new(pointer, FieldCode::UnknownField, text);
    }
    if let Some(field) = quoted("missing field `") {
        return FieldError::new(
            format!("{pointer}/{}", escaped(field)),
            FieldCode::Required,
            "must be given",
        );
    }
    FieldError::new(pointer, FieldCode::InvalidValue, text)
}

/// A key as RFC 6901 spells it.
fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// Where a NUL stands, which no database keeps.
fn nul(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => text.contains('\0').then(String::new),
        Value::Array(items) => {
            items.iter().enumerate().find_map(|(at, item)| nul(item).map(|rest| format!("/{at}{rest}")))
        }
        Value::Object(fields) => fields.iter().find_map(|(key, field)| {
            let inside = if key.contains('\0') { Some(String::new()) } else { nul(field) };
            inside.map(|rest| format!("/{}{rest}", escaped(key).replace('\0', "")))
        }),
        _ => None,
    }
}

/// Builds a [`Value`], refusing duplicate keys and deep nesting.
#[derive(Clone, Copy)]
struct Strict {
    depth: u8,
}

impl Strict {
    fn deeper<E: Error>(self) -> Result<Self, E> {
        if self.depth == MAX_DEPTH {
            return Err(E::custom(format!("nested more than {MAX_DEPTH} levels deep")));
        }
        Ok(Self { depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let inside = self.deeper()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(inside)? {
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let inside = self.deeper()?;
        let mut object = Map::new();
        while let Some(key) = fields.next_key::<String>()? {
            if object.contains_key(&key) {
                return Err(A::Error::custom(format!("duplicate key {key:?}")));
            }
            object.insert(key, fields.next_value_seed(inside)?);
        }
        Ok(object.into())
    }
}

/// A query string; unknown and malformed parameters are told.
pub struct StrictQuery<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for StrictQuery<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let query = axum::extract::Query::<T>::try_from_uri(&parts.uri);
        query
            .map(|query| Self(query.0))
            .map_err(|error| ApiError::new(Code::InvalidRequest, error.body_text()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::request::GenerateRequest;

    fn fault(body: &str) -> (u16, Option<String>) {
        use axum::response::IntoResponse;
        let response = read::<GenerateRequest>(body.as_bytes()).map(drop).unwrap_err().into_response();
        let status = response.status().as_u16();
        let problem = format!("{:?}", response.extensions().get::<ApiError>().unwrap());
        let pointer =
            problem.split("pointer: \"").nth(1).map(|rest| rest.split('"').next().unwrap().to_owned());
        (status, pointer)
    }

    #[test]
    fn faults_carry_pointers() {
        let at = |pointer: &str| (422, Some(pointer.to_owned()));
        assert_eq!(fault(r#"{"prompt":"x","state":"succeeded"}"#), at("/state"));
        assert_eq!(fault(r#"{"prompt":"x","images":[{"url":"a"},{"uri":"b"}]}"#), at("/images/1/uri"));
        assert_eq!(fault(r#"{"prompt":"x","routing":{"orders":[]}}"#), at("/routing/orders"));
        assert_eq!(fault(r#"{"n":1}"#), at("/prompt"));
        assert_eq!(fault(r#"{"prompt":"x","n":-1}"#), at("/n"));
        assert_eq!(fault(r#"{"prompt":"x","n":1.5}"#), at("/n"));
        assert_eq!(fault(r#"{"prompt":"x","size":"1024"}"#), at("/size"));
        assert_eq!(fault(r#"{"prompt":"x","controls":[{"type":"a","image":7}]}"#), at("/controls/0/image"));
        assert_eq!(fault(r#"{"prompt":"x","metadata":{"a/b":1}}"#), at("/metadata/a~1b"));
        assert_eq!(fault(r#"{"prompt":"a\u0000b"}"#), at("/prompt"));
        assert_eq!(fault(r"[]").0, 422);
    }

    #[test]
    fn what_is_not_json_is_told_so() {
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        for body in [
            "",
            "{",
            r#"{"prompt":"a","prompt":"b"}"#,
            r#"{"prompt":"\ud800"}"#,
            r#"{"prompt":"x","n":1e400}"#,
            r#"{"prompt":"x","n":NaN}"#,
            r#"{"prompt":"x"} x"#,
            &deep,
            r#"{"metadata":{"a":"1","a":"2"}}"#,
        ] {
            assert_eq!(fault(body), (400, None), "{body:.40}");
        }
    }
}
