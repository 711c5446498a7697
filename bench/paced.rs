//! Requests at a steady pace, whatever the answers do: latency counts from the moment a request was due, so that a stall
//! falls on all that were due meanwhile.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::figures::Sample;
use crate::world::KEY;

/// Posts `body` to `/generate`, so many times a second over so many connections; how long each took, in milliseconds.
pub async fn post(address: &str, body: &str, per_s: f64, connections: usize, seconds: u64) -> Result<Sample> {
    let request: Arc<[u8]> = format!(
        "POST /generate HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {KEY}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
    .into();
    let begin = Instant::now() + Duration::from_millis(100);
    let every = Duration::from_secs_f64(connections as f64 / per_s);
    let mut running = JoinSet::new();
    for n in 0..connections {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let first = begin + every.mul_f64(n as f64 / connections as f64);
        running.spawn(one(stream, Arc::clone(&request), first, every, begin + Duration::from_secs(seconds)));
    }
    let mut took = Vec::new();
    while let Some(done) = running.join_next().await {
        took.append(&mut done??);
    }
    Ok(Sample::new(took))
}

async fn one(
    mut stream: TcpStream,
    request: Arc<[u8]>,
    mut due: Instant,
    every: Duration,
    end: Instant,
) -> Result<Vec<f64>> {
    let (mut took, mut answer) = (Vec::new(), Vec::with_capacity(8 * 1_024));
    while due < end {
        tokio::time::sleep_until(due).await;
        stream.write_all(&request).await?;
        answer.clear();
        while !whole(&answer)? {
            ensure!(stream.read_buf(&mut answer).await? > 0, "the connection was closed");
        }
        took.push(due.elapsed().as_secs_f64() * 1_000.0);
        due += every;
    }
    Ok(took)
}

/// Whether an answer is there to its end; one that is not 202 is an error.
fn whole(answer: &[u8]) -> Result<bool> {
    let Some(head) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(false) };
    let text = std::str::from_utf8(&answer[..head])?;
    ensure!(text.starts_with("HTTP/1.1 202 "), "{}", String::from_utf8_lossy(answer));
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
    Ok(answer.len() >= head + 4 + length.context("no length")?.trim().parse::<usize>()?)
}
