//! Over HTTP: the simulator as its callers see it. Time is moved by hand or scaled to nothing; nobody sleeps.

mod answers;
mod chat;
mod files;
mod flux;
mod flux_faults;
mod hooks;
mod images;
mod ledger;
mod pipeline;
mod sink;
mod untidy;
mod untidy_decoys;
mod untidy_files;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Endpoint, Faults, Options, Outcome, Reception, Rule, Simulator};
use crate::domain::clock::{Millis, TestClock};

/// 2026-09-21, a Monday.
const START: Millis = Millis(1_790_000_000_000);
const GOOD: &str = "good-key";

/// A simulator, its clock, and a caller.
struct Bench {
    simulator: Simulator,
    clock: Arc<TestClock>,
    http: reqwest::Client,
}

#[expect(clippy::disallowed_methods, reason = "a caller of the simulator, not of the house")]
fn client() -> reqwest::Client {
    reqwest::Client::builder()
        .user_agent("test/1")
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(Duration::from_secs(20))
        .build()
        .unwrap()
}

impl Bench {
    /// Everything is done at once.
    async fn at_once() -> Self {
        Self::with(0.0, None).await
    }

    /// Everything takes its time, by a clock moved by hand.
    async fn by_clock() -> Self {
        Self::with(1.0, None).await
    }

    async fn with(time_scale: f64, ledger: Option<PathBuf>) -> Self {
        let clock = Arc::new(TestClock::at(START));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let options = Options { clock: clock.clone(), ledger, time_scale, seed: 7, public_url: None };
        let simulator = Simulator::start(listener, options).await.unwrap();
        Self { simulator, clock, http: client() }
    }

    fn url(&self, path: &str) -> String {
        if path.starts_with("http") { path.to_owned() } else { format!("{}{path}", self.simulator.url()) }
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, self.url(path));
        // Every upstream looks for the key in its own header.
        request.header("x-api-key", GOOD).header("api-key", GOOD).bearer_auth(GOOD)
    }

    async fn send(&self, path: &str, body: &Value) -> reqwest::Result<reqwest::Response> {
        self.request(Method::POST, path).json(body).send().await
    }

    async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        read(self.send(path, body).await.unwrap()).await
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        read(self.request(Method::GET, path).send().await.unwrap()).await
    }

    async fn delete(&self, path: &str) -> (u16, Value) {
        read(self.request(Method::DELETE, path).send().await.unwrap()).await
    }

    /// A file's status, media type and bytes.
    async fn file(&self, link: &str) -> (u16, String, bytes::Bytes) {
        let answer = self.http.get(self.url(link)).send().await.unwrap();
        let kind = answer.headers().get("content-type").map_or("", |kind| kind.to_str().unwrap()).to_owned();
        (answer.status().as_u16(), kind, answer.bytes().await.unwrap())
    }

    /// A picture's width and height.
    async fn size(&self, link: &str) -> (u32, u32) {
        let (status, _, bytes) = self.file(link).await;
        assert_eq!(status, 200, "{link}");
        let picture = image::load_from_memory(&bytes).unwrap();
        (picture.width(), picture.height())
    }

    /// The text of a chat stream, raw.
    async fn stream(&self, path: &str, body: &Value) -> String {
        let answer = self.send(path, body).await.unwrap();
        assert_eq!(answer.status(), 200);
        assert!(answer.headers()["content-type"].to_str().unwrap().starts_with("text/event-stream"));
        String::from_utf8(answer.bytes().await.unwrap().to_vec()).unwrap()
    }

    /// Submits a Flux task and gives its id.
    async fn task(&self, prompt: &str) -> String {
        let (status, body) = self.post(TASK, &txt2img(prompt)).await;
        assert_eq!(status, 200, "{body}");
        body["data"]["task_id"].as_str().unwrap().to_owned()
    }

    async fn poll(&self, id: &str) -> Value {
        self.get(&format!("{TASK}/{id}")).await.1
    }

    fn rule(&self, on: Endpoint, faults: Faults) {
        self.simulator.add_rule(Rule::new(on, faults));
    }

    fn last(&self) -> Reception {
        self.simulator.ledger().pop().expect("a reception")
    }

    /// Waits until so many POSTs were received and the last of them was decided on.
    async fn received(&self, count: usize) {
        let decided = |ledger: Vec<Reception>| {
            ledger.len() >= count && ledger.last().is_some_and(|last| last.outcome != Outcome::Received)
        };
        let arrived = async {
            while !decided(self.simulator.ledger()) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), arrived).await.unwrap();
    }

    /// Sends these bytes on a fresh connection and reads whatever comes until it ends; whether it was reset.
    async fn raw(&self, request: &str) -> (String, bool) {
        let address = self.simulator.url().replace("http://", "");
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let ended = stream.read_to_end(&mut answer).await;
        (String::from_utf8_lossy(&answer).into_owned(), ended.is_err())
    }

    /// The same POST as [`Bench::post`], by hand.
    async fn raw_post(&self, path: &str, body: &Value) -> (String, bool) {
        let body = body.to_string();
        let len = body.len();
        self.raw(&format!(
            "POST {path} HTTP/1.1\r\nhost: sim\r\nuser-agent: test/1\r\nx-api-key: {GOOD}\r\n\
             authorization: Bearer {GOOD}\r\ncontent-length: {len}\r\n\r\n{body}"
        ))
        .await
    }
}

