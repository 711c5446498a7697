//! The one reader of providers' answers. Whatever an answer calls itself, it is decoded, told to be JSON, events, text or an
//! image by its first bytes, and handed to the adapter's [`Interpreter`] part by part while it arrives; images inside it go to
//! the spool as they are decoded, and all of its bytes are kept as evidence until it was acted on. Live answers, polls and
//! answers that were kept are read alike.

mod answer;
mod download;
mod encoding;
mod events;
mod images;
mod inline;
mod json;
mod mending;
#[cfg(test)]
mod tests;
mod text;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

pub use answer::{Answer, Interpreter, Limits, Part};
pub use download::download;
pub use images::{Images, MARK};
pub use inline::{BrokenImage, InlineImage, MAX_IMAGE};
pub use mending::uninterrupted;

use self::events::EventReader;
use self::inline::ImageWriter;
use self::json::JsonReader;
use self::text::TextReader;
use super::Signal;
use super::errors::Shape;
use crate::domain::image::{MediaType, magic};
use crate::spool::{Evidence, Head, Spool, SpoolBuffer};

/// How much is looked at before it is said what an answer is.
const SNIFFED: usize = 64;
/// How much of an answer is kept as its text.
const MAX_TEXT: usize = 4 * 1024;
/// An answer is worked on in pieces no larger than this.
const PIECE: usize = 64 * 1024;

/// What the body of an answer turned out to be.
enum Body {
    /// Not enough has come to say.
    Unknown(Vec<u8>),
    Json(JsonReader),
    Events(Box<EventReader>),
    Text(TextReader),
    /// A page for people: maintenance, a login, an error. Whatever images and links it has are its own.
    Page,
    /// The body is the image.
    Image(ImageWriter),
}

/// Reads an answer to its end and lets `interpreter` have its parts as they come; what is worth knowing at once goes to
/// `signals`. `evidence` takes the bytes.
pub async fn read<S>(
    (head, body): (Head, S),
    limits: Limits,
    mut evidence: SpoolBuffer,
    spool: &Spool,
    interpreter: &mut dyn Interpreter,
    signals: Option<&mpsc::Sender<Signal>>,
) -> (Answer, Evidence)
where
    S: Stream<Item = Result<Bytes, String>> + Send + Unpin + 'static,
{
    let mut body = encoding::decoded(&head, body);
    let mut reading = Reading::new(&head, limits, spool);
    let ends = Instant::now() + limits.whole;
    let mut spoke_at = Instant::now();
    let mut cut = None;
    while cut.is_none() && !reading.done() {
        // A flood is always ready: without this it would let nobody else work on this thread.
        tokio::task::coop::consume_budget().await;
        let spoken = if reading.is_events() { spoke_at + limits.silent } else { ends };
        let until = ends.min(spoken).min(Instant::now() + limits.idle);
        match timeout_at(until, body.next()).await {
            Ok(Some(Ok(bytes))) => {
                for piece in bytes.chunks(PIECE) {
                    cut = reading.take(piece, &mut evidence).await;
                    if reading.speaks() {
                        spoke_at = Instant::now();
                    }
                    reading.hand_over(interpreter, signals, &mut evidence).await;
                    if cut.is_some() || reading.done() {
                        break;
                    }
                }
            }
            Ok(None) => break,
            Ok(Some(Err(error))) => cut = Some(error),
            Err(_) if until == ends => cut = Some("the answer does not end".to_owned()),
            Err(_) if until == spoken => cut = Some("the stream sent no event".to_owned()),
            Err(_) => cut = Some("the answer fell silent".to_owned()),
        }
    }
    reading.end(cut.is_some()).await;
    reading.hand_over(interpreter, signals, &mut evidence).await;
    let answer = reading.answer(&head, cut);
    let evidence = Evidence { head, body: evidence.finish().await, whole: answer.whole };
    (answer, evidence)
}

struct Reading {
    limits: Limits,
    labelled: Labelled,
    body: Body,
    images: Images,
    parts: Vec<Part>,
    last: Option<Value>,
    /// The first bytes, for people to read.
    head: Vec<u8>,
    length: u64,
    /// Whether the bytes ended inside a document.
    inside: bool,
}

