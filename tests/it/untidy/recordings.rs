//! Answers that were recorded, or written down, elsewhere, played to an adapter byte by byte: a folder an
//! adapter, a file an answer, and beside it what must come of it. `EASEL_RECORDINGS` names a second folder of
//! the same layout.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use easel::domain::secret::sha256_hex;
use rstest::rstest;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;

use crate::harness::{Db, Gateway, listen};

/// What must come of a recording: images by their digests, or a refusal.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    /// Where it is known from.
    source: String,
    /// How many images.
    #[serde(default)]
    images: usize,
    /// Their digests, in order.
    #[serde(default)]
    sha256: Vec<String>,
    /// Codes that a task without an image may end with.
    #[serde(default)]
    refused: Vec<String>,
    /// How often it is bought: once, unless the answer proves that nothing was charged.
    #[serde(default = "once")]
    bought: usize,
    /// The request asks for a stream.
    #[serde(default)]
    stream: bool,
}

fn once() -> usize {
    1
}

struct Recording {
    name: String,
    adapter: String,
    answer: Vec<u8>,
    submit: Option<Vec<u8>>,
    expected: Expected,
}

/// The folders: our own, and one that the environment names.
#[expect(clippy::disallowed_methods, reason = "who runs the suite names the folder here")]
fn folders() -> Vec<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/recordings");
    let more = std::env::var_os("EASEL_RECORDINGS").map(PathBuf::from);
    [Some(own), more].into_iter().flatten().collect()
}

fn recordings() -> Vec<Recording> {
    let mut found = Vec::new();
    for folder in folders() {
        for adapter in ["gpt_4o_image", "gpt_image", "piapi_flux", "imagepipeline", "imagepipeline_v1"] {
            let Ok(entries) = std::fs::read_dir(folder.join(adapter)) else { continue };
            let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
            paths.sort();
            for path in paths {
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                let Some(stem) = name.strip_suffix(".http").filter(|stem| !stem.ends_with(".submit")) else {
                    continue;
                };
                let expected = std::fs::read_to_string(path.with_extension("expect"))
                    .unwrap_or_else(|error| panic!("{name} has no .expect beside it: {error}"));
                found.push(Recording {
                    name: format!("{adapter}/{stem}"),
                    adapter: adapter.to_owned(),
                    answer: std::fs::read(&path).unwrap(),
                    submit: std::fs::read(path.with_file_name(format!("{stem}.submit.http"))).ok(),
                    expected: toml::from_str(&expected).unwrap_or_else(|error| panic!("{name}: {error}")),
                });
            }
        }
    }
    found
}

/// A right answer to a submission, for jobs whose recording is of a poll.
fn submitted(adapter: &str) -> Option<Vec<u8>> {
    let body = match adapter {
        "piapi_flux" => json!({"code": 200, "message": "success", "data": {
            "task_id": "9d2c4c55-6b5b-4a6a-9c6b-0d6d5f3f1a11", "task_type": "txt2img",
            "status": "pending", "output": null, "logs": [], "error": {"code": 0, "message": ""},
            "meta": {"usage": {"type": "quota", "frozen": 0, "consume": 15_000}}}}),
        "imagepipeline" => json!({"id": "gen-77b1", "status": "PENDING"}),
        "imagepipeline_v1" => json!({"job_id": "job_77b1", "status": "queued"}),
        _ => return None,
    };
    let body = body.to_string();
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    Some((head + &body).into_bytes())
}

/// Plays a recording: the paid call, polls, and files of the folder `files`.
struct Player {
    url: String,
    paid: Arc<AtomicUsize>,
}

impl Player {
    async fn start(recording: &Recording) -> Self {
        let listener = listen().await;
        let url = format!("http://{}", listener.local_addr().unwrap());
        let paid = Arc::new(AtomicUsize::new(0));
        let placed = |bytes: &[u8]| replace(bytes, "{host}", &url);
        let answer = placed(&recording.answer);
        let submit = recording.submit.as_deref().map(placed).or_else(|| submitted(&recording.adapter));
        let tasks = TaskTracker::new();
        let (counted, connections) = (Arc::clone(&paid), tasks.clone());
        tasks.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, submit, counted) = (answer.clone(), submit.clone(), Arc::clone(&counted));
                connections.spawn(play(stream, answer, submit, counted));
            }
        });
        Self { url, paid }
    }
}

