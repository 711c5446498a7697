//! Fetches a result image from the link a provider gave, read by the one tolerant reader, and keeps it.

use std::time::Duration;

use futures_util::StreamExt;

use super::super::Inner;
use crate::blobs::{BlobError, Saved};
use crate::domain::attempt::Attempt;
use crate::domain::image::NotAPicture;
use crate::net::guarded::FetchError;
use crate::providers::reader::{BrokenImage, MAX_IMAGE, download};
use crate::providers::{InlineImage, Own};
use crate::spool::{Evidence, Head};
use crate::trace;

/// The longest rest a host can ask for.
const MAX_REST: Duration = Duration::from_mins(10);

/// Why an image is not here, and what came in its place.
pub(in crate::engine) struct NotHere {
    pub error: BlobError,
    /// What the link gave, when it gave anything.
    pub evidence: Option<Evidence>,
}

impl NotHere {
    /// How long the host asks to be left alone.
    pub fn retry_after(&self) -> Duration {
        match &self.error {
            BlobError::Fetch(FetchError::Status { retry_after: Some(rest), .. }) => (*rest).min(MAX_REST),
            _ => Duration::ZERO,
        }
    }
}

impl From<BlobError> for NotHere {
    fn from(error: BlobError) -> Self {
        Self { error, evidence: None }
    }
}

impl From<FetchError> for NotHere {
    fn from(error: FetchError) -> Self {
        BlobError::from(error).into()
    }
}

/// The host of a link: the rest of it may be a signature, or credentials.
fn host(link: &str) -> Option<String> {
    Some(url::Url::parse(link.trim()).ok()?.host_str()?.to_owned())
}

impl Inner {
    /// Fetches what a provider's link gives and keeps it, if it is an image and none of the attempt's inputs.
    pub(in crate::engine) async fn download(&self, link: &str, attempt: &Attempt) -> Result<Saved, NotHere> {
        let _slot = self.blobs.download_slot().await;
        let span = trace::call("picture.fetch");
        span.set_with("server.address", || host(link));
        let fetched = span.around(self.fetch(link, attempt)).await;
        match &fetched {
            Ok(saved) => span.set("picture.bytes", i64::try_from(saved.bytes).unwrap_or(i64::MAX)),
            Err(NotHere { error: BlobError::Fetch(FetchError::Status { status, .. }), .. }) => {
                span.set("http.response.status_code", i64::from(*status));
                span.fail("status");
            }
            Err(NotHere { error: BlobError::Fetch(_), .. }) => span.fail("fetch"),
            Err(NotHere { error: BlobError::NotAPicture(_) | BlobError::Truncated, .. }) => {
                span.fail("not_a_picture");
            }
            Err(_) => span.fail("storage"),
        }
        fetched
    }

    async fn fetch(&self, link: &str, attempt: &Attempt) -> Result<Saved, NotHere> {
        let account = self.lane(&attempt.provider);
        let allow_http = account.is_some_and(|lane| lane.provider.account().allow_http_results);
        let answer = self.net.guarded.get_result(link, allow_http).await?;
        let head = Head { status: answer.status(), headers: answer.kept_headers(), retry_after: None };
        // A third longer where it comes as base64.
        let body = answer.body(MAX_IMAGE * 3 / 2);
        let body = body.map(|piece| piece.map_err(|error| error.to_string()));
        let (image, answer, evidence) = download((head, Box::pin(body)), &self.spool).await;
        match image {
            Ok(image) if Own::default().with(&attempt.sent).has_bytes(&image.sha256) => {
                Err(NotHere { error: NotAPicture::Input.into(), evidence: Some(evidence) })
            }
            Ok(image) => Ok(self.keep_image(&image).await?),
            Err(broken) => {
                let error = match broken {
                    BrokenImage::TooLong => FetchError::TooLarge(MAX_IMAGE).into(),
                    BrokenImage::Unacceptable(why) => why.into(),
                    BrokenImage::Cut => match answer.cut {
                        Some(cut) => FetchError::Broken(cut).into(),
                        None => BlobError::Truncated,
                    },
                };
                Err(NotHere { error, evidence: Some(evidence) })
            }
        }
    }

    /// Keeps an image that waits in the spool.
    pub(in crate::engine) async fn keep_image(&self, image: &InlineImage) -> Result<Saved, BlobError> {
        self.blobs.keep(&image.bytes).await
    }
}
