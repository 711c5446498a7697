//! Bytes into the store: hashed on the way, kept under their SHA-256, so that equal bytes are kept once. A
//! small picture is written in one piece under its name; a large one streams in under `incoming/` and gets
//! its name at the end. They are kept as they came, with whatever follows the image; only an image that was
//! cut is refused.

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStoreExt, WriteMultipart};
use sha2::{Digest, Sha256};

use super::bucket::{PART, options};
use super::{BlobError, Blobs, MAX_HEADER, Saved, path};
use crate::chaos::crash;
use crate::domain::image::{Completeness, HEADER_BYTES, Header, MediaType, NotAPicture, read_header};
use crate::domain::secret::{sha256_hex, token};
use crate::net::guarded::FetchError;
use crate::spool::Spooled;

/// Up to this size a picture is held and written in one piece; beyond it, piece by piece.
pub(super) const SMALL: usize = 1024 * 1024;
/// A piece, in a folder.
const PIECE: usize = 256 * 1024;

impl Blobs {
    /// Keeps a picture whose bytes are at hand.
    pub async fn put(&self, bytes: Bytes) -> Result<Saved, BlobError> {
        if bytes.is_empty() {
            return Err(BlobError::Truncated);
        }
        let header = read_header(&bytes)?;
        let total = bytes.len() as u64;
        let mut completeness = Completeness::new(header.media_type);
        completeness.feed(&bytes);
        completeness.complete_at().ok_or(BlobError::Truncated)?;
        let sha256 = sha256_hex(&bytes);
        let (path, hold) = (path(&sha256), self.hands.take(&sha256).await);
        crash("bytes.incoming");
        // Written anew even when it is here: its age tells the other replicas that somebody relies on it.
        if let Err(error) = self.write(&path, bytes, header.media_type).await
            && self.store.head(&path).await.is_err()
        {
            return Err(error);
        }
        Ok(Saved { sha256, header, bytes: total, hold })
    }

    /// Keeps an image that waits in the spool.
    pub async fn keep(&self, image: &Spooled) -> Result<Saved, BlobError> {
        if let Some(bytes) = image.in_memory() {
            self.put(bytes.clone()).await
        } else {
            let pieces =
                image.stream().map(|piece| piece.map_err(|error| FetchError::Broken(error.to_string())));
            self.put_stream(pieces).await
        }
    }

    /// Writes a whole object at once.
    pub(super) async fn write(
        &self,
        path: &Path,
        bytes: Bytes,
        media_type: MediaType,
    ) -> Result<(), BlobError> {
        // Only a bucket remembers what its objects are.
        match &self.bucket {
            Some(_) => self.store.put_opts(path, bytes.into(), options(media_type)).await?,
            None => self.store.put(path, bytes.into()).await?,
        };
        Ok(())
    }

    /// Keeps a picture that arrives piece by piece; never holds more than a few pieces of it, unless its
    /// header is longer.
    pub async fn put_stream<S>(&self, mut pieces: S) -> Result<Saved, BlobError>
    where
        S: Stream<Item = Result<Bytes, FetchError>> + Unpin,
    {
        let mut first = Vec::with_capacity(SMALL + PIECE);
        let mut enough = SMALL;
        let header = loop {
            while first.len() <= enough {
                match pieces.next().await.transpose()? {
                    Some(piece) => first.extend_from_slice(&piece),
                    None => return self.put(first.into()).await,
                }
            }
            match read_header(&first) {
                // What a camera or an editor has to say can stand before the size.
                Err(NotAPicture::Header) if first.len() < MAX_HEADER => enough = first.len() * 2,
                read => break read?,
            }
        };
        let incoming = Path::from(format!("incoming/{}", token()));
        let (sha256, bytes) = self.write_through(&incoming, header, first, pieces).await?;
        crash("bytes.incoming");
        let hold = self.hands.take(&sha256).await;
        // Over what may be here already, for the same reason as above.
        self.store.rename(&incoming, &path(&sha256)).await?;
        Ok(Saved { sha256, header, bytes, hold })
    }

    /// Streams a picture into the store under a name that means nothing yet, and answers with its SHA-256 and
    /// its length; when it is none, nothing stays.
    async fn write_through<S>(
        &self,
        incoming: &Path,
        header: Header,
        first: Vec<u8>,
        pieces: S,
    ) -> Result<(String, u64), BlobError>
    where
        S: Stream<Item = Result<Bytes, FetchError>> + Unpin,
    {
        let mut upload = self.begin(incoming, Some(header.media_type)).await?;
        let mut seen = Seen::new(header.media_type);
        match seen.write(&mut upload, first, pieces).await {
            Ok(()) if seen.completeness.complete_at().is_some() => {
                upload.finish().await?;
                Ok((hex::encode(seen.digest.finalize()), seen.total))
            }
            written => {
                upload.abort().await?;
                Err(written.err().unwrap_or(BlobError::Truncated))
            }
        }
    }

    /// Begins to write piece by piece.
    pub(super) async fn begin(
        &self,
        incoming: &Path,
        media_type: Option<MediaType>,
    ) -> Result<WriteMultipart, BlobError> {
        let (upload, piece): (Box<dyn MultipartUpload>, _) = match &self.bucket {
            Some(bucket) => (Box::new(bucket.begin(incoming, media_type).await?), PART),
            None => (self.store.put_multipart(incoming).await?, PIECE),
        };
        Ok(WriteMultipart::new_with_chunk_size(upload, piece))
    }

    /// What is known of a picture that is here.
    pub async fn describe(&self, sha256: &str) -> Result<Saved, BlobError> {
        let (path, hold) = (path(sha256), self.hands.take(sha256).await);
        let bytes = self.store.head(&path).await?.size;
        let first = |most: usize| self.store.get_range(&path, 0..bytes.min(most as u64));
        let header = match read_header(&first(HEADER_BYTES).await?) {
            Err(NotAPicture::Header) if bytes > HEADER_BYTES as u64 => {
                read_header(&first(MAX_HEADER).await?)?
            }
            read => read?,
        };
        Ok(Saved { sha256: sha256.to_owned(), header, bytes, hold })
    }
}

/// What is known of an image that streams by: its digest, its length, and whether all of it has come.
struct Seen {
    digest: Sha256,
    total: u64,
    completeness: Completeness,
}

impl Seen {
    fn new(media_type: MediaType) -> Self {
        Self { digest: Sha256::new(), total: 0, completeness: Completeness::new(media_type) }
    }

    async fn write<S>(
        &mut self,
        upload: &mut WriteMultipart,
        first: Vec<u8>,
        mut pieces: S,
    ) -> Result<(), BlobError>
    where
        S: Stream<Item = Result<Bytes, FetchError>> + Unpin,
    {
        let mut next = Some(Bytes::from(first));
        while let Some(piece) = next {
            self.digest.update(&piece);
            self.total += piece.len() as u64;
            self.completeness.feed(&piece);
            upload.wait_for_capacity(1).await?;
            upload.put(piece);
            next = pieces.next().await.transpose()?;
        }
        Ok(())
    }
}
