//! What every answer of a provider leads to: the retry table, row by row. Each row says what the provider does and what
//! must come of it: the end, the code callers see, whether it was billed, and how many paid requests were received.

use std::time::Duration;

use rstest::rstest;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::harness::{Db, Gateway, PATIENCE};

const FLUX: &str = "piapi_flux/Qubico/flux1-schnell";
const CHAT: &str = "gpt-4o-image";
const PIPE: &str = "imagepipeline/flux-schnell";

/// Row of the table, model, what goes wrong, what comes of it, billed, paid requests received.
pub type Row = (&'static str, &'static str, &'static str, &'static str, &'static str, usize);

/// Refused before anything was done: known to be unbilled.
pub const REFUSED: &[Row] = &[
    ("R10", FLUX, "http=400", "provider_rejected", "no", 1),
    ("R10", FLUX, "http=413", "provider_rejected", "no", 1),
    ("R10", FLUX, "http=415", "provider_rejected", "no", 1),
    ("R10", CHAT, "http=422", "provider_rejected", "no", 1),
    ("R11", FLUX, "http=401", "provider_auth_failed", "no", 1),
    ("R11", CHAT, "http=403", "provider_auth_failed", "no", 1),
    ("R12", FLUX, "http=402", "provider_quota_exhausted", "no", 3),
    ("R12", FLUX, "http=400 message=\"insufficient credits\"", "provider_quota_exhausted", "no", 3),
    ("R12", FLUX, "http=402 times=1", "succeeded", "yes", 2),
    ("R13", FLUX, "http=403 body=cloudflare", "provider_unreachable", "no", 3),
    ("R13", CHAT, "http=403 body=html times=1", "succeeded", "yes", 2),
    ("R14", FLUX, "http=404", "provider_rejected", "no", 1),
    ("R16", FLUX, "http=409", "provider_rejected", "no", 2),
    ("R16", FLUX, "http=409 times=1", "succeeded", "yes", 2),
    ("R17", FLUX, "http=429 retry_after=7 times=1", "succeeded", "yes", 2),
    ("R18", FLUX, "http=429 times=3", "succeeded", "yes", 4),
    ("R18", FLUX, "http=429", "provider_overloaded", "no", 5),
    (
        "R18",
        FLUX,
        "http=400 message=\"active task count 2 has reached the plan limit\" times=2",
        "succeeded",
        "yes",
        3,
    ),
    ("R19", FLUX, "http=451", "content_rejected", "no", 1),
    ("R19", CHAT, "http=400 message=\"violates our content policy\"", "content_rejected", "no", 1),
    ("R20", CHAT, "http=500", "provider_failed", "no", 2),
    ("R20", CHAT, "http=500 times=1", "succeeded", "yes", 2),
    ("R21", CHAT, "http=500 body=html", "provider_failed", "no", 2),
    ("R22", FLUX, "http=501", "provider_rejected", "no", 1),
    ("R22", FLUX, "http=505", "provider_rejected", "no", 1),
    ("R24", FLUX, "http=503", "provider_overloaded", "no", 3),
    ("R24", FLUX, "http=503 retry_after=4 times=1", "succeeded", "yes", 2),
    ("R25", CHAT, "http=503 body=html", "provider_overloaded", "no", 3),
    ("R26", FLUX, "http=529 times=1", "succeeded", "yes", 2),
    ("R28", FLUX, "http=521 body=cloudflare", "provider_unreachable", "no", 3),
    ("R28", FLUX, "http=523 body=cloudflare times=1", "succeeded", "yes", 2),
    ("R28", CHAT, "http=525 body=cloudflare times=1", "succeeded", "yes", 2),
    ("R31", FLUX, "redirect=http://127.0.0.1:9/", "provider_rejected", "no", 1),
    ("R34", FLUX, "envelope_code=400", "provider_rejected", "no", 1),
    ("R34", FLUX, "envelope_code=500 times=1", "succeeded", "yes", 2),
    ("R40", CHAT, "http=404", "provider_rejected", "no", 1),
    ("R41", CHAT, "http=200 body=openai", "provider_failed", "no", 2),
];

/// Nobody can say what became of it: never sent again, never a fault of the caller's.
pub const UNKNOWN: &[Row] = &[
    ("R8", FLUX, "reset", "outcome_unknown", "unknown", 1),
    ("R8", FLUX, "reset_accepted", "outcome_unknown", "unknown", 1),
    ("R8", CHAT, "reset", "outcome_unknown", "unknown", 1),
    ("R9", FLUX, "truncate=head", "outcome_unknown", "unknown", 1),
    ("R9", FLUX, "truncate=tail", "succeeded", "yes", 1),
    ("R15", FLUX, "http=408", "outcome_unknown", "unknown", 1),
    ("R20", FLUX, "http=500", "outcome_unknown", "unknown", 1),
    ("R21", FLUX, "http=500 body=html", "outcome_unknown", "unknown", 1),
    ("R23", FLUX, "http=502", "outcome_unknown", "unknown", 1),
    ("R23", FLUX, "http=504 body=html", "outcome_unknown", "unknown", 1),
    ("R23", CHAT, "http=502", "outcome_unknown", "unknown", 1),
    ("R25", FLUX, "http=503 body=html", "outcome_unknown", "unknown", 1),
    ("R27", FLUX, "http=520 body=empty", "outcome_unknown", "unknown", 1),
    ("R29", FLUX, "http=522 body=cloudflare", "outcome_unknown", "unknown", 1),
    ("R30", CHAT, "http=524 body=cloudflare", "outcome_unknown", "unknown", 1),
    ("R32", FLUX, "huge=9000000", "outcome_unknown", "unknown", 1),
    ("R32", FLUX, "head_bytes=1000000", "outcome_unknown", "unknown", 1),
    ("R33", FLUX, "http=200 body=html", "outcome_unknown", "unknown", 1),
    ("R36", FLUX, "no_task_id", "outcome_unknown", "unknown", 1),
    ("R36", FLUX, "task_id=\"../../etc\"", "outcome_unknown", "unknown", 1),
    ("R42", CHAT, "cut=head", "outcome_unknown", "unknown", 1),
    ("R42", CHAT, "cut=before_image", "outcome_unknown", "unknown", 1),
];

/// Accepted: from here on the provider's own word decides, however often it must be asked.
pub const ACCEPTED: &[Row] = &[
    ("R35", FLUX, "envelope_code=500 envelope_data", "succeeded", "yes", 1),
    ("R37", FLUX, "status=quantum,\"Processing\",\"\"", "succeeded", "yes", 1),
    ("R38", FLUX, "submit_status=failed fail=1000 billed=true", "provider_failed", "yes", 1),
    ("R43", CHAT, "cut=after_image", "succeeded", "yes", 1),
    ("R41", CHAT, "sse=error_event", "provider_failed", "unknown", 1),
    ("R44", CHAT, "no_image", "no_image_returned", "unknown", 1),
    ("R44", CHAT, "refuse", "no_image_returned", "yes", 1),
    ("R45", FLUX, "fail=1000 billed=false", "provider_failed", "no", 2),
    ("R45", FLUX, "fail=1000 billed=true", "provider_failed", "yes", 1),
    ("R45", FLUX, "refuse", "content_rejected", "no", 1),
    ("R46", FLUX, "status=retry,retry", "succeeded", "yes", 1),
    ("R47", FLUX, "poll_http=500,429,502,404,0", "succeeded", "yes", 1),
    ("R48", FLUX, "poll_404", "outcome_unknown", "unknown", 1),
    ("R49", FLUX, "no_image=null", "no_image_returned", "yes", 1),
    ("R49", FLUX, "no_image=empty_urls", "no_image_returned", "yes", 1),
    ("R50", FLUX, "flap", "succeeded", "yes", 1),
    ("R51", FLUX, "time=900", "succeeded", "yes", 1),
    ("R52", FLUX, "file_expire", "succeeded", "yes", 1),
    ("R59", PIPE, "fail", "provider_failed", "no", 2),
    ("R59", PIPE, "fail times=1", "succeeded", "no", 2),
];

pub async fn check(db: Db, rows: &[Row]) {
    let mut wrong = Vec::new();
    for (row, model, fault, end, billed, received) in rows {
        // Each on its own: one row's circuit is not another's.
        let gateway = Gateway::start(db).await;
        let body = json!({"prompt": format!("a cat [[sim: {fault}]]"), "model": model, "size": "64x64"});
        let task = gateway.run(&body.to_string()).await;
        let ended = match task["status"].as_str() {
            Some("succeeded") => "succeeded",
            _ => task["error"]["code"].as_str().unwrap_or("?"),
        };
        let is = (ended, task["cost"]["billed"].as_str().unwrap_or("?"), gateway.receptions());
        println!("{row:4} {model:34} {fault:60} {is:?}");
        if is != (*end, *billed, *received) {
            wrong.push(format!(
                "{row} {model} [{fault}]\n  is   {is:?}\n  want {:?}\n  {task}",
                (end, billed, received)
            ));
        }
        let retryable = task["error"]["retryable"].as_bool() == Some(true);
        assert!(
            !retryable || *billed == "no",
            "{row}: what may have been paid for is not to be bought again: {task}"
        );
        check_books(&gateway, row, &task).await;
        gateway.stop().await;
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Every attempt has its verdict with its evidence, and what the task says it cost is what the upstream billed.
async fn check_books(gateway: &Gateway, row: &str, task: &Value) {
    for attempt in gateway.attempts(task["id"].as_str().unwrap()).await {
        assert!(!matches!(attempt["state"].as_str(), Some("intent" | "accepted")), "{row}: {attempt}");
        assert_ne!(attempt["evidence"], "", "{row}: {attempt}");
    }
    if let Some(paid) = task["cost"]["actual_usd"].as_str() {
        let paid: easel::domain::money::Usd = paid.parse().unwrap();
        assert_eq!(paid.nanos(), gateway.simulator.billed().total_nanos, "{row}: {task}");
    }
}

#[rstest]
#[tokio::test]
async fn refusals_are_unbilled_and_tried_again_where_that_helps(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    check(db, REFUSED).await;
}

#[rstest]
#[tokio::test]
async fn unknown_outcomes_are_said_to_be_unknown_and_never_sent_again(
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
) {
    check(db, UNKNOWN).await;
}

#[rstest]
#[tokio::test]
async fn what_was_accepted_is_followed_to_its_end(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    check(db, ACCEPTED).await;
}

/// R1 and R2: what never left is tried again three times, and is known to be unbilled.
#[rstest]
#[tokio::test]
async fn a_provider_that_cannot_be_reached_costs_nothing(
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
    #[values("http://nowhere.invalid", "http://127.0.0.1:9")] base: &str,
) {
    let provider = format!(
        "[providers.piapi_flux]\nkind = \"piapi_flux\"\nbase_url = \"{base}\"\napi_key = \"upstream-key-0123456789\"\nallow_http_results = true\n"
    );
    let gateway = Gateway::only(db, &provider).await;
    let task = gateway.run(r#"{"prompt":"a cat","model":"flux-schnell"}"#).await;
    assert_eq!(
        (task["error"]["code"].as_str(), task["cost"]["billed"].as_str()),
        (Some("provider_unreachable"), Some("no"))
    );
    assert_eq!(task["error"]["retryable"], true);
    let attempts = gateway.attempts(task["id"].as_str().unwrap()).await;
    let states: Vec<_> = attempts.iter().map(|attempt| attempt["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["not_sent"; 3]);
    gateway.stop().await;
}

/// R39: an id that is another attempt's is not bound a second time.
#[rstest]
#[tokio::test]
async fn a_job_of_another_attempt_is_not_taken_for_ours(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let body = |cat: &str| {
        json!({"prompt": format!("{cat} [[sim: task_id=\"the-same-id\" time=30]]"), "model": FLUX, "size": "64x64"}).to_string()
    };
    let first = gateway.generate(&body("one")).await;
    gateway.app.engine.run_until_idle().await.unwrap();
    let second = gateway.run(&body("two")).await;
    assert_eq!(
        (second["error"]["code"].as_str(), second["cost"]["billed"].as_str()),
        (Some("outcome_unknown"), Some("unknown")),
        "{second}"
    );
    let ours = gateway.attempts(first["id"].as_str().unwrap()).await;
    assert_eq!(ours[0]["state"], "accepted");
    gateway.stop().await;
}

/// R49 and R60: fewer pictures than asked for are kept, and called partial.
#[rstest]
#[tokio::test]
async fn fewer_pictures_are_a_partial_success(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    for model in [FLUX, PIPE] {
        let body = json!({"prompt": "a cat [[sim: missing=1]]", "model": model, "size": "64x64", "n": 2});
        let task = gateway.run(&body.to_string()).await;
        let images = task["images"].as_array().unwrap().len();
        assert_eq!(
            (task["status"].as_str().unwrap(), task["partial"].as_bool().unwrap(), images),
            ("succeeded", true, 1),
            "{task}"
        );
    }
    gateway.stop().await;
}

/// R53 and R54: a picture that exists is tried for, one that is none or too large is not kept; generation is not repeated.
#[rstest]
#[tokio::test]
async fn pictures_are_brought_here_without_buying_again(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    for (fault, times, end) in [
        (json!({"http": 503}), 3, "succeeded"),
        (json!({"file_truncated": true}), 2, "succeeded"),
        (json!({"file_empty": true}), 2, "succeeded"),
        (json!({"file_type": "html"}), 2, "succeeded"),
        (json!({"file_type": "html"}), 1_000, "asset_unavailable"),
        (json!({"file_bomb": "png"}), 1_000, "asset_rejected"),
        (json!({"http": 410}), 1_000_000, "asset_unavailable"),
    ] {
        let gateway = Gateway::start(db).await;
        gateway.rule(&json!({"on": "files", "times": times, "do": fault})).await;
        let task = gateway.run(&json!({"prompt": "a cat", "model": FLUX, "size": "64x64"}).to_string()).await;
        let ended = task["error"]["code"].as_str().unwrap_or(task["status"].as_str().unwrap());
        assert_eq!((ended, gateway.receptions()), (end, 1), "{fault}: {task}");
        assert_eq!(task["cost"]["billed"], "yes");
        gateway.stop().await;
    }
}

/// R5: an intent that the database refuses is not sent, however often it is tried to be written.
#[rstest]
#[tokio::test]
async fn nothing_is_sent_before_its_intent_is_written(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let (refuse, allow) = match db {
        Db::Sqlite => (
            "CREATE TRIGGER refuse BEFORE INSERT ON attempts BEGIN SELECT RAISE(ABORT, 'refused'); END",
            "DROP TRIGGER refuse",
        ),
        Db::Postgres | Db::At(_) => (
            "ALTER TABLE attempts ADD CONSTRAINT refuse CHECK (false) NOT VALID",
            "ALTER TABLE attempts DROP CONSTRAINT refuse",
        ),
    };
    let id =
        gateway.generate(r#"{"prompt":"a cat","model":"flux-schnell","size":"64x64"}"#).await["id"].clone();
    gateway.sql(refuse).await;
    let engine = &gateway.app.engine;
    // The step is tried again for as long as it takes; a round beside it may be told of the trouble.
    let _ = timeout(Duration::from_secs(1), engine.run_until_idle()).await;
    assert_eq!(gateway.receptions(), 0);
    gateway.sql(allow).await;
    let id = id.as_str().unwrap();
    let sent = timeout(PATIENCE, async {
        while matches!(gateway.task(id).await["phase"].as_str(), Some("waiting" | "submitting")) {
            let _ = engine.run_until_idle().await;
            tokio::task::yield_now().await;
        }
    });
    sent.await.expect("it is sent once it is written");
    assert_eq!(gateway.receptions(), 1);
    let task = gateway.settle(id).await;
    assert_eq!((task["status"].as_str(), gateway.receptions()), (Some("succeeded"), 1), "{task}");
    gateway.stop().await;
}

/// R55: a disk that takes nothing loses nothing: the picture is kept once it does, and not bought again.
#[rstest]
#[tokio::test]
async fn a_paid_picture_waits_for_the_disk(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let id =
        gateway.generate(r#"{"prompt":"a cat","model":"flux-schnell","size":"64x64"}"#).await["id"].clone();
    let (blobs, aside) = (gateway.folder().join("blobs"), gateway.folder().join("aside"));
    std::fs::rename(&blobs, &aside).unwrap();
    std::fs::write(&blobs, "no folder").unwrap();
    for _ in 0..4 {
        gateway.app.engine.run_until_idle().await.unwrap();
        gateway.advance_to_next().await;
    }
    assert_eq!(gateway.task(id.as_str().unwrap()).await["phase"], "saving");
    std::fs::remove_file(&blobs).unwrap();
    std::fs::rename(&aside, &blobs).unwrap();
    let task = gateway.settle(id.as_str().unwrap()).await;
    assert_eq!((task["status"].as_str(), gateway.receptions()), (Some("succeeded"), 1), "{task}");
    gateway.stop().await;
}
