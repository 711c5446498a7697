//! A proxy on the wire to Postgres. It cuts the connection at a COMMIT that was made durable and whose answer never arrives:
//! the caller learns nothing, asks again with its key, and there is one task and one paid call. Or it takes the whole server
//! away and brings it back. Postgres alone has a wire; SQLite answers inside the process.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::harness::{Answer, Db, Gateway, PATIENCE, fresh_postgres};
use crate::process::free_port;

/// No COMMIT is to be cut.
const NEVER: i64 = i64::MIN;

/// Stands between a gateway and its Postgres.
struct Wire {
    /// The database's address, by way of the proxy.
    url: String,
    plan: Arc<Plan>,
    address: SocketAddr,
    server: String,
    stop: CancellationToken,
    carrying: TaskTracker,
}

/// Which answer to a COMMIT is cut.
struct Plan {
    /// How many COMMITs that wrote to a table of interest pass before the one whose answer is cut.
    pass: AtomicI64,
    /// How many were cut.
    cut: AtomicUsize,
    /// What their transactions must have sent.
    statement: &'static str,
}

impl Wire {
    /// Before `database`; counts the transactions that sent a statement which begins so.
    async fn before(database: &str, statement: &'static str) -> Self {
        let mut url = url::Url::parse(database).unwrap();
        let server = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
        let listener = TcpListener::bind(free_port().await).await.unwrap();
        let address = listener.local_addr().unwrap();
        url.set_port(Some(address.port())).unwrap();
        // Bytes that are to be read cannot be sealed.
        url.set_query(Some("sslmode=disable"));
        let plan = Plan { pass: AtomicI64::new(NEVER), cut: AtomicUsize::new(0), statement };
        let mut wire = Self {
            url: url.to_string(),
            plan: Arc::new(plan),
            address,
            server,
            stop: CancellationToken::new(),
            carrying: TaskTracker::new(),
        };
        wire.open(listener);
        wire
    }

    fn open(&mut self, listener: TcpListener) {
        (self.stop, self.carrying) = (CancellationToken::new(), TaskTracker::new());
        let (carrying, stop) = (self.carrying.clone(), self.stop.clone());
        let (server, plan) = (self.server.clone(), Arc::clone(&self.plan));
        self.carrying.spawn(async move {
            while let Some(Ok((client, _))) = stop.run_until_cancelled(listener.accept()).await {
                let (server, plan, stop) = (server.clone(), Arc::clone(&plan), stop.clone());
                carrying.spawn(async move {
                    let server = TcpStream::connect(server).await.unwrap();
                    stop.run_until_cancelled(carry(client, server, &plan)).await;
                });
            }
        });
    }

    /// Hangs up on everybody and refuses whoever comes.
    async fn leave(&self) {
        self.stop.cancel();
        self.carrying.close();
        self.carrying.wait().await;
    }

    /// Takes connections again, at the same address.
    async fn come_back(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.open(listener);
    }

    /// The database, for a gateway.
    fn db(&self) -> Db {
        // As long as the test's own process.
        Db::At(self.url.clone().leak())
    }

    /// Lets so many COMMITs pass and cuts the answer to the next.
    fn cut_after(&self, pass: i64) {
        self.plan.pass.store(pass, Ordering::SeqCst);
    }

    fn cuts(&self) -> usize {
        self.plan.cut.load(Ordering::SeqCst)
    }
}

