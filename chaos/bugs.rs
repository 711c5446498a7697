//! Mode `bugs`: ten planted bugs, each on the stage that shows it, and the same stage without the bug. A bug is caught
//! when the scenario reports a violation with it and none without it.

use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures_util::future::BoxFuture;
use serde_json::json;

use crate::fleet::Plan;
use crate::order::Order;
use crate::proxy::{Proxy, Spoil};
use crate::rows::Db;
use crate::scenario::{PATIENCE, Stage, violations};
use crate::sink::Sink;
use crate::trace::Trace;

type Scenario = for<'a> fn(&'a Path, Option<&'a str>) -> BoxFuture<'a, Result<Vec<String>>>;

/// Every bug, with the scenario that shows it and the invariant that it breaks.
const BUGS: [(&str, &str, Scenario); 10] = [
    ("retry_on_502", "V3", |easel, bug| Box::pin(spoiled(easel, bug))),
    ("default_h2_client", "one POST, one reception", |easel, bug| Box::pin(counted(easel, bug))),
    ("resubmit_on_lease_expiry", "V3", |easel, bug| Box::pin(interrupted(easel, bug))),
    ("early_202", "V1", |easel, bug| Box::pin(promised_early(easel, bug))),
    ("synchronous_off", "synced before the 202", |easel, bug| Box::pin(unsynced(easel, bug))),
    ("terminal_overwrite", "V5", |easel, bug| Box::pin(called_off_late(easel, bug))),
    ("webhook_before_commit", "V7", |easel, bug| Box::pin(announced_early(easel, bug))),
    ("follow_307", "one POST, one address", |easel, bug| Box::pin(redirected(easel, bug))),
    ("dropped_late_callback", "V6", |easel, bug| Box::pin(late(easel, bug))),
    ("unscoped_get", "P8", |easel, bug| Box::pin(pried(easel, bug))),
];

/// Plays every scenario twice; answers with the table and whether all bugs are caught.
pub async fn run(easel: &Path, only: &str) -> Result<(String, bool)> {
    let chosen: Vec<_> = BUGS.into_iter().filter(|(name, ..)| name.starts_with(only)).collect();
    if chosen.is_empty() {
        bail!("no planted bug begins with {only:?}");
    }
    let mut rows = String::from("| Bug | Shows in | With it | Without it |\n|---|---|---|---|\n");
    let mut caught = 0;
    for (name, shows, scenario) in &chosen {
        let with = tell(scenario(easel, Some(name)).await);
        let without = tell(scenario(easel, None).await);
        let good = matches!(&with, Told::Violated(_)) && matches!(without, Told::Clean);
        caught += usize::from(good);
        let verdict = if good { "caught" } else { "**NOT caught**" };
        let _ = writeln!(rows, "| {name} | {shows} | {verdict}: {} | {} |", with.says(), without.says());
    }
    let text = format!("## Planted bugs: {caught} of {} caught\n\n{rows}", chosen.len());
    Ok((text, caught == chosen.len()))
}

enum Told {
    Clean,
    Violated(Vec<String>),
    Broken(String),
}

fn tell(outcome: Result<Vec<String>>) -> Told {
    match outcome {
        Ok(violations) if violations.is_empty() => Told::Clean,
        Ok(violations) => Told::Violated(violations),
        Err(error) => Told::Broken(format!("{error:#}").replace('\n', "; ")),
    }
}

impl Told {
    fn says(&self) -> String {
        match self {
            Self::Clean => "no violation".to_owned(),
            Self::Violated(all) => {
                let more =
                    if all.len() > 1 { format!(" (and {} more)", all.len() - 1) } else { String::new() };
                format!("{}{more}", all[0])
            }
            Self::Broken(why) => format!("**could not be played**: {why}"),
        }
    }
}

