//! Adversarial review.
use std::time::Duration;

use base64::Engine;
use easel::domain::clock::Clock;
use serde_json::{Value, json};

use crate::harness::{Db, Gateway, ITSELF, OTHER_KEY};
use crate::hostile_pictures::png;

fn flux(fault: &str, n: u64) -> String {
    json!({"prompt": format!("a cat [[sim: picture=32x32 {fault}]]"), "model": "piapi_flux/Qubico/flux1-schnell", "size": "64x64", "n": n}).to_string()
}
fn count(images: &Value) -> usize {
    images.as_array().map_or(0, Vec::len)
}
fn b64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

async fn items(gateway: &Gateway) -> Vec<Value> {
    gateway.get("/admin/quarantine").await.json()["data"].as_array().unwrap().clone()
}

#[tokio::test]
async fn i1_a_lost_attempt_that_failed_for_nothing() {
    let gateway = Gateway::start(Db::Sqlite).await;
    let body = json!({"prompt": "a cat [[sim: time=300 fail consume=0,... frozen=0,... restored=false]]", "model": "piapi_flux/Qubico/flux1-schnell", "size": "64x64", "deadline_s": 60});
    let task = gateway.run(&body.to_string()).await;
    println!("{} {}", task["status"], task["error"]["code"]);
    let id = task["id"].as_str().unwrap();
    gateway.clock.advance(Duration::from_mins(6));
    let begun = gateway.clock.now();
    let mut looks = 0;
    for _ in 0..200 {
        gateway.app.engine.run_until_idle().await.unwrap();
        if gateway.attempts(id).await[0]["state"] != "lost" {
            break;
        }
        looks += 1;
        gateway.advance_to_next().await;
    }
    println!("{looks} looks in {:?}: {}", gateway.clock.now().since(begun), gateway.attempts(id).await[0]);
    gateway.clock.advance(Duration::from_hours(48));
    for _ in 0..50 {
        gateway.app.engine.run_until_idle().await.unwrap();
        looks += 1;
        gateway.advance_to_next().await;
    }
    println!("after two days: {}", gateway.attempts(id).await[0]);
    println!(
        "next due {:?}",
        gateway.app.store.owing().await.unwrap().next().map(|at| at.since(gateway.clock.now()))
    );
    let erase = gateway.send(reqwest::Method::DELETE, &format!("/tasks/{id}"), &[], None).await;
    println!("erase: {} {}", erase.status, String::from_utf8_lossy(&erase.bytes));
    assert_ne!(gateway.attempts(id).await[0]["state"], "lost");
    gateway.stop().await;
}

#[tokio::test]
async fn i2_recovering_one_item_forgets_the_other_links() {
    let gateway = Gateway::start(Db::Sqlite).await;
    gateway.rule(&json!({"on": "files", "times": 1, "do": {"file_type": "zip"}})).await;
    let task = gateway.run(&flux("outage=missing outage_of=1 outage_s=7200", 3)).await;
    let id = task["id"].as_str().unwrap().to_owned();
    println!("{} partial {} images {}", task["status"], task["partial"], count(&task["images"]));
    let found = items(&gateway).await;
    println!("{found:#?}");
    let item = found[0]["id"].as_str().unwrap();
    let answer = gateway
        .post(
            &format!("/admin/quarantine/{item}/recover"),
            &json!({"b64_json": b64(&png(40, 40))}).to_string(),
        )
        .await;
    println!("{} {}", answer.status, answer.json());
    println!("late {}", count(&gateway.task(&id).await["late_result"]["images"]));
    for _ in 0..300 {
        gateway.app.engine.run_until_idle().await.unwrap();
        if count(&gateway.task(&id).await["late_result"]["images"]) > 1 {
            break;
        }
        gateway.advance_to_next().await;
    }
    gateway.clock.advance(Duration::from_hours(3));
    gateway.app.engine.run_until_idle().await.unwrap();
    let late = count(&gateway.task(&id).await["late_result"]["images"]);
    assert_eq!(
        late,
        2,
        "the recovered one, and the link that healed after two hours: {}",
        gateway.task(&id).await
    );
    gateway.stop().await;
}