/// Carries messages both ways, until either side hangs up or the one answer is due that is not to arrive.
async fn carry(mut client: TcpStream, mut server: TcpStream, plan: &Plan) {
    let (mut asked, mut answered) = (Messages::starting(), Messages::default());
    let (mut to_server, mut to_client) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
    // Names of the prepared statements of interest, and whether the transaction has sent one.
    let (mut prepared, mut wrote) = (HashSet::new(), false);
    loop {
        tokio::select! {
            read = client.read(&mut to_server) => {
                let Ok(count @ 1..) = read else { return };
                for (kind, body) in asked.read(&to_server[..count]) {
                    match kind {
                        b'P' => {
                            let mut texts = body.split(|byte| *byte == 0);
                            let (name, sql) = (texts.next().unwrap().to_vec(), texts.next().unwrap());
                            if sql.starts_with(plan.statement.as_bytes()) {
                                prepared.insert(name);
                            }
                        }
                        b'B' => {
                            // The portal's name, then the statement's.
                            let name = body.split(|byte| *byte == 0).nth(1).unwrap();
                            wrote |= prepared.contains(name);
                        }
                        _ => {}
                    }
                }
                if server.write_all(&to_server[..count]).await.is_err() { return }
            }
            read = server.read(&mut to_client) => {
                let Ok(count @ 1..) = read else { return };
                for (kind, body) in answered.read(&to_client[..count]) {
                    let done = kind == b'C' && body == b"COMMIT\0";
                    if done && std::mem::take(&mut wrote) && plan.pass.fetch_sub(1, Ordering::SeqCst) == 0 {
                        plan.cut.fetch_add(1, Ordering::SeqCst);
                        // Neither side hears more: the server has committed, the gateway will never know from here.
                        return;
                    }
                    wrote &= !(kind == b'C' && body == b"ROLLBACK\0");
                }
                if client.write_all(&to_client[..count]).await.is_err() { return }
            }
        }
    }
}

/// The messages in a stream of bytes: a letter, a length that counts itself, a body. The first of a client has no letter.
#[derive(Default)]
struct Messages {
    waiting: Vec<u8>,
    starting: bool,
}

impl Messages {
    fn starting() -> Self {
        Self { starting: true, ..Self::default() }
    }

    /// The messages that these bytes complete.
    fn read(&mut self, bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
        self.waiting.extend_from_slice(bytes);
        let mut messages = Vec::new();
        loop {
            let letter = usize::from(!self.starting);
            let Some(length) = self.waiting.get(letter..letter + 4) else { return messages };
            let length = u32::from_be_bytes(length.try_into().unwrap()) as usize;
            if self.waiting.len() < letter + length {
                return messages;
            }
            let message: Vec<u8> = self.waiting.drain(..letter + length).collect();
            messages.push((if letter == 1 { message[0] } else { 0 }, message[letter + 4..].to_vec()));
            self.starting = false;
        }
    }
}

fn body(prompt: &str) -> String {
    json!({"prompt": prompt, "model": "flux-schnell", "size": "64x64"}).to_string()
}

async fn submit(gateway: &Gateway, key: &str, body: &str) -> Answer {
    gateway.send(reqwest::Method::POST, "/generate", &[("idempotency-key", key)], Some(body)).await
}

/// Works until the task has ended, whatever the database says in between.
async fn settle(gateway: &Gateway, id: &str) -> Value {
    for _ in 0..500 {
        let worked = gateway.app.engine.run_until_idle().await.is_ok();
        let task = gateway.get(&format!("/tasks/{id}")).await;
        if task.status == StatusCode::OK && !task.json()["finished_at"].is_null() {
            return task.json();
        }
        if worked {
            gateway.advance_to_next().await;
        }
    }
    panic!("the task never ends: {}", gateway.task(id).await);
}

#[tokio::test]
async fn an_accept_whose_commit_is_not_answered_is_found_again_by_its_key() {
    let database = fresh_postgres().await;
    let wire = Wire::before(&database, "INSERT INTO tasks").await;
    let gateway = Gateway::start(wire.db()).await;
    let body = body("a cat");
    wire.cut_after(0);
    let lost = submit(&gateway, "the-key", &body).await;
    assert_eq!(lost.status, StatusCode::SERVICE_UNAVAILABLE, "nothing is promised that is not known");
    assert_eq!(lost.json()["code"], "store_unavailable");
    assert!(lost.header("retry-after").is_some());
    assert_eq!(wire.cuts(), 1);
    // Before anything else happens the task is there: the commit was durable, its answer was not.
    let again = submit(&gateway, "the-key", &body).await;
    assert_eq!((again.status, again.header("idempotency-replayed")), (StatusCode::ACCEPTED, Some("true")));
    let id = again.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(settle(&gateway, &id).await["status"], "succeeded");
    let third = submit(&gateway, "the-key", &body).await;
    assert_eq!(third.json()["id"], id.as_str());
    let listed = gateway.get("/tasks").await.json();
    assert_eq!((listed["data"].as_array().unwrap().len(), gateway.receptions()), (1, 1), "{listed}");
    gateway.stop().await;
}

