//! One caller's HTTP: asks again with the same key when a connection is lost, and writes every promise down.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::fleet::{ADMIN_KEY, OTHER_KEY, OWNER_KEY};
use crate::journal::{Journal, Note};
use crate::order::Order;
use crate::world::canary;

/// How long a caller tries before it finds that odd.
const PATIENCE: Duration = Duration::from_secs(90);

/// How long one answer may take where nothing else is said.
pub const USUAL: Duration = Duration::from_secs(20);

/// A caller.
#[derive(Clone)]
pub struct Caller {
    http: reqwest::Client,
    urls: Arc<Vec<String>>,
    journal: Arc<Journal>,
    refusals: Arc<Mutex<Vec<Refusal>>>,
}

/// An answer with a status of 500 or more.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// When the request was sent.
    pub asked: Instant,
    /// When its answer had come.
    pub answered: Instant,
    /// The gateway that gave it.
    pub gateway: String,
    /// What was asked for.
    pub path: String,
    /// The status.
    pub status: StatusCode,
}

/// An answer, read whole.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub replayed: bool,
    /// The header `Retry-After`.
    pub retry_after: Option<String>,
    pub body: Value,
}

impl Answer {
    fn text(&self, name: &str) -> String {
        self.body[name].as_str().unwrap_or_default().to_owned()
    }
}

