//! Attempts that their task has gone on without, and answers that are read a second time: each ends, is paid for once, loses no
//! image and delivers nothing that is the caller's own.

use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use rstest::rstest;
use serde_json::{Value, json};

use crate::harness::{Db, Gateway, ITSELF, OTHER_KEY};
use crate::hostile_pictures::png;

fn flux(fault: &str, n: u64) -> Value {
    json!({"prompt": format!("a cat [[sim: picture=32x32 {fault}]]"), "model": "piapi_flux/Qubico/flux1-schnell",
        "size": "64x64", "n": n})
}

/// An inpainting of `input`, whose result is the input itself.
fn echo_of(input: &[u8]) -> Value {
    json!({"prompt": "a cat [[sim: decoy=input_bytes]]", "model": "piapi_flux/Qubico/flux1-dev",
        "operation": "image_to_image", "images": [{"b64_json": STANDARD.encode(input)}]})
}

fn count(images: &Value) -> usize {
    images.as_array().map_or(0, Vec::len)
}

async fn late(gateway: &Gateway, id: &str) -> usize {
    count(&gateway.task(id).await["late_result"]["images"])
}

/// The public address that providers ring at is the gateway's own.
fn itself() -> String {
    format!("[server]\npublic_url = \"{ITSELF}\"\n")
}

async fn only_item(gateway: &Gateway) -> String {
    let items = gateway.get("/admin/quarantine").await.json()["data"].as_array().unwrap().clone();
    let [item] = items.as_slice() else { panic!("{items:#?}") };
    item["id"].as_str().unwrap().to_owned()
}

async fn recover(gateway: &Gateway, body: &Value) -> crate::harness::Answer {
    let item = only_item(gateway).await;
    gateway.post(&format!("/admin/quarantine/{item}/recover"), &body.to_string()).await
}

/// Goes on until nothing more happens within `time`, or `until` holds.
async fn pass_until(gateway: &Gateway, rounds: usize, until: impl AsyncFn(&Gateway) -> bool) {
    for _ in 0..rounds {
        gateway.app.engine.run_until_idle().await.unwrap();
        if until(gateway).await {
            return;
        }
        gateway.advance_to_next().await;
    }
}

/// An answer in the spool of a process that was killed.
fn plant(folder: &Path, attempt: &str, content_type: &str, body: &str) {
    let folder = folder.join("blobs/spool/gone");
    std::fs::create_dir_all(&folder).unwrap();
    let head = json!({"status": 200, "headers": [["content-type", content_type]]}).to_string();
    std::fs::write(folder.join(format!("{attempt}.answer")), format!("{head}\n{body}")).unwrap();
}

async fn attempt_of(gateway: &Gateway, task: &str) -> String {
    gateway.app.store.attempts(task.parse().unwrap()).await.unwrap()[0].id.to_string()
}

/// A job that outlived its task and failed for nothing is believed when it says so twice, and then the task can be erased.
#[rstest]
#[tokio::test]
async fn a_late_failure_that_cost_nothing_ends_the_looking(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let mut body = flux("time=300 fail consume=0,... frozen=0,... restored=false", 1);
    body["deadline_s"] = json!(60);
    let task = gateway.run(&body.to_string()).await;
    let id = task["id"].as_str().unwrap();
    assert_eq!((&task["status"], &task["error"]["code"]), (&json!("failed"), &json!("deadline_exceeded")));
    gateway.clock.advance(Duration::from_mins(6));
    pass_until(&gateway, 20, async |gateway| gateway.attempts(id).await[0]["state"] != "lost").await;
    let attempt = gateway.attempts(id).await[0].clone();
    assert_eq!((&attempt["state"], &attempt["billed"]), (&json!("failed"), &json!("no")), "{attempt}");
    gateway.clock.advance(Duration::from_hours(48));
    gateway.app.engine.run_until_idle().await.unwrap();
    let erased = gateway.send(Method::DELETE, &format!("/tasks/{id}"), &[], None).await;
    assert!(erased.status.is_success(), "{}", String::from_utf8_lossy(&erased.bytes));
    gateway.stop().await;
}

