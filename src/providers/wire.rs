//! An upstream request as an adapter spells it: without its key, so that a dry run can show it as it is.

use bytes::{BufMut, Bytes, BytesMut};
use http::Method;
use serde_json::{Map, Value, json};

use crate::domain::image::MediaType;
use crate::domain::secret::token;

/// An upstream request without its key.
#[derive(Debug, Clone, PartialEq)]
pub struct Wire {
    /// Method.
    pub method: Method,
    /// Path below the account's base address.
    pub path: String,
    /// Body.
    pub body: WireBody,
}

/// A request's body.
#[derive(Debug, Clone, PartialEq)]
pub enum WireBody {
    /// None.
    Empty,
    /// A JSON document.
    Json(Value),
    /// A multipart form.
    Form(Vec<Part>),
}

/// One part of a form.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Its field.
    pub name: &'static str,
    /// The type of a file; `None` for a plain value.
    pub file: Option<MediaType>,
    /// Its content.
    pub bytes: Bytes,
}

impl Part {
    /// A plain value.
    pub fn text(name: &'static str, value: String) -> Self {
        Self { name, file: None, bytes: value.into() }
    }
}

impl Wire {
    /// A POST of a JSON document.
    pub fn post(path: impl Into<String>, body: Value) -> Self {
        Self { method: Method::POST, path: path.into(), body: WireBody::Json(body) }
    }

    /// A GET.
    pub fn get(path: impl Into<String>) -> Self {
        Self { method: Method::GET, path: path.into(), body: WireBody::Empty }
    }

    /// The body as it is sent, with its content type.
    pub(super) fn encode(&self) -> (String, Bytes) {
        match &self.body {
            WireBody::Empty => (String::new(), Bytes::new()),
            WireBody::Json(value) => ("application/json".to_owned(), value.to_string().into()),
            WireBody::Form(parts) => {
                let boundary = token();
                (format!("multipart/form-data; boundary={boundary}"), form(parts, &boundary))
            }
        }
    }

    /// The body as a person reads it: files by type and length, data URIs shortened.
    pub fn shown(&self) -> Value {
        match &self.body {
            WireBody::Empty => Value::Null,
            WireBody::Json(value) => shortened(value.clone()),
            WireBody::Form(parts) => {
                let field = |part: &Part| {
                    let value = match part.file {
                        Some(kind) => json!({"file": kind.as_str(), "bytes": part.bytes.len()}),
                        None => String::from_utf8_lossy(&part.bytes).into(),
                    };
                    json!({"name": part.name, "value": value})
                };
                json!({"form": parts.iter().map(field).collect::<Vec<_>>()})
            }
        }
    }
}

fn shortened(value: Value) -> Value {
    match value {
        Value::String(text) if text.starts_with("data:") => match text.split_once(',') {
            Some((head, data)) => format!("{head},…({} characters)", data.len()).into(),
            None => text.into(),
        },
        Value::Array(items) => items.into_iter().map(shortened).collect(),
        Value::Object(fields) => {
            fields.into_iter().map(|(name, field)| (name, shortened(field))).collect::<Map<_, _>>().into()
        }
        other => other,
    }
}

fn form(parts: &[Part], boundary: &str) -> Bytes {
    let mut body = BytesMut::with_capacity(parts.iter().map(|part| part.bytes.len() + 200).sum());
    for (at, part) in parts.iter().enumerate() {
        let file = part.file.map(|kind| {
            format!(
                "; filename=\"{}-{at}.{}\"\r\nContent-Type: {}",
                part.name,
                kind.extension(),
                kind.as_str()
            )
        });
        let head = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"{}\"{}\r\n\r\n",
            part.name,
            file.unwrap_or_default()
        );
        body.put_slice(head.as_bytes());
        body.put_slice(&part.bytes);
        body.put_slice(b"\r\n");
    }
    body.put_slice(format!("--{boundary}--\r\n").as_bytes());
    body.freeze()
}