/// Whichever COMMIT of a task's life is not answered: the task ends, is one, and was paid for once at most. A lost answer to
/// the intent's own commit leaves an intent that was never sent, which is called unknown rather than sent on a guess.
#[tokio::test]
async fn no_commit_of_a_tasks_life_needs_its_answer() {
    let database = fresh_postgres().await;
    let wire = Wire::before(&database, "UPDATE tasks SET").await;
    let gateway = Gateway::start(wire.db()).await;
    let mut ends = Vec::new();
    for pass in 0..16 {
        let (cuts, paid) = (wire.cuts(), gateway.receptions());
        let answer =
            submit(&gateway, &format!("key {pass}").replace(' ', "-"), &body(&format!("cat {pass}"))).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.json());
        wire.cut_after(pass);
        let task = settle(&gateway, answer.json()["id"].as_str().unwrap()).await;
        if wire.cuts() == cuts {
            // The life of a task has fewer commits than this.
            break;
        }
        let end = task["error"]["code"].as_str().unwrap_or("succeeded").to_owned();
        let paid = gateway.receptions() - paid;
        assert!(
            matches!((end.as_str(), paid), ("succeeded", 1) | ("outcome_unknown", 0 | 1)),
            "{pass}: {paid} {task}"
        );
        ends.push(end);
    }
    assert!(ends.len() >= 5, "{ends:?}");
    assert!(ends.iter().filter(|end| *end != "succeeded").count() <= 2, "{ends:?}");
    gateway.stop().await;
}

/// How many connections of `database` listen for news.
async fn listeners(database: &str) -> i64 {
    const SQL: &str =
        "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'";
    let mut conn = PgConnection::connect(database).await.unwrap();
    sqlx::query_scalar(SQL).fetch_one(&mut conn).await.unwrap()
}

/// Callers are told at once that nothing is taken in, and no later than the pool's own patience the first time; once it is
/// back tasks are taken in, and news are listened for, without a restart.
#[tokio::test]
async fn a_database_that_goes_away_is_missed_at_once_and_found_again() {
    let database = fresh_postgres().await;
    let mut wire = Wire::before(&database, "INSERT INTO tasks").await;
    let gateway = Gateway::start(wire.db()).await;
    let first = gateway.generate(&body("before")).await;
    wire.leave().await;
    let mut took = Vec::new();
    for n in 0..20 {
        let begun = Instant::now();
        let refused = submit(&gateway, "while-away", &body("while it is away")).await;
        took.push(begun.elapsed());
        assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "{n}");
        assert_eq!(refused.json()["code"], "store_unavailable");
        assert!(refused.header("retry-after").is_some());
    }
    // The machine may have been away for a moment, too.
    assert!(took.iter().filter(|took| **took > Duration::from_secs(3)).count() <= 2, "{took:?}");
    assert_eq!(gateway.get("/readyz").await.status, StatusCode::SERVICE_UNAVAILABLE);
    wire.come_back().await;
    let found = async {
        loop {
            let answer = submit(&gateway, "while-away", &body("while it is away")).await;
            if answer.status == StatusCode::ACCEPTED && listeners(&database).await == 1 {
                return answer.json();
            }
        }
    };
    let second = tokio::time::timeout(PATIENCE, found).await.expect("it is found again");
    let ready = async { while gateway.get("/readyz").await.status != StatusCode::OK {} };
    tokio::time::timeout(PATIENCE, ready).await.expect("it is ready again");
    for task in [first, second] {
        assert_eq!(settle(&gateway, task["id"].as_str().unwrap()).await["status"], "succeeded");
    }
    assert_eq!(gateway.receptions(), 2, "nothing that was refused was bought");
    gateway.stop().await;
}