/// Called off, a job says once that it failed, and does its work all the same: its image is brought.
#[rstest]
#[tokio::test]
async fn a_job_that_was_called_off_and_done_all_the_same(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    gateway.rule(&json!({"on": "flux.cancel", "times": 100, "do": {"http": 404}})).await;
    let words = "status=processing,failed,failed consume=0,0,0,0 frozen=0,0,0,0 hook=none";
    let task = gateway.generate(&flux(words, 1).to_string()).await;
    let id = task["id"].as_str().unwrap();
    gateway.app.engine.run_until_idle().await.unwrap();
    gateway.advance_to_next().await;
    gateway.app.engine.run_until_idle().await.unwrap();
    assert!(gateway.post(&format!("/tasks/{id}/cancel"), "").await.status.is_success());
    gateway.settle(id).await;
    pass_until(&gateway, 200, async |gateway| late(gateway, id).await > 0).await;
    assert_eq!(late(&gateway, id).await, 1, "{}", gateway.task(id).await);
    gateway.stop().await;
}

/// A provider that is switched off for one start loses none of its images.
#[rstest]
#[tokio::test]
async fn a_provider_that_was_off_for_a_while(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let mut body = flux("time=300", 1);
    body["deadline_s"] = json!(60);
    let task = gateway.run(&body.to_string()).await;
    let id = task["id"].as_str().unwrap();
    let mut kept = None;
    let gateway = gateway
        .restart_after(async |config| {
            kept = Some(config.clone());
            config.providers.retain(|name, _| name != "piapi_flux");
        })
        .await;
    gateway.clock.advance(Duration::from_mins(2));
    gateway.app.engine.run_until_idle().await.unwrap();
    let gateway = gateway.restart_after(async |config| *config = kept.clone().unwrap()).await;
    gateway.pass(Duration::from_hours(3)).await;
    assert_eq!(late(&gateway, id).await, 1, "{:#?}", gateway.attempts(id).await);
    gateway.stop().await;
}

/// Recovered while it is still looked for: the task ends with the image, is charged once, and nothing is left to resolve.
#[rstest]
#[tokio::test]
async fn recovered_while_it_is_looked_for(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::configured(db, &itself()).await;
    let task = gateway.generate(&flux("bad_json hook=none", 1).to_string()).await;
    let id = task["id"].as_str().unwrap();
    gateway.app.engine.run_until_idle().await.unwrap();
    assert_eq!(gateway.task(id).await["phase"], "reconciling");
    let answer = recover(&gateway, &json!({"b64_json": STANDARD.encode(png(40, 40))})).await;
    assert!(answer.status.is_success(), "{}", answer.json());
    let task = gateway.settle(id).await;
    assert_eq!((&task["status"], &task["cost"]["actual_usd"]), (&json!("succeeded"), &json!("0.0015")));
    let attempt = gateway.attempts(id).await[0].clone();
    assert_eq!((&attempt["state"], &attempt["billed"]), (&json!("succeeded"), &json!("yes")), "{attempt}");
    let unknown = gateway.get("/admin/attempts?billed=unknown").await.json();
    assert_eq!(count(&unknown["data"]), 0, "{unknown}");
    // Said once more by an operator, it is booked no second time.
    let attempt = attempt_of(&gateway, id).await;
    gateway.post(&format!("/admin/attempts/{attempt}/billing"), &json!({"billed": "yes"}).to_string()).await;
    assert_eq!(gateway.task(id).await["cost"]["actual_usd"], "0.0015");
    gateway.stop().await;
}

/// An image that an operator supplies for an answer takes no link's place.
#[rstest]
#[tokio::test]
async fn links_wait_on_beside_what_was_recovered(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let words = "form=url beside decoy=unknown_key outage=missing outage_of=1 outage_s=7200";
    let body = json!({"prompt": format!("a cat [[sim: picture=32x32 {words}]]"), "model": "gpt-image-1",
        "quality": "low", "n": 3});
    let task = gateway.run(&body.to_string()).await;
    let id = task["id"].as_str().unwrap();
    assert_eq!((&task["partial"], count(&task["images"])), (&json!(true), 2), "{task}");
    let answer = recover(&gateway, &json!({"b64_json": STANDARD.encode(png(40, 40))})).await;
    assert!(answer.status.is_success(), "{}", answer.json());
    pass_until(&gateway, 300, async |gateway| late(gateway, id).await > 1).await;
    assert_eq!(late(&gateway, id).await, 2, "the recovered one, and the link that healed after two hours");
    gateway.stop().await;
}

