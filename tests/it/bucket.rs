//! An S3-compatible store of the test's own, which checks signatures, on a folder that tests can look into; and gateways
//! that keep their pictures in a folder or in such a bucket.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hyper::Response;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tempfile::TempDir;
use tokio_util::task::TaskTracker;

use crate::harness::{Db, Gateway, listen};

pub const ACCESS_KEY: &str = "AKIDEASELTEST0000000";
pub const SECRET_KEY: &str = "a-secret-of-the-bucket-0123456789";

/// Where a test's pictures are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shelf {
    Folder,
    Bucket,
}

/// A running store with one bucket, `pictures`.
pub struct Bucket {
    pub url: String,
    folder: TempDir,
    /// Whether it answers; otherwise 503.
    pub open: Arc<AtomicBool>,
}

impl Bucket {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("pictures")).unwrap();
        let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(folder.path()).unwrap());
        service.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let service = service.build();
        let listener = listen().await;
        let url = format!("http://{}", listener.local_addr().unwrap());
        let open = Arc::new(AtomicBool::new(true));
        let tasks = TaskTracker::new();
        let (serving, answers) = (tasks.clone(), Arc::clone(&open));
        tasks.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (service, answers) = (service.clone(), Arc::clone(&answers));
                let answer =
                    service_fn(move |request| answer(service.clone(), Arc::clone(&answers), request));
                let connection = hyper::server::conn::http1::Builder::new();
                serving.spawn(async move {
                    let _ = connection.serve_connection(TokioIo::new(socket), answer).await;
                });
            }
        });
        Self { url, folder, open }
    }

    /// The configuration that keeps pictures here.
    pub fn section(&self) -> String {
        format!(
            "[blobs]\nurl = \"s3://pictures/of/easel\"\nendpoint = \"{}\"\nallow_http = true\n\
             access_key_id = \"{ACCESS_KEY}\"\nsecret_access_key = \"{SECRET_KEY}\"\n",
            self.url
        )
    }

    /// What lies in the bucket below the gateway's prefix: names and sizes.
    pub fn objects(&self) -> Vec<(String, u64)> {
        files(&self.folder.path().join("pictures/of/easel"))
    }

    /// Leaves an object there, beside the gateway.
    pub fn leave(&self, name: &str) {
        let at = self.path(name);
        std::fs::create_dir_all(at.parent().unwrap()).unwrap();
        std::fs::write(at, name).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("pictures/of/easel").join(name)
    }

    /// Parts of uploads that were begun and neither put together nor given up.
    pub fn parts(&self) -> usize {
        let entries = std::fs::read_dir(self.folder.path()).unwrap().flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(".upload_id-")).count()
    }
}

async fn answer(
    service: S3Service,
    open: Arc<AtomicBool>,
    request: hyper::Request<Incoming>,
) -> Result<Response<s3s::Body>, s3s::HttpError> {
    if !open.load(Ordering::Relaxed) {
        let mut refused = Response::new(s3s::Body::empty());
        *refused.status_mut() = hyper::StatusCode::SERVICE_UNAVAILABLE;
        return Ok(refused);
    }
    service.call(request.map(s3s::Body::from)).await
}

/// The files below a folder, by their path in it, with their sizes.
pub fn files(folder: &Path) -> Vec<(String, u64)> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(next) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&next) else { continue };
        for entry in entries.flatten() {
            // What is removed between being named and being measured is not there.
            let Ok(about) = entry.metadata() else { continue };
            if about.is_dir() {
                folders.push(entry.path());
            } else {
                let path: PathBuf = entry.path();
                let name = path.strip_prefix(folder).unwrap().display().to_string();
                found.push((name, about.len()));
            }
        }
    }
    found.sort();
    found
}

/// A gateway whose pictures lie on a shelf.
pub struct Shelved {
    pub gateway: Gateway,
    pub bucket: Option<Bucket>,
}

impl Shelved {
    /// `more` begins with further keys of `[blobs]`, if any.
    pub async fn start(db: Db, shelf: Shelf, more: &str) -> Self {
        match shelf {
            Shelf::Folder => {
                let section = "[blobs]\nurl = \"file://{folder}/blobs\"\n";
                Self { gateway: Gateway::configured(db, &format!("{section}{more}")).await, bucket: None }
            }
            Shelf::Bucket => {
                let bucket = Bucket::start().await;
                let gateway = Gateway::configured(db, &format!("{}{more}", bucket.section())).await;
                Self { gateway, bucket: Some(bucket) }
            }
        }
    }

    /// What is kept there: names and sizes.
    pub fn objects(&self) -> Vec<(String, u64)> {
        if let Some(bucket) = &self.bucket {
            bucket.objects()
        } else {
            let mut files = files(&self.gateway.folder().join("blobs"));
            files.retain(|(name, _)| !name.starts_with("spool/"));
            files
        }
    }

    /// What lies in quarantine: names and sizes.
    pub fn quarantined(&self) -> Vec<(String, u64)> {
        self.objects().into_iter().filter(|(name, _)| name.starts_with("quarantine/")).collect()
    }

    /// Where the bytes of an object lie.
    pub fn path(&self, name: &str) -> PathBuf {
        match &self.bucket {
            Some(bucket) => bucket.path(name),
            None => self.gateway.folder().join("blobs").join(name),
        }
    }

    pub async fn stop(self) {
        self.gateway.stop().await;
    }
}
