//! A gateway on raw sockets, for callers that send what no client library would.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use easel::server::{Limits, serve_within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::harness::{Db, Gateway, PATIENCE, listen};

/// A gateway with tight limits, reached over raw sockets.
pub struct Line {
    pub gateway: Gateway,
    pub address: SocketAddr,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Line {
    pub async fn start(db: Db, limits: Limits, more: &str) -> Self {
        let gateway = Gateway::configured(db, more).await;
        let listener = listen().await;
        let address = listener.local_addr().unwrap();
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn(serve_within(listener, gateway.app.router.clone(), limits, stop.clone()));
        Self { gateway, address, stop, tasks }
    }

    /// Sends bytes and reads until the gateway closes.
    pub async fn talk(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        // It may have closed before all is sent.
        let _ = stream.write_all(bytes.as_ref()).await;
        rest(&mut stream).await
    }

    /// A sound request is answered.
    pub async fn well(&self) {
        let answer = self.talk("GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
        assert_eq!(statuses(&answer), [200], "{answer}");
    }

    /// The time within which 99 of 100 sound requests are answered.
    pub async fn slowest_of_most(&self) -> Duration {
        let mut times = Vec::new();
        for _ in 0..200 {
            let began = Instant::now();
            self.well().await;
            times.push(began.elapsed());
        }
        times.sort();
        times[197]
    }

    /// How many tasks there are.
    pub async fn stored(&self) -> usize {
        self.gateway.get("/tasks").await.json()["data"].as_array().unwrap().len()
    }

    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        tokio::time::timeout(PATIENCE, self.tasks.wait()).await.expect("it stops");
        self.gateway.stop().await;
    }
}

/// What comes until the gateway closes; a reset counts as an end.
pub async fn rest(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    let reading = async {
        let mut piece = vec![0; 16 * 1024];
        while let Ok(count) = stream.read(&mut piece).await
            && count > 0
        {
            all.extend_from_slice(&piece[..count]);
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("the connection is closed");
    String::from_utf8_lossy(&all).into_owned()
}

/// The statuses of all answers in a text.
pub fn statuses(text: &str) -> Vec<u16> {
    text.match_indices("HTTP/1.1 ").filter_map(|(at, _)| text.get(at + 9..at + 12)?.parse().ok()).collect()
}