#[tokio::test]
async fn i3_recovered_while_it_is_looked_for() {
    let gateway = Gateway::configured(Db::Sqlite, &format!("[server]\npublic_url = \"{ITSELF}\"\n")).await;
    let task = gateway.generate(&flux("bad_json hook=none", 1)).await;
    let id = task["id"].as_str().unwrap().to_owned();
    gateway.app.engine.run_until_idle().await.unwrap();
    println!("{} {}", gateway.task(&id).await["status"], gateway.task(&id).await["phase"]);
    let found = items(&gateway).await;
    println!("{}", found.len());
    let item = found[0]["id"].as_str().unwrap();
    let answer = gateway
        .post(
            &format!("/admin/quarantine/{item}/recover"),
            &json!({"b64_json": b64(&png(40, 40))}).to_string(),
        )
        .await;
    println!("{} {}", answer.status, answer.json());
    let task = gateway.settle(&id).await;
    println!("{} images {} cost {}", task["status"], count(&task["images"]), task["cost"]);
    println!("{:#?}", gateway.attempts(&id).await);
    let attempt = gateway.attempts(&id).await[0]["id"].as_str().unwrap_or_default().to_owned();
    println!("attempt {attempt} {}", gateway.get("/admin/attempts?billed=unknown").await.json());
    assert_eq!(
        (&gateway.attempts(&id).await[0]["state"], &gateway.attempts(&id).await[0]["billed"]),
        (&json!("succeeded"), &json!("yes"))
    );
    gateway.stop().await;
}

fn plant(gateway_folder: &std::path::Path, attempt: &str, content_type: &str, body: &str) {
    let folder = gateway_folder.join("blobs/spool/zzzz");
    std::fs::create_dir_all(&folder).unwrap();
    let head = json!({"status": 200, "headers": [["content-type", content_type]]}).to_string();
    std::fs::write(folder.join(format!("{attempt}.answer")), format!("{head}\n{body}")).unwrap();
}

async fn attempt_id(gateway: &Gateway, task: &str) -> String {
    let attempts = gateway.app.store.attempts(task.parse().unwrap()).await.unwrap();
    println!("{:?} {:?}", attempts[0].state, attempts[0].handle);
    attempts[0].id.to_string()
}

#[tokio::test]
async fn i4_an_answer_left_behind_with_another_ones_job() {
    let gateway = Gateway::start(Db::Sqlite).await;
    let other = format!("Bearer {OTHER_KEY}");
    let headers = [("authorization", other.as_str())];
    let task = gateway
        .send(reqwest::Method::POST, "/generate", &headers, Some(&flux("task_id=shared-0001", 1)))
        .await
        .json();
    gateway.settle_for(&headers, task["id"].as_str().unwrap()).await;
    let task = gateway.run(&flux("reset_accepted hook=none", 1)).await;
    println!("{} {}", task["status"], task["error"]["code"]);
    let attempt = attempt_id(&gateway, task["id"].as_str().unwrap()).await;
    let folder = gateway.folder().to_owned();
    let gateway = gateway.restart_after(async |_| plant(&folder, &attempt, "application/json",
        &json!({"code":200,"message":"success","data":{"task_id":"shared-0001","status":"completed","output":{"image_url":"https://cdn.example/x.png"},"meta":{"usage":{"consume":20000}}}}).to_string())).await;
    let tidied = tokio::time::timeout(Duration::from_secs(20), gateway.app.engine.tidy()).await;
    println!("tidied: {}", tidied.is_ok());
    assert!(tidied.is_ok(), "tidying never ends");
    gateway.stop().await;
}

#[tokio::test]
async fn i5_a_left_answer_that_panics() {
    let gateway = Gateway::start(Db::Sqlite).await;
    let body = json!({"prompt": "a cat [[sim: reset_accepted]]", "model": "gpt-4o-image"});
    let task = gateway.run(&body.to_string()).await;
    println!("{} {}", task["status"], task["error"]["code"]);
    let attempt = attempt_id(&gateway, task["id"].as_str().unwrap()).await;
    let mut out = String::new();
    for content in
        [format!("{}data:image/png;base64,", "生".repeat(200)), b64(&png(16, 16)), "。".into(), "x".into()]
    {
        out += &format!("data: {}\n\n", json!({"choices":[{"index":0,"delta":{"content":content}}]}));
    }
    out += "data: [DONE]\n\n";
    let folder = gateway.folder().to_owned();
    let gateway = gateway.restart_after(async |_| plant(&folder, &attempt, "text/event-stream", &out)).await;
    let engine = gateway.app.engine.clone();
    let tidied = tokio::spawn(async move { engine.tidy().await.is_ok() }).await;
    println!("tidied: {tidied:?}");
    assert!(tidied.is_ok(), "the loop that tidies would be dead now");
    gateway.stop().await;
}

