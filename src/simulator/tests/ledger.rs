//! The ledger: written before anything is done, complete, and readable again.

use std::path::Path;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{Bench, CHAT, TASK, ask, txt2img};
use crate::simulator::{Outcome, Provider};

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn a_reset_leaves_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.jsonl");
    let bench = Bench::with(0.0, Some(path.clone())).await;
    let prompt = "a cat [[sim: reset]]";
    assert!(bench.send(TASK, &txt2img(prompt)).await.is_err());
    // The answer never came, so nothing here has waited for the ledger but the simulator itself.
    let line = &lines(&path)[0];
    assert_eq!(
        (&line["kind"], &line["seq"], &line["provider"]),
        (&json!("received"), &json!(1), &json!("flux"))
    );
    assert_eq!(line["at"], 1_790_000_000_000_i64);
    assert_eq!((&line["endpoint"], &line["key_check"]), (&json!(TASK), &json!("ok")));
    assert_eq!(line["key"].as_str().unwrap().len(), 12);
    assert_eq!(line["prompt_head"], prompt);
    assert_eq!(line["prompt_sha256"].as_str().unwrap().len(), 64);

    assert!(bench.send(TASK, &txt2img("a cat [[sim: reset_accepted]]")).await.is_err());
    let ledger = bench.simulator.ledger();
    assert_eq!((ledger[0].outcome, ledger[0].billed_nanos), (Outcome::Rejected, Some(0)));
    assert_eq!((ledger[1].outcome, ledger[1].billed_nanos), (Outcome::Completed, Some(1_500_000)));
    assert!(ledger[1].upstream_id.is_some());
    bench.simulator.stop().await;
    let written = lines(&path);
    let kinds: Vec<_> = written.iter().map(|line| line["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["received", "billed", "received", "accepted", "billed", "result"]);
}

#[tokio::test]
async fn a_restart_goes_on_where_the_file_ended() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.jsonl");
    let bench = Bench::with(0.0, Some(path.clone())).await;
    let id = bench.task("a cat").await;
    let link = bench.poll(&id).await["data"]["output"]["image_url"].as_str().unwrap().to_owned();
    bench.file(&link).await;
    bench.stream(CHAT, &ask("a dog")).await;
    let (before, billed) = (bench.simulator.ledger(), bench.simulator.billed());
    bench.simulator.stop().await;

    // A crash in the middle of a line: it was never acknowledged.
    let mut torn = std::fs::read(&path).unwrap();
    torn.extend_from_slice("{\"kind\":\"received\",\"prompt\":\"é".as_bytes());
    torn.pop();
    std::fs::write(&path, torn).unwrap();
    let bench = Bench::with(0.0, Some(path.clone())).await;
    assert_eq!((bench.simulator.ledger(), bench.simulator.billed()), (before, billed));
    bench.task("another cat").await;
    assert_eq!((bench.last().seq, bench.simulator.billed().total_nanos), (3, 20_000_000 + 2 * 1_500_000));
    bench.simulator.stop().await;
    lines(&path);
}

#[tokio::test]
async fn a_broken_line_in_the_middle_is_no_ledger() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.jsonl");
    std::fs::write(&path, "not json\n").unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let clock = std::sync::Arc::new(crate::domain::clock::TestClock::at(super::START));
    let options = super::Options { clock, ledger: Some(path), time_scale: 0.0, seed: 1, public_url: None };
    let error = super::Simulator::start(listener, options).await.err().unwrap();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn half_a_post_leaves_no_line() {
    let bench = Bench::at_once().await;
    let address = bench.simulator.url().replace("http://", "");
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!("POST {TASK} HTTP/1.1\r\nhost: x\r\nuser-agent: t\r\ncontent-length: 100\r\n\r\n{{");
    stream.write_all(head.as_bytes()).await.unwrap();
    drop(stream);
    // A whole one afterwards is the first in the books.
    bench.task("a cat").await;
    assert_eq!(bench.last().seq, 1);
}

#[tokio::test]
async fn who_goes_away_after_the_last_byte_has_bought() {
    let bench = Bench::at_once().await;
    let address = bench.simulator.url().replace("http://", "");
    let body = txt2img("a cat [[sim: delay=30]]").to_string();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST {TASK} HTTP/1.1\r\nhost: x\r\nuser-agent: t\r\nx-api-key: k\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    drop(stream);
    let billed = async {
        while bench.simulator.billed().total_nanos == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), billed).await.unwrap();
    assert_eq!(bench.simulator.ledger()[0].outcome, Outcome::Completed);
}

#[tokio::test]
async fn many_at_once_are_written_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.jsonl");
    let bench = Bench::with(0.0, Some(path.clone())).await;
    let post = async |n: u32| bench.task(&format!("cat {n}")).await;
    let ids = futures_util::future::join_all((0..200).map(post)).await;
    assert_eq!(bench.simulator.billed().by_seq.len(), 200);
    bench.simulator.stop().await;
    let received: Vec<_> = lines(&path)
        .into_iter()
        .filter(|line| line["kind"] == "received")
        .map(|line| line["seq"].as_u64().unwrap())
        .collect();
    assert_eq!(received, (1..=200).collect::<Vec<_>>());
    assert_eq!(ids.iter().collect::<std::collections::BTreeSet<_>>().len(), 200);
}

#[tokio::test]
async fn correlation_falls_back_to_a_request_id() {
    let bench = Bench::at_once().await;
    let request = bench.request(http::Method::POST, CHAT).header("x-request-id", "req-5").json(&ask("a cat"));
    request.send().await.unwrap().bytes().await.unwrap();
    let last = bench.last();
    assert_eq!((last.correlation.as_deref(), last.provider), (Some("req-5"), Some(Provider::Chat)));
    let (status, body) = bench.get("/_sim/ledger").await;
    assert_eq!((status, &body["billed_nanos"]), (200, &json!(20_000_000)));
    assert_eq!(body["receptions"][0]["correlation"], "req-5");
    assert_eq!(bench.get("/_sim/ledger?after=1").await.1["receptions"], json!([]));
}
