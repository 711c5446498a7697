//! How long things are kept, and that bytes go when nobody needs them and not before.

use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use easel::domain::clock::Clock;
use reqwest::{Method, StatusCode};
use rstest::rstest;
use serde_json::{Value, json};

use crate::harness::{Db, Gateway};
use crate::inputs::png;

const DAY: Duration = Duration::from_hours(24);
const MINUTE: Duration = Duration::from_mins(1);
const CAT: &str = r#"{"prompt":"a cat","model":"flux-schnell","size":"64x64"}"#;

impl Gateway {
    /// Where bytes lie.
    pub fn blob(&self, sha256: &str) -> PathBuf {
        self.folder().join("blobs/sha256").join(&sha256[..2]).join(sha256)
    }

    /// As if bytes had been written long ago: the system's own clock is not the test's.
    pub fn age(&self, sha256: &str) {
        File::options().write(true).open(self.blob(sha256)).unwrap().set_modified(UNIX_EPOCH).unwrap();
    }

    pub async fn pass(&self, time: Duration) {
        self.clock.advance(time);
        self.app.engine.run_until_idle().await.unwrap();
        self.app.engine.tidy().await.unwrap();
    }

    pub async fn delete(&self, path: &str) -> StatusCode {
        self.send(Method::DELETE, path, &[], None).await.status
    }
}

fn hash(task: &Value) -> String {
    task["images"][0]["sha256"].as_str().unwrap().to_owned()
}

fn id(task: &Value) -> String {
    task["id"].as_str().unwrap().to_owned()
}

fn moment(text: &Value) -> i64 {
    text.as_str().unwrap().parse::<easel::domain::clock::Millis>().unwrap().0
}

#[rstest]
#[tokio::test]
async fn pictures_go_when_their_time_is_over_and_the_task_still_answers(
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
) {
    let gateway = Gateway::start(db).await;
    let accepted = gateway.generate(CAT).await;
    let most = moment(&accepted["deadline_at"]) + 30 * 86_400_000;
    assert_eq!(moment(&accepted["expires_at"]), most, "the latest it can be, known from the first answer on");
    let task = gateway.settle(&id(&accepted)).await;
    let path = format!("/tasks/{}/images/0", id(&task));
    assert_eq!(moment(&task["expires_at"]), moment(&task["finished_at"]) + 30 * 86_400_000);
    gateway.age(&hash(&task));

    gateway.pass(29 * DAY).await;
    assert_eq!(gateway.get(&path).await.status, StatusCode::OK);
    gateway.pass(DAY).await;
    let fresh = gateway.task(&id(&task)).await;
    let signed = fresh["images"][0]["url"].as_str().unwrap().strip_prefix(&gateway.url).unwrap().to_owned();
    for (path, headers) in [(&path, &[][..]), (&signed, &[("authorization", "")])] {
        let answer = gateway.send(Method::GET, path, headers, None).await;
        assert_eq!((answer.status, answer.json()["code"].as_str()), (StatusCode::GONE, Some("gone")));
    }
    assert!(!gateway.blob(&hash(&task)).exists());
    let after = gateway.task(&id(&task)).await;
    assert_eq!((after["status"].as_str(), after["prompt"].as_str()), (Some("succeeded"), Some("a cat")));
    assert_eq!(after["images"][0]["sha256"], task["images"][0]["sha256"], "it is still described");
    assert!(gateway.texts("SELECT sha256 FROM erasures").await.is_empty());
    gateway.stop().await;
}

