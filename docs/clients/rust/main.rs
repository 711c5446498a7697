//! Asks an Easel gateway for a picture, follows the task to its end, fetches the pictures, and takes the webhook.
//!
//!     EASEL_URL=http://127.0.0.1:8080 EASEL_API_KEY=… cargo run --example client -- a little cat
//!
//! Every call may break off at any moment and is then made again: the idempotency key makes one task of all of them, the
//! last event's number goes on where the stream broke off, and a picture counts when its SHA-256 is right. A service needs
//! either the stream or the webhook; this shows both. Beside what `Cargo.toml` calls HTTP, data and crypto it needs nothing
//! of this package.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a program of its own that stands outside the gateway"
)]

mod webhook;

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures_util::StreamExt;
use reqwest::{RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const TRIES: u32 = 8;
/// Above the gateway's heartbeat of 15 s: a stream that is silent for longer is dead.
const PATIENCE: Duration = Duration::from_secs(45);

/// The gateway's problem document: asking again will not help.
#[derive(Debug, thiserror::Error)]
#[error("refused: {0}")]
struct Refused(String);

/// An answer that passes by itself.
#[derive(Debug, thiserror::Error)]
#[error("{status}; again in {pause:?}")]
struct Later {
    status: StatusCode,
    pause: Duration,
}

struct Gateway {
    http: reqwest::Client,
    url: String,
    key: Option<String>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let set = |name: &str, usual: &str| std::env::var(name).unwrap_or_else(|_| usual.to_owned());
    let gateway = Gateway {
        http: reqwest::Client::builder().no_proxy().read_timeout(PATIENCE).build()?,
        url: set("EASEL_URL", "http://127.0.0.1:8080"),
        key: std::env::var("EASEL_API_KEY").ok(),
    };
    let prompt = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
    let secret = insist(|| gateway.read(gateway.get("/webhooks/secret"))).await?;
    let secret = secret["secret"].as_str().context("no secret")?.to_owned();
    // The gateway must be allowed to reach it (net.allow_private).
    let hook = format!("127.0.0.1:{}", set("HOOK_PORT", "9000"));
    let mut letters = webhook::take(&hook, secret).await?;

    let request = json!({
        "prompt": if prompt.is_empty() { "a little cat" } else { &prompt },
        "model": "flux-schnell",
        "webhook": {"url": format!("http://{hook}/")},
    });
    // Made once per picture wanted, and kept with it: after a restart the same key finds the same task.
    let mut order = [0; 16];
    getrandom::fill(&mut order)?;
    let order = hex::encode(order);
    let asked = || gateway.post("/generate").header("idempotency-key", &order).json(&request);
    let task = insist(|| gateway.read(asked())).await?;
    let task = gateway.follow(task["id"].as_str().context("no id")?).await?;
    ensure!(task["status"] == "succeeded", "{}: {}", task["status"], task["error"]);
    for image in task["images"].as_array().into_iter().flatten() {
        let picture = insist(|| gateway.fetch(image)).await?;
        let ending = image["media_type"].as_str().and_then(|kind| kind.split('/').nth(1)).unwrap_or("bin");
        let name = format!("{}-{}.{ending}", text(&task["id"]), image["index"]);
        std::fs::write(&name, &picture)?;
        println!("{name}: {} bytes, SHA-256 as told", picture.len());
    }
    let told = async {
        loop {
            let letter = letters.recv().await.context("the receiver has ended")?;
            if letter["data"]["task"]["id"] == task["id"] {
                return anyhow::Ok(letter);
            }
        }
    };
    let letter = tokio::time::timeout(Duration::from_mins(1), told).await.context("no webhook came")??;
    let cost = text(&task["cost"]["actual_usd"]);
    println!("webhook {}, signature verified; the task cost ${cost}", text(&letter["type"]));
    Ok(())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Calls until there is an answer. Safe for all that is called here, the idempotency key included.
async fn insist<T, F: Future<Output = Result<T>>>(mut call: impl FnMut() -> F) -> Result<T> {
    for attempt in 0..TRIES {
        let failure = match call().await {
            Err(error) if !error.is::<Refused>() => error,
            answer => return answer,
        };
        let usual = Duration::from_millis(200) * 2_u32.pow(attempt.min(4));
        let pause = failure.downcast_ref::<Later>().map_or(usual, |later| later.pause);
        eprintln!("{failure:#}; again in {pause:?}");
        tokio::time::sleep(pause).await;
    }
    bail!("gave up after {TRIES} tries")
}

impl Gateway {
    fn get(&self, path: &str) -> RequestBuilder {
        self.keyed(self.http.get(format!("{}{path}", self.url)))
    }

    fn post(&self, path: &str) -> RequestBuilder {
        self.keyed(self.http.post(format!("{}{path}", self.url)))
    }

    fn keyed(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    /// One request; the answer's body is still to be read.
    async fn send(&self, request: RequestBuilder) -> Result<Response> {
        let answer = request.send().await?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let passes = status == StatusCode::REQUEST_TIMEOUT
            || status == StatusCode::TOO_MANY_REQUESTS
            || status.is_server_error();
        if !passes {
            return Err(Refused(answer.text().await?).into());
        }
        let after = answer.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
        Err(Later { status, pause: Duration::from_secs(after.unwrap_or(2)) }.into())
    }

    async fn read(&self, request: RequestBuilder) -> Result<Value> {
        Ok(self.send(request).await?.json().await?)
    }

    /// The task when it has ended.
    async fn follow(&self, id: &str) -> Result<Value> {
        let seen = std::sync::Mutex::new("0".to_owned());
        insist(|| self.listen(id, &seen)).await
    }

    /// Follows from the last event that was seen; an error when the stream breaks off before the end.
    async fn listen(&self, id: &str, seen: &std::sync::Mutex<String>) -> Result<Value> {
        let last = seen.lock().map_or_else(|broken| broken.into_inner().clone(), |seen| seen.clone());
        let path = format!("/tasks/{id}");
        let request = self.get(&format!("{path}/events")).header("accept", "text/event-stream");
        let mut stream = self.send(request.header("last-event-id", last)).await?.bytes_stream();
        let mut bytes = Vec::new();
        while let Some(piece) = stream.next().await {
            bytes.extend_from_slice(&piece?);
            while let Some(end) = bytes.windows(2).position(|two| two == b"\n\n") {
                let event: Vec<u8> = bytes.drain(..end + 2).collect();
                let event = String::from_utf8(event)?;
                let field =
                    |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
                let Some(name) = field("event:") else { continue };
                println!("{name}");
                if let (Some(number), Ok(mut seen)) = (field("id:"), seen.lock()) {
                    number.clone_into(&mut seen);
                }
                if matches!(name, "task.succeeded" | "task.failed" | "task.canceled") {
                    return Ok(serde_json::from_str(field("data:").unwrap_or_default())?);
                }
            }
        }
        // Broken off, or all was seen before: the task itself says which.
        let task = self.read(self.get(&path)).await?;
        ensure!(!task["finished_at"].is_null(), "the stream ended before the task did");
        Ok(task)
    }

    /// A picture's bytes. Its link is signed: the key stays at home.
    async fn fetch(&self, image: &Value) -> Result<Vec<u8>> {
        let answer = self.http.get(text(&image["url"])).send().await?.error_for_status()?;
        let picture = answer.bytes().await?.to_vec();
        let digest = hex::encode(Sha256::digest(&picture));
        ensure!(digest == text(&image["sha256"]), "not the bytes the task speaks of");
        Ok(picture)
    }
}
