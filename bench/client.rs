//! A caller: submits and cancels, and reads the simulator's books.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::world::{KEY, World};

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Milliseconds since the epoch: the clock that the simulator, the gateway and this program share.
pub fn now_ms() -> f64 {
    SystemTime::UNIX_EPOCH.elapsed().expect("the clock is past 1970").as_secs_f64() * 1_000.0
}

/// A client without a proxy and without endless waits.
pub fn http() -> Result<reqwest::Client> {
    Ok(reqwest::Client::builder().no_proxy().timeout(PATIENCE).build()?)
}

/// What the simulator knows of one order.
pub struct Reception {
    /// When its last byte was there.
    pub at_ms: f64,
    /// The provider's own id for it.
    pub upstream_id: String,
    /// The path of the callback that was asked for; empty without one.
    pub bell: String,
}

/// A caller of one gateway.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    url: String,
    simulator: String,
}

impl Client {
    /// Of this world's gateway.
    pub fn of(world: &World) -> Result<Self> {
        Self::at(world, 0)
    }

    /// Of one of this world's gateways.
    pub fn at(world: &World, gateway: usize) -> Result<Self> {
        let url = format!("http://{}", world.address_of(gateway));
        Ok(Self { http: http()?, url, simulator: world.simulator().to_owned() })
    }

    /// Submits a small picture that takes so long; its prompt begins with `token`. Returns the task's id.
    pub async fn submit(&self, token: &str, seconds: f64, webhook: Option<&str>) -> Result<String> {
        self.submit_with(token, &format!("time={seconds:.3}"), webhook).await
    }

    /// The same with other words for the simulator.
    pub async fn submit_with(&self, token: &str, words: &str, webhook: Option<&str>) -> Result<String> {
        let prompt = format!("{token} [[sim: picture=64x64 {words}]] a little cat");
        let mut body = json!({"prompt": prompt, "model": "flux-schnell", "size": "64x64"});
        if let Some(url) = webhook {
            body["webhook"] = json!({"url": url});
        }
        let request = self.http.post(format!("{}/generate", self.url)).bearer_auth(KEY).json(&body);
        let answer = request.send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        ensure!(status == StatusCode::ACCEPTED, "POST /generate: {status} {text}");
        let task: Value = serde_json::from_str(&text)?;
        Ok(task["id"].as_str().context("a task without an id")?.to_owned())
    }

    /// Waits until a task has ended; its status.
    pub async fn ended(&self, id: &str) -> Result<String> {
        let asked = self.http.get(format!("{}/tasks/{id}?wait=20", self.url)).bearer_auth(KEY).send().await?;
        let task: Value = asked.error_for_status()?.json().await?;
        Ok(task["status"].as_str().unwrap_or_default().to_owned())
    }

    /// What the gateway answers at this path.
    pub async fn get(&self, path: &str) -> Result<Value> {
        let asked = self.http.get(format!("{}{path}", self.url)).bearer_auth(KEY).send().await?;
        Ok(asked.error_for_status()?.json().await?)
    }

    /// How many tasks were taken in, and how many of them succeeded.
    pub async fn counts(&self) -> Result<(f64, f64)> {
        let usage = self.get("/usage").await?;
        let count =
            |name: &str| usage["total"][name].as_f64().with_context(|| format!("no {name} in /usage"));
        Ok((count("tasks")?, count("succeeded")?))
    }

    /// Calls a task off.
    pub async fn cancel(&self, id: &str) -> Result<()> {
        let answer =
            self.http.post(format!("{}/tasks/{id}/cancel", self.url)).bearer_auth(KEY).send().await?;
        let status = answer.status();
        ensure!(status.is_success(), "POST /tasks/{id}/cancel: {status} {}", answer.text().await?);
        Ok(())
    }

    /// The simulator's ledger, by the tokens in the prompts.
    pub async fn ledger(&self) -> Result<HashMap<String, Reception>> {
        let ledger = self.simulated("/_sim/ledger").await?;
        let receptions = ledger["receptions"].as_array().context("no receptions")?;
        Ok(receptions.iter().map(reception).collect())
    }

    /// How often each job was asked about, by the provider's id.
    pub async fn polls(&self) -> Result<HashMap<String, f64>> {
        Ok(serde_json::from_value(self.simulated("/_sim/polls").await?)?)
    }

    async fn simulated(&self, path: &str) -> Result<Value> {
        let answer = self.http.get(format!("{}{path}", self.simulator)).send().await?;
        Ok(answer.error_for_status()?.json().await?)
    }
}

fn reception(json: &Value) -> (String, Reception) {
    let text = |name: &str| json[name].as_str().unwrap_or_default();
    let token = text("prompt_head").split(' ').next().unwrap_or_default().to_owned();
    let bell = url::Url::parse(text("correlation")).map(|url| url.path().to_owned()).unwrap_or_default();
    let at_ms = json["at"].as_f64().unwrap_or_default();
    (token, Reception { at_ms, upstream_id: text("upstream_id").to_owned(), bell })
}
