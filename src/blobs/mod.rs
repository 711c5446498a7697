//! Floor 2: pictures at rest. [`Blobs`] keeps bytes under their SHA-256 in a folder (or another object store), so equal
//! bytes are kept once; what it has answered for is on disk. It knows nothing of tasks.

mod erase;
mod fetch;
mod folder;
mod hand;
pub mod pixels;
pub mod space;
mod sweep;

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt, WriteMultipart};
use sha2::{Digest, Sha256};

pub use erase::Erased;
pub use folder::Folder;
pub use hand::{Condemned, Hold};

use crate::domain::clock::Millis;
use crate::domain::image::{HEADER_BYTES, Header, NotAPicture, ends_whole, read_header};
use crate::domain::secret::{sha256_hex, token};
use crate::net::guarded::FetchError;

/// The most bytes one picture may have.
pub const MAX_BYTES: u64 = 32 * 1024 * 1024;
/// Up to this size a picture is written in one piece; beyond it, piece by piece.
const SMALL: usize = 1024 * 1024;
const PIECE: usize = 256 * 1024;

/// Why a picture is not here.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// Its source did not give it.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// What came is not an acceptable picture.
    #[error(transparent)]
    NotAPicture(#[from] NotAPicture),
    /// What came ends before the picture does.
    #[error("the picture was cut short")]
    Truncated,
    /// It could not be written or read.
    #[error("blob store: {0}")]
    Storage(#[from] object_store::Error),
    /// The blob store cannot be opened.
    #[error("cannot open the blob store {url}: {reason}")]
    Open {
        /// Its address.
        url: String,
        /// What came in the way.
        reason: String,
    },
}

/// A picture that is durable here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    /// SHA-256 of its bytes in hex.
    pub sha256: String,
    /// What its header says.
    pub header: Header,
    /// Its length.
    pub bytes: u64,
    /// Keeps it from being erased: to be dropped when a row points to it.
    pub hold: Hold,
}

/// A picture being read.
pub struct Opened {
    /// Its whole length, whatever part was asked for.
    pub length: u64,
    /// The part that comes.
    pub range: Range<u64>,
    /// The bytes.
    pub body: BoxStream<'static, Result<Bytes, object_store::Error>>,
}

/// The blob store.
#[derive(Clone)]
pub struct Blobs {
    store: Arc<dyn ObjectStore>,
    hands: hand::Hands,
}

impl Blobs {
    /// Opens `file://FOLDER`, making the folder when there is none, and proves that it can be written.
    pub async fn open(url: &str) -> Result<Self, BlobError> {
        let failed = |reason: String| BlobError::Open { url: url.to_owned(), reason };
        let Some(folder) = url.strip_prefix("file://").map(PathBuf::from) else {
            return Err(failed("expected file://FOLDER".into()));
        };
        tokio::fs::create_dir_all(&folder).await.map_err(|e| failed(e.to_string()))?;
        let store =
            LocalFileSystem::new_with_prefix(folder).map_err(|e| failed(e.to_string()))?.with_fsync(true);
        let blobs = Self { store: Arc::new(store), hands: hand::Hands::default() };
        blobs.probe().await.map_err(|e| failed(e.to_string()))?;
        Ok(blobs)
    }

    /// Clears away what a killed process left half-written before that moment. A store that does not say when its files
    /// were written keeps them.
    pub async fn sweep(url: &str, before: Millis) -> Result<usize, BlobError> {
        let Some(folder) = url.strip_prefix("file://").map(PathBuf::from) else { return Ok(0) };
        let before = UNIX_EPOCH + Duration::from_millis(before.0.try_into().unwrap_or(0));
        let swept = tokio::task::spawn_blocking(move || sweep::sweep(&folder, before)).await;
        let swept = swept.map_err(|e| e.to_string()).and_then(|swept| swept.map_err(|e| e.to_string()));
        swept.map_err(|reason| BlobError::Open { url: url.to_owned(), reason })
    }

    /// Writes and removes a few bytes: whether the store takes pictures now.
    pub async fn probe(&self) -> Result<(), BlobError> {
        let path = Path::from(format!("incoming/{}", token()));
        self.store.put(&path, Bytes::from_static(b"probe").into()).await?;
        Ok(self.store.delete(&path).await?)
    }