impl Caller {
    /// A caller of these gateways, who keeps this journal and waits so long for an answer.
    pub fn new(urls: Vec<String>, journal: Arc<Journal>, patience: Duration) -> Self {
        // A fresh connection for each request: a pooled one to a process that was killed only tests the client.
        let http = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0);
        let http = http.timeout(patience).build().expect("a client");
        Self { http, urls: Arc::new(urls), journal, refusals: Arc::default() }
    }

    /// The same caller at other gateways.
    pub fn at(&self, urls: Vec<String>) -> Self {
        Self { urls: Arc::new(urls), ..self.clone() }
    }

    /// What letters to addresses of this caller's requests are signed with.
    pub async fn webhook_secret(&self) -> anyhow::Result<String> {
        let answer = self.ask(Method::GET, "/webhooks/secret", OWNER_KEY, None).await?;
        anyhow::ensure!(answer.status.is_success(), "no webhook secret: {}", answer.status);
        Ok(answer.text("secret"))
    }

    /// Asks once.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        api_key: &str,
        order: Option<&Order>,
    ) -> reqwest::Result<Answer> {
        self.send(method, path, |request| {
            let request = request.bearer_auth(api_key);
            match order {
                Some(order) => request.header("idempotency-key", &order.key).json(&order.body),
                None => request,
            }
        })
        .await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        with: impl FnOnce(reqwest::RequestBuilder) -> reqwest::RequestBuilder,
    ) -> reqwest::Result<Answer> {
        let gateway = &self.urls[fastrand::usize(..self.urls.len())];
        let asked = Instant::now();
        let request = self.http.request(method, format!("{gateway}{path}"));
        let response = with(request).send().await?;
        let status = response.status();
        let replayed = response.headers().contains_key("idempotency-replayed");
        let retry_after = response.headers().get("retry-after");
        let retry_after = retry_after.and_then(|value| value.to_str().ok()).map(str::to_owned);
        if status.is_server_error() {
            let (answered, gateway) = (Instant::now(), gateway.clone());
            let refusal = Refusal { asked, answered, gateway, path: path.to_owned(), status };
            self.refusals.lock().unwrap_or_else(PoisonError::into_inner).push(refusal);
        }
        let text = response.text().await?;
        if let Some(found) = canary(&text) {
            self.journal.note(&Note::Leak { what: format!("the answer of {path} holds {found}") });
        }
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Ok(Answer { status, replayed, retry_after, body })
    }

    /// Every answer so far with a status of 500 or more.
    pub fn refusals(&self) -> Vec<Refusal> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Submits once; writes a promise down before anything else is done with it. `None` when nothing was promised.
    pub async fn submit_once(&self, order: &Order) -> Option<String> {
        let answer = self.ask(Method::POST, "/generate", OWNER_KEY, Some(order)).await.ok()?;
        self.taken(order, &answer)
    }

    /// The task that an answer promises, which is written down at once; `None` when nothing was promised.
    pub fn taken(&self, order: &Order, answer: &Answer) -> Option<String> {
        match answer.status {
            StatusCode::ACCEPTED | StatusCode::OK => {
                let id = answer.text("id");
                self.journal.note(&Note::Accepted {
                    id: id.clone(),
                    key: order.key.clone(),
                    token: order.token.clone(),
                    replayed: answer.replayed,
                });
                self.told(&id, answer);
                Some(id)
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                if answer.retry_after.is_none() {
                    self.odd(format!("POST /generate: {} without Retry-After", answer.status));
                }
                None
            }
            _ => {
                self.odd(format!("POST /generate: {} {}", answer.status, answer.body));
                None
            }
        }
    }

    /// Submits until it is promised, always with the same key.
    pub async fn submit(&self, order: &Order) -> Option<String> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Some(id) = self.submit_once(order).await {
                return Some(id);
            }
            tokio::time::sleep(Duration::from_millis(fastrand::u64(10..60))).await;
        }
        self.odd(format!("{} was not taken in within {PATIENCE:?}", order.token));
        None
    }

    /// Reads the task once; waits for its end up to `seconds` when that is not 0.
    pub async fn look(&self, id: &str, seconds: u32) -> Option<Answer> {
        let wait = if seconds > 0 { format!("?wait={seconds}") } else { String::new() };
        let answer = self.ask(Method::GET, &format!("/tasks/{id}{wait}"), OWNER_KEY, None).await.ok()?;
        match answer.status {
            StatusCode::OK => self.told(id, &answer),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => return None,
            status => self.odd(format!("GET {id}: {status} {}", answer.body)),
        }
        Some(answer)
    }

    /// The task's public status once it has ended; `None` when it has not within `patience`.
    pub async fn end(&self, id: &str, patience: Duration) -> Option<Value> {
        let begun = Instant::now();
        while begun.elapsed() < patience {
            match self.look(id, 5).await {
                Some(answer) if ended(&answer.text("status")) => return Some(answer.body),
                Some(answer) if answer.status != StatusCode::OK => return None,
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        None
    }

    /// Calls the task off.
    pub async fn cancel(&self, id: &str) {
        let Ok(answer) = self.ask(Method::POST, &format!("/tasks/{id}/cancel"), OWNER_KEY, None).await else {
            return;
        };
        match answer.status {
            StatusCode::OK | StatusCode::ACCEPTED => self.told(id, &answer),
            StatusCode::CONFLICT | StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {}
            status => self.odd(format!("cancel {id}: {status} {}", answer.body)),
        }
    }

    /// The id of the newest item of quarantine, as the operator lists it.
    pub async fn in_quarantine(&self) -> Option<String> {
        let answer = self.ask(Method::GET, "/admin/quarantine", ADMIN_KEY, None).await.ok()?;
        Some(answer.body["data"][0]["id"].as_str()?.to_owned())
    }

    /// The operator supplies a picture in place of an item of quarantine.
    pub async fn recover(&self, item: &str, picture: &[u8]) -> reqwest::Result<Answer> {
        let path = format!("/admin/quarantine/{item}/recover");
        let body = json!({"b64_json": STANDARD.encode(picture)});
        self.send(Method::POST, &path, |request| request.bearer_auth(ADMIN_KEY).json(&body)).await
    }

    /// Looks at the task with another tenant's key.
    pub async fn pry(&self, id: &str) {
        if let Ok(answer) = self.ask(Method::GET, &format!("/tasks/{id}"), OTHER_KEY, None).await {
            let http = answer.status.as_u16();
            if http != 503 && http != 429 {
                self.journal.note(&Note::Foreign { id: id.to_owned(), http });
            }
        }
    }

    fn told(&self, id: &str, answer: &Answer) {
        self.journal.note(&Note::Told { id: id.to_owned(), status: answer.text("status") });
    }

    fn odd(&self, what: String) {
        self.journal.note(&Note::Odd { what });
    }
}

/// Whether a public status is an end.
pub fn ended(status: &str) -> bool {
    matches!(status, "succeeded" | "failed" | "canceled")
}
