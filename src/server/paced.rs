//! A caller's connection with a pace: from a request's first byte to the end of its header, and while we write and nobody
//! reads, only so much time may pass. hyper's own header time-out cannot tell a connection that is kept open between
//! requests, which a front proxy does for a minute, from one that dribbles a header; here the two have limits of their own.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use super::Limits;

/// Where a connection is between two requests.
enum Reading {
    /// Nothing of the next request has come; hyper ends the connection when that lasts too long.
    Idle,
    /// A header has begun, and must be whole at this moment. So must the first one, begun or not.
    Header(Instant),
    /// A request is being answered; its body has a time limit of its own.
    Busy,
}

/// What the connection and the requests on it tell each other.
pub(super) struct Pace {
    limits: Limits,
    reading: Mutex<Reading>,
}

impl Pace {
    pub fn new(limits: Limits) -> Self {
        Self { limits, reading: Mutex::new(Reading::Header(Instant::now() + limits.header)) }
    }

    fn reading(&self) -> MutexGuard<'_, Reading> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A header is whole.
    pub fn busy(&self) {
        *self.reading() = Reading::Busy;
    }

    /// The answer has been given.
    fn idle(&self) {
        *self.reading() = Reading::Idle;
    }

    /// Bytes came. When the header they belong to must be whole.
    fn received(&self) -> Option<Instant> {
        let mut reading = self.reading();
        if let Reading::Idle = *reading {
            *reading = Reading::Header(Instant::now() + self.limits.header);
        }
        Self::until(&reading)
    }

    fn until(reading: &Reading) -> Option<Instant> {
        if let Reading::Header(until) = reading { Some(*until) } else { None }
    }
}

/// A connection with a pace.
pub(super) struct Paced {
    stream: TcpStream,
    pace: Arc<Pace>,
    header: Option<Pin<Box<Sleep>>>,
    stall: Option<Pin<Box<Sleep>>>,
}

impl Paced {
    pub fn new(stream: TcpStream, pace: Arc<Pace>) -> Self {
        Self { stream, pace, header: None, stall: None }
    }

    /// What a write came to, or that nobody has read for too long.
    fn written(&mut self, cx: &mut Context<'_>, wrote: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if wrote.is_ready() {
            self.stall = None;
            return wrote;
        }
        let patience = self.pace.limits.write_stall;
        let stall = self.stall.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + patience)));
        ready!(stall.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the caller does not read its answer")))
    }
}

fn too_slow() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "a header did not arrive in time")
}

impl AsyncRead for Paced {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(cx, buf) {
            let late = buf.filled().len() > before
                && self.pace.received().is_some_and(|until| until <= Instant::now());
            return Poll::Ready(if late { Err(too_slow()) } else { read });
        }
        let Some(until) = Pace::until(&self.pace.reading()) else { return Poll::Pending };
        let timer = self.header.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if timer.deadline() != until {
            timer.as_mut().reset(until);
        }
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(too_slow()))
    }
}

impl AsyncWrite for Paced {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.written(cx, wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.written(cx, wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// An answer's body; when it is gone the next request may begin.
pub(super) struct Answer {
    pub body: Body,
    pub pace: Arc<Pace>,
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.pace.idle();
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