#[tokio::test]
async fn i7_by_the_hour() {
    let gateway = Gateway::configured(Db::Sqlite, "").await;
    let body = json!({"prompt": "a cat [[sim: picture=32x32 outage=missing outage_of=1 outage_s=7200]]", "model": "imagepipeline/flux-schnell", "size": "64x64", "n": 3});
    let task = gateway.run(&body.to_string()).await;
    let id = task["id"].as_str().unwrap();
    println!("{} partial {} cost {}", task["status"], task["partial"], task["cost"]);
    for _ in 0..1_000 {
        gateway.app.engine.run_until_idle().await.unwrap();
        if count(&gateway.task(id).await["late_result"]["images"]) > 0 {
            break;
        }
        gateway.advance_to_next().await;
    }
    let after = gateway.task(id).await;
    println!(
        "late {} cost {} {}",
        count(&after["late_result"]["images"]),
        after["cost"],
        gateway.attempts(id).await[0]
    );
    assert_eq!(after["cost"]["billed"], task["cost"]["billed"]);
    gateway.stop().await;
}

#[tokio::test]
async fn i9_called_off_and_failed_once() {
    let gateway = Gateway::start(Db::Sqlite).await;
    gateway.rule(&json!({"on": "flux.cancel", "times": 100, "do": {"http": 404}})).await;
    let task = gateway
        .generate(&flux("status=processing,failed,failed consume=0,0,0,0 frozen=0,0,0,0 hook=none", 1))
        .await;
    let id = task["id"].as_str().unwrap().to_owned();
    gateway.app.engine.run_until_idle().await.unwrap();
    gateway.advance_to_next().await;
    gateway.app.engine.run_until_idle().await.unwrap();
    println!("{}", gateway.task(&id).await["phase"]);
    let canceled = gateway.post(&format!("/tasks/{id}/cancel"), "").await;
    println!("{} {}", canceled.status, String::from_utf8_lossy(&canceled.bytes));
    let task = gateway.settle(&id).await;
    println!("{} cost {}", task["status"], task["cost"]);
    println!("{}", gateway.attempts(&id).await[0]);
    for _ in 0..200 {
        gateway.advance_to_next().await;
        gateway.app.engine.run_until_idle().await.unwrap();
    }
    gateway.clock.advance(Duration::from_hours(1));
    gateway.app.engine.run_until_idle().await.unwrap();
    let task = gateway.task(&id).await;
    println!("late {} cost {}", count(&task["late_result"]["images"]), task["cost"]);
    println!("{:?}", gateway.simulator.ledger().iter().map(|e| format!("{e:?}")).collect::<Vec<_>>());
    assert_eq!(count(&task["late_result"]["images"]), 1);
    gateway.stop().await;
}

/// The link gives the input; an operator reads everything again.
#[tokio::test]
async fn i10_an_input_recovered_as_a_result() {
    let gateway = Gateway::start(Db::Sqlite).await;
    let input = png(40, 40);
    let body = json!({"prompt": "a cat [[sim: decoy=input_bytes]]", "model": "piapi_flux/Qubico/flux1-dev", "operation": "image_to_image", "images": [{"b64_json": b64(&input)}]});
    let task = gateway.run(&body.to_string()).await;
    let id = task["id"].as_str().unwrap().to_owned();
    println!("{} {} {}", task["status"], task["error"]["code"], count(&task["images"]));
    println!("{:#?}", items(&gateway).await);
    let answer = gateway.post("/admin/quarantine/recover", "").await;
    println!("{} {}", answer.status, answer.json());
    gateway.app.engine.run_until_idle().await.unwrap();
    let task = gateway.task(&id).await;
    assert_eq!(count(&task["late_result"]["images"]), 0, "{}", task["late_result"]);
    gateway.stop().await;
}

/// An uploaded input travels as a signed address of ours, and comes back under another one.
#[tokio::test]
async fn i11_an_input_of_ours_under_another_address() {
    let gateway = Gateway::configured(Db::Sqlite, &format!("[server]\npublic_url = \"{ITSELF}\"\n")).await;
    let input = png(40, 40);
    let body = json!({"prompt": "a cat [[sim: decoy=input_bytes]]", "model": "piapi_flux/Qubico/flux1-dev", "operation": "image_to_image", "images": [{"b64_json": b64(&input)}]});
    let task = gateway.run(&body.to_string()).await;
    println!("{} {} images {}", task["status"], task["error"]["code"], task["images"]);
    println!("input sha {}", easel::domain::secret::sha256_hex(&input));
    let id = task["id"].as_str().unwrap();
    println!("sent {:?}", gateway.app.store.attempts(id.parse().unwrap()).await.unwrap()[0].sent);
    assert_eq!(count(&task["images"]), 0);
    gateway.stop().await;
}

