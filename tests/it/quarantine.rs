//! What was paid for and gave no image: it is kept as it came, read by admins alone, and recovered.

mod books;
mod command;
#[cfg(feature = "chaos")]
mod crash;
mod keeping;
mod recovery;
mod secrets;
mod spool;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::any;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use easel::domain::secret::sha256_hex;
use reqwest::{Method, StatusCode};
use rstest::rstest;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bucket::{Shelf, Shelved};
use crate::harness::{Answer, Db, Gateway, OTHER_KEY, PATIENCE, listen};
use crate::hostile_pictures::png;

pub const CHAT: &str = "gpt_4o_image";
pub const IMAGES: &str = "gpt_image";
pub const FLUX: &str = "piapi_flux";
pub const PIPELINE: &str = "imagepipeline";
pub const ADAPTERS: [&str; 4] = [CHAT, IMAGES, FLUX, PIPELINE];

/// A request whose answer gives no image.
pub fn request(adapter: &str, fault: &str) -> Value {
    let model = match adapter {
        CHAT => "gpt-4o-image",
        IMAGES => "gpt-image-1",
        FLUX => "piapi_flux/Qubico/flux1-schnell",
        PIPELINE => "imagepipeline/flux-schnell",
        other => panic!("no such adapter: {other}"),
    };
    json!({"prompt": format!("a cat [[sim: picture=32x32 {fault}]]"), "model": model})
}

/// An image as an answer gives it.
#[derive(Debug, Clone, Copy)]
pub enum Given<'a> {
    Link(&'a str),
    Inline(&'a [u8]),
}

impl Given<'_> {
    /// As an address.
    fn address(self) -> String {
        match self {
            Self::Link(link) => link.to_owned(),
            Self::Inline(bytes) => format!("data:image/png;base64,{}", STANDARD.encode(bytes)),
        }
    }
}

/// The answer that an upstream should have given, with this image.
pub fn right(adapter: &str, image: Given<'_>) -> String {
    let address = image.address();
    let answer = match (adapter, image) {
        (CHAT, _) => {
            let text = json!({"choices": [{"delta": {"content": format!("![a cat]({address})")}}]});
            let end = json!({"choices": [{"delta": {}, "finish_reason": "stop"}]});
            return format!("data: {text}\n\ndata: {end}\n\ndata: [DONE]\n\n");
        }
        (IMAGES, Given::Link(link)) => json!({"data": [{"url": link}]}),
        (IMAGES, Given::Inline(bytes)) => json!({"data": [{"b64_json": STANDARD.encode(bytes)}]}),
        (FLUX, _) => json!({"code": 200, "data": {"task_id": "x", "status": "completed",
            "output": {"image_url": address}, "meta": {"usage": {"consume": 15000, "frozen": 0}}}}),
        (PIPELINE, _) => json!({"status": "SUCCESS", "download_urls": [address]}),
        (other, _) => panic!("no such adapter: {other}"),
    };
    answer.to_string()
}

/// What lies in quarantine, as an admin sees it.
pub async fn items(gateway: &Gateway, query: &str) -> Vec<Value> {
    let answer = gateway.get(&format!("/admin/quarantine{query}")).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.json());
    answer.json()["data"].as_array().unwrap().clone()
}

/// Buys what gives no image: the task, and the one item that is kept of it.
pub async fn bought(gateway: &Gateway, request: &Value) -> (Value, Value) {
    // Ids sort by time.
    gateway.clock.advance(Duration::from_millis(1));
    let task = gateway.run(&request.to_string()).await;
    assert_eq!((&task["status"], &task["late_result"]), (&json!("failed"), &Value::Null), "{task}");
    let kept = items(gateway, &format!("?task_id={}", id(&task))).await;
    let [item] = kept.as_slice() else { panic!("{request}: {kept:#?}") };
    (task, item.clone())
}

pub async fn recover(gateway: &Gateway, item: &Value, with: &Value) -> Answer {
    gateway.post(&format!("/admin/quarantine/{}/recover", id(item)), &with.to_string()).await
}

/// A host that gives an image when the test lets it.
pub struct HeldBack {
    pub url: String,
    asked: Arc<Semaphore>,
    open: Arc<Semaphore>,
}

impl HeldBack {
    pub async fn start(image: Vec<u8>) -> Self {
        let listener = listen().await;
        let url = format!("http://{}/a.png", listener.local_addr().unwrap());
        let (asked, open) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let (heard, opened) = (Arc::clone(&asked), Arc::clone(&open));
        let answer = any(async move || {
            heard.add_permits(1);
            drop(opened.acquire().await.unwrap());
            image
        });
        let router = Router::new().fallback(answer);
        TaskTracker::new().spawn(easel::server::serve(listener, router, CancellationToken::new()));
        Self { url, asked, open }
    }

