//! What a provider's answer comes to, in Easel's words.

use std::sync::Arc;
use std::time::Duration;

use super::{InlineImage, Kind};
use crate::domain::attempt::Verdict;
use crate::domain::image::ImageKind;
use crate::domain::task::ProviderWords;
use crate::spool::Evidence;

/// What is known before a submission's answer is complete.
#[derive(Debug)]
pub enum Signal {
    /// How far it is, 0 to 1.
    Progress(f32),
    /// The first link to a finished picture: worth keeping at once.
    Image(String),
}

/// What a provider says of a job.
#[derive(Debug, Clone, PartialEq)]
pub enum Progress {
    /// It is at work.
    Pending(Pending),
    /// It is done, and there are pictures.
    Done(Done),
    /// It says in so many words that it failed.
    Failed(ProviderError),
}

/// A job a provider is at work on.
#[derive(Debug, Clone, PartialEq)]
pub struct Pending {
    /// The provider's id for it.
    pub handle: String,
    /// How far it is, 0 to 1.
    pub progress: Option<f32>,
}

/// A job a provider has done.
#[derive(Debug, Clone, PartialEq)]
pub struct Done {
    /// The provider's id for it, when it has one.
    pub handle: Option<String>,
    /// The images; never empty.
    pub images: Vec<GeneratedImage>,
    /// What it charged.
    pub verdict: Verdict,
    /// Whether the answer holds more that may be an image, and could not be read or told from what is none.
    pub doubtful: bool,
}

/// An image a provider has made.
#[derive(Debug, Clone, PartialEq)]
pub struct GeneratedImage {
    /// Where it is.
    pub source: ImageSource,
    /// What it shows.
    pub kind: ImageKind,
}

/// Where a fresh image is.
#[derive(Debug, Clone, PartialEq)]
pub enum ImageSource {
    /// At an address.
    Url(String),
    /// In the answer itself.
    Inline(Arc<InlineImage>),
}

/// What came of a call.
#[derive(Debug)]
pub struct Answered {
    /// What the answer comes to.
    pub outcome: Result<Progress, ProviderError>,
    /// Its bytes, when there was an answer.
    pub evidence: Option<Evidence>,
}

impl Answered {
    /// Nothing came that could be kept.
    pub fn without_evidence(outcome: Result<Progress, ProviderError>) -> Self {
        Self { outcome, evidence: None }
    }
}

/// A provider's refusal or failure, judged.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{kind:?}: {detail}")]
pub struct ProviderError {
    /// What kind of trouble it is.
    pub kind: Kind,
    /// Whether it was charged, and how that is known.
    pub verdict: Verdict,
    /// What happened, in a sentence.
    pub detail: String,
    /// The provider's own words, redacted.
    pub words: ProviderWords,
    /// How long the provider asks to be left alone.
    pub retry_after: Option<Duration>,
    /// How long a submission of unknown outcome is looked for, where that is shorter than the provider's usual time.
    pub window: Option<Duration>,
    /// The provider's id for the job that it speaks of, when it names one.
    pub job_id: Option<String>,
    /// Whether a failure that cost nothing is final. Where it is not, the provider may change its mind: it is believed when
    /// it says so twice.
    pub settled: bool,
}

impl ProviderError {
    /// An error without words of the provider's.
    pub fn new(kind: Kind, verdict: Verdict, detail: impl Into<String>) -> Self {
        Self {
            kind,
            verdict,
            detail: detail.into(),
            words: ProviderWords::default(),
            retry_after: None,
            window: None,
            job_id: None,
            settled: true,
        }
    }
}
