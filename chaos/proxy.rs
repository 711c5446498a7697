//! A fault proxy between gateway and simulator, in user space: it carries requests over, and spoils what comes back. It
//! keeps its own small ledger: every paid POST it received whole, one line per reception.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::h2;

/// What becomes of a paid POST once it was forwarded whole; everything else passes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoil {
    /// Nothing.
    Nothing,
    /// Nothing; every answer is remembered, those of polls as well.
    Recorded,
    /// So much later.
    Late(Duration),
    /// A stream's events come one by one from its first link on, with a pause after each.
    Trickled,
    /// The connection is reset in the middle of the answer's body.
    ResetMidBody,
    /// The answer ends early, as if it were over.
    Cut,
    /// No answer, and the connection stays open.
    HalfOpen,
    /// 502 instead of the answer.
    BadGateway,
    /// Received whole and not forwarded: 307 to the same path at the simulator itself.
    Redirect,
    /// Received whole and not forwarded: the connection is reset over HTTP/1.1, the stream refused over HTTP/2.
    Refuse,
}

/// One POST that arrived whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    pub path: String,
    pub http2: bool,
}

struct Inner {
    upstream: String,
    spoil: Spoil,
    ledger: Mutex<Vec<Received>>,
    answers: Mutex<Vec<Vec<u8>>>,
}

/// A proxy that listens.
pub struct Proxy {
    url: String,
    inner: Arc<Inner>,
    _server: JoinSet<()>,
}

impl Proxy {
    /// Listens on a free port in front of `upstream` (`http://host:port`).
    pub async fn start(upstream: &str, spoil: Spoil) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let upstream = upstream.trim_start_matches("http://").to_owned();
        let inner = Arc::new(Inner { upstream, spoil, ledger: Mutex::default(), answers: Mutex::default() });
        let mut server = JoinSet::new();
        let serving = Arc::clone(&inner);
        server.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let inner = Arc::clone(&serving);
                connections.spawn(async move {
                    // A gateway that was killed in the middle is what proxies here are for.
                    if let Err(error) = inner.serve(client).await
                        && !error.is::<std::io::Error>()
                    {
                        eprintln!("chaos: the proxy gave a connection up: {error:#}");
                    }
                });
            }
        });
        Ok(Self { url, inner, _server: server })
    }

    /// Where it listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The bodies of the answers it has recorded.
    pub fn answers(&self) -> Vec<Vec<u8>> {
        let answers = self.inner.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.iter().filter_map(|answer| body(answer)).collect()
    }

    /// Every paid POST that it received whole.
    pub fn received(&self) -> Vec<Received> {
        self.inner.ledger.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Inner {
    fn note(&self, path: &str, http2: bool) {
        let received = Received { path: path.to_owned(), http2 };
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner).push(received);
    }

    async fn serve(&self, mut client: TcpStream) -> Result<()> {
        let mut head = Vec::new();
        while !head.windows(4).any(|four| four == b"\r\n\r\n") {
            if client.read_buf(&mut head).await? == 0 {
                return Ok(());
            }
            if head.len() > 64 * 1024 {
                bail!("a head without an end");
            }
        }
        if head.starts_with(b"PRI * HTTP/2.0") {
            return h2::refuse_every_post(client, head, |path| self.note(path, true)).await;
        }
        let request = Head::read(&head)?;
        let (at, post) = (request.length, request.method == "POST");
        while head.len() < at + request.body {
            if client.read_buf(&mut head).await? == 0 {
                return Ok(());
            }
        }
        if post {
            self.note(&request.path, false);
        }
        if post && self.spoil == Spoil::Refuse {
            // Dropped with nothing read and nothing said: a reset.
            client.set_zero_linger()?;
            return Ok(());
        }
        if post && self.spoil == Spoil::Redirect {
            let head = format!(
                "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://{}{}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                self.upstream, request.path
            );
            client.write_all(head.as_bytes()).await?;
            return Ok(client.shutdown().await?);
        }
        let answer = self.forward(&head[..at + request.body], at, &request.text).await;
        if self.spoil == Spoil::Recorded {
            return self.record(client, answer?).await;
        }
        if !post || self.spoil == Spoil::Nothing {
            return self.pass(client, answer?).await;
        }
        self.spoiled(client, answer?).await
    }

    /// Sends the request on, on a connection that ends with it.
    async fn forward(&self, request: &[u8], at: usize, head: &str) -> Result<TcpStream> {
        let mut upstream = TcpStream::connect(&self.upstream).await?;
        let lines = head.lines().filter(|line| {
            let line = line.to_lowercase();
            !line.is_empty() && !line.starts_with("connection:")
        });
        let mut text = lines.collect::<Vec<_>>().join("\r\n");
        text += "\r\nConnection: close\r\n\r\n";
        upstream.write_all(text.as_bytes()).await?;
        upstream.write_all(&request[at..]).await?;
        Ok(upstream)
    }

    async fn pass(&self, mut client: TcpStream, mut upstream: TcpStream) -> Result<()> {
        tokio::io::copy(&mut upstream, &mut client).await?;
        client.shutdown().await?;
        Ok(())
    }

    async fn record(&self, mut client: TcpStream, mut upstream: TcpStream) -> Result<()> {
        let mut answer = Vec::new();
        upstream.read_to_end(&mut answer).await?;
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).push(answer.clone());
        client.write_all(&answer).await?;
        Ok(client.shutdown().await?)
    }

    async fn spoiled(&self, mut client: TcpStream, mut upstream: TcpStream) -> Result<()> {
        // From its last byte on the provider acts, whatever becomes of the answer.
        let mut answer = Vec::new();
        upstream.read_to_end(&mut answer).await?;
        match self.spoil {
            Spoil::Nothing | Spoil::Recorded | Spoil::Refuse | Spoil::Redirect => bail!("not spoiled here"),
            Spoil::Late(by) => {
                tokio::time::sleep(by).await;
                client.write_all(&answer).await?;
            }
            Spoil::Trickled => {
                let link = answer.windows(4).position(|four| four == b"http").unwrap_or(answer.len());
                client.write_all(&answer[..link]).await?;
                for line in answer[link..].split_inclusive(|byte| *byte == b'\n') {
                    client.write_all(line).await?;
                    if !line.trim_ascii().is_empty() {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                }
            }
            Spoil::ResetMidBody => {
                client.write_all(&answer[..answer.len() - 10]).await?;
                client.flush().await?;
                // What was written must arrive before the reset overtakes it.
                tokio::time::sleep(Duration::from_millis(50)).await;
                client.set_zero_linger()?;
                return Ok(());
            }
            Spoil::Cut => client.write_all(&answer[..answer.len() - 10]).await?,
            Spoil::HalfOpen => {
                // Until the gateway gives up.
                let mut rest = Vec::new();
                client.read_to_end(&mut rest).await?;
            }
            Spoil::BadGateway => {
                let page = b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 11\r\nConnection: close\r\n\r\nBad gateway";
                client.write_all(page).await?;
            }
        }
        client.shutdown().await?;
        Ok(())
    }
}