    /// Waits until somebody asks.
    pub async fn asked(&self) {
        tokio::time::timeout(PATIENCE, self.asked.acquire()).await.expect("somebody asks").unwrap().forget();
    }

    /// Gives it from now on.
    pub fn give(&self) {
        self.open.add_permits(1);
    }
}

pub fn id(thing: &Value) -> &str {
    thing["id"].as_str().unwrap()
}

/// Expects these images, byte by byte, as the task's late result; the task.
pub async fn expect_late(gateway: &Gateway, task: &str, images: &[&[u8]]) -> Value {
    let task = gateway.task(task).await;
    let late = task["late_result"]["images"].as_array().unwrap_or_else(|| panic!("{task}"));
    let mut served = Vec::new();
    for image in late {
        let bytes = gateway.get(&format!("/tasks/{}/images/{}", id(&task), image["index"])).await.bytes;
        assert_eq!(image["sha256"], sha256_hex(&bytes));
        served.push(bytes);
    }
    assert_eq!(served, images, "{task}");
    task
}

/// The answer to a paid call is kept with all that is known of it, whichever adapter it came from.
#[rstest]
#[tokio::test]
async fn an_answer_without_an_image_is_kept_as_it_came(
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
    #[values(Shelf::Folder, Shelf::Bucket)] shelf: Shelf,
) {
    let shelved = Shelved::start(db, shelf, "").await;
    let gateway = &shelved.gateway;
    let mut all = Vec::new();
    for adapter in ADAPTERS {
        // One that says nothing, and one that may say it where nobody looks.
        for (fault, mark) in [("no_image", ""), ("decoy=unknown_key", "artifact_ref")] {
            let (task, item) = bought(gateway, &request(adapter, fault)).await;
            let attempts = gateway.attempts(id(&task)).await;
            let [attempt] = attempts.as_slice() else { panic!("{adapter}: bought once: {attempts:#?}") };
            let bytes = std::fs::read(shelved.path(&format!("quarantine/{}", id(&item)))).unwrap();
            let text = String::from_utf8(bytes.clone()).unwrap();
            assert!(!text.is_empty() && text.contains(mark), "{adapter}: {text}");
            let known = json!({
                "task_id": task["id"], "attempt_id": attempt["id"], "tenant": "default", "provider": adapter,
                "kind": "answer", "state": "open", "http_status": 200, "whole": true, "redacted": 0,
                "bytes": bytes.len(), "sha256": sha256_hex(&bytes), "result_links": [],
            });
            for (name, value) in known.as_object().unwrap() {
                assert_eq!(&item[name], value, "{adapter} {name}: {item:#}");
            }
            assert!(!item["reason"].as_str().unwrap().is_empty(), "{item:#}");
            assert!(item["headers"].to_string().contains("content-type"), "{item:#}");
            let moment = |name: &str| {
                let text = item[name].as_str().unwrap();
                text.parse::<easel::domain::clock::Millis>().unwrap().0
            };
            assert_eq!(moment("expires_at") - moment("created_at"), 30 * 86_400_000);
            assert_eq!(gateway.get(&format!("/admin/quarantine/{}", id(&item))).await.json(), item);
            all.insert(0, item);
        }
    }
    assert_eq!((all.len(), gateway.receptions(), shelved.quarantined().len()), (8, 8, 8));
    assert_eq!(items(gateway, "").await, all, "newest first");
    assert_eq!(items(gateway, "?state=open").await, all);
    assert_eq!(items(gateway, "?state=recovered").await, Vec::<Value>::new());
    // Page by page, and by the links that the pages name.
    let (mut paged, mut path) = (Vec::new(), "/admin/quarantine?limit=3&state=open".to_owned());
    loop {
        let page = gateway.get(&path).await;
        paged.extend(page.json()["data"].as_array().unwrap().clone());
        assert_eq!(page.json()["has_more"], page.header("link").is_some());
        let Some(link) = page.header("link") else { break };
        path = link.split(['<', '>']).nth(1).unwrap().to_owned();
    }
    assert_eq!(paged, all);
    for (query, status) in [("?limit=0", 400), ("?limit=201", 400), ("?state=lost", 400), ("?cursor=x", 400)]
    {
        assert_eq!(gateway.get(&format!("/admin/quarantine{query}")).await.status, status, "{query}");
    }
    shelved.stop().await;
}