/// One request a connection.
async fn play(mut stream: TcpStream, answer: Vec<u8>, submit: Option<Vec<u8>>, paid: Arc<AtomicUsize>) {
    let (mut read, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    let head = loop {
        let Ok(count @ 1..) = stream.read(&mut buffer).await else { return };
        read.extend_from_slice(&buffer[..count]);
        // It speaks no TLS, and says so by hanging up.
        if read[0] == 0x16 {
            return;
        }
        if let Some(at) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            break String::from_utf8_lossy(&read[..at]).to_lowercase();
        }
    };
    let length =
        head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    while read.len() < head.len() + 4 + length.unwrap_or(0) {
        let Ok(count @ 1..) = stream.read(&mut buffer).await else { return };
        read.extend_from_slice(&buffer[..count]);
    }
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let said = if head.starts_with("post") {
        paid.fetch_add(1, Ordering::SeqCst);
        submit.unwrap_or(answer)
    } else if let Some(name) = path.strip_prefix("/files/") {
        let name = name.split('?').next().unwrap_or_default();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/recordings/files");
        let file = std::fs::read(folder.join(name)).unwrap_or_default();
        let status = if file.is_empty() { "404 Not Found" } else { "200 OK" };
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: image/png\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            file.len()
        );
        [head.into_bytes(), file].concat()
    } else {
        answer
    };
    // A recording without a length ends with its connection.
    let _ = stream.write_all(&said).await;
    let _ = stream.shutdown().await;
}

fn replace(bytes: &[u8], mark: &str, with: &str) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), bytes);
    while let Some(at) = rest.windows(mark.len()).position(|window| window == mark.as_bytes()) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(with.as_bytes());
        rest = &rest[at + mark.len()..];
    }
    out.extend_from_slice(rest);
    out
}

/// The account and the request for an adapter.
fn setting(recording: &Recording, url: &str) -> (String, Value) {
    let kind = recording.adapter.trim_end_matches("_v1");
    let dialect = if recording.adapter.ends_with("_v1") { "dialect = \"v1\"\n" } else { "" };
    let account = format!(
        "[providers.{kind}]\nkind = \"{kind}\"\nbase_url = \"{url}\"\napi_key = \"upstream-key-0123456789\"\nallow_http_results = true\n\
         poll_after_s = 0.05\n{dialect}"
    );
    let n = recording.expected.images.max(1);
    let mut body = json!({"prompt": "a red square", "deadline_s": 86_400});
    let more = match recording.adapter.as_str() {
        "gpt_4o_image" => json!({"model": "gpt-4o-image"}),
        "gpt_image" => json!({"model": "gpt-image-1", "n": n}),
        "piapi_flux" => json!({"model": "piapi_flux/Qubico/flux1-schnell", "size": "64x64", "n": n}),
        "imagepipeline" => json!({"model": "imagepipeline/flux-schnell", "size": "64x64", "n": n}),
        _ => json!({"model": "imagepipeline/flux-schnell", "size": "64x64"}),
    };
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    if recording.expected.stream {
        body["provider_options"] = json!({"gpt_image": {"stream": true}});
    }
    (account, body)
}

async fn check(db: Db, recording: &Recording) -> Result<(), String> {
    let expected = &recording.expected;
    let player = Player::start(recording).await;
    let (account, body) = setting(recording, &player.url);
    let gateway = Gateway::only(db, &account).await;
    let id = gateway.generate(&body.to_string()).await["id"].as_str().unwrap().to_owned();
    let mut task = Value::Null;
    for _ in 0..500 {
        gateway.app.engine.run_until_idle().await.unwrap();
        task = gateway.task(&id).await;
        if !task["finished_at"].is_null() {
            break;
        }
        gateway.advance_to_next().await;
    }
    let (status, code) = (task["status"].as_str().unwrap_or("?"), task["error"]["code"].as_str());
    let mut kept = Vec::new();
    for image in task["images"].as_array().into_iter().flatten() {
        let path = format!("/tasks/{id}/images/{}", image["index"]);
        kept.push(sha256_hex(&gateway.get(&path).await.bytes));
    }
    gateway.stop().await;
    let paid = player.paid.load(Ordering::SeqCst);
    if paid != expected.bought {
        return Err(format!("{} ({status}), bought {paid} times", code.unwrap_or("no error")));
    }
    if expected.images == 0 {
        let said = code.is_some_and(|code| expected.refused.iter().any(|one| one == code));
        return if said { Ok(()) } else { Err(format!("ends {status} {code:?} {}", task["cost"]["billed"])) };
    }
    if status != "succeeded" {
        return Err(format!("ends {status} {code:?}: {}", task["error"]["detail"]));
    }
    if kept == expected.sha256 { Ok(()) } else { Err(format!("keeps {kept:?}")) }
}

#[rstest]
#[tokio::test]
async fn foreign_recordings_are_read(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let recordings = recordings();
    assert!(recordings.len() >= 15, "the recordings were not found: {}", recordings.len());
    let mut wrong = String::new();
    let mut names = BTreeSet::new();
    for recording in &recordings {
        assert!(names.insert(&recording.name), "twice: {}", recording.name);
        let expected = &recording.expected;
        assert!(
            !expected.source.is_empty() && expected.images == expected.sha256.len(),
            "{}",
            recording.name
        );
        if let Err(why) = check(db, recording).await {
            writeln!(wrong, "{}: {why}", recording.name).unwrap();
        }
    }
    let failed = wrong.lines().count();
    assert!(wrong.is_empty(), "{failed} of {} recordings fail:\n{wrong}", recordings.len());
}
