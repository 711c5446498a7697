//! What a bucket does otherwise than a folder: uploads in parts, links of its own, and clearing away what was left
//! half-written. A picture too large for one request comes up as `incoming/TOKEN` in parts of 5 MiB and is then copied to
//! its name. Parts that were never put together are in no listing: `incoming/TOKEN.open`, written before the first part,
//! holds the upload's id, so that a later start finds it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::TryStreamExt;
use http::Method;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::signer::{SignedUrlOptions, Signer};
use object_store::{
    Attribute, Attributes, MultipartUpload, ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions,
    PutPayload, PutResult, UploadPart,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;
use url::Url;

use super::place::Prefixed;
use crate::domain::clock::Millis;
use crate::domain::image::MediaType;

/// The least that S3 takes as a part, unless it is the last.
pub(super) const PART: usize = 5 * 1024 * 1024;
/// How many pictures come up in parts at once: each holds two parts in memory.
const IN_PARTS: usize = 6;
/// How long a link of the bucket's own opens.
const LINK: Duration = Duration::from_mins(5);
/// The ending of a note.
const OPEN: &str = ".open";

/// A bucket, below its prefix.
pub(super) struct Bucket {
    store: Arc<Prefixed>,
    redirect: bool,
    gate: Arc<Semaphore>,
    cleaners: TaskTracker,
}

impl Bucket {
    pub fn new(store: Arc<Prefixed>, redirect: bool) -> Self {
        Self { store, redirect, gate: Arc::new(Semaphore::new(IN_PARTS)), cleaners: TaskTracker::new() }
    }

    /// Begins an upload in parts.
    pub async fn begin(&self, path: &Path, media_type: Option<MediaType>) -> object_store::Result<Parts> {
        // Never closed, so there always is one in the end.
        let permit = Arc::clone(&self.gate).acquire_owned().await.ok();
        let options = PutMultipartOptions { attributes: typed(media_type), ..PutMultipartOptions::default() };
        let id = self.store.create_multipart_opts(path, options).await?;
        let begun = Begun { store: Arc::clone(&self.store), path: path.clone(), id };
        let (note, id) = (begun.note(), begun.id.clone());
        let cleaners = self.cleaners.clone();
        // Given up by its drop, should the note not come to be.
        let parts = Parts { begun: Some(begun), cleaners, count: 0, sent: Arc::default(), _permit: permit };
        self.store.put(&note, id.into()).await?;
        Ok(parts)
    }

    /// A link that opens for [`LINK`], when callers are to be sent to the bucket. The answer calls itself `disposition`.
    pub async fn link(
        &self,
        path: &Path,
        media_type: MediaType,
        disposition: &str,
    ) -> Option<object_store::Result<Url>> {
        if !self.redirect {
            return None;
        }
        let options = SignedUrlOptions::new().with_query([
            ("response-content-type", media_type.as_str()),
            ("response-content-disposition", disposition),
            ("response-cache-control", "private, max-age=31536000, immutable"),
        ]);
        Some(self.store.signed_url_opts(Method::GET, path, LINK, &options).await)
    }

    /// Clears away what was begun before that moment and never finished; answers with the number of uploads.
    pub async fn sweep(&self, before: Millis) -> object_store::Result<usize> {
        let incoming = Path::from("incoming");
        let abandoned: Vec<Path> = self
            .store
            .list(Some(&incoming))
            .try_filter(|object| std::future::ready(object.last_modified.timestamp_millis() < before.0))
            .map_ok(|object| object.location)
            .try_collect()
            .await?;
        let mut removed = 0;
        for path in abandoned {
            match self.clear_away(&path).await {
                Ok(()) => removed += 1,
                // Another gateway that sweeps at the same moment was quicker.
                Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(removed)
    }

    async fn clear_away(&self, path: &Path) -> object_store::Result<()> {
        if let Some(upload) = path.as_ref().strip_suffix(OPEN).map(Path::from) {
            let id = self.store.get(path).await?.bytes().await?;
            let id = String::from_utf8_lossy(&id).into_owned();
            // Put together or given up in the meantime, it is not there: all the better.
            if let Err(error) = self.store.abort_multipart(&upload, &id).await {
                tracing::debug!(%error, "an abandoned upload was gone already");
            }
        }
        self.store.delete(path).await
    }
}

/// What a put of a picture of this type says beside its bytes.
pub(super) fn options(media_type: MediaType) -> PutOptions {
    PutOptions { attributes: typed(Some(media_type)), ..PutOptions::default() }
}

fn typed(media_type: Option<MediaType>) -> Attributes {
    media_type.map(|media_type| (Attribute::ContentType, media_type.as_str())).into_iter().collect()
}

/// An upload in parts that was begun.
#[derive(Debug)]
struct Begun {
    store: Arc<Prefixed>,
    path: Path,
    id: String,
}

impl Begun {
    fn note(&self) -> Path {
        Path::from(format!("{}{OPEN}", self.path))
    }

    async fn abort(&self) -> object_store::Result<()> {
        self.store.abort_multipart(&self.path, &self.id).await?;
        self.store.delete(&self.note()).await
    }
}

/// A picture on its way up in parts; dropped before its end, it is given up.
#[derive(Debug)]
pub(super) struct Parts {
    begun: Option<Begun>,
    cleaners: TaskTracker,
    count: usize,
    sent: Arc<Mutex<Vec<(usize, PartId)>>>,
    _permit: Option<OwnedSemaphorePermit>,
}

#[async_trait]
impl MultipartUpload for Parts {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let at = self.count;
        self.count += 1;
        let Some(Begun { store, path, id }) = &self.begun else { return Box::pin(async { Ok(()) }) };
        let (store, path, id) = (Arc::clone(store), path.clone(), id.clone());
        let sent = Arc::clone(&self.sent);
        Box::pin(async move {
            let part = store.put_part(&path, &id, at, data).await?;
            sent.lock().unwrap_or_else(PoisonError::into_inner).push((at, part));
            Ok(())
        })
    }

    async fn complete(&mut self) -> object_store::Result<PutResult> {
        let mut parts = std::mem::take(&mut *self.sent.lock().unwrap_or_else(PoisonError::into_inner));
        parts.sort_by_key(|(at, _)| *at);
        let parts = parts.into_iter().map(|(_, part)| part).collect();
        let Some(begun) = &self.begun else {
            let source = "the upload has ended already".into();
            return Err(object_store::Error::Generic { store: "S3", source });
        };
        let done = begun.store.complete_multipart(&begun.path, &begun.id, parts).await?;
        // From here on the upload is an object of its own; a note that stays is cleared away by a later start.
        if let Some(begun) = self.begun.take()
            && let Err(error) = begun.store.delete(&begun.note()).await
        {
            tracing::warn!(%error, "the note of an upload cannot be removed");
        }
        Ok(done)
    }

    async fn abort(&mut self) -> object_store::Result<()> {
        match self.begun.take() {
            Some(begun) => begun.abort().await,
            None => Ok(()),
        }
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        let Some(begun) = self.begun.take() else { return };
        // A caller who goes away drops the upload with its request.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let giving_up = async move {
                if let Err(error) = begun.abort().await {
                    tracing::warn!(%error, "an upload that broke off cannot be given up; a later start will");
                }
            };
            self.cleaners.spawn_on(giving_up, &runtime);
        }
    }
}
