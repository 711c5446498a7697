//! A bucket of an S3-compatible store on a folder, reached by a line that carries so many bytes a second towards it, over all
//! connections.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

const ACCESS_KEY: &str = "AKIDEASELCHAOS000000";
const SECRET_KEY: &str = "the-secret-of-a-slow-bucket-012345";
/// The bucket, and the gateway's place in it.
const BUCKET: &str = "pictures";
const PREFIX: &str = "of/easel";
/// The line carries so much at once.
const PIECE: usize = 16 * 1024;

/// A bucket that listens.
pub struct Bucket {
    url: String,
    folder: PathBuf,
    _servers: JoinSet<()>,
}

impl Bucket {
    /// Lays it out in `folder`, behind a line of `rate` bytes a second.
    pub async fn start(folder: &Path, rate: u64) -> Result<Self> {
        std::fs::create_dir_all(folder.join(BUCKET))?;
        let files = s3s_fs::FileSystem::new(folder).map_err(|error| anyhow::anyhow!("{error:?}"))?;
        let mut service = S3ServiceBuilder::new(files);
        service.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let service = service.build();
        let store = TcpListener::bind("127.0.0.1:0").await?;
        let behind = store.local_addr()?;
        let mut servers = JoinSet::new();
        servers.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = store.accept().await {
                let service = service.clone();
                let answer = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                    let service = service.clone();
                    async move { service.call(request.map(s3s::Body::from)).await }
                });
                let http = hyper::server::conn::http1::Builder::new();
                connections.spawn(async move {
                    // A gateway may hang up at any moment.
                    let _ = http.serve_connection(TokioIo::new(socket), answer).await;
                });
                while connections.try_join_next().is_some() {}
            }
        });
        let line = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", line.local_addr()?);
        let pace = Arc::new(Pace::new(rate));
        servers.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = line.accept().await {
                let pace = Arc::clone(&pace);
                connections.spawn(async move {
                    // The same.
                    let _ = carry(client, behind, &pace).await;
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { url, folder: folder.join(BUCKET).join(PREFIX), _servers: servers })
    }

    /// The configuration that keeps pictures here.
    pub fn section(&self) -> String {
        format!(
            "[blobs]\nurl = \"s3://{BUCKET}/{PREFIX}\"\nendpoint = \"{}\"\nallow_http = true\n\
             access_key_id = \"{ACCESS_KEY}\"\nsecret_access_key = \"{SECRET_KEY}\"\n",
            self.url
        )
    }

    /// Where its objects lie.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

/// Hands out moments at which the next bytes may pass.
struct Pace {
    rate: u64,
    free: Mutex<Instant>,
}

impl Pace {
    fn new(rate: u64) -> Self {
        Self { rate, free: Mutex::new(Instant::now()) }
    }

    /// Waits until so many bytes may pass.
    async fn take(&self, bytes: usize) {
        let until = {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            let takes = Duration::from_nanos(bytes as u64 * 1_000_000_000 / self.rate.max(1));
            *free = (*free).max(Instant::now()) + takes;
            *free
        };
        tokio::time::sleep_until(until.into()).await;
    }
}

async fn carry(client: TcpStream, behind: std::net::SocketAddr, pace: &Pace) -> Result<()> {
    let server = TcpStream::connect(behind).await?;
    let (mut asked, mut told) = client.into_split();
    let (mut answers, mut store) = server.into_split();
    let up = async move {
        let mut piece = vec![0; PIECE];
        loop {
            let length = asked.read(&mut piece).await?;
            if length == 0 {
                return store.shutdown().await;
            }
            pace.take(length).await;
            store.write_all(&piece[..length]).await?;
        }
    };
    let down = async move {
        copy(&mut answers, &mut told).await?;
        told.shutdown().await
    };
    tokio::try_join!(up, down)?;
    Ok(())
}
