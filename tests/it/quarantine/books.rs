//! What a recovery does to the books: what the attempt cost by what is known now, once, in the task, the ledger and the usage;
//! and what becomes of other images of the same purchase.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::StatusCode;
use rstest::rstest;
use serde_json::{Value, json};

use super::{
    CHAT, FLUX, Given, HeldBack, IMAGES, PIPELINE, bought, expect_late, id, items, recover, request, right,
};
use crate::bucket::{Shelf, Shelved};
use crate::harness::{Db, Gateway, ITSELF};
use crate::hostile_pictures::png;
use crate::ledger::{lines, sum};

fn file(image: &[u8]) -> Value {
    json!({"b64_json": STANDARD.encode(image)})
}

/// Whether it was charged, and how much.
fn cost(task: &Value) -> (&str, Option<&str>) {
    (task["cost"]["billed"].as_str().unwrap(), task["cost"]["actual_usd"].as_str())
}

/// Each adapter by what it says of the price, before and after: by its own figure, by its catalogue, by the hour.
#[rstest]
#[tokio::test]
async fn what_it_cost_is_known_and_counted_once(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let shelved = Shelved::start(db, Shelf::Folder, "").await;
    let gateway = &shelved.gateway;
    let mut images = 0;
    for (adapter, fault, before, again, by_file) in [
        (CHAT, "refuse", ("yes", Some("0.00066")), "0.02", "0.02"),
        (CHAT, "no_image", ("unknown", None), "0.02", "0.02"),
        (CHAT, "decoy=unknown_key", ("unknown", None), "0.02", "0.02"),
        // What it chose itself stands in the answer; nobody knows it of a file.
        (IMAGES, "no_image", ("unknown", None), "0.042", "0.25"),
        (FLUX, "no_image", ("yes", Some("0.0015")), "0.002", "0.0015"),
        (PIPELINE, "no_image", ("no", Some("0")), "0", "0"),
    ] {
        for way in ["again", "file"] {
            let what = format!("{adapter}, {fault}, {way}");
            let (task, item) = bought(gateway, &request(adapter, fault)).await;
            assert_eq!(cost(&task), before, "{what}");
            images += 1;
            let image = png(10 + images, 10);
            let (with, expected) = if way == "again" {
                let answer = right(adapter, Given::Inline(&image));
                let answer = answer
                    .replace("{\"data\":[", "{\"quality\":\"medium\",\"size\":\"1024x1024\",\"data\":[");
                let answer = answer.replace("15000", "20000");
                std::fs::write(shelved.path(&format!("quarantine/{}", id(&item))), answer).unwrap();
                (json!({}), again)
            } else {
                (file(&image), by_file)
            };
            assert_eq!(recover(gateway, &item, &with).await.status, StatusCode::OK, "{what}");
            let after = expect_late(gateway, id(&task), &[&image]).await;
            let billed = if adapter == PIPELINE { "no" } else { "yes" };
            assert_eq!(cost(&after), (billed, Some(expected)), "{what}");
            assert_eq!(after["error"]["billed"], billed, "{what}");
            let attempts = gateway.attempts(id(&task)).await;
            let attempt =
                (&attempts[0]["state"], &attempts[0]["billed"], attempts[0]["charged_usd"].as_str());
            assert_eq!(attempt, (&json!("succeeded"), &json!(billed), Some(expected)), "{what}");
            let own: Vec<_> =
                lines(gateway).await.into_iter().filter(|line| line.task_id == id(&task)).collect();
            let nanos = expected.parse::<easel::domain::money::Usd>().unwrap().nanos();
            assert_eq!(sum(&own), [0, 0, nanos], "{what}: {own:#?}");
        }
    }
    let usage = gateway.get("/usage?group_by=key").await.json()["data"][0].clone();
    let counts =
        (&usage["images"], &usage["failed"], &usage["unresolved_usd"], &usage["unresolved_attempts"]);
    assert_eq!(counts, (&json!(12), &json!(12), &json!("0"), &json!(0)), "{usage}");
    assert_eq!(usage["settled_usd"], "0.4155", "{usage}");
    assert_eq!(gateway.get("/admin/attempts?billing=unknown").await.json()["data"], json!([]));
    shelved.stop().await;
}

