//! How long what lies in quarantine is kept: for its time, and no longer than its task. And that one row that cannot be read
//! takes no list with it.

use std::fs::File;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::{Method, StatusCode};
use rstest::rstest;
use serde_json::{Value, json};

use super::{CHAT, FLUX, HeldBack, IMAGES, PIPELINE, bought, expect_late, id, items, recover, request};
use crate::bucket::{Shelf, Shelved};
use crate::harness::{Db, Gateway, OTHER_KEY};
use crate::hostile_pictures::png;
use crate::sink::{Act, Sink};

const DAY: Duration = Duration::from_hours(24);

/// Everything that the database holds of quarantine.
async fn rows(gateway: &Gateway) -> Vec<String> {
    let sql = "SELECT id FROM quarantine UNION ALL SELECT id FROM quarantine_deletions";
    gateway.texts(sql).await
}

/// Erased with its task: the row and the bytes, at once; a task in parts with those of its parts.
#[rstest]
#[tokio::test]
async fn it_is_erased_with_its_task(
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
    #[values(Shelf::Folder, Shelf::Bucket)] shelf: Shelf,
) {
    let shelved = Shelved::start(db, shelf, "").await;
    let gateway = &shelved.gateway;
    let (other, kept) = bought(gateway, &request(CHAT, "no_image")).await;
    let (task, item) = bought(gateway, &request(IMAGES, "no_image")).await;
    let mut parts = request(CHAT, "no_image");
    parts["n"] = json!(3);
    let parts = gateway.run(&parts.to_string()).await;
    let of_parts = items(gateway, &format!("?task_id={}", id(&parts))).await.len();
    assert!(of_parts >= 1 && shelved.quarantined().len() == 2 + of_parts);
    let path = format!("/tasks/{}", id(&task));
    let as_other = gateway.send(Method::DELETE, &path, &[("x-api-key", OTHER_KEY)], None).await;
    assert_eq!((as_other.status, shelved.quarantined().len()), (StatusCode::NOT_FOUND, 2 + of_parts));
    for path in [path, format!("/tasks/{}", id(&parts))] {
        assert_eq!(gateway.delete(&path).await, StatusCode::NO_CONTENT);
    }
    let name = format!("quarantine/{}", id(&kept));
    let left: Vec<_> = shelved.quarantined().into_iter().map(|(name, _)| name).collect();
    assert_eq!((left, rows(gateway).await), (vec![name], vec![id(&kept).to_owned()]));
    for path in ["", "/content"] {
        let answer = gateway.get(&format!("/admin/quarantine/{}{path}", id(&item))).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND);
    }
    assert_eq!(items(gateway, "").await, [kept]);
    assert_eq!(gateway.delete(&format!("/tasks/{}", id(&other))).await, StatusCode::NO_CONTENT);
    assert_eq!((shelved.quarantined(), rows(gateway).await), (vec![], vec![]));
    shelved.stop().await;
}

/// The commit and the removal of the bytes are two things: what a kill leaves between them is done after the next start.
#[rstest]
#[tokio::test]
async fn bytes_whose_row_is_gone_are_removed_later(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let (task, item) = bought(&gateway, &request(CHAT, "no_image")).await;
    let bytes = gateway.folder().join("blobs/quarantine").join(id(&item));
    let erased = gateway.app.store.erase_task("default".into(), id(&task).parse().unwrap()).await.unwrap();
    assert_eq!((erased, bytes.exists()), (easel::store::Erasure::Done, true));
    let gateway = gateway.restart().await;
    gateway.app.engine.tidy().await.unwrap();
    assert_eq!((bytes.exists(), rows(&gateway).await), (false, vec![]));
    gateway.stop().await;
}