/// Parts have rows of their own for the same pictures: they go with the whole.
#[rstest]
#[tokio::test]
async fn a_task_in_parts_lets_go_of_all_of_them(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let task =
        gateway.run(&CAT.replace("\"model\"", "\"n\":3,\"retention\":{\"media_s\":60},\"model\"")).await;
    let hashes: Vec<_> =
        task["images"].as_array().unwrap().iter().map(|image| image["sha256"].as_str().unwrap()).collect();
    assert_eq!(hashes.len(), 3, "{task}");
    assert_eq!(moment(&task["expires_at"]), moment(&task["finished_at"]) + 60_000);
    for sha256 in &hashes {
        gateway.age(sha256);
    }
    gateway.pass(Duration::from_secs(61)).await;
    assert!(hashes.iter().all(|sha256| !gateway.blob(sha256).exists()));
    assert!(gateway.texts("SELECT task_id FROM images WHERE gone = FALSE").await.is_empty());
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn a_request_may_ask_for_less_or_more_within_the_operators_bound(
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
) {
    let gateway = Gateway::start(db).await;
    for seconds in [59, 7_776_001] {
        for path in ["/generate", "/generate/dry-run"] {
            let body = json!({"prompt": "a cat", "retention": {"media_s": seconds}}).to_string();
            let answer = gateway.post(path, &body).await;
            assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{seconds}");
            assert_eq!(answer.json()["errors"][0]["pointer"], "/retention/media_s");
        }
    }
    let body = json!({"prompt": "a cat", "retention": {"for_ever": true}}).to_string();
    assert_eq!(gateway.post("/generate", &body).await.json()["errors"][0]["pointer"], "/retention/for_ever");
    gateway.stop().await;

    let gateway =
        Gateway::configured(db, "[retention]\nmedia_s = 0\nmedia_max_s = 0\nrecord_s = 0\nfiles_s = 0\n")
            .await;
    let task = gateway.run(CAT).await;
    assert!(task["expires_at"].is_null(), "kept for ever");
    gateway.age(&hash(&task));
    gateway.pass(4_000 * DAY).await;
    assert_eq!(gateway.get(&format!("/tasks/{}/images/0", id(&task))).await.status, StatusCode::OK);
    gateway.stop().await;
}

/// Equal bytes are kept once: they stay for as long as one row needs them.
#[rstest]
#[tokio::test]
async fn bytes_stay_for_as_long_as_anything_needs_them(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let task = gateway.run(CAT).await;
    let sha256 = hash(&task);
    let bytes = gateway.get(&format!("/tasks/{}/images/0", id(&task))).await.bytes;
    let upload =
        async || gateway.upload("/files", &[("content-type", "image/png")], bytes.clone()).await.json();
    let (one, two) = (upload().await, upload().await);
    assert_eq!((&one["sha256"], &two["sha256"]), (&task["images"][0]["sha256"], &one["sha256"]));
    gateway.age(&sha256);
    assert_eq!(gateway.delete(&format!("/tasks/{}", id(&task))).await, StatusCode::NO_CONTENT);
    for file in [one, two] {
        assert!(gateway.blob(&sha256).exists());
        let path = format!("/files/{}", id(&file));
        assert_eq!(gateway.get(&format!("{path}/content")).await.bytes, bytes);
        assert_eq!(gateway.delete(&path).await, StatusCode::NO_CONTENT);
        gateway.pass(Duration::ZERO).await;
    }
    assert!(!gateway.blob(&sha256).exists());
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn input_files_go_when_no_task_has_named_them_for_their_time(
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
) {
    let gateway = Gateway::start(db).await;
    let task = gateway.run(CAT).await;
    let bytes = gateway.get(&format!("/tasks/{}/images/0", id(&task))).await.bytes;
    let file = gateway.upload("/files", &[("content-type", "image/png")], bytes).await.json();
    let path = format!("/files/{}", id(&file));
    gateway.pass(29 * DAY).await;
    let named = json!({"prompt": "another cat", "model": "flux-dev", "images": [{"file_id": file["id"]}]});
    gateway.run(&named.to_string()).await;
    gateway.pass(29 * DAY).await;
    assert_eq!(gateway.get(&path).await.status, StatusCode::OK, "its time began anew");
    gateway.pass(DAY).await;
    assert_eq!(gateway.get(&path).await.status, StatusCode::NOT_FOUND);
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn a_record_lasts_its_time_and_its_key_with_it(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let ask = async || {
        gateway.send(Method::POST, "/generate", &[("idempotency-key", "order-7")], Some(CAT)).await.json()
    };
    let task = ask().await;
    gateway.settle(&id(&task)).await;
    gateway.pass(89 * DAY).await;
    assert_eq!(ask().await["id"], task["id"], "no second purchase");
    gateway.pass(DAY).await;
    assert_eq!(gateway.get(&format!("/tasks/{}", id(&task))).await.status, StatusCode::NOT_FOUND);
    for rows in [
        "SELECT id FROM tasks",
        "SELECT id FROM attempts",
        "SELECT task_id FROM events",
        "SELECT task_id FROM images",
        "SELECT task_id FROM task_labels",
        "SELECT id FROM deliveries",
    ] {
        assert_eq!(gateway.texts(rows).await, Vec::<String>::new(), "{rows}");
    }
    assert_ne!(ask().await["id"], task["id"]);
    gateway.stop().await;
}

/// What cannot be removed is tried again, and nothing waits behind it.
#[rstest]
#[tokio::test]
async fn bytes_that_cannot_be_removed_hold_up_no_others(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let upload = async |n: u8| {
        let picture = png(8, 8, |_, _| [n, n, n, 255]);
        gateway.upload("/files", &[("content-type", "image/png")], picture).await.json()
    };
    let (stuck, other) = (upload(1).await, upload(2).await);
    let (stuck_at, other_at) =
        (stuck["sha256"].as_str().unwrap().to_owned(), other["sha256"].as_str().unwrap().to_owned());
    assert_eq!(gateway.delete(&format!("/files/{}", id(&stuck))).await, StatusCode::NO_CONTENT);
    gateway.clock.advance(Duration::from_millis(1));
    assert_eq!(gateway.delete(&format!("/files/{}", id(&other))).await, StatusCode::NO_CONTENT);
    // A folder stands where a smaller one of it would lie: it cannot be removed as a file.
    let derived = easel::blobs::derived_keys(&stuck_at).next().unwrap();
    let at = gateway.folder().join("blobs").join(derived.as_ref());
    std::fs::create_dir_all(&at).unwrap();
    gateway.age(&stuck_at);
    gateway.age(&other_at);
    gateway.app.engine.tidy().await.unwrap();
    assert!(!gateway.blob(&other_at).exists());
    assert_eq!(gateway.texts("SELECT sha256 FROM erasures").await, [stuck_at], "it is not forgotten");
    std::fs::remove_dir(&at).unwrap();
    gateway.pass(MINUTE).await;
    assert!(gateway.texts("SELECT sha256 FROM erasures").await.is_empty());
    gateway.stop().await;
}

/// Replicas share a store: bytes that were written a moment ago are asked for once their hour is over, not every minute.
#[tokio::test]
async fn young_bytes_are_asked_for_when_they_are_old_enough() {
    let gateway = Gateway::start(Db::Postgres).await;
    let task = gateway.run(CAT).await;
    let (sha256, now) = (hash(&task), gateway.clock.now());
    let written = UNIX_EPOCH + Duration::from_millis(u64::try_from(now.0).unwrap()) - 20 * MINUTE;
    File::options().write(true).open(gateway.blob(&sha256)).unwrap().set_modified(written).unwrap();
    assert_eq!(gateway.delete(&format!("/tasks/{}", id(&task))).await, StatusCode::NO_CONTENT);
    let due = gateway.texts("SELECT CAST(due_at AS TEXT) FROM erasures").await;
    assert_eq!(due, [(now + 40 * MINUTE).0.to_string()]);
    gateway.pass(39 * MINUTE).await;
    assert!(gateway.blob(&sha256).exists());
    gateway.pass(MINUTE).await;
    assert!(!gateway.blob(&sha256).exists());
    gateway.stop().await;
}

/// Nothing goes of what may still bring a picture that is paid for, however old it is.
#[rstest]
#[tokio::test]
async fn what_may_still_bring_a_result_is_not_touched(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let body = json!({"prompt": "a cat [[sim: time=300]]", "model": "flux-schnell", "size": "64x64", "deadline_s": 60});
    let task = gateway.run(&body.to_string()).await;
    assert_eq!(task["error"]["code"], "deadline_exceeded");
    let path = format!("/tasks/{}", id(&task));
    let answer = gateway.send(Method::DELETE, &path, &[], None).await;
    assert_eq!((answer.status, answer.json()["code"].as_str()), (StatusCode::CONFLICT, Some("not_finished")));
    // The gateway was off for a year: the records' time is over, and the attempt is still to be looked for.
    gateway.clock.advance(365 * DAY);
    gateway.app.engine.tidy().await.unwrap();
    assert_eq!(gateway.get(&path).await.status, StatusCode::OK);
    gateway.app.engine.run_until_idle().await.unwrap();
    let late = gateway.task(&id(&task)).await;
    assert_eq!(late["late_result"]["images"].as_array().unwrap().len(), 1, "{late}");
    let now = gateway.clock.now().0;
    assert_eq!(moment(&late["expires_at"]), now + 30 * 86_400_000, "it has its own time");
    gateway.app.engine.tidy().await.unwrap();
    assert_eq!(gateway.get(&format!("{path}/images/100")).await.status, StatusCode::OK);
    gateway.pass(31 * DAY).await;
    assert_eq!(gateway.get(&path).await.status, StatusCode::NOT_FOUND);
    gateway.stop().await;
}

/// Killed between the bytes and the row that names them: they are found and removed, and nothing else is.
#[rstest]
#[tokio::test]
async fn bytes_that_no_row_knows_are_collected(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let kept = hash(&gateway.run(CAT).await);
    let forgotten = "ab".repeat(32);
    let young = "cd".repeat(32);
    for sha256 in [&forgotten, &young] {
        std::fs::create_dir_all(gateway.blob(sha256).parent().unwrap()).unwrap();
        std::fs::write(gateway.blob(sha256), "bytes").unwrap();
    }
    // Of two pictures one is here and the other's link is dead: its hash is named in the task's state alone.
    gateway.rule(&json!({"on": "files", "after": 1, "times": 1_000, "do": {"http": 503}})).await;
    let body =
        json!({"prompt": "two cats", "model": "piapi_flux/Qubico/flux1-schnell", "size": "64x64", "n": 2});
    let half = gateway.generate(&body.to_string()).await;
    for _ in 0..10 {
        gateway.app.engine.run_until_idle().await.unwrap();
        gateway.advance_to_next().await;
    }
    assert_eq!(gateway.task(&id(&half)).await["phase"], "saving");
    let states = gateway.texts("SELECT state FROM tasks WHERE phase = 'storing'").await.join("");
    let here = states.split("\"blob\":\"").nth(1).expect("one picture is here").split('"').next().unwrap();
    for sha256 in [&kept, &forgotten, here] {
        gateway.age(sha256);
    }
    assert_eq!(gateway.app.engine.collect_orphans().await.unwrap(), 1);
    assert!(!gateway.blob(&forgotten).exists());
    assert!(gateway.blob(&young).exists() && gateway.blob(&kept).exists() && gateway.blob(here).exists());
    gateway.stop().await;
}
