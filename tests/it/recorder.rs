//! An upstream that writes down what it is sent and refuses it.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use serde_json::Value;

use crate::harness::listen;

type Seen = Arc<Mutex<Vec<(String, Value)>>>;

/// A running recorder.
pub struct Recorder {
    pub url: String,
    seen: Seen,
}

impl Recorder {
    pub async fn start() -> Self {
        let seen = Seen::default();
        let listener = listen().await;
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(record).with_state(Arc::clone(&seen));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let listener = listener.into_std().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                easel::server::serve(listener, router, tokio_util::sync::CancellationToken::new()).await;
            });
        });
        Self { url, seen }
    }

    /// Path and body of the last request.
    pub fn last(&self) -> (String, Value) {
        self.seen.lock().unwrap().last().cloned().expect("a request was sent")
    }
}

async fn record(State(seen): State<Seen>, uri: Uri, body: String) -> StatusCode {
    seen.lock().unwrap().push((uri.path().to_owned(), serde_json::from_str(&body).unwrap()));
    StatusCode::BAD_REQUEST
}
