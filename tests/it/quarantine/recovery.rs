//! Recovery over HTTP: an answer is read again as after an upgrade, or an operator supplies a link or a file. What it yields is
//! the task's late result, byte by byte.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::{Method, StatusCode};
use rstest::rstest;
use serde_json::{Value, json};

use super::{ADAPTERS, CHAT, FLUX, Given, IMAGES, bought, expect_late, id, items, recover, request, right};
use crate::bucket::{Shelf, Shelved};
use crate::harness::{Answer, Db, Gateway, OTHER_KEY, listen};
use crate::hostile_pictures::{host, png};
use crate::sink::{Act, Sink};

const NOTHING: Value = Value::Null;

/// What is kept becomes, in the reader's eyes, another answer: as a newer version may see more in the same bytes.
fn reread_as(shelved: &Shelved, item: &Value, answer: &str) {
    std::fs::write(shelved.path(&format!("quarantine/{}", id(item))), answer).unwrap();
}

fn gave(answer: &Answer, images: u32) {
    let said = answer.json();
    let known = (answer.status, &said["recovered"], &said["images"], &said["detail"]);
    assert_eq!(known, (StatusCode::OK, &json!(true), &json!(images), &Value::Null), "{said}");
}

/// Refused, with a reason that says this.
fn refuses(answer: &Answer, why: &str) {
    let said = answer.json();
    let code = (answer.status, said["code"].as_str());
    assert_eq!(code, (StatusCode::UNPROCESSABLE_ENTITY, Some("still_unreadable")), "{said}");
    assert!(said["detail"].as_str().unwrap().contains(why), "{why:?} is not in {said}");
}

/// What the audit says of recoveries, newest first: of which item, with what, and how many images came.
async fn audited(gateway: &Gateway) -> Vec<(String, String, u64)> {
    let entries = gateway.get("/admin/audit?act=quarantine.recover&limit=200").await.json();
    let told = |entry: &Value| {
        let details = &entry["details"];
        let with = details["with"].as_str().unwrap().to_owned();
        (entry["subject"].as_str().unwrap().to_owned(), with, details["images"].as_u64().unwrap())
    };
    entries["data"].as_array().unwrap().iter().map(told).collect()
}

/// Each adapter's answer, once it can be read: the image is the late result, the books are right, the caller hears of it.
#[rstest]
#[tokio::test]
async fn an_answer_that_can_be_read_by_now_gives_its_image(
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
    #[values(Shelf::Folder, Shelf::Bucket)] shelf: Shelf,
) {
    let shelved = Shelved::start(db, shelf, "").await;
    let gateway = &shelved.gateway;
    let sink = Sink::saying(Act::Status(200)).await;
    let mut expected = Vec::new();
    for (at, adapter) in (0u32..).zip(ADAPTERS) {
        for inline in [true, false] {
            let image = png(16 + at, if inline { 16 } else { 24 });
            let link = host(image.clone()).await;
            let given = if inline { Given::Inline(&image) } else { Given::Link(&link) };
            let mut body = request(adapter, "no_image");
            body["webhook"] = json!({"url": sink.url, "events": ["task.failed", "task.late_result"]});
            let (task, item) = bought(gateway, &body).await;
            refuses(&recover(gateway, &item, &json!({})).await, "it gives no image: ");
            assert_eq!(items(gateway, "?state=open").await, std::slice::from_ref(&item), "{adapter}");

            reread_as(&shelved, &item, &right(adapter, given));
            gave(&recover(gateway, &item, &json!({})).await, 1);
            let after = expect_late(gateway, id(&task), &[&image]).await;
            assert_eq!(
                (&after["status"], &after["late_result"]["provider"]),
                (&json!("failed"), &json!(adapter))
            );
            assert_eq!(items(gateway, "?state=open").await, Vec::<Value>::new());
            assert_eq!(
                gateway.get(&format!("/admin/quarantine/{}", id(&item))).await.json()["state"],
                "recovered"
            );
            refuses(&recover(gateway, &item, &json!({})).await, "the task's already");
            expect_late(gateway, id(&task), &[&image]).await;

            gateway.app.engine.run_until_idle().await.unwrap();
            let letters = sink.letters();
            let [.., failed, late] = letters.as_slice() else { panic!("{:?}", sink.events()) };
            assert_eq!([failed.event(), late.event()], ["task.failed", "task.late_result"], "{adapter}");
            let told = &late.json()["data"]["task"];
            assert_eq!(
                (&told["id"], &told["late_result"]["images"][0]["sha256"]),
                (&task["id"], &after["late_result"]["images"][0]["sha256"])
            );
            let names = format!("SELECT name FROM events WHERE task_id = '{}' ORDER BY seq DESC", id(&task));
            assert_eq!(gateway.texts(&names).await[..2], ["task.late_result", "task.failed"]);
            expected.insert(0, (id(&item).to_owned(), "nothing".to_owned(), 1));
        }
    }
    assert_eq!(audited(gateway).await, expected);
    assert_eq!((gateway.receptions(), sink.letters().len()), (8, 16), "nothing is bought or told twice");
    shelved.stop().await;
}