/// So are bytes that never had one: their process was killed before it could write it.
#[rstest]
#[tokio::test]
async fn bytes_that_never_had_a_row_are_collected(
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
    #[values(Shelf::Folder, Shelf::Bucket)] shelf: Shelf,
) {
    let shelved = Shelved::start(db, shelf, "").await;
    let gateway = &shelved.gateway;
    let (_, item) = bought(gateway, &request(CHAT, "no_image")).await;
    let (kept, young) = (id(&item), "qua_01k9zq5s4m8v2c6x0b3n7d1f5g");
    let forgotten = "qua_01k9zq5s4m8v2c6x0b3n7d1f5h";
    let at = |name: &str| shelved.path(&format!("quarantine/{name}"));
    for name in [young, forgotten] {
        std::fs::write(at(name), "an answer").unwrap();
    }
    for name in [kept, forgotten] {
        File::options().write(true).open(at(name)).unwrap().set_modified(UNIX_EPOCH).unwrap();
    }
    assert_eq!(gateway.app.engine.collect_orphans().await.unwrap(), 1);
    assert_eq!([kept, young, forgotten].map(|name| at(name).exists()), [true, true, false]);
    shelved.stop().await;
}

/// Its time is `retention.quarantine_ttl_s`, recovered or not; the task and what was recovered outlive it.
#[rstest]
#[tokio::test]
async fn it_goes_when_its_time_is_over(
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
    #[values(Shelf::Folder, Shelf::Bucket)] shelf: Shelf,
) {
    let shelved = Shelved::start(db, shelf, "[retention]\nquarantine_ttl_s = 172800\n").await;
    let gateway = &shelved.gateway;
    let (task, recovered) = bought(gateway, &request(CHAT, "no_image")).await;
    let image = png(41, 41);
    let file = json!({"b64_json": STANDARD.encode(&image)});
    assert_eq!(recover(gateway, &recovered, &file).await.status, StatusCode::OK);
    bought(gateway, &request(IMAGES, "no_image")).await;
    gateway.pass(DAY).await;
    let (_, young) = bought(gateway, &request(PIPELINE, "no_image")).await;
    assert_eq!(shelved.quarantined().len(), 3);
    gateway.pass(DAY).await;
    let left: Vec<_> = shelved.quarantined().into_iter().map(|(name, _)| name).collect();
    assert_eq!(left, [format!("quarantine/{}", id(&young))]);
    assert_eq!(
        (items(gateway, "").await, rows(gateway).await),
        (vec![young.clone()], vec![id(&young).to_owned()])
    );
    assert_eq!(recover(gateway, &recovered, &file).await.status, StatusCode::NOT_FOUND);
    expect_late(gateway, id(&task), &[&image]).await;
    gateway.pass(2 * DAY).await;
    assert_eq!((shelved.quarantined(), rows(gateway).await), (vec![], vec![]));
    shelved.stop().await;
}

/// A task that is erased while its image is being fetched gains nothing.
#[rstest]
#[tokio::test]
async fn an_erased_task_gains_nothing(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let (task, item) = bought(&gateway, &request(CHAT, "no_image")).await;
    let host = HeldBack::start(png(42, 42)).await;
    let link = json!({"url": host.url});
    let erase = async {
        host.asked().await;
        assert_eq!(gateway.delete(&format!("/tasks/{}", id(&task))).await, StatusCode::NO_CONTENT);
        host.give();
    };
    let before = gateway.attempts(id(&task)).await;
    let (recovered, ()) = tokio::join!(recover(&gateway, &item, &link), erase);
    assert_eq!(recovered.status, StatusCode::NOT_FOUND, "{}", recovered.json());
    let details = gateway.texts("SELECT detail FROM attempts").await.concat();
    assert!(
        !details.contains("made") && !details.contains("a cat") && !details.contains(&host.url),
        "{details}"
    );
    let after = gateway.task(id(&task)).await;
    assert_eq!((&after["late_result"], &after["cost"]), (&Value::Null, &task["cost"]), "{after}");
    assert_eq!(gateway.attempts(id(&task)).await[0]["billed"], before[0]["billed"]);
    assert_eq!((gateway.texts("SELECT task_id FROM images").await, rows(&gateway).await), (vec![], vec![]));
    assert_eq!(gateway.get("/admin/audit?act=quarantine.recover").await.json()["data"], json!([]));
    gateway.stop().await;
}

