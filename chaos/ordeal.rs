//! The frame of every run under load: gateways and callers at work, something that befalls them, then peace, then the
//! checker.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::caller::Caller;
use crate::checker::{Finding, judge, violated};
use crate::fleet::{Fleet, Plan};
use crate::journal::Journal;
use crate::load::{Asked, Load};
use crate::order::Order;
use crate::rows::Db;
use crate::sink::Sink;
use crate::world::World;

/// Every task must have ended so soon after the faults.
const PEACE: Duration = Duration::from_mins(2);

/// Who is at work meanwhile.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// Callers at once.
    pub callers: usize,
    /// How many of a hundred orders have right answers that are wrapped untidily.
    pub untidy: u8,
    /// Whether they ask for webhooks, whose deliveries are judged as well.
    pub webhooks: bool,
    /// Whether the folder stays.
    pub keep: bool,
    /// How long a caller waits for an answer before it asks elsewhere.
    pub patience: Duration,
}

/// What a run showed.
pub struct Outcome {
    pub findings: Vec<Finding>,
    /// What callers asked for.
    pub asked: Asked,
    /// Paid POSTs that reached the provider.
    pub receptions: usize,
    /// How tasks ended, and how many.
    pub ends: Vec<(String, i64)>,
    /// Attempts whose row says that its gateway was gone between intent and answer.
    pub interrupted: usize,
    /// From the last fault until every task had ended.
    pub settled: Duration,
    /// The whole run.
    pub took: Duration,
    /// Resident memory of the gateway at the end.
    pub resident_kib: u64,
    /// Descriptors before and after more of the same work.
    pub descriptors: Option<(usize, usize)>,
    /// Pictures inside answers that a kill kept from being booked.
    pub orphans: usize,
    /// What lies in quarantine: answers and files that gave no image.
    pub quarantined: usize,
    /// Copies in quarantine that a kill kept from being booked.
    pub copies: usize,
    /// Half-written files that gateways which share a folder clear away after an hour.
    pub half_written: usize,
}

impl Outcome {
    /// Whether anything is wrong.
    pub fn failed(&self) -> bool {
        violated(&self.findings)
    }
}

/// Lets `befall` happen to gateways under load; answers with what it tells and with what is left.
pub async fn run<T>(
    plan: Plan,
    terms: Terms,
    befall: impl AsyncFnOnce(&mut Fleet, &Caller) -> Result<T>,
) -> Result<(T, Outcome)> {
    let begun = Instant::now();
    let mut fleet = Fleet::open(plan).await?;
    if terms.keep {
        eprintln!("chaos: everything stays in {}", fleet.keep().display());
    }
    for at in 0..fleet.replicas() {
        fleet.start(at, &[]).await?;
    }
    let journal = Arc::new(Journal::open(&fleet.journal())?);
    let caller = Caller::new(fleet.urls(), journal, terms.patience);
    let sink = if terms.webhooks {
        Some(Sink::start(Some(Db::open(fleet.store()).await?), true).await?)
    } else {
        None
    };
    let load = Load::start(&caller, terms.callers, terms.untidy, sink.as_ref().map(Sink::url));
    let told = match befall(&mut fleet, &caller).await {
        Ok(told) => told,
        Err(error) => {
            eprintln!("chaos: a look is worth it in {}", fleet.keep().display());
            return Err(error);
        }
    };
    let calm = Instant::now();
    let asked = load.finish().await?;
    let rested = rest(&fleet, PEACE).await?;
    let settled = calm.elapsed();
    if !rested {
        eprintln!("chaos: tasks are left over after {PEACE:?}");
    }
    // Where work is left over, descriptors tell nothing.
    let descriptors = if rested { Some(descriptors(&mut fleet, &caller).await?) } else { None };
    let resident_kib = fleet.gateway(0)?.resident_kib()?;
    // Deliveries that were refused come again.
    if let Some(sink) = &sink {
        announced(&fleet, &caller, sink).await?;
    }
    emptied(&fleet, PEACE).await?;
    let mut world = World::gather(&fleet).await?;
    world.descriptors = descriptors;
    if let Some(sink) = &sink {
        world.deliveries = Some(sink.deliveries(&caller.webhook_secret().await?));
    }
    let findings = judge(&world);
    if violated(&findings) {
        eprintln!("chaos: a look is worth it in {}", fleet.keep().display());
    }
    let db = Db::open(fleet.store()).await?;
    let ends = db.phases().await?;
    db.close().await;
    let interrupted = world.rows.attempts.iter();
    let interrupted =
        interrupted.filter(|one| one.detail.contains("the gateway stopped while the call was under way"));
    let outcome = Outcome {
        asked,
        receptions: world.receptions.len(),
        ends,
        interrupted: interrupted.count(),
        settled,
        half_written: world.pictures.half_written,
        quarantined: world.rows.quarantined.len(),
        copies: crate::checker::copies(&world).len(),
        orphans: crate::checker::orphans(&world).len(),
        took: begun.elapsed(),
        resident_kib,
        descriptors,
        findings,
    };
    Ok((told, outcome))
}

/// Waits until no task is open; whether that was so in time.
pub async fn rest(fleet: &Fleet, patience: Duration) -> Result<bool> {
    let db = Db::open(fleet.store()).await?;
    let begun = Instant::now();
    let ended = ["succeeded", "failed", "canceled"];
    let mut rested = false;
    while !rested && begun.elapsed() < patience {
        rested = db.phases().await?.iter().all(|(phase, _)| ended.contains(&phase.as_str()));
        if !rested {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    db.close().await;
    Ok(rested)
}

/// Waits until nothing is left in the spool; whether that was so in time.
pub async fn emptied(fleet: &Fleet, patience: Duration) -> Result<bool> {
    let begun = Instant::now();
    loop {
        let empty = crate::spool::look(&fleet.spool())?.is_empty();
        if empty || begun.elapsed() > patience {
            return Ok(empty);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until the end of every task that asked for it was announced and taken.
async fn announced(fleet: &Fleet, caller: &Caller, sink: &Sink) -> Result<()> {
    let secret = caller.webhook_secret().await?;
    let begun = Instant::now();
    while begun.elapsed() < PEACE {
        let mut world = World::gather(fleet).await?;
        world.deliveries = Some(sink.deliveries(&secret).into_iter().filter(|one| one.taken).collect());
        if crate::sink::delivered(&world).violations.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}

/// Descriptors of the first gateway at rest after some work, and after twice as much again.
async fn descriptors(fleet: &mut Fleet, caller: &Caller) -> Result<(usize, usize)> {
    let url = vec![fleet.url(0)];
    let mut seen = Vec::new();
    for rounds in [2, 4] {
        for _ in 0..rounds {
            let orders: Vec<_> =
                (0..16).map(|n| Order::new(crate::fleet::PROVIDERS[n % 4], 0.1, "")).collect();
            let caller = caller.at(url.clone());
            let all = orders.iter().map(async |order| caller.submit(order).await);
            if futures_util::future::join_all(all).await.iter().any(Option::is_none) {
                bail!("the gateway takes nothing in when all is quiet");
            }
            rest(fleet, PEACE).await?;
        }
        seen.push(at_rest(fleet).await?);
    }
    Ok((seen[0], seen[1]))
}

/// The number of descriptors once it has stopped falling: connections close a moment after their answers.
async fn at_rest(fleet: &mut Fleet) -> Result<usize> {
    let mut least = usize::MAX;
    for _ in 0..20 {
        least = least.min(fleet.gateway(0)?.descriptors()?);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(least)
}