    /// Keeps a picture whose bytes are at hand.
    pub async fn put(&self, bytes: Bytes) -> Result<Saved, BlobError> {
        let header = read_header(&bytes[..bytes.len().min(HEADER_BYTES)])?;
        let total = bytes.len() as u64;
        if !ends_whole(header.media_type, total, &bytes, &bytes) {
            return Err(BlobError::Truncated);
        }
        let sha256 = sha256_hex(&bytes);
        let (path, hold) = (path(&sha256), self.hands.take(&sha256).await);
        // Written anew even when it is here: its age tells the other replicas that somebody relies on it.
        if let Err(error) = self.store.put(&path, bytes.into()).await
            && self.store.head(&path).await.is_err()
        {
            return Err(error.into());
        }
        Ok(Saved { sha256, header, bytes: total, hold })
    }

    /// Keeps a picture that arrives piece by piece; never holds more than a mebibyte of it.
    pub async fn put_stream<S>(&self, mut pieces: S) -> Result<Saved, BlobError>
    where
        S: Stream<Item = Result<Bytes, FetchError>> + Unpin,
    {
        let mut first = Vec::new();
        while first.len() <= SMALL {
            match pieces.next().await.transpose()? {
                Some(piece) => first.extend_from_slice(&piece),
                None => return self.put(first.into()).await,
            }
        }
        let header = read_header(&first[..HEADER_BYTES])?;
        let incoming = Path::from(format!("incoming/{}", token()));
        let upload = self.store.put_multipart(&incoming).await?;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, PIECE);
        let written = write_through(&mut upload, first, pieces).await;
        let (digest, total, whole_header, tail) = match written {
            Ok(written) => written,
            Err(error) => {
                upload.abort().await?;
                return Err(error);
            }
        };
        upload.finish().await?;
        if !ends_whole(header.media_type, total, &whole_header, &tail) {
            self.store.delete(&incoming).await?;
            return Err(BlobError::Truncated);
        }
        let hold = self.hands.take(&digest).await;
        // Over what may be here already, for the same reason as above.
        self.store.rename(&incoming, &path(&digest)).await?;
        Ok(Saved { sha256: digest, header, bytes: total, hold })
    }

    /// What is known of a picture that is here.
    pub async fn describe(&self, sha256: &str) -> Result<Saved, BlobError> {
        let (path, hold) = (path(sha256), self.hands.take(sha256).await);
        let bytes = self.store.head(&path).await?.size;
        let first = self.store.get_range(&path, 0..bytes.min(HEADER_BYTES as u64)).await?;
        Ok(Saved { sha256: sha256.to_owned(), header: read_header(&first)?, bytes, hold })
    }

    /// Reads a picture, whole or in part.
    pub async fn get(&self, sha256: &str, range: Option<GetRange>) -> Result<Opened, BlobError> {
        let result =
            self.store.get_opts(&path(sha256), GetOptions { range, ..GetOptions::default() }).await?;
        Ok(Opened { length: result.meta.size, range: result.range.clone(), body: result.into_stream() })
    }

    /// Reads a whole picture into memory.
    pub async fn read(&self, sha256: &str) -> Result<Bytes, BlobError> {
        Ok(self.store.get(&path(sha256)).await?.bytes().await?)
    }
}

type Written = (String, u64, Vec<u8>, Vec<u8>);

async fn write_through<S>(
    upload: &mut WriteMultipart,
    first: Vec<u8>,
    mut pieces: S,
) -> Result<Written, BlobError>
where
    S: Stream<Item = Result<Bytes, FetchError>> + Unpin,
{
    let mut digest = Sha256::new();
    let mut total = 0u64;
    let head = first[..64].to_vec();
    let mut tail: Vec<u8> = Vec::new();
    let mut next = Some(Bytes::from(first));
    while let Some(piece) = next {
        digest.update(&piece);
        total += piece.len() as u64;
        tail.extend_from_slice(&piece[piece.len().saturating_sub(64)..]);
        tail.drain(..tail.len().saturating_sub(64));
        upload.wait_for_capacity(2).await?;
        upload.put(piece);
        next = pieces.next().await.transpose()?;
    }
    Ok((hex::encode(digest.finalize()), total, head, tail))
}

/// Where bytes lie: two characters of the digest keep folders small.
fn path(sha256: &str) -> Path {
    Path::from(format!("sha256/{}/{sha256}", sha256.get(..2).unwrap_or("00")))
}