/// All that is open, some at a time: what gives an image does so whatever the others give.
#[rstest]
#[tokio::test]
async fn all_are_read_again_and_each_speaks_for_itself(
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
    #[values(Shelf::Folder, Shelf::Bucket)] shelf: Shelf,
) {
    let shelved = Shelved::start(db, shelf, "").await;
    let gateway = &shelved.gateway;
    let (image, mut kept) = (png(20, 20), Vec::new());
    for adapter in ADAPTERS {
        kept.insert(0, bought(gateway, &request(adapter, "no_image")).await);
    }
    for (at, adapter) in [(3, CHAT), (1, FLUX)] {
        reread_as(&shelved, &kept[at].1, &right(adapter, Given::Inline(&image)));
    }
    // The bytes of one have gone.
    std::fs::remove_file(shelved.path(&format!("quarantine/{}", id(&kept[2].1)))).unwrap();
    let (mut said, mut path) = (Vec::new(), "/admin/quarantine/recover?limit=3".to_owned());
    for pages in 1.. {
        let answer = gateway.post(&path, "").await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.json());
        let page = answer.json();
        said.extend(page["data"].as_array().unwrap().clone());
        let Some(next) = page["next_cursor"].as_str() else { break };
        assert_eq!((pages, said.len()), (1, 3));
        path = format!("/admin/quarantine/recover?limit=3&cursor={next}");
    }
    let told = |one: &Value| {
        (one["id"].clone(), one["task_id"].clone(), one["recovered"].clone(), one["images"].clone())
    };
    let told: Vec<_> = said.iter().map(told).collect();
    let wanted = |(at, gives): (usize, bool)| {
        let (task, item) = &kept[at];
        (item["id"].clone(), task["id"].clone(), json!(gives), json!(u32::from(gives)))
    };
    let wanted: Vec<_> = [false, true, false, true].into_iter().enumerate().map(wanted).collect();
    assert_eq!(told, wanted);
    for (one, why) in [(0, "without a picture"), (2, "cannot be read")] {
        assert!(said[one]["detail"].as_str().unwrap().contains(why), "{}", said[one]);
    }
    for at in [1, 3] {
        expect_late(gateway, id(&kept[at].0), &[&image]).await;
    }
    let again = gateway.post("/admin/quarantine/recover", "").await.json();
    assert_eq!(again["data"].as_array().unwrap().len(), 2, "what is recovered is not read again: {again}");
    shelved.stop().await;
}

/// An operator's link goes by the rules for providers' links: what leads into a closed network is not followed.
#[rstest]
#[tokio::test]
async fn a_link_is_followed_as_providers_links_are(
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
    #[values(Shelf::Folder, Shelf::Bucket)] shelf: Shelf,
) {
    let shelved = Shelved::start(db, shelf, "").await;
    let gateway = &shelved.gateway;
    let closed = tokio::net::TcpListener::bind("127.0.0.2:0").await.unwrap();
    let within = format!("{}/a.png", closed.local_addr().unwrap());
    let page = host(b"<!DOCTYPE html><title>Sign in</title>".to_vec()).await;
    for adapter in ADAPTERS {
        let (task, item) = bought(gateway, &request(adapter, "no_image")).await;
        for (link, why) in [
            (format!("http://{within}"), "not allowed"),
            (format!("https://{within}"), "not allowed"),
            ("http://169.254.169.254/latest/meta-data".to_owned(), "not allowed"),
            ("file:///etc/passwd".to_owned(), "not allowed"),
            ("no link".to_owned(), ""),
            (page.clone(), "not a PNG"),
        ] {
            refuses(&recover(gateway, &item, &json!({"url": link})).await, why);
        }
        assert_eq!(gateway.task(id(&task)).await["late_result"], NOTHING);
        assert_eq!(
            gateway.get(&format!("/admin/quarantine/{}", id(&item))).await.json(),
            item,
            "it stays as it was"
        );

        let image = png(30, 30);
        gave(&recover(gateway, &item, &json!({"url": host(image.clone()).await})).await, 1);
        expect_late(gateway, id(&task), &[&image]).await;
        assert_eq!(audited(gateway).await[0], (id(&item).to_owned(), "link".to_owned(), 1));
    }
    assert!(tokio::time::timeout(Duration::ZERO, closed.accept()).await.is_err(), "nobody went there");
    shelved.stop().await;
}

