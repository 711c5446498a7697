//! The words a fault can be qualified with.

use serde::{Deserialize, Serialize};

/// A value, or the bare word for its default.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Or<T> {
    /// Said as a flag; `false` takes it back.
    Flag(bool),
    /// Said with a value.
    Value(T),
}

impl<T: Clone> Or<T> {
    /// The value, or `default` for the bare word.
    pub fn or(&self, default: T) -> Option<T> {
        match self {
            Self::Flag(said) => said.then_some(default),
            Self::Value(value) => Some(value.clone()),
        }
    }
}

/// Kinds of error bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it; the README shows each")]
pub enum Body {
    Envelope,
    Openai,
    Fastapi,
    Html,
    Text,
    Empty,
    Cloudflare,
}

/// Whether base64 stands instead of a link or beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Base64 {
    Only,
    Both,
}

/// Where an answer ends too early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Truncate {
    Head,
    Body,
    Tail,
}

/// What stands where the pictures should be (Flux's `output`; elsewhere they are just missing).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it; the README shows each")]
pub enum NoImage {
    Null,
    Object,
    String,
    Array,
    EmptyUrls,
}

/// How a webhook rings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it; the README tells more")]
pub enum Ring {
    None,
    Twice,
    Early,
    Forged,
    Late,
    Disorder,
}

/// The layout and framing of a stream. Chat picks one of the first eight by seed when none is said; the last
/// two are for the Images API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Style {
    /// The template PiAPI printed, in small deltas that split the link.
    Piapi,
    /// 302.ai's: `[Click to download]` links, each picture twice.
    #[serde(rename = "302ai")]
    Relay302,
    /// Chinese words, an embedded link and a download link.
    Chinese,
    /// PiAPI's template with the whole link in one delta.
    Whole,
    /// CR LF line ends.
    Crlf,
    /// Keep-alive comments and blank lines between events.
    Comments,
    /// `data:` without a space, and `[none]` at the end.
    None,
    /// Nothing after the `finish_reason`.
    Eof,
    /// Round brackets in the link, links in the echo. Never picked by seed.
    Tricky,
    /// Images API: no `event:` lines.
    Bare,
    /// Images API: no `event:` lines, `created`, `[DONE]`.
    Openrouter,
}

/// Where a stream is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it; the README tells more")]
pub enum Cut {
    Start,
    Head,
    BeforeImage,
    MidUrl,
    AfterImage,
}

/// How it is cut.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum CutBy {
    #[default]
    Reset,
    Eof,
}

/// Hostile framing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it; the README tells more")]
pub enum Sse {
    NoNewline,
    CommentsForever,
    Flood,
    CommentFlood,
    BigEvent,
    CrOnly,
    Bom,
    BadUtf8,
    DoneTwice,
    ErrorEvent,
}

/// How the Images API hands pictures over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Form {
    B64,
    Url,
}

/// Files that are no pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum FileType {
    Html,
    Svg,
    Pdf,
    Text,
    Zip,
}

/// Pictures that are far too big.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bomb {
    /// 19,000 × 19,000, and it decodes.
    Png,
    /// A header of 65,535 × 65,535.
    Jpeg,
    /// A header of 1 × 2³¹.
    Tall,
}

/// How `Content-Length` lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Lie {
    Long,
    Short,
}