/// What is learned while the image is being fetched stays learned: a mark of the operator's is neither lost nor counted twice.
#[rstest]
#[tokio::test]
async fn a_mark_in_the_meantime_is_not_counted_twice(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let (task, item) = bought(&gateway, &request(IMAGES, "no_image")).await;
    let image = png(33, 33);
    let host = HeldBack::start(image.clone()).await;
    let link = json!({"url": host.url});
    let mark = async {
        host.asked().await;
        let path = format!("/admin/attempts/{}/billing", item["attempt_id"].as_str().unwrap());
        let said = gateway.post(&path, r#"{"billed":"yes","charged_usd":"0.1"}"#).await;
        assert_eq!(said.status, StatusCode::OK, "{}", said.json());
        host.give();
    };
    let (recovered, ()) = tokio::join!(recover(&gateway, &item, &link), mark);
    assert_eq!(recovered.status, StatusCode::OK, "{}", recovered.json());
    expect_late(&gateway, id(&task), &[&image]).await;
    let books = lines(&gateway).await;
    let [reserved, unresolved, settled] = sum(&books);
    assert_eq!((reserved, unresolved), (0, 0), "{books:#?}");
    let task = gateway.task(id(&task)).await;
    let actual: easel::domain::money::Usd = task["cost"]["actual_usd"].as_str().unwrap().parse().unwrap();
    assert_eq!(actual.nanos(), settled, "{books:#?}");
    gateway.stop().await;
}

/// A part's answer belongs to the task that its caller knows, and so does what is recovered of it.
#[rstest]
#[tokio::test]
async fn a_part_s_image_goes_to_the_whole(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    gateway.rule(&json!({"on": "flux.submit", "times": 1, "do": {"no_image": true}})).await;
    let mut body = request(FLUX, "");
    (body["model"], body["n"]) = (json!("flux-dev"), json!(3));
    let task = gateway.run(&body.to_string()).await;
    let partial = (&task["status"], &task["partial"], task["images"].as_array().unwrap().len());
    assert_eq!(partial, (&json!("succeeded"), &json!(true), 2), "{task}");
    let kept = items(&gateway, &format!("?task_id={}", id(&task))).await;
    let [item] = kept.as_slice() else { panic!("{kept:#?}") };
    let image = png(34, 34);
    assert_eq!(recover(&gateway, item, &file(&image)).await.json()["task_id"], task["id"]);
    let after = expect_late(&gateway, id(&task), &[&image]).await;
    assert_eq!((&after["cost"], after["images"].as_array().unwrap().len()), (&task["cost"], 2));
    assert_eq!(sum(&lines(&gateway).await), [0, 0, 45_000_000]);
    let usage = gateway.get("/usage").await.json()["data"][0].clone();
    assert_eq!((&usage["images"], &usage["settled_usd"]), (&json!(3), &json!("0.045")), "{usage}");
    gateway.stop().await;
}

/// A task whose outcome is still being looked for ends with what was recovered.
#[rstest]
#[tokio::test]
async fn a_task_of_unknown_outcome_ends_with_what_was_recovered(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::configured(db, &format!("[server]\npublic_url = \"{ITSELF}\"\n")).await;
    let task = gateway.generate(&request(FLUX, "http=502").to_string()).await;
    gateway.app.engine.run_until_idle().await.unwrap();
    assert_eq!(gateway.task(id(&task)).await["phase"], "reconciling");
    let kept = items(&gateway, "").await;
    let [item] = kept.as_slice() else { panic!("{kept:#?}") };
    let image = png(35, 35);
    assert_eq!(recover(&gateway, item, &file(&image)).await.status, StatusCode::OK);
    let ended = gateway.settle(id(&task)).await;
    let how = (&ended["status"], cost(&ended), &ended["late_result"]);
    assert_eq!(how, (&json!("succeeded"), ("yes", Some("0.0015")), &Value::Null), "{ended}");
    assert_eq!(gateway.get(&format!("/tasks/{}/images/0", id(&task))).await.bytes, image);
    assert_eq!((gateway.receptions(), sum(&lines(&gateway).await)), (1, [0, 0, 1_500_000]));
    gateway.stop().await;
}

/// Links that may yet heal are no loss for an image that came in the place of one of them; one that takes the place of the only
/// one ends the waiting.
#[rstest]
#[case::one(1, 0)]
#[case::three(3, 3)]
#[tokio::test]
async fn other_links_are_tried_on(
    #[case] links: usize,
    #[case] healed: usize,
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
) {
    let gateway = Gateway::start(db).await;
    gateway.rule(&json!({"on": "files", "times": 1_000_000, "do": {"file_type": "pdf"}})).await;
    let mut body = request(IMAGES, "form=url");
    body["n"] = json!(links);
    let (task, item) = bought(&gateway, &body).await;
    assert_eq!(item["result_links"].as_array().unwrap().len(), links, "{item:#}");
    let rules = crate::harness::client().delete(format!("{}/_sim/rules", gateway.simulator.url()));
    assert!(rules.send().await.unwrap().status().is_success());
    let image = png(36, 36);
    assert_eq!(recover(&gateway, &item, &file(&image)).await.status, StatusCode::OK);
    gateway.pass(Duration::from_hours(1)).await;
    let late = gateway.task(id(&task)).await["late_result"]["images"].as_array().unwrap().clone();
    let made = gateway.simulator.ledger();
    let made = made.iter().flat_map(|one| &one.files).filter_map(|file| file.sha256.clone());
    let wanted = [easel::domain::secret::sha256_hex(&image)].into_iter().chain(made.take(healed));
    let there: Vec<_> = late.iter().map(|image| image["sha256"].as_str().unwrap().to_owned()).collect();
    assert_eq!(there, wanted.collect::<Vec<_>>());
    gateway.stop().await;
}
