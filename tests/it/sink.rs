//! A receiver of webhooks that answers as a test tells it to and keeps every letter. It checks signatures as the
//! specification tells receivers to, age included.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use bytes::Bytes;
use easel::domain::clock::{Clock, Millis, SystemClock};
use easel::domain::webhook::Secret;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::harness::{PATIENCE, listen};

/// How a letter is answered.
#[derive(Debug, Clone)]
pub enum Act {
    Status(u16),
    /// With a header.
    With(u16, &'static str, String),
    /// Never.
    Hang,
    /// 200, and a body without end.
    Endless,
}

/// A letter that came.
#[derive(Debug, Clone)]
pub struct Letter {
    pub path: String,
    pub headers: HeaderMap,
    pub body: String,
    pub at: Millis,
}

impl Letter {
    pub fn id(&self) -> &str {
        self.headers["webhook-id"].to_str().unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// The event it tells.
    pub fn event(&self) -> String {
        self.json()["type"].as_str().unwrap().to_owned()
    }

    pub fn timestamp(&self) -> i64 {
        self.headers["webhook-timestamp"].to_str().unwrap().parse().unwrap()
    }

    /// Whether a receiver that knows `secret` takes it at `now`: one of the signatures holds, and it is at most five minutes old.
    pub fn verifies(&self, secret: &str, now: Millis) -> bool {
        let expected = Secret::parse(secret).unwrap().sign(self.id(), self.timestamp(), &self.body);
        let fresh = (now.0 / 1_000 - self.timestamp()).abs() <= 300;
        fresh && self.headers["webhook-signature"].to_str().unwrap().split(' ').any(|one| one == expected)
    }
}

type Script = Box<dyn Fn(&Letter, usize) -> Act + Send + Sync>;

struct Inside {
    script: Mutex<Script>,
    letters: Mutex<Vec<Letter>>,
    came: watch::Sender<usize>,
    open: Mutex<(usize, usize)>,
    clock: SystemClock,
}

/// A running receiver.
pub struct Sink {
    pub url: String,
    pub address: SocketAddr,
    inside: Arc<Inside>,
}

impl Sink {
    /// Answers every letter so.
    pub async fn saying(act: Act) -> Self {
        Self::start(move |_, _| act.clone()).await
    }

    /// Answers by letter, and by how many came before.
    pub async fn start(script: impl Fn(&Letter, usize) -> Act + Send + Sync + 'static) -> Self {
        Self::on(listen().await, script)
    }

    pub fn on(listener: TcpListener, script: impl Fn(&Letter, usize) -> Act + Send + Sync + 'static) -> Self {
        let address = listener.local_addr().unwrap();
        let inside = Arc::new(Inside {
            script: Mutex::new(Box::new(script)),
            letters: Mutex::default(),
            came: watch::Sender::new(0),
            open: Mutex::default(),
            clock: SystemClock::start(),
        });
        let router = Router::new().fallback(receive).with_state(Arc::clone(&inside));
        TaskTracker::new().spawn(easel::server::serve(listener, router, CancellationToken::new()));
        Self { url: format!("http://{address}/hook"), address, inside }
    }

    /// From now on it answers so.
    pub fn say(&self, act: Act) {
        *self.inside.script.lock().unwrap() = Box::new(move |_, _| act.clone());
    }

    /// Every letter so far.
    pub fn letters(&self) -> Vec<Letter> {
        self.inside.letters.lock().unwrap().clone()
    }

    /// The events told so far.
    pub fn events(&self) -> Vec<String> {
        self.letters().iter().map(Letter::event).collect()
    }

    /// Ids of all letters, each once.
    pub fn ids(&self) -> HashSet<String> {
        self.letters().iter().map(|letter| letter.id().to_owned()).collect()
    }

    /// Waits until so many came.
    pub async fn wait_for(&self, count: usize) -> Vec<Letter> {
        let mut came = self.inside.came.subscribe();
        let waiting = came.wait_for(|came| *came >= count);
        let waited = tokio::time::timeout(PATIENCE, waiting).await;
        assert!(waited.is_ok(), "expected {count} letters, got {:?}", self.events());
        self.letters()
    }

    /// The most letters that were being answered at the same time.
    pub fn most_at_once(&self) -> usize {
        self.inside.open.lock().unwrap().1
    }
}

struct Answering(Arc<Inside>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.open.lock().unwrap().0 -= 1;
    }
}

async fn receive(State(inside): State<Arc<Inside>>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let body = String::from_utf8(body.to_vec()).unwrap();
    let letter = Letter { path: uri.path().to_owned(), headers, body, at: inside.clock.now() };
    let _answering = {
        let mut open = inside.open.lock().unwrap();
        open.0 += 1;
        open.1 = open.1.max(open.0);
        Answering(Arc::clone(&inside))
    };
    let before = inside.letters.lock().unwrap().len();
    let act = (inside.script.lock().unwrap())(&letter, before);
    inside.letters.lock().unwrap().push(letter);
    inside.came.send_modify(|came| *came += 1);
    let answer = Response::builder();
    match act {
        Act::Status(status) => answer.status(status).body(Body::empty()).unwrap(),
        Act::With(status, name, value) => {
            answer.status(status).header(name, value).body(Body::empty()).unwrap()
        }
        Act::Hang => std::future::pending().await,
        Act::Endless => {
            let noise = futures_util::stream::repeat_with(|| {
                Ok::<_, std::convert::Infallible>(Bytes::from_static(&[b'x'; 8_192]))
            });
            answer.status(200).body(Body::from_stream(noise)).unwrap()
        }
    }
}
