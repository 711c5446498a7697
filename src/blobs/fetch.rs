//! Brings a picture from an address into the blob store through the guarded client, streamed, capped and hashed.

use super::{BlobError, Blobs, MAX_BYTES, Saved};
use crate::net::Guarded;

impl Blobs {
    /// Fetches `address` and keeps what it gives, if that is a picture. Waits for one of so many slots; a source that stalls
    /// gives its slot back with the error.
    pub async fn fetch(&self, guarded: &Guarded, address: &str) -> Result<Saved, BlobError> {
        // Never closed, so there always is one in the end.
        let _slot = self.slots.acquire().await.ok();
        let answer = guarded.get(address).await?;
        self.put_stream(answer.body(MAX_BYTES)).await
    }
}
