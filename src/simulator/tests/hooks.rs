//! Webhooks.

use std::time::Duration;

use serde_json::json;

use super::sink::Sink;
use super::{Bench, TASK, V1, V3, fixture, same_shape, txt2img};

/// Submits a task with a webhook and this directive.
async fn submit(bench: &Bench, sink: &Sink, directive: &str) -> String {
    let mut request = txt2img(&format!("a cat [[sim: {directive}]]"));
    request["config"] = json!({"webhook_config": {"endpoint": sink.url, "secret": "s3cret"}});
    let (status, body) = bench.post(TASK, &request).await;
    assert_eq!(status, 200, "{body}");
    body["data"]["task_id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_webhook_rings_when_the_task_is_done() {
    let (bench, sink) = (Bench::by_clock().await, Sink::start(&[]).await);
    let id = submit(&bench, &sink, "picture=32x32").await;
    assert_eq!(bench.last().correlation.as_deref(), Some(sink.url.as_str()));
    bench.simulator.ring().await;
    assert!(sink.letters().is_empty());
    bench.clock.advance(Duration::from_secs(5));
    bench.simulator.ring().await;
    bench.simulator.ring().await;
    let letters = sink.letters();
    let (secret, letter) = &letters[0];
    assert_eq!((letters.len(), secret.as_deref()), (1, Some("s3cret")));
    let mut documented = fixture("piapi_webhook_flux_completed.json");
    documented["data"]["input"] = json!(null);
    same_shape(&documented, letter, "");
    assert_eq!((&letter["data"]["task_id"], &letter["data"]["status"]), (&json!(id), &json!("completed")));
    assert_eq!(letter["data"]["output"], bench.poll(&id).await["data"]["output"]);
}

#[tokio::test]
async fn a_webhook_is_tried_three_times_five_seconds_apart() {
    let (bench, sink) = (Bench::by_clock().await, Sink::start(&[500, 500, 500]).await);
    submit(&bench, &sink, "time=1 fail").await;
    let mut seen = Vec::new();
    for seconds in [1, 4, 1, 5, 5, 60] {
        bench.clock.advance(Duration::from_secs(seconds));
        bench.simulator.ring().await;
        seen.push(sink.letters().len());
    }
    assert_eq!(seen, [1, 1, 2, 3, 3, 3]);
    assert_eq!(sink.letters()[0].1["data"]["status"], "failed");
}

#[tokio::test]
async fn webhooks_ring_as_told() {
    let cases = [
        ("none", vec![]),
        ("twice", vec![("s3cret", "completed"), ("s3cret", "completed")]),
        ("forged", vec![("forged", "completed"), ("s3cret", "completed")]),
        ("disorder", vec![("s3cret", "completed"), ("s3cret", "processing")]),
    ];
    for (ring, expected) in cases {
        let (bench, sink) = (Bench::at_once().await, Sink::start(&[]).await);
        submit(&bench, &sink, &format!("hook={ring}")).await;
        bench.simulator.ring().await;
        let letters = sink.letters();
        let got: Vec<_> = letters
            .iter()
            .map(|(secret, letter)| (secret.as_deref().unwrap(), letter["data"]["status"].as_str().unwrap()))
            .collect();
        assert_eq!(got, expected, "{ring}");
        if ring == "forged" {
            assert_eq!(letters[0].1["data"]["output"]["image_url"], "https://attacker.invalid/evil.png");
        }
    }
}

#[tokio::test]
async fn a_webhook_can_come_before_the_answer_or_long_after() {
    let (bench, sink) = (Bench::by_clock().await, Sink::start(&[]).await);
    let id = submit(&bench, &sink, "hook=early").await;
    // Nobody rang: it came before the submit was answered.
    assert_eq!(sink.letters()[0].1["data"]["task_id"], id);
    assert_eq!(sink.letters()[0].1["data"]["status"], "completed");

    submit(&bench, &sink, "hook=late time=1 hook_delay=30").await;
    bench.clock.advance(Duration::from_secs(30));
    bench.simulator.ring().await;
    assert_eq!(sink.letters().len(), 1);
    bench.clock.advance(Duration::from_secs(1));
    bench.simulator.ring().await;
    assert_eq!(sink.letters().len(), 2);
}

#[tokio::test]
async fn imagepipeline_calls_back_as_well() {
    let (bench, sink) = (Bench::at_once().await, Sink::start(&[]).await);
    let small = json!({"prompt": "x", "width": 32, "height": 32, "samples": 1, "webhook": sink.url});
    let (_, body) = bench.post(V3, &small).await;
    bench.simulator.ring().await;
    let (secret, letter) = sink.letters().remove(0);
    assert_eq!(secret, None);
    assert_eq!(letter, bench.get(&format!("{V3}/status/{}", body["id"].as_str().unwrap())).await.1);
    let small = json!({"prompt": "x", "width": 32, "height": 32, "callback_url": sink.url});
    bench.post(V1, &small).await;
    bench.simulator.ring().await;
    same_shape(&fixture("imagepipeline_v1_webhook.json"), &sink.letters()[1].1, "");
}

#[tokio::test]
async fn with_a_running_clock_nobody_has_to_ring() {
    use std::sync::Arc;

    use crate::domain::clock::SystemClock;
    use crate::simulator::{Options, Simulator};

    let sink = Sink::start(&[]).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let clock = Arc::new(SystemClock::start());
    let options = Options { clock, ledger: None, time_scale: 0.001, seed: 1, public_url: None };
    let simulator = Simulator::start(listener, options).await.unwrap();
    let mut request = txt2img("a cat");
    request["config"] = json!({"webhook_config": {"endpoint": sink.url}});
    let post = super::client().post(format!("{}{TASK}", simulator.url())).header("x-api-key", "k");
    assert_eq!(post.json(&request).send().await.unwrap().status(), 200);
    let arrived = async {
        while sink.letters().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), arrived).await.unwrap();
    assert_eq!(sink.letters()[0].1["data"]["status"], "completed");
    simulator.stop().await;
}
