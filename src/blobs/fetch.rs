//! Brings an input image from an address its caller chose into the blob store through the guarded client, streamed, capped
//! and hashed.

use url::Url;

use super::{BlobError, Blobs, MAX_BYTES, Saved};
use crate::net::Guarded;
use crate::net::guarded::FetchError;
use crate::trace;

impl Blobs {
    /// Fetches `address` and keeps what it gives, if that is a picture. Waits for one of so many slots; a source that stalls
    /// gives its slot back with the error.
    pub async fn fetch(&self, guarded: &Guarded, address: &str) -> Result<Saved, BlobError> {
        // Never closed, so there always is one in the end.
        let _slot = self.slots.acquire().await.ok();
        let span = trace::call("picture.fetch");
        // The rest of an address may be a signature.
        span.set_with("server.address", || Some(Url::parse(address).ok()?.host_str()?.to_owned()));
        let fetched = span.around(self.bring(guarded, address)).await;
        match &fetched {
            Ok(saved) => span.set("picture.bytes", i64::try_from(saved.bytes).unwrap_or(i64::MAX)),
            Err(BlobError::Fetch(FetchError::Status { status, .. })) => {
                span.set("http.response.status_code", i64::from(*status));
                span.fail("status");
            }
            Err(BlobError::Fetch(_)) => span.fail("fetch"),
            Err(BlobError::NotAPicture(_)) => span.fail("not_a_picture"),
            Err(_) => span.fail("storage"),
        }
        fetched
    }

    async fn bring(&self, guarded: &Guarded, address: &str) -> Result<Saved, BlobError> {
        let answer = guarded.get(address).await?;
        self.put_stream(answer.body(MAX_BYTES)).await
    }
}
