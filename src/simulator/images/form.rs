//! The body of an Images API request: JSON for generations, a multipart form for edits. Both become the same
//! fields, so that both are judged by the same rules.

use axum::body::Body;
use axum::extract::multipart::Field;
use axum::extract::{DefaultBodyLimit, FromRequest, Multipart};
use bytes::Bytes;
use http::{Request, header};
use serde_json::{Map, Value};

use crate::simulator::intake::Post;

/// A request, as far as it could be read.
#[derive(Debug, Clone, Default)]
pub struct Form {
    pub edit: bool,
    pub fields: Map<String, Value>,
    pub images: Vec<Bytes>,
    pub mask: Option<Bytes>,
    /// Why it could not be read any further.
    pub broken: Option<String>,
}

/// Reads a JSON body.
pub fn json(post: &Post) -> Form {
    match serde_json::from_slice(&post.body) {
        Ok(fields) => Form { fields, ..Form::default() },
        Err(error) => Form { broken: Some(error.to_string()), ..Form::default() },
    }
}

/// Reads a multipart body.
pub async fn multipart(post: &Post) -> Form {
    let mut form = Form { edit: true, ..Form::default() };
    let mut request = Request::new(Body::from(post.body.clone()));
    if let Some(kind) = post.headers.get(header::CONTENT_TYPE) {
        request.headers_mut().insert(header::CONTENT_TYPE, kind.clone());
    }
    DefaultBodyLimit::disable().apply(&mut request);
    let mut parts = match Multipart::from_request(request, &()).await {
        Ok(parts) => parts,
        Err(error) => {
            form.broken = Some(error.to_string());
            return form;
        }
    };
    loop {
        let read = match parts.next_field().await {
            Ok(Some(part)) => take(&mut form, part).await,
            Ok(None) => return form,
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = read {
            form.broken = Some(error);
            return form;
        }
    }
}

async fn take(form: &mut Form, part: Field<'_>) -> Result<(), String> {
    let name = part.name().unwrap_or_default().to_owned();
    let bytes = part.bytes().await.map_err(|error| error.to_string())?;
    match name.as_str() {
        // OpenAI's clients write `image[]`, PiAPI's example repeats `image`.
        "image" | "image[]" => form.images.push(bytes),
        "mask" => form.mask = Some(bytes),
        _ => {
            let text = String::from_utf8(bytes.to_vec()).map_err(|error| error.to_string())?;
            // A form knows only text: numbers and booleans are told by their field.
            let value = match name.as_str() {
                "n" | "output_compression" | "partial_images" | "stream" => {
                    serde_json::from_str(&text).unwrap_or(Value::String(text))
                }
                _ => Value::String(text),
            };
            form.fields.insert(name, value);
        }
    }
    Ok(())
}
