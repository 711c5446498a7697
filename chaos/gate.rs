//! A gate between gateway and simulator: every answer to a paid POST waits there until all that are expected have begun, then
//! all of them pass at once. It notes when the gateway let go of each connection.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

/// One answer that has passed.
#[derive(Debug, Clone, Copy)]
pub struct Passed {
    /// When the gate opened.
    pub opened: Instant,
    /// When the gateway had taken the last byte and let go of the connection.
    pub over: Instant,
    /// How long the answer was, head and all.
    pub bytes: u64,
}

/// A gate that listens.
pub struct Gate {
    url: String,
    passed: Arc<Mutex<Vec<Passed>>>,
    _server: JoinSet<()>,
}

impl Gate {
    /// Listens on a free port in front of `upstream` (`http://host:port`) and opens when `expected` answers wait.
    pub async fn start(upstream: &str, expected: usize) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let upstream = upstream.trim_start_matches("http://").to_owned();
        let passed = Arc::<Mutex<Vec<Passed>>>::default();
        let (noted, barrier) = (Arc::clone(&passed), Arc::new(Barrier::new(expected)));
        let mut server = JoinSet::new();
        server.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (upstream, noted) = (upstream.clone(), Arc::clone(&noted));
                let barrier = Arc::clone(&barrier);
                connections.spawn(async move {
                    match pass(client, &upstream, &barrier).await {
                        Ok(passed) => noted.lock().unwrap_or_else(PoisonError::into_inner).push(passed),
                        Err(error) => eprintln!("chaos: an answer did not pass the gate: {error:#}"),
                    }
                });
            }
        });
        Ok(Self { url, passed, _server: server })
    }

    /// Where it listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What has passed.
    pub fn passed(&self) -> Vec<Passed> {
        self.passed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn pass(mut client: TcpStream, upstream: &str, barrier: &Barrier) -> Result<Passed> {
    let mut request = Vec::new();
    let length = loop {
        if let Some(head) = request.windows(4).position(|four| four == b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&request[..head]).to_lowercase();
            let body =
                text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
            break head + 4 + body.unwrap_or(0);
        }
        if client.read_buf(&mut request).await? == 0 {
            bail!("a head without an end");
        }
    };
    while request.len() < length {
        if client.read_buf(&mut request).await? == 0 {
            bail!("a body without an end");
        }
    }
    let mut server = TcpStream::connect(upstream).await?;
    server.write_all(&request).await?;
    let mut first = vec![0; 1024];
    let begun = server.read(&mut first).await?;
    if begun == 0 {
        bail!("no answer");
    }
    barrier.wait().await;
    let opened = Instant::now();
    client.write_all(&first[..begun]).await?;
    let (mut asked, mut told) = client.into_split();
    let (mut answers, mut hang_up) = server.into_split();
    let (rest, over) = tokio::join!(copy(&mut answers, &mut told), async {
        // The gateway hangs up when it has what it wants; then the simulator is let go of, too.
        let ended = asked.read(&mut [0]).await;
        let over = Instant::now();
        hang_up.shutdown().await?;
        ended.map(|_| over)
    });
    let bytes = begun as u64 + rest.context("the answer broke off")?;
    Ok(Passed { opened, over: over?, bytes })
}