/// One order behind a proxy that forwards the paid POST and answers 502.
async fn spoiled(easel: &Path, bug: Option<&str>) -> Result<Vec<String>> {
    let mut stage = Stage::set(Plan::new(easel)).await?;
    let proxy = Proxy::start(stage.fleet.simulator(), Spoil::BadGateway).await?;
    stage.fleet.reroute(proxy.url())?;
    stage.start(bug, &[]).await?;
    stage.through(&Order::new("piapi_flux", 0.2, "")).await?;
    if proxy.received().is_empty() {
        bail!("the proxy has seen no POST");
    }
    Ok(violations(&stage.judged().await?.1))
}

/// The configured address answers 307 with another one, where the POST would be received a second time.
async fn redirected(easel: &Path, bug: Option<&str>) -> Result<Vec<String>> {
    let mut stage = Stage::set(Plan::new(easel)).await?;
    let proxy = Proxy::start(stage.fleet.simulator(), Spoil::Redirect).await?;
    stage.fleet.reroute(proxy.url())?;
    stage.start(bug, &[]).await?;
    stage.through(&Order::new("piapi_flux", 0.2, "")).await?;
    let (world, findings) = stage.judged().await?;
    let mut found = violations(&findings);
    match proxy.received().len() {
        0 => bail!("the proxy has seen no POST"),
        1 => {}
        count => found.push(format!("the configured address received the POST {count} times")),
    }
    if !world.receptions.is_empty() {
        found
            .push("the POST went on to an address that nobody configured, and was paid for there".to_owned());
    }
    Ok(found)
}

/// A provider that reads the POST whole and refuses it: over HTTP/2 a default client sends it again.
async fn counted(easel: &Path, bug: Option<&str>) -> Result<Vec<String>> {
    let mut stage = Stage::set(Plan::new(easel)).await?;
    let proxy = Proxy::start(stage.fleet.simulator(), Spoil::Refuse).await?;
    stage.fleet.reroute(proxy.url())?;
    stage.start(bug, &[]).await?;
    stage.through(&Order::new("piapi_flux", 0.2, "")).await?;
    let received = proxy.received();
    let mut found = violations(&stage.judged().await?.1);
    match received.len() {
        0 => bail!("the proxy has seen no POST"),
        1 => {}
        count => found.push(format!("the provider received one POST {count} times: {received:?}")),
    }
    Ok(found)
}

/// Killed after the provider had the POST and before its answer was committed.
async fn interrupted(easel: &Path, bug: Option<&str>) -> Result<Vec<String>> {
    let mut stage = Stage::set(Plan::new(easel)).await?;
    stage.start(bug, &[("EASEL_CRASH", "answer.received")]).await?;
    let order = Order::new("piapi_flux", 0.2, "");
    stage.caller.submit_once(&order).await;
    stage.fleet.gateway(0)?.ended(PATIENCE).await?.context("the gateway lives on: no crash points in it?")?;
    stage.start(bug, &[]).await?;
    stage.through(&order).await?;
    Ok(violations(&stage.judged().await?.1))
}

/// No writer gets at the database: a promise given now stands on nothing, and a kill shows it.
async fn promised_early(easel: &Path, bug: Option<&str>) -> Result<Vec<String>> {
    let mut stage = Stage::with_bug(Plan::new(easel), bug).await?;
    let order = Order::new("piapi_flux", 0.2, "");
    // The key's portion of its requests a minute is taken before: it is a write, too.
    stage.caller.webhook_secret().await?;
    let db = Db::open(stage.fleet.store()).await?;
    let lock = db.lock_writers().await?;
    let asking = tokio::time::timeout(Duration::from_secs(2), stage.caller.submit_once(&order)).await;
    let promised = asking.ok().flatten();
    stage.fleet.kill(0)?;
    lock.release().await?;
    db.close().await;
    stage.start(bug, &[]).await?;
    if promised.is_none() {
        stage.through(&order).await?;
    }
    crate::ordeal::rest(&stage.fleet, PATIENCE).await?;
    Ok(violations(&stage.judged().await?.1))
}

