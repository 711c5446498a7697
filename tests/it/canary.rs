//! Secrets show nowhere: the real program, logging everything it can, is asked all sorts of things while every secret it has
//! is a canary; then none of them is in what it wrote, said or stored. Also `easel keys`, on a gateway that runs.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use reqwest::Method;
use rstest::rstest;
use serde_json::{Value, json};

use crate::collector::{Collector, Told};
use crate::harness::{Db, KEY, OTHER_KEY, PATIENCE, client, listen};
use crate::postgres::Server;
use crate::process::{Running, free_port};
use crate::sink::{Act, Sink};
use crate::stage::configuration;

const PROVIDER_KEY: &str = "canary-provider-8f3a1c";
const PEPPER: &str = "canary-pepper-77d0e2";
const PASSWORD: &str = "canary-password-b94e05";

struct Program {
    running: Running,
    folder: tempfile::TempDir,
    url: String,
    /// Every answer it gave, but those that are meant to hold a secret.
    said: String,
}

impl Program {
    /// On this Postgres, or on SQLite.
    async fn start(postgres: Option<&str>, upstream: &str, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = free_port().await;
        let store =
            postgres.map_or_else(|| format!("sqlite://{}/easel.db", folder.path().display()), str::to_owned);
        let text = configuration(&store, upstream, &folder, more);
        let text = text.replace("pepper = \"test-pepper\"", "pepper = { file = \"pepper\" }");
        let text = text.replace("api_key = \"upstream-key-0123456789\"", "api_key = { env = \"CANARY\" }");
        assert!(!text.contains("upstream-key"));
        std::fs::write(folder.path().join("pepper"), PEPPER).unwrap();
        let text = format!("[server]\nlisten = \"{address}\"\npublic_url = \"http://{address}\"\n{text}");
        std::fs::write(folder.path().join("easel.toml"), text).unwrap();
        let log = |name: &str| Stdio::from(std::fs::File::create(folder.path().join(name)).unwrap());
        // Where cores are allowed: it has to see to it itself that there is none.
        let mut serve = Command::new("/bin/sh");
        serve.args(["-c", "ulimit -c unlimited || true; exec \"$0\" serve", env!("CARGO_BIN_EXE_easel")]);
        serve.current_dir(folder.path()).env_clear().env("CANARY", PROVIDER_KEY);
        let running = Running(serve.stdout(log("stdout")).stderr(log("stderr")).spawn().unwrap());
        let program = Self { running, folder, url: format!("http://{address}"), said: String::new() };
        let serving = async {
            while client().get(format!("{}/healthz", program.url)).send().await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        let serving = tokio::time::timeout(PATIENCE, serving).await;
        let told = std::fs::read_to_string(program.folder.path().join("stderr")).unwrap();
        let last: Vec<_> = told.lines().rev().take(9).collect();
        assert!(serving.is_ok(), "it does not serve; its last words, backwards: {last:#?}");
        program
    }

    async fn ask(&mut self, method: Method, path: &str, key: &str, body: Option<Value>) -> Value {
        let (headers, text) = self.ask_secretly(method, path, key, body).await;
        self.said.push_str(&headers);
        self.said.push_str(&text);
        serde_json::from_str(&text).unwrap_or_default()
    }

    async fn ask_secretly(
        &self,
        method: Method,
        path: &str,
        key: &str,
        body: Option<Value>,
    ) -> (String, String) {
        let mut request = client().request(method, format!("{}{path}", self.url)).header("x-api-key", key);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let answer = request.send().await.unwrap();
        let headers = format!("{:?}", answer.headers());
        (headers, String::from_utf8_lossy(&answer.bytes().await.unwrap()).into_owned())
    }

    /// A start with this store comes to nothing, for a reason that is told.
    fn starts_in_vain(&mut self, store: &str, reason: &str) {
        let mut serve = easel(self.folder.path(), &["serve"]);
        serve.env("EASEL__SERVER__LISTEN", "127.0.0.1:0").env("EASEL__STORE__URL", store);
        let (done, out, told) = output(&serve.output().unwrap());
        assert!(!done && told.contains(reason), "{reason}: {told}");
        self.said.push_str(&out);
        self.said.push_str(&told);
    }

    /// Stores that cannot be opened, whose addresses hold the password all the same.
    fn starts_nowhere(&mut self) {
        for (store, reason) in [
            (format!("postgres://canary:{PASSWORD}@[::1/easel"), "cannot open the database"),
            (
                format!("postgres://127.0.0.1/easel?password={PASSWORD}&sslmode=odd"),
                "cannot open the database",
            ),
            (format!("postgre://canary:{PASSWORD}@127.0.0.1/easel"), "store.url: must begin with"),
        ] {
            self.starts_in_vain(&store, reason);
        }
    }

    /// The database goes away and comes back; what is asked and started meanwhile says so.
    async fn goes_without(&mut self, server: &Server, store: &str) {
        server.crash();
        for path in ["/readyz", "/tasks", "/providers", "/metrics", "/admin/keys"] {
            self.ask(Method::GET, path, KEY, None).await;
        }
        let body = json!({"prompt": "a canary", "model": "flux-schnell"});
        let refused = self.ask(Method::POST, "/generate", KEY, Some(body)).await;
        assert_eq!(refused["code"], "store_unavailable", "{refused}");
        self.starts_in_vain(store, "cannot open the database");
        let (done, _, told) = output(&easel(self.folder.path(), &["keys", "list"]).output().unwrap());
        assert!(!done && told.contains("cannot open the database"), "{told}");
        self.said.push_str(&told);
        server.again();
        let back = async { while self.ask(Method::GET, "/readyz", KEY, None).await["ready"] != true {} };
        tokio::time::timeout(PATIENCE, back).await.expect("it finds the database again");
        // It is the password that opens.
        self.starts_in_vain(&store.replace(PASSWORD, &format!("{PASSWORD}-not")), "authentication failed");
    }
}

/// A server that asks for the canary's password, and where its database is.
async fn guarded() -> (Server, String) {
    let server = Server::start();
    server.sql(format!("CREATE ROLE canary LOGIN PASSWORD '{PASSWORD}'")).await;
    server.sql("CREATE DATABASE canary OWNER canary").await;
    // In the clear: what derives a proof from it is slow in a build for debugging, and shows less.
    let who = "host all canary 127.0.0.1/32 password\nhost all easel 127.0.0.1/32 trust\n";
    server.put("pg_hba.conf", who).await;
    server.crash();
    server.again();
    let mut url = server.url("canary");
    url.set_username("canary").unwrap();
    url.set_password(Some(PASSWORD)).unwrap();
    (server, url.to_string())
}

fn easel(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = crate::process::easel(arguments, folder);
    command.env("CANARY", PROVIDER_KEY);
    command
}

fn output(output: &Output) -> (bool, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

/// L1, L2, L3, L7.
#[rstest]
#[tokio::test]
async fn no_canary_sings(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let options = easel::simulator::Options {
        clock: std::sync::Arc::new(easel::domain::clock::SystemClock::start()),
        ledger: None,
        time_scale: 0.0,
        seed: 1,
        public_url: None,
    };
    let simulator = easel::simulator::Simulator::start(listen().await, options).await.unwrap();
    let sink = Sink::start(|_, _| Act::Status(200)).await;
    let server = if matches!(db, Db::Postgres) { Some(guarded().await) } else { None };
    let store = server.as_ref().map(|(_, url)| url.as_str());
    let collector = Collector::start().await;
    let more = format!("{}[log]\nlevel = \"trace\"\n", collector.configuration());
    let mut program = Program::start(store, &simulator.url(), &more).await;

    // Keys, made by both ways and used, wrong, exchanged and revoked.
    let wanted = json!({"name": "canary", "rpm": 10_000, "role": "admin"});
    let made = program.ask_secretly(Method::POST, "/admin/keys", KEY, Some(wanted)).await.1;
    let made: Value = serde_json::from_str(&made).unwrap();
    let (id, managed) = (made["id"].as_str().unwrap().to_owned(), made["key"].as_str().unwrap().to_owned());
    let wrong = easel::domain::key_text::KeyText::fresh_for(id.parse().unwrap()).text;
    let rotated = program.ask_secretly(Method::POST, &format!("/admin/keys/{id}/rotate"), KEY, None).await.1;
    let rotated = serde_json::from_str::<Value>(&rotated).unwrap()["key"].as_str().unwrap().to_owned();
    program.ask(Method::GET, "/tasks", &wrong, None).await;

    // Webhooks and their secrets.
    let hook =
        program.ask_secretly(Method::POST, "/webhooks", &managed, Some(json!({"url": sink.url}))).await.1;
    let hook: Value = serde_json::from_str(&hook).unwrap();
    let hook_id = hook["id"].as_str().unwrap().to_owned();
    let webhook_secret = hook["secret"].as_str().unwrap().trim_start_matches("whsec_").to_owned();
    let tenants = program.ask_secretly(Method::GET, "/webhooks/secret", &managed, None).await.1;
    let tenants = serde_json::from_str::<Value>(&tenants).unwrap()["secret"].as_str().unwrap().to_owned();
    program.ask(Method::POST, &format!("/webhooks/{hook_id}/test"), &managed, None).await;

    // Pictures by every provider, well and badly; providers that repeat the key they were given.
    let mut tasks = Vec::new();
    for (model, directive) in [
        ("flux-schnell", ""),
        ("gpt-4o-image", ""),
        ("gpt-image-1", ""),
        ("flux-dev", "[[sim: http=400 message=\"bad key {key}, Authorization: Bearer {key}\"]]"),
        ("gpt-4o-image", "[[sim: http=401 message=\"wrong key {key}\"]]"),
        ("gpt-image-1", "[[sim: http=400 message=\"no such key: {key}\"]]"),
        ("flux-schnell", "[[sim: fail=10000 reason=\"it failed\"]]"),
        ("flux-schnell", "[[sim: truncate=body]]"),
        ("gpt-4o-image", "[[sim: no_image]]"),
    ] {
        let body = json!({"prompt": format!("a canary {directive}"), "model": model, "size": "1024x1024",
            "webhook": {"url": sink.url}});
        let task = program.ask(Method::POST, "/generate", &managed, Some(body.clone())).await;
        if let Some(id) = task["id"].as_str() {
            // Where the key is repeated it is to be seen in the end; the others end or not.
            tasks.push((id.to_owned(), if directive.contains("{key}") { 30 } else { 2 }));
        }
        program.ask(Method::POST, "/generate/dry-run", &rotated, Some(body)).await;
    }
    assert!(tasks.len() >= 8, "{tasks:?}");
    for (id, wait) in &tasks {
        program.ask(Method::GET, &format!("/tasks/{id}?wait={wait}"), &managed, None).await;
        for more in ["", "/attempts", "/images/0"] {
            program.ask(Method::GET, &format!("/tasks/{id}{more}"), OTHER_KEY, None).await;
            program.ask(Method::GET, &format!("/tasks/{id}{more}"), KEY, None).await;
        }
    }
    assert!(program.said.contains("key [redacted]"), "the providers did repeat the key");
    for path in [
        "/tasks",
        "/webhooks",
        "/webhooks/deliveries",
        "/providers",
        "/models",
        "/admin/keys",
        "/admin/audit",
        "/openapi.json",
        "/healthz",
        "/readyz",
        "/metrics",
        "/usage",
        "/nothing",
    ] {
        program.ask(Method::GET, path, &managed, None).await;
    }
    program.ask(Method::POST, "/generate", &managed, Some(json!({"prompt": 1}))).await;
    program.ask(Method::GET, &format!("/tasks?key={managed}"), "x", None).await;
    // A configuration that cannot be read, and one that can.
    let file = program.folder.path().join("easel.toml");
    let good = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, good.replace("{ file = \"pepper\" }", &format!("\"{PEPPER}\" oops"))).unwrap();
    program.ask(Method::POST, "/admin/reload", &managed, None).await;
    let checked = output(&easel(program.folder.path(), &["check-config"]).output().unwrap());
    assert!(!checked.0);
    program.said.push_str(&checked.2);
    for text in [good.replace(PASSWORD, &format!("{PASSWORD}-another")), good] {
        std::fs::write(&file, text).unwrap();
        program.ask(Method::POST, "/admin/reload", &managed, None).await;
    }
    program.starts_nowhere();
    if let Some((server, url)) = &server {
        program.goes_without(server, url).await;
    }
    program.ask(Method::DELETE, &format!("/admin/keys/{id}"), KEY, None).await;

    // What it tells of all that: to the last request, and to the letters.
    let last = |span: &Told| span.name == "DELETE /admin/keys/{id}";
    let told = |spans: &[Told], name: &str| spans.iter().any(|span| span.name == name);
    collector
        .wait_until(|spans| spans.iter().any(last) && told(spans, "webhook.post") && told(spans, "attempt"))
        .await;
    let spans = collector.bytes();
    assert!(!String::from_utf8_lossy(&spans).contains("a canary"), "nor are prompts in it");

    let folder = program.folder.path();
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap_or_default();
    let database = match &server {
        Some((server, _)) => server.dump("canary").await.into_bytes(),
        None => [read("easel.db"), read("easel.db-wal")].concat(),
    };
    assert!(String::from_utf8_lossy(&database).contains("a canary"), "the tasks are there");
    let places = [
        ("answers", program.said.clone().into_bytes()),
        ("stdout", read("stdout")),
        ("stderr", read("stderr")),
        ("database", database),
        ("traces", spans),
        ("arguments", std::fs::read(format!("/proc/{}/cmdline", program.running.0.id())).unwrap()),
    ];
    assert!(places[2].1.len() > 100_000, "it logged everything");
    let (managed, rotated, wrong) = (&managed[40..], &rotated[40..], &wrong[40..]);
    let canaries = [
        ("provider key", PROVIDER_KEY),
        ("pepper", PEPPER),
        ("password of the database", PASSWORD),
        ("key of the configuration", KEY),
        ("other key of the configuration", OTHER_KEY),
        ("managed key", managed),
        ("its successor", rotated),
        ("wrong key", wrong),
        ("webhook secret", &webhook_secret),
        ("tenant's webhook secret", tenants.trim_start_matches("whsec_")),
    ];
    let mut found = Vec::new();
    for (place, bytes) in &places {
        let all = String::from_utf8_lossy(bytes);
        for (canary, text) in canaries {
            if let Some(at) = all.find(text) {
                let around = &all.as_bytes()[at.saturating_sub(200)..(at + text.len() + 20).min(all.len())];
                found.push(format!("{canary} in {place}: …{}…", String::from_utf8_lossy(around)));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
    // A core would hold them all: it leaves none.
    let id = program.running.0.id().to_string();
    assert!(Command::new("kill").args(["-QUIT", &id]).status().unwrap().success());
    let ended = program.running.0.wait().unwrap();
    assert_eq!((ended.signal(), ended.core_dumped()), (Some(3), false));
    simulator.stop().await;
}

/// `easel keys` works beside a gateway that runs, which knows of the change within five seconds.
#[tokio::test]
async fn keys_are_made_on_the_command_line() {
    let program = Program::start(None, "http://127.0.0.1:9", "").await;
    let folder = program.folder.path();
    let keys =
        |arguments: &[&str]| output(&easel(folder, &[&["keys"][..], arguments].concat()).output().unwrap());
    let (done, made, said) =
        keys(&["create", "ops", "--admin", "--rpm", "1000000", "--expires-at", "2100-01-01T00:00:00Z"]);
    assert!(done, "{said}");
    let key = made.trim();
    let becomes = async |key: &str, opens: bool| {
        let (url, begun) = (format!("{}/admin/keys", program.url), Instant::now());
        let changed = async {
            loop {
                let asked = begun.elapsed();
                let status = client().get(&url).bearer_auth(key).send().await.unwrap().status().as_u16();
                assert!(matches!(status, 200 | 401 | 429), "{status}");
                if (status == 200) == opens {
                    break;
                }
                assert!(
                    opens || asked <= Duration::from_secs(5),
                    "it opens {asked:?} after it was taken back"
                );
            }
        };
        tokio::time::timeout(PATIENCE, changed).await.expect("it is heard of");
    };
    becomes(key, true).await;
    let (done, rotated, said) = keys(&["rotate", "ops", "--overlap-s", "0"]);
    assert!(done, "{said}");
    becomes(key, false).await;
    becomes(rotated.trim(), true).await;
    let listed = keys(&["list"]).1;
    assert!(
        listed.contains("ops") && listed.contains("(configuration)") && listed.contains("opens until 2100"),
        "{listed}"
    );
    for (wrong, says) in [
        (&["create", "ops"][..], "another key is named"),
        (&["create", "test"][..], "another key is named"),
        (&["create", "a b", "--rpm", "0"][..], "rpm: must be at least 1"),
        (&["rotate", "nobody"][..], "no managed key"),
        (&["rotate", "ops", "--overlap-s", "4000000000"][..], "0..=2592000"),
        (&["revoke", "test"][..], "a key of the configuration"),
    ] {
        let (done, _, said) = keys(wrong);
        assert!(!done && said.contains(says), "{wrong:?}: {said}");
    }
    assert!(keys(&["revoke", "ops"]).0);
    becomes(rotated.trim(), false).await;
    assert!(keys(&["list"]).1.contains("revoked"));
    let entries = client().get(format!("{}/admin/audit?key=command-line", program.url)).bearer_auth(KEY);
    let entries: Value = entries.send().await.unwrap().json().await.unwrap();
    let acts: Vec<_> = entries["data"].as_array().unwrap().iter().map(|one| one["act"].clone()).collect();
    assert_eq!(acts, [json!("key.revoke"), json!("key.rotate"), json!("key.create")]);
}