/// What gives nothing new is not called recovered, and stays.
#[rstest]
#[tokio::test]
async fn nothing_new_is_no_recovery(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let words = "picture=32x32 form=url beside decoy=unknown_key";
    let body = json!({"prompt": format!("a cat [[sim: {words}]]"), "model": "gpt-image-1", "quality": "low", "n": 1});
    gateway.run(&body.to_string()).await;
    let answer = recover(&gateway, &json!({})).await;
    assert_eq!(answer.status.as_u16(), 422, "{}", answer.json());
    assert_eq!(gateway.get("/admin/quarantine?state=open").await.json()["data"][0]["state"], "open");
    gateway.stop().await;
}

/// An answer that names another attempt's job is kept, and holds up nothing.
#[rstest]
#[tokio::test]
async fn a_left_answer_with_another_ones_job(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let other = format!("Bearer {OTHER_KEY}");
    let headers = [("authorization", other.as_str())];
    let theirs = flux("task_id=shared-0001", 1).to_string();
    let theirs = gateway.send(Method::POST, "/generate", &headers, Some(&theirs)).await.json();
    gateway.settle_for(&headers, theirs["id"].as_str().unwrap()).await;
    let task = gateway.run(&flux("reset_accepted hook=none", 1).to_string()).await;
    let id = task["id"].as_str().unwrap();
    let attempt = attempt_of(&gateway, id).await;
    let folder = gateway.folder().to_owned();
    let said = json!({"code": 200, "message": "success", "data": {"task_id": "shared-0001", "status": "completed",
        "output": {"image_url": "https://cdn.example/x.png"}, "meta": {"usage": {"consume": 20000}}}});
    let gateway = gateway
        .restart_after(async |_| plant(&folder, &attempt, "application/json", &said.to_string()))
        .await;
    gateway.app.engine.tidy().await.unwrap();
    only_item(&gateway).await;
    assert_eq!(late(&gateway, id).await, 0);
    gateway.stop().await;
}

/// An answer that belongs to a row of another database stays for that one.
#[tokio::test]
async fn a_left_answer_of_an_attempt_nobody_knows() {
    let gateway = Gateway::start(Db::Sqlite).await;
    let folder = gateway.folder().to_owned();
    let stranger = "att_01m3250v00p1ryg5jpv4hsr4sp";
    let gateway = gateway.restart_after(async |_| plant(&folder, stranger, "application/json", "{}")).await;
    gateway.app.engine.tidy().await.unwrap();
    let left = format!("{stranger}.answer");
    let folders = std::fs::read_dir(folder.join("blobs/spool")).unwrap();
    assert!(folders.flatten().any(|of| of.path().join(&left).exists()), "it is there for its own gateway");
    gateway.stop().await;
}

/// The caller's own input, from wherever it comes back and by whatever way, is no result.
#[rstest]
#[case::sent_along("")]
#[case::under_an_address_of_ours(&itself())]
#[tokio::test]
async fn an_input_that_comes_back(#[case] config: &str, #[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::configured(db, config).await;
    let input = png(40, 40);
    let task = gateway.run(&echo_of(&input).to_string()).await;
    let id = task["id"].as_str().unwrap();
    assert_eq!((count(&task["images"]), &task["error"]["code"]), (0, &json!("no_image_returned")), "{task}");
    for again in [json!({}), json!({"b64_json": STANDARD.encode(&input)})] {
        let answer = recover(&gateway, &again).await;
        assert_eq!(answer.status.as_u16(), 422, "{}", answer.json());
    }
    gateway.app.engine.run_until_idle().await.unwrap();
    assert_eq!(late(&gateway, id).await, 0);
    gateway.stop().await;
}

/// Where servers are paid by the hour, an image that comes late costs nothing either.
#[rstest]
#[tokio::test]
async fn a_late_image_of_a_server_by_the_hour(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let words = "picture=32x32 outage=missing outage_of=1 outage_s=7200";
    let body = json!({"prompt": format!("a cat [[sim: {words}]]"), "model": "imagepipeline/flux-schnell",
        "size": "64x64", "n": 3});
    let task = gateway.run(&body.to_string()).await;
    let id = task["id"].as_str().unwrap();
    assert_eq!(task["partial"], true, "{task}");
    pass_until(&gateway, 1_000, async |gateway| late(gateway, id).await > 0).await;
    let after = gateway.task(id).await;
    assert_eq!((count(&after["late_result"]["images"]), &after["cost"]), (1, &task["cost"]), "{after}");
    gateway.stop().await;
}
