//! Whoever looks into quarantine reads none of the gateway's secrets, whatever a provider echoes: they are overwritten by text
//! of equal length, and of the answer's headers only harmless ones are kept.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, Uri};
use axum::response::IntoResponse;
use axum::routing::any;
use easel::domain::secret::sha256_hex;
use reqwest::StatusCode;
use rstest::rstest;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{id, items};
use crate::harness::{Db, Gateway, ITSELF, listen};
use crate::sink::{Act, Sink};

/// With a slash, which JSON may write in two ways.
const PROVIDER_KEY: &str = "provider/key-0123456789";
const OTHER_PROVIDER_KEY: &str = "other-provider-key-0123456789";

/// A provider that answers with all that it was sent, in the body and in headers of its own; its address, and what it answered.
async fn mirror() -> (String, Arc<Mutex<Vec<Vec<u8>>>>) {
    let said = Arc::new(Mutex::new(Vec::new()));
    let writes = Arc::clone(&said);
    let answer = any(async move |uri: Uri, headers: HeaderMap, body: Bytes| {
        let key = headers.get("authorization").or(headers.get("x-api-key")).cloned();
        let echo = if uri.path() == "/file" {
            // No text, and no image.
            [&[0xff; 100][..], PROVIDER_KEY.as_bytes()].concat()
        } else {
            let heard = json!({"echo": {"sent": String::from_utf8_lossy(&body), "key": format!("{key:?}")}});
            let escaped = heard.to_string().replace('/', "\\/");
            format!("{heard}\n{escaped}").into_bytes()
        };
        writes.lock().unwrap().push(echo.clone());
        let mut kept = HeaderMap::new();
        for (name, value) in [
            ("content-type", "application/octet-stream"),
            ("set-cookie", "session=0123456789"),
            ("x-internal-host", "10.1.2.3"),
            ("x-request-id", "req-7"),
            ("server", PROVIDER_KEY),
        ] {
            kept.insert(name, value.parse().unwrap());
        }
        if let Some(key) = key {
            kept.insert("x-echo", key);
        }
        (kept, echo).into_response()
    });
    let listener = listen().await;
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(answer);
    TaskTracker::new().spawn(easel::server::serve(listener, router, CancellationToken::new()));
    (url, said)
}

/// The same bytes, with every secret overwritten, and how often.
fn overwritten(bytes: &[u8], secrets: &[String]) -> (Vec<u8>, usize) {
    let (mut text, mut found) = (bytes.to_vec(), 0);
    for secret in secrets.iter().flat_map(|secret| [secret.clone(), secret.replace('/', "\\/")]) {
        for at in 0..text.len() {
            if text[at..].starts_with(secret.as_bytes()) {
                text[at..at + secret.len()].fill(b'*');
                found += 1;
            }
        }
    }
    (text, found)
}

