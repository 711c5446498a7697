//! Hostile upstreams, U1 to U24, where the retry table does not have them already: answers without end or sense, words
//! nobody has heard, links that are none. What was paid for once is never paid for twice.

use std::time::Duration;

use easel::domain::clock::Clock;
use rstest::rstest;
use serde_json::json;
use tokio::net::TcpListener;

use crate::harness::{Db, Gateway};
use crate::retries::{Row, check};

const FLUX: &str = "piapi_flux/Qubico/flux1-schnell";
const CHAT: &str = "gpt-4o-image";

const HOSTILE: &[Row] = &[
    ("U1", FLUX, "huge", "outcome_unknown", "unknown", 1),
    ("U2", FLUX, "deep_json=100000", "outcome_unknown", "unknown", 1),
    ("U2", FLUX, "task_id_bytes=1000000", "outcome_unknown", "unknown", 1),
    ("U2", FLUX, "task_id=\"line\\nbreak\"", "outcome_unknown", "unknown", 1),
    ("U9", FLUX, "status=Completed", "succeeded", "yes", 1),
    ("U9", FLUX, "status=SUCCESS", "succeeded", "yes", 1),
    ("U9", FLUX, "status=succeeded", "succeeded", "yes", 1),
    ("U9", FLUX, "status=\"processing\\t,,quantum,Staged\"", "succeeded", "yes", 1),
    ("U13", FLUX, "no_image=object", "no_image_returned", "yes", 1),
    ("U13", FLUX, "no_image=string", "no_image_returned", "yes", 1),
    ("U13", FLUX, "no_image=array", "no_image_returned", "yes", 1),
    ("U13", FLUX, "base64=both", "succeeded", "yes", 1),
    ("U13", FLUX, "file_url", "no_image_returned", "yes", 1),
    ("U14", CHAT, "sse=no_newline", "outcome_unknown", "unknown", 1),
    ("U14", CHAT, "sse=big_event", "succeeded", "yes", 1),
    ("U14", CHAT, "sse=flood", "outcome_unknown", "unknown", 1),
    ("U14", CHAT, "sse=comment_flood", "outcome_unknown", "unknown", 1),
    ("U14", CHAT, "sse=cr_only", "succeeded", "yes", 1),
    ("U14", CHAT, "sse=bom", "succeeded", "yes", 1),
    ("U14", CHAT, "sse=bad_utf8", "succeeded", "yes", 1),
    ("U14", CHAT, "style=comments", "succeeded", "yes", 1),
    ("U16", CHAT, "style=tricky", "succeeded", "yes", 1),
    ("U16", CHAT, "cut=mid_url", "outcome_unknown", "unknown", 1),
    ("U16", CHAT, "cut=after_image cut_by=eof", "succeeded", "yes", 1),
    ("U18", CHAT, "sse=done_twice", "succeeded", "yes", 1),
    ("U18", CHAT, "style=eof", "succeeded", "yes", 1),
    ("U22", FLUX, "gzip_bomb=100000000", "outcome_unknown", "unknown", 1),
];

#[rstest]
#[tokio::test]
async fn nothing_an_upstream_says_costs_twice(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    check(db, HOSTILE).await;
}

/// U14: the other API that streams, where events may be long and are bounded in number all the same.
#[rstest]
#[tokio::test]
async fn a_flood_of_events_where_pictures_stream_is_an_unknown_outcome(
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
) {
    let gateway = Gateway::start(db).await;
    for (sent, flood) in [(1, "flood"), (2, "comment_flood")] {
        let body = json!({"prompt": format!("a cat [[sim: sse={flood}]]"), "model": "gpt-image-1",
            "provider_options": {"gpt_image": {"stream": true}}});
        let task = gateway.run(&body.to_string()).await;
        assert_eq!(
            (task["error"]["code"].as_str(), task["cost"]["billed"].as_str(), gateway.receptions()),
            (Some("outcome_unknown"), Some("unknown"), sent),
            "{task}"
        );
    }
    gateway.stop().await;
}

