//! One TCP connection, and the switch by which an answer can end it at will: closed, reset (RST), or cut
//! after so many bytes of the answer. hyper owns the socket; a handler finds its [`Switch`] in the
//! request's extensions.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

const NO_LIMIT: i64 = i64::MAX;

/// A handle on the connection a request came by.
#[derive(Debug, Clone)]
pub struct Switch(Arc<State>);

#[derive(Debug)]
struct State {
    /// Asks the server to let go of the connection.
    kill: CancellationToken,
    /// The connection is no more, whoever ended it.
    gone: CancellationToken,
    /// Whether the end shall be an RST instead of a FIN.
    reset: AtomicBool,
    /// How many more bytes may be written before the connection dies.
    left: AtomicI64,
}

impl Switch {
    pub(super) fn new() -> Self {
        Self(Arc::new(State {
            kill: CancellationToken::new(),
            gone: CancellationToken::new(),
            reset: AtomicBool::new(false),
            left: AtomicI64::new(NO_LIMIT),
        }))
    }

    /// Ends the connection with a FIN. What was handed to hyper before is flushed first.
    pub fn close(&self) {
        self.0.kill.cancel();
    }

    /// Ends the connection with an RST.
    pub fn reset(&self) {
        self.0.reset.store(true, Ordering::SeqCst);
        self.0.kill.cancel();
    }

    /// Lets `bytes` more bytes out (head included), then closes.
    pub fn cut_after(&self, bytes: u32) {
        self.0.left.store(i64::from(bytes), Ordering::SeqCst);
    }

    /// Resolves when the server is asked to let go.
    pub(super) async fn killed(&self) {
        self.0.kill.cancelled().await;
    }

    /// Resolves when the connection is no more.
    pub async fn gone(&self) {
        self.0.gone.cancelled().await;
    }
}

/// The socket as hyper sees it.
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    switch: Switch,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, switch: Switch) -> Self {
        Self { stream, switch }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.switch.0.reset.load(Ordering::SeqCst) {
            // A zero linger turns the coming close(2) into an RST. If it fails, the peer gets a FIN.
            let _ = self.stream.set_zero_linger();
        }
        self.switch.0.gone.cancel();
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let left = self.switch.0.left.load(Ordering::SeqCst);
        if left == NO_LIMIT {
            return Pin::new(&mut self.stream).poll_write(cx, buf);
        }
        let allowed = buf.len().min(usize::try_from(left).unwrap_or(0));
        if allowed == 0 {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let polled = Pin::new(&mut self.stream).poll_write(cx, &buf[..allowed]);
        if let Poll::Ready(Ok(written)) = polled {
            let written = i64::try_from(written).unwrap_or(i64::MAX);
            self.switch.0.left.fetch_sub(written, Ordering::SeqCst);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