#[tokio::test]
async fn j2_recovering_one_item_forgets_the_other_links() {
    let gateway = Gateway::start(Db::Sqlite).await;
    let task = gateway.run(&json!({"prompt": "a cat [[sim: picture=32x32 form=url beside decoy=unknown_key outage=missing outage_of=1 outage_s=7200]]", "model": "gpt-image-1", "quality": "low", "n": 3}).to_string()).await;
    let id = task["id"].as_str().unwrap().to_owned();
    println!("{} partial {} images {}", task["status"], task["partial"], count(&task["images"]));
    let found = items(&gateway).await;
    println!("{} items, links {}", found.len(), gateway.attempts(&id).await[0]["result_links"]);
    let item = found[0]["id"].as_str().unwrap();
    let answer = gateway
        .post(
            &format!("/admin/quarantine/{item}/recover"),
            &json!({"b64_json": b64(&png(40, 40))}).to_string(),
        )
        .await;
    println!("{} {}", answer.status, answer.json());
    println!(
        "late {} links {}",
        count(&gateway.task(&id).await["late_result"]["images"]),
        gateway.attempts(&id).await[0]["result_links"]
    );
    for _ in 0..300 {
        gateway.app.engine.run_until_idle().await.unwrap();
        if count(&gateway.task(&id).await["late_result"]["images"]) > 1 {
            break;
        }
        gateway.advance_to_next().await;
    }
    gateway.clock.advance(Duration::from_hours(3));
    gateway.app.engine.run_until_idle().await.unwrap();
    let late = count(&gateway.task(&id).await["late_result"]["images"]);
    assert_eq!(late, 2, "the recovered one, and the link that healed after two hours");
    gateway.stop().await;
}

#[tokio::test]
async fn j12_a_provider_that_is_off_for_one_start() {
    let gateway = Gateway::start(Db::Sqlite).await;
    let body = json!({"prompt": "a cat [[sim: time=300]]", "model": "piapi_flux/Qubico/flux1-schnell", "size": "64x64", "deadline_s": 60});
    let task = gateway.run(&body.to_string()).await;
    let id = task["id"].as_str().unwrap().to_owned();
    println!("{} {}", task["status"], task["error"]["code"]);
    let mut kept = None;
    let gateway = gateway
        .restart_after(async |config| {
            kept = Some(config.clone());
            config.providers.retain(|name, _| name != "piapi_flux");
        })
        .await;
    gateway.clock.advance(Duration::from_mins(2));
    gateway.app.engine.run_until_idle().await.unwrap();
    let kept = kept.unwrap();
    let gateway = gateway.restart_after(async |config| *config = kept.clone()).await;
    for _ in 0..50 {
        gateway.clock.advance(Duration::from_mins(10));
        gateway.app.engine.run_until_idle().await.unwrap();
    }
    println!("{}", gateway.attempts(&id).await[0]);
    assert_eq!(count(&gateway.task(&id).await["late_result"]["images"]), 1);
    gateway.stop().await;
}

#[tokio::test]
async fn j13_recovered_and_nothing_new() {
    let gateway = Gateway::start(Db::Sqlite).await;
    let task = gateway.run(&json!({"prompt": "a cat [[sim: picture=32x32 form=url beside decoy=unknown_key]]", "model": "gpt-image-1", "quality": "low", "n": 1}).to_string()).await;
    let id = task["id"].as_str().unwrap().to_owned();
    let item = items(&gateway).await[0]["id"].as_str().unwrap().to_owned();
    let answer = gateway.post(&format!("/admin/quarantine/{item}/recover"), "{}").await;
    println!("{} {}", answer.status, answer.json());
    println!("late {} state {}", gateway.task(&id).await["late_result"], items(&gateway).await[0]["state"]);
    assert_ne!(answer.status.as_u16(), 200);
    gateway.stop().await;
}

/// The books, after what i3 does and an operator who resolves what looks unknown.
#[tokio::test]
async fn j3_booked_twice() {
    let gateway = Gateway::configured(Db::Sqlite, &format!("[server]\npublic_url = \"{ITSELF}\"\n")).await;
    let task = gateway.generate(&flux("bad_json hook=none", 1)).await;
    let id = task["id"].as_str().unwrap().to_owned();
    gateway.app.engine.run_until_idle().await.unwrap();
    let item = items(&gateway).await[0]["id"].as_str().unwrap().to_owned();
    gateway
        .post(
            &format!("/admin/quarantine/{item}/recover"),
            &json!({"b64_json": b64(&png(40, 40))}).to_string(),
        )
        .await;
    let task = gateway.settle(&id).await;
    println!("{}", task["cost"]);
    let attempt = gateway.attempts(&id).await[0]["id"].as_str().unwrap().to_owned();
    let answer = gateway
        .post(&format!("/admin/attempts/{attempt}/billing"), &json!({"billed": "yes"}).to_string())
        .await;
    println!("{} {}", answer.status, answer.json());
    let cost = gateway.task(&id).await["cost"].clone();
    println!("{cost}");
    println!("{}", gateway.get("/usage").await.json());
    assert_eq!(cost["actual_usd"], "0.0015");
    gateway.stop().await;
}