/// What strace saw of one acceptance.
async fn unsynced(easel: &Path, bug: Option<&str>) -> Result<Vec<String>> {
    let mut stage = Stage::with_bug(Plan::new(easel), bug).await?;
    let process = stage.fleet.gateway(0)?.id();
    let folder = stage.fleet.folder().to_owned();
    let trace = Trace::attach(process, &folder).await?;
    let id = stage.caller.submit(&Order::new("piapi_flux", 0.2, "")).await.context("not taken in")?;
    let synced = trace.synced_before_the_answer().await?;
    stage.caller.end(&id, PATIENCE).await.context("the task does not end")?;
    let mut found = violations(&stage.judged().await?.1);
    if !synced {
        found.push("P1: no fdatasync of the write-ahead log between the request and its 202".to_owned());
    }
    Ok(found)
}

/// Called off after its end.
async fn called_off_late(easel: &Path, bug: Option<&str>) -> Result<Vec<String>> {
    let stage = Stage::with_bug(Plan::new(easel), bug).await?;
    let task = stage.through(&Order::new("piapi_flux", 0.2, "")).await?;
    let id = task["id"].as_str().context("no id")?;
    stage.caller.cancel(id).await;
    stage.caller.look(id, 0).await;
    Ok(violations(&stage.judged().await?.1))
}

/// The callers' webhook looks into the database at the moment a delivery arrives.
async fn announced_early(easel: &Path, bug: Option<&str>) -> Result<Vec<String>> {
    let stage = Stage::with_bug(Plan::new(easel), bug).await?;
    let sink = Sink::start(Some(Db::open(stage.fleet.store()).await?), false).await?;
    let order = Order::new("piapi_flux", 0.2, "").announced_at(sink.url());
    let Some(id) = stage.caller.submit_once(&order).await else {
        bail!("not yet: the gateway takes no webhook with a request");
    };
    stage.caller.end(&id, PATIENCE).await.context("the task does not end")?;
    let begun = Instant::now();
    let secret = stage.caller.webhook_secret().await?;
    while sink.deliveries(&secret).iter().all(|one| one.name != "task.succeeded") {
        if begun.elapsed() > Duration::from_secs(20) {
            bail!("not yet: the gateway announces nothing");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (mut world, _) = stage.judged().await?;
    world.deliveries = Some(sink.deliveries(&secret));
    Ok(violations(&crate::checker::judge(&world)))
}

/// The provider's answer is lost, the task is given up, and then the provider calls back with a picture.
async fn late(easel: &Path, bug: Option<&str>) -> Result<Vec<String>> {
    let plan = Plan { callbacks: true, ..Plan::new(easel) };
    let stage = Stage::with_bug(plan, bug).await?;
    let mut order = Order::new("piapi_flux", 3.0, "reset_accepted");
    order.body["routing"]["on_unknown"] = json!("fail");
    let task = stage.through(&order).await?;
    if task["error"]["code"] != "outcome_unknown" {
        bail!("the task was to end as outcome_unknown: {}", task["error"]);
    }
    let id = task["id"].as_str().context("no id")?;
    let begun = Instant::now();
    let mut found = Vec::new();
    loop {
        let seen = stage.caller.look(id, 0).await;
        if seen.is_some_and(|answer| !answer.body["late_result"].is_null()) {
            break;
        }
        if begun.elapsed() > Duration::from_secs(15) {
            found.push(format!("V6: the provider made a picture for {id} and called back; it is not here"));
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (world, findings) = stage.judged().await?;
    let planted = world
        .receptions
        .iter()
        .any(|one| one.correlation.as_deref().is_some_and(|at| at.contains("/hooks/")));
    if !planted {
        bail!("not yet: no callback address goes with the paid call");
    }
    found.extend(violations(&findings));
    Ok(found)
}

/// Another tenant asks for the task.
async fn pried(easel: &Path, bug: Option<&str>) -> Result<Vec<String>> {
    let stage = Stage::with_bug(Plan::new(easel), bug).await?;
    let task = stage.through(&Order::new("piapi_flux", 0.2, "")).await?;
    stage.caller.pry(task["id"].as_str().context("no id")?).await;
    Ok(violations(&stage.judged().await?.1))
}