/// U4: an answer that never comes is waited for as long as configured, and not asked for again.
#[rstest]
#[tokio::test]
async fn an_answer_that_never_comes_is_an_unknown_outcome(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let provider = "[providers.piapi_flux]\nkind = \"piapi_flux\"\nbase_url = \"{upstream}\"\napi_key = \"upstream-key-0123456789\"\nallow_http_results = true\ntimeout_s = 5\n";
    let gateway = Gateway::only(db, provider).await;
    let body = json!({"prompt": "a cat [[sim: hang]]", "model": FLUX, "size": "64x64"});
    let task = gateway.run(&body.to_string()).await;
    assert_eq!(
        (task["error"]["code"].as_str(), task["cost"]["billed"].as_str(), gateway.receptions()),
        (Some("outcome_unknown"), Some("unknown"), 1)
    );
    gateway.stop().await;
}

/// U7: a redirect of a paid call is not followed: the other host hears nothing.
#[rstest]
#[tokio::test]
async fn a_redirected_purchase_goes_nowhere_else(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = Gateway::start(db).await;
    let to = format!("http://{}/api/v1/task", other.local_addr().unwrap());
    let body = json!({"prompt": format!("a cat [[sim: redirect={to}]]"), "model": FLUX, "size": "64x64"});
    let task = gateway.run(&body.to_string()).await;
    assert_eq!((task["error"]["code"].as_str(), gateway.receptions()), (Some("provider_rejected"), 1));
    let heard = tokio::time::timeout(Duration::from_millis(1), other.accept()).await;
    assert!(heard.is_err(), "somebody came");
    gateway.stop().await;
}

/// U11: two hours of failing polls cost nothing, and the picture comes all the same.
#[rstest]
#[tokio::test]
async fn polls_that_fail_for_hours_lose_nothing(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let provider = "[providers.piapi_flux]\nkind = \"piapi_flux\"\nbase_url = \"{upstream}\"\napi_key = \"upstream-key-0123456789\"\nallow_http_results = true\n\
        poll_after_s = 60\npoll_max_s = 120\n";
    let gateway = Gateway::only(db, provider).await;
    let faults = [
        json!({"http": 500}),
        json!({"http": 429}),
        json!({"http": 200, "body": "html"}),
        json!({"reset": true}),
    ];
    for fault in faults {
        gateway.rule(&json!({"on": "flux.poll", "times": 18, "do": fault})).await;
    }
    let begun = gateway.clock.now();
    let body = json!({"prompt": "a cat", "model": FLUX, "size": "64x64", "deadline_s": 86_400});
    let task = gateway.run(&body.to_string()).await;
    assert_eq!((task["status"].as_str(), gateway.receptions()), (Some("succeeded"), 1), "{task}");
    assert!(gateway.clock.now().since(begun) > Duration::from_hours(2));
    gateway.stop().await;
}

/// U24: a provider that echoes our key does not give it away.
#[rstest]
#[tokio::test]
async fn a_key_that_is_echoed_is_not_passed_on(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    const KEY: &str = "upstream-key-0123456789";
    let gateway = Gateway::start(db).await;
    for (model, fault) in [
        (FLUX, "http=400 message=\"bad key {key}\""),
        (CHAT, "http=401 message=\"bad key {key}\""),
        ("gpt-image-1", "http=400 message=\"Authorization: Bearer {key}\""),
    ] {
        let body = json!({"prompt": format!("a cat [[sim: {fault}]]"), "model": model});
        let task = gateway.run(&body.to_string()).await;
        assert_eq!(task["status"], "failed", "{task}");
        assert!(!task.to_string().contains(KEY), "{task}");
        let attempts = gateway.attempts(task["id"].as_str().unwrap()).await;
        assert!(!json!(attempts).to_string().contains(KEY), "{attempts:?}");
    }
    for query in [
        "SELECT state FROM tasks",
        "SELECT detail FROM attempts",
        "SELECT data FROM events",
        "SELECT state FROM lanes",
    ] {
        assert!(!gateway.texts(query).await.join("").contains(KEY), "{query}");
    }
    gateway.stop().await;
}