/// So does plain http: only where the account allows it.
#[rstest]
#[tokio::test]
async fn plain_http_is_spoken_only_where_the_account_allows_it(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let account = |name: &str, more: &str| {
        format!(
            "[providers.{name}]\nkind = \"gpt_4o_image\"\nbase_url = \"{{upstream}}\"\napi_key = \"k\"\n{more}"
        )
    };
    let both = account("strict", "") + &account("lax", "allow_http_results = true\n");
    let gateway = Gateway::only(db, &both).await;
    let link = json!({"url": host(png(31, 31)).await});
    for (account, allows) in [("strict", false), ("lax", true)] {
        let mut body = request(CHAT, "no_image");
        body["model"] = json!(format!("{account}/gpt-4o-image"));
        let (_, item) = bought(&gateway, &body).await;
        let answer = recover(&gateway, &item, &link).await;
        if allows { gave(&answer, 1) } else { refuses(&answer, "") }
    }
    gateway.stop().await;
}

/// An operator's file: as it is, or one that was uploaded before.
#[rstest]
#[tokio::test]
async fn a_file_takes_the_place_of_what_is_kept(
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
    #[values(Shelf::Folder, Shelf::Bucket)] shelf: Shelf,
) {
    let shelved = Shelved::start(db, shelf, "").await;
    let gateway = &shelved.gateway;
    let upload = async |key: &str, image: &[u8]| {
        let headers = [("x-api-key", key), ("content-type", "image/png")];
        gateway.upload("/files", &headers, image.to_vec()).await.json()["id"].clone()
    };
    let theirs = upload(OTHER_KEY, &png(9, 9)).await;
    for (at, adapter) in (0u32..).zip(ADAPTERS) {
        let (task, item) = bought(gateway, &request(adapter, "no_image")).await;
        let image = png(40 + at, 40);
        let file = upload(crate::harness::KEY, &image).await;
        let inline = json!({"b64_json": STANDARD.encode(&image)});
        for wrong in [
            json!({"file_id": theirs}),
            json!({"file_id": "file_01k9zq5s4m8v2c6x0b3n7d1f5g"}),
            json!({"b64_json": "not base64!"}),
            json!({"b64_json": ""}),
            json!({"file_id": file, "url": "https://example.com/a.png"}),
            json!({"b64_json": inline["b64_json"], "file_id": file}),
            json!({"file": file}),
        ] {
            let answer = recover(gateway, &item, &wrong).await;
            let code = (answer.status, answer.json()["code"].clone());
            assert_eq!(code, (StatusCode::UNPROCESSABLE_ENTITY, json!("validation_failed")), "{wrong}");
        }
        for no_image in [&b"no image"[..], &image[..image.len() / 2]] {
            let answer = recover(gateway, &item, &json!({"b64_json": STANDARD.encode(no_image)})).await;
            refuses(&answer, "it holds no whole image");
        }
        assert_eq!(gateway.task(id(&task)).await["late_result"], NOTHING);

        let with = if adapter == CHAT || adapter == IMAGES { inline } else { json!({"file_id": file}) };
        gave(&recover(gateway, &item, &with).await, 1);
        expect_late(gateway, id(&task), &[&image]).await;
        refuses(&recover(gateway, &item, &with).await, "the task's already");
        assert_eq!(audited(gateway).await[0], (id(&item).to_owned(), "file".to_owned(), 1));
        // The upload stays its owner's, whatever becomes of the task.
        gateway.pass(Duration::from_hours(24)).await;
        assert_eq!(
            gateway.delete(&format!("/tasks/{}", id(&task))).await,
            StatusCode::NO_CONTENT,
            "{adapter}"
        );
        let uploaded = gateway.get(&format!("/files/{}/content", file.as_str().unwrap())).await;
        assert_eq!(uploaded.bytes, image);
    }
    shelved.stop().await;
}

