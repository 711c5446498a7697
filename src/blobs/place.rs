//! Where pictures are kept: a folder, or a bucket of an S3-compatible store. [`Place`] says which; opening it proves that
//! it can be written. A bucket is reached by a client of `net/`, so that no proxy of the environment comes in between.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::client::{ClientOptions, HttpClient, HttpConnector};
use object_store::local::LocalFileSystem;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, RetryConfig};
use tokio::sync::Semaphore;
use url::Url;

use super::bucket::Bucket;
use super::desk::Desk;
use super::hand::Hands;
use super::{BlobError, Blobs};

/// Where pictures are to be kept.
pub struct Place {
    /// `file://FOLDER` or `s3://BUCKET/PREFIX`.
    pub url: String,
    /// How many pictures are fetched from elsewhere at once.
    pub downloads: usize,
    /// The store's address; empty: Amazon's own.
    pub endpoint: String,
    /// The store's region.
    pub region: String,
    /// Who signs: key id and secret. Without them the machine's role does.
    pub keys: Option<(String, String)>,
    /// Whether the bucket is named in the path instead of the host name.
    pub path_style: bool,
    /// Whether callers are sent to the bucket itself for the bytes.
    pub redirect: bool,
    /// The client that speaks to it.
    pub client: reqwest::Client,
}

#[cfg(test)]
impl Place {
    /// A folder, for tests of this room.
    pub(super) fn folder(folder: &std::path::Path) -> Self {
        let policy = crate::net::Policy { allow_private: Vec::new(), allow_http: false };
        let net = crate::net::Net::open(policy, Arc::new(crate::net::SystemLookup), Vec::new()).unwrap();
        Self {
            url: format!("file://{}", folder.display()),
            downloads: 1,
            endpoint: String::new(),
            region: String::new(),
            keys: None,
            path_style: true,
            redirect: false,
            client: net.storage,
        }
    }
}

impl Blobs {
    /// Opens a place, making the folder when there is none, and proves that it can be written.
    pub async fn open(place: Place) -> Result<Self, BlobError> {
        let url = place.url.clone();
        let failed = |reason: String| BlobError::Open { url: url.clone(), reason };
        let slots = Arc::new(Semaphore::new(place.downloads));
        let (desk, hands) = (Arc::new(Desk::default()), Hands::default());
        let blobs = if let Some(folder) = url.strip_prefix("file://").map(PathBuf::from) {
            tokio::fs::create_dir_all(&folder).await.map_err(|e| failed(e.to_string()))?;
            let store = LocalFileSystem::new_with_prefix(&folder).map_err(|e| failed(e.to_string()))?;
            let store = Arc::new(store.with_fsync(true));
            Self { store, hands, bucket: None, folder: Some(folder), slots, desk }
        } else {
            let redirect = place.redirect;
            let store = Arc::new(bucket(place).map_err(|e| failed(e.to_string()))?);
            let bucket = Some(Arc::new(Bucket::new(Arc::clone(&store), redirect)));
            Self { store, hands, bucket, folder: None, slots, desk }
        };
        blobs.probe().await.map_err(|e| failed(e.to_string()))?;
        Ok(blobs)
    }
}

/// What keeps the objects of a bucket below a prefix.
pub(super) type Prefixed = PrefixStore<object_store::aws::AmazonS3>;

fn bucket(place: Place) -> Result<Prefixed, Box<dyn std::error::Error + Send + Sync>> {
    let url = Url::parse(&place.url)?;
    let name =
        url.host_str().filter(|_| url.scheme() == "s3").ok_or("expected file://FOLDER or s3://BUCKET")?;
    // Short and few: what does not answer is tried again by the engine, and a caller is waiting for a read.
    let backoff = BackoffConfig { max_backoff: Duration::from_secs(2), ..BackoffConfig::default() };
    let retry = RetryConfig { backoff, max_retries: 3, retry_timeout: Duration::from_secs(20) };
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(name)
        .with_region(place.region)
        .with_virtual_hosted_style_request(!place.path_style)
        .with_retry(retry)
        .with_http_connector(Ours(place.client));
    if let Some((id, secret)) = place.keys {
        builder = builder.with_access_key_id(id).with_secret_access_key(secret);
    }
    if !place.endpoint.is_empty() {
        let mut endpoint = Url::parse(&place.endpoint)?;
        if !place.path_style {
            let host = format!("{name}.{}", endpoint.host_str().unwrap_or_default());
            endpoint.set_host(Some(&host))?;
        }
        builder = builder.with_endpoint(endpoint.as_str().trim_end_matches('/'));
    }
    Ok(PrefixStore::new(builder.build()?, url.path().trim_matches('/')))
}

/// Hands out the one client, whatever is asked for.
#[derive(Debug)]
struct Ours(reqwest::Client);

impl HttpConnector for Ours {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.0.clone()))
    }
}
