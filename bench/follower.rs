//! One follower of a task's events: HTTP/1.1 written by hand over a socket with a small buffer, so that ten thousand of them
//! weigh little. It comes back with `Last-Event-ID` when its stream breaks, as an `EventSource` does.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::world::KEY;

/// A stream says something every 15 s.
const SILENCE: Duration = Duration::from_mins(1);
/// The longest line of a head, and the largest chunk.
const MOST: u64 = 64 * 1024;
/// How many connect at the same moment: fewer than a listener's backlog holds.
const AT_A_TIME: usize = 512;

/// What all followers together have seen.
pub struct Tally {
    /// Followers that got their first event.
    pub primed: AtomicUsize,
    /// Followers whose second stream was opened, and when the last of them was.
    pub back: AtomicUsize,
    pub last_back: Mutex<Option<Instant>>,
    /// Streams opened beyond the second.
    pub again: AtomicUsize,
    /// `task.canceled` seen.
    pub canceled: AtomicUsize,
    /// Numbers left out, and numbers seen twice.
    pub gaps: AtomicUsize,
    pub repeated: AtomicUsize,
    doors: Semaphore,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            primed: AtomicUsize::new(0),
            back: AtomicUsize::new(0),
            last_back: Mutex::default(),
            again: AtomicUsize::new(0),
            canceled: AtomicUsize::new(0),
            gaps: AtomicUsize::new(0),
            repeated: AtomicUsize::new(0),
            doors: Semaphore::new(AT_A_TIME),
        }
    }
}

/// A follower and how far it has come.
pub struct Follower<'a> {
    address: &'a str,
    id: &'a str,
    tally: &'a Tally,
    seen: usize,
    opened: usize,
    ended: bool,
}

impl<'a> Follower<'a> {
    /// Of the task `id` at the gateway at `address`.
    pub fn new(address: &'a str, id: &'a str, tally: &'a Tally) -> Self {
        Self { address, id, tally, seen: 0, opened: 0, ended: false }
    }

    /// Follows until the task has ended, coming back about a second after each break.
    pub async fn follow(mut self) {
        while !self.ended {
            if self.stream().await.is_err() && !self.ended {
                tokio::time::sleep(Duration::from_millis(fastrand::u64(500..1_500))).await;
            }
        }
    }

    /// One stream, until it ends or breaks.
    async fn stream(&mut self) -> Result<()> {
        let door = self.tally.doors.acquire().await?;
        let mut socket = TcpStream::connect(self.address).await?;
        let since = if self.seen > 0 { format!("Last-Event-ID: {}\r\n", self.seen) } else { String::new() };
        let (id, host) = (self.id, self.address);
        let head = format!(
            "GET /tasks/{id}/events HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {KEY}\r\n\
             Accept: text/event-stream\r\n{since}\r\n"
        );
        socket.write_all(head.as_bytes()).await?;
        let mut reader = BufReader::with_capacity(512, socket);
        let status = line(&mut reader).await?;
        while !line(&mut reader).await?.is_empty() {}
        drop(door);
        if status.contains(" 204") {
            // Nothing is left to tell, though the end was not seen.
            self.ended = true;
            return Ok(());
        }
        ensure!(status.contains(" 200"), "{status}");
        self.opened();
        let mut text = String::new();
        loop {
            let length = usize::from_str_radix(&line(&mut reader).await?, 16)?;
            ensure!(length as u64 <= MOST, "a chunk of {length} bytes");
            let mut chunk = vec![0; length + 2];
            tokio::time::timeout(SILENCE, reader.read_exact(&mut chunk)).await??;
            if length == 0 {
                bail!("the stream ended");
            }
            text += std::str::from_utf8(&chunk[..length]).context("a chunk ends within a character")?;
            while let Some(end) = text.find("\n\n") {
                self.event(&text[..end]);
                text.drain(..end + 2);
            }
            ensure!(text.len() as u64 <= MOST, "an event without an end");
            // An idle follower holds no buffer.
            text.shrink_to_fit();
            if self.ended {
                return Ok(());
            }
        }
    }

    fn opened(&mut self) {
        self.opened += 1;
        match self.opened {
            1 => {}
            2 => {
                self.tally.back.fetch_add(1, Relaxed);
                *self.tally.last_back.lock().expect("no follower panics") = Some(Instant::now());
            }
            _ => {
                self.tally.again.fetch_add(1, Relaxed);
            }
        }
    }

    fn event(&mut self, text: &str) {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let Some(number) = field("id:").and_then(|number| number.parse::<usize>().ok()) else { return };
        if number <= self.seen {
            self.tally.repeated.fetch_add(1, Relaxed);
            return;
        }
        self.tally.gaps.fetch_add(number - self.seen - 1, Relaxed);
        if self.seen == 0 {
            self.tally.primed.fetch_add(1, Relaxed);
        }
        self.seen = number;
        match field("event:") {
            Some("task.canceled") => {
                self.tally.canceled.fetch_add(1, Relaxed);
                self.ended = true;
            }
            Some("task.succeeded" | "task.failed") => self.ended = true,
            _ => {}
        }
    }
}

/// A line without its end; an error when the stream is over or silent.
async fn line(reader: &mut BufReader<TcpStream>) -> Result<String> {
    let mut bytes = Vec::new();
    let mut limited = reader.take(MOST);
    tokio::time::timeout(SILENCE, limited.read_until(b'\n', &mut bytes)).await??;
    ensure!(bytes.ends_with(b"\r\n"), "the stream broke off");
    bytes.truncate(bytes.len() - 2);
    Ok(String::from_utf8(bytes)?)
}
