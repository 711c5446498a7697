//! An answer as the reader hands it over: its parts while they come, and what is known of the whole of it.

use std::time::Duration;

use serde_json::Value;

use super::images::Images;
use super::inline::BrokenImage;
use crate::providers::errors::Shape;
use crate::providers::{Progress, ProviderError, Signal};

/// How much of one answer is read, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of all of it, decoded.
    pub total: u64,
    /// Lines of a stream of events: every event costs one or more, and so do comments and blank lines.
    pub lines: usize,
    /// The longest time without a byte.
    pub idle: Duration,
    /// The longest time without an event or a document.
    pub silent: Duration,
    /// The longest time in all.
    pub whole: Duration,
    /// Whether what relays do to answers on their way is undone.
    pub mending: bool,
}

/// A document or an event of an answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Part {
    /// The event's name; empty when it has none.
    pub event: String,
    /// Its JSON, when it is JSON.
    pub json: Option<Value>,
    /// Its text, when it is none.
    pub text: String,
}

impl Part {
    pub(super) fn json(event: String, json: Value) -> Self {
        Self { event, json: Some(json), text: String::new() }
    }

    pub(super) fn text(event: String, text: String) -> Self {
        Self { event, json: None, text }
    }

    /// What was held back of a chat's running text.
    pub(super) fn running(text: String) -> Self {
        Self::json(
            String::new(),
            serde_json::json!({"choices": [{"delta": {"content": Value::String(text)}}]}),
        )
    }
}

/// What an adapter makes of an answer.
pub trait Interpreter: Send {
    /// Takes a part as it comes; answers with what is worth knowing before the answer is whole.
    fn part(&mut self, part: Part, images: &Images) -> Vec<Signal>;

    /// The answer has ended: what it comes to.
    ///
    /// # Errors
    /// A refusal, or an answer from which the outcome cannot be told.
    fn conclude(&mut self, answer: &Answer) -> Result<Progress, ProviderError>;
}

/// An answer, read as far as it came.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// What the body is.
    pub shape: Shape,
    /// The last document, when there is one.
    pub json: Option<Value>,
    /// The beginning of a body that is no JSON.
    pub text: String,
    /// How long the body is.
    pub length: u64,
    /// Whether all of it came: the transfer ended as it should, and no document was cut.
    pub whole: bool,
    /// Why not, where that is known.
    pub cut: Option<String>,
    /// Whether a stream has said that it was over.
    pub done: bool,
    /// How long the provider asks to be left alone.
    pub retry_after: Option<Duration>,
    /// Why something in it that began as an image is none.
    pub broken: Option<BrokenImage>,
}

impl Answer {
    /// A refusal with this status that stood inside another answer.
    pub fn within(status: u16) -> Self {
        Self {
            status,
            shape: Shape::Json,
            json: None,
            text: String::new(),
            length: 0,
            whole: true,
            cut: None,
            done: true,
            retry_after: None,
            broken: None,
        }
    }
}