#[rstest]
#[tokio::test]
async fn secrets_are_overwritten_and_headers_are_chosen(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let (url, said) = mirror().await;
    let account = |name: &str, kind: &str, key: &str| {
        format!(
            "[providers.{name}]\nkind = \"{kind}\"\nbase_url = \"{url}\"\napi_key = \"{key}\"\nallow_http_results = true\n"
        )
    };
    let accounts = [
        account("images", "gpt_image", PROVIDER_KEY),
        account("chat", "gpt_4o_image", PROVIDER_KEY),
        account("flux", "piapi_flux", PROVIDER_KEY),
        account("unused", "gpt_image", OTHER_PROVIDER_KEY),
    ];
    let gateway =
        Gateway::only(db, &format!("[server]\npublic_url = \"{ITSELF}\"\n{}", accounts.concat())).await;
    let sink = Sink::saying(Act::Status(200)).await;
    let endpoint = gateway.post("/webhooks", &json!({"url": sink.url}).to_string()).await.json();
    let shared = gateway.get("/webhooks/secret").await.json();
    let text = |thing: &Value| thing["secret"].as_str().unwrap_or_else(|| panic!("{thing}")).to_owned();
    let own = vec![PROVIDER_KEY.to_owned(), OTHER_PROVIDER_KEY.to_owned(), text(&endpoint), text(&shared)];
    let prompt = format!("a cat between {} and {} and {OTHER_PROVIDER_KEY}", text(&endpoint), text(&shared));
    for (model, callback) in
        [("images/gpt-image-1", false), ("chat/gpt-4o-image", false), ("flux/Qubico/flux1-schnell", true)]
    {
        said.lock().unwrap().clear();
        let task = gateway.generate(&json!({"prompt": prompt, "model": model}).to_string()).await;
        gateway.app.engine.run_until_idle().await.unwrap();
        let kept = items(&gateway, &format!("?task_id={}", id(&task))).await;
        let [item] = kept.as_slice() else { panic!("{model}: {kept:#?}") };
        let answered = said.lock().unwrap()[0].clone();
        let mut secrets = own.clone();
        if callback {
            // Of the request that is echoed: where the provider calls back, and what it says there.
            let first = String::from_utf8_lossy(&answered).lines().next().unwrap().to_owned();
            let sent: Value = serde_json::from_str(&first).unwrap();
            let sent: Value = serde_json::from_str(sent["echo"]["sent"].as_str().unwrap()).unwrap();
            let hook = &sent["config"]["webhook_config"];
            secrets.push(text(hook));
            secrets.push(hook["endpoint"].as_str().unwrap().rsplit('/').next().unwrap().to_owned());
        }
        let (expected, found) = overwritten(&answered, &secrets);
        let content = gateway.get(&format!("/admin/quarantine/{}/content", id(item))).await;
        assert_eq!(String::from_utf8_lossy(&content.bytes), String::from_utf8_lossy(&expected), "{model}");
        assert_eq!((&item["redacted"], &item["bytes"]), (&json!(found), &json!(answered.len())), "{model}");
        assert!(found >= 2 * secrets.len(), "{model}: {found}");
        assert_eq!(item["sha256"], sha256_hex(&expected), "of what is kept, and not of what came");
        expect_harmless(item, &secrets, &["content-type", "server", "x-request-id"]);
    }
    gateway.stop().await;
}

/// The headers that are kept are these, and nothing that is known of the item tells a secret.
fn expect_harmless(item: &Value, secrets: &[String], headers: &[&str]) {
    let mut names: Vec<_> =
        item["headers"].as_array().unwrap().iter().map(|pair| pair[0].as_str().unwrap()).collect();
    names.retain(|name| !matches!(*name, "date" | "content-length"));
    names.sort_unstable();
    assert_eq!(names, headers, "{item:#}");
    let told = item.to_string();
    assert!(secrets.iter().all(|secret| !told.contains(secret.as_str())), "{told}");
    assert!(told.contains(&"*".repeat(PROVIDER_KEY.len())), "{told}");
}

/// So it is with what a result's link gave.
#[rstest]
#[tokio::test]
async fn downloads_are_overwritten_too(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let (url, said) = mirror().await;
    let link = format!("{url}/file");
    let answer = json!({"data": [{"url": link}]}).to_string();
    let provider = Router::new().fallback(any(move || std::future::ready(answer.clone())));
    let listener = listen().await;
    let account = format!(
        "[providers.images]\nkind = \"gpt_image\"\nbase_url = \"http://{}\"\napi_key = \"{PROVIDER_KEY}\"\nallow_http_results = true\n",
        listener.local_addr().unwrap()
    );
    TaskTracker::new().spawn(easel::server::serve(listener, provider, CancellationToken::new()));
    let gateway = Gateway::only(db, &account).await;
    let task = gateway.generate(&json!({"prompt": "a cat", "model": "gpt-image-1"}).to_string()).await;
    gateway.app.engine.run_until_idle().await.unwrap();
    let kept = items(&gateway, &format!("?task_id={}", id(&task))).await;
    let [item] = kept.as_slice() else { panic!("{kept:#?}") };
    let secrets = [PROVIDER_KEY.to_owned()];
    let (expected, found) = overwritten(&said.lock().unwrap()[0], &secrets);
    let content = gateway.get(&format!("/admin/quarantine/{}/content", id(item))).await;
    assert_eq!((content.status, content.bytes, found), (StatusCode::OK, expected, 1));
    assert_eq!((&item["kind"], &item["redacted"]), (&json!("download"), &json!(1)), "{item:#}");
    expect_harmless(item, &secrets, &["content-type", "server"]);
    gateway.stop().await;
}