/// What an answer calls itself.
#[derive(Clone, Copy, PartialEq)]
enum Labelled {
    Events,
    Json,
    Other,
}

impl Reading {
    fn new(head: &Head, limits: Limits, spool: &Spool) -> Self {
        let label = head.header("content-type").unwrap_or_default().to_ascii_lowercase();
        let labelled = match label {
            label if label.contains("event-stream") => Labelled::Events,
            label if label.contains("json") => Labelled::Json,
            _ => Labelled::Other,
        };
        Self {
            limits,
            labelled,
            body: Body::Unknown(Vec::new()),
            images: Images::new(spool, limits.mending),
            parts: Vec::new(),
            last: None,
            head: Vec::new(),
            length: 0,
            inside: false,
        }
    }

    fn is_events(&self) -> bool {
        matches!(self.body, Body::Events(_))
    }

    /// Whether what came last was more than a sign of life: a part, or some of one.
    fn speaks(&self) -> bool {
        !self.parts.is_empty() || matches!(&self.body, Body::Events(events) if events.in_data())
    }

    /// Whether the stream has said that it was over.
    fn done(&self) -> bool {
        matches!(&self.body, Body::Events(events) if events.done())
    }

    /// Takes a piece; why no more is read, when no more is.
    async fn take(&mut self, piece: &[u8], evidence: &mut SpoolBuffer) -> Option<String> {
        let left = self.limits.total - self.length;
        let (piece, over) = match usize::try_from(left) {
            Ok(left) if left < piece.len() => (&piece[..left], true),
            _ => (piece, false),
        };
        self.length += piece.len() as u64;
        self.head.extend_from_slice(&piece[..piece.len().min(MAX_TEXT.saturating_sub(self.head.len()))]);
        evidence.push(piece);
        evidence.settle().await;
        let fed = self.feed(piece, false);
        self.settle().await;
        fed.err().or_else(|| over.then(|| format!("an answer of more than {} bytes", self.limits.total)))
    }

    fn feed(&mut self, piece: &[u8], last: bool) -> Result<(), String> {
        match &mut self.body {
            Body::Unknown(first) => {
                // White space that keeps a connection alive may come for minutes.
                let blank = first.is_empty() && !last;
                first.extend_from_slice(if blank { piece.trim_ascii_start() } else { piece });
                let Some(body) = told(first, last, self.labelled, self.limits, &self.images.spool) else {
                    return Ok(());
                };
                let first = std::mem::take(first);
                self.body = body;
                return self.feed(&first, last);
            }
            Body::Json(json) => json.feed(piece, &mut self.images),
            Body::Events(events) => events.feed(piece, &mut self.images)?,
            Body::Text(text) => text.feed(piece, &mut self.images),
            Body::Image(image) => image.bytes(piece),
            Body::Page => {}
        }
        Ok(())
    }

    /// Lets the spool have what should not stay in memory, and gathers the parts that are whole.
    async fn settle(&mut self) {
        match &mut self.body {
            Body::Json(json) => {
                json.settle().await;
                let whole = json.take();
                self.parts.extend(whole.into_iter().map(|json| Part::json(String::new(), json)));
            }
            Body::Events(events) => {
                events.settle().await;
                self.parts.extend(events.take());
            }
            Body::Text(text) => text.settle().await,
            Body::Image(image) => image.settle().await,
            Body::Page | Body::Unknown(_) => {}
        }
        self.images.settle().await;
    }

    async fn hand_over(
        &mut self,
        interpreter: &mut dyn Interpreter,
        signals: Option<&mpsc::Sender<Signal>>,
        evidence: &mut SpoolBuffer,
    ) {
        for part in std::mem::take(&mut self.parts) {
            if part.json.is_some() {
                self.last.clone_from(&part.json);
            }
            for signal in interpreter.part(part, &self.images) {
                if let Some(signals) = signals {
                    if matches!(signal, Signal::Image(_)) {
                        evidence.flush().await;
                    }
                    // Nobody listening is no reason to stop reading a paid answer.
                    _ = signals.send(signal).await;
                }
            }
        }
    }