/// The body of an answer over HTTP/1.1, out of its chunks.
fn body(answer: &[u8]) -> Option<Vec<u8>> {
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let chunked =
        String::from_utf8_lossy(&answer[..head]).to_lowercase().contains("transfer-encoding: chunked");
    let mut rest = &answer[head + 4..];
    if !chunked {
        return Some(rest.to_vec());
    }
    let mut body = Vec::new();
    loop {
        let line = rest.windows(2).position(|two| two == b"\r\n")?;
        let length = usize::from_str_radix(std::str::from_utf8(&rest[..line]).ok()?, 16).ok()?;
        let piece = rest.get(line + 2..line + 2 + length)?;
        if length == 0 {
            return Some(body);
        }
        body.extend_from_slice(piece);
        rest = rest.get(line + 2 + length + 2..)?;
    }
}

/// The head of an HTTP/1.1 request.
struct Head {
    text: String,
    method: String,
    path: String,
    length: usize,
    body: usize,
}

impl Head {
    fn read(bytes: &[u8]) -> Result<Self> {
        let length = bytes.windows(4).position(|four| four == b"\r\n\r\n").context("no end of head")? + 4;
        let head = String::from_utf8(bytes[..length].to_vec())?;
        let mut first = head.lines().next().unwrap_or_default().split(' ');
        let (method, path) = (first.next().unwrap_or_default(), first.next().unwrap_or_default());
        let body = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
        });
        let (method, path) = (method.to_owned(), path.to_owned());
        Ok(Self { method, path, length, body: body.unwrap_or(0), text: head })
    }
}
