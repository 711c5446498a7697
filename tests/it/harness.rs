//! A gateway on a free port with a database of its own, the simulator behind it and a clock that tests move by hand.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use easel::app::{App, Surroundings};
use easel::blobs::space::FreeSpace;
use easel::config::Config;
use easel::domain::clock::{Clock, Millis, SystemClock, TestClock};
use easel::simulator::{Options, Simulator};
use reqwest::{Method, StatusCode, header};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::disk::Disk;
pub use crate::rows::fresh_postgres;
use crate::rows::store_url;
use crate::stage::{ONLY, configuration};
use crate::trap::Names;

/// How long a test waits for what is sure to come: only what hangs meets it.
pub const PATIENCE: Duration = Duration::from_mins(1);
/// A key that opens every test gateway.
pub const KEY: &str = "easel_test_0123456789abcdef";
/// The key of another tenant.
pub const OTHER_KEY: &str = "easel_other_0123456789abcdef";

/// A public address that stands for the one the test gateway gets.
pub const ITSELF: &str = "http://itself.invalid";

/// Which database a test runs on.
#[derive(Debug, Clone, Copy)]
pub enum Db {
    Sqlite,
    Postgres,
    At(&'static str),
}

/// A gateway under test.
pub struct Gateway {
    pub url: String,
    pub clock: Arc<TestClock>,
    pub simulator: Simulator,
    pub disk: Arc<Disk>,
    pub app: App,
    pub config: Config,
    time: Arc<dyn Clock>,
    folder: TempDir,
    http: reqwest::Client,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// A gateway that listens.
pub struct Served {
    pub url: String,
    pub app: App,
    disk: Arc<Disk>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Served {
    async fn open(config: &Config, clock: Arc<dyn Clock>) -> Self {
        let disk = Arc::new(Disk::new());
        let listener = listen().await;
        let address = listener.local_addr().unwrap();
        let space = Arc::clone(&disk) as Arc<dyn FreeSpace>;
        let around = Surroundings { clock, lookup: Arc::new(Names::default()), space, migrate: true };
        let mut config = config.clone();
        if config.server.public_url == ITSELF {
            config.server.public_url = format!("http://{address}");
        }
        let app = App::open(&config, address, around).await.unwrap();
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn(easel::server::serve(listener, app.router.clone(), stop.clone()));
        Self { url: format!("http://{address}"), app, disk, stop, tasks }
    }

    pub async fn stop(self) {
        self.stop.cancel();
        self.app.close().await;
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// An answer, read.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: header::HeaderMap,
    pub bytes: Vec<u8>,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.bytes)))
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

impl Gateway {
    /// A gateway whose loops stand still: the test moves its clock and its engine.
    pub async fn start(db: Db) -> Self {
        Self::configured(db, "").await
    }

    /// The same, with more configuration.
    pub async fn configured(db: Db, more: &str) -> Self {
        // What the gateway complains of is shown with a failing test.
        let _ = tracing_subscriber::fmt().with_env_filter("easel=error").with_test_writer().try_init();
        let clock = Arc::new(TestClock::at(Millis(1_790_000_000_000)));

        Self::with_clock(db, more, Arc::clone(&clock), Arc::clone(&clock) as Arc<dyn Clock>).await
    }

    /// A gateway with just these providers.
    pub async fn only(db: Db, providers: &str) -> Self {
        Self::configured(db, &format!("{ONLY}{providers}")).await
    }

    /// A gateway that runs by itself in real time, on upstreams that are done at once.
    pub async fn live(db: Db) -> Self {
        Self::live_configured(db, "").await
    }

    /// The same, with more configuration.
    pub async fn live_configured(db: Db, more: &str) -> Self {
        let idle = Arc::new(TestClock::at(Millis(0)));
        let gateway = Self::with_clock(db, more, idle, Arc::new(SystemClock::start())).await;
        gateway.app.engine.start();
        gateway
    }