/// Rows of a newer version, or of a disk that lies: each is left out of its lists, and the lists are there, page by page.
#[rstest]
#[tokio::test]
async fn a_row_that_cannot_be_read_takes_no_list_with_it(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let sink = Sink::saying(Act::Status(200)).await;
    gateway.post("/webhooks", &json!({"url": sink.url}).to_string()).await;
    let mut kept = Vec::new();
    for adapter in [CHAT, IMAGES, FLUX, PIPELINE, CHAT] {
        kept.push(bought(&gateway, &request(adapter, "no_image")).await);
    }
    let lists = ["/tasks", "/admin/quarantine", "/webhooks/deliveries", "/admin/attempts?billing=unknown"];
    // All of a list in its order: first as a whole, and then one by one.
    let all = async |path: &str| {
        let page = gateway.get(path).await;
        assert_eq!(page.status, StatusCode::OK, "{path}: {}", page.json());
        let whole: Vec<String> =
            page.json()["data"].as_array().unwrap().iter().map(|one| id(one).to_owned()).collect();
        let (mut single, join) = (Vec::new(), if path.contains('?') { '&' } else { '?' });
        let mut next = format!("{path}{join}limit=1");
        loop {
            let page = gateway.get(&next).await.json();
            single.extend(page["data"].as_array().unwrap().iter().map(|one| id(one).to_owned()));
            let Some(cursor) = page["next_cursor"].as_str() else { break };
            next = format!("{path}{join}limit=1&cursor={cursor}");
        }
        assert_eq!(single, whole, "{path}");
        whole
    };
    let mut before = Vec::new();
    for path in lists {
        before.push(all(path).await);
    }
    let usage = gateway.get("/usage?group_by=key").await.json()["data"].clone();

    // Of five tasks: one's own row, one's attempt, one's item, one's image; and a letter.
    let image = json!({"b64_json": STANDARD.encode(png(43, 43))});
    assert_eq!(recover(&gateway, &kept[3].1, &image).await.status, StatusCode::OK);
    for (table, column, owner, row) in [
        ("tasks", "state", "id", id(&kept[0].0)),
        ("attempts", "detail", "id", kept[1].1["attempt_id"].as_str().unwrap()),
        ("quarantine", "detail", "id", id(&kept[2].1)),
        ("images", "media_type", "task_id", id(&kept[3].0)),
        ("deliveries", "log", "id", &before[2][1]),
    ] {
        gateway.execute(&format!("UPDATE {table} SET {column} = '{{\"new\":' WHERE {owner} = '{row}'")).await;
    }
    let without = |list: usize, gone: &[&str]| -> Vec<String> {
        before[list].iter().filter(|one| !gone.contains(&one.as_str())).cloned().collect()
    };
    assert_eq!(all(lists[0]).await, without(0, &[id(&kept[0].0), id(&kept[3].0)]));
    assert_eq!(all(lists[1]).await, without(1, &[id(&kept[2].1)]));
    assert_eq!(all(lists[2]).await, without(2, &[&before[2][1]]));
    assert_eq!(all(lists[3]).await, without(3, &[kept[1].1["attempt_id"].as_str().unwrap()]));
    let after = gateway.get("/usage?group_by=key").await;
    assert_eq!(after.status, StatusCode::OK);
    assert_eq!(after.json()["data"][0]["tasks"], usage[0]["tasks"]);

    // What can be recovered is, and the rest says why not.
    let answer = gateway.post("/admin/quarantine/recover", "").await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.json());
    let image = png(44, 44);
    let file = json!({"b64_json": STANDARD.encode(&image)});
    assert_eq!(recover(&gateway, &kept[4].1, &file).await.status, StatusCode::OK);
    expect_late(&gateway, id(&kept[4].0), &[&image]).await;
    // Their time passes like everybody's.
    gateway.clock.advance(31 * DAY);
    gateway.app.engine.tidy().await.unwrap();
    assert_eq!(rows(&gateway).await, Vec::<String>::new());
    gateway.stop().await;
}
