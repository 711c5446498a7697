//! Fetches a result image from the link a provider gave, read by the one tolerant reader, and keeps it.

use std::time::Duration;

use futures_util::StreamExt;

use super::super::Inner;
use crate::blobs::{BlobError, Saved};
use crate::domain::attempt::Attempt;
use crate::domain::image::NotAPicture;
use crate::domain::task::{Output, Source};
use crate::net::guarded::FetchError;
use crate::providers::reader::{BrokenImage, MAX_IMAGE, download};
use crate::providers::{InlineImage, Own};
use crate::spool::{Evidence, Head};
use crate::trace;

/// Downloads of one task under way at once.
const AT_ONCE: usize = 4;
/// The longest rest a host can ask for.
const MAX_REST: Duration = Duration::from_mins(10);

/// Why an image is not here, and what came in its place.
pub(in crate::engine) struct NotHere {
    pub error: BlobError,
    /// What the link gave, when it gave anything.
    pub evidence: Option<Evidence>,
    /// It was not asked for: its host hangs, or has its share of the downloads under way. It is its turn after this.
    pub later: Option<Duration>,
}

impl NotHere {
    /// How long the host asks to be left alone.
    pub fn retry_after(&self) -> Duration {
        match &self.error {
            _ if self.later.is_some() => self.later.unwrap_or_default(),
            BlobError::Fetch(FetchError::Status { retry_after: Some(rest), .. }) => (*rest).min(MAX_REST),
            _ => Duration::ZERO,
        }
    }
}

impl From<BlobError> for NotHere {
    fn from(error: BlobError) -> Self {
        Self { error, evidence: None, later: None }
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

/// The host with its port: what hangs at one port may be well at another.
fn authority(link: &str) -> String {
    let url = url::Url::parse(link.trim()).ok();
    let port = url.as_ref().and_then(url::Url::port_or_known_default).unwrap_or_default();
    format!("{}:{port}", url.as_ref().and_then(url::Url::host_str).unwrap_or_default())
}

impl Inner {
    /// Fetches what a provider's link gives and keeps it, if it is an image and none of the attempt's inputs.
    pub(in crate::engine) async fn download(&self, link: &str, attempt: &Attempt) -> Result<Saved, NotHere> {
        let _turn = match self.hosts.turn(&authority(link), self.clock.now()).await {
            Ok(turn) => turn,
            Err(later) => {
                let error =
                    FetchError::Broken("its host has its share of the downloads, or hangs".to_owned());
                return Err(NotHere { later: Some(later), ..error.into() });
            }
        };
        self.download_now(link, attempt).await
    }

    /// The same without waiting for a turn.
    pub(in crate::engine) async fn download_now(
        &self,
        link: &str,
        attempt: &Attempt,
    ) -> Result<Saved, NotHere> {
        let span = trace::call("picture.fetch");
        span.set_with("server.address", || host(link));
        let fetched = tokio::select! {
            fetched = span.around(self.fetch(link, attempt)) => fetched,
            // It goes on after the next start.
            () = self.stop.cancelled() => {
                return Err(FetchError::Broken("the gateway stops".to_owned()).into());
            }
        };
        let hangs = matches!(
            &fetched,
            Err(NotHere { error: BlobError::Fetch(FetchError::Broken(_) | FetchError::NoAddress), .. })
        );
        self.hosts.note(&authority(link), !hangs, self.clock.now());
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

    /// Brings the images of an attempt here, several at once; what each came to, in order. Once some are here, the others are
    /// waited for until `at_most` is over: a slow one does not keep them from the caller.
    pub(in crate::engine) async fn bring_here(
        &self,
        outputs: &[Output],
        attempt: Option<&Attempt>,
        at_most: Duration,
    ) -> Vec<Result<Saved, NotHere>> {
        let over = tokio::time::sleep(at_most);
        let mut over = std::pin::pin!(over);
        let mut here: Vec<Option<Result<Saved, NotHere>>> = outputs.iter().map(|_| None).collect();
        let one = |(at, output): (usize, &Output)| {
            let source = output.source.clone();
            async move {
                let saved = match (&source, attempt) {
                    (Source::Blob(sha256), _) => self.blobs.describe(sha256).await.map_err(NotHere::from),
                    (Source::Url(link), Some(attempt)) => self.download(link, attempt).await,
                    (Source::Url(_), None) => Err(BlobError::Truncated.into()),
                };
                (at, saved)
            }
        };
        let coming: Vec<_> = outputs.iter().enumerate().map(one).collect();
        let mut coming = futures_util::stream::iter(coming).buffer_unordered(AT_ONCE);
        let mut waits = true;
        loop {
            tokio::select! {
                biased;
                next = coming.next() => match next {
                    Some((at, saved)) => here[at] = Some(saved),
                    None => break,
                },
                () = &mut over, if waits => waits = false,
            }
            if !waits && here.iter().flatten().any(Result::is_ok) {
                break;
            }
        }
        let late = || Err(FetchError::Broken("it has not come in time".to_owned()).into());
        here.into_iter().map(|one| one.unwrap_or_else(late)).collect()
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
                Err(NotHere { error: NotAPicture::Input.into(), evidence: Some(evidence), later: None })
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
                Err(NotHere { error, evidence: Some(evidence), later: None })
            }
        }
    }

    /// Keeps an image that waits in the spool.
    pub(in crate::engine) async fn keep_image(&self, image: &InlineImage) -> Result<Saved, BlobError> {
        self.blobs.keep(&image.bytes).await
    }
}
