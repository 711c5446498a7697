//! One task through one fault: the small stage on which crash windows and planted bugs are played.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::caller::{Caller, USUAL};
use crate::checker::{Finding, judge};
use crate::fleet::{Fleet, Plan};
use crate::journal::Journal;
use crate::order::Order;
use crate::sink::{Delivery, Sink};
use crate::world::World;

/// How long anything may take on this stage.
pub const PATIENCE: Duration = Duration::from_mins(2);

/// A world with one caller.
pub struct Stage {
    pub fleet: Fleet,
    pub caller: Caller,
}

impl Stage {
    /// Sets the stage; the gateway does not run yet.
    pub async fn set(plan: Plan) -> Result<Self> {
        let fleet = Fleet::open(plan).await?;
        let journal = Arc::new(Journal::open(&fleet.journal())?);
        let caller = Caller::new(fleet.urls(), journal, USUAL);
        Ok(Self { fleet, caller })
    }

    /// Sets the stage and starts the gateway with this bug alive, if any.
    pub async fn with_bug(plan: Plan, bug: Option<&str>) -> Result<Self> {
        let mut stage = Self::set(plan).await?;
        stage.start(bug, &[]).await?;
        Ok(stage)
    }

    /// Starts the gateway.
    pub async fn start(&mut self, bug: Option<&str>, more: &[(&str, &str)]) -> Result<()> {
        let mut environment: Vec<(&str, &str)> = more.to_vec();
        environment.extend(bug.map(|bug| ("EASEL_BUG", bug)));
        self.fleet.start(0, &environment).await
    }

    /// Submits an order and waits for the task's end.
    pub async fn through(&self, order: &Order) -> Result<serde_json::Value> {
        let id = self.caller.submit(order).await.context("not taken in")?;
        self.caller.end(&id, PATIENCE).await.context("the task does not end")
    }

    /// The task once a result has come after its end.
    pub async fn late(&self, order: &Order) -> Result<serde_json::Value> {
        let id = self.caller.submit(order).await.context("not found again")?;
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Some(seen) = self.caller.look(&id, 0).await
                && !seen.body["late_result"].is_null()
            {
                return Ok(seen.body);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::bail!("the late result does not come")
    }

    /// The newest item of quarantine, once there is one.
    pub async fn in_quarantine(&self) -> Result<String> {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Some(item) = self.caller.in_quarantine().await {
                return Ok(item);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::bail!("nothing comes into quarantine")
    }

    /// The deliveries, once one of them has come twice.
    pub async fn told_twice(&self, sink: &Sink) -> Result<Vec<Delivery>> {
        let secret = self.caller.webhook_secret().await?;
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let told = sink.deliveries(&secret);
            let ids: std::collections::BTreeSet<&str> = told.iter().map(|one| one.event.as_str()).collect();
            if ids.len() < told.len() {
                return Ok(told);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::bail!("nothing was announced a second time")
    }

    /// What is left, and what the checker says to it.
    pub async fn judged(&self) -> Result<(World, Vec<Finding>)> {
        crate::ordeal::emptied(&self.fleet, PATIENCE).await?;
        let world = World::gather(&self.fleet).await?;
        let findings = judge(&world);
        Ok((world, findings))
    }
}

/// All violations in one list.
pub fn violations(findings: &[Finding]) -> Vec<String> {
    let all = findings.iter();
    all.flat_map(|finding| finding.violations.iter().map(move |what| format!("{}: {what}", finding.id)))
        .collect()
}
