//! Takes the Postgres server away in the middle of the load (`pg_ctl -m immediate stop`: no connection is ended in order,
//! and the server recovers from its log) and brings it back a few seconds later. Meanwhile every gateway is asked to take
//! tasks in, again and again: how soon it says that it cannot, and how soon after the server's return it can.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use reqwest::{Method, StatusCode};
use sqlx::{Connection, PgConnection};
use tokio::task::JoinSet;

use crate::caller::Caller;
use crate::checker::Finding;
use crate::fleet::{Fleet, OWNER_KEY};
use crate::nemesis::{aim, lull};
use crate::order::Order;

/// A round: from one crash to the next.
const ROUND: Duration = Duration::from_secs(15);
/// How long a caller may wait to hear that nothing is taken in.
const TOLD_WITHIN: Duration = Duration::from_secs(1);
/// How soon after the server's return tasks must be taken in again.
const RESUMED_WITHIN: Duration = Duration::from_secs(5);
/// Between two requests to the same gateway.
const PAUSE: Duration = Duration::from_millis(50);

/// One answer to `POST /generate` while the server was away.
#[derive(Debug, Clone)]
struct Told {
    /// `None` where there was no answer at all.
    status: Option<StatusCode>,
    retry_after: bool,
    took: Duration,
}

/// One outage.
#[derive(Debug)]
pub struct Outage {
    /// Whether it followed a line of the ledger, and after how many microseconds it was aimed.
    pub after_reception: Option<u64>,
    /// From the crash until the server answered again.
    pub away: Duration,
    /// From there until each gateway had taken a task in.
    pub resumed: Vec<Duration>,
    told: Vec<Told>,
}

/// A private Postgres, as `script/pg` keeps it in a folder.
#[derive(Debug, Clone)]
pub struct Server {
    folder: PathBuf,
    url: String,
}

impl Server {
    /// The one in this folder, which answers at `url`.
    pub fn at(folder: &Path, url: &str) -> Self {
        Self { folder: folder.to_owned(), url: url.to_owned() }
    }

    async fn script(&self, act: &'static str) -> Result<()> {
        let folder = self.folder.clone();
        let script = move || {
            Command::new("script/pg").arg(act).arg(folder).status().context("script/pg cannot be run")
        };
        let status = tokio::task::spawn_blocking(script).await??;
        ensure!(status.success(), "script/pg {act}: {status}");
        Ok(())
    }