    async fn with_clock(db: Db, more: &str, test_clock: Arc<TestClock>, clock: Arc<dyn Clock>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options =
            Options { clock: Arc::clone(&clock), ledger: None, time_scale: 0.0, seed: 1, public_url: None };
        let simulator = Simulator::start(listen().await, options).await.unwrap();
        let file = folder.path().join("easel.toml");
        let text = configuration(&store_url(db, &folder).await, &simulator.url(), &folder, more);
        std::fs::write(&file, text).unwrap();
        let config = Config::load(Some(&file), &BTreeMap::new()).unwrap();
        Self::open(config, simulator, folder, test_clock, clock).await
    }

    async fn open(
        config: Config,
        simulator: Simulator,
        folder: TempDir,
        test_clock: Arc<TestClock>,
        time: Arc<dyn Clock>,
    ) -> Self {
        let Served { url, app, disk, stop, tasks } = Served::open(&config, Arc::clone(&time)).await;
        Self {
            url,
            clock: test_clock,
            simulator,
            disk,
            app,
            config,
            time,
            folder,
            http: client(),
            stop,
            tasks,
        }
    }

    /// The gateway stopped and started again, over the same database and the same pictures.
    pub async fn restart(self) -> Self {
        self.restart_after(async |_| {}).await
    }

    /// The same, after something was done with its configuration while it was down.
    pub async fn restart_after(mut self, act: impl AsyncFnOnce(&mut Config)) -> Self {
        self.stop.cancel();
        self.app.close().await;
        self.tasks.close();
        self.tasks.wait().await;
        // With the last handle on it the database is free again.
        drop(self.app);
        act(&mut self.config).await;
        Self::open(self.config, self.simulator, self.folder, self.clock, self.time).await
    }

    /// Another gateway over the same database; on SQLite there can be none.
    pub async fn replica(&self) -> Served {
        Served::open(&self.config, Arc::clone(&self.time)).await
    }

    /// Sends a request with the usual key.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&str>,
    ) -> Answer {
        self.send_bytes(method, path, headers, body.map(|body| body.as_bytes().to_vec())).await
    }

    /// Uploads bytes.
    pub async fn upload(&self, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Answer {
        self.send_bytes(Method::POST, path, headers, Some(body)).await
    }

    async fn send_bytes(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<Vec<u8>>,
    ) -> Answer {
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        if !headers.iter().any(|(name, _)| matches!(*name, "authorization" | "x-api-key")) {
            request = request.header("authorization", format!("Bearer {KEY}"));
        }
        if let Some(body) = body {
            request = request.body(body);
            if !headers.iter().any(|(name, _)| *name == "content-type") {
                request = request.header("content-type", "application/json");
            }
        }
        for (name, value) in headers.iter().filter(|(_, value)| !value.is_empty()) {
            request = request.header(*name, *value);
        }
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        Answer { status, headers, bytes: response.bytes().await.unwrap().to_vec() }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], None).await
    }

    pub async fn post(&self, path: &str, body: &str) -> Answer {
        self.send(Method::POST, path, &[], Some(body)).await
    }

