//! The client for calls that cost money. One fresh HTTP/1.1 connection per call, no retry, no redirect, no proxy, no
//! pool, and an answer to the one question that matters when it fails: can the provider have seen the request?
//!
//! Not reqwest: its pooled and HTTP/2 clients were seen to send one POST up to three times, and no client tells whether
//! a byte had left when a write failed.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONNECTION, HOST, HeaderMap, HeaderValue, USER_AGENT};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::task::TaskTracker;
use url::Url;

use super::CONNECT_WITHIN;
use crate::chaos::planted;

/// Answer heads beyond this are cut off.
const MAX_HEAD: usize = 64 * 1024;

/// One paid call.
#[derive(Debug, Clone)]
pub struct Order {
    /// Where to; configured by the operator, never by a caller.
    pub url: Url,
    /// Headers, the provider's key among them.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// How long to wait for the answer's head once the request is out.
    pub head_within: Duration,
    /// Past this moment the request is not begun: whoever held the right to send it may have lost it.
    pub not_after: Instant,
}

/// The answer to a paid call; its body is still to be read.
pub type Response = http::Response<UnsyncBoxBody<Bytes, BoxError>>;
/// Why a body broke off.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum PaidError {
    /// No byte of the request has left: it cannot have been charged.
    #[error("not sent: {cause}: {detail}")]
    NotSent {
        /// What came in the way.
        cause: NotSent,
        /// In the system's words.
        detail: String,
    },
    /// Bytes have left and no answer came: nobody can say whether it was charged.
    #[error("outcome unknown: {detail} ({sent} bytes had left)")]
    Unknown {
        /// Bytes of the request that had left.
        sent: u64,
        /// In the system's words.
        detail: String,
    },
}

/// What kept a request from leaving.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotSent {
    /// The name has no address.
    #[error("name not found")]
    Name,
    /// No TCP connection.
    #[error("no connection")]
    Connect,
    /// No TLS session.
    #[error("no TLS session")]
    Tls,
    /// The peer's certificate is not to be trusted.
    #[error("certificate not trusted")]
    Certificate,
    /// The connection broke before the first byte.
    #[error("connection broke before the first byte")]
    Write,
    /// The right to send had run out.
    #[error("too late")]
    TooLate,
}

impl PaidError {
    fn not_sent(cause: NotSent, detail: impl std::fmt::Display) -> Self {
        Self::NotSent { cause, detail: detail.to_string() }
    }
}

/// The client for calls that cost money.
#[derive(Clone)]
pub struct Paid {
    tls: TlsConnector,
    connections: TaskTracker,
}

impl Paid {
    pub(super) fn new(tls: rustls::ClientConfig) -> Self {
        Self { tls: TlsConnector::from(Arc::new(tls)), connections: TaskTracker::new() }
    }

    /// Sends a POST once and answers with the head of what comes back; the body is still to be read.
    pub async fn post(&self, order: Order) -> Result<Response, PaidError> {
        if planted("default_h2_client") {
            return planted_h2(&order).await;
        }
        let request = request(&order)?;
        let stream = match timeout(CONNECT_WITHIN, self.dial(&order.url)).await {
            Ok(stream) => stream?,
            Err(_) => return Err(PaidError::not_sent(NotSent::Connect, "connecting took too long")),
        };
        self.exchange(stream, request, order).await
    }

    async fn exchange(
        &self,
        stream: Stream,
        request: http::Request<Full<Bytes>>,
        order: Order,
    ) -> Result<Response, PaidError> {
        let sent = Arc::new(AtomicU64::new(0));
        let counted = Counted { stream, sent: Arc::clone(&sent) };
        let lost = |error: String| match sent.load(Ordering::Acquire) {
            0 => PaidError::not_sent(NotSent::Write, error),
            sent => PaidError::Unknown { sent, detail: error },
        };
        let handshake = http1::Builder::new().max_buf_size(MAX_HEAD).handshake(TokioIo::new(counted)).await;
        let (mut sender, connection) = handshake.map_err(|e| lost(spell(&e)))?;
        // The connection is driven beside the call and ends with it: it carries one request.
        self.connections.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = spell(&error), "paid connection ended");
            }
        });
        if Instant::now() >= order.not_after {
            return Err(PaidError::not_sent(NotSent::TooLate, "the lease on the task had run out"));
        }
        match timeout(order.head_within, sender.send_request(request)).await {
            Ok(Ok(response)) if planted("follow_307") && response.status().as_u16() == 307 => {
                let there = response.headers().get(http::header::LOCATION).and_then(|to| to.to_str().ok());
                let url =
                    there.and_then(|there| order.url.join(there).ok()).unwrap_or_else(|| order.url.clone());
                Box::pin(self.post(Order { url, ..order })).await
            }
            Ok(Ok(response)) => Ok(response.map(|body| body.map_err(BoxError::from).boxed_unsync())),
            Ok(Err(error)) => Err(lost(spell(&error))),
            // The connection may yet write, however little it has written so far.
            Err(_) => Err(PaidError::Unknown {
                sent: sent.load(Ordering::Acquire),
                detail: format!("no answer within {} s", order.head_within.as_secs()),
            }),
        }
    }

    async fn dial(&self, url: &Url) -> Result<Stream, PaidError> {
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = url.port_or_known_default().unwrap_or(443);
        let addresses = tokio::net::lookup_host((host.as_str(), port)).await;
        let addresses: Vec<_> = addresses.map_err(|e| PaidError::not_sent(NotSent::Name, e))?.collect();
        let tcp = TcpStream::connect(addresses.as_slice()).await;
        let tcp = tcp.map_err(|e| PaidError::not_sent(NotSent::Connect, e))?;
        tcp.set_nodelay(true).map_err(|e| PaidError::not_sent(NotSent::Connect, e))?;
        if url.scheme() == "http" {
            return Ok(Stream::Plain(tcp));
        }
        let name = ServerName::try_from(host).map_err(|e| PaidError::not_sent(NotSent::Name, e))?;
        let tls = self.tls.connect(name, tcp).await.map_err(|error| {
            let certificate = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
            let distrust = matches!(certificate, Some(rustls::Error::InvalidCertificate(_)));
            PaidError::not_sent(if distrust { NotSent::Certificate } else { NotSent::Tls }, error)
        })?;
        Ok(Stream::Tls(Box::new(tls)))
    }
}

