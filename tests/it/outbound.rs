//! The outbound policy, S1 to S28: what may not be reached is not reached, whoever named it: a caller's image, a webhook, a
//! provider's result, a redirect. Traps count every connection; a refusal after a connection would be too late.

use std::net::IpAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::extract::State;
use axum::response::IntoResponse;
use bytes::Bytes;
use easel::net::guarded::FetchError;
use easel::net::policy::Refused;
use easel::net::{Guarded, Lookup, Net, Policy};
use http::{HeaderMap, StatusCode};
use rstest::rstest;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

use crate::harness::{Db, Gateway};
use crate::inputs::png;
use crate::trap::{EVERYWHERE, Names, Trap};

/// A client that may reach 127.0.0.2, where the tests' own servers are, and nothing else near.
pub fn guarded() -> (Guarded, Arc<Names>) {
    let policy = Policy { allow_private: vec!["127.0.0.2/32".parse().unwrap()], allow_http: true };
    let names = Arc::new(Names::default());
    let net = Net::open(policy, Arc::clone(&names) as Arc<dyn Lookup>, Vec::new()).unwrap();
    (net.guarded, names)
}

/// A server on 127.0.0.2 that answers every request the same way; how often it was asked.
async fn server(status: StatusCode, location: Option<String>) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let answer = move || {
        counted.fetch_add(1, Ordering::SeqCst);
        let mut headers = HeaderMap::new();
        if let Some(location) = &location {
            headers.insert("location", http::HeaderValue::from_bytes(location.as_bytes()).unwrap());
        }
        std::future::ready((status, headers))
    };
    serve(listener, Router::new().fallback(answer));
    (port, asked)
}

fn serve(listener: TcpListener, router: Router) {
    let listener = listener.into_std().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::from_std(listener).unwrap();
            easel::server::serve(listener, router, tokio_util::sync::CancellationToken::new()).await;
        });
    });
}

/// Fetched or told: neither an image nor a webhook gets through to what is closed, nor does a provider's
/// link.
#[tokio::test]
async fn nothing_closed_is_fetched_or_told() {
    let trap = Trap::set().await;
    let (guarded, _) = guarded();
    for (case, url) in trap.all() {
        let fetched = guarded.get(&url).await.map(|_| ());
        assert!(matches!(fetched, Err(FetchError::Refused(_))), "{case} {url}: {fetched:?}");
        let told = guarded.post(&url, HeaderMap::new(), Bytes::new(), Duration::from_secs(5)).await;
        assert!(matches!(told, Err(FetchError::Refused(_))), "{case} {url}: {told:?}");
        for allow_http in [false, true] {
            let result = guarded.get_result(&url, allow_http).await.map(|_| ());
            assert!(matches!(result, Err(FetchError::Refused(_))), "{case} {url}: {result:?}");
        }
    }
    assert!(trap.is_untouched());
}

/// S20: each hop is vetted like the first address.
#[tokio::test]
async fn a_redirect_leads_nowhere_that_is_closed() {
    let trap = Trap::set().await;
    let (guarded, _) = guarded();
    for (case, url) in trap.all() {
        let (port, asked) = server(StatusCode::FOUND, Some(url.clone())).await;
        let fetched = guarded.get(&format!("http://127.0.0.2:{port}/")).await.map(|_| ());
        // What cannot be read as an address is no hop at all.
        assert!(
            matches!(fetched, Err(FetchError::Refused(_) | FetchError::Status { status: 302, .. })),
            "{case} {url}: {fetched:?}"
        );
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        let result = guarded.get_result(&format!("http://127.0.0.2:{port}/"), true).await.map(|_| ());
        assert!(
            matches!(result, Err(FetchError::Refused(_) | FetchError::Status { status: 302, .. })),
            "{case} {url}: {result:?}"
        );
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }
    assert!(trap.is_untouched());
    let (port, asked) = server(StatusCode::FOUND, Some("/again".into())).await;
    let fetched = guarded.get(&format!("http://127.0.0.2:{port}/")).await.map(|_| ());
    assert!(matches!(fetched, Err(FetchError::TooManyRedirects)), "{fetched:?}");
    assert_eq!(asked.load(Ordering::SeqCst), 4, "the address and three hops");
    let (port, asked) = server(StatusCode::FOUND, Some(format!("http://127.0.0.1:{}/", trap.port))).await;
    let url = format!("http://127.0.0.2:{port}/");
    let told = guarded.post(&url, HeaderMap::new(), Bytes::new(), Duration::from_secs(5)).await;
    assert_eq!(told.unwrap().status, 302, "a letter follows no redirect at all");
    assert_eq!((asked.load(Ordering::SeqCst), trap.is_untouched()), (1, true));
}

