//! A task whose caller wants its pictures inside the answer (`output.delivery = "b64"`). The bytes stream from the store
//! into their places in the JSON; neither a picture nor the answer is ever held whole, and none of it is stored anywhere.

use axum::body::Body;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};

use super::Api;
use super::problem::ApiError;
use crate::blobs::{BlobError, Blobs};
use crate::domain::image::StoredImage;
use crate::domain::request::Handover;
use crate::domain::secret::token;
use crate::domain::task::Task;

/// A part of the answer.
enum Part {
    Text(Bytes),
    Picture(String),
}

impl Api {
    /// The answer about one task, with its pictures in it when that was asked for.
    pub(super) async fn whole(&self, task: &Task) -> Result<Response, ApiError> {
        self.rendered(task, &self.pictures(task).await?).await
    }

    /// The same, with these rows of its pictures.
    pub(super) async fn rendered(&self, task: &Task, rows: &[StoredImage]) -> Result<Response, ApiError> {
        let mut view = self.view_with(task, rows).await;
        if task.request.output.delivery != Some(Handover::B64) {
            // In one piece, which is cheaper than an answer that grows bit by bit.
            let text = serde_json::to_vec(&view).map_err(|_| ApiError::not_found())?;
            return Ok(([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], text).into_response());
        }
        // Equal bytes are kept once: those of a picture whose time is over may be here for another task.
        let over = |index: u32| rows.iter().any(|row| row.index == index && row.gone);
        // No text of the caller's can hold a name that is made up for this one answer.
        let mark = token();
        let late = view.late_result.iter_mut().flat_map(|late| &mut late.images);
        let mut pictures = Vec::new();
        for image in view.images.iter_mut().chain(late) {
            // One that was erased has its description left, and no bytes.
            if !over(image.index)
                && let Some(length) = self.blobs.length(image.sha256.as_str()).await?
            {
                image.b64_json = Some(format!("{mark}-{}", pictures.len()));
                pictures.push((image.sha256.clone(), length));
            }
        }
        let text = serde_json::to_string(&view).map_err(|_| ApiError::not_found())?;
        let (parts, length) = divide(&text, &mark, pictures);
        let blobs = self.blobs.clone();
        let body = stream::iter(parts).map(move |part| match part {
            Part::Text(text) => stream::once(async { Ok(text) }).boxed(),
            Part::Picture(sha256) => encoded(blobs.clone(), sha256),
        });
        let mut response = Body::from_stream(body.flatten()).into_response();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // So that an answer that breaks off is seen to be cut.
        response.headers_mut().insert(CONTENT_LENGTH, length.into());
        Ok(response)
    }
}

/// The answer's parts in order, and its whole length. `pictures` are digests and lengths, in the order of their marks.
fn divide(text: &str, mark: &str, pictures: Vec<(String, u64)>) -> (Vec<Part>, u64) {
    let mut parts = Vec::with_capacity(pictures.len() * 2 + 1);
    let (mut rest, mut total) = (text, 0);
    for (at, (sha256, length)) in pictures.into_iter().enumerate() {
        let Some((before, after)) = rest.split_once(&format!("{mark}-{at}")) else { continue };
        total += before.len() as u64 + length.div_ceil(3) * 4;
        parts.extend([Part::Text(Bytes::copy_from_slice(before.as_bytes())), Part::Picture(sha256)]);
        rest = after;
    }
    parts.push(Part::Text(Bytes::copy_from_slice(rest.as_bytes())));
    (parts, total + rest.len() as u64)
}

/// A picture's bytes as base64, piece by piece.
fn encoded(blobs: Blobs, sha256: String) -> BoxStream<'static, Result<Bytes, BlobError>> {
    let opened = async move { blobs.get(sha256.as_str(), None).await };
    stream::once(opened)
        .map_ok(|opened| in_threes(opened.body.map_err(BlobError::from).boxed()))
        .try_flatten()
        .boxed()
}

/// Base64 is cut between groups of three bytes: what is left of a piece waits for the next one.
fn in_threes(
    body: BoxStream<'static, Result<Bytes, BlobError>>,
) -> BoxStream<'static, Result<Bytes, BlobError>> {
    let encode = |bytes: &[u8]| Bytes::from(STANDARD.encode(bytes));
    stream::try_unfold((body, Vec::new(), false), move |(mut body, mut held, ended)| async move {
        if ended {
            return Ok(None);
        }
        match body.try_next().await? {
            Some(piece) => {
                held.extend_from_slice(&piece);
                let rest = held.split_off(held.len() - held.len() % 3);
                Ok(Some((encode(&held), (body, rest, false))))
            }
            None => Ok(Some((encode(&held), (body, Vec::new(), true)))),
        }
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn however_the_pieces_are_cut_the_text_is_the_same() {
        let bytes: Vec<u8> = (0..=255).collect();
        for size in [1, 2, 3, 4, 7, 100, 256] {
            let pieces: Vec<_> = bytes.chunks(size).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
            let text: Vec<Bytes> = in_threes(stream::iter(pieces).boxed()).try_collect().await.unwrap();
            assert_eq!(text.concat(), STANDARD.encode(&bytes).as_bytes(), "{size}");
        }
    }

    #[test]
    fn pictures_take_the_place_of_their_marks_and_the_length_is_known() {
        let text = r#"{"a":"mark-0","b":"mark-1"}"#;
        let (parts, length) = divide(text, "mark", vec![("x".into(), 1), ("y".into(), 3)]);
        let shown: Vec<_> = parts
            .iter()
            .map(|part| match part {
                Part::Text(text) => String::from_utf8_lossy(text).into_owned(),
                Part::Picture(sha256) => format!("<{sha256}>"),
            })
            .collect();
        assert_eq!(shown.concat(), r#"{"a":"<x>","b":"<y>"}"#);
        assert_eq!(length, r#"{"a":"","b":""}"#.len() as u64 + 4 + 4);
    }
}