/// A download that was no image may be one to a newer version; or the operator has the image.
#[rstest]
#[tokio::test]
async fn a_download_is_recovered_in_every_way(
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
    #[values(Shelf::Folder, Shelf::Bucket)] shelf: Shelf,
) {
    let shelved = Shelved::start(db, shelf, "").await;
    let gateway = &shelved.gateway;
    let image = png(50, 50);
    for way in ["again", "link", "file"] {
        gateway.rule(&json!({"on": "files", "times": 1_000_000, "do": {"file_type": "pdf"}})).await;
        let (task, item) = bought(gateway, &request(FLUX, "")).await;
        let before = task["cost"].clone();
        refuses(&recover(gateway, &item, &json!({})).await, "it holds no whole image");
        let with = match way {
            "again" => {
                std::fs::write(shelved.path(&format!("quarantine/{}", id(&item))), &image).unwrap();
                json!({})
            }
            "link" => json!({"url": host(image.clone()).await}),
            _ => json!({"b64_json": STANDARD.encode(&image)}),
        };
        gave(&recover(gateway, &item, &with).await, 1);
        let task = expect_late(gateway, id(&task), &[&image]).await;
        assert_eq!(task["cost"], before, "{way}: it was charged before");
    }
    assert_eq!(gateway.receptions(), 3);
    shelved.stop().await;
}

/// Nobody waits for a recovery that can be had at once: a task that still tries a dead link ends with what was recovered.
#[rstest]
#[tokio::test]
async fn a_task_that_still_waits_ends_with_what_was_recovered(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    // Bytes that nobody can read are kept at once; the link is tried on.
    gateway.rule(&json!({"on": "files", "times": 1_000_000, "do": {"file_bomb": "tall"}})).await;
    let task = gateway.generate(&request(FLUX, "").to_string()).await;
    let item = loop {
        gateway.app.engine.run_until_idle().await.unwrap();
        if let Some(item) = items(&gateway, "").await.pop() {
            break item;
        }
        gateway.advance_to_next().await;
    };
    assert_eq!(gateway.task(id(&task)).await["phase"], "saving");
    let image = png(60, 60);
    gave(&recover(&gateway, &item, &json!({"b64_json": STANDARD.encode(&image)})).await, 1);
    gateway.app.engine.run_until_idle().await.unwrap();
    let ended = gateway.task(id(&task)).await;
    assert_eq!((&ended["status"], &ended["late_result"]), (&json!("succeeded"), &NOTHING), "{ended}");
    let served = gateway.get(&format!("/tasks/{}/images/0", id(&task))).await;
    assert_eq!((served.bytes, ended["images"].as_array().unwrap().len()), (image, 1));
    assert_eq!((&ended["cost"]["actual_usd"], gateway.receptions()), (&json!("0.0015"), 1));
    gateway.pass(Duration::from_hours(1)).await;
    assert_eq!(gateway.task(id(&task)).await["late_result"], NOTHING, "it is not told of twice");
    gateway.stop().await;
}

/// A link that is dead by the time its answer can be read is no image, and nothing is called recovered.
#[rstest]
#[tokio::test]
async fn a_dead_link_in_an_old_answer_is_no_image(
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
    #[values(Shelf::Folder, Shelf::Bucket)] shelf: Shelf,
) {
    let shelved = Shelved::start(db, shelf, "").await;
    let gateway = &shelved.gateway;
    let dead = format!("http://{}/a.png", listen().await.local_addr().unwrap());
    let (task, item) = bought(gateway, &request(CHAT, "no_image")).await;
    reread_as(&shelved, &item, &right(CHAT, Given::Link(&dead)));
    gateway.clock.advance(Duration::from_hours(25));
    for _ in 0..2 {
        refuses(&recover(gateway, &item, &json!({})).await, "its link gives none");
    }
    let kept = items(gateway, "").await;
    assert_eq!(kept, std::slice::from_ref(&item), "it is open, and nothing is added");
    assert_eq!(audited(gateway).await, []);
    let image = png(70, 70);
    gave(&recover(gateway, &item, &json!({"url": host(image.clone()).await})).await, 1);
    expect_late(gateway, id(&task), &[&image]).await;
    shelved.stop().await;
}

/// An unknown id, and one whose task was erased, are not there.
#[rstest]
#[tokio::test]
async fn what_is_not_there_is_not_recovered(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let (task, item) = bought(&gateway, &request(CHAT, "no_image")).await;
    let erased = gateway.send(Method::DELETE, &format!("/tasks/{}", id(&task)), &[], None).await;
    assert_eq!(erased.status, StatusCode::NO_CONTENT);
    let file = json!({"b64_json": STANDARD.encode(png(8, 8))});
    assert_eq!(recover(&gateway, &item, &file).await.status, StatusCode::NOT_FOUND);
    gateway.stop().await;
}