const TASK: &str = "/api/v1/task";
const CHAT: &str = "/v1/chat/completions";
const GENERATIONS: &str = "/v1/images/generations";
const V3: &str = "/generate/v3";
const V1: &str = "/generate/image/v1";

async fn read(answer: reqwest::Response) -> (u16, Value) {
    let status = answer.status().as_u16();
    let text = answer.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

fn fixture_text(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/simulator/tests/fixtures").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn fixture(name: &str) -> Value {
    serde_json::from_str(&fixture_text(name)).unwrap()
}

/// A small task at the smallest price.
fn txt2img(prompt: &str) -> Value {
    json!({
        "model": "Qubico/flux1-schnell",
        "task_type": "txt2img",
        "input": {"prompt": prompt, "width": 64, "height": 48},
    })
}

fn ask(prompt: &str) -> Value {
    let message = json!({"role": "user", "content": [{"type": "text", "text": prompt}]});
    json!({"model": "gpt-4o-image", "messages": [message], "stream": true})
}

fn generate(prompt: &str) -> Value {
    json!({"model": "gpt-image-1", "prompt": format!("{prompt} [[sim: picture=32x32]]")})
}

/// Holds `actual` against a documented or recorded body: the same keys, the same kinds of values. `null` on
/// either side stands for anything; of an array only the first element is looked at.
fn same_shape(documented: &Value, actual: &Value, at: &str) {
    match (documented, actual) {
        (Value::Object(documented), Value::Object(actual)) => {
            let keys = |map: &serde_json::Map<String, Value>| map.keys().cloned().collect::<Vec<_>>();
            assert_eq!(keys(actual), keys(documented), "keys at {at}");
            for (key, value) in documented {
                same_shape(value, &actual[key], &format!("{at}/{key}"));
            }
        }
        (Value::Array(documented), Value::Array(actual)) => {
            if let (Some(documented), Some(actual)) = (documented.first(), actual.first()) {
                same_shape(documented, actual, &format!("{at}/0"));
            }
        }
        (Value::Null, _) | (_, Value::Null) => {}
        (documented, actual) => {
            let same = std::mem::discriminant(documented) == std::mem::discriminant(actual);
            assert!(same, "{at}: documented {documented}, actual {actual}");
        }
    }
}

/// An event stream taken apart: names and data. Lines may end in CR, LF or both.
fn events(stream: &str) -> Vec<(String, String)> {
    let text = stream.trim_start_matches('\u{feff}').replace("\r\n", "\n").replace('\r', "\n");
    let blocks = text.split("\n\n").filter(|block| !block.is_empty());
    let parsed = blocks.map(|block| {
        let field = |name: &str| {
            let lines = block.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            lines.map(|value| value.strip_prefix(' ').unwrap_or(value)).collect::<Vec<_>>().join("\n")
        };
        (field("event"), field("data"))
    });
    parsed.filter(|(_, data)| !data.is_empty()).collect()
}

#[test]
fn shapes_are_compared_by_keys_and_kinds() {
    same_shape(&json!({"a": [{"b": 1}], "c": null}), &json!({"a": [{"b": 2}, 5], "c": "x"}), "");
    let unlike = std::panic::catch_unwind(|| same_shape(&json!({"a": 1}), &json!({"a": "1"}), ""));
    assert!(unlike.is_err());
}
