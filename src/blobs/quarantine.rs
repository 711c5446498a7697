//! Bytes in quarantine: under names of their own, never under their digest and never among the images, so that nothing
//! serves them by mistake. Written whole or not at all.

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload, WriteMultipart};

use super::upload::SMALL;
use super::{BlobError, Blobs};
use crate::domain::clock::Millis;
use crate::domain::id::QuarantineId;
use crate::domain::secret::token;

/// Where they lie.
const FOLDER: &str = "quarantine";

impl Blobs {
    /// Keeps the bytes of an item; how many they are. A long one comes up under `incoming/`, where a kill's leftovers are
    /// cleared away, and gets its name at the end.
    pub async fn quarantine<S>(&self, id: QuarantineId, mut body: S) -> Result<u64, BlobError>
    where
        S: Stream<Item = std::io::Result<Bytes>> + Unpin + Send,
    {
        let mut first = Vec::new();
        while first.len() < SMALL {
            if let Some(piece) = body.next().await {
                first.extend_from_slice(&piece.map_err(BlobError::Spool)?);
            } else {
                let length = first.len() as u64;
                self.store.put(&path(id), PutPayload::from(first)).await?;
                return Ok(length);
            }
        }
        let incoming = Path::from(format!("incoming/{}", token()));
        let mut upload = self.begin(&incoming, None).await?;
        let length = match write(&mut upload, first, body).await {
            Ok(length) => length,
            Err(error) => {
                upload.abort().await?;
                return Err(error);
            }
        };
        upload.finish().await?;
        self.store.rename(&incoming, &path(id)).await?;
        Ok(length)
    }

    /// The bytes of an item.
    pub async fn quarantined(
        &self,
        id: QuarantineId,
    ) -> Result<BoxStream<'static, Result<Bytes, object_store::Error>>, BlobError> {
        Ok(super::pieces::of(self.store.get(&path(id)).await?))
    }

    /// Up to `limit` items whose bytes were written before that moment.
    pub async fn old_quarantined(
        &self,
        before: Millis,
        limit: usize,
    ) -> Result<Vec<QuarantineId>, BlobError> {
        let mut listing = self.store.list(Some(&Path::from(FOLDER)));
        let mut old = Vec::new();
        while let Some(found) = listing.try_next().await? {
            let id = found.location.filename().and_then(|name| name.parse().ok());
            if let Some(id) = id.filter(|_| found.last_modified.timestamp_millis() < before.0) {
                old.push(id);
                if old.len() >= limit {
                    break;
                }
            }
        }
        Ok(old)
    }

    /// Removes the bytes of an item, if there are any.
    pub async fn remove_quarantined(&self, id: QuarantineId) -> Result<(), BlobError> {
        match self.store.delete(&path(id)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Writes the whole body; how long it was.
async fn write<S>(upload: &mut WriteMultipart, first: Vec<u8>, mut body: S) -> Result<u64, BlobError>
where
    S: Stream<Item = std::io::Result<Bytes>> + Unpin + Send,
{
    let mut length = 0;
    let mut next = Some(Bytes::from(first));
    while let Some(piece) = next {
        length += piece.len() as u64;
        upload.wait_for_capacity(1).await?;
        upload.put(piece);
        next = body.next().await.transpose().map_err(BlobError::Spool)?;
    }
    Ok(length)
}

fn path(id: QuarantineId) -> Path {
    Path::from(format!("{FOLDER}/{id}"))
}