    async fn end(&mut self, cut: bool) {
        // What is left of a short body.
        _ = self.feed(&[], true);
        self.settle().await;
        match std::mem::replace(&mut self.body, Body::Unknown(Vec::new())) {
            Body::Json(mut json) => {
                self.inside = json.end(&mut self.images);
                let rest = json.running.end(&mut self.images);
                self.parts.extend(json.take().into_iter().map(|json| Part::json(String::new(), json)));
                self.parts.extend((!rest.is_empty()).then(|| Part::running(rest)));
                self.body = Body::Json(json);
            }
            Body::Events(mut events) => {
                self.inside = events.end(&mut self.images) && !events.done();
                self.parts.extend(events.take());
                self.body = Body::Events(events);
            }
            Body::Text(mut text) => {
                let text = if cut {
                    text.broken_off(&mut self.images, |_| false)
                } else {
                    Some(text.end(&mut self.images))
                };
                self.parts.extend(text.map(|text| Part::text(String::new(), text)));
                self.body = Body::Text(TextReader::default());
            }
            Body::Image(mut image) => {
                // Larger than any, or cut: why is found out when it is closed.
                image.end();
                let mark = self.images.mark(image);
                self.parts.push(Part::text(String::new(), mark));
            }
            Body::Page | Body::Unknown(_) => {}
        }
        self.images.settle().await;
    }

    fn answer(self, head: &Head, cut: Option<String>) -> Answer {
        let done = self.done();
        let text = String::from_utf8_lossy(&self.head).into_owned();
        let shape = match (&self.last, text.trim_start().as_bytes()) {
            (Some(_), _) => Shape::Json,
            (None, []) => Shape::Empty,
            (None, [b'<', ..]) => Shape::Html,
            (None, _) => Shape::Text,
        };
        Answer {
            status: head.status,
            shape,
            whole: cut.is_none() && !self.inside,
            json: self.last,
            text,
            length: self.length,
            cut,
            done,
            retry_after: head.retry_after,
            broken: self.images.broken,
        }
    }
}

/// What a body is, by its first bytes; `None` while more are needed.
fn told(first: &[u8], last: bool, labelled: Labelled, limits: Limits, spool: &Spool) -> Option<Body> {
    let image = |kind: MediaType| Body::Image(ImageWriter::new(kind, spool));
    let bare = without_blanks(first.strip_prefix("\u{feff}".as_bytes()).unwrap_or(first));
    if bare.len() < SNIFFED && !last {
        return None;
    }
    if let Some(kind) = magic(first) {
        return Some(image(kind));
    }
    Some(match bare {
        [] => return None,
        [b'{' | b'"', ..] | [b')', b']', b'}', ..] => Body::Json(JsonReader::default()),
        [b'[', next, ..] if !next.is_ascii_alphabetic() => Body::Json(JsonReader::default()),
        [b'<', ..] => Body::Page,
        bare if is_data_uri(bare) || begins_as_base64(bare) => Body::Text(TextReader::default()),
        bare if labelled == Labelled::Events || begins_as_event(bare) => {
            Body::Events(Box::new(EventReader::new(limits)))
        }
        _ if labelled == Labelled::Json => Body::Json(JsonReader::default()),
        _ => Body::Text(TextReader::default()),
    })
}

/// What comes after white space and zeroes.
fn without_blanks(bytes: &[u8]) -> &[u8] {
    let start = bytes.iter().position(|byte| !byte.is_ascii_whitespace() && *byte != 0);
    &bytes[start.unwrap_or(bytes.len())..]
}

/// Whether text begins with an address that is called as the field of an event is.
fn is_data_uri(text: &[u8]) -> bool {
    [&b"data:image/"[..], b"data:application/", b"data:;"].iter().any(|start| text.starts_with(start))
}

fn begins_as_base64(text: &[u8]) -> bool {
    let symbols = text.iter().position(|byte| !inline::is_symbol(*byte)).unwrap_or(text.len());
    symbols >= 24 && inline::sniff(&text[..24]).is_some()
}

/// Whether text begins with a line of an event.
fn begins_as_event(text: &[u8]) -> bool {
    let line = text.split(|byte| matches!(byte, b'\n' | b'\r')).next().unwrap_or_default();
    let Some(colon) = memchr::memchr(b':', line) else { return false };
    matches!(&line[..colon], b"" | b"data" | b"event" | b"id" | b"retry" | b"error")
}