/// So is what a result's link gave in place of an image, with the link.
#[rstest]
#[tokio::test]
async fn a_download_that_is_no_image_is_kept(
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
    #[values(Shelf::Folder, Shelf::Bucket)] shelf: Shelf,
) {
    let shelved = Shelved::start(db, shelf, "").await;
    let gateway = &shelved.gateway;
    gateway.rule(&json!({"on": "files", "times": 1_000_000, "do": {"file_type": "pdf"}})).await;
    let (task, item) = bought(gateway, &request(FLUX, "")).await;
    assert_eq!(
        (&task["error"]["code"], &task["cost"]["billed"]),
        (&json!("asset_unavailable"), &json!("yes"))
    );
    let content = gateway.get(&format!("/admin/quarantine/{}/content", id(&item))).await;
    assert!(content.bytes.starts_with(b"%PDF-1.4"), "{:?}", content.bytes);
    let known = ["kind", "provider", "http_status", "whole", "sha256"].map(|name| item[name].clone());
    let sha256 = json!(sha256_hex(&content.bytes));
    assert_eq!(known, [json!("download"), json!(FLUX), json!(200), json!(true), sha256]);
    let links = item["result_links"].as_array().unwrap();
    assert!(links.len() == 1 && links[0].as_str().unwrap().contains("/files/"), "{item:#}");
    assert_eq!(gateway.receptions(), 1);
    shelved.stop().await;
}

/// The bytes go to admins alone, as an attachment that no browser opens, and into the audit.
#[rstest]
#[tokio::test]
async fn only_admins_see_it_and_the_audit_knows(
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
    #[values(Shelf::Folder, Shelf::Bucket)] shelf: Shelf,
) {
    const USER: &str = "easel_user_0123456789abcdef";
    let user = format!("[[auth.keys]]\nname = \"user\"\nkey = \"{USER}\"\n");
    let shelved = Shelved::start(db, shelf, &user).await;
    let gateway = &shelved.gateway;
    let (task, item) = bought(gateway, &request(CHAT, "no_image")).await;
    let path = format!("/admin/quarantine/{}", id(&item));
    let content = format!("{path}/content");
    let paths = [
        (Method::GET, "/admin/quarantine".to_owned()),
        (Method::GET, path.clone()),
        (Method::GET, content.clone()),
        (Method::POST, format!("{path}/recover")),
        (Method::POST, "/admin/quarantine/recover".to_owned()),
    ];
    for (method, path) in &paths {
        for (key, status) in [(USER, 403), (OTHER_KEY, 403), ("easel_nobody", 401)] {
            let body = (method == Method::POST).then_some("{}");
            let answer = gateway.send(method.clone(), path, &[("x-api-key", key)], body).await;
            assert_eq!(answer.status, status, "{method} {path}");
            assert!(!String::from_utf8_lossy(&answer.bytes).contains(id(&item)), "{method} {path}");
        }
    }
    let read = "/admin/audit?act=quarantine.read";
    assert_eq!(gateway.get(read).await.json()["data"], json!([]), "nobody has read it");

    let answer = gateway.get(&content).await;
    assert_eq!(
        (answer.status, sha256_hex(&answer.bytes)),
        (StatusCode::OK, item["sha256"].as_str().unwrap().into())
    );
    let name = format!("attachment; filename=\"{}.bin\"", id(&item));
    for (header, value) in [
        ("content-type", "application/octet-stream"),
        ("content-disposition", name.as_str()),
        ("x-content-type-options", "nosniff"),
        ("content-security-policy", "sandbox; default-src 'none'"),
    ] {
        assert_eq!(answer.header(header), Some(value), "{header}");
    }
    let entries = gateway.get(read).await.json()["data"].clone();
    let entry = &entries[0];
    assert_eq!(entries.as_array().unwrap().len(), 1);
    assert_eq!((&entry["subject"], &entry["key"]), (&item["id"], &json!("test")), "{entry}");
    assert_eq!(entry["details"]["task"], task["id"], "{entry}");

    // Nothing goes out that cannot be written down.
    gateway.sql("ALTER TABLE audit RENAME TO away").await;
    assert_eq!(gateway.get(&content).await.status, StatusCode::SERVICE_UNAVAILABLE);
    let file = json!({"b64_json": STANDARD.encode(png(8, 8))});
    assert_eq!(recover(gateway, &item, &file).await.status, StatusCode::SERVICE_UNAVAILABLE);
    gateway.sql("ALTER TABLE away RENAME TO audit").await;
    assert_eq!(gateway.get(&path).await.json()["state"], "open");

    for (method, path) in &paths[1..4] {
        for unknown in ["qua_01k9zq5s4m8v2c6x0b3n7d1f5g", "nothing"] {
            let (path, body) = (path.replace(id(&item), unknown), (method == Method::POST).then_some("{}"));
            assert_eq!(
                gateway.send(method.clone(), &path, &[], body).await.status,
                StatusCode::NOT_FOUND,
                "{path}"
            );
        }
    }
    shelved.stop().await;
}
