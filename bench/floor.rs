//! What there is to be measured against: a bare HTTP server that does the least of what Easel does. `POST /durable` answers
//! once one row is committed, many rows sharing a commit; `GET /tasks/{id}` answers from memory; `GET /through` passes on
//! what another server says, byte by byte.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{Connection, PgConnection, SqliteConnection};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

type Row = (String, Bytes, oneshot::Sender<()>);

/// The most rows in a commit.
const BATCH: usize = 512;
/// Where they go.
const CREATE: &str = "CREATE TABLE IF NOT EXISTS floor (id TEXT NOT NULL PRIMARY KEY, body TEXT NOT NULL)";

/// An answer's bytes, from memory or on their way.
type Answer = Response<UnsyncBoxBody<Bytes, reqwest::Error>>;

struct Floor {
    rows: mpsc::Sender<Row>,
    statuses: HashMap<String, Bytes>,
    upstream: Option<String>,
    http: reqwest::Client,
}

/// Serves until killed. `store` is where rows go; each line of `statuses` is one answer from memory; `upstream` is what is
/// passed on.
pub async fn serve(listen: &str, store: &str, statuses: &Path, upstream: Option<String>) -> Result<()> {
    let (rows, waiting) = mpsc::channel(4_096);
    if store.starts_with("postgres") {
        let mut conn = PgConnection::connect(store).await?;
        sqlx::query(CREATE).execute(&mut conn).await?;
        tokio::spawn(write_postgres(conn, waiting));
    } else {
        let mut conn = open(store).await?;
        sqlx::query(CREATE).execute(&mut conn).await?;
        tokio::spawn(write_sqlite(conn, waiting));
    }
    let mut known = HashMap::new();
    for line in std::fs::read_to_string(statuses)?.lines() {
        let task: serde_json::Value = serde_json::from_str(line)?;
        let id = task["id"].as_str().context("a status without an id")?;
        known.insert(format!("/tasks/{id}"), Bytes::copy_from_slice(line.as_bytes()));
    }
    let floor = Arc::new(Floor { rows, statuses: known, upstream, http: crate::client::http()? });
    let listener = TcpListener::bind(listen).await?;
    println!("the floor is there");
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let floor = Arc::clone(&floor);
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(Arc::clone(&floor), request));
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

fn whole(status: StatusCode, bytes: Bytes) -> Answer {
    let mut response = Response::new(Full::new(bytes).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response
}

async fn answer(floor: Arc<Floor>, request: Request<Incoming>) -> Result<Answer> {
    match (request.method(), request.uri().path()) {
        (&Method::POST, "/durable") => {
            let body = request.into_body().collect().await?.to_bytes();
            let (done, committed) = oneshot::channel();
            let id = ulid::Ulid::new().to_string();
            floor.rows.send((id, body.clone(), done)).await.ok().context("no writer")?;
            committed.await?;
            Ok(whole(StatusCode::ACCEPTED, body))
        }
        (&Method::GET, "/through") => {
            let upstream = floor.upstream.as_deref().context("nothing to pass on")?;
            let answer: http::Response<reqwest::Body> = floor.http.get(upstream).send().await?.into();
            let (head, body) = answer.into_parts();
            Ok(Response::from_parts(head, body.boxed_unsync()))
        }
        (_, path) => Ok(match floor.statuses.get(path) {
            Some(status) => whole(StatusCode::OK, status.clone()),
            None => whole(StatusCode::NOT_FOUND, Bytes::new()),
        }),
    }
}

async fn open(store: &str) -> Result<SqliteConnection> {
    let options: SqliteConnectOptions = store.parse()?;
    let options = options
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full);
    Ok(SqliteConnection::connect_with(&options).await?)
}

async fn write_sqlite(mut conn: SqliteConnection, mut waiting: mpsc::Receiver<Row>) {
    const PUT: &str = "INSERT INTO floor SELECT value ->> 0, value ->> 1 FROM json_each($1)";
    let mut batch: Vec<Row> = Vec::with_capacity(BATCH);
    while waiting.recv_many(&mut batch, BATCH).await > 0 {
        let rows: Vec<_> = batch.iter().map(|(id, body, _)| (id, String::from_utf8_lossy(body))).collect();
        let rows = serde_json::to_string(&rows).expect("strings are JSON");
        sqlx::query(PUT).bind(rows).execute(&mut conn).await.expect("the floor can write");
        batch.drain(..).for_each(|(.., done)| {
            let _ = done.send(());
        });
    }
}

async fn write_postgres(mut conn: PgConnection, mut waiting: mpsc::Receiver<Row>) {
    const PUT: &str = "INSERT INTO floor SELECT * FROM UNNEST($1::text[], $2::text[])";
    let mut batch: Vec<Row> = Vec::with_capacity(BATCH);
    while waiting.recv_many(&mut batch, BATCH).await > 0 {
        let (ids, bodies): (Vec<_>, Vec<_>) = batch
            .iter()
            .map(|(id, body, _)| (id.clone(), String::from_utf8_lossy(body).into_owned()))
            .unzip();
        sqlx::query(PUT).bind(ids).bind(bodies).execute(&mut conn).await.expect("the floor can write");
        batch.drain(..).for_each(|(.., done)| {
            let _ = done.send(());
        });
    }
}