    /// Starts it again; answers at the moment it does.
    async fn again(&self) -> Result<Instant> {
        let answering = async {
            loop {
                if let Ok(conn) = PgConnection::connect(&self.url).await {
                    let now = Instant::now();
                    conn.close().await?;
                    return anyhow::Ok(now);
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let (started, answers) = tokio::join!(self.script("again"), answering);
        started?;
        answers
    }
}

/// Takes the server away `count` times.
pub async fn rage(fleet: &Fleet, caller: &Caller, server: &Server, count: usize) -> Result<Vec<Outage>> {
    let mut all = Vec::with_capacity(count);
    for n in 0..count {
        let begun = Instant::now();
        let after_reception = if n % 2 == 0 { aim(&fleet.ledger()).await? } else { lull().await };
        let crashed = Instant::now();
        server.script("crash").await?;
        let back = Arc::new(std::sync::OnceLock::new());
        let mut asking = JoinSet::new();
        for url in fleet.urls() {
            asking.spawn(ask(caller.at(vec![url]), Arc::clone(&back)));
        }
        // Now and then past the leases.
        tokio::time::sleep(Duration::from_millis(fastrand::u64(2_000..8_000))).await;
        let answered = server.again().await?;
        back.set(answered).ok().context("it came back once")?;
        let (mut told, mut resumed) = (Vec::new(), Vec::new());
        while let Some(asked) = asking.join_next().await {
            let (while_away, accepted) = asked??;
            told.extend(while_away);
            resumed.push(accepted.saturating_duration_since(answered));
        }
        all.push(Outage { after_reception, away: answered - crashed, resumed, told });
        eprintln!("chaos: {} of {count} outages", n + 1);
        tokio::time::sleep(ROUND.saturating_sub(begun.elapsed())).await;
    }
    Ok(all)
}

/// Asks one gateway to take tasks in until it does; what it said until then, and when it did.
async fn ask(caller: Caller, back: Arc<std::sync::OnceLock<Instant>>) -> Result<(Vec<Told>, Instant)> {
    let (mut told, begun) = (Vec::new(), Instant::now());
    loop {
        let order = Order::new("piapi_flux", 0.1, "");
        let sent = Instant::now();
        let answer = caller.ask(Method::POST, "/generate", OWNER_KEY, Some(&order)).await;
        let (now, took) = (Instant::now(), sent.elapsed());
        let promised = answer.as_ref().ok().and_then(|answer| caller.taken(&order, answer));
        if promised.is_some() {
            return Ok((told, now));
        }
        // What was asked after the return tells of the return, not of the outage.
        if back.get().is_none_or(|back| sent < *back) {
            let (status, retry_after) = match &answer {
                Ok(answer) => (Some(answer.status), answer.retry_after.is_some()),
                Err(_) => (None, false),
            };
            told.push(Told { status, retry_after, took });
        }
        ensure!(begun.elapsed() < Duration::from_mins(2), "nothing is taken in two minutes after an outage");
        tokio::time::sleep(PAUSE).await;
    }
}

/// How often callers were told that nothing is taken in, and how long that took: in the middle, for all but one in a
/// hundred, and at worst.
pub fn told(all: &[Outage]) -> (usize, [Duration; 3]) {
    let mut took: Vec<Duration> = all.iter().flat_map(|one| &one.told).map(|told| told.took).collect();
    took.sort_unstable();
    let at = |share: f64| {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an index into a short list"
        )]
        let at = (took.len() as f64 * share) as usize;
        took.get(at.min(took.len().saturating_sub(1))).copied().unwrap_or_default()
    };
    (took.len(), [at(0.5), at(0.99), at(1.0)])
}

/// What must hold beside the usual invariants.
pub fn judge(all: &[Outage]) -> Vec<Finding> {
    let mut told = Finding::new(
        "O1",
        "while the database is away every POST is answered 503 with Retry-After within 1 s",
    );
    let mut resumed = Finding::new("O2", "each gateway takes tasks in within 5 s of its return");
    for (n, one) in all.iter().enumerate() {
        for answer in &one.told {
            let well = answer.status == Some(StatusCode::SERVICE_UNAVAILABLE)
                && answer.retry_after
                && answer.took <= TOLD_WITHIN;
            told.check(well, || format!("outage {}: {answer:?}", n + 1));
        }
        for after in &one.resumed {
            resumed.check(*after <= RESUMED_WITHIN, || format!("outage {}: after {after:?}", n + 1));
        }
    }
    vec![told, resumed]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outage(told: Told, resumed: u64) -> Vec<&'static str> {
        let away = Duration::from_secs(3);
        let resumed = vec![Duration::from_millis(resumed)];
        let findings = judge(&[Outage { after_reception: None, away, resumed, told: vec![told] }]);
        assert!(findings.iter().all(|one| one.checked == 1));
        findings.into_iter().filter(|one| !one.violations.is_empty()).map(|one| one.id).collect()
    }

    fn told(status: Option<u16>, retry_after: bool, took: u64) -> Told {
        let status = status.map(|status| StatusCode::from_u16(status).unwrap());
        Told { status, retry_after, took: Duration::from_millis(took) }
    }

    #[test]
    fn a_refusal_must_come_soon_say_when_to_try_again_and_end_with_the_outage() {
        assert!(outage(told(Some(503), true, 200), 4_900).is_empty());
        assert_eq!(outage(told(Some(503), true, 1_001), 0), ["O1"]);
        assert_eq!(outage(told(Some(503), false, 1), 0), ["O1"]);
        assert_eq!(outage(told(Some(500), true, 1), 0), ["O1"]);
        assert_eq!(outage(told(None, true, 1), 0), ["O1"]);
        assert_eq!(outage(told(Some(503), true, 1), 5_001), ["O2"]);
    }
}
