//! Listens. Connections are counted and have a pace (`paced.rs`): those that send no header in time, or do not read their
//! answers, are cut. The listener rests when descriptors run out instead of spinning, and stopping waits for answers that
//! are under way. HTTP/1.1 only: HTTP/2 ends at the proxy in front.

mod paced;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use metrics::{counter, gauge};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::domain::meter;
use paced::{Answer, Pace, Paced};

/// How long answers under way may take once the listener is closed.
const DRAIN: Duration = Duration::from_secs(10);
/// How many connections beyond the limit are told so at once; the rest is closed without a word.
const TOLD: usize = 64;
/// What they are told.
const FULL: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\nretry-after: 5\r\nconnection: close\r\ncontent-length: 209\r\n\r\n";
const FULL_BODY: &str = r#"{"type":"/errors/overloaded","title":"Gateway is overloaded","status":503,"detail":"as many connections are open as may be; nothing was read","code":"overloaded","retryable":true,"billed":"no","instance":null}"#;

/// How much a connection may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From the first byte of a header to its last; from the opening of a connection to the end of its first header.
    pub header: Duration,
    /// From an answer to the next request; more than the 60 s that proxies keep connections for.
    pub idle: Duration,
    /// For how long a caller may read nothing of its answer.
    pub write_stall: Duration,
    /// How many connections may be open.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            write_stall: Duration::from_mins(1),
            connections: 12_000,
        }
    }
}

/// Serves `router` within the default limits until `stop`.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    serve_within(listener, router, Limits::default(), stop).await;
}

/// Serves `router` until `stop`.
pub async fn serve_within(listener: TcpListener, router: Router, limits: Limits, stop: CancellationToken) {
    let graceful = GracefulShutdown::new();
    let connections = TaskTracker::new();
    let (room, told) = (Arc::new(Semaphore::new(limits.connections)), Arc::new(Semaphore::new(TOLD)));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.idle).max_buf_size(64 * 1024).max_headers(64);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        // Without it streamed answers stall for 40 ms.
        let _ = stream.set_nodelay(true);
        let Ok(seat) = Arc::clone(&room).try_acquire_owned() else {
            counter!(meter::HTTP_REFUSED).increment(1);
            if let Ok(turn) = Arc::clone(&told).try_acquire_owned() {
                connections.spawn(async move {
                    let _turn = turn;
                    turn_away(stream).await;
                });
            }
            continue;
        };
        let pace = Arc::new(Pace::new(limits));
        let io = TokioIo::new(Paced::new(stream, Arc::clone(&pace)));
        let router = TowerToHyperService::new(router.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            pace.busy();
            request.extensions_mut().insert(ConnectInfo(peer));
            let (answering, pace) = (router.call(request), Arc::clone(&pace));
            async move { answering.await.map(|response| response.map(|body| Answer { body, pace })) }
        });
        let connection = graceful.watch(http.serve_connection(io, service));
        connections.spawn(async move {
            let _seat = seat;
            gauge!(meter::HTTP_CONNECTIONS).increment(1.0);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended badly");
            }
            gauge!(meter::HTTP_CONNECTIONS).decrement(1.0);
        });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err() {
        tracing::warn!("connections were cut that did not end in time");
    }
}

/// Says why, and closes once the caller has read it or a second has passed.
async fn turn_away(mut stream: TcpStream) {
    let telling = async {
        stream.write_all(FULL.as_bytes()).await?;
        stream.write_all(FULL_BODY.as_bytes()).await?;
        stream.shutdown().await?;
        // What has come and was not read would make the system answer with a reset that overtakes the words.
        let mut rest = [0; 4096];
        while stream.read(&mut rest).await? > 0 {}
        std::io::Result::Ok(())
    };
    let _ = tokio::time::timeout(Duration::from_secs(1), telling).await;
}

/// Asks the gateway that listens at `address` whether it lives.
pub async fn probe(mut address: SocketAddr) -> std::io::Result<()> {
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() {
            Ipv4Addr::LOCALHOST.into()
        } else {
            Ipv6Addr::LOCALHOST.into()
        });
    }
    let asking = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(4096).read_to_end(&mut answer).await?;
        let well = answer.starts_with(b"HTTP/1.1 200");
        if well { Ok(()) } else { Err(std::io::Error::other("it is not well")) }
    };
    tokio::time::timeout(Duration::from_secs(2), asking).await?
}