/// What this client is not: one that speaks HTTP/2 and sends again as it sees fit.
#[cfg(feature = "chaos")]
#[expect(clippy::disallowed_methods, reason = "the mistake that the chaos suite must notice")]
async fn planted_h2(order: &Order) -> Result<Response, PaidError> {
    let client = reqwest::Client::builder().http2_prior_knowledge().build();
    let client = client.map_err(|e| PaidError::not_sent(NotSent::Connect, e))?;
    let request = client.post(order.url.clone()).headers(order.headers.clone()).body(order.body.clone());
    match request.send().await {
        Ok(response) => {
            Ok(http::Response::from(response).map(|body| body.map_err(BoxError::from).boxed_unsync()))
        }
        Err(error) => Err(PaidError::Unknown { sent: 1, detail: spell(&error) }),
    }
}

#[cfg(not(feature = "chaos"))]
async fn planted_h2(order: &Order) -> Result<Response, PaidError> {
    std::future::ready(Err(PaidError::not_sent(NotSent::Connect, order.url.scheme()))).await
}

fn request(order: &Order) -> Result<http::Request<Full<Bytes>>, PaidError> {
    let invalid = |detail: String| PaidError::not_sent(NotSent::Write, detail);
    let authority = order.url.authority();
    let target = &order.url[url::Position::BeforePath..url::Position::AfterQuery];
    let mut request = http::Request::post(target)
        .body(Full::new(order.body.clone()))
        .map_err(|e| invalid(e.to_string()))?;
    let headers = request.headers_mut();
    headers.clone_from(&order.headers);
    headers.insert(HOST, HeaderValue::from_str(authority).map_err(|e| invalid(e.to_string()))?);
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    headers.insert(USER_AGENT, HeaderValue::from_static(super::USER_AGENT));
    Ok(request)
}

/// An error with its causes in one line: hyper's own text leaves them out.
fn spell(error: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

/// A stream that knows how much of the request it has taken.
struct Counted {
    stream: Stream,
    sent: Arc<AtomicU64>,
}

macro_rules! delegate {
    ($self:ident, $stream:ident => $call:expr) => {
        match &mut $self.get_mut().stream {
            Stream::Plain($stream) => {
                let $stream = Pin::new($stream);
                $call
            }
            Stream::Tls($stream) => {
                let $stream = Pin::new($stream.as_mut());
                $call
            }
        }
    };
}

impl AsyncRead for Counted {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => stream.poll_read(cx, buf))
    }
}

impl AsyncWrite for Counted {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let sent = Arc::clone(&self.sent);
        let written = delegate!(self, stream => stream.poll_write(cx, buf));
        if let Poll::Ready(Ok(count)) = &written {
            sent.fetch_add(*count as u64, Ordering::AcqRel);
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => stream.poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// R6: what could not write its first byte was not received.
    #[tokio::test]
    async fn a_connection_that_takes_no_byte_has_sent_nothing() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let _theirs = listener.accept().await.unwrap();
        ours.shutdown().await.unwrap();
        let order = Order {
            url: "http://127.0.0.1/x".parse().unwrap(),
            headers: HeaderMap::new(),
            body: Bytes::from_static(b"{}"),
            head_within: Duration::from_secs(10),
            not_after: Instant::now() + Duration::from_secs(10),
        };
        let paid = Paid::new(crate::net::tls::config(Vec::new()).unwrap());
        let error = paid.exchange(Stream::Plain(ours), request(&order).unwrap(), order).await.map(drop);
        assert!(matches!(error, Err(PaidError::NotSent { cause: NotSent::Write, .. })), "{error:?}");
    }
}
