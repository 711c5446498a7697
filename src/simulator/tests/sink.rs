//! A caller's webhook endpoint.

use std::collections::VecDeque;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::routing::post;
use http::{HeaderMap, StatusCode};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::simulator::lock::Lock;

/// Takes letters in and answers with the statuses it was given, then with 200.
pub struct Sink {
    pub url: String,
    state: Arc<Received>,
    stop: CancellationToken,
}

#[derive(Default)]
struct Received {
    letters: Lock<Vec<(Option<String>, Value)>>,
    answers: Lock<VecDeque<u16>>,
}

impl Sink {
    pub async fn start(answers: &[u16]) -> Self {
        let state = Arc::new(Received::default());
        state.answers.lock().extend(answers);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let router = Router::new().route("/hook", post(take)).with_state(Arc::clone(&state));
        let stop = CancellationToken::new();
        let until = stop.clone();
        TaskTracker::new().spawn(async move {
            until.run_until_cancelled(axum::serve(listener, router).into_future()).await;
        });
        Self { url, state, stop }
    }

    /// The secrets and bodies received so far.
    pub fn letters(&self) -> Vec<(Option<String>, Value)> {
        self.state.letters.lock().clone()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn take(State(state): State<Arc<Received>>, headers: HeaderMap, body: String) -> StatusCode {
    let secret = headers.get("x-webhook-secret").map(|secret| secret.to_str().unwrap().to_owned());
    state.letters.lock().push((secret, serde_json::from_str(&body).unwrap()));
    StatusCode::from_u16(state.answers.lock().pop_front().unwrap_or(200)).unwrap()
}