    /// Asks for pictures and expects the task to be taken in.
    pub async fn generate(&self, body: &str) -> Value {
        let answer = self.post("/generate", body).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.json());
        answer.json()
    }

    /// The task.
    pub async fn task(&self, id: &str) -> Value {
        let answer = self.get(&format!("/tasks/{id}")).await;
        assert_eq!(answer.status, StatusCode::OK);
        answer.json()
    }

    /// The task's attempts.
    pub async fn attempts(&self, id: &str) -> Vec<Value> {
        self.get(&format!("/tasks/{id}/attempts")).await.json()["data"].as_array().unwrap().clone()
    }

    /// Adds a rule to the simulator.
    pub async fn rule(&self, rule: &Value) {
        let url = format!("{}/_sim/rules", self.simulator.url());
        let answer = self
            .http
            .post(url)
            .header("content-type", "application/json")
            .body(rule.to_string())
            .send()
            .await;
        assert!(answer.unwrap().status().is_success(), "{rule}");
    }

    /// [`Self::settle`] for a task of another tenant.
    pub async fn settle_for(&self, headers: &[(&str, &str)], id: &str) -> Value {
        for _ in 0..100 {
            self.app.engine.run_until_idle().await.unwrap();
            let task = self.send(Method::GET, &format!("/tasks/{id}"), headers, None).await.json();
            if !task["finished_at"].is_null() {
                return task;
            }
            self.advance_to_next().await;
        }
        panic!("the task never ends");
    }

    /// Lets the engine work and moves the clock to each next moment until the task has ended.
    pub async fn settle(&self, id: &str) -> Value {
        for _ in 0..2_000 {
            self.app.engine.run_until_idle().await.unwrap();
            let task = self.task(id).await;
            if matches!(task["status"].as_str(), Some("succeeded" | "failed" | "canceled")) {
                return task;
            }
            self.advance_to_next().await;
        }
        panic!("the task never ends: {}", self.task(id).await);
    }

    /// Asks for pictures and waits for the end.
    pub async fn run(&self, body: &str) -> Value {
        let task = self.generate(body).await;
        self.settle(task["id"].as_str().unwrap()).await
    }

    /// Moves the clock to the next moment at which something is due.
    pub async fn advance_to_next(&self) {
        let now = self.clock.now();
        let next = self.app.store.owing().await.unwrap().next();
        let next = next.map_or(Duration::from_secs(1), |next| next.since(now));
        self.clock.advance(next.max(Duration::from_millis(1)));
    }

    /// Moves the clock to the moment at which the next webhook is due, and sends what is.
    pub async fn next_letters(&self) {
        let next = self.app.store.next_delivery().await.unwrap().expect("a webhook is owed");
        self.clock.advance(next.since(self.clock.now()));
        self.app.engine.run_until_idle().await.unwrap();
    }

    /// Where its database is.
    pub fn store_url(&self) -> &str {
        &self.config.store.url
    }

    /// The test's own folder: the pictures lie in `blobs` there.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Keeps everybody from writing tasks, while they can be read, until what is answered is dropped.
    pub async fn lock_tasks(&self) -> Lock {
        self.lock("tasks").await
    }

    /// The same for any table. SQLite has no locks but for the whole.
    pub async fn lock(&self, table: &'static str) -> Lock {
        use sqlx::{Connection, Executor};
        let url = &self.config.store.url;
        if url.starts_with("postgres") {
            let mut conn = sqlx::PgConnection::connect(url).await.unwrap();
            let lock = format!("BEGIN; LOCK TABLE {table} IN EXCLUSIVE MODE");
            sqlx::raw_sql(sqlx::AssertSqlSafe(lock)).execute(&mut conn).await.unwrap();
            Lock::Postgres(conn)
        } else {
            let mut conn = sqlx::SqliteConnection::connect(url).await.unwrap();
            conn.execute("BEGIN IMMEDIATE").await.unwrap();
            Lock::Sqlite(conn)
        }
    }

    /// Paid requests the upstreams received.
    pub fn receptions(&self) -> usize {
        self.simulator.ledger().len()
    }

    /// Stops everything.
    pub async fn stop(self) {
        self.stop.cancel();
        self.app.close().await;
        self.tasks.close();
        self.tasks.wait().await;
        self.simulator.stop().await;
    }
}

/// Holds a lock for as long as it lives: a connection that ends gives its locks back.
pub enum Lock {
    Sqlite(#[expect(dead_code, reason = "held, not used")] sqlx::SqliteConnection),
    Postgres(#[expect(dead_code, reason = "held, not used")] sqlx::PgConnection),
}

/// A client of our own making.
#[expect(clippy::disallowed_methods, reason = "a caller of the gateway, not a part of it")]
pub fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

pub async fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}
