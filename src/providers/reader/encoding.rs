//! Content decoding. Nobody asked for compressed answers, and they come: by the head's word, or by their first bytes where a
//! proxy took the word away; plain where the word is wrong. What inflates beyond all measure is cut off.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_compression::tokio::bufread::{
    BrotliDecoder, DeflateDecoder, GzipDecoder, ZlibDecoder, ZstdDecoder,
};
use bytes::{Bytes, BytesMut};
use futures_util::stream::{BoxStream, once};
use futures_util::{Stream, StreamExt};
use tokio::io::AsyncRead;
use tokio_util::io::{ReaderStream, StreamReader};

use crate::domain::image::magic;
use crate::spool::Head;

/// Encodings within each other that are taken off.
const MAX_LAYERS: usize = 3;
/// A body that has inflated to so much…
const AMPLE: u64 = 16 * 1024 * 1024;
/// …must not be more than so many times as long as it came.
const MAX_RATIO: u64 = 100;

type Body = BoxStream<'static, Result<Bytes, String>>;

/// The body without its content encodings.
pub fn decoded<S>(head: &Head, body: S) -> Body
where
    S: Stream<Item = Result<Bytes, String>> + Send + Unpin + 'static,
{
    let named = head.header("content-encoding").unwrap_or_default().to_ascii_lowercase();
    let mut named: Vec<String> = named.split(',').map(|name| name.trim().to_owned()).collect();
    named.retain(|name| !name.is_empty() && name != "identity");
    // A short one is asked on after its end, which not every stream takes.
    let body = body.fuse().boxed();
    // Looked at when the body is, and not before.
    once(async move {
        let came = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&came);
        let body = body.inspect(move |piece| {
            let length = piece.as_ref().map_or(0, Bytes::len) as u64;
            counter.fetch_add(length, Ordering::Relaxed);
        });
        let mut body = body.boxed();
        let mut inflated = false;
        for _ in 0..MAX_LAYERS {
            let (first, rest) = peek(body).await;
            body = if let Some(layer) = layer(&first, named.pop().as_deref()) {
                inflated = true;
                layer(rest)
            } else {
                body = rest;
                break;
            };
        }
        if inflated { measured(body, came) } else { body }
    })
    .flatten()
    .boxed()
}

/// The first bytes of a body, and the body as it was.
async fn peek(mut body: Body) -> (Bytes, Body) {
    let mut first = BytesMut::new();
    let mut broken = None;
    while first.len() < 16 && broken.is_none() {
        match body.next().await {
            Some(Ok(piece)) => first.extend_from_slice(&piece),
            Some(Err(error)) => broken = Some(error),
            None => break,
        }
    }
    let first = first.freeze();
    let before = (!first.is_empty()).then(|| Ok(first.clone())).into_iter().chain(broken.map(Err));
    (first, futures_util::stream::iter(before).chain(body).boxed())
}

/// What takes the outermost encoding off, if there is one.
fn layer(first: &[u8], named: Option<&str>) -> Option<fn(Body) -> Body> {
    match (first, named) {
        ([0x1f, 0x8b, ..], _) => Some(|body| {
            let mut decoder = GzipDecoder::new(reader(body));
            decoder.multiple_members(true);
            stream(decoder)
        }),
        ([0x28, 0xb5, 0x2f, 0xfd, ..], _) => Some(|body| stream(ZstdDecoder::new(reader(body)))),
        (first, _) if plain(first) => None,
        (first, Some("deflate")) if is_zlib(first) => Some(|body| stream(ZlibDecoder::new(reader(body)))),
        (_, Some("deflate")) => Some(|body| stream(DeflateDecoder::new(reader(body)))),
        (_, Some("br")) => Some(|body| stream(BrotliDecoder::new(reader(body)))),
        _ => None,
    }
}

/// Whether a body begins as only one without an encoding does.
fn plain(first: &[u8]) -> bool {
    match first.trim_ascii_start() {
        []
        | [0xef, 0xbb, 0xbf, ..]
        | [b'{', b'"' | b'}' | b' ' | b'\n' | b'\r', ..]
        | [b'[', b'{' | b'"' | b']' | b' ' | b'\n' | b'\r', ..]
        | [b'<', b'!' | b'?' | b'a'..=b'z' | b'A'..=b'Z', ..] => true,
        text => {
            let events = [&b"data:"[..], b"event:", b"id:", b"retry:", b": "];
            events.iter().any(|start| text.starts_with(start)) || magic(first).is_some()
        }
    }
}

/// A header of zlib: deflate, and a check sum of its own two bytes.
fn is_zlib(first: &[u8]) -> bool {
    matches!(first, [one, two, ..] if one & 0x0f == 8 && (u16::from(*one) << 8 | u16::from(*two)) % 31 == 0)
}

fn reader(body: Body) -> StreamReader<BoxStream<'static, io::Result<Bytes>>, Bytes> {
    StreamReader::new(body.map(|piece| piece.map_err(io::Error::other)).boxed())
}

fn stream(decoder: impl AsyncRead + Send + 'static) -> Body {
    let pieces = ReaderStream::with_capacity(decoder, 64 * 1024);
    pieces.map(|piece| piece.map_err(|error| error.to_string())).boxed()
}

/// The body up to where it has inflated beyond measure.
fn measured(body: Body, came: Arc<AtomicU64>) -> Body {
    let mut length = 0;
    body.map(move |piece| {
        let piece = piece?;
        length += piece.len() as u64;
        if length > AMPLE && length > came.load(Ordering::Relaxed).saturating_mul(MAX_RATIO) {
            return Err("a compressed answer that inflates beyond measure".to_owned());
        }
        Ok(piece)
    })
    .boxed()
}
