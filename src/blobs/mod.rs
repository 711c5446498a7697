//! Floor 2: pictures at rest. [`Blobs`] keeps bytes under their SHA-256 in a folder or a bucket, so equal bytes are kept
//! once; what it has answered for is durable. It knows nothing of tasks.
//!
//! Names: `sha256/aa/DIGEST` a picture, `derived/aa/DIGEST/…` what was made of it (`derive.rs` lists them),
//! `incoming/…` what is being written, `quarantine/ID` what could not be turned into an image.

mod bucket;
mod derive;
mod desk;
mod erase;
mod fetch;
mod hand;
mod pieces;
pub mod pixels;
mod place;
mod quarantine;
pub mod space;
mod sweep;
mod upload;

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt};
use tokio::sync::Semaphore;
use url::Url;

pub use derive::{Form, WIDTHS, derived_keys};
pub use erase::Erased;
pub use hand::{Condemned, Hold};
pub use place::Place;

use crate::domain::image::{Header, MediaType, NotAPicture};
use crate::domain::secret::token;
use crate::net::guarded::FetchError;

/// The most bytes one picture may have.
pub const MAX_BYTES: u64 = 32 * 1024 * 1024;
/// The longest header that is read: what stands before a picture's size.
const MAX_HEADER: usize = 4 * 1024 * 1024;

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
    /// A body on its way could not be read again.
    #[error("spool: {0}")]
    Spool(#[source] std::io::Error),
    /// Its pixels could not be worked on.
    #[error(transparent)]
    Pixels(#[from] pixels::PixelError),
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
    /// What has no row yet.
    hands: hand::Hands,
    /// The same where it is a bucket.
    bucket: Option<Arc<bucket::Bucket>>,
    /// The folder where it is one.
    folder: Option<PathBuf>,
    /// Who may fetch.
    slots: Arc<Semaphore>,
    /// Where pixels are worked on.
    desk: Arc<desk::Desk>,
}

impl Blobs {
    /// Writes and removes a few bytes: whether the store takes pictures now.
    pub async fn probe(&self) -> Result<(), BlobError> {
        let path = Path::from(format!("incoming/{}", token()));
        self.store.put(&path, Bytes::from_static(b"probe").into()).await?;
        Ok(self.store.delete(&path).await?)
    }

    /// Reads a picture, whole or in part.
    pub async fn get(&self, form: impl Into<Form<'_>>, range: Option<GetRange>) -> Result<Opened, BlobError> {
        let options = GetOptions { range, ..GetOptions::default() };
        let result = self.store.get_opts(&form.into().path(), options).await?;
        Ok(Opened { length: result.meta.size, range: result.range.clone(), body: pieces::of(result) })
    }

    /// Reads a whole picture into memory.
    pub async fn read(&self, sha256: &str) -> Result<Bytes, BlobError> {
        Ok(self.store.get(&path(sha256)).await?.bytes().await?)
    }

    /// The length of a picture in one of its forms; `None` when it is not here.
    pub async fn length(&self, form: impl Into<Form<'_>>) -> Result<Option<u64>, BlobError> {
        match self.store.head(&form.into().path()).await {
            Ok(found) => Ok(Some(found.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// An address of the store's own at which a picture can be had for five minutes, where callers are to be sent there;
    /// the answer will be of that type and call itself `disposition`.
    pub async fn link(
        &self,
        form: Form<'_>,
        media_type: MediaType,
        disposition: &str,
    ) -> Result<Option<Url>, BlobError> {
        let Some(bucket) = &self.bucket else { return Ok(None) };
        Ok(bucket.link(&form.path(), media_type, disposition).await.transpose()?)
    }
}

/// Where bytes lie: two characters of the digest keep folders small.
fn path(sha256: &str) -> Path {
    Path::from(format!("sha256/{}/{sha256}", sha256.get(..2).unwrap_or("00")))
}