/// Everything is at home here.
pub struct Home;

#[async_trait]
impl Lookup for Home {
    async fn lookup(&self, _: &str) -> Vec<IpAddr> {
        vec!["127.0.0.2".parse().unwrap()]
    }
}

/// S20: what was asked for in private is not fetched in the open.
#[tokio::test]
async fn a_redirect_out_of_tls_is_not_followed() {
    let (port, asked) = server(StatusCode::OK, None).await;
    let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let certificates =
        vec![CertificateDer::from_pem_slice(include_bytes!("fixtures/localhost.crt")).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("fixtures/localhost.key")).unwrap();
    let config = config.with_no_client_auth().with_single_cert(certificates, key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let running = TaskTracker::new();
    let serving = running.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut piece = [0; 4096];
            let _ = stream.read(&mut piece).await;
            let answer = format!(
                "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.2:{port}/\r\ncontent-length: 0\r\n\r\n"
            );
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    let policy = Policy { allow_private: vec!["127.0.0.2/32".parse().unwrap()], allow_http: true };
    let authority =
        CertificateDer::from_pem_slice(include_bytes!("fixtures/authority.crt")).unwrap().to_vec();
    let net = Net::open(policy, Arc::new(Home), vec![authority]).unwrap();
    let fetched = net.guarded.get(&url).await.map(|_| ());
    assert!(matches!(fetched, Err(FetchError::Refused(Refused::Redirect("out of TLS")))), "{fetched:?}");
    assert_eq!(asked.load(Ordering::SeqCst), 0);
    serving.abort();
}

/// S25: a webhook that leads here by a name we do not know is not taken in.
#[rstest]
#[tokio::test]
async fn a_letter_that_comes_home_by_another_name_is_refused(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::configured(db, "[server]\npublic_url = \"http://gateway.example\"\n").await;
    let refused = json!({"prompt": "x", "webhook": {"url": "http://gateway.example/healthz"}}).to_string();
    assert_eq!(gateway.post("/generate", &refused).await.json()["code"], "url_not_allowed");
    let home = format!("{}/healthz", gateway.url);
    let body = json!({"prompt": "x", "model": "flux-schnell", "size": "64x64", "webhook": {"url": home}});
    gateway.run(&body.to_string()).await;
    let log = gateway.get("/webhooks/deliveries").await.json();
    assert_eq!(log["data"][0]["log"][0]["status"], 400, "{log}");
    let marked = [("via", "1.1 proxy, 1.1 easel-another")];
    assert_eq!(gateway.send(reqwest::Method::GET, "/healthz", &marked, None).await.status, StatusCode::OK);
    gateway.stop().await;
}

/// S19: a name is looked up once, and what was vetted is what is connected to.
#[tokio::test]
async fn a_name_that_changes_its_mind_is_asked_once() {
    let trap = Trap::set().await;
    let (guarded, names) = guarded();
    let listener = TcpListener::bind(("127.0.0.2", trap.port)).await.unwrap();
    serve(listener, Router::new().fallback(|| async { "here" }));
    let url = format!("http://rebinding.example:{}/", trap.port);
    guarded.get(&url).await.unwrap();
    assert_eq!(names.asked.lock().unwrap()["rebinding.example"], 1);
    // The next connection asks anew, and is refused. A connection that was kept leads where the first one led.
    let told = guarded.post(&url, HeaderMap::new(), Bytes::new(), Duration::from_secs(5)).await;
    assert!(matches!(told, Err(FetchError::Refused(_))), "{told:?}");
    assert!(trap.is_untouched());
}

const CLOSED: &str = "[net]\nallow_private = []\nallow_http = true\n";

/// What is closed by its spelling is refused before anything is stored.
#[rstest]
#[tokio::test]
async fn callers_are_told_at_once_what_is_closed(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let trap = Trap::set().await;
    let gateway = Gateway::configured(db, CLOSED).await;
    for (case, url) in trap.addresses() {
        for (path, body, pointer) in [
            ("/generate", json!({"prompt": "x", "images": [{"url": url}]}), "/images/0/url"),
            (
                "/generate",
                json!({"prompt": "x", "mask": {"url": url}, "images": [{"url": "https://example.com/a.png"}]}),
                "/mask/url",
            ),
            ("/generate", json!({"prompt": "x", "webhook": {"url": url}}), "/webhook/url"),
            ("/webhooks", json!({"url": url}), "/url"),
        ] {
            let answer = gateway.post(path, &body.to_string()).await;
            assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{case} {url} {path}");
            let problem = answer.json();
            // An address that is none is a fault of the field; both tell nothing about the network.
            let code = problem["code"].as_str().unwrap();
            assert!(matches!(code, "url_not_allowed" | "validation_failed"), "{case} {url}: {problem}");
            assert_eq!(problem["errors"][0]["pointer"], pointer, "{case} {url}: {problem}");
        }
    }
    assert!(gateway.get("/tasks").await.json()["data"].as_array().unwrap().is_empty());
    assert!(gateway.get("/webhooks").await.json()["data"].as_array().unwrap().is_empty());
    assert!(trap.is_untouched());
    gateway.stop().await;
}

/// S17, S18, S22: a name can only be judged when it is looked up: by then the task is there, and fails unbought.
#[rstest]
#[tokio::test]
async fn a_name_that_leads_home_buys_nothing_and_hears_nothing(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let trap = Trap::set().await;
    let gateway = Gateway::configured(db, CLOSED).await;
    let file = gateway.upload("/files", &[("content-type", "image/png")], png(32, 16, |_, _| [0; 4])).await;
    assert_eq!(file.status, StatusCode::CREATED, "{}", file.json());
    let file = json!({"file_id": file.json()["id"]});
    for (case, home) in trap.names() {
        let home = json!({"url": home});
        for (pointer, body) in [
            ("/images/0", json!({"model": "flux-dev", "images": [home]})),
            ("/images/1", json!({"model": "gpt-4o-image", "images": [file, home]})),
            ("/images/0", json!({"model": "gpt-image-1", "images": [home]})),
            ("/mask", json!({"model": "gpt-image-1", "images": [file], "mask": home})),
            (
                "/controls/0/image",
                json!({"model": "flux-dev-advanced", "controls": [{"type": "canny", "image": home}]}),
            ),
        ] {
            let mut body = body;
            body["prompt"] = json!("x");
            body["webhook"] = home.clone();
            let task = gateway.run(&body.to_string()).await;
            let error = &task["error"];
            assert_eq!(
                (&task["status"], &error["code"], &task["cost"]["billed"], &error["retryable"]),
                (&json!("failed"), &json!("url_not_allowed"), &json!("no"), &json!(false)),
                "{case} {body}: {task}"
            );
            assert_eq!(error["detail"], format!("{pointer}/url: the URL is not allowed"), "{case}");
            assert!(gateway.attempts(task["id"].as_str().unwrap()).await.is_empty(), "{case} {body}");
            let log = gateway.get("/webhooks/deliveries").await.json();
            assert_eq!(log["data"][0]["log"][0]["error"], "the URL is not allowed", "{case}: {log}");
        }
        let registered = gateway.post("/webhooks", &home.to_string()).await;
        assert_eq!(registered.status, StatusCode::UNPROCESSABLE_ENTITY, "{case} {home}");
    }
    assert_eq!((gateway.receptions(), trap.is_untouched()), (0, true));
    gateway.stop().await;
}

/// An upstream that says its picture lies wherever the prompt says.
async fn pointing() -> String {
    async fn point(State(()): State<()>, body: String) -> impl IntoResponse {
        let asked: Value = serde_json::from_str(&body).unwrap();
        let answer = json!({"created": 1, "data": [{"url": asked["prompt"]}]});
        ([("content-type", "application/json")], answer.to_string())
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    serve(listener, Router::new().fallback(point).with_state(()));
    url
}

/// A provider that was taken over, or echoes what it was told, leads us nowhere either.
#[rstest]
#[tokio::test]
async fn a_result_that_lies_where_it_must_not_is_not_fetched(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let trap = Trap::set().await;
    let provider = format!(
        "[providers.gpt_image]\nkind = \"gpt_image\"\nbase_url = \"{}\"\napi_key = \"upstream-key-0123456789\"\nallow_http_results = true\nin_flight = 90\n",
        pointing().await
    );
    let gateway = Gateway::only(db, &format!("{provider}{CLOSED}")).await;
    for (case, url) in trap.all() {
        let body = json!({"prompt": url, "model": "gpt-image-1"});
        let task = gateway.run(&body.to_string()).await;
        // Some are not even taken for an address of a picture.
        let code = task["error"]["code"].as_str().unwrap_or_default();
        let refused = ["asset_rejected", "no_image_returned", "outcome_unknown", "asset_unavailable"];
        assert!(refused.contains(&code), "{case} {url}: {task}");
        assert!(
            !task["error"].to_string().contains("127.0.0.1"),
            "{case}: nothing about the network: {task}"
        );
    }
    assert!(trap.is_untouched());
    gateway.stop().await;
}

/// All of it once more in a network of its own, where every address is local and the trap stands on all of them: not only
/// loopback is not reached, nothing is. Where nobody may make such a network, the tests above prove loopback by the trap
/// and the other addresses by their refusal, which comes before any connection.
#[test]
fn where_every_address_is_a_trap_none_is_sprung() {
    const ALL_LOCAL: &str =
        "ip link set lo up && ip route add local 0.0.0.0/0 dev lo && ip -6 route add local ::/0 dev lo";
    let alone = |how: &str, script: &str| {
        let mut command = Command::new("unshare");
        command.args([how, "sh", "-c", script, "sh"]);
        command
    };
    let can = |how: &&str| alone(how, ALL_LOCAL).output().is_ok_and(|tried| tried.status.success());
    let Some(how) = ["-n", "-rn"].into_iter().find(can) else {
        eprintln!("nobody may make a network on this machine: what is not loopback is proved by its refusal");
        return;
    };
    for test in [
        "nothing_closed_is_fetched_or_told",
        "a_redirect_leads_nowhere_that_is_closed",
        "callers_are_told_at_once_what_is_closed::db_1_Db__Sqlite",
        "a_name_that_leads_home_buys_nothing_and_hears_nothing::db_1_Db__Sqlite",
        "a_result_that_lies_where_it_must_not_is_not_fetched::db_1_Db__Sqlite",
    ] {
        let mut inside = alone(how, &format!("{ALL_LOCAL} && exec \"$@\""));
        let program = std::env::current_exe().unwrap();
        inside.arg(program).args(["--exact", &format!("outbound::{test}")]).env(EVERYWHERE, "1");
        let output = inside.output().unwrap();
        let said =
            [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
    }
}
