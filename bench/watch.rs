//! The two places where moments are taken: a caller's webhook, and a reverse proxy in front of the gateway's `/hooks/…`
//! that notes when a provider rang.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{Request, StatusCode};
use axum::routing::post;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::client::now_ms;

/// The largest body that is taken.
const MAX_BODY: usize = 1 << 20;

/// Moments by what they are moments of; the first of each.
type Moments = Arc<Mutex<HashMap<String, f64>>>;

fn note(moments: &Moments, what: &str, at: f64) {
    let mut moments = moments.lock().unwrap_or_else(PoisonError::into_inner);
    moments.entry(what.to_owned()).or_insert(at);
}

async fn body(request: Request<Body>) -> Bytes {
    axum::body::to_bytes(request.into_body(), MAX_BODY).await.unwrap_or_default()
}

/// A server on a port of its own that notes moments.
pub struct Watch {
    url: String,
    moments: Moments,
    _server: JoinSet<()>,
}

impl Watch {
    /// A webhook: when the head of each task's `task.succeeded` was there, by the first word of its prompt.
    pub async fn sink() -> Result<Self> {
        let moments = Moments::default();
        let router = Router::new().route("/sink", post(take)).with_state(Arc::clone(&moments));
        Self::serve(router, moments, "/sink").await
    }

    /// A server that answers everything with so many bytes.
    pub async fn file(length: usize) -> Result<Self> {
        let bytes = Bytes::from((0..length).map(|_| fastrand::u8(..)).collect::<Vec<_>>());
        let router = Router::new().fallback(move || async move { bytes.clone() });
        Self::serve(router, Moments::default(), "/file").await
    }

    /// A way to the gateway at `to`: when the head of each request was there, by its path.
    pub async fn proxy(to: String) -> Result<Self> {
        let moments = Moments::default();
        let way = Way { to, http: crate::client::http()?, moments: Arc::clone(&moments) };
        let router = Router::new().fallback(forward).with_state(way);
        Self::serve(router, moments, "").await
    }

    async fn serve(router: Router, moments: Moments, path: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}{path}", listener.local_addr()?);
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, router).await.expect("the watch serves") });
        Ok(Self { url, moments, _server: server })
    }

    /// Where it listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What was noted so far.
    pub fn moments(&self) -> HashMap<String, f64> {
        self.moments.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until so many were noted, or `patience` is over.
    pub async fn wait_for(&self, count: usize, patience: Duration) {
        let _ = tokio::time::timeout(patience, async {
            while self.moments.lock().unwrap_or_else(PoisonError::into_inner).len() < count {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        })
        .await;
    }
}

async fn take(State(moments): State<Moments>, request: Request<Body>) -> StatusCode {
    let at = now_ms();
    let json: Value = serde_json::from_slice(&body(request).await).unwrap_or_default();
    let prompt = json["data"]["task"]["prompt"].as_str().unwrap_or_default();
    match json["type"].as_str() {
        Some("task.succeeded") => note(&moments, prompt.split(' ').next().unwrap_or_default(), at),
        other => eprintln!("bench: {other:?} came for {prompt:?}"),
    }
    StatusCode::NO_CONTENT
}

#[derive(Clone)]
struct Way {
    to: String,
    http: reqwest::Client,
    moments: Moments,
}

async fn forward(State(way): State<Way>, request: Request<Body>) -> StatusCode {
    let (at, path, method) = (now_ms(), request.uri().path().to_owned(), request.method().clone());
    note(&way.moments, &path, at);
    let mut onward = way.http.request(method, format!("{}{path}", way.to));
    for name in ["content-type", "x-webhook-secret"] {
        if let Some(value) = request.headers().get(name) {
            onward = onward.header(name, value);
        }
    }
    let answer = onward.body(body(request).await).send().await;
    answer.map_or(StatusCode::BAD_GATEWAY, |answer| answer.status())
}
